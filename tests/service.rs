//! The service: schedules, notifications, access, limits.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails says where"
)]

mod page;
#[path = "servers/service.rs"]
mod service;
mod workspace;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use service::Service;
use sha2::Sha256;
use workspace::Workspace;
use workspace::wait::{Lines, PATIENCE, wait_for};

/// Rows of a file whose import takes a while where each hundred are a commit.
const LONG: u64 = 300_000;
const SCHEMA: &str = "# our customers\n[properties.email]\nunique = true\n[properties.name]\n[properties.spent]\ntype = 'number'\n";

const TOKEN: &str = "0123456789abcdef-anna";

fn connection(more: &str) -> String {
    format!(
        "# ours\nname = 'Shop' # as people say\n{more}\n[location]\nkind = 'directory'\npath = 'exchange'\n\
         [[import_profiles]]\nname = 'customers'\nfiles = '*.csv'\nsettle = '0s'\n\
         [[import_profiles.identifiers]]\ncolumn = 'email'\nproperty = 'email'\n\
         [[import_profiles.fields]]\ncolumn = 'name' # given and family\n\
         [[import_profiles.fields]]\ncolumn = 'spent'\nrule = 'sum'\n"
    )
}

fn workspace(more: &str) -> Workspace {
    let workspace = Workspace::empty();
    workspace.write("sluicebox.toml", "");
    workspace.write("schema.toml", SCHEMA);
    workspace.write("connections/shop.toml", connection(more));
    workspace.write("exchange/a.csv", "email,name,spent\nann@example.com,Ann,1.50\nbob@example.com,Bob,2\n");
    workspace
}

fn find<'r>(runs: &'r [Value], trigger: &str) -> Vec<&'r Value> {
    runs.iter().filter(|run| run["trigger"] == trigger).collect()
}

#[test]
fn a_connection_runs_when_it_is_due_and_a_missed_run_is_made_up_once() {
    let daily = "[schedule]\ntimes_per_day = 1\ntime = '02:00'\ntimezone = 'UTC'";
    let workspace = workspace(daily);
    let service = Service::start_at(&workspace, "2026-03-01 01:59:58");
    let runs = wait_for_runs(&service, 1);
    assert_eq!(runs.len(), 1, "{runs:?}");
    assert_eq!(find(&runs, "schedule").len(), 1, "{runs:?}");
    assert_eq!(runs[0]["rows"]["merged"], 2);
    let next = service.get("/api/v1/schedule?count=1").json();
    assert_eq!(next[0], json!({ "at": "2026-03-02T02:00:00Z", "connection": "shop" }));
    assert_eq!(service.stop().0, Some(0));

    // Three runs are missed.
    let service = Service::start_at(&workspace, "2026-03-04 12:00:00");
    let runs = wait_for_runs(&service, 2);
    assert_eq!(find(&runs, "missed").len(), 1, "{runs:?}");
    assert_eq!(service.stop().0, Some(0));

    // A missed run is made up once.
    let service = Service::start_at(&workspace, "2026-03-04 13:00:00");
    let next = service.get("/api/v1/schedule?count=1").json();
    assert_eq!(next[0]["at"], "2026-03-05T02:00:00Z");
    assert_eq!(service.runs().len(), 2);
}

/// The history, once it has this many runs and all have ended.
fn wait_for_runs(service: &Service, count: usize) -> Vec<Value> {
    wait_for(&format!("{count} runs to end"), || {
        let runs = service.runs();
        (runs.len() >= count && runs.iter().all(|run| run["status"] != "running")).then_some(runs)
    })
}

#[test]
fn connections_that_are_due_together_queue() {
    let workspace = workspace("[schedule]\ntimes_per_day = 1\ntime = '02:00'");
    workspace.write(
        "connections/other.toml",
        connection("[schedule]\ntimes_per_day = 1\ntime = '02:00'")
            .replace("Shop", "Other")
            .replace("exchange", "more"),
    );
    workspace.write("more/b.csv", "email,name,spent\ncho@example.com,Cho,3\n");
    let service = Service::start_at(&workspace, "2026-03-01 01:59:58");
    let runs = wait_for_runs(&service, 2);
    let mut connections: Vec<&str> = runs.iter().map(|run| run["connection"].as_str().unwrap()).collect();
    connections.sort_unstable();
    assert_eq!(connections, ["Other", "Shop"]);
    assert!(runs.iter().all(|run| run["status"] == "succeeded" && run["trigger"] == "schedule"), "{runs:?}");
}

#[test]
fn a_service_that_is_killed_ten_times_in_a_scheduled_run_counts_nothing_twice() {
    const ROWS: usize = 400_000;
    let make = || {
        let workspace = workspace("[schedule]\ntimes_per_day = 1\ntime = '02:00'");
        workspace.write("sluicebox.toml", "[import]\ncommit_rows = 100\nbatch_rows = 100\n");
        let mut csv = String::from("email,name,spent\n");
        for row in 0..ROWS {
            csv.push_str(&format!("c{}@x.example,N{},0.{:02}\n", row * 7919 % 5003, row % 7, row % 100));
        }
        workspace.write("exchange/a.csv", csv);
        workspace
    };
    let profiles = |workspace: &Workspace| {
        let listed = workspace.sluicebox(&["profile", "list", "--json"]).stdout;
        let properties = |line: &str| serde_json::from_str::<Value>(line).unwrap()["properties"].to_string();
        let mut profiles: Vec<String> = listed.lines().map(properties).collect();
        profiles.sort();
        profiles
    };
    let whole = make();
    let moved = whole.moved_by(&["run"]);

    let killed = make();
    for kill in 0..10_u64 {
        let service = Service::start_at(&killed, "2026-03-01 01:59:59");
        service.wait_until(|status| status["queue"][0]["running"] == true);
        service.kill_after(moved * (2 + kill * 7919 % 14) / 100);
    }
    let service = Service::start_at(&killed, "2026-03-01 02:10:00");
    service.wait_until_idle();
    let runs = service.runs();
    drop(service);

    assert_eq!(profiles(&killed), profiles(&whole));
    let read: u64 = runs.iter().map(|run| run["rows"]["read"].as_u64().unwrap()).sum();
    assert_eq!(read, ROWS as u64, "{runs:?}");
    assert!(runs.len() > 5, "only {} of 10 kills met a run", runs.len() - 1);
    // Each run ended once: the last succeeded, those before were interrupted, and each continues the one before.
    let (last, before) = runs.split_last().unwrap();
    assert_eq!((&last["status"], &last["interrupted"]), (&json!("succeeded"), &json!(false)), "{runs:?}");
    assert!(before.iter().all(|run| run["status"] == "failed" && run["interrupted"] == true), "{runs:?}");
    assert_eq!(runs[0]["trigger"], "schedule");
    for pair in runs.windows(2) {
        assert_eq!(pair[1]["continues"], pair[0]["run"], "{runs:?}");
        assert_eq!(pair[1]["trigger"], "continuation");
    }
}

#[test]
fn a_run_that_sigterm_interrupts_continues_at_the_next_start() {
    let workspace = workspace("");
    workspace.write("sluicebox.toml", "[import]\ncommit_rows = 100\nbatch_rows = 100\n");
    let rows: String = (0..LONG).map(|row| format!("c{row}@x.example,N,1\n")).collect();
    workspace.write("exchange/a.csv", format!("email,name,spent\n{rows}"));
    let service = Service::start(&workspace);
    let started = service.post("/api/v1/connections/shop/runs", &json!({}));
    assert_eq!(started.status, 202, "{}", started.text);
    let again = service.post("/api/v1/connections/shop/runs", &json!({}));
    assert_eq!(again.status, 409, "{}", again.text);
    service.wait_until(|status| status["live"]["rows"].as_u64().unwrap() > 400);
    let (code, log) = service.stop();
    assert_eq!(code, Some(0), "{log:?}");

    let service = Service::start(&workspace);
    service.wait_until_idle();
    let runs = service.runs();
    let read: u64 = runs.iter().map(|run| run["rows"]["read"].as_u64().unwrap()).sum();
    assert_eq!((runs.len(), read), (2, LONG), "{runs:?}");
    assert_eq!((&runs[0]["interrupted"], &runs[1]["status"]), (&json!(true), &json!("succeeded")));
    assert_eq!(runs[1]["continues"], runs[0]["run"]);
    // A profile is counted once.
    let exchanged = service.get("/api/v1/connections/shop").json()["exchanged"].clone();
    let imported = exchanged["imported"].as_f64().unwrap();
    assert!((imported / 300_000.0 - 1.0).abs() < 0.03, "{exchanged}");
}

