//! The rows of a stretch in shares that have no record and no identifier in common: each can be applied by itself, and the
//! result is that of applying all of them in file order. A share has the records of a range of ids, so that no more of them
//! are in memory than those of the few shares that are worked on, and so that records come out sorted.

use std::io;
use std::sync::{OnceLock, mpsc};

use rayon::{ThreadPool, ThreadPoolBuilder};
use sluicebox_model::{Record, RecordId, RecordIds};

use crate::apply::{Applied, Context, Found, Holder, Ordered, Part, Work};
use crate::gather::Gathered;
use crate::plan::{OnAmbiguous, Plan};
use crate::timeline::NoEvents;

/// Fewer rows of fewer bytes are not worth another thread.
const FEWEST_ROWS: usize = 16_384;
const FEWEST_BYTES: usize = 8 << 20;
/// Records of a share, or rows that find none: they stay in a core's cache, and walking to them is worth its beginning.
const FEWEST_IN_SHARE: usize = 1024;
const MOST_IN_SHARE: usize = 4096;
/// Bytes of its rows, a few times which are in memory for each thread; one row may have more.
const BYTES_IN_SHARE: usize = 4 << 20;
/// Each thread has so many shares at least, so that none waits long for another.
const FOR_EACH_THREAD: usize = 4;
/// Shares that a thread may be ahead of what takes them.
const AHEAD: usize = 3;
/// No row or place.
const NONE: u32 = u32::MAX;
const NO_SHARE: u16 = u16::MAX;
/// There are no more shares.
const MOST_SHARES: usize = 60_000;

/// Threads on which shares are applied, one stretch after the other: what a thread gave back is room for what it needs next,
/// where another thread would take memory that was not touched before.
#[derive(Debug)]
pub struct Workers {
    count: usize,
    /// They begin when there is something for them.
    threads: OnceLock<ThreadPool>,
}

impl Workers {
    /// So many threads, or one.
    pub fn new(count: usize) -> Self {
        Self { count: count.max(1), threads: OnceLock::new() }
    }

    fn threads(&self) -> io::Result<&ThreadPool> {
        if let Some(threads) = self.threads.get() {
            return Ok(threads);
        }
        let threads = ThreadPoolBuilder::new().num_threads(self.count).thread_name(|_| "share".to_owned());
        let threads = threads.build().map_err(io::Error::other)?;
        Ok(self.threads.get_or_init(|| threads))
    }
}

impl Plan {
    /// Whether what becomes of a row hangs on no row of another record, as far as the plan tells.
    pub fn can_be_shared(&self) -> bool {
        self.events.is_empty()
            && self.on_ambiguous != OnAmbiguous::Merge
            && self.identifiers.iter().all(|identifier| identifier.property.is_some())
    }
}

impl Gathered {
    /// Whether [`Gathered::share_out`] may take the rows.
    pub fn can_be_shared(&self, plan: &Plan, context: &Context) -> bool {
        plan.can_be_shared() && context.rejections_left == u64::MAX
    }

    /// Whether they are enough for it.
    pub fn is_worth_sharing(&self) -> bool {
        self.rows() >= FEWEST_ROWS || self.memory() >= FEWEST_BYTES
    }

    /// Shares the rows out. `found[n]` is whom the n-th identifier finds.
    ///
    /// # Errors
    /// If the system has no more threads.
    pub fn share_out<'g>(
        &'g self,
        found: &'g [Option<RecordId>],
        workers: &'g Workers,
    ) -> io::Result<SharedOut<'g>> {
        self.share_out_in(found, workers, self.in_share(workers.count))
    }

    /// How many records, or rows that find none, a share has.
    fn in_share(&self, threads: usize) -> usize {
        let in_share = self.rows() / (threads * FOR_EACH_THREAD);
        let least = (self.rows() + self.len()) / MOST_SHARES;
        let fit = BYTES_IN_SHARE / (self.memory() / self.rows().max(1)).max(1);
        in_share.clamp(FEWEST_IN_SHARE, MOST_IN_SHARE).min(fit).max(least).max(1)
    }

    fn share_out_in<'g>(
        &'g self,
        found: &'g [Option<RecordId>],
        workers: &'g Workers,
        in_share: usize,
    ) -> io::Result<SharedOut<'g>> {
        let (ids, placed) = self.places(found);
        let threads = workers.threads()?;
        let shares = Shares::of(self, (&placed, ids.len()), in_share, &[], threads);
        Ok(SharedOut { gathered: self, found, ids, placed, shares, threads, joined: Vec::new() })
    }
}

