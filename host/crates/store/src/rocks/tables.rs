//! Large commits as tables of their own: records, identifiers and events are written sorted into new table files, which
//! RocksDB then ingests, instead of going through the log and the memory table.
//!
//! It is one atomic commit all the same. The files are on the disk before a batch is written that holds everything else and
//! names them: that batch is the commit. If the process dies before RocksDB has ingested the files, the next process that
//! opens the store has it do so.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::mpsc::{self, SyncSender};
use std::thread::{self, JoinHandle};

use rocksdb::{DBRawIterator, IngestExternalFileOptions, SstFileWriter, WriteBatch};
use sluicebox_model::{Event, EventKey, IdentifierHash, OrNever, RecordId};

use super::bloom::KnownIdentifiers;
use super::open::durable;
use super::read::walk_to;
use super::{EVENTS, IDENTIFIERS, RECORDS, RocksStore, UNDO, page_cache};
use crate::error::io;
use crate::keys::{self, Meta};
use crate::record_format::encode_event;
use crate::writer::Change;
use crate::{PackedRecords, StoreError, WriterHints};

/// Fewer records and events are not worth tables of their own.
pub(crate) const MIN_ROWS: usize = 20_000;
/// The folder inside the store's where the files lie until RocksDB has ingested them.
pub(crate) const FOLDER: &str = "tables";

/// What may be in tables.
const IN_TABLES: [&str; 4] = [RECORDS, IDENTIFIERS, EVENTS, UNDO];

/// Bytes of a table after which they are synced.
const SYNCED_AT_ONCE: usize = 4 << 20;
/// Bytes of records that came after greater ones, and wait for a table of their own.
const MAX_LATE: usize = 4 << 20;
/// Records of which it is retained that they did not exist, which came after greater ones, and wait for a table of their own.
const MAX_LATE_KEPT: usize = 200_000;

/// Writes tables: what they hold is in the store once a commit names them, and not before.
pub(crate) struct TableWriter<'s> {
    store: &'s RocksStore,
    number: u64,
    records: Table<'s>,
    /// The last of them.
    last: Option<RecordId>,
    /// Records that came after greater ones, as bytes.
    late: Vec<(RecordId, Vec<u8>)>,
    late_bytes: usize,
    /// Identifiers that are in no table yet, in sorted runs, each with the record that it finds, or [`NO_RECORD`].
    identifiers: Vec<(IdentifierHash, RecordId)>,
    /// Where in `identifiers` each run ends.
    runs: Vec<usize>,
    /// The same identifiers, and few others.
    put_before: KnownIdentifiers,
    /// The tables that are complete.
    names: Vec<String>,
    changed: Vec<RecordId>,
    /// What the commit overwrites, if that is retained.
    kept: Option<KeptTable<'s>>,
}

/// Writes what a commit overwrites into a table.
struct KeptTable<'s> {
    /// What keys begin with, and the number of the commit in them.
    at: i64,
    number: u64,
    table: Table<'s>,
    /// The stored records, and whether the walk through them has begun.
    stored: DBRawIterator<'s>,
    begun: bool,
    /// Records that came after greater ones, and whether they are new.
    late: Vec<(RecordId, bool)>,
    key: Vec<u8>,
}

impl<'s> KeptTable<'s> {
    fn new(store: &'s RocksStore, at: i64, number: u64) -> Result<Self, StoreError> {
        let table = store.new_table(UNDO, number, 0)?;
        let stored = store.walk_through(store.family(RECORDS)?);
        let (late, key) = (Vec::new(), Vec::with_capacity(32));
        Ok(Self { at, number, table, stored, begun: false, late, key })
    }

