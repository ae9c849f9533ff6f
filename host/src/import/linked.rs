//! The rows of linked files: stored during the import by the value that links them, and joined to the rows of the root file,
//! level by level.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use sluicebox_files::{FoundFile, Reader, decode};
use sluicebox_linked_rows::{LinkedRowIndex, LinkedRowsError};
use sluicebox_matching::{Plan, rejected_linked_cells};
use sluicebox_model::{
    Column, LinkedRow, LinkedRows, OrNever, RecordBatch, RejectedCell, RejectedRow, RejectionCode, Verdict,
    never,
};

use crate::error::Error;
use crate::import::Import;
use crate::import::columns::{Link, LinkedColumns, MAX_SKIPPED, shortened};
use crate::import::judgement::none_taken;
use crate::import::plan::{Resolver, are};
use crate::import::sets::FileSet;
use crate::import::stage_times::StageTimes;
use crate::import::stream::{BatchConsumer, QUEUE};
use crate::runs::rejected::{RejectedRows, Source};
use crate::runs::report;

/// What the folders of scratch files begin with.
pub(crate) const SCRATCH: &str = "sluicebox-scratch-";
/// Several files of one pattern are as one: the bits of a line above these are those of its file.
const LINE_BITS: u32 = 40;

/// A folder that is not there yet, for files of an import while it runs. Its name is random: who may write to the folder around it
/// cannot create it before.
pub(crate) fn scratch_folder(import: &Import<'_>) -> PathBuf {
    // A dry run writes nothing into the working folder.
    let folder = if import.dry { std::env::temp_dir() } else { import.config.data().to_owned() };
    folder.join(format!("{SCRATCH}{}", uuid::Uuid::now_v7().simple()))
}

/// Removes the linked rows of a process that died. No other process needs them: the store is locked.
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
    scratch: Option<LinkedRowIndex>,
    columns: Vec<LinkedColumns>,
    /// Bytes that the linked rows of one batch of root rows may take.
    max_bytes: usize,
    /// Rows read, dropped and rejected, and as orphaned those whose link is empty.
    counts: report::LinkedRows,
    /// Where each row is from: its file's place and name, by the number that its hidden cell begins with.
    files: Vec<(usize, FoundFile)>,
}

/// A batch of a linked file, and the rows of it that are kept.
struct Loaded {
    batch: RecordBatch,
    kept: Vec<usize>,
    counts: report::LinkedRows,
    /// What is not taken: rejected rows, those without a link, and rows with cells that do not fit.
    rejected: Vec<RejectedRow>,
}

