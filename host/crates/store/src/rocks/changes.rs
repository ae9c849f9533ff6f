use std::collections::HashMap;

use rocksdb::{Direction, IteratorMode, WriteBatch};
use sluicebox_model::RecordId;

use super::open::durable;
use super::{CHANGES, RECORDS, RocksStore};
use crate::changes::{Listed, count};
use crate::keys::{self, Meta};
use crate::{ChangeCursor, StoreError};

/// Lists of changes are kept for at least this many records: reading them costs less than reading all records.
const MIN_LISTED: u64 = 100_000;

impl RocksStore {
    pub(crate) fn changed_since(&self, since: ChangeCursor) -> Result<Option<Vec<RecordId>>, StoreError> {
        let since = since.time();
        if since < self.listed_from()? {
            return Ok(None);
        }
        let mut ids = Vec::new();
        for listed in self.listed(since.saturating_add(1))? {
            ids.extend(listed?.ids);
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(Some(ids))
    }

    /// The time after which changes are listed.
    pub(super) fn listed_from(&self) -> Result<i64, StoreError> {
        match self.db.get(Meta::ListedFrom)? {
            // An older version wrote the store last.
            None => Ok(i64::MAX),
            Some(from) => keys::read_i64(&from).ok_or(StoreError::Damaged("the list of changes")),
        }
    }

    /// The time of the last listed change of each record.
    pub(super) fn last_changes(&self) -> Result<HashMap<RecordId, i64>, StoreError> {
        let mut last = HashMap::new();
        for listed in self.listed(0)? {
            let listed = listed?;
            last.extend(listed.ids.iter().map(|id| (*id, listed.time)));
        }
        Ok(last)
    }

    fn listed(&self, from: i64) -> Result<impl Iterator<Item = Result<Listed, StoreError>> + '_, StoreError> {
        let entries = self.db.cf_handle(CHANGES).map(|family| {
            self.db.iterator_cf(family, IteratorMode::From(&from.to_be_bytes(), Direction::Forward))
        });
        Ok(entries.into_iter().flatten().map(|entry| {
            let (key, list) = entry?;
            Listed::decode(&key, &list).ok_or(StoreError::Damaged("the list of changes"))
        }))
    }

    pub(crate) fn trim_changes(&self) -> Result<(), StoreError> {
        let (family, records) = (self.family(CHANGES)?, self.family(RECORDS)?);
        let records =
            self.db.property_int_value_cf(records, "rocksdb.estimate-num-keys")?.unwrap_or_default();
        let max = records.max(MIN_LISTED);
        let bytes = self
            .db
            .property_int_value_cf(family, "rocksdb.estimate-live-data-size")?
            .unwrap_or_default()
            + self.db.property_int_value_cf(family, "rocksdb.cur-size-all-mem-tables")?.unwrap_or_default();
        // An id takes two bytes at least, and compressed one.
        if bytes <= max {
            return Ok(());
        }
        let mut ids = 0;
        let mut batch = WriteBatch::default();
        let mut from = None;
        for entry in self.db.iterator_cf(family, IteratorMode::End) {
            let (key, list) = entry?;
            ids += count(&list).ok_or(StoreError::Damaged("the list of changes"))?;
            if ids > max {
                let now = keys::read_time(&key);
                let now = now.ok_or(StoreError::Damaged("the list of changes"))?;
                from = from.max(Some(now));
                batch.delete_cf(family, key);
            }
        }
        if let Some(from) = from {
            batch.put(Meta::ListedFrom, from.to_be_bytes());
            self.db.write_opt(batch, &durable())?;
        }
        Ok(())
    }
}