    /// Retains the stored state of a record, which is greater than those before; that of a new one is that it is not there.
    fn keep(&mut self, id: RecordId, is_new: bool) -> Result<(), StoreError> {
        keys::put_undo(self.at, id, self.number, &mut self.key);
        if is_new {
            return self.table.put(&self.key, &[]);
        }
        walk_to(&id.0, &mut self.stored, &mut self.begun);
        match self.stored.item() {
            Some((held, before)) if held == id.0 => self.table.put(&self.key, before),
            _ => {
                self.stored.status()?;
                self.table.put(&self.key, &[])
            }
        }
    }

    /// Writes the late ones into a table of their own, and answers with its name.
    fn put_late(&mut self, store: &'s RocksStore, place: usize) -> Result<Option<String>, StoreError> {
        let mut late = std::mem::take(&mut self.late);
        late.sort_unstable();
        late.dedup_by_key(|(id, _)| *id);
        let mut table = store.new_table(UNDO, self.number, place)?;
        let (mut stored, mut begun) = (store.walk_through(store.family(RECORDS)?), false);
        for (id, is_new) in late {
            keys::put_undo(self.at, id, self.number, &mut self.key);
            if !is_new {
                walk_to(&id.0, &mut stored, &mut begun);
            }
            let before = stored.item().filter(|(held, _)| !is_new && *held == id.0);
            table.put(&self.key, before.map(|(_, before)| before).unwrap_or_default())?;
        }
        stored.status()?;
        table.finish()
    }
}

impl std::fmt::Debug for TableWriter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableWriter").field("number", &self.number).finish_non_exhaustive()
    }
}

