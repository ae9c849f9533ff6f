//! Folders that others write to: what is swapped for something else is neither read nor written outside, nothing waits for ever, and
//! no name or cell commands a terminal.
#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

mod workspace;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use workspace::wait::{wait_for, wait_with_output};
use workspace::{Output, Workspace, finish, moved_so_far};

/// How long a command may take that must not wait for anything.
const SOON: Duration = Duration::from_secs(60);
const HEADER: &str = "key,note\n";
const SCHEMA: &str = "[properties.key]\nunique = true\n[properties.note]\n";

/// A goal that imports the files of a folder.
fn goal(name: &str, folder: &str, more: &str) -> String {
    format!(
        "[[import_profiles]]\nname = '{name}'\ndirectory = '{folder}'\nfiles = '*.csv'\n{more}\n\
         [[import_profiles.identifiers]]\ncolumn = 'key'\nproperty = 'key'\n\
         [[import_profiles.fields]]\ncolumn = 'note'\n"
    )
}

/// A goal with a long file and a short one, and a goal after it.
fn workspace(more: &str) -> Workspace {
    let workspace = Workspace::empty();
    workspace.write("schema.toml", SCHEMA);
    workspace.write(
        "connections/shop.toml",
        format!(
            "[location]\nkind = 'directory'\npath = 'exchange'\n{}{}",
            goal("first", "in", more),
            goal("next", "next", "")
        ),
    );
    let mut long = HEADER.to_owned();
    (0..200_000).for_each(|row| long.push_str(&format!("k{row},{}\n", "x".repeat(20))));
    workspace.write("exchange/in/1.csv", &long);
    workspace.write("exchange/in/2.csv", format!("{HEADER}second,mine\n"));
    workspace.write("exchange/next/3.csv", format!("{HEADER}third,mine\n"));
    workspace.write("outside/2.csv", format!("{HEADER}secret,theirs\n"));
    workspace
}

fn ended(command: &mut Command) -> Output {
    let process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let output = wait_with_output(process, &format!("{command:?}"), SOON);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Output {
        stdout: text(output.stdout),
        stderr: text(output.stderr),
        code: output.status.code().unwrap_or(-1),
    }
}

/// Runs the goals, and swaps something while the long file is read: both files are listed then.
fn run_while(workspace: &Workspace, swap: impl Fn(&Path)) -> Output {
    let mut command = workspace.command(&["run"]);
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let half = fs::metadata(workspace.path().join("exchange/in/1.csv")).unwrap().len() * 3 / 2;
    wait_for("the long file to be read", || {
        assert!(process.try_wait().unwrap().is_none(), "the long file is too short");
        (moved_so_far(&process) > half).then_some(())
    });
    swap(&workspace.path().join("exchange"));
    let output = wait_with_output(process, "the run", SOON);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Output {
        stdout: text(output.stdout),
        stderr: text(output.stderr),
        code: output.status.code().unwrap_or(-1),
    }
}

fn has(workspace: &Workspace, key: &str) -> bool {
    workspace.sluicebox(&["profile", "find", &format!("key={key}")]).code == 0
}

fn check_swap(more: &str, swap: impl Fn(&Path), expected: &str) {
    let workspace = workspace(more);
    let output = run_while(&workspace, swap);
    assert_eq!(output.code, 1, "{}{}", output.stdout, output.stderr);
    assert!(output.stdout.contains(expected), "{}", output.stdout);
    assert!(has(&workspace, "third"), "the next goal goes on");
    assert!(!has(&workspace, "second") && !has(&workspace, "secret"));
    let outside = fs::read_dir(workspace.path().join("outside")).unwrap();
    let names: Vec<_> = outside.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["2.csv"], "nothing is written outside");
}

#[test]
fn a_file_that_becomes_a_fifo_fails_and_nothing_waits() {
    let swap = |exchange: &Path| {
        fs::remove_file(exchange.join("in/2.csv")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, exchange.join("in/2.csv"), 0o644.into()).unwrap();
    };
    check_swap("", swap, "in/2.csv: it is a FIFO, not a regular file");
}

#[test]
fn a_file_that_becomes_a_link_is_not_read() {
    let swap = |exchange: &Path| {
        fs::remove_file(exchange.join("in/2.csv")).unwrap();
        symlink("../../outside/2.csv", exchange.join("in/2.csv")).unwrap();
    };
    check_swap("after_import = 'done-suffix'", swap, "in/2.csv: it leads out of the location");
}

