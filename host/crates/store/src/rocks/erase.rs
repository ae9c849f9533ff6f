use rocksdb::{IteratorMode, WriteBatch};
use sluicebox_model::{Identifier, PropertyId, RecordId};

use super::read::record_id;
use super::{RECORDS, RocksStore, entries_of};
use crate::erasure::tombstone;
use crate::keys::KeyKind;
use crate::record_format::MergedInto;
use crate::{ErasureKey, StoreError};

impl RocksStore {
    pub(crate) fn erase(
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
        self.remove_whole(id, &record, unique, &mut batch)?;
        self.forget(id, &mut batch)?;
        for merged in self.merged_into(id)? {
            batch.delete_cf(self.family(RECORDS)?, merged.0);
            self.forget(merged, &mut batch)?;
        }
        self.write_data(batch, &[(record.space, -1)], None)?;
        // Deleted entries stay in RocksDB's files until they are rewritten. The list of files, which has the first and last
        // key of each, is rewritten when the store is opened the next time.
        self.compact()?;
        Ok(true)
    }

    /// The records that were merged into one, by way of others too.
    fn merged_into(&self, id: RecordId) -> Result<Vec<RecordId>, StoreError> {
        let mut into = Vec::new();
        for entry in self.db.iterator_cf(self.family(RECORDS)?, IteratorMode::Start) {
            let (from, bytes) = entry?;
            if let Some(merged) = MergedInto::read(&bytes) {
                into.push((record_id(&from)?, merged.record));
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

    pub(crate) fn erased(&self, key: &ErasureKey, identifiers: &[&[u8]]) -> Result<Vec<bool>, StoreError> {
        let any = entries_of(&self.db, KeyKind::Erased).next().transpose()?.is_some();
        if !any {
            return Ok(Vec::new());
        }
        let held = |identifier: &&[u8]| Ok(self.db.get_pinned(tombstone(key, identifier))?.is_some());
        identifiers.iter().map(held).collect()
    }
}
