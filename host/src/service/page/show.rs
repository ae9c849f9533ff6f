//! What is looked at.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use serde_json::Value;

use super::{Frame, bytes, grouped, moment, page, shown, span};
use crate::commands::preview::Preview;
use crate::commands::scan::{Scanned, ScannedSet};
use crate::config::Goal;
use crate::report::{LastProfile, Report, Status};
use crate::service::Service;
use crate::service::access::Who;
use crate::service::api::connections::{ConnectionState, GoalState};
use crate::service::api::goals::{Mapping, rule_name};
use crate::service::api::plugins::PluginState;
use crate::service::api::runs::GoalRun;
use crate::service::api::status::{QueuedRun, Upcoming};
use crate::service::api::{Asked, Failure, Named};
use crate::service::audit::Entry;

/// Goal runs of a table.
const ROWS_OF_HISTORY: usize = 50;
/// Goal runs of a chart.
const BARS: usize = 30;
/// Runs to come of a connection.
const NEXT_SHOWN: usize = 5;
/// Rows of a preview, and of rejected rows.
const ROWS_SHOWN: usize = 20;
const REJECTED_SHOWN: usize = 200;

/// What a page was told by the one before it.
#[derive(Default, Deserialize)]
pub(super) struct Told {
    done: Option<String>,
    /// Whether scan and preview are wanted, which open files.
    look: Option<String>,
}

impl Told {
    fn done(&self) -> Option<&'static str> {
        match self.done.as_deref()? {
            "saved" => Some("Saved."),
            "queued" => Some("The run is in the queue."),
            "stopping" => Some("The run is being stopped."),
            _ => None,
        }
    }
}

#[derive(Template)]
#[template(path = "connections.html")]
struct Connections {
    frame: Frame,
    connections: Vec<ConnectionState>,
    upcoming: Vec<Upcoming>,
    queue: Vec<QueuedRun>,
}

impl ConnectionState {
    fn next_run(&self) -> String {
        self.next.as_deref().map_or("–".to_owned(), moment)
    }

    /// How its goals ended last: the worst of it.
    fn last(&self) -> &'static str {
        let statuses = || self.goals.iter().filter_map(|goal| goal.last_status);
        match () {
            () if statuses().any(|status| status == Status::Failed) => "failed",
            () if statuses().any(|status| status == Status::Running) => "running",
            () if statuses().next().is_some() => "succeeded",
            () => "never ran",
        }
    }

    /// The run that its last goal was in.
    fn last_run(&self) -> Option<&str> {
        self.goals.iter().filter_map(|goal| goal.last_run.as_deref()).max()
    }

    fn imported(&self) -> String {
        about(self.exchanged.imported)
    }

    fn exported(&self) -> String {
        about(self.exchanged.exported)
    }
}

/// Few are counted exactly, many within about 1 %.
fn about(count: u64) -> String {
    if count > 1000 { format!("about {}", grouped(count)) } else { grouped(count) }
}

impl GoalState {
    fn kind_in_words(&self) -> &'static str {
        match self.kind.as_str() {
            "import_groups" => "imports groups",
            "export_profiles" => "exports profiles",
            _ => "imports profiles",
        }
    }

    fn last(&self) -> String {
        match (self.last_status, &self.last_started) {
            (Some(status), Some(started)) => format!("{}, {}", word(status), moment(started)),
            _ => "never ran".to_owned(),
        }
    }
}

impl Upcoming {
    fn when(&self) -> String {
        moment(&self.at)
    }
}

pub(super) fn word(status: Status) -> &'static str {
    match status {
        Status::Running => "running",
        Status::Succeeded => "succeeded",
        Status::Failed => "failed",
        Status::Skipped => "skipped",
    }
}

pub(super) async fn connections(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Who>,
) -> Response {
    shown(service, who, "connections", |service, who| {
        Ok(Connections {
            frame: Frame::new(service, Some(who), "Connections", "connections"),
            connections: service.connections()?,
            upcoming: service.upcoming(10),
            queue: service.queued(),
        })
    })
    .await
}

