use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use sluicebox_model::{MergeRule, OrNever};
use utoipa::{IntoParams, ToSchema};

use super::{Failure, JsonBody, PathParams, QueryParams, blocking, blocking_look};
use crate::config::{Config, Connection, FileChange, Goal, ImportGoal, Target, may_follow};
use crate::error::Error;
use crate::import::Import;
use crate::plugins;
use crate::queries::find_goal;
use crate::queries::imported_again::{self, DueAgain};
use crate::queries::preview::{Preview, preview};
use crate::queries::scan::{Scanned, scan};
use crate::runs::accept::{self, Accepted};
use crate::runs::report::{Run, Trigger};
use crate::service::Service;
use crate::service::access::Caller;
use crate::service::edit::{Edit, FieldChange};

/// A change of a goal.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GoalChange {
    pub enabled: bool,
}

/// The size of a preview.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PreviewQuery {
    /// Rows at most; default 10.
    #[param(minimum = 1, maximum = 1000)]
    rows: Option<usize>,
}

/// How an import goal maps columns to properties.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Mapping {
    pub fields: Vec<MappedField>,
    /// Columns of the files that match now and of processors, in their order.
    pub detected: Vec<DetectedColumn>,
    /// Why no columns were detected.
    pub problem: Option<String>,
    /// All properties of the schema.
    pub properties: Vec<String>,
    /// The bulk mapping, if there is one.
    pub bulk: Option<BulkMapping>,
    /// The version of the file. A change names it, and is refused if the file was changed meanwhile.
    pub version: String,
}

/// The mapping of a column.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct MappedField {
    pub column: String,
    pub property: String,
    pub rule: String,
    pub separator: Option<String>,
    pub format: Option<String>,
    /// Whether the files that match now have the column; absent if none could be read.
    pub detected: Option<bool>,
    /// Other goals that write the same property.
    pub existing: Vec<String>,
}

/// A column of the files.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct DetectedColumn {
    pub column: String,
    /// What the goal uses it for; absent = nothing.
    pub used: Option<String>,
    /// Whether a property has its name.
    pub property_exists: bool,
}

/// The mapping of all other columns.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct BulkMapping {
    pub rule: String,
    pub prefix: String,
}

/// The files to accept.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Accept {
    /// Root files; empty = all that the next run would import again.
    #[serde(default)]
    pub files: Vec<String>,
}

/// The new mapping of an import goal.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MappingChange {
    pub fields: Vec<FieldChange>,
    /// Adds missing properties to the schema, as text.
    #[serde(default)]
    pub create_properties: bool,
    /// The version of the mapping that was changed.
    pub version: String,
}

