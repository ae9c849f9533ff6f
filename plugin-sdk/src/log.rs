//! Messages for the operator. The host limits their number and size. They must not quote cells.

#[cfg(target_arch = "wasm32")]
use crate::bindings::sluicebox::processor::log::{Level, write};

macro_rules! level {
    ($name:ident, $level:ident, $doc:literal) => {
        #[doc = $doc]
        pub fn $name(message: &str) {
            #[cfg(target_arch = "wasm32")]
            write(Level::$level, message);
            #[cfg(not(target_arch = "wasm32"))]
            let _ = message;
        }
    };
}

level!(trace, Trace, "Steps, for the plugin's author.");
level!(debug, Debug, "Details, for the plugin's author.");
level!(info, Info, "Information for the operator.");
level!(warn, Warn, "Something that the operator should look at.");
level!(error, Error, "Something that went wrong.");
