//! Who may use the service: without tokens everyone who reaches it, which is this machine alone; with tokens everyone who
//! has one, as a bearer or signed in on the page.
//!
//! A page of another site must not act in a browser that is signed in: a change is refused when another origin sends it.
//! Without tokens the service also answers only to its own names, so that a foreign name that resolves to this machine
//! gets nothing.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN,
    REFERRER_POLICY, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use axum_extra::extract::cookie::{Cookie, CookieJar, SameSite};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::watch;

use super::Service;
use super::api::Failure;
use crate::config::{Config, Server};
use crate::error::Error;

const COOKIE: &str = "sluicebox";
/// How long a sign-in lasts.
const SESSION_TIME: Duration = Duration::from_secs(12 * 3600);
/// Sessions at a time; one more ends the oldest.
const MAX_SESSIONS: usize = 1000;
/// Characters of a token: a shorter one can be guessed.
const MIN_TOKEN_LENGTH: usize = 16;
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

type Hash = [u8; 32];

/// Tokens and sessions.
pub(super) struct Access {
    /// Names, and hashes of tokens.
    tokens: Vec<(String, Hash)>,
    /// Names of tokens, and when users signed in, by the hash of their cookie.
    sessions: Mutex<HashMap<Hash, (String, Instant)>>,
    /// Counts the ends of sessions.
    session_ends: watch::Sender<u64>,
    throttle: Throttle,
    /// The service's own host names.
    names: Vec<String>,
    /// Whether cookies go through TLS only.
    secure: bool,
}

/// Who sent a request.
#[derive(Clone)]
pub(super) struct Caller {
    /// The name of the token; `local` where there are none.
    pub name: String,
    pub address: IpAddr,
    /// The hash of the session's cookie; absent for a bearer, and where there are no tokens.
    session: Option<Hash>,
}

impl Access {
    /// # Errors
    /// If a token is missing or too short, or there is none where other machines reach the service.
    pub(super) fn new(config: &Config, server: &Server) -> Result<Self, Error> {
        let mut tokens = Vec::new();
        for (name, secret) in &server.tokens {
            let token = secret.text(&config.root)?;
            if token.len() < MIN_TOKEN_LENGTH {
                let reason = format!("a token has at least {MIN_TOKEN_LENGTH} characters");
                return Err(Error::Secret { place: secret.place().to_owned(), reason });
            }
            tokens.push((name.clone(), hash(&token)));
        }
        if tokens.is_empty() && !server.address.ip().is_loopback() {
            return Err(Error::Usage(format!(
                "other machines reach {}: this needs a `token` in [server] of sluicebox.toml, and TLS in front of it",
                server.address
            )));
        }
        let host = |url: &String| Some(url.parse::<Uri>().ok()?.host()?.to_owned());
        let mut names = vec!["localhost".to_owned()];
        names.extend(server.url.as_ref().and_then(host));
        let secure = server.url.as_ref().is_some_and(|url| url.starts_with("https://"));
        Ok(Self {
            tokens,
            sessions: Mutex::default(),
            session_ends: watch::Sender::new(0),
            throttle: Throttle::default(),
            names,
            secure,
        })
    }

