//! Exactly once: an import that is killed at any moment and run again gives the same store as an uninterrupted one.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says where")]

#[path = "workspace/random.rs"]
mod random;
mod workspace;

use random::Random;
use serde_json::Value;
use workspace::{Output, Workspace};

/// Kills of each kind of import.
const KILLS: u32 = 12;

/// The size of an import, and of its commits.
#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    customers: usize,
    commit_rows: usize,
}

fn workspace(shape: Shape) -> Workspace {
    let workspace = Workspace::empty();
    let commit_rows = shape.commit_rows;
    workspace.write("sluicebox.toml", format!("[import]\ncommit_rows = {commit_rows}\nbatch_rows = 128\n"));
    workspace.write(
        "schema.toml",
        "[properties.email]\nunique = true\n[properties.spent]\ntype = 'number'\n[properties.tags]\nmultiple = true\n",
    );
    workspace.write(
        "connections/shop.toml",
        "[location]\nkind = 'directory'\npath = 'exchange'\n[[import_profiles]]\nname = 'customers'\n\
         files = '*.csv'\n[[import_profiles.processors]]\nplugin = 'email-normalizer'\nconfig = { columns = ['email'] }\n\
         [[import_profiles.identifiers]]\ncolumn = 'email'\nproperty = 'email'\n\
         [[import_profiles.fields]]\ncolumn = 'spent'\nrule = 'sum'\n\
         [[import_profiles.fields]]\ncolumn = 'tags'\nrule = 'add'\nseparator = '|'\n",
    );
    let mut csv = String::from("email,spent,tags\n");
    for row in 0..shape.rows {
        let customer = row * 7919 % shape.customers;
        match row % 997 {
            0 => csv.push_str("ragged\n"),
            _ => csv.push_str(&format!(
                "c{customer}@X.example,0.{:02},t{}|u{}\n",
                row % 100,
                row % 7,
                row % 11
            )),
        }
    }
    workspace.write("exchange/customers.csv", csv);
    workspace
}

/// The same with orders in a linked file, some of which belong to no customer.
fn with_orders(shape: Shape) -> Workspace {
    let workspace = workspace(shape);
    let schema = std::fs::read_to_string(workspace.path().join("schema.toml")).unwrap();
    workspace.write("schema.toml", schema + "[events.order.properties.total]\ntype = 'number'\n");
    let connection = std::fs::read_to_string(workspace.path().join("connections/shop.toml")).unwrap();
    workspace.write(
        "connections/shop.toml",
        connection.replace("'*.csv'", "'customers.csv'")
            + "[[import_profiles.linked]]\nname = 'orders'\nfiles = 'orders.csv'\ncolumn = 'customer'\n\
               parent_column = 'email'\n[[import_profiles.events]]\ntype = 'order'\nfile = 'orders'\nid = 'order_id'\n\
               time = 'at'\nfields = [ { column = 'total' } ]\n",
    );
    let mut csv = String::from("order_id,customer,at,total\n");
    for order in 0..2 * shape.customers {
        csv.push_str(&format!("o{order},c{}@x.example,2026-01-02,{order}.5\n", order * 3 / 2));
    }
    workspace.write("exchange/orders.csv", csv);
    workspace
}

/// The profiles without their ids and times, in the order of their addresses.
fn profiles(workspace: &Workspace) -> Vec<String> {
    let Output { stdout, code, .. } = workspace.sluicebox(&["profile", "list", "--json"]);
    assert_eq!(code, 0);
    let shown = |line: &str| {
        let profile: Value = serde_json::from_str(line).unwrap();
        format!("{} {}", profile["properties"], profile["events"])
    };
    let mut profiles: Vec<String> = stdout.lines().map(shown).collect();
    profiles.sort();
    profiles
}

