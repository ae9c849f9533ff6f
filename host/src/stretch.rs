//! The rows of a file, part after part, on their way into the store: matched, merged and committed.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use sluicebox_files::{FileError, FoundFile};
use sluicebox_matching::{Applied, Context, Gathered, Plan};
use sluicebox_model::{IdentifierHash, RecordId, RejectedRow};
use sluicebox_store::{Changed, Commit, FileState, NewTables, PackedRecords, Tables};

use crate::config::MaxRejected;
use crate::diff;
use crate::error::Error;
use crate::events::StoredEvents;
use crate::exchange::Exchanged;
use crate::import::{Clock, GoalRun, Import, timed};
use crate::linked::LinkedFiles;
use crate::report;

/// How often rows are shared out again because shares turned out to have something in common.
const SHARED_OUT: usize = 3;

/// Fewer new records are not worth a commit while more come.
const FEWEST_IN_COMMIT: usize = 100_000;

/// Bytes that are kept of a new record with one identifier until it is committed.
const BYTES_OF_PENDING: usize = 48;

/// Where the parts of a file go.
pub(crate) struct Stretch<'a> {
    pub import: &'a Import<'a>,
    /// The profiles that came in through the connection, if it is profiles that come in.
    pub exchanged: Option<Exchanged>,
    pub file: &'a FoundFile,
    pub key: [u8; 32],
    pub plan: &'a Plan,
    /// Bytes of rows that are merged one after the other.
    pub one_by_one: usize,
    /// Whether parts whose rows find nobody may be committed together, and how many bytes may be kept of them until then.
    pub together: Option<usize>,
    pub columns: Vec<String>,
    pub unchanged: &'a dyn Fn() -> Result<(), FileError>,
    pub linked: &'a LinkedFiles,
    /// The linked rows that the first commit counts.
    pub linked_counts: Option<report::LinkedRows>,
    /// What is to do with the files after the last commit, as that commit holds it.
    pub rest: Option<([u8; 32], Vec<u8>)>,
    /// Records of the file before this number were accounted for by earlier runs.
    pub from: u64,
    pub position: u64,
    /// Bytes of the file that were read for what was taken.
    pub read: u64,
    pub clock: &'a Clock,
    pub run: &'a mut GoalRun,
    /// Whether rows found somebody.
    pub found: &'a AtomicBool,
    /// What shares wrote that is in a table now: memory that was not touched before is dear, and this is room for what they write next.
    pub room: Mutex<Vec<PackedRecords>>,
    /// What is merged and not yet committed.
    pub pending: Option<Pending<'a>>,
}

/// Parts that are merged, and in tables that no commit has yet.
pub(crate) struct Pending<'a> {
    tables: NewTables<'a>,
    applied: Applied,
    rows: usize,
    /// Bytes of its rejected rows.
    rejected: usize,
    /// Bytes of the file that were read before its first row, and until its last.
    read: (u64, u64),
    end: u64,
}

impl<'a> Pending<'a> {
    fn new(tables: NewTables<'a>, read: u64) -> Self {
        Self { tables, applied: Applied::default(), rows: 0, rejected: 0, read: (read, read), end: 0 }
    }

    /// Takes in what the rows made that come next, but for their records, which are in the tables.
    fn add(&mut self, applied: Applied, gathered: &Gathered) {
        self.tables.put_identifiers(applied.identifiers(gathered));
        self.rows += gathered.rows();
        self.rejected += applied.rejected.iter().map(RejectedRow::memory).sum::<usize>();
        self.read.1 = gathered.bytes_read();
        self.end = gathered.end();
        self.applied.follow(applied);
    }

    fn memory(&self) -> usize {
        self.tables.memory() + self.rejected
    }

    /// Whether as much was read for it as is left of a file of so many bytes: when nothing is read any more, little is left to be committed.
    fn is_half(&self, of: u64) -> bool {
        let (from, to) = self.read;
        to.saturating_sub(from) >= of.saturating_sub(to)
    }
}

