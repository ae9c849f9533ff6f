//! An import goal, as a pipeline: find sets → open → decode → read batches → process → join → match → merge → commit.

mod budget;
pub(crate) mod chunk;
mod chunk_builder;
pub(crate) mod columns;
pub(crate) mod corrections;
pub(crate) mod diff;
mod earlier;
pub(crate) mod identity;
mod judgement;
pub(crate) mod linked;
pub(crate) mod notes;
pub(crate) mod plan;
pub(crate) mod reader;
mod recognize;
pub(crate) mod sets;
mod settle;
mod stage_times;
mod stored_events;
mod stream;
mod unfinished;

use std::collections::{BTreeSet, HashMap};
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use sluicebox_files::{CsvOptions, Decoding, FileError, FoundFile, Location, Settle, verify};
use sluicebox_linked_rows::LinkedRowsError;
use sluicebox_matching::{Buffers, Workers, prepare};
use sluicebox_model::OrNever;
use sluicebox_store::{Commit, ErasureKey, FileState, Store, StoreError};

use crate::config::{Config, Connection, ImportGoal, MaxRejected, Opened, Target, Tuning};
use crate::error::Error;
use crate::import::budget::{Budget, Forecast, rows_to_prefetch};
use crate::import::chunk::ImportChunk;
use crate::import::chunk_builder::{ChunkBuilder, Waiting};
use crate::import::corrections::Corrections;
use crate::import::diff::Diff;
use crate::import::earlier::EarlierImport;
use crate::import::identity::Identified;
use crate::import::judgement::Tally;
use crate::import::linked::LinkedFiles;
use crate::import::plan::{Resolved, Resolver};
use crate::import::sets::{FileSet, FoundSets, Uses};
use crate::import::stage_times::{StageTimes, timed};
use crate::import::unfinished::Unfinished;
use crate::output::counted;
use crate::plugins::{Processor, memory_of};
use crate::runs::distinct_profiles::{Direction, DistinctProfiles};
use crate::runs::files_of_other_goals;
use crate::runs::fingerprint::Fingerprint;
use crate::runs::goal_run::GoalRun;
use crate::runs::progress::{Progress, Watch};
use crate::runs::rejected::{self, RejectedRows};
use crate::runs::report::{
    FileReport, FileStatus, HistoryEntry, LinkedRows, ProcessorReport, Report, Run, Status, Trigger,
};
use crate::runs::turns::MergeTurns;

/// The run of commands that only read.
pub(crate) static NO_RUN: Run = Run { id: String::new(), trigger: Trigger::Command, continues: None };
/// Commands that only read are not stopped: Ctrl-C ends their process.
pub(crate) static NEVER_STOPPED: AtomicBool = AtomicBool::new(false);
/// Commands that only read merge nothing.
pub(crate) static NO_OTHERS: MergeTurns = MergeTurns::new();

/// An import goal, and what it works with.
pub(crate) struct Import<'a> {
    pub config: &'a Config,
    pub connection: &'a Connection,
    pub goal: &'a ImportGoal,
    /// Where the connection's files are.
    pub location: &'a Location,
    /// How their bytes become text.
    pub decoding: Decoding,
    /// The dialect of its files.
    pub csv: &'a CsvOptions,
    /// Set where corrected lines are imported.
    pub corrections: Option<Corrections<'a>>,
    pub processors: &'a [Processor],
    pub store: &'a Store,
    /// The key of erased identifiers, if any person was erased.
    pub erasure_key: Option<&'a ErasureKey>,
    /// Whether overwritten values are retained.
    pub keep: bool,
    /// Shows the changes of each row; rows are then applied one by one.
    pub diff: Option<Diff>,
    /// The connection's run.
    pub run: &'a Run,
    /// Where progress is shown.
    pub watch: Watch<'a>,
    /// Whether the store is a copy: files do not change, and rejected rows are only counted.
    pub dry: bool,
    /// Whether files are imported again that were imported under the present configuration.
    pub reimport: bool,
    /// Set to stop at the next batch.
    pub stop: &'a AtomicBool,
    /// The turns in which runs merge.
    pub turns: &'a MergeTurns,
    /// The threads that merge partitions.
    pub workers: Workers,
    /// What the history has of the goal's files, once it is known.
    pub earlier: OnceLock<HashMap<String, EarlierImport>>,
}

