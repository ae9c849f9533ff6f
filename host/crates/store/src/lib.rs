//! The profile store: records, the index of their identifiers, what was imported, and the history of runs, on
//! RocksDB. Nothing else in Sluicebox knows that it is RocksDB.
//!
//! - `keys`: every kind of key, documented;
//! - `encode`: how a record becomes bytes;
//! - `open`: options, the lock, the copy for a dry run;
//! - `read` and `commit`: what an import does with it;
//! - `index`: makes a property identify that did not before.

mod commit;
mod encode;
mod error;
mod index;
mod keys;
mod open;
mod read;

pub use commit::{Commit, FileState};
pub use error::StoreError;
pub use open::{DryCopy, Store};