impl<'s> TableWriter<'s> {
    pub(crate) fn store(&self) -> &'s RocksStore {
        self.store
    }

    /// See [`Writer::put`](crate::Writer::put).
    pub(crate) fn put_records(
        &mut self,
        records: &PackedRecords,
        next: Option<RecordId>,
    ) -> Result<(), StoreError> {
        for (id, bytes, change) in records.iter() {
            if change != Change::None {
                self.changed.push(id);
            }
            let is_late = next.is_some_and(|next| id >= next) || self.last.is_some_and(|last| id <= last);
            match &mut self.kept {
                Some(kept) if change != Change::None && is_late => {
                    kept.late.push((id, change == Change::Created));
                }
                Some(kept) if change != Change::None => kept.keep(id, change == Change::Created)?,
                _ => {}
            }
            if is_late {
                self.late_bytes += bytes.len();
                self.late.push((id, bytes.to_vec()));
            } else {
                self.records.put(&id.0, bytes)?;
                self.last = Some(id);
            }
        }
        if self.late_bytes > MAX_LATE {
            self.put_late()?;
        }
        if self.kept.as_ref().is_some_and(|kept| kept.late.len() > MAX_LATE_KEPT) {
            self.put_late_kept()?;
        }
        Ok(())
    }

    fn put_late_kept(&mut self) -> Result<(), StoreError> {
        if let Some(kept) = self.kept.as_mut().filter(|kept| !kept.late.is_empty()) {
            self.names.extend(kept.put_late(self.store, self.names.len() + 1)?);
        }
        Ok(())
    }

    fn put_late(&mut self) -> Result<(), StoreError> {
        if self.late.is_empty() {
            return Ok(());
        }
        self.late.sort_unstable();
        let mut table = self.store.new_table(RECORDS, self.number, self.names.len() + 1)?;
        self.late.drain(..).try_for_each(|(id, record)| table.put(&id.0, &record))?;
        self.late_bytes = 0;
        self.names.extend(table.finish()?);
        Ok(())
    }

    /// See [`Writer::put_identifiers`](crate::Writer::put_identifiers).
    pub(crate) fn put_identifiers(
        &mut self,
        identifiers: impl Iterator<Item = (IdentifierHash, Option<RecordId>)>,
    ) {
        let put_before = &mut self.put_before;
        self.identifiers.extend(identifiers.map(|(hash, id)| {
            put_before.insert(hash);
            (hash, id.unwrap_or(NO_RECORD))
        }));
        self.runs.push(self.identifiers.len());
    }

    /// Writes or removes events: all that the commit has.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(crate) fn put_events(&mut self, events: Vec<(EventKey, Option<Event>)>) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        // Long ids are hashed: their keys are in another order.
        let keyed = events.into_iter().map(|(key, event)| (keys::event(&key), key, event));
        let mut keyed: Vec<_> = keyed.collect();
        keyed.sort_unstable_by(|(one, ..), (other, ..)| one.cmp(other));
        if let Some(kept) = &self.kept {
            let family = self.store.family(EVENTS)?;
            let mut table = self.store.new_table(UNDO, self.number, self.names.len() + 1)?;
            for (place, key, _) in &keyed {
                let before = self.store.db.get_pinned_cf(family, place)?;
                let rest = place.get(16..).or_never("the type and id of an event");
                let undo = keys::undo(kept.at, key.record, self.number, rest);
                table.put(&undo, before.as_deref().unwrap_or_default())?;
            }
            self.names.extend(table.finish()?);
        }
        let mut table = self.store.new_table(EVENTS, self.number, 0)?;
        let mut bytes = Vec::new();
        for (place, key, event) in keyed {
            match event {
                Some(event) => {
                    bytes.clear();
                    encode_event(&key.id, &event, &mut bytes);
                    table.put(&place, &bytes)?;
                }
                None => table.delete(&place)?,
            }
        }
        self.names.extend(table.finish()?);
        Ok(())
    }

    pub(crate) fn contains_any(&self, hashes: &[IdentifierHash]) -> bool {
        let in_a_run = |hash: &IdentifierHash| {
            let from = [0].into_iter().chain(self.runs.iter().copied());
            let mut runs = from.zip(&self.runs).filter_map(|(from, to)| self.identifiers.get(from..*to));
            runs.any(|run| run.binary_search_by_key(hash, |(of, _)| *of).is_ok())
        };
        hashes.iter().any(|hash| self.put_before.may_hold(*hash) && in_a_run(hash))
    }

    pub(crate) fn memory(&self) -> usize {
        self.identifiers.len() * size_of::<(IdentifierHash, RecordId)>()
            + self.changed.len() * size_of::<RecordId>()
            + self.kept.as_ref().map_or(0, |kept| kept.late.len() * size_of::<(RecordId, bool)>())
            + self.late_bytes
    }

    pub(crate) fn finish(mut self) -> Result<Tables, StoreError> {
        self.put_late()?;
        self.put_late_kept()?;
        let keeps = self.kept.is_some();
        if let Some(kept) = self.kept.take() {
            self.names.extend(kept.table.finish()?);
        }
        let (store, number, records) = (self.store, self.number, self.records);
        let (mut identifiers, runs) = (self.identifiers, self.runs.len());
        let written = thread::scope(|scope| {
            let other = scope.spawn(move || {
                if runs > 1 {
                    // A stable sort only has to merge the runs.
                    identifiers.sort_by_key(|(hash, _)| *hash);
                }
                let identifiers =
                    identifiers.into_iter().map(|(hash, id)| (hash, Some(id).filter(|id| *id != NO_RECORD)));
                let mut table = store.new_table(IDENTIFIERS, number, 0)?;
                store.put_identifiers(identifiers, |key, page| table.merge(&key, page))?;
                table.finish()
            });
            let records = records.finish()?;
            let identifiers = other.join().unwrap_or(Err(StoreError::Damaged("a table of identifiers")))?;
            Ok::<_, StoreError>([records, identifiers])
        })?;
        self.names.extend(written.into_iter().flatten());
        self.changed.sort_unstable();
        Ok(Tables { names: self.names, changed: self.changed, keeps })
    }
}

/// No record has this id.
const NO_RECORD: RecordId = RecordId([0; 16]);

