use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use sluicebox_model::packed::{
    Unpacker, pack_number, pack_shape, packed_text_bytes, packed_values, unpack_property,
};
use sluicebox_model::{
    Class, Event, EventKey, Identifier, IdentifierHash, MergeRule, Property, PropertyId, Record, RecordId,
    RecordIds, RejectedRow, RejectionCode, Touch, Value, append,
};

use crate::gather::{Gathered, Loaded, Places};
use crate::plan::{OnAmbiguous, Plan};
use crate::prepare::{Lookup, Prepared, Row, RowEvent, Write};
use crate::rules::{Outcome, begins, is_list, list, merge, unite, without};
use crate::shares::Shares;
use crate::timeline::{HeldEvents, Timeline, Written};

/// What `apply` needs to know of the goal run.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// The number of the goal run, greater than that of every goal run before it.
    pub goal_run: u64,
    /// When the goal run began, in milliseconds since the epoch: the time of every change that it makes.
    pub now: i64,
    /// Records of the file before this number are accounted for already.
    pub from: u64,
    /// How many more rows may be rejected before the goal fails.
    pub rejections_left: u64,
}

/// Rows and profiles, counted. The counts of profiles may be negative: a profile that one commit counted as
/// unchanged can be updated in the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows that a processor dropped.
    pub dropped: u64,
    /// Rows that were rejected.
    pub rejected: u64,
    /// Rows without an identifier value, a match or a consent.
    pub excluded: u64,
    /// Rows that were merged.
    pub merged: u64,
    /// Cells of merged rows that were not imported.
    pub cells_rejected: u64,
    /// Events that were not there.
    pub events_created: u64,
    /// Events that were there and are not the same any more.
    pub events_updated: u64,
    /// Events without a time.
    pub events_rejected: u64,
    /// Events that are older than their type is kept.
    pub events_expired: u64,
    /// Records created.
    pub created: i64,
    /// Records updated.
    pub updated: i64,
    /// Records matched and left as they were.
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
        self.events_rejected += other.events_rejected;
        self.events_expired += other.events_expired;
        self.created += other.created;
        self.updated += other.updated;
        self.unchanged += other.unchanged;
    }
}

/// The last records that a goal run names.
const LAST_CHANGED: usize = 5;
/// More of them are not kept until the last are known.
const MOST_CHANGED: usize = 64;
/// Where one in so many slots changed, they are sorted by a place for each.
const MANY_OF: usize = 16;

/// What a stretch of a file makes of the store.
#[derive(Debug, Default)]
pub struct Applied {
    /// Records to write.
    pub records: Vec<(RecordId, Record)>,
    /// Records that were merged into another: the old id and the one that stayed.
    pub merged: Vec<(RecordId, RecordId)>,
    /// Whom those identifiers find now that rows name, by their slots.
    pub(crate) slots: Vec<(u32, Option<RecordId>)>,
    /// Whom others find.
    pub(crate) others: Vec<(IdentifierHash, Option<RecordId>)>,
    /// Events to write, or to remove. Each key once.
    pub events: Vec<(EventKey, Option<Event>)>,
    /// Rejected rows in file order.
    pub rejected: Vec<RejectedRow>,
    /// What happened.
    pub counts: Counts,
    /// The last records that were created or updated, after what orders them.
    pub(crate) last_changed: Vec<(u64, (RecordId, Class))>,
    /// The number of the first record of the file that is not accounted for.
    pub position: u64,
    /// Whether more rows were rejected than may be; the rows after `position` were not looked at.
    pub too_many_rejected: bool,
}

