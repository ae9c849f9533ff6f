//! Everything that writes is killed at random moments until it completes, and then nothing is lost, doubled or left over.
//!
//! `cargo xtask kills` does this a thousand times; the tests do it a few times for each.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that fails says where, and says how often it killed"
)]

#[path = "workspace/random.rs"]
mod random;
#[path = "servers/service.rs"]
#[expect(dead_code, reason = "not every test needs every way to ask")]
mod service;
mod workspace;

use std::collections::BTreeMap;
use std::fs;

use random::Random;
use serde_json::{Value, json};
use service::Service;
use workspace::Workspace;

/// Kills of each kind, unless `SLUICEBOX_KILLS` says how many.
const KILLS: u32 = 5;
const PEOPLE: usize = 12_000;

fn kills() -> u32 {
    std::env::var("SLUICEBOX_KILLS").map_or(KILLS, |kills| kills.parse().unwrap())
}

/// Chooses the moments: other ones with another `SLUICEBOX_SEED`.
fn random() -> Random {
    Random(std::env::var("SLUICEBOX_SEED").map_or(0x2545_f491_4f6c_dd1d, |seed| seed.parse().unwrap()))
}

/// Hundredths of a command. Beyond a hundred, it ends before the kill.
const SHARES: u64 = 110;

/// Kills a command in one workspace after the other, until each has completed it, and checks the workspace after each kill and at
/// the end.
fn killed(
    kind: &str,
    make: impl Fn() -> Workspace,
    command: &[&str],
    after_kill: impl Fn(&Workspace),
    at_end: impl Fn(&Workspace),
) {
    let (mut random, wanted, mut count) = (random(), kills(), 0);
    let moved = make().moved_by(command);
    while count < wanted {
        let workspace = make();
        while workspace.killed_at(command, moved * random.below(SHARES) / 100) {
            count += 1;
            after_kill(&workspace);
        }
        // The last one may have ended just before the kill.
        let last = workspace.sluicebox(&["store", "verify"]);
        assert_eq!(last.code, 0, "{kind}: {}{}", last.stdout, last.stderr);
        at_end(&workspace);
        no_scratch(&workspace);
    }
    println!("{kind}: killed {count} times; nothing lost, doubled or left over");
}

