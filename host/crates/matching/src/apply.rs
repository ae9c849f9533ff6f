use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use sluicebox_model::packed::{
    Unpacker, pack_number, pack_shape, packed_text_bytes, packed_values, unpack_property,
};
use sluicebox_model::{
    Class, Event, EventKey, Expected, Identifier, IdentifierHash, MergeRule, OrNever, Property, PropertyId,
    Provenance, Record, RecordId, RecordIds, RejectedCell, RejectedRow, RejectedScope, RejectionCode, Setter,
    Touch, Value, append,
};

use crate::chunk::{ChunkRows, EntriesById, Loaded};
use crate::index::{EntryIndex, Index, KeyIndex, PartitionIndex, RowIndex, SlotIndex};
use crate::long_values::{LONG_RECORD, LONG_VALUE, LongValues, is_taken_out};
use crate::partition::Partitions;
use crate::plan::{EventPlan, FieldPlan, OnAmbiguous, Plan};
use crate::prepare::{Lookup, Prepared, Row, RowEvent, RowTime, Write};
use crate::rules::{Outcome, is_list, is_stored_as_written, list, merge, unite, without};
use crate::timeline::{EventOutcome, EventSource, Gathered, Timeline};

/// What [`ChunkRows::apply`] needs to know of the goal run.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// The number of the goal run; numbers grow from goal run to goal run.
    pub goal_run: u64,
    /// When the goal run began, in milliseconds since the epoch. All of its changes have this time.
    pub now: i64,
    /// The first goal run whose merges count as this one's: the one itself, or the first that it continues.
    pub merges_since: u64,
    /// The place of the file among those that the goal run's history entry names.
    pub file: u32,
    /// The position: the number of the first row of the file that no earlier commit has taken.
    pub from: u64,
    /// How many more rows may be rejected before the goal fails.
    pub rejections_left: u64,
    /// Whether excluded rows are recorded.
    pub records_excluded: bool,
}

impl Context {
    /// What sets the values that the rows write.
    fn setter(&self) -> Setter {
        Setter { goal_run: self.goal_run, file: self.file }
    }
}

/// Counts of rows, cells, events and records. Those of records may be negative: a record that one commit counted as
/// unchanged may be updated by the next. So may those of events, to which the rows of several commits may add.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows that a processor dropped.
    pub dropped: u64,
    /// Rows that were rejected.
    pub rejected: u64,
    /// Rows that have no identifier value, that find no record where none may be created, or that lack consent.
    pub excluded: u64,
    /// Rows that were merged.
    pub merged: u64,
    /// Cells of merged rows that were rejected.
    pub cells_rejected: u64,
    /// Events created.
    pub events_created: i64,
    /// Events that existed and changed.
    pub events_updated: i64,
    /// Events that another row of the same file replaced, which had the same profile, type and id.
    pub events_overwritten: u64,
    /// Events rejected, because they have no valid time.
    pub events_rejected: u64,
    /// Events ignored, because they are older than the retention of their type.
    pub events_expired: u64,
    /// Records created.
    pub created: i64,
    /// Records updated.
    pub updated: i64,
    /// Records matched and not changed.
    pub unchanged: i64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.dropped += other.dropped;
        self.rejected += other.rejected;
        self.excluded += other.excluded;
        self.merged += other.merged;
        self.cells_rejected += other.cells_rejected;
        self.events_created += other.events_created;
        self.events_updated += other.events_updated;
        self.events_overwritten += other.events_overwritten;
        self.events_rejected += other.events_rejected;
        self.events_expired += other.events_expired;
        self.created += other.created;
        self.updated += other.updated;
        self.unchanged += other.unchanged;
    }
}

/// How many of the records that changed last a goal run reports.
const REPORTED_CHANGES: usize = 5;
/// How many changes are collected before all but the last are forgotten.
const MAX_COLLECTED_CHANGES: usize = 64;
/// Where more than one slot in this many changed, they are sorted through an array of all slots.
const DENSE_SLOTS: usize = 16;

/// The changes that the rows of a chunk make.
#[derive(Debug, Default)]
pub struct Applied {
    /// Records to write.
    pub records: Vec<(RecordId, Record)>,
    /// Records that were merged into another: the old id and the one that stays.
    pub merged: Vec<(RecordId, RecordId)>,
    /// The new resolutions of identifiers that rows name.
    pub(crate) slots: Vec<(SlotIndex, Option<RecordId>)>,
    /// The new resolutions of other identifiers.
    pub(crate) others: Vec<(IdentifierHash, Option<RecordId>)>,
    /// Events to write, or to remove. Each key once.
    pub events: Vec<(EventKey, Option<Event>)>,
    /// Rows that were not taken, or not wholly, in file order: rejected and excluded ones, and those without cells.
    pub rejected: Vec<RejectedRow>,
    /// Counts of all that happened.
    pub counts: Counts,
    /// How many more records the space of the plan has.
    pub grown: i64,
    /// The last records that were created or updated, each with its order.
    pub(crate) last_changed: Vec<(u64, (RecordId, Class))>,
    /// The number of the first row of the file that was not applied.
    pub position: u64,
    /// Whether more rows were rejected than allowed. The rows from `position` on were not applied then.
    pub too_many_rejected: bool,
}

