//! A file is judged before its first commit: a damaged file, or one of which too much is rejected, merges nothing. What is left to
//! read then is read for that alone, and once more to be merged.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use sluicebox_files::FoundFile;
use sluicebox_matching::{Plan, Prepared, prepare};
use sluicebox_model::{RecordBatch, RejectedRow, RejectionCode, Verdict};

use crate::config::MaxRejected;
use crate::error::{Error, FailureCode};
use crate::import::Import;
use crate::import::stage_times::StageTimes;
use crate::import::stream::{BatchConsumer, QUEUE};
use crate::output::counted;
use crate::runs::report::Rows;

/// Rejected rows of a file that fails which are recorded.
const MAX_FIRST: usize = 1000;
/// Bytes that they may take.
const MAX_FIRST_BYTES: usize = 4 << 20;

/// What of a file was rejected while it was read, processed and mapped.
#[derive(Default)]
pub(crate) struct Tally {
    /// How many columns the file has.
    columns: usize,
    rows: AtomicU64,
    rejected: AtomicU64,
    cells: AtomicU64,
    first: Mutex<FirstRejected>,
}

/// The first rejected rows, and how many have each code.
#[derive(Default)]
struct FirstRejected {
    rows: FirstRows,
    /// Rows of which cells were rejected.
    without_cells: FirstRows,
    codes: HashMap<String, u64>,
    /// Ragged rows that would fit if missing cells were empty and surplus empty cells dropped.
    can_be_padded: u64,
}

/// Rows, up to a number and size.
#[derive(Default)]
struct FirstRows {
    rows: Vec<RejectedRow>,
    bytes: usize,
}

impl FirstRows {
    /// Adds a row of a file with `columns` columns: each takes a byte at least where the row is recorded.
    fn add(&mut self, row: &RejectedRow, columns: usize) {
        if self.rows.len() < MAX_FIRST && self.bytes < MAX_FIRST_BYTES {
            self.bytes += row.memory() + columns;
            self.rows.push(row.clone());
        }
    }
}

impl Tally {
    /// Nothing of a file with `columns` columns yet.
    pub(crate) fn new(columns: usize) -> Self {
        Self { columns, ..Self::default() }
    }

    /// Counts the rows of a prepared batch.
    pub(crate) fn add(&self, batch: &Prepared) {
        self.rows.fetch_add(batch.rows_read() as u64, Ordering::Relaxed);
        self.cells.fetch_add(batch.rejected_cells(), Ordering::Relaxed);
        self.reject(batch.rejected());
        let mut without_cells = batch.rows_without_cells().peekable();
        if without_cells.peek().is_some() {
            let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
            without_cells.for_each(|row| first.without_cells.add(row, self.columns));
        }
    }

    /// Counts the rows of a batch that went through the processors.
    fn add_processed(&self, batch: &RecordBatch) {
        let rows = batch.rows() + batch.rejected.len();
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        self.reject(&batch.rejected);
        for row in 0..batch.rows() {
            if let Verdict::Reject { code, reason } = batch.verdict(row) {
                self.reject(&[batch.reject(row, RejectionCode::Processor(code.clone()), reason.clone())]);
            }
        }
    }

    fn reject(&self, rows: &[RejectedRow]) {
        if rows.is_empty() {
            return;
        }
        self.rejected.fetch_add(rows.len() as u64, Ordering::Relaxed);
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        for row in rows {
            if let Some(count) = first.codes.get_mut(row.code.as_str()) {
                *count += 1;
            } else if first.codes.len() < MAX_FIRST {
                first.codes.insert(row.code.as_str().to_owned(), 1);
            }
            // One more cell than columns holds what the surplus cells hold.
            // The beginning of the surplus tells enough: it may be long.
            let has_surplus = || row.cells.cell(self.columns).chars().take(1000).any(char::is_alphanumeric);
            if row.code == RejectionCode::Ragged && !has_surplus() {
                first.can_be_padded += 1;
            }
            first.rows.add(row, self.columns);
        }
    }

    /// Rows that were read.
    pub(crate) fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// The first rejected rows, in file order.
    pub(crate) fn first_rejected(&self) -> Vec<RejectedRow> {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        let (rows, without_cells) =
            (std::mem::take(&mut first.rows), std::mem::take(&mut first.without_cells));
        let mut rows = rows.rows;
        rows.extend(without_cells.rows);
        rows.sort_by_key(|row| row.number);
        rows
    }