#[test]
fn a_user_stops_the_current_run_and_a_queued_one() {
    let workspace = workspace("");
    workspace.write("sluicebox.toml", "[import]\ncommit_rows = 100\nbatch_rows = 100\n[server]\nruns = 1\n");
    let rows: String = (0..LONG).map(|row| format!("c{row}@x.example,N,1\n")).collect();
    workspace.write("exchange/a.csv", format!("email,name,spent\n{rows}"));
    workspace
        .write("connections/other.toml", connection("").replace("Shop", "Other").replace("exchange", "more"));
    workspace.write("more/b.csv", "email,name,spent\ncho@example.com,Cho,3\n");
    let service = Service::start(&workspace);
    let run = |connection: &str| {
        let started = service.post(&format!("/api/v1/connections/{connection}/runs"), &json!({})).json();
        started["run"].as_str().unwrap().to_owned()
    };
    let first = run("shop");
    service.wait_until(|status| status["live"]["rows"].as_u64().unwrap() > 200);
    let second = run("other");
    assert_eq!(service.ask("DELETE", &format!("/api/v1/runs/{second}"), &[], None).status, 202);
    assert_eq!(service.ask("DELETE", &format!("/api/v1/runs/{first}"), &[], None).status, 202);
    service.wait_until_idle();
    let runs = service.runs();
    assert_eq!(runs.len(), 1, "{runs:?}");
    assert_eq!((&runs[0]["run"], &runs[0]["error"]), (&json!(first), &json!("interrupted")));
    assert_eq!(service.ask("DELETE", &format!("/api/v1/runs/{first}"), &[], None).status, 404);
    drop(service);
    // A stopped run does not continue.
    let service = Service::start(&workspace);
    assert_eq!(service.get("/api/v1/status").json()["queue"], json!([]));
}

/// Starts a run of a connection, and answers with its id.
fn start_run(service: &Service, connection: &str) -> String {
    let started = service.post(&format!("/api/v1/connections/{connection}/runs"), &json!({})).json();
    started["run"].as_str().unwrap_or_else(|| panic!("{started}")).to_owned()
}

/// How many of the runs that a status lists are current.
fn current_runs(status: &Value) -> usize {
    status["queue"].as_array().unwrap().iter().filter(|run| run["running"] == true).count()
}

#[test]
fn connections_that_run_together_change_the_same_profiles_and_lose_nothing() {
    let workspace = workspace("");
    workspace.write(
        "sluicebox.toml",
        "[undo]\nkeep = '1d'\n[import]\ncommit_rows = 500\nbatch_rows = 100\n[server]\nruns = 3\n",
    );
    // Each connection has half of its people in common with the next one.
    let connections = ["shop", "other", "third"];
    for (number, name) in connections.iter().enumerate() {
        let text = connection("").replace("Shop", name).replace("exchange", name);
        workspace.write(&format!("connections/{name}.toml"), text);
        for file in 0..2 {
            let people = (0..20_000_u32).map(|row| row * 7919 % 20_000 + number as u32 * 10_000);
            let rows: String = people.map(|person| format!("c{person}@x.example,{name},1\n")).collect();
            workspace.write(&format!("{name}/{file}.csv"), format!("email,name,spent\n{rows}"));
        }
    }
    let service = Service::start(&workspace);
    let runs = connections.map(|connection| start_run(&service, connection));
    service.wait_until(|status| current_runs(status) == 3);
    service.wait_until_idle();
    let history = service.runs();
    assert!(history.iter().all(|run| run["status"] == "succeeded"), "{history:?}");
    let count = |name: &str| history.iter().map(|run| run["profiles"][name].as_u64().unwrap()).sum::<u64>();
    assert_eq!(count("created"), 40_000);
    for (run, connection) in runs.iter().zip(connections) {
        let found = service.get(&format!("/api/v1/runs/{run}")).json();
        assert_eq!(found[0]["connection"], connection, "{found}");
    }
    drop(service);
    assert_eq!(workspace.sluicebox(&["store", "verify"]).code, 0);
    let spent = |workspace: &Workspace| {
        let listed = workspace.sluicebox(&["profile", "list", "--json"]).stdout;
        let spent = |line: &str| {
            let profile: Value = serde_json::from_str(line).unwrap();
            let email = profile["properties"]["email"].as_str().unwrap();
            let person: u32 = email.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
            (person, profile["properties"]["spent"].as_u64().unwrap())
        };
        listed.lines().map(spent).collect::<std::collections::BTreeMap<_, _>>()
    };
    let expected = |others: &[u32]| {
        let mut spent = std::collections::BTreeMap::new();
        for first in others {
            (0..20_000).for_each(|person| *spent.entry(first * 10_000 + person).or_insert(0) += 2);
        }
        spent
    };
    assert_eq!(spent(&workspace), expected(&[0, 1, 2]));
    // The run that began last is undone, but for people that the others changed since.
    let undone = workspace.sluicebox(&["undo", &runs[2], "--json"]);
    assert_eq!(undone.code, 0, "{}{}", undone.stdout, undone.stderr);
    let report: Value = serde_json::from_str(&undone.stdout).unwrap();
    let left = report["left_alone"].as_u64().unwrap();
    let (now, without) = (spent(&workspace), expected(&[0, 1]));
    let differ = (0..40_000).filter(|person| now.get(person) != without.get(person)).count() as u64;
    assert!(differ <= left && left <= 20_000, "{differ} {left} {report}");
    assert_eq!(workspace.sluicebox(&["store", "verify"]).code, 0);
}

#[test]
fn a_service_that_is_killed_in_several_runs_counts_nothing_twice() {
    let workspace = workspace("");
    workspace.write("sluicebox.toml", "[import]\ncommit_rows = 500\nbatch_rows = 100\n[server]\nruns = 2\n");
    let connections = ["shop", "other"];
    for name in connections {
        let text = connection("").replace("Shop", name).replace("exchange", name);
        workspace.write(&format!("connections/{name}.toml"), text);
        let rows: String = (0..20_000).map(|row| format!("c{row}@x.example,{name},1\n")).collect();
        workspace.write(&format!("{name}/a.csv"), format!("email,name,spent\n{rows}"));
    }
    for kill in 0..6 {
        let service = Service::start(&workspace);
        if kill == 0 {
            connections.iter().for_each(|connection| drop(start_run(&service, connection)));
        }
        service.kill_after(400_000 + kill * 137_000);
    }
    let service = Service::start(&workspace);
    service.wait_until_idle();
    drop(service);
    let listed = workspace.sluicebox(&["profile", "list", "--json"]).stdout;
    assert_eq!(listed.lines().count(), 20_000);
    assert!(listed.lines().all(|line| line.contains("\"spent\":2,") || line.contains("\"spent\":2}")));
    assert_eq!(workspace.sluicebox(&["store", "verify"]).code, 0);
}

#[test]
fn a_bucket_that_does_not_answer_holds_up_no_other_connection_and_can_be_stopped() {
    let workspace = workspace("");
    // It accepts connections, and answers nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    workspace.write(
        "connections/dead.toml",
        format!(
            "[location]\nkind = 's3'\nbucket = 'b'\npath_style = true\nendpoint = 'http://{}'\naccess_key_id = {{ file = 'key' }}\n\
             secret_access_key = {{ file = 'key' }}\n[[import_profiles]]\nname = 'customers'\nfiles = '*.csv'\n\
             [[import_profiles.identifiers]]\ncolumn = 'email'\nproperty = 'email'\n",
            silent.local_addr().unwrap()
        ),
    );
    workspace.write("key", "0123456789abcdef");
    let service = Service::start(&workspace);
    let dead = start_run(&service, "dead");
    service.wait_until(|status| current_runs(status) == 1);
    let other = start_run(&service, "shop");
    let is_queued = |status: &Value, run: &str| {
        status["queue"].as_array().unwrap().iter().any(|queued| queued["run"] == *run)
    };
    service.wait_until(|status| !is_queued(status, &other));
    let runs = service.runs();
    let succeeded = |run: &&Value| run["run"] == other && run["status"] == "succeeded";
    assert!(runs.iter().any(|run| succeeded(&run)), "{runs:?}");
    assert_eq!(service.ask("DELETE", &format!("/api/v1/runs/{dead}"), &[], None).status, 202);
    service.wait_until_idle();
    assert!(service.runs().iter().any(|run| run["run"] == dead && run["failure"] == "stopped"));
    // A bucket that does not answer keeps the service from nothing, its end included.
    start_run(&service, "dead");
    service.wait_until(|status| current_runs(status) == 1);
    let (code, log) = service.stop();
    assert_eq!(code, Some(0), "{log:?}");
}

/// aiosmtpd, as a mail server that requires TLS and a password.
struct Mail {
    process: Child,
    port: u16,
    lines: Lines,
}

