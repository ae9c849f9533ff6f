use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use sluicebox_model::{
    Event, EventKey, EventTypeId, Identifier, IdentifierHash, IdentifierHasher, NestedTypeId, PropertyId,
    Record, RecordId, SpaceId,
};

use crate::names::{self, Names, Owner};
use crate::rocks::Copied;
use crate::{
    ChangeCursor, Commit, ErasureKey, ExportState, FileState, GoalRunLease, Interrupted, Packer,
    PreviousState, ReadPoint, RocksStore, Stats, StoreError, StoredRecords, UndoReport, Unfinished,
    Verification, Writer, WriterHints,
};

/// Entries of a store, one after the other; each of them may be damaged.
pub type Entries<'s, T> = Box<dyn Iterator<Item = Result<T, StoreError>> + 's>;

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreLocation {
    /// A folder of this machine, for RocksDB.
    Folder(PathBuf),
}

impl StoreLocation {
    /// Whether there is a store.
    pub fn exists(&self) -> bool {
        match self {
            Self::Folder(path) => RocksStore::exists(path),
        }
    }
}

/// The location as people write it.
impl fmt::Display for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "{}", path.display()),
        }
    }
}

/// An open store: what any backend can do. Reads see every commit that returned before them.
#[derive(Debug)]
pub enum Store {
    /// In a folder of this machine.
    Rocks(RocksStore),
}

/// Calls the backend. Once for each call on the store, never for each record or cell.
macro_rules! backend {
    ($store:expr, $backend:ident => $call:expr) => {
        match $store {
            Store::Rocks($backend) => $call,
        }
    };
}

/// Opening and copying.
impl Store {
    /// Opens the store for reading and writing, and creates it where there is none. RocksDB lets one process write at a
    /// time.
    ///
    /// # Errors
    /// [`StoreError::Locked`] while another process has it open for writing.
    pub fn open(location: &StoreLocation) -> Result<Self, StoreError> {
        match location {
            StoreLocation::Folder(path) => RocksStore::open(path).map(Self::Rocks),
        }
    }

    /// Opens the store for reading and writing; `None` where there is none.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_existing(location: &StoreLocation) -> Result<Option<Self>, StoreError> {
        location.exists().then(|| Self::open(location)).transpose()
    }

    /// Opens the present state of the store, beside a process that may be writing to it; `None` where there is none.
    ///
    /// # Errors
    /// If the store has a newer format or is damaged.
    pub fn open_read_only(location: &StoreLocation) -> Result<Option<Self>, StoreError> {
        match location {
            StoreLocation::Folder(path) => Ok(RocksStore::open_read_only(path)?.map(Self::Rocks)),
        }
    }

    /// The same; an empty store where there is none.
    ///
    /// # Errors
    /// As [`Store::open_read_only`], or if an empty store cannot be created.
    pub fn open_or_empty(location: &StoreLocation) -> Result<ReadStore, StoreError> {
        Ok(match Self::open_read_only(location)? {
            Some(store) => ReadStore(Readable::Opened(store)),
            None => ReadStore(Readable::Empty(Self::temporary()?)),
        })
    }

    /// An empty store that is gone when it is dropped.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn temporary() -> Result<TemporaryStore, StoreError> {
        RocksStore::temporary().map(TemporaryStore::of)
    }

    /// A copy of a store for a dry run; an empty store where there is none. A process may be writing to the store.
    ///
    /// # Errors
    /// If it cannot be copied.
    pub fn dry_copy_of(location: &StoreLocation) -> Result<TemporaryStore, StoreError> {
        match location {
            StoreLocation::Folder(path) => RocksStore::dry_copy_of(path).map(TemporaryStore::of),
        }
    }

    /// A copy of the present state of this store, for a dry run.
    ///
    /// # Errors
    /// If it cannot be copied.
    pub fn dry_copy(&self) -> Result<TemporaryStore, StoreError> {
        backend!(self, store => store.dry_copy().map(TemporaryStore::of))
    }

    /// Copies the present state of the store into a folder that does not exist yet. On the same disk, files are shared.
    ///
    /// # Errors
    /// If the folder exists or cannot be created.
    pub fn back_up(&self, to: &Path) -> Result<(), StoreError> {
        backend!(self, store => store.back_up(to))
    }

    /// Puts a backup in place of the store, and returns where the store is now that was there before.
    ///
    /// # Errors
    /// If the backup is no store, a process has the store open, or the disk is full. The store is unchanged then.
    pub fn restore(backup: &Path, location: &StoreLocation) -> Result<Option<PathBuf>, StoreError> {
        match location {
            StoreLocation::Folder(path) => RocksStore::restore(backup, path),
        }
    }
}

