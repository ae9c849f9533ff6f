use xxhash_rust::xxh3::Xxh3;

use crate::{PropertyId, SpaceId, Value};

/// What a property of a record holds. Never an empty list: such a property is absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Property {
    /// The value of a property that is not `multiple`.
    One(Value),
    /// The values of a `multiple` property, each once, in the order of insertion.
    Many(Vec<Value>),
}

impl Property {
    /// The values, one or more.
    pub fn values(&self) -> &[Value] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }
}

/// What a goal run has done to a record so far, kept in the record so that it is counted once whatever
/// the size of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touch {
    /// The number of the goal run that touched the record last.
    pub goal_run: u64,
    /// [`Record::fingerprint`] as that goal run found it; unused where it created the record.
    pub first_fingerprint: u64,
    /// How that goal run counts the record.
    pub class: Class,
}

/// How a goal run counts a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    /// The goal run matched it and left it as it was.
    #[default]
    Unchanged,
    /// The goal run changed it.
    Updated,
    /// The goal run created it.
    Created,
}

/// A profile or a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The domain group of a profile; the type of a group.
    pub space: SpaceId,
    /// Milliseconds since the epoch.
    pub created: i64,
    /// Milliseconds since the epoch, of the last change.
    pub modified: i64,
    /// How the last goal run counts it.
    pub touch: Touch,
    /// The sum of its events' fingerprints, modulo 2^64.
    pub events: u64,
    properties: Vec<(PropertyId, Property)>,
}

impl Record {
    /// A record without properties.
    pub fn new(space: SpaceId, now: i64) -> Self {
        Self {
            space,
            created: now,
            modified: now,
            touch: Touch::default(),
            events: 0,
            properties: Vec::new(),
        }
    }

    /// The same, with properties that are already in the order of their ids.
    pub fn with_sorted_properties(mut self, properties: Vec<(PropertyId, Property)>) -> Self {
        debug_assert!(properties.is_sorted_by(|a, b| a.0 < b.0));
        self.properties = properties;
        self
    }

    /// Makes room for so many properties at once.
    pub fn reserve(&mut self, properties: usize) {
        self.properties.reserve(properties);
    }

    /// The properties with a value, in the order of their ids.
    pub fn properties(&self) -> &[(PropertyId, Property)] {
        &self.properties
    }

    fn place(&self, id: PropertyId) -> Result<usize, usize> {
        // Rows write properties in the order of their ids, mostly: the end is the likely place.
        match self.properties.last() {
            Some((last, _)) if *last < id => Err(self.properties.len()),
            _ => self.properties.binary_search_by_key(&id, |(id, _)| *id),
        }
    }

    /// What a property holds, if it has a value.
    pub fn get(&self, id: PropertyId) -> Option<&Property> {
        let place = self.place(id).ok()?;
        self.properties.get(place).map(|(_, property)| property)
    }

    /// The values of a property; none where it is absent.
    pub fn values(&self, id: PropertyId) -> &[Value] {
        self.get(id).map_or(&[], Property::values)
    }

    /// Puts `property` in place of what was there, which is returned.
    pub fn set(&mut self, id: PropertyId, property: Property) -> Option<Property> {
        match self.place(id) {
            Ok(place) => self.properties.get_mut(place).map(|(_, held)| std::mem::replace(held, property)),
            Err(place) => {
                self.properties.insert(place, (id, property));
                None
            }
        }
    }

    /// Takes the property away.
    pub fn clear(&mut self, id: PropertyId) -> Option<Property> {
        self.place(id).ok().map(|place| self.properties.remove(place).1)
    }

    /// A hash of the properties and events: records with equal ones have equal fingerprints.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = Fingerprint::default();
        hasher.add_properties(&self.properties);
        hasher.digest().wrapping_add(self.events)
    }
}

/// Hashes values so that no two sequences of them run together.
#[derive(Default)]
pub(crate) struct Fingerprint(Xxh3);

impl Fingerprint {
    pub(crate) fn add_properties(&mut self, properties: &[(PropertyId, Property)]) {
        for (id, property) in properties {
            self.add(0, &id.0.to_le_bytes());
            for value in property.values() {
                match value {
                    Value::Text(text) => self.add(1, text.as_bytes()),
                    Value::Number(number) => self.add(2, &number.serialize()),
                    Value::Boolean(boolean) => self.add(3, &[u8::from(*boolean)]),
                    Value::Date(date) => {
                        self.add(4, &date.year().to_le_bytes());
                        self.add(4, &date.day_of_year().to_le_bytes());
                    }
                    Value::DateTime(moment) => self.add(5, &moment.as_nanosecond().to_le_bytes()),
                }
            }
        }
    }

    pub(crate) fn add(&mut self, kind: u8, bytes: &[u8]) {
        // The length goes in too, so that no two sequences of values run together.
        let mut prefix = [0; 5];
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
        for (place, byte) in prefix.iter_mut().zip([kind].into_iter().chain(length)) {
            *place = byte;
        }
        self.0.update(&prefix);
        self.0.update(bytes);
    }

    pub(crate) fn digest(&self) -> u64 {
        self.0.digest()
    }

    pub(crate) fn digest128(&self) -> u128 {
        self.0.digest128()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Property {
        Property::One(Value::Text(text.into()))
    }

    #[test]
    fn properties_stay_in_order() {
        let mut record = Record::new(SpaceId(0), 0);
        for id in [5, 1, 3, 9, 0] {
            assert_eq!(record.set(PropertyId(id), text(&id.to_string())), None);
        }
        assert!(record.properties().is_sorted_by_key(|(id, _)| *id));
        assert_eq!(record.set(PropertyId(3), text("new")), Some(text("3")));
        assert_eq!(record.clear(PropertyId(9)), Some(text("9")));
        assert_eq!(record.get(PropertyId(9)), None);
        assert_eq!(record.values(PropertyId(3)), [Value::Text("new".into())]);
    }

    #[test]
    fn fingerprints_tell_records_apart() {
        let record = |pairs: &[(u32, &str)]| {
            let mut record = Record::new(SpaceId(0), 0);
            for (id, value) in pairs {
                record.set(PropertyId(*id), text(value));
            }
            record.fingerprint()
        };
        assert_eq!(record(&[(1, "a"), (2, "b")]), record(&[(2, "b"), (1, "a")]));
        assert_ne!(record(&[(1, "a"), (2, "b")]), record(&[(1, "ab"), (2, "")]));
        assert_ne!(record(&[(1, "a")]), record(&[(2, "a")]));
    }
}