impl LinkedFiles {
    /// Reads the linked files of a set through their processors. `rejected` gets what is not taken of each.
    ///
    /// # Errors
    /// If one cannot be read, or lacks a column.
    pub(crate) fn load(
        import: &Import<'_>,
        resolver: &Resolver<'_>,
        plan: &Plan,
        set: &FileSet,
        times: &StageTimes,
        mut rejected: impl FnMut(&Source<'_>, &[RejectedRow]) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let columns: Vec<LinkedColumns> = (0..set.linked.len()).map(|file| resolver.linked(file)).collect();
        let max_bytes = import.tuning().joined_bytes;
        let counts = report::LinkedRows::default();
        let mut linked = Self { scratch: None, columns, max_bytes, counts, files: Vec::new() };
        if set.linked.is_empty() {
            return Ok(linked);
        }
        let folder = scratch_folder(import);
        let mut scratch = LinkedRowIndex::new(&folder, import.tuning().linked_bytes)?;
        for (place, files) in set.linked.iter().enumerate() {
            let Some(columns) = linked.columns.get(place) else { continue };
            for (of_pattern, file) in (0_u64..).zip(files) {
                let number = linked.files.len();
                linked.files.push((place, file.clone()));
                let first_line = of_pattern << LINE_BITS;
                let loaded = Loading { import, plan, file, number, first_line, place, columns, times };
                linked.counts += loaded.load(&mut scratch, &mut rejected)?;
            }
        }
        scratch.complete()?;
        linked.scratch = Some(scratch);
        Ok(linked)
    }

    /// Rows read, dropped and rejected.
    pub(crate) fn counts(&self) -> report::LinkedRows {
        report::LinkedRows { orphaned: 0, ..self.counts }
    }

    /// Records the rows that belong to no row of their parent file, and answers with their number, those without a link included.
    /// They are known once the root file is read.
    ///
    /// # Errors
    /// If the disk or a linked file fails.
    pub(crate) fn record_orphans(
        &self,
        import: &Import<'_>,
        rejected: &mut RejectedRows,
    ) -> Result<u64, Error> {
        let Some(scratch) = &self.scratch else { return Ok(0) };
        // The numbers of the orphans in each file.
        let mut orphans: Vec<Vec<u64>> = vec![Vec::new(); self.files.len()];
        for (file, columns) in (0..).zip(&self.columns) {
            scratch.each_orphan(file, |cells| {
                let place = row_place(cells.cell(columns.hidden()));
                if let Some((of_file, row)) =
                    place.and_then(|(file, row)| Some((orphans.get_mut(file)?, row)))
                {
                    of_file.push(row);
                }
            })?;
        }
        let mut count = self.counts.orphaned;
        for ((place, file), mut rows) in self.files.iter().zip(orphans) {
            if rows.is_empty() {
                continue;
            }
            count += rows.len() as u64;
            rows.sort_unstable();
            record_orphans_of(import, file, *place, &rows, rejected)?;
        }
        Ok(count)
    }

    /// The linked rows of each row of a batch of the root file; empty without linked files.
    ///
    /// # Errors
    /// If they take too much memory, or the disk fails.
    pub(crate) fn join(
        &self,
        links: &[Link],
        batch: &RecordBatch,
    ) -> Result<Vec<Vec<LinkedRows>>, LinkedRowsError> {
        let Some(scratch) = &self.scratch else { return Ok(Vec::new()) };
        let cell = |row: usize, column: usize| batch.cell(row, column);
        for link in links {
            let values = (0..batch.rows()).map(|row| cell(row, link.column));
            let values: Vec<&str> = values.filter(|value| !value.is_empty()).collect();
            scratch.claim_complete(number(link.file), &values)?;
        }
        self.below(scratch, links, batch.rows(), &cell, self.max_bytes)
    }

    /// The linked rows of each of `rows` rows, whose cells `cell` gives.
    fn below<'c>(
        &self,
        scratch: &LinkedRowIndex,
        links: &[Link],
        rows: usize,
        cell: &dyn Fn(usize, usize) -> &'c str,
        bytes: usize,
    ) -> Result<Vec<Vec<LinkedRows>>, LinkedRowsError> {
        let mut below: Vec<Vec<LinkedRows>> = vec![Vec::new(); rows];
        for link in links {
            // The distinct values, how many rows have each, and which one each row has.
            let mut known: HashMap<&str, usize> = HashMap::new();
            let (mut values, mut uses, mut places) = (Vec::new(), Vec::new(), Vec::with_capacity(rows));
            for row in 0..rows {
                let value = cell(row, link.column);
                if value.is_empty() {
                    places.push(None);
                    continue;
                }
                let place = *known.entry(value).or_insert(values.len());
                if place == values.len() {
                    values.push(value);
                    uses.push(0_usize);
                }
                if let Some(uses) = uses.get_mut(place) {
                    *uses += 1;
                }
                places.push(Some(place));
            }
            let found = scratch.find(number(link.file), &values, bytes)?;
            let flat: Vec<&Column> = found.iter().flatten().collect();
            let links = self.columns.get(link.file).map_or(&[][..], |columns| columns.links.as_slice());
            let cells = |row: usize, column: usize| flat.get(row).map_or("", |cells| cells.cell(column));
            let mut deeper = self.below(scratch, links, flat.len(), &cells, bytes)?.into_iter();
            let mut found: Vec<Vec<LinkedRow>> = found
                .into_iter()
                .map(|rows| {
                    let below = deeper.by_ref().take(rows.len());
                    rows.into_iter().zip(below).map(|(cells, below)| LinkedRow { cells, below }).collect()
                })
                .collect();
            // Each row of the batch gets its own copies.
            let sizes = found.iter().zip(&uses).map(|(rows, uses)| memory(rows).saturating_mul(*uses));
            if sizes.fold(0, usize::saturating_add) > bytes {
                return Err(LinkedRowsError::TooMany { bytes });
            }
            for (below, place) in below.iter_mut().zip(places) {
                let Some(place) = place else { continue };
                let rows_and_uses = found.get_mut(place).zip(uses.get_mut(place));
                never!(rows_and_uses.is_none(), "a linking value was not looked up");
                let Some((rows, left)) = rows_and_uses else { continue };
                *left -= 1;
                // The last row with a value gets the linked rows themselves, the others get copies.
                let rows = if *left == 0 { std::mem::take(rows) } else { rows.clone() };
                if !rows.is_empty() {
                    below.push(LinkedRows { file: link.file, rows });
                }
            }
        }
        Ok(below)
    }
}

