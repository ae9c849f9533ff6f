//! Splits the rows of a chunk into partitions that have no record and no identifier in common. Each can be applied by itself,
//! and together they give the result of applying all rows in file order. A partition has the records of a range of ids: only
//! the records of the few partitions in work are in memory, and changed records come out sorted.

use std::io;
use std::sync::{OnceLock, mpsc};

use rayon::{ThreadPool, ThreadPoolBuilder};
use sluicebox_model::{Expected, OrNever, Record, RecordId, RecordIds, never};

use crate::apply::{Applied, Applier, Context, Crossing, LoadedRecords, OrderedRecords, Resolution, Scope};
use crate::chunk::ChunkRows;
use crate::index::{EntryIndex, Index, PartitionIndex, RecordIndex, RowIndex, SlotIndex};
use crate::plan::{OnAmbiguous, Plan};
use crate::timeline::NoEvents;

/// Chunks of fewer rows and fewer bytes are faster on one thread.
const MIN_PARTITIONED_ROWS: usize = 16_384;
const MIN_PARTITIONED_BYTES: usize = 8 << 20;
/// Records of a partition, or rows without a stored record. They fit into a core's cache, and are worth the seek in the store.
const MIN_PARTITION_RECORDS: usize = 1024;
const MAX_PARTITION_RECORDS: usize = 4096;
/// Bytes of a partition's rows; a single row may have more. Each thread takes a few times as much memory.
const MAX_PARTITION_BYTES: usize = 4 << 20;
/// The least partitions for each thread, so that no thread waits long for another.
const PARTITIONS_PER_THREAD: usize = 4;
/// Partitions that a thread may have applied and the caller not yet taken.
const MAX_QUEUED_PARTITIONS: usize = 3;
/// Partitions of a chunk.
const MAX_PARTITIONS: usize = 60_000;

/// Threads that apply partitions, chunk after chunk. They are kept, because a thread reuses the memory that it freed, where a
/// new one would take memory that was never touched.
#[derive(Debug)]
pub struct Workers {
    count: usize,
    /// They start with the first partition.
    threads: OnceLock<ThreadPool>,
}

impl Workers {
    /// `count` threads, but at least one.
    pub fn new(count: usize) -> Self {
        Self { count: count.max(1), threads: OnceLock::new() }
    }

    fn threads(&self) -> io::Result<&ThreadPool> {
        if let Some(threads) = self.threads.get() {
            return Ok(threads);
        }
        let threads =
            ThreadPoolBuilder::new().num_threads(self.count).thread_name(|_| "partition".to_owned());
        let threads = threads.build().map_err(io::Error::other)?;
        Ok(self.threads.get_or_init(|| threads))
    }
}

impl Plan {
    /// Whether rows with different records and identifiers have no influence on each other, as far as the plan tells.
    pub fn can_be_partitioned(&self) -> bool {
        self.events.is_empty()
            && self.on_ambiguous != OnAmbiguous::Merge
            && self.identifiers.iter().all(|identifier| identifier.property.is_some())
    }
}

impl ChunkRows {
    /// Whether [`ChunkRows::partition`] may take the rows.
    pub fn can_be_partitioned(&self, plan: &Plan, context: &Context) -> bool {
        plan.can_be_partitioned() && context.rejections_left == u64::MAX
    }

    /// Whether there are enough rows for several threads.
    pub fn is_worth_partitioning(&self) -> bool {
        self.rows() >= MIN_PARTITIONED_ROWS || self.memory() >= MIN_PARTITIONED_BYTES
    }

