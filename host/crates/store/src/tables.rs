//! Large commits as tables of their own: records, identifiers and events are written sorted into new table files, which the store then takes
//! as they are, instead of going through the log and the memory table and being written into tables later.
//!
//! It is one commit all the same. The files are on the disk before a batch is written that holds everything else and names
//! them: with that batch the commit is made. If the process dies before the store took the files, the next one that opens it does.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::mpsc::{self, SyncSender};
use std::thread::{self, JoinHandle};

use rocksdb::{IngestExternalFileOptions, SstFileWriter, WriteBatch};
use sluicebox_model::{Event, EventKey, IdentifierHash, Record, RecordId};

use crate::encode::{encode, encode_event, encoded_size};
use crate::keys::{self, EVENTS, IDENTIFIERS, RECORDS, TABLES};
use crate::known::Known;
use crate::open::{durable, io};
use crate::{Store, StoreError, kept};

/// Fewer records and events are not worth files of their own.
pub(crate) const FEWEST: usize = 20_000;
/// Where the files lie until the store took them, in its folder.
pub(crate) const FOLDER: &str = "tables";

/// What may be in tables.
const IN_TABLES: [&str; 3] = [RECORDS, IDENTIFIERS, EVENTS];

/// Bytes of a table after which the disk is asked for them.
const SYNCED_AT_ONCE: usize = 4 << 20;
/// Bytes of records that came after greater ones and wait for a table of their own.
const MOST_LATE: usize = 4 << 20;

/// Sorted records as bytes, each there once.
#[derive(Debug, Default)]
pub struct PackedRecords {
    bytes: Vec<u8>,
    /// Each one's id, where it ends in `bytes`, and whether it changed.
    entries: Vec<(RecordId, usize, bool)>,
}

impl PackedRecords {
    /// Packs sorted records, each of which is there once. Those that were modified at this time are those that changed.
    pub fn new(records: &[(RecordId, Record)], now: i64) -> Self {
        let mut packed = Self::default();
        packed.pack(records, now);
        packed
    }

    /// Packs others in their place.
    pub fn pack(&mut self, records: &[(RecordId, Record)], now: i64) {
        self.bytes.clear();
        self.entries.clear();
        self.bytes.reserve(records.iter().map(|(_, record)| encoded_size(record)).sum());
        self.entries.reserve(records.len());
        for (id, record) in records {
            encode(record, &mut self.bytes);
            self.entries.push((*id, self.bytes.len(), record.modified == now));
        }
    }

    /// The ids.
    pub fn ids(&self) -> impl Iterator<Item = RecordId> + '_ {
        self.entries.iter().map(|(id, ..)| *id)
    }
}

/// Tables in the making: what they hold is in the store once a commit has them, and not before.
pub struct NewTables<'s> {
    store: &'s Store,
    number: u64,
    records: Table<'s>,
    /// The last of them.
    last: Option<RecordId>,
    /// Records that came after greater ones, as bytes.
    late: Vec<(RecordId, Vec<u8>)>,
    late_bytes: usize,
    /// Identifiers that are in no table yet, in sorted runs, with whom each finds; zeros, which no id is, for nobody.
    identifiers: Vec<(IdentifierHash, RecordId)>,
    /// Where in `identifiers` each run ends.
    runs: Vec<usize>,
    /// What is among them, and little else.
    known: Known,
    /// The tables that are complete.
    names: Vec<String>,
    changed: Vec<RecordId>,
}

impl std::fmt::Debug for NewTables<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewTables").field("number", &self.number).finish_non_exhaustive()
    }
}

