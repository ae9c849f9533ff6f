//! `sluicebox profile`.

use std::path::Path;

use jiff::tz::TimeZone;
use sluicebox_model::{
    CellFormat, Event, EventKey, Identifier, NumberFormat, PropertySchema, RecordId, TimeFormat, Value,
};
use sluicebox_store::{Store, StoreError};

use crate::cli::print;
use crate::config::Config;
use crate::error::Error;
use crate::view::{self, text};

/// How to read profiles.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Shows one profile.
    Get {
        /// The profile's id.
        id: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
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
    let store = Store::open_read_only(&config.settings.store)?;
    let store = store.as_ref();
    match command {
        Command::Get { id, json } => get(store, id, *json)?,
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

fn get(store: Option<&Store>, id: &str, json: bool) -> Result<(), Error> {
    let missing = || Error::NotFound(format!("there is no profile `{id}`"));
    let wanted: RecordId = id.parse().map_err(|_| missing())?;
    let store = store.ok_or_else(missing)?;
    let (id, record) = store.load(wanted)?.ok_or_else(missing)?;
    let events = store.events_of(id)?;
    let profile = view::profile(&store.names(), id, &record, events).ok_or_else(missing)?;
    show(Some(profile), json)
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
    let names = store.names();
    let Some(property_id) = names.profile_properties.get(name).copied() else { return Ok(()) };
    if property.unique {
        let mut found = Vec::new();
        for space in names.domain_groups.keys() {
            found.extend(store.find(&Identifier::new(*space, property_id, &value))?);
        }
        found.sort_unstable();
        for id in found {
            if let Some((id, record)) = store.load(id)? {
                show(view::profile(&names, id, &record, store.events_of(id)?), json)?;
            }
        }
        return Ok(());
    }
    for entry in store.records()? {
        let (id, record) = entry?;
        if names.domain_groups.contains_key(&record.space) && record.values(property_id).contains(&value) {
            show(view::profile(&names, id, &record, store.events_of(id)?), json)?;
        }
    }
    Ok(())
}

/// The value as the store holds it: `1.50` finds 1.5.
pub(super) fn parse(property: &PropertySchema, value: &str) -> Result<Value, Error> {
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