#[derive(Template)]
#[template(path = "connection.html")]
pub(super) struct ConnectionPage {
    frame: Frame,
    it: ConnectionState,
    history: Vec<Line>,
    rows: Chart,
    durations: Chart,
    schedule: ScheduleForm,
    /// Its next runs.
    upcoming: Vec<String>,
    failure: Option<Failure>,
}

/// A goal run as a line of a table.
pub(super) struct Line {
    run: String,
    connection: String,
    goal: String,
    started: String,
    status: &'static str,
    rows: String,
    changed: String,
    rejected: String,
    took: String,
    error: Option<String>,
    /// The last profiles that it created or updated: what became of each, its id, and the id's end.
    profiles: Vec<(String, String, String)>,
}

impl Line {
    fn of(run: &GoalRun) -> Self {
        let report = &run.report;
        let changed = match report.kind.as_str() {
            "export_profiles" => format!("{} exported", grouped(report.rows.merged)),
            "undo" => format!("{} put back", report.profiles.updated),
            _ => format!(
                "{} created, {} updated",
                grouped(report.profiles.created.unsigned_abs()),
                grouped(report.profiles.updated.unsigned_abs())
            ),
        };
        Self {
            run: report.run.clone(),
            connection: report.connection.clone(),
            goal: report.goal.clone(),
            started: moment(&run.started),
            status: word(report.status),
            rows: grouped(report.rows.read),
            changed,
            rejected: grouped(report.rows.rejected),
            took: span(report.duration_ms),
            error: report.error.clone(),
            profiles: run.last_profiles.iter().map(short).collect(),
        }
    }
}

/// Ids of profiles that were made together differ at their ends.
fn short(last: &LastProfile) -> (String, String, String) {
    let end = last.profile_id.rsplit('-').next().unwrap_or_default();
    (last.change.clone(), last.profile_id.clone(), format!("…{end}"))
}

/// Bars over time, the newest at the right.
#[derive(Default)]
pub(super) struct Chart {
    title: &'static str,
    bars: Vec<Bar>,
    most: String,
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
    fn of(title: &'static str, values: &[(u64, String, bool)], most: impl Fn(u64) -> String) -> Self {
        let highest = values.iter().map(|(value, ..)| *value).max().unwrap_or_default().max(1);
        let bars = values.iter().rev().enumerate().map(|(place, (value, label, failed))| {
            let height = (value * CHART_HEIGHT / highest).max(1);
            Bar {
                x: place * BAR_WIDTH,
                y: CHART_HEIGHT - height,
                height,
                label: label.clone(),
                failed: *failed,
            }
        });
        Self { title, bars: bars.collect(), most: most(highest) }
    }

    fn width(&self) -> usize {
        self.bars.len().max(BARS) * BAR_WIDTH
    }
}

/// A schedule as the form has it.
#[derive(Default)]
pub(super) struct ScheduleForm {
    kind: &'static str,
    value: String,
    time: String,
    timezone: String,
}

impl ScheduleForm {
    fn is(&self, kind: &str) -> bool {
        self.kind == kind
    }

    fn of(schedule: Option<&crate::schedule::Schedule>) -> Self {
        let Some(schedule) = schedule else { return Self { kind: "none", ..Self::default() } };
        let (kind, value, time) = crate::config::schedule_as_written(schedule);
        let timezone = schedule.timezone.iana_name().unwrap_or("UTC").to_owned();
        Self { kind, value, time, timezone }
    }
}

