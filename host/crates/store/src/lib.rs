//! The profile store: records, the index of their identifiers, their events, what was imported, and the history of runs.
//!
//! [`Store`] is the seam: what any backend can do, and nothing of how. RocksDB is the backend that there is; a second one
//! is a variant of the enum. Every backend passes the same suite, `conformance`.
//!
//! What backends share:
//! - `store`: what a store can do, and where a store is;
//! - `commit`, `writer`: one atomic write, small or large; `lease`: which goal run may still write;
//! - `record_format`: records and events as bytes; `keys`: every kind of key;
//! - `changes`: lists of what commits changed, and cursors into them; `exports`: what an export reads and remembers;
//! - `names`: the dictionary of properties, spaces and types;
//! - `undo`: what undoing a goal run restores and what it leaves; `upkeep`: what verifying and measuring find.
//!
//! `rocks` is the backend on RocksDB; nothing outside it knows RocksDB.

mod changes;
mod commit;
#[cfg(test)]
mod conformance;
mod erasure;
mod error;
mod exports;
mod keys;
mod lease;
mod names;
mod record_format;
mod rocks;
mod store;
mod undo;
mod upkeep;
mod writer;

pub use changes::{ChangeCursor, Changed};
pub use commit::{Commit, FileState, Grown, Interrupted, ReadPoint, SketchUpdate, Unfinished};
pub use erasure::ErasureKey;
pub use error::{Conflict, StoreError};
pub use exports::{ExportState, StoredRecords};
pub use lease::GoalRunLease;
pub use names::{Names, Owner};
pub use rocks::RocksStore;
pub use store::{Entries, ReadStore, Store, StoreLocation, TemporaryStore};
pub use undo::{NotRestored, PreviousState, Reason, UndoReport};
pub use upkeep::{Stats, Verification};
pub use writer::{FinishedWriter, PackedRecords, Packer, Writer, WriterHints};
