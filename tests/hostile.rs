//! Every limit has an attack that reaches it. The goal fails with the exact message, nothing of it is merged, and the next
//! goal succeeds.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails says where"
)]

#[path = "servers/service.rs"]
mod service;
mod workspace;

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use service::Service;
use workspace::Workspace;
use workspace::wait::{PATIENCE, wait_for};

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

/// A plugin in the text format: `attacker.wat` with these changes, for the contract `version`.
fn component(version: &str, changes: &[(&str, &str)]) -> Vec<u8> {
    component_with(version, changes, &[], "")
}

/// As [`component`], with more imports in its world, of the packages `packages`.
fn component_with(version: &str, changes: &[(&str, &str)], packages: &[&str], imports: &str) -> Vec<u8> {
    encoded(&[], version, changes, packages, imports)
}

/// As [`component_with`], with more sections in its module.
fn encoded(
    sections: &[u8],
    version: &str,
    changes: &[(&str, &str)],
    packages: &[&str],
    imports: &str,
) -> Vec<u8> {
    let folder = Workspace::repository().join("tests/hostile");
    let mut text = fs::read_to_string(folder.join("attacker.wat")).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "attacker.wat has no {from}");
        text = text.replacen(from, to, 1);
    }
    let contract = fs::read_to_string(Workspace::repository().join("wit/processor.wit")).unwrap();
    let contract = contract.replace("processor@1.0.0;", &format!("processor@{version};"));
    let contract =
        contract.replace("    export processor;", &format!("    {imports}\n    export processor;"));
    let mut module = wat::parse_str(text.replace("@1.0.0", &format!("@{version}"))).unwrap();
    module.extend_from_slice(sections);
    let mut resolve = wit_parser::Resolve::default();
    for (number, package) in packages.iter().enumerate() {
        resolve.push_str(format!("{number}.wit"), package).unwrap();
    }
    let package = resolve.push_str("processor.wit", &contract).unwrap();
    let world = resolve.select_world(&[package], Some("plugin")).unwrap();
    let encoding = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, encoding).unwrap();
    wit_component::ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
}

/// An attack of a plugin in the text format.
fn check_text(changes: &[(&str, &str)], expected: &str) {
    let workspace = workspace("none");
    workspace.write("plugins/attacker.wasm", component("1.0.0", changes));
    check_in(&workspace, &format!("{changes:?}"), expected);
}

/// A file that is not a plugin is refused before anything runs, and nothing is merged.
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
        "2.csv, batch 1: plugin attacker: it crashed in `process`: wasm trap: out of bounds memory",
    );
    check("panic", "2.csv, batch 1: plugin attacker: it crashed in `process`: wasm trap: wasm `unreachable`");
    check("data", "2.csv, batch 1: plugin attacker: it reports wrong data; the history has its own words");
    check("config", "2.csv: plugin attacker: configuration: no \\u{1b}[31mgood");
}

#[test]
fn malformed_answers_are_refused() {
    let check = |attack: &str, expected: &str| {
        check(attack, &format!("2.csv, batch 1: plugin attacker: its answer is malformed: {expected}"));
    };
    check("few-verdicts", "verdicts: 1 for 2 rows");
    check("verdict-7", "verdict 7 of row 0, expected 0, 1 or 2");
    check("no-rejections", "rejections: 0 for 2 rows with verdict 2");
    check("rejection-beyond", "rejections: 1 for 0 rows with verdict 2");
    check("unknown-column", "changed column 1; the columns of the session: 1");
    check("doubled-column", "column `email` is changed twice");
    check("offsets-beyond", "the offsets of column `email` fall");
    check("falling-offsets", "the offsets of column `email` fall");
    check("inside-a-character", "the offsets of column `email` fall");
    check("few-offsets", "offsets: 2, expected 3");
    check("not-utf-8", "the values of column `email` are not UTF-8 (byte 0)");
    check("other-rows", "rows of the values: 1, expected 2");
    check("short-validity", "bytes of validity: 3, expected 1");
}

