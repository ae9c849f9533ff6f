//! What runs did not take: the files of rejected rows, and which of their lines are imported since.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sluicebox_store::Store;
use utoipa::ToSchema;

use crate::config::Config;
use crate::error::Error;
use crate::import::corrections::key;
use crate::queries::history;
use crate::runs::faults::Fault;
use crate::runs::rejected::{self, Line, LineScope};
use crate::runs::report::{HistoryEntry, Status};

/// What a goal run did not take.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NotTaken {
    pub run: String,
    pub connection: String,
    pub goal: String,
    pub files: Vec<RejectedFile>,
    pub faults: Vec<Fault>,
}

/// A file of rejected rows.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RejectedFile {
    pub name: String,
    /// Its lines, without the header.
    pub lines: u64,
    /// Those that were corrected and imported.
    pub imported: u64,
}

/// Calls `take` with what each goal run did not take, the latest first: of all runs, or of one.
///
/// # Errors
/// If there is no such run, or the store, a file or `take` fails.
pub(crate) fn list(
    config: &Config,
    store: Option<&Store>,
    run: Option<&str>,
    mut take: impl FnMut(NotTaken) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut list = |entry: &HistoryEntry| match not_taken(config, store, entry)? {
        Some(not_taken) => take(not_taken),
        None => Ok(()),
    };
    match (run, store) {
        (Some(run), store) => history::of_run(store, run, list),
        (None, Some(store)) => history::all(store, &mut list),
        (None, None) => Ok(()),
    }
}

/// What a goal run did not take; `None` if it has not ended, its files are gone, or there are none.
///
/// # Errors
/// If a file or the store cannot be read.
pub(crate) fn not_taken(
    config: &Config,
    store: Option<&Store>,
    entry: &HistoryEntry,
) -> Result<Option<NotTaken>, Error> {
    let mut files = Vec::new();
    if entry.report.status == Status::Running {
        return Ok(None);
    }
    for (name, _) in &entry.rejected_files {
        let mut file = RejectedFile { name: name.clone(), lines: 0, imported: 0 };
        let path = rejected::folder(config, &entry.report.run).join(name);
        if !path.exists() {
            continue;
        }
        if rejected::is_of_this_version(&path)? {
            rejected::read_lines(&path, |line| {
                file.lines += 1;
                file.imported += u64::from(is_imported(store, entry, &line)?);
                Ok(())
            })?;
        } else {
            rejected::read(config, &path, |_, _| {
                file.lines += 1;
                Ok(())
            })?;
        }
        files.push(file);
    }
    let report = &entry.report;
    Ok((!files.is_empty()).then(|| NotTaken {
        run: report.run.clone(),
        connection: report.connection.clone(),
        goal: report.goal.clone(),
        files,
        faults: report.faults.clone(),
    }))
}

fn is_imported(store: Option<&Store>, entry: &HistoryEntry, line: &Line) -> Result<bool, Error> {
    let key = key(&entry.report.run, &entry.report.goal, line);
    Ok(store.map(|store| store.file_state(&key)).transpose()?.flatten().is_some())
}

/// The goal run of a run and a goal.
///
/// # Errors
/// If there is none, or the store fails.
pub(crate) fn goal_run(store: Option<&Store>, run: &str, goal: &str) -> Result<HistoryEntry, Error> {
    let (mut found, mut known) = (None, Vec::new());
    history::of_run(store, run, |entry| {
        known.push(entry.report.goal.clone());
        if entry.report.goal == goal {
            found = Some(entry.clone());
        }
        Ok(())
    })?;
    found.ok_or_else(|| Error::Unknown { kind: "goal of the run", name: goal.to_owned(), known })
}

/// Calls `take` with each line that a goal run recorded, the file that holds it, and whether it is imported since.
///
/// # Errors
/// If a file is gone or cannot be read, or the store or `take` fails.
pub(crate) fn lines(
    config: &Config,
    store: Option<&Store>,
    entry: &HistoryEntry,
    mut take: impl FnMut(&str, Line, bool) -> Result<(), Error>,
) -> Result<(), Error> {
    for (name, _) in &entry.rejected_files {
        let path = rejected::folder(config, &entry.report.run).join(name);
        if !path.exists() {
            return Err(Error::NotFound(format!("{} was removed", path.display())));
        }
        rejected::read_lines(&path, |line| {
            let is_imported = is_imported(store, entry, &line)?;
            take(name, line, is_imported)
        })?;
    }
    Ok(())
}

/// A line of a goal run's rejected rows, for programs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ShownLine {
    /// The file of rejected rows that holds it.
    pub recorded_in: String,
    /// The file that it comes from.
    pub file: String,
    /// The physical line where its row begins there.
    pub line: u64,
    pub scope: RecordedScope,
    /// Of the scope `cells`: the columns of the cells that were not taken.
    pub columns: Vec<String>,
    pub code: String,
    pub reason: String,
    /// Whether it was corrected and imported since.
    pub imported: bool,
    #[schema(value_type = BTreeMap<String, String>)]
    pub cells: serde_json::Map<String, Json>,
}

/// How much of a row was not taken: all of it, or some cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RecordedScope {
    #[default]
    Row,
    Cells,
}

impl From<&LineScope> for RecordedScope {
    fn from(scope: &LineScope) -> Self {
        match scope {
            LineScope::Row => Self::Row,
            LineScope::Cells(_) => Self::Cells,
        }
    }
}

impl ShownLine {
    pub(crate) fn of(line: Line, recorded_in: &str, imported: bool) -> Self {
        let scope = RecordedScope::from(&line.scope);
        let columns = match line.scope {
            LineScope::Row => Vec::new(),
            LineScope::Cells(columns) => columns,
        };
        let cells = line.cells.into_iter().map(Json::String);
        Self {
            recorded_in: recorded_in.to_owned(),
            file: line.file,
            line: line.number,
            scope,
            columns,
            code: line.code,
            reason: line.reason,
            imported,
            cells: line.columns.iter().cloned().zip(cells).collect(),
        }
    }
}
