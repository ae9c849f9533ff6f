//! `sluicebox scan`.

use std::fs;
use std::path::Path;

use serde_json::json;
use sluicebox_files::Location;
use sluicebox_model::OrNever;

use crate::config::{Config, Connection, Goal};
use crate::error::Error;
use crate::output::{counted, print};
use crate::queries::scan::{ForExport, Scanned, ScannedImport, scan};
use crate::queries::{find_goal, store_or_empty};

/// Shows the files of a goal, whether they are imported already, and their fields; without a goal, the buckets and folders of the
/// location.
///
/// # Errors
/// If the configuration is wrong or the location cannot be listed. A file that cannot be imported says so in its place.
pub(crate) fn run(folder: &Path, connection: &str, goal: Option<&str>, json: bool) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    let connection = config.connection(connection)?;
    let Some(goal) = goal else { return location(&config, connection, json) };
    let goal = find_goal(connection, goal)?;
    let store = store_or_empty(&config)?;
    let scanned = scan(&config, connection, goal, &store)?;
    if let Scanned::Import(import) = &scanned {
        import.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    }
    if json {
        print(serde_json::to_string(&scanned).or_never("the JSON of a scan"))?;
        return Ok(0);
    }
    match scanned {
        Scanned::Import(import) => show_import(&import, goal)?,
        Scanned::Export(export) => {
            for file in &export.files {
                print(format!("{}  {}", file.name, counted(file.size, "byte")))?;
            }
            let ForExport { available, next } = export.profiles;
            print(format!("{} available, {next} for the next run", counted(available, "profile")))?;
        }
    }
    Ok(0)
}

fn show_import(scanned: &ScannedImport, goal: Goal<'_>) -> Result<(), Error> {
    if scanned.files.is_empty() {
        let Goal::Import(goal) = goal else { return Ok(()) };
        return print(format!("no file matches `{}`", goal.pattern));
    }
    for file in &scanned.files {
        let state = file.in_words();
        let remark = file.remark.as_ref().map(|remark| format!("; {remark}")).unwrap_or_default();
        print(format!("{}  {}  {state}{remark}", file.name, counted(file.size, "byte")))?;
        for linked in &file.linked {
            print(format!("  {}: {}  {}", linked.file, linked.name, counted(linked.size, "byte")))?;
        }
    }
    print(format!("fields: {}", scanned.fields.join(", ")))
}

/// The buckets and folders of a connection.
fn location(config: &Config, connection: &Connection, json: bool) -> Result<u8, Error> {
    let opened = connection.open(&config.root)?;
    let failed = |error: sluicebox_files::S3Error| Error::Location {
        place: connection.name.clone(),
        error: error.into(),
    };
    let (mut buckets, mut warning) = (Vec::new(), None);
    let (folders, files) = match &opened.location {
        Location::Directory(directory) => {
            let io = |error| Error::io(&directory.root, error);
            let (mut folders, mut files) = (Vec::new(), 0_u64);
            for entry in fs::read_dir(&directory.root).map_err(io)? {
                let entry = entry.map_err(io)?;
                if entry.path().is_dir() {
                    folders.push(format!("{}/", entry.file_name().to_string_lossy()));
                } else {
                    files += 1;
                }
            }
            folders.sort();
            (folders, files)
        }
        Location::S3(bucket) => {
            match bucket.buckets() {
                Ok(found) => buckets = found,
                Err(error) => warning = Some(format!("the buckets cannot be listed: {}", error.problem)),
            }
            bucket.folders("").map_err(failed)?
        }
    };
    warning.iter().for_each(|warning| tracing::warn!("{warning}"));
    if json {
        print(json!({
            "connection": connection.name,
            "location": opened.location.to_string(),
            "buckets": buckets,
            "folders": folders,
            "files": files,
        }))?;
        return Ok(0);
    }
    for bucket in buckets {
        print(format!("bucket {bucket}"))?;
    }
    for folder in folders {
        print(format!("{}/{folder}", opened.location))?;
    }
    print(format!("{}: {} at the top level", opened.location, counted(files, "file")))?;
    Ok(0)
}
