//! The first rows of a goal, before and after its processors.

use indicatif::HumanCount;
use serde::Serialize;
use serde_json::{Map, Value as Json};
use sluicebox_model::{Column, RecordBatch, Verdict};
use sluicebox_processors::Session;
use sluicebox_store::Store;
use utoipa::ToSchema;

use crate::config::{Config, Connection, ExportGoal, Goal};
use crate::error::Error;
use crate::export::Export;
use crate::import::Import;
use crate::import::columns::find_column;
use crate::import::sets::FileSet;
use crate::output::counted;
use crate::plugins;
use crate::queries::examine::first_new;
use crate::queries::walk::Selection;

/// The key of the cells of a row that have no column.
const SURPLUS: &str = "_surplus";

/// Bytes of a cell that are shown.
const MAX_CELL_BYTES: usize = 1024;
/// Columns whose cells are shown.
pub(crate) const MAX_COLUMNS: usize = 1000;
/// Bytes of all cells that are shown, and of all rows that are read for them. Partners decide how long rows are.
const MAX_SHOWN_BYTES: usize = 4 << 20;
const MAX_READ_BYTES: usize = 16 << 20;

/// The first rows of a goal, before and after its processors.
#[derive(Serialize, ToSchema)]
pub(crate) struct Preview {
    /// The next file that would be imported, or the file that would be exported.
    pub file: Option<String>,
    pub columns: Vec<String>,
    /// The columns, then those that processors add.
    pub columns_after: Vec<String>,
    pub rows: Vec<PreviewRow>,
    /// What is not shown, because it is too large.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
    /// Why the file cannot be read on after these rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The same.
    #[serde(skip)]
    pub failure: Option<Error>,
    /// Why there are no rows.
    #[serde(skip)]
    pub warning: Option<String>,
}

/// A row of a preview.
#[derive(Serialize, ToSchema)]
pub(crate) struct PreviewRow {
    /// The line of the file where it begins.
    pub line: u64,
    /// Its cells by their columns; cells that have no column, joined, as `_surplus`. A long cell is cut, and says how long it is.
    #[schema(value_type = Object)]
    pub before: Json,
    /// `keep`, `drop` or `reject`.
    pub verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its cells after the last processor; null if it is dropped or rejected.
    #[schema(value_type = Value)]
    pub after: Json,
    /// Its cells after each processor, until it is dropped or rejected.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub steps: Vec<Json>,
}

impl Preview {
    /// Checks that the file has a column, or gets it from a processor. Without a file, every column passes.
    ///
    /// # Errors
    /// If the file lacks the column or has it twice.
    pub(crate) fn check_column(&self, name: &str) -> Result<(), Error> {
        match &self.file {
            Some(file) if self.warning.is_none() => find_column(file, &self.columns_after, name).map(drop),
            _ => Ok(()),
        }
    }
}

/// The first rows of a goal, also after each processor if `steps`.
///
/// # Errors
/// If the file cannot be opened, or a processor fails.
pub(crate) fn preview(
    config: &Config,
    connection: &Connection,
    goal: Goal<'_>,
    store: &Store,
    rows: usize,
    steps: bool,
) -> Result<Preview, Error> {
    let processors = plugins::load(config, goal.processors(), &plugins::runtime(config, false)?)?;
    let opened = connection.open(&config.root)?;
    let mut preview = match goal {
        Goal::Import(goal) => {
            first_rows(&Import::new(config, connection, goal, &opened, &processors, store), rows, steps)?
        }
        Goal::Export(goal) => {
            let export = Export::new(config, connection, goal, &opened, &processors, store);
            exported_rows(&export, goal, rows, steps)?
        }
    };
    preview.rows.truncate(rows);
    Ok(preview)
}

