//! Fresh tables, read into memory before rows are looked up in them: whoever writes a table has the system drop what it wrote.

use std::fs::File;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::thread;

use rustix::fs::{Advice, fadvise};

use crate::keys::{IDENTIFIERS, RECORDS};
use crate::{Store, StoreError};

/// Bytes of the newest tables that are read: what is older is in memory or was not needed.
const NEWEST: usize = 256 << 20;
/// Bytes of a table that the system is asked for at a time; it reads a few mebibytes ahead for each hint at most.
const AT_ONCE: usize = 1 << 20;

impl Store {
    /// Has the system read the newest records and identifiers into its memory, on a thread of its own, as far as it was not
    /// asked before: rows will be looked up there. Nothing waits for it, and where it fails they are looked up on the disk.
    ///
    /// # Errors
    /// If the store's tables cannot be listed.
    pub fn read_ahead(&self) -> Result<(), StoreError> {
        let mut tables: Vec<(u64, usize, PathBuf)> = Vec::new();
        for file in self.db.live_files()? {
            let name = file.name.trim_start_matches('/');
            let number = name.strip_suffix(".sst").and_then(|number| number.parse().ok());
            if let Some(number) =
                number.filter(|_| [RECORDS, IDENTIFIERS].contains(&&*file.column_family_name))
            {
                tables.push((number, file.size, self.db.path().join(name)));
            }
        }
        tables.sort_unstable_by(|one, other| other.cmp(one));
        let newest = tables.first().map_or(0, |(number, ..)| *number);
        let before = self.read_ahead.fetch_max(newest, Ordering::Relaxed);
        let mut bytes = 0;
        tables.retain(|(number, size, _)| {
            bytes += size;
            *number > before && bytes <= NEWEST
        });
        if !tables.is_empty() {
            let read = move || tables.iter().for_each(|(_, size, path)| hint(path, *size));
            let _ = thread::Builder::new().name("read ahead".to_owned()).spawn(read);
        }
        Ok(())
    }
}

fn hint(path: &Path, size: usize) {
    let Ok(file) = File::open(path) else { return };
    for start in (0..size).step_by(AT_ONCE) {
        let _ = fadvise(&file, start as u64, NonZero::new(AT_ONCE as u64), Advice::WillNeed);
    }
}

#[cfg(test)]
mod tests {
    use sluicebox_model::{Record, RecordId, SpaceId};

    use super::*;
    use crate::Commit;

    #[test]
    fn each_table_is_read_ahead_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.read_ahead().unwrap();
        assert_eq!(store.read_ahead.load(Ordering::Relaxed), 0);
        let mut before = 0;
        for first in [0_u32, 25_000] {
            let record = |number: u32| {
                let mut id = [0; 16];
                id[..4].copy_from_slice(&number.to_be_bytes());
                (RecordId(id), Record::new(SpaceId(1), 1))
            };
            let records = (first..first + 25_000).map(record).collect();
            store.commit(Commit { records, ..Commit::default() }).unwrap();
            store.read_ahead().unwrap();
            let newest = store.read_ahead.load(Ordering::Relaxed);
            assert!(newest > before, "{newest} {before}");
            before = newest;
            store.read_ahead().unwrap();
            assert_eq!(store.read_ahead.load(Ordering::Relaxed), newest);
        }
    }
}
