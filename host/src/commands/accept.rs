//! `sluicebox accept`.

use std::path::Path;

use sluicebox_model::OrNever;
use sluicebox_store::Store;

use crate::config::{Config, Goal};
use crate::error::Error;
use crate::import::Import;
use crate::output::print;
use crate::plugins;
use crate::queries::find_goal;
use crate::runs::accept::find;
use crate::runs::recover;
use crate::runs::report::{Run, Trigger};

/// What to accept.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The connection.
    connection: String,
    /// Its import goal.
    goal: String,
    /// Root files; by default all that were imported under another configuration of the goal.
    files: Vec<String>,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

/// Marks files that were imported under another configuration of the goal as imported under the present one, so that the next
/// run does not import them again.
///
/// # Errors
/// If the configuration is wrong, a file is not there or was never imported, or the store is in use.
pub(crate) fn run(folder: &Path, arguments: &Arguments) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    let connection = config.connection(&arguments.connection)?;
    let Goal::Import(goal) = find_goal(connection, &arguments.goal)? else {
        return Err(Error::Usage(format!("goal `{}` exports: it imports no files", arguments.goal)));
    };
    let location = &config.settings.store;
    let store = Store::open_existing(location)?.ok_or_else(|| {
        Error::NotFound(format!("there is no store at {location}: nothing was imported yet"))
    })?;
    recover(&config, &store, false)?;
    let opened = connection.open(&config.root)?;
    let processors = plugins::load(&config, &goal.processors, &plugins::runtime(&config, true)?)?;
    let import = Import::new(&config, connection, goal, &opened, &processors, &store);
    let run = Run::new(Trigger::Command);
    let accepted = find(&import, &arguments.files, &run)?.write(&store, &run)?;
    if arguments.json {
        print(serde_json::to_string(&accepted).or_never("the JSON of accepted files"))?;
        return Ok(0);
    }
    if accepted.files.is_empty() {
        print(format!("{} / {}: no file would be imported again", accepted.connection, accepted.goal))?;
    }
    for file in &accepted.files {
        let rest = match file.rows_imported {
            Some(rows) => format!("imported up to row {rows}; the next run imports the rest"),
            None => "imported".to_owned(),
        };
        print(format!("{}: counts as {rest} ({})", file.file, file.why.join("; ")))?;
    }
    Ok(0)
}
