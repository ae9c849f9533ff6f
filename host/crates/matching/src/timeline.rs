use std::collections::BTreeMap;

use compact_str::CompactString;
use sluicebox_model::{Class, Event, EventKey, EventTouch, EventTypeId, Expected, RecordId};

use crate::gather::Gathering;
use crate::index::EntryIndex;
use crate::prepare::{EventRow, RowEvent, RowTime};

/// The events that records had before a chunk. An implementation should have loaded the events of
/// [`ChunkRows::events`](crate::ChunkRows::events), so that no row waits for one.
pub trait EventSource {
    /// The event with a key.
    fn get(&mut self, key: &EventKey) -> Option<Event>;
    /// All events of a record.
    fn all(&mut self, record: RecordId) -> Vec<(EventKey, Event)>;
}

/// For records without events.
pub struct NoEvents;

impl EventSource for NoEvents {
    fn get(&mut self, _: &EventKey) -> Option<Event> {
        None
    }

    fn all(&mut self, _: RecordId) -> Vec<(EventKey, Event)> {
        Vec::new()
    }
}

/// What writing an event did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventOutcome {
    /// The event existed and is the same.
    Unchanged,
    /// The event is new.
    Created,
    /// The event existed and changed.
    Updated,
    /// The event changed, but the goal run has counted it already.
    Counted,
}

/// What became of an event to which rows added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gathered {
    /// The profile that it belongs to.
    pub entry: EntryIndex,
    /// How the goal run counted it before these rows, if it did, and how it counts it now.
    pub counted: (Option<Class>, Class),
    /// The number by which the record's sum of fingerprints grows.
    pub difference: u64,
}

/// The events that the rows of a chunk write. An event that exists is replaced as a whole, except where rows of one file add to it.
pub(crate) struct Timeline<'h> {
    source: &'h mut dyn EventSource,
    goal_run: u64,
    /// Every event that was read or written.
    now: BTreeMap<EventKey, Held>,
    /// Events to which rows add. Until they are settled, `now` has their state before.
    gathering: BTreeMap<EventKey, Gathering>,
}

/// An event in its present state.
#[derive(Default)]
struct Held {
    event: Option<Event>,
    /// Whether it must be written.
    dirty: bool,
    /// The import of which a row of the chunk carried it; 0 = none.
    carried_by: u64,
}

impl Held {
    fn read(event: Option<Event>) -> Self {
        Self { event, ..Self::default() }
    }
}

impl<'h> Timeline<'h> {
    pub(crate) fn new(source: &'h mut dyn EventSource, goal_run: u64) -> Self {
        Self { source, goal_run, now: BTreeMap::new(), gathering: BTreeMap::new() }
    }

    /// The event of a key. `stored`: whether the record existed before the chunk.
    fn held(&mut self, key: &EventKey, stored: bool) -> &mut Held {
        let source = &mut *self.source;
        self.now.entry(key.clone()).or_insert_with(|| Held::read(if stored { source.get(key) } else { None }))
    }

    /// Whether an event replaces another one that a row of the same import carried. `resumed`: whether an earlier goal run may have
    /// imported rows of the file.
    pub(crate) fn overwrites(&mut self, key: &EventKey, event: &Event, stored: bool, resumed: bool) -> bool {
        let (import, goal_run) = (event.origin.import, self.goal_run);
        let Held { event: held, carried_by, .. } = self.held(key, stored);
        let Some(held) = held.as_ref().filter(|_| import != 0) else { return false };
        let was_carried = *carried_by == import
            || (held.origin.import == import && (resumed || held.touch.goal_run == goal_run));
        was_carried && !held.same_as(event)
    }

    /// Writes an event. `stored`: whether the record existed before the chunk. Also answers with the number by which the
    /// record's sum of fingerprints grows.
    pub(crate) fn put(&mut self, key: EventKey, event: Event, stored: bool) -> (EventOutcome, u64) {
        let goal_run = self.goal_run;
        let held = self.held(&key, stored);
        held.carried_by = event.origin.import;
        let (outcome, before) = match &held.event {
            None => (EventOutcome::Created, 0),
            Some(held) if held.same_as(&event) => return (EventOutcome::Unchanged, 0),
            Some(held) if held.touch.goal_run == goal_run && held.touch.class != Class::Unchanged => {
                (EventOutcome::Counted, held.fingerprint(&key))
            }
            Some(held) => (EventOutcome::Updated, held.fingerprint(&key)),
        };
        let class = match (outcome, &held.event) {
            (EventOutcome::Created, _) => Class::Created,
            (EventOutcome::Counted, Some(held)) => held.touch.class,
            _ => Class::Updated,
        };
        let event = Event { touch: EventTouch { goal_run, class }, ..event };
        let difference = event.fingerprint(&key).wrapping_sub(before);
        (held.event, held.dirty) = (Some(event), true);
        (outcome, difference)
    }

