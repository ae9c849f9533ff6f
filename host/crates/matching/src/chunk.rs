use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use rayon::slice::ParallelSliceMut;
use sluicebox_model::{EventKey, Expected, IdentifierHash, OrNever, Record, RecordId};

use crate::apply::{Applied, Context, LoadedRecords};
use crate::index::{EntryIndex, Index, KeyIndex, RecordIndex, RowIndex, SlotIndex};
use crate::prepare::{Lookup, Prepared, Row};

/// Rows whose memory is read ahead together: they are scattered, and one after the other each would wait for memory.
const PREFETCH_ROWS: usize = 32;
/// Bytes that the processor loads at a time.
const CACHE_LINE: usize = 64;

/// The rows of many batches, and the hashes of the identifiers that they name, each once and sorted.
#[derive(Debug, Default)]
pub struct ChunkRows {
    pub(crate) batches: Vec<Prepared>,
    /// By slot.
    hashes: Vec<IdentifierHash>,
    /// For each batch, the slot of each key.
    pub(crate) slots: Vec<Vec<SlotIndex>>,
    /// By slot: whether an identifier column names it, so that its record is needed and not only the record's id.
    identifies: Vec<bool>,
}

impl ChunkRows {
    /// Sorts the identifiers of `batches`, which are consecutive and in file order.
    pub fn new(mut batches: Vec<Prepared>) -> Self {
        // Each hash in halves, which need no padding, then its batch and key.
        let mut all: Vec<(u64, u64, u32, KeyIndex)> =
            Vec::with_capacity(batches.iter().map(|batch| batch.keys.len()).sum());
        for (place, batch) in (0..).zip(&mut batches) {
            // From here on the chunk has the hashes, each once.
            let hashes = (0..).map(KeyIndex).zip(std::mem::take(&mut batch.keys.hashes));
            all.extend(hashes.map(|(key, hash)| ((hash.0 >> 64) as u64, hash.0 as u64, place, key)));
        }
        all.par_sort_unstable_by_key(|(high, low, ..)| u128::from(*high) << 64 | u128::from(*low));
        let mut slots: Vec<Vec<SlotIndex>> =
            batches.iter().map(|batch| vec![SlotIndex(0); batch.keys.len()]).collect();
        let mut hashes: Vec<IdentifierHash> = Vec::with_capacity(all.len());
        for (high, low, batch, key) in all {
            let hash = IdentifierHash(u128::from(high) << 64 | u128::from(low));
            if hashes.last() != Some(&hash) {
                hashes.push(hash);
            }
            let slot = SlotIndex::new(hashes.len() - 1);
            let of_key = slots.get_mut(batch as usize).and_then(|slots| slots.get_mut(key.place()));
            if let Some(of_key) = of_key.expected("the slot of a key") {
                *of_key = slot;
            }
        }
        hashes.shrink_to_fit();
        let mut identifies = vec![false; hashes.len()];
        for (batch, slots) in batches.iter().zip(&slots) {
            for lookup in &batch.lookups {
                let Lookup::Property { key, .. } = lookup else { continue };
                let slot = slots.get(key.place()).and_then(|slot| identifies.get_mut(slot.place()));
                if let Some(identifies) = slot.expected("the slot of a lookup") {
                    *identifies = true;
                }
            }
        }
        Self { batches, hashes, slots, identifies }
    }

