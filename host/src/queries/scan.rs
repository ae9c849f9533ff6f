//! What a goal would do now: the files that an import would take, the profiles that an export would write.

use std::collections::HashSet;

use serde::Serialize;
use sluicebox_files::{FileError, FoundFile, Pattern};
use sluicebox_store::{FileState, Store};
use utoipa::ToSchema;

use crate::config::{Config, Connection, Goal};
use crate::error::Error;
use crate::export::Export;
use crate::import::Import;
use crate::import::identity::Identified;
use crate::import::sets::FileSet;
use crate::plugins;
use crate::queries::examine::examine;
use crate::queries::walk::Selection;
use crate::runs::imported_again::ImportedAgain;

/// What a goal would do.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Scanned {
    Import(ScannedImport),
    Export(ScannedExport),
}

/// The files of an import goal.
#[derive(Serialize, ToSchema)]
pub(crate) struct ScannedImport {
    pub connection: String,
    pub goal: String,
    pub files: Vec<ScannedSet>,
    /// The columns of all root files, those of files that are not imported yet first.
    pub fields: Vec<String>,
    /// What the operator may not expect.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

/// A root file with its linked files.
#[derive(Serialize, ToSchema)]
pub(crate) struct ScannedSet {
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Whether it is imported already.
    pub imported: bool,
    /// Rows of it that are imported already.
    pub rows_imported: u64,
    /// Why the next run imports it again; absent unless it was imported under another configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imported_again: Option<ImportedAgain>,
    /// The plugins of which another build imported it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changed_plugins: Vec<String>,
    /// Bytes of it that were read to look for damage. 0 if it is imported already; fewer than its size if it is large.
    pub bytes_read: u64,
    pub fields: Vec<String>,
    pub linked: Vec<ScannedLinked>,
    /// Why it, or a linked file of it, cannot be imported.
    pub error: Option<String>,
    /// What people must know where not all of it was read.
    #[serde(skip)]
    pub remark: Option<String>,
}

/// Bytes of the fields of all files that are shown: a file may have a hundred thousand, and there may be as many files.
const MAX_FIELDS_BYTES: usize = 16 << 20;

impl ScannedSet {
    fn bytes_of_fields(&self) -> usize {
        let fields = self.fields.iter().chain(self.linked.iter().flat_map(|linked| &linked.fields));
        fields.map(|field| field.len() + size_of::<String>()).sum()
    }

    /// Whether it is imported, will be, or cannot be.
    pub(crate) fn in_words(&self) -> String {
        match (&self.error, &self.imported_again, self.imported, self.rows_imported) {
            (Some(error), ..) => error.clone(),
            (_, Some(again), ..) => format!("imported again ({})", again.reason()),
            (_, _, true, _) if !self.changed_plugins.is_empty() => {
                format!("already imported, with another build of {}", self.changed_plugins.join(", "))
            }
            (_, _, true, _) => "already imported".to_owned(),
            (_, _, _, 0) => "new".to_owned(),
            (_, _, _, rows) => format!("imported up to row {rows}"),
        }
    }
}

/// A linked file.
#[derive(Serialize, ToSchema)]
pub(crate) struct ScannedLinked {
    /// Its name in the goal.
    pub file: String,
    pub name: String,
    pub size: u64,
    pub fields: Vec<String>,
}

/// The files in the folder of an export goal, and the profiles that it would write.
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

/// How many profiles an export would write.
#[derive(Default, Serialize, ToSchema)]
pub(crate) struct ForExport {
    /// All profiles of its segment with consent and a value in one of its columns.
    pub available: u64,
    /// Those of them that the next run would write.
    pub next: u64,
}

/// What a goal would do now.
///
/// # Errors
/// If the location cannot be listed, or a plugin cannot be used. A file that cannot be imported says so in its place.
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
            let import = Import::new(config, connection, goal, &opened, &processors, store);
            scan_import(&import).map(Scanned::Import)
        }
        Goal::Export(goal) => {
            let export = Export::new(config, connection, goal, &opened, &processors, store);
            scan_export(&export).map(Scanned::Export)
        }
    }
}

