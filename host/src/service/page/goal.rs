//! A goal: scan, preview, and the mapping of an import, with the forms that change it.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::{Form, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde_json::Value;
use sluicebox_model::MergeRule;

use super::connection::{EnabledForm, change};
use super::format::{bytes, count, grouped};
use super::{Frame, PageQuery, encoded, or_error_page, page, respond_look};
use crate::config::Goal;
use crate::queries::find_goal;
use crate::queries::imported_again::DueAgain;
use crate::queries::preview::{MAX_COLUMNS, Preview};
use crate::queries::scan::{ForExport, Scanned, ScannedSet};
use crate::service::Service;
use crate::service::access::Caller;
use crate::service::api::connections::{ConnectionState, GoalState};
use crate::service::api::goals::{Accept, DetectedColumn, GoalChange, Mapping, MappingChange, rule_name};
use crate::service::api::{Failure, PathParams, QueryParams, blocking_look};
use crate::service::edit::FieldChange;

/// Rows in a preview.
const PREVIEW_ROWS: usize = 20;

#[derive(Template)]
#[template(path = "goal.html")]
struct GoalPage {
    frame: Frame,
    connection: ConnectionState,
    goal: GoalState,
    /// Names and values of its settings.
    settings: Vec<(&'static str, String)>,
    mapping: Option<MappingForm>,
    files: Option<FileLook>,
    failure: Option<Failure>,
    /// What the next run imports again, or, in `unsaved`, what it would import again with the mapping that was entered.
    again: DueAgain,
    unsaved: Option<DueAgain>,
    /// Whether missing properties are to be added.
    create_properties: bool,
}

/// What the goal's files hold now. It is absent unless the user asks for it: it opens files.
struct FileLook {
    scan: Result<Scanned, String>,
    preview: Result<PreviewTable, String>,
}

impl ScannedSet {
    fn bytes(&self) -> String {
        bytes(self.size)
    }

    fn state(&self) -> String {
        self.in_words()
    }
}

impl ForExport {
    fn in_words(&self) -> String {
        let (profiles, next) = (count(self.available, "profile", "profiles"), grouped(self.next));
        format!("{profiles} in the segment, {next} for the next run.")
    }
}

/// A preview as a table: each row of the file, then what each processor made of it.
struct PreviewTable {
    file: String,
    columns: Vec<String>,
    lines: Vec<PreviewLine>,
    warning: Option<String>,
    /// What is not shown.
    remark: Option<String>,
    /// Why the file cannot be read on.
    error: Option<String>,
}

/// A row in the file, or after a processor.
struct PreviewLine {
    /// Where the row begins in the file.
    line: u64,
    stage: String,
    is_first: bool,
    /// `drop` or `reject`; empty = the row goes on.
    verdict: &'static str,
    reason: String,
    cells: Vec<PreviewCell>,
}

struct PreviewCell {
    text: String,
    /// Whether it differs from the stage before.
    changed: bool,
}

impl PreviewTable {
    fn of(preview: Preview, processors: &[String]) -> Self {
        let mut columns = preview.columns_after;
        columns.truncate(MAX_COLUMNS);
        let mut lines = Vec::new();
        for row in preview.rows {
            let ends = row.verdict != "keep";
            let mut stages = vec![("in the file".to_owned(), &row.before)];
            stages.extend(row.steps.iter().enumerate().map(|(place, step)| {
                (format!("after {}", processors.get(place).map_or("a processor", String::as_str)), step)
            }));
            let last = stages.len() - 1;
            let mut before = None;
            for (place, (stage, row_then)) in stages.into_iter().enumerate() {
                lines.push(PreviewLine {
                    line: row.line,
                    stage,
                    is_first: place == 0,
                    verdict: if ends && place == last { row.verdict } else { "" },
                    reason: if place == last {
                        row.reason.clone().unwrap_or_default()
                    } else {
                        String::new()
                    },
                    cells: preview_cells(&columns, row_then, before),
                });
                before = Some(row_then);
            }
        }
        let file = preview.file.unwrap_or_default();
        let Preview { warning, remark, error, .. } = preview;
        Self { file, columns, lines, warning, remark, error }
    }
}

fn preview_cells(columns: &[String], row: &Value, before: Option<&Value>) -> Vec<PreviewCell> {
    // A row with too few or too many cells is a list.
    let text = |row: &Value, place: usize, name: &str| {
        let cell = row.get(name).or_else(|| row.get(place));
        cell.and_then(Value::as_str).map(str::to_owned)
    };
    let cell = |(place, name): (usize, &String)| {
        let now = text(row, place, name);
        let changed = before.is_some_and(|before| text(before, place, name) != now);
        PreviewCell { text: now.unwrap_or_default(), changed }
    };
    columns.iter().enumerate().map(cell).collect()
}

/// A mapping as the form shows it.
struct MappingForm {
    fields: Vec<FieldForm>,
    mapping: Mapping,
    /// Columns of the files that nothing uses.
    unused: usize,
    /// How many columns of the files are not shown.
    hidden: usize,
}

/// A line of the form.
struct FieldForm {
    /// Its number in the form, from 1.
    number: usize,
    /// Its place in the saved mapping; empty = it is new.
    place: String,
    column: String,
    property: String,
    rule: String,
    separator: String,
    format: String,
    warnings: Vec<String>,
}

impl FieldForm {
    fn has_rule(&self, rule: &str) -> bool {
        self.rule == rule
    }

