//! The store on RocksDB, in one folder, which one process at a time writes to.
//!
//! - `open`: options, the lock, copies;
//! - `read`: what an import looks up; `prefetch`: reads tables into memory before they are needed;
//! - `commit`: one atomic write, leases and conflicts; `tables`: large commits as tables of their own;
//! - `count`: how many records each space has;
//! - `pages`: how identifiers lie together; `bloom`: which of them may be there;
//! - `page_cache`: which tables stay in the page cache after they are written;
//! - `changes`, `undo`, `erase`, `expire`, `exports`, `index`: what the names say;
//! - `service`: what the service remembers between runs, and what it measures;
//! - `upkeep`: verifies, measures, compacts, backs up and restores.

mod bloom;
mod changes;
mod commit;
mod count;
mod erase;
mod expire;
mod exports;
mod index;
mod open;
mod page_cache;
mod pages;
mod prefetch;
mod read;
mod service;
mod tables;
mod undo;
mod upkeep;

use std::fs::File;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use rocksdb::{DB, Direction, IteratorMode, Options};
use sluicebox_model::IdentifierHasher;

pub(crate) use open::Copied;
pub(crate) use tables::{TableWriter, Tables};

use crate::StoreError;
use crate::keys::KeyKind;
use crate::names::Dictionary;
use bloom::KnownIdentifiers;
use commit::CommitState;
use prefetch::Prefetch;

const RECORDS: &str = "records";
const IDENTIFIERS: &str = "identifiers";
const EVENTS: &str = "events";
const CHANGES: &str = "changes";
const UNDO: &str = "undo";
/// Every column family but `default`.
const FAMILIES: [&str; 5] = [RECORDS, IDENTIFIERS, EVENTS, CHANGES, UNDO];

/// An open store on RocksDB: see [`Store`](crate::Store) for what it can do.
pub struct RocksStore {
    db: DB,
    names: Mutex<Dictionary>,
    hasher: IdentifierHasher,
    /// The identifiers that are there, where this process saw the store empty.
    known_identifiers: Mutex<Option<KnownIdentifiers>>,
    /// Held while the store may be written to.
    lock: Option<File>,
    /// Held from the batch that names new tables until RocksDB has ingested them: a copy made in between would lack them.
    ingest: Mutex<()>,
    /// Held while a commit is written: commits have an order.
    commits: Mutex<CommitState>,
    /// Whether tables are merged while the store is open.
    merges: AtomicBool,
    /// How new tables are written.
    table_options: Options,
    /// What was prefetched of its newest tables.
    prefetch: Prefetch,
}

impl std::fmt::Debug for RocksStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksStore").field("path", &self.db.path()).finish_non_exhaustive()
    }
}

impl From<rocksdb::Error> for StoreError {
    fn from(error: rocksdb::Error) -> Self {
        Self::Database { source: error.into() }
    }
}

/// The rest of a key after its kind, and the value.
type KindEntry = (Vec<u8>, Box<[u8]>);

/// The entries of `default` of one kind.
fn entries_of(db: &DB, kind: KeyKind) -> impl Iterator<Item = Result<KindEntry, StoreError>> + '_ {
    let entries = db.iterator(IteratorMode::From(&[kind.byte()], Direction::Forward));
    entries
        .map(move |entry| {
            let (key, value) = entry?;
            Ok(kind.rest(&key).map(|rest| (rest.to_vec(), value)))
        })
        .map_while(Result::transpose)
}
