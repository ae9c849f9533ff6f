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
}

/// What a goal run has done to an event. It is stored with the event, so that the event is counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventTouch {
    /// The number of the goal run that wrote the event last.
    pub goal_run: u64,
    /// How that goal run counts it.
    pub class: Class,
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

    /// Whether the content equals that of another event; which goal run wrote them does not count.
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
        96 + of(&self.properties) + nested
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
        let touched = Event { touch: EventTouch { goal_run: 7, class: Class::Created }, ..event("1", &[]) };
        assert_eq!(touched.content_id(), ids[0]);
        assert!(touched.same_as(&event("1", &[])) && !touched.same_as(&event("2", &[])));
    }
}
