//! Upgrades: another build of a plugin, another configuration of a goal, stores of earlier programs. Nothing is imported
//! again because of a build, and nothing is imported again without a word before.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says where")]

mod workspace;

use std::fs;

use serde_json::{Value, json};
use workspace::{Output, Workspace};

const CHANGED: &str = "plugin mail changed since these files were imported; they are not imported again; \
                       `sluicebox run shop --goal customers --reimport` takes them again";

/// Rows of a file whose import takes a while.
const LONG: usize = 30_000;

/// A goal whose rows go through a plugin of its own, and sums.
fn workspace() -> Workspace {
    let workspace = Workspace::empty();
    workspace.write("sluicebox.toml", "[import]\ncommit_rows = 100\nbatch_rows = 100\n");
    workspace.write(
        "schema.toml",
        "[properties.email]\nunique = true\n[properties.spent]\ntype = 'number'\n[properties.name]\n",
    );
    workspace.write(
        "connections/shop.toml",
        "[location]\nkind = 'directory'\npath = 'exchange'\n[[import_profiles]]\nname = 'customers'\n\
         files = '*.csv'\n[[import_profiles.processors]]\nplugin = 'mail'\nconfig = { columns = ['email'] }\n\
         [[import_profiles.identifiers]]\ncolumn = 'email'\nproperty = 'email'\n\
         [[import_profiles.fields]]\ncolumn = 'spent'\nrule = 'sum'\n",
    );
    workspace.write("exchange/a.csv", "email,spent,name\nann@Example.com,1.50,Ann\nbob@example.com,2,Bob\n");
    workspace.write("exchange/b.csv", "email,spent,name\nann@example.com,3,Ann\n");
    build(&workspace, 1);
    workspace
}

/// Makes files that take a while, of 7 persons.
fn with_long_files(names: &[&str]) -> Workspace {
    let workspace = workspace();
    let rows: String = (0..LONG).map(|row| format!("c{}@x.example,0.01,N\n", row % 7)).collect();
    for name in names {
        workspace.write(&format!("exchange/{name}"), format!("email,spent,name\n{rows}"));
    }
    workspace
}

/// Puts another build of the plugin into the plugin folder: a custom section makes it another component.
fn build(workspace: &Workspace, number: u8) {
    let built = Workspace::repository().join("plugins/built/email-normalizer.wasm");
    let mut component = fs::read(built).unwrap();
    component.extend([0, 3, 1, b'n', number]);
    workspace.write("plugins/mail.wasm", component);
}

fn edit(workspace: &Workspace, from: &str, to: &str) {
    let text = fs::read_to_string(workspace.path().join("connections/shop.toml")).unwrap();
    assert!(text.contains(from), "{text}");
    workspace.write("connections/shop.toml", text.replacen(from, to, 1));
}

