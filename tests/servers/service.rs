//! A service that is started for one test, and an HTTP client.

use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tokio::runtime::Runtime;

use crate::workspace::wait::{Lines, PATIENCE, wait_for, wait_for_exit};
use crate::workspace::{Workspace, finish, kill_when, moved_so_far};

/// A running service. It is killed at the end.
pub(crate) struct Service {
    pub(crate) url: String,
    process: Child,
    log: Lines,
    /// Sent with each request that has no other.
    token: Option<String>,
    runtime: Runtime,
    client: reqwest::Client,
}

/// The answer to a request.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text))
    }
}

#[cfg_attr(test, expect(dead_code, reason = "not every test needs every way to ask"))]
impl Service {
    pub(crate) fn start(workspace: &Workspace) -> Self {
        Self::start_with(workspace.command(&["serve", "--address", "127.0.0.1:0", "--log-format", "json"]))
    }

    /// Starts with the wall clock at a time.
    pub(crate) fn start_at(workspace: &Workspace, time: &str) -> Self {
        let mut command = workspace.command(&["serve", "--address", "127.0.0.1:0", "--log-format", "json"]);
        let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
        assert!(std::path::Path::new(&library).exists(), "`cargo xtask test` installs faketime");
        // Only the wall clock: pauses keep their length.
        command.env("LD_PRELOAD", library).env("FAKETIME", format!("@{time}")).env("TZ", "UTC");
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        Self::start_with(command)
    }

    pub(crate) fn start_with(mut command: Command) -> Self {
        // One TLS provider for all clients; it may be installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Workspace::lines("the log of the service", process.stderr.take().unwrap());
        let mut stdout = Workspace::lines("the output of the service", process.stdout.take().unwrap());
        let line = stdout.next().unwrap_or_default();
        let Some(url) = line.strip_prefix("listening on ").map(str::to_owned) else {
            let _ = process.kill();
            panic!("{line}\n{}", log.collect::<Vec<_>>().join("\n"))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { url, process, log, token: None, runtime, client }
    }

    /// Sends a token with each request.
    pub(crate) fn with_token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The most memory that it has taken so far, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], None)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, &[("content-type", "application/json")], Some(&body.to_string()))
    }

    /// Sends a request and waits for the answer.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Answer {
        self.runtime.block_on(async {
            let url = format!("{}{path}", self.url);
            let mut request = self.client.request(method.parse().unwrap(), url).timeout(PATIENCE);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            if let Some(token) = &self.token {
                request = request.bearer_auth(token);
            }
            let response = request.body(body.unwrap_or_default().to_owned()).send().await.unwrap();
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            Answer { status, headers, text: response.text().await.unwrap() }
        })
    }

    /// Follows the events until a status matches, and answers with it.
    pub(crate) fn wait_until(&self, is_so: impl Fn(&Value) -> bool) -> Value {
        self.watch(&is_so).expect("the service ended before the status matched")
    }

    /// The same; `None` if the events end first.
    pub(crate) fn watch(&self, is_so: &impl Fn(&Value) -> bool) -> Option<Value> {
        let followed = async {
            let mut request = self.client.get(format!("{}/api/v1/events", self.url));
            if let Some(token) = &self.token {
                request = request.bearer_auth(token);
            }
            let mut events = request.send().await.ok()?;
            let mut text = String::new();
            while let Some(part) = events.chunk().await.ok()? {
                text.push_str(std::str::from_utf8(&part).unwrap());
                while let Some((event, rest)) = text.split_once("\n\n") {
                    let data = event
                        .lines()
                        .find_map(|line| line.strip_prefix("data: ").or(line.strip_prefix("data:")));
                    let status = data.map(|data| serde_json::from_str::<Value>(data).unwrap());
                    if let Some(status) = status.filter(|status| is_so(status)) {
                        return Some(status);
                    }
                    text = rest.to_owned();
                }
            }
            None
        };
        let followed = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, followed).await });
        followed.unwrap_or_else(|_| panic!("waited {} s for a status of the service", PATIENCE.as_secs()))
    }

    /// Waits until the queue is empty.
    pub(crate) fn wait_until_idle(&self) {
        self.wait_until(|status| status["queue"].as_array().unwrap().is_empty());
    }

    /// The goal runs of the history, the oldest first.
    pub(crate) fn runs(&self) -> Vec<Value> {
        let mut runs = self.get("/api/v1/runs?count=1000").json().as_array().unwrap().clone();
        runs.reverse();
        runs
    }

    /// Kills it after it has read and written this many bytes more.
    pub(crate) fn kill_after(mut self, bytes: u64) {
        let from = moved_so_far(&self.process);
        kill_when(&mut self.process, |process| moved_so_far(process) >= from + bytes);
    }

    /// Kills it after it has read and written this many bytes more, or when no run is left. Returns whether none was.
    pub(crate) fn kill_after_or_idle(mut self, bytes: u64) -> bool {
        let from = moved_so_far(&self.process);
        let is_idle = wait_for("the moment to kill the service", || {
            if moved_so_far(&self.process) >= from + bytes {
                return Some(false);
            }
            (self.get("/api/v1/status").json()["queue"] == serde_json::json!([])).then_some(true)
        });
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        is_idle
    }

    /// Stops the service with SIGTERM. Returns the exit code and the rest of the log.
    pub(crate) fn stop(mut self) -> (Option<i32>, Vec<String>) {
        let terminated = finish(Command::new("kill").arg(self.process.id().to_string()));
        assert_eq!(terminated.code, 0, "{}", terminated.stderr);
        let code = wait_for_exit(&mut self.process, "the service").code();
        (code, self.log.by_ref().collect())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
