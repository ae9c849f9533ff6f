//! Merges the rows of a file into the store, chunk by chunk: each is matched, merged and committed.

use std::sync::atomic::{AtomicBool, Ordering};

use sluicebox_files::{FileError, FoundFile};
use sluicebox_matching::{Applied, ChunkRows, Context, Counts, Plan};
use sluicebox_model::{IdentifierHash, RecordId, RejectedRow, RejectedScope, never};
use sluicebox_store::{Changed, Commit, FileState, FinishedWriter, Packer, ReadPoint, Writer, WriterHints};

use crate::config::MaxRejected;
use crate::error::Error;
use crate::import::Import;
use crate::import::diff;
use crate::import::judgement::{self, Tally};
use crate::import::linked::LinkedFiles;
use crate::import::stage_times::{StageTimes, timed};
use crate::import::stored_events::StoredEvents;
use crate::output::counted;
use crate::runs::distinct_profiles::DistinctProfiles;
use crate::runs::goal_run::GoalRun;
use crate::runs::rejected::{RejectedRows, Source};
use crate::runs::report::LinkedRows;
use crate::runs::turns::MergeTurn;

/// How often a chunk is partitioned again because partitions turned out to share a record.
const MAX_REPARTITIONS: usize = 3;

/// Fewer new records are not worth a commit while more follow.
const MIN_COMMIT_ROWS: usize = 100_000;

/// Bytes that a new record with one identifier takes until it is committed.
const BYTES_PER_PENDING_RECORD: usize = 48;

/// The chunk of a file that is merged into the store, and what was merged and is not committed yet.
pub(crate) struct ImportChunk<'a> {
    pub import: &'a Import<'a>,
    /// The different profiles that the connection imported; `None` where it imports groups.
    pub distinct_profiles: Option<DistinctProfiles>,
    pub file: &'a FoundFile,
    /// The file's place among the sources of the goal run.
    pub source: u32,
    /// The first goal run whose merges count as this one's.
    pub merges_since: u64,
    pub key: [u8; 32],
    pub plan: &'a Plan,
    /// Bytes of rows that are merged serially.
    pub serial_bytes: usize,
    /// Bytes that may be kept of chunks without stored records, until one commit writes several of them; `None` if each is a commit.
    pub pending_bytes: Option<usize>,
    /// The file's columns, then those that processors add.
    pub columns: Vec<String>,
    /// How many columns the file has.
    pub width: usize,
    /// Whether the file was judged: a file that is merged in part was.
    pub is_judged: bool,
    /// Rows that were merged, dropped or excluded.
    pub taken: u64,
    /// Linked rows that belong to no row, once the file is read.
    pub orphaned: u64,
    /// What is rejected of the part of the file that is read.
    pub tally: &'a Tally,
    /// Whether all of the file is read.
    pub is_read: &'a AtomicBool,
    /// Rejected rows of files that failed before their first commit.
    pub unmerged: &'a mut u64,
    pub unchanged: &'a dyn Fn() -> Result<(), FileError>,
    pub linked: &'a LinkedFiles,
    /// The linked rows that the first commit counts.
    pub linked_counts: Option<LinkedRows>,
    /// The files that are moved or deleted after the last commit, for that commit.
    pub unfinished: Option<([u8; 32], Vec<u8>)>,
    /// Rows of the file before this number were imported by earlier runs.
    pub from: u64,
    /// The first row of the file that is not yet committed.
    pub position: u64,
    /// Bytes of the file that were read for the rows so far.
    pub bytes_read: u64,
    pub times: &'a StageTimes,
    pub run: &'a mut GoalRun,
    pub rejected: &'a mut RejectedRows,
    /// Whether rows of the file have found stored records.
    pub found_records: &'a AtomicBool,
    /// Packs records, and reuses its memory: memory that was never touched is slow.
    pub packer: Packer,
    /// What is merged and not yet committed.
    pub pending: Option<Pending<'a>>,
    /// The right to merge: from looking up what rows find until that is committed, no other run merges.
    pub turn: Option<MergeTurn<'a>>,
}

/// Rows that were merged, dropped or excluded.
fn taken(counts: &Counts) -> u64 {
    counts.merged + counts.dropped + counts.excluded
}

