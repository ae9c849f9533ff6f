//! Collects the batches of a file until they are worth merging: a chunk.

use std::sync::atomic::{AtomicBool, Ordering};

use sluicebox_matching::{ChunkRows, Prepared};

use crate::error::Error;
use crate::import::budget::{Budget, Forecast};
use crate::import::stage_times::{StageTimes, timed};
use crate::import::stream::BatchConsumer;
use crate::runs::progress::Progress;

/// Rows of a chunk while rows find no stored record. Small chunks have few partitions and leave memory for the next one.
const MAX_NEW_ROWS: usize = 32_768;

/// Collects batches until they are a chunk.
pub(crate) struct ChunkBuilder<'a> {
    /// Rows of the file before this number were imported by earlier runs.
    pub from: u64,
    pub max_rows: usize,
    pub budget: Budget,
    pub forecast: Forecast,
    /// Whether rows of the file have found stored records.
    pub found_records: &'a AtomicBool,
    /// Set when all batches of the file are here.
    pub is_read: &'a AtomicBool,
    pub progress: Progress<'a>,
    pub times: &'a StageTimes,
    pub waiting: Waiting,
}

/// The batches of the next chunk.
pub(crate) struct Waiting {
    batches: Vec<Prepared>,
    rows: usize,
    /// Bytes of the batches.
    memory: usize,
    /// Whether there was no chunk yet.
    is_first: bool,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { batches: Vec::new(), rows: 0, memory: 0, is_first: true }
    }
}

impl Waiting {
    fn push(&mut self, batch: Prepared) {
        self.rows += batch.rows_read();
        self.memory += batch.memory();
        self.batches.push(batch);
    }

    /// Takes the first batches, of `bytes` bytes or a few more.
    fn take(&mut self, bytes: usize) -> Vec<Prepared> {
        let mut taken = 0;
        let first = self.batches.iter().take_while(|batch| {
            let more = taken < bytes;
            taken += if more { batch.memory() } else { 0 };
            more
        });
        let batches: Vec<Prepared> = self.batches.drain(..first.count()).collect();
        self.memory -= taken;
        self.rows -= batches.iter().map(Prepared::rows_read).sum::<usize>();
        self.is_first = false;
        batches
    }
}

impl ChunkBuilder<'_> {
    fn chunk(&mut self, bytes: usize) -> Option<ChunkRows> {
        let batches = self.waiting.take(bytes);
        (!batches.is_empty()).then(|| timed(&self.times.match_and_merge, || ChunkRows::new(batches)))
    }

    /// Bytes of the chunk that is complete, given how much of the file is read; `None` if it is not.
    fn complete(&self, bytes_read: u64) -> Option<usize> {
        let Self { waiting, budget, forecast, .. } = self;
        if waiting.rows >= self.max_rows {
            return Some(usize::MAX);
        }
        if budget.pending.is_some() && !self.found_records.load(Ordering::Relaxed) {
            let is_full = waiting.rows >= MAX_NEW_ROWS || waiting.memory >= budget.chunk;
            return is_full.then_some(usize::MAX);
        }
        let bytes = forecast.next_chunk(budget, waiting.memory, bytes_read);
        let waits_for_rest = waiting.is_first && forecast.fits_whole(budget, waiting.memory, bytes_read);
        (waiting.memory >= bytes && !waits_for_rest).then_some(bytes)
    }
}

impl BatchConsumer for ChunkBuilder<'_> {
    type Input = Prepared;
    type Output = ChunkRows;

    fn queue(&self) -> usize {
        self.budget.queue
    }

    fn accept(&mut self, batch: Prepared) -> Result<Option<ChunkRows>, Error> {
        let bytes_read = batch.bytes_read();
        self.progress.advance(bytes_read, batch.rows_read() as u64);
        if batch.end() <= self.from {
            self.forecast.skip(bytes_read);
            return Ok(None);
        }
        self.forecast.add(batch.memory());
        self.waiting.push(batch);
        Ok(self.complete(bytes_read).and_then(|bytes| self.chunk(bytes)))
    }

    fn finish(&mut self) -> Option<ChunkRows> {
        self.is_read.store(true, Ordering::Release);
        self.chunk(usize::MAX)
    }
}
