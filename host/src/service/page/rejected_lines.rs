//! What a goal run did not take, line by line: cells are corrected in place, and imported.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::{Form, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::dry_run::DryRunPage;
use super::{Frame, encoded, or_error_page, page, respond};
use crate::import::corrections::never_imported;
use crate::output::counted;
use crate::queries::rejected::RecordedScope;
use crate::runs::rejected::{Line, LineScope, is_of_root_files};
use crate::runs::report::HistoryEntry;
use crate::service::Service;
use crate::service::access::Caller;
use crate::service::api::rejected::{CorrectedLine, Corrections, RecordedLine};
use crate::service::api::{Failure, PathParams, QueryParams, blocking_look};

/// Lines of a page.
const MAX_LINES: usize = 200;
/// Bytes of cells that a page lets a user edit: a browser sends them all, escaped, and a request has a limit.
const MAX_BYTES: usize = 256 << 10;
/// Bytes of a cell that is only shown, and cells of a line.
const MAX_SHOWN_BYTES: usize = 1024;
const MAX_CELLS: usize = 1000;

#[derive(Template)]
#[template(path = "rejected_lines.html")]
struct LinesPage {
    frame: Frame,
    run: String,
    goal: String,
    /// How many lines come before.
    from: usize,
    tables: Vec<LineTable>,
    has_more: bool,
    can_import: bool,
    failure: Option<Failure>,
}

/// Lines with the same columns: those of one file of rejected rows.
struct LineTable {
    recorded_in: String,
    columns: Vec<String>,
    lines: Vec<LineRow>,
}

struct LineRow {
    /// Names its inputs.
    number: usize,
    /// What identifies the line, as the form sends it.
    name: String,
    file: String,
    line: u64,
    code: String,
    reason: String,
    is_imported: bool,
    /// Why it cannot be corrected here.
    refusal: Option<&'static str>,
    cells: Vec<CellView>,
}

struct CellView {
    column: String,
    text: String,
    is_editable: bool,
    /// Whether it has line breaks, which an input of one line would lose.
    has_lines: bool,
    /// Its place among the columns.
    place: usize,
}

impl LinesPage {
    fn shown(&self) -> usize {
        self.tables.iter().map(|table| table.lines.len()).sum()
    }

    fn in_words(&self) -> String {
        match self.shown() {
            0 if self.from == 0 => "No lines.".to_owned(),
            0 => "No more lines.".to_owned(),
            shown => format!("Lines {} to {}{}.", self.from + 1, self.from + shown, self.end()),
        }
    }

    fn end(&self) -> &'static str {
        if self.has_more { "; there are more" } else { "" }
    }

    fn before(&self) -> usize {
        self.from.saturating_sub(MAX_LINES)
    }

    fn after(&self) -> usize {
        self.from + self.shown()
    }

    fn path(&self) -> String {
        path(&self.run, &self.goal)
    }
}

impl LineRow {
    fn cell_name(&self, cell: &CellView) -> String {
        format!("{}.{}", self.number, cell.place)
    }

    fn label(&self, cell: &CellView) -> String {
        format!("{} of line {} of {}", cell.column, self.line, self.file)
    }
}

fn path(run: &str, goal: &str) -> String {
    format!("/runs/{}/rejected/{}/lines", encoded(run), encoded(goal))
}

/// Which lines a page shows.
#[derive(Default, Deserialize)]
pub(super) struct LinesQuery {
    #[serde(default)]
    from: usize,
}

/// What a browser sends of a cell that a user did not change: it ends lines in its own way, and has no NUL bytes.
fn as_sent(cell: &str) -> String {
    cell.replace("\r\n", "\n").replace('\r', "\n").replace('\0', "\u{FFFD}")
}

/// The lines that a form has, by their names, each with the cells that it sends.
struct Entered(HashMap<String, BTreeMap<usize, String>>);

impl Entered {
    fn of(form: &[(String, String)]) -> Self {
        let mut names: HashMap<&str, &str> = HashMap::new();
        for (key, value) in form {
            if let Some(number) = key.strip_prefix("line.") {
                names.insert(number, value);
            }
        }
        let mut lines: HashMap<String, BTreeMap<usize, String>> = HashMap::new();
        for (key, value) in form {
            let Some((number, place)) = key.split_once('.') else { continue };
            if let (Some(name), Ok(place)) = (names.get(number), place.parse()) {
                lines.entry((*name).to_owned()).or_default().insert(place, as_sent(value));
            }
        }
        Self(lines)
    }

