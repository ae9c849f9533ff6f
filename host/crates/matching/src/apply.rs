use std::collections::HashMap;
use std::ops::Range;

use sluicebox_model::{
    Class, Event, EventKey, Identifier, Property, PropertyId, Record, RecordId, RejectedRow, RejectionCode,
    Touch, Value, Verdict,
};

use crate::gather::{Gathered, Loaded, Places};
use crate::plan::{OnAmbiguous, Plan};
use crate::prepare::{Lookup, Prepared, Row, RowEvent, Write};
use crate::rules::{Change, Outcome, merge, unite};
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

/// What a stretch of a file makes of the store.
#[derive(Debug, Default)]
pub struct Applied {
    /// Records to write.
    pub records: Vec<(RecordId, Record)>,
    /// Records that were merged into another: the old id and the one that stayed.
    pub merged: Vec<(RecordId, RecordId)>,
    /// Identifiers to write, or to remove. In no order; each once.
    pub identifiers: Vec<(Vec<u8>, Option<RecordId>)>,
    /// Events to write, or to remove. Each key once.
    pub events: Vec<(EventKey, Option<Event>)>,
    /// Rejected rows in file order.
    pub rejected: Vec<RejectedRow>,
    /// What happened.
    pub counts: Counts,
    /// The last records that were created or updated, oldest first.
    pub last_changed: Vec<(RecordId, Class)>,
    /// The number of the first record of the file that is not accounted for.
    pub position: u64,
    /// Whether more rows were rejected than may be; the rows after `position` were not looked at.
    pub too_many_rejected: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Holder {
    Nobody,
    Entry(usize),
    /// A record that no row of this stretch names.
    Elsewhere(RecordId),
}

struct Entry {
    id: RecordId,
    record: Record,
    /// The fingerprint as loaded; `None` = created in this stretch.
    loaded: Option<u64>,
    touched: bool,
    absorbed_another: bool,
    absorbed_by: Option<usize>,
}

struct Work<'a> {
    plan: &'a Plan,
    gathered: &'a Gathered,
    context: Context,
    entries: Vec<Entry>,
    places: Places,
    holders: Vec<Holder>,
    /// Slots whose holder changed, some of them several times.
    changed_slots: Vec<usize>,
    /// Changed identifiers that no row of this stretch names.
    others: HashMap<Vec<u8>, Holder>,
    timeline: Timeline<'a>,
    applied: Applied,
}

impl Gathered {
    /// Applies the rows in file order. `found[n]` is whom the n-th identifier finds; `ids` and `records` are
    /// [`Gathered::records`] and what was loaded for each; `events` answers for the events of these records.
    pub fn apply(
        &self,
        plan: &Plan,
        context: Context,
        found: &[Option<RecordId>],
        ids: &[RecordId],
        records: Vec<Option<(RecordId, Record)>>,
        events: &mut dyn HeldEvents,
    ) -> Applied {
        let loaded = Loaded::new(ids, records);
        let holders = found
            .iter()
            .map(|id| match id {
                None => Holder::Nobody,
                Some(id) => {
                    loaded.places.get(id).map_or(Holder::Elsewhere(*id), |place| Holder::Entry(*place))
                }
            })
            .collect();
        let entries = loaded.entries.into_iter().map(|(id, record)| {
            let loaded = Some(record.fingerprint());
            Entry { id, record, loaded, touched: false, absorbed_another: false, absorbed_by: None }
        });
        let mut work = Work {
            plan,
            gathered: self,
            context,
            entries: entries.collect(),
            places: loaded.places,
            holders,
            changed_slots: Vec::new(),
            others: HashMap::new(),
            timeline: Timeline::new(events, context.goal_run),
            applied: Applied { position: context.from, ..Applied::default() },
        };
        work.rows();
        work.finish()
    }
}