    fn rules(&self) -> [&'static str; 5] {
        MergeRule::NAMES.map(|(_, rule)| rule_name(rule))
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
        let hidden = mapping.detected.len().saturating_sub(MAX_COLUMNS);
        Self { fields: fields.collect(), unused, hidden, mapping }
    }

    /// The detected columns, as many as a page shows.
    fn shown(&self) -> &[DetectedColumn] {
        self.mapping.detected.get(..MAX_COLUMNS).unwrap_or(&self.mapping.detected)
    }

    fn hidden_in_words(&self) -> String {
        format!("and {} more", grouped(self.hidden as u64))
    }

    fn unused_in_words(&self) -> String {
        match self.unused {
            1 => "1 detected column is not used".to_owned(),
            unused => format!("{} detected columns are not used", grouped(unused as u64)),
        }
    }
}

/// Names and values of a goal's settings.
fn settings(goal: Goal<'_>, processors: &[String]) -> Vec<(&'static str, String)> {
    let folder = |directory: &str| if directory.is_empty() { "/".to_owned() } else { directory.to_owned() };
    let mut settings = match goal {
        Goal::Import(goal) => vec![("Folder", folder(&goal.directory)), ("Files", goal.pattern.clone())],
        Goal::Export(goal) => {
            let columns: Vec<&str> = goal.columns.iter().map(|column| column.header.as_str()).collect();
            vec![
                ("Folder", folder(&goal.directory)),
                ("File", goal.file.clone()),
                (
                    "If the name exists",
                    if goal.replace { "the file is replaced" } else { "the new file gets a number" }
                        .to_owned(),
                ),
                ("Columns", columns.join(", ")),
            ]
        }
    };
    let processors = if processors.is_empty() { "none".to_owned() } else { processors.join(", then ") };
    settings.push(("Processors", processors));
    settings
}

/// What the page shows besides the goal.
#[derive(Default)]
struct Extras {
    /// Whether to scan and preview.
    look: bool,
    notice: Option<&'static str>,
    /// Why a mapping was not saved.
    failed: Option<Failure>,
    /// What the next run would import again with the mapping that was entered, which is not saved for that.
    unsaved: Option<DueAgain>,
    /// The fields that the user entered, where they were not saved.
    entered: Option<Vec<FieldForm>>,
    /// Whether missing properties are to be added.
    create_properties: bool,
}

fn goal_page(
    service: &Service,
    caller: &Caller,
    connection: &str,
    goal: &str,
    extras: Extras,
) -> Result<GoalPage, Failure> {
    let state = service.connection(connection)?;
    let config = service.folder.config();
    let found = find_goal(config.connection(connection)?, goal)?;
    let goal_state = state.goals.iter().find(|state| state.goal == goal).cloned();
    // The configuration may have changed between the two looks.
    let goal_state =
        goal_state.ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, "there is no such goal"))?;
    let processors: Vec<String> = found.processors().iter().map(|entry| entry.plugin.clone()).collect();
    let (mapping, again) = match found {
        Goal::Import(_) => {
            let mut form = MappingForm::of(service.mapping(connection, goal)?);
            if let Some(entered) = extras.entered {
                form.fields = entered;
            }
            // Where the files cannot be read, the mapping says why.
            (Some(form), service.imported_again(connection, goal).unwrap_or_default())
        }
        Goal::Export(_) => (None, DueAgain::default()),
    };
    let files = extras.look.then(|| FileLook {
        scan: service.scan(connection, goal).map_err(|failure| failure.detail),
        preview: service
            .preview(connection, goal, PREVIEW_ROWS)
            .map(|preview| PreviewTable::of(preview, &processors))
            .map_err(|failure| failure.detail),
    });
    let mut frame = Frame::new(service, Some(caller), format!("{goal} – {}", state.name), "connections");
    frame.notice = extras.notice;
    Ok(GoalPage {
        frame,
        connection: state,
        goal: goal_state,
        settings: settings(found, &processors),
        mapping,
        files,
        failure: extras.failed,
        again,
        unsaved: extras.unsaved,
        create_properties: extras.create_properties,
    })
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    PathParams((connection, goal)): PathParams<(String, String)>,
    QueryParams(query): QueryParams<PageQuery>,
) -> Response {
    respond_look(service, caller, "connections", move |service, caller| {
        let notice = query.saved().or(query.is_done("accepted").then_some("The files count as imported."));
        let extras = Extras { look: query.look.is_some(), notice, ..Extras::default() };
        goal_page(service, caller, &connection, &goal, extras)
    })
    .await
}