#[test]
fn malformed_columns_are_refused() {
    let check = |attack: &str, expected: &str| {
        check(attack, &format!("2.csv: plugin attacker: its answer to `open` is malformed: {expected}"));
    };
    check("want-beyond", "it reads column 9, and the file has 1 column");
    check("want-twice", "it reads column `email` twice");
    check("want-a-million", "it reads column `email` twice");
    check("add-what-is-there", "it adds a column `email`, and there is one already");
    check("add-twice", "it adds a column `new`, and there is one already");
    check("add-unnamed", "it adds a column without a name");
    check("add-a-long-name", "it adds a column whose name is longer than 1000 bytes");
    check("add-thousands", "it adds 60000 columns, more than 10000");
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
fn a_description_is_escaped() {
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
        "it crashed in `process`: wasm trap: integer divide by zero",
    );
    // A billion rejections.
    answer("(i32.store (i32.const 4112) (i32.const 1000000000))", "it crashed in `process`");
    // Two rows with verdict 2, and reasons of 2 GiB.
    answer(
        "(i32.store (i32.const 4100) (i32.const 5000)) (i32.store (i32.const 4104) (i32.const 2))
         (i32.store16 (i32.const 5000) (i32.const 0x0202))
         (i32.store (i32.const 4108) (i32.const 6000)) (i32.store (i32.const 4112) (i32.const 2))
         (i32.store (i32.const 6024) (i32.const 0x7fffffff))",
        "it crashed in `process`",
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
        "2.csv, batch 1: plugin attacker: its answer to `process` is larger than the host accepts",
    );
}

