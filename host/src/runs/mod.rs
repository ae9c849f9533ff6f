//! Runs the goals of connections on an open store, for the command and for the service.

pub(crate) mod accept;
pub(crate) mod distinct_profiles;
pub(crate) mod faults;
pub(crate) mod fingerprint;
pub(crate) mod goal_run;
pub(crate) mod imported_again;
pub(crate) mod progress;
pub(crate) mod rejected;
pub(crate) mod report;
mod report_line;
pub(crate) mod schedule;
pub(crate) mod turns;
pub(crate) mod undo;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use jiff::Timestamp;
use sluicebox_files::Patience;
use sluicebox_model::OrNever;
use sluicebox_store::{Commit, ErasureKey, GoalRunLease, Store, StoreError};

use crate::config::{Config, Connection, Goal, Opened};
use crate::erasure;
use crate::error::{Error, FailureCode};
use crate::export::Export;
use crate::import::Import;
use crate::import::corrections::CorrectedLines;
use crate::import::diff::Diff;
use crate::import::linked;
use crate::import::plan::unique;
use crate::plugins::{self, Processor};
use crate::runs::progress::Watch;
use crate::runs::report::{HistoryEntry, LinkedRows, Report, Run, Status};
use crate::runs::turns::{MergeTurns, RunUnderWay};

/// The selected goals of a connection.
pub(crate) struct Selected<'c> {
    pub connection: &'c Connection,
    /// The connection's location and keys; absent if none of its goals runs.
    opened: Option<Opened>,
    /// Each goal with its plugins; without them if the goal is skipped.
    goals: Vec<(Goal<'c>, Option<Vec<Processor>>)>,
}

/// Selects goals of connections and opens everything that they need, before the first of them runs.
///
/// # Errors
/// If a plugin or a secret is missing or wrong.
pub(crate) fn select<'c>(
    config: &Config,
    connections: Vec<&'c Connection>,
    wanted: impl Fn(&Goal<'c>) -> bool,
    keep_compiled: bool,
) -> Result<Vec<Selected<'c>>, Error> {
    let mut runtime = None;
    let mut selected = Vec::new();
    for connection in connections {
        let mut goals = Vec::new();
        for goal in connection.all_goals().filter(|goal| wanted(goal)) {
            let processors = match goal.processors() {
                _ if !(connection.enabled && goal.enabled()) => None,
                [] => Some(Vec::new()),
                entries => {
                    let runtime = match &mut runtime {
                        Some(runtime) => runtime,
                        none => none.insert(plugins::runtime(config, keep_compiled)?),
                    };
                    Some(plugins::load(config, entries, runtime)?)
                }
            };
            goals.push((goal, processors));
        }
        let runs = goals.iter().any(|(_, processors)| processors.is_some());
        let opened = runs.then(|| connection.open(&config.root)).transpose()?;
        selected.push(Selected { connection, opened, goals });
    }
    Ok(selected)
}

/// Runs goals on an open store.
pub(crate) struct Runner<'a> {
    pub config: &'a Config,
    pub store: &'a Store,
    /// Whether this is a dry run on a copy of the store: files do not change, and rejected rows are only counted.
    pub dry: bool,
    pub diff: Option<Diff>,
    /// Whether files are imported again that were imported under the present configuration.
    pub reimport: bool,
    /// The goals for which an interrupted run began that.
    pub resumed: Vec<String>,
    pub watch: Watch<'a>,
    /// Set to stop the run at the next batch.
    pub stop: &'a Arc<AtomicBool>,
    /// The turns in which runs merge into the store.
    turns: &'a MergeTurns,
    _under_way: RunUnderWay<'a>,
    erasure_key: Option<ErasureKey>,
}

