//! Imports give the result of a naive model, which takes one row after the other, whatever the number of threads and the
//! size of batches.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says where")]

#[path = "workspace/random.rs"]
mod random;
mod workspace;

use std::collections::BTreeMap;

use proptest::prelude::*;
use random::Random;
use serde_json::Value;
use workspace::Workspace;

const COLUMNS: [&str; 7] = ["email", "customer_id", "name", "spent", "tags", "flag", "nick"];
/// Property and rule, in the order of the columns.
const RULES: [(&str, &str); 6] = [
    ("customer_id", "set"),
    ("name", "set"),
    ("spent", "sum"),
    ("tags", "add"),
    ("flag", "set-or-clear"),
    ("nick", "set-if-empty"),
];

type Row = Vec<String>;

#[derive(Clone, Debug, Default, PartialEq)]
struct Profile {
    values: BTreeMap<&'static str, Vec<String>>,
    /// The total of each order, by its id.
    orders: BTreeMap<String, String>,
}

/// A linked row: id, customer, whether it has a time, total.
type Order = (&'static str, &'static str, bool, u32);

#[derive(Debug, Default, PartialEq)]
struct Counts {
    rejected: u64,
    excluded: u64,
    merged: u64,
    cells_rejected: u64,
    events_rejected: u64,
    orphaned: u64,
}

#[derive(Clone, Debug)]
struct Goal {
    create: bool,
    on_ambiguous: &'static str,
}

