//! `sluicebox preview`.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value as Json};
use sluicebox_model::{RecordBatch, Verdict};
use sluicebox_processors::Session;
use sluicebox_store::{DryCopy, Store};
use utoipa::ToSchema;

use crate::cli::print;
use crate::config::{Config, Connection, ExportGoal, Goal};
use crate::error::Error;
use crate::export::Export;
use crate::import::Import;
use crate::plugins;
use crate::walk::Selection;

/// The first rows of a goal, before and after its processors.
#[derive(Serialize, ToSchema)]
pub(crate) struct Preview {
    /// The first file that there is, or that would be made.
    pub file: Option<String>,
    pub columns: Vec<String>,
    /// With those that processors add.
    pub columns_after: Vec<String>,
    pub rows: Vec<PreviewRow>,
    /// Why there are none.
    #[serde(skip)]
    pub warning: Option<String>,
}

/// A row of a preview.
#[derive(Serialize, ToSchema)]
pub(crate) struct PreviewRow {
    /// Where it begins in the file.
    pub line: u64,
    /// Its cells by their columns; of a row that is no proper one, as a list.
    #[schema(value_type = Value)]
    pub before: Json,
    /// `keep`, `drop` or `reject`.
    pub verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its cells after the last processor; null where it does not go on.
    #[schema(value_type = Value)]
    pub after: Json,
    /// Its cells after each processor, as long as it went on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub steps: Vec<Json>,
}

/// Shows the first rows of a goal's first file before and after the processors. The store is not touched.
///
/// # Errors
/// If the configuration is wrong, or the file or a processor fails.
pub(crate) fn run(folder: &Path, connection: &str, goal: &str, rows: usize, json: bool) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    let connection = config.connection(connection)?;
    let goal = super::goal(connection, goal)?;
    let held = match goal {
        Goal::Export(_) => Store::open_read_only(&config.settings.store)?,
        Goal::Import(_) => None,
    };
    let scratch;
    let store = match held {
        Some(store) => store,
        None => {
            scratch = DryCopy::of(&std::env::temp_dir().join("sluicebox-preview-has-no-store"))?;
            Store::open(scratch.path())?
        }
    };
    let preview = preview(&config, connection, goal, &store, rows, false)?;
    preview.warning.iter().for_each(|warning| tracing::warn!("{warning}"));
    if json {
        print(serde_json::to_string(&preview).unwrap_or_default())?;
        return Ok(0);
    }
    if let Some(file) = preview.file.filter(|_| preview.warning.is_none()) {
        print(format!("{file}, first {} rows", preview.rows.len()))?;
        preview.rows.iter().try_for_each(text)?;
    }
    Ok(0)
}

/// The first rows of a goal; with what each processor makes of them if `steps`.
///
/// # Errors
/// If the file or a processor fails.
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
            first_rows(&Import::looking(config, connection, goal, &opened, &processors, store), rows, steps)?
        }
        Goal::Export(goal) => {
            let export = Export::looking(config, connection, goal, &opened, &processors, store);
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
        warning: Some(warning),
    };
    let found = import.sets()?;
    found.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let Some(file) = found.roots().next() else {
        return Ok(none(None, format!("no file matches `{}`", import.goal.pattern)));
    };
    let failed = |error| Error::File { name: file.name.clone(), error };
    let source = file.open().map_err(failed)?;
    let Some(mut open) = import.open_with(file, source, None, rows)? else {
        return Ok(none(Some(file.name.clone()), format!("{} is empty", file.name)));
    };
    let mut shown = Vec::new();
    while shown.len() < rows {
        let Some(batch) = open.reader.next_batch().map_err(failed)? else { break };
        let columns = open.reader.header().columns.len();
        let failed = |error| Error::Processor { file: file.name.clone(), batch: Some(1), error };
        let batch = process(batch, &mut open.sessions, (&open.columns, columns), steps, &mut shown)
            .map_err(failed)?;
        shown.extend(batch.rejected.iter().map(|row| PreviewRow {
            line: row.line,
            before: row.cells.iter().map(|cell| Json::from(cell.as_str())).collect(),
            verdict: "reject",
            code: Some(row.code.as_str().to_owned()),
            reason: Some(row.reason.clone()),
            after: Json::Null,
            steps: Vec::new(),
        }));
    }
    shown.sort_by_key(|row| row.line);
    let (columns, columns_after) = (open.reader.header().columns.clone(), open.columns);
    Ok(Preview { file: Some(file.name.clone()), columns, columns_after, rows: shown, warning: None })
}