/// An import goal that runs.
struct RunningImport {
    run: GoalRun,
    rejected: RejectedRows,
    /// Rejected rows of files that failed before their first commit: they count for no other file.
    unmerged: u64,
    times: StageTimes,
    /// The plugins of which another build imported files that are not imported again.
    changed_plugins: BTreeSet<String>,
    /// Whether each file set was looked up in the ledger.
    all_known: bool,
}

impl RunningImport {
    /// Reports a file, with the rows read since `rows_before` of the goal run.
    fn report_file(&mut self, name: String, rows_before: u64) {
        let report = &mut self.run.entry.report;
        self.times.report_usage(&mut report.processors);
        let rows = report.rows.read - rows_before;
        report.files.push(FileReport { name, status: FileStatus::Imported, rows });
    }
}

impl<'a> Import<'a> {
    /// An import that only reads and shows no progress; a run sets what else it needs.
    pub(crate) fn new(
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
            csv: &goal.csv,
            corrections: None,
            processors,
            store,
            erasure_key: None,
            keep: false,
            diff: None,
            run: &NO_RUN,
            watch: Watch::Nowhere,
            dry: true,
            reimport: false,
            stop: &NEVER_STOPPED,
            turns: &NO_OTHERS,
            workers: Workers::new(config.settings.tuning.threads),
            earlier: OnceLock::new(),
        }
    }
}

