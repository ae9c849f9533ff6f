//! `sluicebox scan`.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde_json::json;
use sluicebox_store::{DryCopy, Store};

use crate::cli::print;
use crate::config::Config;
use crate::error::Error;
use crate::import::Import;
use crate::plugins;

/// Shows the files that a goal would take, whether they were imported already, and their fields.
///
/// # Errors
/// If the configuration is wrong or the folder cannot be read. A file that cannot be read says so in its place.
pub(crate) fn run(folder: &Path, connection: &str, goal: &str, json: bool) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    let connection = config.connection(connection)?;
    let goal = super::goal(connection, goal)?;
    let processors = plugins::load(&config, goal, &plugins::runtime(&config, false)?)?;
    let held = Store::open_read_only(&config.settings.store)?;
    let scratch;
    let store = match held {
        Some(store) => store,
        None => {
            scratch = DryCopy::of(&std::env::temp_dir().join("sluicebox-scan-has-no-store"))?;
            Store::open(scratch.path())?
        }
    };
    let stop = AtomicBool::new(false);
    let import = Import {
        config: &config,
        connection,
        goal,
        processors: &processors,
        store: &store,
        run: "scan",
        dry: true,
        stop: &stop,
    };
    let (found, warnings) = import.files()?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let (mut files, mut fields) = (Vec::new(), Vec::<String>::new());
    for file in &found {
        let looked = || {
            let failed = |error: std::io::Error| Error::File { name: file.name.clone(), error: error.into() };
            let mut source = file.open().map_err(failed)?;
            let key = import.ledger_key(file, source.digest().map_err(failed)?);
            let state = import.store.file_state(&key)?.unwrap_or_default();
            let open = import.open(file, source)?;
            let columns = open.map(|open| open.reader.header().columns.clone()).unwrap_or_default();
            Ok::<_, Error>((state, columns))
        };
        let (state, columns, error) = match looked() {
            Ok((state, columns)) => (state, columns, None),
            Err(error) => (sluicebox_store::FileState::default(), Vec::new(), Some(error.to_string())),
        };
        for column in &columns {
            if !fields.contains(column) {
                fields.push(column.clone());
            }
        }
        files.push(json!({
            "name": file.name,
            "size": file.size,
            "imported": state.complete,
            "rows_imported": state.position,
            "fields": columns,
            "error": error,
        }));
    }
    if json {
        print(json!({ "connection": connection.name, "goal": goal.name, "files": files, "fields": fields }))?;
        return Ok(0);
    }
    if files.is_empty() {
        print(format!("no file matches `{}`", goal.pattern))?;
        return Ok(0);
    }
    for file in &files {
        let state = match (&file["error"], &file["imported"], file["rows_imported"].as_u64()) {
            (serde_json::Value::String(error), ..) => error.clone(),
            (_, serde_json::Value::Bool(true), _) => "already imported".to_owned(),
            (_, _, Some(rows)) if rows > 0 => format!("imported up to row {rows}"),
            _ => "new".to_owned(),
        };
        print(format!("{}  {} bytes  {state}", file["name"].as_str().unwrap_or_default(), file["size"]))?;
    }
    print(format!("fields: {}", fields.join(", ")))?;
    Ok(0)
}