fn scan_import(import: &Import<'_>) -> Result<ScannedImport, Error> {
    let found = import.sets()?;
    let (mut files, mut fields, mut seen) = (Vec::new(), Vec::<String>::new(), HashSet::new());
    let mut bytes = 0;
    for set in &found.sets {
        let mut scanned = match set {
            Ok(set) => scanned(import, set),
            Err(incomplete) => failing(&incomplete.root, incomplete.message.clone()),
        };
        bytes += scanned.bytes_of_fields();
        if bytes > MAX_FIELDS_BYTES && !files.is_empty() {
            bytes -= scanned.bytes_of_fields();
            scanned.fields = Vec::new();
            scanned.linked.iter_mut().for_each(|linked| linked.fields = Vec::new());
            scanned.remark.get_or_insert_with(|| "its fields are not shown: there are too many".to_owned());
        }
        files.push(scanned);
    }
    // The fields of the next file first: those of an imported one may have been other ones. A file may have a hundred thousand.
    let (imported, new): (Vec<_>, Vec<_>) = files.iter().partition(|file| file.imported);
    for field in new.into_iter().chain(imported).flat_map(|file| &file.fields) {
        if seen.insert(field.clone()) {
            fields.push(field.clone());
        }
    }
    let (connection, goal) = (import.connection.name.clone(), import.goal.name.clone());
    Ok(ScannedImport { connection, goal, files, fields, warnings: found.warnings })
}

/// What is known of a set without importing it.
fn scanned(import: &Import<'_>, set: &FileSet) -> ScannedSet {
    scan_set(import, set).unwrap_or_else(|error| failing(&set.root, error.to_string()))
}

fn scan_set(import: &Import<'_>, set: &FileSet) -> Result<ScannedSet, Error> {
    let Identified { state: FileState { position, complete }, again, changed_plugins, .. } =
        import.identify(set)?;
    let look = |file: &FoundFile, linked: Option<usize>| match complete {
        true => columns(import, file, linked).map(|columns| (columns, None)),
        false => Ok(match examine(import, file, linked, |_| Ok(()))? {
            Some(examined) => (examined.columns.clone(), Some(examined)),
            None => (Vec::new(), None),
        }),
    };
    let (fields, root) = look(&set.root, None)?;
    let (bytes_read, mut remark) = match &root {
        Some(root) => (root.bytes_read, root.remark()),
        None => (0, None),
    };
    let mut failure = root.and_then(|root| root.failure);
    let mut linked = Vec::new();
    for (place, (entry, files)) in import.goal.linked.iter().zip(&set.linked).enumerate() {
        for file in files {
            let (fields, examined) = look(file, Some(place))?;
            if let Some(examined) = examined {
                remark = remark.or(examined.remark());
                failure = failure.or(examined.failure);
            }
            let (name, size) = (file.name.clone(), file.size);
            linked.push(ScannedLinked { file: entry.name.clone(), name, size, fields });
        }
    }
    Ok(ScannedSet {
        name: set.root.name.clone(),
        size: set.root.size,
        imported: complete,
        rows_imported: position,
        imported_again: again,
        changed_plugins,
        bytes_read,
        fields,
        linked,
        error: failure.map(|failure| failure.to_string()),
        remark,
    })
}

/// The columns of a file; none if it is empty.
fn columns(import: &Import<'_>, file: &FoundFile, linked: Option<usize>) -> Result<Vec<String>, Error> {
    let source = file.open().map_err(|error| Error::File { name: file.name.clone(), error })?;
    let open = import.open(file, source, linked)?;
    Ok(open.map(|open| open.reader.header().columns.clone()).unwrap_or_default())
}

fn failing(file: &FoundFile, error: String) -> ScannedSet {
    ScannedSet {
        name: file.name.clone(),
        size: file.size,
        imported: false,
        rows_imported: 0,
        imported_again: None,
        changed_plugins: Vec::new(),
        bytes_read: 0,
        fields: Vec::new(),
        linked: Vec::new(),
        error: Some(error),
        remark: None,
    }
}

fn scan_export(export: &Export<'_>) -> Result<ScannedExport, Error> {
    let (connection, goal, store) = (export.connection, export.goal, export.store);
    let all = Pattern::wildcard("*").map_err(|error| Error::failed("the pattern `*`", error))?;
    let files = match export.opened.location.list(&goal.directory, &[&all]) {
        Ok(listing) => listing.files,
        // The export creates the folder.
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
