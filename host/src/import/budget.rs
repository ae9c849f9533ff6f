//! How much memory the rows of an import may take, and how large its chunks are.

use sluicebox_files::FoundFile;
use sluicebox_matching::Plan;

use crate::config::{MaxRejected, Tuning};
use crate::error::Error;
use crate::import::Import;

/// About how many bytes of a file a row takes, to estimate the size of the store after it.
const BYTES_PER_ROW: u64 = 128;

/// About how many bytes of memory an open store takes for each record: filters and indexes of its tables.
const BYTES_PER_RECORD: usize = 5;

/// Smaller files look up so little that prefetching does not pay.
const MIN_PREFETCH_BYTES: u64 = 1 << 20;

/// A store of fewer records is small.
const SMALL_STORE_RECORDS: u64 = 200_000;

/// A file with this many times more rows than the store has records makes it grow: most of its rows find no record.
const GROWTH_FACTOR: u64 = 4;

/// How much of a file is merged and committed at a time, in bytes of rows.
///
/// A large store needs memory for itself, which rows then lack. Where file and store are small, smaller chunks overlap better, and
/// merging each of them reads little of the store. The smallest chunks are those whose rows find no record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// A file of at most this size is one chunk.
    pub whole_file: usize,
    /// A chunk of a larger file. The next one is read while it is merged.
    pub chunk: usize,
    /// Rows that are merged serially.
    pub serial: usize,
    /// What is kept of chunks without stored records until one commit writes several of them; `None` if each is a commit.
    pub pending: Option<usize>,
    /// How many chunks may wait while one is merged.
    pub queue: usize,
}

impl Budget {
    /// The budget for a file.
    ///
    /// # Errors
    /// If the store fails.
    pub(crate) fn of(import: &Import<'_>, file: &FoundFile, plan: &Plan) -> Result<Self, Error> {
        let Tuning { mut rows_bytes, linked_bytes, threads, .. } = import.tuning();
        let goal = import.goal;
        if !goal.linked.is_empty() {
            rows_bytes -= linked_bytes;
        }
        let records = import.store.about_records()?;
        let rows = estimated_rows(file);
        let records_after = usize::try_from(records + rows).unwrap_or(usize::MAX);
        let store_bytes = records_after.saturating_mul(BYTES_PER_RECORD);
        let bytes = rows_bytes.saturating_sub(store_bytes).max(rows_bytes / 4);
        let serial = bytes / 11 * 2;
        let is_partitioned = threads > 1
            && import.diff.is_none()
            && !import.keep
            && goal.linked.is_empty()
            && !matches!(goal.max_rejected, MaxRejected::Rows(_))
            && plan.can_be_partitioned();
        let is_small_store = records < SMALL_STORE_RECORDS;
        let grows = is_partitioned && (is_small_store || rows > records * GROWTH_FACTOR);
        let (whole_file, chunk, queue) = if is_small_store && file.size < 8 * serial as u64 {
            let chunk = if is_partitioned { serial / 4 * 3 } else { serial / 3 };
            (chunk, chunk, 2)
        } else if grows {
            (bytes / 5, bytes / 5, 2)
        } else if is_partitioned {
            (bytes / 5 * 4, bytes / 3, 0)
        } else {
            (serial, serial, 0)
        };
        Ok(Self { whole_file, chunk, serial, pending: grows.then_some(bytes / 8), queue })
    }
}

/// About how many rows a file has.
fn estimated_rows(file: &FoundFile) -> u64 {
    file.size / BYTES_PER_ROW
}

/// About how many rows to prefetch the store for; `None` where the file is too small for that to pay.
pub(crate) fn rows_to_prefetch(file: &FoundFile) -> Option<u64> {
    (file.size >= MIN_PREFETCH_BYTES).then(|| estimated_rows(file))
}

/// Estimates how much memory the rest of a file takes, by what was read of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forecast {
    /// Bytes of the file.
    file_bytes: u64,
    /// Bytes that were read before the first row that counts.
    skipped_bytes: u64,
    /// Bytes of memory of all rows so far.
    memory: usize,
}

impl Forecast {
    /// A forecast for a file of `file_bytes` bytes of which nothing is read yet.
    pub(crate) fn new(file_bytes: u64) -> Self {
        Self { file_bytes, skipped_bytes: 0, memory: 0 }
    }

    /// The rows up to `bytes_read` were imported before.
    pub(crate) fn skip(&mut self, bytes_read: u64) {
        self.skipped_bytes = bytes_read;
    }

    /// Rows of `memory` more bytes were read.
    pub(crate) fn add(&mut self, memory: usize) {
        self.memory += memory;
    }

    /// About how many bytes the rest of the file takes, given how much of it is read.
    fn rest(&self, bytes_read: u64) -> u128 {
        let [all, read] =
            [self.file_bytes, bytes_read].map(|bytes| u128::from(bytes.saturating_sub(self.skipped_bytes)));
        self.memory as u128 * all.saturating_sub(read) / read.max(1)
    }

    /// Whether the whole file is likely to be one chunk, given the bytes of the rows that wait: better than two, because there is
    /// less to look up.
    pub(crate) fn fits_whole(&self, budget: &Budget, waiting: usize, bytes_read: u64) -> bool {
        waiting < budget.whole_file && waiting as u128 + self.rest(bytes_read) <= budget.whole_file as u128
    }

    /// Bytes of the next chunk: half of what is left towards the end, because nothing is read any more while the last one is
    /// merged. Not too few: each chunk is a commit, which waits for the disk.
    pub(crate) fn next_chunk(&self, budget: &Budget, waiting: usize, bytes_read: u64) -> usize {
        let left = usize::try_from(waiting as u128 + self.rest(bytes_read)).unwrap_or(usize::MAX);
        (left / 2).clamp(budget.chunk / 2, budget.chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_shrink_towards_the_end_of_a_file_that_does_not_fit() {
        let budget = Budget { whole_file: 500, chunk: 100, serial: 50, pending: None, queue: 0 };
        let mut forecast = Forecast::new(1000);
        forecast.add(100);
        // 100 bytes of memory for 100 bytes of the file: 900 are still to come.
        assert!(!forecast.fits_whole(&budget, 100, 100));
        assert_eq!(forecast.next_chunk(&budget, 100, 100), 100);
        forecast.add(800);
        assert!(forecast.fits_whole(&budget, 60, 900));
        assert_eq!(forecast.next_chunk(&budget, 60, 900), 80);
        assert_eq!(forecast.next_chunk(&budget, 0, 1000), 50);
    }

    #[test]
    fn rows_that_were_imported_before_do_not_count() {
        let mut forecast = Forecast::new(1000);
        forecast.skip(500);
        forecast.add(100);
        assert_eq!(forecast.rest(600), 400);
    }
}
