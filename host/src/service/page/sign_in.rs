//! Sign-in and sign-out.

use std::net::SocketAddr;
use std::sync::Arc;

use askama::Template;
use axum::extract::{ConnectInfo, Form, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Redirect, Response};
use axum_extra::extract::cookie::CookieJar;
use serde::Deserialize;

use super::{Frame, page};
use crate::service::Service;
use crate::service::access::TooManyTries;
use crate::service::api::QueryParams;

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage {
    frame: Frame,
    /// The page to go to after.
    next: String,
    problem: Option<&'static str>,
}

/// What leads to the sign-in.
#[derive(Default, Deserialize)]
pub(super) struct SignInQuery {
    /// The page to go to after.
    #[serde(default)]
    next: String,
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    QueryParams(query): QueryParams<SignInQuery>,
) -> Response {
    let frame = Frame::new(&service, None, "Sign in", "");
    page(&SignInPage { frame, next: own_page(&query.next).to_owned(), problem: None })
}

/// The form of the sign-in.
#[derive(Deserialize)]
pub(super) struct SignInForm {
    token: String,
    #[serde(default)]
    next: String,
}

/// The path if it leads to a page of this service, and `/` otherwise. Browsers remove tabs and line breaks from an address, and
/// take a backslash for a slash: none of them gets through.
fn own_page(path: &str) -> &str {
    let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let is_path = path.starts_with('/') && !path.starts_with("//");
    let is_uri = path.parse::<Uri>().is_ok_and(|uri| uri.authority().is_none());
    if is_plain && is_path && is_uri { path } else { "/" }
}

pub(super) async fn sign_in(
    State(service): State<Arc<Service>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    jar: CookieJar,
    Form(form): Form<SignInForm>,
) -> Response {
    let next = own_page(&form.next);
    let (status, problem) = match service.access.sign_in(from.ip(), form.token.trim()) {
        Ok(Some((caller, cookie))) => {
            if let Err(error) = service.audit.record(&caller, "sign in", "") {
                tracing::error!(%error, "the audit log cannot be written");
            }
            return (jar.add(cookie), Redirect::to(next)).into_response();
        }
        Ok(None) => (StatusCode::FORBIDDEN, "This token is not valid."),
        Err(TooManyTries) => (StatusCode::TOO_MANY_REQUESTS, "Too many wrong tokens. Wait a minute."),
    };
    tracing::warn!(from = %from.ip(), "a sign-in failed");
    let frame = Frame::new(&service, None, "Sign in", "");
    (status, page(&SignInPage { frame, next: next.to_owned(), problem: Some(problem) })).into_response()
}

pub(super) async fn sign_out(State(service): State<Arc<Service>>, jar: CookieJar) -> Response {
    (service.access.sign_out(jar), Redirect::to("/sign-in")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_in_leads_only_to_pages_of_this_service() {
        for own in ["/", "/plugins", "/profiles?property=email&value=a%20b", "/runs/1#main"] {
            assert_eq!(own_page(own), own);
        }
        let others = [
            "",
            "plugins",
            "//evil.example",
            "/\\evil.example",
            "/\t/evil.example",
            "/\n/evil.example",
            "\t//evil.example",
            "https://evil.example/",
            "/ /evil.example",
            "/\u{2009}/evil.example",
        ];
        for other in others {
            assert_eq!(own_page(other), "/", "{other:?}");
        }
    }
}
