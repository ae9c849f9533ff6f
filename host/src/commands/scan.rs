//! `sluicebox scan`.

use std::fs;
use std::path::Path;

use serde::Serialize;
use serde_json::json;
use sluicebox_files::{FileError, FoundFile, Location, Pattern};
use sluicebox_store::{DryCopy, FileState, Store};
use utoipa::ToSchema;

use crate::cli::print;
use crate::config::{Config, Connection, Goal};
use crate::error::Error;
use crate::export::Export;
use crate::import::Import;
use crate::plugins;
use crate::sets::FileSet;
use crate::walk::Selection;

/// What a goal would take or make.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Scanned {
    Import(ScannedImport),
    Export(ScannedExport),
}

/// The files that an import goal would take.
#[derive(Serialize, ToSchema)]
pub(crate) struct ScannedImport {
    pub connection: String,
    pub goal: String,
    pub files: Vec<ScannedSet>,
    /// The columns of all root files.
    pub fields: Vec<String>,
    /// What else there is to say.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

/// A root file, with the files that belong to it.
#[derive(Serialize, ToSchema)]
pub(crate) struct ScannedSet {
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Whether it would not be imported again.
    pub imported: bool,
    /// Rows of it that are imported already.
    pub rows_imported: u64,
    pub fields: Vec<String>,
    pub linked: Vec<ScannedLinked>,
    /// Why it cannot be read.
    pub error: Option<String>,
}

/// A linked file.
#[derive(Serialize, ToSchema)]
pub(crate) struct ScannedLinked {
    /// What the goal calls it.
    pub file: String,
    pub name: String,
    pub size: u64,
    pub fields: Vec<String>,
}

/// The files that are in an export's folder already, and how many profiles there are for it.
#[derive(Serialize, ToSchema)]
pub(crate) struct ScannedExport {
    pub connection: String,
    pub goal: String,
    pub files: Vec<FileInFolder>,
    pub fields: Vec<String>,
    pub profiles: ForExport,
}

/// A file.
#[derive(Serialize, ToSchema)]
pub(crate) struct FileInFolder {
    pub name: String,
    /// Bytes.
    pub size: u64,
}

/// How many profiles there are for an export.
#[derive(Default, Serialize, ToSchema)]
pub(crate) struct ForExport {
    /// In its segment, with a value for one of its columns.
    pub available: u64,
    /// Of those, for the next run.
    pub next: u64,
}

/// Shows the files that a goal would take, whether they were imported already, and their fields; without a goal what
/// there is in the location.
///
/// # Errors
/// If the configuration is wrong or the location cannot be listed. A file that cannot be read says so in its place.
pub(crate) fn run(folder: &Path, connection: &str, goal: Option<&str>, json: bool) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    let connection = config.connection(connection)?;
    let Some(goal) = goal else { return location(&config, connection, json) };
    let goal = super::goal(connection, goal)?;
    let held = Store::open_read_only(&config.settings.store)?;
    let scratch;
    let store = match held {
        Some(store) => store,
        None => {
            scratch = DryCopy::of(&std::env::temp_dir().join("sluicebox-scan-has-no-store"))?;
            Store::open(scratch.path())?
        }
    };
    let scanned = scan(&config, connection, goal, &store)?;
    if let Scanned::Import(import) = &scanned {
        import.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    }
    if json {
        print(serde_json::to_string(&scanned).unwrap_or_default())?;
        return Ok(0);
    }
    match scanned {
        Scanned::Import(import) => show_import(&import, goal)?,
        Scanned::Export(export) => {
            for file in &export.files {
                print(format!("{}  {} bytes", file.name, file.size))?;
            }
            let ForExport { available, next } = export.profiles;
            print(format!("{available} profiles are available, {next} of them for the next run"))?;
        }
    }
    Ok(0)
}