impl NewTables<'_> {
    /// Adds records. Most that come after them are not less than `next`.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn put_records(&mut self, records: &PackedRecords, next: Option<RecordId>) -> Result<(), StoreError> {
        let mut from = 0;
        for (id, to, changed) in &records.entries {
            let bytes = records.bytes.get(from..*to).unwrap_or_default();
            from = *to;
            if *changed {
                self.changed.push(*id);
            }
            if next.is_some_and(|next| *id >= next) || self.last.is_some_and(|last| *id <= last) {
                self.late_bytes += bytes.len();
                self.late.push((*id, bytes.to_vec()));
            } else {
                self.records.put(&id.0, bytes)?;
                self.last = Some(*id);
            }
        }
        if self.late_bytes > MOST_LATE { self.put_late() } else { Ok(()) }
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

    /// Adds sorted identifiers, or that they are removed.
    pub fn put_identifiers(&mut self, identifiers: impl Iterator<Item = (IdentifierHash, Option<RecordId>)>) {
        let known = &mut self.known;
        self.identifiers.extend(identifiers.map(|(hash, id)| {
            known.insert(hash);
            (hash, id.unwrap_or(NOBODY))
        }));
        self.runs.push(self.identifiers.len());
    }

    /// Writes events, or that they are removed: all that the commit has.
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

    /// Whether one of these identifiers was put before.
    pub fn hold_any(&self, hashes: &[IdentifierHash]) -> bool {
        let in_a_run = |hash: &IdentifierHash| {
            let from = [0].into_iter().chain(self.runs.iter().copied());
            let mut runs = from.zip(&self.runs).filter_map(|(from, to)| self.identifiers.get(from..*to));
            runs.any(|run| run.binary_search_by_key(hash, |(of, _)| *of).is_ok())
        };
        hashes.iter().any(|hash| self.known.may_hold(*hash) && in_a_run(hash))
    }

    /// About how many bytes of memory is taken by what is in no table yet.
    pub fn memory(&self) -> usize {
        self.identifiers.len() * size_of::<(IdentifierHash, RecordId)>()
            + self.changed.len() * size_of::<RecordId>()
            + self.late_bytes
    }

    /// Completes the tables.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn finish(mut self) -> Result<Tables, StoreError> {
        self.put_late()?;
        let (store, number, records) = (self.store, self.number, self.records);
        let (mut identifiers, runs) = (self.identifiers, self.runs.len());
        let written = thread::scope(|scope| {
            let other = scope.spawn(move || {
                if runs > 1 {
                    // A stable sort only has to merge the runs.
                    identifiers.sort_by_key(|(hash, _)| *hash);
                }
                let identifiers =
                    identifiers.into_iter().map(|(hash, id)| (hash, Some(id).filter(|id| *id != NOBODY)));
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
        Ok(Tables { names: self.names, changed: self.changed })
    }
}

/// No record has this id.
const NOBODY: RecordId = RecordId([0; 16]);

/// Complete tables, for a commit.
#[derive(Debug)]
pub struct Tables {
    names: Vec<String>,
    /// The records that changed, sorted.
    pub(crate) changed: Vec<RecordId>,
}

/// A table that is being written.
struct Table<'s> {
    name: String,
    path: PathBuf,
    writer: SstFileWriter<'s>,
    any: bool,
    /// Bytes since the disk was asked for what was written.
    unsynced: usize,
    syncing: Option<Syncing>,
}

impl Table<'_> {
    /// Adds an entry.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.sync(key.len() + value.len())?;
        Ok(self.writer.put(key, value)?)
    }

    /// Adds that nothing is under a key any more.
    fn delete(&mut self, key: &[u8]) -> Result<(), StoreError> {
        self.sync(key.len())?;
        Ok(self.writer.delete(key)?)
    }

    /// Adds something to what the store has under a key.
    fn merge(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.sync(key.len() + value.len())?;
        Ok(self.writer.merge(key, value)?)
    }

    /// Brings to the disk what was written, now and then; so many bytes come now.
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

    /// Puts it on the disk; answers with its name, or removes it if nothing is in it.
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

/// Brings a file to the disk while it is being written, on a thread of its own: at the end little is left to wait for.
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

    /// Asks for what was written so far.
    fn begin(&self) {
        // If one is waiting to begin, it will do; if it failed, the end says so.
        let _ = self.begin.try_send(());
    }

    fn end(self) -> std::io::Result<()> {
        drop(self.begin);
        self.thread
            .join()
            .unwrap_or_else(|_| Err(std::io::Error::other("the thread that syncs a table ended")))
    }
}

