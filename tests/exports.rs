//! Exports: imported again they give the same profiles, they survive a kill, and other programs read them.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails says where"
)]

#[path = "servers/gpg.rs"]
mod gpg;
#[path = "workspace/random.rs"]
mod random;
#[path = "servers/s3.rs"]
mod s3;
mod workspace;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::process::Command;

use gpg::Gpg;
use proptest::prelude::*;
use random::Random;
use s3::server;
use serde_json::Value;
use workspace::wait::wait_for;
use workspace::{Workspace, finish};

const SCHEMA: &str = "[properties.key]\nunique = true\n[properties.note]\n[properties.tags]\nmultiple = true\n\
    [properties.spent]\ntype = 'number'\n[properties.member]\ntype = 'boolean'\n[properties.born]\ntype = 'date'\n\
    [properties.seen]\ntype = 'datetime'\n[events.order.properties.total]\ntype = 'number'\n\
    [events.order.properties.note]\n[events.order.nested.products.properties.sku]\n";
const FIELDS: [&str; 7] = ["key", "note", "tags", "spent", "member", "born", "seen"];
/// Separates the values of a list; no text of a test contains it.
const SEPARATOR: &str = "\u{1}";

/// Goals that import the files of [`export_goal`].
fn import_goals(folder: &str, at: &str) -> String {
    let fields = FIELDS.map(|field| match field {
        "tags" => "[[import_profiles.fields]]\ncolumn = 'tags'\nseparator = \"\\u0001\"\n".to_owned(),
        field => format!("[[import_profiles.fields]]\ncolumn = '{field}'\n"),
    });
    format!(
        "[location]\nkind = 'directory'\npath = '{folder}'\n[[import_profiles]]\nname = 'people'\n\
         files = 'people.csv'\ncsv = {{ trim = false }}\n[[import_profiles.linked]]\nname = 'orders'\n\
         files = '{at}order.csv'\ncolumn = 'profile_id'\nparent = 'root'\nparent_column = 'profile_id'\n\
         [[import_profiles.linked]]\nname = 'products'\nfiles = '{at}order_products.csv'\ncolumn = 'event_id'\n\
         parent = 'orders'\nparent_column = 'event_id'\n\
         [[import_profiles.identifiers]]\ncolumn = 'key'\nproperty = 'key'\n{}\
         [[import_profiles.events]]\ntype = 'order'\nfile = 'orders'\nid = 'event_id'\ntime = 'event_time'\n\
         all_fields = true\nnested = [ {{ name = 'products', file = 'products', all_fields = true }} ]\n",
        fields.concat()
    )
}

fn export_goal(folder: &str, more: &str) -> String {
    let columns = FIELDS.map(|field| format!("[[export_profiles.columns]]\nproperty = '{field}'\n"));
    format!(
        "[location]\nkind = 'directory'\npath = '{folder}'\n[[export_profiles]]\nname = 'people'\n\
         file = 'people.csv'\n{more}csv = {{ list_separator = \"\\u0001\" }}\n{}\
         [[export_profiles.columns]]\nprofile_id = true\n[export_profiles.events]\ntypes = 'all'\n",
        columns.concat()
    )
}