impl Applied {
    /// The last records that were created or updated, oldest first.
    pub fn last_changed(&self) -> impl Iterator<Item = (RecordId, Class)> + '_ {
        self.last_changed.iter().map(|(_, changed)| *changed)
    }

    /// Identifiers to write, or to remove, sorted; each once. `gathered` is what was applied.
    pub fn identifiers<'a>(
        &'a self,
        gathered: &'a Gathered,
    ) -> impl Iterator<Item = (IdentifierHash, Option<RecordId>)> + 'a {
        let slots = self.slots.iter().filter_map(|(slot, id)| Some((gathered.hash(*slot as usize)?, *id)));
        let (mut slots, mut others) = (slots.peekable(), self.others.iter().copied().peekable());
        std::iter::from_fn(move || match (slots.peek(), others.peek()) {
            (Some((one, _)), Some((other, _))) if one > other => others.next(),
            (None, _) => others.next(),
            _ => slots.next(),
        })
    }

    /// Takes in what the rows that come next made, but for their records and identifiers, which are written.
    pub fn follow(&mut self, next: Self) {
        self.position = next.position;
        self.join(Self { slots: Vec::new(), others: Vec::new(), ..next });
    }

    /// Takes in what another share of the rows made, but for its records.
    pub(crate) fn join(&mut self, other: Self) {
        self.slots.extend(other.slots);
        self.others.extend(other.others);
        self.rejected.extend(other.rejected);
        self.counts.add(&other.counts);
        self.last_changed.extend(other.last_changed);
        self.forget_all_but_last();
    }

    /// Puts in order what [`Work::finish`] made, of one share or several, each slot once. There are so many slots.
    pub(crate) fn sort(&mut self, slots: usize) {
        if self.slots.len() > slots / MANY_OF {
            let mut places = vec![u32::MAX; slots];
            for (place, (slot, _)) in (0..).zip(&self.slots) {
                if let Some(of_slot) = places.get_mut(*slot as usize) {
                    *of_slot = place;
                }
            }
            let mut sorted = Vec::with_capacity(self.slots.len());
            sorted.extend(places.into_iter().filter_map(|place| self.slots.get(place as usize)));
            self.slots = sorted;
        } else {
            self.slots.sort_unstable_by_key(|(slot, _)| *slot);
            self.slots.dedup_by_key(|(slot, _)| *slot);
        }
        self.others.sort_unstable();
        self.rejected.sort_by_key(|row| row.number);
    }

    fn change(&mut self, order: u64, changed: (RecordId, Class)) {
        if self.last_changed.len() == MOST_CHANGED {
            self.forget_all_but_last();
        }
        self.last_changed.push((order, changed));
    }

    fn forget_all_but_last(&mut self) {
        self.last_changed.sort_unstable_by_key(|(order, _)| *order);
        self.last_changed.drain(..self.last_changed.len().saturating_sub(LAST_CHANGED));
    }
}

/// What was created comes after everything that was loaded.
const CREATED: u64 = 1 << 63;

/// Which of a stretch's rows are worked on.
#[derive(Clone, Copy)]
pub(crate) enum Part<'w> {
    /// All of them.
    Whole,
    /// Those of a share, whose new records get ids of the part of that number.
    Share { shares: &'w Shares, number: u16, ids: &'w RecordIds },
}

impl Part<'_> {
    /// The place of a slot among the part's own.
    fn own(&self, slot: usize) -> Option<usize> {
        match self {
            Self::Whole => Some(slot),
            Self::Share { shares, number, .. } => shares.own(*number, slot),
        }
    }

    /// How many rows it has.
    fn rows(&self, gathered: &Gathered) -> usize {
        match self {
            Self::Whole => gathered.rows(),
            Self::Share { shares, number, .. } => shares.rows(*number).len(),
        }
    }

    /// The slot at a place among the part's own.
    fn slot(&self, own: u32) -> u32 {
        match self {
            Self::Whole => own,
            Self::Share { shares, number, .. } => {
                shares.slots(*number).get(own as usize).copied().unwrap_or(own)
            }
        }
    }
}

/// Whom an identifier finds.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Holder {
    Nobody,
    Entry(usize),
    /// A record that no row of this stretch names.
    Elsewhere(RecordId),
}

