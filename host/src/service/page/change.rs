//! What is changed: each form's answer leads back to where it was sent from.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{ConnectInfo, Form, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum_extra::extract::cookie::CookieJar;
use serde::Deserialize;

use super::show::{FieldForm, SignIn, connection_page, dry_run_page, goal_page};
use super::{Frame, Refused, page};
use crate::service::Service;
use crate::service::access::Who;
use crate::service::api::connections::ConnectionChange;
use crate::service::api::goals::{GoalChange, MappingChange};
use crate::service::api::{Failure, Named, blocking};
use crate::service::edit::{FieldChange, ScheduleChange};

/// A switch.
#[derive(Deserialize)]
pub(super) struct Switch {
    enabled: bool,
}

fn encoded(name: &str) -> String {
    // Of a path: a space is %20 there.
    form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>().replace('+', "%20")
}

fn to_connection(connection: &str, done: &str) -> Response {
    Redirect::to(&format!("/connections/{}?done={done}", encoded(connection))).into_response()
}

/// Changes a connection; what is wrong is shown on its page.
async fn change(
    service: Arc<Service>,
    who: Who,
    connection: String,
    change: impl FnOnce(&Service, &Who, &str) -> Result<(), Failure> + Send + 'static,
) -> Response {
    let (changing, by, name) = (Arc::clone(&service), who.clone(), connection.clone());
    let done = blocking(changing, move |service| {
        let Err(failure) = change(service, &by, &name) else { return Ok(to_connection(&name, "saved")) };
        let status = failure.status();
        let shown = connection_page(service, &by, &name, None, Some(failure))?;
        Ok((status, page(&shown)).into_response())
    });
    refused(done.await, &service, &who, "connections")
}

fn refused(done: Result<Response, Failure>, service: &Service, who: &Who, part: &'static str) -> Response {
    done.unwrap_or_else(|failure| {
        Refused::page(Frame::new(service, Some(who), failure.title.clone(), part), failure)
    })
}

pub(super) async fn connection_enabled(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Who>,
    Named(connection): Named<String>,
    Form(switch): Form<Switch>,
) -> Response {
    change(service, who, connection, move |service, who, connection| {
        let enabled = Some(switch.enabled);
        service.change_connection(
            who,
            connection,
            &ConnectionChange { enabled, ..ConnectionChange::default() },
        )
    })
    .await
}

pub(super) async fn goal_enabled(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Who>,
    Named((connection, goal)): Named<(String, String)>,
    Form(switch): Form<Switch>,
) -> Response {
    change(service, who, connection, move |service, who, connection| {
        service.change_goal(who, connection, &goal, &GoalChange { enabled: switch.enabled })
    })
    .await
}

/// A schedule: its kind, and what goes with the kind.
#[derive(Deserialize)]
pub(super) struct Scheduled {
    kind: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    time: String,
    #[serde(default)]
    timezone: String,
}

impl Scheduled {
    fn change(self) -> Result<Option<ScheduleChange>, Failure> {
        let list =
            || self.value.split([',', ' ']).filter(|day| !day.is_empty()).map(str::to_lowercase).collect();
        let text = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let mut change = ScheduleChange { timezone: text(&self.timezone), ..ScheduleChange::default() };
        match self.kind.as_str() {
            "none" => return Ok(None),
            "every" => {
                let value = self.value.trim();
                let bare = value.bytes().all(|byte| byte.is_ascii_digit());
                change.every = Some(if bare { format!("{value}m") } else { value.to_owned() });
                return Ok(Some(change));
            }
            "times_per_day" => {
                let times = self.value.trim().parse().map_err(|_| {
                    Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "times per day: expected a number")
                })?;
                change.times_per_day = Some(times);
            }
            "days" => change.days = Some(list()),
            "days_of_month" => change.days_of_month = Some(list()),
            "weekday_of_month" => change.weekday_of_month = Some(self.value.trim().to_lowercase()),
            _ => {
                return Err(Failure::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "there is no such kind of schedule",
                ));
            }
        }
        change.time = text(&self.time);
        Ok(Some(change))
    }
}