/// About how many bytes rows take, with those below them.
fn memory(rows: &[LinkedRow]) -> usize {
    let below = |row: &LinkedRow| row.below.iter().map(|linked| memory(&linked.rows)).sum::<usize>();
    rows.iter().map(|row| row.cells.memory() + size_of::<LinkedRow>() + below(row)).sum()
}

/// The number of a linked file.
fn number(file: usize) -> u32 {
    u32::try_from(file).or_never("the number of a linked file")
}

/// The cell after those that the goal uses: the number of the row's file, and of the row in it.
fn hidden_cell(file: usize, row: u64) -> String {
    format!("{file}:{row}")
}

fn row_place(hidden: &str) -> Option<(usize, u64)> {
    let (file, row) = hidden.split_once(':')?;
    Some((file.parse().ok()?, row.parse().ok()?))
}

/// Why a linked row is orphaned.
const ORPHANED: &str = "no row of the parent file has the linking value";

/// Reads a linked file again, and records those of its rows.
fn record_orphans_of(
    import: &Import<'_>,
    file: &FoundFile,
    place: usize,
    orphans: &[u64],
    rejected: &mut RejectedRows,
) -> Result<(), Error> {
    let failed = |error| Error::File { name: file.name.clone(), error };
    let source = file.open().map_err(failed)?;
    let opened = decode(source, &import.decoding).and_then(|(text, read)| {
        Reader::open(text, read, import.goal.csv.clone(), import.config.settings.tuning.batch_rows)
    });
    let Some(mut reader) = opened.map_err(failed)? else { return Ok(()) };
    let columns = reader.header().columns.clone();
    let linked = import.goal.linked.get(place).map(|linked| linked.name.as_str());
    let source = Source { linked, columns: &columns, width: columns.len(), file: &file.name };
    let mut orphans = orphans;
    while let (false, Some(batch)) = (orphans.is_empty(), reader.next_batch().map_err(failed)?) {
        let (own, later) = orphans.split_at(orphans.partition_point(|row| *row < batch.end));
        orphans = later;
        let rows = own.iter().filter_map(|row| batch.row_of(*row));
        let rows = rows.map(|row| batch.reject(row, RejectionCode::Orphaned, ORPHANED.to_owned()));
        rejected.record(&source, &rows.collect::<Vec<_>>())?;
    }
    Ok(())
}

/// A linked file that is read.
struct Loading<'a> {
    import: &'a Import<'a>,
    plan: &'a Plan,
    file: &'a FoundFile,
    /// Its number among all linked files of the set.
    number: usize,
    /// What is added to the numbers of its lines.
    first_line: u64,
    /// Its place in the goal.
    place: usize,
    columns: &'a LinkedColumns,
    times: &'a StageTimes,
}