    /// The cell that the user entered instead of the recorded one.
    fn changed(&self, name: &str, place: usize, recorded: &str) -> Option<&str> {
        let entered = self.0.get(name)?.get(&place)?;
        (*entered != as_sent(recorded)).then_some(entered.as_str())
    }

    /// The lines of which a cell was changed.
    fn corrections(&self, lines: &[RecordedLine]) -> Vec<CorrectedLine> {
        let mut changed = Vec::new();
        for RecordedLine { line, .. } in lines {
            let (name, mut cells) = (name_of(line), BTreeMap::new());
            for (place, (column, cell)) in line.columns.iter().zip(&line.cells).enumerate() {
                if let Some(text) = self.changed(&name, place, cell) {
                    cells.insert(column.clone(), text.to_owned());
                }
            }
            if !cells.is_empty() {
                let (file, scope) = (line.file.clone(), RecordedScope::from(&line.scope));
                changed.push(CorrectedLine { file, line: line.number, scope, cells });
            }
        }
        changed
    }
}

/// What identifies a line in a form.
fn name_of(line: &Line) -> String {
    format!("{}:{}:{}", line.scope.name(), line.number, line.file)
}

fn tables(entry: &HistoryEntry, lines: Vec<RecordedLine>, entered: &Entered) -> Vec<LineTable> {
    let mut tables: Vec<LineTable> = Vec::new();
    let mut editable = 0;
    for (number, RecordedLine { recorded_in, line, is_imported }) in lines.into_iter().enumerate() {
        let is_linked = !is_of_root_files(&recorded_in, &entry.report.goal);
        let is_unmerged = entry.unmerged_files.contains(&line.file);
        editable += line.cells.iter().map(String::len).sum::<usize>();
        let too_large = "there is too much on this page to correct it here: use `sluicebox rejected import`";
        let refusal = never_imported(&line, is_linked, is_unmerged)
            .or((editable > MAX_BYTES || line.cells.len() > MAX_CELLS).then_some(too_large))
            .filter(|_| !is_imported);
        let name = name_of(&line);
        let can_edit = |column: &String| match &line.scope {
            LineScope::Row => true,
            LineScope::Cells(columns) => columns.contains(column),
        };
        let cells = line.columns.iter().zip(&line.cells).enumerate().take(MAX_CELLS);
        let cells = cells.map(|(place, (column, cell))| {
            let is_editable = !is_imported && refusal.is_none() && can_edit(column);
            let text = match entered.changed(&name, place, cell).unwrap_or(cell) {
                long if !is_editable && long.len() > MAX_SHOWN_BYTES => {
                    let start = long.get(..long.floor_char_boundary(MAX_SHOWN_BYTES)).unwrap_or_default();
                    format!("{start}… ({})", counted(long.len() as u64, "byte"))
                }
                text => text.to_owned(),
            };
            CellView {
                column: column.clone(),
                is_editable,
                has_lines: text.contains(['\r', '\n']),
                text,
                place,
            }
        });
        let row = LineRow {
            number,
            cells: cells.collect(),
            file: line.file,
            line: line.number,
            code: line.code,
            reason: line.reason,
            is_imported,
            refusal,
            name,
        };
        match tables.last_mut().filter(|table| table.recorded_in == recorded_in) {
            Some(table) => table.lines.push(row),
            None => {
                let columns = line.columns.iter().take(MAX_CELLS).cloned().collect();
                tables.push(LineTable { recorded_in, columns, lines: vec![row] });
            }
        }
    }
    tables
}

fn lines_page(
    service: &Service,
    caller: &Caller,
    (run, goal, from): (&str, &str, usize),
    entered: &Entered,
    failure: Option<Failure>,
) -> Result<LinesPage, Failure> {
    let entry = service.ended_goal_run(run, goal)?;
    let (lines, has_more) = service.rejected_lines(&entry, from, MAX_LINES)?;
    let tables = tables(&entry, lines, entered);
    let mut rows = tables.iter().flat_map(|table| &table.lines);
    let can_import = rows.any(|row| !row.is_imported && row.refusal.is_none());
    let frame = Frame::new(service, Some(caller), format!("Rejected rows of {goal} – {run}"), "runs");
    let (run, goal) = (run.to_owned(), goal.to_owned());
    Ok(LinesPage { frame, run, goal, from, tables, has_more, can_import, failure })
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    PathParams((run, goal)): PathParams<(String, String)>,
    QueryParams(query): QueryParams<LinesQuery>,
) -> Response {
    respond(service, caller, "runs", move |service, caller| {
        lines_page(service, caller, (&run, &goal, query.from), &Entered(HashMap::new()), None)
    })
    .await
}

