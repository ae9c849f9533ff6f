//! `sluicebox profile`.

use std::collections::HashSet;
use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value as Json;
use sluicebox_model::{
    CellFormat, Event, EventKey, Identifier, NumberFormat, PropertySchema, Record, RecordId, TimeFormat,
    Value,
};
use sluicebox_store::{Owner, Store, StoreError};

use crate::cli::print;
use crate::config::Config;
use crate::erasure;
use crate::error::Error;
use crate::plan::unique;
use crate::provenance;
use crate::segments::groups_of;
use crate::view::{self, text};

/// How to read profiles.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Shows one profile.
    Get {
        /// The profile's id.
        id: String,
        /// Shows which run and file set each property last, and when.
        #[arg(long)]
        explain: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows everything that is held about one person, as JSON: the profile, its groups, who set what, and rows of theirs
    /// among the rejected ones.
    Export {
        /// The profile's id.
        id: String,
    },
    /// Removes a profile with all that is held about it. The next import does not bring it back, unless its goal says
    /// `restore_erased = true`.
    Erase {
        /// The profile's id.
        id: String,
    },
    /// Shows the profiles with this value.
    Find {
        /// PROPERTY=VALUE
        #[arg(value_name = "PROPERTY=VALUE")]
        condition: String,
        /// One JSON object a profile.
        #[arg(long)]
        json: bool,
    },
    /// Shows every profile, in the order of their ids.
    List {
        /// One JSON object a profile.
        #[arg(long)]
        json: bool,
    },
    /// Counts the profiles.
    Count {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Reads the store as it is now, also while an import writes to it.
///
/// # Errors
/// If the store fails, or has no profile of that id.
pub(crate) fn run(folder: &Path, command: &Command) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    if let Command::Erase { id } = command {
        return erase(&config, id);
    }
    let store = Store::open_read_only(&config.settings.store)?;
    let store = store.as_ref();
    match command {
        Command::Get { id, explain, json } => get(store, id, *explain, *json)?,
        Command::Export { id } => export(&config, store, id)?,
        Command::Erase { .. } => {}
        Command::Find { condition, json } => find(&config, store, condition, *json)?,
        Command::List { json } => {
            if let Some(store) = store {
                let names = store.names();
                let mut events = Timelines::of(store)?;
                for entry in store.records()? {
                    let (id, record) = entry?;
                    show(view::profile(&names, id, &record, events.of_record(id)?), *json)?;
                }
            }
        }
        Command::Count { json } => {
            let mut count = 0u64;
            if let Some(store) = store {
                let names = store.names();
                for entry in store.records()? {
                    count += u64::from(names.domain_groups.contains_key(&entry?.1.space));
                }
            }
            print(if *json { serde_json::json!({ "count": count }).to_string() } else { count.to_string() })?;
        }
    }
    Ok(0)
}

/// The events of one record after the other, in the order of their ids.
struct Timelines<I: Iterator<Item = Result<(EventKey, Event), StoreError>>>(std::iter::Peekable<I>);

impl<'s> Timelines<Box<dyn Iterator<Item = Result<(EventKey, Event), StoreError>> + 's>> {
    fn of(store: &'s Store) -> Result<Self, StoreError> {
        let events: Box<dyn Iterator<Item = _> + 's> = Box::new(store.events()?);
        Ok(Self(events.peekable()))
    }

    fn of_record(&mut self, id: RecordId) -> Result<Vec<(EventKey, Event)>, StoreError> {
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

pub(super) fn show(profile: Option<serde_json::Value>, json: bool) -> Result<(), Error> {
    match profile {
        Some(profile) if json => print(profile),
        Some(profile) => print(text(&profile)),
        None => Ok(()),
    }
}

/// The store and the profile of an id.
fn load<'s>(store: Option<&'s Store>, id: &str) -> Result<(&'s Store, RecordId, Record, Json), Error> {
    let missing = || Error::NotFound(format!("there is no profile `{id}`"));
    let wanted: RecordId = id.parse().map_err(|_| missing())?;
    let store = store.ok_or_else(missing)?;
    let (id, record) = store.load(wanted)?.ok_or_else(missing)?;
    let events = store.events_of(id)?;
    let profile = view::profile(&store.names(), id, &record, events).ok_or_else(missing)?;
    Ok((store, id, record, profile))
}

fn get(store: Option<&Store>, id: &str, explain: bool, json: bool) -> Result<(), Error> {
    let (store, id, record, mut profile) = load(store, id)?;
    if explain && let Json::Object(object) = &mut profile {
        object.insert("explain".to_owned(), provenance::of(store, id, &record)?);
    }
    show(Some(profile), json)
}

fn export(config: &Config, store: Option<&Store>, id: &str) -> Result<(), Error> {
    let (store, id, record, profile) = load(store, id)?;
    let names = store.names();
    let groups: Vec<String> = config.schema.groups.iter().map(|group| group.name.clone()).collect();
    let held = groups_of(&config.schema, store, &names, &groups, &record)?;
    let groups = held.iter().filter_map(|(_, id, group)| view::group(&names, *id, group));
    let rejected = erasure::find_rejected(config, &identifiers(config, store, &record))?;
    let rejected = rejected.into_iter().map(|(file, row)| {
        let row: serde_json::Map<String, Json> =
            row.into_iter().map(|(name, cell)| (name, cell.into())).collect();
        serde_json::json!({ "file": file.strip_prefix(config.data()).unwrap_or(&file), "row": row })
    });
    let before = store.before(id)?.into_iter().filter_map(|before| {
        let record = before.record?;
        Some(view::profile(&names, id, &record, Vec::new()))
    });
    print(serde_json::json!({
        "profile": profile,
        "groups": groups.collect::<Vec<_>>(),
        "explain": provenance::of(store, id, &record)?,
        "before": before.collect::<Vec<_>>(),
        "rejected": rejected.collect::<Vec<_>>(),
    }))
}

/// The values that identify a profile, as cells show them.
fn identifiers(config: &Config, store: &Store, record: &Record) -> HashSet<String> {
    let unique = config.schema.properties.iter().filter(|property| property.unique);
    let ids = unique.filter_map(|property| store.known_property(Owner::Profile, &property.name));
    ids.flat_map(|id| record.values(id)).map(|value| value.to_string()).collect()
}

fn erase(config: &Config, id: &str) -> Result<u8, Error> {
    let missing = || Error::NotFound(format!("there is no profile `{id}`"));
    let wanted: RecordId = id.parse().map_err(|_| missing())?;
    if !config.settings.store.join("CURRENT").exists() {
        return Err(missing());
    }
    let store = Store::open(&config.settings.store)?;
    let (found, record) = store.load(wanted)?.ok_or_else(missing)?;
    let values = identifiers(config, &store, &record);
    let key = erasure::key_or_new(config)?;
    store.erase(found, &unique(&config.schema, &store)?, &key, Timestamp::now().as_millisecond())?;
    drop(store);
    // Then nothing of it is left in the list of the store's files either.
    drop(Store::open(&config.settings.store)?);
    let rows = erasure::clean_rejected(config, &values)?;
    print(format!("{found} is erased, with its events; {rows} rejected rows of it too"))?;
    Ok(0)
}

fn find(config: &Config, store: Option<&Store>, condition: &str, json: bool) -> Result<(), Error> {
    let (name, value) = condition
        .split_once('=')
        .ok_or_else(|| Error::Usage("expected PROPERTY=VALUE, such as email=ann@example.com".to_owned()))?;
    let property = config.schema.property(name).ok_or_else(|| Error::Unknown {
        kind: "property",
        name: name.to_owned(),
        known: config.schema.properties.iter().map(|property| property.name.clone()).collect(),
    })?;
    let value = parse(property, value)?;
    let Some(store) = store else { return Ok(()) };
    if property.unique {
        return find_unique(store, name, &value, |profile| show(profile, json));
    }
    let names = store.names();
    let Some(property_id) = names.profile_properties.get(name).copied() else { return Ok(()) };
    for entry in store.records()? {
        let (id, record) = entry?;
        if names.domain_groups.contains_key(&record.space) && record.values(property_id).contains(&value) {
            show(view::profile(&names, id, &record, store.events_of(id)?), json)?;
        }
    }
    Ok(())
}

/// Hands on the profiles that a value of a unique property identifies, in the order of their ids.
///
/// # Errors
/// If the store fails, or with what `take` says.
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

/// The value as the store holds it: `1.50` finds 1.5.
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
            "`{}` is a {}, and the value given is none",
            property.name,
            property.value_type.name()
        ))
    })
}
