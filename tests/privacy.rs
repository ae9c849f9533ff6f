//! Provenance, undo, erasure, and upkeep of the store.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says where")]

mod workspace;

use std::fs;

use serde_json::Value;
use workspace::Workspace;

fn workspace(more: &str) -> Workspace {
    let workspace = Workspace::empty();
    workspace.write("sluicebox.toml", "[undo]\nkeep = '30d'\n");
    workspace.write(
        "schema.toml",
        "[properties.email]\nunique = true\n[properties.card]\nunique = true\n[properties.name]\n[properties.spent]\n\
         type = 'number'\n[events.order.properties.total]\ntype = 'number'\n",
    );
    let fields = ["card", "name"].map(|field| format!("[[import_profiles.fields]]\ncolumn = '{field}'\n"));
    workspace.write(
        "connections/shop.toml",
        format!(
            "[location]\nkind = 'directory'\npath = '.'\n[[import_profiles]]\nname = 'people'\ndirectory = 'in'\n\
             files = '*.csv'\n{more}[[import_profiles.identifiers]]\ncolumn = 'email'\nproperty = 'email'\n{}\
             [[import_profiles.fields]]\ncolumn = 'spent'\nrule = 'sum'\n\
             [[import_profiles.events]]\ntype = 'order'\nid = 'order'\ntime = 'at'\n\
             fields = [ {{ column = 'total', property = 'total' }} ]\n",
            fields.concat()
        ),
    );
    workspace
}

const HEADER: &str = "email,card,name,spent,order,at,total\n";

/// Imports a file; returns the id of the run.
fn import(workspace: &Workspace, name: &str, rows: &str) -> String {
    workspace.write(&format!("in/{name}.csv"), format!("{HEADER}{rows}"));
    let output = workspace.sluicebox(&["run", "--json"]);
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    let report: Value = serde_json::from_str(output.stdout.lines().next().unwrap()).unwrap();
    report["run"].as_str().unwrap().to_owned()
}

/// The profiles, without their ids and times.
fn profiles(workspace: &Workspace) -> Vec<String> {
    let listed = workspace.sluicebox(&["profile", "list", "--json"]).stdout;
    let shown = |line: &str| {
        let profile: Value = serde_json::from_str(line).unwrap();
        format!("{} {}", profile["properties"], profile["events"])
    };
    let mut profiles: Vec<String> = listed.lines().map(shown).collect();
    profiles.sort();
    profiles
}

fn find(workspace: &Workspace, condition: &str) -> Option<Value> {
    let found = workspace.sluicebox(&["profile", "find", condition, "--json"]).stdout;
    found.lines().next().map(|line| serde_json::from_str(line).unwrap())
}

fn id(workspace: &Workspace, condition: &str) -> String {
    find(workspace, condition).unwrap()["profile_id"].as_str().unwrap().to_owned()
}

fn assert_consistent(workspace: &Workspace) {
    let verified = workspace.sluicebox(&["store", "verify"]);
    assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);
}

fn undo(workspace: &Workspace, run: &str) -> Value {
    let output = workspace.sluicebox(&["undo", run, "--json"]);
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    serde_json::from_str(output.stdout.lines().next().unwrap()).unwrap()
}

#[test]
fn undo_restores_the_profiles_before_the_run() {
    let workspace = workspace("");
    import(&workspace, "1", "ann@x,c1,Ann,10,o1,2026-01-01,5\nbob@x,c2,Bob,1,,,\n");
    let before = profiles(&workspace);
    let run = import(
        &workspace,
        "2",
        "ann@x,c9,Anna,5,o1,2026-01-01,6\nann@x,,,1,o2,2026-01-02,7\ncid@x,c3,Cid,2,o3,2026-01-03,1\n",
    );
    assert_ne!(profiles(&workspace), before);
    let undone = undo(&workspace, &run);
    assert_eq!(
        (&undone["restored"], &undone["removed"], &undone["left_alone"]),
        (&1.into(), &1.into(), &0.into())
    );
    assert_eq!(profiles(&workspace), before);
    assert!(find(&workspace, "card=c1").is_some() && find(&workspace, "card=c9").is_none());
    assert!(find(&workspace, "email=cid@x").is_none());
    assert_consistent(&workspace);
    // A second undo has nothing left to do.
    let again = undo(&workspace, &run);
    assert_eq!((&again["restored"], &again["removed"]), (&0.into(), &0.into()));
    assert_eq!(profiles(&workspace), before);
    assert_consistent(&workspace);
}

