//! A connection: its goals, history, schedule, notifications, objectives and secrets, and the forms that change them.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::{Form, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::format::{count, grouped, moment, span};
use super::runs::{GoalRunLine, HISTORY_LINES, status_word};
use super::{Frame, PageQuery, dry_run, encoded, or_error_page, page, respond};
use crate::runs::report::Status;
use crate::runs::schedule::Schedule;
use crate::service::Service;
use crate::service::access::Caller;
use crate::service::api::connections::{ConnectionChange, ConnectionState, GoalState};
use crate::service::api::runs::GoalRun;
use crate::service::api::{Failure, PathParams, QueryParams, blocking, blocking_look};
use crate::service::edit::ScheduleChange;

/// Goal runs in a chart.
const MAX_BARS: usize = 30;
/// Scheduled runs in the list.
const MAX_UPCOMING: usize = 5;
/// Up to this many profiles are counted exactly, and more within about 1 %.
const MAX_EXACT: u64 = 1000;

#[derive(Template)]
#[template(path = "connection.html")]
struct ConnectionPage {
    frame: Frame,
    connection: ConnectionState,
    history: Vec<GoalRunLine>,
    rows: Chart,
    durations: Chart,
    schedule: ScheduleForm,
    /// Its next scheduled runs.
    upcoming: Vec<String>,
    /// Whether sluicebox.toml says how mail is sent.
    can_mail: bool,
    failure: Option<Failure>,
}

impl ConnectionState {
    fn imported(&self) -> String {
        about(self.exchanged.imported)
    }

    fn exported(&self) -> String {
        about(self.exchanged.exported)
    }
}

fn about(count: u64) -> String {
    if count > MAX_EXACT { format!("about {}", grouped(count)) } else { grouped(count) }
}

impl GoalState {
    pub(super) fn kind_in_words(&self) -> &'static str {
        match self.kind.as_str() {
            "import_groups" => "imports groups",
            "export_profiles" => "exports profiles",
            _ => "imports profiles",
        }
    }

    pub(super) fn last(&self) -> String {
        match (self.last_status, &self.last_started) {
            (Some(status), Some(started)) => {
                format!("{}, {}", status_word(status, self.last_interrupted), moment(started))
            }
            _ => "never ran".to_owned(),
        }
    }
}

/// Bars over time, the newest at the right.
struct Chart {
    title: &'static str,
    bars: Vec<Bar>,
    /// The value of the highest bar.
    max: String,
}

struct Bar {
    x: usize,
    y: u64,
    height: u64,
    label: String,
    failed: bool,
}

/// Heights are in these units.
const CHART_HEIGHT: u64 = 100;
/// A bar with the gap after it.
const BAR_WIDTH: usize = 20;

impl Chart {
    /// `values` are newest first, each with its label and whether its run failed.
    fn of(title: &'static str, values: &[(u64, String, bool)], format: impl Fn(u64) -> String) -> Self {
        let max = values.iter().map(|(value, ..)| *value).max().unwrap_or_default().max(1);
        let bars = values.iter().rev().enumerate().map(|(place, (value, label, failed))| {
            let height = (value * CHART_HEIGHT / max).max(1);
            Bar {
                x: place * BAR_WIDTH,
                y: CHART_HEIGHT - height,
                height,
                label: label.clone(),
                failed: *failed,
            }
        });
        Self { title, bars: bars.collect(), max: format(max) }
    }

    fn width(&self) -> usize {
        self.bars.len().max(MAX_BARS) * BAR_WIDTH
    }
}

/// A schedule as the form shows it.
#[derive(Default)]
struct ScheduleForm {
    kind: &'static str,
    value: String,
    time: String,
    timezone: String,
}

impl ScheduleForm {
    fn of(schedule: Option<&Schedule>) -> Self {
        let Some(schedule) = schedule else { return Self { kind: "none", ..Self::default() } };
        let (kind, value, time) = crate::config::schedule_as_written(schedule);
        let timezone = schedule.timezone.iana_name().unwrap_or("UTC").to_owned();
        Self { kind, value, time, timezone }
    }

    fn is(&self, kind: &str) -> bool {
        self.kind == kind
    }
}

