//! An import goal: open → decode → read batches → process → match → merge → commit.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use jiff::Timestamp;
use sluicebox_files::{FileError, FoundFile, Reader, Source, decode};
use sluicebox_matching::{Context, Gathered, Plan, Prepared, prepare};
use sluicebox_model::RecordBatch;
use sluicebox_processors::Session;
use sluicebox_store::{Commit, FileState, Store};

use crate::config::{AfterImport, Config, Connection, ImportGoal, MaxRejected};
use crate::error::Error;
use crate::plan::resolve;
use crate::plugins::Processor;
use crate::progress::Progress;
use crate::rejected::RejectedRows;
use crate::report::{FileReport, FileStatus, Kept, Report, Status};

/// Rows wait for their commit up to this much memory.
const STRETCH_BYTES: usize = 96 << 20;
/// Batches between the stages: enough to keep them busy while a stretch is committed.
const QUEUE: usize = 32;

/// What an import goal works with.
pub(crate) struct Import<'a> {
    pub config: &'a Config,
    pub connection: &'a Connection,
    pub goal: &'a ImportGoal,
    pub processors: &'a [Processor],
    pub store: &'a Store,
    /// The id of the connection's run.
    pub run: &'a str,
    /// Whether the store is a copy: files stay as they are and rejected rows are only counted.
    pub dry: bool,
    /// Set by Ctrl-C.
    pub stop: &'a AtomicBool,
}

/// How far the goal run is.
struct GoalRun {
    number: u64,
    now: i64,
    kept: Kept,
    rejected: RejectedRows,
    clock: Clock,
}

/// Nanoseconds spent in each stage.
#[derive(Default)]
struct Clock {
    parse: AtomicU64,
    processors: AtomicU64,
    match_and_merge: AtomicU64,
    commit: AtomicU64,
}

