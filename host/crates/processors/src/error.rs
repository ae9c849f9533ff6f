use std::time::Duration;

use crate::OutcomeError;

/// What a plugin did wrong, or what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("plugin {plugin}: {fault}")]
pub struct PluginError {
    /// The plugin, as the goal names it.
    pub plugin: String,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a plugin. No message quotes a cell; what a plugin itself says is shortened and its control
/// characters are escaped.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The file is something else, or broken.
    #[error("not a WebAssembly component: {0}")]
    NotAComponent(String),
    /// A core module, which lacks what makes it a component.
    #[error(
        "a WebAssembly core module, not a component; build it with wasm-component-ld or wasm-tools component new"
    )]
    CoreModule,
    /// The file is larger than any plugin needs to be.
    #[error("{size} bytes are more than the {limit} that a plugin may have")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// Compiling it takes too long.
    #[error("compiling it takes longer than {} s", .0.as_secs())]
    CompileTime(Duration),
    /// It exports something else.
    #[error("it does not export {expected}; it exports {found}")]
    World {
        /// The interface.
        expected: String,
        /// The names of what it exports.
        found: String,
    },
    /// It was built for a version of the contract that this host does not speak.
    #[error(
        "it was built for sluicebox:processor {found}; this host supports {supported} and older ones of 1.x: build \
         it with the SDK of this host, or use a newer sluicebox"
    )]
    Version {
        /// The plugin's.
        found: String,
        /// The host's.
        supported: &'static str,
    },
    /// It asks for what no processor gets.
    #[error("it imports what no processor gets: {0}")]
    Imports(String),
    /// It answers that its configuration is wrong.
    #[error("configuration: {0}")]
    Config(String),
    /// It answers that the data is wrong.
    #[error("{0}")]
    Data(String),
    /// A call took too long.
    #[error("it was stopped after {} s in `{call}`", .limit.as_secs_f64())]
    Time {
        /// The function.
        call: &'static str,
        /// How long it may take.
        limit: Duration,
    },
    /// It needs more memory than it may have.
    #[error("it needs more than the {limit} bytes of memory that it may have")]
    Memory {
        /// How much it may have.
        limit: usize,
    },
    /// It needs larger tables than it may have.
    #[error("it needs more than the {limit} table elements that it may have")]
    Tables {
        /// How many it may have.
        limit: usize,
    },
    /// Its calls nest too deeply.
    #[error("its stack overflowed in `{0}`")]
    Stack(&'static str),
    /// It hands over more than a batch can be.
    #[error("it answered `{0}` with more data than the host takes")]
    TooMuch(&'static str),
    /// It broke off.
    #[error("it broke off in `{call}`: {trap}")]
    Trap {
        /// The function.
        call: &'static str,
        /// Why, and where in the plugin.
        trap: String,
    },
    /// What it answered does not go with what it was asked.
    #[error("its answer is malformed: {0}")]
    Outcome(#[from] OutcomeError),
    /// `open` answered with columns that cannot be.
    #[error("its answer to `open` is malformed: {0}")]
    Opened(String),
    /// The batch is larger than the plugin's memory.
    #[error("the batch of {size} bytes does not fit into the {limit} bytes of memory that it may have")]
    Batch {
        /// The size of the wanted columns.
        size: usize,
        /// How much memory it may have.
        limit: usize,
    },
    /// The host's own trouble.
    #[error("{0}")]
    Host(String),
}

impl Fault {
    /// Whether it broke off or was stopped while it ran.
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

/// A plugin's words, as they may be shown.
pub(crate) fn shown(words: &str) -> String {
    const LONGEST: usize = 1000;
    let mut shown = String::new();
    for character in words.chars().take(LONGEST) {
        // Whoever reads a log must not be steered by it: no escape sequences, no turned text.
        let steers = character.is_control()
            || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if steers { shown.extend(character.escape_unicode()) } else { shown.push(character) }
    }
    if words.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}