#[test]
fn a_folder_that_becomes_a_link_is_neither_read_nor_written() {
    let swap = |exchange: &Path| {
        fs::rename(exchange.join("in"), exchange.join("old")).unwrap();
        symlink("../outside", exchange.join("in")).unwrap();
    };
    check_swap("after_import = 'delete'", swap, "leads out of the location");
}

#[test]
fn files_of_the_configuration_that_are_fifos_are_refused() {
    let workspace = workspace("");
    let fifo = workspace.path().join("connections/fifo.toml");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, 0o644.into()).unwrap();
    let output = ended(&mut workspace.command(&["check"]));
    assert_eq!(output.code, 1, "{}", output.stderr);
    assert!(output.stderr.contains("fifo.toml: it is a FIFO, not a regular file"), "{}", output.stderr);
}

#[test]
fn exports_are_for_their_owner_and_its_group() {
    let workspace = workspace("");
    let export = "[[export_profiles]]\nname = 'out'\ndirectory = 'out'\nfile = 'all.csv'\n\
                  [[export_profiles.columns]]\nproperty = 'key'\n";
    workspace.write(
        "connections/shop.toml",
        format!("[location]\nkind = 'directory'\npath = 'exchange'\n{}{export}", goal("next", "next", "")),
    );
    fs::create_dir(workspace.path().join("exchange/out")).unwrap();
    let output = ended(&mut workspace.command(&["run"]));
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    let file = workspace.path().join("exchange/out/all.csv");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    // The folder of the goal is a link to another place: the export fails, and nothing is written there.
    fs::remove_dir_all(workspace.path().join("exchange/out")).unwrap();
    symlink("../outside", workspace.path().join("exchange/out")).unwrap();
    workspace.write("exchange/next/4.csv", format!("{HEADER}fourth,mine\n"));
    let refused = ended(&mut workspace.command(&["run"]));
    assert_eq!(refused.code, 1, "{}{}", refused.stdout, refused.stderr);
    assert!(refused.stdout.contains("leads out of the location"), "{}", refused.stdout);
    assert_eq!(fs::read_dir(workspace.path().join("outside")).unwrap().count(), 1);
}

/// Files of a dry run are in a folder that no one else can have created before, whatever its process's number.
#[test]
fn a_dry_run_works_in_no_folder_that_is_there_already() {
    let workspace = Workspace::empty();
    workspace.write("schema.toml", SCHEMA);
    workspace.write(
        "connections/shop.toml",
        format!("[location]\nkind = 'directory'\npath = 'exchange'\n{}", goal("first", "in", "")),
    );
    workspace.write("exchange/in/1.csv", format!("{HEADER}a,1\nragged\n"));
    let run = workspace.sluicebox(&["run", "--json"]);
    let report: Value = serde_json::from_str(run.stdout.trim()).unwrap();
    let id = report.get("run").and_then(Value::as_str).unwrap();
    for folder in ["outside", "tmp"] {
        fs::create_dir(workspace.path().join(folder)).unwrap();
    }
    let corrected = workspace.shell(&format!(
        "for name in $$ corrected-$$; do ln -s ../outside tmp/sluicebox-scratch-$name; done; \
         TMPDIR=tmp exec {} rejected import {id} first --dry-run",
        env!("CARGO_BIN_EXE_sluicebox")
    ));
    assert!(corrected.stdout.contains("1 row"), "{}{}", corrected.stdout, corrected.stderr);
    let left = fs::read_dir(workspace.path().join("tmp")).unwrap().count();
    assert_eq!(left, 2, "its own folder is removed, and no other: {}{}", corrected.stdout, corrected.stderr);
    assert_eq!(fs::read_dir(workspace.path().join("outside")).unwrap().count(), 0);
}