fn timed<T>(total: &AtomicU64, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    total.fetch_add(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    done
}

impl Import<'_> {
    /// Runs the goal. What goes wrong with its files is in the report.
    ///
    /// # Errors
    /// If the store fails, or the run is interrupted.
    pub(crate) fn run(&self) -> Result<Kept, Error> {
        let begun = Instant::now();
        let started = Timestamp::now();
        let report = Report {
            run: self.run.to_owned(),
            connection: self.connection.name.clone(),
            goal: self.goal.name.clone(),
            kind: "import_profiles".to_owned(),
            ..Report::default()
        };
        let kept =
            Kept { report, started: started.to_string(), last_profiles: vec![], rejected_files: vec![] };
        let number = self.store.begin_goal_run(|_| kept.encode())?;
        let folder = self.config.data().join("rejected").join(self.run);
        let rejected = RejectedRows::new(folder, &self.goal.name, &self.goal.csv);
        let now = started.as_millisecond();
        let mut run = GoalRun { number, now, kept, rejected, clock: Clock::default() };

        let result = self.import_files(&mut run);

        let report = &mut run.kept.report;
        report.status = if result.is_ok() { Status::Succeeded } else { Status::Failed };
        report.error = result.as_ref().err().map(ToString::to_string);
        report.duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let milliseconds = |total: &AtomicU64| total.load(Ordering::Relaxed) / 1_000_000;
        report.stages_ms.parse = milliseconds(&run.clock.parse);
        report.stages_ms.processors = milliseconds(&run.clock.processors);
        report.stages_ms.match_and_merge = milliseconds(&run.clock.match_and_merge);
        report.stages_ms.commit = milliseconds(&run.clock.commit);
        let end =
            Commit { goal_run: Some((number, run.kept.encode())), ends_goal_run: true, ..Commit::default() };
        self.store.commit(end)?;
        match result {
            Err(error @ (Error::Store(_) | Error::Interrupted)) => Err(error),
            _ => Ok(run.kept),
        }
    }

    fn import_files(&self, run: &mut GoalRun) -> Result<(), Error> {
        let (files, warnings) = self.files()?;
        warnings.iter().for_each(|warning| self.warn(warning));
        if files.is_empty() {
            self.warn(&format!("no file matches `{}`", self.goal.pattern));
        }
        let (mut first, mut failed) = (None, 0);
        for file in &files {
            let before = run.kept.report.rows.read;
            let result = self.import_file(file, run);
            let rows = run.kept.report.rows.read - before;
            let status = *result.as_ref().unwrap_or(&FileStatus::Failed);
            run.kept.report.files.push(FileReport { name: file.name.clone(), status, rows });
            if let Err(error) = result {
                if error.ends_goal() {
                    return Err(error);
                }
                self.warn(&error.to_string());
                failed += 1;
                first = first.or(Some(error));
            }
            self.judge_rejected(run)?;
        }
        match first {
            Some(error) if failed == 1 => Err(error),
            Some(error) => {
                let message = format!("{failed} files failed; the first: {error}");
                Err(Error::Files(message))
            }
            None => Ok(()),
        }
    }

    /// The goal's files, in the order of their names, and warnings.
    pub(crate) fn files(&self) -> Result<(Vec<FoundFile>, Vec<String>), Error> {
        let listed = self.connection.location.list(&self.goal.directory, &self.goal.files);
        listed.map_err(|error| Error::io(&self.connection.location.root.join(&self.goal.directory), error))
    }

    fn warn(&self, message: &str) {
        tracing::warn!(connection = self.connection.name, goal = self.goal.name, "{message}");
    }

    fn import_file(&self, file: &FoundFile, run: &mut GoalRun) -> Result<FileStatus, Error> {
        let failed = |error: FileError| Error::File { name: file.name.clone(), error };
        let mut source = file.open().map_err(|error| failed(error.into()))?;
        let key = self.ledger_key(file, source.digest().map_err(|error| failed(error.into()))?);
        let state = self.store.file_state(&key)?.unwrap_or_default();
        if state.complete {
            self.finish(file)?;
            return Ok(FileStatus::AlreadyImported);
        }
        let mut progress = Progress::of_file(&file.name, source.size());
        let unchanged = source.unchanged().map_err(|error| failed(error.into()))?;
        let Some(mut open) = self.open(file, source)? else {
            self.warn(&format!("{} is empty", file.name));
            let whole = FileState { position: 0, complete: true };
            let commit = Commit { file: Some((key, whole)), ..Commit::default() };
            self.store.commit(commit)?;
            self.finish(file)?;
            return Ok(FileStatus::Imported);
        };
        let (plan, warnings) =
            resolve(self.connection, self.goal, &self.config.schema, self.store, &file.name, &open.columns)?;
        warnings.iter().for_each(|warning| self.warn(warning));

        let clock = std::mem::take(&mut run.clock);
        let mut stretch = Stretch {
            import: self,
            file,
            key,
            plan: &plan,
            columns: open.reader.header().columns.clone(),
            unchanged: &unchanged,
            from: state.position,
            position: state.position,
            pending: Vec::new(),
            rows: 0,
            memory: 0,
            clock: &clock,
            run,
        };
        let result = self.stream(file, &mut open, &plan, state.position, &clock, |prepared| {
            progress.advance(prepared.bytes_read(), prepared.records() as u64);
            stretch.take(prepared)
        });
        let result = match result {
            Ok(()) => stretch.commit(true),
            // What came before is whole.
            Err(error @ (Error::File { .. } | Error::Processor { .. })) => {
                stretch.commit(false).and(Err(error))
            }
            Err(error) => Err(error),
        };
        run.clock = clock;
        result?;
        self.finish(file)?;
        Ok(FileStatus::Imported)
    }

    /// What makes a file the same file: its name and content, under this configuration of the goal.
    pub(crate) fn ledger_key(&self, file: &FoundFile, digest: [u8; 32]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let mut add = |part: &[u8]| {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        };
        let settings = self.goal.settings.to_string();
        let names = [&self.connection.stem, &self.goal.name, &file.name, &settings];
        names.iter().for_each(|name| add(name.as_bytes()));
        self.connection.objectives.iter().for_each(|objective| add(objective.as_bytes()));
        add(&digest);
        for processor in self.processors {
            add(processor.plugin.digest());
            add(processor.config.as_bytes());
        }
        hasher.finalize().into()
    }

    /// Opens a file and a session of each processor on it; `None` if it holds nothing, not even a header.
    pub(crate) fn open(&self, file: &FoundFile, source: Source) -> Result<Option<OpenFile>, Error> {
        self.open_with(file, source, self.config.settings.tuning.batch_rows)
    }

    /// The same, in batches of so many rows.
    pub(crate) fn open_with(
        &self,
        file: &FoundFile,
        source: Source,
        batch_rows: usize,
    ) -> Result<Option<OpenFile>, Error> {
        let opened = decode(source, self.goal.encoding, self.config.settings.expansion)
            .and_then(|(text, read)| Reader::open(text, read, self.goal.csv.clone(), batch_rows));
        let reader = opened.map_err(|error| Error::File { name: file.name.clone(), error })?;
        let Some(reader) = reader else { return Ok(None) };
        let mut columns = reader.header().columns.clone();
        let mut sessions = Vec::new();
        for processor in self.processors {
            let session = processor.plugin.open(&processor.config, &columns);
            let session =
                session.map_err(|error| Error::Processor { file: file.name.clone(), batch: None, error })?;
            columns.extend_from_slice(session.added());
            sessions.push(session);
        }
        Ok(Some(OpenFile { reader, sessions, columns }))
    }

    /// Hands every batch of the file to `take`, in order, read and processed ahead on other threads.
    fn stream(
        &self,
        file: &FoundFile,
        open: &mut OpenFile,
        plan: &Plan,
        from: u64,
        clock: &Clock,
        mut take: impl FnMut(Prepared) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let OpenFile { reader, sessions, .. } = open;
        let mut read = || {
            let batch = timed(&clock.parse, || reader.next_batch());
            batch.map_err(|error| Error::File { name: file.name.clone(), error })
        };
        let mut number = 0;
        let mut work = |mut batch: RecordBatch| {
            number += 1;
            process(sessions, &mut batch, clock).map_err(|error| Error::Processor {
                file: file.name.clone(),
                batch: Some(number),
                error,
            })?;
            Ok(timed(&clock.match_and_merge, || prepare(plan, batch, from)))
        };
        if self.config.settings.tuning.threads == 1 {
            while let Some(batch) = read()? {
                take(work(batch)?)?;
            }
            return Ok(());
        }
        thread::scope(|scope| {
            let (send_batch, batches) = mpsc::sync_channel(4);
            let (send_prepared, prepared) = mpsc::sync_channel(QUEUE);
            // Whoever is no longer listened to stops: the receiver has failed and says why.
            scope.spawn(move || {
                while let Some(batch) = read().transpose() {
                    let last = batch.is_err();
                    if send_batch.send(batch).is_err() || last {
                        break;
                    }
                }
            });
            scope.spawn(move || {
                for batch in batches {
                    let prepared = batch.and_then(&mut work);
                    let last = prepared.is_err();
                    if send_prepared.send(prepared).is_err() || last {
                        break;
                    }
                }
            });
            prepared.into_iter().try_for_each(|prepared| take(prepared?))
        })
    }

    /// What becomes of a file whose rows are all in the store.
    fn finish(&self, file: &FoundFile) -> Result<(), Error> {
        let done = match self.goal.after_import {
            _ if self.dry => Ok(()),
            AfterImport::Keep => Ok(()),
            AfterImport::DoneSuffix => file.mark_done(),
            AfterImport::Delete => file.delete(),
        };
        done.map_err(|error| Error::File { name: file.name.clone(), error: error.into() })
    }

    /// A share of rejected rows is judged at the end of each file.
    fn judge_rejected(&self, run: &GoalRun) -> Result<(), Error> {
        let rows = run.kept.report.rows;
        match self.goal.max_rejected {
            #[expect(clippy::cast_precision_loss, reason = "a share of rows needs no more")]
            MaxRejected::Share(share) if rows.rejected as f64 > share * rows.read as f64 => {
                Err(Error::TooManyRejected(format!(
                    "{} of {} rows are rejected, more than the {}% that max_rejected allows",
                    rows.rejected,
                    rows.read,
                    share * 100.0
                )))
            }
            _ => Ok(()),
        }
    }
}

