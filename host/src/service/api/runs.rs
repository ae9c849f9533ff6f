use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use sluicebox_store::Store;
use utoipa::{IntoParams, ToSchema};

use super::{Asked, Failure, Named, Said, blocking};
use crate::error::Error;
use crate::progress::Watch;
use crate::rejected;
use crate::report::{Kept, LastProfile, Report, Run, Trigger};
use crate::runs::{Runner, select};
use crate::service::Service;
use crate::service::access::Who;
use crate::service::queue::Wanted;

/// A goal run of the history.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct GoalRun {
    #[serde(flatten)]
    pub report: Report,
    /// RFC 3339.
    pub started: String,
    pub trigger: Trigger,
    /// The run that was cut off and that this one goes on with.
    pub continues: Option<String>,
    /// Whether it ended before it was done.
    pub interrupted: bool,
    /// The last profiles that it created or updated, oldest first.
    pub last_profiles: Vec<LastProfile>,
    /// The files of its rejected rows.
    pub rejected_files: Vec<String>,
}

impl From<&Kept> for GoalRun {
    fn from(kept: &Kept) -> Self {
        Self {
            report: kept.report.clone(),
            started: kept.started.clone(),
            trigger: kept.trigger,
            continues: kept.continues.clone(),
            interrupted: kept.interrupted,
            last_profiles: kept.last_profiles.clone(),
            rejected_files: kept.rejected_files.iter().map(|(name, _)| name.clone()).collect(),
        }
    }
}

/// Which goal runs.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Only those of this connection, by its name.
    connection: Option<String>,
    /// At most so many; 100 if it is not said.
    #[param(minimum = 1, maximum = 1000)]
    count: Option<usize>,
}

/// What to run.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Start {
    /// Only these goals; empty = all that are on.
    #[serde(default)]
    pub goals: Vec<String>,
    /// Reports what would change, and writes nothing. The answer waits for its end.
    #[serde(default)]
    pub dry_run: bool,
}

/// What was begun.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Started {
    /// The run; absent for a dry run, which is no run of the history.
    pub run: Option<String>,
    /// What a dry run found, goal by goal.
    pub goals: Vec<Report>,
}

/// Held by whoever does a dry run: one at a time.
static DRY_RUN: AtomicBool = AtomicBool::new(false);

struct DryRun;

impl DryRun {
    fn begin() -> Result<Self, Failure> {
        match DRY_RUN.swap(true, Ordering::SeqCst) {
            false => Ok(Self),
            true => {
                Err(Failure::new(StatusCode::CONFLICT, "there is a dry run already; try again when it ended"))
            }
        }
    }
}

impl Drop for DryRun {
    fn drop(&mut self) {
        DRY_RUN.store(false, Ordering::SeqCst);
    }
}

impl Service {
    /// The last goal runs, newest first.
    pub(in crate::service) fn history(&self, count: usize) -> Result<Vec<Arc<Kept>>, Failure> {
        self.kept().take(count).map(|kept| Ok(kept?)).collect()
    }

    /// The last goal runs of a connection, newest first.
    pub(in crate::service) fn history_of(
        &self,
        connection: &str,
        count: usize,
    ) -> Result<Vec<Arc<Kept>>, Failure> {
        let of_it = |kept: &Result<Arc<Kept>, Error>| {
            kept.as_ref().map_or(true, |kept| kept.report.connection == connection)
        };
        self.kept().filter(of_it).take(count).map(|kept| Ok(kept?)).collect()
    }

    /// The goal runs of a run, in their order.
    pub(in crate::service) fn goal_runs(&self, run: &str) -> Result<Vec<Arc<Kept>>, Failure> {
        // Before the history is read: a run that ends meanwhile is in one of the two.
        let waits = self.queue.list().iter().any(|queued| queued.wanted.run == run);
        let mut found = Vec::new();
        for kept in self.kept() {
            let kept = kept?;
            if kept.report.run == run {
                found.insert(0, kept);
            } else if kept.report.run.as_str() < run {
                // Ids begin with their time.
                break;
            }
        }
        if found.is_empty() && !waits {
            return Err(Error::NotFound(format!("there is no run `{run}`")).into());
        }
        Ok(found)
    }

    /// Puts a run into the queue.
    pub(in crate::service) fn start(
        &self,
        who: &Who,
        connection: &str,
        goals: Vec<String>,
    ) -> Result<String, Failure> {
        let config = self.folder.current()?;
        let connection = config.connection(connection)?;
        for goal in &goals {
            crate::commands::goal(connection, goal)?;
        }
        if !connection.enabled {
            return Err(Failure::new(StatusCode::CONFLICT, "the connection is switched off"));
        }
        let wanted = Wanted::new(Trigger::Request, goals);
        match self.queue.put(&self.store, &connection.stem, wanted)? {
            Ok(run) => {
                self.audit.record(who, "run", &format!("{}, {run}", connection.stem))?;
                Ok(run)
            }
            Err(busy) => {
                let message = format!("the connection has a run already: {}", busy.run);
                Err(Failure::new(StatusCode::CONFLICT, message))
            }
        }
    }