    /// Splits the rows into partitions. `resolved[n]` is the record that the n-th identifier resolves to.
    ///
    /// # Errors
    /// If the system has no more threads.
    pub fn partition<'c>(
        &'c self,
        resolved: &'c [Option<RecordId>],
        workers: &'c Workers,
    ) -> io::Result<PartitionedChunk<'c>> {
        self.partition_by(resolved, workers, self.partition_size(workers.count))
    }

    /// How many records, or rows without a stored record, a partition has.
    fn partition_size(&self, threads: usize) -> usize {
        let size = self.rows() / (threads * PARTITIONS_PER_THREAD);
        let min = (self.rows() + self.len()) / MAX_PARTITIONS;
        let fit = MAX_PARTITION_BYTES / (self.memory() / self.rows().max(1)).max(1);
        size.clamp(MIN_PARTITION_RECORDS, MAX_PARTITION_RECORDS).min(fit).max(min).max(1)
    }

    fn partition_by<'c>(
        &'c self,
        resolved: &'c [Option<RecordId>],
        workers: &'c Workers,
        partition_size: usize,
    ) -> io::Result<PartitionedChunk<'c>> {
        let (ids, records) = self.record_indexes(resolved);
        let threads = workers.threads()?;
        let partitions = Partitions::new(self, (&records, ids.len()), partition_size, &[], threads);
        let crossings = Vec::new();
        Ok(PartitionedChunk { chunk: self, resolved, ids, records, partitions, threads, crossings })
    }
}

/// The rows of a chunk in partitions.
pub struct PartitionedChunk<'c> {
    chunk: &'c ChunkRows,
    resolved: &'c [Option<RecordId>],
    /// The stored records by which rows are identified, sorted.
    ids: Vec<RecordId>,
    /// By slot: the index of its record among those; `NONE` if it has none.
    records: Vec<RecordIndex>,
    partitions: Partitions,
    threads: &'c ThreadPool,
    /// What earlier attempts found: these rows belong into the partitions of these slots.
    crossings: Vec<Crossing>,
}

/// The result of applying a partition.
enum PartitionOutcome<T, E> {
    /// Its records, and all other changes.
    Applied(T, Box<Applied>),
    /// Some of its rows need slots of other partitions.
    Crossed(Vec<Crossing>),
    /// A record was merged into another, which may be in another partition.
    MergedRecord,
    Failed(E),
}

impl<R, E> PartitionOutcome<R, E> {
    fn pack<T>(self, pack: impl Fn(R) -> T) -> PartitionOutcome<T, E> {
        match self {
            Self::Applied(records, applied) => PartitionOutcome::Applied(pack(records), applied),
            Self::Crossed(crossings) => PartitionOutcome::Crossed(crossings),
            Self::MergedRecord => PartitionOutcome::MergedRecord,
            Self::Failed(error) => PartitionOutcome::Failed(error),
        }
    }
}