impl<'a> Stretch<'a> {
    /// Matches and merges the next rows. They are committed at once where some of them found somebody, and otherwise with some
    /// that come after them: people who are new have nothing in common with anybody.
    pub(crate) fn take(&mut self, gathered: Gathered) -> Result<(), Error> {
        (self.unchanged)().map_err(|error| self.failed(error))?;
        let (store, clock) = (self.import.store, self.clock);
        let most = self.import.config.settings.tuning.commit_rows;
        let (mut again, mut full) = (false, false);
        if let Some(pending) = &self.pending {
            again = pending.tables.hold_any(gathered.hashes());
            full = pending.rows + gathered.rows() > most;
        }
        if again || full {
            self.commit(false)?;
        }
        if !self.can_be_shared(&gathered) {
            return self.take_one_by_one(gathered);
        }
        let found = timed(&clock.match_and_merge, || store.find_sorted(gathered.hashes()))?;
        let there = found.iter().flatten().count();
        if there > 0 {
            self.commit(false)?;
        }
        self.found.fetch_or(again || there > 0, Ordering::Relaxed);
        self.pending = timed(&clock.match_and_merge, || self.apply_in_shares(&gathered, &found, there))?;
        let Some(pending) = &self.pending else { return self.take_one_by_one(gathered) };
        let together = self.together.is_some_and(|most| there == 0 && pending.memory() < most);
        let enough = pending.rows >= FEWEST_IN_COMMIT && pending.is_half(self.file.size);
        if together && !enough { Ok(()) } else { self.commit(false) }
    }

    /// Commits what is left, and that the file is imported.
    pub(crate) fn end(&mut self) -> Result<(), Error> {
        (self.unchanged)().map_err(|error| self.failed(error))?;
        match self.pending {
            Some(_) => self.commit(true),
            None => self.write(0, Applied::default(), Vec::new(), None, true),
        }
    }

    /// Commits what is merged.
    pub(crate) fn commit(&mut self, complete: bool) -> Result<(), Error> {
        let Some(Pending { tables, applied, end, .. }) = self.pending.take() else { return Ok(()) };
        let tables = timed(&self.clock.match_and_merge, || tables.finish())?;
        self.write(end, applied, Vec::new(), Some(tables), complete)
    }

    /// Whether rows may be applied at the same time, and are enough for that.
    fn can_be_shared(&self, gathered: &Gathered) -> bool {
        self.import.config.settings.tuning.threads > 1
            && self.import.diff.is_none()
            && gathered.can_be_shared(self.plan, &self.context())
            && (self.pending.is_some() || gathered.is_worth_sharing())
    }

