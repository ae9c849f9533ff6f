//! Large commits as tables of their own: records and identifiers are written sorted into new table files, which the store then takes
//! as they are, instead of going through the log and the memory table and being written into tables later.
//!
//! It is one commit all the same. The files are on the disk before a batch is written that holds everything else and names
//! them: with that batch the commit is made. If the process dies before the store took the files, the next one that opens it does.

use std::fs::{self, File};
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::thread;

use rocksdb::{IngestExternalFileOptions, Options, SstFileWriter, WriteBatch};
use rustix::fs::{Advice, fadvise};

use crate::keys::{IDENTIFIERS, RECORDS, TABLES};
use crate::open::{durable, io, table_options};
use crate::{Store, StoreError};

/// Fewer records are not worth two files.
pub(crate) const FEWEST_RECORDS: usize = 20_000;
/// Where the files lie until the store took them, in its folder.
pub(crate) const FOLDER: &str = "tables";

/// Bytes of a table that the system is asked to read ahead.
const AT_ONCE: usize = 1 << 20;

/// Takes a key and its value.
pub(crate) type Put<'p> = dyn FnMut(&[u8], &[u8]) -> Result<(), StoreError> + 'p;
/// Sorted entries of a family.
type Entries<'a> = dyn Fn(&mut Put<'_>) -> Result<(), StoreError> + Sync + 'a;

impl Store {
    /// Commits a batch together with sorted records and identifiers: all of it or nothing.
    pub(crate) fn commit_tables(
        &self,
        mut batch: WriteBatch,
        records: &Entries<'_>,
        identifiers: &Entries<'_>,
    ) -> Result<(), StoreError> {
        let folder = self.tables();
        fs::create_dir_all(&folder).map_err(io(&folder))?;
        let number = self.db.latest_sequence_number();
        let names = [RECORDS, IDENTIFIERS].map(|family| format!("{family}-{number}.sst"));
        let [of_records, of_identifiers] = names.each_ref().map(|name| folder.join(name));
        let written = thread::scope(|scope| {
            let other = scope.spawn(|| write(&of_identifiers, identifiers));
            let records = write(&of_records, records)?;
            let identifiers = other.join().unwrap_or(Err(StoreError::Damaged("a table of identifiers")))?;
            Ok::<_, StoreError>([records, identifiers])
        })?;
        File::open(&folder).and_then(|folder| folder.sync_all()).map_err(io(&folder))?;
        let named: Vec<&str> =
            names.iter().zip(written).filter(|(_, any)| *any).map(|(name, _)| name.as_str()).collect();
        batch.put(TABLES, named.join("\n"));
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
            let family = [RECORDS, IDENTIFIERS].into_iter().find(|family| name.starts_with(family));
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

/// Writes a table; answers whether anything is in it.
fn write(path: &PathBuf, entries: &Entries<'_>) -> Result<bool, StoreError> {
    let options: Options = table_options();
    let mut writer = SstFileWriter::create(&options);
    writer.open(path)?;
    let mut any = false;
    entries(&mut |key, value| {
        any = true;
        Ok(writer.put(key, value)?)
    })?;
    if any {
        writer.finish()?;
        read_ahead(path).map_err(io(path))?;
    }
    Ok(any)
}

/// The writer has the system drop what it wrote from memory, and the next rows will look for it. The system reads ahead a few
/// mebibytes for each hint at most.
fn read_ahead(path: &PathBuf) -> std::io::Result<()> {
    let file = File::open(path)?;
    for start in (0..file.metadata()?.len()).step_by(AT_ONCE) {
        fadvise(&file, start, NonZero::new(AT_ONCE as u64), Advice::WillNeed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sluicebox_model::{Identifier, PropertyId, Record, RecordId, SpaceId, Value};

    use super::*;
    use crate::Commit;

    const RECORDS_MADE: u32 = 25_000;

    fn id(number: u32) -> RecordId {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        RecordId(id)
    }

    fn identifier(number: u32) -> Identifier {
        Identifier::new(SpaceId(1), PropertyId(1), &Value::Text(format!("c{number}").into()))
    }

    fn commit(from: u32, created: i64) -> Commit<'static> {
        let numbers = from..from + RECORDS_MADE;
        Commit {
            records: numbers.clone().map(|number| (id(number), Record::new(SpaceId(1), created))).collect(),
            identifiers: numbers
                .map(|number| (identifier(number).0.to_vec().into(), Some(id(number))))
                .collect(),
            goal_run: Some((1, b"report".to_vec())),
            ..Commit::default()
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
        store.commit(commit(0, 1)).unwrap();
        store.commit(commit(10_000, 2)).unwrap();
        assert_eq!([0, 9_999, 10_000, 34_999].map(|number| created(&store, number)), [1, 1, 2, 2].map(Some));
        assert_eq!(created(&store, 35_000), None);
        drop(store);
        let store = Store::open(folder.path()).unwrap();
        assert_eq!([0, 34_999].map(|number| created(&store, number)), [1, 2].map(Some));
        assert_eq!(store.records().unwrap().count(), 35_000);
    }

    /// What a process leaves that dies between the batch and the taking of its tables.
    fn dies_before_the_tables_are_taken(folder: &std::path::Path, taken: &[&str]) {
        let store = Store::open(folder).unwrap();
        let whole = commit(0, 1);
        fs::create_dir_all(store.tables()).unwrap();
        let [of_records, of_identifiers] = ["records-7.sst", "identifiers-7.sst"];
        write(&store.tables().join(of_records), &|put| whole.put_records(put)).unwrap();
        write(&store.tables().join(of_identifiers), &|put| {
            let mut sorted = commit(0, 1);
            sorted.identifiers.sort_unstable();
            sorted.put_identifiers(put)
        })
        .unwrap();
        let mut batch = WriteBatch::default();
        batch.put(TABLES, format!("{of_records}\n{of_identifiers}"));
        store.db.write_opt(batch, &durable()).unwrap();
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        for family in [RECORDS, IDENTIFIERS].into_iter().filter(|family| taken.contains(family)) {
            let path = store.tables().join(format!("{family}-7.sst"));
            store
                .db
                .ingest_external_file_cf_opts(store.family(family).unwrap(), &options, vec![path])
                .unwrap();
        }
    }

    #[test]
    fn a_commit_is_whole_wherever_its_process_died() {
        for taken in [&[][..], &[RECORDS], &[RECORDS, IDENTIFIERS]] {
            let folder = tempfile::tempdir().unwrap();
            dies_before_the_tables_are_taken(folder.path(), taken);
            // Whoever only reads finds it too.
            let store = Store::open_read_only(folder.path()).unwrap().unwrap();
            assert_eq!([0, 24_999].map(|number| created(&store, number)), [Some(1); 2], "{taken:?}");
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
