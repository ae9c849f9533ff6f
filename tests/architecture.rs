//! The rules of `host/ARCHITECTURE.md` about who may know what.
#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

mod source;
mod workspace;

use std::process::Command;

use regex::Regex;
use serde_json::Value;
use source::{Kind, Source};

#[test]
fn dependencies_point_one_way() {
    let mut metadata = Command::new(env!("CARGO"));
    metadata.args(["metadata", "--format-version", "1", "--no-deps", "--offline"]);
    let metadata = workspace::finish(metadata.current_dir(source::root()));
    assert_eq!(metadata.code, 0, "{}", metadata.stderr);
    let metadata: Value = serde_json::from_str(&metadata.stdout).unwrap();
    let mut seen = 0;
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let place = package["manifest_path"].as_str().unwrap();
        let plugin = place.contains("/plugins/") || place.contains("/tests/hostile/");
        let allowed: &[&str] = match name {
            "sluicebox-files"
            | "sluicebox-processors"
            | "sluicebox-matching"
            | "sluicebox-store"
            | "sluicebox-linked-rows" => &["sluicebox-model"],
            "sluicebox" => &[
                "sluicebox-model",
                "sluicebox-files",
                "sluicebox-processors",
                "sluicebox-matching",
                "sluicebox-store",
                "sluicebox-linked-rows",
            ],
            _ if plugin => &["sluicebox-sdk"],
            _ => &[],
        };
        let no_io = ["rocksdb", "wasmtime", "tokio"];
        for dependency in package["dependencies"].as_array().unwrap() {
            let for_tests = dependency["kind"] == "dev";
            let dependency = dependency["name"].as_str().unwrap();
            let ours = dependency.starts_with("sluicebox");
            assert!(!ours || allowed.contains(&dependency), "{name} must not depend on {dependency}");
            let pure = ["sluicebox-model", "sluicebox-matching"].contains(&name);
            assert!(!pure || !no_io.contains(&dependency), "{name} does no IO and must not use {dependency}");
            // The store keeps its data in RocksDB; linked rows use its tables for the time of an import.
            let has_tables = ["sluicebox-store", "sluicebox-linked-rows"].contains(&name);
            assert!(dependency != "rocksdb" || has_tables, "{name} must not know RocksDB");
            let reaches_out = dependency.starts_with("aws-") || dependency == "pgp";
            assert!(
                !reaches_out || for_tests || name == "sluicebox-files",
                "{name} must not know where files are, or how they are encrypted"
            );
            let runs_wasm = dependency.starts_with("wasmtime");
            assert!(!runs_wasm || name == "sluicebox-processors", "{name} must not know wasmtime");
        }
        seen += 1;
    }
    assert!(seen >= 14, "{seen} packages");
}

/// The paths of all sources in Rust.
fn rust_files() -> Vec<String> {
    let files: Vec<String> = source::files().into_iter().filter(|path| path.ends_with(".rs")).collect();
    assert!(files.len() > 100, "{} files", files.len());
    files
}

/// The modules of the crate's root that a source of the host names, with their lines: in `crate::a::b`, in
/// `use crate::{a::b, c}`, and the same with as many `super` as lead to the root.
fn modules(path: &str, code: &str) -> Vec<(usize, String)> {
    let below = path.trim_end_matches("/mod.rs").matches('/').count() - "host/src/".matches('/').count();
    let start = Regex::new(&format!(r"\b(?:crate|super(?:::super){{{below}}})::")).unwrap();
    let word = Regex::new(r"^\s*(\w+)").unwrap();
    let mut found = Vec::new();
    for path in start.find_iter(code) {
        let line = code.get(..path.end()).unwrap_or_default().matches('\n').count() + 1;
        let rest = code.get(path.end()..).unwrap_or_default();
        let list = rest.strip_prefix('{').map_or_else(|| vec![rest], first_level);
        let names = list.into_iter().filter_map(|item| word.captures(item));
        found.extend(names.map(|name| (line, name[1].to_owned())));
    }
    found
}