impl Applied {
    /// The last records that were created or updated, oldest first.
    pub fn last_changed(&self) -> impl Iterator<Item = (RecordId, Class)> + '_ {
        self.last_changed.iter().map(|(_, changed)| *changed)
    }

    /// Identifiers to write, or to remove, sorted; each once. `chunk` is what was applied.
    pub fn identifiers<'a>(
        &'a self,
        chunk: &'a ChunkRows,
    ) -> impl Iterator<Item = (IdentifierHash, Option<RecordId>)> + 'a {
        let slots = self.slots.iter().filter_map(|(slot, id)| Some((chunk.hash(*slot)?, *id)));
        let (mut slots, mut others) = (slots.peekable(), self.others.iter().copied().peekable());
        std::iter::from_fn(move || match (slots.peek(), others.peek()) {
            (Some((one, _)), Some((other, _))) if one > other => others.next(),
            (None, _) => others.next(),
            _ => slots.next(),
        })
    }

    /// Adds the changes of the chunk that follows in the file, but for its records and identifiers: the caller has written those.
    pub fn follow(&mut self, next: Self) {
        self.position = next.position;
        self.join(Self { slots: Vec::new(), others: Vec::new(), ..next });
    }

    /// Adds the changes of another partition of the same chunk, but for its records.
    pub(crate) fn join(&mut self, other: Self) {
        self.slots.extend(other.slots);
        self.others.extend(other.others);
        self.rejected.extend(other.rejected);
        self.counts.add(&other.counts);
        self.grown += other.grown;
        self.last_changed.extend(other.last_changed);
        self.forget_all_but_last();
    }

    /// Sorts the changes of one or several partitions, and leaves each slot once. `slots` is the number of the chunk's slots.
    pub(crate) fn sort(&mut self, slots: usize) {
        if self.slots.len() > slots / DENSE_SLOTS {
            let mut changes = vec![u32::MAX; slots];
            for (change, (slot, _)) in (0..).zip(&self.slots) {
                if let Some(of_slot) = changes.get_mut(slot.place()).expected("a slot that changed") {
                    *of_slot = change;
                }
            }
            let mut sorted = Vec::with_capacity(self.slots.len());
            sorted.extend(changes.into_iter().filter_map(|change| self.slots.get(change as usize)));
            self.slots = sorted;
        } else {
            self.slots.sort_unstable_by_key(|(slot, _)| *slot);
            self.slots.dedup_by_key(|(slot, _)| *slot);
        }
        self.others.sort_unstable();
        self.rejected.sort_by_key(|row| row.number);
    }

    fn change(&mut self, order: u64, changed: (RecordId, Class)) {
        if self.last_changed.len() == MAX_COLLECTED_CHANGES {
            self.forget_all_but_last();
        }
        self.last_changed.push((order, changed));
    }

    fn forget_all_but_last(&mut self) {
        self.last_changed.sort_unstable_by_key(|(order, _)| *order);
        self.last_changed.drain(..self.last_changed.len().saturating_sub(REPORTED_CHANGES));
    }
}

/// Orders records that were created after those that were loaded.
const CREATED: u64 = 1 << 63;

/// The rows of a chunk that are applied together.
#[derive(Clone, Copy)]
pub(crate) enum Scope<'w> {
    /// All of them.
    Chunk,
    /// Those of one partition. `ids` has the ids of its new records.
    Partition { partitions: &'w Partitions, partition: PartitionIndex, ids: &'w RecordIds },
}

impl Scope<'_> {
    /// The place of a slot among the scope's own; `None` if the slot is another partition's.
    fn place(&self, slot: SlotIndex) -> Option<usize> {
        match self {
            Self::Chunk => Some(slot.place()),
            Self::Partition { partitions, partition, .. } => partitions.place_of_slot(*partition, slot),
        }
    }

    /// The number of rows.
    fn rows(&self, chunk: &ChunkRows) -> usize {
        match self {
            Self::Chunk => chunk.rows(),
            Self::Partition { partitions, partition, .. } => partitions.rows(*partition).len(),
        }
    }

    /// The slot at a place among the scope's own.
    fn slot(&self, place: usize) -> Option<SlotIndex> {
        match self {
            Self::Chunk => Some(SlotIndex::new(place)),
            Self::Partition { partitions, partition, .. } => {
                partitions.slots(*partition).get(place).copied().expected("a slot of the partition")
            }
        }
    }
}

/// What an identifier resolves to.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Resolution {
    /// No record.
    Unclaimed,
    /// A record in memory.
    Entry(EntryIndex),
    /// A stored record that no row of the chunk is identified by.
    NotLoaded(RecordId),
}

impl Resolution {
    /// The resolution as the store has it: its record, and that record's entry if it was loaded.
    pub(crate) fn of(stored: Option<RecordId>, entry: Option<EntryIndex>) -> Self {
        match stored {
            None => Self::Unclaimed,
            Some(id) => entry.map_or(Self::NotLoaded(id), Self::Entry),
        }
    }
}

/// A record in memory while rows are applied to it.
struct Entry {
    /// Loaded records come first, by their ids, then created ones, by their first row.
    order: u64,
    id: RecordId,
    record: Record,
    /// The fingerprint as loaded; `None` = created by this chunk.
    loaded: Option<u64>,
    /// Whether a row matched it.
    touched: bool,
    /// Whether another record was merged into it.
    absorbed_another: bool,
    /// How many others it is made of that were merged in this run.
    absorbed: u32,
    /// The record that it was merged into.
    absorbed_by: Option<EntryIndex>,
}

/// A row that gives a record a value whose slot is another partition's.
pub(crate) type Crossing = (RowIndex, SlotIndex);

/// Applies rows to records, one after the other.
pub(crate) struct Applier<'w> {
    plan: &'w Plan,
    chunk: &'w ChunkRows,
    context: Context,
    /// By slot, or empty where no person was ever erased: whether the identifier is that of an erased person.
    erased: &'w [bool],
    entries: Vec<Entry>,
    /// The entries of loaded records, by every id that leads to them.
    entries_by_id: EntriesById,
    /// What the scope's own slots resolve to.
    resolutions: Vec<Resolution>,
    /// The places of those that changed, some of them several times.
    changed: Vec<u32>,
    /// Changed resolutions of identifiers that no row of the chunk names.
    others: HashMap<IdentifierHash, Resolution>,
    timeline: Timeline<'w>,
    /// Long values of records to which several rows are applied.
    long_values: LongValues,
    /// A buffer in which a row is merged into a record.
    buffer: Vec<u8>,
    /// A buffer for the properties that a row changes, and what sets them.
    setters: Vec<(PropertyId, Setter)>,
    applied: Applied,
    scope: Scope<'w>,
    /// The number of records created.
    created: u32,
    /// The row of the partition that is being applied.
    row: RowIndex,
    crossings: Vec<Crossing>,
}