fn first_rows(import: &Import<'_>, rows: usize, steps: bool) -> Result<Preview, Error> {
    let none = |file: Option<String>, warning: String| Preview {
        file,
        columns: Vec::new(),
        columns_after: Vec::new(),
        rows: Vec::new(),
        remark: None,
        error: None,
        failure: None,
        warning: Some(warning),
    };
    let found = import.sets()?;
    found.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let complete: Vec<&FileSet> = found.sets.iter().flatten().collect();
    let first = first_new(import, &complete)?.map(|set| &set.root);
    // A root file without its linked files can be previewed all the same.
    let incomplete = found.sets.iter().find_map(|set| set.as_ref().err()).map(|set| &set.root);
    let Some(file) = first.or(incomplete) else {
        return Ok(none(None, format!("no file matches `{}`", import.goal.pattern)));
    };
    let failed = |error| Error::File { name: file.name.clone(), error };
    let source = file.open().map_err(failed)?;
    let Some(mut open) = import.open_with(file, source, None, rows)? else {
        return Ok(none(Some(file.name.clone()), format!("{} is empty", file.name)));
    };
    let columns = open.reader.header().columns.clone();
    let (mut shown, mut room, mut failure) = (Vec::new(), Room::default(), None);
    while shown.len() < rows && room.is_left() {
        let batch = match open.reader.next_batch() {
            Ok(Some(batch)) => batch,
            Ok(None) => break,
            Err(error) => {
                failure = Some(failed(error));
                break;
            }
        };
        room.read += batch.memory();
        let failed = |error| Error::Processor { file: file.name.clone(), batch: Some(1), error };
        let batch =
            process(batch, &mut open.sessions, (&open.columns, columns.len()), steps, &mut shown, &mut room)
                .map_err(failed)?;
        for row in &batch.rejected {
            if !room.is_left() {
                break;
            }
            shown.push(PreviewRow {
                line: row.line,
                before: by_column(&columns, &row.cells, &mut room),
                verdict: "reject",
                code: Some(row.code.as_str().to_owned()),
                reason: Some(row.reason.clone()),
                after: Json::Null,
                steps: Vec::new(),
            });
        }
    }
    shown.sort_by_key(|row| row.line);
    Ok(Preview {
        file: Some(file.name.clone()),
        remark: room.remark(shown.len(), rows, open.columns.len()),
        columns,
        columns_after: open.columns,
        rows: shown,
        error: failure.as_ref().map(Error::to_string),
        failure,
        warning: None,
    })
}

/// How much is shown and read.
#[derive(Default)]
struct Room {
    shown: usize,
    read: usize,
}

impl Room {
    fn is_left(&self) -> bool {
        self.shown < MAX_SHOWN_BYTES && self.read < MAX_READ_BYTES
    }

    /// The name of a column and its cell, in the form that is shown.
    fn cell(&mut self, name: &str, cell: &str) -> (String, Json) {
        // An entry takes memory besides its text.
        self.shown += name.len() + cell.len().min(MAX_CELL_BYTES) + 64;
        let shown = match cell.len() {
            0..=MAX_CELL_BYTES => cell.to_owned(),
            bytes => {
                let start = cell.get(..cell.floor_char_boundary(MAX_CELL_BYTES)).unwrap_or_default();
                format!("{start}… ({} bytes)", HumanCount(bytes as u64))
            }
        };
        (name.to_owned(), shown.into())
    }

    /// What is not shown.
    fn remark(&self, shown: usize, wanted: usize, columns: usize) -> Option<String> {
        let mut left_out = Vec::new();
        if columns > MAX_COLUMNS {
            let [most, all] = [MAX_COLUMNS, columns].map(|columns| HumanCount(columns as u64));
            left_out.push(format!("the cells of {most} of {all} columns are shown"));
        }
        if shown < wanted && !self.is_left() {
            let rows = counted(shown as u64, "row");
            left_out.push(format!("only {rows} can be shown, because rows are so large"));
        }
        (!left_out.is_empty()).then(|| left_out.join("; "))
    }
}

/// The cells of a row that could not be read as one, by their columns.
fn by_column(columns: &[String], cells: &Column, room: &mut Room) -> Json {
    let named = columns.iter().map(String::as_str).enumerate().take(MAX_COLUMNS);
    let surplus = (cells.rows() > columns.len()).then_some((columns.len(), SURPLUS));
    Json::Object(named.chain(surplus).map(|(place, name)| room.cell(name, cells.cell(place))).collect())
}

