use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use rocksdb::WriteBatch;
use sluicebox_model::{EventKey, EventTypeId, RecordId};

use super::{EVENTS, RECORDS, RocksStore};
use crate::StoreError;
use crate::keys::{self, Meta};
use crate::record_format::encode;

/// How long old events are not looked for again.
const PAUSE: SignedDuration = SignedDuration::from_hours(24);
/// Events that are removed in one commit.
const EVENTS_A_COMMIT: usize = 10_000;

impl RocksStore {
    pub(crate) fn expire(
        &self,
        kept: &[(EventTypeId, Timestamp)],
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        if kept.is_empty() {
            return Ok(0);
        }
        // A type whose events are kept for another time than before is looked at again.
        let spans = kept.iter().flat_map(|(kind, from)| {
            [kind.0.to_be_bytes().to_vec(), now.duration_since(*from).as_secs().to_be_bytes().to_vec()]
        });
        let stamp = spans.flatten().collect::<Vec<u8>>();
        if let Some(last) = self.db.get(Meta::Expired)?
            && let Some((seconds, spans)) = last.split_first_chunk()
            && spans == stamp
            && let Ok(last) = Timestamp::from_second(i64::from_be_bytes(*seconds))
            && now.duration_since(last).abs() < PAUSE
        {
            return Ok(0);
        }
        let (mut removed, mut expired) = (0, Vec::new());
        for entry in self.events()? {
            let (key, event) = entry?;
            if kept.iter().any(|(kind, from)| *kind == key.event_type && event.time < *from) {
                expired.push((key.clone(), event.fingerprint(&key)));
            }
            if expired.len() >= EVENTS_A_COMMIT {
                removed += self.remove(std::mem::take(&mut expired))?;
            }
        }
        removed += self.remove(expired)?;
        self.db.put(Meta::Expired, [now.as_second().to_be_bytes().as_slice(), &stamp].concat())?;
        Ok(removed)
    }

    /// Removes events, and their fingerprints from the sums of their records.
    fn remove(&self, events: Vec<(EventKey, u64)>) -> Result<u64, StoreError> {
        let (records, timeline) = (self.family(RECORDS)?, self.family(EVENTS)?);
        let mut batch = WriteBatch::default();
        let mut sums: HashMap<RecordId, u64> = HashMap::new();
        for (key, fingerprint) in &events {
            batch.delete_cf(timeline, keys::event(key));
            let sum = sums.entry(key.record).or_default();
            *sum = sum.wrapping_add(*fingerprint);
        }
        for (id, sum) in sums {
            if let Some((id, mut record)) = self.load(id)? {
                record.events = record.events.wrapping_sub(sum);
                let mut bytes = Vec::new();
                encode(&record, &mut bytes);
                batch.put_cf(records, id.0, bytes);
            }
        }
        self.write_data(batch, &[], None)?;
        Ok(events.len() as u64)
    }
}
