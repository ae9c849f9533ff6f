//! `sluicebox plugin test`: runs samples through the real host, under its limits.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use console::style;
use sluicebox_files::{CsvOptions, RowWriter};
use sluicebox_model::Verdict;
use sluicebox_processors::Plugin;

use super::sample::{self, Sample};
use crate::error::Error;
use crate::output::{print, print_marked};

/// Rows of a batch, as in an import.
const BATCH_ROWS: usize = 1024;

/// A table as text: rows of cells, the header first.
type Table = Vec<Vec<String>>;

/// Runs every sample and compares the result with the expected one. Answers 1 if a sample fails or differs.
///
/// # Errors
/// If the plugin does not build, or has no samples.
pub(super) fn run(folder: &Path, component: Option<&Path>, bless: bool) -> Result<u8, Error> {
    let plugin = sample::load(folder, component)?;
    let mut failed = false;
    for sample in sample::all(folder)? {
        let name = sample.csv.strip_prefix(folder).unwrap_or(&sample.csv).display().to_string();
        match outcome(&plugin, &sample, bless) {
            Ok(_) if bless => print_marked(&style("written").yellow(), &name)?,
            Ok(differences) if differences.is_empty() => print_marked(&style("ok").green(), &name)?,
            Ok(differences) => {
                failed = true;
                print_marked(&style("differs").red(), &name)?;
                differences.iter().try_for_each(|difference| print(format!("  {difference}")))?;
            }
            // The other samples may still tell something.
            Err(error) => {
                failed = true;
                print_marked(&style("failed").red(), &name)?;
                print(format!("  {error}"))?;
            }
        }
    }
    Ok(u8::from(failed))
}

/// Runs a sample; answers with the differences from the expected result, or writes that with `bless`.
fn outcome(plugin: &Plugin, sample: &Sample, bless: bool) -> Result<Vec<String>, Error> {
    let (kept, rejected) = process(plugin, sample)?;
    let expected = sample.csv.with_extension("expected.csv");
    let expected_rejected = sample.csv.with_extension("rejected.csv");
    let mut differences = Vec::new();
    for (place, found) in [(&expected, &kept), (&expected_rejected, &rejected)] {
        let is_needed = place == &expected || found.len() > 1;
        if bless {
            if is_needed {
                write(place, found).map_err(|error| Error::io(place, error))?;
            } else if place.exists() {
                fs::remove_file(place).map_err(|error| Error::io(place, error))?;
            }
        } else if !place.exists() && is_needed {
            differences.push(format!("{} is missing; --bless writes it", place.display()));
        } else if place.exists() {
            differences.extend(compare(place, found)?);
        }
    }
    Ok(differences)
}