/// The rows of a stretch in shares.
pub struct SharedOut<'g> {
    gathered: &'g Gathered,
    found: &'g [Option<RecordId>],
    /// The records that are found, sorted, and the place of the one that each slot finds among them.
    ids: Vec<RecordId>,
    placed: Vec<u32>,
    shares: Shares,
    threads: &'g ThreadPool,
    /// Rows that met a slot of another share before, and that slot.
    joined: Vec<(u32, u32)>,
}

/// What a share makes.
enum Made<T, E> {
    /// The records, and all else.
    Applied(T, Box<Applied>),
    /// Its rows that met a slot of another share, and that slot.
    Strayed(Vec<(u32, u32)>),
    /// A record leads to another one, which may be another share's.
    Merged,
    Failed(E),
}

impl<R, E> Made<R, E> {
    fn pack<T>(self, pack: impl Fn(R) -> T) -> Made<T, E> {
        match self {
            Self::Applied(records, applied) => Made::Applied(pack(records), applied),
            Self::Strayed(strayed) => Made::Strayed(strayed),
            Self::Merged => Made::Merged,
            Self::Failed(error) => Made::Failed(error),
        }
    }
}

impl SharedOut<'_> {
    /// Applies the shares, as [`Gathered::apply`] applies the rows. `load` answers for sorted ids, of which so many are asked
    /// for in all. `pack` gets the records of a share, sorted, on the thread that made them. `take` gets what it made of them,
    /// share after share, and where the records of the next shares begin: most ids are smaller, and what has one that is
    /// not may be kept until the end.
    ///
    /// `None` if shares turned out to have something in common: a record holds a value of a unique property by which another
    /// one is found. What was taken then counts for nothing. Asked again, the rows are shared out so that these are together.
    ///
    /// # Errors
    /// What `load` or `take` says.
    pub fn apply<T: Send, E: Send>(
        &mut self,
        plan: &Plan,
        context: Context,
        erased: &[bool],
        load: impl Fn(&[RecordId], usize) -> Result<Found, E> + Sync,
        pack: impl Fn(Vec<(RecordId, Record)>) -> T + Sync,
        mut take: impl FnMut(T, Option<RecordId>) -> Result<(), E>,
    ) -> Result<Option<Applied>, E> {
        let mut whole = self.gathered.before_rows(&context);
        whole.slots.reserve(self.gathered.len());
        let (ids, mut strayed) = (RecordIds::now(), Vec::new());
        let (out, load, pack, ids) = (&*self, &load, &pack, &ids);
        let threads = out.threads.current_num_threads();
        // Each of them has a thread: those who hand on wait for whoever takes.
        let merged = out.threads.in_place_scope(|scope| {
            let thread = |first: usize| {
                let (send, made) = mpsc::sync_channel(AHEAD);
                scope.spawn(move |_| {
                    for share in (first..out.shares.count()).step_by(threads) {
                        let made = out.share(plan, context, erased, share, ids, load).pack(pack);
                        if send.send(made).is_err() {
                            break;
                        }
                    }
                });
                made
            };
            let made: Vec<_> = (0..threads).map(thread).collect();
            for share in 0..out.shares.count() {
                match made.get(share % threads).map(mpsc::Receiver::recv) {
                    Some(Ok(Made::Applied(records, applied))) => {
                        if strayed.is_empty() {
                            take(records, out.ids.get(out.shares.first_record(share + 1)).copied())?;
                            whole.join(*applied);
                        }
                    }
                    Some(Ok(Made::Strayed(met))) => strayed.extend(met),
                    Some(Ok(Made::Failed(error))) => return Err(error),
                    Some(Ok(Made::Merged) | Err(_)) | None => return Ok(true),
                }
            }
            Ok(false)
        })?;
        whole.sort(self.gathered.len());
        // Those that no row names are few, and may have been changed in two shares.
        let twice = whole.others.array_windows().any(|[(one, _), (next, _)]| one == next);
        if merged || twice {
            return Ok(None);
        }
        if !strayed.is_empty() {
            self.joined.append(&mut strayed);
            let (placed, in_share) = ((self.placed.as_slice(), self.ids.len()), self.shares.in_share);
            self.shares = Shares::of(self.gathered, placed, in_share, &self.joined, self.threads);
            return Ok(None);
        }
        Ok(Some(whole))
    }

    fn share<E>(
        &self,
        plan: &Plan,
        context: Context,
        erased: &[bool],
        share: usize,
        ids: &RecordIds,
        load: impl Fn(&[RecordId], usize) -> Result<Found, E>,
    ) -> Made<Vec<(RecordId, Record)>, E> {
        let number = u16::try_from(share).unwrap_or(u16::MAX);
        let places = self.shares.records.of(number);
        let asked: Vec<RecordId> =
            places.iter().filter_map(|place| self.ids.get(*place as usize)).copied().collect();
        let loaded = match load(&asked, self.ids.len()) {
            Ok(loaded) => loaded,
            Err(error) => return Made::Failed(error),
        };
        // A record that is not there any more has no entry, and who finds it finds no entry.
        let (mut entries, mut entry_at) = (Ordered::with_capacity(asked.len()), vec![NONE; asked.len()]);
        for (((place, asked), record), entry) in places.iter().zip(&asked).zip(loaded).zip(&mut entry_at) {
            let Some(record) = record else { continue };
            if record.0 != *asked {
                return Made::Merged;
            }
            *entry = u32::try_from(entries.len()).unwrap_or(NONE);
            entries.push((u64::from(*place), record));
        }
        let holder = |slot: &u32| {
            let place = self.placed.get(*slot as usize).filter(|place| **place != NONE)?;
            let entry = entry_at.get(self.shares.records.place(number, *place)?)?;
            (*entry != NONE).then_some(*entry as usize)
        };
        let holders = self
            .shares
            .slots(number)
            .iter()
            .map(|slot| Holder::of(self.found.get(*slot as usize).copied().flatten(), holder(slot)));
        let (holders, mut events) = (holders.collect(), NoEvents);
        let part = Part::Share { shares: &self.shares, number, ids };
        let mut work = Work::new(plan, self.gathered, context, erased, (entries, holders), &mut events, part);
        let touch = |slot: u32| self.shares.slots.places.get(slot as usize).copied().unwrap_or_default();
        self.gathered.each_row(self.shares.rows(number), touch, |number, batch, slots, row| {
            work.shared_row(number, batch, slots, row);
        });
        match work.finish() {
            Ok(mut applied) => {
                let mut records = std::mem::take(&mut applied.records);
                records.sort_unstable_by_key(|(id, _)| *id);
                Made::Applied(records, Box::new(applied))
            }
            Err(strayed) => Made::Strayed(strayed),
        }
    }
}

