use std::collections::BTreeMap;

use compact_str::CompactString;
use sluicebox_model::{Class, Event, EventKey, EventTouch, EventTypeId, Expected, RecordId};

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

/// The events that the rows of a chunk write. An event that exists is replaced as a whole.
pub(crate) struct Timeline<'h> {
    source: &'h mut dyn EventSource,
    goal_run: u64,
    /// Every event that was read or written: the event in its present state, and whether it must be written.
    now: BTreeMap<EventKey, (Option<Event>, bool)>,
}

impl<'h> Timeline<'h> {
    pub(crate) fn new(source: &'h mut dyn EventSource, goal_run: u64) -> Self {
        Self { source, goal_run, now: BTreeMap::new() }
    }

    /// Writes an event. `stored`: whether the record existed before the chunk. Also answers with the number by which the
    /// record's sum of fingerprints grows.
    pub(crate) fn put(&mut self, key: EventKey, event: Event, stored: bool) -> (EventOutcome, u64) {
        let (source, goal_run) = (&mut *self.source, self.goal_run);
        let load = || (if stored { source.get(&key) } else { None }, false);
        let (now, dirty) = self.now.entry(key.clone()).or_insert_with(load);
        let (outcome, before) = match now {
            None => (EventOutcome::Created, 0),
            Some(held) if held.same_as(&event) => return (EventOutcome::Unchanged, 0),
            Some(held) if held.touch.goal_run == goal_run => (EventOutcome::Counted, held.fingerprint(&key)),
            Some(held) => (EventOutcome::Updated, held.fingerprint(&key)),
        };
        let class = match (outcome, &now) {
            (EventOutcome::Created, _) => Class::Created,
            (EventOutcome::Counted, Some(held)) => held.touch.class,
            _ => Class::Updated,
        };
        let event = Event { touch: EventTouch { goal_run, class }, ..event };
        let difference = event.fingerprint(&key).wrapping_sub(before);
        (*now, *dirty) = (Some(event), true);
        (outcome, difference)
    }

    /// Moves the events of a record to another, except those of a type and id that the other has. Each record comes with
    /// whether it existed before the chunk. Answers with the number by which the other's sum of fingerprints grows.
    pub(crate) fn move_all(&mut self, from: (RecordId, bool), to: (RecordId, bool)) -> u64 {
        for (record, stored) in [from, to] {
            if stored {
                for (key, event) in self.source.all(record) {
                    self.now.entry(key).or_insert((Some(event), false));
                }
            }
        }
        let first = EventKey { record: from.0, event_type: EventTypeId(0), id: CompactString::default() };
        let moving: Vec<EventKey> = self
            .now
            .range(first..)
            .take_while(|(key, _)| key.record == from.0)
            .map(|(key, _)| key.clone())
            .collect();
        let mut difference = 0_u64;
        for key in moving {
            let moved = self.now.get_mut(&key).expected("an event that moves");
            let Some((now, dirty)) = moved else { continue };
            let Some(event) = now.take() else { continue };
            *dirty = true;
            let key = EventKey { record: to.0, ..key };
            let (now, dirty) = self.now.entry(key.clone()).or_insert((None, false));
            if now.is_none() {
                difference = difference.wrapping_add(event.fingerprint(&key));
                (*now, *dirty) = (Some(event), true);
            }
        }
        difference
    }

    /// The events to write, and `None` for those to remove; each key once.
    pub(crate) fn finish(&mut self) -> Vec<(EventKey, Option<Event>)> {
        let now = std::mem::take(&mut self.now);
        now.into_iter().filter(|(_, (_, dirty))| *dirty).map(|(key, (event, _))| (key, event)).collect()
    }
}

#[cfg(test)]
mod tests {
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