#[test]
fn undo_leaves_alone_and_lists_what_changed_since() {
    let workspace = workspace("");
    import(&workspace, "1", "ann@x,c1,Ann,10,,,\nbob@x,c2,Bob,1,,,\n");
    let run = import(&workspace, "2", "ann@x,c5,Anna,5,,,\nbob@x,,Rob,,o1,2026-01-01,5\ncid@x,,Cid,,,,\n");
    import(
        &workspace,
        "3",
        "ann@x,,Annabel,,,,\nbob@x,,,,o1,2026-01-01,6\ncid@x,,Sid,,,,\ndee@x,c1,Dee,,,,\n",
    );
    let undone = undo(&workspace, &run);
    let why: Vec<&str> =
        undone["left"].as_array().unwrap().iter().map(|left| left["why"].as_str().unwrap()).collect();
    assert_eq!(
        why,
        [
            "`name` was changed since",
            "another record holds the value that `card` had",
            "an event of type `order` was changed since",
            "the run created it, and it was changed since",
        ]
    );
    assert_eq!(
        profiles(&workspace),
        [
            r#"{"email":"ann@x","card":"c5","name":"Annabel","spent":10} []"#,
            r#"{"email":"bob@x","card":"c2","name":"Bob","spent":1} [{"type":"order","id":"o1","time":"2026-01-01T00:00:00Z","properties":{"total":6},"nested":{}}]"#,
            r#"{"email":"cid@x","name":"Sid"} []"#,
            r#"{"email":"dee@x","card":"c1","name":"Dee"} []"#,
        ]
    );
    assert_consistent(&workspace);
}

/// Lets rows of both identifiers find several profiles, which are merged.
fn merge_by_card(workspace: &Workspace) {
    let goals = fs::read_to_string(workspace.path().join("connections/shop.toml")).unwrap();
    let by_email = "[[import_profiles.identifiers]]\ncolumn = 'email'\nproperty = 'email'\n";
    let by_card = "[[import_profiles.identifiers]]\ncolumn = 'card'\nproperty = 'card'\n";
    workspace.write("connections/shop.toml", goals.replace(by_email, &[by_email, by_card].concat()));
}

#[test]
fn undo_splits_profiles_that_the_run_merged() {
    let workspace = workspace("on_ambiguous = 'merge'\n");
    merge_by_card(&workspace);
    import(
        &workspace,
        "1",
        "ann@x,c1,Ann,10,o1,2026-01-01,5\nbob@x,c2,Bob,1,o1,2026-01-02,6\nbob@x,,,,o2,2026-01-02,7\ncid@x,,Cid,3,,,\n",
    );
    let before = profiles(&workspace);
    let run = import(&workspace, "2", "ann@x,c2,Anna,5,o2,2026-01-02,8\ncid@x,,,1,,,\n");
    let merged = profiles(&workspace);
    assert_eq!(merged.len(), 2);
    let undone = undo(&workspace, &run);
    assert_eq!(
        (&undone["restored"], &undone["removed"], &undone["left_alone"]),
        (&3.into(), &0.into(), &0.into()),
        "{undone}"
    );
    assert_eq!(profiles(&workspace), before);
    for (condition, name) in
        [("email=ann@x", "Ann"), ("card=c1", "Ann"), ("email=bob@x", "Bob"), ("card=c2", "Bob")]
    {
        assert_eq!(find(&workspace, condition).unwrap()["properties"]["name"], name);
    }
    assert_consistent(&workspace);
    undo(&workspace, undone["run"].as_str().unwrap());
    assert_eq!(profiles(&workspace), merged);
    assert_consistent(&workspace);
}

#[test]
fn undo_leaves_merged_what_was_merged_again_since_and_needs_retention() {
    let workspace = workspace("on_ambiguous = 'merge'\n");
    merge_by_card(&workspace);
    import(&workspace, "1", "ann@x,c1,Ann,10,,,\nbob@x,c2,Bob,1,,,\ncid@x,c3,Cid,1,,,\n");
    let run = import(&workspace, "2", "ann@x,c2,,,,,\n");
    import(&workspace, "3", "cid@x,c2,,,,,\n");
    let before = profiles(&workspace);
    let undone = undo(&workspace, &run);
    let mut why: Vec<&str> =
        undone["left"].as_array().unwrap().iter().map(|left| left["why"].as_str().unwrap()).collect();
    why.sort_unstable();
    let expected = [
        "another run merged it with another record since",
        "the run merged it with a record that is left alone",
    ];
    assert_eq!(why, expected);
    assert_eq!(profiles(&workspace), before);
    assert_consistent(&workspace);
    workspace.write("sluicebox.toml", "");
    let run = import(&workspace, "4", "eve@x,,Eve,,,,\n");
    let refused = workspace.sluicebox(&["undo", &run]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("`[undo] keep` in sluicebox.toml"), "{}", refused.stderr);
    assert_eq!(workspace.sluicebox(&["undo", "20260101-000000-0000"]).code, 1);
}

