//! Rows of one file that carry the same event are one event, each a nested row of it: as a naive model has it, whatever the size of
//! batches and commits, and wherever the rows stand.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says where")]

mod workspace;

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;
use serde_json::Value;
use workspace::Workspace;

const COLUMNS: &str = "email,order,at,total,sku,quantity\n";
/// The columns of a row: `None` = an empty cell.
type Row = (
    Option<&'static str>,
    Option<&'static str>,
    Option<&'static str>,
    Option<u32>,
    Option<&'static str>,
    Option<u32>,
);
/// Profile and id; an event without an id has its content as its id.
type Key = (String, String);

#[derive(Clone, Debug, Default, PartialEq)]
struct Order {
    at: String,
    total: Option<u32>,
    products: Vec<(Option<String>, Option<u32>)>,
}

#[derive(Debug, Default, PartialEq)]
struct Counts {
    created: u64,
    updated: u64,
    rejected: u64,
    cells: u64,
}

/// Imports a file, one row after the other.
fn naive(orders: &mut BTreeMap<Key, Order>, rows: &[Row]) -> Counts {
    let (before, mut of_file, mut counts) = (orders.clone(), HashSet::new(), Counts::default());
    for (email, id, at, total, sku, quantity) in rows.iter().copied() {
        let Some(email) = email else { continue };
        let time = at.filter(|at| at.starts_with('2'));
        let line = (sku.map(str::to_owned), quantity);
        let key = match id {
            Some(id) => (email.to_owned(), id.to_owned()),
            None => (email.to_owned(), format!("? {time:?} {total:?} {line:?}")),
        };
        let known = id.is_some() && of_file.contains(&key);
        if !known && time.is_none() {
            counts.rejected += 1;
            continue;
        }
        counts.cells += u64::from(at.is_some() && time.is_none());
        if of_file.insert(key.clone()) || id.is_none() {
            orders.insert(key.clone(), Order::default());
        }
        let order = orders.get_mut(&key).unwrap();
        order.at = time.map_or(order.at.clone(), str::to_owned);
        order.total = total.or(order.total);
        order.products.push(line);
    }
    counts.created = orders.keys().filter(|key| !before.contains_key(*key)).count() as u64;
    counts.updated = before.iter().filter(|(key, order)| orders[*key] != **order).count() as u64;
    counts
}

fn cell<T: ToString>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn csv(rows: &[Row]) -> String {
    let line = |(email, id, at, total, sku, quantity): &Row| {
        [cell(*email), cell(*id), cell(*at), cell(*total), cell(*sku), cell(*quantity)].join(",") + "\n"
    };
    COLUMNS.to_owned() + &rows.iter().map(line).collect::<String>()
}

/// A folder whose goal reads orders of which each line is a row of the root file, or of a linked file.
fn workspace(is_linked: bool, batch_rows: usize, commit_rows: usize) -> Workspace {
    let workspace = Workspace::empty();
    workspace.write(
        "sluicebox.toml",
        format!("[import]\nbatch_rows = {batch_rows}\ncommit_rows = {commit_rows}\n[undo]\nkeep = '30d'\n"),
    );
    workspace.write(
        "schema.toml",
        "[properties.email]\nunique = true\n[events.order.properties.total]\ntype = 'number'\n\
         [events.order.nested.products.properties]\nsku = {}\nquantity = { type = 'number' }\n",
    );
    let linked = if is_linked {
        "[[import_profiles.linked]]\nname = 'lines'\nfiles = 'lines_*.txt'\ncolumn = 'customer'\nparent_column = 'customer'\n"
    } else {
        ""
    };
    let (files, file, nested) =
        if is_linked { ("a.csv", "file = 'lines'\n", "file = 'lines', ") } else { ("*.csv", "", "") };
    workspace.write(
        "connections/shop.toml",
        format!(
            "[location]\nkind = 'directory'\npath = 'in'\n[[import_profiles]]\nname = 'orders'\nfiles = '{files}'\n\
             [[import_profiles.identifiers]]\ncolumn = 'email'\nproperty = 'email'\n{linked}\
             [[import_profiles.events]]\ntype = 'order'\n{file}id = 'order'\ntime = 'at'\nfields = [ {{ column = 'total' }} ]\n\
             nested = [ {{ name = 'products', {nested}fields = [ {{ column = 'sku' }}, {{ column = 'quantity' }} ] }} ]\n"
        ),
    );
    workspace
}

fn run(workspace: &Workspace) -> Counts {
    let run = workspace.sluicebox(&["run", "--json"]);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    let count = |name: &str| report["events"][name].as_u64().unwrap();
    Counts {
        created: count("created"),
        updated: count("updated"),
        rejected: count("rejected"),
        cells: report["cells_rejected"].as_u64().unwrap(),
    }
}

