//! The rows of a stretch in shares that have no record and no identifier in common: each can be applied on a thread of
//! its own, and the result is that of applying all of them in file order.

use std::borrow::Cow;
use std::thread;

use sluicebox_model::RecordId;

use crate::apply::{Applied, Context, Found, Holder, Ordered, Part, Work};
use crate::gather::{Gathered, Loaded};
use crate::plan::{OnAmbiguous, Plan};
use crate::prepare::Lookup;
use crate::timeline::NoEvents;

/// Fewer rows are not worth another thread.
const FEWEST_ROWS: usize = 16_384;
/// Each takes 16 bytes of memory for every identifier of the stretch.
const MOST_SHARES: usize = 4;
/// No row yet.
const NONE: u32 = u32::MAX;

/// Which share each row and each slot belongs to: the first where nothing is said.
pub(crate) struct Shares {
    /// By the rows that the processors kept, in file order.
    rows: Vec<u8>,
    /// By the places of distinct identifiers.
    slots: Vec<u8>,
}

impl Gathered {
    /// Whether [`Gathered::apply_in_shares`] may be asked: there are many rows, and what becomes of one hangs on no row of
    /// another record.
    pub fn can_be_shared(&self, plan: &Plan, context: &Context) -> bool {
        let by_id = |lookup: &Lookup| matches!(lookup, Lookup::Record(_));
        plan.events.is_empty()
            && plan.on_ambiguous != OnAmbiguous::Merge
            && context.rejections_left == u64::MAX
            && self.rows() >= FEWEST_ROWS
            && !self.batches.iter().flat_map(|batch| &batch.lookups).any(by_id)
    }

    /// As [`Gathered::apply`], on so many threads. `None` if the shares turn out to have something in common: a record holds a
    /// value of a unique property by which another one is found. Then all rows are to be applied one after the other.
    pub fn apply_in_shares(
        &self,
        plan: &Plan,
        context: Context,
        found: &[Option<RecordId>],
        erased: &[bool],
        (ids, records): (&[RecordId], Found),
        threads: usize,
    ) -> Option<Applied<'_>> {
        let count = threads.clamp(1, MOST_SHARES);
        let loaded = Loaded::new(ids, records);
        let placed = |id: &Option<RecordId>| id.and_then(|id| loaded.places.get(&id).copied());
        let placed: Vec<Option<usize>> = found.iter().map(placed).collect();
        let shares = Shares::of(self, &placed, loaded.entries.len(), count);
        let parts = loaded.share_out(&shares, &placed, count);
        let (placed, shares) = (&placed, &shares);
        let parts = thread::scope(|scope| {
            let apply = |(share, (entries, places)): (u8, (Ordered, Vec<u32>))| {
                scope.spawn(move || {
                    let own = |place: usize| places.get(place).filter(|place| **place != NONE);
                    let holder = |(found, place): (&Option<RecordId>, &Option<usize>)| {
                        Holder::of(*found, place.and_then(own).map(|place| *place as usize))
                    };
                    let holders = found.iter().zip(placed).map(holder).collect();
                    let (mut events, part) = (NoEvents, Part { shares, share });
                    let mut work =
                        Work::new(plan, self, context, erased, (entries, holders), &mut events, part);
                    work.rows();
                    work.finish()
                })
            };
            let threads: Vec<_> = (0..).zip(parts).map(apply).collect();
            threads.into_iter().map(|thread| thread.join().ok().flatten()).collect::<Option<Vec<_>>>()
        })?;
        let mut whole = Applied::default();
        parts.into_iter().for_each(|part| whole.join(part));
        // Those that no row names are few, and may have been changed in two shares.
        let unnamed = whole.identifiers.iter().filter(|(key, _)| matches!(key, Cow::Owned(_)));
        let mut unnamed: Vec<&[u8]> = unnamed.map(|(key, _)| key.as_ref()).collect();
        unnamed.sort_unstable();
        if unnamed.array_windows().any(|[one, next]| one == next) {
            return None;
        }
        Some(whole)
    }
}

impl Shares {
    /// One share that has everything.
    pub(crate) fn whole() -> Self {
        Self { rows: Vec::new(), slots: Vec::new() }
    }

    pub(crate) fn of_row(&self, row: usize) -> u8 {
        self.rows.get(row).copied().unwrap_or_default()
    }

    pub(crate) fn of_slot(&self, slot: usize) -> u8 {
        self.slots.get(slot).copied().unwrap_or_default()
    }

