use std::fs::File;
use std::io::{Read, Take};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::{IntoParams, ToSchema};

use super::connections::cannot_run;
use super::{Failure, JsonBody, PathParams, QueryParams, blocking, blocking_look};
use crate::error::Error;
use crate::queries::find_goal;
use crate::runs::progress::Watch;
use crate::runs::rejected;
use crate::runs::report::{HistoryEntry, LastProfile, Report, Run, Trigger};
use crate::runs::turns::MergeTurns;
use crate::runs::{Runner, select};
use crate::service::Service;
use crate::service::access::Caller;
use crate::service::queue::{AlreadyQueued, PlannedRun};

/// A goal run of the history.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct GoalRun {
    #[serde(flatten)]
    pub report: Report,
    /// RFC 3339.
    pub started: String,
    pub trigger: Trigger,
    /// The interrupted run that this one continues.
    pub continues: Option<String>,
    /// The words of the plugin that failed it while it had rows, which may quote them.
    pub plugin_words: Option<String>,
    /// Whether it was stopped, or its process ended.
    pub interrupted: bool,
    /// The last profiles or groups that it created or updated, the oldest first.
    pub last_profiles: Vec<LastProfile>,
    /// The files of its rejected rows.
    pub rejected_files: Vec<String>,
}

impl From<&HistoryEntry> for GoalRun {
    fn from(entry: &HistoryEntry) -> Self {
        Self {
            report: entry.report.clone(),
            started: entry.started.clone(),
            trigger: entry.trigger,
            continues: entry.continues.clone(),
            plugin_words: entry.plugin_words.clone(),
            interrupted: entry.interrupted,
            last_profiles: entry.last_profiles.clone(),
            rejected_files: entry.rejected_files.iter().map(|(name, _)| name.clone()).collect(),
        }
    }
}

/// A part of the history.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RunsQuery {
    /// Only those of this connection, by its name.
    connection: Option<String>,
    /// Goal runs at most; default 100.
    #[param(minimum = 1, maximum = 1000)]
    count: Option<usize>,
}

/// A run of a connection.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Start {
    /// Only these goals; empty = all that are on.
    #[serde(default)]
    pub goals: Vec<String>,
    /// Reports what would change, and writes nothing. The request waits for the end of the dry run.
    #[serde(default)]
    pub dry_run: bool,
    /// Imports files again that were imported already, `sum` and `add` included.
    #[serde(default)]
    pub reimport: bool,
}

/// The answer to a run.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Started {
    /// The id of the run; absent for a dry run, which is not in the history.
    pub run: Option<String>,
    /// The reports of a dry run, one for each goal.
    pub goals: Vec<Report>,
}

/// Bytes of a file in memory.
const CHUNK: u64 = 64 << 10;

/// Set while a dry run is running: there is one at a time.
static DRY_RUN: AtomicBool = AtomicBool::new(false);

pub(super) struct DryRun;

impl DryRun {
    pub(super) fn start() -> Result<Self, Failure> {
        match DRY_RUN.swap(true, Ordering::SeqCst) {
            false => Ok(Self),
            true => Err(Failure::new(
                StatusCode::CONFLICT,
                "another dry run is running; try again when it has ended",
            )),
        }
    }
}

impl Drop for DryRun {
    fn drop(&mut self) {
        DRY_RUN.store(false, Ordering::SeqCst);
    }
}

impl Service {
    /// The last goal runs, the latest first.
    pub(in crate::service) fn history(&self, count: usize) -> Result<Vec<Arc<HistoryEntry>>, Failure> {
        self.history_entries().take(count).map(|entry| Ok(entry?)).collect()
    }

    /// The last goal runs of a connection, the latest first.
    pub(in crate::service) fn history_of(
        &self,
        connection: &str,
        count: usize,
    ) -> Result<Vec<Arc<HistoryEntry>>, Failure> {
        let is_of_connection = |entry: &Result<Arc<HistoryEntry>, Error>| {
            entry.as_ref().map_or(true, |entry| entry.report.connection == connection)
        };
        self.history_entries().filter(is_of_connection).take(count).map(|entry| Ok(entry?)).collect()
    }

    /// The goal runs of a run, in their order.
    pub(in crate::service) fn goal_runs(&self, run: &str) -> Result<Vec<Arc<HistoryEntry>>, Failure> {
        // Before the history is read: a run that ends meanwhile is in one of the two.
        let is_queued = self.queue.list().iter().any(|queued| queued.planned.run == run);
        let mut found = Vec::new();
        for entry in self.history_entries() {
            let entry = entry?;
            if entry.report.run == run {
                found.insert(0, entry);
            } else if entry.began_before(run) {
                break;
            }
        }
        if found.is_empty() && !is_queued {
            return Err(Error::NotFound(format!("there is no run `{run}`")).into());
        }
        Ok(found)
    }

