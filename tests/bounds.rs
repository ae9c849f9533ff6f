//! Attacks of partners, object stores and clients on the memory that `memory` promises: each ends with an error or a result that
//! says what is wrong, the process takes at most 100 MB more than promised, and the next goal goes on.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails says where"
)]

#[path = "servers/endless.rs"]
mod endless;
#[path = "servers/gpg.rs"]
mod gpg;
#[path = "servers/service.rs"]
#[expect(dead_code, reason = "not every test needs every way to ask")]
mod service;
mod workspace;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;

use endless::{Answer, Endless};
use gpg::Gpg;
use serde_json::{Value, json};
use service::Service;
use workspace::wait::wait_for;
use workspace::{Output, Workspace};

/// The least that `memory` may be, and what a process may take of it and beside it.
const SETTINGS: &str = "memory = '384MiB'\n";
const MAX_BYTES: u64 = (384 << 20) + 100_000_000;

const SCHEMA: &str = "[properties.email]\nunique = true\n[properties.name]\n\
    [events.order.properties.total]\ntype = 'number'\n";

/// A goal for files of its name. `more` are further keys of the goal.
fn goal(name: &str, more: &str) -> String {
    format!(
        "[[import_profiles]]\nname = '{name}'\ndirectory = '{name}'\nfiles = '{name}*'\n{more}\n\
         [[import_profiles.identifiers]]\ncolumn = 'email'\nproperty = 'email'\n"
    )
}

/// A working folder with a goal that is attacked and one after it. `connection` says where their files are.
fn workspace_at(connection: &str, more: &str) -> Workspace {
    let workspace = Workspace::empty();
    workspace.write("sluicebox.toml", SETTINGS);
    workspace.write("schema.toml", SCHEMA);
    workspace
        .write("connections/shop.toml", format!("{connection}{}{}", goal("bad", more), goal("good", "")));
    workspace
}

fn workspace(more: &str) -> Workspace {
    let workspace = workspace_at("[location]\nkind = 'directory'\npath = '.'\n", more);
    workspace.write("good/good.csv", GOOD);
    workspace
}

const GOOD: &str = "email\ngood@x.example\n";

/// Runs a command, and fails if it takes more memory than it may.
fn bounded(workspace: &Workspace, arguments: &[&str]) -> Output {
    let [out, err] = ["out", "err"].map(|name| workspace.path().join(name));
    let (stdout, stderr) = (File::create(&out).unwrap(), File::create(&err).unwrap());
    let mut process = workspace.command(arguments).stdout(stdout).stderr(stderr).spawn().unwrap();
    let mut peak = 0;
    let status = wait_for(&format!("{arguments:?} to end"), || {
        let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak = now.map_or(peak, |now| now * 1024);
        process.try_wait().unwrap()
    });
    let [stdout, stderr] = [out, err].map(|path| fs::read_to_string(path).unwrap());
    assert!(peak > 0 && peak <= MAX_BYTES, "{arguments:?} took {peak} bytes\n{stdout}{stderr}");
    Output { stdout, stderr, code: status.code().unwrap_or(-1) }
}

/// Runs both goals; answers with the report of the one that is attacked. The other must succeed.
fn attacked(workspace: &Workspace) -> Value {
    let output = bounded(workspace, &["run", "--json"]);
    let lines: Vec<Value> = output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [bad, good] = lines.as_slice() else { panic!("{}{}", output.stdout, output.stderr) };
    assert_eq!((&good["status"], &good["rows"]["merged"]), (&json!("succeeded"), &json!(1)), "{good}");
    bad.clone()
}