    /// `placed[slot]` is the place of the record that the slot finds, among so many `records`. Rows that have a slot or a
    /// record in common get into one share, that of the first of them; a share is a part of the file but for those.
    fn of(gathered: &Gathered, placed: &[Option<usize>], records: usize, count: usize) -> Self {
        let rows = gathered.rows();
        let mut sets = Sets((0..u32::try_from(rows).unwrap_or(NONE)).collect());
        let (mut of_slot, mut of_record) = (vec![NONE; placed.len()], vec![NONE; records]);
        let mut number = 0;
        for (batch, slots) in gathered.batches.iter().zip(&gathered.slots) {
            let ends = batch.rows.iter().skip(1).map(|row| row.first_key).chain([batch.keys.len()]);
            for (row, end) in batch.rows.iter().zip(ends) {
                for slot in slots.get(row.first_key as usize..end as usize).unwrap_or_default() {
                    let slot = *slot as usize;
                    if let Some(first) = of_slot.get_mut(slot) {
                        sets.join(first, number);
                    }
                    let record = placed.get(slot).copied().flatten();
                    if let Some(first) = record.and_then(|place| of_record.get_mut(place)) {
                        sets.join(first, number);
                    }
                }
                number += 1;
            }
        }
        let share = |first: usize| u8::try_from(first * count / rows.max(1)).unwrap_or_default();
        let rows: Vec<u8> = (0..number).map(|row| share(sets.first(row) as usize)).collect();
        let slots = of_slot.iter().map(|row| rows.get(*row as usize).copied().unwrap_or_default()).collect();
        Self { rows, slots }
    }
}

/// Rows in sets, each known by its first row (union-find).
struct Sets(Vec<u32>);

impl Sets {
    fn first(&mut self, mut row: u32) -> u32 {
        while let Some(next) = self.0.get(row as usize).copied().filter(|next| *next != row) {
            let after = self.0.get(next as usize).copied().unwrap_or(next);
            if let Some(next) = self.0.get_mut(row as usize) {
                *next = after;
            }
            row = after;
        }
        row
    }

    /// Puts a row into the set of another, or makes it the first.
    fn join(&mut self, first: &mut u32, row: u32) {
        if *first == NONE {
            *first = row;
            return;
        }
        let (one, other) = (self.first(*first), self.first(row));
        if let Some(parent) = self.0.get_mut(one.max(other) as usize) {
            *parent = one.min(other);
        }
    }
}

/// A share's records, each with its place among all; and for each of all, its place in the share that has it.
type SharedOut = Vec<(Ordered, Vec<u32>)>;