pub(super) fn connection_page(
    service: &Service,
    who: &Who,
    name: &str,
    done: Option<&'static str>,
    failure: Option<Failure>,
) -> Result<ConnectionPage, Failure> {
    let it = service.connection(name)?;
    let kept = service.history_of(&it.name, ROWS_OF_HISTORY)?;
    let runs: Vec<GoalRun> = kept.iter().map(|kept| GoalRun::from(&**kept)).collect();
    let lately = || runs.iter().take(BARS);
    let failed = |run: &GoalRun| run.report.status == Status::Failed;
    let label =
        |run: &GoalRun, value: String| format!("{}, {}: {value}", moment(&run.started), run.report.goal);
    let rows: Vec<_> = lately()
        .map(|run| {
            let value = run.report.rows.read;
            (value, label(run, format!("{} rows", grouped(value))), failed(run))
        })
        .collect();
    let durations: Vec<_> = lately()
        .map(|run| (run.report.duration_ms, label(run, span(run.report.duration_ms)), failed(run)))
        .collect();
    let config = service.folder.config();
    let connection = config.connection(name)?;
    let schedule = ScheduleForm::of(connection.schedule.as_ref());
    let next = connection.schedule.iter().filter(|_| connection.enabled);
    let next = next.flat_map(|schedule| schedule.upcoming(jiff::Timestamp::now()).take(NEXT_SHOWN));
    let upcoming = next.map(|at| moment(&at.to_string())).collect();
    let mut frame = Frame::new(service, Some(who), it.name.clone(), "connections");
    frame.done = done;
    Ok(ConnectionPage {
        frame,
        history: runs.iter().map(Line::of).collect(),
        rows: Chart::of("Rows read by each goal run", &rows, grouped),
        durations: Chart::of("Duration of each goal run", &durations, span),
        schedule,
        upcoming,
        it,
        failure,
    })
}

pub(super) async fn connection(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Who>,
    Named(name): Named<String>,
    Asked(told): Asked<Told>,
) -> Response {
    shown(service, who, "connections", move |service, who| {
        connection_page(service, who, &name, told.done(), None)
    })
    .await
}

#[derive(Template)]
#[template(path = "goal.html")]
pub(super) struct GoalPage {
    frame: Frame,
    it: ConnectionState,
    goal: GoalState,
    about: Vec<(&'static str, String)>,
    mapping: Option<MappingForm>,
    /// Scan and preview, if they were asked for.
    looked: Option<Looked>,
    failure: Option<Failure>,
}

struct Looked {
    scan: Result<Scanned, String>,
    preview: Result<PreviewTable, String>,
}

impl ScannedSet {
    fn bytes(&self) -> String {
        bytes(self.size)
    }

    fn state(&self) -> String {
        match (&self.error, self.imported, self.rows_imported) {
            (Some(error), ..) => error.clone(),
            (_, true, _) => "already imported".to_owned(),
            (_, _, 0) => "new".to_owned(),
            (_, _, rows) => format!("imported up to row {}", grouped(rows)),
        }
    }
}

/// A preview as a table: each row of the file, then what each processor made of it.
struct PreviewTable {
    file: String,
    columns: Vec<String>,
    rows: Vec<RowOfPreview>,
    warning: Option<String>,
}

struct RowOfPreview {
    line: u64,
    stage: String,
    verdict: &'static str,
    reason: String,
    cells: Vec<CellOfPreview>,
}

struct CellOfPreview {
    text: String,
    /// Whether the stage before had something else.
    changed: bool,
}

impl PreviewTable {
    fn of(preview: Preview, processors: &[String]) -> Self {
        let columns = preview.columns_after;
        let mut rows = Vec::new();
        for row in preview.rows {
            let cells = |stage: &Value, before: Option<&Value>| -> Vec<CellOfPreview> {
                let text = |of: &Value, place: usize, name: &str| {
                    let cell = of.get(name).or_else(|| of.get(place));
                    cell.and_then(Value::as_str).map(str::to_owned)
                };
                let cell = |(place, name): (usize, &String)| {
                    let is = text(stage, place, name);
                    let changed = before.is_some_and(|before| text(before, place, name) != is);
                    CellOfPreview { text: is.unwrap_or_default(), changed }
                };
                columns.iter().enumerate().map(cell).collect()
            };
            let ends = row.verdict != "keep";
            let stages = row.steps.len();
            rows.push(RowOfPreview {
                line: row.line,
                stage: "in the file".to_owned(),
                verdict: if ends && stages == 0 { row.verdict } else { "" },
                reason: if stages == 0 { row.reason.clone().unwrap_or_default() } else { String::new() },
                cells: cells(&row.before, None),
            });
            let mut before = &row.before;
            for (place, step) in row.steps.iter().enumerate() {
                let last = place + 1 == stages;
                rows.push(RowOfPreview {
                    line: row.line,
                    stage: format!("after {}", processors.get(place).map_or("", String::as_str)),
                    verdict: if ends && last { row.verdict } else { "" },
                    reason: if last { row.reason.clone().unwrap_or_default() } else { String::new() },
                    cells: cells(step, Some(before)),
                });
                before = step;
            }
        }
        let file = preview.file.unwrap_or_default();
        Self { file, columns, rows, warning: preview.warning }
    }
}

/// Mappings as the form has them.
pub(super) struct MappingForm {
    pub fields: Vec<FieldForm>,
    pub mapping: Mapping,
    /// Columns that nothing uses.
    pub unused: usize,
}

/// A line of the form.
pub(super) struct FieldForm {
    /// Its place in the form.
    pub number: usize,
    /// Its place among the mappings as they are; empty = it is new.
    pub place: String,
    pub column: String,
    pub property: String,
    pub rule: String,
    pub separator: String,
    pub format: String,
    pub warnings: Vec<String>,
}

impl FieldForm {
    fn has_rule(&self, rule: &str) -> bool {
        self.rule == rule
    }

