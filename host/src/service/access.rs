//! Who may use the service. Without tokens whoever reaches it, which is this machine alone; with tokens whoever has one, as a
//! bearer or signed in on the page.
//!
//! A page of someone else must not act in a browser that is signed in: what changes something is refused when it comes from
//! another origin, and without tokens only the service's own names are answered to, so that a name that was pointed at
//! this machine gets nothing.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN,
    REFERRER_POLICY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use axum_extra::extract::cookie::{Cookie, CookieJar, SameSite};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::Service;
use super::api::Failure;
use crate::config::{Config, Server};
use crate::error::Error;

const COOKIE: &str = "sluicebox";
/// Somebody who signed in does it again after so long.
const SESSION: Duration = Duration::from_secs(12 * 3600);
/// Sessions at a time; the oldest ends when there are more.
const MOST_SESSIONS: usize = 1000;
/// Tries to sign in from one address.
const TRIES_PER_MINUTE: NonZero<u32> = NonZero::<u32>::MIN.saturating_add(9);
/// A token that can be guessed is none.
const SHORTEST_TOKEN: usize = 16;
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// Tokens and sessions.
pub(super) struct Access {
    /// Names, and hashes of tokens.
    tokens: Vec<(String, [u8; 32])>,
    /// By the hash of their cookie.
    sessions: Mutex<HashMap<[u8; 32], (String, Instant)>>,
    tries: DefaultKeyedRateLimiter<IpAddr>,
    /// Names that the service is called by.
    names: Vec<String>,
    /// Whether the page is reached through TLS.
    secure: bool,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Who {
    /// The name of the token; `local` where there are none.
    pub name: String,
    pub address: IpAddr,
}

impl Access {
    /// # Errors
    /// If a token is missing or too short, or there is none where other machines reach the service.
    pub(super) fn new(config: &Config, server: &Server) -> Result<Self, Error> {
        let mut tokens = Vec::new();
        for (name, secret) in &server.tokens {
            let token = secret.text(&config.root)?;
            if token.len() < SHORTEST_TOKEN {
                let reason = format!("a token has at least {SHORTEST_TOKEN} characters");
                return Err(Error::Secret { place: secret.place().to_owned(), reason });
            }
            tokens.push((name.clone(), hash(&token)));
        }
        if tokens.is_empty() && !server.address.ip().is_loopback() {
            return Err(Error::Usage(format!(
                "{} is reached from other machines, which needs a `token` in [server] of sluicebox.toml, and TLS in front of it",
                server.address
            )));
        }
        let host = |url: &String| Some(url.parse::<Uri>().ok()?.host()?.to_owned());
        let mut names = vec!["localhost".to_owned()];
        names.extend(server.url.as_ref().and_then(host));
        let secure = server.url.as_ref().is_some_and(|url| url.starts_with("https://"));
        let tries = RateLimiter::keyed(Quota::per_minute(TRIES_PER_MINUTE));
        Ok(Self { tokens, sessions: Mutex::default(), tries, names, secure })
    }

    /// Whether one must sign in.
    pub(super) fn is_closed(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// Whose token it is. All are compared, so that the time tells nothing.
    fn holder(&self, token: &str) -> Option<&str> {
        let given = hash(token);
        self.tokens.iter().fold(None, |found, (name, known)| {
            if bool::from(known.ct_eq(&given)) { Some(name.as_str()) } else { found }
        })
    }

    /// A session for whoever has a token; `None` if it is none.
    ///
    /// # Errors
    /// If there were too many tries from the address.
    pub(super) fn sign_in(
        &self,
        address: IpAddr,
        token: &str,
    ) -> Result<Option<(Who, Cookie<'static>)>, TooManyTries> {
        self.tries.check_key(&address).map_err(|_| TooManyTries)?;
        let Some(name) = self.holder(token) else { return Ok(None) };
        let mut bytes = [0_u8; 32];
        if getrandom::fill(&mut bytes).is_err() {
            return Ok(None);
        }
        let value: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, (_, since)| since.elapsed() < SESSION);
        if sessions.len() >= MOST_SESSIONS
            && let Some(oldest) = sessions.iter().min_by_key(|(_, (_, since))| *since).map(|(key, _)| *key)
        {
            sessions.remove(&oldest);
        }
        sessions.insert(hash(&value), (name.to_owned(), Instant::now()));
        let cookie = Cookie::build((COOKIE, value)).http_only(true).same_site(SameSite::Strict).path("/");
        Ok(Some((Who { name: name.to_owned(), address }, cookie.secure(self.secure).build())))
    }

