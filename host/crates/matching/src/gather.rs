use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use rayon::slice::ParallelSliceMut;
use sluicebox_model::{EventKey, IdentifierHash, Record, RecordId};

use crate::apply::{Applied, Context};
use crate::prepare::{Lookup, Prepared, Row};

/// Rows whose memory is asked for together: they lie anywhere, and one after the other each would be waited for.
const AT_ONCE: usize = 32;
/// Bytes that memory hands out at a time.
const CACHE_LINE: usize = 64;

/// Many batches, and the hashes of the identifiers that they name, each once and sorted.
#[derive(Debug, Default)]
pub struct Gathered {
    pub(crate) batches: Vec<Prepared>,
    hashes: Vec<IdentifierHash>,
    /// For each batch and key, its place in `hashes`.
    pub(crate) slots: Vec<Vec<u32>>,
    /// Whether the record that a slot finds is needed, or only its id.
    identifies: Vec<bool>,
}

impl Gathered {
    /// Sorts the identifiers of `batches`, which are consecutive and in file order.
    pub fn new(mut batches: Vec<Prepared>) -> Self {
        // Each hash in halves, which leave no gaps, and where it lies: batch and number.
        let mut all: Vec<(u64, u64, u32, u32)> =
            Vec::with_capacity(batches.iter().map(|batch| batch.keys.len() as usize).sum());
        for (place, batch) in (0..).zip(&mut batches) {
            // They are here from now on, each once.
            let hashes = (0..).zip(std::mem::take(&mut batch.keys.hashes));
            all.extend(hashes.map(|(key, hash)| ((hash.0 >> 64) as u64, hash.0 as u64, place, key)));
        }
        all.par_sort_unstable_by_key(|(high, low, ..)| u128::from(*high) << 64 | u128::from(*low));
        let mut slots: Vec<Vec<u32>> =
            batches.iter().map(|batch| vec![0; batch.keys.len() as usize]).collect();
        let mut hashes: Vec<IdentifierHash> = Vec::with_capacity(all.len());
        for (high, low, batch, key) in all {
            let hash = IdentifierHash(u128::from(high) << 64 | u128::from(low));
            if hashes.last() != Some(&hash) {
                hashes.push(hash);
            }
            let slot = u32::try_from(hashes.len() - 1).unwrap_or(u32::MAX);
            if let Some(place) = slots.get_mut(batch as usize).and_then(|keys| keys.get_mut(key as usize)) {
                *place = slot;
            }
        }
        hashes.shrink_to_fit();
        let mut identifies = vec![false; hashes.len()];
        for (batch, slots) in batches.iter().zip(&slots) {
            for lookup in &batch.lookups {
                let Lookup::Property { key, .. } = lookup else { continue };
                let slot = slots.get(*key as usize).map_or(usize::MAX, |slot| *slot as usize);
                if let Some(identifies) = identifies.get_mut(slot) {
                    *identifies = true;
                }
            }
        }
        Self { batches, hashes, slots, identifies }
    }

    /// The same rows in parts of about so many bytes; one where there are none.
    pub fn parts(self, bytes: usize) -> impl Iterator<Item = Self> {
        let fits = self.memory() <= bytes;
        let (whole, batches) = if fits { (Some(self), Vec::new()) } else { (None, self.taken_apart()) };
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

    /// The batches, as they were.
    fn taken_apart(self) -> Vec<Prepared> {
        let Self { mut batches, hashes, slots, .. } = self;
        for (batch, slots) in batches.iter_mut().zip(slots) {
            let hash = |slot: u32| hashes.get(slot as usize).copied();
            batch.keys.hashes = slots.into_iter().filter_map(hash).collect();
        }
        batches
    }

    /// The number of the file's records that precede the one after the last batch; 0 without batches.
    pub fn end(&self) -> u64 {
        self.batches.last().map_or(0, Prepared::end)
    }

    /// How many bytes of the file had been read when the last batch was complete; 0 without batches.
    pub fn bytes_read(&self) -> u64 {
        self.batches.last().map_or(0, Prepared::bytes_read)
    }

    /// About how many bytes of memory the rows take.
    pub(crate) fn memory(&self) -> usize {
        self.batches.iter().map(Prepared::memory).sum()
    }

    /// The number of rows that the processors kept.
    pub fn rows(&self) -> usize {
        self.batches.iter().map(Prepared::kept).sum()
    }

    /// The number of distinct identifiers.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether no row names an identifier.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// The hashes of the identifiers, sorted.
    pub fn hashes(&self) -> &[IdentifierHash] {
        &self.hashes
    }

    /// The identifiers, in the order of their hashes.
    pub fn identifiers(&self) -> Vec<&[u8]> {
        let mut identifiers = vec![&[][..]; self.len()];
        for (batch, slots) in self.batches.iter().zip(&self.slots) {
            for (key, slot) in (0..).zip(slots) {
                if let Some(identifier) = identifiers.get_mut(*slot as usize) {
                    *identifier = batch.keys.get(key);
                }
            }
        }
        identifiers
    }

    /// The hash of a slot.
    pub(crate) fn hash(&self, slot: usize) -> Option<IdentifierHash> {
        self.hashes.get(slot).copied()
    }

    /// The slot of an identifier, if a row names it.
    pub(crate) fn slot_of(&self, hash: IdentifierHash) -> Option<usize> {
        self.hashes.binary_search(&hash).ok()
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
        keyed
            .par_sort_unstable_by(|one, other| one.0.cmp(&other.0).then_with(|| id(one.1).cmp(&id(other.1))));
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
            for keys in batch.keys_of_rows() {
                see(number, slots.get(keys.start as usize..keys.end as usize).unwrap_or_default());
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
        let packed = self.packed_writes(row);
        let packed = packed.iter().step_by(CACHE_LINE).fold(0, |all, byte| all ^ u32::from(*byte));
        packed ^ u32::from(matches!(lookup, Some(Lookup::Record(_))))
    }
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