impl Mail {
    fn start(workspace: &Workspace, mode: &str) -> Self {
        let python = std::env::var_os("SLUICEBOX_SERVICE_PYTHON").expect("`cargo xtask test` sets it");
        let mut process = Command::new(python)
            .arg(Workspace::repository().join("tests/servers/smtp.py"))
            .arg(workspace.path())
            .arg(mode)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = Workspace::lines("the output of the mail server", process.stdout.take().unwrap());
        let port = lines.next().unwrap().parse().unwrap();
        Self { process, port, lines }
    }

    fn next(&mut self) -> Value {
        serde_json::from_str(&self.lines.next().unwrap()).unwrap()
    }
}

impl Drop for Mail {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn mailed(mode: &str) {
    let notify = "[notify]\nemail = ['ops@example.com', 'Data <data@example.com>']\non = 'every-run'";
    let workspace = workspace(notify);
    let mut mail = Mail::start(&workspace, mode);
    workspace.write("mail-password", "mail-secret-1234\n");
    workspace.write("token", TOKEN);
    workspace.write(
        "sluicebox.toml",
        format!(
            "[smtp]\nhost = 'localhost'\nport = {}\nsecurity = '{mode}'\nuser = 'sluicebox'\n\
             password = {{ file = 'mail-password' }}\nfrom = 'Sluicebox <sluicebox@example.com>'\nca = 'ca.pem'\n\
             [server]\nurl = 'https://cdp.example.com/'\ntoken = {{ file = 'token' }}\n",
            mail.port
        ),
    );
    workspace.write("exchange/a.csv", "email,name,spent\nann@example.com,Ann,1.50\nragged\n");
    let service = Service::start(&workspace).with_token(TOKEN);
    let run = service.post("/api/v1/connections/shop/runs", &json!({})).json()["run"].clone();
    let sent = mail.next();
    assert_eq!(sent["subject"], "Sluicebox: Shop succeeded");
    assert_eq!((&sent["encrypted"], &sent["user"]), (&json!(true), &json!("sluicebox")));
    assert_eq!(sent["to"], json!(["ops@example.com", "data@example.com"]));
    let link = format!("https://cdp.example.com/runs/{}", run.as_str().unwrap());
    for (part, words) in [
        ("text", ["2 rows (1 merged", "1 × ragged, first in a.csv, line 3", link.as_str()]),
        ("html", ["<td>2</td>", "1 × ragged, first in a.csv, line 3", link.as_str()]),
    ] {
        let text = sent[part].as_str().unwrap();
        let missing = words.iter().find(|word| !text.contains(*word));
        assert_eq!(missing, None, "{text}");
        assert!(!text.contains("ann@example.com"), "{text}");
    }

    workspace.write("exchange/b.csv", "email,nam\nx@example.com,X\n");
    service.wait_until_idle();
    service.post("/api/v1/connections/shop/runs", &json!({}));
    let sent = mail.next();
    assert_eq!(sent["subject"], "Sluicebox: Shop failed");
    assert!(sent["text"].as_str().unwrap().contains("Error: b.csv: the file has no column `name`"), "{sent}");
    let (_, log) = service.stop();
    assert!(!log.concat().contains("mail-secret"), "{log:?}");
}

#[test]
fn mail_is_sent_through_starttls() {
    mailed("starttls");
}

#[test]
fn mail_is_sent_through_tls() {
    mailed("tls");
}

#[test]
fn a_webhook_is_called_again_and_signed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let workspace = workspace(&format!(
        "[notify]\nwebhook = 'http://{address}/hook?key=in-the-address'\nwebhook_secret = {{ file = 'hook-secret' }}\non = 'every-run'"
    ));
    workspace.write("hook-secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n");
    workspace.write("exchange/b.csv", "email,name,spent\ncho@example.com,Cho,many\n");
    let service = Service::start(&workspace);
    let run = service.post("/api/v1/connections/shop/runs", &json!({})).json()["run"].clone();
    let answer = |status: &str| {
        let mut stream = Workspace::accept(&listener, "the webhook");
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            match line.trim_end().split_once(": ") {
                Some((name, value)) => headers.push((name.to_lowercase(), value.to_owned())),
                None if line.trim().is_empty() => break,
                None => {}
            }
        }
        let header = |searched: &str| {
            headers
                .iter()
                .find(|(name, _)| name == searched)
                .map(|(_, value)| value.clone())
                .unwrap_or_default()
        };
        let mut body = vec![0; header("content-length").parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        stream
            .write_all(
                format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").as_bytes(),
            )
            .unwrap();
        (
            header("webhook-id"),
            header("webhook-timestamp"),
            header("webhook-signature"),
            String::from_utf8(body).unwrap(),
        )
    };
    let (first, ..) = answer("503 Service Unavailable");
    let (second, at, signature, body) = answer("204 No Content");
    assert_eq!(first, second);
    let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(format!("{second}.{at}.{body}").as_bytes());
    assert_eq!(signature, format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())));
    let sent: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&sent["type"], &sent["data"]["run"]), (&json!("run.succeeded"), &run));
    assert_eq!(sent["data"]["goals"][0]["rows"]["merged"], 3);
    assert_eq!(
        sent["data"]["goals"][0]["faults"],
        json!([{ "code": "not-a-number", "column": "spent", "count": 1, "file": "b.csv", "line": 2 }])
    );
    let (_, log) = service.stop();
    assert!(log.iter().any(|line| line.contains("webhook not sent: it answered 503")), "{log:?}");
    assert!(!log.concat().contains("in-the-address"), "{log:?}");
}

