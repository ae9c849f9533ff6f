use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use axum::http::Uri;
use ipnet::IpNet;
use lettre::message::Mailbox;

use super::reader::Section;
use super::value::{Secret, count};

/// The default address, which only this machine can reach.
const ADDRESS: ([u8; 4], u16) = ([127, 0, 0, 1], 7766);

/// The `[server]` of `sluicebox.toml`.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// Where the service listens.
    pub address: SocketAddr,
    /// The names and tokens of clients. The audit log has the names. Empty = no token is needed.
    pub tokens: Vec<(String, Secret)>,
    /// The address for links in notifications, without a slash at the end.
    pub url: Option<String>,
    /// Where webhooks may go besides public addresses and this machine.
    pub egress_allow: Vec<EgressRule>,
    /// Runs at a time, of different connections. They share the memory.
    pub runs: usize,
}

/// Runs at a time unless `runs` sets it.
const RUNS: usize = 2;
/// Runs at a time at most: each needs threads and memory.
const MAX_RUNS: usize = 16;

/// A network or host name that webhooks may go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EgressRule {
    Network(IpNet),
    Host(String),
}

impl EgressRule {
    /// Whether it names a host.
    pub(crate) fn names(&self, host: &str) -> bool {
        matches!(self, Self::Host(name) if name.eq_ignore_ascii_case(host))
    }

    /// Whether an address is in its network.
    pub(crate) fn holds(&self, address: IpAddr) -> bool {
        matches!(self, Self::Network(network) if network.contains(&address))
    }
}

impl FromStr for EgressRule {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(Self::Network(network));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(address.into()));
        }
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        match !text.is_empty() && text.bytes().all(is_name) {
            true => Ok(Self::Host(text.to_owned())),
            false => Err(()),
        }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self { address: ADDRESS.into(), tokens: Vec::new(), url: None, egress_allow: Vec::new(), runs: RUNS }
    }
}

/// The `[smtp]` of `sluicebox.toml`.
#[derive(Clone, Debug)]
pub(crate) struct Smtp {
    pub host: String,
    pub port: u16,
    pub security: Security,
    /// User and password.
    pub login: Option<(String, Secret)>,
    pub from: Mailbox,
    /// A PEM file with certificates to trust besides those of the system.
    pub ca: Option<PathBuf>,
}

/// How a connection to a mail server is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Security {
    /// From the second command on. A server without STARTTLS is refused.
    StartTls,
    /// From the first byte on.
    Tls,
    /// Not at all.
    None,
}

/// The `[notify]` of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Notify {
    /// The addresses that get mail.
    pub email: Vec<Mailbox>,
    /// Whether successful runs are notified as well.
    pub every_run: bool,
    pub webhook: Option<Webhook>,
}

/// An address that notifications are posted to, in JSON.
#[derive(Clone, Debug)]
pub(crate) struct Webhook {
    /// The address, which may hold a secret.
    pub url: Secret,
    /// The key of the signature; `None` = unsigned.
    pub secret: Option<Secret>,
}

