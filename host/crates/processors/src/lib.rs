//! Runs sandboxed WebAssembly processors over batches.
//!
//! `runtime` has the engine and turns files into plugins, `cache` keeps what was compiled, `session` passes
//! batches to one instance under `limits`, and `outcome` checks every byte of what comes back before it is used.
//! Nothing here knows where rows come from or what is done with them.

mod arena;
mod bindings;
mod cache;
mod error;
#[cfg(any(test, fuzzing))]
#[expect(
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "it tests"
)]
pub mod fuzz;
mod limits;
mod outcome;
mod runtime;
mod session;

pub use error::{Fault, PluginError};
pub use limits::{Grants, Limits};
pub use outcome::OutcomeError;
pub use runtime::{Description, Plugin, Runtime};
pub use session::{Session, Usage};