#[test]
fn requests_without_a_token_are_refused() {
    let workspace = workspace("");
    workspace.write("token", "0123456789abcdef-anna\n");
    let refused = workspace.sluicebox(&["serve", "--address", "0.0.0.0:0"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("needs a `token`"), "{}", refused.stderr);
    // A proxy that the address leads to would open the service to everyone.
    workspace.write("sluicebox.toml", "[server]\nurl = 'https://cdp.example.com'\n");
    let refused = workspace.sluicebox(&["serve", "--address", "127.0.0.1:0"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("`url`"), "{}", refused.stderr);

    workspace.write(
        "sluicebox.toml",
        "[server]\nurl = 'https://cdp.example.com'\n[server.tokens]\nanna = { file = 'token' }\n",
    );
    let service = Service::start(&workspace);
    let status = |path: &str, headers: &[(&str, &str)]| service.ask("GET", path, headers, None).status;
    let bearer = ("authorization", "Bearer 0123456789abcdef-anna");
    for path in ["/api/v1/connections", "/api/openapi.json", "/metrics", "/api/v1/events"] {
        assert_eq!(status(path, &[]), 401, "{path}");
        assert_eq!(status(path, &[("authorization", "Bearer 0123456789abcdef-eve")]), 401, "{path}");
    }
    assert_eq!(status("/api/v1/connections", &[bearer]), 200);
    assert_eq!((status("/healthz", &[]), status("/readyz", &[])), (200, 200));
    let page = service.get("/plugins");
    assert_eq!((page.status, &page.headers["location"]), (303, &"/sign-in?next=%2Fplugins".parse().unwrap()));

    let form = [("content-type", "application/x-www-form-urlencoded")];
    let sign_in = |token: &str, next: &str| {
        service.ask("POST", "/sign-in", &form, Some(&format!("token={token}&next={next}")))
    };
    // A sign-in leads only to pages of the service; browsers remove tabs and line breaks from an address.
    for next in ["//evil.example", "/%09/evil.example", "/%0A/evil.example", "/%5Cevil.example"] {
        let signed_in = sign_in(TOKEN, next);
        assert_eq!(
            (signed_in.status, &signed_in.headers["location"]),
            (303, &"/".parse().unwrap()),
            "{next}"
        );
    }
    let signed_in = sign_in(TOKEN, "/plugins");
    assert_eq!((signed_in.status, &signed_in.headers["location"]), (303, &"/plugins".parse().unwrap()));
    let cookie = signed_in.headers["set-cookie"].to_str().unwrap();
    for word in ["HttpOnly", "SameSite=Strict", "Secure", "Path=/"] {
        assert!(cookie.contains(word), "{cookie}");
    }
    let session = ("cookie", cookie.split(';').next().unwrap());
    assert_eq!(status("/plugins", &[session]), 200);
    // A page of another site changes nothing in a browser that is signed in.
    for site in [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")] {
        let asked = service.ask("POST", "/connections/shop/run", &[session, form[0], site], Some("goal="));
        assert_eq!(asked.status, 403, "{}", asked.text);
    }
    assert_eq!(service.ask("POST", "/sign-out", &[session, form[0]], Some("")).status, 303);
    assert_eq!(status("/plugins", &[session]), 303);
    // The same wrong token again is no other guess.
    for _ in 0..15 {
        assert_eq!(sign_in("not-a-valid-token", "/").status, 403);
    }

    let policy = &page.headers["content-security-policy"];
    assert!(policy.to_str().unwrap().starts_with("default-src 'none'"), "{policy:?}");
    let log = std::fs::read_to_string(workspace.path().join("data/audit.jsonl")).unwrap();
    assert!(
        log.contains("\"who\":\"anna\"") && log.contains("sign in") && !log.contains("0123456789"),
        "{log}"
    );
}

#[test]
fn another_name_of_this_machine_gets_nothing() {
    let service = Service::start(&workspace(""));
    let host = |host: &str| service.ask("GET", "/api/v1/status", &[("host", host)], None).status;
    assert_eq!((host("localhost:7766"), host("[::1]:7766"), host("127.0.0.1")), (200, 200, 200));
    assert_eq!((host("rebound.example"), host("localhost.evil.example:80")), (421, 421));
}

#[test]
fn a_change_keeps_the_file_and_a_wrong_one_is_refused() {
    let workspace = workspace("[schedule]\nevery = '6h'");
    let service = Service::start(&workspace);
    let file = || std::fs::read_to_string(workspace.path().join("connections/shop.toml")).unwrap();
    let json_body = [("content-type", "application/json")];
    let before = file();
    let change = |path: &str, method: &str, body: Value| {
        service.ask(method, path, &json_body, Some(&body.to_string()))
    };
    let off = change("/api/v1/connections/shop", "PATCH", json!({ "enabled": false }));
    assert_eq!((off.status, &off.json()["enabled"]), (200, &json!(false)));
    assert_eq!(file(), before.replace("say\n", "say\nenabled = false\n"));
    let on = change("/api/v1/connections/shop", "PATCH", json!({ "enabled": true, "schedule": null }));
    assert_eq!((on.status, &on.json()["schedule"]), (200, &Value::Null), "{}", on.text);
    assert!(file().contains("# as people say") && !file().contains("[schedule]"), "{}", file());

    let before_errors = file();
    let wrong = change("/api/v1/connections/shop", "PATCH", json!({ "schedule": { "every": "9 bananas" } }));
    assert_eq!((wrong.status, file()), (422, before_errors.clone()), "{}", wrong.text);
    assert!(wrong.json()["detail"].as_str().unwrap().contains("connections/shop.toml:"), "{}", wrong.text);

    let mapping = service.get("/api/v1/connections/shop/goals/customers/mapping").json();
    assert_eq!(mapping["fields"][0]["column"], "name");
    let put = |fields: Value, create: bool, version: &Value| {
        let body = json!({ "fields": fields, "create_properties": create, "version": version });
        change("/api/v1/connections/shop/goals/customers/mapping", "PUT", body)
    };
    let fields = json!([
        { "place": 0, "column": "name", "property": "name", "rule": "set-if-empty" },
        { "place": 1, "column": "spent", "property": "spent", "rule": "sum" },
        { "column": "email", "property": "address", "rule": "set" },
    ]);
    let unknown = put(fields.clone(), false, &mapping["version"]);
    assert_eq!((unknown.status, file()), (422, before_errors), "{}", unknown.text);
    let put_it = put(fields.clone(), true, &mapping["version"]);
    assert_eq!(put_it.status, 200, "{}", put_it.text);
    assert!(file().contains("column = 'name' # given and family\nrule = \"set-if-empty\""), "{}", file());
    assert!(
        std::fs::read_to_string(workspace.path().join("schema.toml"))
            .unwrap()
            .contains("[properties.address]")
    );
    // The file was changed meanwhile.
    assert_eq!(put(fields, true, &mapping["version"]).status, 409);

    // A change that is refused adds no property, and says what to do.
    let schema = || std::fs::read_to_string(workspace.path().join("schema.toml")).unwrap();
    let (before, schema_before) = (file(), schema());
    let version = service.get("/api/v1/connections/shop/goals/customers/mapping").json()["version"].clone();
    let check = |fields: Value, expected: &str| {
        let refused = put(fields, true, &version);
        assert_eq!(refused.status, 422, "{}", refused.text);
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(expected), "{detail}");
        assert_eq!((file(), schema()), (before.clone(), schema_before.clone()));
    };
    check(
        json!([{ "place": 0, "column": "name", "property": "brand_new", "rule": "sum" }]),
        "`sum` needs a property with `type = \"number\"`",
    );
    check(
        json!([{ "place": 0, "column": "name", "property": "name", "rule": "set" },
               { "column": "spent", "property": "name", "rule": "set" }]),
        "property `name` already takes its value from column `name`",
    );
    check(
        json!([{ "place": 0, "column": "name", "property": "name", "rule": "set" },
               { "column": "emial", "property": "brand_new", "rule": "set" }]),
        "the file has no column `emial`",
    );

    // An edit by hand takes effect; an error is reported, and the last valid configuration stays.
    workspace.write("connections/shop.toml", file().replace("'Shop'", "'Shoes'"));
    assert_eq!(service.get("/api/v1/connections/shop").json()["name"], "Shoes");
    workspace.write("connections/shop.toml", file() + "nonsense = 1\n");
    let status = service.get("/api/v1/status").json();
    assert!(status["wrong"].as_str().unwrap().contains("unknown key `nonsense`"), "{status}");
    assert_eq!(service.get("/readyz").status, 503);
    assert_eq!(service.get("/api/v1/connections/shop").json()["name"], "Shoes");

    let audit = service.get("/api/v1/audit").json();
    let actions: Vec<&str> =
        audit.as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["change mapping", "add properties", "change enabled, schedule", "change enabled"]);
}

#[test]
fn a_dry_run_works_beside_the_service() {
    let workspace = workspace("");
    workspace.write("sluicebox.toml", "[import]\ncommit_rows = 100\nbatch_rows = 100\n");
    let service = Service::start(&workspace);
    let dry = || {
        let output = workspace.sluicebox(&["run", "--dry-run", "--json"]);
        assert_eq!(output.code, 0, "{}", output.stderr);
        serde_json::from_str::<Value>(&output.stdout).unwrap()
    };
    let start = || service.post("/api/v1/connections/shop/runs", &json!({}));
    assert_eq!(dry()["profiles"]["created"], 2);
    assert_eq!(start().status, 202);
    service.wait_until_idle();
    let report = dry();
    assert_eq!(
        (&report["files"][0]["status"], &report["rows"]["read"]),
        (&json!("already-imported"), &json!(0))
    );

    // Beside a run that commits all the time, too.
    let rows: String = (0..LONG).map(|row| format!("c{row}@x.example,N,1\n")).collect();
    workspace.write("exchange/b.csv", format!("email,name,spent\n{rows}"));
    assert_eq!(start().status, 202);
    service.wait_until(|status| status["live"]["rows"].as_u64().unwrap() > 400);
    let report = dry();
    assert_eq!(report["status"], "succeeded", "{report}");
    let left = report["rows"]["read"].as_u64().unwrap();
    assert!(left < LONG, "{report}");
    let refused = workspace.sluicebox(&["run"]);
    assert!(refused.code == 1 && refused.stderr.contains("is in use by process"), "{}", refused.stderr);
    service.wait_until_idle();
    let read: u64 = service.runs().iter().map(|run| run["rows"]["read"].as_u64().unwrap()).sum();
    assert_eq!(read, LONG + 2);
}