impl Loaded {
    /// Gives each record to the share of the slots that find it.
    fn share_out(self, shares: &Shares, placed: &[Option<usize>], count: usize) -> SharedOut {
        let mut share_of = vec![0_u8; self.entries.len()];
        for (place, share) in placed.iter().zip(&shares.slots) {
            if let Some(of) = place.and_then(|place| share_of.get_mut(place)) {
                *of = *share;
            }
        }
        let mut parts: SharedOut = (0..count).map(|_| (Vec::new(), vec![NONE; share_of.len()])).collect();
        for ((number, entry), share) in (0..).zip(self.entries).zip(share_of) {
            let Some((entries, places)) = parts.get_mut(usize::from(share)) else { continue };
            if let Some(place) = places.get_mut(number as usize) {
                *place = u32::try_from(entries.len()).unwrap_or(NONE);
            }
            entries.push((number, entry));
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};
    use std::sync::Arc;

    use jiff::tz::TimeZone;
    use proptest::prelude::*;
    use sluicebox_model::{
        CellFormat, Header, MergeRule, NumberFormat, PropertyId, Record, RecordBatch, SpaceId, TimeFormat,
        ValueType,
    };

    use super::*;
    use crate::plan::{FieldPlan, IdentifierPlan};
    use crate::{Counts, prepare};

    const COLUMNS: [&str; 4] = ["email", "phone", "aliases", "name"];

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
            multiple: column == 2,
            unique: column < 3,
            format: format(),
        };
        Plan {
            space: SpaceId(1),
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
            objectives: Vec::new(),
            consented: PropertyId(1),
            refused: PropertyId(2),
            unique: (0..3).map(property).collect(),
        }
    }

    fn gathered(plan: &Plan, rows: &[[u8; 4]]) -> Gathered {
        let header = Arc::new(Header {
            columns: COLUMNS.map(str::to_owned).to_vec(),
            trim: true,
            null_values: Vec::new(),
        });
        let batch = |(number, rows): (usize, &[[u8; 4]])| {
            let (mut text, mut ends) = (String::new(), Vec::new());
            for [email, phone, alias, name] in rows {
                // Values are few, so that rows have them in common; 0 is an empty cell.
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
            prepare(plan, batch.unwrap(), &[], 0)
        };
        Gathered::new(rows.chunks(7).enumerate().map(batch).collect())
    }

    #[derive(Clone, Default)]
    struct Model {
        records: BTreeMap<RecordId, Record>,
        index: HashMap<Vec<u8>, RecordId>,
    }

    impl Model {
        fn found(&self, gathered: &Gathered) -> Vec<Option<RecordId>> {
            gathered.keys().map(|key| self.index.get(key).copied()).collect()
        }

        fn load(&self, ids: &[RecordId]) -> Found {
            ids.iter().map(|id| self.records.get(id).map(|record| (*id, record.clone()))).collect()
        }

        fn take(&mut self, applied: Applied<'_>) {
            self.records.extend(applied.records);
            for (key, id) in applied.identifiers {
                match id {
                    Some(id) => self.index.insert(key.to_vec(), id),
                    None => self.index.remove(key.as_ref()),
                };
            }
        }

        /// What it is but for the ids of records, which differ from time to time.
        fn shown(&self) -> (Vec<Packed>, BTreeMap<Vec<u8>, Packed>) {
            let mut records: Vec<Vec<u8>> =
                self.records.values().map(|record| record.packed().to_vec()).collect();
            records.sort();
            let holder =
                |id: &RecordId| self.records.get(id).map_or(Vec::new(), |record| record.packed().to_vec());
            (records, self.index.iter().map(|(key, id)| (key.clone(), holder(id))).collect())
        }
    }

    type Packed = Vec<u8>;
    type Shown = (Counts, Vec<u64>, u64, Vec<Packed>);

    /// What is told of the rows, and the model after them.
    fn after(mut model: Model, applied: Applied<'_>) -> (Shown, Model) {
        let rejected = applied.rejected.iter().map(|row| row.number).collect();
        let (counts, position) = (applied.counts, applied.position);
        let last: Vec<_> = applied.last_changed().collect();
        model.take(applied);
        let last = last.iter().map(|(id, _)| model.records[id].packed().to_vec()).collect();
        ((counts, rejected, position, last), model)
    }

    proptest! {
        #[test]
        fn shares_make_what_one_thread_makes(
            before in prop::collection::vec(prop::array::uniform4(0_u8..40), 0..60),
            rows in prop::collection::vec(prop::array::uniform4(0_u8..40), 1..120),
            (on_ambiguous, aliases, create) in (0_usize..3, prop::bool::ANY, prop::bool::ANY),
            threads in 1_usize..6,
        ) {
            let on_ambiguous = [OnAmbiguous::Reject, OnAmbiguous::First, OnAmbiguous::Newest][on_ambiguous];
            let aliases = if aliases { MergeRule::Add } else { MergeRule::Set };
            let mut model = Model::default();
            let context = Context { goal_run: 1, now: 1, from: 0, rejections_left: u64::MAX };
            let first = plan(OnAmbiguous::First, MergeRule::Add, true);
            let held = gathered(&first, &before);
            let nobody = vec![None; held.len()];
            model.take(held.apply(&first, context, &nobody, &[], (&[], Vec::new()), &mut NoEvents));

            let plan = plan(on_ambiguous, aliases, create);
            let gathered = gathered(&plan, &rows);
            let later = Context { goal_run: 2, now: 2, ..context };
            let found = model.found(&gathered);
            let ids = gathered.records(&found);
            let load = || (ids.as_slice(), model.load(&ids));
            let (told, whole) =
                after(model.clone(), gathered.apply(&plan, later, &found, &[], load(), &mut NoEvents));
            if let Some(applied) = gathered.apply_in_shares(&plan, later, &found, &[], load(), threads) {
                let (told_in_shares, in_shares) = after(model.clone(), applied);
                prop_assert_eq!(told_in_shares, told);
                prop_assert_eq!(in_shares.shown(), whole.shown());
            }
        }
    }

    #[test]
    fn rows_without_anything_in_common_are_always_shared() {
        let plan = plan(OnAmbiguous::Reject, MergeRule::Add, true);
        let rows: Vec<[u8; 4]> = (1..100).map(|number| [number, 0, 0, 1]).collect();
        let gathered = gathered(&plan, &rows);
        let nobody = vec![None; gathered.len()];
        let context = Context { goal_run: 1, now: 1, from: 0, rejections_left: u64::MAX };
        let applied = gathered.apply_in_shares(&plan, context, &nobody, &[], (&[], Vec::new()), 4).unwrap();
        assert_eq!((applied.records.len(), applied.identifiers.len(), applied.position), (99, 99, 99));
        let shares = Shares::of(&gathered, &vec![None; gathered.len()], 0, 4);
        assert_eq!([0, 24, 25, 98].map(|row: usize| shares.rows[row]), [0, 0, 1, 3]);
    }
}
