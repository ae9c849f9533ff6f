//! What can be asked and done, as JSON, described by OpenAPI. Each room has what it answers with, the methods of
//! [`Service`] that find it, which the page calls too, and the handlers around them.

#![expect(unused_qualifications, reason = "what utoipa derives is qualified")]

pub(super) mod connections;
pub(super) mod goals;
pub(super) mod plugins;
pub(super) mod profiles;
pub(super) mod runs;
pub(super) mod status;

use std::sync::Arc;

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
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Service;
use crate::error::Error;

/// Why something was not done, as <https://www.rfc-editor.org/rfc/rfc9457> has it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Failure {
    /// The status of HTTP.
    pub status: u16,
    /// The status in words.
    pub title: String,
    /// What is wrong.
    pub detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Failure {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or_default().to_owned();
        Self { status: status.as_u16(), title, detail: detail.into(), hint: None }
    }

    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = StatusCode::from_u16(error.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
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

/// Has the work done where it may wait for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    service: Arc<Service>,
    work: impl FnOnce(&Service) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(move || work(&service)).await;
    done.unwrap_or_else(|error| {
        tracing::error!(%error, "a request broke off");
        Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the service broke off"))
    })
}

/// The names in an address.
pub(super) struct Named<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let named = Path::from_request_parts(parts, state).await;
        named
            .map(|Path(named)| Self(named))
            .map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.body_text()))
    }
}

/// What is asked after the `?` of an address.
pub(super) struct Asked<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Asked<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let asked = Query::from_request_parts(parts, state).await;
        asked
            .map(|Query(asked)| Self(asked))
            .map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.body_text()))
    }
}

/// What a request says, as JSON.
pub(super) struct Said<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Said<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let json = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_json = |kind: &str| kind.split(';').next().unwrap_or_default().trim() == "application/json";
        if !json.is_some_and(is_json) {
            return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "expected application/json"));
        }
        let bytes = Bytes::from_request(request, state).await;
        let bytes = bytes.map_err(|error| Failure::new(error.status(), error.body_text()))?;
        // What is wrong is told by its path and kind; the parser's own words may quote a value.
        let mut parser = serde_json::Deserializer::from_slice(&bytes);
        let said = serde_path_to_error::deserialize(&mut parser).map_err(|error| {
            let (path, kind) = (error.path().to_string(), error.inner().classify());
            let detail = format!("the body is not as described: {kind:?} at {path}: {}", error.inner());
            Failure::new(StatusCode::BAD_REQUEST, detail)
        })?;
        parser
            .end()
            .map_err(|_| Failure::new(StatusCode::BAD_REQUEST, "something follows the body's JSON"))?;
        Ok(Self(said))
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Sluicebox",
        description = "Runs connections, and shows what they did. Every answer that is no success is a problem of RFC 9457.",
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
                .routes(routes!(runs::get_runs))
                .routes(routes!(runs::get_run, runs::stop_run))
                .routes(routes!(runs::get_rejected))
                .routes(routes!(profiles::find_profiles))
                .routes(routes!(profiles::get_profile))
                .routes(routes!(plugins::get_plugins)),
        )
        .split_for_parts();
    let description = serde_json::to_value(&description).unwrap_or_default();
    router
        .route("/api/openapi.json", get(move || async move { Json(description) }))
        .route("/api/{*rest}", axum::routing::any(nowhere))
        .method_not_allowed_fallback(not_allowed)
}

pub(super) async fn nowhere() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "there is nothing at this address")
}

async fn not_allowed() -> Failure {
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "this address does not take that method")
}