fn json(output: &Output) -> Vec<Value> {
    output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The statuses of the files that a command reports, and its warnings.
fn statuses(workspace: &Workspace, arguments: &[&str]) -> (Vec<String>, String) {
    let output = workspace.ok(arguments);
    let reports = json(&output);
    let files = reports.iter().flat_map(|report| report["files"].as_array().unwrap());
    (files.map(|file| file["status"].as_str().unwrap().to_owned()).collect(), output.stderr)
}

/// The sum of everything that all profiles spent, in cents.
fn spent(workspace: &Workspace) -> u64 {
    let profiles = json(&workspace.ok(&["profile", "list", "--json"]));
    let cents = |profile: &Value| profile["properties"]["spent"].as_f64().unwrap_or_default() * 100.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small sum")]
    let cents = |profile: &Value| cents(profile).round() as u64;
    profiles.iter().map(cents).sum()
}

fn is(found: &(Vec<String>, String), statuses: &[&str], warns: bool) {
    assert_eq!(found.0, statuses, "{}", found.1);
    assert_eq!(found.1.contains(CHANGED), warns, "{}", found.1);
}

#[test]
fn another_build_of_a_plugin_imports_nothing_again_and_is_named_once() {
    let workspace = workspace();
    is(&statuses(&workspace, &["run", "--json"]), &["imported", "imported"], false);
    assert_eq!(spent(&workspace), 650);
    build(&workspace, 2);
    let checked = workspace.ok(&["check"]).stdout;
    assert!(checked.contains(&format!("warning: shop / customers: {CHANGED}")), "{checked}");
    assert!(checked.contains("no new file, 2 files already imported"), "{checked}");
    let scanned = &json(&workspace.ok(&["scan", "shop", "customers", "--json"]))[0];
    assert_eq!(scanned["files"][0]["changed_plugins"], json!(["mail"]), "{scanned}");
    let imported = ["already-imported", "already-imported"];
    is(&statuses(&workspace, &["run", "--json", "--dry-run"]), &imported, true);
    is(&statuses(&workspace, &["run", "--json"]), &imported, true);
    is(&statuses(&workspace, &["run", "--json"]), &imported, false);
    assert!(!workspace.ok(&["check"]).stdout.contains("changed since"));
    assert_eq!(spent(&workspace), 650);

    // The plugin under another path is the same plugin.
    workspace.write("more/mail.wasm", fs::read(workspace.path().join("plugins/mail.wasm")).unwrap());
    is(&statuses(&workspace, &["run", "--json", "--reimport"]), &["imported", "imported"], false);
    assert_eq!(spent(&workspace), 1300);
    edit(&workspace, "'mail'", "'more/mail.wasm'");
    is(&statuses(&workspace, &["run", "--json"]), &imported, false);
    // Another plugin is none.
    edit(&workspace, "'more/mail.wasm'", "'email-normalizer'");
    let other = statuses(&workspace, &["run", "--json"]);
    is(&other, &["imported", "imported"], false);
    assert!(other.1.contains("(plugin email-normalizer instead of mail)"), "{}", other.1);
    assert_eq!(spent(&workspace), 1950);
}

#[test]
fn another_pin_or_lock_entry_imports_again_and_is_said_before() {
    let workspace = workspace();
    workspace.ok(&["plugin", "lock"]);
    is(&statuses(&workspace, &["run", "--json"]), &["imported", "imported"], false);
    build(&workspace, 2);
    assert_eq!(workspace.sluicebox(&["run"]).code, 2);
    workspace.ok(&["plugin", "lock"]);
    let expected = "2 files are imported again: a.csv, b.csv (plugin mail is pinned to another build)";
    let checked = workspace.ok(&["check"]).stdout;
    assert!(
        checked.contains(expected) && checked.contains("`sum` and `add` count twice: spent"),
        "{checked}"
    );
    let dry = statuses(&workspace, &["run", "--json", "--dry-run"]);
    is(&dry, &["imported", "imported"], false);
    assert!(dry.1.contains(expected) && dry.1.contains("`sluicebox accept shop customers`"), "{}", dry.1);
    is(&statuses(&workspace, &["run", "--json"]), &["imported", "imported"], false);
    assert_eq!(spent(&workspace), 1300);
    // A pin of the same build, and no pin, are no change.
    fs::remove_file(workspace.path().join("plugins.lock")).unwrap();
    is(&statuses(&workspace, &["run", "--json"]), &["already-imported", "already-imported"], false);
    build(&workspace, 1);
    is(&statuses(&workspace, &["run", "--json"]), &["already-imported", "already-imported"], true);
}

/// Kills `arguments` once they have done a share of what they do, in fresh folders, until that cut one short in the middle.
fn cut_short(
    make: impl Fn() -> Workspace,
    arguments: &[&str],
    is_middle: impl Fn(&Workspace) -> bool,
) -> Workspace {
    let moved = make().moved_by(arguments);
    // What compiling the plugin moves comes first, and may be most of it.
    let shares = [50, 60, 40, 70, 90, 30, 80, 95, 20, 85, 98, 92, 97];
    let cut = shares.iter().cycle().take(5 * shares.len()).find_map(|share| {
        let workspace = make();
        (workspace.killed_at(arguments, moved * share / 100) && is_middle(&workspace)).then_some(workspace)
    });
    cut.unwrap()
}

/// How far files are: rows that are imported, and whether all are.
fn progress(workspace: &Workspace) -> Vec<(u64, bool)> {
    let scanned = &json(&workspace.ok(&["scan", "shop", "customers", "--json"]))[0];
    let files = scanned["files"].as_array().unwrap().iter();
    let of = |file: &Value| (file["rows_imported"].as_u64().unwrap(), file["imported"].as_bool().unwrap());
    files.map(of).collect()
}

#[test]
fn a_file_that_is_half_imported_goes_on_with_another_build_and_says_so() {
    let is_half = |workspace: &Workspace| matches!(progress(workspace)[..], [(1.., false)]);
    let make = || {
        let workspace = with_long_files(&["a.csv"]);
        fs::remove_file(workspace.path().join("exchange/b.csv")).unwrap();
        workspace
    };
    let workspace = cut_short(make, &["run"], is_half);
    let rows = progress(&workspace)[0].0;
    build(&workspace, 2);
    let output = statuses(&workspace, &["run", "--json"]);
    assert_eq!(output.0, ["imported"]);
    let expected = format!("a.csv: its first {rows} rows were imported with another build of mail");
    assert!(output.1.contains(&expected), "{}", output.1);
    assert_eq!(spent(&workspace), LONG as u64);
    is(&statuses(&workspace, &["run", "--json"]), &["already-imported"], false);
    assert_eq!(spent(&workspace), LONG as u64);
}

#[test]
fn a_half_imported_file_that_is_accepted_goes_on_under_the_new_configuration() {
    let is_half = |workspace: &Workspace| matches!(progress(workspace)[..], [(1.., false), (0, false)]);
    let workspace = cut_short(|| with_long_files(&["a.csv", "b.csv"]), &["run"], is_half);
    let rows = progress(&workspace)[0].0;
    edit(&workspace, "column = 'spent'", "column = 'name'\n[[import_profiles.fields]]\ncolumn = 'spent'");
    let checked = workspace.ok(&["check"]).stdout;
    let expected =
        format!("1 file is imported again: a.csv (its first {rows} rows were imported; fields added: name)");
    assert!(checked.contains(&expected), "{checked}");
    let refused = workspace.sluicebox(&["accept", "shop", "customers", "b.csv"]);
    assert_eq!(refused.code, 1, "{}", refused.stdout);
    assert!(refused.stderr.contains("b.csv: it was never imported"), "{}", refused.stderr);
    let accepted = workspace.ok(&["accept", "shop", "customers", "a.csv"]).stdout;
    let expected = format!("a.csv: counts as imported up to row {rows}; the next run imports the rest");
    assert!(accepted.contains(&expected), "{accepted}");
    is(&statuses(&workspace, &["run", "--json"]), &["imported", "imported"], false);
    assert_eq!(spent(&workspace), 2 * LONG as u64);
}

#[test]
fn a_reimport_that_breaks_off_is_continued_by_the_next_run() {
    let make = || {
        let workspace = with_long_files(&["a.csv", "b.csv"]);
        workspace.ok(&["run"]);
        workspace
    };
    let is_begun = |workspace: &Workspace| progress(workspace).iter().any(|(_, complete)| !complete);
    let workspace = cut_short(make, &["run", "--reimport"], is_begun);
    workspace.ok(&["run"]);
    assert_eq!(spent(&workspace), 4 * LONG as u64);
    is(&statuses(&workspace, &["run", "--json"]), &["already-imported", "already-imported"], false);
}

/// The digest of the old build is not in the store: the history says that these plugins imported these files.
#[test]
fn a_store_of_an_earlier_program_imports_nothing_again_with_another_build() {
    let frozen = || {
        let workspace =
            Workspace::copy_of(&Workspace::repository().join("tests/frozen/store-6-plugin"), &["README.md"]);
        build(&workspace, 9);
        workspace
    };
    let workspace = frozen();
    assert_eq!(spent(&workspace), 650);
    let checked = workspace.ok(&["check"]).stdout;
    assert!(checked.contains(CHANGED) && checked.contains("2 files already imported"), "{checked}");
    is(&statuses(&workspace, &["run", "--json"]), &["already-imported", "already-imported"], true);
    is(&statuses(&workspace, &["run", "--json"]), &["already-imported", "already-imported"], false);
    assert_eq!(spent(&workspace), 650);

    // A file of other content is another file.
    let workspace = frozen();
    workspace.write(
        "exchange/in/customers_1.csv",
        "email,spent\ncho@example.com,1\ncho@example.com,1\ncho@example.com,1\n",
    );
    is(&statuses(&workspace, &["run", "--json"]), &["imported", "already-imported"], true);
    assert_eq!(spent(&workspace), 950);
}

#[test]
fn a_changed_goal_of_an_earlier_program_says_what_is_imported_again_and_accepts_it() {
    let workspace = Workspace::copy_of(&Workspace::repository().join("tests/frozen/store-6"), &["expected"]);
    let before = spend(&workspace);
    let text = fs::read_to_string(workspace.path().join("connections/shop.toml")).unwrap();
    let changed =
        text.replacen("column = \"vip\"\nrule = \"set-or-clear\"", "column = \"vip\"\nrule = \"set\"", 1);
    assert_ne!(text, changed);
    workspace.write("connections/shop.toml", changed);
    let expected = "in/people_1.csv, in/people_2.csv, in/people_3.csv";
    let checked = workspace.ok(&["check"]).stdout;
    let why = "an earlier version imported it and did not note its configuration";
    let again = format!("warning: Shop / people: 3 files are imported again: {expected} ({why})");
    assert!(checked.contains(&again), "{checked}");
    assert!(checked.contains("`sum` and `add` count twice: phones, tags, spend"), "{checked}");
    let accepted = &json(&workspace.ok(&["accept", "shop", "people", "--json"]))[0];
    let files: Vec<&str> =
        accepted["files"].as_array().unwrap().iter().map(|file| file["file"].as_str().unwrap()).collect();
    assert_eq!(files.join(", "), expected);
    let reports = json(&workspace.ok(&["run", "--goal", "people", "--json"]));
    assert_eq!(reports[0]["rows"]["read"], 0, "{}", reports[0]);
    assert_eq!(spend(&workspace), before);
}

/// What each person spent.
fn spend(workspace: &Workspace) -> Vec<Value> {
    let profiles = json(&workspace.ok(&["profile", "list", "--json"]));
    profiles.iter().map(|profile| profile["properties"]["spend"].clone()).collect()
}