pub(super) async fn schedule(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Who>,
    Named(connection): Named<String>,
    Form(scheduled): Form<Scheduled>,
) -> Response {
    change(service, who, connection, move |service, who, connection| {
        let schedule = Some(scheduled.change()?);
        service.change_connection(
            who,
            connection,
            &ConnectionChange { schedule, ..ConnectionChange::default() },
        )
    })
    .await
}

/// Who is told.
#[derive(Deserialize)]
pub(super) struct Told {
    #[serde(default)]
    email: String,
    #[serde(default)]
    every_run: bool,
}

pub(super) async fn notify(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Who>,
    Named(connection): Named<String>,
    Form(told): Form<Told>,
) -> Response {
    change(service, who, connection, move |service, who, connection| {
        let email = told.email.split([',', '\n']).map(str::trim).filter(|address| !address.is_empty());
        let email = Some(email.map(str::to_owned).collect());
        let every_run = Some(told.every_run);
        service.change_connection(
            who,
            connection,
            &ConnectionChange { email, every_run, ..ConnectionChange::default() },
        )
    })
    .await
}

pub(super) async fn objectives(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Who>,
    Named(connection): Named<String>,
    Form(form): Form<Vec<(String, String)>>,
) -> Response {
    change(service, who, connection, move |service, who, connection| {
        let objectives =
            Some(form.into_iter().filter(|(key, _)| key == "objective").map(|(_, it)| it).collect());
        service.change_connection(
            who,
            connection,
            &ConnectionChange { objectives, ..ConnectionChange::default() },
        )
    })
    .await
}

/// A new secret.
#[derive(Deserialize)]
pub(super) struct NewSecret {
    secret: String,
    value: String,
}

pub(super) async fn secret(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Who>,
    Named(connection): Named<String>,
    Form(new): Form<NewSecret>,
) -> Response {
    change(service, who, connection, move |service, who, connection| {
        service.put_secret(who, connection, &new.secret, &new.value)
    })
    .await
}

/// What to run.
#[derive(Deserialize)]
pub(super) struct Start {
    #[serde(default)]
    goal: String,
    #[serde(default)]
    dry_run: bool,
}

pub(super) async fn run(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Who>,
    Named(connection): Named<String>,
    Form(start): Form<Start>,
) -> Response {
    let (starting, by) = (Arc::clone(&service), who.clone());
    let goals: Vec<String> = Some(start.goal).filter(|goal| !goal.is_empty()).into_iter().collect();
    let done = blocking(starting, move |service| {
        if start.dry_run {
            return Ok(page(&dry_run_page(service, &by, &connection, &goals)?));
        }
        match service.start(&by, &connection, goals) {
            Ok(run) => Ok(Redirect::to(&format!("/runs/{run}?done=queued")).into_response()),
            Err(failure) => {
                let status = failure.status();
                Ok((status, page(&connection_page(service, &by, &connection, None, Some(failure))?))
                    .into_response())
            }
        }
    });
    refused(done.await, &service, &who, "connections")
}

pub(super) async fn stop(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Who>,
    Named(run): Named<String>,
) -> Response {
    let (stopping, by) = (Arc::clone(&service), who.clone());
    let done = blocking(stopping, move |service| {
        service.stop_run(&by, &run)?;
        // One that waited is in no history.
        let known = service.goal_runs(&run).is_ok();
        Ok(Redirect::to(&if known { format!("/runs/{run}?done=stopping") } else { "/".to_owned() })
            .into_response())
    });
    refused(done.await, &service, &who, "runs")
}

