use rocksdb::{IteratorMode, WriteBatch};
use sluicebox_model::{Identifier, PropertyId, RecordId};

use crate::encode::{Stored, decode};
use crate::keys::{self, ERASED, RECORDS};
use crate::open::durable;
use crate::read::record_id;
use crate::{Store, StoreError};

/// The key that hashes of erased identifiers are made with. It is no part of the store: without it nobody can try
/// addresses on a copy of the store.
pub type ErasureKey = [u8; 32];

fn tombstone(key: &ErasureKey, identifier: &[u8]) -> Vec<u8> {
    keys::key(ERASED, blake3::keyed_hash(key, identifier).as_bytes())
}

impl Store {
    /// Removes a record, its identifiers, its events and what was overwritten of it, and remembers keyed hashes of its
    /// identifiers. Then the files in which they lay are written anew without them; only the list of the files, which
    /// has the first and last key of each, is written anew when the store is opened the next time. Answers whether it was
    /// there.
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
        let Some((id, record)) = self.load(id)? else { return Ok(false) };
        let mut batch = WriteBatch::default();
        for property in unique {
            for value in record.values(*property) {
                let identifier = Identifier::new(record.space, *property, &value);
                batch.put(tombstone(key, &identifier.0), now.to_be_bytes());
            }
        }
        self.remove_whole(id, &record, unique, 0, &mut batch)?;
        self.forget(id, &mut batch)?;
        for merged in self.merged_into(id)? {
            batch.delete_cf(self.family(RECORDS)?, merged.0);
            self.forget(merged, &mut batch)?;
        }
        self.db.write_opt(batch, &durable())?;
        // What is deleted stays in RocksDB's files until they are written anew.
        self.compact()?;
        Ok(true)
    }

    /// The records that were merged into one, by way of others too.
    fn merged_into(&self, id: RecordId) -> Result<Vec<RecordId>, StoreError> {
        let mut into = Vec::new();
        for entry in self.db.iterator_cf(self.family(RECORDS)?, IteratorMode::Start) {
            let (from, bytes) = entry?;
            if let Stored::MergedInto(to) = decode(&bytes)? {
                into.push((record_id(&from)?, to));
            }
        }
        let mut found = vec![id];
        let mut next = 0;
        while let Some(to) = found.get(next).copied() {
            found.extend(into.iter().filter(|(_, target)| *target == to).map(|(from, _)| *from));
            next += 1;
        }
        Ok(found.into_iter().skip(1).collect())
    }

    /// Which of sorted identifiers were erased; empty if none ever was.
    ///
    /// # Errors
    /// If the store fails.
    pub fn erased(&self, key: &ErasureKey, identifiers: &[&[u8]]) -> Result<Vec<bool>, StoreError> {
        let first = self.db.iterator(IteratorMode::From(&[ERASED], rocksdb::Direction::Forward)).next();
        let any = first.transpose()?.is_some_and(|(key, _)| key.first() == Some(&ERASED));
        if !any {
            return Ok(Vec::new());
        }
        let held = |identifier: &&[u8]| Ok(self.db.get_pinned(tombstone(key, identifier))?.is_some());
        identifiers.iter().map(held).collect()
    }
}