fn run(workspace: &Workspace, arguments: &[&str]) -> Vec<Value> {
    let output = workspace.sluicebox(&[&["run", "--json"], arguments].concat());
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The profiles by their key, without their ids and times.
fn profiles(workspace: &Workspace) -> BTreeMap<String, String> {
    let listed = workspace.sluicebox(&["profile", "list", "--json"]);
    assert_eq!(listed.code, 0, "{}", listed.stderr);
    let shown = |line: &str| {
        let profile: Value = serde_json::from_str(line).unwrap();
        let key = profile["properties"]["key"].as_str().unwrap().to_owned();
        (key, format!("{} {}", profile["properties"], profile["events"]))
    };
    listed.stdout.lines().map(shown).collect()
}

fn quoted(cell: &str) -> String {
    format!("\"{}\"", cell.replace('"', "\"\""))
}

/// Order, customer, total, note, skus.
type Order = (u8, u8, String, String, Vec<String>);

fn awkward() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,4}",
        "[ ,;\"'|=+@\\\\\n\r\tae\u{301}é日-]{1,6}".prop_filter("a value", |text| !text.is_empty()),
        Just("\u{feff}x".to_owned()),
        Just("NULL".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn exported_files_give_the_same_profiles_when_imported(
        people in prop::collection::btree_map(awkward(), (
            prop::option::of(awkward()),
            prop::collection::btree_set(awkward(), 0..3),
            prop::option::of(("-?[1-9][0-9]{0,9}", prop::option::of("[0-9]{1,6}"))),
            prop::option::of(any::<bool>()),
            prop::option::of(("[12][0-9]{3}-0[1-9]-[12][0-9]", "[0-9]{9}")),
        ), 1..6),
        orders in prop::collection::vec((any::<u8>(), 0_u8..6, "[1-9][0-9]{0,4}", awkward(), prop::collection::vec(awkward(), 0..3)), 0..6),
    ) {
        let mut csv = format!("{},profile_id\n", FIELDS.join(","));
        for (place, (key, (note, tags, spent, member, born))) in people.iter().enumerate() {
            let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
            let spent = spent.as_ref().map(|(whole, part)| match part {
                Some(part) => format!("{whole}.{part}"),
                None => whole.clone(),
            });
            let seen = born.as_ref().map(|(day, nanos)| format!("{day}T03:04:05.{nanos}Z"));
            let cells = [
                key.clone(), note.clone().unwrap_or_default(), tags.join(SEPARATOR), spent.unwrap_or_default(),
                member.map(|member| member.to_string()).unwrap_or_default(),
                born.as_ref().map(|(day, _)| day.clone()).unwrap_or_default(), seen.unwrap_or_default(),
                place.to_string(),
            ];
            csv.push_str(&cells.each_ref().map(|cell| quoted(cell)).join(","));
            csv.push('\n');
        }
        let (mut order, mut products) = ("profile_id,event_id,event_time,total,note\n".to_owned(), "event_id,sku\n".to_owned());
        let mut seen = BTreeSet::new();
        let orders: Vec<&Order> = orders.iter().filter(|order| seen.insert(order.0)).collect();
        for (id, of, total, note, skus) in orders {
            order.push_str(&format!("{of},o{id},2026-01-02T03:04:05.{id:03}Z,{total},{}\n", quoted(note)));
            for sku in skus {
                products.push_str(&format!("o{id},{}\n", quoted(sku)));
            }
        }
        let first = Workspace::empty();
        first.write("schema.toml", SCHEMA);
        first.write("connections/a-in.toml", import_goals("in", ""));
        first.write("connections/b-out.toml", export_goal("out", ""));
        first.write("in/people.csv", csv);
        first.write("in/order.csv", order);
        first.write("in/order_products.csv", products);
        fs::create_dir(first.path().join("out")).unwrap();
        let reports = run(&first, &[]);
        prop_assert_eq!(reports[1]["rows"]["merged"].as_u64(), Some(people.len() as u64));

        let second = Workspace::empty();
        second.write("schema.toml", SCHEMA);
        let goals = import_goals(&first.path().join("out").display().to_string(), "");
        let escaped = goals.replace("\ncolumn = 'tags'\n", "\ncolumn = 'tags'\nseparator_escape = '\\'\n");
        second.write("connections/a-in.toml", escaped);
        run(&second, &[]);
        prop_assert_eq!(profiles(&second), profiles(&first));
        let verified = second.sluicebox(&["store", "verify"]);
        prop_assert_eq!(verified.code, 0, "{}", verified.stdout);
    }
}

/// A store of `people` profiles, and a goal that exports changes.
fn filled(people: usize) -> Workspace {
    let workspace = Workspace::empty();
    workspace.write("schema.toml", SCHEMA);
    workspace.write("connections/a-in.toml", import_goals("in", ""));
    workspace.write("connections/b-out.toml", export_goal("out", ""));
    let mut csv = String::from("key,note,tags,spent,member,born,seen,profile_id\n");
    let mut orders = String::from("profile_id,event_id,event_time,total,note\n");
    for person in 0..people {
        csv.push_str(&format!("k{person},\"a, {person}\",x\u{1}y,{person}.5,true,,,{person}\n"));
        orders.push_str(&format!("{person},o{person},2026-01-02,{person},-\n"));
    }
    workspace.write("in/people.csv", csv);
    workspace.write("in/order.csv", orders);
    workspace.write("in/order_products.csv", "event_id,sku\no1,s1\n");
    fs::create_dir(workspace.path().join("out")).unwrap();
    workspace
}

