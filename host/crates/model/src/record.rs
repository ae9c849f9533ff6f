use std::ops::Range;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::packed::{Unpacker, is_well_formed, pack_number, pack_property, unpack_property};
use crate::{PropertyId, Provenance, Setter, SpaceId, Value};

/// The values of a property of a record. Never an empty list: a property without a value is absent.
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

/// What a goal run has done to a record so far. It is stored with the record, so that the record is counted once however many
/// commits a file takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touch {
    /// The number of the goal run that matched the record last.
    pub goal_run: u64,
    /// [`Record::fingerprint`] before that goal run; unused where the goal run created the record.
    pub first_fingerprint: u64,
    /// How that goal run counts the record.
    pub class: Class,
    /// How many others the record is made of that were merged in that goal run, or in those that it continues.
    pub absorbed: u32,
}

/// How a goal run counts a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    /// The goal run matched it and changed nothing.
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
    /// The domain group of a profile, or the type of a group.
    pub space: SpaceId,
    /// Milliseconds since the epoch.
    pub created: i64,
    /// Milliseconds since the epoch, of the last change.
    pub modified: i64,
    /// How the last goal run that matched the record counts it.
    pub touch: Touch,
    /// The sum of its events' fingerprints, modulo 2^64.
    pub events: u64,
    /// What set each property last.
    pub provenance: Provenance,
    /// The properties in the format of [`packed`](crate::packed).
    packed: Vec<u8>,
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
            provenance: Provenance::default(),
            packed: Vec::new(),
        }
    }

    /// The same record, with memory for a number of bytes of properties.
    pub fn with_capacity(mut self, bytes: usize) -> Self {
        self.packed.reserve_exact(bytes);
        self
    }

    /// The same record with other properties; `None` if the bytes are not packed properties in the order of their ids.
    pub fn with_packed(self, packed: &[u8]) -> Option<Self> {
        is_well_formed(packed).then(|| Self { packed: packed.to_vec(), ..self })
    }

    /// The packed properties.
    pub fn packed(&self) -> &[u8] {
        &self.packed
    }

    /// Takes the packed properties; [`Record::put_packed`] puts them back.
    pub fn take_packed(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.packed)
    }

    /// Replaces all properties by packed ones in the order of their ids.
    pub fn put_packed(&mut self, packed: Vec<u8>) {
        debug_assert!(is_well_formed(&packed));
        self.packed = packed;
    }

    /// The properties with a value, in the order of their ids.
    pub fn properties(&self) -> impl Iterator<Item = (PropertyId, Property)> + '_ {
        let mut reader = Unpacker(&self.packed);
        std::iter::from_fn(move || {
            let (id, property) = reader.entry()?;
            Some((id, unpack_property(property)?))
        })
    }

    /// The range of a property in `packed`, and its values; if it is absent, the empty range where it would start.
    fn place(&self, id: PropertyId) -> (Range<usize>, Option<&[u8]>) {
        let mut reader = Unpacker(&self.packed);
        loop {
            let from = self.packed.len() - reader.0.len();
            match reader.entry() {
                Some((found, property)) if found == id => {
                    return (from..self.packed.len() - reader.0.len(), Some(property));
                }
                Some((found, _)) if found < id => {}
                _ => return (from..from, None),
            }
        }
    }

    /// The packed values of a property, if it has one.
    pub fn get_packed(&self, id: PropertyId) -> Option<&[u8]> {
        self.place(id).1
    }

    /// The values of a property, if it has one.
    pub fn get(&self, id: PropertyId) -> Option<Property> {
        self.get_packed(id).and_then(unpack_property)
    }

    /// The values of a property; none where it is absent.
    pub fn values(&self, id: PropertyId) -> Vec<Value> {
        match self.get(id) {
            Some(Property::One(value)) => vec![value],
            Some(Property::Many(values)) => values,
            None => Vec::new(),
        }
    }

    /// Replaces the values of a property by packed ones.
    pub fn set_packed(&mut self, id: PropertyId, property: &[u8]) {
        let place = self.place(id).0;
        let last = place.start == self.packed.len();
        let mut entry = if last { std::mem::take(&mut self.packed) } else { Vec::new() };
        entry.reserve(property.len() + 5);
        pack_number(id.0.into(), &mut entry);
        entry.extend_from_slice(property);
        if last {
            self.packed = entry;
        } else {
            self.packed.splice(place, entry);
        }
    }

    /// Adds packed properties in the order of their ids. Answers `false` and adds none where the record holds other values of
    /// one of them.
    pub fn add_packed(&mut self, added: &[u8]) -> bool {
        let (mut held, mut more) = (Unpacker(&self.packed), Unpacker(added));
        let last = std::iter::from_fn(|| held.entry()).last();
        let first = more.clone().entry();
        // The usual case: the record has only its identifier values, which come first.
        if last.zip(first).is_none_or(|((last, _), (first, _))| last < first) {
            self.packed.extend_from_slice(added);
            return true;
        }
        let mut all = Vec::with_capacity(self.packed.len() + added.len());
        let mut put = |(id, property): (PropertyId, &[u8])| {
            pack_number(id.0.into(), &mut all);
            all.extend_from_slice(property);
        };
        held = Unpacker(&self.packed);
        let mut next = held.entry();
        while let Some((id, property)) = more.entry() {
            while let Some(before) = next.filter(|(before, _)| *before < id) {
                put(before);
                next = held.entry();
            }
            if let Some((_, same)) = next.filter(|(before, _)| *before == id) {
                if same != property {
                    return false;
                }
                next = held.entry();
            }
            put((id, property));
        }
        std::iter::successors(next, |_| held.entry()).for_each(put);
        self.packed = all;
        true
    }

    /// Replaces the values of a property.
    pub fn set(&mut self, id: PropertyId, property: &Property) {
        let mut packed = Vec::new();
        pack_property(property, &mut packed);
        self.set_packed(id, &packed);
    }

    /// Removes the values of a property.
    pub fn clear(&mut self, id: PropertyId) {
        let place = self.place(id).0;
        self.packed.drain(place);
    }

    /// Remembers what set some properties, which are in their order. Those that have no value any more are left out.
    pub fn set_setters(&mut self, changed: &[(PropertyId, Setter)]) {
        self.provenance.set(&self.packed, changed);
    }

    /// A hash of properties and events: records with the same ones have the same fingerprint.
    pub fn fingerprint(&self) -> u64 {
        xxh3_64(&self.packed).wrapping_add(self.events)
    }
}

