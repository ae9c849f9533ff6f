//! `sluicebox profile`.

use std::path::Path;

use serde_json::{Value as Json, json};
use sluicebox_store::Store;

use crate::config::Config;
use crate::erasure::{Erased, erase};
use crate::error::Error;
use crate::output::{counted, note, print};
use crate::queries::profile::{self, no_profile, parse};
use crate::queries::view::text;

/// How to read and erase profiles.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Shows one profile.
    Get {
        /// The profile's id.
        id: String,
        /// Shows which run and file set each property last, and when.
        #[arg(long)]
        explain: bool,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows everything that is stored about one person, as JSON: the profile, its groups, which run and file set what, and
    /// rejected rows.
    Export {
        /// The profile's id.
        id: String,
    },
    /// Removes a profile and everything that is stored about it. Later imports do not bring it back, unless their goal has
    /// `restore_erased = true`.
    Erase {
        /// The profile's id.
        id: String,
    },
    /// Shows the profiles with this value. The exit code is 1 if there is none.
    Find {
        /// PROPERTY=VALUE
        #[arg(value_name = "PROPERTY=VALUE")]
        condition: String,
        /// Prints one JSON object per profile.
        #[arg(long)]
        json: bool,
    },
    /// Shows all profiles, in the order of their ids.
    List {
        /// Prints one JSON object per profile.
        #[arg(long)]
        json: bool,
    },
    /// Counts the profiles.
    Count {
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Reads the current state of the store, also during an import.
///
/// # Errors
/// If the store fails, or has no profile of that id.
pub(crate) fn run(folder: &Path, command: &Command) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    if let Command::Erase { id } = command {
        let Erased { id, rejected_rows } = erase(&config, id)?;
        print(format!("{id} and its events are erased; {} removed", counted(rejected_rows, "rejected row")))?;
        return Ok(0);
    }
    let store = Store::open_read_only(&config.settings.store)?;
    let store = store.as_ref();
    match command {
        Command::Get { id, explain, json } => {
            let store = store.ok_or_else(|| no_profile(id))?;
            let profile =
                if *explain { profile::explained(store, id)? } else { profile::get(store, id)?.json };
            show(Some(profile), *json)?;
        }
        Command::Export { id } => {
            let store = store.ok_or_else(|| no_profile(id))?;
            print(profile::personal_data(&config, store, id)?)?;
        }
        Command::Erase { .. } => {}
        Command::Find { condition, json } => return find(&config, store, condition, *json),
        Command::List { json } => {
            if let Some(store) = store {
                profile::list(store, |profile| show(profile, *json))?;
            }
        }
        Command::Count { json } => {
            let count = store.map_or(Ok(0), profile::count)?;
            print(if *json { json!({ "count": count }).to_string() } else { count.to_string() })?;
        }
    }
    Ok(0)
}

/// Shows a profile or group.
pub(super) fn show(record: Option<Json>, json: bool) -> Result<(), Error> {
    match record {
        Some(record) if json => print(record),
        Some(record) => text(&record).into_iter().try_for_each(print),
        None => Ok(()),
    }
}

/// Shows the profiles with a value. Without a hit the exit code is 1, as that of `profile get`.
fn find(config: &Config, store: Option<&Store>, condition: &str, json: bool) -> Result<u8, Error> {
    let (name, value) = condition
        .split_once('=')
        .ok_or_else(|| Error::Usage("expected PROPERTY=VALUE, such as email=ann@example.com".to_owned()))?;
    let property = config.schema.property(name).ok_or_else(|| Error::Unknown {
        kind: "property",
        name: name.to_owned(),
        known: config.schema.properties.iter().map(|property| property.name.clone()).collect(),
    })?;
    let value = parse(property, value)?;
    let mut is_found = false;
    if let Some(store) = store {
        profile::find(store, property, &value, |profile| {
            is_found |= profile.is_some();
            show(profile, json)
        })?;
    }
    if !is_found {
        note(format!("no profile has this value of `{name}`"));
    }
    // Before the first run there is nothing to find in.
    Ok(u8::from(!is_found && store.is_some()))
}
