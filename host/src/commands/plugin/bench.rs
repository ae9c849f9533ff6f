//! `sluicebox plugin bench`.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use sluicebox_model::RecordBatch;

use super::sample::{self, Sample};
use crate::error::Error;
use crate::output::print;

/// Rows of a call, as in an import.
const ROWS: usize = 1024;
/// Calls of a round.
const CALLS: u32 = 100;
/// The best of these rounds counts: other work on the machine is no cost of the plugin.
const ROUNDS: u32 = 100;
/// Calls before the first round.
const WARM_UP: u32 = 200;

/// Measures a plugin on its first sample, whose rows it repeats to fill a batch. If the folder has
/// `examples/native.rs`, which calls `sluicebox_sdk::testing::bench`, measures the same code without the sandbox too.
///
/// # Errors
/// If the plugin does not build, or fails.
pub(super) fn run(folder: &Path, component: Option<&Path>, json: bool) -> Result<u8, Error> {
    let plugin = sample::load(folder, component)?;
    let samples = sample::all(folder)?;
    let Some(sample) = samples.first() else { return Ok(0) };
    let (header, rows) = rows(sample)?;
    let config = sample.config()?;
    let mut session = sample.open(&plugin, &config, &header)?;
    let mut round = |calls: u32| {
        let mut nanoseconds = 0;
        for call in 0..calls {
            let mut batch = batch(&header, &rows)?;
            let begun = Instant::now();
            session.process(&mut batch).map_err(|error| sample.failed(Some(call.into()), error))?;
            nanoseconds += begun.elapsed().as_nanos();
        }
        Ok::<_, Error>(u64::try_from(nanoseconds).unwrap_or(u64::MAX) / u64::from(calls))
    };
    round(WARM_UP)?;
    let mut per_call = u64::MAX;
    for _ in 0..ROUNDS {
        per_call = per_call.min(round(CALLS)?);
    }
    let native = native(folder, (&config, &header, &rows))?;
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let per_row = |per_call: u64| per_call as f64 / ROWS as f64;
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let ratio = native.map(|native| per_call as f64 / native.max(1) as f64);
    if json {
        print(json!({
            "plugin": plugin.name(), "rows": ROWS, "ns_per_call": per_call, "ns_per_row": per_row(per_call),
            "native_ns_per_call": native, "native_ns_per_row": native.map(per_row), "ratio": ratio,
        }))?;
        return Ok(0);
    }
    print(format!("sandboxed: {per_call} ns a call of {ROWS} rows, {:.1} ns a row", per_row(per_call)))?;
    if let (Some(native), Some(ratio)) = (native, ratio) {
        print(format!("native:    {native} ns a call, {:.1} ns a row; ratio {ratio:.2}", per_row(native)))?;
    }
    Ok(0)
}

/// The header, and the rows of one call.
fn rows(sample: &Sample) -> Result<(Vec<String>, Vec<Vec<String>>), Error> {
    let (header, batches) = sample::read(&sample.csv, ROWS)?;
    let rows: Vec<Vec<String>> = batches
        .iter()
        .flat_map(|batch| {
            (0..batch.rows())
                .map(|row| (0..header.len()).map(|column| batch.cell(row, column).to_owned()).collect())
        })
        .collect();
    if rows.is_empty() {
        return Err(Error::Usage(format!("{} has no rows", sample.csv.display())));
    }
    Ok((header, rows.iter().cycle().take(ROWS).cloned().collect()))
}

fn batch(header: &[String], rows: &[Vec<String>]) -> Result<RecordBatch, Error> {
    let (mut text, mut ends) = (String::new(), Vec::with_capacity(rows.len() * header.len()));
    for cell in rows.iter().flatten() {
        text.push_str(cell);
        ends.push(u32::try_from(text.len()).unwrap_or(u32::MAX));
    }
    let columns = sluicebox_model::Header { columns: header.to_vec(), trim: true, null_values: Vec::new() };
    let places = (0..rows.len() as u64).map(|row| (row, row + 2)).collect();
    let batch = RecordBatch::new(columns.into(), text, ends, places, Vec::new(), rows.len() as u64);
    batch.ok_or_else(|| {
        Error::Usage("the rows of the sample have more or fewer cells than its header".to_owned())
    })
}

/// Nanoseconds a call without the sandbox, if the plugin has an example that measures them.
fn native(
    folder: &Path,
    (config, header, rows): (&str, &[String], &[Vec<String>]),
) -> Result<Option<u64>, Error> {
    if !folder.join("examples/native.rs").is_file() {
        return Ok(None);
    }
    let input = json!({
        "config": config, "header": header, "rows": rows, "warm_up": WARM_UP, "calls": CALLS, "rounds": ROUNDS,
    });
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["run", "--quiet", "--release", "--example", "native"]).current_dir(folder);
    let io = |error| Error::io(Path::new("cargo"), error);
    let mut child = cargo.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(io)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.to_string().as_bytes()).map_err(io)?;
    }
    let output = child.wait_with_output().map_err(io)?;
    let result = serde_json::from_slice::<Value>(&output.stdout).ok();
    let per_call = result.as_ref().and_then(|result| result.get("ns_per_call")).and_then(Value::as_u64);
    match per_call {
        Some(per_call) if output.status.success() => Ok(Some(per_call)),
        _ => Err(Error::Failed(format!("{}: the native example fails", folder.display()))),
    }
}
