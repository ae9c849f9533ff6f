//! What the author of a Sluicebox processor depends on.
//!
//! A processor looks at the rows of a file, batch by batch. It may change cells, add columns, and drop or
//! reject rows; it can touch nothing else. Write a struct, implement [`Processor`], and [`register!`] it:
//!
//! ```
//! use schemars::JsonSchema;
//! use serde::Deserialize;
//! use sluicebox_sdk::{Batch, Cells, ColumnId, Columns, Failure, Output, Processor, register};
//!
//! /// The configuration: its JSON Schema is derived from these types and comments.
//! #[derive(Deserialize, JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     /// The column to shout.
//!     column: String,
//! }
//!
//! struct Shout {
//!     column: ColumnId,
//! }
//!
//! impl Processor for Shout {
//!     const NAME: &'static str = "shout";
//!     const VERSION: &'static str = env!("CARGO_PKG_VERSION");
//!     const SUMMARY: &'static str = "Writes a column in capital letters.";
//!     type Config = Config;
//!
//!     fn open(config: Config, columns: &mut Columns) -> Result<Self, Failure> {
//!         Ok(Self { column: columns.want(&config.column)? })
//!     }
//!
//!     fn process(&mut self, batch: &Batch, output: &mut Output) -> Result<(), Failure> {
//!         let mut cells = Cells::for_rows(batch.rows());
//!         for cell in batch.column(self.column) {
//!             cells.push(&cell.to_uppercase());
//!         }
//!         output.change(self.column, cells);
//!         Ok(())
//!     }
//! }
//!
//! register!(Shout);
//!
//! // A test needs no WebAssembly:
//! let result = sluicebox_sdk::testing::run::<Shout>(r#"{"column": "name"}"#, &["id", "name"], &[&["1", "ann"]]);
//! assert_eq!(result.unwrap().kept(), [["1", "ANN"]]);
//! # fn main() {}
//! ```
//!
//! Build it for `wasm32-unknown-unknown` as a `cdylib`; what the linker of the Rust toolchain makes of it with
//! `wasm-component-ld` is a component that imports nothing but the log.

mod batch;
mod columns;
mod component;
mod configuration;
pub mod log;
mod output;
pub mod testing;

pub use batch::{Batch, Column};
pub use columns::{ColumnId, Columns};
pub use component::Component;
pub use output::{Cells, Output};

/// What the WIT contract makes of Rust. A processor needs it only through [`register!`].
#[doc(hidden)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../wit",
        world: "plugin",
        pub_export_macro: true,
        default_bindings_module: "sluicebox_sdk::bindings",
    });
}

/// Why a processor cannot go on. The goal fails with this message, so it must not quote a cell or a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The configuration is wrong, or does not go with the file's columns.
    Config(String),
    /// The data is such that no verdict on single rows would do.
    Data(String),
}

impl Failure {
    /// A failure of the configuration.
    pub fn config(message: impl Into<String>) -> Self {
        Self::Config(message.into())
    }

    /// A failure of the data.
    pub fn data(message: impl Into<String>) -> Self {
        Self::Data(message.into())
    }
}

/// A processor, as it is while it works on one file.
pub trait Processor: Sized + 'static {
    /// The name that goals give: `[a-z0-9-]`.
    const NAME: &'static str;
    /// The version: semantic versioning.
    const VERSION: &'static str;
    /// What it does, in one line.
    const SUMMARY: &'static str;

    /// The configuration of a goal. Its JSON Schema is what `sluicebox plugin inspect` shows.
    type Config: serde::de::DeserializeOwned + schemars::JsonSchema;

    /// Begins a file: says which columns it wants to see and which it adds.
    ///
    /// # Errors
    /// If the configuration does not go with the columns.
    fn open(config: Self::Config, columns: &mut Columns) -> Result<Self, Failure>;

    /// Looks at about a thousand rows, those before them done. Rows keep their number and their order.
    ///
    /// # Errors
    /// If no verdict on single rows would do: the goal fails at this batch.
    fn process(&mut self, batch: &Batch, output: &mut Output) -> Result<(), Failure>;
}

/// Makes a [`Processor`] the one that the component exports. Once in a crate.
#[macro_export]
macro_rules! register {
    ($processor:ty) => {
        #[cfg(target_arch = "wasm32")]
        #[expect(unsafe_code, reason = "the exports of a component")]
        const _: () = {
            type Registered = $crate::Component<$processor>;
    $crate::bindings::export!(Registered with_types_in $crate::bindings);
        };
        #[cfg(not(target_arch = "wasm32"))]
        const _: &str = <$processor as $crate::Processor>::NAME;
    };
}