pub(super) async fn import(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    PathParams((run, goal)): PathParams<(String, String)>,
    QueryParams(query): QueryParams<LinesQuery>,
    Form(form): Form<Vec<(String, String)>>,
) -> Response {
    let (shared, by) = (Arc::clone(&service), caller.clone());
    let response = blocking_look(shared, move |service| {
        let entered = Entered::of(&form);
        let dry_run = form.iter().any(|(key, value)| key == "dry_run" && value == "true");
        let done = import_entered(service, &by, (&run, &goal, query.from), &entered, dry_run);
        done.or_else(|failure| {
            let status = failure.status();
            let shown = lines_page(service, &by, (&run, &goal, query.from), &entered, Some(failure))?;
            Ok((status, page(&shown)).into_response())
        })
    });
    or_error_page(response.await, &service, &caller, "runs")
}

fn import_entered(
    service: &Service,
    caller: &Caller,
    (run, goal, from): (&str, &str, usize),
    entered: &Entered,
    dry_run: bool,
) -> Result<Response, Failure> {
    let entry = service.ended_goal_run(run, goal)?;
    let (recorded, _) = service.rejected_lines(&entry, from, MAX_LINES)?;
    let lines = entered.corrections(&recorded);
    if lines.is_empty() {
        let message = "no cell was changed: correct a cell, then import its row";
        return Err(Failure::new(StatusCode::UNPROCESSABLE_ENTITY, message));
    }
    let started = service.import_rejected(caller, (run, goal), Corrections { lines, dry_run })?;
    match started.run {
        Some(import) => Ok(Redirect::to(&format!("/runs/{import}?done=queued")).into_response()),
        None => {
            let connection = &entry.report.connection;
            Ok(page(&DryRunPage::of(service, caller, connection, started.goals)?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(cells: &[&str], scope: LineScope) -> RecordedLine {
        let line = Line {
            columns: ["email".to_owned(), "note".to_owned()].into(),
            cells: cells.iter().map(|cell| (*cell).to_owned()).collect(),
            file: "a.csv".to_owned(),
            number: 7,
            scope,
            code: "ragged".to_owned(),
            reason: "expected 2 cells, found 1".to_owned(),
            raw: None,
        };
        RecordedLine { recorded_in: "customers.csv".to_owned(), line, is_imported: false }
    }

    /// What a form sends, and which cells that changes.
    fn check(cells: &[&str], sent: &[(&str, &str)], changed: &[(&str, &str)]) {
        let mut form = vec![("line.0".to_owned(), "row:7:a.csv".to_owned())];
        form.extend(sent.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let lines = Entered::of(&form).corrections(&[recorded(cells, LineScope::Row)]);
        let found: Vec<(&str, &str)> = lines
            .iter()
            .flat_map(|line| &line.cells)
            .map(|(column, cell)| (column.as_str(), cell.as_str()))
            .collect();
        assert_eq!(found, changed, "{cells:?} {sent:?}");
    }

    #[test]
    fn only_what_a_user_changed_is_a_correction() {
        check(&["a@x.nl", ""], &[("0.0", "a@x.nl"), ("0.1", "")], &[]);
        check(&["a@x.nl", ""], &[("0.0", "a@x.nl"), ("0.1", "new")], &[("note", "new")]);
        check(&["a@x.nl", "two\nlines"], &[("0.1", "two\r\nlines")], &[]);
        check(&["a@x.nl", "two\r\nlines"], &[("0.1", "two\r\nlines")], &[]);
        check(&["a@x.nl", "two\nlines"], &[("0.1", "two\r\nmore")], &[("note", "two\nmore")]);
        check(&["a@x.nl", ""], &[("1.1", "of no line"), ("0.x", "?"), ("0.9", "beyond")], &[]);
    }
}
