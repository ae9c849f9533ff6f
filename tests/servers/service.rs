//! The service itself, started for one test, and an HTTP client that asks it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tokio::runtime::Runtime;

use crate::workspace::{Workspace, kill_when, moved_so_far};

/// Longer than anything that a test waits for.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Service {
    pub(crate) url: String,
    process: Child,
    log: Receiver<String>,
    runtime: Runtime,
    client: reqwest::Client,
}

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

impl Service {
    pub(crate) fn start(workspace: &Workspace) -> Self {
        Self::start_with(workspace.command(&["serve", "--address", "127.0.0.1:0", "--log-format", "json"]))
    }

    /// As if it were then, by the clock of the wall.
    pub(crate) fn start_at(workspace: &Workspace, time: &str) -> Self {
        let mut command = workspace.command(&["serve", "--address", "127.0.0.1:0", "--log-format", "json"]);
        let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
        assert!(std::path::Path::new(&library).exists(), "`cargo xtask test` installs faketime");
        // Only the clock of the wall: what waits, waits as long as it says.
        command.env("LD_PRELOAD", library).env("FAKETIME", format!("@{time}")).env("TZ", "UTC");
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        Self::start_with(command)
    }

    pub(crate) fn start_with(mut command: Command) -> Self {
        // TLS of one kind for all; the second call finds it there.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = follow(process.stderr.take().unwrap());
        let mut line = String::new();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").map(str::to_owned);
        let url = url.unwrap_or_else(|| panic!("{line}{}", log.iter().collect::<Vec<_>>().join("\n")));
        thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { url, process, log, runtime, client }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], None)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, &[("content-type", "application/json")], Some(&body.to_string()))
    }

    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Answer {
        self.runtime.block_on(async {
            let mut request = self.client.request(method.parse().unwrap(), format!("{}{path}", self.url));
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let response = request.body(body.unwrap_or_default().to_owned()).send().await.unwrap();
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            Answer { status, headers, text: response.text().await.unwrap() }
        })
    }

    /// Follows what the service does until it is so, and answers with what it was then.
    pub(crate) fn wait_until(&self, is_so: impl Fn(&Value) -> bool) -> Value {
        self.watch(&is_so).expect("the service ended before it was so")
    }

    /// The same; `None` if the service ends first.
    pub(crate) fn watch(&self, is_so: &impl Fn(&Value) -> bool) -> Option<Value> {
        let followed = async {
            let mut events = self.client.get(format!("{}/api/v1/events", self.url)).send().await.ok()?;
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
        // A test that waits for what does not come ends all the same.
        let followed = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, followed).await });
        followed.expect("what the test waits for did not come")
    }

    /// Until nothing runs and nothing waits.
    pub(crate) fn wait_until_idle(&self) {
        self.wait_until(|status| status["queue"].as_array().unwrap().is_empty());
    }

    /// The goal runs of the history, oldest first.
    pub(crate) fn runs(&self) -> Vec<Value> {
        let mut runs = self.get("/api/v1/runs?count=1000").json().as_array().unwrap().clone();
        runs.reverse();
        runs
    }

    /// Kills it when it has read and written so many bytes more.
    pub(crate) fn kill_after(mut self, bytes: u64) {
        let from = moved_so_far(&self.process);
        kill_when(&mut self.process, |process| moved_so_far(process) >= from + bytes);
    }

    /// SIGTERM; answers with the exit code and the rest of the log.
    pub(crate) fn stop(mut self) -> (Option<i32>, Vec<String>) {
        let terminated = Command::new("kill").arg(self.process.id().to_string()).status().unwrap();
        assert!(terminated.success());
        let code = self.process.wait().unwrap().code();
        (code, self.log.iter().collect())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn follow(stderr: ChildStderr) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            // Nobody may listen any more.
            let _ = sender.send(line);
        }
    });
    receiver
}
