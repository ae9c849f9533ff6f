//! An import goal: find sets → open → decode → read batches → process → join → match → merge → commit.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Instant;

use jiff::Timestamp;
use sluicebox_files::{Decoding, FileError, FoundFile, Location, Reader, Source, decode, verify};
use sluicebox_matching::{Gathered, Plan, Prepared, Room, Workers, prepare};
use sluicebox_model::{PropertySchema, RecordBatch};
use sluicebox_processors::{Session, Usage};
use sluicebox_store::{Commit, ErasureKey, FileState, Store};

use crate::config::{Config, Connection, ImportGoal, MaxRejected, Opened, Target, Tuning, property_settings};
use crate::diff::Diff;
use crate::error::Error;
use crate::exchange::{Exchanged, Way};
use crate::linked::LinkedFiles;
use crate::plan::{Resolved, Resolver};
use crate::plugins::Processor;
use crate::progress::{Progress, Watch};
use crate::rejected::{self, RejectedRows};
use crate::report::{self, FileReport, FileStatus, Kept, ProcessorReport, Report, Run, Trigger};
use crate::sets::{self, FileSet, Sets};
use crate::stretch::Stretch;
use crate::unfinished::Unfinished;

/// Batches between one thread and the next.
pub(crate) const QUEUE: usize = 4;

/// About how many bytes of a file a row takes, to tell how large the store will be after it.
const BYTES_OF_A_ROW: u64 = 128;

/// About how many bytes a store holds in memory for each record that it has: filters and indexes of its tables.
const BYTES_OF_A_RECORD: usize = 5;

/// The rows of a smaller file look up little.
const READ_AHEAD_FOR: u64 = 1 << 20;

/// A store of fewer records is small.
const FEW_RECORDS: u64 = 200_000;

/// A store grows where a file has so many times its records in rows: most of them find nobody.
const GROWS: u64 = 4;

/// Rows of a part of a file while they find nobody: they are in few shares, and their memory is the next part's room.
const NEW_ROWS: usize = 32_768;

/// The run of what only looks.
pub(crate) static LOOK: Run = Run { id: String::new(), trigger: Trigger::Command, continues: None };
/// It is not stopped.
pub(crate) static NEVER: AtomicBool = AtomicBool::new(false);

/// What an import goal works with.
pub(crate) struct Import<'a> {
    pub config: &'a Config,
    pub connection: &'a Connection,
    pub goal: &'a ImportGoal,
    /// Where the connection's files are.
    pub location: &'a Location,
    /// How their bytes become text.
    pub decoding: Decoding,
    pub processors: &'a [Processor],
    pub store: &'a Store,
    /// What hashes of erased identifiers are made with, if anyone was erased.
    pub erasure_key: Option<&'a ErasureKey>,
    /// Whether it is kept what the run overwrites.
    pub keep: bool,
    /// Shows what each row changes; each is then applied by itself.
    pub diff: Option<Diff>,
    /// The connection's run.
    pub run: &'a Run,
    /// Who is shown how far it is.
    pub watch: Watch<'a>,
    /// Whether the store is a copy: files stay as they are and rejected rows are only counted.
    pub dry: bool,
    /// Set by Ctrl-C.
    pub stop: &'a AtomicBool,
    /// Who merges rows that have nothing in common.
    pub workers: Workers,
}

/// How far the goal run is.
pub(crate) struct GoalRun {
    pub number: u64,
    pub now: i64,
    pub kept: Kept,
    pub rejected: RejectedRows,
    clock: Clock,
}

/// Nanoseconds spent in each stage, and what processors did, by their places in the goal.
#[derive(Default)]
pub(crate) struct Clock {
    usage: Mutex<Vec<(usize, Usage)>>,
    parse: AtomicU64,
    processors: AtomicU64,
    pub match_and_merge: AtomicU64,
    pub commit: AtomicU64,
}

impl GoalRun {
    /// Adds what the goal's processors did with the files of a set.
    fn used(&mut self, clock: &Clock) {
        for (place, usage) in clock.usage.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if let Some(processor) = self.kept.report.processors.get_mut(place) {
                processor.add(usage);
            }
        }
    }
}

