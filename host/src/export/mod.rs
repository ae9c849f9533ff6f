//! An export goal, as a pipeline: select → rows → process → write → encode → put.

mod cells;
mod file_name;
mod files;
pub(crate) mod rows;

use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use sluicebox_files::{FileError, Packing, Unencodable};
use sluicebox_model::{RecordId, RejectedRow, RejectionCode, Verdict};
use sluicebox_processors::Session;
use sluicebox_store::{Commit, ExportState, Names, Store};

use crate::config::{Config, Connection, EXPORT_PROFILES, ExportGoal, Opened, RecordExcluded};
use crate::error::Error;
use crate::export::files::Files;
use crate::export::rows::{Page, Rows};
use crate::import::{NEVER_STOPPED, NO_OTHERS, NO_RUN};
use crate::plugins::{Processor, open_sessions};
use crate::queries::segments::UndecidedSegment;
use crate::queries::walk::{Selection, walk};
use crate::runs::distinct_profiles::{Direction, DistinctProfiles};
use crate::runs::fingerprint::Fingerprint;
use crate::runs::goal_run::GoalRun;
use crate::runs::progress::{Progress, Watch};
use crate::runs::rejected::{self, RejectedRows, Source};
use crate::runs::report::{HistoryEntry, ProcessorReport, Report, Run};
use crate::runs::turns::MergeTurns;

/// Where more than one in four records changed, reading all of them is faster than looking up those that did.
const CHANGED_SHARE: u64 = 4;

/// An export goal, and what it works with.
pub(crate) struct Export<'a> {
    pub config: &'a Config,
    pub connection: &'a Connection,
    pub goal: &'a ExportGoal,
    pub opened: &'a Opened,
    pub processors: &'a [Processor],
    pub store: &'a Store,
    /// The connection's run.
    pub run: &'a Run,
    /// Where progress is shown.
    pub watch: Watch<'a>,
    /// Whether the store is a copy: no file is written.
    pub dry: bool,
    /// Set to stop at the next page.
    pub stop: &'a AtomicBool,
    /// The turns in which runs merge.
    pub turns: &'a MergeTurns,
}

impl<'a> Export<'a> {
    /// An export that only reads and shows no progress; a run sets what else it needs.
    pub(crate) fn new(
        config: &'a Config,
        connection: &'a Connection,
        goal: &'a ExportGoal,
        opened: &'a Opened,
        processors: &'a [Processor],
        store: &'a Store,
    ) -> Self {
        let (run, watch, stop, turns) = (&NO_RUN, Watch::Nowhere, &NEVER_STOPPED, &NO_OTHERS);
        Self { config, connection, goal, opened, processors, store, run, watch, dry: true, stop, turns }
    }
}