fn connection_page(
    service: &Service,
    caller: &Caller,
    name: &str,
    notice: Option<&'static str>,
    failure: Option<Failure>,
) -> Result<ConnectionPage, Failure> {
    let state = service.connection(name)?;
    let history = service.history_of(&state.name, HISTORY_LINES)?;
    let runs: Vec<GoalRun> = history.iter().map(|entry| GoalRun::from(&**entry)).collect();
    let recent = || runs.iter().take(MAX_BARS);
    let failed = |run: &GoalRun| run.report.status == Status::Failed && !run.interrupted;
    let label =
        |run: &GoalRun, value: String| format!("{}, {}: {value}", moment(&run.started), run.report.goal);
    let rows: Vec<_> = recent()
        .map(|run| {
            let rows = run.report.rows.read;
            (rows, label(run, count(rows, "row", "rows")), failed(run))
        })
        .collect();
    let durations: Vec<_> = recent()
        .map(|run| (run.report.duration_ms, label(run, span(run.report.duration_ms)), failed(run)))
        .collect();
    let config = service.folder.config();
    let connection = config.connection(name)?;
    let schedule = ScheduleForm::of(connection.schedule.as_ref());
    let next = connection.schedule.iter().filter(|_| connection.enabled);
    let next = next.flat_map(|schedule| schedule.upcoming(jiff::Timestamp::now()).take(MAX_UPCOMING));
    let upcoming = next.map(|at| moment(&at.to_string())).collect();
    let mut frame = Frame::new(service, Some(caller), state.name.clone(), "connections");
    frame.notice = notice;
    Ok(ConnectionPage {
        frame,
        history: runs.iter().map(GoalRunLine::of).collect(),
        rows: Chart::of("Rows read by each goal run", &rows, grouped),
        durations: Chart::of("Duration of each goal run", &durations, span),
        schedule,
        upcoming,
        can_mail: config.settings.smtp.is_some(),
        connection: state,
        failure,
    })
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    PathParams(name): PathParams<String>,
    QueryParams(query): QueryParams<PageQuery>,
) -> Response {
    respond(service, caller, "connections", move |service, caller| {
        connection_page(service, caller, &name, query.saved(), None)
    })
    .await
}

/// Changes a connection, and leads back to its page; a failure is shown there.
pub(super) async fn change(
    service: Arc<Service>,
    caller: Caller,
    connection: String,
    change: impl FnOnce(&Service, &Caller, &str) -> Result<(), Failure> + Send + 'static,
) -> Response {
    let (shared, by) = (Arc::clone(&service), caller.clone());
    let response = blocking(shared, move |service| match change(service, &by, &connection) {
        Ok(()) => {
            let page = format!("/connections/{}?done=saved", encoded(&connection));
            Ok(Redirect::to(&page).into_response())
        }
        Err(failure) => failed(service, &by, &connection, failure),
    });
    or_error_page(response.await, &service, &caller, "connections")
}

fn failed(service: &Service, caller: &Caller, name: &str, failure: Failure) -> Result<Response, Failure> {
    let status = failure.status();
    let shown = connection_page(service, caller, name, None, Some(failure))?;
    Ok((status, page(&shown)).into_response())
}

/// The form of an on-off switch.
#[derive(Deserialize)]
pub(super) struct EnabledForm {
    pub enabled: bool,
}

pub(super) async fn set_enabled(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    PathParams(connection): PathParams<String>,
    Form(form): Form<EnabledForm>,
) -> Response {
    change(service, caller, connection, move |service, caller, connection| {
        let change = ConnectionChange { enabled: Some(form.enabled), ..ConnectionChange::default() };
        service.change_connection(caller, connection, &change)
    })
    .await
}

/// The form of a schedule: its kind, and the values of that kind.
#[derive(Deserialize)]
pub(super) struct NewSchedule {
    kind: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    time: String,
    #[serde(default)]
    timezone: String,
}

