use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::runs::DryRun;
use super::{Failure, JsonBody, PathParams, QueryParams, blocking_look};
use crate::config::{Config, Goal};
use crate::error::Error;
use crate::import::corrections::Refused;
use crate::output::counted;
use crate::queries::find_goal;
use crate::queries::rejected::{NotTaken, RecordedScope, ShownLine, lines, not_taken};
use crate::runs::progress::Watch;
use crate::runs::rejected::{
    CorrectedFile, Line, LineScope, corrected_files, folder, is_of_this_version, remove_corrected,
};
use crate::runs::report::{HistoryEntry, Report, Run, Status, Trigger};
use crate::runs::turns::MergeTurns;
use crate::runs::undo::no_run;
use crate::runs::{Runner, select};
use crate::service::Service;
use crate::service::access::Caller;
use crate::service::queue::{CorrectedRows, PlannedRun};

/// A part of the list of what runs did not take.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Goal runs at most; default 100.
    #[param(minimum = 1, maximum = 1000)]
    count: Option<usize>,
}

/// A part of a goal run's rejected rows.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LinesQuery {
    /// How many lines to pass over; default 0.
    #[param(minimum = 0, maximum = 9e15)]
    from: Option<usize>,
    /// Lines at most; default 100.
    #[param(minimum = 1, maximum = 1000)]
    count: Option<usize>,
}

/// Corrected lines of a goal run's rejected rows.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Corrections {
    /// Only these are imported, each of them once.
    #[schema(min_items = 1)]
    pub lines: Vec<CorrectedLine>,
    /// Reports what would change, and writes nothing. The request waits for the end of the dry run.
    #[serde(default)]
    pub dry_run: bool,
}

/// A line of a goal run's rejected rows, and what replaces its cells.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CorrectedLine {
    /// The file that it comes from.
    pub file: String,
    /// The physical line where its row begins there.
    #[schema(maximum = 9e15)]
    #[serde(deserialize_with = "whole_number")]
    pub line: u64,
    #[serde(default)]
    pub scope: RecordedScope,
    /// By column; the other cells stay. Of the scope `cells`, only those of its `columns` may change.
    #[serde(default)]
    pub cells: BTreeMap<String, String>,
}

/// A whole number, which JSON may write as `7.0`.
fn whole_number<'de, D: Deserializer<'de>>(number: D) -> Result<u64, D::Error> {
    let number = serde_json::Number::deserialize(number)?;
    let whole = number.as_f64().filter(|value| value.fract() == 0.0);
    let text = whole.map(|value| format!("{value:.0}"));
    let parsed = number.as_u64().or_else(|| text?.parse().ok());
    parsed.ok_or_else(|| D::Error::custom(format!("{number} is not the number of a line")))
}

/// The answer to an import of corrected lines.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct ImportStarted {
    /// The id of the run; absent for a dry run, which is not in the history.
    pub run: Option<String>,
    /// The report of a dry run.
    pub goals: Vec<Report>,
    /// Of a dry run: lines that were imported before.
    pub already_imported: u64,
    /// Of a dry run: lines that cannot be imported.
    pub refused: Vec<Refused>,
}

/// A line of a goal run's rejected rows.
pub(in crate::service) struct RecordedLine {
    /// The file of rejected rows that holds it.
    pub recorded_in: String,
    pub line: Line,
    /// Whether it was imported since.
    pub is_imported: bool,
}

/// Bytes of lines after which an answer has no more.
const MAX_LINES_BYTES: usize = 4 << 20;

/// How a request names a line.
type LineName = (String, u64, RecordedScope);

impl Service {
    /// What goal runs did not take, the latest first.
    fn not_taken(&self, count: usize) -> Result<Vec<NotTaken>, Failure> {
        let config = self.folder.config();
        let mut list = Vec::new();
        for entry in self.history_entries() {
            if list.len() == count {
                break;
            }
            list.extend(not_taken(&config, Some(&self.store), &*entry?)?);
        }
        Ok(list)
    }

    fn not_taken_by(&self, run: &str) -> Result<Vec<NotTaken>, Failure> {
        let config = self.folder.config();
        let mut list = Vec::new();
        for entry in self.goal_runs(run)? {
            list.extend(not_taken(&config, Some(&self.store), &entry)?);
        }
        Ok(list)
    }

