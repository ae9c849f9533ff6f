//! Measures imports and exports on this machine. Speed is never a test: people judge the printed figures.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

mod picture;
pub(crate) mod suite;

use crate::data::{NORMALIZER, SCHEMA, connection, customers};
use crate::shell::{cargo, run as run_command, target};
use crate::{plugins, setup};

/// Two more processors with light work on one column each.
const THREE: &str = r#"
[[import_profiles.processors]]
plugin = "row-filter"
config = { drop_if = { column = "country", equals = "XX" } }

[[import_profiles.processors]]
plugin = "field-transform"
config = { steps = [ { column = "first_name", case = "upper" } ] }
"#;

pub(crate) fn run(rows: u64) -> anyhow::Result<()> {
    let binary = host()?;
    let folder = target()?.join("bench");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    println!("{rows} rows of 12 columns; release build; {} threads", thread::available_parallelism()?);
    println!();
    println!("| import | rows/s | wall s | peak MB | parse s | processors s | match+merge s | commit s |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for (name, processors) in [
        ("no processor", String::new()),
        ("1 processor", NORMALIZER.to_owned()),
        ("3 processors", format!("{NORMALIZER}{THREE}")),
    ] {
        let work = folder.join(name.replace(' ', "-"));
        let incoming = work.join("exchange/incoming");
        fs::create_dir_all(&incoming)?;
        fs::create_dir_all(work.join("connections"))?;
        fs::write(work.join("schema.toml"), SCHEMA)?;
        fs::write(work.join("connections/shop.toml"), connection(&processors))?;
        // Compiles the plugins, which happens once on a machine and not once an import.
        run_command(
            Command::new(&binary).arg("-C").arg(&work).args(["run", "--json"]).stdout(Stdio::null()),
        )?;
        let (first, second) = (incoming.join("customers_1.csv"), incoming.join("customers_2.csv"));
        customers(&first, rows, 0)?;
        measure(&binary, &work, &format!("{name}: create"), rows)?;
        fs::remove_file(&first)?;
        customers(&second, rows, 1)?;
        measure(&binary, &work, &format!("{name}: update, random order"), rows)?;
        fs::rename(&second, incoming.join("customers_3.csv"))?;
        measure(&binary, &work, &format!("{name}: the same rows again"), rows)?;
        measure(&binary, &work, &format!("{name}: the same file again"), 0)?;
        fs::remove_dir_all(&work)?;
    }
    Ok(())
}

/// Exports all profiles, in several forms, and then a thousand changed ones.
pub(crate) fn export(rows: u64) -> anyhow::Result<()> {
    let binary = host()?;
    let work = target()?.join("bench-export");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    let incoming = work.join("exchange/incoming");
    fs::create_dir_all(&incoming)?;
    fs::create_dir_all(work.join("connections"))?;
    fs::write(
        work.join("schema.toml"),
        format!("{SCHEMA}\n[segments.dutch]\nwhere = \"profile.country == 'NL'\"\n"),
    )?;
    fs::write(work.join("connections/shop.toml"), connection(NORMALIZER))?;
    let columns: String =
        COLUMNS.iter().map(|name| format!("[[export_profiles.columns]]\nproperty = \"{name}\"\n")).collect();
    let goal = |name: &str, more: &str| {
        format!("[[export_profiles]]\nname = \"{name}\"\nfile = \"{name}.csv\"\n{more}{columns}")
    };
    let location = "[location]\nkind = \"directory\"\npath = \"exchange\"\n";
    let normalizer = NORMALIZER.replace("import_profiles", "export_profiles");
    let goals = [
        goal("all", ""),
        goal("zstd", "compression = \"zstd\"\n"),
        goal("segment", "segment = \"dutch\"\n"),
        goal("processor", &normalizer).replacen(&normalizer, "", 1) + &normalizer,
    ];
    fs::write(work.join("connections/out.toml"), format!("{location}{}", goals.concat()))?;
    customers(&incoming.join("customers_1.csv"), rows, 0)?;
    let import = || run_command(Command::new(&binary).arg("-C").arg(&work).args(["run", "shop"]));
    import()?;
    println!("\n{rows} profiles of 12 columns; {} threads\n", thread::available_parallelism()?);
    println!("| export | profiles | profiles/s | wall s | peak MB |");
    println!("| --- | --- | --- | --- | --- |");
    for name in ["all", "zstd", "segment", "processor"] {
        exported(&binary, &work, name, name, rows)?;
    }
    customers(&incoming.join("customers_2.csv"), rows, 1)?;
    let changed = fs::read_to_string(incoming.join("customers_2.csv"))?;
    fs::write(incoming.join("customers_2.csv"), changed.lines().take(1001).collect::<Vec<_>>().join("\n"))?;
    import()?;
    exported(&binary, &work, "all", "1000 that changed", 1000)?;
    fs::remove_dir_all(&work)?;
    Ok(())
}

