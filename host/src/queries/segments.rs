//! Which segments profiles are in, by the schema's expressions and their data in the store.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use sluicebox_matching::{EventSum, Names as Numbers, Person, Segments};
use sluicebox_model::{Event, EventKey, Identifier, PropertyId, Record, RecordId, Schema, SpaceId, property};
use sluicebox_store::{Names, Store, StoreError};

use crate::error::Error;
use crate::output::counted;

/// Some of the schema's segments, compiled to be evaluated for many profiles.
pub(crate) struct Membership<'a> {
    schema: &'a Schema,
    store: &'a Store,
    names: &'a Names,
    /// The names of the segments.
    wanted: Vec<String>,
    segments: Segments,
    references: Vec<GroupReference<'a>>,
    now: Timestamp,
    /// For each segment how often its expression failed, and why the first time.
    failures: Vec<(u64, &'static str)>,
}

/// A property by which profiles belong to groups of a type: a unique property of the group has the same name.
struct GroupReference<'a> {
    group_type: &'a str,
    space: SpaceId,
    group_property: PropertyId,
    profile_property: PropertyId,
}

impl<'a> Membership<'a> {
    /// Compiles segments by name, each once, in the order of their first mention. `now` is the value of `now` in expressions.
    ///
    /// # Errors
    /// If an expression does not parse; the configuration was validated, so it does.
    pub(crate) fn new(
        schema: &'a Schema,
        store: &'a Store,
        names: &'a Names,
        wanted: impl IntoIterator<Item = String>,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let mut distinct: Vec<String> = Vec::new();
        for name in wanted {
            if !distinct.contains(&name) {
                distinct.push(name);
            }
        }
        let expressions = distinct.iter().filter_map(|name| schema.segment(name));
        let expressions = expressions.map(|segment| (segment.name.as_str(), segment.expression.as_str()));
        let segments = Segments::compile(expressions)
            .map_err(|name| Error::Failed(format!("the expression of segment `{name}` does not parse")))?;
        let references = references(schema, names, |name| segments.needs().groups.contains(name));
        let failures = vec![(0, ""); distinct.len()];
        Ok(Self { schema, store, names, wanted: distinct, segments, references, now, failures })
    }

    /// Whether an expression needs events.
    pub(crate) fn needs_events(&self) -> bool {
        self.segments.needs().events
    }

    /// The place of a segment in the answer of [`Membership::of`].
    pub(crate) fn place(&self, segment: &str) -> Option<usize> {
        self.wanted.iter().position(|name| name == segment)
    }

    /// Whether a profile is in each segment. It is not where an expression fails.
    ///
    /// # Errors
    /// If the store fails.
    pub(crate) fn of(
        &mut self,
        record: &Record,
        events: &[(EventKey, Event)],
    ) -> Result<Vec<bool>, StoreError> {
        if self.wanted.is_empty() {
            return Ok(Vec::new());
        }
        let groups = referenced(self.store, &self.references, record)?;
        let groups: Vec<(&str, &Record)> = groups.iter().map(|(kind, _, group)| (*kind, group)).collect();
        let sums = self.sums(events);
        let sums: Vec<(&str, EventSum)> = sums.into_iter().collect();
        let person = Person { record, events: &sums, groups: &groups };
        let profile = |name: &str| self.names.profile_properties.get(name).copied();
        let group = |kind: &str, name: &str| {
            self.names.group_properties.get(&(kind.to_owned(), name.to_owned())).copied()
        };
        let numbers = Numbers { profile: &profile, group: &group };
        let results = self.segments.evaluate(self.schema, &numbers, &person, self.now);
        for ((times, first), result) in self.failures.iter_mut().zip(&results) {
            if let Err(why) = result {
                if *times == 0 {
                    *first = why;
                }
                *times += 1;
            }
        }
        Ok(results.into_iter().map(|result| result == Ok(true)).collect())
    }