/// Complete tables, for a commit.
#[derive(Debug)]
pub(crate) struct Tables {
    names: Vec<String>,
    /// The records that changed, sorted.
    pub(super) changed: Vec<RecordId>,
    /// Whether they have what the commit overwrites.
    pub(super) keeps: bool,
}

/// A table that is being written.
struct Table<'s> {
    name: String,
    path: PathBuf,
    writer: SstFileWriter<'s>,
    any: bool,
    /// Bytes since the last sync.
    unsynced: usize,
    syncing: Option<Syncing>,
}

impl Table<'_> {
    /// Adds an entry.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.sync(key.len() + value.len())?;
        Ok(self.writer.put(key, value)?)
    }

    /// Removes what the store has under a key.
    fn delete(&mut self, key: &[u8]) -> Result<(), StoreError> {
        self.sync(key.len())?;
        Ok(self.writer.delete(key)?)
    }

    /// Adds something to what the store has under a key.
    fn merge(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.sync(key.len() + value.len())?;
        Ok(self.writer.merge(key, value)?)
    }

    /// Syncs what was written to the disk, now and then; `bytes` come next.
    fn sync(&mut self, bytes: usize) -> Result<(), StoreError> {
        self.any = true;
        self.unsynced += bytes;
        if self.unsynced >= SYNCED_AT_ONCE {
            self.unsynced = 0;
            let syncing = match self.syncing.take() {
                Some(syncing) => syncing,
                None => Syncing::new(&self.path).map_err(io(&self.path))?,
            };
            self.syncing.insert(syncing).begin();
        }
        Ok(())
    }

    /// Puts the table on the disk and returns its name; removes it if it is empty.
    fn finish(mut self) -> Result<Option<String>, StoreError> {
        if !self.any {
            drop(self.writer);
            fs::remove_file(&self.path).map_err(io(&self.path))?;
            return Ok(None);
        }
        self.writer.finish()?;
        self.syncing.take().map_or(Ok(()), Syncing::end).map_err(io(&self.path))?;
        Ok(Some(self.name))
    }
}

/// Syncs a file while it is being written, on a thread of its own, so that little is left to wait for at the end.
struct Syncing {
    begin: SyncSender<()>,
    thread: JoinHandle<std::io::Result<()>>,
}

impl Syncing {
    fn new(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        let (begin, begun) = mpsc::sync_channel(1);
        let sync = move || begun.into_iter().try_for_each(|()| file.sync_data());
        let thread = thread::Builder::new().name("sync".to_owned()).spawn(sync)?;
        Ok(Self { begin, thread })
    }

    /// Syncs what was written so far.
    fn begin(&self) {
        // A sync that waits to begin covers this one; a failure shows at the end.
        let _ = self.begin.try_send(());
    }

    fn end(self) -> std::io::Result<()> {
        drop(self.begin);
        self.thread
            .join()
            .unwrap_or_else(|_| Err(std::io::Error::other("the thread that syncs a table ended")))
    }
}

