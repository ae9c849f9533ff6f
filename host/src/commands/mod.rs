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

use crate::config::{Connection, ImportGoal};
use crate::error::Error;

/// The goal of that name.
///
/// # Errors
/// With the nearest name.
fn goal<'c>(connection: &'c Connection, name: &str) -> Result<&'c ImportGoal, Error> {
    let found = connection.goals.iter().find(|goal| goal.name == name);
    found.ok_or_else(|| Error::Unknown {
        kind: "goal",
        name: name.to_owned(),
        known: connection.goal_names(),
    })
}
