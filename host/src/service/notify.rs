//! Tells people and programs how a run ended: by mail, and by a webhook.

use std::collections::BTreeMap;
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
use serde_json::json;
use sha2::Sha256;
use sluicebox_model::RejectionCode;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::config::{Config, Connection, Security, Server, Smtp, Webhook};
use crate::error::Error;
use crate::rejected;
use crate::report::{Kept, Run, Status};

/// Waits before each try after the first.
const AGAIN_AFTER: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(120)];
/// Whoever does not answer for this long is tried again later.
const PATIENCE: Duration = Duration::from_secs(20);
/// The service ends after so long, whoever is still to be told.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Rejected rows of a goal that a mail gives the reasons of.
const REASONS: usize = 5;

/// How a run ended.
pub(super) struct Ended {
    pub run: Run,
    pub failed: bool,
    /// Somebody stopped it.
    pub stopped: bool,
    pub goals: Vec<Kept>,
}

/// Sends in the background: a run does not wait for a mail server.
pub(super) struct Notifier {
    runtime: Handle,
    sending: Mutex<Vec<JoinHandle<()>>>,
}

impl Notifier {
    pub(super) fn new(runtime: Handle) -> Self {
        Self { runtime, sending: Mutex::default() }
    }

    /// Tells those whom the connection names.
    pub(super) fn tell(&self, config: &Config, connection: &Connection, ended: Ended) {
        let Some(notify) = connection.notify.as_ref().filter(|notify| ended.failed || notify.every_run)
        else {
            return;
        };
        // What sends is made here and used there.
        let _inside = self.runtime.enter();
        let link = link(&config.settings.server, &ended.run.id);
        if let Some(smtp) = config.settings.smtp.as_ref().filter(|_| !notify.email.is_empty()) {
            let mail = mail(config, connection, &ended, &link, smtp, &notify.email);
            let sender = transport(&config.root, smtp);
            match mail.and_then(|mail| Ok((mail, sender?))) {
                Ok((mail, sender)) => self.send("e-mail", move || {
                    let (mail, sender) = (mail.clone(), sender.clone());
                    async move {
                        let sent = sender.send(mail).await;
                        let unsent = |error| Unsent { again: !permanent(&error), why: reason(&error) };
                        sent.map(|_| ()).map_err(unsent)
                    }
                }),
                Err(error) => tracing::error!(%error, "no e-mail can be sent"),
            }
        }
        if let Some(webhook) = &notify.webhook {
            match Call::new(&config.root, connection, &ended, &link, webhook) {
                Ok(call) => self.send("webhook", move || {
                    let call = call.clone();
                    async move { call.make().await }
                }),
                Err(error) => tracing::error!(%error, "the webhook cannot be called"),
            }
        }
    }

    fn send<F>(&self, what: &'static str, try_once: impl Fn() -> F + Send + 'static)
    where
        F: Future<Output = Result<(), Unsent>> + Send + 'static,
    {
        let sending = self.runtime.spawn(async move {
            for number in 0..=AGAIN_AFTER.len() {
                match try_once().await {
                    Ok(()) => return tracing::info!("{what} sent"),
                    Err(unsent) => match AGAIN_AFTER.get(number).filter(|_| unsent.again) {
                        Some(wait) => {
                            tracing::warn!("{what} not sent: {}; tried again in {wait:?}", unsent.why);
                            tokio::time::sleep(*wait).await;
                        }
                        None => return tracing::error!("{what} not sent: {}", unsent.why),
                    },
                }
            }
        });
        let mut all = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| !other.is_finished());
        all.push(sending);
    }

    /// Waits for what is under way, but not for ever.
    pub(super) async fn finish(&self) {
        let sending = std::mem::take(&mut *self.sending.lock().unwrap_or_else(PoisonError::into_inner));
        let all = async {
            for one in sending {
                // One that panicked has said so.
                let _ = one.await;
            }
        };
        if tokio::time::timeout(LAST_WORDS, all).await.is_err() {
            tracing::error!("the service ends before everybody is told");
        }
    }
}

/// Why something was not sent, and whether it may be if tried again.
struct Unsent {
    again: bool,
    why: String,
}

/// Where people see a run.
fn link(server: &Server, run: &str) -> String {
    let base = server.url.clone().unwrap_or_else(|| format!("http://{}", server.address));
    format!("{base}/runs/{run}")
}

/// Whether the server will say the same the next time.
fn permanent(error: &lettre::transport::smtp::Error) -> bool {
    error.is_permanent() || error.is_tls() || error.is_client()
}

/// What the server said, without what it was sent.
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
    kept: &'a Kept,
    failed: bool,
    /// First rejected rows: where, and why.
    reasons: Vec<String>,
}

