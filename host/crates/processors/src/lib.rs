//! Runs batches through sandboxed WebAssembly processors.
//!
//! `runtime` has the engine and turns files into plugins. `compile` compiles them in a process of its own, and `cache` keeps the
//! result. `debug` bounds what explains a crash. `session` passes batches to one instance under `limits`; `wait` bounds its waits, and
//! `messages` its log. `outcome` checks every answer before a byte of it is used, and `redact` takes secrets and cells out of what a
//! plugin says.
//! Nothing here knows where rows come from or where they go.

mod arena;
mod bindings;
mod cache;
mod compile;
mod debug;
mod error;
#[cfg(any(test, fuzzing))]
#[expect(clippy::cast_possible_truncation, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]
pub mod fuzz;
mod limits;
mod messages;
mod outcome;
mod redact;
mod runtime;
mod session;
mod wait;

pub use compile::{CompileLimits, Compiler, compile_for_parent, stop_compiling};
pub use error::{Fault, PluginError};
pub use limits::{Grants, Limits};
pub use outcome::OutcomeError;
pub use redact::Configuration;
pub use runtime::{Description, MAX_COMPONENT, Plugin, Runtime};
pub use session::{Session, Usage};