fn stored(workspace: &Workspace) -> BTreeMap<Key, Order> {
    let mut orders = BTreeMap::new();
    for profile in workspace.sluicebox(&["profile", "list", "--json"]).stdout.lines() {
        let profile: Value = serde_json::from_str(profile).unwrap();
        let email = profile["properties"]["email"].as_str().unwrap();
        for event in profile["events"].as_array().unwrap() {
            let number = |value: &Value| value.as_u64().map(|number| u32::try_from(number).unwrap());
            let at = event["time"].as_str().unwrap().to_owned();
            let products = event["nested"]["products"].as_array().unwrap().iter();
            let product = |line: &Value| (line["sku"].as_str().map(str::to_owned), number(&line["quantity"]));
            let order = Order {
                at,
                total: number(&event["properties"]["total"]),
                products: products.map(product).collect(),
            };
            let id = event["id"].as_str().unwrap();
            let id = match id.len() {
                32 => format!("? {:?} {:?} {:?}", Some(&order.at), order.total, order.products[0]),
                _ => id.to_owned(),
            };
            orders.insert((email.to_owned(), id), order);
        }
    }
    orders
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let row = (
        prop::sample::select(vec![None, Some("a@x"), Some("a@x"), Some("b@x"), Some("b@x"), Some("c@x")]),
        prop::sample::select(vec![None, Some("o1"), Some("o1"), Some("o2"), Some("o2"), Some("o3")]),
        prop::sample::select(vec![
            None,
            None,
            Some("soon"),
            Some("2026-01-01T00:00:00Z"),
            Some("2026-01-02T00:00:00Z"),
        ]),
        prop::option::of(1_u32..5),
        prop::option::of(prop::sample::select(vec!["s1", "s2", "s3"])),
        prop::option::of(1_u32..4),
    );
    prop::collection::vec(row, 0..30)
}

/// Sizes of batches and commits.
const SIZES: [(usize, usize); 4] = [(1, 1), (3, 3), (4, 12), (1024, 1 << 20)];

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rows_of_the_root_file_are_one_event(first in rows(), second in rows()) {
        for (batch_rows, commit_rows) in SIZES {
            let (workspace, mut expected) = (workspace(false, batch_rows, commit_rows), BTreeMap::new());
            for (name, rows) in [("in/a.csv", &first), ("in/b.csv", &second)] {
                workspace.write(name, csv(rows));
                let counts = naive(&mut expected, rows);
                prop_assert_eq!(run(&workspace), counts, "commits of {}", commit_rows);
                prop_assert_eq!(stored(&workspace), expected.clone(), "commits of {}", commit_rows);
            }
            let verified = workspace.sluicebox(&["store", "verify"]);
            prop_assert_eq!(verified.code, 0, "{}", verified.stdout);
        }
    }

    /// Customers have several addresses and addresses several customers, in any order.
    #[test]
    fn rows_of_a_linked_file_are_one_event(
        customers in prop::collection::vec((prop::sample::select(vec!["a@x", "b@x"]), 1_u32..4), 0..8),
        lines in prop::collection::vec(
            (1_u32..5, prop::sample::select(vec!["o1", "o2"]), prop::option::of(1_u32..5), 1_u32..9), 0..16
        ),
        split in 0_usize..16,
    ) {
        let lines: Vec<_> = (1..).zip(lines).collect();
        let mut expected: BTreeMap<Key, Order> = BTreeMap::new();
        for email in ["a@x", "b@x"] {
            for (number, (customer, id, total, quantity)) in &lines {
                if customers.contains(&(email, *customer)) {
                    let order = expected.entry((email.to_owned(), (*id).to_owned())).or_default();
                    order.at = format!("2026-01-01T00:00:{number:02}Z");
                    order.total = total.or(order.total);
                    order.products.push((Some(format!("s{number}")), Some(*quantity)));
                }
            }
        }
        let line = |(number, (customer, id, total, quantity)): &(u32, (u32, &str, Option<u32>, u32))| {
            format!("{customer},{id},2026-01-01T00:00:{number:02}Z,{},s{number},{quantity}\n", cell(*total))
        };
        let (begin, rest) = lines.split_at(split.min(lines.len()));
        for (batch_rows, commit_rows) in SIZES {
            let workspace = workspace(true, batch_rows, commit_rows);
            let root: String = customers.iter().map(|(email, customer)| format!("{email},{customer}\n")).collect();
            workspace.write("in/a.csv", format!("email,customer\n{root}"));
            for (name, lines) in [("in/lines_1.txt", begin), ("in/lines_2.txt", rest)] {
                let lines: String = lines.iter().map(line).collect();
                workspace.write(name, format!("customer,order,at,total,sku,quantity\n{lines}"));
            }
            run(&workspace);
            prop_assert_eq!(stored(&workspace), expected.clone(), "commits of {}", commit_rows);
        }
    }
}

/// What a run did to orders is undone, also where their rows came in several commits.
#[test]
fn orders_are_undone() {
    let workspace = workspace(false, 1, 1);
    let order =
        |total: u32| (Some("a@x"), Some("o1"), Some("2026-01-01T00:00:00Z"), Some(total), Some("s1"), None);
    workspace.write("in/a.csv", csv(&[order(1), order(2)]));
    run(&workspace);
    let before = stored(&workspace);
    workspace.write("in/b.csv", csv(&[order(3), order(4), order(5)]));
    assert_eq!(run(&workspace).updated, 1);
    let history = workspace.sluicebox(&["history", "--json"]).stdout;
    let last: Value = serde_json::from_str(history.lines().next().unwrap()).unwrap();
    let undone = workspace.sluicebox(&["undo", last["run"].as_str().unwrap()]);
    assert_eq!(undone.code, 0, "{}{}", undone.stdout, undone.stderr);
    assert_eq!(stored(&workspace), before);
    assert_eq!(workspace.sluicebox(&["store", "verify"]).code, 0);
}
