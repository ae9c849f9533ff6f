//! Exchanges as partners have them: buckets of a real object store, and files that GnuPG encrypted.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails says where"
)]

mod servers;
mod workspace;

use std::io::Write;
use std::process::Stdio;
use std::sync::atomic::Ordering;

use serde_json::Value;
use servers::gpg::Gpg;
use servers::proxy::{Fault, Gate, Proxy};
use servers::s3::server;
use workspace::{Output, Workspace};

const SCHEMA: &str = "[properties.email]\nunique = true\n[properties.spent]\ntype = 'number'\n\
    [events.order.properties.total]\ntype = 'number'\n[events.order.nested.lines.properties.sku]\n";

/// A goal for `in/*.csv*` in a bucket. `more` are further keys of the goal.
fn goal(more: &str) -> String {
    format!(
        "[[import_profiles]]\nname = 'customers'\ndirectory = 'in'\nfiles = 'customers*.csv*'\n{more}\
         [[import_profiles.identifiers]]\ncolumn = 'email'\nproperty = 'email'\n\
         [[import_profiles.fields]]\ncolumn = 'spent'\nrule = 'sum'\n"
    )
}

fn workspace(connection: &str) -> Workspace {
    let workspace = Workspace::empty();
    workspace.write("schema.toml", SCHEMA);
    workspace.write("secret", "admin-secret\n");
    workspace.write("connections/shop.toml", connection);
    workspace
}

fn rows(count: usize) -> String {
    let mut csv = String::from("email,spent\n");
    for row in 0..count {
        csv.push_str(&format!("c{}@x.example,0.{:02}\n", row % 5003, row % 100));
    }
    csv
}

fn run(workspace: &Workspace) -> (Value, Output) {
    let output = workspace.sluicebox(&["run", "--json"]);
    let report = serde_json::from_str(output.stdout.lines().next().unwrap_or_default());
    (report.unwrap_or_else(|_| panic!("{}{}", output.stdout, output.stderr)), output)
}

