//! `sluicebox scan`.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde_json::{Value as Json, json};
use sluicebox_files::{FileError, FoundFile, Location, Pattern};
use sluicebox_store::{DryCopy, FileState, Store};

use crate::cli::print;
use crate::config::{Config, Connection, ExportGoal, Goal};
use crate::error::Error;
use crate::export::Export;
use crate::import::Import;
use crate::plugins;
use crate::sets::FileSet;
use crate::walk::Selection;

/// Shows the files that a goal would take, whether they were imported already, and their fields; without a goal what
/// there is in the location.
///
/// # Errors
/// If the configuration is wrong or the location cannot be listed. A file that cannot be read says so in its place.
pub(crate) fn run(folder: &Path, connection: &str, goal: Option<&str>, json: bool) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    let connection = config.connection(connection)?;
    let Some(goal) = goal else { return location(&config, connection, json) };
    let goal = match super::goal(connection, goal)? {
        Goal::Import(goal) => goal,
        Goal::Export(goal) => return export(&config, connection, goal, json),
    };
    let processors = plugins::load(&config, &goal.processors, &plugins::runtime(&config, false)?)?;
    let held = Store::open_read_only(&config.settings.store)?;
    let scratch;
    let store = match held {
        Some(store) => store,
        None => {
            scratch = DryCopy::of(&std::env::temp_dir().join("sluicebox-scan-has-no-store"))?;
            Store::open(scratch.path())?
        }
    };
    let (stop, opened) = (AtomicBool::new(false), connection.open(&config.root)?);
    let import = Import {
        config: &config,
        connection,
        goal,
        location: &opened.location,
        decoding: opened.decoding(&config.settings, goal),
        processors: &processors,
        store: &store,
        erasure_key: None,
        keep: false,
        diff: None,
        run: "scan",
        dry: true,
        stop: &stop,
    };
    let found = import.sets()?;
    found.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let (mut files, mut fields) = (Vec::new(), Vec::<String>::new());
    for set in &found.sets {
        let file = match set {
            Ok(set) => scanned(&import, set),
            Err(incomplete) => {
                entry(&incomplete.root, FileState::default(), &[], vec![], Some(incomplete.message.clone()))
            }
        };
        for field in
            file.get("fields").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str)
        {
            if !fields.iter().any(|known| known == field) {
                fields.push(field.to_owned());
            }
        }
        files.push(file);
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
            (Json::String(error), ..) => error.clone(),
            (_, Json::Bool(true), _) => "already imported".to_owned(),
            (_, _, Some(rows)) if rows > 0 => format!("imported up to row {rows}"),
            _ => "new".to_owned(),
        };
        print(format!("{}  {} bytes  {state}", text(&file["name"]), file["size"]))?;
        for linked in file["linked"].as_array().into_iter().flatten() {
            print(format!(
                "  {}: {}  {} bytes",
                text(&linked["file"]),
                text(&linked["name"]),
                linked["size"]
            ))?;
        }
    }
    print(format!("fields: {}", fields.join(", ")))?;
    Ok(0)
}

fn text(value: &Json) -> &str {
    value.as_str().unwrap_or_default()
}

/// What there is to know of a set without importing it.
fn scanned(import: &Import<'_>, set: &FileSet) -> Json {
    let columns = |file: &FoundFile, linked: Option<usize>| {
        let source = file.open().map_err(|error| Error::File { name: file.name.clone(), error })?;
        let open = import.open(file, source, linked)?;
        Ok::<_, Error>(open.map(|open| open.reader.header().columns.clone()).unwrap_or_default())
    };
    let look = || {
        let fields = columns(&set.root, None)?;
        let mut linked = Vec::new();
        for (place, (entry, files)) in import.goal.linked.iter().zip(&set.linked).enumerate() {
            for file in files {
                let fields = columns(file, Some(place))?;
                linked.push(
                    json!({ "file": entry.name, "name": file.name, "size": file.size, "fields": fields }),
                );
            }
        }
        Ok::<_, Error>((import.identify(set)?.state, fields, linked))
    };
    match look() {
        Ok((state, fields, linked)) => entry(&set.root, state, &fields, linked, None),
        Err(error) => entry(&set.root, FileState::default(), &[], vec![], Some(error.to_string())),
    }
}

fn entry(
    file: &FoundFile,
    state: FileState,
    fields: &[String],
    linked: Vec<Json>,
    error: Option<String>,
) -> Json {
    json!({
        "name": file.name,
        "size": file.size,
        "imported": state.complete,
        "rows_imported": state.position,
        "fields": fields,
        "linked": linked,
        "error": error,
    })
}

/// The files that are in an export's folder already, and how many profiles there are for it.
fn export(config: &Config, connection: &Connection, goal: &ExportGoal, json: bool) -> Result<u8, Error> {
    let opened = connection.open(&config.root)?;
    let all = Pattern::wildcard("*").map_err(|error| Error::Failed(error.to_string()))?;
    let files = match opened.location.list(&goal.directory, &[&all]) {
        Ok(listing) => listing.files,
        // The export makes the folder.
        Err(FileError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Error::Location { place: connection.name.clone(), error }),
    };
    let processors = plugins::load(config, &goal.processors, &plugins::runtime(config, false)?)?;
    let (mut available, mut next) = (0, 0);
    if let Some(store) = &Store::open_read_only(&config.settings.store)? {
        let (opened, processors, stop) = (&opened, &processors, &AtomicBool::new(false));
        let export =
            Export { config, connection, goal, opened, processors, store, run: "scan", dry: true, stop };
        let names = store.names();
        let count = |selection: &Selection| {
            let mut rows = 0;
            export.pages(selection, &names, jiff::Timestamp::now(), |page| {
                rows += page.batch.rows() as u64;
                Ok(true)
            })?;
            Ok::<_, Error>(rows)
        };
        available = count(&Selection::All(None))?;
        next = match export.selection()? {
            Selection::All(None) => available,
            selection => count(&selection)?,
        };
    }
    if json {
        let listed = files.iter().map(|file| json!({ "name": file.name, "size": file.size }));
        print(json!({
            "connection": connection.name,
            "goal": goal.name,
            "files": listed.collect::<Vec<_>>(),
            "fields": goal.columns.iter().map(|column| &column.header).collect::<Vec<_>>(),
            "profiles": { "available": available, "next": next },
        }))?;
        return Ok(0);
    }
    for file in &files {
        print(format!("{}  {} bytes", file.name, file.size))?;
    }
    print(format!("{available} profiles are available, {next} of them for the next run"))?;
    Ok(0)
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
    print(format!("{}: {files} files at its top", opened.location))?;
    Ok(0)
}