#[test]
fn a_foreign_cache_of_plugins_is_refused() {
    let workspace = workspace("");
    assert_eq!(workspace.sluicebox(&["run", "--goal", "next"]).code, 0);
    let cache = workspace.path().join("data/plugin-cache");
    fs::create_dir_all(&cache).unwrap();
    let warning = |expected: &str| {
        let output = ended(&mut workspace.command(&["accept", "shop", "next"]));
        assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
        assert!(output.stderr.contains("compiled plugins are not cached"), "{}", output.stderr);
        assert!(output.stderr.contains(expected), "{}", output.stderr);
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 0, "nothing is written there");
    };
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o775)).unwrap();
    warning("others may write to it (mode 775)");
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o700)).unwrap();
    let own = fs::metadata(&cache).unwrap().uid();
    if std::os::unix::fs::chown(&cache, Some(own + 1), None).is_ok() {
        warning(&format!("it belongs to user {}", own + 1));
    }
}

/// Whether a text has nothing in it that a terminal would obey.
fn assert_harmless(what: &str, text: &str) {
    let obeyed = |character: char| {
        (character.is_control() && character != '\n')
            || ['\u{2028}', '\u{202e}', '\u{2066}'].contains(&character)
    };
    assert!(!text.contains(obeyed), "{what}: {text:?}");
    assert!(!text.lines().any(|line| line.starts_with("forged")), "{what}: {text:?}");
}

#[test]
fn names_and_cells_command_no_terminal() {
    const EVIL: &str = "\u{1b}]0;x\u{7}\u{1b}[31m\u{9b}2J\nforged\r\u{202e}\u{2028}";
    let workspace = Workspace::empty();
    workspace.write(
        "schema.toml",
        format!("{SCHEMA}[properties.tags]\nmultiple = true\n[properties.born]\ntype = 'date'\n"),
    );
    workspace.write(
        "connections/shop.toml",
        format!(
            "[location]\nkind = 'directory'\npath = 'exchange'\n{}\
             [[import_profiles.fields]]\ncolumn = 'born'\n\
             [[import_profiles.fields]]\ncolumn = 'tags'\nrule = 'add'\nseparator = '|'\n",
            goal("first", "in", "")
        ),
    );
    let quoted = format!("\"{EVIL}\"");
    workspace.write(
        &format!("exchange/in/{EVIL}.csv"),
        format!(
            "key,note,born,tags,{quoted}\n{quoted},{quoted},{quoted},{quoted}|b,{quoted}\nragged\nforged\n"
        ),
    );
    workspace.write(&format!("exchange/in/{EVIL}-broken.csv"), "key,born\n\"a\n");
    symlink("/etc/passwd", workspace.path().join(format!("exchange/in/{EVIL}-link.csv"))).unwrap();
    fs::create_dir(workspace.path().join(format!("exchange/{EVIL}"))).unwrap();
    let look = |arguments: &[&str]| {
        let output = ended(&mut workspace.command(arguments));
        let what = arguments.join(" ");
        assert_harmless(&what, &output.stdout);
        assert_harmless(&format!("{what}, stderr"), &output.stderr);
        output
    };
    for verbose in ["-q", "-v", "--log-format=json"] {
        let arguments = [verbose, "check"];
        look(if verbose == "-q" { &arguments[1..] } else { &arguments });
    }
    look(&["scan", "shop"]);
    assert!(look(&["scan", "shop", "first"]).stdout.contains("\\u001b[31m"));
    assert!(look(&["preview", "shop", "first"]).stdout.contains("\\u202e"));
    look(&["run", "--dry-run", "--diff"]);
    look(&["run", "--dry-run", "--diff", "--json"]);
    let run = look(&["run", "--json"]);
    let report: Value = serde_json::from_str(run.stdout.trim()).unwrap();
    let names: Vec<&str> = report
        .pointer("/files")
        .unwrap()
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|file| file.pointer("/name")?.as_str())
        .collect();
    assert!(names.contains(&format!("in/{EVIL}.csv").as_str()), "JSON has the name unchanged: {names:?}");
    let id = report.pointer("/run").and_then(Value::as_str).unwrap();
    for arguments in [
        vec!["-v", "run", "--reimport"],
        vec!["history"],
        vec!["history", id],
        vec!["history", id, "--json"],
        vec!["profile", "list"],
        vec!["profile", "list", "--json"],
        vec!["rejected", "list"],
        vec!["rejected", "list", "--json"],
        vec!["rejected", "show", id, "first"],
        vec!["rejected", "show", id, "first", "--json"],
        vec!["rejected", "import", id, "first"],
        vec!["undo", id],
    ] {
        look(&arguments);
    }
    assert!(finish(&mut workspace.command(&["store", "verify"])).code == 0);
}