impl Store {
    /// Begins tables of about so many records and identifiers, which stay in memory or not (`kept.rs`). One commit at a time makes some.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn new_tables(
        &self,
        records: usize,
        identifiers: usize,
        stay: bool,
    ) -> Result<NewTables<'_>, StoreError> {
        kept::stay(stay);
        let folder = self.tables();
        fs::create_dir_all(&folder).map_err(io(&folder))?;
        let number = self.db.latest_sequence_number();
        let (late, names, changed) = (Vec::new(), Vec::new(), Vec::with_capacity(records));
        let records = self.new_table(RECORDS, number, 0)?;
        Ok(NewTables {
            store: self,
            number,
            records,
            last: None,
            late,
            late_bytes: 0,
            identifiers: Vec::with_capacity(identifiers),
            runs: Vec::new(),
            known: Known::default(),
            names,
            changed,
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

    /// Commits a batch together with tables: all of it or nothing.
    pub(crate) fn commit_tables(&self, mut batch: WriteBatch, tables: &Tables) -> Result<(), StoreError> {
        let folder = self.tables();
        File::open(&folder).and_then(|folder| folder.sync_all()).map_err(io(&folder))?;
        batch.put(TABLES, tables.names.join("\n"));
        let _whole = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        self.db.write_opt(batch, &durable())?;
        self.take_tables()
    }

    /// Takes the tables that a commit named; those that are gone were taken before.
    pub(crate) fn take_tables(&self) -> Result<(), StoreError> {
        let Some(names) = self.db.get(TABLES)? else { return Ok(()) };
        let names = String::from_utf8(names).map_err(|_| StoreError::Damaged("its list of new tables"))?;
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        for name in names.lines() {
            let path = self.tables().join(name);
            let family = IN_TABLES.into_iter().find(|family| name.starts_with(family));
            let Some(family) = family.filter(|_| path.exists()) else { continue };
            self.db.ingest_external_file_cf_opts(self.family(family)?, &options, vec![path])?;
        }
        Ok(self.db.delete(TABLES)?)
    }

    /// Removes what a process left that died before its commit.
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
mod tests {
    use sluicebox_model::{
        EventTouch, EventTypeId, Identifier, PropertyId, Record, RecordId, SpaceId, Value,
    };

    use super::*;
    use crate::Commit;

    const RECORDS_MADE: u32 = 25_000;

    fn id(number: u32) -> RecordId {
        let mut id = [1; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        RecordId(id)
    }

    fn identifier(number: u32) -> Identifier {
        Identifier::new(SpaceId(1), PropertyId(1), &Value::Text(format!("c{number}").into()))
    }

    fn commit(store: &Store, from: u32, created: i64) -> Commit<'static> {
        let numbers = from..from + RECORDS_MADE;
        Commit {
            records: numbers.clone().map(|number| (id(number), Record::new(SpaceId(1), created))).collect(),
            identifiers: numbers
                .map(|number| (store.hasher().hash(&identifier(number).0), Some(id(number))))
                .collect(),
            goal_run: Some((1, b"report".to_vec())),
            ..Commit::default()
        }
    }

    fn happened(number: u32, second: i64) -> (EventKey, Option<Event>) {
        // Some ids are so long that they are hashed.
        let name = format!("o{number}{}", "x".repeat(if number.is_multiple_of(7) { 80 } else { 0 }));
        let key = EventKey { record: id(number), event_type: EventTypeId(1), id: name.into() };
        let event = Event {
            time: jiff::Timestamp::from_second(second).unwrap(),
            properties: Vec::new(),
            nested: Vec::new(),
            product_store: false,
            touch: EventTouch::default(),
        };
        (key, Some(event))
    }

    #[test]
    fn events_of_a_large_commit_are_written_over_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let events = |second: i64| (0..30_000).rev().map(move |number| happened(number, second));
        store.commit(Commit { events: events(1).collect(), ..Commit::default() }).unwrap();
        assert_eq!(fs::read_dir(store.tables()).unwrap().count(), 0);
        let removed = |(key, event): (EventKey, _)| {
            let gone = key.record.0[3].is_multiple_of(3);
            (key, if gone { None } else { event })
        };
        store.commit(Commit { events: events(2).map(removed).collect(), ..Commit::default() }).unwrap();
        drop(store);
        let store = Store::open(folder.path()).unwrap();
        for number in [0, 1, 2, 7, 255, 256, 29_999] {
            let at = store.events_of(id(number)).unwrap().pop().map(|(_, event)| event.time.as_second());
            let gone = number.to_be_bytes()[3].is_multiple_of(3);
            assert_eq!(at, if gone { None } else { Some(2) }, "{number}");
        }
    }

    fn created(store: &Store, number: u32) -> Option<i64> {
        let found = store.find(&identifier(number)).unwrap()?;
        store.load(found).unwrap().map(|(_, record)| record.created)
    }

    #[test]
    fn a_large_commit_is_read_as_a_small_one_is_and_a_later_one_wins() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.commit(commit(&store, 0, 1)).unwrap();
        store.commit(commit(&store, 10_000, 2)).unwrap();
        assert_eq!([0, 9_999, 10_000, 34_999].map(|number| created(&store, number)), [1, 1, 2, 2].map(Some));
        assert_eq!(created(&store, 35_000), None);
        drop(store);
        let store = Store::open(folder.path()).unwrap();
        assert_eq!([0, 34_999].map(|number| created(&store, number)), [1, 2].map(Some));
        assert_eq!(store.records().unwrap().count(), 35_000);
    }

    #[test]
    fn records_that_come_late_and_identifiers_that_go_are_part_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.commit(commit(&store, 0, 1)).unwrap();
        let records = |numbers: std::ops::Range<u32>| {
            let records: Vec<_> = numbers.map(|number| (id(number), Record::new(SpaceId(1), 2))).collect();
            PackedRecords::new(&records, 2)
        };
        let mut tables = store.new_tables(0, 0, false).unwrap();
        tables.put_records(&records(50_000..50_002), None).unwrap();
        // Less than what was there before, and more than what is announced; more of them than are kept waiting.
        for from in (0..20).rev() {
            tables
                .put_records(&records(from * 5000 + 100_000..from * 5000 + 105_000), Some(id(60_000)))
                .unwrap();
        }
        tables.put_records(&records(10..11), None).unwrap();
        tables.put_records(&records(60_000..60_001), None).unwrap();
        let mut removed: Vec<IdentifierHash> =
            (10_000..20_000).map(|number| store.hasher().hash(&identifier(number).0)).collect();
        removed.sort_unstable();
        tables.put_identifiers(removed.into_iter().map(|hash| (hash, None)));
        let tables = tables.finish().unwrap();
        assert!(tables.names.len() > 2, "{:?}", tables.names);
        assert_eq!(tables.changed.len(), 100_004);
        store.commit(Commit { tables: Some(tables), ..Commit::default() }).unwrap();
        drop(store);
        let store = Store::open(folder.path()).unwrap();
        let created = |number| store.load(id(number)).unwrap().map(|(_, record)| record.created);
        let numbers = [9, 10, 50_001, 60_000, 100_000, 199_999, 200_000];
        assert_eq!(numbers.map(created), [Some(1), Some(2), Some(2), Some(2), Some(2), Some(2), None]);
        let found = |number| store.find(&identifier(number)).unwrap().is_some();
        assert_eq!([9_999, 10_000, 19_999, 20_000].map(found), [true, false, false, true]);
    }

    #[test]
    fn identifiers_come_in_runs_and_are_known() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut tables = store.new_tables(0, 0, false).unwrap();
        let hash = |number: u32| store.hasher().hash(&identifier(number).0);
        let sorted = |numbers: std::ops::Range<u32>| {
            let mut hashes: Vec<IdentifierHash> = numbers.map(hash).collect();
            hashes.sort_unstable();
            hashes
        };
        for numbers in [0..1000, 1000..1001, 1001..3000] {
            let ids: Vec<_> =
                sorted(numbers.clone()).into_iter().map(|hash| (hash, Some(id(numbers.start + 1)))).collect();
            assert!(!tables.hold_any(&sorted(numbers)));
            tables.put_identifiers(ids.into_iter());
        }
        tables.put_identifiers([(hash(5000), None)].into_iter());
        assert!(
            [0, 999, 1000, 1001, 2999, 5000]
                .iter()
                .all(|number| tables.hold_any(&sorted(*number..number + 1)))
        );
        assert!(tables.hold_any(&sorted(2999..4000)) && !tables.hold_any(&sorted(3000..5000)));
        assert!(tables.memory() >= 3001 * 32);
        store.commit(Commit { tables: Some(tables.finish().unwrap()), ..Commit::default() }).unwrap();
        let found = |number| store.find(&identifier(number)).unwrap();
        let expected = [Some(id(1)), Some(id(1)), Some(id(1001)), Some(id(1002)), Some(id(1002)), None, None];
        assert_eq!([0, 999, 1000, 1001, 2999, 3000, 5000].map(found), expected);
    }

    /// What a process leaves that dies between the batch and the taking of its tables.
    fn dies_before_the_tables_are_taken(folder: &Path, taken: &[&str]) {
        let store = Store::open(folder).unwrap();
        let whole = commit(&store, 0, 1);
        let mut tables = store.new_tables(0, 0, false).unwrap();
        let number = tables.number;
        tables.put_records(&PackedRecords::new(&whole.records, 1), None).unwrap();
        let mut identifiers = whole.identifiers;
        identifiers.sort_unstable();
        tables.put_identifiers(identifiers.into_iter());
        tables.put_events(vec![happened(24_999, 1), happened(0, 1)]).unwrap();
        let tables = tables.finish().unwrap();
        let mut batch = WriteBatch::default();
        batch.put(TABLES, tables.names.join("\n"));
        store.db.write_opt(batch, &durable()).unwrap();
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        for family in IN_TABLES.into_iter().filter(|family| taken.contains(family)) {
            let path = store.tables().join(format!("{family}-{number}.sst"));
            store
                .db
                .ingest_external_file_cf_opts(store.family(family).unwrap(), &options, vec![path])
                .unwrap();
        }
    }

    #[test]
    fn a_commit_is_whole_wherever_its_process_died() {
        for taken in [&[][..], &[RECORDS], &[RECORDS, IDENTIFIERS], &IN_TABLES] {
            let folder = tempfile::tempdir().unwrap();
            dies_before_the_tables_are_taken(folder.path(), taken);
            // Whoever only reads finds it too.
            let store = Store::open_read_only(folder.path()).unwrap().unwrap();
            assert_eq!([0, 24_999].map(|number| created(&store, number)), [Some(1); 2], "{taken:?}");
            assert_eq!([0, 24_999].map(|number| store.events_of(id(number)).unwrap().len()), [1; 2]);
            drop(store);
            let store = Store::open(folder.path()).unwrap();
            assert_eq!(store.records().unwrap().count(), 25_000);
            assert_eq!((store.db.get(TABLES).unwrap(), store.tables().exists()), (None, false));
        }
        // A dry run's copy has it, and so has a store whose process died before its commit was one.
        let folder = tempfile::tempdir().unwrap();
        dies_before_the_tables_are_taken(folder.path(), &[]);
        let copy = crate::DryCopy::of(folder.path()).unwrap();
        assert_eq!(created(&Store::open(copy.path()).unwrap(), 24_999), Some(1));
        drop(copy);
        let store = Store::open(folder.path()).unwrap();
        fs::create_dir_all(store.tables()).unwrap();
        fs::write(store.tables().join("records-8.sst"), "half a table").unwrap();
        drop(store);
        assert!(!Store::open(folder.path()).unwrap().tables().exists());
    }
}