    /// Adds a row to an event; answers `false` and adds nothing while no row gave the event's time. `stored`: whether the record
    /// existed before the chunk.
    pub(crate) fn gather(
        &mut self,
        key: EventKey,
        (carried, row): (&RowEvent, &EventRow),
        entry: EntryIndex,
        stored: bool,
    ) -> bool {
        let import = carried.event.origin.import;
        if !self.gathering.get(&key).is_some_and(|gathering| gathering.is_of(import)) {
            let held = self.held(&key, stored).event.as_ref();
            let held = held.and_then(|held| Gathering::continued(entry, held, import, row));
            let gathering = held.unwrap_or_else(|| Gathering::new(entry, import));
            self.gathering.insert(key.clone(), gathering);
        }
        let Some(gathering) = self.gathering.get_mut(&key) else { return false };
        let has_time = row.time == RowTime::Valid || gathering.has_time();
        if has_time {
            gathering.add(carried, row);
        }
        has_time
    }

    /// Whether rows add to an event that is not settled.
    pub(crate) fn gathers(&self, key: &EventKey) -> bool {
        self.gathering.contains_key(key)
    }

    /// Puts the events to which rows added, of one record or of all, among the others; answers with those that changed.
    pub(crate) fn settle(&mut self, record: Option<RecordId>) -> Vec<Gathered> {
        let settled = match record {
            None => std::mem::take(&mut self.gathering),
            Some(record) => {
                let of_record = self.gathering.range(first_of(record)..);
                let of_record = of_record.take_while(|(key, _)| key.record == record);
                let keys: Vec<EventKey> = of_record.map(|(key, _)| key.clone()).collect();
                keys.into_iter().filter_map(|key| self.gathering.remove_entry(&key)).collect()
            }
        };
        settled.into_iter().filter_map(|(key, gathering)| self.settle_one(&key, gathering)).collect()
    }

    fn settle_one(&mut self, key: &EventKey, gathering: Gathering) -> Option<Gathered> {
        let (goal_run, entry) = (self.goal_run, gathering.entry);
        // An event to which no row could be added is none.
        let mut event = gathering.event()?;
        let held = self.now.entry(key.clone()).or_default();
        held.carried_by = event.origin.import;
        let fingerprint = event.fingerprint(key);
        let of_run = held.event.as_ref().filter(|held| held.touch.goal_run == goal_run);
        let counted = of_run.map(|held| held.touch.class);
        let before = match (counted, &held.event) {
            (Some(Class::Created), _) | (_, None) => None,
            (None, Some(held)) => Some(held.fingerprint(key)),
            // What another mapping of the goal run changed stays changed.
            (Some(_), Some(held)) => {
                Some(held.origin.rows.as_ref().and_then(|rows| rows.before).unwrap_or(!fingerprint))
            }
        };
        if let Some(rows) = &mut event.origin.rows {
            rows.before = before;
        }
        if let Some(held_event) = held.event.as_mut().filter(|held| held.same_as(&event)) {
            // Rows to come must find which rows made it.
            held.dirty |= held_event.origin != event.origin;
            held_event.origin = event.origin;
            return None;
        }
        let class = match before {
            None => Class::Created,
            Some(before) if before == fingerprint => Class::Unchanged,
            Some(_) => Class::Updated,
        };
        let difference =
            fingerprint.wrapping_sub(held.event.as_ref().map_or(0, |held| held.fingerprint(key)));
        event.touch = EventTouch { goal_run, class };
        (held.event, held.dirty) = (Some(event), true);
        Some(Gathered { entry, counted: (counted, class), difference })
    }

