//! One command a file.

pub(crate) mod check;
pub(crate) mod group;
pub(crate) mod history;
pub(crate) mod init;
pub(crate) mod plugin;
pub(crate) mod preview;
pub(crate) mod product;
pub(crate) mod profile;
pub(crate) mod run;
pub(crate) mod scan;
pub(crate) mod schedule;
pub(crate) mod segment;
pub(crate) mod serve;
pub(crate) mod store;
pub(crate) mod undo;

use crate::config::{Connection, Goal};
use crate::error::Error;

/// The goal of that name.
///
/// # Errors
/// With the nearest name.
pub(crate) fn goal<'c>(connection: &'c Connection, name: &str) -> Result<Goal<'c>, Error> {
    let found = connection.all_goals().find(|goal| goal.name() == name);
    found.ok_or_else(|| Error::Unknown {
        kind: "goal",
        name: name.to_owned(),
        known: connection.goal_names(),
    })
}
