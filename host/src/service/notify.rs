//! Notifications of runs that ended: mail, and a webhook.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use askama::Template;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use reqwest::Url;
use serde_json::json;
use sha2::Sha256;
use sluicebox_model::never;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::egress::{self, EgressError};
use crate::config::{Config, Connection, EgressRule, Security, Server, Smtp, Webhook};
use crate::error::Error;
use crate::output::plain;
use crate::runs::report::{HistoryEntry, Run, Status};

/// Pauses before the second and further attempts.
const RETRY_PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(120)];
/// How long a server may take to answer.
const SEND_TIME: Duration = Duration::from_secs(20);
/// How long a service that stops waits for notifications.
const FINISH_TIME: Duration = Duration::from_secs(5);
/// Kinds of faults of a goal in a mail.
const MAX_FAULTS: usize = 5;

/// A run that ended.
pub(super) struct FinishedRun {
    pub run: Run,
    /// Also if it was stopped.
    pub failed: bool,
    /// Whether a user stopped it.
    pub stopped: bool,
    pub goals: Vec<HistoryEntry>,
}

/// Sends notifications in the background: a run does not wait for a mail server.
pub(super) struct Notifier {
    runtime: Handle,
    sending: Mutex<Vec<JoinHandle<()>>>,
}

impl Notifier {
    pub(super) fn new(runtime: Handle) -> Self {
        Self { runtime, sending: Mutex::default() }
    }

    /// Sends the connection's notifications of a run.
    pub(super) fn notify(&self, config: &Config, connection: &Connection, finished: FinishedRun) {
        let Some(notify) = connection.notify.as_ref().filter(|notify| finished.failed || notify.every_run)
        else {
            return;
        };
        // Senders are created here and used on the runtime.
        let _inside = self.runtime.enter();
        let link = link(&config.settings.server, &finished.run.id);
        if let Some(smtp) = config.settings.smtp.as_ref().filter(|_| !notify.email.is_empty()) {
            let mail = mail(connection, &finished, &link, smtp, &notify.email);
            let sender = transport(&config.root, smtp);
            match mail.and_then(|mail| Ok((mail, sender?))) {
                Ok((mail, sender)) => self.send("e-mail", move || {
                    let (mail, sender) = (mail.clone(), sender.clone());
                    async move {
                        let sent = sender.send(mail).await;
                        let failed =
                            |error| SendError { temporary: !is_permanent(&error), reason: reason(&error) };
                        sent.map(|_| ()).map_err(failed)
                    }
                }),
                Err(error) => tracing::error!(%error, "the e-mail cannot be sent"),
            }
        }
        if let Some(webhook) = &notify.webhook {
            match WebhookCall::new(config, connection, &finished, &link, webhook) {
                Ok(call) => self.send("webhook", move || {
                    let call = call.clone();
                    async move { call.send().await }
                }),
                Err(error) => tracing::error!(%error, "the webhook cannot be called"),
            }
        }
    }

    fn send<F>(&self, what: &'static str, attempt: impl Fn() -> F + Send + 'static)
    where
        F: Future<Output = Result<(), SendError>> + Send + 'static,
    {
        let sending = self.runtime.spawn(async move {
            for number in 0..=RETRY_PAUSES.len() {
                match attempt().await {
                    Ok(()) => return tracing::info!("{what} sent"),
                    Err(error) => match RETRY_PAUSES.get(number).filter(|_| error.temporary) {
                        Some(pause) => {
                            tracing::warn!("{what} not sent: {}; next attempt in {pause:?}", error.reason);
                            tokio::time::sleep(*pause).await;
                        }
                        None => return tracing::error!("{what} not sent: {}", error.reason),
                    },
                }
            }
        });
        let mut all = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| !other.is_finished());
        all.push(sending);
    }

    /// Waits until notifications are sent, for [`FINISH_TIME`] at most.
    pub(super) async fn finish(&self) {
        let sending = std::mem::take(&mut *self.sending.lock().unwrap_or_else(PoisonError::into_inner));
        let all = async {
            for one in sending {
                // A panic was logged.
                let _ = one.await;
            }
        };
        if tokio::time::timeout(FINISH_TIME, all).await.is_err() {
            tracing::error!("the service stops before all notifications are sent");
        }
    }
}