#[test]
fn files_that_a_changed_goal_imports_again_are_named_before_and_can_be_accepted() {
    let workspace = workspace("");
    let service = Service::start(&workspace);
    let goal = "/api/v1/connections/shop/goals/customers";
    let run = || {
        assert_eq!(service.post("/api/v1/connections/shop/runs", &json!({})).status, 202);
        service.wait_until_idle();
        service.runs().last().unwrap()["files"][0]["status"].clone()
    };
    let again = || service.get(&format!("{goal}/imported-again")).json();
    let file = || std::fs::read_to_string(workspace.path().join("connections/shop.toml")).unwrap();
    let save = |action: &str, rule: &str| {
        let version = service.get(&format!("{goal}/mapping")).json()["version"].clone();
        let body = format!(
            "version={}&number=1&place=0&column=name&property=name&rule={rule}&separator=&format=\
             &number=2&place=1&column=spent&property=spent&rule=sum&separator=&format=&action={action}",
            version.as_str().unwrap()
        );
        let form = [("content-type", "application/x-www-form-urlencoded")];
        service.ask("POST", "/connections/shop/goals/customers/mapping", &form, Some(&body))
    };
    // A mapping of files that were never imported is saved at once.
    assert_eq!(save("save", "set-or-clear").status, 303);
    assert_eq!(run(), "imported");
    assert_eq!(again()["files"], json!([]));

    let before = file();
    let asked = save("save", "set-if-empty");
    assert_eq!((asked.status, file()), (200, before), "{}", asked.text);
    for expected in ["Not saved yet", "a.csv (fields changed: name)", "count twice: spent"] {
        assert!(asked.text.contains(expected), "{expected}: {}", asked.text);
    }
    assert_eq!(save("save-again", "set-if-empty").status, 303);
    let due = again();
    let expected = json!([{ "file": "a.csv", "why": ["fields changed: name"] }]);
    assert_eq!((&due["files"], &due["counted_twice"]), (&expected, &json!(["spent"])));
    assert!(service.get("/connections/shop").text.contains("files may be imported again"));
    let page = service.get("/connections/shop/goals/customers").text;
    assert!(
        page.contains("a.csv (fields changed: name)") && page.contains("they count as imported"),
        "{page}"
    );

    let accepted = service.post(&format!("{goal}/accept"), &json!({ "files": ["a.csv"] }));
    assert_eq!((accepted.status, &accepted.json()["files"]), (200, &expected), "{}", accepted.text);
    let runs = service.runs();
    let last = runs.last().unwrap();
    assert_eq!((&last["run"], &last["kind"]), (&accepted.json()["run"], &json!("accept")), "{last}");
    let entry = service.get("/api/v1/audit").json()[0].clone();
    assert_eq!((&entry["action"], &entry["what"]), (&json!("accept"), &json!("shop / customers: a.csv")));
    assert_eq!((again()["files"].clone(), run()), (json!([]), json!("already-imported")));
    let page = service.get("/runs").text;
    assert!(page.contains("1 file accepted"), "{page}");
    assert!(!service.get("/connections/shop").text.contains("files may be imported again"));

    // The same at once, when the mapping is saved.
    assert_eq!(save("save-accept", "set").status, 303);
    assert_eq!(run(), "already-imported");
    // A button of the goal's page.
    assert_eq!(save("save-again", "set-if-empty").status, 303);
    assert_eq!(again()["files"], json!([]), "it was accepted under this configuration");
    assert_eq!(save("save-again", "set-or-clear").status, 303);
    workspace.write("connections/shop.toml", file().replace("rule = 'sum'", "rule = 'set'"));
    assert_eq!(again()["counted_twice"], json!([]));
    let pressed = service.ask("POST", "/connections/shop/goals/customers/accept", &[], None);
    assert_eq!(pressed.status, 303, "{}", pressed.text);
    assert_eq!((again()["files"].clone(), run()), (json!([]), json!("already-imported")));
    // Or they are imported again, on request.
    let again = service.post("/api/v1/connections/shop/runs", &json!({ "reimport": true }));
    assert_eq!(again.status, 202, "{}", again.text);
    service.wait_until_idle();
    assert_eq!(service.runs().last().unwrap()["files"][0]["status"], "imported");
    assert_eq!(service.get("/api/v1/audit").json()[0]["action"], "run again");
    assert_eq!(run(), "already-imported");
    let missing = service.post(&format!("{goal}/accept"), &json!({ "files": ["b.csv"] }));
    assert_eq!(missing.status, 404, "{}", missing.text);
}

#[test]
fn a_change_writes_through_no_link() {
    let workspace = workspace("");
    workspace.write("outside", "untouched");
    std::os::unix::fs::symlink(
        workspace.path().join("outside"),
        workspace.path().join("connections/.shop.toml.new"),
    )
    .unwrap();
    let service = Service::start(&workspace);
    let json_body = [("content-type", "application/json")];
    let changed = service.ask("PATCH", "/api/v1/connections/shop", &json_body, Some("{\"enabled\":false}"));
    assert_eq!(changed.status, 200, "{}", changed.text);
    assert_eq!(std::fs::read_to_string(workspace.path().join("outside")).unwrap(), "untouched");
    let file = workspace.path().join("connections/shop.toml");
    assert!(std::fs::symlink_metadata(&file).unwrap().is_file());
    assert!(std::fs::read_to_string(file).unwrap().contains("enabled = false"));
}

#[test]
fn secrets_go_in_and_never_out() {
    let workspace = workspace("");
    workspace.write(
        "connections/cloud.toml",
        "[location]\nkind = 's3'\nbucket = 'b'\nregion = 'eu-west-1'\naccess_key_id = 'AKIAOLD'\n\
         secret_access_key = { env = 'OLD' } # of the vault\n",
    );
    let service = Service::start(&workspace);
    let secrets = service.get("/api/v1/connections/cloud").json()["secrets"].clone();
    let set: Vec<&Value> =
        secrets.as_array().unwrap().iter().filter(|secret| secret["set"] == true).collect();
    assert_eq!(set.len(), 2, "{secrets}");
    assert_eq!(
        (&set[0]["secret"], &set[1]["secret"]),
        (&json!("location.access_key_id"), &json!("location.secret_access_key"))
    );
    let put = |name: &str| {
        let path = format!("/api/v1/connections/cloud/secrets/{name}");
        service
            .ask("PUT", &path, &[("content-type", "application/json")], Some("{\"value\":\"hunter2-new\"}"))
            .status
    };
    assert_eq!((put("location.secret_access_key"), put("location.bucket")), (204, 404));
    let file = std::fs::read_to_string(workspace.path().join("connections/cloud.toml")).unwrap();
    assert!(file.contains("secret_access_key = \"hunter2-new\" # of the vault"), "{file}");
    for path in ["/", "/connections/cloud", "/audit", "/api/v1/connections", "/api/v1/audit", "/metrics"] {
        let shown = service.get(path);
        assert_eq!(shown.status, 200, "{path}");
        assert!(!shown.text.contains("hunter2") && !shown.text.contains("AKIAOLD"), "{path}");
    }
    let (_, log) = service.stop();
    assert!(!log.concat().contains("hunter2"), "{log:?}");
}

#[test]
fn the_page_previews_the_rows_before_damage_and_names_it() {
    let workspace = workspace("");
    workspace.write("exchange/a.csv", "email,name,spent\nann@example.com,Ann,1\nbob@example.com,\"Bob,2\n");
    let service = Service::start(&workspace);
    let page = service.get("/connections/shop/goals/customers?look=1").text;
    let damage = "line 3: the quoted cell that begins in this row is not closed before the file ends";
    let preview = page.split_once("id=\"preview\"").unwrap().1.split_once("</section>").unwrap().0;
    assert!(preview.contains("ann@example.com") && preview.contains(damage), "{preview}");
}

#[test]
fn every_value_is_text_on_the_page() {
    let workspace = workspace("");
    let script = "<script>alert(1)</script>";
    workspace.write("connections/shop.toml", connection("").replace("Shop", script));
    workspace.write(
        "exchange/a.csv",
        format!("email,name,spent\n{script}@example.com,{script},1\n\"{script}\",x\n"),
    );
    let service = Service::start(&workspace);
    service.post("/api/v1/connections/shop/runs", &json!({}));
    service.wait_until_idle();
    let run = service.runs()[0].clone();
    let id = run["last_profiles"][0]["profile_id"].as_str().unwrap();
    let run = run["run"].as_str().unwrap();
    for path in [
        "/".to_owned(),
        "/connections/shop".to_owned(),
        "/connections/shop/goals/customers?look=1".to_owned(),
        "/runs".to_owned(),
        format!("/runs/{run}"),
        format!("/runs/{run}/rejected/customers.csv"),
        format!("/runs/{run}/rejected/customers/lines"),
        format!("/profiles/{id}"),
        "/profiles?property=email&value=%3Cscript%3E".to_owned(),
        "/audit".to_owned(),
        "/%3Cscript%3E".to_owned(),
        "/connections/%3Cscript%3E".to_owned(),
    ] {
        let page = service.get(&path).text.to_lowercase();
        assert!(!page.contains("<script>alert"), "{path}");
        assert!(page.contains("<main"), "{path}: {page}");
    }
    assert!(service.get(&format!("/profiles/{id}")).text.contains("&#60;script&#62;"));
}

#[test]
fn a_dry_run_writes_nothing_while_the_service_has_the_store() {
    let workspace = workspace("");
    let service = Service::start(&workspace);
    let dry = service.post("/api/v1/connections/shop/runs", &json!({ "dry_run": true }));
    assert_eq!(
        (dry.status, &dry.json()["goals"][0]["profiles"]["created"]),
        (200, &json!(2)),
        "{}",
        dry.text
    );
    assert_eq!(service.runs(), Vec::<Value>::new());
    let left = std::fs::read_dir(workspace.path().join("data")).unwrap();
    let left: Vec<String> = left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.contains("dry-run")), "{left:?}");
    // Reading commands go on beside the service; those that write say who has the store.
    assert_eq!(workspace.sluicebox(&["profile", "count"]).stdout, "0\n");
    let locked = workspace.sluicebox(&["run"]);
    assert_eq!(locked.code, 1);
    assert!(locked.stderr.contains("hint:"), "{}", locked.stderr);
}