    /// Puts a run into the queue.
    pub(in crate::service) fn start(
        &self,
        caller: &Caller,
        connection: &str,
        goals: Vec<String>,
        reimport: bool,
    ) -> Result<String, Failure> {
        let config = self.folder.current()?;
        let connection = config.connection(connection)?;
        for goal in &goals {
            let found = find_goal(connection, goal)?;
            if connection.enabled && !found.enabled() {
                return Err(Failure::new(StatusCode::CONFLICT, format!("goal `{goal}` is off")));
            }
        }
        let switches = connection.all_goals().map(|goal| goal.enabled());
        if let Some(reason) = cannot_run(connection.enabled, switches) {
            return Err(Failure::new(StatusCode::CONFLICT, reason));
        }
        let planned = PlannedRun { reimport, ..PlannedRun::new(Trigger::Request, goals) };
        let run = self.put(&connection.stem, planned)?;
        let action = if reimport { "run again" } else { "run" };
        self.audit.record(caller, action, &format!("{}, {run}", connection.stem))?;
        Ok(run)
    }

    /// Puts a planned run into the queue, unless the connection has one there.
    pub(super) fn put(&self, connection: &str, planned: PlannedRun) -> Result<String, Failure> {
        self.queue.put(&self.store, connection, planned)?.map_err(|AlreadyQueued { run }| {
            let message = format!("the connection already has run {run} in the queue");
            Failure::new(StatusCode::CONFLICT, message)
        })
    }

    /// Runs goals on a copy of the store now.
    pub(in crate::service) fn dry_run(
        &self,
        connection: &str,
        goals: &[String],
        reimport: bool,
    ) -> Result<Vec<Report>, Failure> {
        let _one_at_a_time = DryRun::start()?;
        let config = self.folder.current()?;
        let connection = config.connection(connection)?;
        for goal in goals {
            find_goal(connection, goal)?;
        }
        let wants =
            |goal: &crate::config::Goal<'_>| goals.is_empty() || goals.iter().any(|name| name == goal.name());
        let selected = select(&config, vec![connection], wants, false)?;
        let store = self.store.dry_copy()?;
        let stop = Arc::new(AtomicBool::new(false));
        let turns = MergeTurns::new();
        let mut runner = Runner::new(&config, &store, true, Watch::Nowhere, &stop, &turns)?;
        runner.reimport = reimport;
        let mut reports = Vec::new();
        for selected in &selected {
            runner.run(selected, &Run::new(Trigger::Request), |entry| {
                reports.push(entry.report);
                Ok(())
            })?;
        }
        Ok(reports)
    }

    /// Removes a run from the queue, or stops a current one at its next batch.
    pub(in crate::service) fn stop_run(&self, caller: &Caller, run: &str) -> Result<(), Failure> {
        let queued = self.queue.list().into_iter().find(|queued| queued.planned.run == run);
        if queued.as_ref().is_some_and(|queued| queued.running) {
            self.current_runs.stop(run);
        } else if !self.queue.withdraw(&self.store, run)? {
            return Err(Error::NotFound(format!("run `{run}` is not in the queue")).into());
        } else if let Some(corrected) = queued.and_then(|queued| queued.planned.corrected) {
            rejected::remove_corrected(&corrected.folder(&self.folder.config()))?;
        }
        self.audit.record(caller, "stop", run)?;
        Ok(())
    }

    /// A file of rejected rows, and how many bytes it has now.
    pub(in crate::service) fn rejected(&self, run: &str, file: &str) -> Result<(File, u64), Failure> {
        let path = self.rejected_path(run, file)?;
        let opened = File::open(&path).and_then(|file| {
            let length = file.metadata()?.len();
            Ok((file, length))
        });
        opened.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::NotFound(format!("the rejected rows `{file}` were removed")).into()
            }
            _ => Error::io(&path, error).into(),
        })
    }

    /// The first rows of a file of rejected rows, and its columns.
    pub(in crate::service) fn rejected_rows(
        &self,
        run: &str,
        file: &str,
        count: usize,
    ) -> Result<(Vec<String>, Vec<Vec<String>>), Failure> {
        let path = self.rejected_path(run, file)?;
        if !path.is_file() {
            return Err(Error::NotFound(format!("the rejected rows `{file}` were removed")).into());
        }
        let (mut names, mut rows) = (Vec::new(), Vec::new());
        let config = self.folder.config();
        let read = rejected::read(&config, &path, |columns, cells| {
            if rows.is_empty() {
                names = columns.to_vec();
            }
            rows.push(cells.iter().map(|cell| (*cell).to_owned()).collect());
            if rows.len() < count { Ok(()) } else { Err(Error::Interrupted) }
        });
        match read {
            Ok(()) | Err(Error::Interrupted) => Ok((names, rows)),
            Err(error) => Err(error.into()),
        }
    }

    /// The path of a file of rejected rows; only files in the history have one.
    fn rejected_path(&self, run: &str, file: &str) -> Result<std::path::PathBuf, Failure> {
        let goal_runs = self.goal_runs(run)?;
        let is_known = goal_runs.iter().flat_map(|entry| &entry.rejected_files).any(|(name, _)| name == file);
        if !is_known {
            return Err(Error::NotFound(format!("the run has no rejected rows `{file}`")).into());
        }
        Ok(rejected::folder(&self.folder.config(), run).join(file))
    }
}

