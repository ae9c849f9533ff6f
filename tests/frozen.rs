//! Stores for ever: a store that an earlier program wrote is opened, read, verified, imported into, exported from and undone.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says where")]

mod workspace;

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use workspace::Workspace;

/// The run that was the last when the store was frozen.
const LAST_RUN: &str = "20261130-004800-1fe7";

fn folder() -> PathBuf {
    Workspace::repository().join("tests/frozen/store-6")
}

/// A copy of the frozen working folder.
fn frozen() -> Workspace {
    Workspace::copy_of(&folder(), &["expected"])
}

/// What the program that wrote the store printed.
fn expected(name: &str) -> String {
    fs::read_to_string(folder().join("expected").join(name)).unwrap()
}

fn json(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The reports of a run's goals, by the order of the connection's file.
fn run(workspace: &Workspace) -> Vec<Value> {
    json(&workspace.ok(&["run", "--json"]).stdout)
}

fn status(report: &Value) -> Vec<&str> {
    let files = report["files"].as_array().unwrap();
    files.iter().map(|file| file["status"].as_str().unwrap()).collect()
}

fn is_whole(workspace: &Workspace) {
    let found = &json(&workspace.ok(&["store", "verify", "--json"]).stdout)[0];
    assert_eq!(found["problems"], 0, "{found}");
}

/// Profiles without the time of their last change, by their ids.
fn profiles(workspace: &Workspace) -> Vec<Value> {
    let mut profiles = json(&workspace.ok(&["profile", "list", "--json"]).stdout);
    for profile in &mut profiles {
        profile.as_object_mut().unwrap().remove("modified");
    }
    profiles
}

fn check_printed(workspace: &Workspace) {
    for (arguments, name) in [
        (&["profile", "list", "--json"][..], "profiles.json"),
        (&["group", "list", "household", "--json"], "groups.json"),
        (&["product", "list", "--json"], "products.json"),
        (&["history", "--json"], "history.json"),
    ] {
        let (printed, expected) = (workspace.ok(arguments).stdout, expected(name));
        for (printed, expected) in json(&printed).iter().zip(json(&expected)) {
            // A later program prints more keys, never others.
            for (key, value) in expected.as_object().unwrap() {
                assert_eq!(&printed[key], value, "{arguments:?}: `{key}` of {printed}");
            }
        }
        assert_eq!(printed.lines().count(), expected.lines().count(), "{arguments:?}");
    }
}

#[test]
fn a_frozen_store_is_printed_as_it_was_and_is_whole() {
    let workspace = frozen();
    check_printed(&workspace);
    is_whole(&workspace);
    workspace.ok(&["store", "compact"]);
    check_printed(&workspace);
    is_whole(&workspace);
}

#[test]
fn no_file_of_a_frozen_store_is_imported_again() {
    let workspace = frozen();
    let reports = run(&workspace);
    assert_eq!(reports.len(), 4);
    for report in &reports[..3] {
        assert_eq!(report["rows"]["read"], 0, "{report}");
        assert!(status(report).iter().all(|status| *status == "already-imported"), "{report}");
    }
    // Nothing has changed since the last export.
    assert_eq!(reports[3]["rows"]["read"], 0, "{}", reports[3]);
    assert_eq!(workspace.ok(&["profile", "list", "--json"]).stdout, expected("profiles.json"));
    is_whole(&workspace);
}

#[test]
fn a_frozen_store_is_imported_into_exported_from_and_undone() {
    let workspace = frozen();
    let before = profiles(&workspace);
    let header = "customer_id,email,name,phones,tags,spend,born,seen,vip,household_id\n";
    let rows = "c9001,New@Example.org,New,+31690009001,t1|t2,250,,,yes,h1\nc288,,Changed,,,1000,,,,\n";
    workspace.write("exchange/in/people_4.csv", format!("{header}{rows}"));
    workspace.write(
        "exchange/in/orders_4.csv",
        "order_id,customer_id,at,total\no4_1,c9001,2026-04-01T08:00:00Z,12.50\n",
    );
    workspace.write("exchange/in/lines_4.csv", "order_id,sku,quantity\no4_1,s1,3\n");
    let reports = run(&workspace);
    let people = reports.iter().find(|report| report["goal"] == "people").unwrap();
    assert_eq!(status(people), ["already-imported", "already-imported", "already-imported", "imported"]);
    assert_eq!(
        (&people["profiles"]["created"], &people["profiles"]["updated"]),
        (&1.into(), &1.into()),
        "{people}"
    );
    assert_eq!((&people["events"]["created"], &people["linked"]["read"]), (&1.into(), &2.into()), "{people}");
    is_whole(&workspace);

    // Both spend enough for the segment that is exported.
    let out = reports.iter().find(|report| report["goal"] == "out").unwrap();
    assert_eq!(out["rows"]["merged"], 2, "{out}");
    let file = workspace.path().join("exchange").join(out["files"][0]["name"].as_str().unwrap());
    let exported = fs::read_to_string(file).unwrap();
    assert!(exported.lines().any(|line| line == "New@example.org,250"), "{exported}");

    let found = &json(&workspace.ok(&["profile", "find", "customer_id=c288", "--json"]).stdout)[0];
    assert_eq!(found["properties"]["name"], "Changed");
    workspace.ok(&["undo", people["run"].as_str().unwrap()]);
    assert_eq!(profiles(&workspace), before);
    is_whole(&workspace);
}

#[test]
fn a_run_of_a_frozen_store_is_undone() {
    let workspace = frozen();
    let before = json(&expected("profiles.json"));
    let time = |profile: &Value, key: &str| profile[key].as_str().unwrap().to_owned();
    // The last run changed profiles last.
    let last = before.iter().map(|profile| time(profile, "modified")).max().unwrap();
    let undone = json(&workspace.ok(&["undo", LAST_RUN, "--json"]).stdout);
    let mut left: Vec<&str> = Vec::new();
    for goal in &undone {
        assert_eq!(goal["undone"], LAST_RUN, "{goal}");
        left.extend(goal["left"].as_array().unwrap().iter().map(|left| left["profile_id"].as_str().unwrap()));
    }
    let people = undone.iter().find(|goal| goal["goal"] == "people").unwrap();
    assert!(people["restored"].as_u64().unwrap() > 0 && people["removed"].as_u64().unwrap() > 0, "{people}");

    let after = json(&workspace.ok(&["profile", "list", "--json"]).stdout);
    let by_id = |id: &Value| after.iter().find(|profile| profile["profile_id"] == *id);
    for profile in &before {
        let id = &profile["profile_id"];
        if time(profile, "modified") != last {
            assert_eq!(by_id(id), Some(profile));
        } else if time(profile, "created") == last && !left.contains(&id.as_str().unwrap()) {
            assert_eq!(by_id(id), None);
        }
    }
    assert!(after.len() < before.len());
    is_whole(&workspace);
}