const COLUMNS: [&str; 12] = [
    "id",
    "email",
    "first_name",
    "last_name",
    "phone",
    "city",
    "country",
    "birthdate",
    "lifetime_spend",
    "score",
    "tags",
    "updated_at",
];

fn exported(binary: &Path, work: &Path, goal: &str, name: &str, looked_at: u64) -> anyhow::Result<()> {
    let mut command = Command::new(binary);
    command.arg("-C").arg(work).args(["run", "out", "--json", "--goal", goal]);
    let Watched { report, wall, peak, .. } = watched(&mut command)?;
    let Some(rows) =
        report.pointer("/rows/merged").filter(|_| report.get("status") == Some(&"succeeded".into()))
    else {
        bail!("{name}: {report}");
    };
    println!("| {name} | {rows} | {:.0} | {wall:.2} | {} |", looked_at as f64 / wall, peak / 1000);
    Ok(())
}

/// SeaweedFS allows everything without credentials: it listens only on the loopback address.
const IDENTITIES: &str = r#"{"identities": [
  {"name": "anonymous", "actions": ["Admin", "Read", "Write", "List"]},
  {"name": "bench", "credentials": [{"accessKey": "bench", "secretKey": "bench"}], "actions": ["Admin", "Read", "Write", "List"]}
]}"#;
const PORT: u16 = 18_333;

/// Imports one file from a folder and from a bucket.
pub(crate) fn bucket(rows: u64) -> anyhow::Result<()> {
    let binary = host()?;
    let weed = setup::seaweedfs()?;
    let folder = target()?.join("bench-s3");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let (incoming, data) = (folder.join("exchange/incoming"), folder.join("seaweedfs"));
    fs::create_dir_all(&incoming)?;
    fs::create_dir_all(&data)?;
    let file = incoming.join("customers_1.csv");
    customers(&file, rows, 0)?;
    fs::write(data.join("identities.json"), IDENTITIES)?;
    let server = Command::new(weed)
        .arg("server")
        .arg(format!("-dir={}", data.display()))
        .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=100", "-s3"])
        .arg(format!("-s3.port={PORT}"))
        .arg(format!("-s3.config={}", data.join("identities.json").display()))
        .stderr(Stdio::null())
        .spawn()?;
    let mut server = Server(server);
    let url = format!("http://127.0.0.1:{PORT}/bench");
    let curl = |arguments: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--fail",
            "--retry",
            "30",
            "--retry-all-errors",
            "--retry-delay",
            "1",
        ]);
        run_command(curl.args(arguments))
    };
    curl(&["-X", "PUT", &url])?;
    curl(&["-T", &file.display().to_string(), &format!("{url}/incoming/customers_1.csv")])?;
    println!("{rows} rows, {} MB; SeaweedFS on the same machine", fs::metadata(&file)?.len() / 1_000_000);
    println!();
    println!("| import | rows/s | wall s | peak MB | parse s | processors s | match+merge s | commit s |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let location = format!(
        "kind = \"s3\"\nbucket = \"bench\"\npath_style = true\nendpoint = \"http://127.0.0.1:{PORT}\"\n\
         access_key_id = \"bench\"\nsecret_access_key = \"bench\""
    );
    let directory =
        format!("kind = \"directory\"\npath = {:?}", folder.join("exchange").display().to_string());
    for (name, location) in [("folder", directory), ("bucket", location)] {
        let work = folder.join(name);
        fs::create_dir_all(work.join("connections"))?;
        fs::write(work.join("schema.toml"), SCHEMA)?;
        let connection =
            connection(NORMALIZER).replace("kind = \"directory\"\npath = \"exchange\"", &location);
        fs::write(work.join("connections/shop.toml"), connection)?;
        measure(&binary, &work, name, rows)?;
    }
    server.stop();
    fs::remove_dir_all(&folder)?;
    Ok(())
}

/// A server that is killed when the benchmark ends, or fails.
struct Server(std::process::Child);

