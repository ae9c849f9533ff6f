use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sluicebox_model::OrNever;
use utoipa::ToSchema;

use super::status::QueuedRun;
use super::{Failure, JsonBody, PathParams, blocking};
use crate::config::{Config, Connection, FileChange, Goal, in_words};
use crate::error::Error;
use crate::queries::imported_again::differs_from_last_run;
use crate::runs::distinct_profiles::{Direction, DistinctProfiles};
use crate::runs::report::{HistoryEntry, Status};
use crate::service::Service;
use crate::service::access::Caller;
use crate::service::edit::{Edit, ScheduleChange};

/// A connection and its state.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ConnectionState {
    /// The name of its file without `.toml`.
    pub connection: String,
    pub name: String,
    pub enabled: bool,
    pub objectives: Vec<String>,
    /// Where its files are.
    pub location: String,
    /// Whether its files are encrypted.
    pub encrypted: bool,
    pub goals: Vec<GoalState>,
    /// Its schedule in words; absent if there is none.
    pub schedule: Option<String>,
    /// Its next scheduled run, RFC 3339; absent if there is none.
    pub next: Option<String>,
    /// The run that waits or is current.
    pub queued: Option<QueuedRun>,
    /// Addresses that get mail.
    pub email: Vec<String>,
    /// Whether mail is also sent after runs that succeeded.
    pub every_run: bool,
    /// All objectives of the schema.
    pub known_objectives: Vec<String>,
    /// The secrets that its file may have, without their values.
    pub secrets: Vec<SecretState>,
    pub exchanged: Exchange,
}

/// A secret of a connection.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct SecretState {
    /// Table and key, such as `pgp.private_key`.
    pub secret: String,
    /// Whether the file has a value.
    pub set: bool,
}

/// Distinct profiles that a connection exchanged: exact for small numbers, within about 1 % for large ones.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct Exchange {
    pub imported: u64,
    pub exported: u64,
}

/// A goal and its state.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct GoalState {
    pub goal: String,
    /// `import_groups`, `import_profiles` or `export_profiles`.
    pub kind: String,
    pub enabled: bool,
    /// The status of its last run.
    pub last_status: Option<Status>,
    /// Whether its last run was stopped, or its process ended.
    pub last_interrupted: bool,
    /// The start of its last run, RFC 3339.
    pub last_started: Option<String>,
    /// The id of its last run.
    pub last_run: Option<String>,
    /// Whether its configuration changed since its last run, so that files may be imported again.
    pub configuration_changed: bool,
}

/// A change of a connection. Absent keys stay.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConnectionChange {
    pub enabled: Option<bool>,
    /// The name that people see.
    #[schema(min_length = 1)]
    pub name: Option<String>,
    pub objectives: Option<Vec<String>>,
    /// `null` removes it.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<ScheduleChange>)]
    pub schedule: Option<Option<ScheduleChange>>,
    pub email: Option<Vec<String>>,
    pub every_run: Option<bool>,
}

/// `null` is `Some(None)`; an absent key is `None`.
fn present<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(given: D) -> Result<Option<T>, D::Error> {
    T::deserialize(given).map(Some)
}

/// A new value of a secret.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSecret {
    #[schema(min_length = 1)]
    pub value: String,
}

impl ConnectionState {
    /// Why it cannot run now; `None` if it can.
    pub(in crate::service) fn cannot_run(&self) -> Option<&'static str> {
        cannot_run(self.enabled, self.goals.iter().map(|goal| goal.enabled))
    }
}

/// Why a connection with these goals, each on or off, cannot run; `None` if it can.
pub(super) fn cannot_run(enabled: bool, goals: impl Iterator<Item = bool>) -> Option<&'static str> {
    let goals: Vec<bool> = goals.collect();
    match () {
        () if !enabled => Some("the connection is off"),
        () if goals.is_empty() => Some("the connection has no goals"),
        () if !goals.contains(&true) => Some("all goals are off"),
        () => None,
    }
}

impl Service {
    /// Every connection, in the order of their files.
    pub(in crate::service) fn connections(&self) -> Result<Vec<ConnectionState>, Failure> {
        let config = self.folder.config();
        // The queue first: a run that ends meanwhile is shown as queued, and the page waits for its end.
        let (queue, history) = (self.queued(), self.history(RECENT_RUNS)?);
        let state = |connection| self.state_of(&config, connection, &history, &queue);
        config.connections.iter().map(state).collect()
    }