impl RocksStore {
    /// Begins tables. One commit at a time makes some.
    pub(super) fn new_tables(&self, hints: WriterHints) -> Result<TableWriter<'_>, StoreError> {
        let WriterHints { records, identifiers, mostly_new, keep_at } = hints;
        // Rows to come will look up records that are new.
        page_cache::retain_new_tables(mostly_new);
        let folder = self.tables();
        fs::create_dir_all(&folder).map_err(io(&folder))?;
        let number = self.db.latest_sequence_number();
        let (late, names, changed) = (Vec::new(), Vec::new(), Vec::with_capacity(records));
        let records = self.new_table(RECORDS, number, 0)?;
        let kept = keep_at.map(|at| KeptTable::new(self, at, number)).transpose()?;
        Ok(TableWriter {
            store: self,
            number,
            records,
            last: None,
            late,
            late_bytes: 0,
            identifiers: Vec::with_capacity(identifiers),
            runs: Vec::new(),
            put_before: KnownIdentifiers::default(),
            names,
            changed,
            kept,
        })
    }

    fn new_table(&self, family: &str, number: u64, place: usize) -> Result<Table<'_>, StoreError> {
        let place = if place == 0 { String::new() } else { format!("-{place}") };
        let name = format!("{family}-{number}{place}.sst");
        let path = self.tables().join(&name);
        let writer = SstFileWriter::create(&self.table_options);
        writer.open(&path)?;
        Ok(Table { name, path, writer, any: false, unsynced: 0, syncing: None })
    }

    /// Commits a batch together with tables.
    pub(crate) fn commit_tables(&self, mut batch: WriteBatch, tables: &Tables) -> Result<(), StoreError> {
        let folder = self.tables();
        File::open(&folder).and_then(|folder| folder.sync_all()).map_err(io(&folder))?;
        batch.put(Meta::Tables, tables.names.join("\n"));
        let _whole = self.ingest.lock().unwrap_or_else(PoisonError::into_inner);
        self.db.write_opt(batch, &durable())?;
        self.ingest_tables()
    }

    /// Ingests the tables that a commit named; those that are gone were ingested before.
    pub(crate) fn ingest_tables(&self) -> Result<(), StoreError> {
        let Some(names) = self.db.get(Meta::Tables)? else { return Ok(()) };
        let names = String::from_utf8(names).map_err(|_| StoreError::Damaged("its list of new tables"))?;
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        for name in names.lines() {
            let path = self.tables().join(name);
            let family = IN_TABLES.into_iter().find(|family| name.starts_with(family));
            let Some(family) = family.filter(|_| path.exists()) else { continue };
            self.db.ingest_external_file_cf_opts(self.family(family)?, &options, vec![path])?;
        }
        Ok(self.db.delete(Meta::Tables)?)
    }

    /// Removes the tables of a process that died before its commit.
    pub(crate) fn clear_tables(&self) -> Result<(), StoreError> {
        let folder = self.tables();
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io(&folder)(error)),
            _ => Ok(()),
        }
    }

    fn tables(&self) -> PathBuf {
        self.db.path().join(FOLDER)
    }
}

#[cfg(test)]
impl RocksStore {
    /// What a process leaves that dies in a large commit, after the batch and before the tables are ingested, but for those
    /// of some families.
    pub(crate) fn die_before_tables_are_ingested(
        self,
        records: &[(RecordId, sluicebox_model::Record)],
        identifiers: &[(IdentifierHash, Option<RecordId>)],
        events: &[(EventKey, Option<Event>)],
        ingested: &[&str],
    ) {
        let mut tables = self.new_tables(WriterHints::default()).unwrap();
        let number = tables.number;
        tables.put_records(&crate::Packer::default().pack(records, 1), None).unwrap();
        let mut identifiers = identifiers.to_vec();
        identifiers.sort_unstable();
        tables.put_identifiers(identifiers.into_iter());
        tables.put_events(events.to_vec()).unwrap();
        let tables = tables.finish().unwrap();
        let mut batch = WriteBatch::default();
        batch.put(Meta::Tables, tables.names.join("\n"));
        self.db.write_opt(batch, &durable()).unwrap();
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        for family in IN_TABLES.into_iter().filter(|family| ingested.contains(family)) {
            let path = self.tables().join(format!("{family}-{number}.sst"));
            if !path.exists() {
                continue;
            }
            self.db.ingest_external_file_cf_opts(self.family(family).unwrap(), &options, vec![path]).unwrap();
        }
    }
}

#[cfg(test)]
mod tests {
    use sluicebox_model::{
        EventOrigin, EventTouch, EventTypeId, Identifier, PropertyId, Record, RecordId, SpaceId, Value,
    };

    use super::*;
    use crate::Packer;