/// Adds the time that work takes.
pub(crate) fn timed<T>(total: &AtomicU64, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    total.fetch_add(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    done
}

impl<'a> Import<'a> {
    /// An import that only looks, and nobody looks at.
    pub(crate) fn looking(
        config: &'a Config,
        connection: &'a Connection,
        goal: &'a ImportGoal,
        opened: &'a Opened,
        processors: &'a [Processor],
        store: &'a Store,
    ) -> Self {
        let decoding = opened.decoding(&config.settings, goal);
        Self {
            config,
            connection,
            goal,
            location: &opened.location,
            decoding,
            processors,
            store,
            erasure_key: None,
            keep: false,
            diff: None,
            run: &LOOK,
            watch: Watch::Nobody,
            dry: true,
            stop: &NEVER,
            workers: Workers::new(config.settings.tuning.threads),
        }
    }
}

impl Import<'_> {
    /// Runs the goal. What goes wrong with its files is in the report.
    ///
    /// # Errors
    /// If the store fails, or the run is interrupted.
    pub(crate) fn run(&self) -> Result<Kept, Error> {
        let begun = Instant::now();
        let started = Timestamp::now();
        let kind = self.goal.target.kind().key();
        let report = Report {
            linked: (!self.goal.linked.is_empty()).then(report::LinkedRows::default),
            processors: self.processors.iter().map(ProcessorReport::of).collect(),
            ..Report::of(&self.run.id, &self.connection.name, &self.goal.name, kind)
        };
        let kept = Kept::new(report, started, self.run);
        let (number, now) = self.store.begin_goal_run(started.as_millisecond(), |_| kept.encode())?;
        let folder = rejected::folder(self.config, &self.run.id);
        let rejected = RejectedRows::new(folder, &self.goal.name, &self.goal.csv);
        let kept = Kept { at: now, ..kept };
        let mut run = GoalRun { number, now, kept, rejected, clock: Clock::default() };

        let result = self.import_files(&mut run);

        run.kept.end(result.as_ref().err(), begun.elapsed());
        let report = &mut run.kept.report;
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
        if let Some(broken) = self.processors.iter().find_map(|processor| processor.broken.clone()) {
            return Err(Error::Failed(broken));
        }
        let mut found = self.sets()?;
        if Unfinished::of(self).finish_all(&found.files)? {
            found = self.sets()?;
        }
        found.warnings.iter().for_each(|warning| self.warn(warning));
        if found.sets.is_empty() {
            self.warn(&format!("no file matches `{}`", self.goal.pattern));
        }
        let mut uses = found.uses();
        let (mut first, mut failed) = (None, 0);
        for set in found.sets {
            let before = run.kept.report.rows.read;
            let (name, result) = match set {
                Ok(set) => (set.root.name.clone(), self.import_set(&set, &mut uses, run)),
                Err(incomplete) => {
                    let name = incomplete.root.name;
                    (name.clone(), Err(Error::Set { name, message: incomplete.message }))
                }
            };
            let rows = run.kept.report.rows.read - before;
            let status = *result.as_ref().unwrap_or(&FileStatus::Failed);
            run.kept.report.files.push(FileReport { name, status, rows });
            if let Err(error) = result {
                run.kept.report.trapped(&error);
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

    /// The goal's files.
    ///
    /// # Errors
    /// If its directory cannot be listed.
    pub(crate) fn sets(&self) -> Result<Sets, Error> {
        sets::find(self.location, self.goal).map_err(|error| match (error, self.location) {
            (FileError::Io(error), Location::Directory(location)) => {
                Error::io(&location.root.join(&self.goal.directory), error)
            }
            (error, _) => Error::Location { place: self.connection.name.clone(), error },
        })
    }

    /// What resolves the goal's mappings.
    pub(crate) fn resolver(&self) -> Resolver<'_> {
        Resolver {
            connection: self.connection,
            goal: self.goal,
            schema: &self.config.schema,
            store: self.store,
        }
    }

    /// How much of a file is merged and committed at a time. What a large store keeps in memory of itself
    /// is not there for rows. Where a file and the store are small there is little to walk through for each part, and
    /// smaller ones overlap better; smallest are those whose rows find nobody.
    fn sizes(&self, file: &FoundFile, plan: &Plan) -> Result<Sizes, Error> {
        let Tuning { mut rows_bytes, linked_bytes, threads, .. } = self.config.settings.tuning;
        if !self.goal.linked.is_empty() {
            rows_bytes -= linked_bytes;
        }
        let records = self.store.about_records()?;
        let rows = file.size / BYTES_OF_A_ROW;
        let after = usize::try_from(records + rows).unwrap_or(usize::MAX);
        let bytes = rows_bytes.saturating_sub(after.saturating_mul(BYTES_OF_A_RECORD)).max(rows_bytes / 4);
        let one_by_one = bytes / 11 * 2;
        let shared = threads > 1
            && self.diff.is_none()
            && !self.keep
            && self.goal.linked.is_empty()
            && !matches!(self.goal.max_rejected, MaxRejected::Rows(_))
            && plan.can_be_shared();
        let few = records < FEW_RECORDS;
        let grows = shared && (few || rows > records * GROWS);
        let (whole, part, ahead) = if few && file.size < 8 * one_by_one as u64 {
            let part = if shared { one_by_one / 4 * 3 } else { one_by_one / 3 };
            (part, part, 2)
        } else if grows {
            (bytes / 5, bytes / 5, 2)
        } else if shared {
            (bytes / 5 * 4, bytes / 3, 0)
        } else {
            (one_by_one, one_by_one, 0)
        };
        Ok(Sizes { whole, part, one_by_one, together: grows.then_some(bytes / 8), ahead })
    }

    fn rows_a_time(&self, rows: usize) -> usize {
        if self.diff.is_some() { 1 } else { rows }
    }

    pub(crate) fn warn(&self, message: &str) {
        tracing::warn!(connection = self.connection.name, goal = self.goal.name, "{message}");
    }

    /// The progress bar of a file.
    pub(crate) fn progress(&self, file: &FoundFile) -> Progress<'_> {
        Progress::of_file(self.watch, &file.name, file.size)
    }

    fn import_set(
        &self,
        set: &FileSet,
        uses: &mut HashMap<String, usize>,
        run: &mut GoalRun,
    ) -> Result<FileStatus, Error> {
        let file = &set.root;
        let failed = |error: FileError| Error::File { name: file.name.clone(), error };
        let identified = self.identify(set)?;
        let (key, state) = (identified.key, identified.state);
        let mut last = |file: &str| {
            let uses = uses.get_mut(file);
            uses.is_none_or(|uses| {
                *uses = uses.saturating_sub(1);
                *uses == 0
            })
        };
        let linked = set.linked.iter().flatten().filter(|file| last(&file.name)).collect::<Vec<_>>();
        let unfinished = Unfinished::of(self);
        if state.complete {
            unfinished.finish(set, &linked)?;
            return Ok(FileStatus::AlreadyImported);
        }
        for file in set.files() {
            let verified = verify(|| file.open(), &self.decoding);
            verified.map_err(|error| Error::File { name: file.name.clone(), error })?;
        }
        let source = file.open().map_err(failed)?;
        let unchanged = source.unchanged();
        let rest = unfinished.rest(set, &linked, &identified.digests);
        let Some(mut open) = self.open(file, source, None)? else {
            self.warn(&format!("{} is empty", file.name));
            let whole = FileState { position: 0, complete: true };
            let commit = Commit { file: Some((key, whole)), unfinished: rest, ..Commit::default() };
            self.store.commit(commit)?;
            unfinished.finish(set, &linked)?;
            return Ok(FileStatus::Imported);
        };
        let resolver = self.resolver();
        let Resolved { plan, warnings, links, .. } = resolver.root(&file.name, &open.columns)?;
        warnings.iter().for_each(|warning| self.warn(warning));
        let clock = std::mem::take(&mut run.clock);
        let resumed = state.position > 0;
        let joined = LinkedFiles::load(self, &resolver, set, &clock, |file, columns, rejected| {
            if self.dry || resumed { Ok(()) } else { run.rejected.append(columns, &file.name, rejected) }
        });
        let joined = joined.inspect_err(|_| run.used(&clock))?;
        let exchanged = match self.goal.target {
            Target::Profiles(_) => Some(Exchanged::load(self.store, &self.connection.stem, Way::In)?),
            _ => None,
        };
        let sizes = self.sizes(file, &plan)?;
        if file.size >= READ_AHEAD_FOR {
            self.store.read_ahead(file.size / BYTES_OF_A_ROW)?;
        }
        let found = AtomicBool::new(false);
        let mut stretch = Stretch {
            import: self,
            exchanged,
            file,
            key,
            plan: &plan,
            one_by_one: sizes.one_by_one,
            together: sizes.together,
            columns: open.reader.header().columns.clone(),
            unchanged: &unchanged,
            linked: &joined,
            linked_counts: (!resumed).then(|| joined.counts()),
            rest,
            from: state.position,
            position: state.position,
            read: 0,
            clock: &clock,
            run,
            found: &found,
            room: Mutex::default(),
            pending: None,
        };
        let ready = |batch, room: &mut Room| {
            timed(&clock.match_and_merge, || {
                let linked = joined.join(&links, &batch)?;
                Ok(prepare(&plan, batch, &linked, state.position, room))
            })
        };
        let mut gather = Gather {
            from: state.position,
            most_rows: self.rows_a_time(self.config.settings.tuning.commit_rows),
            sizes,
            found: &found,
            of: file.size,
            skipped: 0,
            progress: self.progress(file),
            clock: &clock,
            pending: Vec::new(),
            rows: 0,
            memory: 0,
            all_memory: 0,
            first: true,
        };
        let result =
            self.stream(file, &mut open, &clock, ready, &mut gather, |gathered| stretch.take(gathered));
        let result = match result {
            Ok(()) => stretch.end(),
            Err(error @ Error::Store(_)) => Err(error),
            // What came before is whole.
            Err(error) => stretch.commit(false).and(Err(error)),
        };
        drop((gather, stretch));
        run.used(&clock);
        run.clock = clock;
        result?;
        unfinished.finish(set, &linked)?;
        Ok(FileStatus::Imported)
    }

    /// What makes a set the same set: the names and contents of its files, under this configuration of the goal; and
    /// how far it is imported.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub(crate) fn identify(&self, set: &FileSet) -> Result<Identified, Error> {
        let mut hasher = blake3::Hasher::new();
        let mut add = |part: &[u8]| {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        };
        let settings = self.goal.settings.to_string();
        let names = [&self.connection.stem, &self.goal.name, &set.root.name, &settings];
        names.iter().for_each(|name| add(name.as_bytes()));
        self.connection.objectives.iter().for_each(|objective| add(objective.as_bytes()));
        let mut digests = HashMap::new();
        for file in set.files() {
            let digest = self.digest(file)?;
            add(file.name.as_bytes());
            add(&digest);
            digests.insert(file.name.clone(), digest);
        }
        for processor in self.processors {
            add(processor.plugin.digest());
            add(&processor.file.map_or(0, |file| file as u64 + 1).to_le_bytes());
            add(processor.config.as_bytes());
        }
        for property in self.bulk_properties(&set.root)? {
            add(property_settings(&property).to_string().as_bytes());
        }
        let key = hasher.finalize().into();
        let state = self.store.file_state(&key)?.unwrap_or_default();
        Ok(Identified { key, state, digests })
    }

    /// What stands for the content of a file.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn digest(&self, file: &FoundFile) -> Result<[u8; 32], Error> {
        let failed = |error: FileError| Error::File { name: file.name.clone(), error };
        let version = file.version();
        if let Some(version) = &version
            && let Some(digest) = self.store.digest(version)?
        {
            return Ok(digest);
        }
        let digest = file.open().and_then(|mut source| source.digest()).map_err(failed)?;
        if let Some(version) = version.filter(|_| !self.dry) {
            self.store.remember_digest(&version, digest)?;
        }
        Ok(digest)
    }

    /// The properties that the bulk mapping writes of this file: which they are depends on its columns.
    fn bulk_properties(&self, file: &FoundFile) -> Result<Vec<PropertySchema>, Error> {
        if self.goal.all_fields.is_none() {
            return Ok(Vec::new());
        }
        let source = file.open().map_err(|error| Error::File { name: file.name.clone(), error })?;
        let Some(open) = self.open(file, source, None)? else { return Ok(Vec::new()) };
        Ok(self.resolver().root(&file.name, &open.columns)?.bulk)
    }

    /// Opens a file and a session of each of its processors; `None` if it holds nothing, not even a header. `linked` is
    /// its place among the goal's linked files.
    ///
    /// # Errors
    /// If it cannot be read, or a processor cannot work on it.
    pub(crate) fn open(
        &self,
        file: &FoundFile,
        source: Source,
        linked: Option<usize>,
    ) -> Result<Option<OpenFile>, Error> {
        self.open_with(file, source, linked, self.rows_a_time(self.config.settings.tuning.batch_rows))
    }

    /// The same, in batches of so many rows.
    ///
    /// # Errors
    /// As [`Import::open`].
    pub(crate) fn open_with(
        &self,
        file: &FoundFile,
        source: Source,
        linked: Option<usize>,
        batch_rows: usize,
    ) -> Result<Option<OpenFile>, Error> {
        let opened = decode(source, &self.decoding)
            .and_then(|(text, read)| Reader::open(text, read, self.goal.csv.clone(), batch_rows));
        let reader = opened.map_err(|error| Error::File { name: file.name.clone(), error })?;
        let Some(reader) = reader else { return Ok(None) };
        let mut columns = reader.header().columns.clone();
        let mut sessions = Vec::new();
        let mut places = Vec::new();
        let own = self.processors.iter().enumerate().filter(|(_, processor)| processor.file == linked);
        for (place, processor) in own {
            let session = processor.plugin.open(&self.goal.name, &processor.config, &columns);
            let session =
                session.map_err(|error| Error::Processor { file: file.name.clone(), batch: None, error })?;
            columns.extend_from_slice(session.added());
            sessions.push(session);
            places.push(place);
        }
        Ok(Some(OpenFile { reader, sessions, places, columns }))
    }

    /// Hands what `work` makes of the file's batches, which `ready` readied for it, to `take`, in order; reading and working run
    /// ahead on other threads.
    ///
    /// # Errors
    /// If the file cannot be read on, or a processor fails, after what came before was handed to `take`; or with what
    /// `take` says.
    pub(crate) fn stream<W: Work>(
        &self,
        file: &FoundFile,
        open: &mut OpenFile,
        clock: &Clock,
        ready: impl Fn(RecordBatch, &mut Room) -> Result<W::Ready, Error> + Sync,
        work: &mut W,
        take: impl FnMut(W::Done) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let result = self.stages(file, open, clock, &ready, work, take);
        let used = open.places.iter().copied().zip(open.sessions.iter().map(Session::usage));
        clock.usage.lock().unwrap_or_else(PoisonError::into_inner).extend(used);
        result
    }

    fn stages<W: Work>(
        &self,
        file: &FoundFile,
        open: &mut OpenFile,
        clock: &Clock,
        ready: &(impl Fn(RecordBatch, &mut Room) -> Result<W::Ready, Error> + Sync),
        work: &mut W,
        mut take: impl FnMut(W::Done) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let OpenFile { reader, sessions, .. } = open;
        let mut next = || {
            let batch = timed(&clock.parse, || reader.next_batch());
            batch.map_err(|error| Error::File { name: file.name.clone(), error })
        };
        let mut number = 0;
        let mut through = |mut batch: RecordBatch| {
            number += 1;
            let processed = timed(&clock.processors, || {
                sessions.iter_mut().try_for_each(|session| session.process(&mut batch))
            });
            let failed = |error| Error::Processor { file: file.name.clone(), batch: Some(number), error };
            processed.map(|()| batch).map_err(failed)
        };
        let stopped = || self.stop.load(Ordering::Relaxed);
        let mut room = Room::default();
        if self.config.settings.tuning.threads == 1 {
            let result = loop {
                let batch = match next() {
                    Ok(Some(batch)) => through(batch),
                    Ok(None) => break Ok(()),
                    Err(error) => Err(error),
                };
                match batch {
                    _ if stopped() => return Err(Error::Interrupted),
                    Ok(batch) => work.batch(ready(batch, &mut room)?)?.map_or(Ok(()), &mut take)?,
                    Err(error) => break Err(error),
                }
            };
            work.rest().map_or(Ok(()), take)?;
            return result;
        }
        thread::scope(|scope| {
            let (send_batch, batches) = mpsc::sync_channel(QUEUE);
            let (send_processed, processed) = mpsc::sync_channel(QUEUE);
            let (send_done, done) = mpsc::sync_channel(work.ahead());
            let no_thread = |error| Error::File { name: file.name.clone(), error: FileError::Io(error) };
            let read = thread::Builder::new().name("read".to_owned());
            let read = read.spawn_scoped(scope, move || {
                hand_on(std::iter::from_fn(|| next().transpose()), &send_batch, Ok);
            });
            read.map_err(no_thread)?;
            let process = thread::Builder::new().name("process".to_owned());
            let process = process.spawn_scoped(scope, move || {
                let mut room = Room::default();
                let processed =
                    batches.into_iter().map(|batch| batch.and_then(&mut through).map(Processed::Batch));
                // Whoever works on them is behind when some wait.
                let help = |processed| match processed {
                    Processed::Batch(batch) => ready(batch, &mut room).map(Processed::Ready),
                    ready @ Processed::Ready(_) => Ok(ready),
                };
                hand_on(processed, &send_processed, help);
            });
            process.map_err(no_thread)?;
            let work_on = thread::Builder::new().name("work".to_owned());
            let work_on = work_on.spawn_scoped(scope, move || {
                let send = |made: Result<Option<W::Done>, Error>| {
                    made.transpose().is_none_or(|made| send_done.send(made).is_ok())
                };
                let mut batch = |processed: Processed<W::Ready>| match processed {
                    Processed::Batch(batch) => work.batch(ready(batch, &mut room)?),
                    Processed::Ready(ready) => work.batch(ready),
                };
                let mut processed = processed.into_iter();
                let failure = loop {
                    match processed.next().map(|processed| processed.and_then(&mut batch)) {
                        None => break None,
                        Some(Err(error)) => break Some(error),
                        Some(made) => {
                            if !send(made) {
                                return;
                            }
                        }
                    }
                };
                if send(Ok(work.rest()))
                    && let Some(failure) = failure
                {
                    send(Err(failure));
                }
            });
            work_on.map_err(no_thread)?;
            done.into_iter()
                .try_for_each(|done| if stopped() { Err(Error::Interrupted) } else { take(done?) })
        })
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

/// Hands batches on until one of them is a failure; where it would have to wait, `meanwhile` first does some work on them. Whoever is
/// no longer listened to stops: the receiver has failed and says why.
fn hand_on<B>(
    batches: impl Iterator<Item = Result<B, Error>>,
    to: &mpsc::SyncSender<Result<B, Error>>,
    mut meanwhile: impl FnMut(B) -> Result<B, Error>,
) {
    for batch in batches {
        let mut last = batch.is_err();
        let sent = match to.try_send(batch) {
            Err(mpsc::TrySendError::Full(batch)) => {
                let batch = batch.and_then(&mut meanwhile);
                last |= batch.is_err();
                to.send(batch).is_ok()
            }
            sent => sent.is_ok(),
        };
        if last || !sent {
            break;
        }
    }
}

/// A batch that went through the processors.
enum Processed<R> {
    Batch(RecordBatch),
    /// It is made ready for [`Work`], too.
    Ready(R),
}

/// A set of files as the ledger knows it.
pub(crate) struct Identified {
    pub key: [u8; 32],
    pub state: FileState,
    /// Each file's digest, by its name.
    digests: HashMap<String, [u8; 32]>,
}

/// A file with its processors at the start of its first row.
pub(crate) struct OpenFile {
    pub reader: Reader,
    pub sessions: Vec<Session>,
    /// The sessions' processors, by their places in the goal.
    places: Vec<usize>,
    /// The file's columns and those that processors add.
    pub columns: Vec<String>,
}

/// What is made of a file's batches, on a thread of its own.
pub(crate) trait Work: Send {
    /// A batch, as far as it can be worked on without those before it: whoever has time does that.
    type Ready: Send;
    /// What is handed on.
    type Done: Send;
    /// How many of them may wait.
    fn ahead(&self) -> usize;

    /// Takes the next batch; answers when something is done.
    ///
    /// # Errors
    /// If it cannot be worked on.
    fn batch(&mut self, batch: Self::Ready) -> Result<Option<Self::Done>, Error>;

    /// What is left when there are no more batches.
    fn rest(&mut self) -> Option<Self::Done> {
        None
    }
}

/// Gathers batches until they are worth a commit.
struct Gather<'a> {
    from: u64,
    most_rows: usize,
    sizes: Sizes,
    /// Whether rows found somebody.
    found: &'a AtomicBool,
    /// Bytes of the file, and how many were read before the first row that counts.
    of: u64,
    skipped: u64,
    progress: Progress<'a>,
    clock: &'a Clock,
    pending: Vec<Prepared>,
    rows: usize,
    /// Bytes of what is pending, and of all batches.
    memory: usize,
    all_memory: usize,
    /// Whether nothing is committed yet.
    first: bool,
}

