//! The profile store: records, the index of their identifiers, what was imported, and the history of runs, on
//! RocksDB. Nothing else in Sluicebox knows that it is RocksDB.
//!
//! - `keys`: every kind of key, documented;
//! - `encode`: how a record becomes bytes;
//! - `open`: options, the lock, the copy for a dry run;
//! - `read` and `commit`: what an import does with it;
//! - `pages`: how identifiers lie together;
//! - `known`: which of them may be there;
//! - `tables`: large commits, as tables of their own;
//! - `ahead`: reads tables before they are needed;
//! - `kept`: which of those that were written stay in memory;
//! - `changes`: which records changed when, so that an export of few changes does not read the whole store;
//! - `exports`: what an export reads, and what it remembers;
//! - `undo`: what commits overwrote, and how it is put back;
//! - `erase`: removes a person;
//! - `service`: what the service remembers between runs, and what it measures;
//! - `upkeep`: verifies, measures, compacts, backs up and restores;
//! - `scratch`: the rows of linked files, for the time of an import;
//! - `expire`: removes events that are too old;
//! - `index`: makes a property identify that did not before.

mod ahead;
mod changes;
mod commit;
mod encode;
mod erase;
mod error;
mod expire;
mod exports;
mod index;
mod kept;
mod keys;
mod known;
mod open;
mod pages;
mod read;
mod scratch;
mod service;
mod tables;
mod undo;
mod upkeep;

pub use changes::Changed;
pub use commit::{Commit, FileState};
pub use erase::ErasureKey;
pub use error::StoreError;
pub use exports::{ExportState, StoredRecords};
pub use open::{DryCopy, Names, Owner, Store};
pub use read::Unfinished;
pub use scratch::Scratch;
pub use tables::{NewTables, PackedRecords, Tables};
pub use undo::{Before, Left, LeftWhat, Undone};
pub use upkeep::{Stats, Verified};