    /// Whether requests need a token.
    pub(super) fn needs_token(&self) -> bool {
        !self.tokens.is_empty()
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<Hash, (String, Instant)>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of a token; `None` if there is no such token.
    ///
    /// # Errors
    /// After too many wrong tokens.
    fn name_of(&self, address: IpAddr, token: &str) -> Result<Option<&str>, TooManyTries> {
        let given = hash(token);
        // All are compared: the time says nothing about a token.
        let name = self.tokens.iter().fold(None, |found, (name, known)| {
            if bool::from(known.ct_eq(&given)) { Some(name.as_str()) } else { found }
        });
        self.throttle.check(address, &given, name.is_some())?;
        Ok(name)
    }

    /// Starts a session; `None` if there is no such token.
    ///
    /// # Errors
    /// After too many wrong tokens.
    pub(super) fn sign_in(
        &self,
        address: IpAddr,
        token: &str,
    ) -> Result<Option<(Caller, Cookie<'static>)>, TooManyTries> {
        let Some(name) = self.name_of(address, token)? else { return Ok(None) };
        let mut bytes = [0_u8; 32];
        if let Err(error) = getrandom::fill(&mut bytes) {
            tracing::error!(%error, "the system has no random numbers");
            return Ok(None);
        }
        let value: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let session = hash(&value);
        let mut sessions = self.sessions();
        sessions.retain(|_, (_, since)| since.elapsed() < SESSION_TIME);
        if sessions.len() >= MAX_SESSIONS
            && let Some(oldest) = sessions.iter().min_by_key(|(_, (_, since))| *since).map(|(key, _)| *key)
        {
            sessions.remove(&oldest);
            self.session_ends.send_modify(|ends| *ends += 1);
        }
        sessions.insert(session, (name.to_owned(), Instant::now()));
        let cookie = Cookie::build((COOKIE, value)).http_only(true).same_site(SameSite::Strict).path("/");
        let caller = Caller { name: name.to_owned(), address, session: Some(session) };
        Ok(Some((caller, cookie.secure(self.secure).build())))
    }

    /// Ends the session of a browser.
    pub(super) fn sign_out(&self, jar: CookieJar) -> CookieJar {
        if let Some(cookie) = jar.get(COOKIE) {
            self.sessions().remove(&hash(cookie.value()));
            self.session_ends.send_modify(|ends| *ends += 1);
        }
        jar.remove(Cookie::build(COOKIE).path("/"))
    }

    /// Reports ends of sessions.
    pub(super) fn watch_sessions(&self) -> watch::Receiver<u64> {
        self.session_ends.subscribe()
    }

    /// Whether a caller's session still lasts. A bearer, and a caller where there are no tokens, has none to end.
    pub(super) fn is_signed_in(&self, caller: &Caller) -> bool {
        let Some(session) = caller.session else { return true };
        self.sessions().get(&session).is_some_and(|(_, since)| since.elapsed() < SESSION_TIME)
    }

    /// Who sent a request; `None` if it needs a token.
    fn caller(&self, headers: &HeaderMap, address: IpAddr) -> Result<Option<Caller>, TooManyTries> {
        if !self.needs_token() {
            return Ok(Some(Caller { name: "local".to_owned(), address, session: None }));
        }
        let bearer =
            headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        if let Some(token) = bearer {
            let name = self.name_of(address, token.trim())?;
            return Ok(name.map(|name| Caller { name: name.to_owned(), address, session: None }));
        }
        let jar = CookieJar::from_headers(headers);
        let Some(cookie) = jar.get(COOKIE) else { return Ok(None) };
        let key = hash(cookie.value());
        let sessions = self.sessions();
        let session = sessions.get(&key).filter(|(_, since)| since.elapsed() < SESSION_TIME);
        Ok(session.map(|(name, _)| Caller { name: name.clone(), address, session: Some(key) }))
    }

    /// Whether a host name is one of the service's own.
    fn is_own_name(&self, host: &str) -> bool {
        let name = host.rsplit_once(':').map_or(host, |(name, port)| {
            if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host }
        });
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        address.is_ok() || self.names.iter().any(|own| own.eq_ignore_ascii_case(name))
    }
}

/// Too many wrong tokens were tried.
#[derive(Debug)]
pub(super) struct TooManyTries;

/// Slows down guessing. Wrong tokens are counted by the network that they come from, and by a part of their hash: guesses from an
/// address are slowed down, and do not lock out the token of someone else behind the same proxy. The same wrong token again, as
/// a program with an old token sends it, is no other guess and is not counted.
#[derive(Default)]
struct Throttle {
    wrong: Mutex<HashMap<(IpAddr, u8), WrongTokens>>,
}

/// The wrong tokens of a network and a part of the hashes.
struct WrongTokens {
    /// How many more may be tried.
    left: f64,
    at: Instant,
    /// The last one that was counted.
    last: Option<Hash>,
}

impl Throttle {
    /// Wrong tokens at once, and in each minute.
    const MAX_WRONG: f64 = 10.0;
    /// Parts of the hashes.
    const PARTS: u8 = 64;
    /// Entries in memory.
    const MAX_ENTRIES: usize = 100_000;

