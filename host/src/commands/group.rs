//! `sluicebox group`.

use std::path::Path;

use sluicebox_model::{GroupType, Identifier, PropertySchema, Record, RecordId, SpaceId, property};
use sluicebox_store::{Names, Store};

use super::profile::{parse, show};
use crate::config::Config;
use crate::error::Error;
use crate::view;

/// How to read groups.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Shows every group of a type, in the order of their ids.
    List {
        /// The type, such as household.
        #[arg(value_name = "TYPE")]
        kind: String,
        /// One JSON object a group.
        #[arg(long)]
        json: bool,
    },
    /// Shows one group, by its id or by PROPERTY=VALUE of a property that identifies.
    Get(One),
    /// Shows the profiles that belong to a group: those with a property of the name and value of one that identifies it.
    Members(One),
}

/// One group.
#[derive(clap::Args)]
pub(crate) struct One {
    /// The type, such as household.
    #[arg(value_name = "TYPE")]
    kind: String,
    /// The group's id, or PROPERTY=VALUE.
    #[arg(value_name = "ID")]
    group: String,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

/// Reads the store as it is now, also while an import writes to it.
///
/// # Errors
/// If the schema has no such type, the store fails, or there is no such group.
pub(crate) fn run(folder: &Path, command: &Command) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    let store = Store::open_read_only(&config.settings.store)?;
    let (Command::List { kind, .. } | Command::Get(One { kind, .. }) | Command::Members(One { kind, .. })) =
        command;
    let group_type = config.schema.group(kind).ok_or_else(|| Error::Unknown {
        kind: "group type",
        name: kind.clone(),
        known: config.schema.groups.iter().map(|group| group.name.clone()).collect(),
    })?;
    let names = store.as_ref().map(Store::names).unwrap_or_default();
    let space = names.group_types.iter().find(|(_, name)| *name == kind).map(|(space, _)| *space);
    let (Some(store), Some(space)) = (&store, space) else {
        return match command {
            Command::List { .. } => Ok(0),
            Command::Get(one) | Command::Members(one) => Err(missing(&one.group)),
        };
    };
    match command {
        Command::List { json, .. } => {
            for entry in store.records()? {
                let (id, record) = entry?;
                if record.space == space {
                    show(view::group(&names, id, &record), *json)?;
                }
            }
        }
        Command::Get(One { group, json, .. }) => {
            let (id, record) = find(store, &names, group_type, space, group)?;
            show(view::group(&names, id, &record), *json)?;
        }
        Command::Members(One { group, json, .. }) => {
            let (_, record) = find(store, &names, group_type, space, group)?;
            members(store, &names, &config.schema.properties, group_type, &record, *json)?;
        }
    }
    Ok(0)
}

fn missing(group: &str) -> Error {
    Error::NotFound(format!("there is no group `{group}`"))
}

fn find(
    store: &Store,
    names: &Names,
    group_type: &GroupType,
    space: SpaceId,
    group: &str,
) -> Result<(RecordId, Record), Error> {
    let id = match group.split_once('=') {
        None => group.parse().ok(),
        Some((name, value)) => {
            let property = property(&group_type.properties, name).filter(|property| property.unique);
            let property = property.ok_or_else(|| Error::Unknown {
                kind: "property that identifies",
                name: name.to_owned(),
                known: identifying(group_type).map(|property| property.name.clone()).collect(),
            })?;
            let value = parse(property, value)?;
            match names.group_properties.get(&(group_type.name.clone(), name.to_owned())) {
                Some(id) => store.find(&Identifier::new(space, *id, &value))?,
                None => None,
            }
        }
    };
    let found = id.map(|id| store.load(id)).transpose()?.flatten();
    found.filter(|(_, record)| record.space == space).ok_or_else(|| missing(group))
}

fn identifying(group_type: &GroupType) -> impl Iterator<Item = &PropertySchema> {
    group_type.properties.iter().filter(|property| property.unique)
}

/// A profile belongs to a group through a property of the same name as one that identifies the group.
fn members(
    store: &Store,
    names: &Names,
    profile_properties: &[PropertySchema],
    group_type: &GroupType,
    group: &Record,
    json: bool,
) -> Result<(), Error> {
    let pairs = identifying(group_type).filter(|own| property(profile_properties, &own.name).is_some());
    let pairs: Vec<_> = pairs
        .filter_map(|own| {
            let of_group = names.group_properties.get(&(group_type.name.clone(), own.name.clone()))?;
            Some((names.profile_properties.get(&own.name)?, group.values(*of_group)))
        })
        .collect();
    for entry in store.records()? {
        let (id, record) = entry?;
        let belongs = pairs.iter().any(|(property, values)| {
            record.values(**property).iter().any(|value| values.iter().any(|own| own.text() == value.text()))
        });
        if belongs && names.domain_groups.contains_key(&record.space) {
            show(view::profile(names, id, &record, store.events_of(id)?), json)?;
        }
    }
    Ok(())
}