/// The mappings of the form, in its order; a line with nothing in it is none.
fn typed(form: &[(String, String)]) -> (Vec<FieldForm>, Vec<FieldChange>) {
    let all = |name: &str| {
        let name = name.to_owned();
        form.iter().filter(move |(key, _)| *key == name).map(|(_, value)| value.as_str())
    };
    let removed: Vec<&str> = all("remove").collect();
    let lines = all("number").zip(all("place")).zip(all("column")).zip(all("property"));
    let lines = lines.zip(all("rule")).zip(all("separator")).zip(all("format"));
    let (mut shown, mut changes) = (Vec::new(), Vec::new());
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
        shown.push(FieldForm {
            number: shown.len() + 1,
            place: place.to_owned(),
            column: column.to_owned(),
            property: property.to_owned(),
            rule: rule.to_owned(),
            separator: separator.to_owned(),
            format: format.to_owned(),
            warnings: Vec::new(),
        });
    }
    (shown, changes)
}

pub(super) async fn mapping(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Who>,
    Named((connection, goal)): Named<(String, String)>,
    Form(form): Form<Vec<(String, String)>>,
) -> Response {
    let (saving, by) = (Arc::clone(&service), who.clone());
    let done = blocking(saving, move |service| {
        let one =
            |name: &str| form.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
        let (shown, mut fields) = typed(&form);
        if one("action") == "add-all" {
            let (rule, prefix) = (one("bulk_rule"), one("bulk_prefix"));
            let mapping = service.mapping(&connection, &goal)?;
            let free = mapping.detected.into_iter().filter(|column| column.used.is_none());
            let free = free.filter(|column| !fields.iter().any(|field| field.column == column.column));
            fields.extend(free.collect::<Vec<_>>().into_iter().map(|column| FieldChange {
                property: format!("{prefix}{}", column.column),
                column: column.column,
                rule: rule.to_owned(),
                ..FieldChange::default()
            }));
        }
        let change = MappingChange {
            fields,
            create_properties: one("create_properties") == "true",
            version: one("version").to_owned(),
        };
        match service.put_mapping(&by, &connection, &goal, &change) {
            Ok(()) => {
                let place = format!("/connections/{}/goals/{}", encoded(&connection), encoded(&goal));
                Ok(Redirect::to(&format!("{place}?done=saved#mapping")).into_response())
            }
            Err(failure) => {
                let status = failure.status();
                let failed = Some((failure, shown));
                let shown = goal_page(service, &by, (&connection, &goal), false, None, failed)?;
                Ok((status, page(&shown)).into_response())
            }
        }
    });
    refused(done.await, &service, &who, "connections")
}

/// A token, and where to go with it.
#[derive(Deserialize)]
pub(super) struct Token {
    token: String,
    #[serde(default)]
    next: String,
}

pub(super) async fn sign_in(
    State(service): State<Arc<Service>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    jar: CookieJar,
    Form(given): Form<Token>,
) -> Response {
    // Only to a place of our own.
    let own = given.next.starts_with('/') && !given.next.starts_with("//") && !given.next.contains('\\');
    let next = if own { given.next } else { "/".to_owned() };
    let (status, refused) = match service.access.sign_in(from.ip(), given.token.trim()) {
        Ok(Some((who, cookie))) => {
            if let Err(error) = service.audit.record(&who, "sign in", "") {
                tracing::error!(%error, "the audit log cannot be written");
            }
            return (jar.add(cookie), Redirect::to(&next)).into_response();
        }
        Ok(None) => (StatusCode::FORBIDDEN, "This is no token of this service."),
        Err(_) => (StatusCode::TOO_MANY_REQUESTS, "Too many tries. Wait a minute."),
    };
    tracing::warn!(from = %from.ip(), "somebody could not sign in");
    let frame = Frame::new(&service, None, "Sign in", "");
    (status, page(&SignIn { frame, next, refused: Some(refused) })).into_response()
}

pub(super) async fn sign_out(State(service): State<Arc<Service>>, jar: CookieJar) -> Response {
    (service.access.sign_out(jar), Redirect::to("/sign-in")).into_response()
}
