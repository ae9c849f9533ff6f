//! `sluicebox profile`.

use std::path::Path;

use jiff::tz::TimeZone;
use sluicebox_model::{CellFormat, Identifier, NumberFormat, PropertySchema, RecordId, TimeFormat, Value};
use sluicebox_store::Store;

use crate::cli::print;
use crate::config::Config;
use crate::error::Error;
use crate::view::{Names, text};

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
                let names = Names::of(store);
                for entry in store.records()? {
                    let (id, record) = entry?;
                    show(names.profile(id, &record), *json)?;
                }
            }
        }
        Command::Count { json } => {
            let mut count = 0u64;
            if let Some(store) = store {
                let names = Names::of(store);
                let groups: Vec<_> = names.domain_groups().map(|(space, _)| space).collect();
                for entry in store.records()? {
                    count += u64::from(groups.contains(&entry?.1.space));
                }
            }
            print(if *json { serde_json::json!({ "count": count }).to_string() } else { count.to_string() })?;
        }
    }
    Ok(0)
}

fn show(profile: Option<serde_json::Value>, json: bool) -> Result<(), Error> {
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
    let profile = Names::of(store).profile(id, &record).ok_or_else(missing)?;
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
    let names = Names::of(store);
    let Some(id) = names.property(name) else { return Ok(()) };
    if property.unique {
        let mut found = Vec::new();
        for (space, _) in names.domain_groups() {
            found.extend(store.find(&Identifier::new(space, id, &value))?);
        }
        found.sort_unstable();
        for id in found {
            if let Some((id, record)) = store.load(id)? {
                show(names.profile(id, &record), json)?;
            }
        }
        return Ok(());
    }
    for entry in store.records()? {
        let (record_id, record) = entry?;
        if record.values(id).contains(&value) {
            show(names.profile(record_id, &record), json)?;
        }
    }
    Ok(())
}

/// The value as the store holds it: `1.50` finds 1.5.
fn parse(property: &PropertySchema, value: &str) -> Result<Value, Error> {
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
