use std::time::Duration;

use crate::OutcomeError;

/// A plugin that failed or cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("plugin {plugin}: {fault}")]
pub struct PluginError {
    /// The name of the plugin in the goal.
    pub plugin: String,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a plugin. Text of the plugin is shortened, its control characters are escaped, and neither the secrets of its
/// configuration nor the cells of the batch are in it. Only [`Fault::own_words`] can quote a cell nevertheless: one of an earlier
/// batch, or a part of one.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fault {
    /// The file is not a component, or damaged.
    #[error("not a WebAssembly component: {0}")]
    NotAComponent(String),
    /// A core module, without the types that make it a component.
    #[error(
        "a WebAssembly core module, not a component; build it with wasm-component-ld or wasm-tools component new"
    )]
    CoreModule,
    /// The file is larger than any plugin needs to be.
    #[error("the plugin has {size} bytes, more than the {limit} that a plugin may have")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// Compiling it takes too long.
    #[error("compiling it takes longer than the {} s that it may take", .0.as_secs_f64())]
    CompileTime(Duration),
    /// Compiling it takes too much memory.
    #[error("compiling it takes more than the {} MiB of memory that it may take", .limit >> 20)]
    CompileMemory {
        /// Bytes.
        limit: u64,
    },
    /// The system ended the compiler.
    #[error(
        "the system ended the compiler of the plugin, as it does where memory is short; try again when there is more"
    )]
    CompileKilled,
    /// The program stops while the plugin is compiled.
    #[error("the program stops")]
    Stopped,
    /// It exports something else.
    #[error("it does not export {expected}; it exports {found}")]
    World {
        /// The interface.
        expected: String,
        /// The names of what it exports.
        found: String,
    },
    /// It was built for a version of the contract that this host does not support.
    #[error(
        "it was built for sluicebox:processor {found}; this host supports {supported} and older versions of 1.x. Build \
         it with the SDK of this host, or use a newer sluicebox"
    )]
    Version {
        /// The plugin's.
        found: String,
        /// The host's.
        supported: &'static str,
    },
    /// It exports the interface with other types.
    #[error("its exports do not match {expected}: {found}")]
    Types {
        /// The interface.
        expected: String,
        /// The difference.
        found: String,
    },
    /// It imports interfaces that the host does not offer.
    #[error("it imports interfaces that the host does not offer: {0}")]
    Imports(String),
    /// It reports a wrong configuration when it opens a file.
    #[error("configuration: {0}")]
    Config(String),
    /// It reports wrong data when it opens a file.
    #[error("{0}")]
    Data(String),
    /// It reports a wrong configuration while it has rows, in words that may quote them.
    #[error("configuration: {0}")]
    ConfigWithRows(String),
    /// It reports wrong data, in words that may quote them.
    #[error("{0}")]
    DataWithRows(String),
    /// A call took too long.
    #[error("it was stopped after {} s in `{call}`", .limit.as_secs_f64())]
    Time {
        /// The function.
        call: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// It needs more memory than it may use.
    #[error("it needs more than the {limit} bytes of memory that it may use")]
    Memory {
        /// The limit.
        limit: usize,
    },
    /// It needs larger tables than it may use.
    #[error("it needs more than the {limit} table elements that it may use")]
    Tables {
        /// The limit.
        limit: usize,
    },
    /// Its calls nest too deeply.
    #[error("its stack overflowed in `{0}`")]
    Stack(&'static str),
    /// Its answer is larger than its memory may be.
    #[error("its answer to `{0}` is larger than the host accepts")]
    TooMuch(&'static str),
    /// It trapped.
    #[error("it crashed in `{call}`: {trap}")]
    Trap {
        /// The function.
        call: &'static str,
        /// Why, and where in the plugin.
        trap: String,
    },
    /// Its answer breaks the contract.
    #[error("its answer is malformed: {0}")]
    Outcome(#[from] OutcomeError),
    /// Its answer to `open` breaks the contract.
    #[error("its answer to `open` is malformed: {0}")]
    Opened(String),
    /// The description is larger than the host accepts.
    #[error("the JSON Schema of its configuration has {size} bytes, more than the {limit} that it may have")]
    Schema {
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The batch is larger than the plugin's memory.
    #[error("the batch of {size} bytes does not fit into the {limit} bytes of memory that it may use")]
    Batch {
        /// The size of the columns that it reads.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// A failure of the host.
    #[error("{0}")]
    Host(String),
}

impl Fault {
    /// The words of the plugin, and the host's words in place of them for readers who may see no row; `None` where the message
    /// cannot quote one.
    pub fn own_words(&self) -> Option<(&str, &'static str)> {
        match self {
            Self::ConfigWithRows(words) => {
                Some((words, "it reports a wrong configuration; the history has its own words"))
            }
            Self::DataWithRows(words) => {
                Some((words, "it reports wrong data; the history has its own words"))
            }
            _ => None,
        }
    }

    /// Whether it trapped or was stopped while it ran.
    pub fn is_trap(&self) -> bool {
        matches!(
            self,
            Self::Time { .. }
                | Self::Memory { .. }
                | Self::Tables { .. }
                | Self::Stack(_)
                | Self::TooMuch(_)
                | Self::Trap { .. }
        )
    }
}

/// Characters of a plugin's text that are shown.
pub(crate) const MAX_CHARACTERS: usize = 1000;

/// Text of a plugin in a form that is safe to show: escaped, and at most 1,000 characters long.
pub(crate) fn shown(words: &str) -> String {
    let mut shown = String::new();
    for character in words.chars().take(MAX_CHARACTERS) {
        // A terminal must not obey a plugin: no escape sequences, no marks that turn the text.
        let is_control = character.is_control()
            || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if is_control { shown.extend(character.escape_unicode()) } else { shown.push(character) }
    }
    if words.chars().nth(MAX_CHARACTERS).is_some() {
        shown.push('…');
    }
    shown
}