pub(super) fn server(section: &Section<'_>) -> Server {
    let mut server = Server::default();
    if let Some(entry) = section.get("address")
        && let Some(text) = entry.text()
    {
        match text.parse() {
            Ok(address) => server.address = address,
            Err(_) => entry.problem("`address`: expected an address and a port, such as \"127.0.0.1:7766\""),
        }
    }
    if let Some(token) = Secret::read(section, "token") {
        server.tokens.push(("operator".to_owned(), token));
    }
    if let Some(tokens) = section.section("tokens") {
        for entry in tokens.entries() {
            match Secret::of(&entry) {
                Some(_) if entry.key().is_empty() || entry.key().contains(char::is_control) => {
                    entry.problem("the name of a token cannot be empty or have control characters");
                }
                Some(token) => server.tokens.push((entry.key().to_owned(), token)),
                None => {}
            }
        }
    }
    if let Some(url) = section.text("url") {
        if url.starts_with("http://") || url.starts_with("https://") {
            server.url = Some(url.trim_end_matches('/').to_owned());
        } else {
            section.problem("`url`: expected an address that begins with http:// or https://");
        }
    }
    for entry in section.get("egress_allow").map(|entry| entry.array()).unwrap_or_default() {
        match entry.text().map(str::parse) {
            Some(Ok(rule)) => server.egress_allow.push(rule),
            Some(Err(())) => {
                entry.problem("`egress_allow`: expected networks or host names, such as \"10.0.0.0/8\" or \"hooks.internal\"");
            }
            None => {}
        }
    }
    server.runs = count(section, "runs", server.runs, MAX_RUNS);
    if let Some(url) = &server.url
        && server.tokens.is_empty()
        && !is_this_machine(url)
    {
        section.problem(format!("`url`: other machines reach {url}, which needs a `token`"));
    }
    if !server.address.ip().is_loopback() && server.tokens.is_empty() {
        section.problem(format!(
            "`address`: other machines can reach {}: set a `token`, and put TLS in front of it",
            server.address
        ));
    }
    section.finish();
    server
}

/// Whether an address leads to this machine alone.
fn is_this_machine(url: &str) -> bool {
    let url = url.parse::<Uri>();
    let host = url.as_ref().ok().and_then(Uri::host).unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

pub(super) fn smtp(root: &Path, section: &Section<'_>) -> Option<Smtp> {
    let host = section.required("host").to_owned();
    let kinds = [("starttls", Security::StartTls), ("tls", Security::Tls), ("none", Security::None)];
    let security = section.choice("security", &kinds, Security::StartTls);
    let standard = match security {
        Security::StartTls => 587,
        Security::Tls => 465,
        Security::None => 25,
    };
    let port = section.get("port").and_then(|entry| {
        let port = entry.whole().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
        if port.is_none() {
            entry.problem("`port`: expected 1 to 65535");
        }
        port
    });
    let user = section.text("user").map(str::to_owned);
    let password = Secret::read(section, "password");
    let login = match (user, password) {
        (Some(user), Some(password)) => Some((user, password)),
        (None, None) => None,
        _ => {
            section.problem("set both `user` and `password`, or neither");
            None
        }
    };
    if login.is_some() && security == Security::None {
        section.problem("a password is never sent unencrypted: set `security` to \"starttls\" or \"tls\"");
    }
    let from = mailbox(section, "from", section.required("from"));
    let ca = section.text("ca").map(|path| root.join(path));
    section.finish();
    Some(Smtp { host, port: port.unwrap_or(standard), security, login, from: from?, ca })
}

pub(super) fn notify(section: &Section<'_>) -> Notify {
    let entries = section.get("email").map(|entry| entry.array()).unwrap_or_default();
    let email = entries.into_iter().filter_map(|entry| {
        let parsed = entry.text()?.parse().ok();
        if parsed.is_none() {
            entry.problem("`email`: expected addresses such as \"ops@example.com\"");
        }
        parsed
    });
    let email: Vec<Mailbox> = email.collect();
    let every_run = section.choice("on", &[("failure", false), ("every-run", true)], false);
    let secret = Secret::read(section, "webhook_secret");
    let webhook = match (Secret::read(section, "webhook"), secret) {
        (Some(url), secret) => Some(Webhook { url, secret }),
        (None, Some(_)) => {
            section.problem("`webhook_secret` needs a `webhook`");
            None
        }
        (None, None) => None,
    };
    section.finish();
    Notify { email, every_run, webhook }
}

fn mailbox(section: &Section<'_>, key: &'static str, text: &str) -> Option<Mailbox> {
    let parsed = text.parse().ok();
    if parsed.is_none() && !text.is_empty() {
        section
            .get(key)?
            .problem(format!("`{key}`: expected an address such as \"Sluicebox <sluicebox@example.com>\""));
    }
    parsed
}