    /// One connection.
    pub(in crate::service) fn connection(&self, name: &str) -> Result<ConnectionState, Failure> {
        let config = self.folder.config();
        let (queue, history) = (self.queued(), self.history(RECENT_RUNS)?);
        self.state_of(&config, config.connection(name)?, &history, &queue)
    }

    fn state_of(
        &self,
        config: &Config,
        connection: &Connection,
        history: &[Arc<HistoryEntry>],
        queue: &[QueuedRun],
    ) -> Result<ConnectionState, Failure> {
        let goals = connection.all_goals().map(|goal| {
            let is_of_goal = |entry: &&Arc<HistoryEntry>| {
                entry.report.connection == connection.name && entry.report.goal == goal.name()
            };
            let last = history.iter().find(is_of_goal);
            GoalState {
                goal: goal.name().to_owned(),
                kind: goal.kind().to_owned(),
                enabled: goal.enabled(),
                last_status: last.map(|entry| entry.report.status),
                last_interrupted: last.is_some_and(|entry| entry.interrupted),
                last_started: last.map(|entry| entry.started.clone()),
                last_run: last.map(|entry| entry.report.run.clone()),
                configuration_changed: self.configuration_changed(config, connection, goal),
            }
        });
        let goals = goals.collect();
        let schedule = connection.schedule.as_ref();
        let next = schedule.filter(|_| connection.enabled).and_then(|it| it.next_after(Timestamp::now()));
        let queued = queue.iter().find(|queued| queued.connection == connection.stem).cloned();
        let (email, every_run) = notified(connection);
        let secrets = connection.secrets().into_iter();
        let secrets = secrets.map(|(secret, set)| SecretState { secret: secret.to_owned(), set });
        let exchanged = |direction| {
            Ok::<_, Error>(DistinctProfiles::load(&self.store, &connection.stem, direction)?.count())
        };
        Ok(ConnectionState {
            connection: connection.stem.clone(),
            name: connection.name.clone(),
            enabled: connection.enabled,
            objectives: connection.objectives.clone(),
            location: connection.place(),
            encrypted: connection.pgp.is_some(),
            goals,
            schedule: schedule.map(in_words),
            next: next.map(|next| next.to_string()),
            queued,
            email,
            every_run,
            known_objectives: config.schema.objectives.clone(),
            secrets: secrets.collect(),
            exchanged: Exchange {
                imported: exchanged(Direction::Imported)?,
                exported: exchanged(Direction::Exported)?,
            },
        })
    }

    /// Whether an import goal has another configuration than in its last run, as far as that is known.
    fn configuration_changed(&self, config: &Config, connection: &Connection, goal: Goal<'_>) -> bool {
        let Goal::Import(goal) = goal else { return false };
        // A secret that is missing is shown elsewhere.
        differs_from_last_run(config, connection, goal, &self.store)
            .is_ok_and(|differs| differs == Some(true))
    }

    /// Changes a connection's file, and writes the change into the audit log.
    pub(in crate::service) fn change_connection(
        &self,
        caller: &Caller,
        name: &str,
        change: &ConnectionChange,
    ) -> Result<(), Failure> {
        let (email, every_run) = notified(self.folder.config().connection(name)?);
        let changed = [
            ("enabled", change.enabled.is_some()),
            ("name", change.name.is_some()),
            ("objectives", change.objectives.is_some()),
            ("schedule", change.schedule.is_some()),
            ("notify", change.email.is_some() || change.every_run.is_some()),
        ];
        let changed: Vec<&str> = changed.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect();
        if changed.is_empty() {
            return Ok(());
        }
        self.edit(caller, name, &format!("change {}", changed.join(", ")), None, |edit| {
            if let Some(enabled) = change.enabled {
                edit.set_enabled(None, enabled)?;
            }
            if let Some(name) = &change.name {
                edit.set_name(name);
            }
            if let Some(objectives) = &change.objectives {
                edit.set_objectives(objectives);
            }
            if let Some(schedule) = &change.schedule {
                edit.set_schedule(schedule.as_ref());
            }
            if change.email.is_some() || change.every_run.is_some() {
                let email = change.email.as_ref().unwrap_or(&email);
                edit.set_notify(email, change.every_run.unwrap_or(every_run));
            }
            Ok(())
        })
    }