fn mail(
    config: &Config,
    connection: &Connection,
    ended: &Ended,
    link: &str,
    smtp: &Smtp,
    to: &[Mailbox],
) -> Result<Message, Error> {
    let outcome = match (ended.stopped, ended.failed) {
        (true, _) => "was stopped",
        (_, true) => "failed",
        _ => "succeeded",
    };
    let goals = ended.goals.iter().map(|kept| MailGoal {
        kept,
        failed: kept.report.status == Status::Failed,
        reasons: first_reasons(config, kept),
    });
    let text =
        MailText { connection: &connection.name, run: &ended.run, outcome, goals: goals.collect(), link };
    let failed = |error: String| Error::Failed(format!("[notify] of {}: {error}", connection.name));
    let plain = TextMail { mail: &text }.render().map_err(|error| failed(error.to_string()))?;
    let html = HtmlMail { mail: &text }.render().map_err(|error| failed(error.to_string()))?;
    // A subject is one line, whatever a connection is called.
    let name: String = connection.name.chars().filter(|character| !character.is_control()).collect();
    let mut message = Message::builder()
        .from(smtp.from.clone())
        .subject(format!("Sluicebox: {name} {outcome}"))
        .header(lettre::message::header::ContentTransferEncoding::QuotedPrintable);
    for address in to {
        message = message.to(address.clone());
    }
    message
        .multipart(MultiPart::alternative_plain_html(plain, html))
        .map_err(|error| failed(error.to_string()))
}

/// Where the first rejected rows are, and why they were: never what is in them. The words of a processor may quote a cell, so
/// that its code must do.
fn first_reasons(config: &Config, kept: &Kept) -> Vec<String> {
    let own = [
        RejectionCode::Ragged,
        RejectionCode::Encoding,
        RejectionCode::Nul,
        RejectionCode::CellTooLong,
        RejectionCode::Quote,
        RejectionCode::Ambiguous,
    ];
    let folder = rejected::folder(config, &kept.report.run);
    let mut reasons = Vec::new();
    for (name, _) in &kept.rejected_files {
        let file = folder.join(name);
        let enough = || Error::Interrupted;
        // Its end is that there are enough, or that the file was taken away.
        let _ = rejected::read(&file, &rejected::options(config, &file), |columns, cells| {
            let row: BTreeMap<&str, &str> =
                columns.iter().map(String::as_str).zip(cells.iter().copied()).collect();
            let cell = |name| row.get(name).copied().unwrap_or_default();
            let code = cell("_code");
            let why = match own.iter().any(|own| own.as_str() == code) {
                true => cell("_reason").to_owned(),
                false => format!("rejected by a processor ({code})"),
            };
            reasons.push(format!("{}, line {}: {why}", cell("_file"), cell("_line")));
            if reasons.len() < REASONS { Ok(()) } else { Err(enough()) }
        });
    }
    reasons
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
        .timeout(Some(PATIENCE));
    if let Some((user, password)) = &smtp.login {
        transport = transport.credentials(Credentials::new(user.clone(), password.text(root)?));
    }
    Ok(transport.build())
}

/// A call of a webhook, signed as <https://www.standardwebhooks.com> says.
#[derive(Clone)]
struct Call {
    client: reqwest::Client,
    url: String,
    key: Option<Vec<u8>>,
    id: String,
    body: String,
}

impl Call {
    fn new(
        root: &Path,
        connection: &Connection,
        ended: &Ended,
        link: &str,
        webhook: &Webhook,
    ) -> Result<Self, Error> {
        // TLS of one kind for all; the second call finds it there.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let failed =
            |error: reqwest::Error| Error::Failed(format!("the webhook of {}: {error}", connection.name));
        let client = reqwest::Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none());
        let status = if ended.failed { "failed" } else { "succeeded" };
        let goals = ended.goals.iter().map(|kept| &kept.report).collect::<Vec<_>>();
        let body = json!({
            "type": format!("run.{status}"),
            "timestamp": Timestamp::now().to_string(),
            "data": {
                "run": ended.run.id, "connection": connection.name, "status": status, "trigger": ended.run.trigger,
                "continues": ended.run.continues, "url": link, "goals": goals,
            },
        });
        let key = webhook.secret.as_ref().map(|secret| secret.text(root)).transpose()?.map(|secret| {
            let encoded = secret.strip_prefix("whsec_").and_then(|encoded| STANDARD.decode(encoded).ok());
            encoded.unwrap_or_else(|| secret.into_bytes())
        });
        Ok(Self {
            client: client.build().map_err(failed)?,
            url: webhook.url.text(root)?,
            key,
            // Of every try the same: who hears twice knows it.
            id: format!("msg_{}", ended.run.id),
            body: body.to_string(),
        })
    }

    async fn make(&self) -> Result<(), Unsent> {
        let at = Timestamp::now().as_second().to_string();
        let mut request = self
            .client
            .post(&self.url)
            .header("content-type", "application/json")
            .header("user-agent", concat!("sluicebox/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", &self.id)
            .header("webhook-timestamp", &at);
        if let Some(key) = &self.key {
            request = request.header("webhook-signature", signature(key, &self.id, &at, &self.body));
        }
        let answer = request.body(self.body.clone()).send().await;
        // Its address may have a secret in it.
        let answer = answer.map_err(|error| Unsent { again: true, why: error.without_url().to_string() })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let again = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
        Err(Unsent { again, why: format!("it answered {status}") })
    }
}

/// HMAC-SHA256 over id, time and body.
fn signature(key: &[u8], id: &str, at: &str, body: &str) -> String {
    // A key of any length will do for HMAC.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return String::new() };
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