/// Which share each row, each slot and each record that is found belongs to.
pub(crate) struct Shares {
    /// By the rows that the processors kept, in file order.
    rows: Groups,
    /// By the places of distinct identifiers.
    slots: Groups,
    records: Groups,
    /// Records of a share, as they follow each other.
    in_share: usize,
}

impl Shares {
    /// The place of a slot among those of a share, if it is one of them.
    pub(crate) fn own(&self, share: u16, slot: usize) -> Option<usize> {
        self.slots.place(share, u32::try_from(slot).ok()?)
    }

    /// The rows of a share.
    pub(crate) fn rows(&self, share: u16) -> &[u32] {
        self.rows.of(share)
    }

    /// The slots of a share.
    pub(crate) fn slots(&self, share: u16) -> &[u32] {
        self.slots.of(share)
    }

    fn count(&self) -> usize {
        self.rows.starts.len().saturating_sub(1)
    }

    /// From where on a share and those after it have their records.
    fn first_record(&self, share: usize) -> usize {
        share * self.in_share
    }

    /// `placed[slot]` is the place of the record that the slot finds, among so many. Rows that have a slot or a record in
    /// common get into one share, that of the first of their records; those without a record are shared out as they come.
    /// What was found to belong together is `joined`.
    fn of(
        gathered: &Gathered,
        (placed, records): (&[u32], usize),
        in_share: usize,
        joined: &[(u32, u32)],
        threads: &ThreadPool,
    ) -> Self {
        let rows = gathered.rows();
        let mut sets = Sets((0..u32::try_from(rows).unwrap_or(NONE)).collect());
        let (mut of_slot, mut of_record) = (vec![NONE; placed.len()], vec![NONE; records]);
        gathered.each(|number, slots| {
            for slot in slots {
                let slot = *slot as usize;
                if let Some(first) = of_slot.get_mut(slot) {
                    sets.join(first, number);
                }
                let record = placed.get(slot).and_then(|place| of_record.get_mut(*place as usize));
                if let Some(first) = record {
                    sets.join(first, number);
                }
            }
        });
        for (row, slot) in joined {
            if let Some(first) = of_slot.get_mut(*slot as usize) {
                sets.join(first, *row);
            }
        }
        let mut share_of = vec![NO_SHARE; rows];
        let numbered = |share: usize| u16::try_from(share).unwrap_or(NO_SHARE);
        for (place, row) in of_record.iter().enumerate() {
            let share = share_of.get_mut(sets.first(*row) as usize);
            if let Some(share) = share.filter(|share| **share == NO_SHARE) {
                *share = numbered(place / in_share);
            }
        }
        // Sets are known by their first rows, which come before the others.
        let (first_of_new, mut new) = (records.div_ceil(in_share), 0);
        for row in 0..rows {
            let first = sets.first(u32::try_from(row).unwrap_or(NONE)) as usize;
            let mut share = share_of.get(first).copied().unwrap_or(NO_SHARE);
            if share == NO_SHARE {
                share = numbered(first_of_new + new / in_share);
                new += 1;
                if let Some(of_first) = share_of.get_mut(first) {
                    *of_first = share;
                }
            }
            if let Some(of_row) = share_of.get_mut(row) {
                *of_row = share;
            }
        }
        let count = first_of_new + new.div_ceil(in_share);
        let share = |row: &u32| share_of.get(*row as usize).copied().unwrap_or_default();
        let of_rows = |rows: &[u32]| Groups::new(&rows.iter().map(share).collect::<Vec<_>>(), count);
        let rest = || (of_rows(&of_record), Groups::new(&share_of, count));
        let (slots, (records, rows)) = threads.join(|| of_rows(&of_slot), rest);
        Self { rows, slots, records, in_share }
    }
}