/// Chunks that are merged and written, but not yet committed.
pub(crate) struct Pending<'a> {
    writer: Writer<'a>,
    /// The moment before the first chunk was looked up.
    read_point: ReadPoint,
    applied: Applied,
    rows: usize,
    /// Bytes of its rejected rows.
    rejected_bytes: usize,
    /// Bytes of the file that were read before its first row, and until its last.
    bytes_read: (u64, u64),
    /// The number of the row after its last.
    end: u64,
}

impl<'a> Pending<'a> {
    fn new(writer: Writer<'a>, read_point: ReadPoint, bytes_read: u64) -> Self {
        let (applied, bytes_read) = (Applied::default(), (bytes_read, bytes_read));
        Self { writer, read_point, applied, rows: 0, rejected_bytes: 0, bytes_read, end: 0 }
    }

    /// Adds the next chunk, whose records are written already.
    fn add(&mut self, applied: Applied, chunk: &ChunkRows) {
        self.writer.put_identifiers(applied.identifiers(chunk));
        self.rows += chunk.rows();
        self.rejected_bytes += applied.rejected.iter().map(RejectedRow::memory).sum::<usize>();
        self.bytes_read.1 = chunk.bytes_read();
        self.end = chunk.end();
        self.applied.follow(applied);
    }

    fn memory(&self) -> usize {
        self.writer.memory() + self.rejected_bytes
    }

    /// Whether it covers as much of a file as is left to read. A commit then leaves little to do after the last row is read.
    fn covers_half_of_rest(&self, file_bytes: u64) -> bool {
        let (from, to) = self.bytes_read;
        to.saturating_sub(from) >= file_bytes.saturating_sub(to)
    }
}

impl<'a> ImportChunk<'a> {
    /// Matches and merges the next chunk. It is committed at once if rows of it find stored records. Otherwise the next ones may
    /// join its commit: new records have nothing in common with others.
    pub(crate) fn match_and_merge(&mut self, chunk: ChunkRows) -> Result<(), Error> {
        (self.unchanged)().map_err(|error| self.failed(error))?;
        if self.import.turns.are_shared() {
            // Others do not wait for a file that is read.
            self.judge()?;
        }
        self.take_turn()?;
        let merged = self.match_and_merge_in_turn(chunk);
        if self.pending.is_none() {
            self.turn = None;
        }
        merged?;
        self.let_others_merge()
    }

    /// Waits for the right to merge.
    fn take_turn(&mut self) -> Result<(), Error> {
        if self.turn.is_none() {
            self.turn = Some(self.import.turns.take(self.import.stop)?);
            self.run.advance(self.import.store)?;
        }
        Ok(())
    }

    /// Commits what is merged if another run waits for its turn.
    pub(crate) fn let_others_merge(&mut self) -> Result<(), Error> {
        if self.turn.is_some() && self.import.turns.are_wanted() {
            self.commit_pending(false)?;
            self.turn = None;
        }
        Ok(())
    }

    fn match_and_merge_in_turn(&mut self, chunk: ChunkRows) -> Result<(), Error> {
        let (store, times) = (self.import.store, self.times);
        let max_rows = self.import.config.settings.tuning.commit_rows;
        let (mut finds_pending, mut is_full) = (false, false);
        if let Some(pending) = &self.pending {
            finds_pending = pending.writer.contains_any(chunk.hashes());
            is_full = pending.rows + chunk.rows() > max_rows;
        }
        if finds_pending || is_full {
            self.commit_pending(false)?;
        }
        if !self.can_be_partitioned(&chunk) {
            return self.apply_serially(chunk);
        }
        let read_point = store.read_point();
        let found = timed(&times.match_and_merge, || store.find_sorted(chunk.hashes()))?;
        let found_count = found.iter().flatten().count();
        if found_count > 0 {
            self.commit_pending(false)?;
        }
        self.found_records.fetch_or(finds_pending || found_count > 0, Ordering::Relaxed);
        self.pending = timed(&times.match_and_merge, || {
            self.apply_in_partitions(&chunk, &found, found_count, read_point)
        })?;
        let Some(pending) = &self.pending else { return self.apply_serially(chunk) };
        let has_room = self.pending_bytes.is_some_and(|bytes| found_count == 0 && pending.memory() < bytes);
        let is_worth_a_commit =
            pending.rows >= MIN_COMMIT_ROWS && pending.covers_half_of_rest(self.file.size);
        if has_room && !is_worth_a_commit { Ok(()) } else { self.commit_pending(false) }
    }

