use std::collections::HashMap;

use rocksdb::{Direction, IteratorMode, WriteBatch};
use sluicebox_model::RecordId;

use crate::keys::{self, CHANGES, LISTED, RECORDS};
use crate::open::durable;
use crate::{Store, StoreError};

/// Lists of changes are kept for at least so many records: reading them costs less than looking at all.
const FEWEST_LISTED: u64 = 100_000;

/// Where the changes of a commit come from.
#[derive(Clone, Copy, Debug)]
pub struct Changed<'a> {
    /// The time of the goal run, in milliseconds since the epoch.
    pub now: i64,
    /// The file; empty where it is none.
    pub file: &'a str,
    /// Whether what is overwritten is kept, so that it can be put back.
    pub keep: bool,
}

/// A list of what a commit changed.
struct Listed {
    now: i64,
    goal_run: u64,
    file: String,
    ids: Vec<RecordId>,
}

impl Changed<'_> {
    /// The entry that lists sorted ids; none if there are none.
    pub(crate) fn entry(&self, ids: &[RecordId], goal_run: u64, commit: u64) -> Option<(Vec<u8>, Vec<u8>)> {
        if ids.is_empty() {
            return None;
        }
        let key = [self.now.to_be_bytes(), commit.to_be_bytes()].concat();
        let mut list = Vec::with_capacity(12 + self.file.len() + ids.len() * 16);
        list.extend_from_slice(&goal_run.to_be_bytes());
        list.extend_from_slice(&u32::try_from(self.file.len()).unwrap_or(u32::MAX).to_be_bytes());
        list.extend_from_slice(self.file.as_bytes());
        ids.iter().for_each(|id| list.extend_from_slice(&id.0));
        Some((key, list))
    }
}

impl Listed {
    fn decode(key: &[u8], list: &[u8]) -> Option<Self> {
        let now = keys::read_i64(key.get(..8)?)?;
        let (goal_run, list) = list.split_at_checked(8)?;
        let (length, list) = list.split_at_checked(4)?;
        let (file, ids) = list.split_at_checked(usize::try_from(keys::read_u32(length)?).ok()?)?;
        let (ids, rest) = ids.as_chunks();
        if !rest.is_empty() {
            return None;
        }
        Some(Self {
            now,
            goal_run: keys::read_u64(goal_run)?,
            file: String::from_utf8(file.to_vec()).ok()?,
            ids: ids.iter().map(|id| RecordId(*id)).collect(),
        })
    }
}

impl Store {
    /// The records that changed after a time, sorted; `None` where the lists do not reach back so far.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn changed_since(&self, since: i64) -> Result<Option<Vec<RecordId>>, StoreError> {
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

    /// The goal run and the file that changed a record at a time, if that is listed.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn changed_by(&self, record: RecordId, at: i64) -> Result<Option<(u64, String)>, StoreError> {
        for listed in self.listed(at)? {
            let listed = listed?;
            if listed.now != at {
                break;
            }
            if listed.ids.binary_search(&record).is_ok() {
                return Ok(Some((listed.goal_run, listed.file)));
            }
        }
        Ok(None)
    }

    /// After which time changes are listed.
    pub(crate) fn listed_from(&self) -> Result<i64, StoreError> {
        match self.db.get(LISTED)? {
            // A store that an older version made and nobody has written to since.
            None => Ok(i64::MAX),
            Some(from) => keys::read_i64(&from).ok_or(StoreError::Damaged("the list of changes")),
        }
    }

    /// The time of the last listed change of each record.
    pub(crate) fn last_changes(&self) -> Result<HashMap<RecordId, i64>, StoreError> {
        let mut last = HashMap::new();
        for listed in self.listed(0)? {
            let listed = listed?;
            last.extend(listed.ids.iter().map(|id| (*id, listed.now)));
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

    /// Removes the oldest lists of changes while they name more records than there are.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn trim_changes(&self) -> Result<(), StoreError> {
        let (family, records) = (self.family(CHANGES)?, self.family(RECORDS)?);
        let held = self.db.property_int_value_cf(records, "rocksdb.estimate-num-keys")?.unwrap_or_default();
        let most = held.max(FEWEST_LISTED);
        let bytes = self
            .db
            .property_int_value_cf(family, "rocksdb.estimate-live-data-size")?
            .unwrap_or_default()
            + self.db.property_int_value_cf(family, "rocksdb.cur-size-all-mem-tables")?.unwrap_or_default();
        // Nothing in them is shorter than the ids; compressed they may be half as long.
        if bytes * 2 / 16 <= most {
            return Ok(());
        }
        let mut listed = 0;
        let mut batch = WriteBatch::default();
        let mut from = None;
        for entry in self.db.iterator_cf(family, IteratorMode::End) {
            let (key, list) = entry?;
            listed += (list.len() / 16) as u64;
            if listed > most {
                let now = key.get(..8).and_then(keys::read_i64);
                let now = now.ok_or(StoreError::Damaged("the list of changes"))?;
                from = from.max(Some(now));
                batch.delete_cf(family, key);
            }
        }
        if let Some(from) = from {
            batch.put(LISTED, from.to_be_bytes());
            self.db.write_opt(batch, &durable())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sluicebox_model::{Record, SpaceId};

    use super::*;
    use crate::Commit;

    fn commit(store: &Store, now: i64, ids: &[RecordId]) {
        let mut record = Record::new(SpaceId(0), 0);
        record.modified = now;
        let records = ids.iter().map(|id| (*id, record.clone())).collect();
        let changed = Some(Changed { now, file: "in/a.csv", keep: false });
        store.commit(Commit { records, changed, goal_run: Some((7, vec![])), ..Commit::default() }).unwrap();
    }

    #[test]
    fn changes_are_listed_once_and_forgotten_from_the_oldest_on() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let ids: Vec<RecordId> = (0..4).map(|_| RecordId::create()).collect();
        commit(&store, 10, &ids[..3]);
        commit(&store, 20, &ids[1..2]);
        commit(&store, 30, &ids[1..4]);
        assert_eq!(store.changed_since(0).unwrap(), Some(ids.clone()));
        assert_eq!(store.changed_since(10).unwrap(), Some(ids[1..].to_vec()));
        assert_eq!(store.changed_since(30).unwrap(), Some(vec![]));
        assert_eq!(store.changed_by(ids[1], 20).unwrap(), Some((7, "in/a.csv".to_owned())));
        assert_eq!(store.changed_by(ids[0], 20).unwrap(), None);

        let many: Vec<RecordId> = (0..60_000).map(|_| RecordId::create()).collect();
        commit(&store, 40, &many);
        commit(&store, 50, &many);
        store.trim_changes().unwrap();
        assert_eq!(store.changed_since(0).unwrap(), None);
        assert_eq!(store.changed_since(40).unwrap().map(|ids| ids.len()), Some(60_000));
    }
}