/// Numbers in groups, those of a group in their order.
#[derive(Default)]
struct Groups {
    numbers: Vec<u32>,
    /// Where in `numbers` each group starts, and where the last ends.
    starts: Vec<u32>,
    /// Where each number is in `numbers`.
    places: Vec<u32>,
}

impl Groups {
    /// Puts the numbers from 0 on into the groups that are told.
    fn new(groups: &[u16], count: usize) -> Self {
        let mut starts = vec![0_u32; count + 1];
        for group in groups {
            if let Some(size) = starts.get_mut(usize::from(*group) + 1) {
                *size += 1;
            }
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        let (mut next, mut numbers) = (starts.clone(), vec![0; groups.len()]);
        let mut places = Vec::with_capacity(groups.len());
        for (number, group) in (0..).zip(groups) {
            let Some(place) = next.get_mut(usize::from(*group)) else { continue };
            if let Some(slot) = numbers.get_mut(*place as usize) {
                *slot = number;
            }
            places.push(*place);
            *place += 1;
        }
        Self { numbers, starts, places }
    }

    fn bounds(&self, group: u16) -> (u32, u32) {
        let bound = |group: usize| self.starts.get(group).copied().unwrap_or_default();
        (bound(group.into()), bound(usize::from(group) + 1))
    }

    fn of(&self, group: u16) -> &[u32] {
        let (from, to) = self.bounds(group);
        self.numbers.get(from as usize..to as usize).unwrap_or_default()
    }

    /// The place of a number in a group, if it is there.
    fn place(&self, group: u16, number: u32) -> Option<usize> {
        let (from, to) = self.bounds(group);
        let place = self.places.get(number as usize)?;
        (from..to).contains(place).then(|| (place - from) as usize)
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
    use crate::{Counts, Room, prepare};

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
        let mut room = Room::default();
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
            prepare(plan, batch.unwrap(), &[], 0, &mut room)
        };
        Gathered::new(rows.chunks(7).enumerate().map(batch).collect())
    }

    #[derive(Clone, Default)]
    struct Model {
        records: BTreeMap<RecordId, Record>,
        index: HashMap<IdentifierHash, RecordId>,
    }

    impl Model {
        fn found(&self, gathered: &Gathered) -> Vec<Option<RecordId>> {
            gathered.hashes().iter().map(|hash| self.index.get(hash).copied()).collect()
        }

        fn load(&self, ids: &[RecordId]) -> Found {
            ids.iter().map(|id| self.records.get(id).map(|record| (*id, record.clone()))).collect()
        }

