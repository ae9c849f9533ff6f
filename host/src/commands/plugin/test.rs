//! `sluicebox plugin test`: samples through the real host, under its limits.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use console::style;
use sluicebox_files::{CsvOptions, RowWriter};
use sluicebox_model::Verdict;
use sluicebox_processors::Plugin;

use super::sample::{self, Sample};
use crate::cli::print;
use crate::error::Error;

/// Rows of a batch, as an import has them.
const BATCH_ROWS: usize = 1024;

/// A table as text: rows of cells, the header first.
type Table = Vec<Vec<String>>;

/// Runs every sample and compares what comes out with what is expected; answers 1 if anything differs.
///
/// # Errors
/// If the plugin does not build, or a sample cannot be read.
pub(super) fn run(folder: &Path, component: Option<&Path>, bless: bool) -> Result<u8, Error> {
    let plugin = sample::load(folder, component)?;
    let mut failed = false;
    for sample in sample::all(folder)? {
        let name = sample.csv.strip_prefix(folder).unwrap_or(&sample.csv).display().to_string();
        let (kept, rejected) = process(&plugin, &sample)?;
        let expected = sample.csv.with_extension("expected.csv");
        let expected_rejected = sample.csv.with_extension("rejected.csv");
        let mut differences = Vec::new();
        for (place, found) in [(&expected, &kept), (&expected_rejected, &rejected)] {
            let needed = place == &expected || found.len() > 1;
            if bless {
                if needed {
                    write(place, found).map_err(|error| Error::io(place, error))?;
                } else if place.exists() {
                    fs::remove_file(place).map_err(|error| Error::io(place, error))?;
                }
            } else if !place.exists() && needed {
                differences.push(format!("{} is missing; --bless writes it", place.display()));
            } else if place.exists() {
                differences.extend(compare(place, found)?);
            }
        }
        match (bless, differences.is_empty()) {
            (true, _) => print(format!("{}: {name}", style("written").yellow()))?,
            (false, true) => print(format!("{}: {name}", style("ok").green()))?,
            (false, false) => {
                failed = true;
                print(format!("{}: {name}", style("differs").red()))?;
                differences.iter().try_for_each(|difference| print(format!("  {difference}")))?;
            }
        }
    }
    Ok(u8::from(failed))
}

/// The rows that go on, and those that are rejected with line, code and reason.
fn process(plugin: &Plugin, sample: &Sample) -> Result<(Table, Table), Error> {
    let (header, batches) = sample::read(&sample.csv, BATCH_ROWS)?;
    let mut session = plugin.open("", &sample.config, &header).map_err(|error| sample.failed(None, error))?;
    let columns: Vec<String> = header.iter().chain(session.added()).cloned().collect();
    let said = ["_line", "_code", "_reason"].map(str::to_owned);
    let mut rejected = vec![header.iter().cloned().chain(said).collect::<Vec<_>>()];
    let mut kept = vec![columns.clone()];
    for (number, mut batch) in (1..).zip(batches) {
        session.process(&mut batch).map_err(|error| sample.failed(Some(number), error))?;
        for row in 0..batch.rows() {
            match batch.verdict(row) {
                Verdict::Keep => {
                    kept.push((0..columns.len()).map(|column| batch.cell(row, column).to_owned()).collect());
                }
                Verdict::Drop => {}
                Verdict::Reject { code, reason } => {
                    let mut cells: Vec<String> =
                        (0..header.len()).map(|column| batch.raw(row, column).to_owned()).collect();
                    cells.extend([batch.place(row).1.to_string(), code.clone(), reason.clone()]);
                    rejected.push(cells);
                }
            }
        }
    }
    Ok((kept, rejected))
}

fn write(place: &Path, table: &Table) -> std::io::Result<()> {
    let mut out = RowWriter::new(BufWriter::new(File::create(place)?), &CsvOptions::default());
    table.iter().try_for_each(|row| out.write(row.iter().map(String::as_str)))?;
    out.get_mut().flush()
}

/// What differs, cell by cell.
fn compare(place: &Path, found: &Table) -> Result<Vec<String>, Error> {
    const MOST: usize = 20;
    let (header, batches) = sample::read(place, BATCH_ROWS)?;
    let rows = batches.iter().flat_map(|batch| {
        (0..batch.rows()).map(|row| {
            (0..batch.header().columns.len()).map(|column| batch.raw(row, column).to_owned()).collect()
        })
    });
    let expected: Table = std::iter::once(header).chain(rows).collect();
    let mut differences = Vec::new();
    if expected.first() != found.first() {
        let names = |table: &Table| table.first().map_or(String::new(), |names| names.join(", "));
        differences.push(format!(
            "columns: expected {}, found {}",
            style(names(&expected)).green(),
            style(names(found)).red()
        ));
        return Ok(differences);
    }
    let columns = found.first().cloned().unwrap_or_default();
    for (row, (expected, found)) in expected.iter().zip(found).enumerate().skip(1) {
        for (column, (expected, found)) in columns.iter().zip(expected.iter().zip(found)) {
            if expected != found {
                differences.push(format!(
                    "{}, row {row}, `{column}`: expected {}, found {}",
                    place.file_name().unwrap_or_default().to_string_lossy(),
                    style(format!("{expected:?}")).green(),
                    style(format!("{found:?}")).red(),
                ));
            }
        }
    }
    if expected.len() != found.len() {
        let (expected, found) = (expected.len().saturating_sub(1), found.len().saturating_sub(1));
        differences.push(format!(
            "{}: expected {} rows, found {}",
            place.file_name().unwrap_or_default().to_string_lossy(),
            style(expected).green(),
            style(found).red()
        ));
    }
    if differences.len() > MOST {
        let more = differences.len() - MOST;
        differences.truncate(MOST);
        differences.push(format!("and {more} more"));
    }
    Ok(differences)
}
