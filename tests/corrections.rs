//! What is not taken is recorded, and corrected once: dirty files, whose rejected rows are corrected and imported, give the store
//! that clean files would have given.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says where")]

mod workspace;

use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::Value;
use workspace::{Output, Workspace};

const COLUMNS: [&str; 5] = ["email", "name", "visits", "born", "tags"];

/// The dialect of a partner's file.
#[derive(Clone, Debug)]
struct Dialect {
    delimiter: char,
    windows: bool,
    header: bool,
    skip_rows: usize,
}

/// What is wrong with a row.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Dirt {
    Clean,
    Number,
    Date,
    NumberAndDate,
    NoEmail,
    MissingCell,
    SurplusCell,
    StrayQuote,
    InvalidByte,
}

/// A clean row, and each kind of dirt.
const DIRT: [Dirt; 9] = [
    Dirt::Clean,
    Dirt::Number,
    Dirt::Date,
    Dirt::NumberAndDate,
    Dirt::NoEmail,
    Dirt::MissingCell,
    Dirt::SurplusCell,
    Dirt::StrayQuote,
    Dirt::InvalidByte,
];

/// A row: its person, its value, and what is wrong with it.
type DirtyRow = (u8, u16, Dirt);

fn dialect() -> impl Strategy<Value = Dialect> {
    (prop::sample::select(vec![',', ';', '\t']), any::<bool>(), any::<bool>(), 0_usize..3)
        .prop_map(|(delimiter, windows, header, skip_rows)| Dialect { delimiter, windows, header, skip_rows })
}

fn rows() -> impl Strategy<Value = Vec<DirtyRow>> {
    // Clean rows are as frequent as two kinds of dirt.
    let dirt = prop::sample::select([&[Dirt::Clean][..], &DIRT].concat());
    prop::collection::vec((0_u8..12, any::<u16>(), dirt), 1..30).prop_map(|mut rows: Vec<DirtyRow>| {
        // A file of which every row is rejected fails.
        rows.insert(0, (0, 1, Dirt::Clean));
        rows
    })
}

/// The cells of a clean row. What a person is called and when they were born never changes: corrections come in another order.
fn cells((person, visit, _): &DirtyRow) -> [String; 5] {
    let name = format!("Zoë {person}");
    let born = format!("19{:02}-0{}-1{}", 50 + person, 1 + person % 9, person % 10);
    let visits = format!("{}.{}", visit % 100, visit % 10);
    [format!("p{person}@x.example"), name, visits, born, format!("t{}|t{}", visit % 5, visit % 3)]
}

fn quoted(cell: &str, dialect: &Dialect) -> String {
    match cell.contains([dialect.delimiter, '"']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_owned(),
    }
}

/// The file's bytes, dirty or clean.
fn file(rows: &[DirtyRow], dialect: &Dialect, is_dirty: bool) -> Vec<u8> {
    let delimiter = dialect.delimiter.to_string();
    let mut text = "a title\n".repeat(dialect.skip_rows);
    if dialect.header {
        text.push_str(&COLUMNS.join(&delimiter));
        text.push('\n');
    }
    for row in rows {
        let mut cells = cells(row).to_vec();
        match row.2 {
            _ if !is_dirty => {}
            Dirt::Clean => {}
            Dirt::Number => cells[2] = "many".to_owned(),
            Dirt::Date => cells[3] = "1950-02-30".to_owned(),
            Dirt::NumberAndDate => (cells[2], cells[3]) = ("1,2.3".to_owned(), "soon".to_owned()),
            Dirt::NoEmail => cells[0].clear(),
            Dirt::MissingCell => drop(cells.pop()),
            Dirt::SurplusCell => cells.push("more".to_owned()),
            Dirt::StrayQuote => cells[1] = "\"5\" screen".to_owned(),
            Dirt::InvalidByte => cells[1].push('\u{1}'),
        }
        let stray = is_dirty && row.2 == Dirt::StrayQuote;
        let cells = cells.iter().map(|cell| if stray { cell.clone() } else { quoted(cell, dialect) });
        text.push_str(&cells.collect::<Vec<_>>().join(&delimiter));
        text.push('\n');
    }
    let bytes = text.chars().flat_map(|character| match character {
        // Every byte is a character of windows-1252: there the row holds a NUL instead.
        '\u{1}' => vec![if dialect.windows { 0 } else { 0xff }],
        'ë' if dialect.windows => vec![0xeb],
        other => other.to_string().into_bytes(),
    });
    bytes.collect()
}

fn workspace(dialect: &Dialect) -> Workspace {
    let workspace = Workspace::empty();
    workspace.write(
        "schema.toml",
        "[properties.email]\nunique = true\n[properties.name]\n[properties.visits]\ntype = 'number'\n\
         [properties.born]\ntype = 'date'\n[properties.tags]\nmultiple = true\n",
    );
    let column = |place: usize| match dialect.header {
        true => COLUMNS[place].to_owned(),
        false => (place + 1).to_string(),
    };
    let field = |place: usize, more: &str| {
        let (column, property) = (column(place), COLUMNS[place]);
        format!("[[import_profiles.fields]]\ncolumn = '{column}'\nproperty = '{property}'\n{more}\n")
    };
    let fields =
        [field(1, ""), field(2, "rule = 'sum'"), field(3, ""), field(4, "rule = 'add'\nseparator = '|'")];
    let Dialect { delimiter, windows, header, skip_rows } = dialect;
    let encoding = if *windows { "windows-1252" } else { "utf-8" };
    let delimiter = delimiter.escape_default();
    workspace.write(
        "connections/shop.toml",
        format!(
            "[location]\nkind = 'directory'\npath = 'exchange'\n[[import_profiles]]\nname = 'customers'\nfiles = '*.csv'\n\
             csv = {{ delimiter = \"{delimiter}\", encoding = '{encoding}', header = {header}, skip_rows = {skip_rows} }}\n\
             [[import_profiles.identifiers]]\ncolumn = '{}'\nproperty = 'email'\n{}",
            column(0),
            fields.concat()
        ),
    );
    workspace
}

