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
    check_in(&workspace(attack), attack, expected);
}

/// A plugin in the text format, `attacker.wat` with these changes. The contract is in it as `version`.
fn component(version: &str, changes: &[(&str, &str)]) -> Vec<u8> {
    let folder = Workspace::repository().join("tests/hostile");
    let mut text = fs::read_to_string(folder.join("attacker.wat")).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "attacker.wat has no {from}");
        text = text.replacen(from, to, 1);
    }
    let contract = fs::read_to_string(Workspace::repository().join("wit/processor.wit")).unwrap();
    let contract = contract.replace("processor@1.0.0;", &format!("processor@{version};"));
    let mut module = wat::parse_str(text.replace("@1.0.0", &format!("@{version}"))).unwrap();
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve.push_str("processor.wit", &contract).unwrap();
    let world = resolve.select_world(&[package], Some("plugin")).unwrap();
    let encoding = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, encoding).unwrap();
    wit_component::ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
}

/// The attack of a plugin in the text format.
fn check_text(changes: &[(&str, &str)], expected: &str) {
    let workspace = workspace("none");
    workspace.write("plugins/attacker.wasm", component("1.0.0", changes));
    check_in(&workspace, &format!("{changes:?}"), expected);
}

/// What is no plugin is refused before anything runs, and nothing is merged.
fn check_refused(bytes: impl AsRef<[u8]>, expected: &str) {
    let workspace = workspace("none");
    workspace.write("plugins/attacker.wasm", bytes);
    let run = workspace.sluicebox(&["run", "--json"]);
    assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{expected}: {}", run.stderr);
    assert!(run.stderr.contains(expected), "expected: {expected}\nfound:    {}", run.stderr);
    assert_eq!(workspace.sluicebox(&["profile", "list", "--json"]).stdout, "");
}