    /// The most frequent code, and the key of the goal that may be wrong.
    fn likely_reason(&self) -> String {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        let most =
            first.codes.iter().max_by(|one, other| one.1.cmp(other.1).then_with(|| other.0.cmp(one.0)));
        let Some((code, count)) = most else { return String::new() };
        let key = match code.as_str() {
            "encoding" => "; a likely cause: set encoding = \"windows-1252\" in the goal's csv",
            "ragged" if first.can_be_padded * 2 > *count => {
                "; a likely cause: set ragged = \"pad\" in the goal's csv, which fills and drops empty cells at the end"
            }
            "ragged" => "; a likely cause: the delimiter or the quote in the goal's csv is another one",
            "quote" => "; a likely cause: set quote = \"\" or an escape in the goal's csv",
            "cell-too-long" => "; max_cell in the goal's csv sets how long a cell may be",
            _ => "",
        };
        format!(" ({}: {code}{key})", counted(*count, "row"))
    }

    /// Judges the file. `before` has the rows of the goal's files before it that were merged, `cells_before` the rejected cells
    /// of those, and `mapped` how many cells of a row are mapped.
    ///
    /// # Errors
    /// If too much of it is rejected, or all of it.
    pub(crate) fn judge(
        &self,
        import: &Import<'_>,
        file: &FoundFile,
        (before, cells_before): (Rows, u64),
        mapped: usize,
    ) -> Result<(), Error> {
        let (rows, rejected) = (self.rows(), self.rejected.load(Ordering::Relaxed));
        if rows > 0 && rejected == rows {
            return Err(none_taken(file, rows, &self.likely_reason()));
        }
        let all_rows = before.read + rows;
        let limit = Limit { key: "max_rejected", what: "row", allowed: import.goal.max_rejected };
        limit.judge(file, before.rejected + rejected, all_rows, before.read > 0)?;
        let limit =
            Limit { key: "max_rejected_cells", what: "cell", allowed: import.goal.max_rejected_cells };
        let cells = cells_before + self.cells.load(Ordering::Relaxed);
        limit.judge(file, cells, all_rows.saturating_mul(mapped as u64), before.read > 0)
    }
}

/// Every row of the file is rejected.
pub(crate) fn none_taken(file: &FoundFile, rows: u64, why: &str) -> Error {
    let rows = if rows == 1 {
        "its only row was rejected".to_owned()
    } else {
        format!("all {rows} rows were rejected")
    };
    let message = format!("{rows}{why}; nothing of the file was merged");
    Error::Rejected { name: file.name.clone(), message, code: FailureCode::AllRejected }
}

/// How many rows or cells may be rejected.
struct Limit {
    key: &'static str,
    what: &'static str,
    allowed: MaxRejected,
}

impl Limit {
    /// `has_others` says whether rows of files before this one count as well.
    fn judge(&self, file: &FoundFile, rejected: u64, all: u64, has_others: bool) -> Result<(), Error> {
        if !self.allowed.is_exceeded(rejected, all) {
            return Ok(());
        }
        let allowed = match self.allowed {
            MaxRejected::Share(share) => format!("the {}%", share * 100.0),
            MaxRejected::Rows(most) => format!("the {most}"),
            MaxRejected::Unlimited => String::new(),
        };
        let message = format!(
            "{rejected} of {}{} rejected, more than {allowed} that {} allows; nothing of the file was merged",
            counted(all, self.what),
            if has_others { " so far" } else { "" },
            self.key
        );
        Err(Error::Rejected { name: file.name.clone(), message, code: FailureCode::MaxRejected })
    }
}

impl Import<'_> {
    /// Reads a whole file for its judgement alone, through the processors if they could fail it.
    ///
    /// # Errors
    /// If the file cannot be read to its end, or a processor fails.
    pub(crate) fn examine_whole(&self, file: &FoundFile, plan: &Plan) -> Result<Tally, Error> {
        let source = file.open().map_err(|error| Error::File { name: file.name.clone(), error })?;
        let Some(mut open) = self.open(file, source, None)? else { return Ok(Tally::default()) };
        let tally = Tally::new(open.reader.header().columns.len());
        let counts_cells = self.goal.max_rejected_cells != MaxRejected::Unlimited;
        let count = |batch: RecordBatch, buffers: &mut _| {
            match counts_cells {
                true => tally.add(&prepare(plan, batch, &[], 0, buffers)),
                false => tally.add_processed(&batch),
            }
            Ok(())
        };
        self.stream(file, &mut open, &StageTimes::default(), count, &mut Counting, |_| Ok(()))?;
        Ok(tally)
    }
}

/// Takes batches that were counted.
struct Counting;

impl BatchConsumer for Counting {
    type Input = ();
    type Output = ();

    fn queue(&self) -> usize {
        QUEUE
    }

    fn accept(&mut self, (): ()) -> Result<Option<()>, Error> {
        Ok(Some(()))
    }
}
