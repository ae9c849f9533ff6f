//! `sluicebox undo`.

use std::path::Path;

use sluicebox_store::Store;

use crate::config::Config;
use crate::error::Error;
use crate::output::print;
use crate::runs::undo::{UndoneGoal, no_run, undo};

/// Restores what a run changed, the last of its goal runs first, and lists what it leaves alone because it changed since.
///
/// # Errors
/// If there is no such run, or the values that it overwrote are not retained.
pub(crate) fn run(folder: &Path, run: &str, json: bool) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    let store = Store::open_existing(&config.settings.store)?.ok_or_else(|| no_run(run))?;
    undo(&config, &store, run, |undone| if json { print(undone.json()) } else { text(undone) })?;
    Ok(0)
}

fn text(undone: &UndoneGoal) -> Result<(), Error> {
    print(format!(
        "{} / {}: {} restored, {} removed, {} events; {} left alone",
        undone.connection, undone.goal, undone.restored, undone.removed, undone.events, undone.left_alone
    ))?;
    undone.left.iter().try_for_each(|(id, why)| print(format!("  {id}: {why}")))
}