fn reports(workspace: &Workspace) -> Vec<Value> {
    let history = workspace.sluicebox(&["history", "--json"]).stdout;
    history.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Rows read according to the history.
fn read(workspace: &Workspace) -> u64 {
    reports(workspace).iter().map(|report| report["rows"]["read"].as_u64().unwrap()).sum()
}

/// Rows read and rejected according to the history, and the rows in the files of rejected rows.
fn counted(workspace: &Workspace) -> (u64, u64, usize) {
    let reports = reports(workspace);
    let sum = |field: &str| reports.iter().map(|report| report["rows"][field].as_u64().unwrap()).sum();
    let files = workspace.shell("cat data/rejected/*/*.csv | grep -v '^email,' | grep -c ragged").stdout;
    (sum("read"), sum("rejected"), files.trim().parse().unwrap())
}

#[test]
fn killed_imports_lose_and_double_nothing() {
    killed_at_random(|| workspace(Shape { rows: 60_000, customers: 5003, commit_rows: 1000 }));
}

/// Commits with enough records to be written as tables.
#[test]
fn killed_imports_of_large_commits_lose_and_double_nothing() {
    killed_at_random(|| workspace(Shape { rows: 600_000, customers: 60_000, commit_rows: 30_000 }));
}

/// Mostly new profiles, so that one commit holds several chunks, and some that occur again.
#[test]
fn killed_imports_of_new_profiles_lose_and_double_nothing() {
    killed_at_random(|| workspace(Shape { rows: 400_000, customers: 370_000, commit_rows: 1_000_000 }));
}

/// Commits with enough events to be written as tables.
#[test]
fn killed_imports_of_events_lose_and_double_nothing() {
    let profiles =
        killed_at_random(|| with_orders(Shape { rows: 100_000, customers: 30_000, commit_rows: 40_000 }));
    let events = profiles.iter().map(|profile| profile.matches("\"total\"").count()).sum::<usize>();
    assert_eq!(events, 20_000);
}

/// Orders of which each line is a row; the lines of an order stand far apart, so that they come in several commits.
#[test]
fn killed_imports_of_orders_line_by_line_lose_and_double_nothing() {
    const ORDERS: usize = 4000;
    const LINES: usize = 15;
    let make = || {
        let workspace = workspace(Shape { rows: 0, customers: 0, commit_rows: 700 });
        let schema = std::fs::read_to_string(workspace.path().join("schema.toml")).unwrap();
        workspace.write(
            "schema.toml",
            schema + "[events.order.properties.total]\ntype = 'number'\n[events.order.nested.lines.properties.sku]\n",
        );
        let connection = std::fs::read_to_string(workspace.path().join("connections/shop.toml")).unwrap();
        workspace.write(
            "connections/shop.toml",
            connection
                + "[[import_profiles.events]]\ntype = 'order'\nid = 'order_id'\ntime = 'at'\n\
                   fields = [ { column = 'total' } ]\nnested = [ { name = 'lines', fields = [ { column = 'sku' } ] } ]\n",
        );
        let mut csv = String::from("email,spent,tags,order_id,at,total,sku\n");
        for row in 0..ORDERS * LINES {
            let (order, line) = (row * 7919 % ORDERS, row / ORDERS);
            let at = if line == 0 { "2026-01-02" } else { "" };
            let total = if line == LINES / 2 { order.to_string() } else { String::new() };
            csv.push_str(&format!("c{}@x.example,1,t,o{order},{at},{total},s{line}\n", order % 1000));
        }
        workspace.write("exchange/customers.csv", csv);
        workspace
    };
    let profiles = killed_at_random_comparing(make, |workspace| (profiles(workspace), read(workspace)));
    let all = profiles.concat();
    assert_eq!(
        (all.matches("\"total\":").count(), all.matches("\"sku\":").count()),
        (ORDERS, ORDERS * LINES)
    );
}

/// Kills imports at random moments until they complete, and compares each store with that of an import that was not killed.
fn killed_at_random(make: impl Fn() -> Workspace) -> Vec<String> {
    killed_at_random_comparing(make, |workspace| (profiles(workspace), counted(workspace)))
}

/// The same, with what is compared: profiles, and what else.
fn killed_at_random_comparing<T: std::fmt::Debug + PartialEq>(
    make: impl Fn() -> Workspace,
    compared: impl Fn(&Workspace) -> (Vec<String>, T),
) -> Vec<String> {
    let whole = make();
    let moved = whole.moved_by(&["run"]);
    let expected = compared(&whole);

    let mut random = Random(0x2545_f491_4f6c_dd1d);
    // Beyond 100, the import ends before the kill.
    let mut share = || random.below(110);
    let (mut cut_short, mut has_continued) = (0, false);
    while cut_short < KILLS || !has_continued {
        let killed = make();
        while killed.killed_at(&["run"], moved * share() / 100) {
            cut_short += 1;
            assert!(cut_short < 20 * KILLS, "no import continued where one was killed");
        }
        let last = killed.sluicebox(&["run"]);
        assert_eq!(last.code, 0, "{}", last.stderr);
        assert_eq!(compared(&killed), expected);
        has_continued |= reports(&killed).iter().filter(|report| report["rows"]["read"] != 0).count() > 1;
    }
    expected.0
}

#[test]
fn a_second_process_learns_which_process_uses_the_store() {
    let workspace = workspace(Shape { rows: 10, customers: 3, commit_rows: 10 });
    workspace.write("data/profiles/sluicebox.lock", "");
    let lock = std::fs::File::open(workspace.path().join("data/profiles/sluicebox.lock")).unwrap();
    lock.lock().unwrap();
    let second = workspace.sluicebox(&["run"]);
    assert_eq!(second.code, 1);
    assert!(second.stderr.contains("is in use by"), "{}", second.stderr);
    assert_eq!(workspace.sluicebox(&["profile", "list"]).code, 0);
}