    /// Moves the events of a record to another, except those of a type and id that the other has. Each record comes with
    /// whether it existed before the chunk. Answers with the number by which the other's sum of fingerprints grows.
    pub(crate) fn move_all(&mut self, from: (RecordId, bool), to: (RecordId, bool)) -> u64 {
        for (record, stored) in [from, to] {
            if stored {
                for (key, event) in self.source.all(record) {
                    self.now.entry(key).or_insert_with(|| Held::read(Some(event)));
                }
            }
        }
        let moving: Vec<EventKey> = self
            .now
            .range(first_of(from.0)..)
            .take_while(|(key, _)| key.record == from.0)
            .map(|(key, _)| key.clone())
            .collect();
        let mut difference = 0_u64;
        for key in moving {
            let moved = self.now.get_mut(&key).expected("an event that moves");
            let Some(moved) = moved else { continue };
            let Some(event) = moved.event.take() else { continue };
            moved.dirty = true;
            let key = EventKey { record: to.0, ..key };
            let held = self.now.entry(key.clone()).or_default();
            if held.event.is_none() {
                difference = difference.wrapping_add(event.fingerprint(&key));
                (held.event, held.dirty) = (Some(event), true);
            }
        }
        difference
    }

    /// The events to write, and `None` for those to remove; each key once.
    pub(crate) fn finish(&mut self) -> Vec<(EventKey, Option<Event>)> {
        let now = std::mem::take(&mut self.now);
        now.into_iter().filter(|(_, held)| held.dirty).map(|(key, held)| (key, held.event)).collect()
    }
}

/// Before every event of a record.
fn first_of(record: RecordId) -> EventKey {
    EventKey { record, event_type: EventTypeId(0), id: CompactString::default() }
}

#[cfg(test)]
mod tests {
    use sluicebox_model::EventOrigin;

    use super::*;

    #[derive(Default)]
    struct Stored(Vec<(EventKey, Event)>);

    impl EventSource for Stored {
        fn get(&mut self, key: &EventKey) -> Option<Event> {
            self.0.iter().find(|(held, _)| held == key).map(|(_, event)| event.clone())
        }

        fn all(&mut self, record: RecordId) -> Vec<(EventKey, Event)> {
            self.0.iter().filter(|(key, _)| key.record == record).cloned().collect()
        }
    }

    fn key(record: u8, id: &str) -> EventKey {
        EventKey { record: RecordId([record; 16]), event_type: EventTypeId(1), id: id.into() }
    }

    fn event(second: i64) -> Event {
        Event {
            time: jiff::Timestamp::from_second(second).unwrap().into(),
            properties: vec![],
            nested: vec![],
            product_store: false,
            touch: EventTouch::default(),
            origin: EventOrigin::default(),
        }
    }

    fn shown(timeline: &mut Timeline<'_>) -> Vec<(u8, String, Option<i64>)> {
        let shown = |(key, event): (EventKey, Option<Event>)| {
            (key.record.0[0], key.id.to_string(), event.map(|event| event.time.as_second()))
        };
        timeline.finish().into_iter().map(shown).collect()
    }

    #[test]
    fn an_event_is_counted_once_a_goal_run() {
        let mut stored = Stored(vec![(key(1, "old"), event(1)), (key(1, "same"), event(1))]);
        let mut timeline = Timeline::new(&mut stored, 7);
        let mut put = |id: &str, second| timeline.put(key(1, id), event(second), true).0;
        assert_eq!(put("same", 1), EventOutcome::Unchanged);
        assert_eq!(
            [put("old", 2), put("old", 3), put("old", 3)],
            [EventOutcome::Updated, EventOutcome::Counted, EventOutcome::Unchanged]
        );
        assert_eq!([put("new", 2), put("new", 3)], [EventOutcome::Created, EventOutcome::Counted]);
        let expected = [(1, "new".to_owned(), Some(3)), (1, "old".to_owned(), Some(3))];
        assert_eq!(shown(&mut timeline), expected);
    }

    #[test]
    fn moved_events_replace_none() {
        let mut stored =
            Stored(vec![(key(1, "a"), event(1)), (key(2, "a"), event(2)), (key(2, "b"), event(2))]);
        let mut timeline = Timeline::new(&mut stored, 7);
        timeline.put(key(2, "c"), event(3), true);
        let grown = timeline.move_all((key(2, "").record, true), (key(1, "").record, true));
        let sum = event(2).fingerprint(&key(1, "b")).wrapping_add(event(3).fingerprint(&key(1, "c")));
        assert_eq!(grown, sum);
        let gone = |id: &str| (2, id.to_owned(), None);
        let expected =
            [(1, "b".to_owned(), Some(2)), (1, "c".to_owned(), Some(3)), gone("a"), gone("b"), gone("c")];
        assert_eq!(shown(&mut timeline), expected);
    }
}
