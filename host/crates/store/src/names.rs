//! The dictionary of a store: properties, spaces and types have numbers, which stand for them in records and keys.

use std::collections::HashMap;

use sluicebox_model::{EventTypeId, NestedTypeId, PropertyId, SpaceId};

/// Whose property it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner<'a> {
    /// Every profile's.
    Profile,
    /// That of groups of a type.
    Group(&'a str),
    /// That of events of a type.
    Event(&'a str),
    /// That of the rows of a nested type, after the type of events.
    Nested(&'a str, &'a str),
}

// How names are written in the dictionary. No name of a schema contains `BETWEEN`.
const BETWEEN: char = '\u{1f}';
const PROFILE: &str = "p//";
const GROUP: &str = "g/";
const EVENT: &str = "e/";
const NESTED: &str = "n/";
const DOMAIN_GROUP: &str = "d/";
const GROUP_TYPE: &str = "G/";
const EVENT_TYPE: &str = "E/";
const NESTED_TYPE: &str = "N/";

impl Owner<'_> {
    /// What the names of its properties begin with.
    fn properties(self) -> String {
        match self {
            Self::Profile => PROFILE.to_owned(),
            Self::Group(kind) => format!("{GROUP}{kind}{BETWEEN}"),
            Self::Event(kind) => format!("{EVENT}{kind}{BETWEEN}"),
            Self::Nested(kind, nested) => format!("{NESTED}{kind}{BETWEEN}{nested}{BETWEEN}"),
        }
    }
}

/// How the dictionary writes the name of a property.
pub(crate) fn property(owner: Owner<'_>, name: &str) -> String {
    format!("{}{name}", owner.properties())
}

/// The same of a domain group.
pub(crate) fn domain_group(name: &str) -> String {
    format!("{DOMAIN_GROUP}{name}")
}

/// The same of a group type.
pub(crate) fn group_type(name: &str) -> String {
    format!("{GROUP_TYPE}{name}")
}

/// The same of an event type.
pub(crate) fn event_type(name: &str) -> String {
    format!("{EVENT_TYPE}{name}")
}

/// The same of a nested type of an event type.
pub(crate) fn nested_type(event: &str, name: &str) -> String {
    format!("{NESTED_TYPE}{event}{BETWEEN}{name}")
}

/// The names that are known, with their numbers. A number is never given to a second name.
#[derive(Debug, Default)]
pub(crate) struct Dictionary {
    numbers: HashMap<String, u32>,
    /// The greatest number.
    last: Option<u32>,
}

impl Dictionary {
    pub(crate) fn get(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    /// The number of the next new name; `None` if there are no more numbers.
    pub(crate) fn next(&self) -> Option<u32> {
        self.last.map_or(Some(0), |last| last.checked_add(1))
    }

    pub(crate) fn insert(&mut self, name: String, number: u32) {
        self.last = self.last.max(Some(number));
        self.numbers.insert(name, number);
    }

    pub(crate) fn names(&self) -> Names {
        let mut names = Names::default();
        self.numbers.iter().for_each(|(name, number)| names.add(name, *number));
        names
    }
}

/// The names of a store's dictionary by their numbers.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Of properties of any owner.
    pub properties: HashMap<PropertyId, String>,
    /// The properties of profiles, by their names.
    pub profile_properties: HashMap<String, PropertyId>,
    /// The properties of groups, by the names of type and property.
    pub group_properties: HashMap<(String, String), PropertyId>,
    /// Of domain groups.
    pub domain_groups: HashMap<SpaceId, String>,
    /// Of types of groups.
    pub group_types: HashMap<SpaceId, String>,
    /// Of types of events.
    pub event_types: HashMap<EventTypeId, String>,
    /// Of types of nested rows, without the type of events.
    pub nested_types: HashMap<NestedTypeId, String>,
}

impl Names {
    fn add(&mut self, name: &str, number: u32) {
        let last = |name: &str| name.rsplit(BETWEEN).next().unwrap_or_default().to_owned();
        if let Some(name) = name.strip_prefix(PROFILE) {
            self.properties.insert(PropertyId(number), name.to_owned());
            self.profile_properties.insert(name.to_owned(), PropertyId(number));
        } else if let Some(name) = name.strip_prefix(GROUP) {
            self.properties.insert(PropertyId(number), last(name));
            if let Some((kind, property)) = name.split_once(BETWEEN) {
                self.group_properties.insert((kind.to_owned(), property.to_owned()), PropertyId(number));
            }
        } else if let Some(name) = name.strip_prefix(EVENT).or_else(|| name.strip_prefix(NESTED)) {
            self.properties.insert(PropertyId(number), last(name));
        } else if let Some(name) = name.strip_prefix(DOMAIN_GROUP) {
            self.domain_groups.insert(SpaceId(number), name.to_owned());
        } else if let Some(name) = name.strip_prefix(GROUP_TYPE) {
            self.group_types.insert(SpaceId(number), name.to_owned());
        } else if let Some(name) = name.strip_prefix(EVENT_TYPE) {
            self.event_types.insert(EventTypeId(number), name.to_owned());
        } else if let Some(name) = name.strip_prefix(NESTED_TYPE) {
            self.nested_types.insert(NestedTypeId(number), last(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_given_once_though_some_are_missing() {
        let mut dictionary = Dictionary::default();
        assert_eq!(dictionary.next(), Some(0));
        for (name, number) in [("p//a", 0), ("p//c", 7), ("p//b", 3)] {
            dictionary.insert(name.to_owned(), number);
        }
        assert_eq!(
            (dictionary.next(), dictionary.get("p//b"), dictionary.get("p//d")),
            (Some(8), Some(3), None)
        );
        dictionary.insert("p//d".to_owned(), u32::MAX);
        assert_eq!(dictionary.next(), None);
    }

    #[test]
    fn names_come_back_by_their_kind() {
        let written = [
            property(Owner::Profile, "email"),
            property(Owner::Group("home"), "size"),
            property(Owner::Event("order"), "total"),
            property(Owner::Nested("order", "lines"), "sku"),
            domain_group("default"),
            group_type("home"),
            event_type("order"),
            nested_type("order", "lines"),
        ];
        let mut dictionary = Dictionary::default();
        for name in written {
            let number = dictionary.next().unwrap();
            dictionary.insert(name, number);
        }
        let names = dictionary.names();
        let properties = ["email", "size", "total", "sku"];
        for (number, name) in (0..).zip(properties) {
            assert_eq!(names.properties[&PropertyId(number)], name);
        }
        assert_eq!(names.profile_properties["email"], PropertyId(0));
        assert_eq!(names.group_properties[&("home".to_owned(), "size".to_owned())], PropertyId(1));
        assert_eq!(names.domain_groups[&SpaceId(4)], "default");
        assert_eq!(names.group_types[&SpaceId(5)], "home");
        assert_eq!(names.event_types[&EventTypeId(6)], "order");
        assert_eq!(names.nested_types[&NestedTypeId(7)], "lines");
    }
}