/// Why a notification was not sent.
struct SendError {
    /// Whether another attempt may succeed.
    temporary: bool,
    reason: String,
}

/// The address of a run's page.
fn link(server: &Server, run: &str) -> String {
    let base = server.url.clone().unwrap_or_else(|| format!("http://{}", server.address));
    format!("{base}/runs/{run}")
}

/// Whether another attempt would fail too.
fn is_permanent(error: &lettre::transport::smtp::Error) -> bool {
    error.is_permanent() || error.is_tls() || error.is_client()
}

/// The server's words, without what it was sent.
fn reason(error: &lettre::transport::smtp::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// A mail about a run, as text and as HTML.
#[derive(Template)]
#[template(path = "mail.txt")]
struct TextMail<'a> {
    mail: &'a MailText<'a>,
}

#[derive(Template)]
#[template(path = "mail.html")]
struct HtmlMail<'a> {
    mail: &'a MailText<'a>,
}

struct MailText<'a> {
    connection: &'a str,
    run: &'a Run,
    outcome: &'static str,
    goals: Vec<MailGoal<'a>>,
    link: &'a str,
}

struct MailGoal<'a> {
    entry: &'a HistoryEntry,
    /// `failed` or `stopped`; absent if it succeeded.
    status: Option<&'static str>,
    /// What was not taken: how often, why, and where first.
    faults: Vec<String>,
}

fn mail(
    connection: &Connection,
    finished: &FinishedRun,
    link: &str,
    smtp: &Smtp,
    to: &[Mailbox],
) -> Result<Message, Error> {
    let outcome = match (finished.stopped, finished.failed) {
        (true, _) => "was stopped",
        (_, true) => "failed",
        _ => "succeeded",
    };
    let goals = finished.goals.iter().map(|entry| MailGoal {
        entry,
        status: (entry.report.status == Status::Failed).then_some(if entry.interrupted {
            "stopped"
        } else {
            "failed"
        }),
        faults: entry.report.fault_lines(MAX_FAULTS).iter().map(|line| plain(line).into_owned()).collect(),
    });
    let text =
        MailText { connection: &connection.name, run: &finished.run, outcome, goals: goals.collect(), link };
    let failed = |error: String| Error::Failed(format!("[notify] of {}: {error}", connection.name));
    let words = TextMail { mail: &text }.render().map_err(|error| failed(error.to_string()))?;
    let html = HtmlMail { mail: &text }.render().map_err(|error| failed(error.to_string()))?;
    // The subject is one line, also if the name has a line break.
    let name: String = connection.name.chars().filter(|character| !character.is_control()).collect();
    let mut message = Message::builder()
        .from(smtp.from.clone())
        .subject(format!("Sluicebox: {name} {outcome}"))
        .header(lettre::message::header::ContentTransferEncoding::QuotedPrintable);
    for address in to {
        message = message.to(address.clone());
    }
    message
        .multipart(MultiPart::alternative_plain_html(words, html))
        .map_err(|error| failed(error.to_string()))
}

fn transport(root: &Path, smtp: &Smtp) -> Result<AsyncSmtpTransport<Tokio1Executor>, Error> {
    let failed = |error: lettre::transport::smtp::Error| Error::Failed(format!("[smtp]: {error}"));
    let parameters = || {
        let mut parameters = TlsParameters::builder(smtp.host.clone());
        if let Some(path) = &smtp.ca {
            let pem = std::fs::read(path).map_err(|error| Error::io(path, error))?;
            parameters = parameters.add_root_certificate(Certificate::from_pem(&pem).map_err(failed)?);
        }
        parameters.build().map_err(failed)
    };
    let tls = match smtp.security {
        Security::StartTls => Tls::Required(parameters()?),
        Security::Tls => Tls::Wrapper(parameters()?),
        Security::None => Tls::None,
    };
    let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&smtp.host)
        .port(smtp.port)
        .tls(tls)
        .timeout(Some(SEND_TIME));
    if let Some((user, password)) = &smtp.login {
        transport = transport.credentials(Credentials::new(user.clone(), password.text(root)?));
    }
    Ok(transport.build())
}

