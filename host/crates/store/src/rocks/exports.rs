use rocksdb::{IteratorMode, ReadOptions};

use super::read::record_id;
use super::{RECORDS, RocksStore};
use crate::keys::KeyKind;
use crate::{ChangeCursor, ExportState, StoreError, StoredRecords};

/// Bytes of records after which a page takes no more: records may be of any size.
const MAX_PAGE_BYTES: usize = 2 << 20;
/// Bytes that a walk through all records reads ahead.
const READ_AHEAD: usize = 2 << 20;

impl RocksStore {
    pub(crate) fn export_state(&self, goal: &[u8; 32]) -> Result<Option<ExportState>, StoreError> {
        let state = self.db.get(KeyKind::Export.key(goal))?;
        let damaged = StoreError::Damaged("the state of an export");
        state.map(|state| ExportState::decode(&state).ok_or(damaged)).transpose()
    }

    pub(crate) fn about_records(&self) -> Result<u64, StoreError> {
        let family = self.family(RECORDS)?;
        Ok(self.db.property_int_value_cf(family, "rocksdb.estimate-num-keys")?.unwrap_or_default())
    }

    pub(crate) fn all_records(
        &self,
        count: usize,
        since: Option<ChangeCursor>,
    ) -> Result<impl Iterator<Item = Result<StoredRecords, StoreError>> + '_, StoreError> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_readahead_size(READ_AHEAD);
        let mut entries = self.db.iterator_cf_opt(self.family(RECORDS)?, options, IteratorMode::Start);
        Ok(std::iter::from_fn(move || {
            let mut records = StoredRecords { since, ..StoredRecords::default() };
            while records.ends.len() < count && records.bytes.len() < MAX_PAGE_BYTES {
                let Some(entry) = entries.next() else { break };
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