/// A file with its processors at the start of its first row.
pub(crate) struct OpenFile {
    pub reader: Reader,
    pub sessions: Vec<Session>,
    /// The file's columns and those that processors add.
    pub columns: Vec<String>,
}

fn process(
    sessions: &mut [Session],
    batch: &mut RecordBatch,
    clock: &Clock,
) -> Result<(), sluicebox_processors::PluginError> {
    timed(&clock.processors, || sessions.iter_mut().try_for_each(|session| session.process(batch)))
}

/// Rows of a file that are matched, merged and committed together.
struct Stretch<'a> {
    import: &'a Import<'a>,
    file: &'a FoundFile,
    key: [u8; 32],
    plan: &'a Plan,
    columns: Vec<String>,
    unchanged: &'a dyn Fn() -> Result<(), FileError>,
    /// Records of the file before this number were accounted for by earlier runs.
    from: u64,
    position: u64,
    pending: Vec<Prepared>,
    rows: usize,
    memory: usize,
    clock: &'a Clock,
    run: &'a mut GoalRun,
}

impl Stretch<'_> {
    fn take(&mut self, prepared: Prepared) -> Result<(), Error> {
        if self.import.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        if prepared.end() <= self.from {
            return Ok(());
        }
        self.rows += prepared.records();
        self.memory += prepared.memory();
        self.pending.push(prepared);
        let full =
            self.rows >= self.import.config.settings.tuning.commit_rows || self.memory >= STRETCH_BYTES;
        if full { self.commit(false) } else { Ok(()) }
    }

    /// Matches and merges the rows that wait, and commits them with the position in the file: all or nothing.
    fn commit(&mut self, complete: bool) -> Result<(), Error> {
        if self.pending.is_empty() && !complete {
            return Ok(());
        }
        let store = self.import.store;
        let pending = std::mem::take(&mut self.pending);
        (self.rows, self.memory) = (0, 0);
        let end = pending.last().map_or(self.position, Prepared::end);
        let failed = |error| Error::File { name: self.file.name.clone(), error };
        (self.unchanged)().map_err(failed)?;

        let applied = timed(&self.clock.match_and_merge, || {
            let gathered = Gathered::new(pending);
            let found = store.find_sorted(&gathered.keys().collect::<Vec<_>>())?;
            let ids = gathered.records(&found);
            let records = store.load_sorted(&ids)?;
            Ok::<_, Error>(gathered.apply(self.plan, self.context(), &found, &ids, records))
        })?;

        let kept = &mut self.run.kept;
        kept.report.add(&applied.counts);
        kept.remember(&applied.last_changed);
        if !self.import.dry {
            self.run.rejected.append(&self.columns, &self.file.name, &applied.rejected)?;
            kept.rejected_files.clone_from(&self.run.rejected.written);
        }
        let stopped = applied.too_many_rejected;
        let position = if stopped { applied.position } else { end.max(self.position) };
        self.position = position;
        let state = FileState { position, complete: complete && !stopped };
        let commit = Commit {
            records: applied.records,
            merged: applied.merged,
            identifiers: applied.identifiers,
            file: Some((self.key, state)),
            goal_run: Some((self.run.number, kept.encode())),
            ends_goal_run: false,
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

    fn context(&self) -> Context {
        let rejected = self.run.kept.report.rows.rejected;
        let rejections_left = match self.import.goal.max_rejected {
            MaxRejected::Rows(most) => most.saturating_sub(rejected),
            MaxRejected::Unlimited | MaxRejected::Share(_) => u64::MAX,
        };
        Context { goal_run: self.run.number, now: self.run.now, from: self.from, rejections_left }
    }
}