#[test]
fn numbers_for_prometheus() {
    let workspace = workspace("");
    let service = Service::start(&workspace);
    service.post("/api/v1/connections/shop/runs", &json!({}));
    service.wait_until_idle();
    let text = service.get("/metrics").text;
    for line in [
        "sluicebox_runs_total{connection=\"shop\",status=\"succeeded\"} 1",
        "sluicebox_rows_total{connection=\"shop\",goal=\"customers\",outcome=\"merged\"} 2",
        "sluicebox_queue 0",
        "sluicebox_running 0",
        "# EOF",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(
        text.contains("sluicebox_store_bytes ") && text.contains("sluicebox_run_seconds_bucket"),
        "{text}"
    );
}

#[test]
fn traces_go_where_the_environment_says() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let workspace = workspace("");
    let mut command = workspace.command(&["serve", "--address", "127.0.0.1:0"]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", listener.local_addr().unwrap()));
    let service = Service::start_with(command);
    service.post("/api/v1/connections/shop/runs", &json!({}));
    service.wait_until_idle();
    let stopped = thread::spawn(move || service.stop());
    let mut stream = Workspace::accept(&listener, "the traces");
    let mut seen = Vec::new();
    let mut part = [0; 65536];
    let has = |seen: &[u8], words: &str| seen.windows(words.len()).any(|window| window == words.as_bytes());
    while !(has(&seen, "sluicebox") && has(&seen, "customers")) {
        let read = stream.read(&mut part).unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&part[..read]);
    }
    assert!(seen.starts_with(b"POST /v1/traces "), "{}", String::from_utf8_lossy(&seen));
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
    drop(stream);
    drop(listener);
    assert_eq!(stopped.join().unwrap().0, Some(0));
}

#[test]
fn the_next_runs_are_shown() {
    let workspace = workspace(
        "[schedule]\nweekday_of_month = 'second tuesday'\ntime = '02:30'\ntimezone = 'Europe/Amsterdam'",
    );
    let shown = workspace.shell(&format!(
        "faketime '2026-03-01 00:00:00 UTC' {} schedule --count 2",
        env!("CARGO_BIN_EXE_sluicebox")
    ));
    assert_eq!(
        shown.stdout,
        "2026-03-10T01:30:00Z  2026-03-10 02:30 CET  Shop: on the second tuesday of the month at 02:30 (Europe/Amsterdam)\n\
         2026-04-14T00:30:00Z  2026-04-14 02:30 CEST  Shop: on the second tuesday of the month at 02:30 (Europe/Amsterdam)\n",
        "{}",
        shown.stderr
    );
}

#[test]
fn readers_are_answered_while_an_import_runs() {
    const READERS: usize = 200;
    let workspace = workspace("");
    workspace.write("sluicebox.toml", "[import]\ncommit_rows = 5000\n");
    let rows: String = (0..200_000).map(|row| format!("c{row}@x.example,N{row},1\n")).collect();
    workspace.write("exchange/a.csv", format!("email,name,spent\n{rows}"));
    let service = Service::start(&workspace);
    service.post("/api/v1/connections/shop/runs", &json!({}));
    let url = service.url.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let failed = runtime.block_on(async {
        let client = reqwest::Client::builder().timeout(PATIENCE).build().unwrap();
        let paths = [
            "/",
            "/connections/shop",
            "/runs",
            "/api/v1/runs",
            "/metrics",
            "/api/v1/profiles?property=email&value=c1@x.example",
        ];
        let readers = (0..READERS).map(|reader| {
            let (client, address) = (client.clone(), format!("{url}{}", paths[reader % paths.len()]));
            tokio::spawn(async move {
                let mut failed = 0;
                for _ in 0..5 {
                    let answer = client.get(&address).send().await;
                    failed += usize::from(!answer.is_ok_and(|answer| answer.status().is_success()));
                }
                failed
            })
        });
        let mut failed = 0;
        for reader in readers.collect::<Vec<_>>() {
            failed += reader.await.unwrap();
        }
        failed
    });
    assert_eq!(failed, 0);
    service.wait_until_idle();
    assert_eq!(service.runs()[0]["profiles"]["created"], 200_000);
}

#[test]
fn wrong_tokens_slow_down_guesses_and_not_the_right_token() {
    let workspace = workspace("");
    workspace.write("token", TOKEN);
    workspace.write("sluicebox.toml", "[server]\ntoken = { file = 'token' }\n");
    let service = Service::start(&workspace);
    let bearer = |token: &str| {
        let header = format!("Bearer {token}");
        service.ask("GET", "/api/v1/status", &[("authorization", &header)], None).status
    };
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let sign_in =
        |token: &str| service.ask("POST", "/sign-in", &form, Some(&format!("token={token}"))).status;
    for guess in 0..9 {
        assert_eq!(sign_in(&format!("wrong-token-number-{guess}")), 403);
        assert_eq!(bearer(&format!("wrong-bearer-number-{guess}")), 401);
    }
    for _ in 0..30 {
        assert_eq!((sign_in(TOKEN), bearer(TOKEN)), (303, 200));
    }
    let guesses: Vec<u16> = (0..750)
        .flat_map(|guess| {
            [bearer(&format!("another-bearer-{guess}")), sign_in(&format!("another-token-{guess}"))]
        })
        .collect();
    let refused = guesses.iter().filter(|status| **status == 429).count();
    assert!(refused > 300, "{refused} of {} guesses were refused", guesses.len());
}

#[test]
fn clients_that_do_not_finish_take_nothing_from_the_others() {
    const CLIENTS: u64 = 1100;
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum.map(|most| most.min(4096)), maximum }).unwrap();

    let workspace = workspace("");
    let serve = format!(
        "ulimit -Sn 256 && exec {} serve --address 127.0.0.1:0 --log-format json",
        env!("CARGO_BIN_EXE_sluicebox")
    );
    let mut command = Command::new("sh");
    command.args(["-c", &serve]).current_dir(workspace.path()).stdin(Stdio::null());
    command.env_clear().env("SLUICEBOX_STRICT", "1");
    let service = Service::start_with(command);
    let address = service.url.strip_prefix("http://").unwrap();
    let half_sent = |words: &str| {
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(words.as_bytes()).unwrap();
        client
    };
    let head = "POST /connections/shop/run HTTP/1.1\r\nhost: localhost\r\n";
    let body = "content-type: application/x-www-form-urlencoded\r\ncontent-length: 100\r\n\r\ngoal=";
    let clients: Vec<TcpStream> = (0..CLIENTS)
        .map(|number| match number % 3 {
            0 => half_sent(head),
            1 => half_sent(&format!("{head}{body}")),
            _ => half_sent(""),
        })
        .collect();
    let run = service.post("/api/v1/connections/shop/runs", &json!({}));
    assert_eq!(run.status, 202, "{}", run.text);
    service.wait_until_idle();
    assert_eq!(service.runs()[0]["rows"]["merged"], 2);
    // They are all disconnected.
    for mut client in clients {
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let _ = client.read_to_end(&mut Vec::new());
        let left = client.read(&mut [0]).map_err(|error| error.kind());
        assert!(!matches!(left, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)), "{left:?}");
    }
}

#[test]
fn a_webhook_reaches_no_private_address_unless_it_is_allowed() {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // An address of this machine that is not loopback, if it has one.
    let own = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    let own = own.ok().map(|address| address.ip()).filter(|address| !address.is_loopback());
    let mut refused = vec![
        "http://169.254.169.254/latest/meta-data?key=in-the-address".to_owned(),
        "http://[::ffff:169.254.169.254]/".to_owned(),
        "http://2852039166/".to_owned(),
        "http://[fe80::1]/".to_owned(),
        "http://0.0.0.0:1/".to_owned(),
    ];
    refused.extend(own.map(|own| format!("http://{own}:{port}/hook")));
    for url in &refused {
        let workspace = workspace(&format!("[notify]\nwebhook = '{url}'\non = 'every-run'"));
        let service = Service::start(&workspace);
        service.post("/api/v1/connections/shop/runs", &json!({}));
        service.wait_until_idle();
        let (_, log) = service.stop();
        assert!(log.iter().any(|line| line.contains("which is not a public address")), "{url}: {log:?}");
        assert!(!log.concat().contains("in-the-address"), "{log:?}");
    }
    let Some(own) = own else { return };
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "a refused webhook was called");
    listener.set_nonblocking(false).unwrap();

    let workspace = workspace(&format!("[notify]\nwebhook = 'http://{own}:{port}/hook'\non = 'every-run'"));
    workspace.write("sluicebox.toml", format!("[server]\negress_allow = ['{own}/32', 'hooks.internal']\n"));
    let service = Service::start(&workspace);
    service.post("/api/v1/connections/shop/runs", &json!({}));
    let mut stream = Workspace::accept(&listener, "the webhook");
    let mut first = [0; 10];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"POST /hook");

    workspace.write("sluicebox.toml", "[server]\negress_allow = ['10.0.0.0/99']\n");
    let wrong = workspace.sluicebox(&["check"]);
    assert!(wrong.stderr.contains("`egress_allow`: expected networks or host names"), "{}", wrong.stderr);
}

