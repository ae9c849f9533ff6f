//! Long values of records to which several rows are applied. Each row would copy the whole record, and look through the whole list to
//! which it adds. So a long value is taken out of its record until all rows are applied; an empty list, which no record holds,
//! keeps its place.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};

use sluicebox_model::packed::{Unpacker, pack_number, pack_shape, packed_values};
use sluicebox_model::{PropertyId, Record};

use crate::index::EntryIndex;

/// Bytes of a value that is taken out.
pub(crate) const LONG_VALUE: usize = 1 << 10;
/// Bytes of a record that is searched for such values.
pub(crate) const LONG_RECORD: usize = 16 << 10;
/// What is in the place of a value that was taken out.
const TAKEN_OUT: &[u8] = &[1];

/// The long values that were taken out of records.
#[derive(Default)]
pub(crate) struct LongValues {
    values: BTreeMap<(EntryIndex, PropertyId), LongValue>,
    hasher: RandomState,
}

/// A long value: one, or a list.
struct LongValue {
    /// The number of values of a list.
    count: Option<usize>,
    /// The values, packed.
    packed: Vec<u8>,
    /// Where values begin, by their hashes, once a row adds to the list.
    places: Option<HashMap<u64, Places>>,
}

/// Where the values of one hash begin: nearly always one.
enum Places {
    One(usize),
    Several(Vec<usize>),
}

impl Places {
    fn as_slice(&self) -> &[usize] {
        match self {
            Self::One(place) => std::slice::from_ref(place),
            Self::Several(places) => places,
        }
    }

    fn push(&mut self, place: usize) {
        let mut places = self.as_slice().to_vec();
        places.push(place);
        *self = Self::Several(places);
    }
}

impl LongValue {
    fn new(property: &[u8]) -> Self {
        let mut reader = Unpacker(property);
        let count = reader.length().and_then(|shape| shape.checked_sub(1));
        Self { count, packed: reader.0.to_vec(), places: None }
    }

    fn whole(&self) -> Vec<u8> {
        let mut whole = Vec::with_capacity(self.packed.len() + 10);
        pack_shape(self.count, &mut whole);
        whole.extend_from_slice(&self.packed);
        whole
    }
}

/// Whether a property of a record is one that was taken out.
#[inline]
pub(crate) fn is_taken_out(property: &[u8]) -> bool {
    property == TAKEN_OUT
}

impl LongValues {
    /// Takes the long values of packed properties out of them, except `kept` ones.
    pub(crate) fn take_out(&mut self, entry: EntryIndex, packed: &mut Vec<u8>, kept: &[PropertyId]) {
        let is_long = |id: PropertyId, property: &[u8]| property.len() >= LONG_VALUE && !kept.contains(&id);
        let mut properties = Unpacker(packed);
        if !std::iter::from_fn(|| properties.entry()).any(|(id, property)| is_long(id, property)) {
            return;
        }
        let (mut properties, mut rest) = (Unpacker(packed), Vec::new());
        while let Some((id, property)) = properties.entry() {
            pack_number(id.0.into(), &mut rest);
            if is_long(id, property) {
                self.values.insert((entry, id), LongValue::new(property));
                rest.extend_from_slice(TAKEN_OUT);
            } else {
                rest.extend_from_slice(property);
            }
        }
        *packed = rest;
    }

    /// The value of a property that was taken out.
    pub(crate) fn get(&self, entry: EntryIndex, property: PropertyId) -> Option<Vec<u8>> {
        self.values.get(&(entry, property)).map(LongValue::whole)
    }

    /// Forgets the value of a property that has another one now.
    pub(crate) fn forget(&mut self, entry: EntryIndex, property: PropertyId) {
        self.values.remove(&(entry, property));
    }