/// The merge semantics, one row after the other. Numbers are whole.
fn naive(goal: &Goal, rows: &[Row], orders: &[Order]) -> (Vec<Profile>, Counts) {
    let (mut profiles, mut counts): (Vec<Profile>, Counts) = Default::default();
    let has_row = |order: &&Order| !order.1.is_empty() && rows.iter().any(|row| row[1] == order.1);
    counts.orphaned = orders.iter().filter(|order| !has_row(order)).count() as u64;
    for row in rows {
        let find_holder = |profiles: &[Profile], property: &str, value: &String| {
            profiles
                .iter()
                .position(|profile| profile.values.get(property).is_some_and(|held| held.contains(value)))
        };
        let identifiers: Vec<(&'static str, &String)> =
            COLUMNS.iter().take(2).copied().zip(row).filter(|(_, cell)| !cell.is_empty()).collect();
        let mut found: Vec<usize> = Vec::new();
        for (property, value) in &identifiers {
            if let Some(place) =
                find_holder(&profiles, property, value).filter(|place| !found.contains(place))
            {
                found.push(place);
            }
        }
        if found.is_empty() && (identifiers.is_empty() || !goal.create) {
            counts.excluded += 1;
            continue;
        }
        if found.len() > 1 && goal.on_ambiguous == "reject" {
            counts.rejected += 1;
            continue;
        }
        let mut target = match found.first() {
            Some(first) => *first,
            None => {
                let values = identifiers.iter().map(|(property, value)| (*property, vec![(*value).clone()]));
                profiles.push(Profile { values: values.collect(), ..Profile::default() });
                profiles.len() - 1
            }
        };
        if found.len() > 1 && goal.on_ambiguous == "merge" {
            let mut others: Vec<usize> = found[1..].to_vec();
            for other in others.clone() {
                for (id, total) in profiles[other].orders.clone() {
                    profiles[target].orders.entry(id).or_insert(total);
                }
                for (property, values) in profiles[other].values.clone() {
                    let held = profiles[target].values.entry(property).or_default();
                    if held.is_empty() || property == "tags" {
                        values.into_iter().for_each(|value| {
                            if !held.contains(&value) {
                                held.push(value)
                            }
                        });
                    }
                }
            }
            others.sort_unstable();
            for other in others.into_iter().rev() {
                profiles.remove(other);
                target -= usize::from(other < target);
            }
        }
        counts.merged += 1;
        for (place, (property, rule)) in RULES.into_iter().enumerate() {
            let cell = &row[place + 1];
            if cell.is_empty() {
                if rule == "set-or-clear" {
                    profiles[target].values.remove(property);
                }
                continue;
            }
            let taken = property == "customer_id"
                && find_holder(&profiles, property, cell).is_some_and(|place| place != target);
            let held = profiles[target].values.entry(property).or_default();
            match rule {
                _ if taken => counts.cells_rejected += 1,
                "sum" => match cell.parse::<i64>() {
                    Ok(number) => {
                        let sum = held.first().map_or(0, |held| held.parse::<i64>().unwrap()) + number;
                        *held = vec![sum.to_string()];
                    }
                    Err(_) => counts.cells_rejected += 1,
                },
                "add" => cell.split('|').filter(|part| !part.is_empty()).for_each(|part| {
                    if !held.iter().any(|held| held == part) {
                        held.push(part.to_owned());
                    }
                }),
                "set-if-empty" if !held.is_empty() => {}
                _ => *held = vec![cell.clone()],
            }
            if held.is_empty() {
                profiles[target].values.remove(property);
            }
        }
        for (id, _, timed, total) in orders.iter().filter(|order| !row[1].is_empty() && order.1 == row[1]) {
            if *timed {
                profiles[target].orders.insert((*id).to_owned(), total.to_string());
            } else {
                counts.events_rejected += 1;
            }
        }
    }
    (profiles, counts)
}

fn sluicebox(
    goal: &Goal,
    rows: &[Row],
    orders: &[Order],
    threads: usize,
    batch_rows: usize,
) -> (Vec<Profile>, Counts) {
    let workspace = Workspace::empty();
    let tuning =
        format!("[import]\nthreads = {threads}\nbatch_rows = {batch_rows}\ncommit_rows = {batch_rows}\n");
    workspace.write("sluicebox.toml", tuning);
    workspace.write(
        "schema.toml",
        "[properties]\nemail = { unique = true }\ncustomer_id = { unique = true }\nname = {}\nflag = {}\nnick = {}\n\
         spent = { type = 'number' }\ntags = { multiple = true }\n\
         [events.order.properties.total]\ntype = 'number'\n",
    );
    let mut connection = format!(
        "[location]\nkind = 'directory'\npath = 'in'\n[[import_profiles]]\nname = 'g'\nfiles = '*.csv'\n\
         create = {}\non_ambiguous = '{}'\n",
        goal.create, goal.on_ambiguous
    );
    for identifier in ["email", "customer_id"] {
        connection.push_str(&format!(
            "[[import_profiles.identifiers]]\ncolumn = '{identifier}'\nproperty = '{identifier}'\n"
        ));
    }
    for (property, rule) in RULES {
        let separator = if rule == "add" { "separator = '|'\n" } else { "" };
        connection.push_str(&format!(
            "[[import_profiles.fields]]\ncolumn = '{property}'\nrule = '{rule}'\n{separator}"
        ));
    }
    connection.push_str(
        "[[import_profiles.linked]]\nname = 'orders'\nfiles = 'o.txt'\ncolumn = 'customer'\n\
         parent_column = 'customer_id'\n[[import_profiles.events]]\ntype = 'order'\nfile = 'orders'\n\
         id = 'id'\ntime = 'at'\nall_fields = true\n",
    );
    let order = |(id, customer, timed, total): &Order| {
        format!("{id},{customer},{},{total}\n", if *timed { "2026-01-01T00:00:00Z" } else { "" })
    };
    let orders: String = orders.iter().map(order).collect();
    workspace.write("in/o.txt", format!("id,customer,at,total\n{orders}"));
    workspace.write("connections/c.toml", connection);
    let lines: Vec<String> = rows.iter().map(|row| row.join(",")).collect();
    workspace.write("in/a.csv", format!("{}\n{}\n", COLUMNS.join(","), lines.join("\n")));
    let run = workspace.sluicebox(&["run", "--json"]);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    let count = |name: &str| report["rows"][name].as_u64().unwrap();
    let counts = Counts {
        rejected: count("rejected"),
        excluded: count("excluded"),
        merged: count("merged"),
        cells_rejected: report["cells_rejected"].as_u64().unwrap(),
        events_rejected: report["events"]["rejected"].as_u64().unwrap(),
        orphaned: report["linked"]["orphaned"].as_u64().unwrap(),
    };
    let listed = workspace.sluicebox(&["profile", "list", "--json"]).stdout;
    let profiles: Vec<Profile> = listed.lines().map(profile).collect();
    let total: i64 = ["created", "updated", "unchanged"]
        .iter()
        .map(|name| report["profiles"][name].as_i64().unwrap())
        .sum();
    assert_eq!(usize::try_from(total).unwrap(), profiles.len(), "a profile is counted once: {}", run.stdout);
    (profiles, counts)
}

fn profile(line: &str) -> Profile {
    let json: Value = serde_json::from_str(line).unwrap();
    let text = |value: &Value| value.as_str().map_or(value.to_string(), str::to_owned);
    let values = json["properties"].as_object().unwrap().iter().map(|(name, value)| {
        let name = COLUMNS.into_iter().find(|column| column == name).unwrap();
        let values =
            value.as_array().map_or_else(|| vec![text(value)], |values| values.iter().map(text).collect());
        (name, values)
    });
    let orders = json["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| (event["id"].as_str().unwrap().to_owned(), text(&event["properties"]["total"])));
    Profile { values: values.collect(), orders: orders.collect() }
}

fn sorted(mut profiles: Vec<Profile>) -> Vec<Profile> {
    profiles.sort_by_key(|profile| format!("{profile:?}"));
    profiles
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let cell = |choices: &'static [&'static str]| prop::sample::select(choices).prop_map(str::to_owned);
    let row = (
        cell(&["", "a@x", "b@x", "c@x"]),
        cell(&["", "", "1", "2", "3"]),
        cell(&["", "Ann", "Bob"]),
        cell(&["", "1", "-2", "10", "many"]),
        cell(&["", "p", "p|q", "r||p", "|"]),
        cell(&["", "on", "off"]),
        cell(&["", "x", "y"]),
    );
    let row = row.prop_map(|(a, b, c, d, e, f, g)| vec![a, b, c, d, e, f, g]);
    prop::collection::vec(row, 0..24)
}

fn orders() -> impl Strategy<Value = Vec<Order>> {
    let order = (
        prop::sample::select(&["o1", "o2", "o3", "o4"][..]),
        prop::sample::select(&["", "1", "2", "3", "9"][..]),
        prop::bool::weighted(0.9),
        1_u32..9,
    );
    prop::collection::vec(order, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn threads_and_batches_change_nothing(
        rows in rows(),
        orders in orders(),
        create in prop::bool::weighted(0.9),
        on_ambiguous in prop::sample::select(&["reject", "first", "newest", "merge"][..]),
    ) {
        let goal = Goal { create, on_ambiguous };
        let (expected, counts) = naive(&goal, &rows, &orders);
        let expected = sorted(expected);
        for (threads, batch_rows) in [(1, 1), (1, 7), (1, 4096), (4, 1), (4, 7), (4, 4096)] {
            let (found, found_counts) = sluicebox(&goal, &rows, &orders, threads, batch_rows);
            prop_assert_eq!(&sorted(found), &expected, "{} threads, batches of {}", threads, batch_rows);
            prop_assert_eq!(&found_counts, &counts, "{} threads, batches of {}", threads, batch_rows);
        }
    }
}

/// A value's run and file; empty where a version that did not remember them set it.
type SetBy = (String, String);
/// The values of each property, and what set them.
type Known = BTreeMap<String, (Vec<String>, SetBy)>;

/// Merges a row into profiles, one cell after the other.
fn merge_row(profiles: &mut Vec<Known>, row: &Row, by: &SetBy) {
    let find = |profiles: &[Known], property: &str, value: &String| {
        profiles
            .iter()
            .position(|profile| profile.get(property).is_some_and(|(held, _)| held.contains(value)))
    };
    let identifiers: Vec<(&str, &String)> =
        COLUMNS.into_iter().take(2).zip(row).filter(|(_, cell)| !cell.is_empty()).collect();
    let mut found: Vec<usize> = Vec::new();
    for (property, value) in &identifiers {
        found.extend(find(profiles, property, value).filter(|place| !found.contains(place)));
    }
    let mut target = match found.first() {
        Some(first) => *first,
        None if identifiers.is_empty() => return,
        None => {
            let values = identifiers
                .iter()
                .map(|(property, value)| ((*property).to_owned(), (vec![(*value).clone()], by.clone())));
            profiles.push(values.collect());
            profiles.len() - 1
        }
    };
    let mut others: Vec<usize> = found.into_iter().skip(1).collect();
    for other in &others {
        for (property, (values, set_by)) in profiles[*other].clone() {
            match profiles[target].get_mut(&property) {
                None => drop(profiles[target].insert(property, (values, set_by))),
                Some((held, held_by)) if property == "tags" => {
                    for value in values {
                        if !held.contains(&value) {
                            held.push(value);
                            *held_by = by.clone();
                        }
                    }
                }
                Some(_) => {}
            }
        }
    }
    others.sort_unstable();
    for other in others.into_iter().rev() {
        profiles.remove(other);
        target -= usize::from(other < target);
    }
    for (place, (property, rule)) in RULES.into_iter().enumerate() {
        let cell = &row[place + 1];
        if property == "customer_id" && find(profiles, property, cell).is_some_and(|holder| holder != target)
        {
            continue;
        }
        let held = profiles[target].get(property).map(|(held, _)| held.clone()).unwrap_or_default();
        let mut after = held.clone();
        match rule {
            "set-or-clear" if cell.is_empty() => after.clear(),
            _ if cell.is_empty() => {}
            "sum" => {
                if let Ok(number) = cell.parse::<i64>() {
                    let sum = held.first().map_or(0, |held| held.parse::<i64>().unwrap()) + number;
                    after = vec![sum.to_string()];
                }
            }
            "add" => cell.split('|').filter(|part| !part.is_empty()).for_each(|part| {
                if !after.iter().any(|held| held == part) {
                    after.push(part.to_owned());
                }
            }),
            "set-if-empty" if !held.is_empty() => {}
            _ => after = vec![cell.clone()],
        }
        if after.is_empty() {
            profiles[target].remove(property);
        } else if after != held {
            profiles[target].insert(property.to_owned(), (after, by.clone()));
        }
    }
}

/// The profiles with what set each value, as the program says.
fn explained(workspace: &Workspace) -> Vec<Known> {
    let listed = workspace.sluicebox(&["profile", "list", "--json"]).stdout;
    let text = |value: &Value| value.as_str().map_or(value.to_string(), str::to_owned);
    let mut profiles = Vec::new();
    for line in listed.lines() {
        let id = serde_json::from_str::<Value>(line).unwrap()["profile_id"].as_str().unwrap().to_owned();
        let shown = workspace.sluicebox(&["profile", "get", &id, "--explain", "--json"]).stdout;
        let profile: Value = serde_json::from_str(&shown).unwrap();
        let values = profile["properties"].as_object().unwrap().iter().map(|(name, value)| {
            let values = value
                .as_array()
                .map_or_else(|| vec![text(value)], |values| values.iter().map(text).collect());
            let by = &profile["explain"][name];
            let set_by = if by.is_null() { SetBy::default() } else { (text(&by["run"]), text(&by["file"])) };
            (name.clone(), (values, set_by))
        });
        profiles.push(values.collect());
    }
    profiles
}

/// A sorted list, to be compared whatever its order.
fn in_order(profiles: &[Known]) -> Vec<String> {
    let mut shown: Vec<String> = profiles.iter().map(|profile| format!("{profile:?}")).collect();
    shown.sort();
    shown
}

/// What an operator does: imports files, or undoes the last run.
#[derive(Clone, Debug)]
enum Step {
    Import(Vec<Vec<Row>>),
    Undo,
}

/// Takes steps, and compares the profiles after each with those of the naive model.
fn take_steps(steps: &[Step], batch_rows: u32, keep: bool) -> Result<(), TestCaseError> {
    let workspace = Workspace::empty();
    let undo = if keep { "[undo]\nkeep = '1d'\n" } else { "" };
    let tuning = format!("[import]\nbatch_rows = {batch_rows}\ncommit_rows = {batch_rows}\n");
    workspace.write("sluicebox.toml", format!("{undo}{tuning}[profiles]\nmerge_limit = 1000\n"));
    workspace.write(
        "schema.toml",
        "[properties]\nemail = { unique = true }\ncustomer_id = { unique = true }\nname = {}\nflag = {}\nnick = {}\n\
         spent = { type = 'number' }\ntags = { multiple = true }\n",
    );
    let fields = RULES.map(|(property, rule)| {
        let separator = if rule == "add" { "separator = '|'\n" } else { "" };
        format!("[[import_profiles.fields]]\ncolumn = '{property}'\nrule = '{rule}'\n{separator}")
    });
    let identifiers = ["email", "customer_id"].map(|identifier| {
        format!("[[import_profiles.identifiers]]\ncolumn = '{identifier}'\nproperty = '{identifier}'\n")
    });
    workspace.write(
        "connections/c.toml",
        format!(
            "[location]\nkind = 'directory'\npath = 'in'\n[[import_profiles]]\nname = 'g'\nfiles = '*.csv'\n\
             on_ambiguous = 'merge'\n{}{}",
            identifiers.concat(),
            fields.concat()
        ),
    );
    let mut profiles: Vec<Known> = Vec::new();
    // The last run, if it changed something, with the profiles before it.
    let mut last: Option<(String, Vec<Known>)> = None;
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Import(files) => {
                for (file, rows) in files.iter().enumerate() {
                    let lines: Vec<String> = rows.iter().map(|row| row.join(",")).collect();
                    let csv = format!("{}\n{}\n", COLUMNS.join(","), lines.join("\n"));
                    workspace.write(&format!("in/{number}_{file}.csv"), csv);
                }
                let output = workspace.sluicebox(&["run", "--json"]);
                prop_assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
                let report: Value = serde_json::from_str(&output.stdout).unwrap();
                let run = report["run"].as_str().unwrap().to_owned();
                let before = profiles.clone();
                for (file, rows) in files.iter().enumerate() {
                    let by = (run.clone(), format!("{number}_{file}.csv"));
                    rows.iter().for_each(|row| merge_row(&mut profiles, row, &by));
                }
                let count = |name: &str| report["profiles"][name].as_i64().unwrap();
                last = (count("created") + count("updated") > 0).then_some((run, before));
            }
            Step::Undo => {
                let Some((run, before)) = last.take().filter(|_| keep) else { continue };
                let output = workspace.sluicebox(&["undo", &run, "--json"]);
                prop_assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
                let report: Value = serde_json::from_str(&output.stdout).unwrap();
                prop_assert_eq!(&report["left_alone"], 0, "{}", output.stdout);
                let after = std::mem::replace(&mut profiles, before);
                let changed = report["restored"].as_u64().unwrap() + report["removed"].as_u64().unwrap() > 0;
                last = changed.then(|| (report["run"].as_str().unwrap().to_owned(), after));
            }
        }
        prop_assert_eq!(in_order(&explained(&workspace)), in_order(&profiles), "after step {}", number);
    }
    if steps.iter().any(|step| matches!(step, Step::Import(_))) {
        prop_assert_eq!(workspace.sluicebox(&["store", "verify"]).code, 0);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_value_says_what_set_it_after_imports_merges_and_undos(
        steps in prop::collection::vec(
            prop_oneof![3 => prop::collection::vec(rows(), 1..3).prop_map(Step::Import), 2 => Just(Step::Undo)],
            2..7,
        ),
        batch_rows in prop::sample::select(&[1, 4096][..]),
        keep: bool,
    ) {
        take_steps(&steps, batch_rows, keep)?;
    }
}

#[test]
fn a_value_that_was_changed_back_says_what_set_it_after_two_undos() {
    let row = |email: &str, customer: &str, name: &str| {
        [email, customer, name, "", "", "", ""].map(str::to_owned).to_vec()
    };
    let first = Step::Import(vec![vec![row("a@x", "", "Ann")]]);
    let second = Step::Import(vec![vec![row("a@x", "2", "Bob"), row("", "2", "Ann")]]);
    take_steps(&[first, second, Step::Undo, Step::Undo], 1, true).unwrap();
}

/// Imports two files that are large enough to be partitioned. People come several times, by either identifier, and identifiers
/// change hands. Answers with the report of each run, and the profiles.
fn two_large_files(on_ambiguous: &str, tuning: &str) -> (Vec<Value>, Vec<String>) {
    let workspace = Workspace::empty();
    workspace.write("sluicebox.toml", tuning);
    workspace.write(
        "schema.toml",
        "[properties]\nemail = { unique = true }\nphone = { unique = true }\nname = {}\nspent = { type = 'number' }\n\
         tags = { multiple = true }\naliases = { unique = true, multiple = true }\n",
    );
    workspace.write(
        "connections/c.toml",
        format!(
            "[location]\nkind = 'directory'\npath = 'in'\n[[import_profiles]]\nname = 'g'\nfiles = '*.csv'\n\
             on_ambiguous = '{on_ambiguous}'\n\
             [[import_profiles.identifiers]]\ncolumn = 'email'\nproperty = 'email'\n\
             [[import_profiles.identifiers]]\ncolumn = 'phone'\nproperty = 'phone'\n\
             [[import_profiles.fields]]\ncolumn = 'phone'\nrule = 'set-or-clear'\n\
             [[import_profiles.fields]]\ncolumn = 'name'\nrule = 'set-if-empty'\n\
             [[import_profiles.fields]]\ncolumn = 'spent'\nrule = 'sum'\n\
             [[import_profiles.fields]]\ncolumn = 'tags'\nrule = 'add'\nseparator = '|'\n\
             [[import_profiles.fields]]\ncolumn = 'aliases'\nrule = 'set'\nseparator = '|'\n"
        ),
    );
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut random = |end| random.below(end);
    let mut reports = Vec::new();
    for file in 0..2 {
        let mut csv = String::from("email,phone,name,spent,tags,aliases\n");
        // The first rows are people of one row each. They are committed together.
        let new = if file == 0 { 100_000 } else { 0 };
        for row in 0..new + 40_000 {
            let is_new = row < new;
            let person = if is_new { 1_000_000 + row } else { random(30_000) + file * 10_000 };
            let phone = if random(10) == 0 && !is_new { random(40_000) } else { person };
            let (phone, email) = match random(12) {
                0 => (String::new(), format!("p{person}@x")),
                1 => (format!("+{phone}"), String::new()),
                _ => (format!("+{phone}"), format!("p{person}@x")),
            };
            let alias = if random(3) == 0 && !is_new {
                format!("a{}|b{person}", random(50_000))
            } else {
                String::new()
            };
            let cells =
                [email, phone, format!("n{row}"), random(900).to_string(), format!("t{}", random(5)), alias];
            csv.push_str(&cells.join(","));
            csv.push('\n');
        }
        workspace.write(&format!("in/{file}.csv"), csv);
        let run = workspace.sluicebox(&["run", "--json"]);
        assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
        let report: Value = serde_json::from_str(&run.stdout).unwrap();
        reports.extend(["rows", "profiles", "cells_rejected"].map(|name| report[name].clone()));
    }
    assert_eq!(workspace.sluicebox(&["store", "verify"]).code, 0);
    let listed = workspace.sluicebox(&["profile", "list", "--json"]).stdout;
    let properties = |line: &str| serde_json::from_str::<Value>(line).unwrap()["properties"].to_string();
    let mut profiles: Vec<String> = listed.lines().map(properties).collect();
    profiles.sort();
    (reports, profiles)
}

#[test]
fn large_files_are_merged_as_one_row_after_the_other() {
    for on_ambiguous in ["reject", "first", "newest"] {
        let (reports, profiles) =
            two_large_files(on_ambiguous, "[import]\nthreads = 1\ncommit_rows = 1000\n");
        assert!(profiles.len() > 20_000, "{}", profiles.len());
        for tuning in ["", "[import]\nthreads = 3\ncommit_rows = 17000\n"] {
            let partitioned = two_large_files(on_ambiguous, tuning);
            assert_eq!(partitioned.0, reports, "{on_ambiguous} {tuning}");
            // Without `assert_eq!`, which would print 20,000 profiles.
            assert!(partitioned.1 == profiles, "{on_ambiguous} {tuning}");
        }
    }
}
