use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::status::QueuedRun;
use super::{Failure, Named, Said, blocking};
use crate::config::{Config, Connection, in_words};
use crate::error::Error;
use crate::exchange::{Exchanged, Way};
use crate::report::{Kept, Status};
use crate::service::Service;
use crate::service::access::Who;
use crate::service::edit::{Edit, ScheduleChange};

/// A connection, and how it stands.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ConnectionState {
    /// Its file, without `.toml`.
    pub connection: String,
    pub name: String,
    pub enabled: bool,
    pub objectives: Vec<String>,
    /// Where its files are.
    pub location: String,
    /// Whether its files are encrypted.
    pub encrypted: bool,
    pub goals: Vec<GoalState>,
    /// When it runs, in words.
    pub schedule: Option<String>,
    /// RFC 3339; absent where it does not run by itself.
    pub next: Option<String>,
    /// The run that waits or is under way.
    pub queued: Option<QueuedRun>,
    /// Who gets mail.
    pub email: Vec<String>,
    /// Whether runs that succeed are told too.
    pub every_run: bool,
    /// The objectives that there are.
    pub known_objectives: Vec<String>,
    /// The secrets that its file has or may have; their values are not shown.
    pub secrets: Vec<SecretState>,
    pub exchanged: Exchange,
}

/// A secret of a connection.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct SecretState {
    /// Table and key.
    pub secret: String,
    /// Whether the file has it.
    pub set: bool,
}

/// How many different profiles went through a connection: exact while they are few, within about 1 % when they are many.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct Exchange {
    pub imported: u64,
    pub exported: u64,
}

/// A goal, and how it stands.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct GoalState {
    pub goal: String,
    /// `import_groups`, `import_profiles` or `export_profiles`.
    pub kind: String,
    pub enabled: bool,
    /// Of its last run.
    pub last_status: Option<Status>,
    /// RFC 3339.
    pub last_started: Option<String>,
    pub last_run: Option<String>,
}

/// What to change; what is absent stays.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConnectionChange {
    pub enabled: Option<bool>,
    /// The name that people see.
    #[schema(min_length = 1)]
    pub name: Option<String>,
    pub objectives: Option<Vec<String>>,
    /// `null` takes it away.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<ScheduleChange>)]
    pub schedule: Option<Option<ScheduleChange>>,
    pub email: Option<Vec<String>>,
    pub every_run: Option<bool>,
}

/// Tells `null` from nothing.
fn present<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(given: D) -> Result<Option<T>, D::Error> {
    T::deserialize(given).map(Some)
}

/// A secret, in place of the one that there is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSecret {
    #[schema(min_length = 1)]
    pub value: String,
}

impl Service {
    /// Every connection, in the order of their files.
    pub(in crate::service) fn connections(&self) -> Result<Vec<ConnectionState>, Failure> {
        let config = self.folder.config();
        // The queue first: a run that ends meanwhile is in it, and is waited for.
        let (queue, history) = (self.queued(), self.history(LOOKED_BACK)?);
        let state = |connection| self.state_of(&config, connection, &history, &queue);
        config.connections.iter().map(state).collect()
    }

    /// One connection.
    pub(in crate::service) fn connection(&self, name: &str) -> Result<ConnectionState, Failure> {
        let config = self.folder.config();
        let (queue, history) = (self.queued(), self.history(LOOKED_BACK)?);
        self.state_of(&config, config.connection(name)?, &history, &queue)
    }