    fn id(number: u32) -> RecordId {
        let mut id = [1; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        RecordId(id)
    }

    fn identifier(number: u32) -> Identifier {
        Identifier::new(SpaceId(1), PropertyId(1), &Value::Text(format!("c{number}").into()))
    }

    fn records(numbers: std::ops::Range<u32>) -> Vec<(RecordId, Record)> {
        numbers.map(|number| (id(number), Record::new(SpaceId(1), 1))).collect()
    }

    fn order(number: u32) -> (EventKey, Option<Event>) {
        let key = EventKey { record: id(number), event_type: EventTypeId(1), id: "o1".into() };
        let event = Event {
            time: jiff::Timestamp::from_second(1).unwrap().into(),
            properties: Vec::new(),
            nested: Vec::new(),
            product_store: false,
            touch: EventTouch::default(),
            origin: EventOrigin::default(),
        };
        (key, Some(event))
    }

    #[test]
    fn late_records_get_tables_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let store = RocksStore::open(folder.path()).unwrap();
        let mut tables = store.new_tables(WriterHints::default()).unwrap();
        let packer = Packer::default();
        for from in (0..20).rev() {
            tables.put_records(&packer.pack(&records(from * 5000..from * 5000 + 5000), 1), None).unwrap();
        }
        let tables = tables.finish().unwrap();
        assert_eq!(tables.names.len(), 2, "{:?}", tables.names);
        assert_eq!(tables.changed.len(), 100_000);
    }

    #[test]
    fn a_commit_is_whole_wherever_its_process_died() {
        let events = [order(24_999), order(0)];
        for ingested in [&[][..], &[RECORDS], &[RECORDS, IDENTIFIERS], &IN_TABLES] {
            let folder = tempfile::tempdir().unwrap();
            let store = RocksStore::open(folder.path()).unwrap();
            let hash = |number| store.hasher().hash(&identifier(number).0);
            let identifiers: Vec<_> = (0..25_000).map(|number| (hash(number), Some(id(number)))).collect();
            store.die_before_tables_are_ingested(&records(0..25_000), &identifiers, &events, ingested);
            // A reader finds it too.
            let store = RocksStore::open_read_only(folder.path()).unwrap().unwrap();
            for number in [0, 24_999] {
                assert_eq!(store.find(&identifier(number)).unwrap(), Some(id(number)), "{ingested:?}");
                assert!(store.load(id(number)).unwrap().is_some());
                assert_eq!(store.events_of(id(number)).unwrap().len(), 1);
            }
            drop(store);
            let store = RocksStore::open(folder.path()).unwrap();
            assert_eq!(store.records().unwrap().count(), 25_000);
            assert_eq!((store.db.get(Meta::Tables).unwrap(), store.tables().exists()), (None, false));
        }
    }

    #[test]
    fn tables_of_no_commit_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = RocksStore::open(folder.path()).unwrap();
        fs::create_dir_all(store.tables()).unwrap();
        fs::write(store.tables().join("records-8.sst"), "half a table").unwrap();
        drop(store);
        assert!(!RocksStore::open(folder.path()).unwrap().tables().exists());
    }

    #[test]
    fn packed_records_use_memory_again() {
        let packer = Packer::default();
        let first = packer.pack(&records(0..100), 1);
        assert_eq!(first.ids().collect::<Vec<_>>(), (0..100).map(id).collect::<Vec<_>>());
        let place = first.iter().next().map(|(_, bytes, _)| bytes.as_ptr());
        drop(first);
        let second = packer.pack(&records(7..8), 2);
        let entries: Vec<_> = second.iter().map(|(id, bytes, change)| (id, bytes.as_ptr(), change)).collect();
        assert_eq!(entries, [(id(7), place.unwrap(), Change::None)]);
        let mut changed = records(7..8)[0].clone();
        changed.1.created = 0;
        for (record, change) in [(changed, Change::Changed), (records(7..8)[0].clone(), Change::Created)] {
            assert_eq!(packer.pack(&[record], 1).iter().next().map(|(.., change)| change), Some(change));
        }
    }
}