impl<'a> Runner<'a> {
    /// Prepares the store: closes goal runs whose process died, indexes new unique properties, and removes what is older than
    /// its retention.
    ///
    /// # Errors
    /// If the store fails, or a property cannot be unique.
    pub(crate) fn new(
        config: &'a Config,
        store: &'a Store,
        dry: bool,
        watch: Watch<'a>,
        stop: &'a Arc<AtomicBool>,
        turns: &'a MergeTurns,
    ) -> Result<Self, Error> {
        let under_way = turns.begin_run();
        let turn = turns.take(stop)?;
        close_interrupted(config, store, dry)?;
        index(config, store)?;
        expire(config, store)?;
        store.trim_changes()?;
        store.forget_overwritten(overwritten_from(config))?;
        let erasure_key = erasure::key(config)?;
        drop(turn);
        Ok(Self {
            config,
            store,
            dry,
            diff: None,
            reimport: false,
            resumed: Vec::new(),
            watch,
            stop,
            turns,
            _under_way: under_way,
            erasure_key,
        })
    }

    /// Runs the goals of a connection one after the other and calls `ended` with the entry of each. A goal that fails says so in
    /// its report, and the next one runs.
    ///
    /// # Errors
    /// If the store or `ended` fails, or the run is interrupted.
    pub(crate) fn run(
        &self,
        selected: &Selected<'_>,
        run: &Run,
        mut ended: impl FnMut(HistoryEntry) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.hear_stop(selected);
        for (goal, processors) in &selected.goals {
            let entry = match (processors, &selected.opened) {
                (Some(processors), Some(opened)) => {
                    self.goal(selected.connection, goal, opened, processors, run)?
                }
                _ => skipped(run, selected.connection, goal),
            };
            ended(entry)?;
        }
        Ok(())
    }

    /// Imports corrected lines of a goal run's rejected rows: those of `files`, or of its own files of rejected rows. `selected` has
    /// the goal alone.
    ///
    /// # Errors
    /// If the goal is no import goal or not enabled, the lines cannot be read, the store fails, or the run is interrupted.
    pub(crate) fn import_corrected(
        &self,
        selected: &Selected<'_>,
        run: &Run,
        corrected: &HistoryEntry,
        files: Option<&[PathBuf]>,
    ) -> Result<(HistoryEntry, CorrectedLines), Error> {
        let connection = selected.connection;
        self.hear_stop(selected);
        let Some(((Goal::Import(goal), Some(processors)), opened)) = selected
            .goals
            .first()
            .zip(selected.opened.as_ref())
            .map(|((goal, loaded), opened)| ((goal, loaded), opened))
        else {
            let goal = &corrected.report.goal;
            let message = format!("{} / {goal} is no import goal that is enabled", connection.name);
            return Err(Error::Usage(message));
        };
        let import = Import {
            erasure_key: self.erasure_key.as_ref(),
            keep: self.config.settings.undo.is_some(),
            diff: self.diff,
            run,
            watch: self.watch,
            dry: self.dry,
            stop: self.stop,
            turns: self.turns,
            ..Import::new(self.config, connection, goal, opened, processors, self.store)
        };
        import.run_corrections(corrected, files)
    }

    /// Lets the wait for a partner end when the run is to stop.
    fn hear_stop(&self, selected: &Selected<'_>) {
        if let Some(opened) = &selected.opened {
            opened.location.wait_with(Patience { stop: Some(Arc::clone(self.stop)), until: None });
        }
    }

    fn goal(
        &self,
        connection: &Connection,
        goal: &Goal<'_>,
        opened: &Opened,
        processors: &[Processor],
        run: &Run,
    ) -> Result<HistoryEntry, Error> {
        let span =
            tracing::info_span!("goal", connection = connection.name, goal = goal.name(), run = run.id);
        let _entered = span.enter();
        let Self { config, store, dry, watch, stop, turns, .. } = *self;
        match goal {
            Goal::Import(goal) => Import {
                erasure_key: self.erasure_key.as_ref(),
                keep: config.settings.undo.is_some(),
                diff: self.diff,
                reimport: self.reimport && !self.resumed.contains(&goal.name),
                run,
                watch,
                dry,
                stop,
                turns,
                ..Import::new(config, connection, goal, opened, processors, store)
            }
            .run(),
            Goal::Export(goal) => Export {
                run,
                watch,
                dry,
                stop,
                turns,
                ..Export::new(config, connection, goal, opened, processors, store)
            }
            .run(),
        }
    }
}