fn check_in(workspace: &Workspace, attack: &str, expected: &str) {
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

const LOOP: &str = "(loop $again (br $again))";

#[test]
fn loops_are_stopped_wherever_they_are() {
    check_text(
        &[(";; start", "(func $start (loop $again (br $again))) (start $start)")],
        "plugin attacker: it was stopped after 0.3 s in `start`",
    );
    check_text(&[(";; describe", LOOP)], "plugin attacker: it was stopped after 0.3 s in `describe`");
    check_text(&[(";; after describe", LOOP)], "plugin attacker: it was stopped after 0.3 s in `describe`");
    check_text(&[(";; realloc", LOOP)], "2.csv: plugin attacker: it was stopped after 0.3 s in `open`");
    check_text(
        &[(";; process", LOOP)],
        "2.csv, batch 1: plugin attacker: it was stopped after 0.3 s in `process`",
    );
    check_text(
        &[(";; after process", LOOP)],
        "2.csv, batch 1: plugin attacker: it was stopped after 0.3 s in `process`",
    );
}

#[test]
fn memories_and_tables_have_a_limit_from_the_start() {
    check_text(
        &[("(memory (export \"memory\") 2)", "(memory (export \"memory\") 1000)")],
        "plugin attacker: it needs more than the 16777216 bytes of memory",
    );
    check_text(
        &[(";; start", "(table 1000000 funcref)")],
        "plugin attacker: it needs more than the 200000 table elements",
    );
}

#[test]
fn answers_beyond_the_memory_are_refused() {
    let answer = |store: &str, expected: &str| {
        check_text(&[(";; process", store)], &format!("2.csv, batch 1: plugin attacker: {expected}"));
    };
    answer(
        "(drop (i32.div_s (i32.const 1) (i32.const 0)))",
        "it broke off in `process`: wasm trap: integer divide by zero",
    );
    // A billion rejections.
    answer("(i32.store (i32.const 4112) (i32.const 1000000000))", "it broke off in `process`");
    // Two rows with verdict 2, and reasons of 2 GiB.
    answer(
        "(i32.store (i32.const 4100) (i32.const 5000)) (i32.store (i32.const 4104) (i32.const 2))
         (i32.store16 (i32.const 5000) (i32.const 0x0202))
         (i32.store (i32.const 4108) (i32.const 6000)) (i32.store (i32.const 4112) (i32.const 2))
         (i32.store (i32.const 6024) (i32.const 0x7fffffff))",
        "it broke off in `process`",
    );
    // As many rejections as fit, whose reasons are all the same 64 KiB.
    let shared = "(local $at i32) (local.set $at (i32.const 70000))
         (i32.store (i32.const 4108) (i32.const 70000)) (i32.store (i32.const 4112) (i32.const 1500))
         (loop $next
           (i32.store (i32.add (local.get $at) (i32.const 20)) (i32.const 131072))
           (i32.store (i32.add (local.get $at) (i32.const 24)) (i32.const 65536))
           (local.set $at (i32.add (local.get $at) (i32.const 28)))
           (br_if $next (i32.lt_u (local.get $at) (i32.const 112000))))";
    check_text(
        &[("(memory (export \"memory\") 2)", "(memory (export \"memory\") 4)"), (";; process", shared)],
        "2.csv, batch 1: plugin attacker: it answered `process` with more data than the host takes",
    );
}

#[test]
fn what_is_no_plugin_is_refused() {
    let whole = component("1.0.0", &[]);
    check_refused(b"", "not a WebAssembly component: it does not begin as one");
    check_refused(b"#!/bin/sh\n", "not a WebAssembly component: it does not begin as one");
    check_refused(&whole[..whole.len() / 2], "plugin attacker: not a WebAssembly component");
    check_refused(wat::parse_str("(module)").unwrap(), "a WebAssembly core module, not a component");
    check_refused(
        wat::parse_str("(component)").unwrap(),
        "it does not export sluicebox:processor/processor@1.0.0; it exports nothing",
    );
    check_refused(
        component("1.7.0", &[]),
        "it was built for sluicebox:processor 1.7.0; this host supports 1.0.0",
    );
    check_refused(
        component("2.0.0", &[]),
        "it was built for sluicebox:processor 2.0.0; this host supports 1.0.0",
    );
}

#[test]
fn what_no_processor_gets_is_refused_by_its_name() {
    let imports =
        ["evil:host/shell", "wasi:http/outgoing-handler@0.2.0", "wasi:nn/graph@0.2.0", "wasi:cli/run@0.3.0"];
    let imports_text: String = imports
        .iter()
        .map(|name| format!("(import \"{name}\" (instance (export \"run\" (func))))"))
        .collect();
    let exports = "(instance $none) (export \"sluicebox:processor/processor@1.0.0\" (instance $none))";
    check_refused(
        wat::parse_str(format!("(component {imports_text} {exports})")).unwrap(),
        &format!("plugin attacker: it imports what no processor gets: {}", imports.join(", ")),
    );
}

#[test]
fn fifty_thousand_functions_compile_in_bounded_time() {
    let functions: String = (0..50_000)
        .map(|n| format!("(func (param i32) (result i32) (i32.add (local.get 0) (i32.const {n})))"))
        .collect();
    let workspace = workspace("none");
    workspace.write("plugins/attacker.wasm", component("1.0.0", &[(";; start", &functions)]));
    let run = workspace.sluicebox(&["run", "--json"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
}

#[test]
fn the_secrets_of_another_goal_are_not_in_reach() {
    let workspace = workspace("search:yek terces a fo elpmaxe na");
    let goals = fs::read_to_string(workspace.path().join("connections/shop.toml")).unwrap();
    let secret = "[[import_profiles.processors]]\nplugin = 'pseudonymizer'\n\
                  config = { columns = ['email'], key = 'an example of a secret key', suffix = '_hash' }\n";
    workspace.write(
        "connections/shop.toml",
        goals.replacen(
            "[[import_profiles.identifiers]]",
            &format!("{secret}[[import_profiles.identifiers]]"),
            1,
        ),
    );
    let run = workspace.sluicebox(&["run", "--json"]);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
}