/// The items of a list in braces, whose opening brace is gone.
fn first_level(list: &str) -> Vec<&str> {
    let (mut items, mut begin, mut depth) = (Vec::new(), 0, 0);
    for (at, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(&list[begin..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&list[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    items
}

/// Fails with every place where a file that `applies` uses one of some modules of its crate.
fn must_not_use(rule: &str, applies: impl Fn(&str) -> bool, forbidden: &[&str]) {
    let (mut files, mut broken) = (0, Vec::new());
    for path in rust_files().into_iter().filter(|path| applies(path)) {
        files += 1;
        for (line, module) in modules(&path, &Source::parse(&source::read(&path)).code) {
            if forbidden.contains(&module.as_str()) {
                broken.push(format!("{path}:{line}: {module}"));
            }
        }
    }
    assert!(files > 0, "{rule}: there are no such files");
    assert!(broken.is_empty(), "{rule}:\n{}", broken.join("\n"));
}

/// Fails with every place where the code of a file that `applies` has a match of a pattern.
fn must_not_name(rule: &str, applies: impl Fn(&str) -> bool, pattern: &str) {
    let pattern = Regex::new(pattern).unwrap();
    let (mut files, mut broken) = (0, Vec::new());
    for path in rust_files().into_iter().filter(|path| applies(path)) {
        files += 1;
        let code = Source::parse(&source::read(&path)).code;
        let lines = code.lines().enumerate().filter(|(_, line)| pattern.is_match(line));
        broken.extend(lines.map(|(line, text)| format!("{path}:{}: {}", line + 1, text.trim())));
    }
    assert!(files > 0, "{rule}: there are no such files");
    assert!(broken.is_empty(), "{rule}:\n{}", broken.join("\n"));
}

/// Whether a file is in a room of the host.
fn is_in(room: &'static str) -> impl Fn(&str) -> bool {
    move |path| path.starts_with(&format!("host/src/{room}/")) || path == format!("host/src/{room}.rs")
}

#[test]
fn model_and_matching_do_no_io() {
    must_not_name(
        "the crates `model` and `matching` open no file and no connection, and start no process",
        |path| ["model", "matching"].iter().any(|name| path.starts_with(&format!("host/crates/{name}/src/"))),
        r"\bstd::(fs|net|process)\b|\buse std::\{[^}]*\b(fs|net|process)\b|\b(File|TcpStream|TcpListener)::",
    );
}

#[test]
fn queries_do_not_print() {
    must_not_name(
        "`queries/` returns what it finds; its callers print",
        is_in("queries"),
        r"\be?print(ln)?!|\bio::std(out|err)\b|\b(print|print_error|note)\(",
    );
}

#[test]
fn commands_are_used_by_the_command_line_alone() {
    must_not_use(
        "only `cli.rs` uses `commands/`: what others need too belongs into `queries/` or `runs/`",
        |path| path.starts_with("host/src/") && !is_in("commands")(path) && !is_in("cli")(path),
        &["commands", "cli"],
    );
    must_not_use("`commands/` does not know the command line", is_in("commands"), &["cli"]);
}

#[test]
fn the_service_is_used_by_the_command_line_alone() {
    for room in ["import", "export", "runs", "queries", "config", "plugins"] {
        must_not_use(&format!("`{room}/` does not know the service"), is_in(room), &["service"]);
    }
}

#[test]
fn rocksdb_is_known_in_two_places() {
    must_not_name(
        "only `host/crates/store/src/rocks/` and `host/crates/linked-rows/` name RocksDB's crate",
        |path| {
            !["host/crates/store/src/rocks/", "host/crates/linked-rows/"]
                .iter()
                .any(|at| path.starts_with(at))
        },
        r"\brocksdb\b",
    );
}

#[test]
fn only_the_store_knows_its_files() {
    let mut broken = Vec::new();
    for path in rust_files().into_iter().filter(|path| !path.starts_with("host/crates/store/")) {
        for piece in Source::parse(&source::read(&path)).pieces {
            // A file of RocksDB that is in every store.
            if piece.kind == Kind::Literal && piece.text == concat!("CUR", "RENT") {
                broken.push(format!("{path}:{}", piece.line(0)));
            }
        }
    }
    assert!(
        broken.is_empty(),
        "only `crates/store` knows how a store looks on the disk:\n{}",
        broken.join("\n")
    );
}

#[test]
fn modules_are_found_in_paths_and_in_lists() {
    let code = "use crate::a::b;\nuse crate::{c, d::{e, f},\n g};\nfn h() { super::i::j(); std::k(); }\n\
                use super::super::l;";
    let found = |path| {
        let found = modules(path, code).into_iter().map(|(line, name)| format!("{line}{name}"));
        found.collect::<Vec<_>>()
    };
    assert_eq!(found("host/src/room/mod.rs"), ["1a", "2c", "2d", "2g", "4i", "5super", "5l"]);
    assert_eq!(found("host/src/room/file.rs"), ["1a", "2c", "2d", "2g", "5l"]);
}