        fn take(&mut self, applied: Applied, gathered: &Gathered) {
            for (hash, id) in applied.identifiers(gathered) {
                match id {
                    Some(id) => self.index.insert(hash, id),
                    None => self.index.remove(&hash),
                };
            }
            self.records.extend(applied.records);
        }

        /// What shares make of the rows, as one; and whether it took more than one attempt. `None` if they did not get apart.
        fn apply_in_shares(
            &self,
            (plan, context): (&Plan, Context),
            gathered: &Gathered,
            (threads, in_share): (usize, usize),
        ) -> Option<(Applied, bool)> {
            let found = self.found(gathered);
            let workers = Workers::new(threads);
            let mut shares = gathered.share_out_in(&found, &workers, in_share).unwrap();
            for attempt in 0..4 {
                let mut records: Vec<(RecordId, Record)> = Vec::new();
                let applied = shares.apply(
                    plan,
                    context,
                    &[],
                    |ids, _| Ok::<_, ()>(self.load(ids)),
                    |share| share,
                    |share, _| {
                        assert!(share.is_sorted_by(|(one, _), (next, _)| one < next));
                        records.extend(share);
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

        /// What it is but for the ids of records, which differ from time to time.
        fn shown(&self) -> (Vec<Packed>, BTreeMap<IdentifierHash, Packed>) {
            let mut records: Vec<Vec<u8>> =
                self.records.values().map(|record| record.packed().to_vec()).collect();
            records.sort();
            let holder =
                |id: &RecordId| self.records.get(id).map_or(Vec::new(), |record| record.packed().to_vec());
            (records, self.index.iter().map(|(hash, id)| (*hash, holder(id))).collect())
        }
    }

    type Packed = Vec<u8>;
    type Shown = (Counts, Vec<u64>, u64, Vec<Packed>);

    /// What is told of the rows, and the model after them.
    fn after(mut model: Model, applied: Applied, gathered: &Gathered) -> (Shown, Model) {
        let rejected = applied.rejected.iter().map(|row| row.number).collect();
        let (counts, position) = (applied.counts, applied.position);
        let last: Vec<_> = applied.last_changed().collect();
        model.take(applied, gathered);
        let last = last.iter().map(|(id, _)| model.records[id].packed().to_vec()).collect();
        ((counts, rejected, position, last), model)
    }

    proptest! {
        #[test]
        fn shares_make_what_one_thread_makes(
            before in prop::collection::vec(prop::array::uniform4(0_u8..40), 0..60),
            rows in prop::collection::vec(prop::array::uniform4(0_u8..40), 1..120),
            (on_ambiguous, aliases, create) in (0_usize..3, prop::bool::ANY, prop::bool::ANY),
            sizes in (1_usize..4, 1_usize..20),
        ) {
            let on_ambiguous = [OnAmbiguous::Reject, OnAmbiguous::First, OnAmbiguous::Newest][on_ambiguous];
            let aliases = if aliases { MergeRule::Add } else { MergeRule::Set };
            let mut model = Model::default();
            let context = Context { goal_run: 1, now: 1, from: 0, rejections_left: u64::MAX };
            let first = plan(OnAmbiguous::First, MergeRule::Add, true);
            let held = gathered(&first, &before);
            let nobody = vec![None; held.len()];
            model.take(held.apply(&first, context, &nobody, &[], (&[], Vec::new()), &mut NoEvents), &held);

            let plan = plan(on_ambiguous, aliases, create);
            let gathered = gathered(&plan, &rows);
            let later = Context { goal_run: 2, now: 2, ..context };
            let found = model.found(&gathered);
            let ids = gathered.records(&found);
            let records = (ids.as_slice(), model.load(&ids));
            let whole = gathered.apply(&plan, later, &found, &[], records, &mut NoEvents);
            let (told, whole) = after(model.clone(), whole, &gathered);
            if let Some((applied, _)) = model.apply_in_shares((&plan, later), &gathered, sizes) {
                let (told_in_shares, in_shares) = after(model.clone(), applied, &gathered);
                prop_assert_eq!(told_in_shares, told);
                prop_assert_eq!(in_shares.shown(), whole.shown());
            }
        }
    }

    proptest! {
        #[test]
        fn a_new_record_that_is_taken_as_it_is_written_is_what_its_values_make_one_by_one(
            before in prop::collection::vec(prop::array::uniform4(0_u8..40), 0..60),
            rows in prop::collection::vec(prop::array::uniform4(0_u8..40), 1..120),
            aliases in prop::sample::select(vec![MergeRule::Set, MergeRule::SetOrClear, MergeRule::Add]),
        ) {
            let plan = plan(OnAmbiguous::First, aliases, true);
            let mut one_by_one = plan.clone();
            // Another field of the last property, which has no cell.
            let last = one_by_one.fields.last().unwrap().clone();
            one_by_one.fields.push(FieldPlan { column: COLUMNS.len(), ..last });
            let [as_written, one_by_one] = [plan, one_by_one].map(|plan| {
                let mut model = Model::default();
                for (now, rows) in [(1, &before), (2, &rows)] {
                    let gathered = gathered(&plan, rows);
                    let found = model.found(&gathered);
                    let ids = gathered.records(&found);
                    let records = (ids.as_slice(), model.load(&ids));
                    let context = Context { goal_run: now, now: now as i64, from: 0, rejections_left: u64::MAX };
                    let applied = gathered.apply(&plan, context, &found, &[], records, &mut NoEvents);
                    model = after(model, applied, &gathered).1;
                }
                model.shown()
            });
            prop_assert_eq!(as_written, one_by_one);
        }
    }

    #[test]
    fn rows_without_anything_in_common_are_always_shared() {
        let plan = plan(OnAmbiguous::Reject, MergeRule::Add, true);
        let rows: Vec<[u8; 4]> = (1..100).map(|number| [number, 0, 0, 1]).collect();
        let gathered = gathered(&plan, &rows);
        let context = Context { goal_run: 1, now: 1, from: 0, rejections_left: u64::MAX };
        let (applied, again) =
            Model::default().apply_in_shares((&plan, context), &gathered, (4, 25)).unwrap();
        let counts = (applied.records.len(), applied.identifiers(&gathered).count(), applied.position);
        assert_eq!((counts, again), ((99, 99, 99), false));
        let workers = Workers::new(2);
        let shares =
            Shares::of(&gathered, (&vec![NONE; gathered.len()], 0), 25, &[], workers.threads().unwrap());
        assert_eq!([0, 1, 2, 3].map(|share| shares.rows(share).len()), [25, 25, 25, 24]);
        assert_eq!(shares.rows(1).first(), Some(&25));
    }

    #[test]
    fn shares_of_long_rows_have_fewer() {
        let plan = plan(OnAmbiguous::Reject, MergeRule::Add, true);
        let mut gathered = gathered(&plan, &vec![[1, 0, 0, 1]; 40_000]);
        assert_eq!(gathered.in_share(2), 4096);
        for batch in &mut gathered.batches {
            batch.lengthen(7 * 40_000);
        }
        let in_share = gathered.in_share(2);
        assert!((100..=104).contains(&in_share), "{in_share}");
    }

    #[test]
    fn shares_that_meet_are_put_together() {
        let plan = plan(OnAmbiguous::Reject, MergeRule::Set, true);
        let context = Context { goal_run: 1, now: 1, from: 0, rejections_left: u64::MAX };
        let held = gathered(&plan, &[[1, 0, 7, 1], [2, 0, 0, 1]]);
        let nobody = vec![None; held.len()];
        let mut model = Model::default();
        model.take(held.apply(&plan, context, &nobody, &[], (&[], Vec::new()), &mut NoEvents), &held);
        // The first person has aliases by which nobody is found, gives them up, and another one asks for them.
        for alias in ["a7", "a3"] {
            let identifier = Identifier::new(SpaceId(1), PropertyId(12), &Value::Text(alias.into()));
            model.index.remove(&hasher().hash(&identifier.0)).unwrap();
        }
        let rows = gathered(&plan, &[[1, 0, 8, 0], [2, 0, 7, 0], [3, 0, 0, 0]]);
        let found = model.found(&rows);
        let ids = rows.records(&found);
        let later = Context { goal_run: 2, now: 2, ..context };
        let whole = rows.apply(&plan, later, &found, &[], (&ids, model.load(&ids)), &mut NoEvents);
        let (applied, again) = model.apply_in_shares((&plan, later), &rows, (2, 1)).unwrap();
        assert!(again);
        let (whole, in_shares) = (after(model.clone(), whole, &rows), after(model, applied, &rows));
        assert_eq!((in_shares.0, in_shares.1.shown()), (whole.0, whole.1.shown()));
    }
}
