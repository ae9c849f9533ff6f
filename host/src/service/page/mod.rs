//! The page: shows people what the API answers to programs. One file a page, with its GET, its POSTs and what its template
//! shows. Every change is a form that works without JavaScript; a script shows progress while it happens. The templates
//! escape every value.

mod audit;
mod connection;
mod connections;
mod dry_run;
mod failure;
pub(super) mod format;
mod goal;
mod plugins;
mod profile;
mod profiles;
mod rejected;
mod rejected_lines;
mod run;
mod runs;
mod sign_in;

use std::sync::Arc;

use askama::Template;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::middleware;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Deserialize;

use super::Service;
use super::access::{Caller, guard, harden};
use super::api::{self, Failure, blocking, blocking_look};
use super::server::read_body;

const STYLE: &str = include_str!("static/style.css");
const SCRIPT: &str = include_str!("static/live.js");
/// Bytes of a request's body.
const MAX_BODY: usize = 1 << 20;

/// Everything that the service answers.
pub(super) fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/", get(connections::show))
        .route("/connections/{connection}", get(connection::show))
        .route("/connections/{connection}/enabled", post(connection::set_enabled))
        .route("/connections/{connection}/schedule", post(connection::set_schedule))
        .route("/connections/{connection}/notify", post(connection::set_notify))
        .route("/connections/{connection}/objectives", post(connection::set_objectives))
        .route("/connections/{connection}/secret", post(connection::set_secret))
        .route("/connections/{connection}/run", post(connection::run))
        .route("/connections/{connection}/goals/{goal}", get(goal::show))
        .route("/connections/{connection}/goals/{goal}/enabled", post(goal::set_enabled))
        .route("/connections/{connection}/goals/{goal}/mapping", post(goal::set_mapping))
        .route("/connections/{connection}/goals/{goal}/accept", post(goal::accept))
        .route("/runs", get(runs::show))
        .route("/runs/{run}", get(run::show))
        .route("/runs/{run}/stop", post(run::stop))
        .route("/runs/{run}/rejected/{file}", get(rejected::show))
        .route("/runs/{run}/rejected/{goal}/lines", get(rejected_lines::show).post(rejected_lines::import))
        .route("/profiles", get(profiles::show))
        .route("/profiles/{profile}", get(profile::show))
        .route("/groups/{group}", get(profile::show))
        .route("/plugins", get(plugins::show))
        .route("/audit", get(audit::show))
        .route("/sign-in", get(sign_in::show).post(sign_in::sign_in))
        .route("/sign-out", post(sign_in::sign_out))
        .route("/static/style.css", get(|| asset("text/css; charset=utf-8", STYLE)))
        .route("/static/live.js", get(|| asset("text/javascript; charset=utf-8", SCRIPT)))
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .merge(api::router())
        .fallback(not_found)
        .layer(middleware::from_fn(read_body))
        .layer(axum::extract::DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(Arc::clone(&service), guard))
        .layer(middleware::from_fn(harden))
        .with_state(service)
}

async fn asset(kind: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "max-age=300")], text).into_response()
}

async fn metrics(service: axum::extract::State<Arc<Service>>) -> Result<Response, Failure> {
    let text = blocking(service.0, |service| Ok(service.measure())).await?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(CONTENT_TYPE, kind)], text).into_response())
}

/// Whether runs can start. Everyone may ask, so the answer names no file and no value; the log has the details.
async fn ready(service: axum::extract::State<Arc<Service>>) -> Response {
    let problems = blocking(service.0, |service| Ok(service.problems())).await;
    match problems {
        Ok(problems) if problems.is_empty() => "ready\n".into_response(),
        Ok(problems) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", problems.join("; "))).into_response()
        }
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "not ready: internal error\n").into_response(),
    }
}

impl Service {
    /// What keeps runs from starting, in words without file names, values or names of environment variables.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        match self.folder.current() {
            Ok(config) => {
                problems.extend(config.missing_secrets().into_iter().map(|(place, error)| {
                    tracing::warn!(place, %error, "a secret is missing");
                    format!("missing secret: {place}")
                }));
            }
            // It was logged when the files were read.
            Err(_) => problems.push("the configuration has errors".to_owned()),
        }
        if let Err(error) = self.store.probe() {
            tracing::error!(%error, "the store cannot be written");
            problems.push("the store cannot be written".to_owned());
        }
        problems
    }
}