impl Holder {
    /// What `found` says, whose record is at that place among those that were loaded, if it was.
    pub(crate) fn of(found: Option<RecordId>, place: Option<usize>) -> Self {
        match found {
            None => Self::Nobody,
            Some(id) => place.map_or(Self::Elsewhere(id), Self::Entry),
        }
    }
}

struct Entry {
    /// Those that were loaded come first, then those that were created, by their first row.
    order: u64,
    id: RecordId,
    record: Record,
    /// The fingerprint as loaded; `None` = created in this stretch.
    loaded: Option<u64>,
    touched: bool,
    absorbed_another: bool,
    absorbed_by: Option<usize>,
}

pub(crate) struct Work<'w> {
    plan: &'w Plan,
    gathered: &'w Gathered,
    context: Context,
    erased: &'w [bool],
    entries: Vec<Entry>,
    places: Places,
    /// Whom the part's own slots find.
    holders: Vec<Holder>,
    /// Those whose holder changed, some of them several times.
    changed: Vec<u32>,
    /// Changed identifiers that no row of this stretch names.
    others: HashMap<IdentifierHash, Holder>,
    timeline: Timeline<'w>,
    /// Room in which a row is merged into a record.
    merged: Vec<u8>,
    applied: Applied,
    part: Part<'w>,
    /// How many records were created.
    created: u32,
    /// The number of the row that is worked on, among those of the stretch.
    row: u32,
    /// Rows that met a slot of another share, and that slot.
    strayed: Vec<(u32, u32)>,
}

/// Records that were loaded, each after its place among those of all shares.
pub(crate) type Ordered = Vec<(u64, (RecordId, Record))>;

/// What was loaded for each of some ids; a record may have another id, where records were merged.
pub type Found = Vec<Option<(RecordId, Record)>>;

impl Gathered {
    /// Applies the rows in file order. `found[n]` is whom the n-th identifier finds; `erased[n]`, empty where nothing
    /// ever was, whether the person of whom it was is to stay away; `ids` and `records` are [`Gathered::records`] and
    /// what was loaded for each; `events` answers for the events of these records.
    pub fn apply(
        &self,
        plan: &Plan,
        context: Context,
        found: &[Option<RecordId>],
        erased: &[bool],
        (ids, records): (&[RecordId], Found),
        events: &mut dyn HeldEvents,
    ) -> Applied {
        let Loaded { entries, places } = Loaded::new(ids, records);
        let holders = found.iter().map(|id| Holder::of(*id, id.and_then(|id| places.get(&id).copied())));
        let (holders, entries) = (holders.collect(), (0..).zip(entries).collect());
        let mut work = Work::new(plan, self, context, erased, (entries, holders), events, Part::Whole);
        work.places = places;
        work.rows();
        // There is no other share to stray into.
        let mut applied = work.finish().unwrap_or_default();
        applied.sort(self.len());
        applied
    }
}

impl<'w> Work<'w> {
    /// `entries` are the records that were loaded; `holders` has whom each of the part's own slots finds.
    pub(crate) fn new(
        plan: &'w Plan,
        gathered: &'w Gathered,
        context: Context,
        erased: &'w [bool],
        (entries, holders): (Ordered, Vec<Holder>),
        events: &'w mut dyn HeldEvents,
        part: Part<'w>,
    ) -> Self {
        let loaded = entries.into_iter().map(|(order, (id, record))| {
            let loaded = Some(record.fingerprint());
            Entry { order, id, record, loaded, touched: false, absorbed_another: false, absorbed_by: None }
        });
        let mut entries = Vec::with_capacity(part.rows(gathered).max(loaded.len()));
        entries.extend(loaded);
        Self {
            plan,
            gathered,
            context,
            erased,
            entries,
            places: Places::default(),
            holders,
            changed: Vec::new(),
            others: HashMap::new(),
            timeline: Timeline::new(events, context.goal_run),
            merged: Vec::with_capacity(1024),
            applied: Applied { position: context.from, ..Applied::default() },
            part,
            created: 0,
            row: 0,
            strayed: Vec::new(),
        }
    }
}

