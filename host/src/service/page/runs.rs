//! The run history.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;

use super::format::{count, grouped, moment, span};
use super::{Frame, respond};
use crate::runs::accept;
use crate::runs::report::{LastProfile, Report, Status};
use crate::service::Service;
use crate::service::access::Caller;
use crate::service::api::runs::GoalRun;

/// Goal runs in a table.
pub(super) const HISTORY_LINES: usize = 50;

/// How a goal run stands, in a word. A run that was stopped, or whose process ended, did not fail by itself.
pub(super) fn status_word(status: Status, interrupted: bool) -> &'static str {
    match status {
        Status::Running => "running",
        Status::Succeeded => "succeeded",
        Status::Failed if interrupted => "stopped",
        Status::Failed => "failed",
        Status::Skipped => "skipped",
    }
}

/// A goal run as a line of a table.
pub(super) struct GoalRunLine {
    pub run: String,
    pub connection: String,
    pub goal: String,
    pub started: String,
    pub status: &'static str,
    pub rows: String,
    pub changed: String,
    pub rejected: String,
    pub took: String,
    pub error: Option<String>,
    /// The last records that it created or updated.
    pub last_records: Vec<RecordLink>,
}

impl GoalRunLine {
    pub(super) fn of(run: &GoalRun) -> Self {
        let report = &run.report;
        let number = |count: i64| grouped(count.unsigned_abs());
        let changed = match report.kind.as_str() {
            "export_profiles" => format!("{} exported", grouped(report.rows.merged)),
            accept::KIND => count(report.files.len() as u64, "file accepted", "files accepted"),
            "undo" => format!("{} restored", number(report.profiles.updated)),
            _ => format!(
                "{} created, {} updated",
                number(report.profiles.created),
                number(report.profiles.updated)
            ),
        };
        Self {
            run: report.run.clone(),
            connection: report.connection.clone(),
            goal: report.goal.clone(),
            started: moment(&run.started),
            status: status_word(report.status, run.interrupted),
            rows: grouped(report.rows.read),
            changed,
            rejected: grouped(report.rows.rejected),
            took: span(report.duration_ms),
            error: report.error.clone(),
            last_records: run.last_profiles.iter().map(|last| RecordLink::of(report, last)).collect(),
        }
    }
}

/// A link to a profile or group that a goal run changed.
pub(super) struct RecordLink {
    /// `created` or `updated`.
    pub change: String,
    pub id: String,
    /// The end of the id: ids that were assigned together differ there.
    pub short: String,
    /// The path of its page, up to its id.
    pub path: &'static str,
    /// `profile` or `group`.
    pub kind: &'static str,
}

impl RecordLink {
    fn of(report: &Report, last: &LastProfile) -> Self {
        let end = last.profile_id.rsplit('-').next().unwrap_or(&last.profile_id);
        let (path, kind) = match report.kind.as_str() {
            "import_groups" => ("/groups", "group"),
            _ => ("/profiles", "profile"),
        };
        Self {
            change: last.change.clone(),
            id: last.profile_id.clone(),
            short: format!("…{end}"),
            path,
            kind,
        }
    }
}

#[derive(Template)]
#[template(path = "runs.html")]
struct RunsPage {
    frame: Frame,
    history: Vec<GoalRunLine>,
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
) -> Response {
    respond(service, caller, "runs", |service, caller| {
        let history = service.history(HISTORY_LINES)?;
        let runs = history.iter().map(|entry| GoalRun::from(&**entry));
        Ok(RunsPage {
            frame: Frame::new(service, Some(caller), "Run history", "runs"),
            history: runs.map(|run| GoalRunLine::of(&run)).collect(),
        })
    })
    .await
}