fn skipped(run: &Run, connection: &Connection, goal: &Goal<'_>) -> HistoryEntry {
    let has_linked = matches!(goal, Goal::Import(goal) if !goal.linked.is_empty());
    let report = Report {
        status: Status::Skipped,
        linked: has_linked.then(LinkedRows::default),
        ..Report::of(&run.id, &connection.name, goal.name(), goal.kind())
    };
    HistoryEntry::new(report, Timestamp::now(), run)
}

/// Closes what a process left that died: its goal runs and its scratch files. The process that has the store open does this before
/// its first run.
///
/// # Errors
/// If the store or the files of rejected rows cannot be written, or scratch files cannot be removed.
pub(crate) fn recover(config: &Config, store: &Store, dry: bool) -> Result<(), Error> {
    close_interrupted(config, store, dry)?;
    if dry { Ok(()) } else { linked::clear(config.data()) }
}

/// Closes goal runs that no thread runs any more: marks them as interrupted, and removes the rejected rows that no commit holds.
/// They are rejected again when the import continues.
fn close_interrupted(config: &Config, store: &Store, dry: bool) -> Result<(), Error> {
    for (lease, bytes) in store.interrupted()? {
        close(config, store, dry, &lease, &bytes)?;
    }
    Ok(())
}

fn close(
    config: &Config,
    store: &Store,
    dry: bool,
    lease: &GoalRunLease,
    report: &[u8],
) -> Result<(), Error> {
    let mut commit = Commit { lease: Some(lease), ends_goal_run: true, ..Commit::default() };
    if let Some(mut entry) = HistoryEntry::decode(report) {
        if !dry {
            let folder = rejected::folder(config, &entry.report.run);
            rejected::truncate(&folder, &entry.rejected_files, &files_of_other_goals(store, &entry)?)?;
        }
        entry.report.status = Status::Failed;
        entry.report.error = Some("interrupted: the process ended before the run did".to_owned());
        entry.report.failure = Some(FailureCode::Interrupted);
        entry.interrupted = true;
        if entry.at == 0 {
            // It committed nothing.
            entry.at = lease.time();
        }
        commit.report = Some(entry.encode());
    }
    store.commit(commit)?;
    Ok(())
}

/// The files of rejected rows of the other goals of a run.
///
/// # Errors
/// If the store fails.
pub(crate) fn files_of_other_goals(
    store: &Store,
    entry: &HistoryEntry,
) -> Result<HashSet<String>, StoreError> {
    let mut files = HashSet::new();
    for other in store.history() {
        let Some(other) = HistoryEntry::decode(&other?.1) else { continue };
        if other.began_before(&entry.report.run) {
            break;
        }
        if other.report.run == entry.report.run && other.report.goal != entry.report.goal {
            files.extend(other.rejected_files.into_iter().map(|(name, _)| name));
        }
    }
    Ok(files)
}

/// Removes the events that are older than the retention of their type, once a day.
fn expire(config: &Config, store: &Store) -> Result<(), Error> {
    let now = Timestamp::now();
    let mut kept_from = Vec::new();
    for event in &config.schema.events {
        if let Some(from) = event.keep_from(now) {
            kept_from.push((store.event_type(&event.name)?, from));
        }
    }
    let removed = store.expire(&kept_from, now)?;
    if removed > 0 {
        tracing::info!(removed, "events older than the retention of their type were removed");
    }
    Ok(())
}

/// The time before which overwritten values are forgotten, in milliseconds since the epoch.
fn overwritten_from(config: &Config) -> i64 {
    let retention = config.settings.undo.unwrap_or_default().as_millis();
    Timestamp::now().as_millisecond().saturating_sub(i64::try_from(retention).unwrap_or(i64::MAX))
}

/// Indexes the properties that are unique since the last run.
fn index(config: &Config, store: &Store) -> Result<(), Error> {
    let unique = unique(&config.schema, store)?;
    store.index(&unique).map_err(|(property, error)| match error {
        StoreError::NotUnique => {
            let names = store.names().properties;
            let property = names.get(&property).cloned().or_never("the name of a unique property");
            Error::NotUnique { property, error }
        }
        error => error.into(),
    })
}
