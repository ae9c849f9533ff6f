use rocksdb::{ColumnFamily, IteratorMode};
use sluicebox_model::{Identifier, Record, RecordId};

use crate::encode::{Stored, decode};
use crate::keys::{self, HISTORY, IDENTIFIERS, LEDGER, RECORDS};
use crate::{FileState, Store, StoreError};

/// Keys of one call to RocksDB: enough to share the work of a block, few enough to pin little memory.
const LOOKUPS: usize = 4096;
/// Merged records lead to the one that stayed in few steps; more is a loop.
const LONGEST_CHAIN: usize = 64;

impl Store {
    pub(crate) fn family(&self, name: &'static str) -> Result<&ColumnFamily, StoreError> {
        self.db.cf_handle(name).ok_or(StoreError::Damaged("a column family is missing"))
    }

    /// Whom each identifier finds. `keys` are [`Identifier`]s' bytes, sorted.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn find_sorted(&self, keys: &[&[u8]]) -> Result<Vec<Option<RecordId>>, StoreError> {
        let family = self.family(IDENTIFIERS)?;
        let mut found = Vec::with_capacity(keys.len());
        for keys in keys.chunks(LOOKUPS) {
            for id in self.db.batched_multi_get_cf(family, keys.iter().copied(), true) {
                found.push(match id? {
                    None => None,
                    Some(id) => Some(record_id(&id)?),
                });
            }
        }
        Ok(found)
    }

    /// The records of sorted ids. A record that was merged into another is given as that one, with its id.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn load_sorted(&self, ids: &[RecordId]) -> Result<Vec<Option<(RecordId, Record)>>, StoreError> {
        let family = self.family(RECORDS)?;
        let mut records = Vec::with_capacity(ids.len());
        for ids in ids.chunks(LOOKUPS) {
            let stored = self.db.batched_multi_get_cf(family, ids.iter().map(|id| &id.0), true);
            for (id, stored) in ids.iter().zip(stored) {
                records.push(match stored? {
                    None => None,
                    Some(bytes) => match decode(&bytes)? {
                        Stored::Record(record) => Some((*id, record)),
                        Stored::MergedInto(next) => self.follow(next)?,
                    },
                });
            }
        }
        Ok(records)
    }

    fn follow(&self, mut id: RecordId) -> Result<Option<(RecordId, Record)>, StoreError> {
        for _ in 0..LONGEST_CHAIN {
            match self.db.get_pinned_cf(self.family(RECORDS)?, id.0)? {
                None => return Ok(None),
                Some(bytes) => match decode(&bytes)? {
                    Stored::Record(record) => return Ok(Some((id, record))),
                    Stored::MergedInto(next) => id = next,
                },
            }
        }
        Err(StoreError::Damaged("merged records lead to each other"))
    }

    /// One record.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn load(&self, id: RecordId) -> Result<Option<(RecordId, Record)>, StoreError> {
        self.follow(id)
    }

    /// Whom an identifier finds.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn find(&self, identifier: &Identifier) -> Result<Option<RecordId>, StoreError> {
        let id = self.db.get_pinned_cf(self.family(IDENTIFIERS)?, &identifier.0)?;
        id.map(|id| record_id(&id)).transpose()
    }

    /// Every record, in the order of their ids; those merged into another are left out.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn records(
        &self,
    ) -> Result<impl Iterator<Item = Result<(RecordId, Record), StoreError>> + '_, StoreError> {
        let entries = self.db.iterator_cf(self.family(RECORDS)?, IteratorMode::Start);
        Ok(entries.filter_map(|entry| {
            let read = || {
                let (id, bytes) = entry?;
                Ok(match decode(&bytes)? {
                    Stored::Record(record) => Some((record_id(&id)?, record)),
                    Stored::MergedInto(_) => None,
                })
            };
            read().transpose()
        }))
    }

    /// How far a file was imported, by the key that the host gives it.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn file_state(&self, key: &[u8; 32]) -> Result<Option<FileState>, StoreError> {
        let bytes = self.db.get(keys::key(LEDGER, key))?;
        bytes.map(|bytes| FileState::decode(&bytes).ok_or(StoreError::Damaged("the ledger"))).transpose()
    }

    /// The goal runs' reports, newest first.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn history(&self) -> impl Iterator<Item = Result<(u64, Box<[u8]>), StoreError>> + '_ {
        let last = keys::key(HISTORY, &[0xff; 8]);
        let entries = self.db.iterator(IteratorMode::From(&last, rocksdb::Direction::Reverse));
        entries
            .map(|entry| {
                let (key, report) = entry?;
                match key.split_first() {
                    Some((&HISTORY, number)) => {
                        let number = keys::read_u64(number).ok_or(StoreError::Damaged("the history"))?;
                        Ok(Some((number, report)))
                    }
                    _ => Ok(None),
                }
            })
            .map_while(Result::transpose)
    }

    /// The number and report of a goal run that neither ended nor failed: its process died.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn interrupted(&self) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        let Some(number) = self.db.get(keys::RUNNING)? else { return Ok(None) };
        let number = keys::read_u64(&number).ok_or(StoreError::Damaged("the history"))?;
        let report = self.db.get(keys::key(HISTORY, &number.to_be_bytes()))?;
        Ok(report.map(|report| (number, report)))
    }
}

pub(crate) fn record_id(bytes: &[u8]) -> Result<RecordId, StoreError> {
    bytes.try_into().map(RecordId).map_err(|_| StoreError::Damaged("a record's id"))
}