/// The first rows that an export would have.
fn exported_rows(export: &Export<'_>, goal: &ExportGoal, rows: usize, steps: bool) -> Result<Preview, Error> {
    let own: Vec<String> = goal.columns.iter().map(|column| column.header.clone()).collect();
    let (mut sessions, columns) = export.open(&goal.file)?;
    let mut shown = Vec::new();
    export.pages(&Selection::All(None), &export.store.names(), jiff::Timestamp::now(), |page| {
        let file = goal.file.clone();
        let failed = |error| Error::Processor { file, batch: Some(1), error };
        process(page.batch, &mut sessions, (&columns, own.len()), steps, &mut shown).map_err(failed)?;
        Ok(shown.len() < rows)
    })?;
    for (line, row) in (1..).zip(&mut shown) {
        row.line = line;
    }
    Ok(Preview {
        file: Some(goal.file.clone()),
        columns: own,
        columns_after: columns,
        rows: shown,
        warning: None,
    })
}

/// Has a batch processed, and shows its rows. The first `own` columns are the file's.
fn process(
    mut batch: RecordBatch,
    sessions: &mut [Session],
    (columns, own): (&[String], usize),
    steps: bool,
    shown: &mut Vec<PreviewRow>,
) -> Result<RecordBatch, sluicebox_processors::PluginError> {
    let rows = batch.rows();
    let before: Vec<Json> = (0..rows).map(|row| cells(&batch, row, columns, own)).collect();
    let mut made: Vec<Vec<Json>> = vec![Vec::new(); rows];
    for session in sessions {
        session.process(&mut batch)?;
        for (row, made) in made.iter_mut().enumerate().filter(|_| steps) {
            if matches!(batch.verdict(row), Verdict::Keep) {
                made.push(cells(&batch, row, columns, columns.len()));
            }
        }
    }
    for (row, (before, steps)) in before.into_iter().zip(made).enumerate() {
        let (verdict, code, reason, after) = match batch.verdict(row) {
            Verdict::Keep => ("keep", None, None, cells(&batch, row, columns, columns.len())),
            Verdict::Drop => ("drop", None, None, Json::Null),
            Verdict::Reject { code, reason } => {
                ("reject", Some(code.clone()), Some(reason.clone()), Json::Null)
            }
        };
        shown.push(PreviewRow { line: batch.place(row).1, before, verdict, code, reason, after, steps });
    }
    Ok(batch)
}

fn cells(batch: &RecordBatch, row: usize, names: &[String], columns: usize) -> Json {
    let cells = names.iter().take(columns).enumerate();
    Json::Object(
        cells.map(|(place, name)| (name.clone(), batch.cell(row, place).into())).collect::<Map<_, _>>(),
    )
}

/// A row for people: cells that changed show both forms.
fn text(row: &PreviewRow) -> Result<(), Error> {
    let line = row.line;
    match row.verdict {
        "keep" => print(format!("line {line}"))?,
        "drop" => print(format!("line {line}: dropped"))?,
        _ => print(format!(
            "line {line}: rejected: {} ({})",
            row.reason.as_deref().unwrap_or_default(),
            row.code.as_deref().unwrap_or_default()
        ))?,
    }
    let before = row.before.as_object();
    for (name, cell) in row.after.as_object().or(before).into_iter().flatten() {
        match before.and_then(|before| before.get(name)) {
            Some(old) if old != cell => print(format!("  {name}: {old} → {cell}"))?,
            Some(_) => print(format!("  {name}: {cell}"))?,
            None => print(format!("  {name}: (added) {cell}"))?,
        }
    }
    Ok(())
}
