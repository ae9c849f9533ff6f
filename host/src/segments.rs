//! Which segments profiles are in: brings together the schema's expressions and what the store holds.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use sluicebox_matching::{EventSum, Names as Numbers, Person, Segments};
use sluicebox_model::{Event, EventKey, Identifier, PropertyId, Record, RecordId, Schema, SpaceId, property};
use sluicebox_store::{Names, Store, StoreError};

use crate::error::Error;

/// Some of the schema's segments, ready to be asked of many profiles.
pub(crate) struct Membership<'a> {
    schema: &'a Schema,
    store: &'a Store,
    names: &'a Names,
    /// The segments that were asked for.
    wanted: Vec<String>,
    segments: Segments,
    ties: Vec<Tie<'a>>,
    now: Timestamp,
    /// For each segment how often it could not be told, and why the first time.
    untold: Vec<(u64, &'static str)>,
}

/// How a profile belongs to groups: by a property of the same name as one that identifies the group.
struct Tie<'a> {
    group: &'a str,
    space: SpaceId,
    identifies: PropertyId,
    of_profile: PropertyId,
}

impl<'a> Membership<'a> {
    /// Segments by name; each once, in the order of their first mention. `now` is what `now` says in an expression.
    ///
    /// # Errors
    /// If an expression does not parse, which the configuration's validation finds before.
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
            .map_err(|name| Error::Failed(format!("the expression of segment `{name}` cannot be read")))?;
        let ties = ties(schema, names, |name| segments.needs().groups.contains(name));
        let untold = vec![(0, ""); distinct.len()];
        Ok(Self { schema, store, names, wanted: distinct, segments, ties, now, untold })
    }

    /// Whether an expression asks for events.
    pub(crate) fn needs_events(&self) -> bool {
        self.segments.needs().events
    }

    /// The place of a segment in what [`Membership::of`] answers.
    pub(crate) fn place(&self, segment: &str) -> Option<usize> {
        self.wanted.iter().position(|name| name == segment)
    }

    /// Whether each segment holds of a profile.
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
        let groups = tied(self.store, &self.ties, record)?;
        let groups: Vec<(&str, &Record)> = groups.iter().map(|(kind, _, group)| (*kind, group)).collect();
        let sums = self.sums(events);
        let sums: Vec<(&str, EventSum)> = sums.into_iter().collect();
        let person = Person { record, events: &sums, groups: &groups };
        let profile = |name: &str| self.names.profile_properties.get(name).copied();
        let group = |kind: &str, name: &str| {
            self.names.group_properties.get(&(kind.to_owned(), name.to_owned())).copied()
        };
        let numbers = Numbers { profile: &profile, group: &group };
        let told = self.segments.evaluate(self.schema, &numbers, &person, self.now);
        for (untold, told) in self.untold.iter_mut().zip(&told) {
            if let Err(why) = told {
                *untold = (untold.0 + 1, if untold.0 == 0 { why } else { untold.1 });
            }
        }
        Ok(told.into_iter().map(|told| told == Ok(true)).collect())
    }

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

    /// The segments of which it could not be told whether they hold, how often, and why.
    pub(crate) fn untold(&self) -> impl Iterator<Item = Untold> + '_ {
        let untold = self.wanted.iter().zip(&self.untold).filter(|(_, (times, _))| *times > 0);
        untold.map(|(segment, (times, why))| Untold { segment: segment.clone(), times: *times, why })
    }
}

/// A segment of which it could not be told of some profiles whether it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Untold {
    segment: String,
    times: u64,
    why: &'static str,
}

impl Untold {
    /// What several found together.
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

impl fmt::Display for Untold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, times, why } = self;
        write!(
            f,
            "segment `{segment}`: it cannot be told of {times} profiles whether they are in it, so that they are not: {why}"
        )
    }
}

/// A group with the name of its type.
type Tied<'a> = (&'a str, RecordId, Record);

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
) -> Result<Vec<Tied<'a>>, StoreError> {
    tied(store, &ties(schema, names, |name| types.iter().any(|wanted| wanted == name)), record)
}

fn tied<'a>(store: &Store, ties: &[Tie<'a>], record: &Record) -> Result<Vec<Tied<'a>>, StoreError> {
    let mut found: Vec<Tied<'a>> = Vec::new();
    for tie in ties {
        for value in record.values(tie.of_profile) {
            let id = store.find(&Identifier::new(tie.space, tie.identifies, &value))?;
            let group = id.map(|id| store.load(id)).transpose()?.flatten();
            if let Some((id, group)) = group
                && !found.iter().any(|(_, known, _)| *known == id)
            {
                found.push((tie.group, id, group));
            }
        }
    }
    Ok(found)
}

fn ties<'a>(schema: &'a Schema, names: &Names, wanted: impl Fn(&str) -> bool) -> Vec<Tie<'a>> {
    let mut ties = Vec::new();
    for group in schema.groups.iter().filter(|group| wanted(&group.name)) {
        let space = names.group_types.iter().find(|(_, name)| **name == group.name).map(|(space, _)| *space);
        for own in group.properties.iter().filter(|own| own.unique) {
            let identifies = names.group_properties.get(&(group.name.clone(), own.name.clone()));
            let of_profile = names.profile_properties.get(&own.name);
            let known = property(&schema.properties, &own.name).is_some();
            if let (Some(space), Some(identifies), Some(of_profile), true) =
                (space, identifies, of_profile, known)
            {
                let (identifies, of_profile) = (*identifies, *of_profile);
                ties.push(Tie { group: &group.name, space, identifies, of_profile });
            }
        }
    }
    ties
}

/// The names of the segments of a schema's lifecycles.
pub(crate) fn of_lifecycles(schema: &Schema) -> impl Iterator<Item = String> + '_ {
    schema.lifecycles.iter().flat_map(|lifecycle| &lifecycle.stages).map(|(_, segment)| segment.clone())
}
