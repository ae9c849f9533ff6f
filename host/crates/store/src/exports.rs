use rocksdb::{IteratorMode, ReadOptions};
use sluicebox_model::{Record, RecordId};

use crate::encode::{Stored, decode};
use crate::keys::{self, EXPORT, RECORDS};
use crate::read::record_id;
use crate::{Store, StoreError};

/// Bytes that a walk through all records reads ahead.
const READ_AHEAD: usize = 2 << 20;

/// What an export goal remembers of its last run that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportState {
    /// The time of the goal run, in milliseconds since the epoch: it holds what had changed until then.
    pub until: i64,
    /// A hash of the goal's settings.
    pub settings: [u8; 32],
}

impl ExportState {
    pub(crate) fn encode(&self) -> Vec<u8> {
        [self.until.to_be_bytes().as_slice(), &self.settings].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (until, settings) = bytes.split_at_checked(8)?;
        Some(Self { until: keys::read_i64(until)?, settings: settings.try_into().ok()? })
    }
}

pub(crate) fn export_key(goal: &[u8; 32]) -> Vec<u8> {
    keys::key(EXPORT, goal)
}

/// Some records as they are stored, in the order of their ids: a thread reads them, others decode them.
#[derive(Debug, Default)]
pub struct StoredRecords {
    bytes: Vec<u8>,
    /// Each record's id and where its bytes end.
    ends: Vec<(RecordId, usize)>,
}

impl StoredRecords {
    /// The records; those that were merged into another are left out.
    ///
    /// # Errors
    /// If one is damaged.
    pub fn decode(&self) -> Result<Vec<(RecordId, Record)>, StoreError> {
        let mut records = Vec::with_capacity(self.ends.len());
        let mut from = 0;
        for (id, end) in &self.ends {
            let bytes = self.bytes.get(from..*end).unwrap_or_default();
            from = *end;
            if let Stored::Record(record) = decode(bytes)? {
                records.push((*id, record));
            }
        }
        Ok(records)
    }
}

impl Store {
    /// What the goal with this key remembers of its last successful run.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn export_state(&self, goal: &[u8; 32]) -> Result<Option<ExportState>, StoreError> {
        let state = self.db.get(export_key(goal))?;
        let damaged = StoreError::Damaged("the state of an export");
        state.map(|state| ExportState::decode(&state).ok_or(damaged)).transpose()
    }

    /// About how many records there are, groups and merged ones among them.
    ///
    /// # Errors
    /// If the store fails.
    pub fn about_records(&self) -> Result<u64, StoreError> {
        let family = self.family(RECORDS)?;
        Ok(self.db.property_int_value_cf(family, "rocksdb.estimate-num-keys")?.unwrap_or_default())
    }

    /// Every record in the order of their ids, `count` at a time, as the store is at this moment.
    ///
    /// # Errors
    /// If the store fails.
    pub fn all_records(
        &self,
        count: usize,
    ) -> Result<impl Iterator<Item = Result<StoredRecords, StoreError>> + '_, StoreError> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_readahead_size(READ_AHEAD);
        let mut entries = self.db.iterator_cf_opt(self.family(RECORDS)?, options, IteratorMode::Start);
        Ok(std::iter::from_fn(move || {
            let mut records = StoredRecords::default();
            for entry in entries.by_ref().take(count) {
                match entry.map_err(StoreError::from).and_then(|(id, bytes)| Ok((record_id(&id)?, bytes))) {
                    Err(error) => return Some(Err(error)),
                    Ok((id, bytes)) => {
                        records.bytes.extend_from_slice(&bytes);
                        records.ends.push((id, records.bytes.len()));
                    }
                }
            }
            (!records.ends.is_empty()).then_some(Ok(records))
        }))
    }
}