/// Hashes sequences of values, with their bounds.
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
        // With the length, two sequences whose bytes are the same together still differ.
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
    fn properties_stay_in_the_order_of_ids() {
        let mut record = Record::new(SpaceId(0), 0);
        for id in [5, 1, 300, 9, 0] {
            record.set(PropertyId(id), &text(&id.to_string()));
        }
        assert_eq!(record.properties().map(|(id, _)| id.0).collect::<Vec<_>>(), [0, 1, 5, 9, 300]);
        record.set(PropertyId(5), &text("longer than before"));
        assert_eq!(record.values(PropertyId(5)), [Value::Text("longer than before".into())]);
        assert_eq!(record.get(PropertyId(9)), Some(text("9")));
        assert_eq!(record.get(PropertyId(7)), None);
        record.clear(PropertyId(5));
        record.clear(PropertyId(7));
        assert_eq!(record.properties().map(|(id, _)| id.0).collect::<Vec<_>>(), [0, 1, 9, 300]);
    }

    #[test]
    fn properties_are_added_all_or_none() {
        let record = |pairs: &[(u32, &str)]| {
            let mut record = Record::new(SpaceId(0), 0);
            pairs.iter().for_each(|(id, value)| record.set(PropertyId(*id), &text(value)));
            record
        };
        let check = |held: &[(u32, &str)], added: &[(u32, &str)], expected: Option<&[(u32, &str)]>| {
            let mut found = record(held);
            assert_eq!(found.add_packed(record(added).packed()), expected.is_some());
            assert_eq!(found, record(expected.unwrap_or(held)));
        };
        check(&[], &[(1, "a")], Some(&[(1, "a")]));
        check(&[(1, "a")], &[], Some(&[(1, "a")]));
        check(&[(1, "a")], &[(2, "b"), (300, "c")], Some(&[(1, "a"), (2, "b"), (300, "c")]));
        check(
            &[(2, "b"), (300, "c")],
            &[(1, "a"), (2, "b"), (4, "d")],
            Some(&[(1, "a"), (2, "b"), (4, "d"), (300, "c")]),
        );
        check(&[(2, "b"), (3, "c")], &[(1, "a"), (3, "d")], None);
    }

    #[test]
    fn bytes_that_are_no_properties_are_rejected() {
        let mut record = Record::new(SpaceId(0), 0);
        record.set(PropertyId(1), &text("a"));
        record.set(PropertyId(2), &Property::Many(vec![Value::Boolean(true), Value::Text("é".into())]));
        let packed = record.packed().to_vec();
        let read = |bytes: &[u8]| Record::new(SpaceId(0), 0).with_packed(bytes);
        assert_eq!(read(&packed), Some(record));
        for length in (1..packed.len()).filter(|length| *length != 5) {
            assert_eq!(read(&packed[..length]), None, "{length}");
        }
        let (first, second) = packed.split_at(5);
        assert_eq!(read(&[second, first].concat()), None);
    }

    #[test]
    fn different_records_have_different_fingerprints() {
        let record = |pairs: &[(u32, &str)]| {
            let mut record = Record::new(SpaceId(0), 0);
            for (id, value) in pairs {
                record.set(PropertyId(*id), &text(value));
            }
            record.fingerprint()
        };
        assert_eq!(record(&[(1, "a"), (2, "b")]), record(&[(2, "b"), (1, "a")]));
        assert_ne!(record(&[(1, "a"), (2, "b")]), record(&[(1, "ab"), (2, "")]));
        assert_ne!(record(&[(1, "a")]), record(&[(2, "a")]));
    }
}
