//! Every limit has an attack that hits it: the goal fails with the exact message, nothing of it is merged, and the
//! next goal succeeds.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that fails says where"
)]

mod workspace;

use std::fs;

use serde_json::Value;
use workspace::Workspace;

fn workspace(attack: &str) -> Workspace {
    let workspace = Workspace::empty();
    workspace.write(
        "sluicebox.toml",
        "[limits]\nmemory = '16MiB'\nbatch_time = '300ms'\nopen_time = '300ms'\nlog_lines = 3\n",
    );
    workspace.write("schema.toml", "[properties.email]\nunique = true\n");
    let goal = |name: &str, file: &str, processor: &str| {
        format!(
            "[[import_profiles]]\nname = '{name}'\nfiles = '{file}'\n{processor}\
             [[import_profiles.identifiers]]\ncolumn = 'email'\nproperty = 'email'\n"
        )
    };
    let attacker =
        format!("[[import_profiles.processors]]\nplugin = 'attacker'\nconfig = {{ attack = '{attack}' }}\n");
    let (before, attacked, after) =
        (goal("before", "1.csv", ""), goal("attacked", "2.csv", &attacker), goal("after", "3.csv", ""));
    let location = "[location]\nkind = 'directory'\npath = 'exchange'\n";
    workspace.write("connections/shop.toml", format!("{location}{before}{attacked}{after}"));
    workspace.write("exchange/1.csv", "email\nbefore@x.example\n");
    workspace.write("exchange/2.csv", "email\nattacked@x.example\nattacked2@x.example\n");
    workspace.write("exchange/3.csv", "email\nafter@x.example\n");
    let built = Workspace::repository().join("tests/hostile/built/attacker.wasm");
    let plugin = fs::read(built).expect("`cargo xtask test` builds the plugins");
    workspace.write("plugins/attacker.wasm", plugin);
    workspace
}

fn check(attack: &str, expected: &str) {
    let workspace = workspace(attack);
    let run = workspace.sluicebox(&["run", "--json"]);
    let reports: Vec<Value> = run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(run.code, 1, "{attack}: {}{}", run.stdout, run.stderr);
    let statuses: Vec<&str> = reports.iter().map(|report| report["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["succeeded", "failed", "succeeded"], "{attack}");
    let error = reports[1]["error"].as_str().unwrap();
    assert!(error.starts_with(expected), "{attack}:\nexpected: {expected}\nfound:    {error}");
    assert!(!error.contains('\u{1b}') && !run.stderr.contains('\u{1b}'), "{attack}: {error}");
    let profiles = workspace.sluicebox(&["profile", "list", "--json"]).stdout;
    assert!(profiles.contains("before@") && profiles.contains("after@") && !profiles.contains("attacked"));
}

#[test]
fn limits_hold() {
    check("loop", "2.csv, batch 1: plugin attacker: it was stopped after 0.3 s in `process`");
    check("loop-in-open", "2.csv: plugin attacker: it was stopped after 0.3 s in `open`");
    check("memory", "2.csv, batch 1: plugin attacker: it needs more than the 16777216 bytes of memory");
    check("stack", "2.csv, batch 1: plugin attacker: its stack overflowed in `process`");
    check(
        "wide-stack",
        "2.csv, batch 1: plugin attacker: it broke off in `process`: wasm trap: out of bounds memory",
    );
    check(
        "panic",
        "2.csv, batch 1: plugin attacker: it broke off in `process`: wasm trap: wasm `unreachable`",
    );
    check("data", "2.csv, batch 1: plugin attacker: bad data");
    check("config", "2.csv: plugin attacker: configuration: no \\u{1b}[31mgood");
}

#[test]
fn malformed_answers_are_refused() {
    let check = |attack: &str, expected: &str| {
        check(attack, &format!("2.csv, batch 1: plugin attacker: its answer is malformed: {expected}"));
    };
    check("few-verdicts", "1 verdicts for 2 rows");
    check("verdict-7", "verdict 7 of row 0, expected 0, 1 or 2");
    check("no-rejections", "0 rejections for 2 rows with verdict 2");
    check("rejection-beyond", "1 rejections for 0 rows with verdict 2");
    check("unknown-column", "changed column 1 is named twice or not one of the session's 1");
    check("doubled-column", "changed column 0 is named twice or not one of the session's 1");
    check("offsets-beyond", "the offsets of changed column 0 fall");
    check("falling-offsets", "the offsets of changed column 0 fall");
    check("inside-a-character", "the offsets of changed column 0 fall");
    check("few-offsets", "2 offsets, expected 3");
    check("not-utf-8", "the values are not UTF-8 (byte 0)");
    check("other-rows", "values of 1 rows for 2 rows");
    check("short-validity", "3 bytes of validity, expected 1");
}

#[test]
fn malformed_columns_are_refused() {
    let check = |attack: &str, expected: &str| {
        check(attack, &format!("2.csv: plugin attacker: its answer to `open` is malformed: {expected}"));
    };
    check("want-beyond", "it wants column 9; there are 1");
    check("want-twice", "it wants a column twice");
    check("add-what-is-there", "it adds a column without a name, or one that is there");
}

#[test]
fn a_flood_of_messages_is_cut() {
    let workspace = workspace("log-flood");
    let run = workspace.sluicebox(&["run"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(run.stderr.matches("flood").count(), 3, "{}", run.stderr);
    assert!(run.stderr.contains("further messages of the plugin are not shown"));
    assert!(run.stderr.contains("\\u{1b}[2Jflood") && !run.stderr.contains("\u{1b}[2J"));
}

#[test]
fn what_a_plugin_says_of_itself_is_escaped() {
    let workspace = workspace("none");
    let shown = workspace.sluicebox(&["plugin", "inspect", "attacker"]);
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    assert!(shown.stdout.contains("Attacks \\u{1b}[31mthe host."), "{}", shown.stdout);
}

#[test]
fn a_changed_compiled_plugin_is_compiled_again() {
    let workspace = workspace("none");
    assert_eq!(workspace.sluicebox(&["run"]).code, 0);
    let cache = workspace.path().join("data/plugin-cache");
    for entry in fs::read_dir(&cache).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "cwasm") {
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
    }
    let again = workspace.sluicebox(&["plugin", "list"]);
    assert_eq!(again.code, 0);
    assert!(again.stderr.contains("the compiled plugin was changed"), "{}", again.stderr);
}