    fn state_of(
        &self,
        config: &Config,
        connection: &Connection,
        history: &[Arc<Kept>],
        queue: &[QueuedRun],
    ) -> Result<ConnectionState, Failure> {
        let goals = connection.all_goals().map(|goal| {
            let of_goal = |kept: &&Arc<Kept>| {
                kept.report.connection == connection.name && kept.report.goal == goal.name()
            };
            let last = history.iter().find(of_goal);
            GoalState {
                goal: goal.name().to_owned(),
                kind: goal.kind().to_owned(),
                enabled: goal.enabled(),
                last_status: last.map(|kept| kept.report.status),
                last_started: last.map(|kept| kept.started.clone()),
                last_run: last.map(|kept| kept.report.run.clone()),
            }
        });
        let goals = goals.collect();
        let schedule = connection.schedule.as_ref();
        let next = schedule.filter(|_| connection.enabled).and_then(|it| it.next_after(Timestamp::now()));
        let queued = queue.iter().find(|queued| queued.connection == connection.stem).cloned();
        let (email, every_run) = told(connection);
        let secrets = connection.secrets().into_iter();
        let secrets = secrets.map(|(secret, set)| SecretState { secret: secret.to_owned(), set });
        let exchanged = |way| Ok::<_, Error>(Exchanged::load(&self.store, &connection.stem, way)?.count());
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
            exchanged: Exchange { imported: exchanged(Way::In)?, exported: exchanged(Way::Out)? },
        })
    }

    /// Changes a connection's file, and says so in the audit log.
    pub(in crate::service) fn change_connection(
        &self,
        who: &Who,
        name: &str,
        change: &ConnectionChange,
    ) -> Result<(), Failure> {
        let (email, every_run) = told(self.folder.config().connection(name)?);
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
        self.edit(who, name, &format!("change {}", changed.join(", ")), None, |edit| {
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

    /// Changes a connection's file with the same checks as at a start; everything else in it stays as it is.
    pub(in crate::service) fn edit(
        &self,
        who: &Who,
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
        self.folder.write(&file, &before, &edit.text())?;
        let what = goal.map_or_else(|| stem.clone(), |goal| format!("{stem} / {goal}"));
        self.audit.record(who, action, &what)?;
        Ok(())
    }

    /// Puts a secret in the place of the one that there is.
    pub(in crate::service) fn put_secret(
        &self,
        who: &Who,
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
            return Err(Failure::new(axum::http::StatusCode::BAD_REQUEST, "a secret is not empty"));
        }
        let Some((table, key)) = secret.split_once('.') else {
            return Err(Failure::new(axum::http::StatusCode::BAD_REQUEST, "this is no secret's name"));
        };
        self.edit(who, name, &format!("change secret {secret}"), None, |edit| {
            edit.set_secret(table, key, value);
            Ok(())
        })
    }
}

/// Who gets mail, and whether of every run.
fn told(connection: &Connection) -> (Vec<String>, bool) {
    let notify = connection.notify.as_ref();
    let email = notify.iter().flat_map(|notify| &notify.email).map(ToString::to_string);
    (email.collect(), notify.is_some_and(|notify| notify.every_run))
}

/// Goal runs among which the last of each goal is looked for.
const LOOKED_BACK: usize = 1000;

/// Every connection, in the order of their files.
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
#[utoipa::path(get, path = "/connections/{connection}", params(("connection" = String, Path, description = "Its file or name")), responses(
    (status = 200, body = ConnectionState),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn get_connection(
    State(service): State<Arc<Service>>,
    Named(name): Named<String>,
) -> Result<Json<ConnectionState>, Failure> {
    blocking(service, move |service| Ok(Json(service.connection(&name)?))).await
}

/// Switches a connection on or off, gives it another name, schedule, objectives, or other people to tell.
#[utoipa::path(patch, path = "/connections/{connection}", params(("connection" = String, Path, description = "Its file or name")), request_body = ConnectionChange, responses(
    (status = 200, body = ConnectionState),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn change_connection(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Who>,
    Named(name): Named<String>,
    Said(change): Said<ConnectionChange>,
) -> Result<Json<ConnectionState>, Failure> {
    blocking(service, move |service| {
        service.change_connection(&who, &name, &change)?;
        Ok(Json(service.connection(&name)?))
    })
    .await
}

/// Puts a secret into the connection's file, in the place of the one that there is. No secret is ever answered with.
#[utoipa::path(put, path = "/connections/{connection}/secrets/{secret}", params(
    ("connection" = String, Path, description = "Its file or name"),
    ("secret" = String, Path, description = "One of the connection's secrets, such as location.secret_access_key"),
), request_body = NewSecret, responses(
    (status = 204),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn put_secret(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Who>,
    Named((name, secret)): Named<(String, String)>,
    Said(new): Said<NewSecret>,
) -> Result<axum::http::StatusCode, Failure> {
    blocking(service, move |service| {
        service.put_secret(&who, &name, &secret, &new.value)?;
        Ok(axum::http::StatusCode::NO_CONTENT)
    })
    .await
}
