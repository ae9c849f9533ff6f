//! Profiles: by id, by value, all of them, and everything that is stored about one person.

use std::collections::HashSet;

use jiff::tz::TimeZone;
use serde_json::{Map, Value as Json, json};
use sluicebox_model::{
    CellFormat, Event, EventKey, Identifier, NumberFormat, PropertySchema, Record, RecordId, TimeFormat,
    Value,
};
use sluicebox_store::{Owner, Store, StoreError};

use crate::config::Config;
use crate::erasure;
use crate::error::Error;
use crate::queries::provenance;
use crate::queries::segments::groups_of;
use crate::queries::view;

/// A profile as the store holds it, and as JSON.
pub(crate) struct FoundProfile {
    pub id: RecordId,
    pub record: Record,
    pub json: Json,
}

/// There is no profile of that id.
pub(crate) fn no_profile(id: &str) -> Error {
    Error::NotFound(format!("there is no profile `{id}`"))
}

/// The profile of an id, also of one that was merged into another.
///
/// # Errors
/// If there is none, or the store fails.
pub(crate) fn get(store: &Store, id: &str) -> Result<FoundProfile, Error> {
    let missing = || no_profile(id);
    let wanted: RecordId = id.parse().map_err(|_| missing())?;
    let (id, record) = store.load(wanted)?.ok_or_else(missing)?;
    let json = view::profile(&store.names(), id, &record, store.events_of(id)?).ok_or_else(missing)?;
    Ok(FoundProfile { id, record, json })
}

/// The profile of an id with the run and file that set each of its properties, under `explain`.
///
/// # Errors
/// If there is none, or the store fails.
pub(crate) fn explained(store: &Store, id: &str) -> Result<Json, Error> {
    let FoundProfile { record, mut json, .. } = get(store, id)?;
    if let Json::Object(object) = &mut json {
        object.insert("explain".to_owned(), provenance::of(store, &store.names(), &record)?);
    }
    Ok(json)
}

/// Everything that is stored about a person: the profile, its groups, which run and file set what, overwritten values, and rejected
/// rows.
///
/// # Errors
/// If there is no such profile, or the store or a file of rejected rows cannot be read.
pub(crate) fn personal_data(config: &Config, store: &Store, id: &str) -> Result<Json, Error> {
    let FoundProfile { id, record, json } = get(store, id)?;
    let names = store.names();
    let types: Vec<String> = config.schema.groups.iter().map(|group| group.name.clone()).collect();
    let groups = groups_of(&config.schema, store, &names, &types, &record)?;
    let groups = groups.iter().filter_map(|(_, id, group)| view::group(&names, *id, group));
    let rejected = erasure::find_rejected(config, &identifiers(config, store, &record))?;
    let rejected = rejected.into_iter().map(|(file, row)| {
        let row: Map<String, Json> = row.into_iter().map(|(name, cell)| (name, cell.into())).collect();
        json!({ "file": file.strip_prefix(config.data()).unwrap_or(&file), "row": row })
    });
    let before = store.previous_states(id)?.into_iter().filter_map(|before| {
        let record = before.record?;
        Some(view::profile(&names, id, &record, Vec::new()))
    });
    Ok(json!({
        "profile": json,
        "groups": groups.collect::<Vec<_>>(),
        "explain": provenance::of(store, &names, &record)?,
        "before": before.collect::<Vec<_>>(),
        "rejected": rejected.collect::<Vec<_>>(),
    }))
}

/// The values that identify a profile, as cells show them.
pub(crate) fn identifiers(config: &Config, store: &Store, record: &Record) -> HashSet<String> {
    let unique = config.schema.properties.iter().filter(|property| property.unique);
    let ids = unique.filter_map(|property| store.known_property(Owner::Profile, &property.name));
    ids.flat_map(|id| record.values(id)).map(|value| value.to_string()).collect()
}

/// Calls `take` with all profiles, in the order of their ids.
///
/// # Errors
/// If the store or `take` fails.
pub(crate) fn list(
    store: &Store,
    mut take: impl FnMut(Option<Json>) -> Result<(), Error>,
) -> Result<(), Error> {
    let names = store.names();
    let mut events = EventsInOrder(store.events()?.peekable());
    for entry in store.records()? {
        let (id, record) = entry?;
        take(view::profile(&names, id, &record, events.of(id)?))?;
    }
    Ok(())
}

/// How many profiles there are. None of them is read.
///
/// # Errors
/// If the store fails.
pub(crate) fn count(store: &Store) -> Result<u64, Error> {
    let mut count = 0;
    for space in store.names().domain_groups.keys() {
        count += store.count(*space)?;
    }
    Ok(count)
}

/// The events of one record after the other, in the order of their ids.
struct EventsInOrder<I: Iterator<Item = Result<(EventKey, Event), StoreError>>>(std::iter::Peekable<I>);

impl<I: Iterator<Item = Result<(EventKey, Event), StoreError>>> EventsInOrder<I> {
    fn of(&mut self, id: RecordId) -> Result<Vec<(EventKey, Event)>, StoreError> {
        let mut events = Vec::new();
        while let Some(next) = self.0.next_if(|next| next.as_ref().map_or(true, |(key, _)| key.record <= id))
        {
            let (key, event) = next?;
            if key.record == id {
                events.push((key, event));
            }
        }
        Ok(events)
    }
}

/// Calls `take` with the profiles that have a value in a property, in the order of their ids. One pass over the store, unless the
/// property is unique.
///
/// # Errors
/// If the store or `take` fails.
pub(crate) fn find(
    store: &Store,
    property: &PropertySchema,
    value: &Value,
    mut take: impl FnMut(Option<Json>) -> Result<(), Error>,
) -> Result<(), Error> {
    if property.unique {
        return find_unique(store, &property.name, value, take);
    }
    let names = store.names();
    let Some(id_of_property) = names.profile_properties.get(&property.name).copied() else { return Ok(()) };
    for entry in store.records()? {
        let (id, record) = entry?;
        if names.domain_groups.contains_key(&record.space) && record.values(id_of_property).contains(value) {
            take(view::profile(&names, id, &record, store.events_of(id)?))?;
        }
    }
    Ok(())
}

/// Calls `take` with the profiles that a value of a unique property identifies, in the order of their ids.
///
/// # Errors
/// If the store or `take` fails.
pub(crate) fn find_unique(
    store: &Store,
    property: &str,
    value: &Value,
    mut take: impl FnMut(Option<Json>) -> Result<(), Error>,
) -> Result<(), Error> {
    let names = store.names();
    let Some(property) = names.profile_properties.get(property).copied() else { return Ok(()) };
    let mut found = Vec::new();
    for space in names.domain_groups.keys() {
        found.extend(store.find(&Identifier::new(*space, property, value))?);
    }
    found.sort_unstable();
    for id in found {
        if let Some((id, record)) = store.load(id)? {
            take(view::profile(&names, id, &record, store.events_of(id)?))?;
        }
    }
    Ok(())
}

/// A value as the store holds it: `1.50` finds 1.5.
///
/// # Errors
/// If the text is not a value of the property's type.
pub(crate) fn parse(property: &PropertySchema, value: &str) -> Result<Value, Error> {
    let format = CellFormat {
        value_type: property.value_type,
        number: NumberFormat::default(),
        time: TimeFormat::Standard,
        timezone: TimeZone::UTC,
    };
    let parsed = if value.is_empty() { None } else { format.parse(value).ok() };
    parsed.ok_or_else(|| {
        Error::Usage(format!(
            "the value given for `{}` is not a {}",
            property.name,
            property.value_type.name()
        ))
    })
}
