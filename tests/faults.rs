//! A full disk, a broken disk, and no more descriptors: at each call of an import and of an export that writes, renames, syncs or
//! opens. The program says why it fails, the store stays whole, and the next run goes on once the fault is gone.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says where")]

mod workspace;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use tempfile::TempDir;
use workspace::{Output, Workspace, finish};

/// A fault: which calls it strikes, and how.
#[derive(Clone, Copy)]
struct Fault {
    /// `w`: what writes, renames or syncs; `o`: what opens.
    kind: &'static str,
    /// The number of the error, and its words.
    error: (&'static str, &'static str),
    /// Whether the calls after the first one fail too.
    stays: bool,
}

const FULL: Fault = Fault { kind: "w", error: ("28", "No space left on device"), stays: true };
const BROKEN: Fault = Fault { kind: "w", error: ("5", "Input/output error"), stays: false };
const EXHAUSTED: Fault = Fault { kind: "o", error: ("24", "Too many open files"), stays: true };

/// The library that makes calls fail, compiled once.
static SHIM: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("shim.so");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let source = Workspace::repository().join("tests/faults/shim.c");
    let mut command = Command::new(compiler);
    let compiled = finish(command.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source));
    assert_eq!(compiled.code, 0, "a C compiler is needed: {}", compiled.stderr);
    (folder, library)
});

/// Runs a command in which the call of a number fails; 0 = none. Answers with how many calls there were, too.
fn with_fault(workspace: &Workspace, arguments: &[&str], fault: Fault, at: u64) -> (Output, u64) {
    let count = workspace.path().join("calls");
    let mut command = workspace.command(arguments);
    command.env("LD_PRELOAD", &SHIM.1).env("FAULT_COUNT", &count).env("FAULT_UNDER", workspace.path());
    command.env("FAULT_KIND", fault.kind).env("FAULT_AT", at.to_string());
    command.env("FAULT_ERRNO", fault.error.0).env("FAULT_ON", if fault.stays { "1" } else { "0" });
    let output = finish(&mut command);
    let calls = fs::read(count).unwrap();
    (output, u64::from_ne_bytes(calls.try_into().unwrap()))
}

/// Runs the command on copies of a working folder, and lets each of its calls fail once. After each, `look` sees the folder, and
/// after a run without a fault, what it answers with must be the same as if there had been none.
fn strike<T: PartialEq + std::fmt::Debug>(
    made: &Workspace,
    arguments: &[&str],
    fault: Fault,
    look: impl Fn(&Workspace),
    result: impl Fn(&Workspace) -> T,
) {
    let copy = || Workspace::copy_of(made.path(), &[]);
    let whole = copy();
    let (output, calls) = with_fault(&whole, arguments, fault, 0);
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    let expected = result(&whole);
    let mut failed = 0;
    for at in 1..=calls {
        let struck = copy();
        let (output, _) = with_fault(&struck, arguments, fault, at);
        let said = format!("call {at} of {calls}: {}{}", output.stdout, output.stderr);
        // What is not needed may fail: RocksDB's own log, for one.
        match output.code {
            0 => {}
            1 | 2 => {
                failed += 1;
                assert!(said.contains(fault.error.1), "the error does not say why: {said}");
            }
            code => unreachable!("exit code {code}: {said}"),
        }
        look(&struck);
        let again = struck.sluicebox(arguments);
        assert_eq!(again.code, 0, "the next run does not go on: {}{}\n{said}", again.stdout, again.stderr);
        assert_eq!(result(&struck), expected, "{said}");
    }
    assert!(failed > calls / 4, "{failed} of {calls} calls made the command fail");
}

const SCHEMA: &str = "[properties.key]\nunique = true\n[properties.spent]\ntype = 'number'\n";

