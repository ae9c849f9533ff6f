//! The rows of linked files: kept in a scratch store by the value that links them, and joined to the rows of the root
//! file, level by level.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use sluicebox_files::FoundFile;
use sluicebox_model::{Column, LinkedRow, LinkedRows, RecordBatch, RejectedRow, Verdict};
use sluicebox_store::{Scratch, StoreError};

use crate::error::Error;
use crate::import::{Clock, Import, Work};
use crate::plan::{Link, LinkedColumns, Resolver};
use crate::report;
use crate::sets::FileSet;

const SCRATCH: &str = "sluicebox-scratch-";

/// Takes away the linked rows that a process left which died. Nobody else is at work: the store is locked.
///
/// # Errors
/// If a folder cannot be removed.
pub(crate) fn clear(data: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(data).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(SCRATCH) {
            fs::remove_dir_all(entry.path()).map_err(|error| Error::io(&entry.path(), error))?;
        }
    }
    Ok(())
}

/// The linked files of a root file, ready to be joined to its rows.
pub(crate) struct LinkedFiles {
    scratch: Option<Scratch>,
    columns: Vec<LinkedColumns>,
    /// The linked rows of one batch of root rows may take so much memory.
    most_bytes: usize,
    /// Rows read, dropped and rejected; and those whose link is empty.
    counts: report::LinkedRows,
}

/// Rows of a linked file that go into the scratch store.
struct Loaded {
    rows: Vec<(String, u64, Column)>,
    /// For each file below, the values that rows of this file have.
    claims: Vec<(u32, Vec<String>)>,
    counts: report::LinkedRows,
    columns: Vec<String>,
    rejected: Vec<RejectedRow>,
    bytes_read: u64,
}

impl LinkedFiles {
    /// Reads the linked files of a set through their processors. `rejected` is handed the rows that are.
    ///
    /// # Errors
    /// If one cannot be read, or lacks a column.
    pub(crate) fn load(
        import: &Import<'_>,
        resolver: &Resolver<'_>,
        set: &FileSet,
        clock: &Clock,
        mut rejected: impl FnMut(&FoundFile, &[String], &[RejectedRow]) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let columns: Vec<LinkedColumns> = (0..set.linked.len()).map(|file| resolver.linked(file)).collect();
        let most_bytes = import.config.settings.tuning.joined_bytes;
        let mut linked = Self { scratch: None, columns, most_bytes, counts: report::LinkedRows::default() };
        if set.linked.is_empty() {
            return Ok(linked);
        }
        // A dry run leaves no trace beside the store.
        let folder = if import.dry { std::env::temp_dir() } else { import.config.data().to_owned() };
        let scratch = Scratch::create(&folder.join(format!("{SCRATCH}{}", std::process::id())))?;
        for (place, files) in set.linked.iter().enumerate() {
            let Some(columns) = linked.columns.get(place) else { continue };
            let mut number = 0;
            for file in files {
                linked.counts +=
                    load_file(import, &scratch, file, place, columns, &mut number, clock, &mut rejected)?;
            }
        }
        linked.scratch = Some(scratch);
        Ok(linked)
    }

    /// Rows read, dropped and rejected.
    pub(crate) fn counts(&self) -> report::LinkedRows {
        report::LinkedRows { orphaned: 0, ..self.counts }
    }

    /// Rows that belong to no row of their parent file, once the root file is read.
    ///
    /// # Errors
    /// If the disk fails.
    pub(crate) fn orphans(&self) -> Result<u64, StoreError> {
        let Some(scratch) = &self.scratch else { return Ok(0) };
        let below = (0..).zip(&self.columns).map(|(file, _)| scratch.orphans(file));
        Ok(self.counts.orphaned + below.sum::<Result<u64, _>>()?)
    }

    /// What belongs to each row of a batch of the root file; empty without linked files.
    ///
    /// # Errors
    /// If it takes too much memory, or the disk fails.
    pub(crate) fn join(
        &self,
        links: &[Link],
        batch: &RecordBatch,
    ) -> Result<Vec<Vec<LinkedRows>>, StoreError> {
        let Some(scratch) = &self.scratch else { return Ok(Vec::new()) };
        let cell = |row: usize, column: usize| batch.cell(row, column);
        for link in links {
            let values =
                (0..batch.rows()).map(|row| cell(row, link.column)).filter(|value| !value.is_empty());
            scratch.claim(number(link.file), values)?;
        }
        self.below(scratch, links, batch.rows(), &cell, self.most_bytes)
    }

