//! The profile store: records, the index of their identifiers, what was imported, and the history of runs, on
//! RocksDB. Nothing else in Sluicebox knows that it is RocksDB.
//!
//! - `keys`: every kind of key, documented;
//! - `encode`: how a record becomes bytes;
//! - `open`: options, the lock, the copy for a dry run;
//! - `read` and `commit`: what an import does with it;
//! - `scratch`: the rows of linked files, for the time of an import;
//! - `expire`: removes events that are too old;
//! - `index`: makes a property identify that did not before.

mod commit;
mod encode;
mod error;
mod expire;
mod index;
mod keys;
mod open;
mod read;
mod scratch;

pub use commit::{Commit, FileState};
pub use error::StoreError;
pub use open::{DryCopy, Names, Owner, Store};
pub use read::Unfinished;
pub use scratch::Scratch;