#[test]
fn explain_names_the_run_and_file_of_each_property() {
    let workspace = workspace("");
    // Nothing that was overwritten is retained.
    workspace.write("sluicebox.toml", "");
    let first = import(&workspace, "1", "ann@x,c1,Ann,10,,,\n");
    let second = import(&workspace, "2", "ann@x,,Anna,,,,\n");
    let third = import(&workspace, "3", "ann@x,,Anna,5,,,\n");
    let shown =
        workspace.sluicebox(&["profile", "get", &id(&workspace, "email=ann@x"), "--explain", "--json"]);
    let profile: Value = serde_json::from_str(&shown.stdout).unwrap();
    let by = |property: &str| {
        let explained = &profile["explain"][property];
        (explained["run"].as_str().unwrap().to_owned(), explained["file"].as_str().unwrap().to_owned())
    };
    assert_eq!(by("card"), (first.clone(), "in/1.csv".to_owned()));
    assert_eq!(by("name"), (second, "in/2.csv".to_owned()));
    assert_eq!(by("spent"), (third, "in/3.csv".to_owned()));
    assert_eq!(by("email").0, first);
    let text = workspace.sluicebox(&["profile", "get", &id(&workspace, "email=ann@x"), "--explain"]).stdout;
    assert!(text.contains(&format!("card: set by run {first} (shop / people) from in/1.csv at ")), "{text}");
}

#[test]
fn an_erased_person_is_removed_and_not_imported_again() {
    let workspace = workspace("max_rejected = '100%'\n");
    import(
        &workspace,
        "1",
        "ann@x.example,card-4711,Ann,10,o1,2026-01-01,5\nbob@x.example,c2,Bob,1,,,\nann@x.example,too,many,1,,,,cells\n",
    );
    import(&workspace, "2", "ann@x.example,,Anna,1,,,\n");
    let ann = id(&workspace, "email=ann@x.example");
    let held = workspace.sluicebox(&["profile", "export", &ann]);
    let held: Value = serde_json::from_str(&held.stdout).unwrap();
    assert_eq!(held["profile"]["properties"]["name"], "Anna");
    assert_eq!(held["before"][0]["properties"]["name"], "Ann");
    assert_eq!(held["rejected"][0]["row"]["email"], "ann@x.example");

    let erased = workspace.sluicebox(&["profile", "erase", &ann]);
    assert_eq!(erased.code, 0, "{}", erased.stderr);
    assert_eq!(workspace.sluicebox(&["profile", "get", &ann]).code, 1);
    assert_consistent(&workspace);
    // No file of the store and no rejected row holds a trace of her.
    let traces = workspace.shell("grep -rlE 'ann@x.example|Anna|card-4711' data; true");
    assert_eq!(traces.stdout, "");

    // The changed file is imported again: she stays erased, and new persons are imported.
    import(&workspace, "1", "ann@x.example,c7,Ann,10,,,\nbob@x.example,c2,Bob,1,,,\n");
    let report = import(&workspace, "3", "ann@x.example,,Ann,,,,\neve@x.example,card-4711,Eve,,,,\n");
    assert!(!report.is_empty());
    assert!(
        find(&workspace, "email=ann@x.example").is_none()
            && find(&workspace, "email=eve@x.example").is_some()
    );
    let goals = fs::read_to_string(workspace.path().join("connections/shop.toml")).unwrap();
    workspace
        .write("connections/shop.toml", goals.replace("max_rejected", "restore_erased = true\nmax_rejected"));
    import(&workspace, "4", "ann@x.example,,Ann,,,,\n");
    assert!(find(&workspace, "email=ann@x.example").is_some());
    assert_consistent(&workspace);
}

#[test]
fn a_store_is_measured_backed_up_and_restored() {
    let workspace = workspace("");
    import(&workspace, "1", "ann@x,c1,Ann,10,o1,2026-01-01,5\n");
    let before = profiles(&workspace);
    let backup = workspace.sluicebox(&["store", "backup", "backups/monday"]);
    assert_eq!(backup.code, 0, "{}", backup.stderr);
    assert_eq!(
        workspace.sluicebox(&["store", "backup", "backups/monday"]).code,
        1,
        "the folder exists already"
    );
    import(&workspace, "2", "bob@x,c2,Bob,1,,,\n");
    assert_eq!(workspace.sluicebox(&["store", "compact"]).code, 0);
    let stats: Value =
        serde_json::from_str(&workspace.sluicebox(&["store", "stats", "--json"]).stdout).unwrap();
    assert_eq!(stats["families"]["records"]["entries"], 2);
    let restored = workspace.sluicebox(&["store", "restore", "backups/monday"]);
    assert_eq!(restored.code, 0, "{}", restored.stderr);
    assert_eq!(profiles(&workspace), before);
    assert_consistent(&workspace);
    let nothing = workspace.sluicebox(&["store", "restore", "backups/tuesday"]);
    assert_eq!(nothing.code, 1, "{}", nothing.stdout);
    assert_eq!(profiles(&workspace), before);
}