/// Runs both goals; the one that is attacked must fail with a message that says `expected`.
#[track_caller]
fn check_failure(workspace: &Workspace, expected: &str) {
    let report = attacked(workspace);
    let error = report["error"].as_str().unwrap_or_default();
    assert!(report["status"] == "failed" && error.contains(expected), "{report}");
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn zlib(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// A header of an e-mail and of 98,999 other columns.
fn wide_header() -> String {
    let mut header = String::from("email");
    for column in 1..99_000 {
        write!(header, ",c{column}").unwrap();
    }
    header + "\n"
}

/// The bytes of the files in the folder of rejected rows.
fn recorded_bytes(workspace: &Workspace) -> u64 {
    let runs = fs::read_dir(workspace.path().join("data/rejected")).unwrap();
    let files = runs.flat_map(|run| fs::read_dir(run.unwrap().path()).unwrap());
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn rows_of_one_cell_below_a_wide_header_cost_what_their_bytes_cost() {
    let workspace = workspace("");
    let whole = format!("bad@x.example{}\n", ",".repeat(98_999));
    workspace.write("bad/bad.csv", wide_header() + &whole + &"x\n".repeat(24_000));
    let report = attacked(&workspace);
    assert_eq!(
        (&report["rows"]["merged"], &report["rows"]["rejected"]),
        (&json!(1), &json!(24_000)),
        "{report}"
    );
    let recorded = recorded_bytes(&workspace);
    assert!(recorded < 10_000_000, "{recorded}");
}

#[test]
fn a_file_of_ragged_rows_below_a_wide_header_fails() {
    let workspace = workspace("");
    workspace.write("bad/bad.csv", wide_header() + &"x\n".repeat(24_000));
    check_failure(&workspace, "all 24000 rows were rejected");
}

#[test]
fn rows_that_are_padded_to_a_wide_header_are_cut_into_batches_by_their_bytes() {
    let workspace = workspace("csv = { ragged = 'pad' }");
    let rows: String = (0..3000).map(|row| format!("{row}@x.example\n")).collect();
    workspace.write("bad/bad.csv", wide_header() + &rows);
    assert_eq!(attacked(&workspace)["rows"]["merged"], 3000);
}

#[test]
fn cells_beyond_the_header_cost_what_their_bytes_cost() {
    let workspace = workspace("");
    let rows = format!("{}\n", ",".repeat(14 << 20)).repeat(2);
    let file = gzip(format!("email,name\n{rows}bad@x.example,Bad\n").as_bytes());
    assert!(file.len() < 100_000, "{}", file.len());
    workspace.write("bad/bad.csv.gz", file);
    let report = attacked(&workspace);
    assert_eq!((&report["rows"]["merged"], &report["rows"]["rejected"]), (&json!(1), &json!(2)), "{report}");
}

/// A file of rows of 14 cells of 1 MiB.
fn long_rows(rows: usize) -> Vec<u8> {
    let mut text = String::from("email");
    (1..15).for_each(|column| write!(text, ",c{column}").unwrap());
    text.push('\n');
    let cells = format!(",{}", "x".repeat(1 << 20)).repeat(14);
    for row in 0..rows {
        writeln!(text, "{row}@x.example{cells}").unwrap();
    }
    gzip(text.as_bytes())
}

#[test]
fn rows_of_14_mib_are_shown_in_part() {
    let workspace = workspace("");
    workspace.write("sluicebox.toml", format!("{SETTINGS}[limits]\nexpansion = 5000\n"));
    workspace.write("bad/bad.csv.gz", long_rows(20));
    let output = bounded(&workspace, &["preview", "shop", "bad", "--rows", "500", "--json"]);
    let preview: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(preview["remark"], "only 1 row can be shown, because rows are so large");
    let cell = preview["rows"][0]["before"]["c1"].as_str().unwrap();
    assert!(cell.ends_with("x… (1,048,576 bytes)") && cell.len() < 1100, "{cell}");

    let service = Service::start(&workspace);
    for _ in 0..2 {
        let page = service.get("/connections/shop/goals/bad?look=1");
        assert!(page.status == 200 && page.text.contains("x… (1,048,576 bytes)"), "{}", page.status);
        assert!(page.text.contains("only 1 row can be shown") && page.text.len() < 1 << 20);
    }
    assert!(service.peak_memory() <= MAX_BYTES, "{}", service.peak_memory());
}

#[test]
fn a_wide_header_is_shown_in_part() {
    let workspace = workspace("");
    workspace.write("bad/bad.csv", wide_header() + &"x\n".repeat(20));
    let service = Service::start(&workspace);
    let page = service.get("/connections/shop/goals/bad?look=1");
    assert!(page.status == 200 && page.text.len() < 4 << 20, "{} {}", page.status, page.text.len());
    assert!(page.text.contains("the cells of 1,000 of 99,000 columns are shown"));
    assert!(service.peak_memory() <= MAX_BYTES, "{}", service.peak_memory());
}

#[test]
fn rows_of_14_mib_are_imported() {
    let fields = "all_fields = true";
    let workspace = workspace(fields);
    let properties: String = (1..15).map(|column| format!("[properties.c{column}]\n")).collect();
    workspace.write("sluicebox.toml", format!("{SETTINGS}[limits]\nexpansion = 5000\n"));
    workspace.write("schema.toml", format!("{SCHEMA}{properties}"));
    workspace.write("bad/bad.csv.gz", long_rows(20));
    let report = attacked(&workspace);
    assert_eq!(report["rows"]["merged"], 20, "{report}");
}

#[test]
fn one_linking_value_for_many_rows_of_both_files_is_refused() {
    let linked = "[[import_profiles.linked]]\nname = 'orders'\nfiles = 'orders*'\ncolumn = 'shop'\n\
        parent = 'root'\nparent_column = 'shop'\n\
        [[import_profiles.events]]\ntype = 'order'\nfile = 'orders'\nid = 'id'\ntime = 'time'\n\
        fields = [{ column = 'total', property = 'total' }]\n";
    let workspace = workspace(linked);
    let rows: String = (0..1000).map(|row| format!("{row}@x.example,1\n")).collect();
    workspace.write("bad/bad.csv", format!("email,shop\n{rows}"));
    let orders: String = (0..20_000).map(|row| format!("1,{row},2026-01-01,1\n")).collect();
    workspace.write("bad/orders.csv", format!("shop,id,time,total\n{orders}"));
    check_failure(&workspace, "the linked rows that belong to one batch of rows take more than");
}

#[test]
fn thousands_of_wrong_settings_are_counted() {
    let workspace = workspace("");
    let unknown: String = (0..200_000).map(|key| format!("x{key} = 1\n")).collect();
    workspace.write("sluicebox.toml", format!("{SETTINGS}{unknown}"));
    let output = bounded(&workspace, &["check"]);
    assert_eq!((output.code, output.stderr.lines().count()), (2, 101), "{}", output.stderr);
    assert!(output.stderr.contains("sluicebox.toml:2:1: unknown key `x0`"), "{}", output.stderr);
    assert!(output.stderr.ends_with("sluicebox.toml: and 199900 more problems\n"), "{}", output.stderr);
    workspace.write("sluicebox.toml", format!("x = {}", "[".repeat(400_000)));
    let output = bounded(&workspace, &["check"]);
    assert_eq!((output.code, output.stderr.lines().count()), (2, 1), "{}", output.stderr);
}

#[test]
fn a_request_with_260_000_wrong_names_is_answered() {
    let workspace = workspace("");
    let service = Service::start(&workspace);
    let objectives = vec!["x"; 260_000];
    let change = json!({ "objectives": objectives }).to_string();
    assert!(change.len() > 1_000_000 && change.len() < 1 << 20);
    let json = [("content-type", "application/json")];
    let answer = service.ask("PATCH", "/api/v1/connections/shop", &json, Some(&change));
    assert_eq!(answer.status, 422, "{}", answer.text);
    assert!(
        answer.text.contains("and 259900 more problems") && answer.text.len() < 100_000,
        "{}",
        answer.text
    );
    assert_eq!(service.get("/api/v1/connections/shop").json()["objectives"], json!([]));
    assert!(service.peak_memory() <= MAX_BYTES, "{}", service.peak_memory());
}

/// A working folder whose files are in a bucket of a store that answers as `answer` says.
fn bucket(answer: Answer) -> (Workspace, Endless) {
    let store = Endless::start(answer, GOOD);
    let connection = format!(
        "[location]\nkind = 's3'\nbucket = 'b'\nendpoint = 'http://127.0.0.1:{}'\npath_style = true\n\
         access_key_id = 'k'\nsecret_access_key = 's'\n",
        store.port
    );
    (workspace_at(&connection, ""), store)
}

#[test]
fn an_object_longer_than_it_was_listed_is_refused() {
    let (workspace, _store) = bucket(Answer::LongObject);
    check_failure(
        &workspace,
        "s3://b/bad/bad.csv: the store sent more bytes than the object had when it was listed",
    );
}

#[test]
fn a_listing_without_end_is_cut() {
    let (workspace, _store) = bucket(Answer::Pages);
    check_failure(&workspace, "more than 200000 files match");
}

#[test]
fn a_listing_without_end_of_other_files_is_cut() {
    let (workspace, _store) = bucket(Answer::OtherPages);
    check_failure(&workspace, "the listing has more than 10000 pages");
}

#[test]
fn an_answer_without_end_is_cut() {
    let (workspace, _store) = bucket(Answer::LongPage);
    check_failure(&workspace, "the store sent a response of more than 5 MiB");
}

#[test]
fn an_error_without_end_is_cut() {
    let (workspace, _store) = bucket(Answer::LongError);
    check_failure(&workspace, "access is denied");
}

/// A packet of OpenPGP.
fn packet(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    [&[0xc0 | tag, 0xff], &length[..], content].concat()
}

#[test]
fn openpgp_compression_counts_in_every_layer() {
    const ZLIB: u8 = 2;
    let gpg = Gpg::new();
    let key = gpg.key("us@x.example", "future-default", "");
    let workspace = workspace_at(
        "[location]\nkind = 'directory'\npath = '.'\n[pgp]\nprivate_key = { file = 'key.asc' }\n",
        "",
    );
    workspace.write("key.asc", key);
    let literal = packet(11, b"b\0\0\0\0\0email\nbad@x.example\n");
    let compressed = |packets: &[u8]| packet(8, &[&[ZLIB], &zlib(packets)[..]].concat());
    // A packet for private use: programs pass over it.
    let silent = packet(60, &vec![0; 100 << 20]);
    let bomb = [&silent[..], &literal].concat();
    let encrypt = |packets: &[u8], algorithm: &str| {
        gpg.encrypt(&["us@x.example"], &["--no-literal", "--compress-algo", algorithm], packets)
    };
    let check = |file: Vec<u8>, expected: &str| {
        workspace.write("good/good.csv.gpg", gpg.encrypt(&["us@x.example"], &[], GOOD.as_bytes()));
        workspace.write("bad/bad.csv.gpg", file);
        let output = bounded(&workspace, &["run", "--json", "--reimport"]);
        let line = output.stdout.lines().next().unwrap_or_default();
        assert!(
            line.contains(expected) && line.contains("\"failed\""),
            "{expected}: {}{}",
            output.stdout,
            output.stderr
        );
        let good = output.stdout.lines().nth(1).unwrap_or_default();
        assert!(good.contains("\"succeeded\""), "{good}");
    };
    let expands = "the file expands to more than 250 times its size";
    let holds_nothing = "more than 8 MiB of OpenPGP packets that hold no data";
    for algorithm in ["zip", "zlib", "bzip2"] {
        check(encrypt(&bomb, algorithm), holds_nothing);
    }
    check(encrypt(&compressed(&bomb), "zlib"), holds_nothing);
    check(encrypt(&silent, "none"), holds_nothing);
    // Text in every other byte, so that nothing is silent.
    let text = packet(11, &[b"b\0\0\0\0\0email\n".to_vec(), vec![b'x'; 80 << 20]].concat());
    check(encrypt(&compressed(&text), "bzip2"), expands);
    let deep = (0..9).fold(literal.clone(), |packets, _| compressed(&packets));
    check(encrypt(&deep, "none"), "a feature of OpenPGP that is not supported");
    let many: Vec<u8> = packet(4, &[3, 0, 8, 22, 1, 2, 3, 4, 5, 6, 7, 8, 0]).repeat(100);
    check(encrypt(&[&many[..], &literal].concat(), "none"), "a feature of OpenPGP that is not supported");
    let layers = compressed(&compressed(&literal));
    workspace.write("bad/bad.csv.gpg", encrypt(&layers, "zlib"));
    let output = bounded(&workspace, &["run", "--json", "--reimport"]);
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
}