    /// Changes a connection's file after the same checks as at the start. Everything else in the file stays.
    pub(in crate::service) fn edit(
        &self,
        caller: &Caller,
        name: &str,
        action: &str,
        goal: Option<&str>,
        change: impl FnOnce(&mut Edit) -> Result<(), Error>,
    ) -> Result<(), Failure> {
        let config = self.folder.config();
        let stem = &config.connection(name)?.stem;
        let file = format!("connections/{stem}.toml");
        let before = self.folder.text(&file)?;
        let mut edit = Edit::of(&file, &before)?;
        change(&mut edit)?;
        let text = edit.text();
        self.folder.write(&[FileChange { name: file, before, text }])?;
        let what = goal.map_or_else(|| stem.clone(), |goal| format!("{stem} / {goal}"));
        self.audit.record(caller, action, &what)?;
        Ok(())
    }

    /// Replaces a secret.
    pub(in crate::service) fn put_secret(
        &self,
        caller: &Caller,
        name: &str,
        secret: &str,
        value: &str,
    ) -> Result<(), Failure> {
        let config = self.folder.config();
        let known = config.connection(name)?.secrets();
        if !known.iter().any(|(known, _)| *known == secret) {
            let known = known.into_iter().map(|(known, _)| known.to_owned()).collect();
            return Err(Error::Unknown { kind: "secret", name: secret.to_owned(), known }.into());
        }
        if value.is_empty() {
            return Err(Failure::new(axum::http::StatusCode::BAD_REQUEST, "the secret is empty"));
        }
        let (table, key) = secret.split_once('.').or_never("the table of a secret");
        self.edit(caller, name, &format!("change secret {secret}"), None, |edit| {
            edit.set_secret(table, key, value);
            Ok(())
        })
    }
}

/// Who gets mail, and whether after every run.
fn notified(connection: &Connection) -> (Vec<String>, bool) {
    let notify = connection.notify.as_ref();
    let email = notify.iter().flat_map(|notify| &notify.email).map(ToString::to_string);
    (email.collect(), notify.is_some_and(|notify| notify.every_run))
}

/// Goal runs in which the last one of each goal is searched.
const RECENT_RUNS: usize = 1000;

/// All connections, in the order of their files.
#[utoipa::path(get, path = "/connections", responses(
    (status = 200, body = Vec<ConnectionState>),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn get_connections(
    State(service): State<Arc<Service>>,
) -> Result<Json<Vec<ConnectionState>>, Failure> {
    blocking(service, |service| Ok(Json(service.connections()?))).await
}

/// One connection.
#[utoipa::path(get, path = "/connections/{connection}", params(("connection" = String, Path, description = "Name of its file without `.toml`, or its name")), responses(
    (status = 200, body = ConnectionState),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn get_connection(
    State(service): State<Arc<Service>>,
    PathParams(name): PathParams<String>,
) -> Result<Json<ConnectionState>, Failure> {
    blocking(service, move |service| Ok(Json(service.connection(&name)?))).await
}

/// Switches a connection on or off, or changes its name, schedule, objectives or notifications.
#[utoipa::path(patch, path = "/connections/{connection}", params(("connection" = String, Path, description = "Name of its file without `.toml`, or its name")), request_body = ConnectionChange, responses(
    (status = 200, body = ConnectionState),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn change_connection(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    PathParams(name): PathParams<String>,
    JsonBody(change): JsonBody<ConnectionChange>,
) -> Result<Json<ConnectionState>, Failure> {
    blocking(service, move |service| {
        service.change_connection(&caller, &name, &change)?;
        Ok(Json(service.connection(&name)?))
    })
    .await
}

/// Replaces a secret in the connection's file. No request returns secrets.
#[utoipa::path(put, path = "/connections/{connection}/secrets/{secret}", params(
    ("connection" = String, Path, description = "Name of its file without `.toml`, or its name"),
    ("secret" = String, Path, description = "One of the connection's secrets, such as location.secret_access_key"),
), request_body = NewSecret, responses(
    (status = 204),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn put_secret(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    PathParams((name, secret)): PathParams<(String, String)>,
    JsonBody(new): JsonBody<NewSecret>,
) -> Result<axum::http::StatusCode, Failure> {
    blocking(service, move |service| {
        service.put_secret(&caller, &name, &secret, &new.value)?;
        Ok(axum::http::StatusCode::NO_CONTENT)
    })
    .await
}
