use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use sluicebox_model::{EventKey, Record, RecordId};

use crate::prepare::{Lookup, Prepared};

/// Many batches, and the identifiers that they name, each once and sorted.
#[derive(Debug)]
pub struct Gathered {
    pub(crate) batches: Vec<Prepared>,
    /// Where each distinct key lies: batch and number, in the order of the keys' bytes.
    distinct: Vec<(u32, u32)>,
    /// For each batch and key, its place in `distinct`.
    pub(crate) slots: Vec<Vec<u32>>,
    /// Whether the record that a slot finds is needed, or only its id.
    identifies: Vec<bool>,
}

impl Gathered {
    /// Sorts the identifiers of `batches`, which are consecutive and in file order.
    pub fn new(batches: Vec<Prepared>) -> Self {
        let mut all: Vec<(u128, &[u8], u32, u32)> =
            Vec::with_capacity(batches.iter().map(|batch| batch.keys.len() as usize).sum());
        for (place, batch) in (0..).zip(&batches) {
            let entry = |key| {
                let bytes = batch.keys.get(key);
                (prefix(bytes), bytes, place, key)
            };
            all.extend((0..batch.keys.len()).map(entry));
        }
        all.sort_unstable();
        let mut slots: Vec<Vec<u32>> =
            batches.iter().map(|batch| vec![0; batch.keys.len() as usize]).collect();
        let mut distinct: Vec<(u32, u32)> = Vec::new();
        let mut last: Option<&[u8]> = None;
        for (_, bytes, batch, key) in all {
            if last != Some(bytes) {
                distinct.push((batch, key));
                last = Some(bytes);
            }
            let slot = u32::try_from(distinct.len() - 1).unwrap_or(u32::MAX);
            if let Some(place) = slots.get_mut(batch as usize).and_then(|keys| keys.get_mut(key as usize)) {
                *place = slot;
            }
        }
        let mut identifies = vec![false; distinct.len()];
        for (batch, slots) in batches.iter().zip(&slots) {
            for lookup in &batch.lookups {
                let Lookup::Property { key, .. } = lookup else { continue };
                let slot = slots.get(*key as usize).map_or(usize::MAX, |slot| *slot as usize);
                if let Some(identifies) = identifies.get_mut(slot) {
                    *identifies = true;
                }
            }
        }
        Self { batches, distinct, slots, identifies }
    }

    /// The number of the file's records that precede the one after the last batch; 0 without batches.
    pub fn end(&self) -> u64 {
        self.batches.last().map_or(0, Prepared::end)
    }

    /// The number of rows that the processors kept.
    pub(crate) fn rows(&self) -> usize {
        self.batches.iter().map(|batch| batch.rows.len()).sum()
    }

    /// The number of distinct identifiers.
    pub fn len(&self) -> usize {
        self.distinct.len()
    }

    /// Whether no row names an identifier.
    pub fn is_empty(&self) -> bool {
        self.distinct.is_empty()
    }

    /// The identifiers, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.distinct.iter().map(|(batch, key)| {
            self.batches.get(*batch as usize).map_or(&[][..], |batch| batch.keys.get(*key))
        })
    }

    /// The slot of an identifier, if a row names it.
    pub(crate) fn slot_of(&self, bytes: &[u8]) -> Option<usize> {
        self.distinct
            .binary_search_by(|(batch, key)| {
                self.batches.get(*batch as usize).map_or(&[][..], |batch| batch.keys.get(*key)).cmp(bytes)
            })
            .ok()
    }

    /// The events that the rows may write over, sorted, given whom each identifier finds. What a row finds only
    /// because of a row before it is not among them.
    pub fn events(&self, found: &[Option<RecordId>]) -> Vec<EventKey> {
        let mut keys = Vec::new();
        for (batch, slots) in self.batches.iter().zip(&self.slots) {
            for row in batch.rows.iter().filter(|row| !row.events.is_empty()) {
                let lookups = batch.lookups.get(row.lookups.start as usize..row.lookups.end as usize);
                let mut records: Vec<RecordId> = lookups
                    .unwrap_or_default()
                    .iter()
                    .filter_map(|lookup| match lookup {
                        Lookup::Record(id) => Some(*id),
                        Lookup::Property { key, .. } => *found.get(*slots.get(*key as usize)? as usize)?,
                    })
                    .collect();
                records.dedup();
                let events = batch.events.get(row.events.start as usize..row.events.end as usize);
                for event in events.unwrap_or_default() {
                    keys.extend(records.iter().map(|record| EventKey {
                        record: *record,
                        event_type: event.event_type,
                        id: event.id.clone(),
                    }));
                }
            }
        }
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// The ids of the records to load, sorted, given whom each identifier finds.
    pub fn records(&self, found: &[Option<RecordId>]) -> Vec<RecordId> {
        let by_property =
            found.iter().zip(&self.identifies).filter(|(_, needed)| **needed).filter_map(|(id, _)| *id);
        let by_id = self.batches.iter().flat_map(|batch| &batch.lookups).filter_map(|lookup| match lookup {
            Lookup::Record(id) => Some(*id),
            Lookup::Property { .. } => None,
        });
        let mut ids: Vec<RecordId> = by_property.chain(by_id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// The first bytes of a key after its space, in the order of keys: they tell most keys apart.
fn prefix(key: &[u8]) -> u128 {
    let mut prefix = [0; 16];
    let (space, text) = key.split_at_checked(4).unwrap_or((key, &[]));
    debug_assert!(space.len() == 4);
    prefix.iter_mut().zip(text).for_each(|(to, from)| *to = *from);
    u128::from_be_bytes(prefix)
}

/// Where the record of an id lies.
pub(crate) type Places = HashMap<RecordId, usize, BuildHasherDefault<IdHasher>>;

/// The bytes of an id are as good as random where they are not the time: they are their own hash. Ids are made by the
/// store alone, so nobody can choose them to collide.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for bytes in bytes.chunks(8) {
            let mut word = [0; 8];
            word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            self.0 = (self.0.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

/// The records that were loaded, by the ids under which they were asked for.
pub(crate) struct Loaded {
    pub entries: Vec<(RecordId, Record)>,
    pub places: Places,
}

impl Loaded {
    /// `records[n]` is what the n-th id leads to: it may have another id, where records were merged.
    pub(crate) fn new(ids: &[RecordId], records: Vec<Option<(RecordId, Record)>>) -> Self {
        let mut loaded = Self {
            entries: Vec::with_capacity(ids.len()),
            places: Places::with_capacity_and_hasher(ids.len(), BuildHasherDefault::default()),
        };
        for (asked, record) in ids.iter().zip(records) {
            let Some((id, record)) = record else { continue };
            let next = loaded.entries.len();
            let place = *loaded.places.entry(id).or_insert(next);
            if place == next {
                loaded.entries.push((id, record));
            }
            loaded.places.insert(*asked, place);
        }
        loaded
    }
}