/// The first two cells of each row of an exported file, which must be complete.
fn exported(workspace: &Workspace, file: &str) -> Vec<(String, String)> {
    let text = fs::read(workspace.path().join("out").join(file)).unwrap();
    assert_eq!(text.last(), Some(&b'\n'), "{file} is cut off");
    // The reader refuses rows of another width.
    let mut reader = csv::Reader::from_reader(text.as_slice());
    let rows = reader.records().map(|row| row.unwrap_or_else(|error| panic!("{file}: {error}")));
    rows.map(|row| (row[0].to_owned(), row[1].to_owned())).collect()
}

/// The first cell of each row.
fn keys(rows: Vec<(String, String)>) -> Vec<String> {
    rows.into_iter().map(|(key, _)| key).collect()
}

/// Imports another note for every profile.
fn change_all(workspace: &Workspace, people: usize, note: &str) {
    let mut csv = String::from("key,note,tags,spent,member,born,seen,profile_id\n");
    (0..people).for_each(|person| csv.push_str(&format!("k{person},{note},,,,,,{person}\n")));
    workspace.write("in/people.csv", csv);
    run(workspace, &["a-in"]);
}

#[test]
fn a_killed_export_leaves_no_part_of_a_file_and_loses_no_change() {
    const KILLS: u32 = 20;
    const PEOPLE: usize = 10_000;
    let workspace = filled(PEOPLE);
    change_all(&workspace, PEOPLE, "first");
    let whole = workspace.moved_by(&["run", "b-out"]);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut cut_short = 0;
    // The partner takes each file as soon as it exists, and knows the last note of each profile.
    let mut taken: BTreeMap<String, String> = BTreeMap::new();
    let mut take = || {
        for entry in fs::read_dir(workspace.path().join("out")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let is_order = name.starts_with("order") && !name.starts_with("order_products");
            if name.starts_with("people") {
                taken.extend(exported(&workspace, &name));
            } else if is_order {
                exported(&workspace, &name);
            } else {
                assert!(name.starts_with("order_products") || name.starts_with(".sluicebox-"), "{name}");
                continue;
            }
            fs::remove_file(workspace.path().join("out").join(&name)).unwrap();
        }
        taken.clone()
    };
    for round in 0..KILLS {
        // Some changes outlast several killed exports.
        if round % 3 != 2 {
            change_all(&workspace, PEOPLE, &format!("r{round}"));
        }
        cut_short += u32::from(workspace.killed_at(&["run", "b-out"], whole * random.below(110) / 100));
        take();
    }
    assert!(cut_short > 0, "no export was cut short");
    run(&workspace, &["b-out"]);
    let taken = take();
    assert_eq!(taken.len(), PEOPLE);
    let last = format!("r{}", if (KILLS - 1) % 3 == 2 { KILLS - 2 } else { KILLS - 1 });
    assert!(taken.values().all(|note| *note == last), "a change is lost");
    let hidden = fs::read_dir(workspace.path().join("out"))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with('.'));
    assert_eq!(hidden.count(), 0, "the next run removes the remains of a killed one");
}

#[test]
fn changes_of_all_kinds_are_exported() {
    let workspace = filled(3000);
    run(&workspace, &[]);
    assert_eq!(exported(&workspace, "people.csv").len(), 3000);
    workspace.write("connections/b-out.toml", export_goal("out", "replace = true\n"));
    // A new event alone is a change too.
    workspace.write("in/order.csv", "profile_id,event_id,event_time,total,note\n7,o7,2026-01-02,8,-\n");
    let reports = run(&workspace, &[]);
    assert_eq!(reports[1]["rows"]["merged"], 1, "{}", reports[1]);
    assert_eq!(keys(exported(&workspace, "people.csv")), ["k7"]);
    // Changes after the clock is set back are later all the same.
    let back = workspace.shell(&format!(
        "printf 'key,note,tags,spent,member,born,seen,profile_id\\nk8,new,,,,,,8\\n' > in/people.csv; \
         faketime -f '-2d' {0} run a-in && {0} run b-out --json",
        env!("CARGO_BIN_EXE_sluicebox")
    ));
    assert_eq!(back.code, 0, "{}{}", back.stdout, back.stderr);
    assert_eq!(keys(exported(&workspace, "people.csv")), ["k8"]);
}