/// The dictionary. A name has one number for ever, and a number one name.
impl Store {
    /// The number of a property; a new one the first time.
    ///
    /// # Errors
    /// If the new number cannot be written.
    pub fn property(&self, owner: Owner<'_>, name: &str) -> Result<PropertyId, StoreError> {
        self.number(names::property(owner, name)).map(PropertyId)
    }

    /// The number of a domain group; a new one the first time.
    ///
    /// # Errors
    /// If the new number cannot be written.
    pub fn domain_group(&self, name: &str) -> Result<SpaceId, StoreError> {
        self.number(names::domain_group(name)).map(SpaceId)
    }

    /// The number of a group type; a new one the first time.
    ///
    /// # Errors
    /// If the new number cannot be written.
    pub fn group_type(&self, name: &str) -> Result<SpaceId, StoreError> {
        self.number(names::group_type(name)).map(SpaceId)
    }

    /// The number of an event type; a new one the first time.
    ///
    /// # Errors
    /// If the new number cannot be written.
    pub fn event_type(&self, name: &str) -> Result<EventTypeId, StoreError> {
        self.number(names::event_type(name)).map(EventTypeId)
    }

    /// The number of a nested type; a new one the first time.
    ///
    /// # Errors
    /// If the new number cannot be written.
    pub fn nested_type(&self, event: &str, name: &str) -> Result<NestedTypeId, StoreError> {
        self.number(names::nested_type(event, name)).map(NestedTypeId)
    }

    /// The number of a property, if the store has one.
    pub fn known_property(&self, owner: Owner<'_>, name: &str) -> Option<PropertyId> {
        self.known_number(&names::property(owner, name)).map(PropertyId)
    }

    /// The number of a nested type, if the store has one.
    pub fn known_nested_type(&self, event: &str, name: &str) -> Option<NestedTypeId> {
        self.known_number(&names::nested_type(event, name)).map(NestedTypeId)
    }

    /// The names of everything that has a number.
    pub fn names(&self) -> Names {
        backend!(self, store => store.names())
    }

    fn number(&self, name: String) -> Result<u32, StoreError> {
        backend!(self, store => store.number(name))
    }

    fn known_number(&self, name: &str) -> Option<u32> {
        backend!(self, store => store.known_number(name))
    }
}

/// Records, identifiers and events.
impl Store {
    /// What hashes this store's identifiers.
    pub fn hasher(&self) -> IdentifierHasher {
        backend!(self, store => store.hasher())
    }