#[test]
fn readiness_names_missing_secrets_and_neither_files_nor_values() {
    let workspace = workspace(
        "[pgp]\nprivate_key = { file = 'keys/private.asc' }\npassphrase = { env = 'KEY_PASSPHRASE' }",
    );
    let service = Service::start(&workspace);
    let ready = service.get("/readyz");
    assert_eq!(ready.status, 503, "{}", ready.text);
    for key in ["pgp.private_key of connection shop", "pgp.passphrase of connection shop"] {
        assert!(ready.text.contains(key), "{}", ready.text);
    }
    for detail in ["private.asc", "KEY_PASSPHRASE", ".toml", "/"] {
        assert!(!ready.text.contains(detail), "{}", ready.text);
    }
    workspace.write("connections/shop.toml", connection("") + "nonsense = 1\n");
    let ready = service.get("/readyz");
    assert_eq!((ready.status, ready.text.as_str()), (503, "not ready: the configuration has errors\n"));
    workspace.write("connections/shop.toml", connection(""));
    assert_eq!(service.get("/readyz").status, 200);
}

#[test]
fn an_event_stream_ends_with_its_session() {
    let workspace = workspace("");
    workspace.write("token", TOKEN);
    workspace.write("sluicebox.toml", "[server]\ntoken = { file = 'token' }\n");
    let service = Service::start(&workspace);
    let form = ("content-type", "application/x-www-form-urlencoded");
    let signed_in = service.ask("POST", "/sign-in", &[form], Some(&format!("token={TOKEN}")));
    let cookie = signed_in.headers["set-cookie"].to_str().unwrap();
    let session = ("cookie", cookie.split(';').next().unwrap());

    let mut events = TcpStream::connect(service.url.strip_prefix("http://").unwrap()).unwrap();
    events.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let request = format!("GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\ncookie: {}\r\n\r\n", session.1);
    events.write_all(request.as_bytes()).unwrap();
    let mut reader = BufReader::new(events);
    let mut line = String::new();
    while !line.starts_with("data:") {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0, "the stream ended early");
    }
    assert_eq!(service.ask("POST", "/sign-out", &[session, form], Some("")).status, 303);
    // The last chunk of the answer has no bytes.
    let ended = reader.lines().map(|line| line.expect("the stream goes on")).any(|line| line == "0");
    assert!(ended);
}

#[test]
fn a_run_without_a_goal_that_is_on_is_refused_in_words() {
    let workspace = workspace("");
    let service = Service::start(&workspace);
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let run = |goal: &str| service.ask("POST", "/connections/shop/run", &form, Some(&format!("goal={goal}")));
    let off = service.ask("POST", "/connections/shop/goals/customers/enabled", &form, Some("enabled=false"));
    assert_eq!(off.status, 303);
    let page = run("");
    assert_eq!(page.status, 409);
    assert!(page.text.contains("all goals are off"), "{}", page.text);
    assert!(run("customers").text.contains("goal `customers` is off"));
    let answer = service.post("/api/v1/connections/shop/runs", &json!({}));
    assert_eq!((answer.status, &answer.json()["detail"]), (409, &json!("all goals are off")));
    for path in ["/", "/connections/shop"] {
        assert!(service.get(path).text.contains("Cannot run: all goals are off."), "{path}");
    }
}

#[test]
fn the_last_groups_of_a_run_lead_to_their_pages() {
    let workspace = workspace("");
    workspace.write(
        "schema.toml",
        format!("{SCHEMA}[groups.store.properties.code]\nunique = true\n[groups.store.properties.town]\n"),
    );
    workspace.write(
        "connections/stores.toml",
        "name = 'Stores'\n[location]\nkind = 'directory'\npath = 'stores'\n[[import_groups]]\nname = 'stores'\n\
         group = 'store'\nfiles = '*.csv'\n[[import_groups.identifiers]]\ncolumn = 'code'\nproperty = 'code'\n\
         [[import_groups.fields]]\ncolumn = 'town'\n",
    );
    workspace.write("stores/s.csv", "code,town\ns1,Ghent\n");
    let service = Service::start(&workspace);
    let run = service.post("/api/v1/connections/stores/runs", &json!({})).json()["run"].clone();
    service.wait_until_idle();
    for path in [format!("/runs/{}", run.as_str().unwrap()), "/runs".to_owned()] {
        let page = service.get(&path).text;
        let link = page
            .split("href=\"")
            .find_map(|rest| rest.split('"').next().filter(|path| path.starts_with("/groups/")));
        let group = service.get(link.unwrap_or_else(|| panic!("{path}: {page}")));
        assert_eq!(group.status, 200, "{}", group.text);
        assert!(group.text.contains("Ghent") && group.text.contains("Stores / stores"), "{}", group.text);
    }
}