    /// The number of events and the last time of each type.
    fn sums(&self, events: &[(EventKey, Event)]) -> BTreeMap<&'a str, EventSum> {
        let mut sums: BTreeMap<&str, EventSum> = BTreeMap::new();
        for (key, event) in events {
            let Some(name) = self.names.event_types.get(&key.event_type) else { continue };
            let sum = sums.entry(name.as_str()).or_insert(EventSum { count: 0, last: event.time });
            sum.count += 1;
            sum.last = sum.last.max(event.time);
        }
        sums
    }

    /// The segments whose expression failed for some profiles.
    pub(crate) fn undecided(&self) -> impl Iterator<Item = UndecidedSegment> + '_ {
        let failed = self.wanted.iter().zip(&self.failures).filter(|(_, (times, _))| *times > 0);
        failed.map(|(segment, (times, why))| UndecidedSegment {
            segment: segment.clone(),
            times: *times,
            why,
        })
    }
}

/// A segment whose expression failed for some profiles, which are not in it therefore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UndecidedSegment {
    segment: String,
    /// For how many profiles.
    times: u64,
    /// Why, the first time.
    why: &'static str,
}

impl UndecidedSegment {
    /// Adds up what several threads found.
    pub(crate) fn sum(found: impl Iterator<Item = Self>) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for more in found {
            match all.iter_mut().find(|known| known.segment == more.segment) {
                Some(known) => known.times += more.times,
                None => all.push(more),
            }
        }
        all
    }
}

impl fmt::Display for UndecidedSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, times, why } = self;
        let profiles = counted(*times, "profile");
        write!(
            f,
            "segment `{segment}`: its expression fails for {profiles}, which count as outside it: {why}"
        )
    }
}

/// A group with the name of its type.
type TypedGroup<'a> = (&'a str, RecordId, Record);

/// The groups of some types that a profile belongs to.
///
/// # Errors
/// If the store fails.
pub(crate) fn groups_of<'a>(
    schema: &'a Schema,
    store: &Store,
    names: &Names,
    types: &[String],
    record: &Record,
) -> Result<Vec<TypedGroup<'a>>, StoreError> {
    referenced(store, &references(schema, names, |name| types.iter().any(|wanted| wanted == name)), record)
}

fn referenced<'a>(
    store: &Store,
    references: &[GroupReference<'a>],
    record: &Record,
) -> Result<Vec<TypedGroup<'a>>, StoreError> {
    let mut found: Vec<TypedGroup<'a>> = Vec::new();
    for reference in references {
        for value in record.values(reference.profile_property) {
            let id = store.find(&Identifier::new(reference.space, reference.group_property, &value))?;
            let group = id.map(|id| store.load(id)).transpose()?.flatten();
            if let Some((id, group)) = group
                && !found.iter().any(|(_, known, _)| *known == id)
            {
                found.push((reference.group_type, id, group));
            }
        }
    }
    Ok(found)
}

fn references<'a>(
    schema: &'a Schema,
    names: &Names,
    wanted: impl Fn(&str) -> bool,
) -> Vec<GroupReference<'a>> {
    let mut references = Vec::new();
    for group in schema.groups.iter().filter(|group| wanted(&group.name)) {
        let space = names.group_types.iter().find(|(_, name)| **name == group.name).map(|(space, _)| *space);
        for own in group.properties.iter().filter(|own| own.unique) {
            let group_property = names.group_properties.get(&(group.name.clone(), own.name.clone()));
            let profile_property = names.profile_properties.get(&own.name);
            let is_of_profiles = property(&schema.properties, &own.name).is_some();
            if let (Some(space), Some(group_property), Some(profile_property), true) =
                (space, group_property, profile_property, is_of_profiles)
            {
                references.push(GroupReference {
                    group_type: &group.name,
                    space,
                    group_property: *group_property,
                    profile_property: *profile_property,
                });
            }
        }
    }
    references
}

/// The names of the segments of a schema's lifecycles.
pub(crate) fn of_lifecycles(schema: &Schema) -> impl Iterator<Item = String> + '_ {
    schema.lifecycles.iter().flat_map(|lifecycle| &lifecycle.stages).map(|(_, segment)| segment.clone())
}