#[test]
fn files_that_are_not_plugins_are_refused() {
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
fn imports_that_the_host_does_not_offer_are_refused() {
    let imports =
        ["evil:host/shell", "wasi:http/outgoing-handler@0.2.0", "wasi:nn/graph@0.2.0", "wasi:cli/run@0.3.0"];
    let imports_text: String = imports
        .iter()
        .map(|name| format!("(import \"{name}\" (instance (export \"run\" (func))))"))
        .collect();
    let exports = "(instance $none) (export \"sluicebox:processor/processor@1.0.0\" (instance $none))";
    check_refused(
        wat::parse_str(format!("(component {imports_text} {exports})")).unwrap(),
        &format!(
            "plugin attacker: it imports interfaces that the host does not offer: {}",
            imports.join(", ")
        ),
    );
    // WASI has no such interface, and no such function.
    for (import, function) in
        [("wasi:clocks/no-clock@0.2.0", "now"), ("wasi:random/random@0.2.0", "get-dice")]
    {
        let import = format!("(import \"{import}\" (instance (export \"{function}\" (func))))");
        check_refused(
            wat::parse_str(format!("(component {import} {exports})")).unwrap(),
            "plugin attacker: it imports interfaces that the host does not offer: component imports instance",
        );
    }
}

#[test]
fn exports_of_other_types_are_refused() {
    check_refused(
        wat::parse_str(
            "(component (instance $none) (export \"sluicebox:processor/processor@1.0.0\" (instance $none)))",
        )
        .unwrap(),
        "plugin attacker: its exports do not match sluicebox:processor/processor@1.0.0: ",
    );
}

/// The parts of WASI with which a plugin waits and prints.
const WASI: [&str; 3] = [
    "package wasi:io@0.2.0;
     interface error { resource error; }
     interface poll {
         resource pollable { ready: func() -> bool; block: func(); }
         poll: func(pollables: list<borrow<pollable>>) -> list<u32>;
     }
     interface streams {
         use error.{error};
         variant stream-error { last-operation-failed(error), closed }
         resource output-stream {
             blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
         }
     }",
    "package wasi:clocks@0.2.0;
     interface monotonic-clock {
         use wasi:io/poll@0.2.0.{pollable};
         subscribe-duration: func(when: u64) -> pollable;
     }",
    "package wasi:cli@0.2.0;
     interface stdout { use wasi:io/streams@0.2.0.{output-stream}; get-stdout: func() -> output-stream; }
     interface stderr { use wasi:io/streams@0.2.0.{output-stream}; get-stderr: func() -> output-stream; }",
];

const MEMORY: &str = "(memory (export \"memory\") 2)";

/// The attack of a plugin that imports clocks, in place of a comment of `attacker.wat`.
fn check_wait(comment: &str, attack: &str, expected: &str) {
    let imports = "(import \"wasi:clocks/monotonic-clock@0.2.0\" \"subscribe-duration\" (func $wait (param i64) (result i32)))
         (import \"wasi:io/poll@0.2.0\" \"[method]pollable.block\" (func $block (param i32)))
         (import \"wasi:io/poll@0.2.0\" \"poll\" (func $poll (param i32 i32 i32)))";
    let changes = [(MEMORY, format!("{imports}{MEMORY}")), (comment, attack.to_owned())];
    let changes: Vec<(&str, &str)> = changes.iter().map(|(from, to)| (*from, to.as_str())).collect();
    let plugin = component_with(
        "1.0.0",
        &changes,
        &WASI,
        "import wasi:io/poll@0.2.0; import wasi:clocks/monotonic-clock@0.2.0;",
    );
    let workspace = workspace("none");
    workspace.write("plugins/attacker.wasm", plugin);
    check_in(&workspace, attack, expected);
}

#[test]
fn waits_are_stopped_wherever_they_are() {
    let begun = Instant::now();
    let block = "(call $block (call $wait (i64.const -1)))";
    let poll = "(i32.store (i32.const 60000) (call $wait (i64.const -1)))
         (i32.store (i32.const 60004) (call $wait (i64.const 3600000000000)))
         (call $poll (i32.const 60000) (i32.const 2) (i32.const 60016))";
    let in_process = "2.csv, batch 1: plugin attacker: it was stopped after 0.3 s in `process`";
    check_wait(";; process", block, in_process);
    check_wait(";; process", poll, in_process);
    // Many short waits.
    check_wait(
        ";; process",
        "(loop $again (call $block (call $wait (i64.const 1000))) (br $again))",
        "2.csv, batch 1: ",
    );
    check_wait(";; describe", block, "plugin attacker: it was stopped after 0.3 s in `describe`");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

#[test]
fn a_wait_that_ends_in_time_does_no_harm() {
    let imports = "(import \"wasi:clocks/monotonic-clock@0.2.0\" \"subscribe-duration\" (func $wait (param i64) (result i32)))
         (import \"wasi:io/poll@0.2.0\" \"[method]pollable.block\" (func $block (param i32)))";
    let changes = [(MEMORY, format!("{imports}{MEMORY}"))];
    let wait = (";; process", "(call $block (call $wait (i64.const 20000000)))");
    let changes = [(changes[0].0, changes[0].1.as_str()), wait];
    let imports = "import wasi:io/poll@0.2.0; import wasi:clocks/monotonic-clock@0.2.0;";
    let workspace = workspace("none");
    workspace.write("plugins/attacker.wasm", component_with("1.0.0", &changes, &WASI, imports));
    let run = workspace.sluicebox(&["run"]);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
}

/// What a run writes to stderr whose plugin does this in `process`, with standard output and error at hand.
fn printed(attack: &str) -> String {
    let imports = "(import \"wasi:cli/stdout@0.2.0\" \"get-stdout\" (func $stdout (result i32)))
         (import \"wasi:cli/stderr@0.2.0\" \"get-stderr\" (func $stderr (result i32)))
         (import \"wasi:io/streams@0.2.0\" \"[method]output-stream.blocking-write-and-flush\"
           (func $write (param i32 i32 i32 i32)))";
    let text = "(data (i32.const 60000) \"one\\0atwo \\1b[2J\\0athree\")";
    let changes = [(MEMORY, format!("{imports}{MEMORY}{text}")), (";; process", attack.to_owned())];
    let changes: Vec<(&str, &str)> = changes.iter().map(|(from, to)| (*from, to.as_str())).collect();
    let imports = "import wasi:io/streams@0.2.0; import wasi:cli/stdout@0.2.0; import wasi:cli/stderr@0.2.0;";
    let workspace = workspace("none");
    workspace.write("plugins/attacker.wasm", component_with("1.0.0", &changes, &WASI, imports));
    let run = workspace.sluicebox(&["run"]);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    assert!(!run.stderr.contains('\u{1b}'), "{}", run.stderr);
    run.stderr
}

#[test]
fn printed_lines_are_messages_under_the_same_limits() {
    // "one", a line with an escape sequence, and a line without an end.
    let write = "(call $write (call $stderr) (i32.const 60000) (i32.const 18) (i32.const 61000))";
    let log = printed(write);
    assert!(
        log.contains("WARN one ") && log.contains("WARN two \\u{1b}[2J ") && log.contains("WARN three "),
        "{log}"
    );
    let log = printed(&write.replace("$stderr", "$stdout"));
    assert!(!log.contains("WARN one ") && !log.contains("INFO one "), "{log}");
    let flood = "(local $turn i32) (local $stream i32) (local.set $stream (call $stderr))
         (loop $again (call $write (local.get $stream) (i32.const 60000) (i32.const 4) (i32.const 61000))
           (local.set $turn (i32.add (local.get $turn) (i32.const 1)))
           (br_if $again (i32.lt_u (local.get $turn) (i32.const 10000))))";
    let log = printed(flood);
    assert_eq!(log.matches("WARN one ").count(), 3, "{log}");
    assert_eq!(log.matches("further messages of the plugin are not shown").count(), 1, "{log}");
}

/// A plugin with this JSON Schema.
fn with_schema(schema: &str) -> Vec<u8> {
    let text = schema.replace('"', "\\22");
    let data = format!("(data (i32.const 20000) \"{text}\")");
    let place = "(i32.store (i32.const 3924) (i32.const 113)) (i32.store (i32.const 3928) (i32.const 2))";
    let other = format!(
        "(i32.store (i32.const 3924) (i32.const 20000)) (i32.store (i32.const 3928) (i32.const {}))",
        schema.len()
    );
    component("1.0.0", &[(";; start", &data), (place, &other)])
}

#[test]
fn a_schema_whose_references_double_is_refused() {
    let begun = Instant::now();
    let next = |step: usize| format!(r##"{{"$ref":"#/$defs/{}"}}"##, step + 1);
    let definitions: Vec<String> =
        (0..50).map(|step| format!(r#""{step}":{{"allOf":[{0},{0}]}}"#, next(step))).collect();
    let schema = format!(r##"{{"$ref":"#/$defs/0","$defs":{{{},"50":{{}}}}}}"##, definitions.join(","));
    assert!(schema.len() < 6000);
    check_refused(
        with_schema(&schema),
        "the JSON Schema of its configuration has more than 20000 parts once its references are followed",
    );
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[test]
fn a_schema_has_a_limit() {
    // The same byte many times: a plugin needs no large file for a large answer.
    let place = "(i32.store (i32.const 3924) (i32.const 113)) (i32.store (i32.const 3928) (i32.const 2))";
    let other =
        "(i32.store (i32.const 3924) (i32.const 20000)) (i32.store (i32.const 3928) (i32.const 300000))
         (memory.fill (i32.const 20000) (i32.const 32) (i32.const 300000))";
    let plugin = component("1.0.0", &[(MEMORY, "(memory (export \"memory\") 8)"), (place, other)]);
    let workspace = workspace("none");
    workspace.write("plugins/attacker.wasm", plugin);
    check_in(
        &workspace,
        "a schema of 300,000 bytes",
        "plugin attacker: the JSON Schema of its configuration has 300000 bytes, more than the 262144 that it may have",
    );
}

/// A registry that answers every manifest with a layer of 100 bytes, and sends a component without end. The manifest of the
/// tag `endless` has no end. Answers with its port.
fn endless_registry() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for connection in listener.incoming() {
            thread::spawn(move || {
                let mut connection = connection.unwrap();
                let mut lines = BufReader::new(connection.try_clone().unwrap()).lines();
                let request = lines.next().unwrap().unwrap();
                lines.map_while(Result::ok).find(String::is_empty);
                let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n";
                let digest = format!("sha256:{}", "0".repeat(64));
                if request.contains("/manifests/endless") {
                    let _ = write!(connection, "{head}\r\n");
                    while connection.write_all(&[b' '; 65536]).is_ok() {}
                } else if request.contains("/manifests/") {
                    let layer =
                        |kind: &str| format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":100}}"#);
                    let manifest = format!(
                        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{}]}}"#,
                        layer("application/vnd.wasm.config.v0+json"),
                        layer("application/wasm")
                    );
                    let length = manifest.len();
                    let kind = "Content-Type: application/vnd.oci.image.manifest.v1+json";
                    let _ = write!(connection, "{head}{kind}\r\nContent-Length: {length}\r\n\r\n{manifest}");
                } else if request.contains("/blobs/") {
                    let _ = write!(connection, "{head}\r\n");
                    while connection.write_all(&[0; 65536]).is_ok() {}
                } else {
                    let _ = write!(connection, "{head}Content-Length: 0\r\n\r\n");
                }
            });
        }
    });
    port
}

#[test]
fn a_registry_that_sends_more_than_it_says_is_cut() {
    let workspace = Workspace::empty();
    workspace.write("schema.toml", "");
    let port = endless_registry();
    let check = |tag: &str, expected: &str| {
        let place = format!("oci://127.0.0.1:{port}/team/mail:{tag}");
        let installed = workspace.sluicebox(&["plugin", "install", &place]);
        assert_eq!(installed.code, 1, "{}", installed.stdout);
        assert!(installed.stderr.contains(expected), "{}", installed.stderr);
    };
    check("1.0.0", "the registry sends more than the 100 bytes that the manifest says");
    check("endless", "the manifest has more than 4194304 bytes");
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

/// A component with a function that takes the compiler long, and much memory: loops that each change one of many variables.
fn hard_to_compile(loops: usize, variables: usize) -> Vec<u8> {
    let mut function = String::from("(func (param i32) (result i32) (local");
    (0..variables).for_each(|_| function.push_str(" i32"));
    function.push_str(")\n");
    for number in 0..loops {
        let (to, from) = (1 + number % variables, 1 + number * 7 % variables);
        let sum = format!("(i32.add (local.get {to}) (local.get {from}))");
        writeln!(function, "(loop $l (local.set {to} {sum}) (br_if $l (local.get 0)))").unwrap();
    }
    function.push_str("(local.get 1)");
    (2..=variables).for_each(|variable| write!(function, " (local.get {variable}) i32.add").unwrap());
    function.push(')');
    component("1.0.0", &[(";; start", &function)])
}

/// Limits of the compiler instead of the default ones.
fn with_compiler(workspace: &Workspace, limits: &str) {
    let settings = fs::read_to_string(workspace.path().join("sluicebox.toml")).unwrap();
    workspace.write("sluicebox.toml", format!("{settings}{limits}\n"));
}

/// What a command prints, and the most memory that its process takes, in bytes.
fn measured(workspace: &Workspace, arguments: &[&str]) -> (workspace::Output, u64) {
    let mut process =
        workspace.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut peak = 0;
    wait_for(&format!("{arguments:?} to end"), || {
        let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap_or_default();
        let now = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak = now.map_or(peak, |kilobytes| kilobytes.parse::<u64>().unwrap() * 1024);
        process.try_wait().unwrap()
    });
    (Workspace::finish(process), peak)
}

#[test]
fn compiling_takes_its_limits_and_no_memory_of_the_host() {
    let hard = hard_to_compile(60_000, 600);
    for (limit, expected) in [
        ("compile_memory = '128MiB'", "compiling it takes more than the 128 MiB of memory that it may take"),
        ("compile_time = '1s'", "compiling it takes longer than the 1 s that it may take"),
    ] {
        let begun = Instant::now();
        let workspace = workspace("none");
        with_compiler(&workspace, limit);
        workspace.write("plugins/attacker.wasm", &hard);
        let (run, peak) = measured(&workspace, &["run", "--json"]);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{limit}: {}", run.stderr);
        assert!(run.stderr.contains(&format!("plugin attacker: {expected}")), "{limit}: {}", run.stderr);
        assert!(peak < 200 << 20, "{limit}: {peak} bytes");
        assert!(begun.elapsed() < Duration::from_secs(60), "{limit}: {:?}", begun.elapsed());
        // The next goal runs.
        let after = workspace.sluicebox(&["run", "--goal", "after"]);
        assert_eq!(after.code, 0, "{}", after.stderr);
    }
}

/// The processes that a process started.
fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let processes = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |process: &u32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // The name of the program may have spaces.
        let after_name = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        let mut fields = after_name.split(' ');
        fields.next() != Some("Z") && fields.next() == Some(&parent.to_string())
    };
    processes.filter(is_child).collect()
}

#[test]
fn a_compiler_ends_with_the_program() {
    let workspace = workspace("none");
    workspace.write("plugins/attacker.wasm", hard_to_compile(60_000, 600));
    let mut run = workspace.silent(&["run"]);
    let compilers = wait_for("the compiler to start", || {
        let found = children(run.id());
        (!found.is_empty()).then_some(found)
    });
    run.kill().unwrap();
    run.wait().unwrap();
    wait_for("the compiler to end", || {
        let status = |process: &u32| fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        compilers
            .iter()
            .all(|process| status(process).is_empty() || status(process).contains(") Z "))
            .then_some(())
    });
}

#[test]
fn a_service_stops_while_a_plugin_is_compiled() {
    let workspace = workspace("none");
    workspace.write("plugins/attacker.wasm", hard_to_compile(60_000, 600));
    let service = Service::start(&workspace);
    let started = service.post("/api/v1/connections/shop/runs", &json!({}));
    assert_eq!(started.status, 202, "{}", started.text);
    service.wait_until(|status| status["queue"][0]["running"] == true);
    wait_for("the compiler to start", || (!children(service.id()).is_empty()).then_some(()));
    let (code, log) = service.stop();
    assert_eq!(code, Some(0), "{log:?}");
}

/// The answer to a request, by a connection of its own.
fn get(service: &Service, path: &str) -> thread::JoinHandle<String> {
    let address = service.url.strip_prefix("http://").unwrap().to_owned();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    thread::spawn(move || {
        let mut connection = TcpStream::connect(address).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        connection.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    })
}

#[test]
fn eight_looks_at_hostile_files_leave_the_service_to_the_others() {
    let workspace = workspace("none");
    with_compiler(&workspace, "compile_time = '3s'");
    fs::remove_file(workspace.path().join("plugins/attacker.wasm")).unwrap();
    fs::remove_file(workspace.path().join("connections/shop.toml")).unwrap();
    let goal = "[[import_profiles]]\nname = 'after'\nfiles = '3.csv'\nsettle = '0s'\n[[import_profiles.identifiers]]\ncolumn = 'email'\nproperty = 'email'\n";
    let location = "[location]\nkind = 'directory'\npath = 'exchange'\n";
    workspace.write("connections/shop.toml", format!("{location}{goal}"));
    workspace.write("plugins/hard.wasm", hard_to_compile(60_000, 600));
    let loops = component("1.0.0", &[(";; describe", LOOP)]);
    workspace.write("plugins/loops.wasm", &loops);
    fs::File::create(workspace.path().join("plugins/large.wasm")).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(workspace.shell("mkfifo plugins/pipe.wasm && mkdir plugins/folder.wasm").code, 0);

    let service = Service::start(&workspace);
    let looks: Vec<_> = (0..8).map(|_| get(&service, "/plugins")).collect();
    let health = get(&service, "/healthz").join().unwrap();
    assert!(health.starts_with("HTTP/1.1 200 "), "{health}");
    let started = service.post("/api/v1/connections/shop/runs", &json!({}));
    assert_eq!(
        (started.status, &started.headers["content-type"]),
        (202, &"application/json".parse().unwrap())
    );
    service.wait_until_idle();
    assert_eq!(service.runs()[0]["status"], "succeeded");
    for look in looks {
        let page = look.join().unwrap();
        assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("row-filter"), "{page}");
        assert!(page.contains("It is not described yet."), "{page}");
    }
    // By connections of their own: the service closed the one that was silent during the looks.
    let plugins = || {
        let answer = get(&service, "/api/v1/plugins").join().unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str::<Vec<Value>>(body).unwrap()
    };
    let described = wait_for("all plugins to be described", || {
        let plugins = plugins();
        plugins.iter().all(|plugin| plugin["pending"] == false).then_some(plugins)
    });
    let problem = |name: &str| {
        let plugin = described.iter().find(|plugin| plugin["name"] == name).unwrap();
        plugin["problem"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(problem("row-filter"), "");
    assert_eq!(problem("hard"), "plugin hard: compiling it takes longer than the 3 s that it may take");
    assert_eq!(problem("loops"), "plugin loops: it was stopped after 0.3 s in `describe`");
    assert!(
        problem("large").contains("has 1099511627776 bytes, more than the 67108864 that a plugin may have")
    );
    assert!(problem("pipe").ends_with("pipe.wasm is not a file"), "{}", problem("pipe"));
    assert!(problem("folder").ends_with("folder.wasm is not a file"), "{}", problem("folder"));
    // A description that failed is not tried again.
    let again = plugins();
    assert!(again.iter().all(|plugin| plugin["pending"] == false), "{again:?}");
    assert!(children(service.id()).is_empty());
    assert!(service.peak_memory() < (512 + 100) << 20, "{}", service.peak_memory());
}

#[test]
fn names_without_end_are_not_listed() {
    let imports: String =
        (0..900).map(|number| format!("(import \"evil:host/shell{number}\" (instance))")).collect();
    let exports = "(instance $none) (export \"sluicebox:processor/processor@1.0.0\" (instance $none))";
    let workspace = workspace("none");
    workspace
        .write("plugins/attacker.wasm", wat::parse_str(format!("(component {imports} {exports})")).unwrap());
    let run = workspace.sluicebox(&["run"]);
    assert!(run.stderr.contains("evil:host/shell19, and 880 more"), "{}", run.stderr);
}

/// A plugin that reads the column of the file, and says what it was given: its configuration if it refuses to open a file, or the
/// cells if it fails in `process`.
fn talkative(opens: bool) -> Vec<u8> {
    let bump = "(global.set $top (i32.add (global.get $top) (i32.and (i32.add (local.get 3) (i32.const 7)) (i32.const -8))))
         (return (i32.sub (global.get $top) (i32.and (i32.add (local.get 3) (i32.const 7)) (i32.const -8))))";
    let open = "(i32.store (i32.const 4000) (i32.const 0))\n    (i32.store (i32.const 4004) (call $new (i32.const 1)))";
    let reads = format!(
        "{open} (i32.store (i32.const 4008) (i32.const 5000)) (i32.store (i32.const 4012) (i32.const 1))"
    );
    let refuses = "(i32.store (i32.const 4000) (i32.const 1)) (i32.store (i32.const 4004) (i32.const 0))
         (i32.store (i32.const 4008) (local.get 0)) (i32.store (i32.const 4012) (local.get 1))";
    let fails = "(i32.store (i32.const 4096) (i32.const 1)) (i32.store (i32.const 4100) (i32.const 1))
         (i32.store (i32.const 4104) (local.get 2)) (i32.store (i32.const 4108) (local.get 3))";
    component(
        "1.0.0",
        &[
            (";; start", "(global $top (mut i32) (i32.const 8192))"),
            (";; realloc", bump),
            (open, if opens { &reads } else { refuses }),
            (";; process", fails),
        ],
    )
}

/// Gives the attacked goal a secret.
fn with_secret(workspace: &Workspace) {
    let connection = fs::read_to_string(workspace.path().join("connections/shop.toml")).unwrap();
    let secret = "key = { file = 'key' }, attack";
    workspace.write("connections/shop.toml", connection.replace("attack = ", &format!("{secret} = ")));
    workspace.write("key", "pass\"word\" 1234\n");
}

#[test]
fn a_secret_does_not_come_back_in_an_error() {
    let workspace = workspace("none");
    with_secret(&workspace);
    workspace.write("plugins/attacker.wasm", talkative(false));
    check_in(
        &workspace,
        "says its configuration",
        "2.csv: plugin attacker: configuration: {\"key\":\"[secret]\",\"attack\":\"none\"}",
    );
    for arguments in [&["preview", "shop", "attacked"][..], &["check"], &["history"], &["-vv", "run"]] {
        let said = workspace.sluicebox(arguments);
        let said = format!("{}{}", said.stdout, said.stderr);
        assert!(!said.contains("1234") && (said.contains("[secret]") || arguments == ["check"]), "{said}");
    }
}

#[test]
fn cells_reach_no_webhook_and_no_history() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let workspace = workspace("none");
    with_secret(&workspace);
    let connection = fs::read_to_string(workspace.path().join("connections/shop.toml")).unwrap();
    let address = listener.local_addr().unwrap();
    let connection = connection.replace("\nfiles", "\nsettle = '0s'\nfiles");
    workspace
        .write("connections/shop.toml", format!("[notify]\nwebhook = 'http://{address}/'\n{connection}"));
    workspace.write("exchange/2.csv", "email\nattacked@x.example\nbob@x.example\nx\n");
    workspace.write("plugins/attacker.wasm", talkative(true));
    let reports = "2.csv, batch 1: plugin attacker: it reports wrong data; the history has its own words";

    let service = Service::start(&workspace);
    let run = service.post("/api/v1/connections/shop/runs", &json!({})).json()["run"].clone();
    let mut stream = Workspace::accept(&listener, "the webhook");
    let mut call = String::new();
    while !call.contains("\"goals\"")
        || serde_json::from_str::<Value>(call.rsplit("\r\n").next().unwrap()).is_err()
    {
        let mut part = [0; 4096];
        let length = stream.read(&mut part).unwrap();
        assert!(length > 0, "{call}");
        call.push_str(std::str::from_utf8(&part[..length]).unwrap());
    }
    stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").unwrap();
    assert!(call.contains(reports) && !call.contains("[cell]") && !call.contains("x.example"), "{call}");
    service.wait_until_idle();
    let goal = service.runs().into_iter().find(|goal| goal["goal"] == "attacked").unwrap();
    assert_eq!((&goal["error"], &goal["plugin_words"]), (&json!(reports), &json!("[cell][cell]x")));
    let page = service.get(&format!("/runs/{}", run.as_str().unwrap())).text;
    assert!(
        page.contains("In the plugin&#39;s own words, which may quote rows:")
            || page.contains("In the plugin's own words, which may quote rows:"),
        "{page}"
    );
    assert!(page.contains("[cell][cell]x") && !page.contains("attacked@"), "{page}");
    let (_, log) = service.stop();
    assert!(!log.concat().contains("x.example") && !log.concat().contains("[cell]"), "{log:?}");
    let history = workspace.sluicebox(&["history", run.as_str().unwrap()]).stdout;
    assert!(
        history.contains("the plugin says: [cell][cell]x") && !history.contains("x.example"),
        "{history}"
    );
}

#[test]
fn cells_and_secrets_are_not_in_the_log() {
    let workspace = workspace("none");
    with_secret(&workspace);
    let imports = "(import \"sluicebox:processor/log@1.0.0\" \"write\" (func $log (param i32 i32 i32)))";
    let memory = format!("{imports}{MEMORY}");
    let open = "(i32.store (i32.const 4004) (call $new (i32.const 1)))";
    let opens = format!(
        "{open} (i32.store (i32.const 4008) (i32.const 5000)) (i32.store (i32.const 4012) (i32.const 1))
         (call $log (i32.const 4) (local.get 0) (local.get 1))"
    );
    let bump = "(global.set $top (i32.add (global.get $top) (i32.and (i32.add (local.get 3) (i32.const 7)) (i32.const -8))))
         (return (i32.sub (global.get $top) (i32.and (i32.add (local.get 3) (i32.const 7)) (i32.const -8))))";
    let plugin = component(
        "1.0.0",
        &[
            (MEMORY, &memory),
            (";; start", "(global $top (mut i32) (i32.const 8192))"),
            (";; realloc", bump),
            (open, &opens),
            (";; process", "(call $log (i32.const 4) (local.get 2) (local.get 3))"),
        ],
    );
    workspace.write("plugins/attacker.wasm", plugin);
    let run = workspace.sluicebox(&["run"]);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    assert!(run.stderr.contains("ERROR {\"key\":\"[secret]\",\"attack\":\"none\"}"), "{}", run.stderr);
    assert!(run.stderr.contains("ERROR [cell][cell]"), "{}", run.stderr);
}

#[test]
fn processors_that_take_their_memory_stay_within_that_of_the_run() {
    let workspace = workspace("none");
    // All but a few pages of 64 MiB.
    let grows = "(func $start (drop (memory.grow (i32.const 1000)))
         (memory.fill (i32.const 65536) (i32.const 1) (i32.const 65536000))) (start $start)";
    workspace.write("plugins/attacker.wasm", component("1.0.0", &[(";; start", grows)]));
    workspace.write("sluicebox.toml", "memory = '512MiB'\n");
    let connection = fs::read_to_string(workspace.path().join("connections/shop.toml")).unwrap();
    let one = "[[import_profiles.processors]]\nplugin = 'attacker'\nconfig = { attack = 'none' }\n";
    assert!(connection.contains(one));
    workspace.write("connections/shop.toml", connection.replace(one, &one.repeat(3)));
    let mut rows = String::from("email\n");
    (0..1_500_000).for_each(|row| writeln!(rows, "customer-{row}@a-long-domain-name.example").unwrap());
    workspace.write("exchange/2.csv", rows);
    let (run, peak) = measured(&workspace, &["run", "--goal", "attacked", "--json"]);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    assert!(!run.stderr.contains("WARN"), "{}", run.stderr);
    assert!(peak < (512 + 100) << 20, "{peak} bytes");

    // More than there is for them.
    workspace.write("connections/shop.toml", connection.replace(one, &one.repeat(5)));
    let checked = workspace.sluicebox(&["check"]);
    let expected = "connections/shop.toml: attacked: with their answers, its processors may take 384 MiB, 86 MiB more than `memory` has for them";
    assert!(checked.stdout.contains(expected), "{}{}", checked.stdout, checked.stderr);
}

/// A custom section.
fn section(name: &str, content: &[u8]) -> Vec<u8> {
    let content = [&[u8::try_from(name.len()).unwrap()], name.as_bytes(), content].concat();
    let mut section = vec![0];
    let mut length = content.len();
    while length > 0x7f {
        section.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    section.push(u8::try_from(length).unwrap());
    [section, content].concat()
}

#[test]
fn large_debug_information_is_not_read() {
    // A unit for the whole code, in DWARF 4: a table of 30 million lines, each of one byte.
    let abbreviations = [1, 0x11, 0, 0x10, 0x17, 0x11, 0x01, 0x12, 0x06, 0, 0, 0];
    let unit = [&4_u16.to_le_bytes()[..], &[0; 4], &[4, 1], &[0; 8], &i32::MAX.to_le_bytes()].concat();
    let unit = [&u32::try_from(unit.len()).unwrap().to_le_bytes()[..], &unit].concat();
    let header =
        [&[1, 1, 1, 0xfd, 12, 13, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1, 0][..], b"a\0\0\0\0\0"].concat();
    let lines = [&[0, 5, 2, 0, 0, 0, 0][..], &vec![28; 30_000_000], &[0, 1, 1]].concat();
    let length = u32::try_from(header.len()).unwrap().to_le_bytes();
    let program = [&4_u16.to_le_bytes()[..], &length, &header, &lines].concat();
    let program = [&u32::try_from(program.len()).unwrap().to_le_bytes()[..], &program].concat();
    let sections = [
        section(".debug_abbrev", &abbreviations),
        section(".debug_info", &unit),
        section(".debug_line", &program),
    ];
    let workspace = workspace("none");
    let crashes = [(";; process", "unreachable")];
    workspace.write("plugins/attacker.wasm", encoded(&sections.concat(), "1.0.0", &crashes, &[], ""));
    let (run, peak) = measured(&workspace, &["run", "--goal", "attacked"]);
    assert_eq!(run.code, 1, "{}{}", run.stdout, run.stderr);
    assert!(run.stdout.contains("it crashed in `process`: wasm trap: wasm `unreachable`"), "{}", run.stdout);
    assert!(peak < (512 + 100) << 20, "{peak} bytes");
}