async fn not_found(
    service: axum::extract::State<Arc<Service>>,
    caller: Option<Extension<Caller>>,
) -> Response {
    let caller = caller.map(|Extension(caller)| caller);
    let frame = Frame::new(&service.0, caller.as_ref(), "Not found", "");
    ErrorPage::response(frame, Failure::new(StatusCode::NOT_FOUND, "there is nothing at this address"))
}

/// What is around every page.
struct Frame {
    title: String,
    /// The section of the site, as in the navigation; empty = none.
    section: &'static str,
    /// The name of the signed-in user.
    user: Option<String>,
    /// Whether users sign in, and so can sign out.
    has_sign_out: bool,
    /// What is wrong with the configuration's files.
    config_error: Option<String>,
    /// What was just done.
    notice: Option<&'static str>,
}

impl Frame {
    fn new(
        service: &Service,
        caller: Option<&Caller>,
        title: impl Into<String>,
        section: &'static str,
    ) -> Self {
        Self {
            title: title.into(),
            section,
            user: caller.map(|caller| caller.name.clone()),
            has_sign_out: service.access.needs_token(),
            config_error: caller.and_then(|_| service.folder.error()),
            notice: None,
        }
    }

    /// The value of `aria-current` of a link to a section.
    fn current(&self, section: &str) -> &'static str {
        if self.section == section { "page" } else { "false" }
    }
}

/// What a redirect or a button adds to the address of a page.
#[derive(Default, Deserialize)]
struct PageQuery {
    /// What was just done: `saved`, `accepted`, `queued` or `stopping`.
    done: Option<String>,
    /// Set to show scan and preview, which open files.
    look: Option<String>,
}

impl PageQuery {
    fn saved(&self) -> Option<&'static str> {
        self.is_done("saved").then_some("Saved.")
    }

    fn is_done(&self, what: &str) -> bool {
        self.done.as_deref() == Some(what)
    }
}

/// A page that says why something was not done.
#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage {
    frame: Frame,
    failure: Failure,
}

impl ErrorPage {
    fn response(frame: Frame, failure: Failure) -> Response {
        let status = failure.status();
        (status, page(&Self { frame, failure })).into_response()
    }
}

fn page(template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => Html(text).into_response(),
        Err(error) => {
            tracing::error!(%error, "internal error: a page cannot be rendered");
            Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the page cannot be shown").into_response()
        }
    }
}

/// The same as [`respond`], for work that opens files of connections or runs plugins.
async fn respond_look<T: Template>(
    service: Arc<Service>,
    caller: Caller,
    section: &'static str,
    work: impl FnOnce(&Service, &Caller) -> Result<T, Failure> + Send + 'static,
) -> Response {
    let (shared, by) = (Arc::clone(&service), caller.clone());
    let built = blocking_look(shared, move |service| Ok(page(&work(service, &by)?))).await;
    or_error_page(built, &service, &caller, section)
}

/// Answers with the page that `work` builds, or with an error page.
async fn respond<T: Template>(
    service: Arc<Service>,
    caller: Caller,
    section: &'static str,
    work: impl FnOnce(&Service, &Caller) -> Result<T, Failure> + Send + 'static,
) -> Response {
    let (shared, by) = (Arc::clone(&service), caller.clone());
    let built = blocking(shared, move |service| Ok(page(&work(service, &by)?))).await;
    or_error_page(built, &service, &caller, section)
}

fn or_error_page(
    response: Result<Response, Failure>,
    service: &Service,
    caller: &Caller,
    section: &'static str,
) -> Response {
    response.unwrap_or_else(|failure| {
        ErrorPage::response(Frame::new(service, Some(caller), failure.title.clone(), section), failure)
    })
}

/// A name as a part of a path: a space is %20 there.
fn encoded(name: &str) -> String {
    form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>().replace('+', "%20")
}