/// The profiles without what differs between two stores, in one order.
fn profiles(workspace: &Workspace) -> Vec<String> {
    let listed = workspace.sluicebox(&["profile", "list", "--json"]);
    assert_eq!(listed.code, 0, "{}", listed.stderr);
    let shown = |line: &str| {
        let profile: Value = serde_json::from_str(line).unwrap();
        format!("{} {}", profile["properties"], profile["events"])
    };
    let mut profiles: Vec<String> = listed.stdout.lines().map(shown).collect();
    profiles.sort();
    profiles
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_bucket_is_imported_like_a_folder() {
    let server = server();
    server.bucket("like-a-folder");
    let csv = rows(30_000);
    server.put("like-a-folder", "in/customers_1.csv", csv.clone());
    server.put("like-a-folder", "in/customers_2.csv.gz", gzip(csv.as_bytes()));
    server.put("like-a-folder", "in/customers_3.csv", "");
    server.put("like-a-folder", "in/deeper/customers_4.csv", csv.clone());
    server.put("like-a-folder", "in/other.csv", csv.clone());
    let bucket = workspace(&(server.location("like-a-folder", "admin", None) + &goal("")));
    let folder = workspace(&format!("[location]\nkind = 'directory'\npath = '.'\n{}", goal("")));
    folder.write("in/customers_1.csv", &csv);
    folder.write("in/customers_2.csv.gz", gzip(csv.as_bytes()));
    folder.write("in/customers_3.csv", "");
    let (from_bucket, output) = run(&bucket);
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    let (from_folder, _) = run(&folder);
    for field in ["rows", "files", "profiles", "status"] {
        assert_eq!(from_bucket[field], from_folder[field]);
    }
    assert_eq!(profiles(&bucket), profiles(&folder));
    let (again, _) = run(&bucket);
    assert_eq!(again["rows"]["read"], 0);
    assert!(again["files"].as_array().unwrap().iter().all(|file| file["status"] == "already-imported"));
    let preview = bucket.sluicebox(&["preview", "shop", "customers", "--rows", "1", "--json"]);
    assert!(preview.stdout.contains("c0@x.example"), "{}{}", preview.stdout, preview.stderr);
    // The same content under the same name, uploaded in another way, is the same file.
    let parts = csv.as_bytes().chunks(5 << 20).map(<[u8]>::to_vec).collect::<Vec<_>>();
    server.put_in_parts("like-a-folder", "in/customers_1.csv", parts.into_iter());
    assert_eq!(run(&bucket).0["rows"]["read"], 0);
    server.put("like-a-folder", "in/customers_1.csv", "email,spent\nnew@x.example,1\n");
    assert_eq!(run(&bucket).0["rows"]["read"], 1);
}

#[test]
fn more_files_than_a_page_are_listed() {
    let server = server();
    server.bucket("many-files");
    for number in 0..1_050 {
        server.put(
            "many-files",
            &format!("in/customers_{number:04}.csv"),
            format!("email,spent\nc{number}@x,1\n"),
        );
    }
    let workspace = workspace(&(server.location("many-files", "admin", None) + &goal("")));
    let (report, _) = run(&workspace);
    assert_eq!(report["files"].as_array().unwrap().len(), 1_050);
    assert_eq!(report["profiles"]["created"], 1_050);
}

#[test]
fn imported_objects_are_marked_or_deleted() {
    let server = server();
    server.bucket("finished");
    server.put("finished", "in/customers a+ü.csv", rows(10));
    let done =
        workspace(&(server.location("finished", "admin", None) + &goal("after_import = 'done-suffix'\n")));
    let (report, output) = run(&done);
    assert_eq!(report["status"], "succeeded", "{}", output.stderr);
    assert_eq!(server.keys("finished"), ["in/customers a+ü.csv.done"]);
    assert_eq!(run(&done).0["files"], Value::Array(vec![]));
    server.put("finished", "in/customers_2.csv", rows(10));
    let deleted =
        workspace(&(server.location("finished", "admin", None) + &goal("after_import = 'delete'\n")));
    assert_eq!(run(&deleted).0["rows"]["read"], 10);
    assert_eq!(server.keys("finished"), ["in/customers a+ü.csv.done"]);
}

#[test]
fn a_copy_without_its_delete_is_finished_without_importing_again() {
    let server = server();
    server.bucket("half-finished");
    server.put("half-finished", "in/customers_1.csv", rows(10));
    let location = |key| server.location("half-finished", key, None);
    let keep = goal("after_import = 'done-suffix'\n");
    let workspace = workspace(&(location("reader") + &keep));
    workspace.write("secret", "reader-secret");
    let (report, _) = run(&workspace);
    assert_eq!((&report["status"], &report["rows"]["merged"]), (&"failed".into(), &10.into()));
    workspace.write("secret", "admin-secret");
    workspace.write("connections/shop.toml", location("admin") + &keep);
    let (report, output) = run(&workspace);
    assert_eq!(
        (&report["status"], &report["rows"]["read"]),
        (&"succeeded".into(), &0.into()),
        "{}",
        output.stderr
    );
    assert_eq!(server.keys("half-finished"), ["in/customers_1.csv.done"]);
}

#[test]
fn a_second_object_of_one_name_gets_the_run_s_id() {
    let server = server();
    server.bucket("done-twice");
    let location =
        |key: &str| server.location("done-twice", key, None) + &goal("after_import = 'done-suffix'\n");
    let workspace = workspace(&location("admin"));
    let day = |number: usize| format!("email,spent\nday{number}@x.example,{number}\n");
    let run_with = |key: &str| {
        workspace.write("secret", format!("{key}-secret"));
        workspace.write("connections/shop.toml", location(key));
        run(&workspace).0
    };
    server.put("done-twice", "in/customers.csv", day(1));
    assert_eq!(run_with("admin")["status"], "succeeded");
    server.put("done-twice", "in/customers.csv", day(2));
    let second = run_with("admin");
    let second = format!("in/customers.csv.{}.done", second["run"].as_str().unwrap());
    assert_eq!(server.keys("done-twice"), [second.as_str(), "in/customers.csv.done"]);
    assert_eq!(server.get("done-twice", "in/customers.csv.done"), day(1).as_bytes());
    assert_eq!(server.get("done-twice", &second), day(2).as_bytes());
    // A run whose copy was made and that did not delete the original is finished under its own id.
    server.put("done-twice", "in/customers.csv", day(3));
    let third = run_with("reader");
    assert_eq!((&third["status"], &third["rows"]["merged"]), (&"failed".into(), &1.into()));
    let third = format!("in/customers.csv.{}.done", third["run"].as_str().unwrap());
    server.put("done-twice", &third, day(3));
    let finished = run_with("admin");
    assert_eq!((&finished["status"], &finished["rows"]["read"]), (&"succeeded".into(), &0.into()));
    let mut expected = [second.as_str(), third.as_str(), "in/customers.csv.done"];
    expected.sort_unstable();
    assert_eq!(server.keys("done-twice"), expected);
}

#[test]
fn an_export_replaces_no_object_of_a_bucket() {
    let server = server();
    server.bucket("kept-exports");
    server.put("kept-exports", "in/customers_1.csv", rows(10));
    let connection = |port, more: &str| {
        server.location("kept-exports", "admin", port)
            + &goal("")
            + &format!(
                "[[export_profiles]]\nname = 'out'\ndirectory = 'out'\nchanged_only = false\n{more}\
                 [[export_profiles.columns]]\nproperty = 'email'\n"
            )
    };
    let workspace = workspace(&connection(None, "file = 'all.csv'\n"));
    run(&workspace);
    let export = |connection: String| {
        workspace.write("connections/shop.toml", connection);
        let output = workspace.sluicebox(&["run", "--goal", "out", "--json"]);
        let report: Value = serde_json::from_str(&output.stdout).unwrap();
        report["files"][0]["name"].as_str().unwrap().to_owned()
    };
    let packed = "file = 'all.csv'\ncompression = 'gzip'\n";
    let names = [packed, packed, packed, &format!("{packed}replace = true\n")];
    let names = names.map(|more| export(connection(None, more)));
    assert_eq!(names, ["out/all.csv.gz", "out/all_2.csv.gz", "out/all_3.csv.gz", "out/all.csv.gz"]);
    let kept =
        ["in/customers_1.csv", "out/all.csv", "out/all.csv.gz", "out/all_2.csv.gz", "out/all_3.csv.gz"];
    assert_eq!(server.keys("kept-exports"), kept);

    // Another program writes a file of that name at the same moment.
    let raced = |more: &str| {
        let gate = Gate::default();
        let proxy = Proxy::start(server.port, Fault::HoldWrite { gate: gate.clone() });
        workspace.write("connections/shop.toml", connection(Some(proxy.port), more));
        let command = &mut workspace.command(&["run", "--goal", "out", "--json"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        gate.wait_until_reached();
        server.put("kept-exports", "out/raced.csv", "theirs");
        gate.open();
        let output = Workspace::finish(child);
        assert_eq!(server.get("kept-exports", "out/raced.csv"), b"theirs");
        serde_json::from_str::<Value>(&output.stdout).unwrap()
    };
    let report = raced("file = 'raced.csv'\n");
    assert_eq!(report["files"][0]["name"], "out/raced_2.csv", "{report}");
    assert_eq!(
        server.get("kept-exports", "out/raced_2.csv").iter().filter(|byte| **byte == b'\n').count(),
        11
    );
    // A large file was begun under a name, and cannot get another one at its end.
    server.delete("kept-exports", "out/raced.csv");
    let long = format!("[[export_profiles.columns]]\nheader = 'pad'\ntext = '{}'\n", "x".repeat(1 << 20));
    let report = raced(&format!("file = 'raced.csv'\n{long}"));
    assert_eq!(report["status"], "failed", "{report}");
    let error = report["error"].as_str().unwrap();
    assert!(
        error.contains("out/raced.csv: another file got this name while the export was written"),
        "{error}"
    );
    assert_eq!(server.uploads("kept-exports"), []);
}

#[test]
fn check_names_the_permission_that_is_missing() {
    let server = server();
    server.bucket("permissions");
    server.put("permissions", "in/customers_1.csv", rows(1));
    let check = |key: &str, more: &str| {
        let workspace = workspace(&(server.location("permissions", key, None) + &goal(more)));
        workspace.write("secret", format!("{key}-secret"));
        let output = workspace.sluicebox(&["check"]);
        (output.code, output.stdout + &output.stderr)
    };
    let done = "after_import = 'done-suffix'\n";
    assert_eq!(check("admin", done).0, 0);
    assert_eq!(check("reader", "").0, 0);
    let (code, shown) = check("reader", done);
    let expected = "s3://permissions/in: the identity of access_key_id (connections/shop.toml:7) lacks s3:PutObject, s3:DeleteObject";
    assert!(code == 2 && shown.contains(expected) && shown.contains("error: shop / customers"), "{shown}");
    let (code, shown) = check("lister", "after_import = 'delete'\n");
    assert!(code == 2 && shown.contains("lacks s3:GetObject, s3:DeleteObject"), "{shown}");
    assert_eq!(server.keys("permissions"), ["in/customers_1.csv"]);
}

#[test]
fn check_says_that_a_bucket_does_not_exist() {
    let server = server();
    for key in ["admin", "reader"] {
        let workspace = workspace(&(server.location("never-made", key, None) + &goal("")));
        workspace.write("secret", format!("{key}-secret"));
        let output = workspace.sluicebox(&["check"]);
        assert_eq!(output.code, 2, "{}", output.stdout);
        assert!(output.stderr.contains("there is no such bucket"), "{key}: {}", output.stderr);
    }
}

#[test]
fn scan_without_a_goal_shows_buckets_and_folders() {
    let server = server();
    server.bucket("scanned");
    server.put("scanned", "in/customers_1.csv", rows(1));
    let workspace = workspace(&(server.location("scanned", "admin", None) + &goal("")));
    let scan = workspace.sluicebox(&["scan", "shop", "--json"]);
    let scan: Value = serde_json::from_str(&scan.stdout).unwrap();
    assert!(scan["buckets"].as_array().unwrap().contains(&"scanned".into()), "{scan}");
    assert_eq!(scan["folders"], serde_json::json!(["in/"]));
    let goal = workspace.sluicebox(&["scan", "shop", "customers"]).stdout;
    assert!(goal.contains("in/customers_1.csv") && goal.contains("fields: email, spent"), "{goal}");
}

#[test]
fn cut_connections_and_throttling_are_tried_again() {
    let server = server();
    server.bucket("cut");
    let csv = rows(300_000);
    server.put("cut", "in/customers_1.csv", csv);
    let slow_down = "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>slow</Message></Error>";
    for fault in [
        Fault::Cut { after: 100_000, times: 3 },
        Fault::Cut { after: 10, times: 1 },
        Fault::Answer {
            head: "503 Slow Down\r\ncontent-type: application/xml",
            body: slow_down.into(),
            times: 4,
        },
    ] {
        let proxy = Proxy::start(server.port, fault);
        let workspace = workspace(&(server.location("cut", "admin", Some(proxy.port)) + &goal("")));
        let (report, output) = run(&workspace);
        assert_eq!(report["rows"]["merged"], 300_000, "{}", output.stderr);
        assert_eq!(report["status"], "succeeded", "{}", output.stderr);
        assert!(proxy.faults.load(Ordering::SeqCst) > 0);
    }
}

#[test]
fn permanent_errors_name_the_bucket_and_the_remedy() {
    let server = server();
    server.bucket("refused");
    server.put("refused", "in/customers_1.csv", rows(10));
    let check = |port: Option<u16>, key: &str, bucket: &str, expected: &str| {
        let workspace = workspace(&(server.location(bucket, key, port) + &goal("")));
        let (report, output) = run(&workspace);
        assert_eq!((report["status"].as_str(), output.code), (Some("failed"), 1), "{}", output.stdout);
        let error = report["error"].as_str().unwrap();
        assert!(error.contains(expected), "expected: {expected}\nfound: {error}");
        assert!(error.contains(&format!("s3://{bucket}/in")), "{error}");
        assert!(!(output.stdout + &output.stderr).contains("admin-secret"));
        assert_eq!(workspace.sluicebox(&["profile", "count"]).stdout, "0\n");
    };
    let answered = |head: &'static str, code: &str, expected: &str| {
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message></Error>");
        let proxy = Proxy::start(server.port, Fault::Answer { head, body, times: i64::MAX });
        check(Some(proxy.port), "admin", "refused", expected);
    };
    answered("400 Bad Request", "ExpiredToken", "the credentials have expired; renew session_token");
    answered("403 Forbidden", "RequestTimeTooSkewed", "the clock of this machine differs too much");
    answered(
        "403 Forbidden",
        "AccessDenied",
        "access is denied; the policy of this identity needs s3:ListBucket",
    );
    answered(
        "301 Moved Permanently\r\nx-amz-bucket-region: eu-west-1",
        "PermanentRedirect",
        "the bucket is in another region; set location.region to \"eu-west-1\"",
    );
    check(None, "admin", "no-such-bucket", "there is no such bucket; check location.bucket");
    check(None, "unknown", "refused", "the access key is not known to the store; check access_key_id");
    check(
        None,
        "reader",
        "refused",
        "the signature is wrong; check that secret_access_key belongs to access_key_id",
    );
    check(Some(1), "admin", "refused", "the store cannot be reached");
}

#[test]
fn an_object_that_is_replaced_while_it_is_read_fails_and_is_taken_next() {
    let server = server();
    server.bucket("replaced");
    // More parts than are requested at once: the fifth is requested when the first has been read.
    server.put("replaced", "in/customers_1.csv", rows(2_500_000));
    let gate = Gate::default();
    let proxy = Proxy::start(server.port, Fault::Hold { request: 5, gate: gate.clone() });
    let location = |port| server.location("replaced", "admin", port) + &goal("");
    let workspace = workspace(&location(Some(proxy.port)));
    let child = workspace.command(&["run", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    gate.wait_until_reached();
    server.put("replaced", "in/customers_1.csv", rows(100));
    gate.open();
    let output = Workspace::finish(child);
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(report["status"], "failed");
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("in/customers_1.csv: the file changed while it was being read"), "{error}");
    workspace.write("connections/shop.toml", location(None));
    assert_eq!(run(&workspace).0["rows"]["read"], 100);
}

fn encrypted_goal(passphrase: &str) -> String {
    format!(
        "[location]\nkind = 'directory'\npath = '.'\n[pgp]\nprivate_key = {{ file = 'private.asc' }}\n{passphrase}{}",
        goal("")
    )
}

#[test]
fn files_that_gnupg_encrypted_are_imported() {
    let gpg = Gpg::new();
    let keys = [
        (gpg.key("rsa@x.example", "default", ""), "rsa@x.example", ""),
        (gpg.key("curve@x.example", "future-default", "open sesame"), "curve@x.example", "open sesame"),
    ];
    let other = "other@x.example";
    gpg.key(other, "future-default", "");
    let csv = rows(20_000);
    for (key, user, passphrase) in keys {
        let passphrase =
            if passphrase.is_empty() { String::new() } else { format!("passphrase = '{passphrase}'\n") };
        let workspace = workspace(&encrypted_goal(&passphrase));
        workspace.write("private.asc", key);
        workspace.write("in/customers_1.csv.pgp", gpg.encrypt(&[user], &[], csv.as_bytes()));
        let armored = gpg.encrypt(&[user], &["--armor", "--compress-algo", "none"], csv.as_bytes());
        workspace.write("in/customers_2.csv.asc", armored);
        let zipped = gpg.encrypt(&[user], &["--compress-algo", "none"], &gzip(csv.as_bytes()));
        workspace.write("in/customers_3.csv.gz.gpg", zipped);
        workspace.write(
            "in/customers_4.csv.pgp",
            gpg.encrypt(&[other, user], &["--compress-algo", "zlib"], csv.as_bytes()),
        );
        let signed = ["--sign", "--local-user", other];
        workspace.write("in/customers_5.csv.pgp", gpg.encrypt(&[user], &signed, csv.as_bytes()));
        let bzip2 = gpg.encrypt(&[user], &["--compress-algo", "bzip2"], csv.as_bytes());
        workspace.write("in/customers_6.csv.pgp", bzip2);
        let (report, output) = run(&workspace);
        assert_eq!(report["status"], "succeeded", "{}", output.stderr);
        assert_eq!(report["rows"]["merged"], 120_000);
        let preview = workspace.sluicebox(&["preview", "shop", "customers", "--rows", "1"]);
        assert!(preview.stdout.contains("c0@x.example"), "{}", preview.stderr);
        let scan = workspace.sluicebox(&["scan", "shop", "customers"]);
        assert!(scan.stdout.contains("fields: email, spent"), "{}", scan.stdout);
    }
}

#[test]
fn every_key_of_a_key_file_is_used() {
    let gpg = Gpg::new();
    let old = gpg.key("old@x.example", "default", "");
    let new = gpg.key("new@x.example", "future-default", "");
    let workspace = workspace(&encrypted_goal(""));
    workspace.write("private.asc", [old, new].concat());
    for (number, user) in ["old@x.example", "new@x.example"].into_iter().enumerate() {
        let name = format!("in/customers_{number}.csv.pgp");
        workspace.write(&name, gpg.encrypt(&[user], &[], rows(10).as_bytes()));
    }
    let (report, output) = run(&workspace);
    assert_eq!(report["rows"]["merged"], 20, "{}", output.stderr);
}

#[test]
fn a_key_of_an_unsupported_algorithm_is_named() {
    let gpg = Gpg::new();
    gpg.key("us@x.example", "brainpoolP256r1", "");
    let key = gpg.encryption_key("us@x.example", "brainpoolP256r1");
    let workspace = workspace(&encrypted_goal(""));
    workspace.write("private.asc", key);
    workspace.write("in/customers_1.csv.pgp", gpg.encrypt(&["us@x.example"], &[], rows(10).as_bytes()));
    let output = workspace.sluicebox(&["run"]);
    let shown = output.stdout + &output.stderr;
    assert!(output.code > 0 && shown.contains("the algorithm of the key is not supported"), "{shown}");
}

#[test]
fn a_pgp_message_that_expands_too_far_is_stopped() {
    let gpg = Gpg::new();
    let key = gpg.key("us@x.example", "default", "");
    let workspace = workspace(&encrypted_goal(""));
    workspace.write("private.asc", key);
    let bomb = gpg.encrypt(&["us@x.example"], &["--compress-algo", "bzip2"], &vec![b'a'; 80 << 20]);
    workspace.write("in/customers_1.csv.pgp", bomb);
    let (report, _) = run(&workspace);
    assert!(report["error"].as_str().unwrap().contains("expands to more than 250 times"), "{report}");
}

#[test]
fn placeholders_of_folders_in_a_bucket_are_no_files() {
    let server = server();
    server.bucket("placeholders");
    server.put("placeholders", "in/", "");
    server.put("placeholders", "in/2026/", "");
    server.put("placeholders", "in/._customers_1.csv", "x");
    server.put("placeholders", "in/customers_1.csv", rows(10));
    let any = goal("after_import = 'done-suffix'\n").replace("'customers*.csv*'", "'*'");
    let workspace = workspace(&(server.location("placeholders", "admin", None) + &any));
    let (report, output) = run(&workspace);
    assert_eq!(report["files"].as_array().unwrap().len(), 1, "{}", output.stderr);
    let keys = ["in/", "in/._customers_1.csv", "in/2026/", "in/customers_1.csv.done"];
    assert_eq!(server.keys("placeholders"), keys);
}

#[test]
fn encrypted_files_that_are_wrong_say_how() {
    let gpg = Gpg::new();
    let key = gpg.key("us@x.example", "default", "secret words");
    gpg.key("other@x.example", "future-default", "");
    let csv = rows(20_000);
    let whole = gpg.encrypt(&["us@x.example"], &[], csv.as_bytes());
    let armored = gpg.encrypt(&["us@x.example"], &["--armor"], csv.as_bytes());
    let workspace = workspace(&encrypted_goal("passphrase = 'secret words'\n"));
    workspace.write("private.asc", key);
    let check = |content: &[u8], expected: &str| {
        workspace.write("in/customers_1.csv.pgp", content);
        let (report, output) = run(&workspace);
        assert_eq!(report["status"], "failed", "{expected}");
        let error = report["error"].as_str().unwrap();
        assert!(
            error.starts_with(&format!("in/customers_1.csv.pgp: {expected}")),
            "{expected}\nfound: {error}"
        );
        assert_eq!((&report["rows"]["read"], output.code), (&0.into(), 1), "{error}");
    };
    check(
        &gpg.encrypt(&["other@x.example"], &[], csv.as_bytes()),
        "the file is not encrypted for this private key",
    );
    check(
        &gpg.encrypt(&["us@x.example"], &["--rfc2440"], csv.as_bytes()),
        "the file has no integrity protection",
    );
    for cut in [whole.len() - 1, whole.len() - 30, whole.len() / 2, 400, 20] {
        check(&whole[..cut], "the encrypted file is truncated");
    }
    check(&armored[..armored.len() / 2], "the encrypted file is truncated");
    for place in [whole.len() - 3, whole.len() / 2, whole.len() - 40] {
        let mut tampered = whole.clone();
        tampered[place] ^= 1;
        check(&tampered, "the encrypted file was damaged or tampered with");
    }
    check(csv.as_bytes(), "the file is not encrypted with OpenPGP");
    check(b"", "the encrypted file is truncated");
    assert_eq!(workspace.sluicebox(&["profile", "count"]).stdout, "0\n");

    let refused = |connection: &str, expected: &str| {
        workspace.write("connections/shop.toml", connection);
        let output = workspace.sluicebox(&["run"]);
        assert!(output.code == 2 && output.stderr.contains(expected), "{expected}\nfound: {}", output.stderr);
        assert!(!output.stderr.contains("words"));
    };
    refused(&encrypted_goal("passphrase = 'wrong words'\n"), "the passphrase does not open the private key");
    refused(&encrypted_goal(""), "the private key is protected by a passphrase; set pgp.passphrase");
    workspace.write("private.asc", "no key");
    refused(&encrypted_goal(""), "the private key cannot be read");
    let plain = format!("[location]\nkind = 'directory'\npath = '.'\n{}", goal(""));
    workspace.write("connections/shop.toml", plain);
    workspace.write("in/customers_1.csv.pgp", &armored);
    let (report, _) = run(&workspace);
    assert!(report["error"].as_str().unwrap().contains("the connection needs a [pgp] with a private_key"));
}

/// Person → orders → order lines, encrypted, compressed and in a bucket.
fn three_files(bucket: &str, people: usize) -> Workspace {
    let server = server();
    let gpg = Gpg::new();
    let key = gpg.key("us@x.example", "future-default", "words");
    let (mut customers, mut orders, mut lines) = (
        String::from("email,spent\n"),
        String::from("order_id,email,at,total\n"),
        String::from("order_id,sku\n"),
    );
    for person in 0..people {
        customers.push_str(&format!("p{}@x.example,1.25\n", person % (people - 7)));
        for order in 0..person % 3 {
            let id = person * 7 + order;
            orders.push_str(&format!(
                "o{id},p{person}@x.example,2026-01-{:02}T00:00:00Z,{order}.5\n",
                1 + id % 28
            ));
            (0..1 + id % 3).for_each(|line| lines.push_str(&format!("o{id},s{line}\n")));
        }
    }
    server.bucket(bucket);
    for (name, text) in [("customers_1", customers), ("orders_1", orders), ("lines_1", lines)] {
        let encrypted = gpg.encrypt(&["us@x.example"], &[], &gzip(text.as_bytes()));
        server.put(bucket, &format!("in/{name}.csv.gz.gpg"), encrypted);
    }
    let goal = goal(
        "[[import_profiles.linked]]\nname = 'orders'\nfiles = 'orders*.csv*'\ncolumn = 'email'\nparent_column = 'email'\n\
         [[import_profiles.linked]]\nname = 'lines'\nfiles = 'lines*.csv*'\ncolumn = 'order_id'\nparent = 'orders'\nparent_column = 'order_id'\n\
         [[import_profiles.events]]\ntype = 'order'\nfile = 'orders'\nid = 'order_id'\ntime = 'at'\nall_fields = true\n\
         nested = [ { name = 'lines', file = 'lines', all_fields = true } ]\n",
    );
    let pgp = "[pgp]\nprivate_key = { file = 'private.asc' }\npassphrase = { file = 'words' }\n";
    let workspace = workspace(&(server.location(bucket, "admin", None) + pgp + &goal));
    workspace.write("private.asc", key);
    workspace.write("words", "words\n");
    workspace.write("sluicebox.toml", "[import]\ncommit_rows = 500\nbatch_rows = 100\n");
    workspace
}

#[test]
fn three_encrypted_files_of_a_bucket_killed_on_the_way_are_imported_once() {
    const KILLS: u64 = 5;
    let whole = three_files("whole", 20_000);
    let moved = whole.moved_by(&["run"]);

    let killed = three_files("killed", 20_000);
    let mut cut_short = 0;
    for kill in 1..=KILLS {
        cut_short += u32::from(killed.killed_at(&["run"], moved * (30 + 60 * kill / KILLS) / 100));
    }
    assert!(cut_short > 0);
    let (last, output) = run(&killed);
    assert_eq!(last["status"], "succeeded", "{}", output.stderr);
    assert_eq!(profiles(&killed), profiles(&whole));
    let counted = |workspace: &Workspace| {
        let history = workspace.sluicebox(&["history", "--json"]).stdout;
        let reports: Vec<Value> = history.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let sum =
            |field: &str| reports.iter().map(|report| report.pointer(field).unwrap().as_u64().unwrap()).sum();
        ["/rows/read", "/linked/read", "/linked/orphaned", "/events/created"].map(sum) as [u64; 4]
    };
    assert_eq!(counted(&killed), counted(&whole));
    assert!(counted(&whole)[3] > 15_000, "{:?}", counted(&whole));
}
