//! `sluicebox check`.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use sluicebox_store::{DryCopy, Store};

use crate::cli::{complain, print};
use crate::config::{Config, Connection};
use crate::error::Error;
use crate::import::Import;
use crate::plan::resolve;
use crate::plugins;

/// Validates the configuration; then, for each goal, its plugins, its folder, and the columns of the first file.
///
/// # Errors
/// If the configuration is wrong. Problems of goals are shown, each by itself.
pub(crate) fn run(folder: &Path, names: &[String]) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    for warning in &config.warnings {
        print(format!("warning: {warning}"))?;
    }
    let connections: Vec<&Connection> = match names {
        [] => config.connections.iter().collect(),
        names => names.iter().map(|name| config.connection(name)).collect::<Result<_, _>>()?,
    };
    if connections.is_empty() {
        print("warning: there are no connections")?;
    }
    // Columns are resolved against a store's dictionary; an empty one does.
    let scratch = DryCopy::of(&std::env::temp_dir().join("sluicebox-check-has-no-store"))?;
    let store = Store::open(scratch.path())?;
    let runtime = plugins::runtime(&config, false)?;
    let mut wrong = false;
    for connection in connections {
        for goal in &connection.goals {
            let processors = plugins::load(&config, goal, &runtime);
            let result = processors.and_then(|processors| {
                let stop = AtomicBool::new(false);
                let import = Import {
                    config: &config,
                    connection,
                    goal,
                    processors: &processors,
                    store: &store,
                    run: "check",
                    dry: true,
                    stop: &stop,
                };
                for processor in &processors {
                    processor.plugin.describe().map_err(|error| Error::Plugin {
                        place: format!("{} / {}", connection.name, goal.name),
                        reason: error.to_string(),
                    })?;
                }
                first_file(&import)
            });
            match result {
                Ok(found) => print(format!("ok: {} / {}: {found}", connection.name, goal.name))?,
                Err(error) => {
                    wrong = true;
                    print(format!("error: {} / {}", connection.name, goal.name))?;
                    complain(&error);
                }
            }
        }
    }
    Ok(if wrong { 2 } else { 0 })
}

/// Opens the first file as an import would.
fn first_file(import: &Import<'_>) -> Result<String, Error> {
    let (files, warnings) = import.files()?;
    for warning in warnings {
        print(format!("warning: {warning}"))?;
    }
    let Some(file) = files.first() else {
        return Ok(format!("no file matches `{}`", import.goal.pattern));
    };
    let source = file.open().map_err(|error| Error::File { name: file.name.clone(), error: error.into() })?;
    if let Some(open) = import.open(file, source)? {
        let (connection, goal) = (import.connection, import.goal);
        let schema = &import.config.schema;
        let (_, warnings) = resolve(connection, goal, schema, import.store, &file.name, &open.columns)?;
        for warning in warnings {
            print(format!("warning: {warning}"))?;
        }
    }
    Ok(format!(
        "{} file{} to take, the first is {}",
        files.len(),
        if files.len() == 1 { "" } else { "s" },
        file.name
    ))
}
