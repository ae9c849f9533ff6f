//! The API: queries and changes as JSON, described by OpenAPI. Each file has its JSON types, the methods of [`Service`] behind
//! them, which the page calls too, and the handlers.

#![expect(unused_qualifications, reason = "utoipa derives qualified paths")]

pub(super) mod connections;
pub(super) mod goals;
pub(super) mod plugins;
pub(super) mod profiles;
pub(super) mod rejected;
pub(super) mod runs;
pub(super) mod status;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sluicebox_model::{OrNever, never};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Service;
use crate::error::Error;

/// Why a request failed: a problem of <https://www.rfc-editor.org/rfc/rfc9457>.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Failure {
    /// The HTTP status.
    pub status: u16,
    /// The HTTP status in words.
    pub title: String,
    /// What is wrong.
    pub detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Failure {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error").to_owned();
        Self { status: status.as_u16(), title, detail: detail.into(), hint: None }
    }

    pub(super) fn status(&self) -> StatusCode {
        status_code(self.status)
    }
}

fn status_code(status: u16) -> StatusCode {
    let code = StatusCode::from_u16(status);
    never!(code.is_err(), "{status} is not an HTTP status");
    code.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = status_code(error.http_status());
        if status.is_server_error() {
            tracing::error!(%error, "a request failed");
        }
        Self { hint: error.hint(), ..Self::new(status, error.to_string()) }
    }
}

impl From<sluicebox_store::StoreError> for Failure {
    fn from(error: sluicebox_store::StoreError) -> Self {
        Error::from(error).into()
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(self)).into_response();
        let problem = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, problem);
        response
    }
}

/// Does work that may wait for the disk, on a thread for such work.
pub(super) async fn blocking<T: Send + 'static>(
    service: Arc<Service>,
    work: impl FnOnce(&Service) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(move || work(&service)).await;
    done.unwrap_or_else(|error| {
        tracing::error!(%error, "internal error: a request panicked");
        Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error"))
    })
}

/// How long a request waits for its turn to open files.
const LOOK_TIME: Duration = Duration::from_secs(30);

/// Does work that opens files of connections or runs plugins: a few at a time, so that one that does not end leaves threads to
/// other requests.
pub(super) async fn blocking_look<T: Send + 'static>(
    service: Arc<Service>,
    work: impl FnOnce(&Service) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let permit = tokio::time::timeout(LOOK_TIME, Arc::clone(&service.looks).acquire_owned()).await;
    // The semaphore is never closed.
    let Ok(Ok(permit)) = permit else {
        let detail = "other requests wait for files; try again later";
        return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, detail));
    };
    blocking(service, move |service| {
        let _permit = permit;
        work(service)
    })
    .await
}

/// The parameters in a path.
pub(super) struct PathParams<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for PathParams<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let params = Path::from_request_parts(parts, state).await;
        params
            .map(|Path(params)| Self(params))
            .map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.body_text()))
    }
}

/// The parameters after the `?` of an address.
pub(super) struct QueryParams<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for QueryParams<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let params = Query::from_request_parts(parts, state).await;
        params
            .map(|Query(params)| Self(params))
            .map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.body_text()))
    }
}

/// The JSON of a request's body.
pub(super) struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let json = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_json = |kind: &str| kind.split(';').next().unwrap_or_default().trim() == "application/json";
        if !json.is_some_and(is_json) {
            return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "expected application/json"));
        }
        let bytes = Bytes::from_request(request, state).await;
        let bytes = bytes.map_err(|error| Failure::new(error.status(), error.body_text()))?;
        let mut parser = serde_json::Deserializer::from_slice(&bytes);
        let parsed = serde_path_to_error::deserialize(&mut parser).map_err(|error| {
            let (path, kind) = (error.path().to_string(), error.inner().classify());
            let detail = format!("the body does not match its schema: {kind:?} at {path}: {}", error.inner());
            Failure::new(StatusCode::BAD_REQUEST, detail)
        })?;
        parser
            .end()
            .map_err(|_| Failure::new(StatusCode::BAD_REQUEST, "text follows the JSON of the body"))?;
        Ok(Self(parsed))
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Sluicebox",
        description = "Runs connections and shows their history. Every error is a problem of RFC 9457.",
        license(name = "Apache-2.0")
    ),
    modifiers(&Token),
    security(("token" = []))
)]
struct Description;

struct Token;

impl Modify for Token {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        let components = description.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

/// The routes below `/api/v1`, and their description at `/api/openapi.json`.
pub(super) fn router() -> Router<Arc<Service>> {
    let (router, description) = OpenApiRouter::with_openapi(Description::openapi())
        .nest(
            "/api/v1",
            OpenApiRouter::new()
                .routes(routes!(status::get_status))
                .routes(routes!(status::get_schedule))
                .routes(routes!(status::get_audit))
                .routes(routes!(status::watch))
                .routes(routes!(connections::get_connections))
                .routes(routes!(connections::get_connection, connections::change_connection))
                .routes(routes!(connections::put_secret))
                .routes(routes!(runs::start_run))
                .routes(routes!(goals::change_goal))
                .routes(routes!(goals::get_scan))
                .routes(routes!(goals::get_preview))
                .routes(routes!(goals::get_mapping, goals::put_mapping))
                .routes(routes!(goals::get_imported_again))
                .routes(routes!(goals::accept_files))
                .routes(routes!(runs::get_runs))
                .routes(routes!(runs::get_run, runs::stop_run))
                .routes(routes!(runs::get_rejected))
                .routes(routes!(rejected::list_rejected))
                .routes(routes!(rejected::list_rejected_of_run))
                .routes(routes!(rejected::get_rejected_lines))
                .routes(routes!(rejected::import_rejected))
                .routes(routes!(profiles::find_profiles))
                .routes(routes!(profiles::get_profile))
                .routes(routes!(plugins::get_plugins)),
        )
        .split_for_parts();
    let description = serde_json::to_value(&description).or_never("the description of the API");
    router
        .route("/api/openapi.json", get(move || async move { Json(description) }))
        .route("/api/{*rest}", axum::routing::any(not_found))
        .method_not_allowed_fallback(not_allowed)
}

async fn not_found() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "there is nothing at this address")
}

async fn not_allowed() -> Failure {
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "this address does not support this method")
}