    /// Commits what is left once all chunks were read, and that the file is imported. A run that was stopped commits what it
    /// merged of a file that is judged.
    ///
    /// # Errors
    /// If the file failed, or every row of it was rejected.
    pub(crate) fn finish(&mut self, streamed: Result<(), Error>) -> Result<(), Error> {
        match streamed {
            Ok(()) => (self.unchanged)().map_err(|error| self.failed(error))?,
            Err(Error::Interrupted) if self.is_judged => {
                return self.commit_pending(false).and(Err(Error::Interrupted));
            }
            Err(error) => return Err(error),
        }
        self.judge()?;
        let counts = self.pending.as_ref().map(|pending| pending.applied.counts).unwrap_or_default();
        let rows = self.tally.rows();
        if rows > 0 && !self.is_begun() && taken(&counts) == 0 {
            self.commit_pending(false)?;
            self.commit_unmerged(rows)?;
            return Err(judgement::none_taken(self.file, rows, ""));
        }
        self.orphaned = self.linked.record_orphans(self.import, self.rejected)?;
        match self.pending {
            Some(_) => self.commit_pending(true),
            None => self.commit(0, Applied::default(), (Vec::new(), None), None, true),
        }
    }

    /// Judges the file before its first commit. If it is not yet read to its end, it is read for that alone.
    fn judge(&mut self) -> Result<(), Error> {
        if self.is_judged {
            return Ok(());
        }
        self.is_judged = true;
        let examined;
        let tally = match self.is_read.load(Ordering::Acquire) {
            true => self.tally,
            false => {
                examined = self.import.examine_whole(self.file, self.plan)?;
                &examined
            }
        };
        let report = &mut self.run.entry.report;
        let before = (report.rows.without_rejected(*self.unmerged), report.cells_rejected);
        let judged = tally.judge(self.import, self.file, before, self.plan.mapped_cells());
        if judged.is_err() {
            let first = tally.first_rejected();
            let source =
                Source { linked: None, columns: &self.columns, width: self.width, file: &self.file.name };
            self.rejected.record(&source, &first)?;
            let is_row = |row: &&RejectedRow| !matches!(row.scope, RejectedScope::Cells(_));
            let rejected = first.iter().filter(is_row).count() as u64;
            let rows = &mut self.run.entry.report.rows;
            rows.read += rejected;
            rows.rejected += rejected;
            self.commit_unmerged(rejected)?;
        }
        judged
    }

    /// Commits that nothing of the file is merged, and that `rejected` rows of it are in the report.
    fn commit_unmerged(&mut self, rejected: u64) -> Result<(), Error> {
        *self.unmerged += rejected;
        let entry = &mut self.run.entry;
        entry.unmerged_files.push(self.file.name.clone());
        self.rejected.report(entry);
        let report = Some(entry.encode());
        let lease = Some(&self.run.lease);
        Ok(self.import.store.commit(Commit { lease, report, ..Commit::default() })?)
    }

    /// Whether a row of the file was merged, dropped or excluded, by this run or one before it. Until then the ledger knows
    /// nothing of the file: if every row is rejected, it fails, and the next run reads it again from its start.
    fn is_begun(&self) -> bool {
        self.from > 0 || self.taken > 0 || self.import.corrections.is_some()
    }

    /// Commits what is merged.
    fn commit_pending(&mut self, complete: bool) -> Result<(), Error> {
        if self.pending.is_some() {
            self.judge()?;
        }
        let Some(Pending { writer, read_point, applied, end, .. }) = self.pending.take() else {
            return Ok(());
        };
        let writer = timed(&self.times.match_and_merge, || writer.finish())?;
        self.commit(end, applied, (Vec::new(), Some(read_point)), Some(writer), complete)
    }

    /// Whether the partitions of a chunk may be applied in parallel, and the chunk is large enough for that.
    fn can_be_partitioned(&self, chunk: &ChunkRows) -> bool {
        self.import.config.settings.tuning.threads > 1
            && self.import.diff.is_none()
            && chunk.can_be_partitioned(self.plan, &self.context())
            && (self.pending.is_some() || chunk.is_worth_partitioning())
    }

