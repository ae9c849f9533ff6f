//! A run: what each of its goals did, why it failed, its rejected rows.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};

use super::failure::advice;
use super::format::{count, grouped};
use super::runs::GoalRunLine;
use super::{Frame, PageQuery, or_error_page, respond};
use crate::runs::report::{Events, FileReport, HistoryEntry};
use crate::service::Service;
use crate::service::access::Caller;
use crate::service::api::runs::GoalRun;
use crate::service::api::status::QueuedRun;
use crate::service::api::{Failure, PathParams, QueryParams, blocking};

#[derive(Template)]
#[template(path = "run.html")]
struct RunPage {
    frame: Frame,
    run: String,
    queued: Option<QueuedRun>,
    goals: Vec<GoalSection>,
}

/// What the page shows of a goal run.
struct GoalSection {
    run: GoalRun,
    line: GoalRunLine,
    advice: Option<&'static str>,
    /// What was not taken: how often, why, and where first.
    faults: Vec<String>,
    /// Whether its rejected rows can be shown line by line.
    has_lines: bool,
}

impl GoalSection {
    fn of(run: GoalRun, has_lines: bool) -> Self {
        let faults = run.report.fault_lines(usize::MAX);
        Self { line: GoalRunLine::of(&run), advice: advice(&run.report), faults, has_lines, run }
    }

    fn counts(&self) -> Vec<(&'static str, String)> {
        let report = &self.run.report;
        let number = |count: i64| grouped(count.unsigned_abs());
        let mut counts = vec![
            ("Rows read", grouped(report.rows.read)),
            ("Merged", grouped(report.rows.merged)),
            ("Excluded", grouped(report.rows.excluded)),
            ("Dropped", grouped(report.rows.dropped)),
            ("Rejected", grouped(report.rows.rejected)),
            ("Cells rejected", grouped(report.cells_rejected)),
            ("Created", number(report.profiles.created)),
            ("Updated", number(report.profiles.updated)),
            ("Unchanged", number(report.profiles.unchanged)),
        ];
        let events = report.events;
        if events != Events::default() {
            counts.push(("Events created", grouped(events.created)));
            counts.push(("Events updated", grouped(events.updated)));
            counts.push(("Events exported", grouped(events.exported)));
        }
        if let Some(linked) = report.linked {
            counts.push(("Linked rows", grouped(linked.read)));
            counts.push(("Orphaned", grouped(linked.orphaned)));
        }
        counts
    }

    /// The heading of the last records.
    fn last_heading(&self) -> &'static str {
        if self.run.report.kind == "import_groups" { "Last groups" } else { "Last profiles" }
    }
}

impl FileReport {
    fn in_words(&self) -> String {
        format!("{}: {}, {}", self.name, self.status.word(), count(self.rows, "row", "rows"))
    }
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    PathParams(run): PathParams<String>,
    QueryParams(query): QueryParams<PageQuery>,
) -> Response {
    respond(service, caller, "runs", move |service, caller| {
        // The queue first: a page that shows a goal under way must also know its run, to see that it ended.
        let queued = service.queued().into_iter().find(|queued| queued.run == run);
        let section = |entry: Arc<HistoryEntry>| {
            let has_lines = service.has_rejected_lines(&entry)?;
            Ok(GoalSection::of(GoalRun::from(&*entry), has_lines))
        };
        let goals = service.goal_runs(&run)?.into_iter().map(section).collect::<Result<_, Failure>>()?;
        let mut frame = Frame::new(service, Some(caller), format!("Run {run}"), "runs");
        // A page that is loaded again says what is so now.
        frame.notice = match &queued {
            Some(queued) if query.is_done("queued") && !queued.running => Some("The run is in the queue."),
            Some(_) if query.is_done("stopping") => Some("The run is being stopped."),
            _ => None,
        };
        Ok(RunPage { frame, run, queued, goals })
    })
    .await
}

pub(super) async fn stop(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    PathParams(run): PathParams<String>,
) -> Response {
    let (shared, by) = (Arc::clone(&service), caller.clone());
    let response = blocking(shared, move |service| {
        service.stop_run(&by, &run)?;
        // A run that had not started is not in the history.
        let has_page = service.goal_runs(&run).is_ok();
        let next = if has_page { format!("/runs/{run}?done=stopping") } else { "/".to_owned() };
        Ok(Redirect::to(&next).into_response())
    });
    or_error_page(response.await, &service, &caller, "runs")
}