#[test]
fn a_stopped_run_is_shown_as_stopped_and_its_page_says_what_is_so_now() {
    let workspace = workspace("");
    workspace.write("sluicebox.toml", "[import]\ncommit_rows = 100\nbatch_rows = 100\n");
    let rows: String = (0..LONG).map(|row| format!("c{row}@x.example,N,1\n")).collect();
    workspace.write("exchange/a.csv", format!("email,name,spent\n{rows}"));
    let service = Service::start(&workspace);
    let started = service.post("/api/v1/connections/shop/runs", &json!({})).json();
    let run = started["run"].as_str().unwrap();
    service.wait_until(|status| status["live"]["rows"].as_u64().unwrap() > 200);
    let form = [("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(service.ask("POST", &format!("/runs/{run}/stop"), &form, Some("")).status, 303);
    service.wait_until_idle();
    for path in [
        "/".to_owned(),
        "/connections/shop".to_owned(),
        "/runs".to_owned(),
        format!("/runs/{run}?done=queued"),
    ] {
        let page = service.get(&path).text;
        assert!(page.contains("badge stopped") && !page.contains("badge failed"), "{path}: {page}");
        assert!(!page.contains("The run is in the queue"), "{path}");
    }
}

#[test]
fn mail_without_a_mail_server_is_not_saved_silently() {
    let workspace = workspace("");
    let service = Service::start(&workspace);
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let body = "email=ops%40example.com&every_run=true";
    let saved = service.ask("POST", "/connections/shop/notify", &form, Some(body));
    assert_eq!(saved.status, 303, "{}", saved.text);
    let page = service.get(saved.headers["location"].to_str().unwrap()).text;
    assert!(page.contains("No e-mail is sent: sluicebox.toml has no <code>[smtp]</code>"), "{page}");
    assert!(page.contains("notice bad"), "{page}");
}

#[test]
fn a_large_file_of_rejected_rows_is_not_read_into_memory() {
    let workspace = workspace("");
    workspace.write("exchange/a.csv", "email,name,spent\nann@example.com,Ann,1\nragged\n");
    let service = Service::start(&workspace);
    service.post("/api/v1/connections/shop/runs", &json!({}));
    service.wait_until_idle();
    let run = service.runs()[0]["run"].as_str().unwrap().to_owned();
    let path = workspace.path().join("data/rejected").join(&run).join("customers.csv");
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    let line = [b'x'; 1 << 20];
    (0..200).for_each(|_| file.write_all(&line).unwrap());
    let length = file.metadata().unwrap().len();
    let before = service.peak_memory();
    let answer = service.get(&format!("/api/v1/runs/{run}/rejected/customers.csv"));
    assert_eq!((answer.status, answer.text.len() as u64), (200, length));
    let grown = service.peak_memory() - before;
    assert!(grown < 64 << 20, "{grown} bytes more");
}

/// A run that did not take a cell in line 3 and the row in line 4; answers with its id.
fn run_with_rejected_rows(workspace: &Workspace, service: &Service) -> String {
    workspace.write(
        "exchange/a.csv",
        "email,name,spent\nann@example.com,Ann,1.50\nbob@example.com,Bob,two\ncho@example.com\n",
    );
    let run = service.post("/api/v1/connections/shop/runs", &json!({})).json()["run"].clone();
    service.wait_until_idle();
    run.as_str().unwrap().to_owned()
}

fn spent(service: &Service, email: &str) -> Value {
    let found = service.get(&format!("/api/v1/profiles?property=email&value={email}")).json();
    found[0]["properties"]["spent"].clone()
}

#[test]
fn rejected_rows_are_corrected_and_imported_once_through_the_api() {
    let workspace = workspace("");
    let service = Service::start(&workspace);
    let run = run_with_rejected_rows(&workspace, &service);
    let list = service.get("/api/v1/rejected").json();
    assert_eq!(list, service.get(&format!("/api/v1/runs/{run}/rejected")).json());
    assert_eq!(list[0]["files"], json!([{ "name": "customers.csv", "lines": 2, "imported": 0 }]), "{list}");
    let rejected = format!("/api/v1/runs/{run}/rejected/customers");
    let lines = service.get(&format!("{rejected}/lines")).json();
    assert_eq!(
        lines[0],
        json!({
            "recorded_in": "customers.csv", "file": "a.csv", "line": 3, "scope": "cells", "columns": ["spent"],
            "code": "not-a-number", "reason": "`spent` is not a number", "imported": false,
            "cells": { "email": "bob@example.com", "name": "Bob", "spent": "two" },
        })
    );
    let second = service.get(&format!("{rejected}/lines?from=1&count=1")).json();
    assert_eq!((&second[0], second.as_array().unwrap().len()), (&lines[1], 1));
    let commanded = workspace.sluicebox(&["rejected", "show", &run, "customers", "--json"]).stdout;
    let commanded: Vec<Value> = commanded.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(Value::from(commanded), lines);

    // The file is downloaded where it was.
    assert!(service.get(&format!("{rejected}.csv")).text.starts_with("email,name,spent,_file,"));

    let import = format!("{rejected}/import");
    for (body, status, words) in [
        (json!({ "lines": [] }), 422, "nothing to import"),
        (
            json!({ "lines": [{ "file": "a.csv", "line": 2 }] }),
            422,
            "a.csv, line 2: the goal run recorded no such line",
        ),
        (json!({ "lines": [{ "file": "a.csv", "line": 4 }, { "file": "a.csv", "line": 4 }] }), 422, "twice"),
        (
            json!({ "lines": [{ "file": "a.csv", "line": 4, "cells": { "nam": "x" } }] }),
            422,
            "no column `nam`",
        ),
        (
            json!({ "lines": [{ "file": "a.csv", "line": 3, "scope": "cells", "cells": { "name": "x" } }] }),
            422,
            "`name` was imported: only `spent` can be corrected",
        ),
        (json!({ "rows": [] }), 400, "rows"),
    ] {
        let refused = service.post(&import, &body);
        assert_eq!(refused.status, status, "{}", refused.text);
        assert!(refused.text.contains(words), "{}", refused.text);
    }
    assert_eq!(
        service.post(&format!("/api/v1/runs/{run}/rejected/custmers/import"), &json!({ "lines": [] })).status,
        404
    );

    let mut body = json!({ "dry_run": true, "lines": [
        { "file": "a.csv", "line": 3, "scope": "cells", "cells": { "name": "Bob", "spent": "2" } },
        { "file": "a.csv", "line": 4.0, "cells": { "name": "Cho, \"C\"\nand more", "spent": "3" } },
    ] });
    let dry = service.post(&import, &body);
    assert_eq!((dry.status, &dry.json()["goals"][0]["rows"]["merged"]), (200, &json!(2)), "{}", dry.text);
    assert_eq!(spent(&service, "bob@example.com"), Value::Null);
    body["dry_run"] = json!(false);
    // Sent again, it changes nothing.
    for merged in [2, 0] {
        let started = service.post(&import, &body);
        assert_eq!(started.status, 202, "{}", started.text);
        service.wait_until_idle();
        let runs = service.runs();
        let last = runs.last().unwrap();
        assert_eq!(last["run"], started.json()["run"]);
        assert_eq!(
            (&last["status"], &last["rows"]["merged"]),
            (&json!("succeeded"), &json!(merged)),
            "{last}"
        );
        assert_eq!(last["files"][0]["name"], json!(format!("rejected rows of {run}")));
        assert_eq!(spent(&service, "bob@example.com"), json!(2));
        assert_eq!(spent(&service, "cho@example.com"), json!(3));
    }
    let list = service.get("/api/v1/rejected").json();
    assert_eq!(list[0]["files"][0]["imported"], 2, "{list}");
    assert!(!workspace.path().join("data/rejected").join(&run).join("corrected").exists());
    let audit = std::fs::read_to_string(workspace.path().join("data/audit.jsonl")).unwrap();
    assert!(
        audit.contains("import corrected rows")
            && audit.contains(&format!("shop / customers, {run}: 2 lines")),
        "{audit}"
    );
    assert!(!audit.contains("Cho"), "{audit}");
}

#[test]
fn rejected_rows_are_corrected_on_the_page_without_a_script() {
    let workspace = workspace("");
    let service = Service::start(&workspace);
    let run = run_with_rejected_rows(&workspace, &service);
    let page = service.get(&format!("/runs/{run}")).text;
    assert!(page.contains("1 × not-a-number in `spent`, first in a.csv, line 3"), "{page}");
    let lines = format!("/runs/{run}/rejected/customers/lines");
    assert!(page.contains(&format!("href=\"{lines}\"")), "{page}");
    let page = service.get(&lines).text;
    for (part, is_there) in [
        ("name=\"0.2\" value=\"two\" autocomplete=\"off\" aria-label=\"spent of line 3 of a.csv\"", true),
        ("name=\"0.0\"", false),
        ("name=\"1.0\" value=\"cho@example.com\"", true),
        ("name=\"line.0\" value=\"cells:3:a.csv\"", true),
    ] {
        assert_eq!(page.contains(part), is_there, "{part}: {page}");
    }
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let names = "line.0=cells%3A3%3Aa.csv&line.1=row%3A4%3Aa.csv";
    let unchanged =
        service.ask("POST", &lines, &form, Some(&format!("{names}&0.2=two&1.0=cho%40example.com")));
    assert_eq!(unchanged.status, 422);
    assert!(unchanged.text.contains("no cell was changed"), "{}", unchanged.text);
    let dry = service.ask("POST", &lines, &form, Some(&format!("{names}&0.2=2&dry_run=true")));
    assert!(dry.status == 200 && dry.text.contains("1 merged"), "{}", dry.text);
    // A form that was made up cannot replace a cell that was imported: its page keeps what the user entered.
    let refused = service.ask("POST", &lines, &form, Some(&format!("{names}&0.1=Rob&0.2=22")));
    assert_eq!(refused.status, 422);
    assert!(
        refused.text.contains("`name` was imported") && refused.text.contains("value=\"22\""),
        "{}",
        refused.text
    );
    let sent = service.ask("POST", &lines, &form, Some(&format!("{names}&0.2=2&1.0=cho%40example.com")));
    assert_eq!(sent.status, 303, "{}", sent.text);
    let next = sent.headers["location"].to_str().unwrap().to_owned();
    assert!(next.starts_with("/runs/") && next.ends_with("?done=queued"), "{next}");
    service.wait_until_idle();
    assert!(service.get(&next).text.contains(&format!("rejected rows of {run}: imported, 1 row")));
    assert_eq!(spent(&service, "bob@example.com"), json!(2));
    assert_eq!(spent(&service, "cho@example.com"), Value::Null);
    let page = service.get(&lines).text;
    assert!(page.contains("imported</span>") && !page.contains("name=\"0.2\""), "{page}");
}

#[test]
fn a_queued_import_of_corrected_rows_outlives_the_service() {
    let workspace = workspace("");
    workspace.write("sluicebox.toml", "[import]\ncommit_rows = 100\nbatch_rows = 100\n[server]\nruns = 1\n");
    workspace
        .write("connections/other.toml", connection("").replace("Shop", "Other").replace("exchange", "more"));
    let rows: String = (0..LONG).map(|row| format!("c{row}@x.example,N,1\n")).collect();
    workspace.write("more/a.csv", format!("email,name,spent\n{rows}"));
    let service = Service::start(&workspace);
    let run = run_with_rejected_rows(&workspace, &service);
    let import = format!("/api/v1/runs/{run}/rejected/customers/import");
    let body =
        json!({ "lines": [{ "file": "a.csv", "line": 3, "scope": "cells", "cells": { "spent": "2" } }] });
    let corrected = workspace.path().join("data/rejected").join(&run).join("corrected");

    // One that is withdrawn leaves nothing.
    assert_eq!(service.post("/api/v1/connections/other/runs", &json!({})).status, 202);
    let withdrawn = service.post(&import, &body).json()["run"].as_str().unwrap().to_owned();
    assert!(corrected.join(&withdrawn).is_dir());
    assert_eq!(service.ask("DELETE", &format!("/api/v1/runs/{withdrawn}"), &[], None).status, 202);
    assert!(!corrected.exists());

    let queued = service.post(&import, &body);
    assert_eq!(queued.status, 202, "{}", queued.text);
    assert_eq!(service.post(&import, &body).status, 409);
    service.wait_until(|status| status["live"]["rows"].as_u64().unwrap() > 400);
    assert_eq!(service.stop().0, Some(0));
    workspace.write(
        &format!("data/rejected/{run}/corrected/20200101-000000-0000/0000.csv"),
        "of a process that died before it queued the import\n",
    );
    let service = Service::start(&workspace);
    assert!(!corrected.join("20200101-000000-0000").exists());
    service.wait_until_idle();
    assert_eq!(spent(&service, "bob@example.com"), json!(2));
    assert!(!corrected.exists());
}