/// A call of a webhook, signed as <https://www.standardwebhooks.com> says.
#[derive(Clone)]
struct WebhookCall {
    url: Url,
    /// Where it may go besides public addresses.
    egress: Vec<EgressRule>,
    key: Option<Vec<u8>>,
    id: String,
    body: String,
}

impl WebhookCall {
    fn new(
        config: &Config,
        connection: &Connection,
        finished: &FinishedRun,
        link: &str,
        webhook: &Webhook,
    ) -> Result<Self, Error> {
        let status = if finished.failed { "failed" } else { "succeeded" };
        let goals = finished.goals.iter().map(|entry| &entry.report).collect::<Vec<_>>();
        let body = json!({
            "type": format!("run.{status}"),
            "timestamp": Timestamp::now().to_string(),
            "data": {
                "run": finished.run.id, "connection": connection.name, "status": status, "trigger": finished.run.trigger,
                "continues": finished.run.continues, "url": link, "goals": goals,
            },
        });
        let key =
            webhook.secret.as_ref().map(|secret| secret.text(&config.root)).transpose()?.map(|secret| {
                let encoded = secret.strip_prefix("whsec_").and_then(|encoded| STANDARD.decode(encoded).ok());
                encoded.unwrap_or_else(|| secret.into_bytes())
            });
        // The parser's words would quote an address that may hold a secret.
        let url = webhook.url.text(&config.root)?.parse::<Url>();
        let url = url.map_err(|_| {
            Error::Failed(format!("the webhook of {} is not a valid address", connection.name))
        })?;
        Ok(Self {
            url,
            egress: config.settings.server.egress_allow.clone(),
            key,
            // The same for every attempt: a receiver recognizes a repeated call.
            id: format!("msg_{}", finished.run.id),
            body: body.to_string(),
        })
    }

    /// A client that connects to the addresses that the host has now, and that may be reached, and to no other.
    async fn client(&self) -> Result<reqwest::Client, SendError> {
        let destination = egress::resolve(&self.url, &self.egress).await.map_err(|error| SendError {
            temporary: matches!(error, EgressError::Unresolved),
            reason: error.to_string(),
        })?;
        // One TLS provider for all clients; it may be installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .timeout(SEND_TIME)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .resolve_to_addrs(&destination.host, &destination.addresses);
        client.build().map_err(|error| SendError { temporary: false, reason: error.to_string() })
    }

    async fn send(&self) -> Result<(), SendError> {
        let at = Timestamp::now().as_second().to_string();
        let client = self.client().await?;
        let mut request = client
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header("user-agent", concat!("sluicebox/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", &self.id)
            .header("webhook-timestamp", &at);
        if let Some(key) = &self.key {
            request = request.header("webhook-signature", signature(key, &self.id, &at, &self.body));
        }
        let answer = request.body(self.body.clone()).send().await;
        // The address may hold a secret.
        let answer =
            answer.map_err(|error| SendError { temporary: true, reason: error.without_url().to_string() })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let temporary = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
        Err(SendError { temporary, reason: format!("it answered {status}") })
    }
}

/// HMAC-SHA256 over id, time and body.
fn signature(key: &[u8], id: &str, at: &str, body: &str) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        never!(true, "HMAC refused the length of a key");
        return String::new();
    };
    mac.update(format!("{id}.{at}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_the_standard() {
        // The example of the specification's reference libraries.
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = r#"{"test": 2432232314}"#;
        let signed = signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