    /// What belongs to each of `rows` rows, whose cells `cell` gives.
    fn below<'c>(
        &self,
        scratch: &Scratch,
        links: &[Link],
        rows: usize,
        cell: &dyn Fn(usize, usize) -> &'c str,
        bytes: usize,
    ) -> Result<Vec<Vec<LinkedRows>>, StoreError> {
        let mut below: Vec<Vec<LinkedRows>> = vec![Vec::new(); rows];
        for link in links {
            let mut places: HashMap<&str, usize> = HashMap::new();
            let mut values = Vec::new();
            for row in 0..rows {
                let value = cell(row, link.column);
                if !value.is_empty() {
                    places.entry(value).or_insert_with(|| {
                        values.push(value);
                        values.len() - 1
                    });
                }
            }
            let found = scratch.find(number(link.file), &values, bytes)?;
            let flat: Vec<&Column> = found.iter().flatten().collect();
            let links = self.columns.get(link.file).map_or(&[][..], |columns| columns.links.as_slice());
            let cells = |row: usize, column: usize| flat.get(row).map_or("", |cells| cells.cell(column));
            let mut deeper = self.below(scratch, links, flat.len(), &cells, bytes)?.into_iter();
            let found: Vec<Vec<LinkedRow>> = found
                .iter()
                .map(|rows| {
                    let below = deeper.by_ref().take(rows.len());
                    rows.iter().cloned().zip(below).map(|(cells, below)| LinkedRow { cells, below }).collect()
                })
                .collect();
            for (row, below) in below.iter_mut().enumerate() {
                let rows = places.get(cell(row, link.column)).and_then(|place| found.get(*place));
                if let Some(rows) = rows.filter(|rows| !rows.is_empty()) {
                    below.push(LinkedRows { file: link.file, rows: rows.clone() });
                }
            }
        }
        Ok(below)
    }
}

fn number(file: usize) -> u32 {
    u32::try_from(file).unwrap_or(u32::MAX)
}

#[expect(clippy::too_many_arguments, reason = "a stage of the pipeline with what it works on")]
fn load_file(
    import: &Import<'_>,
    scratch: &Scratch,
    file: &FoundFile,
    place: usize,
    columns: &LinkedColumns,
    next: &mut u64,
    clock: &Clock,
    rejected: &mut impl FnMut(&FoundFile, &[String], &[RejectedRow]) -> Result<(), Error>,
) -> Result<report::LinkedRows, Error> {
    let mut counts = report::LinkedRows::default();
    let failed = |error| Error::File { name: file.name.clone(), error };
    let source = file.open().map_err(failed)?;
    let mut progress = import.progress(file);
    let unchanged = source.unchanged();
    let Some(mut open) = import.open(file, source, Some(place))? else {
        import.warn(&format!("{} is empty", file.name));
        return Ok(counts);
    };
    let places = columns.places(&file.name, &open.columns)?;
    for name in columns.skipped(&open.columns) {
        import.warn(&format!(
            "{}: column `{name}` is skipped: the event in schema.toml has no such property",
            file.name
        ));
    }
    let mut take = TakeRows { columns, places: &places, next };
    import.stream(
        file,
        &mut open,
        clock,
        |batch, _| Ok(batch),
        &mut take,
        |loaded| {
            progress.advance(loaded.bytes_read, loaded.counts.read);
            counts += loaded.counts;
            rejected(file, &loaded.columns, &loaded.rejected)?;
            scratch.put(
                number(place),
                loaded.rows.iter().map(|(link, number, row)| (link.as_str(), *number, row)),
            )?;
            for (below, values) in &loaded.claims {
                scratch.claim(*below, values.iter().map(String::as_str))?;
            }
            Ok(())
        },
    )?;
    unchanged().map_err(failed)?;
    Ok(counts)
}

/// Takes out of batches what goes into the scratch store.
struct TakeRows<'a> {
    columns: &'a LinkedColumns,
    places: &'a [Option<usize>],
    next: &'a mut u64,
}

impl Work for TakeRows<'_> {
    type Ready = RecordBatch;
    type Done = Loaded;

    fn ahead(&self) -> usize {
        16
    }

    fn batch(&mut self, batch: RecordBatch) -> Result<Option<Loaded>, Error> {
        let mut counts = report::LinkedRows::default();
        let mut rejected = batch.rejected.clone();
        let cell = |row: usize, place: usize| {
            self.places.get(place).copied().flatten().map_or("", |column| batch.cell(row, column))
        };
        let mut rows = Vec::with_capacity(batch.rows());
        let claims = self.columns.links.iter().map(|link| {
            let values =
                (0..batch.rows()).map(|row| cell(row, link.column)).filter(|value| !value.is_empty());
            (number(link.file), values.map(str::to_owned).collect())
        });
        let claims = claims.collect();
        for row in 0..batch.rows() {
            match batch.verdict(row) {
                Verdict::Drop => counts.dropped += 1,
                Verdict::Reject { code, reason } => {
                    let code = sluicebox_model::RejectionCode::Processor(code.clone());
                    rejected.push(batch.reject(row, code, reason.clone()));
                }
                Verdict::Keep => {
                    let link = cell(row, self.columns.link);
                    if link.is_empty() {
                        counts.orphaned += 1;
                    } else {
                        let cells = (0..self.places.len()).map(|place| cell(row, place)).collect();
                        rows.push((link.to_owned(), *self.next, cells));
                        *self.next += 1;
                    }
                }
            }
        }
        rejected.sort_by_key(|row| row.number);
        counts.rejected = rejected.len() as u64;
        counts.read = (batch.rows() + batch.rejected.len()) as u64;
        let columns = batch.header().columns.clone();
        Ok(Some(Loaded { rows, claims, counts, columns, rejected, bytes_read: batch.bytes_read }))
    }
}