pub(super) async fn set_enabled(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    PathParams((connection, goal)): PathParams<(String, String)>,
    Form(form): Form<EnabledForm>,
) -> Response {
    change(service, caller, connection, move |service, caller, connection| {
        service.change_goal(caller, connection, &goal, &GoalChange { enabled: form.enabled })
    })
    .await
}

/// The fields of the form, in its order. A line without a column is none.
fn entered_fields(form: &[(String, String)]) -> Vec<FieldChange> {
    let all = |name: &'static str| {
        form.iter().filter(move |(key, _)| *key == name).map(|(_, value)| value.as_str())
    };
    let removed: Vec<&str> = all("remove").collect();
    let lines = all("number").zip(all("place")).zip(all("column")).zip(all("property"));
    let lines = lines.zip(all("rule")).zip(all("separator")).zip(all("format"));
    let mut changes = Vec::new();
    for ((((((number, place), column), property), rule), separator), format) in lines {
        let column = column.trim();
        if column.is_empty() || removed.contains(&number) {
            continue;
        }
        let property = Some(property.trim()).filter(|property| !property.is_empty()).unwrap_or(column);
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        changes.push(FieldChange {
            place: place.parse().ok(),
            column: column.to_owned(),
            property: property.to_owned(),
            rule: rule.to_owned(),
            separator: text(separator),
            format: text(format),
        });
    }
    changes
}

impl FieldForm {
    /// Entered fields as the form shows them.
    fn of(changes: &[FieldChange]) -> Vec<Self> {
        let shown = changes.iter().enumerate().map(|(place, change)| Self {
            number: place + 1,
            place: change.place.map(|place| place.to_string()).unwrap_or_default(),
            column: change.column.clone(),
            property: change.property.clone(),
            rule: change.rule.clone(),
            separator: change.separator.clone().unwrap_or_default(),
            format: change.format.clone().unwrap_or_default(),
            warnings: Vec::new(),
        });
        shown.collect()
    }
}

pub(super) async fn set_mapping(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    PathParams((connection, goal)): PathParams<(String, String)>,
    Form(form): Form<Vec<(String, String)>>,
) -> Response {
    let (shared, by) = (Arc::clone(&service), caller.clone());
    let response = blocking_look(shared, move |service| {
        let value =
            |name: &str| form.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
        let action = value("action");
        let mut fields = entered_fields(&form);
        if action == "add-all" {
            let (rule, prefix) = (value("bulk_rule"), value("bulk_prefix"));
            let detected = service.mapping(&connection, &goal)?.detected;
            for column in detected.into_iter().filter(|column| column.used.is_none()) {
                if !fields.iter().any(|field| field.column == column.column) {
                    fields.push(FieldChange {
                        property: format!("{prefix}{}", column.column),
                        column: column.column,
                        rule: rule.to_owned(),
                        ..FieldChange::default()
                    });
                }
            }
        }
        let create_properties = value("create_properties") == "true";
        let change = MappingChange { fields, create_properties, version: value("version").to_owned() };
        let mut extras =
            Extras { entered: Some(FieldForm::of(&change.fields)), create_properties, ..Extras::default() };
        let is_decided = ["save-again", "save-accept"].contains(&action);
        // A mapping that is wrong, and files that cannot be read, are no reason to ask: saving says what is wrong.
        let unsaved =
            if is_decided { None } else { service.imported_again_with(&connection, &goal, &change).ok() };
        if let Some(unsaved) = unsaved.filter(|unsaved| !unsaved.files.is_empty()) {
            extras.unsaved = Some(unsaved);
            return Ok(page(&goal_page(service, &by, &connection, &goal, extras)?));
        }
        let path = format!("/connections/{}/goals/{}", encoded(&connection), encoded(&goal));
        let saved = service.put_mapping(&by, &connection, &goal, &change);
        if saved.is_ok() && action == "save-accept" {
            // The mapping is saved: if this fails, the page of the goal still offers it.
            service.accept(&by, &connection, &goal, &Accept::default())?;
        }
        match saved {
            Ok(()) => Ok(Redirect::to(&format!("{path}?done=saved#mapping")).into_response()),
            Err(failure) => {
                let status = failure.status();
                extras.failed = Some(failure);
                let shown = goal_page(service, &by, &connection, &goal, extras)?;
                Ok((status, page(&shown)).into_response())
            }
        }
    });
    or_error_page(response.await, &service, &caller, "connections")
}

pub(super) async fn accept(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    PathParams((connection, goal)): PathParams<(String, String)>,
) -> Response {
    let (shared, by) = (Arc::clone(&service), caller.clone());
    let response = blocking_look(shared, move |service| {
        service.accept(&by, &connection, &goal, &Accept::default())?;
        let path = format!("/connections/{}/goals/{}", encoded(&connection), encoded(&goal));
        Ok(Redirect::to(&format!("{path}?done=accepted")).into_response())
    });
    or_error_page(response.await, &service, &caller, "connections")
}
