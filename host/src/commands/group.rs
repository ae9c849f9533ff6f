//! `sluicebox group`.

use std::path::Path;

use sluicebox_store::Store;

use super::profile::show;
use crate::config::Config;
use crate::error::Error;
use crate::queries::groups::{Groups, find_type, no_group};

/// How to read groups.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Shows all groups of a type, in the order of their ids.
    List {
        /// The type, such as household.
        #[arg(value_name = "TYPE")]
        kind: String,
        /// Prints one JSON object per group.
        #[arg(long)]
        json: bool,
    },
    /// Shows one group, by its id or by PROPERTY=VALUE of a unique property.
    Get(One),
    /// Shows the profiles of a group: those with a property of the name and value of one that identifies the group.
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
    /// Prints one JSON object per line.
    #[arg(long)]
    json: bool,
}

/// Reads the current state of the store, also during an import.
///
/// # Errors
/// If the schema has no such type, the store fails, or there is no such group.
pub(crate) fn run(folder: &Path, command: &Command) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    let (Command::List { kind, .. } | Command::Get(One { kind, .. }) | Command::Members(One { kind, .. })) =
        command;
    let group_type = find_type(&config.schema, kind)?;
    let store = Store::open_read_only(&config.settings.store)?;
    let groups = store.as_ref().map(|store| Groups::of(store, &config.schema, group_type));
    match (command, groups) {
        (Command::List { json, .. }, Some(groups)) => groups.list(|group| show(group, *json))?,
        (Command::List { .. }, None) => {}
        (Command::Get(one), Some(groups)) => show(groups.get(&one.group)?, one.json)?,
        (Command::Members(one), Some(groups)) => {
            groups.members(&one.group, |profile| show(profile, one.json))?;
        }
        (Command::Get(one) | Command::Members(one), None) => return Err(no_group(&one.group)),
    }
    Ok(0)
}