impl NewSchedule {
    fn change(self) -> Result<Option<ScheduleChange>, Failure> {
        let invalid = |detail| Failure::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
        let list =
            || self.value.split([',', ' ']).filter(|day| !day.is_empty()).map(str::to_lowercase).collect();
        let text = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let mut change = ScheduleChange { timezone: text(&self.timezone), ..ScheduleChange::default() };
        match self.kind.as_str() {
            "none" => return Ok(None),
            "every" => {
                let value = self.value.trim();
                let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
                change.every = Some(if is_number { format!("{value}m") } else { value.to_owned() });
                return Ok(Some(change));
            }
            "times_per_day" => {
                let times = self.value.trim().parse();
                change.times_per_day = Some(times.map_err(|_| invalid("times per day: expected a number"))?);
            }
            "days" => change.days = Some(list()),
            "days_of_month" => change.days_of_month = Some(list()),
            "weekday_of_month" => change.weekday_of_month = Some(self.value.trim().to_lowercase()),
            _ => return Err(invalid("unknown kind of schedule")),
        }
        change.time = text(&self.time);
        Ok(Some(change))
    }
}

pub(super) async fn set_schedule(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    PathParams(connection): PathParams<String>,
    Form(form): Form<NewSchedule>,
) -> Response {
    change(service, caller, connection, move |service, caller, connection| {
        let change = ConnectionChange { schedule: Some(form.change()?), ..ConnectionChange::default() };
        service.change_connection(caller, connection, &change)
    })
    .await
}

/// The form of e-mail notifications.
#[derive(Deserialize)]
pub(super) struct NotifyForm {
    /// Addresses, separated by commas or line breaks.
    #[serde(default)]
    email: String,
    #[serde(default)]
    every_run: bool,
}

pub(super) async fn set_notify(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    PathParams(connection): PathParams<String>,
    Form(form): Form<NotifyForm>,
) -> Response {
    change(service, caller, connection, move |service, caller, connection| {
        let email = form.email.split([',', '\n']).map(str::trim).filter(|address| !address.is_empty());
        let email = Some(email.map(str::to_owned).collect());
        let change =
            ConnectionChange { email, every_run: Some(form.every_run), ..ConnectionChange::default() };
        service.change_connection(caller, connection, &change)
    })
    .await
}

pub(super) async fn set_objectives(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    PathParams(connection): PathParams<String>,
    Form(form): Form<Vec<(String, String)>>,
) -> Response {
    change(service, caller, connection, move |service, caller, connection| {
        let checked = form.into_iter().filter(|(key, _)| key == "objective");
        let objectives = Some(checked.map(|(_, objective)| objective).collect());
        let change = ConnectionChange { objectives, ..ConnectionChange::default() };
        service.change_connection(caller, connection, &change)
    })
    .await
}

/// The form of a new secret.
#[derive(Deserialize)]
pub(super) struct SecretForm {
    /// Table and key, such as `pgp.private_key`.
    secret: String,
    value: String,
}

pub(super) async fn set_secret(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    PathParams(connection): PathParams<String>,
    Form(form): Form<SecretForm>,
) -> Response {
    change(service, caller, connection, move |service, caller, connection| {
        service.put_secret(caller, connection, &form.secret, &form.value)
    })
    .await
}

/// The form of a run or dry run.
#[derive(Deserialize)]
pub(super) struct RunForm {
    /// Only this goal; empty = all that are on.
    #[serde(default)]
    goal: String,
    #[serde(default)]
    dry_run: bool,
}

pub(super) async fn run(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    PathParams(connection): PathParams<String>,
    Form(form): Form<RunForm>,
) -> Response {
    let (shared, by) = (Arc::clone(&service), caller.clone());
    let goals: Vec<String> = Some(form.goal).filter(|goal| !goal.is_empty()).into_iter().collect();
    let response = if form.dry_run {
        let dry_run =
            move |service: &Service| Ok(page(&dry_run::page_of(service, &by, &connection, &goals)?));
        blocking_look(shared, dry_run).await
    } else {
        let start = move |service: &Service| match service.start(&by, &connection, goals, false) {
            Ok(run) => Ok(Redirect::to(&format!("/runs/{run}?done=queued")).into_response()),
            Err(failure) => failed(service, &by, &connection, failure),
        };
        blocking(shared, start).await
    };
    or_error_page(response, &service, &caller, "connections")
}
