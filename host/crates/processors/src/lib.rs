//! Runs batches through sandboxed WebAssembly processors.
//!
//! `runtime` has the engine and turns files into plugins. `cache` keeps compiled plugins. `session` passes batches to one
//! instance under `limits`; `wait` bounds its waits, and `messages` its log. `outcome` checks every answer before a byte of it is used.
//! Nothing here knows where rows come from or where they go.

mod arena;
mod bindings;
mod cache;
mod error;
#[cfg(any(test, fuzzing))]
#[expect(clippy::cast_possible_truncation, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]
pub mod fuzz;
mod limits;
mod messages;
mod outcome;
mod runtime;
mod session;
mod wait;

pub use error::{Fault, PluginError};
pub use limits::{Grants, Limits};
pub use outcome::OutcomeError;
pub use runtime::{Description, MAX_COMPONENT, Plugin, Runtime};
pub use session::{Session, Usage};
