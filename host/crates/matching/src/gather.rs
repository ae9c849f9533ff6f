use std::cmp::Ordering;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::num::NonZero;
use std::thread;

use sluicebox_model::{EventKey, Record, RecordId};

use crate::apply::{Applied, Context};
use crate::prepare::{Lookup, Prepared, Row};

/// Rows and keys whose memory is asked for together: they lie anywhere, and one after the other each would be waited for.
pub(crate) const AT_ONCE: usize = 32;
/// Fewer things are sorted on one core.
const FEWEST_PER_THREAD: usize = 50_000;
/// Bytes that memory hands out at a time.
const CACHE_LINE: usize = 64;

/// Many batches, and the identifiers that they name, each once and sorted.
#[derive(Debug, Default)]
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
        let mut all: Vec<(u128, u32, u32)> =
            Vec::with_capacity(batches.iter().map(|batch| batch.keys.len() as usize).sum());
        for (place, batch) in (0..).zip(&batches) {
            all.extend((0..batch.keys.len()).map(|key| (prefix(batch.keys.get(key)), place, key)));
        }
        let bytes =
            |batch: u32, key: u32| batches.get(batch as usize).map_or(&[][..], |batch| batch.keys.get(key));
        sort(&mut all, |one, other| {
            let tells = one.0.cmp(&other.0);
            tells.then_with(|| bytes(one.1, one.2).cmp(bytes(other.1, other.2)))
        });
        let mut slots: Vec<Vec<u32>> =
            batches.iter().map(|batch| vec![0; batch.keys.len() as usize]).collect();
        let mut distinct: Vec<(u32, u32)> = Vec::with_capacity(all.len());
        let mut last = None;
        for (prefix, batch, key) in all {
            let same = |(other, place, number)| prefix == other && bytes(batch, key) == bytes(place, number);
            if !last.is_some_and(same) {
                distinct.push((batch, key));
                last = Some((prefix, batch, key));
            }
            let slot = u32::try_from(distinct.len() - 1).unwrap_or(u32::MAX);
            if let Some(place) = slots.get_mut(batch as usize).and_then(|keys| keys.get_mut(key as usize)) {
                *place = slot;
            }
        }
        distinct.shrink_to_fit();
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

    /// The same rows in parts of about so many bytes; one where there are none.
    pub fn parts(self, bytes: usize) -> impl Iterator<Item = Self> {
        let fits = self.batches.iter().map(Prepared::memory).sum::<usize>() <= bytes;
        let (whole, batches) = if fits { (Some(self), Vec::new()) } else { (None, self.batches) };
        let mut batches = batches.into_iter().peekable();
        let parts = std::iter::from_fn(move || {
            let mut part = vec![batches.next()?];
            let mut size = part.iter().map(Prepared::memory).sum::<usize>();
            while let Some(batch) = batches.next_if(|batch| size + batch.memory() <= bytes) {
                size += batch.memory();
                part.push(batch);
            }
            Some(Self::new(part))
        });
        whole.into_iter().chain(parts)
    }

    /// The number of the file's records that precede the one after the last batch; 0 without batches.
    pub fn end(&self) -> u64 {
        self.batches.last().map_or(0, Prepared::end)
    }

    /// The number of rows that the processors kept.
    pub(crate) fn rows(&self) -> usize {
        self.batches.iter().map(Prepared::kept).sum()
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
        (0..self.len()).map(|slot| self.key(slot))
    }

    /// The identifier of a slot.
    pub(crate) fn key(&self, slot: usize) -> &[u8] {
        let key = |(batch, key): &(u32, u32)| Some(self.batches.get(*batch as usize)?.keys.get(*key));
        self.distinct.get(slot).and_then(key).unwrap_or_default()
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
            for row in batch.rows().filter(|row| !row.events.is_empty()) {
                let lookups = batch.lookups.get(row.lookups.start as usize..row.lookups.end as usize);
                let mut records: Vec<RecordId> = lookups
                    .unwrap_or_default()
                    .iter()
                    .filter_map(|lookup| match lookup {
                        Lookup::Record(id) => batch.id(*id),
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

    /// The ids of the records that identify rows by a value, sorted, and for each slot the place of the one that it finds among
    /// them; `u32::MAX` where it finds none of them.
    pub(crate) fn places(&self, found: &[Option<RecordId>]) -> (Vec<RecordId>, Vec<u32>) {
        let held =
            (0..).zip(found).filter_map(|(slot, id)| Some((slot, u128::from_be_bytes(id.as_ref()?.0))));
        let least = held.clone().map(|(_, id)| id).min().unwrap_or_default();
        let most = held.clone().map(|(_, id)| id).max().unwrap_or_default();
        // Ids differ in few bits, of which 64 tell nearly all of them apart.
        let shift = (128 - (most - least).leading_zeros()).saturating_sub(64);
        let mut keyed: Vec<(u64, u32)> = Vec::with_capacity(found.len());
        keyed.extend(held.map(|(slot, id)| (((id - least) >> shift) as u64, slot)));
        let id = |slot: u32| found.get(slot as usize).copied().flatten();
        sort(&mut keyed, |one, other| one.0.cmp(&other.0).then_with(|| id(one.1).cmp(&id(other.1))));
        let (mut ids, mut placed) = (Vec::with_capacity(keyed.len()), vec![u32::MAX; found.len()]);
        for slots in keyed.chunk_by(|one, next| one.0 == next.0 && id(one.1) == id(next.1)) {
            let identifies = |(_, slot): &(u64, u32)| self.identifies.get(*slot as usize) == Some(&true);
            let Some(id) = slots.iter().find(|slot| identifies(slot)).and_then(|(_, slot)| id(*slot)) else {
                continue;
            };
            for (_, slot) in slots {
                if let Some(place) = placed.get_mut(*slot as usize) {
                    *place = u32::try_from(ids.len()).unwrap_or(u32::MAX);
                }
            }
            ids.push(id);
        }
        (ids, placed)
    }

    /// Goes through the rows that the processors kept, by their numbers, with each one's slots.
    pub(crate) fn each(&self, mut see: impl FnMut(u32, &[u32])) {
        let mut number = 0;
        for (batch, slots) in self.batches.iter().zip(&self.slots) {
            for row in batch.rows() {
                see(number, slots.get(row.keys.start as usize..row.keys.end as usize).unwrap_or_default());
                number += 1;
            }
        }
    }

    /// Goes through those rows, given by their numbers in order, with their batches and the batches' slots. `touch` looks at
    /// what `see` will need of a slot.
    pub(crate) fn each_row(
        &self,
        numbers: &[u32],
        touch: impl Fn(u32) -> u32,
        mut see: impl FnMut(u32, &Prepared, &[u32], &Row),
    ) {
        let (mut batches, mut first) = (self.batches.iter().zip(&self.slots), 0);
        let mut at = batches.next();
        let mut rows = Vec::with_capacity(AT_ONCE);
        for numbers in numbers.chunks(AT_ONCE) {
            rows.clear();
            for number in numbers {
                while let Some((batch, _)) = at
                    && (*number - first) as usize >= batch.kept()
                {
                    first += u32::try_from(batch.kept()).unwrap_or_default();
                    at = batches.next();
                }
                if let Some((batch, slots)) = at
                    && let Some(row) = batch.row((*number - first) as usize)
                {
                    rows.push((*number, batch, slots.as_slice(), row));
                }
            }
            let slot =
                |slots: &[u32], row: &Row| slots.get(row.keys.start as usize).copied().unwrap_or_default();
            let touched =
                rows.iter().map(|(_, batch, slots, row)| batch.touch(row) ^ touch(slot(slots, row)));
            std::hint::black_box(touched.fold(0, std::ops::BitXor::bitxor));
            rows.iter().for_each(|(number, batch, slots, row)| see(*number, batch, slots, row));
        }
    }

    /// What is told of the rows that were dropped or rejected before any is merged.
    pub(crate) fn before_rows(&self, context: &Context) -> Applied {
        let mut applied = Applied { position: self.end().max(context.from), ..Applied::default() };
        for batch in &self.batches {
            applied.counts.dropped += batch.dropped.len() as u64;
            applied.counts.rejected += batch.rejected.len() as u64;
            applied.rejected.extend_from_slice(&batch.rejected);
        }
        applied
    }

    /// The ids of the records to load, sorted, given whom each identifier finds.
    pub fn records(&self, found: &[Option<RecordId>]) -> Vec<RecordId> {
        let by_property =
            found.iter().zip(&self.identifies).filter(|(_, needed)| **needed).filter_map(|(id, _)| *id);
        let by_id = self.batches.iter().flat_map(Prepared::ids).copied();
        let mut ids: Vec<RecordId> = by_property.chain(by_id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

impl Prepared {
    /// Looks at what a row is read from.
    fn touch(&self, row: &Row) -> u32 {
        let lookup = self.lookups.get(row.lookups.start as usize);
        let packed = self.writes(row).iter().step_by(CACHE_LINE).fold(0, |all, byte| all ^ u32::from(*byte));
        packed ^ u32::from(matches!(lookup, Some(Lookup::Record(_))))
    }
}

/// Sorts on all cores; what is equal comes in any order.
fn sort<T: Send>(all: &mut [T], order: impl Fn(&T, &T) -> Ordering + Sync) {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    if threads == 1 || all.len() < FEWEST_PER_THREAD {
        return all.sort_unstable_by(order);
    }
    thread::scope(|scope| {
        for part in all.chunks_mut(all.len().div_ceil(threads)) {
            scope.spawn(|| part.sort_unstable_by(&order));
        }
    });
    // A stable sort finds the sorted parts, and merges them.
    all.sort_by(order);
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