    /// A goal of a run that has ended.
    pub(in crate::service) fn ended_goal_run(
        &self,
        run: &str,
        goal: &str,
    ) -> Result<Arc<HistoryEntry>, Failure> {
        let goal_runs = self.goal_runs(run)?;
        match goal_runs.iter().find(|entry| entry.report.goal == goal) {
            Some(entry) if entry.report.status == Status::Running => {
                Err(Error::Conflict(format!("goal `{goal}` has not ended")).into())
            }
            Some(entry) => Ok(Arc::clone(entry)),
            None => {
                let known = goal_runs.iter().map(|entry| entry.report.goal.clone()).collect();
                Err(Error::Unknown { kind: "goal of the run", name: goal.to_owned(), known }.into())
            }
        }
    }

    /// Whether the rejected rows of a goal run can be shown line by line: it has ended, and its files are there, and not those of
    /// an older version.
    pub(in crate::service) fn has_rejected_lines(&self, entry: &HistoryEntry) -> Result<bool, Failure> {
        if entry.report.status == Status::Running || entry.rejected_files.is_empty() {
            return Ok(false);
        }
        let folder = folder(&self.folder.config(), &entry.report.run);
        for (name, _) in &entry.rejected_files {
            let path = folder.join(name);
            if !path.exists() || !is_of_this_version(&path)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Some of the lines that a goal run recorded, and whether there are more. Where they are large, fewer than `count`.
    pub(in crate::service) fn rejected_lines(
        &self,
        entry: &HistoryEntry,
        from: usize,
        count: usize,
    ) -> Result<(Vec<RecordedLine>, bool), Failure> {
        let (mut passed, mut found, mut bytes) = (0_usize, Vec::new(), 0);
        let read =
            lines(&self.folder.config(), Some(&self.store), entry, |recorded_in, line, is_imported| {
                passed += 1;
                if passed > from.saturating_add(count) || bytes > MAX_LINES_BYTES {
                    return Err(Error::Interrupted);
                }
                if passed > from {
                    // The name of each cell is shown with it.
                    bytes += line.memory() + line.columns.iter().map(String::len).sum::<usize>();
                    found.push(RecordedLine { recorded_in: recorded_in.to_owned(), line, is_imported });
                }
                Ok(())
            });
        match read {
            Ok(()) => Ok((found, false)),
            Err(Error::Interrupted) => Ok((found, true)),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts the import of corrected lines into the queue, or runs it dry.
    pub(in crate::service) fn import_rejected(
        &self,
        caller: &Caller,
        (run, goal): (&str, &str),
        corrections: Corrections,
    ) -> Result<ImportStarted, Failure> {
        let entry = self.ended_goal_run(run, goal)?;
        let config = self.folder.current()?;
        let connection = config.connection(&entry.report.connection)?;
        match find_goal(connection, goal)? {
            Goal::Export(_) => {
                let message = format!("`{goal}` exports: it has no rows to import");
                return Err(Failure::new(StatusCode::UNPROCESSABLE_ENTITY, message));
            }
            Goal::Import(found) if !(connection.enabled && found.enabled) => {
                let off = if connection.enabled { "the goal" } else { "the connection" };
                return Err(Failure::new(StatusCode::CONFLICT, format!("{off} is off")));
            }
            Goal::Import(_) => {}
        }
        let mut planned = PlannedRun::new(Trigger::Request, vec![goal.to_owned()]);
        let corrected =
            CorrectedRows { run: run.to_owned(), goal: goal.to_owned(), import: planned.run.clone() };
        let count = corrections.lines.len() as u64;
        let folder = corrected.folder(&config);
        let mut guard = RemovedUnlessQueued { folder: &folder, queued: false };
        self.write_corrected(&config, &entry, corrections.lines, &folder)?;
        if corrections.dry_run {
            return self.dry_import(&config, &entry, &folder);
        }
        planned.corrected = Some(corrected);
        let import = self.put(&connection.stem, planned)?;
        guard.queued = true;
        let what = format!("{} / {goal}, {run}: {}, {import}", connection.stem, counted(count, "line"));
        self.audit.record(caller, "import corrected rows", &what)?;
        Ok(ImportStarted { run: Some(import), ..ImportStarted::default() })
    }

    /// Writes corrected lines into files of a folder, which are files of rejected rows.
    fn write_corrected(
        &self,
        config: &Config,
        entry: &HistoryEntry,
        corrected: Vec<CorrectedLine>,
        folder: &Path,
    ) -> Result<(), Failure> {
        let unprocessable = |detail: String| Failure::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
        if corrected.is_empty() {
            return Err(unprocessable("`lines` is empty: nothing to import".to_owned()));
        }
        let mut wanted: HashMap<LineName, BTreeMap<String, String>> = HashMap::new();
        for CorrectedLine { file, line, scope, cells } in corrected {
            let place = format!("{file}, line {line}");
            if wanted.insert((file, line, scope), cells).is_some() {
                return Err(unprocessable(format!("{place}: the line is in `lines` twice")));
            }
        }
        let mut files: Vec<(String, CorrectedFile)> = Vec::new();
        let mut refused = None;
        let read = lines(config, Some(&self.store), entry, |recorded_in, mut line, _| {
            let name = (line.file.clone(), line.number, RecordedScope::from(&line.scope));
            let Some(cells) = wanted.remove(&name) else { return Ok(()) };
            if let Err(problem) = correct(&mut line, cells) {
                refused = Some(format!("{}, line {}: {problem}", line.file, line.number));
                return Err(Error::Interrupted);
            }
            let place = match files.iter().position(|(of, _)| of == recorded_in) {
                Some(place) => place,
                None => {
                    let name = format!("{:04}.csv", files.len());
                    let file = CorrectedFile::create(folder, &name, &line.columns)?;
                    files.push((recorded_in.to_owned(), file));
                    files.len() - 1
                }
            };
            match files.get_mut(place) {
                Some((_, file)) => file.write(&line),
                None => Ok(()),
            }
        });
        match (refused, read) {
            (Some(refused), _) => return Err(unprocessable(refused)),
            (None, read) => read?,
        }
        if let Some((file, line, _)) = wanted.into_keys().min_by_key(|(_, line, _)| *line) {
            return Err(unprocessable(format!("{file}, line {line}: the goal run recorded no such line")));
        }
        files.into_iter().try_for_each(|(_, file)| file.finish())?;
        Ok(())
    }

    /// Imports the corrected lines of a folder into a copy of the store.
    fn dry_import(
        &self,
        config: &Config,
        entry: &HistoryEntry,
        folder: &Path,
    ) -> Result<ImportStarted, Failure> {
        let _one_at_a_time = DryRun::start()?;
        let files = corrected_files(folder)?;
        let connection = config.connection(&entry.report.connection)?;
        let selected = select(config, vec![connection], |goal| goal.name() == entry.report.goal, false)?;
        let store = self.store.dry_copy()?;
        let stop = Arc::new(AtomicBool::new(false));
        let turns = MergeTurns::new();
        let runner = Runner::new(config, &store, true, Watch::Nowhere, &stop, &turns)?;
        let Some(selected) = selected.first() else { return Err(no_run(&entry.report.run).into()) };
        let (ended, mut lines) =
            runner.import_corrected(selected, &Run::new(Trigger::Request), entry, Some(&files))?;
        Ok(ImportStarted {
            run: None,
            goals: vec![ended.report],
            already_imported: lines.already_imported,
            refused: std::mem::take(&mut lines.refused),
        })
    }
}

/// Removes corrected lines that no run will import.
struct RemovedUnlessQueued<'f> {
    folder: &'f Path,
    queued: bool,
}

impl Drop for RemovedUnlessQueued<'_> {
    fn drop(&mut self) {
        if !self.queued
            && let Err(error) = remove_corrected(self.folder)
        {
            tracing::warn!(%error, "the corrected lines stay until the service starts again");
        }
    }
}

/// Replaces cells of a line; otherwise what is wrong with them.
fn correct(line: &mut Line, cells: BTreeMap<String, String>) -> Result<(), String> {
    for (column, text) in cells {
        let Some(place) = line.columns.iter().position(|name| *name == column) else {
            return Err(format!("the file has no column `{column}`"));
        };
        let Some(cell) = line.cells.get_mut(place).filter(|cell| **cell != text) else { continue };
        if text.contains('\0') {
            return Err(format!("`{column}` holds a NUL byte"));
        }
        match &line.scope {
            LineScope::Cells(columns) if !columns.contains(&column) => {
                return Err(format!(
                    "`{column}` was imported: only {} can be corrected",
                    columns.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
                ));
            }
            LineScope::Cells(_) | LineScope::Row => *cell = text,
        }
    }
    Ok(())
}

/// What goal runs did not take, the latest first: how many lines each of their files has, how many of them are imported, and the
/// most frequent faults.
#[utoipa::path(get, path = "/rejected", params(ListQuery), responses(
    (status = 200, body = Vec<NotTaken>),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn list_rejected(
    State(service): State<Arc<Service>>,
    QueryParams(query): QueryParams<ListQuery>,
) -> Result<Json<Vec<NotTaken>>, Failure> {
    let count = query.count.unwrap_or(100);
    if !(1..=1000).contains(&count) {
        return Err(Failure::new(StatusCode::BAD_REQUEST, "`count`: expected 1 to 1000"));
    }
    blocking_look(service, move |service| Ok(Json(service.not_taken(count)?))).await
}

/// What the goals of a run did not take.
#[utoipa::path(get, path = "/runs/{run}/rejected", params(("run" = String, Path, description = "Its id")), responses(
    (status = 200, body = Vec<NotTaken>),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn list_rejected_of_run(
    State(service): State<Arc<Service>>,
    PathParams(run): PathParams<String>,
) -> Result<Json<Vec<NotTaken>>, Failure> {
    blocking_look(service, move |service| Ok(Json(service.not_taken_by(&run)?))).await
}

/// What a goal of a run did not take, line by line. Where lines are large, an answer has fewer than `count`, but one at least: ask on,
/// `from` the next one, until none comes.
#[utoipa::path(get, path = "/runs/{run}/rejected/{goal}/lines", params(
    ("run" = String, Path, description = "Its id"), ("goal" = String, Path, description = "Its name"), LinesQuery,
), responses(
    (status = 200, body = Vec<ShownLine>),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn get_rejected_lines(
    State(service): State<Arc<Service>>,
    PathParams((run, goal)): PathParams<(String, String)>,
    QueryParams(query): QueryParams<LinesQuery>,
) -> Result<Json<Vec<ShownLine>>, Failure> {
    let (from, count) = (query.from.unwrap_or(0), query.count.unwrap_or(100));
    if !(1..=1000).contains(&count) {
        return Err(Failure::new(StatusCode::BAD_REQUEST, "`count`: expected 1 to 1000"));
    }
    blocking_look(service, move |service| {
        let entry = service.ended_goal_run(&run, &goal)?;
        let (lines, _) = service.rejected_lines(&entry, from, count)?;
        let shown = lines.into_iter().map(|recorded| {
            let RecordedLine { recorded_in, line, is_imported } = recorded;
            ShownLine::of(line, &recorded_in, is_imported)
        });
        Ok(Json(shown.collect()))
    })
    .await
}

/// Imports corrected lines through the goal that did not take them: each line once, also if it is sent again.
#[utoipa::path(post, path = "/runs/{run}/rejected/{goal}/import", params(
    ("run" = String, Path, description = "Its id"), ("goal" = String, Path, description = "Its name"),
), request_body = Corrections, responses(
    (status = 200, body = ImportStarted, description = "The dry run has ended."),
    (status = 202, body = ImportStarted, description = "The import is in the queue, as a run."),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn import_rejected(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    PathParams((run, goal)): PathParams<(String, String)>,
    JsonBody(corrections): JsonBody<Corrections>,
) -> Result<Response, Failure> {
    blocking_look(service, move |service| {
        let started = service.import_rejected(&caller, (&run, &goal), corrections)?;
        let status = if started.run.is_some() { StatusCode::ACCEPTED } else { StatusCode::OK };
        Ok((status, Json(started)).into_response())
    })
    .await
}
