//! The page: the same as the API answers with, for people. Every change is a form that works without JavaScript; a script shows
//! progress while it happens. The templates escape every value.

mod change;
mod show;

use std::sync::Arc;

use askama::Template;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::middleware;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};

use super::Service;
use super::access::{Who, guard, harden};
use super::api::{self, Failure, blocking};

const STYLE: &str = include_str!("static/style.css");
const SCRIPT: &str = include_str!("static/live.js");
/// A body larger than this is no form of ours.
const LARGEST_BODY: usize = 1 << 20;

/// Everything that the service answers.
pub(super) fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/", get(show::connections))
        .route("/connections/{connection}", get(show::connection))
        .route("/connections/{connection}/enabled", post(change::connection_enabled))
        .route("/connections/{connection}/schedule", post(change::schedule))
        .route("/connections/{connection}/notify", post(change::notify))
        .route("/connections/{connection}/objectives", post(change::objectives))
        .route("/connections/{connection}/secret", post(change::secret))
        .route("/connections/{connection}/run", post(change::run))
        .route("/connections/{connection}/goals/{goal}", get(show::goal))
        .route("/connections/{connection}/goals/{goal}/enabled", post(change::goal_enabled))
        .route("/connections/{connection}/goals/{goal}/mapping", post(change::mapping))
        .route("/runs", get(show::runs))
        .route("/runs/{run}", get(show::run))
        .route("/runs/{run}/stop", post(change::stop))
        .route("/runs/{run}/rejected/{file}", get(show::rejected))
        .route("/profiles", get(show::profiles))
        .route("/profiles/{profile}", get(show::profile))
        .route("/plugins", get(show::plugins))
        .route("/audit", get(show::audit))
        .route("/sign-in", get(show::sign_in).post(change::sign_in))
        .route("/sign-out", post(change::sign_out))
        .route("/static/style.css", get(|| asset("text/css; charset=utf-8", STYLE)))
        .route("/static/live.js", get(|| asset("text/javascript; charset=utf-8", SCRIPT)))
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .merge(api::router())
        .fallback(nowhere)
        .layer(axum::extract::DefaultBodyLimit::max(LARGEST_BODY))
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

/// Whether runs can begin: the working folder is free of problems, and the store can be written.
async fn ready(service: axum::extract::State<Arc<Service>>) -> Response {
    let ready = blocking(service.0, |service| {
        service.folder.current()?;
        Ok(service.store.probe()?)
    });
    match ready.await {
        Ok(()) => "ready\n".into_response(),
        Err(failure) => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", failure.detail)).into_response(),
    }
}

async fn nowhere(service: axum::extract::State<Arc<Service>>, who: Option<Extension<Who>>) -> Response {
    let frame = Frame::new(&service.0, who.map(|Extension(who)| who).as_ref(), "Not found", "");
    Refused::page(frame, Failure::new(StatusCode::NOT_FOUND, "there is nothing at this address"))
}

/// What is around every page.
pub(super) struct Frame {
    title: String,
    /// The part of the site, as the navigation has it.
    part: &'static str,
    who: Option<String>,
    /// Whether one can sign out.
    closed: bool,
    /// What is wrong with the working folder.
    wrong: Option<String>,
    /// What was just done.
    done: Option<&'static str>,
}

impl Frame {
    fn new(service: &Service, who: Option<&Who>, title: impl Into<String>, part: &'static str) -> Self {
        Self {
            title: title.into(),
            part,
            who: who.map(|who| who.name.clone()),
            closed: service.access.is_closed(),
            wrong: who.and_then(|_| service.folder.wrong()),
            done: None,
        }
    }

    fn current(&self, part: &str) -> &'static str {
        if self.part == part { "page" } else { "false" }
    }
}

/// A page that says why not.
#[derive(Template)]
#[template(path = "refused.html")]
struct Refused {
    frame: Frame,
    failure: Failure,
}

impl Refused {
    fn page(frame: Frame, failure: Failure) -> Response {
        let status = failure.status();
        (status, page(&Self { frame, failure })).into_response()
    }
}

fn page(template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => Html(text).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page cannot be shown");
            Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the page cannot be shown").into_response()
        }
    }
}

/// Shows what `work` makes, or why it could not.
async fn shown<T: Template>(
    service: Arc<Service>,
    who: Who,
    part: &'static str,
    work: impl FnOnce(&Service, &Who) -> Result<T, Failure> + Send + 'static,
) -> Response {
    let (looking, asking) = (Arc::clone(&service), who.clone());
    let done =
        blocking(looking, move |service| Ok(work(service, &asking).map(|template| page(&template)))).await;
    match done.and_then(|done| done) {
        Ok(page) => page,
        Err(failure) => Refused::page(Frame::new(&service, Some(&who), failure.title.clone(), part), failure),
    }
}

/// A number with its thousands apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let places = digits.len();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (places - place).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A number of bytes, for people.
pub(super) fn bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// A time span, for people.
pub(super) fn span(milliseconds: u64) -> String {
    match milliseconds {
        0..1000 => format!("{milliseconds} ms"),
        1000..60_000 => format!("{}.{} s", milliseconds / 1000, milliseconds % 1000 / 100),
        _ => format!("{} min {} s", milliseconds / 60_000, milliseconds % 60_000 / 1000),
    }
}

/// A moment in UTC to the second, for people.
pub(super) fn moment(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(at) => at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_for_people() {
        assert_eq!(super::grouped(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(super::grouped(999), "999");
        assert_eq!(super::span(61_500), "1 min 1 s");
        assert_eq!(super::span(1_250), "1.2 s");
        assert_eq!(super::moment("2026-01-02T03:04:05.678Z"), "2026-01-02 03:04:05 UTC");
    }
}
