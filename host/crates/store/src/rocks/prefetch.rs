//! Reads tables into memory before rows are looked up in them: the newest, most of which have left the page cache
//! (`page_cache.rs`), and all of them where most of their content will be looked up, which a disk is slow at block by block.

use std::fs::{self, File};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use rustix::fs::{Advice, fadvise};

use super::{IDENTIFIERS, RECORDS, RocksStore};
use crate::StoreError;

/// Bytes of the newest tables that are read: what is older is in memory or was not needed.
const NEWEST: usize = 256 << 20;
/// Bytes of a table for each hint: the system reads a few mebibytes ahead for a hint at most.
const HINTED: usize = 1 << 20;
/// Records of a block, about: where one in as many is looked up, nearly every block is read.
const RECORDS_PER_BLOCK: u64 = 32;

/// The number of the newest table that was prefetched, of two families.
#[derive(Debug, Default)]
pub(super) struct Prefetch {
    records: AtomicU64,
    identifiers: AtomicU64,
}

impl RocksStore {
    pub(crate) fn read_ahead(&self, rows: u64) -> Result<(), StoreError> {
        read(self.fresh(IDENTIFIERS, &self.prefetch.identifiers)?);
        if self.needs_most_blocks(rows)? {
            read(self.fresh(RECORDS, &self.prefetch.records)?);
        }
        Ok(())
    }

    pub(crate) fn prefetch_records(&self, wanted: usize) -> Result<(), StoreError> {
        let mut tables = self.worth_reading(wanted, available())?;
        if tables.is_empty() && self.needs_most_blocks(wanted as u64)? {
            tables = self.fresh(RECORDS, &self.prefetch.records)?;
        }
        read(tables);
        Ok(())
    }

    /// Whether looking up this many records needs most blocks.
    fn needs_most_blocks(&self, records: u64) -> Result<bool, StoreError> {
        Ok(records.saturating_mul(RECORDS_PER_BLOCK) >= self.about_records()?)
    }

    /// The newest tables of a family that were not prefetched before, with their bytes.
    fn fresh(&self, family: &str, prefetch: &AtomicU64) -> Result<Vec<(usize, PathBuf)>, StoreError> {
        let mut tables: Vec<(u64, usize, PathBuf)> = Vec::new();
        for file in self.db.live_files()? {
            let name = file.name.trim_start_matches('/');
            let number = name.strip_suffix(".sst").and_then(|number| number.parse().ok());
            if let Some(number) = number.filter(|_| family == file.column_family_name) {
                tables.push((number, file.size, self.db.path().join(name)));
            }
        }
        tables.sort_unstable_by(|one, other| other.cmp(one));
        let newest = tables.first().map_or(0, |(number, ..)| *number);
        let before = prefetch.fetch_max(newest, Ordering::Relaxed);
        let mut bytes = 0;
        tables.retain(|(number, size, _)| {
            bytes += size;
            *number > before && bytes <= NEWEST
        });
        Ok(tables.into_iter().map(|(_, size, path)| (size, path)).collect())
    }

    /// The tables of records, with their bytes, where prefetching all of them is worth it.
    fn worth_reading(&self, wanted: usize, available: usize) -> Result<Vec<(usize, PathBuf)>, StoreError> {
        if !self.needs_most_blocks(wanted as u64)? {
            return Ok(Vec::new());
        }
        let mut files = self.db.live_files()?;
        files.retain(|file| file.column_family_name == RECORDS);
        files.sort_by(|one, other| one.start_key.cmp(&other.start_key));
        if files.iter().map(|file| file.size).sum::<usize>() > available / 2 {
            return Ok(Vec::new());
        }
        let path = |name: &str| self.db.path().join(name.trim_start_matches('/'));
        Ok(files.iter().map(|file| (file.size, path(&file.name))).collect())
    }
}

/// Asks the system to read tables, on a thread of its own. Nothing waits for it, and a failure only costs time.
fn read(tables: Vec<(usize, PathBuf)>) {
    if !tables.is_empty() {
        let read = move || tables.iter().for_each(|(size, path)| hint(path, *size));
        let _ = thread::Builder::new().name("prefetch".to_owned()).spawn(read);
    }
}

/// Bytes of memory that are available; 0 where the system does not say.
fn available() -> usize {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<usize>().ok());
    kibibytes.unwrap_or_default().saturating_mul(1024)
}

fn hint(path: &Path, size: usize) {
    let Ok(file) = File::open(path) else { return };
    for start in (0..size).step_by(HINTED) {
        let _ = fadvise(&file, start as u64, NonZero::new(HINTED as u64), Advice::WillNeed);
    }
}

#[cfg(test)]
mod tests {
    use sluicebox_model::{Record, RecordId, SpaceId};

    use super::*;
    use crate::Commit;

    #[test]
    fn records_are_read_ahead_where_most_are_wanted_and_fit() {
        let folder = tempfile::tempdir().unwrap();
        let store = RocksStore::open(folder.path()).unwrap();
        let id = |number: u32| RecordId(u128::from(number + 1).to_be_bytes());
        for first in [50_000, 0] {
            let record = |number| (id(number), Record::new(SpaceId(1), 1));
            let records = (first..first + 50_000).map(record).collect();
            store.commit(Commit { records, ..Commit::default() }).unwrap();
        }
        let worth = |wanted, available| store.worth_reading(wanted, available).unwrap();
        let tables = worth(100_000 / 32 + 1, 1 << 30);
        assert_eq!(tables.len(), 2, "{tables:?}");
        assert!(tables.iter().all(|(size, path)| path.metadata().unwrap().len() == *size as u64));
        assert!(tables[0].1 > tables[1].1, "the one that was written last has the first ids: {tables:?}");
        assert_eq!((worth(100_000 / 33, 1 << 30), worth(100_000, 1 << 20)), (Vec::new(), Vec::new()));
        assert!(available() > 0);
    }

    #[test]
    fn each_table_is_read_ahead_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = RocksStore::open(folder.path()).unwrap();
        store.read_ahead(1_000_000).unwrap();
        assert_eq!(store.prefetch.records.load(Ordering::Relaxed), 0);
        let mut before = 0;
        for first in [0_u32, 25_000] {
            let record = |number: u32| {
                let mut id = [0; 16];
                id[..4].copy_from_slice(&number.to_be_bytes());
                (RecordId(id), Record::new(SpaceId(1), 1))
            };
            let records = (first..first + 25_000).map(record).collect();
            store.commit(Commit { records, ..Commit::default() }).unwrap();
            store.read_ahead(1_000_000).unwrap();
            let newest = store.prefetch.records.load(Ordering::Relaxed);
            assert!(newest > before, "{newest} {before}");
            before = newest;
            store.read_ahead(1_000_000).unwrap();
            assert_eq!(store.prefetch.records.load(Ordering::Relaxed), newest);
        }
    }
}