    /// Applies rows that have nothing in common at the same time, and writes records as they are done, after those that are pending;
    /// `None` where that cannot be.
    fn apply_in_shares(
        &mut self,
        gathered: &Gathered,
        found: &[Option<RecordId>],
        there: usize,
    ) -> Result<Option<Pending<'a>>, Error> {
        let (store, context) = (self.import.store, self.context());
        store.read_records_ahead(there)?;
        let erased = self.erased(gathered)?;
        let shared = gathered.share_out(found, &self.import.workers);
        let mut shares = shared.map_err(|error| self.failed(FileError::Io(error)))?;
        let room = &self.room;
        let pack = |records: Vec<_>| {
            let packed: Option<PackedRecords> = room.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut packed = packed.unwrap_or_default();
            packed.pack(&records, context.now);
            packed
        };
        for _ in 0..SHARED_OUT {
            let mut pending = match self.pending.take() {
                Some(pending) => pending,
                None => {
                    let [records, identifiers] = self.to_come(gathered, there);
                    let stay = there < gathered.rows() / 2;
                    Pending::new(store.new_tables(records, identifiers, stay)?, self.read)
                }
            };
            let mut exchanged = self.exchanged.clone();
            let applied = shares.apply(
                self.plan,
                context,
                &erased,
                |ids, all| store.load_part(ids, all),
                pack,
                |records, next| {
                    if let Some(exchanged) = &mut exchanged {
                        exchanged.add(records.ids());
                    }
                    pending.tables.put_records(&records, next)?;
                    room.lock().unwrap_or_else(PoisonError::into_inner).push(records);
                    Ok(())
                },
            )?;
            if let Some(applied) = applied {
                self.exchanged = exchanged;
                self.read = gathered.bytes_read();
                pending.add(applied, gathered);
                return Ok(Some(pending));
            }
            if pending.rows > 0 {
                let never = io::Error::other("rows that find nobody have something in common with others");
                return Err(self.failed(FileError::Io(never)));
            }
        }
        Ok(None)
    }

    /// About how many records and identifiers a commit will have that begins with these rows.
    fn to_come(&self, gathered: &Gathered, there: usize) -> [usize; 2] {
        let own = [gathered.rows(), gathered.len()];
        let Some(most) = self.together.filter(|_| there == 0) else { return own };
        let [left, read] =
            [self.file.size, gathered.bytes_read()].map(|bytes| bytes.saturating_sub(self.read));
        let parts = usize::try_from(left / 2 / read.max(1)).unwrap_or(usize::MAX);
        own.map(|count| count.max(count.saturating_mul(parts + 1).min(most / BYTES_OF_PENDING)))
    }

    /// Applies rows one after the other, in parts, because they take more memory then, and commits each.
    fn take_one_by_one(&mut self, gathered: Gathered) -> Result<(), Error> {
        self.commit(false)?;
        self.read = gathered.bytes_read();
        for part in gathered.parts(self.one_by_one) {
            let applied = timed(&self.clock.match_and_merge, || self.apply(&part))?;
            let identifiers = applied.identifiers(&part).collect();
            self.write(part.end(), applied, identifiers, None, false)?;
        }
        Ok(())
    }

    /// Applies rows one after the other.
    fn apply(&mut self, gathered: &Gathered) -> Result<Applied, Error> {
        let (store, context) = (self.import.store, self.context());
        let found = store.find_sorted(gathered.hashes())?;
        let erased = self.erased(gathered)?;
        let ids = gathered.records(&found);
        let records = store.load_sorted(&ids)?;
        let before: Vec<_> = match self.import.diff {
            Some(_) => records.iter().flatten().cloned().collect(),
            None => Vec::new(),
        };
        let mut events = StoredEvents::preload(store, gathered.events(&found))?;
        let applied = gathered.apply(self.plan, context, &found, &erased, (&ids, records), &mut events);
        if let Some(error) = events.failure() {
            return Err(Error::Store(error));
        }
        let end = gathered.end();
        if let Some(diff) = self.import.diff.filter(|_| end > self.position) {
            let (goal, file) = (self.import.goal.name.as_str(), self.file.name.as_str());
            let row = diff::Row { goal, file, number: end, before: &before };
            diff.show(&store.names(), &row, &applied)?;
        }
        if let Some(exchanged) = &mut self.exchanged {
            exchanged.add(applied.records.iter().map(|(id, _)| *id));
        }
        Ok(applied)
    }

    /// Which identifiers are those of people who were erased, and stay so.
    fn erased(&self, gathered: &Gathered) -> Result<Vec<bool>, Error> {
        match self.import.erasure_key {
            Some(key) if !self.import.goal.restore_erased => {
                Ok(self.import.store.erased(key, &gathered.identifiers())?)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Commits what rows made.
    fn write(
        &mut self,
        end: u64,
        applied: Applied,
        identifiers: Vec<(IdentifierHash, Option<RecordId>)>,
        tables: Option<Tables>,
        complete: bool,
    ) -> Result<(), Error> {
        let store = self.import.store;
        let kept = &mut self.run.kept;
        kept.report.add(&applied.counts);
        let counts = self.linked_counts.take().unwrap_or_default();
        let orphaned = if complete { self.linked.orphans()? } else { 0 };
        if let Some(linked) = &mut kept.report.linked {
            *linked += report::LinkedRows { orphaned, ..counts };
        }
        kept.remember(applied.last_changed());
        if !self.import.dry {
            self.run.rejected.append(&self.columns, &self.file.name, &applied.rejected)?;
            kept.rejected_files.clone_from(&self.run.rejected.written);
        }
        let stopped = applied.too_many_rejected;
        let position = if stopped { applied.position } else { end.max(self.position) };
        self.position = position;
        let state = FileState { position, complete: complete && !stopped };
        let commit = Commit {
            exchanged: self.exchanged.as_ref().and_then(Exchanged::changed),
            tables,
            records: applied.records,
            merged: applied.merged,
            identifiers,
            events: applied.events,
            unfinished: if state.complete { self.rest.take() } else { None },
            file: Some((self.key, state)),
            goal_run: Some((self.run.number, kept.encode())),
            changed: Some(Changed { now: self.run.now, file: &self.file.name, keep: self.import.keep }),
            ..Commit::default()
        };
        timed(&self.clock.commit, || store.commit(commit))?;
        if stopped {
            let rejected = kept.report.rows.rejected;
            return Err(Error::TooManyRejected(format!(
                "{}: {rejected} rows are rejected, more than max_rejected allows",
                self.file.name
            )));
        }
        Ok(())
    }

    fn failed(&self, error: FileError) -> Error {
        Error::File { name: self.file.name.clone(), error }
    }

    fn context(&self) -> Context {
        let rejected = self.run.kept.report.rows.rejected;
        let rejections_left = match self.import.goal.max_rejected {
            MaxRejected::Rows(most) => most.saturating_sub(rejected),
            MaxRejected::Unlimited | MaxRejected::Share(_) => u64::MAX,
        };
        Context { goal_run: self.run.number, now: self.run.now, from: self.from, rejections_left }
    }
}