impl Server {
    fn stop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The host with the bundled plugins.
pub(crate) fn host() -> anyhow::Result<PathBuf> {
    setup::clang()?;
    plugins::build()?;
    run_command(&mut cargo(&["build", "--release", "--workspace"])?)?;
    Ok(target()?.join("release/sluicebox"))
}

fn measure(binary: &Path, work: &Path, name: &str, rows: u64) -> anyhow::Result<()> {
    let mut command = Command::new(binary);
    let Watched { report, wall, peak, .. } = watched(command.arg("-C").arg(work).args(["run", "--json"]))?;
    if report.get("status") != Some(&"succeeded".into()) || report.pointer("/rows/read") != Some(&rows.into())
    {
        bail!("{name}: {report}");
    }
    let seconds = |stage: &str| {
        let milliseconds = report.pointer(&format!("/stages_ms/{stage}")).and_then(Value::as_f64);
        milliseconds.unwrap_or_default() / 1000.0
    };
    let speed = if rows == 0 { "-".to_owned() } else { format!("{:.0}", rows as f64 / wall) };
    println!(
        "| {name} | {speed} | {wall:.2} | {} | {:.2} | {:.2} | {:.2} | {:.2} |",
        peak / 1000,
        seconds("parse"),
        seconds("processors"),
        seconds("match_and_merge"),
        seconds("commit"),
    );
    Ok(())
}

/// Runs a program that prints one JSON object.
fn watched(command: &mut Command) -> anyhow::Result<Watched> {
    // Writes of earlier programs must not count for this one.
    run_command(&mut Command::new("sync"))?;
    let begun = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let (status, io) =
        (PathBuf::from(format!("/proc/{}/status", child.id())), format!("/proc/{}/io", child.id()));
    let ended = AtomicBool::new(false);
    let (wall, (peak, written)) = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let (mut peak, mut written) = (0, 0);
            while !ended.load(Ordering::Relaxed) {
                peak = peak.max(field(&status, "VmHWM:").unwrap_or_default());
                written = written.max(field(Path::new(&io), "write_bytes:").unwrap_or_default());
                // Reading these files stops the process for a moment.
                thread::sleep(Duration::from_millis(10));
            }
            (peak, written)
        });
        let waited = child.wait().map(|_| begun.elapsed().as_secs_f64());
        ended.store(true, Ordering::Relaxed);
        Ok::<_, anyhow::Error>((waited?, watch.join().unwrap_or_default()))
    })?;
    let mut line = String::new();
    child.stdout.take().context("no output")?.read_to_string(&mut line)?;
    let report = serde_json::from_str(&line).context(line.clone())?;
    Ok(Watched { report, wall, peak, written })
}

/// The report of a process, and its cost.
struct Watched {
    report: Value,
    /// Seconds.
    wall: f64,
    /// Peak memory, in kB.
    peak: u64,
    /// Bytes written to the disk.
    written: u64,
}

/// A number in a file of `/proc`.
fn field(file: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// Imports through the service, without and with 200 readers of its page and its API.
pub(crate) fn readers(rows: u64) -> anyhow::Result<()> {
    let binary = host()?;
    let folder = target()?.join("bench-readers");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let file = folder.join("customers_1.csv");
    fs::create_dir_all(&folder)?;
    customers(&file, rows, 0)?;
    println!("| import of {rows} rows | seconds | answers | errors |\n| --- | --- | --- | --- |");
    for (name, count) in [("alone", 0), ("200 readers", 200), ("alone", 0), ("200 readers", 200)] {
        let work = folder.join("work");
        fs::create_dir_all(work.join("exchange/incoming"))?;
        fs::create_dir_all(work.join("connections"))?;
        fs::write(work.join("schema.toml"), SCHEMA)?;
        fs::write(work.join("connections/shop.toml"), connection(NORMALIZER))?;
        fs::hard_link(&file, work.join("exchange/incoming/customers_1.csv"))?;
        let mut command = Command::new(setup::duckdb()?);
        command.arg(crate::shell::root().join("host/xtask/src/bench/readers.py")).arg(&binary).arg(&work);
        let Watched { report, .. } = watched(command.arg(count.to_string()))?;
        let figure = |name: &str| report.get(name).cloned().unwrap_or_default();
        println!("| {name} | {} | {} | {} |", figure("seconds"), figure("answers"), figure("errors"));
        fs::remove_dir_all(&work)?;
    }
    fs::remove_dir_all(&folder)?;
    Ok(())
}