#[test]
fn names_of_files_are_filled_in() {
    let workspace = filled(10);
    let goal = export_goal("out", "").replace("people.csv", "{connection}_{goal}_{date}_{time}_{run}.csv");
    workspace.write("connections/b-out.toml", goal);
    let reports = run(&workspace, &[]);
    let name = reports[1]["files"][0]["name"].as_str().unwrap();
    let expected = r"^b-out_people_\d{4}-\d\d-\d\d_\d{6}_\d{8}-\d{6}-[0-9a-f]{4}\.csv$";
    assert!(regex::Regex::new(expected).unwrap().is_match(name), "{name}");
    assert_eq!(exported(&workspace, name).len(), 10);
    // Runs within one second do not replace each other's files, nor do runs within one day.
    let goal = export_goal("out", "changed_only = false\n").replace("people.csv", "people_{date}_{time}.csv");
    workspace.write("connections/b-out.toml", goal);
    let names: BTreeSet<String> = (0..4)
        .map(|_| run(&workspace, &["b-out"])[0]["files"][0]["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names.len(), 4, "{names:?}");
}

#[test]
fn other_programs_read_the_same_cells() {
    let workspace = filled(500);
    workspace.write(
        "in/people.csv",
        "key,note,tags,spent,member,born,seen,profile_id\n\"k,1\",\"say \"\"hi\"\"\",a\u{1}b,1.50,yes,2020-02-29,,0\n\
         k2,\"two\nlines\",,,,,2026-01-02T03:04:05Z,1\n k3 ,=1+1,é,-5,no,,,2\n",
    );
    run(&workspace, &[]);
    let mut reader = csv::Reader::from_path(workspace.path().join("out/people.csv")).unwrap();
    let expected: Vec<Vec<String>> =
        reader.records().map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect();
    assert_eq!(expected[0][..4], ["k,1", "say \"hi\"", "a\u{1}b", "1.5"]);
    let python = |script: &str| {
        let program = std::env::var("SLUICEBOX_PYTHON").expect("`cargo xtask test` says where it is");
        let output = finish(Command::new(program).args(["-c", script]).current_dir(workspace.path()));
        assert_eq!(output.code, 0, "{}", output.stderr);
        serde_json::from_str::<Vec<Vec<String>>>(&output.stdout).unwrap()
    };
    let standard = "import csv, json; rows = list(csv.reader(open('out/people.csv', newline=''))); print(json.dumps(rows[1:]))";
    assert_eq!(python(standard), expected);
    let duckdb = "import duckdb, json; rows = duckdb.sql(\"select * from read_csv('out/people.csv', header=true, \
                  all_varchar=true, strict_mode=true)\").fetchall(); print(json.dumps([[cell or '' for cell in row] for row in rows]))";
    assert_eq!(python(duckdb), expected);
}

#[test]
fn a_bucket_gets_whole_files_compressed_and_encrypted() {
    let (server, gpg) = (server(), Gpg::new());
    gpg.key("partner@x.example", "default", "secret words");
    gpg.key("signer@x.example", "rsa2048", "secret words");
    server.bucket("exports");
    let workspace = filled(60_000);
    workspace.write("secret", "admin-secret\n");
    workspace.write("partner.asc", gpg.public_key("partner@x.example"));
    let goal = export_goal("out", "");
    let goal = goal.split_once("path = 'out'\n").unwrap().1;
    let location = server.location("exports", "admin", None);
    workspace.write(
        "connections/b-out.toml",
        format!(
            "{location}{}",
            goal.replace("file = 'people.csv'", "directory = 'to/partner'\nfile = 'people.csv'")
        ),
    );
    run(&workspace, &[]);
    let plain = server.get("exports", "to/partner/people.csv");
    assert_eq!(plain.iter().filter(|byte| **byte == b'\n').count(), 60_001);
    let keys = ["to/partner/order.csv", "to/partner/order_products.csv", "to/partner/people.csv"];
    assert_eq!(server.keys("exports"), keys);

    let encrypted = goal.replace(
        "file = 'people.csv'",
        "directory = 'safe'\nfile = 'people.csv'\ncompression = 'zstd'\nchanged_only = false",
    );
    workspace.write(
        "connections/b-out.toml",
        format!("{location}[pgp]\npublic_key = {{ file = 'partner.asc' }}\n{encrypted}"),
    );
    workspace.write("partner.asc", gpg.public_key("signer@x.example"));
    let refused = workspace.sluicebox(&["run", "b-out"]);
    assert!(refused.stderr.contains("the public key cannot be used for encryption"), "{}", refused.stderr);
    workspace.write("partner.asc", gpg.public_key("partner@x.example"));
    let reports = run(&workspace, &["b-out"]);
    assert_eq!(reports[0]["files"][0]["name"], "safe/people.csv.zst.pgp");
    let message = server.get("exports", "safe/people.csv.zst.pgp");
    let compressed = gpg.decrypt("secret words", &message);
    let mut text = Vec::new();
    zstd::Decoder::new(compressed.as_slice()).unwrap().read_to_end(&mut text).unwrap();
    assert!(text == plain, "{} bytes, expected {}", text.len(), plain.len());
    // Without the permission to write, the run says so and writes nothing.
    workspace
        .write("connections/b-out.toml", format!("{}{goal}", server.location("exports", "reader", None)));
    workspace.write("secret", "reader-secret\n");
    let denied = workspace.sluicebox(&["run", "b-out", "--json"]);
    assert_eq!(denied.code, 1);
    assert!(denied.stdout.contains("needs s3:PutObject"), "{}", denied.stdout);
    let checked = workspace.sluicebox(&["check", "b-out"]);
    assert_eq!(checked.code, 2, "{}", checked.stdout);
    assert!(checked.stderr.contains("lacks s3:PutObject"), "{}", checked.stderr);
}

#[test]
fn large_files_go_to_a_bucket_in_parts_and_are_never_seen_in_part() {
    let server = server();
    server.bucket("large");
    let workspace = filled(1000);
    workspace.write("secret", "admin-secret\n");
    let long = "x".repeat(50_000);
    let mut csv = String::from("key,note,tags,spent,member,born,seen,profile_id\n");
    (0..1000).for_each(|person| csv.push_str(&format!("k{person},{long}{person},,,,,,{person}\n")));
    workspace.write("in/people.csv", csv);
    let goal = export_goal("out", "changed_only = false\n");
    let goal = goal.split_once("path = 'out'\n").unwrap().1;
    workspace.write("connections/b-out.toml", format!("{}{goal}", server.location("large", "admin", None)));
    run(&workspace, &["a-in"]);
    // Killed after any number of parts, with more to come, no part of the file is visible.
    for parts in 0..4 {
        let before = server.uploads("large");
        let so_far = |_: &_| {
            let mut new = server.uploads("large").into_iter().filter(|upload| !before.contains(upload));
            new.any(|upload| server.parts("large", &upload) >= parts)
        };
        assert!(workspace.killed_when(&["run", "b-out"], so_far), "{parts} parts");
        assert!(!server.keys("large").iter().any(|key| key == "people.csv"), "{parts} parts");
    }
    let mut child = workspace.silent(&["run", "b-out"]);
    let whole = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count() == 1001;
    wait_for("the export to end", || {
        if server.keys("large").iter().any(|key| key == "people.csv") {
            assert!(whole(&server.get("large", "people.csv")));
        }
        child.try_wait().unwrap()
    });
    let text = server.get("large", "people.csv");
    assert!(text.len() > 50_000_000 && whole(&text), "{} bytes", text.len());
    assert_eq!(workspace.sluicebox(&["store", "verify"]).code, 0);
}