/// Loaded records, each with its order among those of all partitions.
pub(crate) type OrderedRecords = Vec<(u64, (RecordId, Record))>;

/// What was loaded for each of some ids: the record, and the id that it has now, which differs where records were merged;
/// `None` where there is no record any more.
pub type LoadedRecords = Vec<Option<(RecordId, Record)>>;

impl ChunkRows {
    /// Applies the rows in file order.
    ///
    /// `resolved[n]` is the record that the n-th identifier resolves to. `erased[n]` says whether the n-th identifier is that
    /// of an erased person, who is not created again; it is empty where no person was ever erased. `ids` are those of
    /// [`ChunkRows::records`], and `records` what was loaded for each. `events` has the stored events of these records.
    pub fn apply(
        &self,
        plan: &Plan,
        context: Context,
        resolved: &[Option<RecordId>],
        erased: &[bool],
        (ids, records): (&[RecordId], LoadedRecords),
        events: &mut dyn EventSource,
    ) -> Applied {
        let Loaded { records, entries } = Loaded::new(ids, records);
        let resolutions =
            resolved.iter().map(|id| Resolution::of(*id, id.and_then(|id| entries.get(&id).copied())));
        let (resolutions, records) = (resolutions.collect(), (0..).zip(records).collect());
        let mut applier =
            Applier::new(plan, self, context, erased, (records, resolutions), events, Scope::Chunk);
        applier.entries_by_id = entries;
        applier.apply_all();
        // A chunk that is applied as a whole has no other partition.
        let mut applied = applier.finish().or_never("the result of a whole chunk");
        applied.sort(self.len());
        applied
    }
}

impl<'w> Applier<'w> {
    /// `resolutions` says what each of the scope's own slots resolves to, in the order of slots.
    pub(crate) fn new(
        plan: &'w Plan,
        chunk: &'w ChunkRows,
        context: Context,
        erased: &'w [bool],
        (records, resolutions): (OrderedRecords, Vec<Resolution>),
        events: &'w mut dyn EventSource,
        scope: Scope<'w>,
    ) -> Self {
        let loaded = records.into_iter().map(|(order, (id, record))| {
            let loaded = Some(record.fingerprint());
            let in_this_run = record.touch.goal_run >= context.merges_since;
            let absorbed = if in_this_run { record.touch.absorbed } else { 0 };
            let (touched, absorbed_another, absorbed_by) = (false, false, None);
            Entry { order, id, record, loaded, touched, absorbed_another, absorbed, absorbed_by }
        });
        let mut entries = Vec::with_capacity(scope.rows(chunk).max(loaded.len()));
        entries.extend(loaded);
        Self {
            plan,
            chunk,
            context,
            erased,
            entries,
            entries_by_id: EntriesById::default(),
            resolutions,
            changed: Vec::new(),
            others: HashMap::new(),
            timeline: Timeline::new(events, context.goal_run),
            long_values: LongValues::default(),
            buffer: Vec::with_capacity(1024),
            setters: Vec::new(),
            applied: Applied { position: context.from, ..Applied::default() },
            scope,
            created: 0,
            row: RowIndex(0),
            crossings: Vec::new(),
        }
    }
}