    /// The record that an identifier finds.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn find(&self, identifier: &Identifier) -> Result<Option<RecordId>, StoreError> {
        backend!(self, store => store.find(identifier))
    }

    /// The record that each of sorted hashes of identifiers finds.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn find_sorted(&self, hashes: &[IdentifierHash]) -> Result<Vec<Option<RecordId>>, StoreError> {
        backend!(self, store => store.find_sorted(hashes))
    }

    /// One record. A record that was merged into another is given as that one, with its id.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn load(&self, id: RecordId) -> Result<Option<(RecordId, Record)>, StoreError> {
        backend!(self, store => store.load(id))
    }

    /// The records of sorted ids, each as [`Store::load`] gives it.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn load_sorted(&self, ids: &[RecordId]) -> Result<Vec<Option<(RecordId, Record)>>, StoreError> {
        backend!(self, store => store.load_sorted(ids))
    }

    /// The same on the calling thread, for a part of the `all` ids that are looked up in all.
    ///
    /// # Errors
    /// As [`Store::load_sorted`].
    pub fn load_part(
        &self,
        ids: &[RecordId],
        all: usize,
    ) -> Result<Vec<Option<(RecordId, Record)>>, StoreError> {
        backend!(self, store => store.load_part(ids, all))
    }

    /// Every record, in the order of their ids, without those that were merged into another.
    ///
    /// # Errors
    /// If the store fails.
    pub fn records(&self) -> Result<Entries<'_, (RecordId, Record)>, StoreError> {
        backend!(self, store => Ok(Box::new(store.records()?)))
    }

    /// Every record in the order of their ids, `count` at a time, as the store is at this moment; with a cursor only those
    /// that changed after it.
    ///
    /// # Errors
    /// If the store fails.
    pub fn all_records(
        &self,
        count: usize,
        since: Option<ChangeCursor>,
    ) -> Result<Entries<'_, StoredRecords>, StoreError> {
        backend!(self, store => Ok(Box::new(store.all_records(count, since)?)))
    }

    /// How many records a space has. Nothing is read of them.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn count(&self, space: SpaceId) -> Result<u64, StoreError> {
        backend!(self, store => store.count(space))
    }

    /// About how many records there are, groups and merged records included.
    ///
    /// # Errors
    /// If the store fails.
    pub fn about_records(&self) -> Result<u64, StoreError> {
        backend!(self, store => store.about_records())
    }

    /// The events of sorted keys.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn load_events_sorted(&self, keys: &[EventKey]) -> Result<Vec<Option<Event>>, StoreError> {
        backend!(self, store => store.load_events_sorted(keys))
    }

    /// The events of one record, by type, then by the bytes of their ids.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn events_of(&self, record: RecordId) -> Result<Vec<(EventKey, Event)>, StoreError> {
        backend!(self, store => store.events_of(record))
    }

    /// Every event, by record, type and the bytes of their ids.
    ///
    /// # Errors
    /// If the store fails.
    pub fn events(&self) -> Result<Entries<'_, (EventKey, Event)>, StoreError> {
        backend!(self, store => Ok(Box::new(store.events()?)))
    }

    /// Begins to read the newest identifiers into memory, and the newest records if about this many rows need most of them.
    /// Nothing waits for it, and a failure only costs time.
    ///
    /// # Errors
    /// If the store fails.
    pub fn read_ahead(&self, rows: u64) -> Result<(), StoreError> {
        backend!(self, store => store.read_ahead(rows))
    }

    /// Begins to read records into memory, of which `wanted` will be looked up, if that needs most of them.
    ///
    /// # Errors
    /// If the store fails.
    pub fn prefetch_records(&self, wanted: usize) -> Result<(), StoreError> {
        backend!(self, store => store.prefetch_records(wanted))
    }

    /// Makes exactly the values of `unique` properties find records. A property that was not unique when its values were
    /// written is indexed now.
    ///
    /// # Errors
    /// [`StoreError::NotUnique`] with the property, if two records of a space hold the same value of it. The store is
    /// unchanged then.
    pub fn index(&self, unique: &[PropertyId]) -> Result<(), (PropertyId, StoreError)> {
        backend!(self, store => store.index(unique))
    }
}

/// Writing, and goal runs.
impl Store {
    /// This moment in the order of commits, for [`Commit::read_point`]: taken before records and identifiers are read.
    pub fn read_point(&self) -> ReadPoint {
        backend!(self, store => store.read_point())
    }

    /// Writes a commit. When this returns, it is on the disk; when it fails, nothing of it is.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if another writer may have written since the read point what it is based on,
    /// [`StoreError::LeaseLost`] if its goal run may not commit any more, or if the store fails.
    pub fn commit(&self, commit: Commit<'_>) -> Result<(), StoreError> {
        backend!(self, store => store.commit(commit))
    }

