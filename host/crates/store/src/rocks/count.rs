//! How many records each space has: a number that changes with the records, in the same commit.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rocksdb::{IteratorMode, WriteBatch};
use sluicebox_model::{RecordId, SpaceId};

use super::open::durable;
use super::{RECORDS, RocksStore, entries_of};
use crate::commit::Grown;
use crate::keys::{self, KeyKind, Meta};
use crate::record_format::space_of;
use crate::{Commit, StoreError, Verification};

impl RocksStore {
    pub(crate) fn count(&self, space: SpaceId) -> Result<u64, StoreError> {
        if !self.is_counted()? {
            // A store of an older layout that is open for reading.
            return Ok(self.count_all()?.get(&space).copied().unwrap_or_default());
        }
        self.counted(space)
    }

    fn is_counted(&self) -> Result<bool, StoreError> {
        Ok(self.db.get_pinned(Meta::Counted)?.is_some())
    }

    /// The number that is kept.
    pub(super) fn counted(&self, space: SpaceId) -> Result<u64, StoreError> {
        let count = self.db.get(count_key(space))?;
        let damaged = StoreError::Damaged("the number of records");
        count.map_or(Ok(0), |count| keys::read_u64(&count).ok_or(damaged))
    }

    /// Counts the records of a store in which that was not done before.
    pub(super) fn count_once(&self) -> Result<(), StoreError> {
        if self.is_counted()? {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        for entry in entries_of(&self.db, KeyKind::Count) {
            batch.delete(KeyKind::Count.key(&entry?.0));
        }
        for (space, count) in self.count_all()? {
            batch.put(count_key(space), count.to_be_bytes());
        }
        batch.put(Meta::Counted, []);
        Ok(self.db.write_opt(batch, &durable())?)
    }

    fn count_all(&self) -> Result<BTreeMap<SpaceId, u64>, StoreError> {
        let mut counts = BTreeMap::new();
        for entry in self.db.iterator_cf(self.family(RECORDS)?, IteratorMode::Start) {
            if let Some(space) = space_of(&entry?.1)? {
                *counts.entry(space).or_default() += 1;
            }
        }
        Ok(counts)
    }

    /// Whether the numbers that are kept are those of the records that are there.
    pub(super) fn verify_counts(&self, found: &mut Verification) -> Result<(), StoreError> {
        if !self.is_counted()? {
            return Ok(());
        }
        let mut counts: BTreeMap<SpaceId, u64> = BTreeMap::new();
        for entry in entries_of(&self.db, KeyKind::Count) {
            let (space, count) = entry?;
            let read = keys::read_u32(&space).zip(keys::read_u64(&count));
            let (space, count) = read.ok_or(StoreError::Damaged("the number of records"))?;
            counts.insert(SpaceId(space), count);
        }
        let spaces: BTreeSet<SpaceId> = counts.keys().chain(found.records.keys()).copied().collect();
        for space in spaces {
            let number = |of: Option<&u64>| of.copied().unwrap_or_default();
            let (kept, there) = (number(counts.get(&space)), number(found.records.get(&space)));
            if kept != there {
                found
                    .problem(format!("space {}: {there} records are there, and {kept} are counted", space.0));
            }
        }
        Ok(())
    }

    /// By how many the records of spaces grow where these are written, each with its space afterwards, found out by looking for each
    /// of them.
    pub(super) fn growth(&self, after: &[(RecordId, Option<SpaceId>)]) -> Result<Grown, StoreError> {
        // Of a record that is there several times, the last counts.
        let after: HashMap<RecordId, Option<SpaceId>> = after.iter().copied().collect();
        let (family, mut grown) = (self.family(RECORDS)?, Grown::new());
        for (id, after) in after {
            let before = self.db.get_pinned_cf(family, id.0)?;
            let before = before.map_or(Ok(None), |stored| space_of(&stored))?;
            if before != after {
                grown.extend(before.map(|space| (space, -1)));
                grown.extend(after.map(|space| (space, 1)));
            }
        }
        Ok(grown)
    }

    /// Adds the new numbers of records to a batch. The caller holds what orders commits.
    pub(super) fn put_growth(
        &self,
        grown: &[(SpaceId, i64)],
        batch: &mut WriteBatch,
    ) -> Result<(), StoreError> {
        if grown.is_empty() || !self.is_counted()? {
            return Ok(());
        }
        let mut of_spaces: BTreeMap<SpaceId, i64> = BTreeMap::new();
        for (space, by) in grown {
            *of_spaces.entry(*space).or_default() += by;
        }
        for (space, by) in of_spaces.into_iter().filter(|(_, by)| *by != 0) {
            let count = self.counted(space)?.saturating_add_signed(by);
            batch.put(count_key(space), count.to_be_bytes());
        }
        Ok(())
    }
}

impl Commit<'_> {
    /// Its records and those that it merges, each with the space that it is in afterwards.
    pub(super) fn spaces_after(&self) -> Vec<(RecordId, Option<SpaceId>)> {
        let records = self.records.iter().map(|(id, record)| (*id, Some(record.space)));
        records.chain(self.merged.iter().map(|(id, _)| (*id, None))).collect()
    }
}

fn count_key(space: SpaceId) -> Vec<u8> {
    KeyKind::Count.key(&space.0.to_be_bytes())
}