impl Applier<'_> {
    /// Applies all rows in file order, until more are rejected than allowed.
    fn apply_all(&mut self) {
        let chunk = self.chunk;
        for (batch, slots) in chunk.batches.iter().zip(&chunk.slots) {
            let stopped = self.apply_batch(batch, slots);
            if !stopped {
                self.applied.position = batch.end;
            }
            let dropped = batch.dropped.partition_point(|number| *number < self.applied.position);
            self.applied.counts.dropped += dropped as u64;
            if stopped {
                return;
            }
        }
    }

    /// Applies a batch; answers whether more rows were rejected than allowed.
    fn apply_batch(&mut self, batch: &Prepared, slots: &[SlotIndex]) -> bool {
        let mut rejected = batch.rejected.iter().peekable();
        for row in batch.rows() {
            while let Some(before) = rejected.next_if(|before| before.number < row.number) {
                if self.reject(before.clone()) {
                    return true;
                }
            }
            if let Some(row) = self.apply_row(batch, slots, &row)
                && self.reject(row)
            {
                return true;
            }
            self.applied.position = row.number + 1;
        }
        rejected.any(|row| self.reject(row.clone()))
    }

    /// Applies a row of a partition.
    pub(crate) fn apply_row_of_partition(
        &mut self,
        index: RowIndex,
        batch: &Prepared,
        slots: &[SlotIndex],
        row: &Row,
    ) {
        self.row = index;
        if let Some(row) = self.apply_row(batch, slots, row) {
            self.reject(row);
        }
    }

    /// Counts and records a rejected row; answers whether more rows were rejected than allowed.
    fn reject(&mut self, row: RejectedRow) -> bool {
        self.applied.position = row.number + 1;
        self.applied.counts.rejected += 1;
        self.applied.rejected.push(row);
        self.applied.too_many_rejected = self.applied.counts.rejected > self.context.rejections_left;
        self.applied.too_many_rejected
    }

    /// Counts an excluded row, and records it if it has to be.
    fn exclude(&mut self, row: impl FnOnce() -> Option<RejectedRow>) {
        self.applied.counts.excluded += 1;
        if self.context.records_excluded {
            let row = row().map(|row| RejectedRow { scope: RejectedScope::Excluded, ..row });
            self.applied.rejected.extend(row);
        }
    }

    /// Records the cells of a merged row that were rejected.
    fn reject_cells(&mut self, batch: &Prepared, row: &Row, by_merging: Vec<RejectedCell>) {
        let mut line = match (batch.incomplete(row.number), by_merging.first()) {
            (None, None) => return,
            (Some(line), _) => line.clone(),
            (None, Some(first)) => as_read(batch, row, first.code.clone(), String::new()),
        };
        match &mut line.scope {
            RejectedScope::Cells(cells) => cells.extend(by_merging),
            scope => *scope = RejectedScope::Cells(by_merging),
        }
        self.applied.rejected.push(line);
    }

    /// Merges a row or excludes it; or answers with the row where it is rejected.
    fn apply_row(&mut self, batch: &Prepared, slots: &[SlotIndex], row: &Row) -> Option<RejectedRow> {
        let lookups = slice(&batch.lookups, &row.lookups);
        let (mut first, mut others) = (None, Vec::new());
        for lookup in lookups {
            let found = match lookup {
                Lookup::Property { key, .. } => match self.resolution(slot(slots, *key)) {
                    Resolution::Entry(entry) => Some(entry),
                    _ => None,
                },
                Lookup::Record(id) => batch
                    .id(*id)
                    .and_then(|id| self.entries_by_id.get(&id))
                    .map(|entry| self.after_merges(*entry)),
            };
            let own_space = |found: &EntryIndex| {
                self.entry(*found).is_some_and(|entry| entry.record.space == self.plan.space)
            };
            match (first, found.filter(own_space)) {
                (None, found) => first = found,
                (Some(first), Some(found)) if found != first && !others.contains(&found) => {
                    others.push(found)
                }
                _ => {}
            }
        }
        let may_create =
            self.plan.create && lookups.iter().any(|lookup| matches!(lookup, Lookup::Property { .. }));
        let is_erased = |lookup: &Lookup| match lookup {
            Lookup::Property { key, .. } => self.erased.get(slot(slots, *key).place()) == Some(&true),
            Lookup::Record(_) => false,
        };
        let target = match (first, self.plan.on_ambiguous) {
            (None, _) if may_create && !lookups.iter().any(is_erased) => None,
            (None, _) => {
                if lookups.iter().any(is_erased) {
                    self.exclude(|| Some(without_cells(row, RejectionCode::Erased, "the person was erased")));
                } else if lookups.is_empty() {
                    self.exclude(|| batch.incomplete(row.number).cloned());
                } else {
                    let reason = "the identifiers find no profile, and the row creates none";
                    self.exclude(|| Some(as_read(batch, row, RejectionCode::NoMatch, reason.to_owned())));
                }
                return None;
            }
            (only, _) if others.is_empty() => only,
            (_, OnAmbiguous::Reject) => {
                let reason = format!("the identifiers find {} different records", 1 + others.len());
                return Some(as_read(batch, row, RejectionCode::Ambiguous, reason));
            }
            (first, OnAmbiguous::First | OnAmbiguous::Merge) => first,
            (first, OnAmbiguous::Newest) => first
                .into_iter()
                .chain(others.iter().copied())
                .reduce(|best, next| if self.modified(next) > self.modified(best) { next } else { best }),
        };
        if self.plan.on_ambiguous == OnAmbiguous::Merge
            && let Some(reason) = self.beyond_merge_limit(target, &others)
        {
            let as_read = batch.batch.as_ref().expected("the rows as read")?;
            let place = as_read.row_of(row.number).expected("the row as read")?;
            return Some(as_read.reject(place, RejectionCode::MergeLimit, reason));
        }
        if !self.plan.objectives.is_empty() && !self.consents(target, batch, row) {
            let reason = "the person has not consented to an objective of the connection";
            self.exclude(|| Some(without_cells(row, RejectionCode::NoConsent, reason)));
            self.write_refusals(target, batch, slots, row);
            return None;
        }
        let is_new = target.is_none();
        let target = target.unwrap_or_else(|| self.create(batch, slots, row));
        if self.plan.on_ambiguous == OnAmbiguous::Merge {
            others.iter().for_each(|other| self.merge_records(target, *other));
        }
        let written = is_new && self.write_as_packed(target, batch, slots, row);
        let rejected = if written { Vec::new() } else { self.write(target, batch, slots, row, |_| true) };
        let events = slice(&batch.events, &row.events).iter();
        let events: Vec<RejectedCell> = events.filter_map(|event| self.put_event(target, event)).collect();
        self.applied.counts.events_rejected += u64::from(row.events_rejected);
        if let Some(entry) = self.entry_mut(target) {
            entry.touched = true;
        }
        self.applied.counts.merged += 1;
        self.applied.counts.cells_rejected += u64::from(row.rejected_cells) + rejected.len() as u64;
        self.reject_cells(batch, row, [rejected, events].concat());
        None
    }

    fn entry(&self, entry: EntryIndex) -> Option<&Entry> {
        self.entries.get(entry.place()).expected("an entry")
    }

    fn entry_mut(&mut self, entry: EntryIndex) -> Option<&mut Entry> {
        self.entries.get_mut(entry.place()).expected("an entry")
    }

    fn modified(&self, entry: EntryIndex) -> i64 {
        self.entry(entry).map_or(i64::MIN, |entry| entry.record.modified)
    }

    /// Whether the profile, with the row merged into it, consents to an objective of the connection and does not
    /// refuse that objective.
    fn consents(&self, target: Option<EntryIndex>, batch: &Prepared, row: &Row) -> bool {
        let after = |property: PropertyId| {
            let entry = target.and_then(|target| self.entry(target));
            let mut held = entry.and_then(|entry| entry.record.get_packed(property)).map(Cow::Borrowed);
            for write in batch.writes(self.plan, row) {
                let field = self.plan.fields.get(write.field).filter(|field| field.property == property);
                let Some(field) = field else { continue };
                match merge(field.rule, held.as_deref(), write.property) {
                    Outcome::Put(put) => held = Some(put),
                    Outcome::Clear => held = None,
                    Outcome::Keep | Outcome::Reject => {}
                }
            }
            held.and_then(|held| unpack_property(&held))
        };
        let (consented, refused) = (after(self.plan.consented), after(self.plan.refused));
        let holds = |held: &Option<Property>, value: &Value| {
            held.as_ref().is_some_and(|held| held.values().contains(value))
        };
        self.plan
            .objectives
            .iter()
            .any(|objective| holds(&consented, objective) && !holds(&refused, objective))
    }

    /// Writes the objectives that an excluded row refuses, and nothing else of it.
    fn write_refusals(
        &mut self,
        target: Option<EntryIndex>,
        batch: &Prepared,
        slots: &[SlotIndex],
        row: &Row,
    ) {
        let refused = self.plan.refused;
        let mut properties = batch
            .writes(self.plan, row)
            .filter_map(|write| self.plan.fields.get(write.field).map(|field| field.property));
        if properties.any(|property| property == refused) {
            let target = target.unwrap_or_else(|| self.create(batch, slots, row));
            self.write(target, batch, slots, row, |property| property == refused);
        }
    }

    /// Creates a record with the row's identifier values.
    fn create(&mut self, batch: &Prepared, slots: &[SlotIndex], row: &Row) -> EntryIndex {
        let index = EntryIndex::new(self.entries.len());
        let id = match self.scope {
            Scope::Chunk => RecordId::create(),
            Scope::Partition { partition, ids, .. } => ids.get(partition.0, self.created),
        };
        self.created = self.created.saturating_add(1);
        // The row's writes take a little more than the record will.
        let capacity = row.writes.len() + row.lookups.len() * 32;
        let mut record = Record::new(self.plan.space, self.context.now).with_capacity(capacity);
        record.provenance = Provenance::of(self.context.setter());
        for lookup in slice(&batch.lookups, &row.lookups) {
            let Lookup::Property { identifier, value, key } = lookup else { continue };
            let identifier = self.plan.identifiers.get(usize::from(*identifier));
            let Some(identifier) = identifier.expected("the identifier of a lookup") else { continue };
            let Some(property) = identifier.property else { continue };
            let put = &mut self.buffer;
            put.clear();
            pack_shape(identifier.multiple.then_some(1), put);
            batch.pack_value(*value, *key, put);
            match (identifier.multiple, record.get_packed(property)) {
                (_, None) => record.set_packed(property, put),
                (true, Some(held)) => {
                    let united = unite(held, put);
                    record.set_packed(property, &united);
                }
                (false, Some(_)) => continue,
            }
            self.set_resolution(slot(slots, *key), Resolution::Entry(index));
        }
        self.entries.push(Entry {
            order: CREATED | row.number,
            id,
            record,
            loaded: None,
            touched: true,
            absorbed_another: false,
            absorbed: 0,
            absorbed_by: None,
        });
        index
    }

    /// Writes the cells of a row into the record that was created for it, all at once; answers `false` and writes nothing where
    /// that cannot be: cells must be merged with each other or with what the record holds, or a unique value is another record's.
    fn write_as_packed(
        &mut self,
        target: EntryIndex,
        batch: &Prepared,
        slots: &[SlotIndex],
        row: &Row,
    ) -> bool {
        let keys = batch.written_keys(row);
        if !row.is_stored_as_packed || !keys.iter().all(|key| self.is_free(target, slots, *key)) {
            return false;
        }
        let Some(entry) = self.entry_mut(target) else { return false };
        let written = entry.record.add_packed(batch.packed_writes(row));
        if written {
            keys.iter().for_each(|key| self.set_resolution(slot(slots, *key), Resolution::Entry(target)));
        }
        written
    }

    /// Writes the cells of a row whose properties are `wanted`; answers with those that were rejected, in whole or in part.
    fn write(
        &mut self,
        target: EntryIndex,
        batch: &Prepared,
        slots: &[SlotIndex],
        row: &Row,
        wanted: impl Fn(PropertyId) -> bool,
    ) -> Vec<RejectedCell> {
        let Some(entry) = self.entry_mut(target) else { return Vec::new() };
        let touched_before = std::mem::replace(&mut entry.touched, true);
        let mut packed = entry.record.take_packed();
        if touched_before && packed.len() >= LONG_RECORD {
            self.take_out_long_values(target, &mut packed);
        }
        let mut adds_to_long = false;
        let mut buffer = std::mem::take(&mut self.buffer);
        let (mut setters, setter) = (std::mem::take(&mut self.setters), self.context.setter());
        setters.clear();
        let mut writes = batch.writes(self.plan, row);
        let (mut rejected, mut written) = (Vec::new(), false);
        let mut next = writes.next();
        while next.is_some() {
            // One pass through the record takes writes in the order of properties; a second write of a property takes another pass.
            buffer.clear();
            let mut changed = false;
            let (record, mut last) = (packed.as_slice(), None);
            let (mut reader, mut copied) = (Unpacker(record), 0);
            let mut current_start = reader.clone();
            let mut current = reader.entry();
            while let Some(write) = next.take() {
                let field = self.plan.fields.get(write.field).expected("the field of a write");
                let Some(field) = field else { break };
                if last.is_some_and(|last| last >= field.property) {
                    next = Some(write);
                    break;
                }
                last = Some(field.property);
                next = writes.next();
                if !wanted(field.property) {
                    continue;
                }
                while current.is_some_and(|(id, _)| id < field.property) {
                    current_start = reader.clone();
                    current = reader.entry();
                }
                // The record holds no property from here on, as is usual for a new one.
                if current.is_none()
                    && !field.unique
                    && let Some(property) =
                        write.property.filter(|written| is_stored_as_written(field.rule, written))
                {
                    buffer.extend_from_slice(record.get(copied..).unwrap_or_default());
                    pack_number(field.property.0.into(), &mut buffer);
                    append(property, &mut buffer);
                    (copied, changed) = (record.len(), true);
                    setters.push((field.property, setter));
                    continue;
                }
                let before = current.filter(|(id, _)| *id == field.property).map(|(_, held)| held);
                if before.is_some_and(is_taken_out)
                    && let Some((all_free, grew)) = self.add_to_long_value(target, slots, &write, field)
                {
                    if !all_free {
                        rejected.push(RejectedCell { column: field.column, code: RejectionCode::Taken });
                    }
                    if grew {
                        written = true;
                        setters.push((field.property, setter));
                    }
                    continue;
                }
                let taken_out = before.filter(|before| is_taken_out(before));
                let taken_out = taken_out.and_then(|_| self.long_values.get(target, field.property));
                let before = taken_out.as_deref().or(before);
                adds_to_long |=
                    field.rule == MergeRule::Add && before.is_some_and(|before| before.len() >= LONG_VALUE);
                // A value that the record holds already is free.
                let same = before.is_some() && before == write.property;
                if field.unique && same && field.rule != MergeRule::Sum {
                    continue;
                }
                let free = if field.unique { self.free_values(target, slots, &write) } else { None };
                let cell = match &free {
                    Some(free) => {
                        rejected.push(RejectedCell { column: field.column, code: RejectionCode::Taken });
                        if free.is_empty() {
                            continue;
                        }
                        Some(free.as_slice())
                    }
                    None => write.property,
                };
                let (from, to) = (record.len() - current_start.0.len(), record.len() - reader.0.len());
                let to = if before.is_some() { to } else { from };
                let after = match merge(field.rule, before, cell) {
                    Outcome::Keep => continue,
                    Outcome::Reject => {
                        if free.is_none() {
                            let code = RejectionCode::SumTooLong;
                            rejected.push(RejectedCell { column: field.column, code });
                        }
                        continue;
                    }
                    Outcome::Clear => None,
                    Outcome::Put(put) => Some(put),
                };
                buffer.extend_from_slice(record.get(copied..from).unwrap_or_default());
                if let Some(after) = &after {
                    pack_number(field.property.0.into(), &mut buffer);
                    buffer.extend_from_slice(after);
                }
                if field.unique {
                    let (before, after) = (before.unwrap_or_default(), after.as_deref().unwrap_or_default());
                    self.resolve_values(target, field.property, before, after);
                }
                if taken_out.is_some() {
                    self.long_values.forget(target, field.property);
                }
                (copied, changed) = (to, true);
                setters.push((field.property, setter));
            }
            if changed {
                buffer.extend_from_slice(record.get(copied..).unwrap_or_default());
                packed.clear();
                packed.reserve_exact(buffer.len());
                packed.extend_from_slice(&buffer);
                written = true;
            }
        }
        self.buffer = buffer;
        if !setters.is_sorted_by(|(one, _), (next, _)| one < next) {
            // Several passes wrote them.
            setters.sort_unstable_by_key(|(property, _)| *property);
            setters.dedup_by_key(|(property, _)| *property);
        }
        if touched_before && adds_to_long {
            self.take_out_long_values(target, &mut packed);
        }
        let now = self.context.now;
        if let Some(entry) = self.entry_mut(target) {
            entry.record.put_packed(packed);
            if written {
                entry.record.modified = now;
                entry.record.set_setters(&setters);
            }
        }
        self.setters = setters;
        rejected
    }

    /// Takes the long values of a record's properties out of them, but for those that decide about consent.
    fn take_out_long_values(&mut self, target: EntryIndex, packed: &mut Vec<u8>) {
        self.long_values.take_out(target, packed, &[self.plan.consented, self.plan.refused]);
    }

    /// Adds the values of a cell to a list that was taken out of its record; answers whether no other record holds one of them, and whether
    /// the list grew. `None` if the rule does not add, or the property is no such list.
    fn add_to_long_value(
        &mut self,
        target: EntryIndex,
        slots: &[SlotIndex],
        write: &Write<'_>,
        field: &FieldPlan,
    ) -> Option<(bool, bool)> {
        let written = write.property.filter(|_| field.rule == MergeRule::Add)?;
        let free = if field.unique { self.free_values(target, slots, write) } else { None };
        if free.as_ref().is_some_and(Vec::is_empty) {
            return Some((false, false));
        }
        let added = self.long_values.add(target, field.property, free.as_deref().unwrap_or(written))?;
        for value in added.iter().filter(|_| field.unique) {
            self.resolve_value(field.property, value, Resolution::Entry(target));
        }
        Some((free.is_none(), !added.is_empty()))
    }

    /// Whether no other record holds the value of a key.
    fn is_free(&self, target: EntryIndex, slots: &[SlotIndex], key: KeyIndex) -> bool {
        match self.resolution(slot(slots, key)) {
            Resolution::Unclaimed => true,
            Resolution::Entry(entry) => entry == target,
            Resolution::NotLoaded(_) => false,
        }
    }

    /// The values of a unique property that no other record holds, packed; empty where another record holds each of them, and
    /// `None` where all of them are free.
    fn free_values(&self, target: EntryIndex, slots: &[SlotIndex], write: &Write<'_>) -> Option<Vec<u8>> {
        let property = write.property?;
        let keyed = (write.key.0..).map(KeyIndex).zip(packed_values(property));
        let free: Vec<&[u8]> =
            keyed.filter(|(key, _)| self.is_free(target, slots, *key)).map(|(_, value)| value).collect();
        match free.len() {
            0 => Some(Vec::new()),
            kept if kept == packed_values(property).count() => None,
            _ => Some(list(&free)),
        }
    }

    /// Resolves the values of a unique property to `target`, and those that it no longer has to no record.
    fn resolve_values(&mut self, target: EntryIndex, property: PropertyId, before: &[u8], after: &[u8]) {
        for value in without(before, after) {
            self.resolve_value(property, value, Resolution::Unclaimed);
        }
        for value in without(after, before) {
            self.resolve_value(property, value, Resolution::Entry(target));
        }
    }

    /// Puts an event on a profile's time line; answers with the cell that should have given its time, if it was rejected here.
    fn put_event(&mut self, target: EntryIndex, event: &RowEvent) -> Option<RejectedCell> {
        if event.expired {
            self.applied.counts.events_expired += 1;
            return None;
        }
        let entry = self.entries.get_mut(target.place()).expected("the entry of an event")?;
        let key = EventKey { record: entry.id, event_type: event.event_type, id: event.id.clone() };
        let (id, stored) = (entry.id, entry.loaded.is_some());
        if let Some(row) = &event.row {
            let was_added = self.timeline.gather(key, (event, row), target, stored);
            // Where another row gave the time, only the cell is rejected.
            self.applied.counts.cells_rejected += u64::from(was_added && row.time == RowTime::Invalid);
            self.applied.counts.events_rejected += u64::from(!was_added);
            // An invalid time is recorded already. Rows of linked files are recorded when they are read.
            let is_recorded = was_added || row.time == RowTime::Invalid;
            let of_root = |plan: &&EventPlan| plan.event_type == event.event_type && plan.path.is_empty();
            let plan = self.plan.events.iter().find(of_root).filter(|_| !is_recorded)?;
            return Some(RejectedCell { column: plan.time, code: RejectionCode::EventTime });
        }
        if self.timeline.gathers(&key) {
            self.settle_events(Some(id));
        }
        let resumed = self.context.from > 0;
        self.applied.counts.events_overwritten +=
            u64::from(self.timeline.overwrites(&key, &event.event, stored, resumed));
        let (outcome, difference) = self.timeline.put(key, event.event.clone(), stored);
        match outcome {
            EventOutcome::Unchanged => return None,
            EventOutcome::Created => self.applied.counts.events_created += 1,
            EventOutcome::Updated => self.applied.counts.events_updated += 1,
            EventOutcome::Counted => {}
        }
        let now = self.context.now;
        if let Some(entry) = self.entry_mut(target) {
            entry.record.events = entry.record.events.wrapping_add(difference);
            entry.record.modified = now;
        }
        None
    }

    /// Counts the events to which rows added, of one record or of all, and adds them to their records' sums.
    fn settle_events(&mut self, record: Option<RecordId>) {
        let now = self.context.now;
        for Gathered { entry, counted: (before, after), difference } in self.timeline.settle(record) {
            let counts = &mut self.applied.counts;
            for (class, by) in [(before, -1), (Some(after), 1)] {
                match class {
                    Some(Class::Created) => counts.events_created += by,
                    Some(Class::Updated) => counts.events_updated += by,
                    Some(Class::Unchanged) | None => {}
                }
            }
            if let Some(entry) = self.entry_mut(entry) {
                entry.record.events = entry.record.events.wrapping_add(difference);
                entry.record.modified = now;
            }
        }
    }

    /// Brings a record up to date whose events and long values are kept apart while rows are applied.
    fn settle_record(&mut self, entry: EntryIndex) {
        if let Some(id) = self.entry(entry).map(|entry| entry.id) {
            self.settle_events(Some(id));
        }
        if let Some(held) = self.entries.get_mut(entry.place()).expected("an entry") {
            self.long_values.put_back(entry, &mut held.record);
        }
    }

    /// Why other records may not be merged into `target`; `None` if they may.
    fn beyond_merge_limit(&self, target: Option<EntryIndex>, others: &[EntryIndex]) -> Option<String> {
        let absorbed = |entry: &EntryIndex| self.entry(*entry).map_or(0, |entry| u64::from(entry.absorbed));
        let more: u64 = others.iter().map(|other| 1 + absorbed(other)).sum();
        let all = more + target.iter().map(absorbed).sum::<u64>();
        (more > 0 && all > self.plan.merge_limit.into()).then(|| {
            format!(
                "it would merge {all} others into one profile in this run, more than the {} that `merge_limit` allows",
                self.plan.merge_limit
            )
        })
    }

    /// Merges the record `other` into `target`: moves the values, events and identifiers that `target` lacks, and removes `other`.
    fn merge_records(&mut self, target: EntryIndex, other: EntryIndex) {
        [target, other].into_iter().for_each(|entry| self.settle_record(entry));
        let Some(staying) = self.entry(target).map(|entry| (entry.id, entry.loaded.is_some())) else {
            return;
        };
        let Some(removed) = self.entry_mut(other) else { return };
        removed.absorbed_by = Some(target);
        let from = (removed.id, removed.loaded.is_some());
        let (created, packed) = (removed.record.created, removed.record.packed().to_vec());
        let absorbed = removed.absorbed.saturating_add(1);
        let (provenance, own, mut setters) =
            (removed.record.provenance.clone(), self.context.setter(), Vec::new());
        let events = self.timeline.move_all(from, staying);
        let mut properties = Unpacker(&packed);
        while let Some((id, property)) = properties.entry() {
            let Some(entry) = self.entry_mut(target) else { return };
            let held = entry.record.get_packed(id);
            let lists = is_list(property) || held.is_some_and(is_list);
            let moves = lists || held.is_none();
            if lists {
                let united = unite(held.unwrap_or_default(), property);
                match held {
                    // A value that moves keeps its setter.
                    None => setters.push((id, provenance.get(id))),
                    Some(held) if *held != *united => setters.push((id, own)),
                    Some(_) => {}
                }
                entry.record.set_packed(id, &united);
            } else if moves {
                setters.push((id, provenance.get(id)));
                entry.record.set_packed(id, property);
            }
            if self.plan.unique.binary_search(&id).is_ok() {
                let resolution = if moves { Resolution::Entry(target) } else { Resolution::Unclaimed };
                packed_values(property).for_each(|value| self.resolve_value(id, value, resolution));
            }
        }
        let now = self.context.now;
        if let Some(entry) = self.entry_mut(target) {
            entry.record.created = entry.record.created.min(created);
            entry.record.events = entry.record.events.wrapping_add(events);
            entry.record.modified = now;
            entry.record.set_setters(&setters);
            entry.touched = true;
            entry.absorbed_another = true;
            entry.absorbed = entry.absorbed.saturating_add(absorbed);
        }
    }

    /// The entry that an entry was merged into, or itself.
    fn after_merges(&self, mut entry: EntryIndex) -> EntryIndex {
        while let Some(next) = self.entry(entry).and_then(|entry| entry.absorbed_by) {
            entry = next;
        }
        entry
    }

    fn resolution(&self, slot: SlotIndex) -> Resolution {
        let place = self.scope.place(slot).expected("a row's slot in its partition");
        match place.and_then(|place| self.resolutions.get(place)) {
            Some(Resolution::Entry(entry)) => Resolution::Entry(self.after_merges(*entry)),
            Some(resolution) => *resolution,
            None => Resolution::Unclaimed,
        }
    }

    fn set_resolution(&mut self, slot: SlotIndex, resolution: Resolution) {
        let Some(place) = self.scope.place(slot) else {
            self.crossings.push((self.row, slot));
            return;
        };
        if let Some(held) = self.resolutions.get_mut(place).expected("the resolution of a slot") {
            *held = resolution;
            self.changed.push(SlotIndex::new(place).0);
        }
    }

    /// Sets the resolution of a packed value.
    fn resolve_value(&mut self, property: PropertyId, value: &[u8], resolution: Resolution) {
        let mut identifier = Vec::with_capacity(48);
        Identifier::write(self.plan.space, property, &packed_text_bytes(value), &mut identifier);
        let hash = self.plan.hasher.hash(&identifier);
        match self.chunk.slot_of(hash) {
            Some(slot) => self.set_resolution(slot, resolution),
            None => {
                self.others.insert(hash, resolution);
            }
        }
    }
}