    /// Begins a large commit.
    ///
    /// # Errors
    /// If the store fails.
    pub fn writer(&self, hints: WriterHints) -> Result<Writer<'_>, StoreError> {
        backend!(self, store => store.writer(hints))
    }

    /// What packs records for a [`Writer`].
    pub fn packer(&self) -> Packer {
        Packer::default()
    }

    /// Begins a goal run. Its time in milliseconds since the epoch is that of the clock, or later than all before it where
    /// the clock was set back. `report` makes its first report, of its number.
    ///
    /// # Errors
    /// If the store fails.
    pub fn begin_goal_run(
        &self,
        clock: i64,
        report: impl FnOnce(u64) -> Vec<u8>,
    ) -> Result<GoalRunLease, StoreError> {
        backend!(self, store => store.begin_goal_run(clock, report))
    }

    /// Makes the time of a goal run's changes the latest, at `clock` or later, if another goal run began or advanced since it
    /// did; answers whether it was made later. A goal run does this before it merges, while no other goal run merges: the
    /// order of times is then the order of changes.
    ///
    /// # Errors
    /// If the store fails, or the lease was lost.
    pub fn advance(&self, lease: &mut GoalRunLease, clock: i64) -> Result<bool, StoreError> {
        backend!(self, store => store.advance(lease, clock))
    }

    /// The goal runs that neither ended nor failed, because their process died or dropped their lease, each with its last report.
    /// Their leases are taken over.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn interrupted(&self) -> Result<Vec<Interrupted>, StoreError> {
        backend!(self, store => store.interrupted())
    }

    /// The report of the goal run with this number.
    ///
    /// # Errors
    /// If the store fails.
    pub fn report_of(&self, goal_run: u64) -> Result<Option<Vec<u8>>, StoreError> {
        backend!(self, store => store.report_of(goal_run))
    }

    /// The numbers and reports of goal runs, newest first.
    pub fn history(&self) -> Entries<'_, (u64, Box<[u8]>)> {
        backend!(self, store => Box::new(store.history()))
    }
}

/// Files.
impl Store {
    /// How far a file was imported, by the key that the host gives it.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn file_state(&self, key: &[u8; 32]) -> Result<Option<FileState>, StoreError> {
        backend!(self, store => store.file_state(key))
    }

    /// What the host noted of its imports under a key.
    ///
    /// # Errors
    /// If the store fails.
    pub fn import_note(&self, key: &[u8; 32]) -> Result<Option<Vec<u8>>, StoreError> {
        backend!(self, store => store.import_note(key))
    }

    /// Notes something of imports under each key. It is on the disk once a later commit is.
    ///
    /// # Errors
    /// If the store fails.
    pub fn note_imports(&self, notes: &[([u8; 32], Vec<u8>)]) -> Result<(), StoreError> {
        backend!(self, store => store.note_imports(notes))
    }

    /// The digest of an object's content, if it was remembered for this version of it.
    ///
    /// # Errors
    /// If the store fails.
    pub fn digest(&self, version: &str) -> Result<Option<[u8; 32]>, StoreError> {
        backend!(self, store => store.digest(version))
    }

    /// Remembers the digest of a version of an object.
    ///
    /// # Errors
    /// If the store fails.
    pub fn remember_digest(&self, version: &str, digest: [u8; 32]) -> Result<(), StoreError> {
        backend!(self, store => store.remember_digest(version, digest))
    }

    /// The file sets that are imported and with which something is still to do.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn unfinished(&self) -> Result<Vec<Unfinished>, StoreError> {
        backend!(self, store => store.unfinished())
    }
}

/// Changes and exports.
impl Store {
    /// The cursor of a goal run: what was committed before it began, and by it, is before the cursor.
    pub fn change_cursor(&self, lease: &GoalRunLease) -> ChangeCursor {
        ChangeCursor::at(lease.time())
    }

    /// The records that changed after a cursor, sorted; `None` where the lists do not reach back that far.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn changed_since(&self, since: ChangeCursor) -> Result<Option<Vec<RecordId>>, StoreError> {
        backend!(self, store => store.changed_since(since))
    }

    /// Removes the oldest lists of changes while they name more records than there are.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn trim_changes(&self) -> Result<(), StoreError> {
        backend!(self, store => store.trim_changes())
    }

    /// What the export goal with this key remembers of its last successful run.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn export_state(&self, goal: &[u8; 32]) -> Result<Option<ExportState>, StoreError> {
        backend!(self, store => store.export_state(goal))
    }

    /// The sketch under a key, as commits wrote it (see [`SketchUpdate`](crate::SketchUpdate)).
    ///
    /// # Errors
    /// If the store fails.
    pub fn exchanged(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        backend!(self, store => store.exchanged(key))
    }
}