fn import(workspace: &Workspace) -> Value {
    let output = workspace.sluicebox(&["run", "--json"]);
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    serde_json::from_str(&output.stdout).unwrap()
}

/// The profiles by their address, without ids and times. The values of a list have no order here.
fn profiles(workspace: &Workspace) -> BTreeMap<String, Value> {
    let listed = workspace.sluicebox(&["profile", "list", "--json"]);
    assert_eq!(listed.code, 0, "{}", listed.stderr);
    let profiles = listed.stdout.lines().map(|line| {
        let mut profile: Value = serde_json::from_str(line).unwrap();
        if let Some(tags) = profile["properties"]["tags"].as_array_mut() {
            tags.sort_by_key(ToString::to_string);
        }
        let properties = profile["properties"].take();
        (properties["email"].as_str().unwrap().to_owned(), properties)
    });
    profiles.collect()
}

/// Corrects every line of a file of rejected rows, and saves it beside the data.
fn correct(workspace: &Workspace, recorded: &PathBuf, rows: &[DirtyRow], dialect: &Dialect) -> usize {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_path(recorded).unwrap();
    let mut writer = csv::Writer::from_path(workspace.path().join("corrected.csv")).unwrap();
    let mut lines = 0;
    for record in reader.records() {
        let mut record: Vec<String> = record.unwrap().iter().map(str::to_owned).collect();
        if lines > 0 {
            let line: usize = record[COLUMNS.len() + 1].parse().unwrap();
            let row = &rows[line - 1 - dialect.skip_rows - usize::from(dialect.header)];
            record.splice(..COLUMNS.len(), cells(row));
        }
        writer.write_record(&record).unwrap();
        lines += 1;
    }
    writer.flush().unwrap();
    lines - 1
}

fn import_corrected(workspace: &Workspace, run: &str) -> Output {
    workspace.sluicebox(&["rejected", "import", run, "customers", "--file", "corrected.csv", "--json"])
}

fn check(rows: &[DirtyRow], dialect: &Dialect, kills: &[u64]) {
    let clean = workspace(dialect);
    clean.write("exchange/customers.csv", file(rows, dialect, false));
    assert_eq!(import(&clean)["rows"]["merged"], rows.len());

    let dirty = workspace(dialect);
    dirty.write("exchange/customers.csv", file(rows, dialect, true));
    let report = import(&dirty);
    let count = |of: &[Dirt]| rows.iter().filter(|(_, _, dirt)| of.contains(dirt)).count();
    let of_cells = count(&[Dirt::Number, Dirt::Date, Dirt::NumberAndDate]);
    let recorded = rows.len() - count(&[Dirt::Clean]);
    assert_eq!(report["rows"]["read"], rows.len());
    assert_eq!(report["rows"]["merged"], rows.len() - recorded + of_cells);
    assert_eq!(report["rows"]["excluded"], count(&[Dirt::NoEmail]));
    let run = report["run"].as_str().unwrap();
    if recorded == 0 {
        return;
    }
    let file = dirty.path().join(format!("data/rejected/{run}/customers.csv"));
    assert_eq!(correct(&dirty, &file, rows, dialect), recorded);

    // A line that was not corrected is not taken.
    let uncorrected = dirty.sluicebox(&["rejected", "import", run, "customers", "--json"]);
    let uncorrected: Value = serde_json::from_str(&uncorrected.stdout).unwrap();
    let taken = uncorrected["profiles"].clone();
    assert_eq!((&taken["created"], &taken["updated"]), (&0.into(), &0.into()), "{uncorrected}");

    let corrected = ["rejected", "import", run, "customers", "--file", "corrected.csv"];
    let mut moved = None;
    for share in kills {
        let bytes = *moved.get_or_insert_with(|| dirty.moved_by(&[&corrected[..], &["--dry-run"]].concat()));
        dirty.killed_at(&corrected, bytes * share / 100);
    }
    let output = import_corrected(&dirty, run);
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    assert_eq!(profiles(&dirty), profiles(&clean));
    // A second time changes nothing.
    let again: Value = serde_json::from_str(&import_corrected(&dirty, run).stdout).unwrap();
    assert_eq!((&again["rows"]["read"], &again["already_imported"]), (&0.into(), &recorded.into()));
    assert_eq!(profiles(&dirty), profiles(&clean));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn corrected_rows_give_the_store_of_a_clean_file(
        rows in rows(),
        dialect in dialect(),
        kills in prop::collection::vec(0_u64..110, 0..3),
    ) {
        check(&rows, &dialect, &kills);
    }
}

#[test]
fn each_kind_of_dirt_is_recorded_and_corrected() {
    let rows: Vec<DirtyRow> = DIRT.iter().zip(1..).map(|(dirt, visit)| (3, visit, *dirt)).collect();
    check(&rows, &Dialect { delimiter: ';', windows: false, header: true, skip_rows: 0 }, &[]);
    check(&rows, &Dialect { delimiter: ',', windows: true, header: false, skip_rows: 2 }, &[]);
}