/// Puts a run of a connection into the queue, or runs it dry.
#[utoipa::path(post, path = "/connections/{connection}/runs", params(("connection" = String, Path, description = "Name of its file without `.toml`, or its name")), request_body = Start, responses(
    (status = 200, body = Started, description = "The dry run has ended."),
    (status = 202, body = Started, description = "The run is in the queue."),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn start_run(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    PathParams(connection): PathParams<String>,
    JsonBody(start): JsonBody<Start>,
) -> Result<Response, Failure> {
    if start.dry_run {
        return blocking_look(service, move |service| {
            let goals = service.dry_run(&connection, &start.goals, start.reimport)?;
            Ok(Json(Started { run: None, goals }).into_response())
        })
        .await;
    }
    blocking(service, move |service| {
        let run = service.start(&caller, &connection, start.goals, start.reimport)?;
        Ok((StatusCode::ACCEPTED, Json(Started { run: Some(run), goals: Vec::new() })).into_response())
    })
    .await
}

/// The last goal runs, the latest first.
#[utoipa::path(get, path = "/runs", params(RunsQuery), responses(
    (status = 200, body = Vec<GoalRun>),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn get_runs(
    State(service): State<Arc<Service>>,
    QueryParams(query): QueryParams<RunsQuery>,
) -> Result<Json<Vec<GoalRun>>, Failure> {
    let count = query.count.unwrap_or(100);
    if !(1..=1000).contains(&count) {
        return Err(Failure::new(StatusCode::BAD_REQUEST, "`count`: expected 1 to 1000"));
    }
    blocking(service, move |service| {
        let entry = match &query.connection {
            Some(connection) => service.history_of(connection, count)?,
            None => service.history(count)?,
        };
        Ok(Json(entry.iter().map(|entry| GoalRun::from(&**entry)).collect()))
    })
    .await
}

/// The goal runs of a run, in their order.
#[utoipa::path(get, path = "/runs/{run}", params(("run" = String, Path, description = "Its id")), responses(
    (status = 200, body = Vec<GoalRun>),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn get_run(
    State(service): State<Arc<Service>>,
    PathParams(run): PathParams<String>,
) -> Result<Json<Vec<GoalRun>>, Failure> {
    blocking(service, move |service| {
        Ok(Json(service.goal_runs(&run)?.iter().map(|entry| GoalRun::from(&**entry)).collect()))
    })
    .await
}

/// Stops a run at its next batch, or removes it from the queue.
#[utoipa::path(delete, path = "/runs/{run}", params(("run" = String, Path, description = "Its id")), responses(
    (status = 202, description = "The run is being stopped, or was removed from the queue."),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn stop_run(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    PathParams(run): PathParams<String>,
) -> Result<StatusCode, Failure> {
    blocking(service, move |service| {
        service.stop_run(&caller, &run)?;
        Ok(StatusCode::ACCEPTED)
    })
    .await
}

/// A file of rejected rows: the original columns, and where and why each row was rejected.
#[utoipa::path(get, path = "/runs/{run}/rejected/{file}", params(
    ("run" = String, Path, description = "Its id"), ("file" = String, Path, description = "One of the run's files of rejected rows"),
), responses(
    (status = 200, body = String, content_type = "text/csv"),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn get_rejected(
    State(service): State<Arc<Service>>,
    PathParams((run, file)): PathParams<(String, String)>,
) -> Result<Response, Failure> {
    blocking(service, move |service| {
        let (opened, length) = service.rejected(&run, &file)?;
        // Names of goals have no quotes.
        let disposition = format!("attachment; filename=\"{file}\"");
        let headers = [
            (CONTENT_TYPE, "text/csv".to_owned()),
            (CONTENT_DISPOSITION, disposition),
            (CONTENT_LENGTH, length.to_string()),
        ];
        // A run that goes on may append to it.
        Ok((headers, body_of(opened.take(length))).into_response())
    })
    .await
}

/// A body that reads a file chunk by chunk, as fast as the client takes it.
fn body_of(mut file: Take<File>) -> Body {
    let (chunks, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let read = tokio::task::spawn_blocking(move || {
                let mut chunk = Vec::new();
                let read = file.by_ref().take(CHUNK).read_to_end(&mut chunk);
                (file, read.map(|_| chunk))
            });
            // A panic was logged.
            let Ok((rest, chunk)) = read.await else { return };
            file = rest;
            let is_last = chunk.as_ref().map_or(true, Vec::is_empty);
            if chunks.send(chunk).await.is_err() || is_last {
                return;
            }
        }
    });
    Body::from_stream(ReceiverStream::new(receiver))
}