/// Bytes of rows that are merged and committed at a time.
#[derive(Clone, Copy)]
struct Sizes {
    /// Of a file that is taken whole.
    whole: usize,
    /// Of a part of a file, the next of which is read at the same time.
    part: usize,
    /// Of rows that are merged one after the other.
    one_by_one: usize,
    /// Of what is kept of several small parts that are committed together, while rows find nobody.
    together: Option<usize>,
    /// How many parts may wait while one is merged.
    ahead: usize,
}

impl Gather<'_> {
    /// Whether all of the file is likely to fit, by what was read of it: that is better than two parts, because there is less to
    /// look up.
    fn fits_whole(&self, read: u64) -> bool {
        self.first
            && self.memory < self.sizes.whole
            && self.memory as u128 + self.to_come(read) <= self.sizes.whole as u128
    }

    /// Bytes of the next part: half of what is left towards the end, when nothing is read any more while the last is merged. Each takes
    /// a commit, which waits for the disk.
    fn part(&self, read: u64) -> usize {
        let left = usize::try_from(self.memory as u128 + self.to_come(read)).unwrap_or(usize::MAX);
        (left / 2).clamp(self.sizes.part / 2, self.sizes.part)
    }

    /// About how many bytes of rows the rest of the file makes, by what was read of it.
    fn to_come(&self, read: u64) -> u128 {
        let [all, read] = [self.of, read].map(|bytes| u128::from(bytes.saturating_sub(self.skipped)));
        self.all_memory as u128 * all.saturating_sub(read) / read.max(1)
    }

    /// The first of what is pending, of so many bytes or a few more.
    fn take(&mut self, bytes: usize) -> Option<Gathered> {
        let mut taken = 0;
        let first = self.pending.iter().take_while(|batch| {
            let more = taken < bytes;
            taken += if more { batch.memory() } else { 0 };
            more
        });
        let part: Vec<Prepared> = self.pending.drain(..first.count()).collect();
        self.memory -= taken;
        self.rows -= part.iter().map(Prepared::records).sum::<usize>();
        self.first = false;
        if part.is_empty() {
            return None;
        }
        Some(timed(&self.clock.match_and_merge, || Gathered::new(part)))
    }
}

impl Work for Gather<'_> {
    type Ready = Prepared;
    type Done = Gathered;

    // The next is made while one is committed, and large ones no further: their memory counts.
    fn ahead(&self) -> usize {
        self.sizes.ahead
    }

    fn batch(&mut self, prepared: Prepared) -> Result<Option<Gathered>, Error> {
        let read = prepared.bytes_read();
        self.progress.advance(read, prepared.records() as u64);
        if prepared.end() <= self.from {
            self.skipped = read;
            return Ok(None);
        }
        self.rows += prepared.records();
        self.memory += prepared.memory();
        self.all_memory += prepared.memory();
        self.pending.push(prepared);
        if self.rows >= self.most_rows {
            return Ok(self.rest());
        }
        if self.sizes.together.is_some() && !self.found.load(Ordering::Relaxed) {
            let is_full = self.rows >= NEW_ROWS || self.memory >= self.sizes.part;
            return Ok(if is_full { self.rest() } else { None });
        }
        let part = self.part(read);
        let is_full = self.memory >= part && !self.fits_whole(read);
        Ok(if is_full { self.take(part) } else { None })
    }

    fn rest(&mut self) -> Option<Gathered> {
        self.take(usize::MAX)
    }
}