/// Undo, erasure and age.
impl Store {
    /// What a record was before each goal run that changed it, newest first, as far as that is retained.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn previous_states(&self, id: RecordId) -> Result<Vec<PreviousState>, StoreError> {
        backend!(self, store => store.previous_states(id))
    }

    /// Whether a goal run of this time can be undone.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn can_undo(&self, at: i64) -> Result<bool, StoreError> {
        backend!(self, store => store.can_undo(at))
    }

    /// Restores what the goal run of time `at` and number `goal_run` changed, except for what has changed since. `lease` is
    /// that of the goal run that undoes it. Values of `unique` properties find their records again. One commit restores some
    /// thousands of records: an undo that breaks off is finished by another.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn undo(
        &self,
        (at, goal_run): (i64, u64),
        lease: &GoalRunLease,
        unique: &[PropertyId],
    ) -> Result<UndoReport, StoreError> {
        backend!(self, store => store.undo((at, goal_run), lease, unique))
    }

    /// Removes what goal runs before a time overwrote.
    ///
    /// # Errors
    /// If the store fails.
    pub fn forget_overwritten(&self, before: i64) -> Result<(), StoreError> {
        backend!(self, store => store.forget_overwritten(before))
    }

    /// Removes a record, its identifiers, its events and what was overwritten of it, from the disk too, and remembers keyed
    /// hashes of its identifiers. Returns whether the record was there.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn erase(
        &self,
        id: RecordId,
        unique: &[PropertyId],
        key: &ErasureKey,
        now: i64,
    ) -> Result<bool, StoreError> {
        backend!(self, store => store.erase(id, unique, key, now))
    }

    /// Which of sorted identifiers were erased; empty if none ever was.
    ///
    /// # Errors
    /// If the store fails.
    pub fn erased(&self, key: &ErasureKey, identifiers: &[&[u8]]) -> Result<Vec<bool>, StoreError> {
        backend!(self, store => store.erased(key, identifiers))
    }

    /// Removes the events of each type that happened before its moment, and returns how many they were: 0 within a day
    /// after the last call with the same types.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn expire(&self, kept: &[(EventTypeId, Timestamp)], now: Timestamp) -> Result<u64, StoreError> {
        backend!(self, store => store.expire(kept, now))
    }
}

/// Upkeep, and what the service asks.
impl Store {
    /// Checks that records, identifiers, events and lists of changes agree. `unique` are the properties whose values
    /// identify.
    ///
    /// # Errors
    /// If the store cannot be read. Problems in it are in the answer.
    pub fn verify(&self, unique: &[PropertyId]) -> Result<Verification, StoreError> {
        backend!(self, store => store.verify(unique))
    }

    /// How large the store is.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn stats(&self) -> Result<Stats, StoreError> {
        backend!(self, store => store.stats())
    }

    /// Rewrites all files, as small as they get.
    ///
    /// # Errors
    /// If the store fails.
    pub fn compact(&self) -> Result<(), StoreError> {
        backend!(self, store => store.compact())
    }

    /// About how many bytes it takes.
    ///
    /// # Errors
    /// If the store fails.
    pub fn about_bytes(&self) -> Result<u64, StoreError> {
        backend!(self, store => store.about_bytes())
    }

    /// Checks that the store can be written to.
    ///
    /// # Errors
    /// If it cannot.
    pub fn probe(&self) -> Result<(), StoreError> {
        backend!(self, store => store.probe())
    }

    /// What the service remembers of a connection's runs, as the host wrote it.
    ///
    /// # Errors
    /// If the store fails.
    pub fn runs_of(&self, connection: &str) -> Result<Option<Vec<u8>>, StoreError> {
        backend!(self, store => store.runs_of(connection))
    }

    /// Remembers other bytes. When this returns, they are on the disk.
    ///
    /// # Errors
    /// If the store fails.
    pub fn remember_runs_of(&self, connection: &str, runs: &[u8]) -> Result<(), StoreError> {
        backend!(self, store => store.remember_runs_of(connection, runs))
    }
}

/// A store of its own, for a dry run or a look; gone when it is dropped.
#[derive(Debug)]
pub struct TemporaryStore {
    // Closed before its folder goes away: fields are dropped in their order.
    store: Store,
    _copied: Copied,
}

impl TemporaryStore {
    fn of((store, copied): (RocksStore, Copied)) -> Self {
        Self { store: Store::Rocks(store), _copied: copied }
    }
}

impl Deref for TemporaryStore {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

/// A store to read from.
#[derive(Debug)]
pub struct ReadStore(Readable);

#[derive(Debug)]
enum Readable {
    Opened(Store),
    Empty(TemporaryStore),
}

impl Deref for ReadStore {
    type Target = Store;

    fn deref(&self) -> &Store {
        match &self.0 {
            Readable::Opened(store) => store,
            Readable::Empty(store) => store,
        }
    }
}