impl PartitionedChunk<'_> {
    /// Applies the partitions with the result of [`ChunkRows::apply`].
    ///
    /// `load` gets the sorted ids of a partition's records, and how many records all partitions have. `pack` gets the changed
    /// records of a partition, sorted, on the thread that applied it. `take` gets what `pack` made, partition after partition,
    /// and the first id of the next partition's stored records: most ids so far are smaller, and the caller may keep those
    /// that are not until the end.
    ///
    /// `None` if partitions have something in common after all: a row gives a record a unique value by which another
    /// partition's record is found. What `take` got is void then. Another call puts such rows into one partition.
    ///
    /// # Errors
    /// Those of `load` and `take`.
    pub fn apply<T: Send, E: Send>(
        &mut self,
        plan: &Plan,
        context: Context,
        erased: &[bool],
        load: impl Fn(&[RecordId], usize) -> Result<LoadedRecords, E> + Sync,
        pack: impl Fn(Vec<(RecordId, Record)>) -> T + Sync,
        mut take: impl FnMut(T, Option<RecordId>) -> Result<(), E>,
    ) -> Result<Option<Applied>, E> {
        let mut whole = self.chunk.before_rows(&context);
        whole.slots.reserve(self.chunk.len());
        let (new_ids, mut crossings) = (RecordIds::now(), Vec::new());
        let (this, load, pack, new_ids) = (&*self, &load, &pack, &new_ids);
        let threads = this.threads.current_num_threads();
        // Each queue has its own thread, so a thread that waits for the caller holds up no other.
        let merged = this.threads.in_place_scope(|scope| {
            let start = |first: usize| {
                let (sender, receiver) = mpsc::sync_channel(MAX_QUEUED_PARTITIONS);
                scope.spawn(move |_| {
                    for partition in (first..this.partitions.count()).step_by(threads) {
                        let partition = PartitionIndex::new(partition);
                        let outcome = this.apply_partition(plan, context, erased, partition, new_ids, load);
                        if sender.send(outcome.pack(pack)).is_err() {
                            break;
                        }
                    }
                });
                receiver
            };
            let receivers: Vec<_> = (0..threads).map(start).collect();
            for partition in 0..this.partitions.count() {
                match receivers.get(partition % threads).map(mpsc::Receiver::recv) {
                    Some(Ok(PartitionOutcome::Applied(records, applied))) => {
                        if crossings.is_empty() {
                            take(
                                records,
                                this.ids.get(this.partitions.first_record(partition + 1)).copied(),
                            )?;
                            whole.join(*applied);
                        }
                    }
                    Some(Ok(PartitionOutcome::Crossed(found))) => crossings.extend(found),
                    Some(Ok(PartitionOutcome::Failed(error))) => return Err(error),
                    Some(Ok(PartitionOutcome::MergedRecord)) => return Ok(true),
                    Some(Err(_)) | None => {
                        never!(true, "a partition has no result");
                        return Ok(true);
                    }
                }
            }
            Ok(false)
        })?;
        whole.sort(self.chunk.len());
        // Identifiers that no row names have no slot, so two partitions may have changed the same one.
        let twice = whole.others.array_windows().any(|[(one, _), (next, _)]| one == next);
        if merged || twice {
            return Ok(None);
        }
        if !crossings.is_empty() {
            self.crossings.append(&mut crossings);
            let records = (self.records.as_slice(), self.ids.len());
            let size = self.partitions.partition_size;
            self.partitions = Partitions::new(self.chunk, records, size, &self.crossings, self.threads);
            return Ok(None);
        }
        Ok(Some(whole))
    }

    fn apply_partition<E>(
        &self,
        plan: &Plan,
        context: Context,
        erased: &[bool],
        partition: PartitionIndex,
        new_ids: &RecordIds,
        load: impl Fn(&[RecordId], usize) -> Result<LoadedRecords, E>,
    ) -> PartitionOutcome<Vec<(RecordId, Record)>, E> {
        let indexes = self.partitions.records.of(partition);
        let ids: Vec<RecordId> =
            indexes.iter().filter_map(|index| self.ids.get(index.place())).copied().collect();
        never!(ids.len() != indexes.len(), "a record of a partition has no id");
        let loaded = match load(&ids, self.ids.len()) {
            Ok(loaded) => loaded,
            Err(error) => return PartitionOutcome::Failed(error),
        };
        // A record that was removed meanwhile has no entry, and rows that its identifiers resolve to find none.
        let (mut records, mut entries) =
            (OrderedRecords::with_capacity(ids.len()), vec![EntryIndex::NONE; ids.len()]);
        for (((index, id), record), entry) in indexes.iter().zip(&ids).zip(loaded).zip(&mut entries) {
            let Some(record) = record else { continue };
            if record.0 != *id {
                return PartitionOutcome::MergedRecord;
            }
            *entry = EntryIndex::new(records.len());
            records.push((u64::from(index.0), record));
        }
        let entry = |slot: &SlotIndex| {
            let record = self.records.get(slot.place()).filter(|record| **record != RecordIndex::NONE)?;
            let place =
                self.partitions.records.place(partition, *record).expected("a record of the partition");
            entries.get(place?).copied().filter(|entry| *entry != EntryIndex::NONE)
        };
        let resolutions = self.partitions.slots(partition).iter().map(|slot| {
            let stored = self.resolved.get(slot.place()).copied().or_never("the answer for a slot");
            Resolution::of(stored, entry(slot))
        });
        let (resolutions, mut events) = (resolutions.collect(), NoEvents);
        let scope = Scope::Partition { partitions: &self.partitions, partition, ids: new_ids };
        let mut applier =
            Applier::new(plan, self.chunk, context, erased, (records, resolutions), &mut events, scope);
        let prefetch =
            |slot: SlotIndex| self.partitions.slots.places.get(slot.place()).copied().unwrap_or_default();
        self.chunk.visit_rows(self.partitions.rows(partition), prefetch, |index, batch, slots, row| {
            applier.apply_row_of_partition(index, batch, slots, row);
        });
        match applier.finish() {
            Ok(mut applied) => {
                let mut records = std::mem::take(&mut applied.records);
                records.sort_unstable_by_key(|(id, _)| *id);
                PartitionOutcome::Applied(records, Box::new(applied))
            }
            Err(crossings) => PartitionOutcome::Crossed(crossings),
        }
    }
}