    /// Splits the rows into parts of about `bytes` bytes of memory; a single part where there are no rows.
    pub fn parts(self, bytes: usize) -> impl Iterator<Item = Self> {
        let fits = self.memory() <= bytes;
        let (whole, batches) = if fits { (Some(self), Vec::new()) } else { (None, self.into_batches()) };
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

    /// The batches that the chunk was made of.
    fn into_batches(self) -> Vec<Prepared> {
        let Self { mut batches, hashes, slots, .. } = self;
        for (batch, slots) in batches.iter_mut().zip(slots) {
            let hash = |slot: SlotIndex| hashes.get(slot.place()).copied().expected("the hash of a slot");
            batch.keys.hashes = slots.into_iter().filter_map(hash).collect();
        }
        batches
    }

    /// The number of rows of the file up to the end of the last batch; 0 without batches.
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
            for (key, slot) in (0..).map(KeyIndex).zip(slots) {
                if let Some(identifier) = identifiers.get_mut(slot.place()).expected("the slot of a key") {
                    *identifier = batch.keys.get(key);
                }
            }
        }
        identifiers
    }

    /// The hash of a slot.
    pub(crate) fn hash(&self, slot: SlotIndex) -> Option<IdentifierHash> {
        self.hashes.get(slot.place()).copied().expected("the hash of a slot")
    }

    /// The slot of an identifier, if a row names it.
    pub(crate) fn slot_of(&self, hash: IdentifierHash) -> Option<SlotIndex> {
        self.hashes.binary_search(&hash).ok().map(SlotIndex::new)
    }

    /// The keys of the events that the rows may overwrite, sorted. `resolved[n]` is the record that the n-th identifier
    /// resolves to. Events of records that a row finds only because of a row before it are not among them.
    pub fn events(&self, resolved: &[Option<RecordId>]) -> Vec<EventKey> {
        let mut keys = Vec::new();
        for (batch, slots) in self.batches.iter().zip(&self.slots) {
            for row in batch.rows().filter(|row| !row.events.is_empty()) {
                let lookups = batch.lookups.get(row.lookups.start as usize..row.lookups.end as usize);
                let mut records: Vec<RecordId> = lookups
                    .or_never("the lookups of a row")
                    .iter()
                    .filter_map(|lookup| match lookup {
                        Lookup::Record(id) => batch.id(*id),
                        Lookup::Property { key, .. } => *resolved
                            .get(slots.get(key.place())?.place())
                            .expected("the answer for a slot")?,
                    })
                    .collect();
                records.dedup();
                let events = batch.events.get(row.events.start as usize..row.events.end as usize);
                for event in events.or_never("the events of a row") {
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

    /// The ids of the stored records by which rows are identified, sorted; and for each slot the index of its record among
    /// them, `NONE` where it resolves to none of them. `resolved[n]` is the record that the n-th identifier resolves to.
    pub(crate) fn record_indexes(&self, resolved: &[Option<RecordId>]) -> (Vec<RecordId>, Vec<RecordIndex>) {
        let found =
            (0..).zip(resolved).filter_map(|(slot, id)| Some((slot, u128::from_be_bytes(id.as_ref()?.0))));
        let min = found.clone().map(|(_, id)| id).min().unwrap_or_default();
        let max = found.clone().map(|(_, id)| id).max().unwrap_or_default();
        // Ids differ in few bits: 64 of them tell nearly all ids apart.
        let shift = (128 - (max - min).leading_zeros()).saturating_sub(64);
        let mut keyed: Vec<(u64, SlotIndex)> = Vec::with_capacity(resolved.len());
        keyed.extend(found.map(|(slot, id)| (((id - min) >> shift) as u64, SlotIndex(slot))));
        let id = |slot: SlotIndex| resolved.get(slot.place()).copied().flatten();
        keyed
            .par_sort_unstable_by(|one, other| one.0.cmp(&other.0).then_with(|| id(one.1).cmp(&id(other.1))));
        let (mut ids, mut records) =
            (Vec::with_capacity(keyed.len()), vec![RecordIndex::NONE; resolved.len()]);
        for slots in keyed.chunk_by(|one, next| one.0 == next.0 && id(one.1) == id(next.1)) {
            let identifies = |(_, slot): &(u64, SlotIndex)| self.identifies.get(slot.place()) == Some(&true);
            let Some(id) = slots.iter().find(|slot| identifies(slot)).and_then(|(_, slot)| id(*slot)) else {
                continue;
            };
            for (_, slot) in slots {
                if let Some(record) = records.get_mut(slot.place()).expected("the record of a slot") {
                    *record = RecordIndex::new(ids.len());
                }
            }
            ids.push(id);
        }
        (ids, records)
    }

    /// Visits every row that the processors kept, with its slots.
    pub(crate) fn each_row(&self, mut visit: impl FnMut(RowIndex, &[SlotIndex])) {
        let mut row = 0;
        for (batch, slots) in self.batches.iter().zip(&self.slots) {
            for keys in batch.keys_of_rows() {
                let slots = slots.get(keys.start as usize..keys.end as usize);
                visit(RowIndex(row), slots.or_never("the slots of a row"));
                row += 1;
            }
        }
    }

    /// Visits some rows, given in file order, with their batches and the batches' slots. `prefetch` reads what `visit` will
    /// need of a slot, and answers with anything that was read.
    pub(crate) fn visit_rows(
        &self,
        rows: &[RowIndex],
        prefetch: impl Fn(SlotIndex) -> u32,
        mut visit: impl FnMut(RowIndex, &Prepared, &[SlotIndex], &Row),
    ) {
        let (mut batches, mut first) = (self.batches.iter().zip(&self.slots), 0);
        let mut current = batches.next();
        let mut visited = Vec::with_capacity(PREFETCH_ROWS);
        for rows in rows.chunks(PREFETCH_ROWS) {
            visited.clear();
            for row in rows {
                while let Some((batch, _)) = current
                    && row.place() - first >= batch.kept()
                {
                    first += batch.kept();
                    current = batches.next();
                }
                let found = current.and_then(|(batch, slots)| {
                    Some((*row, batch, slots.as_slice(), batch.row(row.place() - first)?))
                });
                visited.extend(found.expected("a row of a partition"));
            }
            let slot = |slots: &[SlotIndex], row: &Row| {
                slots.get(row.keys.start as usize).copied().unwrap_or(SlotIndex(0))
            };
            let read =
                visited.iter().map(|(_, batch, slots, row)| batch.prefetch(row) ^ prefetch(slot(slots, row)));
            std::hint::black_box(read.fold(0, std::ops::BitXor::bitxor));
            visited.iter().for_each(|(index, batch, slots, row)| visit(*index, batch, slots, row));
        }
    }

    /// What is known of the chunk before any row is merged: the rows that were dropped or rejected.
    pub(crate) fn before_rows(&self, context: &Context) -> Applied {
        let mut applied = Applied { position: self.end().max(context.from), ..Applied::default() };
        for batch in &self.batches {
            applied.counts.dropped += batch.dropped.len() as u64;
            applied.counts.rejected += batch.rejected.len() as u64;
            applied.rejected.extend_from_slice(&batch.rejected);
        }
        applied
    }

    /// The ids of the records to load, sorted. `resolved[n]` is the record that the n-th identifier resolves to.
    pub fn records(&self, resolved: &[Option<RecordId>]) -> Vec<RecordId> {
        let by_property =
            resolved.iter().zip(&self.identifies).filter(|(_, needed)| **needed).filter_map(|(id, _)| *id);
        let by_id = self.batches.iter().flat_map(Prepared::ids).copied();
        let mut ids: Vec<RecordId> = by_property.chain(by_id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

impl Prepared {
    /// Reads a byte of each cache line that a row lies in.
    fn prefetch(&self, row: &Row) -> u32 {
        let lookup = self.lookups.get(row.lookups.start as usize);
        let packed = self.packed_writes(row);
        let packed = packed.iter().step_by(CACHE_LINE).fold(0, |all, byte| all ^ u32::from(*byte));
        packed ^ u32::from(matches!(lookup, Some(Lookup::Record(_))))
    }
}

/// The entry of each record that was loaded.
pub(crate) type EntriesById = HashMap<RecordId, EntryIndex, BuildHasherDefault<IdHasher>>;

/// Hashes ids of records. Apart from the time, their bytes are random already; and only the store makes ids, so that
/// no file can choose ids that collide.
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

/// The records that were loaded, each once, and their entries by every id under which they were loaded.
pub(crate) struct Loaded {
    pub records: Vec<(RecordId, Record)>,
    pub entries: EntriesById,
}

impl Loaded {
    /// `records[n]` is what the n-th id leads to; its own id differs where records were merged.
    pub(crate) fn new(ids: &[RecordId], records: LoadedRecords) -> Self {
        let mut loaded = Self {
            records: Vec::with_capacity(ids.len()),
            entries: EntriesById::with_capacity_and_hasher(ids.len(), BuildHasherDefault::default()),
        };
        for (asked, record) in ids.iter().zip(records) {
            let Some((id, record)) = record else { continue };
            let next = EntryIndex::new(loaded.records.len());
            let entry = *loaded.entries.entry(id).or_insert(next);
            if entry == next {
                loaded.records.push((id, record));
            }
            loaded.entries.insert(*asked, entry);
        }
        loaded
    }
}