/// The first rows that an export would have.
fn exported_rows(export: &Export<'_>, goal: &ExportGoal, rows: usize, steps: bool) -> Result<Preview, Error> {
    let own: Vec<String> = goal.columns.iter().map(|column| column.header.clone()).collect();
    let (mut sessions, columns) = export.open(&goal.file)?;
    let (mut shown, mut room) = (Vec::new(), Room::default());
    export.pages(&Selection::All(None), &export.store.names(), jiff::Timestamp::now(), |page| {
        let file = goal.file.clone();
        let failed = |error| Error::Processor { file, batch: Some(1), error };
        room.read += page.batch.memory();
        process(page.batch, &mut sessions, (&columns, own.len()), steps, &mut shown, &mut room)
            .map_err(failed)?;
        Ok(shown.len() < rows && room.is_left())
    })?;
    for (line, row) in (1..).zip(&mut shown) {
        row.line = line;
    }
    let remark = room.remark(shown.len(), rows, columns.len());
    Ok(Preview {
        file: Some(goal.file.clone()),
        columns: own,
        columns_after: columns,
        rows: shown,
        remark,
        error: None,
        failure: None,
        warning: None,
    })
}

/// Passes a batch through the processors and shows its rows. The first `own` columns are the file's.
fn process(
    mut batch: RecordBatch,
    sessions: &mut [Session],
    (columns, own): (&[String], usize),
    steps: bool,
    shown: &mut Vec<PreviewRow>,
    room: &mut Room,
) -> Result<RecordBatch, sluicebox_processors::PluginError> {
    let rows = batch.rows();
    let before: Vec<Json> =
        (0..rows).map_while(|row| room.is_left().then(|| cells(&batch, row, columns, own, room))).collect();
    let mut after_each: Vec<Vec<Json>> = vec![Vec::new(); before.len()];
    for session in sessions {
        session.process(&mut batch)?;
        for (row, after_each) in after_each.iter_mut().enumerate().filter(|_| steps) {
            if matches!(batch.verdict(row), Verdict::Keep) {
                after_each.push(cells(&batch, row, columns, columns.len(), room));
            }
        }
    }
    for (row, (before, steps)) in before.into_iter().zip(after_each).enumerate() {
        let (verdict, code, reason, after) = match batch.verdict(row) {
            Verdict::Keep => ("keep", None, None, cells(&batch, row, columns, columns.len(), room)),
            Verdict::Drop => ("drop", None, None, Json::Null),
            Verdict::Reject { code, reason } => {
                ("reject", Some(code.clone()), Some(reason.clone()), Json::Null)
            }
        };
        shown.push(PreviewRow { line: batch.place(row).1, before, verdict, code, reason, after, steps });
    }
    Ok(batch)
}

/// The cells of a row by the names of its first columns.
fn cells(batch: &RecordBatch, row: usize, names: &[String], columns: usize, room: &mut Room) -> Json {
    let cells = names.iter().enumerate().take(columns.min(MAX_COLUMNS));
    Json::Object(cells.map(|(place, name)| room.cell(name, batch.cell(row, place))).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_cells_are_cut_between_characters() {
        let mut room = Room::default();
        let cell = "é".repeat(700_000);
        let shown = format!("{}… (1,400,000 bytes)", "é".repeat(512));
        assert_eq!(room.cell("a", &cell), ("a".to_owned(), shown.into()));
        assert_eq!(room.cell("a", "short"), ("a".to_owned(), "short".into()));
        assert!(room.is_left() && room.remark(1, 2, 3).is_none());
        room.read = MAX_READ_BYTES;
        assert_eq!(
            room.remark(1, 2, 99_000).as_deref(),
            Some(
                "the cells of 1,000 of 99,000 columns are shown; only 1 row can be shown, because rows are so large"
            )
        );
    }
}