/// What a goal would take or make now.
///
/// # Errors
/// If the location cannot be listed, or a plugin cannot be used.
pub(crate) fn scan(
    config: &Config,
    connection: &Connection,
    goal: Goal<'_>,
    store: &Store,
) -> Result<Scanned, Error> {
    let processors = plugins::load(config, goal.processors(), &plugins::runtime(config, false)?)?;
    let opened = connection.open(&config.root)?;
    match goal {
        Goal::Import(goal) => {
            let import = Import::looking(config, connection, goal, &opened, &processors, store);
            scan_import(&import).map(Scanned::Import)
        }
        Goal::Export(goal) => {
            let export = Export::looking(config, connection, goal, &opened, &processors, store);
            scan_export(&export).map(Scanned::Export)
        }
    }
}

fn scan_import(import: &Import<'_>) -> Result<ScannedImport, Error> {
    let found = import.sets()?;
    let (mut files, mut fields) = (Vec::new(), Vec::<String>::new());
    for set in &found.sets {
        let file = match set {
            Ok(set) => scanned(import, set),
            Err(incomplete) => unread(&incomplete.root, incomplete.message.clone()),
        };
        for field in &file.fields {
            if !fields.contains(field) {
                fields.push(field.clone());
            }
        }
        files.push(file);
    }
    let (connection, goal) = (import.connection.name.clone(), import.goal.name.clone());
    Ok(ScannedImport { connection, goal, files, fields, warnings: found.warnings })
}

fn show_import(scanned: &ScannedImport, goal: Goal<'_>) -> Result<(), Error> {
    if scanned.files.is_empty() {
        let Goal::Import(goal) = goal else { return Ok(()) };
        return print(format!("no file matches `{}`", goal.pattern));
    }
    for file in &scanned.files {
        let state = match (&file.error, file.imported, file.rows_imported) {
            (Some(error), ..) => error.clone(),
            (_, true, _) => "already imported".to_owned(),
            (_, _, 0) => "new".to_owned(),
            (_, _, rows) => format!("imported up to row {rows}"),
        };
        print(format!("{}  {} bytes  {state}", file.name, file.size))?;
        for linked in &file.linked {
            print(format!("  {}: {}  {} bytes", linked.file, linked.name, linked.size))?;
        }
    }
    print(format!("fields: {}", scanned.fields.join(", ")))
}

/// What there is to know of a set without importing it.
fn scanned(import: &Import<'_>, set: &FileSet) -> ScannedSet {
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
                let (name, size) = (file.name.clone(), file.size);
                linked.push(ScannedLinked { file: entry.name.clone(), name, size, fields });
            }
        }
        let FileState { position, complete } = import.identify(set)?.state;
        let (name, size) = (set.root.name.clone(), set.root.size);
        let (imported, rows_imported) = (complete, position);
        Ok::<_, Error>(ScannedSet { name, size, imported, rows_imported, fields, linked, error: None })
    };
    look().unwrap_or_else(|error| unread(&set.root, error.to_string()))
}

fn unread(file: &FoundFile, error: String) -> ScannedSet {
    ScannedSet {
        name: file.name.clone(),
        size: file.size,
        imported: false,
        rows_imported: 0,
        fields: Vec::new(),
        linked: Vec::new(),
        error: Some(error),
    }
}

fn scan_export(export: &Export<'_>) -> Result<ScannedExport, Error> {
    let (connection, goal, store) = (export.connection, export.goal, export.store);
    let all = Pattern::wildcard("*").map_err(|error| Error::Failed(error.to_string()))?;
    let files = match export.opened.location.list(&goal.directory, &[&all]) {
        Ok(listing) => listing.files,
        // The export makes the folder.
        Err(FileError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Error::Location { place: connection.name.clone(), error }),
    };
    let names = store.names();
    let count = |selection: &Selection| {
        let mut rows = 0;
        export.pages(selection, &names, jiff::Timestamp::now(), |page| {
            rows += page.batch.rows() as u64;
            Ok(true)
        })?;
        Ok::<_, Error>(rows)
    };
    let available = count(&Selection::All(None))?;
    let next = match export.selection()? {
        Selection::All(None) => available,
        selection => count(&selection)?,
    };
    Ok(ScannedExport {
        connection: connection.name.clone(),
        goal: goal.name.clone(),
        files: files.into_iter().map(|file| FileInFolder { name: file.name, size: file.size }).collect(),
        fields: goal.columns.iter().map(|column| column.header.clone()).collect(),
        profiles: ForExport { available, next },
    })
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
