use crate::record::Fingerprint;
use crate::{Class, Moment, Property, PropertyId, RecordId};
use compact_str::CompactString;

/// The number of an event type in the dictionary of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventTypeId(pub u32);

/// The number of a type of nested rows in the dictionary of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NestedTypeId(pub u32);

/// The identity of an event: profile, type and id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventKey {
    /// The profile that the event belongs to.
    pub record: RecordId,
    /// Its type.
    pub event_type: EventTypeId,
    /// Its id; [`Event::content_id`] where the file gives none.
    pub id: CompactString,
}

/// The properties of an event or of a nested row, in the order of their ids.
pub type Properties = Vec<(PropertyId, Property)>;

/// Something that happened at a moment, such as an order.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When it happened.
    pub time: Moment,
    /// In the order of their ids.
    pub properties: Properties,
    /// Its nested rows, such as the products of an order, by type, in file order.
    pub nested: Vec<(NestedTypeId, Vec<Properties>)>,
    /// Whether its nested rows are products that were bought.
    pub product_store: bool,
    /// How the last goal run that wrote the event counts it.
    pub touch: EventTouch,
    /// What the event was made of.
    pub origin: EventOrigin,
}

/// What a goal run has done to an event. It is stored with the event, so that the event is counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventTouch {
    /// The number of the goal run that wrote the event last.
    pub goal_run: u64,
    /// How that goal run counts it.
    pub class: Class,
}

/// Which rows an event was made of. It is no part of the event's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventOrigin {
    /// Stands for a file and its import; 0 = not known, as of events of older versions.
    pub import: u64,
    /// Of an event that several rows may make: which ones did.
    pub rows: Option<Box<EventRows>>,
}

/// The rows that made an event, by their lines in the event's file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventRows {
    /// The line after the last row of the root file that added to the event.
    pub next: u64,
    /// The row that gave the time.
    pub time: u64,
    /// The row that gave each property, in the order of the event's properties.
    pub properties: Vec<u64>,
    /// The row that gave each nested row, in their order. A row of another linked file has its line in that file.
    pub nested: Vec<Vec<u64>>,
    /// The event's fingerprint before the goal run that wrote it last; `None` = it was not there.
    pub before: Option<u64>,
}

impl EventOrigin {
    /// About how many bytes of memory it takes beyond its own.
    fn memory(&self) -> usize {
        let lines =
            |rows: &EventRows| rows.properties.len() + rows.nested.iter().map(Vec::len).sum::<usize>();
        self.rows.as_ref().map_or(0, |rows| 96 + 8 * lines(rows))
    }
}

impl Event {
    /// A hash of type, id and content. A profile stores the sum of its events' hashes.
    pub fn fingerprint(&self, key: &EventKey) -> u64 {
        let mut hasher = Fingerprint::default();
        hasher.add(10, &key.event_type.0.to_le_bytes());
        hasher.add(11, key.id.as_bytes());
        self.add_to(&mut hasher);
        hasher.digest()
    }

    /// The id of an event without one in the file: the hash of its content, as 32 hexadecimal digits.
    pub fn content_id(&self) -> CompactString {
        let mut hasher = Fingerprint::default();
        self.add_to(&mut hasher);
        CompactString::from(format!("{:032x}", hasher.digest128()))
    }

    fn add_to(&self, hasher: &mut Fingerprint) {
        hasher.add(12, &self.time.as_nanosecond().to_le_bytes());
        hasher.add(13, &[u8::from(self.product_store)]);
        hasher.add_properties(&self.properties);
        for (kind, rows) in &self.nested {
            hasher.add(14, &kind.0.to_le_bytes());
            for row in rows {
                hasher.add(15, &[]);
                hasher.add_properties(row);
            }
        }
    }

    /// Whether the content equals that of another event; which goal run wrote them, and of which rows, does not count.
    pub fn same_as(&self, other: &Self) -> bool {
        self.time == other.time
            && self.product_store == other.product_store
            && self.properties == other.properties
            && self.nested == other.nested
    }

    /// About how many bytes of memory it takes.
    pub fn memory(&self) -> usize {
        let of = |properties: &Properties| {
            let values = |property: &Property| {
                property.values().iter().map(|value| 32 + value.long_text()).sum::<usize>()
            };
            properties.iter().map(|(_, property)| 24 + values(property)).sum::<usize>() + 24
        };
        let nested: usize = self.nested.iter().flat_map(|(_, rows)| rows).map(of).sum();
        120 + of(&self.properties) + nested + self.origin.memory()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Value;

    fn event(total: &str, rows: &[&[&str]]) -> Event {
        let text = |text: &str| Property::One(Value::Text(text.into()));
        let rows = rows.iter().map(|row| {
            row.iter().enumerate().map(|(place, cell)| (PropertyId(place as u32), text(cell))).collect()
        });
        Event {
            time: jiff::Timestamp::UNIX_EPOCH.into(),
            properties: vec![(PropertyId(0), text(total))],
            nested: vec![(NestedTypeId(0), rows.collect())],
            product_store: false,
            touch: EventTouch::default(),
            origin: EventOrigin::default(),
        }
    }

    #[test]
    fn different_contents_have_different_ids() {
        let ids = [
            event("1", &[]),
            event("2", &[]),
            event("1", &[&["a"]]),
            event("1", &[&["a"], &["b"]]),
            event("1", &[&["a", "b"]]),
        ]
        .map(|event| event.content_id());
        for (place, id) in ids.iter().enumerate() {
            assert!(id.len() == 32 && !ids[..place].contains(id), "{id}");
        }
        let origin = EventOrigin { import: 3, rows: Some(Box::default()) };
        let touch = EventTouch { goal_run: 7, class: Class::Created };
        let touched = Event { touch, origin, ..event("1", &[]) };
        assert_eq!(touched.content_id(), ids[0]);
        assert!(touched.same_as(&event("1", &[])) && !touched.same_as(&event("2", &[])));
    }
}