impl Work<'_> {
    fn rows(&mut self) {
        let gathered = self.gathered;
        for (batch, slots) in gathered.batches.iter().zip(&gathered.slots) {
            let mut prepared = batch.rows.iter().peekable();
            let mut unread = batch.batch.rejected.iter().peekable();
            for index in 0..=batch.batch.rows() {
                let last = index == batch.batch.rows();
                let number = if last { batch.batch.end } else { batch.batch.place(index).0 };
                while let Some(row) = unread.next_if(|row| row.number < number) {
                    if row.number >= self.context.from && self.reject(row.clone()) {
                        return;
                    }
                }
                if last || number < self.context.from {
                    continue;
                }
                let rejected = match batch.batch.verdict(index) {
                    Verdict::Drop => {
                        self.applied.counts.dropped += 1;
                        None
                    }
                    Verdict::Reject { code, reason } => {
                        let code = RejectionCode::Processor(code.clone());
                        Some(batch.batch.reject(index, code, reason.clone()))
                    }
                    Verdict::Keep => {
                        prepared.next_if(|row| row.index == index).and_then(|row| self.row(batch, slots, row))
                    }
                };
                self.applied.position = number + 1;
                if rejected.is_some_and(|row| self.reject(row)) {
                    return;
                }
            }
            self.applied.position = batch.batch.end;
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
        let writes = slice(&batch.writes, &row.writes);
        let mut found: Vec<usize> = Vec::with_capacity(lookups.len());
        for lookup in lookups {
            let place = match lookup {
                Lookup::Property { key, .. } => match self.holder(slot(slots, *key)) {
                    Holder::Entry(place) => Some(place),
                    _ => None,
                },
                Lookup::Record(id) => self.places.get(id).map(|place| self.resolve(*place)),
            };
            let own_space = |place: &usize| {
                self.entries.get(*place).is_some_and(|entry| entry.record.space == self.plan.space)
            };
            if let Some(place) = place.filter(own_space).filter(|place| !found.contains(place)) {
                found.push(place);
            }
        }
        let may_create =
            self.plan.create && lookups.iter().any(|lookup| matches!(lookup, Lookup::Property { .. }));
        let target = match (found.as_slice(), self.plan.on_ambiguous) {
            ([], _) if may_create => None,
            ([], _) => {
                self.applied.counts.excluded += 1;
                return None;
            }
            ([only], _) => Some(*only),
            ([_, _, ..], OnAmbiguous::Reject) => {
                let reason = format!("the identifiers find {} different records", found.len());
                return Some(batch.batch.reject(row.index, RejectionCode::Ambiguous, reason));
            }
            ([first, ..], OnAmbiguous::First | OnAmbiguous::Merge) => Some(*first),
            (several, OnAmbiguous::Newest) => several
                .iter()
                .copied()
                .reduce(|best, next| if self.modified(next) > self.modified(best) { next } else { best }),
        };
        if !self.plan.objectives.is_empty() && !self.consents(target, writes) {
            self.applied.counts.excluded += 1;
            let refusal = |write: &&Write| self.field_property(write) == Some(self.plan.refused);
            let refusals: Vec<&Write> = writes.iter().filter(refusal).collect();
            if !refusals.is_empty() {
                let target = target.unwrap_or_else(|| self.create(slots, lookups));
                for write in refusals {
                    self.write(target, slots, write);
                }
            }
            return None;
        }
        let target = target.unwrap_or_else(|| self.create(slots, lookups));
        if let (OnAmbiguous::Merge, [_, others @ ..]) = (self.plan.on_ambiguous, found.as_slice()) {
            for other in others {
                self.absorb(target, *other);
            }
        }
        let mut misfits = u64::from(row.misfits);
        for write in writes {
            misfits += u64::from(!self.write(target, slots, write));
        }
        for event in slice(&batch.events, &row.events) {
            self.happen(target, event);
        }
        self.applied.counts.events_rejected += u64::from(row.events_rejected);
        if let Some(entry) = self.entries.get_mut(target) {
            entry.touched = true;
        }
        self.applied.counts.merged += 1;
        self.applied.counts.cells_rejected += misfits;
        None
    }

    fn modified(&self, place: usize) -> i64 {
        self.entries.get(place).map_or(i64::MIN, |entry| entry.record.modified)
    }

    fn field_property(&self, write: &Write) -> Option<PropertyId> {
        self.plan.fields.get(write.field).map(|field| field.property)
    }

    /// Whether the profile, as the row leaves it, consents to an objective of the connection and does not
    /// refuse it.
    fn consents(&self, target: Option<usize>, writes: &[Write]) -> bool {
        let after = |property: PropertyId| {
            let mut held = target
                .and_then(|place| self.entries.get(place))
                .and_then(|entry| entry.record.get(property))
                .cloned();
            for write in writes.iter().filter(|write| self.field_property(write) == Some(property)) {
                let Some(field) = self.plan.fields.get(write.field) else { continue };
                match merge(field.rule, held.as_ref(), &write.change) {
                    Outcome::Put(put) => held = Some(put),
                    Outcome::Clear => held = None,
                    Outcome::Keep | Outcome::Reject => {}
                }
            }
            held
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

    /// A new record with the row's identifier values.
    fn create(&mut self, slots: &[u32], lookups: &[Lookup]) -> usize {
        let place = self.entries.len();
        let id = RecordId::create();
        let mut record = Record::new(self.plan.space, self.context.now);
        record.reserve(self.plan.fields.len() + lookups.len());
        for lookup in lookups {
            let Lookup::Property { identifier, value, key } = lookup else { continue };
            let Some(identifier) = self.plan.identifiers.get(*identifier) else { continue };
            let Some(property) = identifier.property else { continue };
            let held = record.get(property);
            let put = match (identifier.multiple, held) {
                (true, held) => {
                    Property::Many(unite(held.map_or(&[], Property::values), std::slice::from_ref(value)))
                }
                (false, None) => Property::One(value.clone()),
                (false, Some(_)) => continue,
            };
            record.set(property, put);
            self.hold(slot(slots, *key), Holder::Entry(place));
        }
        self.places.insert(id, place);
        self.entries.push(Entry {
            id,
            record,
            loaded: None,
            touched: true,
            absorbed_another: false,
            absorbed_by: None,
        });
        place
    }

    /// Applies one cell; answers whether all of it was imported.
    fn write(&mut self, target: usize, slots: &[u32], write: &Write) -> bool {
        let Some(field) = self.plan.fields.get(write.field) else { return true };
        let mut complete = true;
        let filtered;
        let change = match &write.change {
            Change::Write(property) if field.unique => {
                let free = |key: u32| {
                    matches!(self.holder(slot(slots, key)), Holder::Nobody)
                        || self.holder(slot(slots, key)) == Holder::Entry(target)
                };
                let kept: Vec<Value> = (write.key..)
                    .zip(property.values())
                    .filter(|(key, _)| free(*key))
                    .map(|(_, value)| value.clone())
                    .collect();
                complete = kept.len() == property.values().len();
                if kept.is_empty() {
                    return false;
                }
                filtered = match property {
                    Property::One(_) => write.change.clone(),
                    Property::Many(_) => Change::Write(Property::Many(kept)),
                };
                &filtered
            }
            change => change,
        };
        let Some(entry) = self.entries.get_mut(target) else { return true };
        let outcome = merge(field.rule, entry.record.get(field.property), change);
        let (before, after) = match outcome {
            Outcome::Keep => {
                entry.touched = true;
                return complete;
            }
            Outcome::Reject => return false,
            Outcome::Clear => (entry.record.clear(field.property), None),
            Outcome::Put(put) => {
                let after = field.unique.then(|| put.clone());
                (entry.record.set(field.property, put), after)
            }
        };
        entry.record.modified = self.context.now;
        entry.touched = true;
        if field.unique {
            let values = |property: &Option<Property>| {
                property.as_ref().map_or(Vec::new(), |property| property.values().to_vec())
            };
            let (before, after) = (values(&before), values(&after));
            let property = field.property;
            for value in before.iter().filter(|value| !after.contains(value)) {
                self.hold_value(property, value, Holder::Nobody);
            }
            for value in after.iter().filter(|value| !before.contains(value)) {
                self.hold_value(property, value, Holder::Entry(target));
            }
        }
        complete
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
        let (created, properties) = (gone.record.created, gone.record.properties().to_vec());
        let events = self.timeline.move_all((gone.id, gone.loaded.is_some()), staying);
        for (id, property) in properties {
            let Some(entry) = self.entries.get_mut(target) else { return };
            let lists = matches!(property, Property::Many(_))
                || matches!(entry.record.get(id), Some(Property::Many(_)));
            let moved: Vec<Value> = match entry.record.get(id) {
                Some(_) if !lists => Vec::new(),
                _ => property.values().to_vec(),
            };
            if lists {
                let united = unite(entry.record.values(id), property.values());
                entry.record.set(id, Property::Many(united));
            } else if !moved.is_empty() {
                entry.record.set(id, property.clone());
            }
            if self.plan.unique.binary_search(&id).is_ok() {
                for value in property.values() {
                    let holder = if moved.contains(value) { Holder::Entry(target) } else { Holder::Nobody };
                    self.hold_value(id, value, holder);
                }
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
        match self.holders.get(slot) {
            Some(Holder::Entry(place)) => Holder::Entry(self.resolve(*place)),
            Some(holder) => *holder,
            None => Holder::Nobody,
        }
    }

    fn hold(&mut self, slot: usize, holder: Holder) {
        if let Some(held) = self.holders.get_mut(slot) {
            *held = holder;
            self.changed_slots.push(slot);
        }
    }

    fn hold_value(&mut self, property: PropertyId, value: &Value, holder: Holder) {
        let identifier = Identifier::new(self.plan.space, property, value);
        match self.gathered.slot_of(&identifier.0) {
            Some(slot) => self.hold(slot, holder),
            None => {
                self.others.insert(identifier.0, holder);
            }
        }
    }

    fn finish(mut self) -> Applied {
        let goal_run = self.context.goal_run;
        let keys: Vec<&[u8]> = self.gathered.keys().collect();
        self.changed_slots.sort_unstable();
        self.changed_slots.dedup();
        let slots = self
            .changed_slots
            .iter()
            .filter_map(|slot| Some((keys.get(*slot)?.to_vec(), *self.holders.get(*slot)?)));
        let identifiers: Vec<(Vec<u8>, Option<RecordId>)> = slots
            .chain(self.others.iter().map(|(key, holder)| (key.clone(), *holder)))
            .map(|(key, holder)| {
                let holder = match holder {
                    Holder::Nobody => None,
                    Holder::Elsewhere(id) => Some(id),
                    Holder::Entry(place) => self.entries.get(self.resolve(place)).map(|entry| entry.id),
                };
                (key, holder)
            })
            .collect();
        self.applied.identifiers = identifiers;
        self.applied.events = self.timeline.finish();
        for place in 0..self.entries.len() {
            let into = self.resolve(place);
            let into = if into == place { None } else { self.entries.get(into).map(|entry| entry.id) };
            let Some(entry) = self.entries.get_mut(place) else { continue };
            let before = (entry.record.touch.goal_run == goal_run).then_some(entry.record.touch);
            if let Some(into) = into {
                self.applied.merged.push((entry.id, into));
                count(&mut self.applied.counts, before, None);
            } else if entry.touched {
                let touch = touch(entry, before, goal_run);
                count(&mut self.applied.counts, before, Some(touch.class));
                let mut record = std::mem::replace(&mut entry.record, Record::new(self.plan.space, 0));
                record.touch = touch;
                if touch.class != Class::Unchanged {
                    self.applied.last_changed.push((entry.id, touch.class));
                }
                self.applied.records.push((entry.id, record));
            }
        }
        let surplus = self.applied.last_changed.len().saturating_sub(5);
        self.applied.last_changed.drain(..surplus);
        self.applied
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