/// No scratch files stay.
fn no_scratch(workspace: &Workspace) {
    let data = fs::read_dir(workspace.path().join("data")).unwrap();
    let names = data.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = names.filter(|name| name.contains("scratch")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// People in a file, with orders in a linked one, and an export of both.
fn workspace() -> Workspace {
    let workspace = Workspace::empty();
    workspace
        .write("sluicebox.toml", "[import]\ncommit_rows = 1000\nbatch_rows = 100\n[undo]\nkeep = '1d'\n");
    workspace.write(
        "schema.toml",
        "[properties.email]\nunique = true\n[properties.name]\n[properties.spent]\ntype = 'number'\n\
         [events.order.properties.total]\ntype = 'number'\n",
    );
    workspace.write(
        "connections/a-in.toml",
        "[location]\nkind = 'directory'\npath = 'in'\n[[import_profiles]]\nname = 'people'\nfiles = 'people_*.csv'\n\
         [[import_profiles.linked]]\nname = 'orders'\nfiles = 'orders_*.csv'\ncolumn = 'customer'\nparent_column = 'email'\n\
         [[import_profiles.identifiers]]\ncolumn = 'email'\nproperty = 'email'\n\
         [[import_profiles.fields]]\ncolumn = 'name'\n[[import_profiles.fields]]\ncolumn = 'spent'\nrule = 'sum'\n\
         [[import_profiles.events]]\ntype = 'order'\nfile = 'orders'\nid = 'id'\ntime = 'at'\nfields = [{ column = 'total' }]\n",
    );
    workspace.write(
        "connections/b-out.toml",
        "[location]\nkind = 'directory'\npath = 'out'\n[[export_profiles]]\nname = 'all'\nfile = 'people.csv'\n\
         [[export_profiles.columns]]\nproperty = 'email'\n[[export_profiles.columns]]\nproperty = 'name'\n",
    );
    fs::create_dir(workspace.path().join("out")).unwrap();
    people(&workspace, 1, "Ann");
    workspace
}

/// Writes the files of a round.
fn people(workspace: &Workspace, round: usize, name: &str) {
    let mut people = String::from("email,name,spent\n");
    let mut orders = String::from("id,customer,at,total\n");
    for person in 0..PEOPLE {
        let person = person * 7919 % PEOPLE;
        people.push_str(&format!("c{person}@x.example,{name} {person},{round}\n"));
        if person.is_multiple_of(3) {
            orders.push_str(&format!("o{round}-{person},c{person}@x.example,2026-01-02,{person}.5\n"));
        }
    }
    // Rows that are rejected, and an order of no one.
    people.push_str("ragged\n");
    orders.push_str("o-none,none@x.example,2026-01-02,1\n");
    workspace.write(&format!("in/people_{round}.csv"), people);
    workspace.write(&format!("in/orders_{round}.csv"), orders);
}

/// The profiles without their ids and times, by address.
fn profiles(workspace: &Workspace) -> BTreeMap<String, String> {
    let listed = workspace.sluicebox(&["profile", "list", "--json"]);
    assert_eq!(listed.code, 0, "{}", listed.stderr);
    let shown = |line: &str| {
        let profile: Value = serde_json::from_str(line).unwrap();
        let email = profile["properties"]["email"].as_str().unwrap().to_owned();
        (email, format!("{} {}", profile["properties"], profile["events"]))
    };
    listed.stdout.lines().map(shown).collect()
}

/// Rows that the history says were read, and rows in the files of rejected rows.
fn counted(workspace: &Workspace) -> (u64, usize) {
    let history = workspace.ok(&["history", "--json"]).stdout;
    let read = |line: &str| serde_json::from_str::<Value>(line).unwrap()["rows"]["read"].as_u64().unwrap();
    let recorded = workspace.shell("cat data/rejected/*/*.csv | grep -c -e '^ragged' -e '^o-none'").stdout;
    (history.lines().map(read).sum(), recorded.trim().parse().unwrap())
}

#[test]
fn imports() {
    let whole = workspace();
    whole.ok(&["run", "a-in"]);
    let expected = (profiles(&whole), counted(&whole));
    assert_eq!(expected.1, (PEOPLE as u64 + 1, 2));
    let at_end = |workspace: &Workspace| {
        workspace.ok(&["run", "a-in"]);
        assert_eq!((profiles(workspace), counted(workspace)), expected);
    };
    killed("import", workspace, &["run", "a-in"], |_| {}, at_end);
}

/// A workspace with its first file imported, to be copied.
fn filled() -> Workspace {
    let filled = workspace();
    filled.ok(&["run", "a-in"]);
    filled
}

#[test]
fn exports() {
    let filled = filled();
    let visible = |workspace: &Workspace| {
        let names = fs::read_dir(workspace.path().join("out")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let (hidden, visible): (Vec<_>, Vec<_>) = names.partition(|name| name.starts_with('.'));
        let mut whole = 0;
        for name in &visible {
            let lines = fs::read_to_string(workspace.path().join("out").join(name)).unwrap().lines().count();
            // One that was killed after its commit leaves nothing to the next one.
            assert!(lines == PEOPLE + 1 || lines == 1, "{name} has {lines} lines");
            whole += usize::from(lines > 1);
        }
        (whole, hidden)
    };
    let after_kill = |workspace: &Workspace| drop(visible(workspace));
    let at_end = |workspace: &Workspace| {
        let (whole, hidden) = visible(workspace);
        assert!(whole > 0 && hidden.is_empty(), "{whole} {hidden:?}");
    };
    killed("export", || Workspace::copy_of(filled.path(), &[]), &["run", "b-out"], after_kill, at_end);
}

#[test]
fn undos() {
    let filled = filled();
    let before = profiles(&filled);
    people(&filled, 2, "Bob");
    let report: Value = serde_json::from_str(filled.ok(&["run", "a-in", "--json"]).stdout.trim()).unwrap();
    let id = report["run"].as_str().unwrap();
    assert_ne!(profiles(&filled), before);
    let at_end = |workspace: &Workspace| {
        workspace.ok(&["undo", id]);
        assert_eq!(profiles(workspace), before);
    };
    killed("undo", || Workspace::copy_of(filled.path(), &[]), &["undo", id], |_| {}, at_end);
}

#[test]
fn erasures() {
    let filled = workspace();
    // Much is stored about one person.
    let orders: String =
        (0..8000).map(|order| format!("p{order},c7@x.example,2026-02-03,{order}\n")).collect();
    filled.write("in/orders_1.csv", format!("id,customer,at,total\n{orders}"));
    filled.ok(&["run", "a-in"]);
    let shown: Value =
        serde_json::from_str(filled.ok(&["profile", "find", "email=c7@x.example", "--json"]).stdout.trim())
            .unwrap();
    let id = shown["profile_id"].as_str().unwrap();
    let mut expected = profiles(&filled);
    assert!(expected.remove("c7@x.example").unwrap().len() > 8000);
    let at_end = |workspace: &Workspace| {
        // Erased already, or now.
        workspace.sluicebox(&["profile", "erase", id]);
        assert_eq!(profiles(workspace), expected);
        // A file with a changed row of hers brings her not back.
        let again = "email,name,spent\nc7@x.example,Back,1\nnew@x.example,New,1\n";
        workspace.write("in/people_3.csv", again);
        workspace.write("in/orders_3.csv", "id,customer,at,total\n");
        workspace.ok(&["run", "a-in"]);
        let now = profiles(workspace);
        assert!(now.contains_key("new@x.example") && !now.contains_key("c7@x.example"));
    };
    let make = || Workspace::copy_of(filled.path(), &[]);
    killed("erasure", make, &["profile", "erase", id], |_| {}, at_end);
}

#[test]
fn backups() {
    let filled = filled();
    let expected = profiles(&filled);
    let after_kill = |workspace: &Workspace| {
        // What is there of the backup restores a whole store, or is refused.
        if workspace.path().join("copy").exists() {
            let restored = workspace.sluicebox(&["store", "restore", "copy"]);
            assert!(restored.code == 0 || !restored.stderr.is_empty());
            assert_eq!(profiles(workspace), expected);
            fs::remove_dir_all(workspace.path().join("copy")).unwrap();
        }
    };
    let at_end = |workspace: &Workspace| {
        if !workspace.path().join("copy").exists() {
            workspace.ok(&["store", "backup", "copy"]);
        }
        people(workspace, 2, "Bob");
        workspace.ok(&["run", "a-in"]);
        workspace.ok(&["store", "restore", "copy"]);
        workspace.ok(&["store", "verify"]);
        assert_eq!(profiles(workspace), expected);
    };
    killed(
        "backup",
        || Workspace::copy_of(filled.path(), &[]),
        &["store", "backup", "copy"],
        after_kill,
        at_end,
    );
}

#[test]
fn services() {
    let whole = workspace();
    whole.ok(&["run", "a-in"]);
    let expected = (profiles(&whole), counted(&whole));
    let (mut random, wanted, mut count) = (random(), kills(), 0);
    // What a service reads and writes from its start to the end of the import.
    let moved = workspace().moved_by(&["run", "a-in"]);
    while count < wanted {
        let workspace = workspace();
        let mut service = Service::start(&workspace);
        let run = service.post("/api/v1/connections/a-in/runs", &json!({})).json();
        assert!(run["run"].is_string(), "{run}");
        while !service.kill_after_or_idle(moved * random.below(SHARES) / 100) {
            count += 1;
            service = Service::start(&workspace);
        }
        assert_eq!((profiles(&workspace), counted(&workspace)), expected);
        no_scratch(&workspace);
    }
    println!("service: killed {count} times; nothing lost, doubled or left over");
}