    /// Ends the session of a browser.
    pub(super) fn sign_out(&self, jar: CookieJar) -> CookieJar {
        if let Some(cookie) = jar.get(COOKIE) {
            let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            sessions.remove(&hash(cookie.value()));
        }
        jar.remove(Cookie::build(COOKIE).path("/"))
    }

    fn who(&self, headers: &HeaderMap, address: IpAddr) -> Option<Who> {
        if !self.is_closed() {
            return Some(Who { name: "local".to_owned(), address });
        }
        let bearer =
            headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        if let Some(token) = bearer {
            let holder = self.holder(token.trim());
            return holder.map(|name| Who { name: name.to_owned(), address });
        }
        let jar = CookieJar::from_headers(headers);
        let cookie = jar.get(COOKIE)?;
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let session = sessions.get(&hash(cookie.value())).filter(|(_, since)| since.elapsed() < SESSION);
        session.map(|(name, _)| Who { name: name.clone(), address })
    }

    /// Whether the service is called by a name of its own.
    fn is_own_name(&self, host: &str) -> bool {
        let name = host.rsplit_once(':').map_or(host, |(name, port)| {
            if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host }
        });
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        address.is_ok() || self.names.iter().any(|own| own.eq_ignore_ascii_case(name))
    }
}

/// Somebody tried too often.
#[derive(Debug)]
pub(super) struct TooManyTries;

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// What everybody gets.
fn is_open(path: &str) -> bool {
    matches!(path, "/sign-in" | "/healthz" | "/readyz") || path.starts_with("/static/")
}

/// Lets through who may, and says who it is.
pub(super) async fn guard(
    State(service): State<Arc<Service>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let page = !request.uri().path().starts_with("/api/") && request.uri().path() != "/metrics";
    let access = &service.access;
    if !access.is_closed() && !access.is_own_name(host) {
        return Failure::new(StatusCode::MISDIRECTED_REQUEST, "this is not the name of this service")
            .into_response();
    }
    if !request.method().is_safe() && crosses_origins(headers, host) {
        return Failure::new(StatusCode::FORBIDDEN, "a page of another origin asks").into_response();
    }
    match access.who(headers, from.ip()) {
        Some(who) => {
            request.extensions_mut().insert(who);
        }
        None if is_open(request.uri().path()) => {}
        None if page && request.method() == Method::GET => {
            let wanted = request.uri().path_and_query().map_or("/", |wanted| wanted.as_str());
            let query = form_urlencoded::Serializer::new(String::new()).append_pair("next", wanted).finish();
            return Redirect::to(&format!("/sign-in?{query}")).into_response();
        }
        None => {
            let mut refused = Failure::new(StatusCode::UNAUTHORIZED, "a token is needed").into_response();
            refused.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return refused;
        }
    }
    next.run(request).await
}

/// Whether a browser sends this for a page of somebody else. Programs send neither header.
/// <https://developer.mozilla.org/docs/Web/HTTP/Headers/Sec-Fetch-Site>
fn crosses_origins(headers: &HeaderMap, host: &str) -> bool {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    match text(HeaderName::from_static("sec-fetch-site")) {
        Some(site) => !matches!(site, "same-origin" | "none"),
        None => text(ORIGIN).is_some_and(|origin| {
            origin.split_once("://").is_none_or(|(_, of)| !of.eq_ignore_ascii_case(host))
        }),
    }
}

/// Tells browsers to run nothing that the service did not send, and to keep nothing.
pub(super) async fn harden(request: Request, next: Next) -> Response {
    let is_static = request.uri().path().starts_with("/static/");
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    );
    headers.insert(
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    );
    if !is_static {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&'static str, &'static str)], crosses: bool) {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        assert_eq!(crosses_origins(&headers, "127.0.0.1:7766"), crosses, "{headers:?}");
    }

    #[test]
    fn only_pages_of_this_service_change_something() {
        check(&[], false);
        check(&[("sec-fetch-site", "same-origin")], false);
        check(&[("sec-fetch-site", "none")], false);
        check(&[("sec-fetch-site", "same-site")], true);
        check(&[("sec-fetch-site", "cross-site")], true);
        check(&[("origin", "http://127.0.0.1:7766")], false);
        check(&[("origin", "http://127.0.0.1:8080")], true);
        check(&[("origin", "https://evil.example")], true);
        check(&[("origin", "null")], true);
    }
}