impl Service {
    fn with_goal<T>(
        &self,
        connection: &str,
        goal: &str,
        look: impl FnOnce(&Config, &Connection, Goal<'_>) -> Result<T, Error>,
    ) -> Result<T, Failure> {
        let config = self.folder.config();
        let connection = config.connection(connection)?;
        Ok(look(&config, connection, find_goal(connection, goal)?)?)
    }

    /// The files and profiles of a goal now.
    pub(in crate::service) fn scan(&self, connection: &str, goal: &str) -> Result<Scanned, Failure> {
        self.with_goal(connection, goal, |config, connection, goal| {
            scan(config, connection, goal, &self.store)
        })
    }

    /// The first rows of a goal, before and after each processor.
    pub(in crate::service) fn preview(
        &self,
        connection: &str,
        goal: &str,
        rows: usize,
    ) -> Result<Preview, Failure> {
        self.with_goal(connection, goal, |config, connection, goal| {
            preview(config, connection, goal, &self.store, rows, true)
        })
    }

    /// Switches a goal on or off.
    pub(in crate::service) fn change_goal(
        &self,
        caller: &Caller,
        connection: &str,
        goal: &str,
        change: &GoalChange,
    ) -> Result<(), Failure> {
        self.with_goal(connection, goal, |_, _, _| Ok(()))?;
        let action = if change.enabled { "switch on" } else { "switch off" };
        self.edit(caller, connection, action, Some(goal), |edit| edit.set_enabled(Some(goal), change.enabled))
    }

    /// The mapping of an import goal, and the columns of its files.
    pub(in crate::service) fn mapping(&self, connection: &str, goal: &str) -> Result<Mapping, Failure> {
        let config = self.folder.config();
        let connection = config.connection(connection)?;
        let import = import_of(find_goal(connection, goal)?)?;
        let columns = preview(&config, connection, Goal::Import(import), &self.store, 1, false);
        let (columns, problem) = match columns {
            Ok(preview) => (preview.columns_after, preview.warning),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        let known = problem.is_none();
        let writers = writers(&config, &connection.stem, import);
        let properties = import.target.properties(&config.schema);
        let fields = import.fields.iter().map(|field| MappedField {
            column: field.column.clone(),
            property: field.property.name.clone(),
            rule: rule_name(field.rule).to_owned(),
            separator: field.separator.clone(),
            format: field.format.clone(),
            detected: known.then(|| columns.contains(&field.column)),
            existing: writers.get(field.property.name.as_str()).cloned().unwrap_or_default(),
        });
        let detected = columns.iter().filter(|column| !column.is_empty()).map(|column| DetectedColumn {
            column: column.clone(),
            used: used(import, column),
            property_exists: properties.iter().any(|property| property.name == *column),
        });
        Ok(Mapping {
            fields: fields.collect(),
            detected: detected.collect(),
            problem,
            properties: properties.iter().map(|property| property.name.clone()).collect(),
            bulk: import.all_fields.as_ref().map(|bulk| BulkMapping {
                rule: rule_name(bulk.rule).to_owned(),
                prefix: bulk.prefix.clone(),
            }),
            version: version(&self.folder.text(&format!("connections/{}.toml", connection.stem))?),
        })
    }

    /// The files that the next run of an import goal would import again. Nothing is compared where nothing can have changed.
    pub(in crate::service) fn imported_again(
        &self,
        connection: &str,
        goal: &str,
    ) -> Result<DueAgain, Failure> {
        let config = self.folder.config();
        let connection = config.connection(connection)?;
        let goal = import_of(find_goal(connection, goal)?)?;
        match imported_again::is_worth_a_look(&config, connection, goal, &self.store)? {
            true => Ok(imported_again::find(&config, connection, goal, &self.store)?),
            false => Ok(DueAgain { complete: true, ..DueAgain::default() }),
        }
    }

    /// The files that the next run of an import goal would import again if it had another mapping.
    pub(in crate::service) fn imported_again_with(
        &self,
        connection: &str,
        goal: &str,
        change: &MappingChange,
    ) -> Result<DueAgain, Failure> {
        let config = self.folder.config();
        let connection = config.connection(connection)?;
        let import = import_of(find_goal(connection, goal)?)?;
        self.check_version(&connection.stem, change)?;
        let is_idle = !self.queue.list().iter().any(|queued| queued.running);
        if is_idle {
            imported_again::remember(&config, connection, import, &self.store)?;
        }
        let file = format!("connections/{}.toml", connection.stem);
        let changes = self.mapping_changes(&config, (file, goal), import, change)?;
        let config = self.folder.config_with(&changes)?;
        let connection = config.connection(&connection.stem)?;
        let import = import_of(find_goal(connection, goal)?)?;
        Ok(imported_again::find(&config, connection, import, &self.store)?)
    }

    /// The new texts of the files that a change of a mapping changes, in the order in which they are written.
    fn mapping_changes(
        &self,
        config: &Config,
        (file, goal): (String, &str),
        import: &ImportGoal,
        change: &MappingChange,
    ) -> Result<Vec<FileChange>, Failure> {
        let before = self.folder.text(&file)?;
        let mut edit = Edit::of(&file, &before)?;
        edit.set_fields(goal, &change.fields)?;
        let text = edit.text();
        let mut changes = vec![FileChange { name: file, before, text }];
        let missing = missing_properties(config, import, change);
        if change.create_properties && !missing.is_empty() {
            let name = "schema.toml".to_owned();
            let before = self.folder.text(&name)?;
            let mut edit = Edit::of(&name, &before)?;
            edit.add_properties(group_of(import), &missing);
            let text = edit.text();
            // Written first: the mapping needs it.
            changes.insert(0, FileChange { name, before, text });
        }
        Ok(changes)
    }

    /// Refuses a change of a mapping that is not the present one.
    fn check_version(&self, stem: &str, change: &MappingChange) -> Result<(), Failure> {
        if version(&self.folder.text(&format!("connections/{stem}.toml"))?) == change.version {
            return Ok(());
        }
        Err(Failure::new(StatusCode::CONFLICT, "the connection was changed meanwhile: load it again"))
    }

    /// Marks files that the next run of an import goal would import again as imported; all of them if none are named.
    pub(in crate::service) fn accept(
        &self,
        caller: &Caller,
        connection: &str,
        goal: &str,
        accept: &Accept,
    ) -> Result<Accepted, Failure> {
        let config = self.folder.current()?;
        let connection = config.connection(connection)?;
        let goal = import_of(find_goal(connection, goal)?)?;
        let opened = connection.open(&config.root)?;
        let processors = plugins::load(&config, &goal.processors, &plugins::runtime(&config, false)?)?;
        let import = Import::new(&config, connection, goal, &opened, &processors, &self.store);
        let run = Run::new(Trigger::Request);
        let acceptance = accept::find(&import, &accept.files, &run)?;
        let accepted = self.queue.while_idle(|| acceptance.write(&self.store, &run)).ok_or_else(|| {
            Failure::new(StatusCode::CONFLICT, "a run is under way; try again when it has ended")
        })??;
        if accepted.run.is_some() {
            let files: Vec<&str> = accepted.files.iter().map(|file| file.file.as_str()).collect();
            let what = format!("{} / {}: {}", connection.stem, goal.name, files.join(", "));
            self.audit.record(caller, accept::KIND, &what)?;
        }
        Ok(accepted)
    }

    /// Replaces the mapping of an import goal.
    pub(in crate::service) fn put_mapping(
        &self,
        caller: &Caller,
        connection: &str,
        goal: &str,
        change: &MappingChange,
    ) -> Result<(), Failure> {
        let config = self.folder.config();
        let connection = config.connection(connection)?;
        let import = import_of(find_goal(connection, goal)?)?;
        let file = format!("connections/{}.toml", connection.stem);
        self.check_version(&connection.stem, change)?;
        self.check_new_columns(&config, connection, import, &change.fields)?;
        let changes = self.mapping_changes(&config, (file, goal), import, change)?;
        self.folder.write(&changes)?;
        if changes.len() > 1 {
            let missing = missing_properties(&config, import, change);
            self.audit.record(caller, "add properties", &missing.join(", "))?;
        }
        self.audit.record(caller, "change mapping", &format!("{} / {goal}", connection.stem))?;
        Ok(())
    }

    /// Refuses columns that the goal does not map yet and that its next file does not have. Without a file, every column passes.
    fn check_new_columns(
        &self,
        config: &Config,
        connection: &Connection,
        import: &ImportGoal,
        fields: &[FieldChange],
    ) -> Result<(), Failure> {
        let known = |column: &str| import.fields.iter().any(|field| field.column == column);
        let mut new =
            fields.iter().map(|field| field.column.as_str()).filter(|column| !known(column)).peekable();
        if new.peek().is_none() {
            return Ok(());
        }
        match preview(config, connection, Goal::Import(import), &self.store, 1, false) {
            Ok(preview) => Ok(new.try_for_each(|column| preview.check_column(column))?),
            // The page says what is wrong with the files.
            Err(_) => Ok(()),
        }
    }
}

fn import_of(goal: Goal<'_>) -> Result<&ImportGoal, Failure> {
    match goal {
        Goal::Import(goal) => Ok(goal),
        Goal::Export(_) => Err(Failure::new(StatusCode::NOT_FOUND, "an export goal has no mapping")),
    }
}

/// The properties of a change that the schema lacks.
fn missing_properties(config: &Config, import: &ImportGoal, change: &MappingChange) -> Vec<String> {
    let known = import.target.properties(&config.schema);
    let named = change.fields.iter().map(|field| field.property.clone());
    named.filter(|name| !known.iter().any(|property| property.name == *name)).collect()
}

/// The type of the groups that a goal imports.
fn group_of(import: &ImportGoal) -> Option<&str> {
    match &import.target {
        Target::Groups(group) => Some(group.as_str()),
        Target::Profiles(_) => None,
    }
}

/// The version of a file with this text.
fn version(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().chars().take(16).collect()
}

/// The name of a rule in the configuration.
pub(in crate::service) fn rule_name(rule: MergeRule) -> &'static str {
    let found = MergeRule::NAMES.iter().find(|(_, known)| *known == rule);
    found.map(|(name, _)| *name).or_never("the name of a merge rule")
}

/// What a goal uses a column of its root file for.
fn used(goal: &ImportGoal, column: &str) -> Option<String> {
    let identifier = goal.identifiers.iter().find(|entry| entry.column == column);
    if let Some(field) = goal.fields.iter().find(|entry| entry.column == column) {
        return Some(format!("mapped to {}", field.property.name));
    }
    if let Some(identifier) = identifier {
        let property = identifier.property.as_ref().map_or("the profile's id", |property| &property.name);
        return Some(format!("identifies by {property}"));
    }
    let links = goal.linked.iter().any(|linked| linked.parent.is_none() && linked.parent_column == column);
    let of_event = goal.events.iter().any(|event| {
        event.file.is_none()
            && (event.time == column
                || event.id.as_deref() == Some(column)
                || event.fields.iter().any(|field| field.column == column))
    });
    match (links, of_event, &goal.all_fields) {
        (true, ..) => Some("links rows of a file".to_owned()),
        (_, true, _) => Some("used by an event".to_owned()),
        (_, _, Some(bulk)) => {
            let target = format!("{}{column}", bulk.prefix);
            let mut named = goal.fields.iter().filter(|field| field.property.name == target);
            let other = named.find(|field| !may_follow(bulk.rule, field.rule));
            other.is_none().then(|| format!("mapped in bulk to {target}"))
        }
        _ => None,
    }
}

/// For each property, the other goals that write it in the same kind of records.
fn writers(config: &Config, stem: &str, own: &ImportGoal) -> BTreeMap<String, Vec<String>> {
    let mut writers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for connection in &config.connections {
        for goal in &connection.goals {
            let is_own = connection.stem == stem && goal.name == own.name;
            if is_own || goal.target.owner() != own.target.owner() {
                continue;
            }
            for field in &goal.fields {
                let name = format!("{} / {}", connection.name, goal.name);
                writers.entry(field.property.name.clone()).or_default().push(name);
            }
        }
    }
    writers
}

/// Switches a goal on or off.
#[utoipa::path(patch, path = "/connections/{connection}/goals/{goal}", params(
    ("connection" = String, Path, description = "Name of its file without `.toml`, or its name"), ("goal" = String, Path, description = "Its name"),
), request_body = GoalChange, responses(
    (status = 204),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn change_goal(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    PathParams((connection, goal)): PathParams<(String, String)>,
    JsonBody(change): JsonBody<GoalChange>,
) -> Result<StatusCode, Failure> {
    blocking(service, move |service| {
        service.change_goal(&caller, &connection, &goal, &change)?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// The files that an import goal would take, or the files in the folder of an export goal.
#[utoipa::path(get, path = "/connections/{connection}/goals/{goal}/scan", params(
    ("connection" = String, Path, description = "Name of its file without `.toml`, or its name"), ("goal" = String, Path, description = "Its name"),
), responses(
    (status = 200, body = Scanned),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn get_scan(
    State(service): State<Arc<Service>>,
    PathParams((connection, goal)): PathParams<(String, String)>,
) -> Result<Json<Scanned>, Failure> {
    blocking_look(service, move |service| Ok(Json(service.scan(&connection, &goal)?))).await
}

/// The first rows of a goal, before and after each of its processors.
#[utoipa::path(get, path = "/connections/{connection}/goals/{goal}/preview", params(
    ("connection" = String, Path, description = "Name of its file without `.toml`, or its name"), ("goal" = String, Path, description = "Its name"), PreviewQuery,
), responses(
    (status = 200, body = Preview),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn get_preview(
    State(service): State<Arc<Service>>,
    PathParams((connection, goal)): PathParams<(String, String)>,
    QueryParams(query): QueryParams<PreviewQuery>,
) -> Result<Json<Preview>, Failure> {
    let rows = query.rows.unwrap_or(10);
    if !(1..=1000).contains(&rows) {
        return Err(Failure::new(StatusCode::BAD_REQUEST, "`rows`: expected 1 to 1000"));
    }
    blocking_look(service, move |service| Ok(Json(service.preview(&connection, &goal, rows)?))).await
}

/// The mapping of an import goal, and the columns of its files.
#[utoipa::path(get, path = "/connections/{connection}/goals/{goal}/mapping", params(
    ("connection" = String, Path, description = "Name of its file without `.toml`, or its name"), ("goal" = String, Path, description = "Its name"),
), responses(
    (status = 200, body = Mapping),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn get_mapping(
    State(service): State<Arc<Service>>,
    PathParams((connection, goal)): PathParams<(String, String)>,
) -> Result<Json<Mapping>, Failure> {
    blocking_look(service, move |service| Ok(Json(service.mapping(&connection, &goal)?))).await
}

/// Replaces the mapping of an import goal.
#[utoipa::path(put, path = "/connections/{connection}/goals/{goal}/mapping", params(
    ("connection" = String, Path, description = "Name of its file without `.toml`, or its name"), ("goal" = String, Path, description = "Its name"),
), request_body = MappingChange, responses(
    (status = 200, body = Mapping),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn put_mapping(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    PathParams((connection, goal)): PathParams<(String, String)>,
    JsonBody(change): JsonBody<MappingChange>,
) -> Result<Json<Mapping>, Failure> {
    blocking_look(service, move |service| {
        service.put_mapping(&caller, &connection, &goal, &change)?;
        Ok(Json(service.mapping(&connection, &goal)?))
    })
    .await
}

/// The files that the next run of an import goal would import again because its configuration changed.
#[utoipa::path(get, path = "/connections/{connection}/goals/{goal}/imported-again", params(
    ("connection" = String, Path, description = "Name of its file without `.toml`, or its name"), ("goal" = String, Path, description = "Its name"),
), responses(
    (status = 200, body = DueAgain),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn get_imported_again(
    State(service): State<Arc<Service>>,
    PathParams((connection, goal)): PathParams<(String, String)>,
) -> Result<Json<DueAgain>, Failure> {
    blocking_look(service, move |service| Ok(Json(service.imported_again(&connection, &goal)?))).await
}

/// Marks files that the next run of an import goal would import again as imported.
#[utoipa::path(post, path = "/connections/{connection}/goals/{goal}/accept", params(
    ("connection" = String, Path, description = "Name of its file without `.toml`, or its name"), ("goal" = String, Path, description = "Its name"),
), request_body = Accept, responses(
    (status = 200, body = Accepted),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn accept_files(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    PathParams((connection, goal)): PathParams<(String, String)>,
    JsonBody(accept): JsonBody<Accept>,
) -> Result<Json<Accepted>, Failure> {
    blocking_look(service, move |service| Ok(Json(service.accept(&caller, &connection, &goal, &accept)?)))
        .await
}