    fn rules(&self) -> [&'static str; 5] {
        sluicebox_model::MergeRule::NAMES.map(|(_, rule)| rule_name(rule))
    }
}

impl MappingForm {
    fn of(mapping: Mapping) -> Self {
        let fields = mapping.fields.iter().enumerate().map(|(place, field)| {
            let mut warnings = Vec::new();
            if !field.existing.is_empty() {
                warnings.push(format!("Existing property: also written by {}", field.existing.join(", ")));
            }
            if field.detected == Some(false) {
                warnings.push("No such column in the files".to_owned());
            }
            FieldForm {
                number: place + 1,
                place: place.to_string(),
                column: field.column.clone(),
                property: field.property.clone(),
                rule: field.rule.clone(),
                separator: field.separator.clone().unwrap_or_default(),
                format: field.format.clone().unwrap_or_default(),
                warnings,
            }
        });
        let unused = mapping.detected.iter().filter(|column| column.used.is_none()).count();
        Self { fields: fields.collect(), unused, mapping }
    }
}

pub(super) fn goal_page(
    service: &Service,
    who: &Who,
    (connection, goal): (&str, &str),
    looks: bool,
    done: Option<&'static str>,
    failed: Option<(Failure, Vec<FieldForm>)>,
) -> Result<GoalPage, Failure> {
    let it = service.connection(connection)?;
    let config = service.folder.config();
    let found = crate::commands::goal(config.connection(connection)?, goal)?;
    let state = it.goals.iter().find(|state| state.goal == goal).cloned();
    let state =
        state.ok_or_else(|| Failure::new(axum::http::StatusCode::NOT_FOUND, "there is no such goal"))?;
    let processors: Vec<String> = found.processors().iter().map(|entry| entry.plugin.clone()).collect();
    let mut about = match found {
        Goal::Import(goal) => vec![
            ("Folder", if goal.directory.is_empty() { "/".to_owned() } else { goal.directory.clone() }),
            ("Files", goal.pattern.clone()),
        ],
        Goal::Export(goal) => vec![
            ("Folder", if goal.directory.is_empty() { "/".to_owned() } else { goal.directory.clone() }),
            ("File", goal.file.clone()),
            (
                "Columns",
                goal.columns.iter().map(|column| column.header.clone()).collect::<Vec<_>>().join(", "),
            ),
        ],
    };
    about.push((
        "Processors",
        if processors.is_empty() { "none".to_owned() } else { processors.join(", then ") },
    ));
    let (failure, typed) = failed.map_or((None, None), |(failure, typed)| (Some(failure), Some(typed)));
    let mapping = match found {
        Goal::Import(_) => {
            let mut form = MappingForm::of(service.mapping(connection, goal)?);
            if let Some(typed) = typed {
                form.fields = typed;
            }
            Some(form)
        }
        Goal::Export(_) => None,
    };
    let looked = looks.then(|| Looked {
        scan: service.scan(connection, goal).map_err(|failure| failure.detail),
        preview: service
            .preview(connection, goal, ROWS_SHOWN)
            .map(|preview| PreviewTable::of(preview, &processors))
            .map_err(|failure| failure.detail),
    });
    let mut frame = Frame::new(service, Some(who), format!("{goal} – {}", it.name), "connections");
    frame.done = done;
    Ok(GoalPage { frame, it, goal: state, about, mapping, looked, failure })
}

pub(super) async fn goal(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Who>,
    Named((connection, goal)): Named<(String, String)>,
    Asked(told): Asked<Told>,
) -> Response {
    shown(service, who, "connections", move |service, who| {
        goal_page(service, who, (&connection, &goal), told.look.is_some(), told.done(), None)
    })
    .await
}

#[derive(Template)]
#[template(path = "dry_run.html")]
pub(super) struct DryRunPage {
    frame: Frame,
    connection: String,
    name: String,
    reports: Vec<Report>,
}

pub(super) fn dry_run_page(
    service: &Service,
    who: &Who,
    connection: &str,
    goals: &[String],
) -> Result<DryRunPage, Failure> {
    let it = service.connection(connection)?;
    let reports = service.dry_run(connection, goals)?;
    let frame = Frame::new(service, Some(who), format!("Dry run – {}", it.name), "connections");
    Ok(DryRunPage { frame, connection: it.connection, name: it.name, reports })
}

#[derive(Template)]
#[template(path = "runs.html")]
struct Runs {
    frame: Frame,
    history: Vec<Line>,
}

pub(super) async fn runs(State(service): State<Arc<Service>>, Extension(who): Extension<Who>) -> Response {
    shown(service, who, "runs", |service, who| {
        let history = service.history(ROWS_OF_HISTORY)?;
        let runs = history.iter().map(|kept| GoalRun::from(&**kept));
        Ok(Runs {
            frame: Frame::new(service, Some(who), "Run history", "runs"),
            history: runs.map(|run| Line::of(&run)).collect(),
        })
    })
    .await
}

#[derive(Template)]
#[template(path = "run.html")]
struct RunPage {
    frame: Frame,
    run: String,
    queued: Option<QueuedRun>,
    goals: Vec<GoalOfRun>,
}

struct GoalOfRun {
    it: GoalRun,
    line: Line,
    hint: Option<&'static str>,
}

impl GoalOfRun {
    fn counts(&self) -> Vec<(&'static str, String)> {
        let report = &self.it.report;
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
        if events != crate::report::Events::default() {
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
}

/// What one would ask next of an error.
fn next_step(report: &Report) -> Option<&'static str> {
    let error = report.error.as_deref()?;
    match () {
        () if report.rows.rejected > 0 && error.contains("rejected") => {
            Some("Look at the rejected rows below: each says why. A corrected file is imported as a new one.")
        }
        () if error.contains("no column") => {
            Some("Compare the file's columns with the goal's mapping: scan the goal to see both.")
        }
        () if error.starts_with("interrupted") => {
            Some("Nothing is lost: the run goes on from its last commit.")
        }
        () => None,
    }
}

pub(super) async fn run(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Who>,
    Named(run): Named<String>,
    Asked(told): Asked<Told>,
) -> Response {
    shown(service, who, "runs", move |service, who| {
        // Before its goals are read: a page that says that a goal is under way must know that its run is, and wait for its end.
        let queued = service.queued().into_iter().find(|queued| queued.run == run);
        let goals = service.goal_runs(&run)?.into_iter().map(|kept| {
            let it = GoalRun::from(&*kept);
            GoalOfRun { line: Line::of(&it), hint: next_step(&it.report), it }
        });
        let goals = goals.collect();
        let mut frame = Frame::new(service, Some(who), format!("Run {run}"), "runs");
        frame.done = told.done();
        Ok(RunPage { frame, queued, goals, run })
    })
    .await
}

#[derive(Template)]
#[template(path = "rejected.html")]
struct RejectedPage {
    frame: Frame,
    run: String,
    file: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
    most: usize,
}

pub(super) async fn rejected(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Who>,
    Named((run, file)): Named<(String, String)>,
) -> Response {
    shown(service, who, "runs", move |service, who| {
        let (mut columns, mut rows) = service.rejected_rows(&run, &file, REJECTED_SHOWN)?;
        // Why comes before what.
        let own = columns.len().min(4);
        columns.rotate_right(own);
        for row in &mut rows {
            let own = own.min(row.len());
            row.rotate_right(own);
        }
        let frame = Frame::new(service, Some(who), format!("Rejected rows of {run}"), "runs");
        Ok(RejectedPage { frame, run, file, columns, rows, most: REJECTED_SHOWN })
    })
    .await
}

/// Whom to look for.
#[derive(Default, Deserialize)]
pub(super) struct Sought {
    property: Option<String>,
    value: Option<String>,
}

#[derive(Template)]
#[template(path = "profiles.html")]
struct Profiles {
    frame: Frame,
    /// The properties that identify.
    properties: Vec<String>,
    property: String,
    value: String,
    found: Option<Vec<FoundProfile>>,
    failure: Option<Failure>,
}

struct FoundProfile {
    id: String,
    domain_group: String,
    modified: String,
}

pub(super) async fn profiles(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Who>,
    Asked(sought): Asked<Sought>,
) -> Response {
    let value = sought.value.unwrap_or_default();
    if sought.property.as_deref() == Some("profile_id") && !value.is_empty() {
        let id: String = form_urlencoded::byte_serialize(value.trim().as_bytes()).collect();
        return Redirect::to(&format!("/profiles/{id}")).into_response();
    }
    shown(service, who, "profiles", move |service, who| {
        let config = service.folder.config();
        let unique = config.schema.properties.iter().filter(|property| property.unique);
        let properties: Vec<String> = unique.map(|property| property.name.clone()).collect();
        let property = sought.property.or_else(|| properties.first().cloned()).unwrap_or_default();
        let text = |profile: &Value, key: &str| {
            profile.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let found = match value.is_empty() {
            true => Ok(None),
            false => service.find_profiles(&property, &value).map(Some),
        };
        let (found, failure) = match found {
            Ok(found) => (found, None),
            Err(failure) => (None, Some(failure)),
        };
        let found = found.map(|found| {
            let shown = |profile: &Value| FoundProfile {
                id: text(profile, "profile_id"),
                domain_group: text(profile, "domain_group"),
                modified: moment(&text(profile, "modified")),
            };
            found.iter().map(shown).collect()
        });
        let frame = Frame::new(service, Some(who), "Profiles", "profiles");
        Ok(Profiles { frame, properties, property, value, found, failure })
    })
    .await
}

#[derive(Template)]
#[template(path = "profile.html")]
struct ProfilePage {
    frame: Frame,
    id: String,
    domain_group: String,
    created: String,
    modified: String,
    properties: Vec<PropertyLine>,
    events: Vec<EventLine>,
}

struct PropertyLine {
    name: String,
    values: Vec<String>,
    /// Connection and goal.
    goal: String,
    run: String,
    at: String,
    file: String,
}

struct EventLine {
    kind: String,
    id: String,
    at: String,
    machine: String,
    properties: Vec<(String, String)>,
    nested: Vec<NestedLine>,
}

struct NestedLine {
    kind: String,
    rows: Vec<String>,
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(text_of).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

fn pairs(of: Option<&Value>) -> Vec<(String, String)> {
    let entries = of.and_then(Value::as_object).into_iter().flatten();
    entries.map(|(name, value)| (name.clone(), text_of(value))).collect()
}

impl ProfilePage {
    fn of(frame: Frame, profile: &Value) -> Self {
        let text = |of: &Value, key: &str| of.get(key).map(text_of).unwrap_or_default();
        let explain = profile.get("explain");
        let properties = profile.get("properties").and_then(Value::as_object).into_iter().flatten();
        let properties = properties.map(|(name, value)| {
            let by = explain.and_then(|explain| explain.get(name)).cloned().unwrap_or_default();
            PropertyLine {
                name: name.clone(),
                values: match value {
                    Value::Array(values) => values.iter().map(text_of).collect(),
                    one => vec![text_of(one)],
                },
                goal: match by.is_null() {
                    true => "before what is kept".to_owned(),
                    false => format!("{} / {}", text(&by, "connection"), text(&by, "goal")),
                },
                run: text(&by, "run"),
                at: moment(&text(&by, "at")),
                file: by.get("file").and_then(Value::as_str).unwrap_or_default().to_owned(),
            }
        });
        let properties = properties.collect();
        let events = profile.get("events").and_then(Value::as_array).into_iter().flatten().rev();
        let events = events.map(|event| EventLine {
            kind: text(event, "type"),
            id: text(event, "id"),
            at: moment(&text(event, "time")),
            machine: text(event, "time"),
            properties: pairs(event.get("properties")),
            nested: event
                .get("nested")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
                .map(|(kind, rows)| NestedLine {
                    kind: kind.clone(),
                    rows: rows
                        .as_array()
                        .into_iter()
                        .flatten()
                        .map(|row| {
                            let pairs =
                                pairs(Some(row)).into_iter().map(|(name, value)| format!("{name}: {value}"));
                            pairs.collect::<Vec<_>>().join(", ")
                        })
                        .collect(),
                })
                .collect(),
        });
        Self {
            id: text(profile, "profile_id"),
            domain_group: text(profile, "domain_group"),
            created: moment(&text(profile, "created")),
            modified: moment(&text(profile, "modified")),
            properties,
            events: events.collect(),
            frame,
        }
    }
}

pub(super) async fn profile(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Who>,
    Named(id): Named<String>,
) -> Response {
    shown(service, who, "profiles", move |service, who| {
        let profile = service.profile(&id)?;
        Ok(ProfilePage::of(Frame::new(service, Some(who), format!("Profile {id}"), "profiles"), &profile))
    })
    .await
}

#[derive(Template)]
#[template(path = "plugins.html")]
struct Plugins {
    frame: Frame,
    plugins: Vec<PluginState>,
}

impl PluginState {
    fn bytes(&self) -> String {
        bytes(self.size)
    }

    fn memory(&self) -> String {
        if self.peak_memory == 0 { "–".to_owned() } else { bytes(self.peak_memory) }
    }

    fn seen(&self) -> String {
        grouped(self.rows)
    }

    fn a_row(&self) -> String {
        self.nanoseconds_a_row.map_or("–".to_owned(), |time| format!("{} ns", grouped(time)))
    }
}

impl crate::service::api::plugins::Use {
    fn limits(&self) -> String {
        format!(
            "{} memory, {} a batch, {} to open, {} log lines",
            bytes(self.memory),
            span(self.batch_time),
            span(self.open_time),
            self.log_lines
        )
    }
}

pub(super) async fn plugins(State(service): State<Arc<Service>>, Extension(who): Extension<Who>) -> Response {
    shown(service, who, "plugins", |service, who| {
        let frame = Frame::new(service, Some(who), "Plugins", "plugins");
        Ok(Plugins { frame, plugins: service.plugins()? })
    })
    .await
}

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    frame: Frame,
    entries: Vec<Entry>,
}

impl Entry {
    fn when(&self) -> String {
        moment(&self.at)
    }
}

pub(super) async fn audit(State(service): State<Arc<Service>>, Extension(who): Extension<Who>) -> Response {
    shown(service, who, "audit", |service, who| {
        let entries = service.audit.last(200)?;
        Ok(AuditPage { frame: Frame::new(service, Some(who), "Audit log", "audit"), entries })
    })
    .await
}

/// Where somebody wanted to go who has to sign in first.
#[derive(Default, Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    pub next: String,
}

#[derive(Template)]
#[template(path = "sign_in.html")]
pub(super) struct SignIn {
    pub frame: Frame,
    pub next: String,
    pub refused: Option<&'static str>,
}

pub(super) async fn sign_in(State(service): State<Arc<Service>>, Asked(wanted): Asked<Wanted>) -> Response {
    let frame = Frame::new(&service, None, "Sign in", "");
    page(&SignIn { frame, next: wanted.next, refused: None })
}