    /// Runs goals on a copy of the store as it is now.
    pub(in crate::service) fn dry_run(
        &self,
        connection: &str,
        goals: &[String],
    ) -> Result<Vec<Report>, Failure> {
        let _one_at_a_time = DryRun::begin()?;
        let config = self.folder.current()?;
        let connection = config.connection(connection)?;
        for goal in goals {
            crate::commands::goal(connection, goal)?;
        }
        let wants =
            |goal: &crate::config::Goal<'_>| goals.is_empty() || goals.iter().any(|name| name == goal.name());
        let selected = select(&config, vec![connection], wants, false)?;
        let copy = self.store.dry_copy()?;
        let store = Store::open(copy.path())?;
        let stop = AtomicBool::new(false);
        let runner = Runner::new(&config, &store, true, Watch::Nobody, &stop)?;
        let mut reports = Vec::new();
        for selected in &selected {
            runner.run(selected, &Run::new(Trigger::Request), |kept| {
                reports.push(kept.report);
                Ok(())
            })?;
        }
        Ok(reports)
    }

    /// Takes a run out of the queue, or stops the one under way at its next batch.
    pub(in crate::service) fn stop_run(&self, who: &Who, run: &str) -> Result<(), Failure> {
        let running = self.queue.list().into_iter().any(|queued| queued.running && queued.wanted.run == run);
        if running {
            self.stop_run.store(true, Ordering::SeqCst);
        } else if !self.queue.withdraw(&self.store, run)? {
            return Err(Error::NotFound(format!("no run `{run}` waits or is under way")).into());
        }
        self.audit.record(who, "stop", run)?;
        Ok(())
    }

    /// The text of a file of rejected rows.
    pub(in crate::service) fn rejected(&self, run: &str, file: &str) -> Result<Vec<u8>, Failure> {
        let path = self.rejected_path(run, file)?;
        std::fs::read(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::NotFound(format!("there are no rejected rows `{file}` any more")).into()
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
            return Err(Error::NotFound(format!("there are no rejected rows `{file}` any more")).into());
        }
        let (mut names, mut rows) = (Vec::new(), Vec::new());
        let config = self.folder.config();
        let read = rejected::read(&path, &rejected::options(&config, &path), |columns, cells| {
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

    /// Only files that the history names are given out.
    fn rejected_path(&self, run: &str, file: &str) -> Result<std::path::PathBuf, Failure> {
        let goal_runs = self.goal_runs(run)?;
        let known = goal_runs.iter().flat_map(|kept| &kept.rejected_files).any(|(name, _)| name == file);
        if !known {
            return Err(Error::NotFound(format!("the run has no rejected rows `{file}`")).into());
        }
        Ok(rejected::folder(&self.folder.config(), run).join(file))
    }
}

/// Runs a connection now, or after those that wait.
#[utoipa::path(post, path = "/connections/{connection}/runs", params(("connection" = String, Path, description = "Its file or name")), request_body = Start, responses(
    (status = 200, body = Started, description = "A dry run ended."),
    (status = 202, body = Started, description = "The run is in the queue."),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn start_run(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Who>,
    Named(connection): Named<String>,
    Said(start): Said<Start>,
) -> Result<Response, Failure> {
    blocking(service, move |service| {
        if start.dry_run {
            let goals = service.dry_run(&connection, &start.goals)?;
            return Ok(Json(Started { run: None, goals }).into_response());
        }
        let run = service.start(&who, &connection, start.goals)?;
        Ok((StatusCode::ACCEPTED, Json(Started { run: Some(run), goals: Vec::new() })).into_response())
    })
    .await
}

/// The last goal runs, newest first.
#[utoipa::path(get, path = "/runs", params(Which), responses(
    (status = 200, body = Vec<GoalRun>),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn get_runs(
    State(service): State<Arc<Service>>,
    Asked(which): Asked<Which>,
) -> Result<Json<Vec<GoalRun>>, Failure> {
    let count = which.count.unwrap_or(100);
    if !(1..=1000).contains(&count) {
        return Err(Failure::new(StatusCode::BAD_REQUEST, "`count`: expected 1 to 1000"));
    }
    blocking(service, move |service| {
        let kept = match &which.connection {
            Some(connection) => service.history_of(connection, count)?,
            None => service.history(count)?,
        };
        Ok(Json(kept.iter().map(|kept| GoalRun::from(&**kept)).collect()))
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
    Named(run): Named<String>,
) -> Result<Json<Vec<GoalRun>>, Failure> {
    blocking(service, move |service| {
        Ok(Json(service.goal_runs(&run)?.iter().map(|kept| GoalRun::from(&**kept)).collect()))
    })
    .await
}

/// Stops a run at its next batch, or takes it out of the queue.
#[utoipa::path(delete, path = "/runs/{run}", params(("run" = String, Path, description = "Its id")), responses(
    (status = 202, description = "It is being stopped, or is out of the queue."),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn stop_run(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Who>,
    Named(run): Named<String>,
) -> Result<StatusCode, Failure> {
    blocking(service, move |service| {
        service.stop_run(&who, &run)?;
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
    Named((run, file)): Named<(String, String)>,
) -> Result<Response, Failure> {
    blocking(service, move |service| {
        let text = service.rejected(&run, &file)?;
        // Names of goals have no quotes.
        let disposition = format!("attachment; filename=\"{file}\"");
        let headers = [(CONTENT_TYPE, "text/csv".to_owned()), (CONTENT_DISPOSITION, disposition)];
        Ok((headers, Body::from(text)).into_response())
    })
    .await
}
