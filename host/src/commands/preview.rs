//! `sluicebox preview`.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde_json::{Map, Value as Json, json};
use sluicebox_model::{RecordBatch, Verdict};
use sluicebox_store::{DryCopy, Store};

use crate::cli::print;
use crate::config::{Config, Connection, ExportGoal, Goal};
use crate::error::Error;
use crate::export::Export;
use crate::import::Import;
use crate::plugins;
use crate::walk::Selection;

/// Shows the first rows of a goal's first file before and after the processors. The store is not touched.
///
/// # Errors
/// If the configuration is wrong, or the file or a processor fails.
pub(crate) fn run(folder: &Path, connection: &str, goal: &str, rows: usize, json: bool) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    let connection = config.connection(connection)?;
    let goal = match super::goal(connection, goal)? {
        Goal::Import(goal) => goal,
        Goal::Export(goal) => return export(&config, connection, goal, rows, json),
    };
    let processors = plugins::load(&config, &goal.processors, &plugins::runtime(&config, false)?)?;
    let scratch = DryCopy::of(&std::env::temp_dir().join("sluicebox-preview-has-no-store"))?;
    let store = Store::open(scratch.path())?;
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
        run: "preview",
        dry: true,
        stop: &stop,
    };
    let found = import.sets()?;
    found.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let Some(file) = found.roots().next() else {
        tracing::warn!("no file matches `{}`", goal.pattern);
        if json {
            print(json!({ "file": null, "columns": [], "columns_after": [], "rows": [] }))?;
        }
        return Ok(0);
    };
    let failed = |error| Error::File { name: file.name.clone(), error };
    let source = file.open().map_err(failed)?;
    let Some(mut open) = import.open_with(file, source, None, rows)? else {
        tracing::warn!("{} is empty", file.name);
        if json {
            print(json!({ "file": file.name, "columns": [], "columns_after": [], "rows": [] }))?;
        }
        return Ok(0);
    };
    let mut shown = Vec::new();
    while shown.len() < rows {
        let Some(mut batch) = open.reader.next_batch().map_err(failed)? else { break };
        let columns = open.reader.header().columns.len();
        let before: Vec<Json> =
            (0..batch.rows()).map(|row| cells(&batch, row, &open.columns, columns)).collect();
        for session in &mut open.sessions {
            let failed = |error| Error::Processor { file: file.name.clone(), batch: Some(1), error };
            session.process(&mut batch).map_err(failed)?;
        }
        for (row, before) in before.into_iter().enumerate() {
            shown.push(after(&batch, row, &open.columns, before));
        }
        for row in &batch.rejected {
            let (code, reason) = (row.code.as_str(), &row.reason);
            shown.push(json!({
                "line": row.line, "before": row.cells, "verdict": "reject", "code": code, "reason": reason,
                "after": null,
            }));
        }
    }
    shown.sort_by_key(|row| row["line"].as_u64());
    show(&file.name, (&open.reader.header().columns, &open.columns), shown, rows, json)
}

fn show(
    file: &str,
    (columns, after): (&[String], &[String]),
    mut shown: Vec<Json>,
    rows: usize,
    json: bool,
) -> Result<u8, Error> {
    shown.truncate(rows);
    if json {
        print(json!({ "file": file, "columns": columns, "columns_after": after, "rows": shown }))?;
        return Ok(0);
    }
    print(format!("{file}, first {} rows", shown.len()))?;
    for row in &shown {
        text(row)?;
    }
    Ok(0)
}

/// The first rows that an export would have.
fn export(
    config: &Config,
    connection: &Connection,
    goal: &ExportGoal,
    rows: usize,
    json: bool,
) -> Result<u8, Error> {
    let processors = &plugins::load(config, &goal.processors, &plugins::runtime(config, false)?)?;
    let own: Vec<String> = goal.columns.iter().map(|column| column.header.clone()).collect();
    let (mut shown, mut columns) = (Vec::new(), own.clone());
    if let Some(store) = &Store::open_read_only(&config.settings.store)? {
        let (opened, stop) = (&connection.open(&config.root)?, &AtomicBool::new(false));
        let run = "preview";
        let export = Export { config, connection, goal, opened, processors, store, run, dry: true, stop };
        let (mut sessions, all) = export.open(&goal.file)?;
        columns = all;
        export.pages(&Selection::All(None), &store.names(), jiff::Timestamp::now(), |page| {
            let mut batch = page.batch;
            let before: Vec<Json> =
                (0..batch.rows()).map(|row| cells(&batch, row, &columns, own.len())).collect();
            for session in &mut sessions {
                let file = goal.file.clone();
                let failed = |error| Error::Processor { file, batch: Some(1), error };
                session.process(&mut batch).map_err(failed)?;
            }
            for (row, before) in before.into_iter().enumerate() {
                shown.push(after(&batch, row, &columns, before));
            }
            Ok(shown.len() < rows)
        })?;
    }
    for (line, row) in (1..).zip(&mut shown) {
        row["line"] = Json::from(line);
    }
    show(&goal.file, (&own, &columns), shown, rows, json)
}

fn cells(batch: &RecordBatch, row: usize, names: &[String], columns: usize) -> Json {
    let cells = names.iter().take(columns).enumerate();
    Json::Object(
        cells.map(|(place, name)| (name.clone(), batch.cell(row, place).into())).collect::<Map<_, _>>(),
    )
}

fn after(batch: &RecordBatch, row: usize, names: &[String], before: Json) -> Json {
    let line = batch.place(row).1;
    match batch.verdict(row) {
        Verdict::Keep => {
            let after = cells(batch, row, names, names.len());
            json!({ "line": line, "before": before, "verdict": "keep", "after": after })
        }
        Verdict::Drop => json!({ "line": line, "before": before, "verdict": "drop", "after": null }),
        Verdict::Reject { code, reason } => json!({
            "line": line, "before": before, "verdict": "reject", "code": code, "reason": reason, "after": null,
        }),
    }
}

/// A row for people: cells that changed show both forms.
fn text(row: &Json) -> Result<(), Error> {
    let line = &row["line"];
    match row["verdict"].as_str() {
        Some("keep") => print(format!("line {line}"))?,
        Some("drop") => print(format!("line {line}: dropped"))?,
        _ => print(format!(
            "line {line}: rejected: {} ({})",
            row["reason"].as_str().unwrap_or_default(),
            row["code"].as_str().unwrap_or_default()
        ))?,
    }
    let before = row["before"].as_object();
    for (name, cell) in row["after"].as_object().or(before).into_iter().flatten() {
        match before.and_then(|before| before.get(name)) {
            Some(old) if old != cell => print(format!("  {name}: {old} → {cell}"))?,
            Some(_) => print(format!("  {name}: {cell}"))?,
            None => print(format!("  {name}: (added) {cell}"))?,
        }
    }
    Ok(())
}