/// The rows that go on, and the rejected rows with line, code and reason.
fn process(plugin: &Plugin, sample: &Sample) -> Result<(Table, Table), Error> {
    let (header, batches) = sample::read(&sample.csv, BATCH_ROWS)?;
    let mut session = sample.open(plugin, &sample.config()?, &header)?;
    let columns: Vec<String> = header.iter().chain(session.added()).cloned().collect();
    let reasons = ["_line", "_code", "_reason"].map(str::to_owned);
    let mut rejected = vec![header.iter().cloned().chain(reasons).collect::<Vec<_>>()];
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

/// Differences that are shown.
const MAX_DIFFERENCES: usize = 20;
/// How many rows are searched for the place where two tables agree again.
const SEARCHED_ROWS: usize = 50;

/// The differences between a file and a table: cells, and rows that are missing or too many.
fn compare(place: &Path, found: &Table) -> Result<Vec<String>, Error> {
    let (header, batches) = sample::read(place, BATCH_ROWS)?;
    let rows = batches.iter().flat_map(|batch| {
        (0..batch.rows()).map(|row| {
            (0..batch.header().columns.len()).map(|column| batch.raw(row, column).to_owned()).collect()
        })
    });
    let expected: Table = std::iter::once(header).chain(rows).collect();
    let names = |table: &Table| table.first().map_or(String::new(), |names| names.join(", "));
    if expected.first() != found.first() {
        return Ok(vec![format!(
            "columns: expected {}, found {}",
            style(names(&expected)).green(),
            style(names(found)).red()
        )]);
    }
    let file = place.file_name().unwrap_or_default().to_string_lossy();
    let columns = found.first().map(Vec::as_slice).unwrap_or_default();
    let mut differences = Differences { count: 0, shown: Vec::new() };
    for step in align(expected.get(1..).unwrap_or_default(), found.get(1..).unwrap_or_default()) {
        match step {
            Step::Both { row, expected, found } => {
                for (column, (expected, found)) in columns.iter().zip(expected.iter().zip(found)) {
                    if expected != found {
                        differences.add(|| {
                            format!(
                                "{file}, row {row}, `{column}`: expected {}, found {}",
                                style(format!("{expected:?}")).green(),
                                style(format!("{found:?}")).red(),
                            )
                        });
                    }
                }
            }
            Step::Missing { row, expected } => differences
                .add(|| format!("{file}, row {row} is missing: {}", style(format!("{expected:?}")).green())),
            Step::Unexpected { row, found } => differences.add(|| {
                format!("{file}, an unexpected row before row {row}: {}", style(format!("{found:?}")).red())
            }),
        }
    }
    Ok(differences.finish())
}

/// The first differences, and how many there are.
struct Differences {
    count: usize,
    shown: Vec<String>,
}

impl Differences {
    fn add(&mut self, difference: impl FnOnce() -> String) {
        if self.count < MAX_DIFFERENCES {
            self.shown.push(difference());
        }
        self.count += 1;
    }

    fn finish(mut self) -> Vec<String> {
        if self.count > MAX_DIFFERENCES {
            self.shown.push(format!("and {} more", self.count - MAX_DIFFERENCES));
        }
        self.shown
    }
}

/// A row of the expected table, of the found one, or of both. Rows are those of the expected table, counted from 1.
#[derive(Debug, PartialEq)]
enum Step<'t> {
    Both { row: usize, expected: &'t [String], found: &'t [String] },
    Missing { row: usize, expected: &'t [String] },
    Unexpected { row: usize, found: &'t [String] },
}

/// Pairs the rows of two tables. After rows that differ, the tables go on where they agree again, if they do within the next
/// [`SEARCHED_ROWS`]: one missing row does not shift all others.
fn align<'t>(expected: &'t [Vec<String>], found: &'t [Vec<String>]) -> Vec<Step<'t>> {
    let mut steps = Vec::with_capacity(expected.len());
    let (mut of_expected, mut of_found) = (0, 0);
    while of_expected < expected.len() || of_found < found.len() {
        let (left, right) = (expected.get(of_expected..), found.get(of_found..));
        let (left, right) = (left.unwrap_or_default(), right.unwrap_or_default());
        // Tables that do not agree again within reach are paired row by row, as far as both have rows.
        let (missing, unexpected) = agreement(left, right).unwrap_or((left.len().min(1), right.len().min(1)));
        let paired = missing.min(unexpected).max(usize::from(missing == 0 && unexpected == 0));
        for (offset, (expected, found)) in left.iter().zip(right).take(paired).enumerate() {
            steps.push(Step::Both { row: of_expected + offset + 1, expected, found });
        }
        for (offset, expected) in left.iter().enumerate().take(missing).skip(paired) {
            steps.push(Step::Missing { row: of_expected + offset + 1, expected });
        }
        for found in right.iter().take(unexpected).skip(paired) {
            steps.push(Step::Unexpected { row: of_expected + paired + 1, found });
        }
        of_expected += missing.max(paired);
        of_found += unexpected.max(paired);
    }
    steps
}

/// How many rows of each table come before the nearest rows in which they agree.
fn agreement(expected: &[Vec<String>], found: &[Vec<String>]) -> Option<(usize, usize)> {
    (0..SEARCHED_ROWS).find_map(|distance| {
        // Of places that are equally far, those that change rows and leave none out come first.
        let mut places: Vec<(usize, usize)> =
            (0..=distance).map(|missing| (missing, distance - missing)).collect();
        places.sort_by_key(|(missing, unexpected)| missing.abs_diff(*unexpected));
        places.into_iter().find(|(missing, unexpected)| {
            expected.get(*missing).is_some_and(|row| found.get(*unexpected) == Some(row))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[&str]) -> Table {
        rows.iter().map(|row| vec![(*row).to_owned()]).collect()
    }

    /// The steps as text: `a` equal, `a>b` changed, `-a` missing, `+a` unexpected.
    fn check(expected: &[&str], found: &[&str], steps: &str) {
        let (expected, found) = (table(expected), table(found));
        let shown = align(&expected, &found).into_iter().map(|step| match step {
            Step::Both { expected, found, .. } if expected == found => expected.concat(),
            Step::Both { expected, found, .. } => format!("{}>{}", expected.concat(), found.concat()),
            Step::Missing { expected, .. } => format!("-{}", expected.concat()),
            Step::Unexpected { found, .. } => format!("+{}", found.concat()),
        });
        assert_eq!(shown.collect::<Vec<_>>().join(" "), steps);
    }

    #[test]
    fn rows_are_paired_where_they_agree() {
        check(&["a", "b", "c"], &["a", "b", "c"], "a b c");
        check(&["a", "b", "c"], &["a", "x", "c"], "a b>x c");
        check(&["a", "b", "c"], &["a", "c"], "a -b c");
        check(&["a", "c"], &["a", "b", "c"], "a +b c");
        check(&["a", "b"], &["a"], "a -b");
        check(&["a"], &["a", "b"], "a +b");
        check(&["a", "b"], &["x", "y"], "a>x b>y");
        check(&[], &["x"], "+x");
        check(&["a", "b", "c", "d"], &["x", "c", "d"], "a>x -b c d");
    }

    #[test]
    fn one_missing_row_is_one_difference() {
        let rows: Vec<String> = (0..20_000).map(|row| row.to_string()).collect();
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        let (expected, found) = (table(&rows), table(&[&rows[..7], &rows[8..]].concat()));
        let differ: Vec<Step<'_>> = align(&expected, &found)
            .into_iter()
            .filter(|step| !matches!(step, Step::Both { expected, found, .. } if expected == found))
            .collect();
        assert_eq!(differ, [Step::Missing { row: 8, expected: &["7".to_owned()] }]);
    }
}
