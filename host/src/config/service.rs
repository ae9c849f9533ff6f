use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use lettre::message::Mailbox;

use super::reader::Section;
use super::value::Secret;

/// Where the service listens unless told otherwise: only this machine reaches it.
const ADDRESS: ([u8; 4], u16) = ([127, 0, 0, 1], 7766);

/// The `[server]` of `sluicebox.toml`.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// Where the service listens.
    pub address: SocketAddr,
    /// Who may use it: names, which the audit log has, and tokens. Empty = whoever reaches it.
    pub tokens: Vec<(String, Secret)>,
    /// How people reach it, for links in notifications; without a slash at its end.
    pub url: Option<String>,
}

impl Default for Server {
    fn default() -> Self {
        Self { address: ADDRESS.into(), tokens: Vec::new(), url: None }
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
    /// A file of certificates, in PEM, that are trusted besides those of the system.
    pub ca: Option<PathBuf>,
}

/// How a connection to a mail server is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Security {
    /// From its second command on; a server that cannot is refused.
    StartTls,
    /// From its first byte on.
    Tls,
    /// Not at all.
    None,
}

/// The `[notify]` of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Notify {
    /// Who gets an e-mail.
    pub email: Vec<Mailbox>,
    /// Whether runs that succeed are told too.
    pub every_run: bool,
    pub webhook: Option<Webhook>,
}

/// An address that is told in JSON.
#[derive(Clone, Debug)]
pub(crate) struct Webhook {
    /// It may have a secret in it.
    pub url: Secret,
    /// The key of the signature; absent = unsigned.
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
                    entry.problem("the name of a token is not empty and has no control characters");
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
    if !server.address.ip().is_loopback() && server.tokens.is_empty() {
        section.problem(format!(
            "`address`: {} is reached from other machines, which needs a `token`, and TLS in front of it",
            server.address
        ));
    }
    section.finish();
    server
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
            section.problem("`user` and `password` go together");
            None
        }
    };
    if login.is_some() && security == Security::None {
        section.problem("a password is not sent unencrypted: `security` is \"starttls\" or \"tls\" then");
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
            section.problem("`webhook_secret` signs what goes to a `webhook`, which is missing");
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
