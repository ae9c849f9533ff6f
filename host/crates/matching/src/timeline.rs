use std::collections::BTreeMap;

use compact_str::CompactString;
use sluicebox_model::{Class, Event, EventKey, EventTouch, EventTypeId, RecordId};

/// Answers for the events that records had before a stretch of rows. Whoever implements it has most answers at hand,
/// so that no row waits for one.
pub trait HeldEvents {
    /// The event of that key.
    fn get(&mut self, key: &EventKey) -> Option<Event>;
    /// Every event of a record.
    fn all(&mut self, record: RecordId) -> Vec<(EventKey, Event)>;
}

/// Nothing has events.
pub struct NoEvents;

impl HeldEvents for NoEvents {
    fn get(&mut self, _: &EventKey) -> Option<Event> {
        None
    }

    fn all(&mut self, _: RecordId) -> Vec<(EventKey, Event)> {
        Vec::new()
    }
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// It was there, and says the same.
    Unchanged,
    /// It was not there.
    Created,
    /// It was there, and said something else.
    Updated,
    /// The goal run has written it before and has counted it.
    Again,
}

/// The events that a stretch of rows writes. A known event is replaced whole.
pub(crate) struct Timeline<'h> {
    held: &'h mut dyn HeldEvents,
    goal_run: u64,
    /// Every event that was looked at: what it is now, and whether that must be written.
    now: BTreeMap<EventKey, (Option<Event>, bool)>,
}

impl<'h> Timeline<'h> {
    pub(crate) fn new(held: &'h mut dyn HeldEvents, goal_run: u64) -> Self {
        Self { held, goal_run, now: BTreeMap::new() }
    }

    /// Writes an event. `stored` = the record was there before the stretch. The second answer is what the sum of the
    /// record's fingerprints grows by.
    pub(crate) fn put(&mut self, key: EventKey, event: Event, stored: bool) -> (Written, u64) {
        let (held, goal_run) = (&mut *self.held, self.goal_run);
        let load = || (if stored { held.get(&key) } else { None }, false);
        let (now, dirty) = self.now.entry(key.clone()).or_insert_with(load);
        let (written, before) = match now {
            None => (Written::Created, 0),
            Some(held) if held.same_as(&event) => return (Written::Unchanged, 0),
            Some(held) if held.touch.goal_run == goal_run => (Written::Again, held.fingerprint(&key)),
            Some(held) => (Written::Updated, held.fingerprint(&key)),
        };
        let class = match (written, &now) {
            (Written::Created, _) => Class::Created,
            (Written::Again, Some(held)) => held.touch.class,
            _ => Class::Updated,
        };
        let event = Event { touch: EventTouch { goal_run, class }, ..event };
        let difference = event.fingerprint(&key).wrapping_sub(before);
        (*now, *dirty) = (Some(event), true);
        (written, difference)
    }

    /// Moves the events of a record to another that has none of their types and ids; its own stay. Both come with
    /// whether they were there before the stretch. Answers with what the sum of fingerprints grows by.
    pub(crate) fn move_all(&mut self, from: (RecordId, bool), to: (RecordId, bool)) -> u64 {
        for (record, stored) in [from, to] {
            if stored {
                for (key, event) in self.held.all(record) {
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
            let Some((now, dirty)) = self.now.get_mut(&key) else { continue };
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

    /// What is to be written, each key once.
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

    impl HeldEvents for Stored {
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
            time: jiff::Timestamp::from_second(second).unwrap(),
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
        assert_eq!(put("same", 1), Written::Unchanged);
        assert_eq!(
            [put("old", 2), put("old", 3), put("old", 3)],
            [Written::Updated, Written::Again, Written::Unchanged]
        );
        assert_eq!([put("new", 2), put("new", 3)], [Written::Created, Written::Again]);
        let expected = [(1, "new".to_owned(), Some(3)), (1, "old".to_owned(), Some(3))];
        assert_eq!(shown(&mut timeline), expected);
    }

    #[test]
    fn moved_events_leave_what_is_there() {
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