impl Work<'_> {
    /// Applies all rows in file order, as far as rejected rows let it.
    fn rows(&mut self) {
        let gathered = self.gathered;
        for (batch, slots) in gathered.batches.iter().zip(&gathered.slots) {
            let stopped = self.batch(batch, slots);
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

    /// Applies a batch; answers whether more rows were rejected than may be.
    fn batch(&mut self, batch: &Prepared, slots: &[u32]) -> bool {
        let mut rejected = batch.rejected.iter().peekable();
        for row in batch.rows() {
            while let Some(before) = rejected.next_if(|before| before.number < row.number) {
                if self.reject(before.clone()) {
                    return true;
                }
            }
            if let Some(row) = self.row(batch, slots, &row)
                && self.reject(row)
            {
                return true;
            }
            self.applied.position = row.number + 1;
        }
        rejected.any(|row| self.reject(row.clone()))
    }

    /// Applies one of a share's rows, of that number among those of the stretch.
    pub(crate) fn shared_row(&mut self, number: u32, batch: &Prepared, slots: &[u32], row: &Row) {
        self.row = number;
        if let Some(row) = self.row(batch, slots, row) {
            self.reject(row);
        }
    }

    /// Counts and keeps a rejected row; answers whether it was one too many.
    fn reject(&mut self, row: RejectedRow) -> bool {
        self.applied.position = row.number + 1;
        self.applied.counts.rejected += 1;
        self.applied.rejected.push(row);
        self.applied.too_many_rejected = self.applied.counts.rejected > self.context.rejections_left;
        self.applied.too_many_rejected
    }

    /// Merges a row, or excludes it, or gives it back rejected.
    fn row(&mut self, batch: &Prepared, slots: &[u32], row: &Row) -> Option<RejectedRow> {
        let lookups = slice(&batch.lookups, &row.lookups);
        let (mut first, mut others) = (None, Vec::new());
        for lookup in lookups {
            let place = match lookup {
                Lookup::Property { key, .. } => match self.holder(slot(slots, *key)) {
                    Holder::Entry(place) => Some(place),
                    _ => None,
                },
                Lookup::Record(id) => {
                    batch.id(*id).and_then(|id| self.places.get(&id)).map(|place| self.resolve(*place))
                }
            };
            let own_space = |place: &usize| {
                self.entries.get(*place).is_some_and(|entry| entry.record.space == self.plan.space)
            };
            match (first, place.filter(own_space)) {
                (None, place) => first = place,
                (Some(first), Some(place)) if place != first && !others.contains(&place) => {
                    others.push(place)
                }
                _ => {}
            }
        }
        let may_create =
            self.plan.create && lookups.iter().any(|lookup| matches!(lookup, Lookup::Property { .. }));
        let is_erased = |lookup: &Lookup| match lookup {
            Lookup::Property { key, .. } => self.erased.get(slot(slots, *key)) == Some(&true),
            Lookup::Record(_) => false,
        };
        let target = match (first, self.plan.on_ambiguous) {
            (None, _) if may_create && !lookups.iter().any(is_erased) => None,
            (None, _) => {
                self.applied.counts.excluded += 1;
                return None;
            }
            (only, _) if others.is_empty() => only,
            (_, OnAmbiguous::Reject) => {
                let reason = format!("the identifiers find {} different records", 1 + others.len());
                let as_read = batch.batch.as_ref()?;
                return Some(as_read.reject(as_read.row_of(row.number)?, RejectionCode::Ambiguous, reason));
            }
            (first, OnAmbiguous::First | OnAmbiguous::Merge) => first,
            (first, OnAmbiguous::Newest) => first
                .into_iter()
                .chain(others.iter().copied())
                .reduce(|best, next| if self.modified(next) > self.modified(best) { next } else { best }),
        };
        if !self.plan.objectives.is_empty() && !self.consents(target, batch, row) {
            self.applied.counts.excluded += 1;
            self.refuse(target, batch, slots, row);
            return None;
        }
        let is_new = target.is_none();
        let target = target.unwrap_or_else(|| self.create(batch, slots, row));
        if self.plan.on_ambiguous == OnAmbiguous::Merge {
            others.iter().for_each(|other| self.absorb(target, *other));
        }
        let written = is_new && self.write_as_it_is(target, batch, slots, row);
        let misfits = if written { 0 } else { self.write(target, batch, slots, row, |_| true) };
        for event in slice(&batch.events, &row.events) {
            self.happen(target, event);
        }
        self.applied.counts.events_rejected += u64::from(row.events_rejected);
        if let Some(entry) = self.entries.get_mut(target) {
            entry.touched = true;
        }
        self.applied.counts.merged += 1;
        self.applied.counts.cells_rejected += u64::from(row.misfits) + misfits;
        None
    }

    fn modified(&self, place: usize) -> i64 {
        self.entries.get(place).map_or(i64::MIN, |entry| entry.record.modified)
    }

    /// Whether the profile, as the row leaves it, consents to an objective of the connection and does not
    /// refuse it.
    fn consents(&self, target: Option<usize>, batch: &Prepared, row: &Row) -> bool {
        let after = |property: PropertyId| {
            let held = target.and_then(|place| self.entries.get(place));
            let mut held = held.and_then(|entry| entry.record.get_packed(property)).map(Cow::Borrowed);
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

    /// Writes what a row refuses, and nothing else of it.
    fn refuse(&mut self, target: Option<usize>, batch: &Prepared, slots: &[u32], row: &Row) {
        let refused = self.plan.refused;
        let mut properties = batch
            .writes(self.plan, row)
            .filter_map(|write| self.plan.fields.get(write.field).map(|field| field.property));
        if properties.any(|property| property == refused) {
            let target = target.unwrap_or_else(|| self.create(batch, slots, row));
            self.write(target, batch, slots, row, |property| property == refused);
        }
    }

    /// A new record with the row's identifier values.
    fn create(&mut self, batch: &Prepared, slots: &[u32], row: &Row) -> usize {
        let place = self.entries.len();
        let id = match self.part {
            Part::Whole => RecordId::create(),
            Part::Share { number, ids, .. } => ids.get(number, self.created),
        };
        self.created = self.created.saturating_add(1);
        // The row's writes take a little more than the record will.
        let room = row.writes.len() + row.lookups.len() * 32;
        let mut record = Record::new(self.plan.space, self.context.now).with_room(room);
        for lookup in slice(&batch.lookups, &row.lookups) {
            let Lookup::Property { identifier, value, key } = lookup else { continue };
            let Some(identifier) = self.plan.identifiers.get(usize::from(*identifier)) else { continue };
            let Some(property) = identifier.property else { continue };
            let put = &mut self.merged;
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
            self.hold(slot(slots, *key), Holder::Entry(place));
        }
        self.entries.push(Entry {
            order: CREATED | row.number,
            id,
            record,
            loaded: None,
            touched: true,
            absorbed_another: false,
            absorbed_by: None,
        });
        place
    }

    /// Writes a row's cells into the record that was just made for it, all at once; answers whether that can be: no value has to be
    /// held against another, and no unique one is another record's.
    fn write_as_it_is(&mut self, target: usize, batch: &Prepared, slots: &[u32], row: &Row) -> bool {
        let keys = batch.written_keys(row);
        if !row.is_record || !keys.iter().all(|key| self.is_free(target, slots, *key)) {
            return false;
        }
        let Some(entry) = self.entries.get_mut(target) else { return false };
        let written = entry.record.add_packed(batch.packed_writes(row));
        if written {
            keys.iter().for_each(|key| self.hold(slot(slots, *key), Holder::Entry(target)));
        }
        written
    }

    /// Writes those of a row's cells whose properties are `wanted`; answers how many were not imported, or not wholly.
    fn write(
        &mut self,
        target: usize,
        batch: &Prepared,
        slots: &[u32],
        row: &Row,
        wanted: impl Fn(PropertyId) -> bool,
    ) -> u64 {
        let Some(entry) = self.entries.get_mut(target) else { return 0 };
        entry.touched = true;
        let mut packed = entry.record.take_packed();
        let mut merged = std::mem::take(&mut self.merged);
        let mut writes = batch.writes(self.plan, row);
        let (mut misfits, mut written) = (0, false);
        let mut next = writes.next();
        while next.is_some() {
            // One pass through the record takes the writes while they go up; a second write of a property needs another.
            merged.clear();
            let mut changed = false;
            let (held, mut last) = (packed.as_slice(), None);
            let (mut reader, mut copied) = (Unpacker(held), 0);
            let mut at = reader.clone();
            let mut held_now = reader.entry();
            while let Some(write) = next.take() {
                let Some(field) = self.plan.fields.get(write.field) else { break };
                if last.is_some_and(|last| last >= field.property) {
                    next = Some(write);
                    break;
                }
                last = Some(field.property);
                next = writes.next();
                if !wanted(field.property) {
                    continue;
                }
                while held_now.is_some_and(|(id, _)| id < field.property) {
                    at = reader.clone();
                    held_now = reader.entry();
                }
                // Nothing is held here or later, as nearly always in a new record.
                if held_now.is_none()
                    && !field.unique
                    && let Some(property) = write.property.filter(|written| begins(field.rule, written))
                {
                    merged.extend_from_slice(held.get(copied..).unwrap_or_default());
                    pack_number(field.property.0.into(), &mut merged);
                    append(property, &mut merged);
                    (copied, changed) = (held.len(), true);
                    continue;
                }
                let before = held_now.filter(|(id, _)| *id == field.property).map(|(_, held)| held);
                // What is held already is free, and nobody has to be asked.
                let same = before.is_some() && before == write.property;
                if field.unique && same && field.rule != MergeRule::Sum {
                    continue;
                }
                let free = if field.unique { self.free(target, slots, &write) } else { None };
                let cell = match &free {
                    Some(free) => {
                        misfits += 1;
                        if free.is_empty() {
                            continue;
                        }
                        Some(free.as_slice())
                    }
                    None => write.property,
                };
                let (from, to) = (held.len() - at.0.len(), held.len() - reader.0.len());
                let to = if before.is_some() { to } else { from };
                let after = match merge(field.rule, before, cell) {
                    Outcome::Keep => continue,
                    Outcome::Reject => {
                        misfits += u64::from(free.is_none());
                        continue;
                    }
                    Outcome::Clear => None,
                    Outcome::Put(put) => Some(put),
                };
                merged.extend_from_slice(held.get(copied..from).unwrap_or_default());
                if let Some(after) = &after {
                    pack_number(field.property.0.into(), &mut merged);
                    merged.extend_from_slice(after);
                }
                if field.unique {
                    let (before, after) = (before.unwrap_or_default(), after.as_deref().unwrap_or_default());
                    self.identify(target, field.property, before, after);
                }
                (copied, changed) = (to, true);
            }
            if changed {
                merged.extend_from_slice(held.get(copied..).unwrap_or_default());
                packed.clear();
                packed.reserve_exact(merged.len());
                packed.extend_from_slice(&merged);
                written = true;
            }
        }
        self.merged = merged;
        if let Some(entry) = self.entries.get_mut(target) {
            entry.record.put_packed(packed);
            if written {
                entry.record.modified = self.context.now;
            }
        }
        misfits
    }

    /// Whether no other record holds the value of a key.
    fn is_free(&self, target: usize, slots: &[u32], key: u32) -> bool {
        match self.holder(slot(slots, key)) {
            Holder::Nobody => true,
            Holder::Entry(place) => place == target,
            Holder::Elsewhere(_) => false,
        }
    }

    /// The values of a unique property that no other record holds, packed, or nothing where none is left; `None` where
    /// all of them are free.
    fn free(&self, target: usize, slots: &[u32], write: &Write<'_>) -> Option<Vec<u8>> {
        let property = write.property?;
        let keyed = (write.key..).zip(packed_values(property));
        let free: Vec<&[u8]> =
            keyed.filter(|(key, _)| self.is_free(target, slots, *key)).map(|(_, value)| value).collect();
        match free.len() {
            0 => Some(Vec::new()),
            kept if kept == packed_values(property).count() => None,
            _ => Some(list(&free)),
        }
    }

    /// Lets the values of a unique property find `target`, and those that it no longer has, nobody.
    fn identify(&mut self, target: usize, property: PropertyId, before: &[u8], after: &[u8]) {
        for value in without(before, after) {
            self.hold_value(property, value, Holder::Nobody);
        }
        for value in without(after, before) {
            self.hold_value(property, value, Holder::Entry(target));
        }
    }

    /// Puts an event on a profile's time line.
    fn happen(&mut self, target: usize, event: &RowEvent) {
        if event.expired {
            self.applied.counts.events_expired += 1;
            return;
        }
        let Some(entry) = self.entries.get_mut(target) else { return };
        let key = EventKey { record: entry.id, event_type: event.event_type, id: event.id.clone() };
        let (written, difference) = self.timeline.put(key, event.event.clone(), entry.loaded.is_some());
        match written {
            Written::Unchanged => return,
            Written::Created => self.applied.counts.events_created += 1,
            Written::Updated => self.applied.counts.events_updated += 1,
            Written::Again => {}
        }
        entry.record.events = entry.record.events.wrapping_add(difference);
        entry.record.modified = self.context.now;
    }

    /// Moves what `other` has and `target` lacks, and removes `other`.
    fn absorb(&mut self, target: usize, other: usize) {
        let Some(staying) = self.entries.get(target).map(|entry| (entry.id, entry.loaded.is_some())) else {
            return;
        };
        let Some(gone) = self.entries.get_mut(other) else { return };
        gone.absorbed_by = Some(target);
        let (gone_id, gone_stored) = (gone.id, gone.loaded.is_some());
        let (created, packed) = (gone.record.created, gone.record.packed().to_vec());
        let events = self.timeline.move_all((gone_id, gone_stored), staying);
        let mut properties = Unpacker(&packed);
        while let Some((id, property)) = properties.entry() {
            let Some(entry) = self.entries.get_mut(target) else { return };
            let held = entry.record.get_packed(id);
            let lists = is_list(property) || held.is_some_and(is_list);
            let moves = lists || held.is_none();
            if lists {
                let united = unite(held.unwrap_or_default(), property);
                entry.record.set_packed(id, &united);
            } else if moves {
                entry.record.set_packed(id, property);
            }
            if self.plan.unique.binary_search(&id).is_ok() {
                let holder = if moves { Holder::Entry(target) } else { Holder::Nobody };
                packed_values(property).for_each(|value| self.hold_value(id, value, holder));
            }
        }
        if let Some(entry) = self.entries.get_mut(target) {
            entry.record.created = entry.record.created.min(created);
            entry.record.events = entry.record.events.wrapping_add(events);
            entry.record.modified = self.context.now;
            entry.touched = true;
            entry.absorbed_another = true;
        }
    }

    fn resolve(&self, mut place: usize) -> usize {
        while let Some(next) = self.entries.get(place).and_then(|entry| entry.absorbed_by) {
            place = next;
        }
        place
    }

    fn holder(&self, slot: usize) -> Holder {
        match self.part.own(slot).and_then(|own| self.holders.get(own)) {
            Some(Holder::Entry(place)) => Holder::Entry(self.resolve(*place)),
            Some(holder) => *holder,
            None => Holder::Nobody,
        }
    }

    fn hold(&mut self, slot: usize, holder: Holder) {
        let Some(own) = self.part.own(slot) else {
            self.strayed.push((self.row, u32::try_from(slot).unwrap_or(u32::MAX)));
            return;
        };
        if let Some(held) = self.holders.get_mut(own) {
            *held = holder;
            self.changed.push(u32::try_from(own).unwrap_or(u32::MAX));
        }
    }

    /// `value` is packed.
    fn hold_value(&mut self, property: PropertyId, value: &[u8], holder: Holder) {
        let mut identifier = Vec::with_capacity(48);
        Identifier::write(self.plan.space, property, &packed_text_bytes(value), &mut identifier);
        let hash = self.plan.hasher.hash(&identifier);
        match self.gathered.slot_of(hash) {
            Some(slot) => self.hold(slot, holder),
            None => {
                self.others.insert(hash, holder);
            }
        }
    }
}

impl Work<'_> {
    /// What became of the rows, identifiers in no order; or those rows that met a slot of another share, and that slot.
    pub(crate) fn finish(mut self) -> Result<Applied, Vec<(u32, u32)>> {
        if !self.strayed.is_empty() {
            return Err(self.strayed);
        }
        let goal_run = self.context.goal_run;
        let others = std::mem::take(&mut self.others);
        let holder = |holder: Holder| match holder {
            Holder::Nobody => None,
            Holder::Elsewhere(id) => Some(id),
            Holder::Entry(place) => self.entries.get(self.resolve(place)).map(|entry| entry.id),
        };
        let held = |own: &u32| Some((self.part.slot(*own), holder(*self.holders.get(*own as usize)?)));
        let mut slots = Vec::with_capacity(self.changed.len());
        slots.extend(self.changed.iter().filter_map(held));
        let others = others.into_iter().map(|(key, held)| (key, holder(held))).collect();
        (self.applied.slots, self.applied.others) = (slots, others);
        self.applied.events = self.timeline.finish();
        let absorbed = self.entries.iter().enumerate().filter(|(_, entry)| entry.absorbed_by.is_some());
        let into = absorbed.filter_map(|(place, _)| {
            Some((place, self.entries.get(self.resolve(place)).map(|entry| entry.id)?))
        });
        let into: HashMap<usize, RecordId> = into.collect();
        let applied = &mut self.applied;
        // In the memory of the entries.
        let records =
            std::mem::take(&mut self.entries).into_iter().enumerate().filter_map(|(place, mut entry)| {
                let before = (entry.record.touch.goal_run == goal_run).then_some(entry.record.touch);
                if let Some(into) = into.get(&place) {
                    applied.merged.push((entry.id, *into));
                    count(&mut applied.counts, before, None);
                    return None;
                }
                if !entry.touched {
                    return None;
                }
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

/// How a record is counted after this stretch, given how the same goal run counted it before.
fn touch(entry: &Entry, before: Option<Touch>, goal_run: u64) -> Touch {
    let Some(loaded) = entry.loaded else {
        return Touch { goal_run, first_fingerprint: 0, class: Class::Created };
    };
    let first_fingerprint = before.map_or(loaded, |touch| touch.first_fingerprint);
    let now = entry.record.fingerprint();
    match before.map(|touch| touch.class) {
        Some(Class::Created) => Touch { goal_run, first_fingerprint, class: Class::Created },
        // It counts as updated for the rest of the run, whatever becomes of its properties.
        _ if entry.absorbed_another => Touch { goal_run, first_fingerprint: !now, class: Class::Updated },
        _ if now != first_fingerprint => Touch { goal_run, first_fingerprint, class: Class::Updated },
        _ => Touch { goal_run, first_fingerprint, class: Class::Unchanged },
    }
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

fn slot(slots: &[u32], key: u32) -> usize {
    slots.get(key as usize).map_or(usize::MAX, |slot| *slot as usize)
}

fn slice<'a, T>(all: &'a [T], range: &Range<u32>) -> &'a [T] {
    all.get(range.start as usize..range.end as usize).unwrap_or_default()
}