impl Applier<'_> {
    /// The changes, identifiers in no order.
    ///
    /// # Errors
    /// With the rows of a partition that gave a record a value whose slot is another partition's: the changes are void then.
    pub(crate) fn finish(mut self) -> Result<Applied, Vec<Crossing>> {
        if !self.crossings.is_empty() {
            return Err(self.crossings);
        }
        self.settle_events(None);
        for entry in self.long_values.entries() {
            self.settle_record(entry);
        }
        let goal_run = self.context.goal_run;
        let others = std::mem::take(&mut self.others);
        let id = |resolution: Resolution| match resolution {
            Resolution::Unclaimed => None,
            Resolution::NotLoaded(id) => Some(id),
            Resolution::Entry(entry) => self.entry(self.after_merges(entry)).map(|entry| entry.id),
        };
        let resolved = |place: &u32| {
            let place = *place as usize;
            Some((self.scope.slot(place)?, id(*self.resolutions.get(place).expected("a resolution")?)))
        };
        let mut slots = Vec::with_capacity(self.changed.len());
        slots.extend(self.changed.iter().filter_map(resolved));
        let others = others.into_iter().map(|(hash, resolution)| (hash, id(resolution))).collect();
        (self.applied.slots, self.applied.others) = (slots, others);
        self.applied.events = self.timeline.finish();
        let absorbed = self.entries.iter().enumerate().filter(|(_, entry)| entry.absorbed_by.is_some());
        let into = absorbed.filter_map(|(place, _)| {
            Some((place, self.entry(self.after_merges(EntryIndex::new(place))).map(|entry| entry.id)?))
        });
        let into: HashMap<usize, RecordId> = into.collect();
        let applied = &mut self.applied;
        // The records are collected in the memory of the entries.
        let records =
            std::mem::take(&mut self.entries).into_iter().enumerate().filter_map(|(place, mut entry)| {
                let before = (entry.record.touch.goal_run == goal_run).then_some(entry.record.touch);
                if let Some(into) = into.get(&place) {
                    applied.grown -= i64::from(entry.loaded.is_some());
                    applied.merged.push((entry.id, *into));
                    count(&mut applied.counts, before, None);
                    return None;
                }
                if !entry.touched {
                    return None;
                }
                applied.grown += i64::from(entry.loaded.is_none());
                let touch = touch(&entry, before, goal_run);
                count(&mut applied.counts, before, Some(touch.class));
                entry.record.touch = touch;
                if touch.class != Class::Unchanged {
                    applied.change(entry.order, (entry.id, touch.class));
                }
                Some((entry.id, entry.record))
            });
        let records = records.collect();
        self.applied.records = records;
        self.applied.forget_all_but_last();
        Ok(self.applied)
    }
}