    /// Adds values to a list that was taken out; answers with those that are new. `None` if the property is no such list.
    pub(crate) fn add<'w>(
        &mut self,
        entry: EntryIndex,
        property: PropertyId,
        written: &'w [u8],
    ) -> Option<Vec<&'w [u8]>> {
        let LongValue { count: Some(count), packed, places } = self.values.get_mut(&(entry, property))?
        else {
            return None;
        };
        let hasher = &self.hasher;
        let places = places.get_or_insert_with(|| {
            let (mut places, mut reader) = (HashMap::with_capacity(*count), Unpacker(packed));
            while let Some(place) = packed.len().checked_sub(reader.0.len())
                && let Some(value) = reader.skip_value()
            {
                put(&mut places, hasher.hash_one(value), place);
            }
            places
        });
        let mut added = Vec::new();
        for value in packed_values(written) {
            let hash = hasher.hash_one(value);
            let is_at = |place: &usize| {
                packed.get(*place..).is_some_and(|from| Unpacker(from).skip_value() == Some(value))
            };
            if places.get(&hash).is_some_and(|places| places.as_slice().iter().any(is_at)) {
                continue;
            }
            put(places, hash, packed.len());
            packed.extend_from_slice(value);
            *count += 1;
            added.push(value);
        }
        Some(added)
    }

    /// Puts the values that were taken out of a record back.
    pub(crate) fn put_back(&mut self, entry: EntryIndex, record: &mut Record) {
        if self.values.range((entry, PropertyId(0))..=(entry, PropertyId(u32::MAX))).next().is_none() {
            return;
        }
        let rest = record.take_packed();
        let (mut properties, mut packed) = (Unpacker(&rest), Vec::new());
        while let Some((id, property)) = properties.entry() {
            pack_number(id.0.into(), &mut packed);
            match self.values.remove(&(entry, id)) {
                Some(LongValue { count, packed: values, .. }) if is_taken_out(property) => {
                    pack_shape(count, &mut packed);
                    packed.extend_from_slice(&values);
                }
                _ => packed.extend_from_slice(property),
            }
        }
        packed.shrink_to_fit();
        record.put_packed(packed);
    }

    /// The records of which values were taken out.
    pub(crate) fn entries(&self) -> Vec<EntryIndex> {
        let mut entries: Vec<EntryIndex> = self.values.keys().map(|(entry, _)| *entry).collect();
        entries.dedup();
        entries
    }
}

fn put(places: &mut HashMap<u64, Places>, hash: u64, place: usize) {
    match places.entry(hash) {
        std::collections::hash_map::Entry::Occupied(mut held) => held.get_mut().push(place),
        std::collections::hash_map::Entry::Vacant(free) => {
            free.insert(Places::One(place));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sluicebox_model::packed::pack_property;
    use sluicebox_model::{Property, SpaceId, Value};

    use crate::rules::unite;

    use super::*;

    fn list(values: &[u16]) -> Vec<u8> {
        let values = values.iter().map(|value| Value::Text(format!("value {value}").into()));
        let mut packed = Vec::new();
        pack_property(&Property::Many(values.collect()), &mut packed);
        packed
    }

    proptest! {
        #[test]
        fn lists_grow_as_if_they_were_united(
            held in prop::collection::btree_set(0_u16..500, 200..300),
            rows in prop::collection::vec(prop::collection::btree_set(0_u16..900, 1..4), 1..60),
        ) {
            let mut record = Record::new(SpaceId(0), 0);
            let held: Vec<u16> = held.into_iter().collect();
            record.set(PropertyId(1), &Property::One(Value::Boolean(true)));
            record.set_packed(PropertyId(3), &list(&held));
            record.set(PropertyId(300), &Property::One(Value::Text("x".repeat(2000).into())));
            let before = record.clone();
            let (mut long, entry) = (LongValues::default(), EntryIndex(7));
            let mut packed = record.take_packed();
            long.take_out(entry, &mut packed, &[]);
            record.put_packed(packed);
            prop_assert!(record.get_packed(PropertyId(3)).is_some_and(is_taken_out));
            prop_assert_eq!(long.get(entry, PropertyId(3)), before.get_packed(PropertyId(3)).map(<[u8]>::to_vec));
            let mut expected = list(&held);
            for row in rows {
                let row = list(&row.into_iter().collect::<Vec<_>>());
                let added = long.add(entry, PropertyId(3), &row).unwrap().len();
                let united = unite(&expected, &row);
                prop_assert_eq!(added, packed_values(&united).count() - packed_values(&expected).count());
                expected = united;
            }
            prop_assert!(long.add(entry, PropertyId(300), &list(&[1])).is_none(), "one value is no list");
            prop_assert_eq!(long.entries(), [entry]);
            long.put_back(entry, &mut record);
            let mut whole = before;
            whole.set_packed(PropertyId(3), &expected);
            prop_assert_eq!(record, whole);
            prop_assert!(long.entries().is_empty());
        }
    }

    #[test]
    fn values_of_one_hash_stay_apart() {
        let mut places = HashMap::new();
        [3, 9, 12].into_iter().for_each(|place| put(&mut places, 5, place));
        assert_eq!(places[&5].as_slice(), [3, 9, 12]);
    }
}