    /// Counts a wrong token.
    ///
    /// # Errors
    /// If there were too many, also for a right token: an answer would tell which one it is.
    fn check(&self, address: IpAddr, token: &Hash, is_right: bool) -> Result<(), TooManyTries> {
        let [first, ..] = token;
        let key = (network(address), first % Self::PARTS);
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if is_right && !wrong.contains_key(&key) {
            return Ok(());
        }
        if wrong.len() >= Self::MAX_ENTRIES {
            wrong.retain(|_, entry| entry.refill() < Self::MAX_WRONG);
        }
        if wrong.len() >= Self::MAX_ENTRIES && !wrong.contains_key(&key) {
            return Err(TooManyTries);
        }
        let entry =
            wrong.entry(key).or_insert(WrongTokens { left: Self::MAX_WRONG, at: Instant::now(), last: None });
        if !is_right && entry.last.as_ref() == Some(token) {
            return Ok(());
        }
        if entry.refill() < 1.0 {
            return Err(TooManyTries);
        }
        if !is_right {
            entry.left -= 1.0;
            entry.last = Some(*token);
        }
        Ok(())
    }
}

impl WrongTokens {
    /// How many more may be tried now.
    fn refill(&mut self) -> f64 {
        let now = Instant::now();
        let minutes = now.duration_since(self.at).as_secs_f64() / 60.0;
        self.left = (self.left + minutes * Throttle::MAX_WRONG).min(Throttle::MAX_WRONG);
        self.at = now;
        self.left
    }
}

/// The address, or the first half of an IPv6 address: the other half is chosen freely by each machine.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

fn hash(text: &str) -> Hash {
    Sha256::digest(text.as_bytes()).into()
}

/// Whether a path needs no token.
fn is_public(path: &str) -> bool {
    matches!(path, "/sign-in" | "/healthz" | "/readyz") || path.starts_with("/static/")
}

/// Refuses requests without a token, and adds the [`Caller`] to the others.
pub(super) async fn guard(
    State(service): State<Arc<Service>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let path = request.uri().path();
    let is_page = !path.starts_with("/api/") && path != "/metrics";
    let access = &service.access;
    if !access.needs_token() && !access.is_own_name(host) {
        return Failure::new(StatusCode::MISDIRECTED_REQUEST, "this is not the name of this service")
            .into_response();
    }
    if !request.method().is_safe() && crosses_origins(headers, host) {
        return Failure::new(StatusCode::FORBIDDEN, "a page of another origin sent this").into_response();
    }
    match access.caller(headers, from.ip()) {
        Ok(Some(caller)) => {
            request.extensions_mut().insert(caller);
        }
        _ if is_public(path) => {}
        Ok(None) if is_page && request.method() == Method::GET => {
            let page = request.uri().path_and_query().map_or("/", |page| page.as_str());
            let query = form_urlencoded::Serializer::new(String::new()).append_pair("next", page).finish();
            return Redirect::to(&format!("/sign-in?{query}")).into_response();
        }
        Ok(None) => {
            let mut refused = Failure::new(StatusCode::UNAUTHORIZED, "a token is needed").into_response();
            refused.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return refused;
        }
        Err(TooManyTries) => {
            tracing::warn!(from = %from.ip(), "too many wrong tokens");
            let detail = "too many wrong tokens; wait a minute";
            let mut refused = Failure::new(StatusCode::TOO_MANY_REQUESTS, detail).into_response();
            refused.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("60"));
            return refused;
        }
    }
    next.run(request).await
}

/// Whether a browser sends this for a page of another site. Programs send neither header.
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

/// Adds headers by which browsers run only what the service sent, and cache nothing.
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

    #[test]
    fn guesses_are_slowed_and_do_not_lock_out_the_right_token() {
        let throttle = Throttle::default();
        let address = IpAddr::from([192, 0, 2, 1]);
        let right = hash("the right token");
        let wrong = |number: u32| throttle.check(address, &hash(&format!("guess {number}")), false);
        for number in 0..100 {
            wrong(number).unwrap();
            throttle.check(address, &right, true).unwrap();
        }
        let refused = (0..1000).filter(|number| wrong(100 + number).is_err()).count();
        assert!(refused > 300, "{refused}");
        // The same token again and again, right or wrong.
        let other = IpAddr::from([192, 0, 2, 2]);
        for _ in 0..1000 {
            throttle.check(other, &right, true).unwrap();
        }
        for _ in 0..1000 {
            throttle.check(other, &hash("old token"), false).unwrap();
        }
    }

    #[test]
    fn a_network_of_ipv6_is_one_guesser() {
        let address = |text: &str| network(text.parse().unwrap());
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:2"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
    }
}
