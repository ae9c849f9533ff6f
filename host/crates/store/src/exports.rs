use sluicebox_model::{OrNever, Record, RecordId};

use crate::StoreError;
use crate::changes::ChangeCursor;
use crate::record_format::{Stored, decode};

/// What an export goal remembers of its last run that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportState {
    /// The export holds what had changed up to here.
    pub until: ChangeCursor,
    /// A hash of the goal's settings.
    pub settings: [u8; 32],
}

impl ExportState {
    pub(crate) fn encode(&self) -> Vec<u8> {
        [self.until.to_bytes().as_slice(), &self.settings].concat()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (until, settings) = bytes.split_at_checked(8)?;
        Some(Self { until: ChangeCursor::from_bytes(until)?, settings: settings.try_into().ok()? })
    }
}

/// Some stored records, not decoded yet, in the order of their ids: one thread reads them, others decode them.
#[derive(Debug, Default)]
pub struct StoredRecords {
    pub(crate) bytes: Vec<u8>,
    /// Each record's id and where its bytes end.
    pub(crate) ends: Vec<(RecordId, usize)>,
    /// Only records that changed after this are wanted.
    pub(crate) since: Option<ChangeCursor>,
}

impl StoredRecords {
    /// How many records were read, those included that [`StoredRecords::decode`] leaves out.
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// The records that are wanted. Those that were merged into another are left out.
    ///
    /// # Errors
    /// If one is damaged.
    pub fn decode(&self) -> Result<Vec<(RecordId, Record)>, StoreError> {
        let mut records = Vec::with_capacity(self.ends.len());
        let mut from = 0;
        for (id, end) in &self.ends {
            let bytes = self.bytes.get(from..*end).or_never("the bytes of a record");
            from = *end;
            if let Stored::Record(record) = decode(bytes)?
                && self.since.is_none_or(|since| since.is_before(&record))
            {
                records.push((*id, record));
            }
        }
        Ok(records)
    }
}