    /// Applies the partitions of a chunk in parallel and writes their records, after those of the pending chunks. `None`
    /// if partitions keep sharing records: the chunk must be applied serially.
    fn apply_in_partitions(
        &mut self,
        chunk: &ChunkRows,
        found: &[Option<RecordId>],
        found_count: usize,
        read_point: ReadPoint,
    ) -> Result<Option<Pending<'a>>, Error> {
        let (store, context) = (self.import.store, self.context());
        store.prefetch_records(found_count)?;
        let erased = self.erased(chunk)?;
        let partitioned = chunk.partition(found, &self.import.workers);
        let mut partitions = partitioned.map_err(|error| Error::failed("no thread can be started", error))?;
        let packer = &self.packer;
        let pack = |records: Vec<_>| packer.pack(&records, context.now);
        for _ in 0..MAX_REPARTITIONS {
            let mut pending = match self.pending.take() {
                Some(pending) => pending,
                None => {
                    let [records, identifiers] = self.expected_counts(chunk, found_count);
                    let mostly_new = found_count < chunk.rows() / 2;
                    let writer = store.writer(WriterHints {
                        records,
                        identifiers,
                        mostly_new,
                        keep_at: self.import.keep.then_some(context.now),
                    })?;
                    Pending::new(writer, read_point, self.bytes_read)
                }
            };
            let mut distinct_profiles = self.distinct_profiles.clone();
            let applied = partitions.apply(
                self.plan,
                context,
                &erased,
                |ids, all| store.load_part(ids, all),
                pack,
                |records, next| {
                    if let Some(distinct_profiles) = &mut distinct_profiles {
                        distinct_profiles.add(records.ids());
                    }
                    pending.writer.put(&records, next)
                },
            )?;
            if let Some(applied) = applied {
                self.distinct_profiles = distinct_profiles;
                self.bytes_read = chunk.bytes_read();
                pending.add(applied, chunk);
                return Ok(Some(pending));
            }
            if never!(pending.rows > 0, "parallel chunks overlap") {
                return Err(Error::Failed("internal error: parallel chunks overlap".to_owned()));
            }
        }
        Ok(None)
    }

    /// About how many records and identifiers the commit will have that begins with a chunk.
    fn expected_counts(&self, chunk: &ChunkRows, found_count: usize) -> [usize; 2] {
        let own = [chunk.rows(), chunk.len()];
        let Some(max_bytes) = self.pending_bytes.filter(|_| found_count == 0) else { return own };
        let [left, read] =
            [self.file.size, chunk.bytes_read()].map(|bytes| bytes.saturating_sub(self.bytes_read));
        let chunks_to_come = usize::try_from(left / 2 / read.max(1)).unwrap_or(usize::MAX - 1);
        let max = max_bytes / BYTES_PER_PENDING_RECORD;
        own.map(|count| count.max(count.saturating_mul(chunks_to_come + 1).min(max)))
    }

    /// Applies a chunk row by row and commits it in parts, because rows take more memory that way.
    fn apply_serially(&mut self, chunk: ChunkRows) -> Result<(), Error> {
        self.commit_pending(false)?;
        self.judge()?;
        self.bytes_read = chunk.bytes_read();
        for part in chunk.parts(self.serial_bytes) {
            let read_point = self.import.store.read_point();
            let applied = timed(&self.times.match_and_merge, || self.apply(&part))?;
            let identifiers = applied.identifiers(&part).collect();
            self.commit(part.end(), applied, (identifiers, Some(read_point)), None, false)?;
        }
        Ok(())
    }

    /// Applies rows one after the other.
    fn apply(&mut self, chunk: &ChunkRows) -> Result<Applied, Error> {
        let (store, context) = (self.import.store, self.context());
        let found = store.find_sorted(chunk.hashes())?;
        let erased = self.erased(chunk)?;
        let ids = chunk.records(&found);
        let records = store.load_sorted(&ids)?;
        let before: Vec<_> = match self.import.diff {
            Some(_) => records.iter().flatten().cloned().collect(),
            None => Vec::new(),
        };
        let mut events = StoredEvents::preload(store, chunk.events(&found))?;
        let applied = chunk.apply(self.plan, context, &found, &erased, (&ids, records), &mut events);
        if let Some(error) = events.failure() {
            return Err(Error::Store(error));
        }
        let end = chunk.end();
        if let Some(diff) = self.import.diff.filter(|_| end > self.position) {
            let (goal, file) = (self.import.goal.name.as_str(), self.file.name.as_str());
            let row = diff::Row { goal, file, number: end, before: &before };
            diff.show(&store.names(), &row, &applied)?;
        }
        if let Some(distinct_profiles) = &mut self.distinct_profiles {
            distinct_profiles.add(applied.records.iter().map(|(id, _)| *id));
        }
        Ok(applied)
    }

    /// Which identifiers belong to erased persons that the goal does not restore; empty if there are none.
    fn erased(&self, chunk: &ChunkRows) -> Result<Vec<bool>, Error> {
        match self.import.erasure_key {
            Some(key) if !self.import.goal.restore_erased => {
                Ok(self.import.store.erased(key, &chunk.identifiers())?)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Commits merged rows up to `end` with the report so far.
    fn commit(
        &mut self,
        end: u64,
        applied: Applied,
        (identifiers, read_point): (Vec<(IdentifierHash, Option<RecordId>)>, Option<ReadPoint>),
        writer: Option<FinishedWriter<'a>>,
        complete: bool,
    ) -> Result<(), Error> {
        let store = self.import.store;
        let changes = writer.is_some() || !applied.records.is_empty() || !applied.merged.is_empty();
        self.taken += taken(&applied.counts);
        let is_begun = self.is_begun();
        let entry = &mut self.run.entry;
        entry.report.add(&applied.counts);
        if changes {
            entry.changes(self.run.lease.time());
        }
        let counts = self.linked_counts.take().unwrap_or_default();
        let orphaned = if complete { self.orphaned } else { 0 };
        if let Some(linked) = &mut entry.report.linked {
            *linked += LinkedRows { orphaned, ..counts };
        }
        entry.remember(applied.last_changed());
        let mut lines = Vec::new();
        match &self.import.corrections {
            Some(corrections) => {
                corrections.record(self.rejected, (&self.columns, self.width), &applied.rejected)?;
                lines = corrections.taken(self.position, end, &applied.rejected, &self.columns);
            }
            None => {
                let (columns, file) = (&self.columns, &self.file.name);
                let source = Source { linked: None, columns, width: self.width, file };
                self.rejected.record(&source, &applied.rejected)?;
            }
        }
        self.rejected.report(entry);
        let is_over_limit = applied.too_many_rejected;
        let position = if is_over_limit { applied.position } else { end.max(self.position) };
        self.position = position;
        let state = FileState { position, complete: complete && !is_over_limit };
        let is_known = self.import.corrections.is_none() && (state.complete || is_begun);
        let commit = Commit {
            lease: Some(&self.run.lease),
            read_point,
            exchanged: self.distinct_profiles.as_mut().and_then(DistinctProfiles::changed),
            records: applied.records,
            merged: applied.merged,
            grown: Some(vec![(self.plan.space, applied.grown)]),
            identifiers,
            events: applied.events,
            unfinished: if state.complete { self.unfinished.take() } else { None },
            file: is_known.then_some((self.key, state)),
            lines,
            report: Some(entry.encode()),
            changed: Some(Changed { file: &self.file.name, keep: self.import.keep }),
            ..Commit::default()
        };
        timed(&self.times.commit, || match writer {
            Some(writer) => writer.commit(commit),
            None => store.commit(commit),
        })?;
        if is_over_limit {
            let rejected = counted(entry.report.rows.rejected, "row");
            return Err(Error::TooManyRejected(format!(
                "{}: {rejected} rejected, more than max_rejected allows",
                self.file.name
            )));
        }
        Ok(())
    }

    fn failed(&self, error: FileError) -> Error {
        Error::File { name: self.file.name.clone(), error }
    }

    fn context(&self) -> Context {
        let rejected = self.run.entry.report.rows.without_rejected(*self.unmerged).rejected;
        let rejections_left = match self.import.goal.max_rejected {
            MaxRejected::Rows(max) if self.import.corrections.is_none() => max.saturating_sub(rejected),
            MaxRejected::Rows(_) | MaxRejected::Unlimited | MaxRejected::Share(_) => u64::MAX,
        };
        Context {
            goal_run: self.run.lease.number(),
            now: self.run.lease.time(),
            merges_since: self.merges_since,
            file: self.source,
            from: self.from,
            rejections_left,
            // A corrected line that is excluded again must be known: it is not taken.
            records_excluded: self.import.corrections.is_some() || self.rejected.records_excluded(),
        }
    }
}
