//! The suite: Sluicebox, DuckDB and a Python script with sqlite3, at the same work on the same data in one run.
//!
//! For Sluicebox, it measures the whole process. The peers report the seconds of their work, without the start of
//! their interpreter. Memory and written bytes are read from the system for all of them.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, bail};

use super::{THREE, Watched, host, picture, watched};
use crate::data::{NORMALIZER, SCHEMA, connection, customers, some_customers};
use crate::setup;
use crate::shell::{root, run as run_command, target};

/// A workload and its measurements, by program.
pub(super) struct Workload {
    pub name: String,
    rows: u64,
    pub measured: Vec<(&'static str, Cost)>,
}

/// The cost of a workload.
pub(super) struct Cost {
    seconds: f64,
    /// kB.
    peak: u64,
    /// Bytes.
    written: u64,
}

impl Workload {
    pub(super) fn speed(&self, cost: &Cost) -> f64 {
        self.rows as f64 / cost.seconds
    }
}

/// Turns of short workloads: the speed of the machine changes from minute to minute.
const TURNS: usize = 3;

/// The cost of each program, turn after turn.
#[derive(Default)]
struct Turns(Vec<(&'static str, Vec<Cost>)>);

impl Turns {
    fn add(&mut self, name: &'static str, cost: Cost) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, all)) => all.push(cost),
            None => self.0.push((name, vec![cost])),
        }
    }

    /// The median turn of each program, with the highest of its peaks.
    fn medians(self) -> Vec<(&'static str, Cost)> {
        let median = |(name, mut all): (&'static str, Vec<Cost>)| {
            all.sort_by(|one, other| one.seconds.total_cmp(&other.seconds));
            let peak = all.iter().map(|cost| cost.peak).max().unwrap_or_default();
            let middle = all.len() / 2;
            all.into_iter().nth(middle).map(|cost| (name, Cost { peak, ..cost }))
        };
        // The table shows ratios to the first.
        let mut medians: Vec<_> = self.0.into_iter().filter_map(median).collect();
        medians.sort_by_key(|(name, _)| !name.starts_with(OURS));
        medians
    }
}

/// The program that comes first.
const OURS: &str = "Sluicebox";
const CREATED: &str = "DuckDB, create table";
const CREATED_MERGED: &str = "DuckDB, create table, a person's rows merged";
const KEYED: &str = "DuckDB, with a primary key";
const UPSERT: &str = "DuckDB, on conflict";
const REWRITE: &str = "DuckDB, full join";
const REWRITE_MERGED: &str = "DuckDB, full join, a person's rows merged";
/// Updates of a large store, and of a small one.
const OF_MANY: &str = "Sluicebox, of many";
const OF_FEW: &str = "Sluicebox, of few";
const SCRIPT: &str = "Python + sqlite3";

struct Suite {
    binary: PathBuf,
    python: PathBuf,
    folder: PathBuf,
    data: PathBuf,
    workloads: Vec<Workload>,
}

pub(crate) fn run(rows: u64) -> anyhow::Result<()> {
    let folder = target()?.join("bench");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let data = target()?.join(format!("bench-data-{rows}"));
    fs::create_dir_all(&data)?;
    let mut suite = Suite { binary: host()?, python: setup::duckdb()?, folder, data, workloads: Vec::new() };
    let begun = std::time::Instant::now();
    suite.customers(rows)?;
    suite.few_onto_many(rows / 100, rows * 4)?;
    suite.three_processors(rows)?;
    suite.wide(rows / 5)?;
    suite.identifiers(rows / 2)?;
    suite.linked(rows / 10)?;
    suite.large_store(rows, rows * 8)?;
    println!("\nThe suite took {:.0} s, with the time to write data files.", begun.elapsed().as_secs_f64());
    suite.write()?;
    fs::remove_dir_all(&suite.folder)?;
    Ok(())
}

/// The example's connection with each of the five rules.
fn five_rules(processors: &str) -> String {
    let field = |column: &str, rule: &str, more: &str| {
        format!("[[import_profiles.fields]]\ncolumn = \"{column}\"\nrule = \"{rule}\"\n{more}\n")
    };
    let fields = [
        field("lifetime_spend", "sum", ""),
        field("city", "set-if-empty", ""),
        field("phone", "set-or-clear", ""),
    ];
    connection(processors)
        .replace("property = \"tags\"\nrule = \"set\"", "property = \"tags\"\nrule = \"add\"")
        .replace("[import_profiles.all_fields]", &format!("{}[import_profiles.all_fields]", fields.concat()))
}

impl Suite {
    /// A data file, which is written once and kept.
    fn file(&self, name: &str, make: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<PathBuf> {
        let path = self.data.join(name);
        if !path.exists() {
            let beside = self.data.join(format!("{name}.new"));
            make(&beside)?;
            fs::rename(beside, &path)?;
        }
        Ok(path)
    }

    /// The customers of a round: round 0 creates them, later ones update them.
    fn round(&self, rows: u64, round: u64) -> anyhow::Result<PathBuf> {
        self.file(&format!("all-{round}.csv"), |path| customers(path, rows, round))
    }

    /// A working folder with compiled plugins: compiling happens once on a machine.
    fn work(&self, name: &str, schema: &str, connection: &str) -> anyhow::Result<PathBuf> {
        let work = self.folder.join(name);
        fs::create_dir_all(work.join("exchange/incoming"))?;
        fs::create_dir_all(work.join("connections"))?;
        fs::write(work.join("schema.toml"), schema)?;
        fs::write(work.join("connections/shop.toml"), connection)?;
        let mut compile = Command::new(&self.binary);
        run_command(
            compile.arg("-C").arg(&work).args(["run", "--json"]).stdout(Stdio::null()).stderr(Stdio::null()),
        )?;
        Ok(work)
    }

    /// Imports files under these names, and removes them.
    fn import(&self, work: &Path, files: &[(&Path, &str)], rows: u64) -> anyhow::Result<Cost> {
        let incoming = work.join("exchange/incoming");
        for (file, name) in files {
            fs::hard_link(file, incoming.join(name))?;
        }
        let mut command = Command::new(&self.binary);
        let Watched { report, wall, peak, written } =
            watched(command.arg("-C").arg(work).args(["run", "--json"]))?;
        let read = report.pointer("/rows/read").and_then(serde_json::Value::as_u64);
        if report.get("status") != Some(&"succeeded".into()) || read != Some(rows) {
            bail!("{report}");
        }
        for (_, name) in files {
            fs::remove_file(incoming.join(name))?;
        }
        Ok(Cost { seconds: wall, peak, written })
    }

    fn duckdb(&self, task: &str, database: &str, files: &[&Path]) -> anyhow::Result<Cost> {
        self.peer("duckdb_peer.py", task, database, files)
    }

    fn sqlite(&self, task: &str, database: &str, file: &Path) -> anyhow::Result<Cost> {
        self.peer("sqlite_peer.py", task, database, &[file])
    }

    fn peer(&self, script: &str, task: &str, database: &str, files: &[&Path]) -> anyhow::Result<Cost> {
        let mut command = Command::new(&self.python);
        command.arg(root().join("host/xtask/src/bench/peers").join(script)).arg(task);
        command.arg(self.folder.join(database)).args(files);
        let Watched { report, peak, written, .. } = watched(&mut command)?;
        let seconds = report.get("seconds").and_then(serde_json::Value::as_f64).context("no seconds")?;
        Ok(Cost { seconds, peak, written })
    }

    fn done(&mut self, name: impl Into<String>, rows: u64, measured: Vec<(&'static str, Cost)>) {
        let workload = Workload { name: name.into(), rows, measured };
        println!("{}", workload.name);
        for (name, cost) in &workload.measured {
            println!("  {name}: {:.0} rows/s, {} MB", workload.speed(cost), cost.peak / 1000);
        }
        self.workloads.push(workload);
    }

    /// Create, update in random order, export.
    fn customers(&mut self, rows: u64) -> anyhow::Result<()> {
        let (created, updated) = (self.round(rows, 0)?, self.round(rows, 1)?);
        let creating = [
            (CREATED_MERGED, "create-merged", "merged.duckdb"),
            (CREATED, "create", "plain.duckdb"),
            (KEYED, "create-keyed", "keyed.duckdb"),
        ];
        let updating =
            [(REWRITE_MERGED, "rewrite-merged", "merged.duckdb"), (REWRITE, "rewrite", "plain.duckdb")];
        let (mut create, mut update) = (Turns::default(), Turns::default());
        let mut work = PathBuf::new();
        for turn in 0..TURNS {
            self.forget(&["customers", "merged.duckdb", "plain.duckdb", "keyed.duckdb"])?;
            work = self.work("customers", SCHEMA, &five_rules(NORMALIZER))?;
            let file = (created.as_path(), "customers_1.csv");
            self.turn(turn, &mut create, (&work, file, rows), &creating)?;
            let file = (updated.as_path(), "customers_2.csv");
            self.turn(turn, &mut update, (&work, file, rows), &updating)?;
        }
        create.add(SCRIPT, self.sqlite("create", "script.sqlite", &created)?);
        self.done(format!("create {rows}"), rows, create.medians());
        update.add(UPSERT, self.duckdb("upsert", "keyed.duckdb", &[&updated])?);
        update.add(SCRIPT, self.sqlite("update", "script.sqlite", &updated)?);
        self.done(format!("update {rows} of {rows} in random order"), rows, update.medians());
        let columns =
            super::COLUMNS.map(|name| format!("[[export_profiles.columns]]\nproperty = \"{name}\"\n"));
        fs::write(
            work.join("connections/shop.toml"),
            format!(
                "[location]\nkind = \"directory\"\npath = \"exchange\"\n[[export_profiles]]\nname = \"all\"\n\
                 file = \"all.csv\"\n{}",
                columns.concat()
            ),
        )?;
        let mut command = Command::new(&self.binary);
        let ours = watched(command.arg("-C").arg(&work).args(["run", "--json"]))?;
        if ours.report.pointer("/rows/merged").and_then(serde_json::Value::as_u64) != Some(rows) {
            bail!("{}", ours.report);
        }
        let export = vec![
            (OURS, Cost { seconds: ours.wall, peak: ours.peak, written: ours.written }),
            ("DuckDB, copy", self.duckdb("export", "plain.duckdb", &[&self.folder.join("peer.csv")])?),
            (SCRIPT, self.sqlite("export", "script.sqlite", &self.folder.join("script.csv"))?),
        ];
        self.done(format!("export {rows}"), rows, export);
        self.forget(&[
            "customers",
            "merged.duckdb",
            "plain.duckdb",
            "keyed.duckdb",
            "script.sqlite",
            "peer.csv",
            "script.csv",
        ])
    }

    /// Gives each program a turn; each time, another one is first.
    fn turn(
        &self,
        turn: usize,
        turns: &mut Turns,
        (work, file, rows): (&Path, (&Path, &str), u64),
        peers: &[(&'static str, &str, &str)],
    ) -> anyhow::Result<()> {
        for place in 0..=peers.len() {
            match peers.get((place + turn) % (peers.len() + 1)) {
                Some((name, task, database)) => turns.add(name, self.duckdb(task, database, &[file.0])?),
                None => turns.add(OURS, self.import(work, &[file], rows)?),
            }
        }
        Ok(())
    }

    fn forget(&self, names: &[&str]) -> anyhow::Result<()> {
        for path in names.iter().map(|name| self.folder.join(name)) {
            if path.is_dir() {
                fs::remove_dir_all(&path)?;
            } else if path.exists() {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// A small file on a large store.
    fn few_onto_many(&mut self, few: u64, many: u64) -> anyhow::Result<()> {
        let created = self.file("many.csv", |path| customers(path, many, 0))?;
        let updated = self.file("few.csv", |path| some_customers(path, few, many, 1))?;
        let work = self.work("many", SCHEMA, &five_rules(NORMALIZER))?;
        let create = vec![
            (OURS, self.import(&work, &[(&created, "customers_1.csv")], many)?),
            (CREATED, self.duckdb("create", "many.duckdb", &[&created])?),
        ];
        self.done(format!("create {many}"), many, create);
        let update = vec![
            (OURS, self.import(&work, &[(&updated, "customers_2.csv")], few)?),
            (REWRITE, self.duckdb("rewrite", "many.duckdb", &[&updated])?),
        ];
        self.done(format!("{few} onto {many}"), few, update);
        self.forget(&["many", "many.duckdb"])
    }

    fn three_processors(&mut self, rows: u64) -> anyhow::Result<()> {
        let created = self.round(rows, 0)?;
        let mut create = Turns::default();
        for _ in 0..TURNS {
            for (name, processors) in [
                ("Sluicebox, no processor", String::new()),
                ("Sluicebox, 3 processors", format!("{NORMALIZER}{THREE}")),
            ] {
                let work = self.work("processors", SCHEMA, &five_rules(&processors))?;
                create.add(name, self.import(&work, &[(&created, "customers_1.csv")], rows)?);
                self.forget(&["processors"])?;
            }
        }
        self.done(format!("create {rows} through three processors"), rows, create.medians());
        Ok(())
    }

    /// Rows of 100 columns.
    fn wide(&mut self, rows: u64) -> anyhow::Result<()> {
        let names: Vec<String> = (0..99).map(|column| format!("c{column}")).collect();
        let file = self.file("wide.csv", |path| {
            let mut out = BufWriter::new(fs::File::create(path)?);
            writeln!(out, "email,{}", names.join(","))?;
            for row in 0..rows {
                let cells = (0..99).map(|column| format!("v{}", (row * 31 + column * 17) % 10_007));
                writeln!(out, "u{row}@example.com,{}", cells.collect::<Vec<_>>().join(","))?;
            }
            Ok(out.flush()?)
        })?;
        let schema: String = names.iter().map(|name| format!("[properties.{name}]\n")).collect();
        let schema = format!("[properties.email]\nunique = true\n{schema}");
        let connection = connection(NORMALIZER).replace(
            "[[import_profiles.fields]]\ncolumn = \"tags\"\nproperty = \"tags\"\nrule = \"set\"\nseparator = \"|\"\n",
            "",
        );
        let work = self.work("wide", &schema, &connection)?;
        let measured = vec![
            (OURS, self.import(&work, &[(&file, "customers_1.csv")], rows)?),
            ("DuckDB, create table", self.duckdb("wide", "wide.duckdb", &[&file])?),
        ];
        self.done(format!("create {rows} of 100 columns"), rows, measured);
        self.forget(&["wide", "wide.duckdb"])
    }

    /// Rows with four identifiers, each of which is looked up and stored.
    fn identifiers(&mut self, rows: u64) -> anyhow::Result<()> {
        let file = self.file("identifiers.csv", |path| {
            let mut out = BufWriter::new(fs::File::create(path)?);
            writeln!(out, "email,phone,loyalty,cookie,name")?;
            for row in 0..rows {
                writeln!(
                    out,
                    "u{row}@example.com,+3161{row:08},L{row},c{:016x},N",
                    row.wrapping_mul(0x9e37_79b9_7f4a_7c15)
                )?;
            }
            Ok(out.flush()?)
        })?;
        let names = ["email", "phone", "loyalty", "cookie"];
        let schema: String =
            names.iter().map(|name| format!("[properties.{name}]\nunique = true\n")).collect();
        let identifiers: String = names
            .iter()
            .map(|name| {
                format!("[[import_profiles.identifiers]]\ncolumn = \"{name}\"\nproperty = \"{name}\"\n")
            })
            .collect();
        let connection = format!(
            "[location]\nkind = \"directory\"\npath = \"exchange\"\n[[import_profiles]]\nname = \"customers\"\n\
             directory = \"incoming\"\nfiles = \"customers_*.csv\"\n{NORMALIZER}{identifiers}\
             [[import_profiles.fields]]\ncolumn = \"name\"\n"
        );
        let work = self.work("identifiers", &format!("{schema}[properties.name]\n"), &connection)?;
        let create = self.import(&work, &[(&file, "customers_1.csv")], rows)?;
        let again = self.import(&work, &[(&file, "customers_2.csv")], rows)?;
        let measured = vec![("Sluicebox, create", create), ("Sluicebox, find again", again)];
        self.done(format!("{rows} with four identifiers each"), rows, measured);
        self.forget(&["identifiers"])
    }

    /// People, three orders each, with two lines each: ten rows a person.
    fn linked(&mut self, people: u64) -> anyhow::Result<()> {
        let file = |name: &str, header: &str, rows: u64, row: &dyn Fn(u64) -> String| {
            self.file(name, |path| {
                let mut out = BufWriter::new(fs::File::create(path)?);
                writeln!(out, "{header}")?;
                (0..rows).try_for_each(|number| writeln!(out, "{}", row(number)))?;
                Ok(out.flush()?)
            })
        };
        let persons =
            file("people.csv", "customer,email,name", people, &|n| format!("p{n},u{n}@example.com,N{n}"))?;
        let orders = file("orders.csv", "id,customer,at,total", people * 3, &|n| {
            format!("o{n},p{},2026-{:02}-{:02}T08:00:00Z,{}.50", n % people, 1 + n % 12, 1 + n % 28, n % 500)
        })?;
        let lines = file("lines.csv", "order_id,sku,quantity", people * 6, &|n| {
            format!("o{},s{},{}", n % (people * 3), n % 1000, 1 + n % 4)
        })?;
        let schema = "[properties.email]\nunique = true\n[properties.customer]\n[properties.name]\n\
             [events.order.properties.total]\ntype = \"number\"\n[events.order.nested.lines.properties.sku]\n\
             [events.order.nested.lines.properties.quantity]\ntype = \"number\"\n";
        let connection = "[location]\nkind = \"directory\"\npath = \"exchange\"\n[[import_profiles]]\nname = \"customers\"\n\
             directory = \"incoming\"\nfiles = \"people_*.csv\"\n\
             [[import_profiles.linked]]\nname = \"orders\"\nfiles = \"orders_*.csv\"\ncolumn = \"customer\"\nparent_column = \"customer\"\n\
             [[import_profiles.linked]]\nname = \"lines\"\nfiles = \"lines_*.csv\"\ncolumn = \"order_id\"\nparent = \"orders\"\nparent_column = \"id\"\n\
             [[import_profiles.identifiers]]\ncolumn = \"email\"\nproperty = \"email\"\n\
             [[import_profiles.fields]]\ncolumn = \"name\"\n\
             [[import_profiles.events]]\ntype = \"order\"\nfile = \"orders\"\nid = \"id\"\ntime = \"at\"\nall_fields = true\n\
             nested = [ { name = \"lines\", file = \"lines\", all_fields = true } ]\n";
        let work = self.work("linked", schema, connection)?;
        let files = [
            (persons.as_path(), "people_1.csv"),
            (orders.as_path(), "orders_1.csv"),
            (lines.as_path(), "lines_1.csv"),
        ];
        let measured = vec![
            (OURS, self.import(&work, &files, people)?),
            ("DuckDB, join", self.duckdb("linked", "linked.duckdb", &[&persons, &orders, &lines])?),
        ];
        self.done(format!("{people} people with their orders and lines"), people * 10, measured);
        self.forget(&["linked", "linked.duckdb"])
    }

    /// The cost of a row in a store that is eight times as large. Updates of both stores take turns.
    fn large_store(&mut self, rows: u64, many: u64) -> anyhow::Result<()> {
        let created = self.round(rows, 0)?;
        let most = self.file("most.csv", |path| customers(path, many, 0))?;
        let small = self.work("small", SCHEMA, &five_rules(NORMALIZER))?;
        let large = self.work("large", SCHEMA, &five_rules(NORMALIZER))?;
        self.import(&small, &[(&created, "customers_0.csv")], rows)?;
        let create = self.import(&large, &[(&most, "customers_0.csv")], many)?;
        self.done(format!("create {many}"), many, vec![(OURS, create)]);
        let mut update = Turns::default();
        for turn in 1..=TURNS as u64 {
            let some =
                self.file(&format!("some-{turn}.csv"), |path| some_customers(path, rows, many, turn))?;
            let all = self.round(rows, turn)?;
            let name = format!("customers_{turn}.csv");
            update.add(OF_MANY, self.import(&large, &[(&some, &name)], rows)?);
            update.add(OF_FEW, self.import(&small, &[(&all, &name)], rows)?);
        }
        self.done(format!("update {rows} of {many}, and of {rows}, in random order"), rows, update.medians());
        self.forget(&["small", "large"])
    }

    /// Writes the table and the picture for the README.
    fn write(&self) -> anyhow::Result<()> {
        let mut text = format!(
            "# Figures\n\nWritten by `cargo xtask bench`: one run on {} cores, with everything durable at its end. The figures of peers do not include \
             the start of their interpreter. Ratios are stable; absolute figures vary with the machine. The figures of \
             the first two workloads, of three processors and of the last workload are medians of three turns. The script and \
             `on conflict` have one turn. DuckDB does the same work only where it says \"a person's rows merged\": elsewhere, a file that names a person twice makes \
             two profiles, or fails.\n\n![](pictures/bench.svg)\n\n\
             | workload | who | rows/s | Sluicebox is | peak MB | MB written |\n| --- | --- | --- | --- | --- | --- |\n",
            thread::available_parallelism()?
        );
        for workload in &self.workloads {
            let ours = workload.measured.first().map(|(_, cost)| workload.speed(cost)).unwrap_or_default();
            for (place, (name, cost)) in workload.measured.iter().enumerate() {
                let speed = workload.speed(cost);
                let ratio = if place == 0 { "–".to_owned() } else { format!("{:.2} ×", ours / speed) };
                text.push_str(&format!(
                    "| {} | {name} | {speed:.0} | {ratio} | {} | {} |\n",
                    workload.name,
                    cost.peak / 1000,
                    cost.written / 1_000_000
                ));
            }
        }
        fs::write(root().join("docs/bench.md"), &text)?;
        fs::write(root().join("docs/pictures/bench.svg"), picture::draw(&self.workloads))?;
        println!("\n{text}");
        Ok(())
    }
}
