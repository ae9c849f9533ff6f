use crate::PropertyId;
use crate::packed::Unpacker;

/// What set a value: a goal run, and a file of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setter {
    /// The number of the goal run; 0 = not known, because the value is older than what records say of it.
    pub goal_run: u64,
    /// The place of the file among those that the goal run's history entry names.
    pub file: u32,
}

impl Setter {
    /// What set a value of which that is not known.
    pub const UNKNOWN: Self = Self { goal_run: 0, file: 0 };

    /// Whether the goal run is known.
    pub fn is_known(self) -> bool {
        self.goal_run != 0
    }
}

/// What set each property of a record last. Most properties of a record have one setter, so that it is there once, with the
/// exceptions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    most: Setter,
    /// By property.
    others: Vec<(PropertyId, Setter)>,
}

impl Provenance {
    /// One setter of all properties.
    pub fn of(setter: Setter) -> Self {
        Self { most: setter, others: Vec::new() }
    }

    /// The setter of most properties, and the exceptions; `None` if those are not in the order of properties.
    pub fn new(most: Setter, others: Vec<(PropertyId, Setter)>) -> Option<Self> {
        others.is_sorted_by(|(one, _), (next, _)| one < next).then_some(Self { most, others })
    }

    /// The setter of the properties that are not among [`Provenance::others`].
    pub fn most(&self) -> Setter {
        self.most
    }

    /// Properties with another setter, in their order. Some of them may have no value any more.
    pub fn others(&self) -> &[(PropertyId, Setter)] {
        &self.others
    }

    /// What set a property.
    #[inline]
    pub fn get(&self, property: PropertyId) -> Setter {
        match self.others.binary_search_by_key(&property, |(other, _)| *other) {
            Ok(place) => self.others.get(place).map_or(self.most, |(_, setter)| *setter),
            Err(_) => self.most,
        }
    }

    /// Sets the setters of some properties, which are in their order. `packed` has all properties of the record.
    pub(crate) fn set(&mut self, packed: &[u8], changed: &[(PropertyId, Setter)]) {
        if changed.iter().all(|(property, setter)| self.get(*property) == *setter) {
            return;
        }
        // The setter of what changed is the only one that more properties may have than before.
        let new = changed.first().map_or(self.most, |(_, setter)| *setter);
        let mut first = [(PropertyId(0), Setter::UNKNOWN); ON_STACK];
        let (mut all, mut of_new, mut of_most) = (0_usize, 0_usize, 0_usize);
        self.each(packed, changed, |property, setter| {
            if let Some(place) = first.get_mut(all) {
                *place = (property, setter);
            }
            all += 1;
            of_new += usize::from(setter == new);
            of_most += usize::from(setter == self.most);
        });
        let most = if of_new > of_most { new } else { self.most };
        let mut others = Vec::with_capacity(all - of_new.max(of_most));
        match first.get(..all) {
            Some(first) => others.extend(first.iter().filter(|(_, setter)| *setter != most)),
            None => self.each(packed, changed, |property, setter| {
                if setter != most {
                    others.push((property, setter));
                }
            }),
        }
        *self = Self { most, others };
    }

    /// Calls `take` with the setter of each property of a record once some of them changed.
    #[inline]
    fn each(
        &self,
        packed: &[u8],
        changed: &[(PropertyId, Setter)],
        mut take: impl FnMut(PropertyId, Setter),
    ) {
        let mut properties = Unpacker(packed);
        let (mut others, mut changed): (&[_], &[_]) = (&self.others, changed);
        while let Some((property, _)) = properties.entry() {
            let mut setter = self.most;
            for setters in [&mut others, &mut changed] {
                // A property without a value is passed over.
                while let [(other, of), rest @ ..] = *setters
                    && *other <= property
                {
                    if *other == property {
                        setter = *of;
                    }
                    *setters = rest;
                }
            }
            take(property, setter);
        }
    }
}

/// The setters of this many properties are remembered from the first look to the second.
const ON_STACK: usize = 32;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use crate::{Property, Record, SpaceId, Value};

    use super::*;

    fn setter(number: u64) -> Setter {
        Setter { goal_run: number, file: 0 }
    }

    proptest! {
        #[test]
        fn each_property_has_its_last_setter(
            steps in prop::collection::vec(prop::collection::btree_map(0_u32..9, prop::option::of(0_u64..4), 1..5), 1..9),
        ) {
            let mut record = Record::new(SpaceId(0), 0);
            let mut expected: BTreeMap<u32, Setter> = BTreeMap::new();
            for step in steps {
                let mut changed = Vec::new();
                for (property, by) in step {
                    let id = PropertyId(property);
                    match by {
                        Some(by) => {
                            record.set(id, &Property::One(Value::Boolean(true)));
                            expected.insert(property, setter(by));
                        }
                        None => {
                            record.clear(id);
                            expected.remove(&property);
                        }
                    }
                    changed.push((id, setter(by.unwrap_or(9))));
                }
                record.set_setters(&changed);
                for (property, by) in &expected {
                    prop_assert_eq!(record.provenance.get(PropertyId(*property)), *by);
                }
                let Provenance { most, others } = record.provenance.clone();
                prop_assert_eq!(Provenance::new(most, others), Some(record.provenance.clone()));
            }
        }
    }

    #[test]
    fn most_properties_share_a_setter_that_is_there_once() {
        let mut record = Record::new(SpaceId(0), 0);
        record.provenance = Provenance::of(setter(1));
        (0..12).for_each(|id| record.set(PropertyId(id), &Property::One(Value::Boolean(true))));
        record.set_setters(&[(PropertyId(3), setter(2))]);
        assert_eq!((record.provenance.most(), record.provenance.others().len()), (setter(1), 1));
        record.set_setters(&(0..10).map(|id| (PropertyId(id), setter(3))).collect::<Vec<_>>());
        let expected = [(PropertyId(10), setter(1)), (PropertyId(11), setter(1))];
        assert_eq!((record.provenance.most(), record.provenance.others()), (setter(3), &expected[..]));
        assert_eq!(Provenance::new(setter(1), vec![expected[1], expected[0]]), None);
    }
}