/// A store with profiles, and a file that changes them.
fn made() -> Workspace {
    let workspace = Workspace::empty();
    workspace.write("schema.toml", SCHEMA);
    workspace.write(
        "connections/a-in.toml",
        "[location]\nkind = 'directory'\npath = 'in'\n[[import_profiles]]\nname = 'people'\nfiles = '*.csv'\n\
         after_import = 'done-suffix'\n[[import_profiles.identifiers]]\ncolumn = 'key'\nproperty = 'key'\n\
         [[import_profiles.fields]]\ncolumn = 'spent'\nrule = 'sum'\n",
    );
    workspace.write(
        "connections/b-out.toml",
        "[location]\nkind = 'directory'\npath = 'out'\n[[export_profiles]]\nname = 'people'\nfile = 'people.csv'\n\
         [[export_profiles.columns]]\nproperty = 'key'\n[[export_profiles.columns]]\nproperty = 'spent'\n",
    );
    fs::create_dir(workspace.path().join("out")).unwrap();
    workspace.write("in/1.csv", rows(20));
    let first = workspace.sluicebox(&["run", "a-in"]);
    assert_eq!(first.code, 0, "{}{}", first.stdout, first.stderr);
    workspace
}

fn rows(count: u32) -> String {
    let row = |row| if row % 7 == 6 { "ragged\n".to_owned() } else { format!("k{row},{row}.5\n") };
    format!("key,spent\n{}", (0..count).map(row).collect::<String>())
}

/// The profiles without their ids and times.
fn profiles(workspace: &Workspace) -> Vec<String> {
    let listed = workspace.sluicebox(&["profile", "list", "--json"]);
    assert_eq!(listed.code, 0, "{}", listed.stderr);
    let shown =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["properties"].to_string();
    let mut profiles: Vec<String> = listed.stdout.lines().map(shown).collect();
    profiles.sort();
    profiles
}

/// What the files of a folder hold, by their names.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let named = entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.path()));
    named.map(|(name, path)| (name, fs::read_to_string(path).unwrap())).collect()
}

fn import(fault: Fault) {
    let workspace = made();
    workspace.write("in/2.csv", rows(30));
    let before = profiles(&workspace);
    let rejected = |workspace: &Workspace| {
        let counted = workspace.shell("cat data/rejected/*/*.csv | grep -c ^ragged");
        counted.stdout.trim().parse::<u32>().unwrap()
    };
    let all = |workspace: &Workspace| {
        (profiles(workspace), rejected(workspace), files(&workspace.path().join("in")))
    };
    let is_before_or_after = |workspace: &Workspace| {
        let now = profiles(workspace);
        assert!(now.len() == before.len() || now.len() == 26, "{now:?}");
    };
    strike(&workspace, &["run", "a-in"], fault, is_before_or_after, all);
}

fn export(fault: Fault) {
    let workspace = made();
    // A file has its name when it is whole. If the export was committed before the fault, the next one has nothing to export.
    let are_whole = |workspace: &Workspace| {
        for (name, text) in files(&workspace.path().join("out")) {
            let rows = text.lines().count() - 1;
            assert!(name.starts_with('.') || rows == 18 || rows == 0, "{name}: {text}");
        }
    };
    let all = |workspace: &Workspace| {
        are_whole(workspace);
        let files = files(&workspace.path().join("out"));
        assert!(files.keys().all(|name| !name.starts_with('.')), "left over: {:?}", files.keys());
        files.get("people.csv").cloned()
    };
    strike(&workspace, &["run", "b-out"], fault, are_whole, all);
}

#[test]
fn an_import_goes_on_after_the_disk_was_full() {
    import(FULL);
}

#[test]
fn an_import_goes_on_after_the_disk_failed() {
    import(BROKEN);
}

#[test]
fn an_import_goes_on_after_there_were_no_descriptors() {
    import(EXHAUSTED);
}

#[test]
fn an_export_goes_on_after_the_disk_was_full() {
    export(FULL);
}

#[test]
fn an_export_goes_on_after_the_disk_failed() {
    export(BROKEN);
}

#[test]
fn an_export_goes_on_after_there_were_no_descriptors() {
    export(EXHAUSTED);
}