impl Export<'_> {
    /// Runs the goal. A failure is in the report.
    ///
    /// # Errors
    /// If the store fails, or the run is interrupted.
    pub(crate) fn run(&self) -> Result<HistoryEntry, Error> {
        let report = Report {
            processors: self.processors.iter().map(ProcessorReport::of).collect(),
            ..Report::of(&self.run.id, &self.connection.name, &self.goal.name, EXPORT_PROFILES)
        };
        let turn = self.turns.take(self.stop)?;
        // What is committed after this moment is for the next export: nothing may be on its way now.
        let mut run = GoalRun::begin(self.store, self.run, report)?;
        drop(turn);
        let (result, last) = match self.export(&mut run.entry) {
            Ok(mut exported) => {
                // The files are in place: changes from now on are for the next run.
                let until = self.store.change_cursor(&run.lease);
                let state = ExportState { until, settings: self.settings() };
                let exchanged = exported.changed();
                (Ok(()), Commit { export: Some((self.key(), state)), exchanged, ..Commit::default() })
            }
            Err(error) => (Err(error.or_interrupted()), Commit::default()),
        };
        run.finish(self.store, result, last)
    }

    /// Writes the files; answers with the connection's exported profiles, those of this run among them.
    fn export(&self, entry: &mut HistoryEntry) -> Result<DistinctProfiles, Error> {
        if let Some(broken) = self.processors.iter().find_map(|processor| processor.broken.clone()) {
            return Err(Error::BrokenPlugin(broken));
        }
        let mut exported = DistinctProfiles::load(self.store, &self.connection.stem, Direction::Exported)?;
        let started = Timestamp::now();
        let selection = self.selection()?;
        let name = self.file_name(started);
        let names = self.store.names();
        let (mut sessions, columns) = self.open(&name)?;
        let mut files = Files::create(self, &name, &columns, &names)?;
        let mut rejected = RejectedRows::new(
            rejected::folder(self.config, &self.run.id),
            &self.goal.name,
            RecordExcluded::default(),
            self.dry,
        );
        let (mut batches, mut with_separator) = (0, 0);
        let result = self.pages(&selection, &names, started, |mut page| {
            batches += 1;
            with_separator += page.with_separator;
            self.process(&mut page, batches, &mut sessions, &files)?;
            exported.add(self.write(&page, &columns, &mut files, &mut rejected, entry)?);
            Ok(true)
        });
        for (processor, session) in entry.report.processors.iter_mut().zip(&sessions) {
            processor.add(session.usage());
        }
        if let Err(error) = &result {
            entry.report.count_trap(error);
        }
        rejected.report(entry);
        result?;
        self.warn_of_separators(with_separator + files.with_separator());
        entry.report.files = files.finish(self)?;
        Ok(exported)
    }

    /// The records that the goal exports: all, or those that changed since its last successful run with the same settings.
    ///
    /// # Errors
    /// If the store fails.
    pub(crate) fn selection(&self) -> Result<Selection, Error> {
        let state = self.store.export_state(&self.key())?;
        let same = state.filter(|state| self.goal.changed_only && state.settings == self.settings());
        let Some(state) = same else { return Ok(Selection::All(None)) };
        Ok(match self.store.changed_since(state.until)? {
            Some(ids) if ids.len() as u64 * CHANGED_SHARE <= self.store.about_records()? => {
                Selection::Changed(ids)
            }
            _ => Selection::All(Some(state.until)),
        })
    }

    /// Calls `take` with the selected profiles as pages of rows, in the order of their ids, until it answers `false`.
    ///
    /// # Errors
    /// If the store or `take` fails, or the run is interrupted.
    pub(crate) fn pages(
        &self,
        selection: &Selection,
        names: &Names,
        now: Timestamp,
        mut take: impl FnMut(Page) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let workers = self.config.settings.tuning.threads.saturating_sub(1).max(1);
        let rows = || Rows::new(self.config, self.connection, self.goal, (self.store, names), now);
        let workers = (0..workers).map(|_| rows()).collect::<Result<Vec<_>, _>>()?;
        let mut progress = Progress::of_file(self.watch, &self.goal.name, self.store.about_records()?);
        let mut done = 0;
        let workers = walk(self.store, selection, workers, |page| {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            done += page.profiles_read;
            progress.advance(done, page.batch.rows() as u64);
            take(page)
        })?;
        for undecided in UndecidedSegment::sum(workers.iter().flat_map(Rows::undecided)) {
            self.warn(&undecided.to_string());
        }
        Ok(())
    }

    /// Opens a session of each processor; answers with them and the columns of the file.
    ///
    /// # Errors
    /// If a processor refuses the columns.
    pub(crate) fn open(&self, file: &str) -> Result<(Vec<Session>, Vec<String>), Error> {
        let mut columns: Vec<String> = self.goal.columns.iter().map(|column| column.header.clone()).collect();
        let sessions = open_sessions(self.processors, &self.goal.name, file, &mut columns)?;
        Ok((sessions, columns))
    }

    /// Passes a page through the processors.
    fn process(
        &self,
        page: &mut Page,
        batch: u64,
        sessions: &mut [Session],
        files: &Files<'_>,
    ) -> Result<(), Error> {
        let failed = |error| Error::Processor { file: files.name().to_owned(), batch: Some(batch), error };
        sessions.iter_mut().try_for_each(|session| session.process(&mut page.batch)).map_err(failed)
    }

    /// Writes the rows of a page that processors kept; answers with their profiles.
    fn write(
        &self,
        page: &Page,
        columns: &[String],
        files: &mut Files<'_>,
        rejected: &mut RejectedRows,
        entry: &mut HistoryEntry,
    ) -> Result<Vec<RecordId>, Error> {
        let mut exported = Vec::with_capacity(page.ids.len());
        let rows = &mut entry.report.rows;
        rows.read += page.read;
        rows.excluded += page.excluded;
        let rows_before = rows.dropped + rows.rejected + rows.merged;
        let mut refused: Vec<RejectedRow> = Vec::new();
        for (row, id) in page.ids.iter().enumerate() {
            match page.batch.verdict(row) {
                Verdict::Drop => rows.dropped += 1,
                Verdict::Reject { code, reason } => {
                    let code = RejectionCode::Processor(code.clone());
                    refused.push(page.batch.reject(row, code, reason.clone()));
                }
                Verdict::Keep => {
                    let cells = (0..columns.len()).map(|column| page.batch.cell(row, column));
                    match files.write_profile(cells)? {
                        Ok(()) => {
                            rows.merged += 1;
                            exported.push(*id);
                            let events = page.events.get(row).map_or(&[][..], Vec::as_slice);
                            entry.report.events.exported += files.write_events(&id.to_string(), events)?;
                        }
                        Err(Unencodable(column)) => {
                            let column = columns.get(column).map_or("", String::as_str);
                            let reason = format!(
                                "column `{column}` has a character that the file's encoding does not have"
                            );
                            refused.push(page.batch.reject(row, RejectionCode::Encoding, reason));
                        }
                    }
                }
            }
        }
        rows.rejected += refused.len() as u64;
        // The line that the row would have if no row before it were dropped.
        refused.iter_mut().for_each(|row| row.line += rows_before);
        let source = Source { linked: None, columns, width: self.goal.columns.len(), file: files.name() };
        rejected.record(&source, &refused)?;
        Ok(exported)
    }

    /// How the text of a file becomes its bytes.
    fn packing(&self) -> Packing {
        Packing { compression: self.goal.compression, key: self.opened.public_key.clone() }
    }

    /// The key of the goal in the store.
    fn key(&self) -> [u8; 32] {
        Fingerprint::of([&self.connection.stem, &self.goal.name])
    }

    /// A hash of everything that determines what the files hold.
    fn settings(&self) -> [u8; 32] {
        let settings = self.goal.settings.to_string();
        let digests: Vec<[u8; 32]> =
            self.processors.iter().map(|processor| processor.build.export_digest()).collect();
        let mut parts: Vec<&[u8]> = vec![settings.as_bytes()];
        parts.extend(self.connection.objectives.iter().map(String::as_bytes));
        for (processor, digest) in self.processors.iter().zip(&digests) {
            parts.push(digest);
            parts.push(processor.config.json().as_bytes());
        }
        Fingerprint::of(parts)
    }

    /// Warns of values of lists that are escaped, or that an import would split.
    fn warn_of_separators(&self, values: u64) {
        if values == 0 {
            return;
        }
        let separator = &self.goal.values.list_separator;
        let counted = |one: &str, several: &str| match values {
            1 => format!("1 value of a list {one}"),
            values => format!("{values} values of lists {several}"),
        };
        self.warn(&match self.goal.list_escape {
            Some(escape) => format!(
                "{} escaped with `{escape}` because the separator is `{separator}`: an import needs \
                 separator_escape = '{escape}' to read it",
                counted("is", "are")
            ),
            None => format!(
                "{} the separator `{separator}`: an import reads each as several values",
                counted("has", "have")
            ),
        });
    }

    fn warn(&self, message: &str) {
        tracing::warn!(connection = self.connection.name, goal = self.goal.name, "{message}");
    }

    fn failed(&self, name: &str) -> impl Fn(FileError) -> Error + use<> {
        let name = name.to_owned();
        move |error| Error::File { name: name.clone(), error }
    }
}