/// A row as the file has it, where the batch keeps that; without its cells otherwise.
fn as_read(batch: &Prepared, row: &Row, code: RejectionCode, reason: String) -> RejectedRow {
    let read = batch.batch.as_ref().and_then(|read| Some((read, read.row_of(row.number)?)));
    match read {
        Some((read, place)) => read.reject(place, code, reason),
        None => without_cells(row, code, &reason),
    }
}

/// A row whose cells are not recorded.
fn without_cells(row: &Row, code: RejectionCode, reason: &str) -> RejectedRow {
    let Row { number, line, .. } = *row;
    let (reason, cells) = (reason.to_owned(), Arc::default());
    RejectedRow { number, line, code, reason, scope: RejectedScope::Row, cells, raw: None }
}

/// How the goal run counts a record after this chunk. `before` is how it counted the record so far.
fn touch(entry: &Entry, before: Option<Touch>, goal_run: u64) -> Touch {
    let absorbed = entry.absorbed;
    let Some(loaded) = entry.loaded else {
        return Touch { goal_run, first_fingerprint: 0, class: Class::Created, absorbed };
    };
    let first_fingerprint = before.map_or(loaded, |touch| touch.first_fingerprint);
    let now = entry.record.fingerprint();
    let (class, first_fingerprint) = match before.map(|touch| touch.class) {
        Some(Class::Created) => (Class::Created, first_fingerprint),
        // It counts as updated until the end of the run, even if its properties become again what they were.
        _ if entry.absorbed_another => (Class::Updated, !now),
        _ if now != first_fingerprint => (Class::Updated, first_fingerprint),
        _ => (Class::Unchanged, first_fingerprint),
    };
    Touch { goal_run, first_fingerprint, class, absorbed }
}

fn count(counts: &mut Counts, before: Option<Touch>, after: Option<Class>) {
    for (class, by) in [(before.map(|touch| touch.class), -1), (after, 1)] {
        match class {
            Some(Class::Created) => counts.created += by,
            Some(Class::Updated) => counts.updated += by,
            Some(Class::Unchanged) => counts.unchanged += by,
            None => {}
        }
    }
}

/// The slot of a batch's key.
#[inline]
fn slot(slots: &[SlotIndex], key: KeyIndex) -> SlotIndex {
    slots.get(key.place()).copied().expected("the slot of a key").unwrap_or(SlotIndex::NONE)
}

#[inline]
fn slice<'a, T>(all: &'a [T], range: &Range<u32>) -> &'a [T] {
    all.get(range.start as usize..range.end as usize).or_never("a part of a row")
}