impl Loading<'_> {
    /// Stores the rows of the file; answers with their counts.
    fn load(
        &self,
        scratch: &mut LinkedRowIndex,
        rejected: &mut impl FnMut(&Source<'_>, &[RejectedRow]) -> Result<(), Error>,
    ) -> Result<report::LinkedRows, Error> {
        let Self { import, plan, file, number: file_number, first_line, place, columns, times } = *self;
        let mut counts = report::LinkedRows::default();
        let failed = |error| Error::File { name: file.name.clone(), error };
        let source = file.open().map_err(failed)?;
        let mut progress = import.progress(file);
        let unchanged = source.unchanged();
        let Some(mut open) = import.open(file, source, Some(place))? else {
            import.warn(&format!("{} is empty", file.name));
            return Ok(counts);
        };
        let places = columns.places(&file.name, &open.columns).map_err(|error| open.explain(error))?;
        let mut skipped = columns.skipped(&open.columns);
        for name in skipped.by_ref().take(MAX_SKIPPED) {
            import.warn(&format!(
                "{}: column `{}` is skipped: its event has no such property in schema.toml",
                file.name,
                shortened(name)
            ));
        }
        if let more @ 1.. = skipped.count() {
            import.warn(&format!("{}: {} skipped for such reasons", file.name, are(more)));
        }
        let mut filter = RowFilter { columns, places: &places, plan, place };
        let linked = import.goal.linked.get(place).map(|linked| linked.name.as_str());
        let all_columns = open.columns.clone();
        let width = open.reader.header().columns.len();
        let source = Source { linked, columns: &all_columns, width, file: &file.name };
        import.stream(
            file,
            &mut open,
            times,
            |batch, _| Ok(batch),
            &mut filter,
            |loaded| {
                let Some(Loaded { batch, kept, counts: more, rejected: rows }) = loaded else {
                    return Ok(());
                };
                progress.advance(batch.bytes_read, more.read);
                counts += more;
                rejected(&source, &rows)?;
                let cell =
                    |row: usize, place: Option<usize>| place.map_or("", |column| batch.cell(row, column));
                let link = |row: usize, place: usize| cell(row, places.get(place).copied().flatten());
                let hidden = kept.iter().map(|row| hidden_cell(file_number, batch.place(*row).0));
                let hidden: Vec<String> = hidden.collect();
                let lines = kept
                    .iter()
                    .map(|row| columns.line().map(|_| (first_line | batch.place(*row).1).to_string()));
                let lines: Vec<Option<String>> = lines.collect();
                let rows = kept.iter().zip(lines.iter().zip(&hidden)).map(|(row, (line, hidden))| {
                    let cells = places.iter().map(move |place| cell(*row, *place));
                    (link(*row, columns.link), cells.chain(line.as_deref()).chain([hidden.as_str()]))
                });
                scratch.put(number(place), rows)?;
                for below in &columns.links {
                    let values = (0..batch.rows()).map(|row| link(row, below.column));
                    scratch.claim(number(below.file), values.filter(|value| !value.is_empty()))?;
                }
                Ok(())
            },
        )?;
        unchanged().map_err(failed)?;
        if counts.read > 0 && counts.rejected == counts.read {
            return Err(none_taken(file, counts.read, ""));
        }
        Ok(counts)
    }
}

/// Separates the rows of a linked file that are kept from those that are dropped, rejected or orphaned.
struct RowFilter<'a> {
    columns: &'a LinkedColumns,
    /// Where the file has those columns.
    places: &'a [Option<usize>],
    plan: &'a Plan,
    /// The file's place in the goal.
    place: usize,
}

impl RowFilter<'_> {
    /// A row with cells that do not fit.
    fn with_misfits(&self, batch: &RecordBatch, row: usize) -> Option<RejectedRow> {
        let place = |column: usize| self.places.get(column).copied().flatten();
        let cell = |column: usize| place(column).map_or("", |column| batch.cell(row, column));
        let misfits = rejected_linked_cells(self.plan, self.place, &cell).into_iter();
        let misfits = misfits.filter_map(|cell| Some(RejectedCell { column: place(cell.column)?, ..cell }));
        batch.reject_cells(row, misfits.collect())
    }
}

impl BatchConsumer for RowFilter<'_> {
    type Input = RecordBatch;
    type Output = Loaded;

    fn queue(&self) -> usize {
        QUEUE
    }

    fn accept(&mut self, batch: RecordBatch) -> Result<Option<Loaded>, Error> {
        let mut counts = report::LinkedRows::default();
        let link = self.places.get(self.columns.link).copied().flatten();
        let mut rejected = batch.rejected.clone();
        let (mut kept, mut others) = (Vec::with_capacity(batch.rows()), Vec::new());
        for row in 0..batch.rows() {
            match batch.verdict(row) {
                Verdict::Drop => counts.dropped += 1,
                Verdict::Reject { code, reason } => {
                    let code = RejectionCode::Processor(code.clone());
                    rejected.push(batch.reject(row, code, reason.clone()));
                }
                Verdict::Keep if link.is_none_or(|link| batch.cell(row, link).is_empty()) => {
                    counts.orphaned += 1;
                    let reason = "the linking value is empty".to_owned();
                    others.push(batch.reject(row, RejectionCode::Orphaned, reason));
                }
                Verdict::Keep => {
                    kept.push(row);
                    others.extend(self.with_misfits(&batch, row));
                }
            }
        }
        counts.rejected = rejected.len() as u64;
        rejected.extend(others);
        rejected.sort_by_key(|row| row.number);
        counts.read = (batch.rows() + batch.rejected.len()) as u64;
        Ok(Some(Loaded { batch, kept, counts, rejected }))
    }
}