/// The partition of each row, each slot and each stored record of a chunk.
pub(crate) struct Partitions {
    rows: Groups<RowIndex>,
    slots: Groups<SlotIndex>,
    records: Groups<RecordIndex>,
    /// The number of records of a partition.
    partition_size: usize,
}

impl Partitions {
    /// The place of a slot among those of a partition, if the slot belongs to it.
    pub(crate) fn place_of_slot(&self, partition: PartitionIndex, slot: SlotIndex) -> Option<usize> {
        self.slots.place(partition, slot)
    }

    /// The rows of a partition, in file order.
    pub(crate) fn rows(&self, partition: PartitionIndex) -> &[RowIndex] {
        self.rows.of(partition)
    }

    /// The slots of a partition, sorted.
    pub(crate) fn slots(&self, partition: PartitionIndex) -> &[SlotIndex] {
        self.slots.of(partition)
    }

    fn count(&self) -> usize {
        self.rows.starts.len().saturating_sub(1)
    }

    /// The first record of a partition: the partitions before it have only records before that one.
    fn first_record(&self, partition: usize) -> usize {
        partition * self.partition_size
    }

    /// Puts rows that have a slot or a record in common into one partition: that of the first of their records. Sets of rows
    /// without a record follow in file order.
    ///
    /// `records[slot]` is the record that a slot resolves to, and `record_count` their number. `crossings` are rows that belong
    /// into the partitions of slots that they do not name.
    fn new(
        chunk: &ChunkRows,
        (records, record_count): (&[RecordIndex], usize),
        partition_size: usize,
        crossings: &[Crossing],
        threads: &ThreadPool,
    ) -> Self {
        let rows = chunk.rows();
        let mut sets = DisjointSets::new(rows);
        // The first row of each slot and each record.
        let (mut row_of_slot, mut row_of_record) =
            (vec![RowIndex::NONE; records.len()], vec![RowIndex::NONE; record_count]);
        chunk.each_row(|row, slots| {
            for slot in slots {
                if let Some(first) = row_of_slot.get_mut(slot.place()).expected("the row of a slot") {
                    sets.join(first, row);
                }
                let record = records.get(slot.place()).copied().expected("the record of a slot");
                let record = record.unwrap_or(RecordIndex::NONE);
                if let Some(first) = row_of_record.get_mut(record.place()) {
                    sets.join(first, row);
                }
            }
        });
        for (row, slot) in crossings {
            if let Some(first) = row_of_slot.get_mut(slot.place()).expected("the row of a slot") {
                sets.join(first, *row);
            }
        }
        let mut partition_of = vec![PartitionIndex::NONE; rows];
        for (record, row) in row_of_record.iter().enumerate() {
            let first = partition_of.get_mut(sets.first(*row).place()).expected("the row of a record");
            if let Some(partition) = first.filter(|partition| **partition == PartitionIndex::NONE) {
                *partition = PartitionIndex::new(record / partition_size);
            }
        }
        // The first row of a set comes before its other rows, so the set has its partition by then.
        let (first_of_new, mut new) = (record_count.div_ceil(partition_size), 0);
        for row in 0..rows {
            let first = sets.first(RowIndex::new(row)).place();
            let partition = partition_of.get(first).copied().expected("the partition of a set");
            let mut partition = partition.unwrap_or(PartitionIndex::NONE);
            if partition == PartitionIndex::NONE {
                partition = PartitionIndex::new(first_of_new + new / partition_size);
                new += 1;
                if let Some(of_first) = partition_of.get_mut(first) {
                    *of_first = partition;
                }
            }
            if let Some(of_row) = partition_of.get_mut(row) {
                *of_row = partition;
            }
        }
        let count = first_of_new + new.div_ceil(partition_size);
        let partition = |row: &RowIndex| {
            partition_of
                .get(row.place())
                .copied()
                .expected("the partition of a row")
                .unwrap_or(PartitionIndex(0))
        };
        let by_rows = |rows: &[RowIndex]| rows.iter().map(partition).collect::<Vec<_>>();
        let of_rest = || (Groups::new(&by_rows(&row_of_record), count), Groups::new(&partition_of, count));
        let of_slots = || Groups::new(&by_rows(&row_of_slot), count);
        let (slots, (records, rows)) = threads.join(of_slots, of_rest);
        Self { rows, slots, records, partition_size }
    }
}

