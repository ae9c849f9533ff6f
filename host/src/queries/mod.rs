//! What commands, pages and the API ask of the store and the files. Nothing here prints or knows who asks.

pub(crate) mod check;
pub(crate) mod examine;
pub(crate) mod groups;
pub(crate) mod history;
pub(crate) mod imported_again;
pub(crate) mod preview;
pub(crate) mod products;
pub(crate) mod profile;
pub(crate) mod provenance;
pub(crate) mod rejected;
pub(crate) mod scan;
pub(crate) mod schedule;
pub(crate) mod segment_counts;
pub(crate) mod segments;
pub(crate) mod upkeep;
pub(crate) mod view;
pub(crate) mod walk;

use sluicebox_store::{ReadStore, Store};

use crate::config::{Config, Connection, Goal};
use crate::error::Error;

/// The goal of that name.
///
/// # Errors
/// With the nearest name.
pub(crate) fn find_goal<'c>(connection: &'c Connection, name: &str) -> Result<Goal<'c>, Error> {
    let found = connection.all_goals().find(|goal| goal.name() == name);
    found.ok_or_else(|| Error::Unknown {
        kind: "goal",
        name: name.to_owned(),
        known: connection.goal_names(),
    })
}

/// Opens the store of a working folder for reading; an empty one where no run has created it yet.
///
/// # Errors
/// If the store is damaged or of a newer version.
pub(crate) fn store_or_empty(config: &Config) -> Result<ReadStore, Error> {
    Ok(Store::open_or_empty(&config.settings.store)?)
}