impl Import<'_> {
    /// Runs the goal. Failures of its files are in the report.
    ///
    /// # Errors
    /// If the store fails, or the run is interrupted.
    pub(crate) fn run(&self) -> Result<HistoryEntry, Error> {
        self.run_with(|running| self.import_sets(running))
    }

    fn run_with(
        &self,
        import: impl FnOnce(&mut RunningImport) -> Result<(), Error>,
    ) -> Result<HistoryEntry, Error> {
        let mut running = self.begin()?;
        let result = import(&mut running).map_err(Error::or_interrupted);
        if matches!(result, Err(Error::Io { .. })) {
            self.forget_uncommitted(&mut running)?;
        }
        let import_notes = self.notes_at_end(&mut running)?;
        let RunningImport { mut run, times, .. } = running;
        self.warn_of_overwritten(run.entry.report.events.overwritten);
        run.entry.report.stages_ms = times.milliseconds();
        run.finish(self.store, result, Commit { import_notes, ..Commit::default() })
    }

    /// Forgets what was counted and recorded after the last commit: a file of rejected rows could not be written.
    fn forget_uncommitted(&self, running: &mut RunningImport) -> Result<(), Error> {
        let number = running.run.lease.number();
        let is_own = |entry: &Result<(u64, _), _>| entry.as_ref().map_or(true, |(found, _)| *found == number);
        let Some(entry) = self.store.history().find(is_own) else { return Ok(()) };
        let committed = HistoryEntry::decode(&entry?.1).ok_or(StoreError::Damaged("the history"))?;
        let folder = rejected::folder(self.config, &self.run.id);
        running.rejected =
            RejectedRows::new(folder.clone(), &self.goal.name, self.goal.record_excluded, self.dry);
        if !self.dry {
            let others = files_of_other_goals(self.store, &committed)?;
            rejected::truncate(&folder, &committed.rejected_files, &others)?;
        }
        let entry = &mut running.run.entry;
        let uncommitted = entry.report.rows.read.saturating_sub(committed.report.rows.read);
        let (mut files, processors) =
            (std::mem::take(&mut entry.report.files), std::mem::take(&mut entry.report.processors));
        if let Some(file) = files.last_mut() {
            file.rows = file.rows.saturating_sub(uncommitted);
        }
        *entry = committed;
        entry.report.files = files;
        entry.report.processors = processors;
        Ok(())
    }

    fn begin(&self) -> Result<RunningImport, Error> {
        let report = Report {
            linked: (!self.goal.linked.is_empty()).then(LinkedRows::default),
            processors: self.processors.iter().map(ProcessorReport::of).collect(),
            ..Report::of(&self.run.id, &self.connection.name, &self.goal.name, self.goal.target.kind().key())
        };
        let folder = rejected::folder(self.config, &self.run.id);
        let rejected = RejectedRows::new(folder, &self.goal.name, self.goal.record_excluded, self.dry);
        Ok(RunningImport {
            run: GoalRun::begin(self.store, self.run, report)?,
            rejected,
            unmerged: 0,
            times: StageTimes::default(),
            changed_plugins: BTreeSet::new(),
            all_known: false,
        })
    }

    /// Imports the file sets one after the other. One that fails does not stop the others.
    fn import_sets(&self, running: &mut RunningImport) -> Result<(), Error> {
        if let Some(broken) = self.processors.iter().find_map(|processor| processor.broken.clone()) {
            return Err(Error::BrokenPlugin(broken));
        }
        let mut found = self.settled_sets()?;
        if Unfinished::finish_interrupted(self, &found.files)? {
            found = self.settled_sets()?;
        }
        found.warnings.iter().for_each(|warning| self.warn(warning));
        if found.sets.is_empty() && found.unsettled.is_empty() {
            self.warn(&format!("no file matches `{}`", self.goal.pattern));
        }
        if self.reimport {
            self.make_due(&found, running)?;
        }
        let mut uses = found.uses();
        let (mut first, mut failed) = (None, 0);
        for set in found.sets {
            let rows_before = running.run.entry.report.rows.read;
            let (name, result) = match set {
                Ok(set) => (set.root.name.clone(), self.import_set(&set, &mut uses, running)),
                Err(incomplete) => (incomplete.root.name.clone(), Err(incomplete.into())),
            };
            let report = &mut running.run.entry.report;
            running.times.report_usage(&mut report.processors);
            let status = *result.as_ref().unwrap_or(&FileStatus::Failed);
            report.files.push(FileReport { name, status, rows: report.rows.read - rows_before });
            if let Err(error) = result {
                report.count_trap(&error);
                let error = error.or_interrupted();
                if error.ends_goal() {
                    return Err(error);
                }
                self.warn(&error.to_string());
                failed += 1;
                first = first.or(Some(error));
            }
            self.judge_rejected(running)?;
        }
        running.all_known = true;
        match first {
            Some(error) if failed == 1 => Err(error),
            Some(error) => Err(Error::Files { failed, first: Box::new(error) }),
            None => Ok(()),
        }
    }

    /// Imports a root file with its linked files, unless the ledger says that it is imported.
    fn import_set(
        &self,
        set: &FileSet,
        uses: &mut Uses,
        running: &mut RunningImport,
    ) -> Result<FileStatus, Error> {
        let identified = self.recognize(set, running)?;
        let unfinished = Unfinished::new(self, set, uses.last(set));
        if identified.state.complete {
            unfinished.finish()?;
            return Ok(FileStatus::AlreadyImported);
        }
        for file in set.files() {
            let verified = verify(|| file.open(), &self.decoding);
            verified.map_err(|error| Error::File { name: file.name.clone(), error })?;
        }
        let Identified { key, state, digests, .. } = &identified;
        self.import_rows(set, (*key, *state, digests), &unfinished, running)?;
        unfinished.finish()?;
        Ok(FileStatus::Imported)
    }

    /// Imports corrected lines, which are a file that no ledger knows.
    fn import_corrected(&self, set: &FileSet, running: &mut RunningImport) -> Result<(), Error> {
        let state = FileState { position: 0, complete: false };
        let unfinished = Unfinished::new(self, set, Vec::new());
        self.import_rows(set, ([0; 32], state, &HashMap::new()), &unfinished, running)
    }

    /// The pipeline: open → decode → read batches → process → join → match → merge → commit.
    fn import_rows(
        &self,
        set: &FileSet,
        (key, state, digests): ([u8; 32], FileState, &HashMap<String, [u8; 32]>),
        unfinished: &Unfinished<'_>,
        running: &mut RunningImport,
    ) -> Result<(), Error> {
        let RunningImport { run, rejected, unmerged, times, .. } = running;
        let (file, times) = (&set.root, &*times);
        let source = file.open().map_err(|error| Error::File { name: file.name.clone(), error })?;
        let unchanged = source.unchanged();
        let Some(mut open) = self.open(file, source, None)? else {
            self.warn(&format!("{} is empty", file.name));
            let imported = Some((key, FileState { position: 0, complete: true }));
            let unfinished = unfinished.to_commit(digests);
            let lease = Some(&run.lease);
            return Ok(self.store.commit(Commit {
                lease,
                file: imported,
                unfinished,
                ..Commit::default()
            })?);
        };
        let resolver = self.resolver();
        let resolved = resolver.root(&file.name, &open.columns);
        let Resolved { mut plan, warnings, links, .. } = resolved.map_err(|error| open.explain(error))?;
        if let Some(corrections) = &self.corrections {
            corrections.restrict(&mut plan, &open.columns);
        }
        for event in &mut plan.events {
            event.import = import_of(&key, event.path.last());
        }
        let plan = plan;
        warnings.iter().for_each(|warning| self.warn(warning));
        let is_resumed = state.position > 0;
        let linked = LinkedFiles::load(self, &resolver, &plan, set, times, |source, rows| {
            if is_resumed { Ok(()) } else { rejected.record(source, rows) }
        })?;
        let distinct_profiles = match self.goal.target {
            Target::Profiles(_) => {
                Some(DistinctProfiles::load(self.store, &self.connection.stem, Direction::Imported)?)
            }
            Target::Groups(_) => None,
        };
        if let Some(rows) = rows_to_prefetch(file) {
            self.store.read_ahead(rows)?;
        }
        let budget = Budget::of(self, file, &plan)?;
        let width = open.reader.header().columns.len();
        let (found_records, is_read, tally) =
            (AtomicBool::new(false), AtomicBool::new(false), Tally::new(width));
        let mut chunks = ImportChunk {
            import: self,
            distinct_profiles,
            file,
            source: run.entry.source(self.source_name(file)),
            merges_since: if is_resumed {
                self.merges_since(file, run.lease.number())?
            } else {
                run.lease.number()
            },
            key,
            plan: &plan,
            serial_bytes: budget.serial,
            pending_bytes: budget.pending,
            columns: open.columns.clone(),
            width,
            is_judged: is_resumed || self.corrections.is_some(),
            taken: 0,
            orphaned: 0,
            tally: &tally,
            is_read: &is_read,
            unmerged,
            unchanged: &unchanged,
            linked: &linked,
            linked_counts: (!is_resumed).then(|| linked.counts()),
            unfinished: unfinished.to_commit(digests),
            from: state.position,
            position: state.position,
            bytes_read: 0,
            times,
            run,
            rejected,
            found_records: &found_records,
            packer: self.store.packer(),
            pending: None,
            turn: None,
        };
        let join_and_prepare = |mut batch, buffers: &mut Buffers| {
            timed(&times.match_and_merge, || {
                if let Some(corrections) = &self.corrections {
                    corrections.restore_lines(&mut batch);
                }
                let linked = linked.join(&links, &batch).map_err(|error| match error {
                    LinkedRowsError::TooMany { .. } => {
                        Error::Set { name: file.name.clone(), message: error.to_string() }
                    }
                    error => error.into(),
                })?;
                let prepared = prepare(&plan, batch, &linked, state.position, buffers);
                tally.add(&prepared);
                Ok(prepared)
            })
        };
        let mut builder = ChunkBuilder {
            from: state.position,
            max_rows: self.row_limit(self.config.settings.tuning.commit_rows),
            budget,
            forecast: Forecast::new(file.size),
            found_records: &found_records,
            is_read: &is_read,
            progress: self.progress(file),
            times,
            waiting: Waiting::default(),
        };
        let streamed =
            self.stream(file, &mut open, times, join_and_prepare, &mut builder, |chunk| match chunk {
                Some(chunk) => chunks.match_and_merge(chunk),
                None => chunks.let_others_merge(),
            });
        chunks.finish(streamed)
    }

    /// What a value says of the file that set it.
    fn source_name<'n>(&'n self, file: &'n FoundFile) -> &'n str {
        self.corrections.as_ref().map_or(&file.name, |corrections| corrections.name)
    }

    /// Says that events were lost because several rows of a file carry the same one.
    fn warn_of_overwritten(&self, overwritten: u64) {
        if overwritten == 0 {
            return;
        }
        let lists = self.goal.events.iter().filter_map(|event| self.config.schema.event(&event.event_type));
        let list = lists.flat_map(|event| &event.nested).next().map_or("lines", |list| list.name.as_str());
        self.warn(&format!(
            "the events of {} are lost: another row of the same file carries the same event (profile, type and id), and only the last one is \
             kept; if each row is a line of its event, as of an order, import all of them: nested = [{{ name = \"{list}\", \
             all_fields = true }}]",
            counted(overwritten, "row")
        ));
    }

    /// The goal's file sets.
    ///
    /// # Errors
    /// If its directory cannot be listed.
    pub(crate) fn sets(&self) -> Result<FoundSets, Error> {
        self.find_sets(&mut Settle::new(Duration::ZERO))
    }

    fn find_sets(&self, settle: &mut Settle) -> Result<FoundSets, Error> {
        sets::find(self.location, self.goal, settle).map_err(|error| match (error, self.location) {
            (FileError::Io(error), Location::Directory(location)) => {
                Error::io(&location.root.join(&self.goal.directory), error)
            }
            (error, _) => Error::Location { place: self.connection.name.clone(), error },
        })
    }

    /// The first of the goal runs that were interrupted in the same file, one after the other, before this one: what they merged
    /// counts as this one's.
    fn merges_since(&self, file: &FoundFile, own: u64) -> Result<u64, Error> {
        let mut since = own;
        for entry in self.store.history() {
            let (number, bytes) = entry?;
            let entry = HistoryEntry::decode(&bytes).ok_or(StoreError::Damaged("the history"))?;
            let is_of_goal =
                entry.report.connection == self.connection.name && entry.report.goal == self.goal.name;
            if number >= own || !is_of_goal {
                continue;
            }
            if entry.report.status != Status::Failed || !entry.sources.contains(&file.name) {
                break;
            }
            since = number;
        }
        Ok(since)
    }

    /// How the memory is divided, beside the processors.
    pub(crate) fn tuning(&self) -> Tuning {
        self.config.settings.tuning.beside(memory_of(self.processors.iter().map(Processor::memory)))
    }

    /// Resolves the goal's mappings.
    pub(crate) fn resolver(&self) -> Resolver<'_> {
        Resolver {
            connection: self.connection,
            goal: self.goal,
            schema: &self.config.schema,
            merge_limit: self.config.settings.merge_limit,
            store: self.store,
        }
    }

    /// The progress of a file.
    pub(crate) fn progress(&self, file: &FoundFile) -> Progress<'_> {
        Progress::of_file(self.watch, &file.name, file.size)
    }

    pub(crate) fn warn(&self, message: &str) {
        tracing::warn!(connection = self.connection.name, goal = self.goal.name, "{message}");
    }

    /// Checks the share of rejected rows at the end of each file.
    fn judge_rejected(&self, running: &RunningImport) -> Result<(), Error> {
        let rows = running.run.entry.report.rows.without_rejected(running.unmerged);
        match self.goal.max_rejected {
            limit @ MaxRejected::Share(share) if limit.is_exceeded(rows.rejected, rows.read) => {
                Err(Error::TooManyRejected(format!(
                    "{} of {} rejected, more than the {}% that max_rejected allows",
                    rows.rejected,
                    counted(rows.read, "row"),
                    share * 100.0
                )))
            }
            _ => Ok(()),
        }
    }
}

/// What stands for a file of a set and its import: the same file under the same configuration has the same.
fn import_of(key: &[u8; 32], linked: Option<&usize>) -> u64 {
    let file = linked.map_or_else(String::new, usize::to_string);
    let hash = Fingerprint::of([key.as_slice(), file.as_bytes()]);
    hash.first_chunk().copied().map(u64::from_le_bytes).or_never("the first bytes of a hash")
}