/// Indexes by partition, those of a partition in their order.
struct Groups<I> {
    indexes: Vec<I>,
    /// Where each partition starts in `indexes`, and where the last one ends.
    starts: Vec<u32>,
    /// The place of each index in `indexes`.
    places: Vec<u32>,
}

impl<I: Index> Groups<I> {
    /// Groups the indexes from 0 on: `partitions[n]` is the partition of index n, and there are `count` partitions.
    fn new(partitions: &[PartitionIndex], count: usize) -> Self {
        let mut starts = vec![0_u32; count + 1];
        for partition in partitions {
            if let Some(size) = starts.get_mut(partition.number() + 1).expected("the size of a partition") {
                *size += 1;
            }
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        let (mut next, mut indexes) = (starts.clone(), vec![I::from_u32(0); partitions.len()]);
        let mut places = Vec::with_capacity(partitions.len());
        for (index, partition) in (0..).zip(partitions) {
            let place = next.get_mut(partition.number()).expected("the next place of a partition");
            let Some(place) = place else { continue };
            if let Some(at_place) = indexes.get_mut(*place as usize) {
                *at_place = I::from_u32(index);
            }
            places.push(*place);
            *place += 1;
        }
        Self { indexes, starts, places }
    }

    fn bounds(&self, partition: PartitionIndex) -> (u32, u32) {
        let bound = |number: usize| self.starts.get(number).copied().or_never("the bound of a partition");
        (bound(partition.number()), bound(partition.number() + 1))
    }

    fn of(&self, partition: PartitionIndex) -> &[I] {
        let (from, to) = self.bounds(partition);
        self.indexes.get(from as usize..to as usize).or_never("the indexes of a partition")
    }

    /// The place of an index among those of a partition, if it belongs to it.
    fn place(&self, partition: PartitionIndex, index: I) -> Option<usize> {
        let (from, to) = self.bounds(partition);
        let place = self.places.get(index.place())?;
        (from..to).contains(place).then(|| (place - from) as usize)
    }
}

/// Sets of rows, each known by its first row (union-find).
struct DisjointSets(Vec<RowIndex>);

impl DisjointSets {
    /// Each row in a set of its own.
    fn new(rows: usize) -> Self {
        Self((0..rows).map(RowIndex::new).collect())
    }

    /// The first row of a row's set.
    fn first(&mut self, mut row: RowIndex) -> RowIndex {
        while let Some(next) = self.0.get(row.place()).copied().filter(|next| *next != row) {
            let after = self.0.get(next.place()).copied().unwrap_or(next);
            if let Some(next) = self.0.get_mut(row.place()) {
                *next = after;
            }
            row = after;
        }
        row
    }

    /// Puts a row into the set of `first`; where that is `NONE`, it becomes `first` itself.
    fn join(&mut self, first: &mut RowIndex, row: RowIndex) {
        if *first == RowIndex::NONE {
            *first = row;
            return;
        }
        let (one, other) = (self.first(*first), self.first(row));
        if let Some(parent) = self.0.get_mut(one.max(other).place()) {
            *parent = one.min(other);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, HashMap};
    use std::sync::Arc;

    use jiff::tz::TimeZone;
    use proptest::prelude::*;
    use sluicebox_model::{
        CellFormat, Header, Identifier, IdentifierHash, IdentifierHasher, MergeRule, NumberFormat,
        PropertyId, Record, RecordBatch, SpaceId, TimeFormat, Value, ValueType,
    };

    use super::*;
    use crate::plan::{FieldPlan, IdentifierPlan};
    use crate::{Buffers, Counts, prepare};

    const COLUMNS: [&str; 4] = ["email", "phone", "aliases", "name"];

    fn hasher() -> IdentifierHasher {
        IdentifierHasher::new(&[7; 16])
    }

    fn plan(on_ambiguous: OnAmbiguous, aliases: MergeRule, create: bool) -> Plan {
        let format = || CellFormat {
            value_type: ValueType::Text,
            number: NumberFormat::default(),
            time: TimeFormat::Standard,
            timezone: TimeZone::UTC,
        };
        let property = |column: usize| PropertyId(10 + column as u32);
        let identifier = |column| IdentifierPlan {
            column,
            property: Some(property(column)),
            multiple: false,
            format: format(),
        };
        let field = |column, rule| FieldPlan {
            column,
            property: property(column),
            rule,
            separator: (column == 2).then(|| "|".to_owned()),
            separator_escape: None,
            multiple: column == 2,
            unique: column < 3,
            format: format(),
        };
        Plan {
            space: SpaceId(1),
            hasher: hasher(),
            identifiers: vec![identifier(0), identifier(1)],
            fields: vec![
                field(0, MergeRule::Set),
                field(1, MergeRule::SetOrClear),
                field(2, aliases),
                field(3, MergeRule::Set),
            ],
            events: Vec::new(),
            create,
            on_ambiguous,
            merge_limit: 20,
            objectives: Vec::new(),
            consented: PropertyId(1),
            refused: PropertyId(2),
            unique: (0..3).map(property).collect(),
        }
    }

    fn chunk_of(plan: &Plan, rows: &[[u8; 4]]) -> ChunkRows {
        let header = Arc::new(Header {
            columns: COLUMNS.map(str::to_owned).to_vec(),
            trim: true,
            null_values: Vec::new(),
        });
        let mut buffers = Buffers::default();
        let batch = |(number, rows): (usize, &[[u8; 4]])| {
            let (mut text, mut ends) = (String::new(), Vec::new());
            for [email, phone, alias, name] in rows {
                // There are few values, so that rows have some in common; 0 is an empty cell.
                let cell =
                    |kind: &str, value: u8| if value == 0 { String::new() } else { format!("{kind}{value}") };
                let aliases = match alias {
                    0 => String::new(),
                    _ => format!("{}|{}", cell("a", *alias), cell("a", alias / 2)),
                };
                for cell in [cell("e", *email), cell("p", *phone), aliases, cell("n", *name)] {
                    text.push_str(&cell);
                    ends.push(text.len() as u32);
                }
            }
            let from = (number * 7) as u64;
            let places = (from..from + rows.len() as u64).map(|row| (row, row + 2)).collect();
            let batch =
                RecordBatch::new(header.clone(), text, ends, places, Vec::new(), from + rows.len() as u64);
            prepare(plan, batch.unwrap(), &[], 0, &mut buffers)
        };
        ChunkRows::new(rows.chunks(7).enumerate().map(batch).collect())
    }

    #[derive(Clone, Default)]
    struct Model {
        records: BTreeMap<RecordId, Record>,
        index: HashMap<IdentifierHash, RecordId>,
    }

    impl Model {
        fn found(&self, chunk: &ChunkRows) -> Vec<Option<RecordId>> {
            chunk.hashes().iter().map(|hash| self.index.get(hash).copied()).collect()
        }

        fn load(&self, ids: &[RecordId]) -> LoadedRecords {
            ids.iter().map(|id| self.records.get(id).map(|record| (*id, record.clone()))).collect()
        }

        fn take(&mut self, applied: Applied, chunk: &ChunkRows) {
            for (hash, id) in applied.identifiers(chunk) {
                match id {
                    Some(id) => self.index.insert(hash, id),
                    None => self.index.remove(&hash),
                };
            }
            self.records.extend(applied.records);
        }

        /// The changes of all partitions, and whether they took more than one attempt; `None` if four attempts were not enough.
        fn apply_in_partitions(
            &self,
            (plan, context): (&Plan, Context),
            chunk: &ChunkRows,
            (threads, partition_size): (usize, usize),
        ) -> Option<(Applied, bool)> {
            let found = self.found(chunk);
            let workers = Workers::new(threads);
            let mut partitions = chunk.partition_by(&found, &workers, partition_size).unwrap();
            for attempt in 0..4 {
                let mut records: Vec<(RecordId, Record)> = Vec::new();
                let applied = partitions.apply(
                    plan,
                    context,
                    &[],
                    |ids, _| Ok::<_, ()>(self.load(ids)),
                    |partition| partition,
                    |partition, _| {
                        assert!(partition.is_sorted_by(|(one, _), (next, _)| one < next));
                        records.extend(partition);
                        Ok(())
                    },
                );
                if let Some(applied) = applied.unwrap() {
                    let ids: BTreeSet<RecordId> = records.iter().map(|(id, _)| *id).collect();
                    assert_eq!(ids.len(), records.len());
                    return Some((Applied { records, ..applied }, attempt > 0));
                }
            }
            None
        }

        /// The model without the ids of records, which differ from run to run.
        fn shown(&self) -> (Vec<Packed>, BTreeMap<IdentifierHash, Packed>) {
            let mut records: Vec<Vec<u8>> =
                self.records.values().map(|record| record.packed().to_vec()).collect();
            records.sort();
            let resolution =
                |id: &RecordId| self.records.get(id).map_or(Vec::new(), |record| record.packed().to_vec());
            (records, self.index.iter().map(|(hash, id)| (*hash, resolution(id))).collect())
        }
    }

    type Packed = Vec<u8>;
    type Shown = (Counts, Vec<u64>, u64, Vec<Packed>);

    /// What a run reports of the rows, and the model after them.
    fn after(mut model: Model, applied: Applied, chunk: &ChunkRows) -> (Shown, Model) {
        let rejected = applied.rejected.iter().map(|row| row.number).collect();
        let (counts, position) = (applied.counts, applied.position);
        let last: Vec<_> = applied.last_changed().collect();
        model.take(applied, chunk);
        let last = last.iter().map(|(id, _)| model.records[id].packed().to_vec()).collect();
        ((counts, rejected, position, last), model)
    }

    proptest! {
        #[test]
        fn partitions_give_the_result_of_one_thread(
            before in prop::collection::vec(prop::array::uniform4(0_u8..40), 0..60),
            rows in prop::collection::vec(prop::array::uniform4(0_u8..40), 1..120),
            (on_ambiguous, aliases, create) in (0_usize..3, prop::bool::ANY, prop::bool::ANY),
            sizes in (1_usize..4, 1_usize..20),
        ) {
            let on_ambiguous = [OnAmbiguous::Reject, OnAmbiguous::First, OnAmbiguous::Newest][on_ambiguous];
            let aliases = if aliases { MergeRule::Add } else { MergeRule::Set };
            let mut model = Model::default();
            let context = Context { goal_run: 1, now: 1, merges_since: 1, file: 0, from: 0, rejections_left: u64::MAX, records_excluded: true };
            let first = plan(OnAmbiguous::First, MergeRule::Add, true);
            let held = chunk_of(&first, &before);
            let unclaimed = vec![None; held.len()];
            model.take(held.apply(&first, context, &unclaimed, &[], (&[], Vec::new()), &mut NoEvents), &held);

            let plan = plan(on_ambiguous, aliases, create);
            let chunk = chunk_of(&plan, &rows);
            let later = Context { goal_run: 2, now: 2, ..context };
            let found = model.found(&chunk);
            let ids = chunk.records(&found);
            let records = (ids.as_slice(), model.load(&ids));
            let whole = chunk.apply(&plan, later, &found, &[], records, &mut NoEvents);
            let (reported, whole) = after(model.clone(), whole, &chunk);
            if let Some((applied, _)) = model.apply_in_partitions((&plan, later), &chunk, sizes) {
                let (reported_by_partitions, partitioned) = after(model.clone(), applied, &chunk);
                prop_assert_eq!(reported_by_partitions, reported);
                prop_assert_eq!(partitioned.shown(), whole.shown());
            }
        }
    }

    proptest! {
        #[test]
        fn a_new_record_is_the_same_written_at_once_or_cell_by_cell(
            before in prop::collection::vec(prop::array::uniform4(0_u8..40), 0..60),
            rows in prop::collection::vec(prop::array::uniform4(0_u8..40), 1..120),
            aliases in prop::sample::select(vec![MergeRule::Set, MergeRule::SetOrClear, MergeRule::Add]),
        ) {
            let plan = plan(OnAmbiguous::First, aliases, true);
            let mut one_by_one = plan.clone();
            // Another field of the last property, without a cell, rules out writing at once.
            let last = one_by_one.fields.last().unwrap().clone();
            one_by_one.fields.push(FieldPlan { column: COLUMNS.len(), ..last });
            let [at_once, one_by_one] = [plan, one_by_one].map(|plan| {
                let mut model = Model::default();
                for (now, rows) in [(1, &before), (2, &rows)] {
                    let chunk = chunk_of(&plan, rows);
                    let found = model.found(&chunk);
                    let ids = chunk.records(&found);
                    let records = (ids.as_slice(), model.load(&ids));
                    let context = Context { goal_run: now, now: now as i64, merges_since: 1, file: 0, from: 0, rejections_left: u64::MAX, records_excluded: true };
                    let applied = chunk.apply(&plan, context, &found, &[], records, &mut NoEvents);
                    model = after(model, applied, &chunk).1;
                }
                model.shown()
            });
            prop_assert_eq!(at_once, one_by_one);
        }
    }

    #[test]
    fn rows_with_nothing_in_common_need_one_attempt() {
        let plan = plan(OnAmbiguous::Reject, MergeRule::Add, true);
        let rows: Vec<[u8; 4]> = (1..100).map(|number| [number, 0, 0, 1]).collect();
        let chunk = chunk_of(&plan, &rows);
        let context = Context {
            goal_run: 1,
            now: 1,
            merges_since: 1,
            file: 0,
            from: 0,
            rejections_left: u64::MAX,
            records_excluded: true,
        };
        let (applied, again) =
            Model::default().apply_in_partitions((&plan, context), &chunk, (4, 25)).unwrap();
        let counts = (applied.records.len(), applied.identifiers(&chunk).count(), applied.position);
        assert_eq!((counts, again), ((99, 99, 99), false));
        let workers = Workers::new(2);
        let partitions = Partitions::new(
            &chunk,
            (&vec![RecordIndex::NONE; chunk.len()], 0),
            25,
            &[],
            workers.threads().unwrap(),
        );
        assert_eq!(
            [0, 1, 2, 3].map(|partition| partitions.rows(PartitionIndex(partition)).len()),
            [25, 25, 25, 24]
        );
        assert_eq!(partitions.rows(PartitionIndex(1)).first(), Some(&RowIndex(25)));
    }

    #[test]
    fn partitions_of_long_rows_have_fewer_rows() {
        let plan = plan(OnAmbiguous::Reject, MergeRule::Add, true);
        let mut chunk = chunk_of(&plan, &vec![[1, 0, 0, 1]; 40_000]);
        assert_eq!(chunk.partition_size(2), 4096);
        for batch in &mut chunk.batches {
            batch.lengthen(7 * 40_000);
        }
        let partition_size = chunk.partition_size(2);
        assert!((100..=104).contains(&partition_size), "{partition_size}");
    }

    #[test]
    fn partitions_that_need_each_others_slots_become_one() {
        let plan = plan(OnAmbiguous::Reject, MergeRule::Set, true);
        let context = Context {
            goal_run: 1,
            now: 1,
            merges_since: 1,
            file: 0,
            from: 0,
            rejections_left: u64::MAX,
            records_excluded: true,
        };
        let held = chunk_of(&plan, &[[1, 0, 7, 1], [2, 0, 0, 1]]);
        let unclaimed = vec![None; held.len()];
        let mut model = Model::default();
        model.take(held.apply(&plan, context, &unclaimed, &[], (&[], Vec::new()), &mut NoEvents), &held);
        // The first person's aliases resolve to no record. That person gives them up, and another one takes them.
        for alias in ["a7", "a3"] {
            let identifier = Identifier::new(SpaceId(1), PropertyId(12), &Value::Text(alias.into()));
            model.index.remove(&hasher().hash(&identifier.0)).unwrap();
        }
        let rows = chunk_of(&plan, &[[1, 0, 8, 0], [2, 0, 7, 0], [3, 0, 0, 0]]);
        let found = model.found(&rows);
        let ids = rows.records(&found);
        let later = Context { goal_run: 2, now: 2, ..context };
        let whole = rows.apply(&plan, later, &found, &[], (&ids, model.load(&ids)), &mut NoEvents);
        let (applied, again) = model.apply_in_partitions((&plan, later), &rows, (2, 1)).unwrap();
        assert!(again);
        let (whole, partitioned) = (after(model.clone(), whole, &rows), after(model, applied, &rows));
        assert_eq!((partitioned.0, partitioned.1.shown()), (whole.0, whole.1.shown()));
    }
}
