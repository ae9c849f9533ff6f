//! The threads that run connections: each one after the other, a few at a time.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::Service;
use super::notify::FinishedRun;
use super::queue::{CorrectedRows, PlannedRun};
use crate::config::{Config, Connection, Goal};
use crate::error::Error;
use crate::queries::rejected::goal_run;
use crate::runs::goal_run::GoalRun;
use crate::runs::progress::Watch;
use crate::runs::rejected::{corrected_files, remove_corrected};
use crate::runs::report::{HistoryEntry, Report, Run, Status};
use crate::runs::undo::no_run;
use crate::runs::{Runner, select};

impl Service {
    /// Runs the queue until the service stops.
    pub(super) fn work(&self) {
        loop {
            let next = self.queue.take(&self.store);
            match next {
                Ok(Some((connection, planned))) => self.run(&connection, &planned),
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(%error, "the queue cannot be read; the service stops");
                    return self.stop();
                }
            }
        }
    }

    fn run(&self, stem: &str, planned: &PlannedRun) {
        let run = planned.as_run();
        let span = tracing::info_span!("run", connection = stem, run = run.id, trigger = ?run.trigger);
        let _entered = span.enter();
        let started = Instant::now();
        let stop = self.current_runs.begin(&run.id);
        tracing::info!("the run starts");
        let mut goals = Vec::new();
        let config = self.folder.current();
        let result = match &config {
            Ok(config) => self.run_goals(config, stem, planned, (&run, &stop), &mut goals),
            Err(_) => Ok(()),
        };
        let (config, config_error) = match config {
            Ok(config) => (config, None),
            Err(error) => (self.folder.config(), Some(error)),
        };
        let error = config_error.or(result.err());
        let stopped = matches!(error, Some(Error::Interrupted));
        if let Some(error) = error.filter(|_| !stopped) {
            tracing::error!(%error, "the run failed");
            if let Ok(connection) = config.connection(stem) {
                let failed = self.record_failure(connection, planned, &run, &goals, &error);
                goals.extend(failed);
            }
        }
        self.current_runs.end(&run.id);
        let interrupted = stopped && self.current_runs.are_stopping();
        // First, so that the queue without the run means that its lines are gone.
        if let Some(corrected) = planned.corrected.as_ref().filter(|_| !interrupted)
            && let Err(error) = remove_corrected(&corrected.folder(&config))
        {
            tracing::warn!(%error, "the corrected lines stay until the service starts again");
        }
        if let Err(error) = self.queue.ended(&self.store, stem, !interrupted) {
            tracing::error!(%error, "the end of the run cannot be stored");
        }
        let failed = stopped || goals.iter().any(|entry| entry.report.status == Status::Failed);
        self.metrics.run(stem, failed, started.elapsed());
        tracing::info!(failed, "the run ended");
        if let Ok(connection) = config.connection(stem)
            && !interrupted
        {
            self.notifier.notify(&config, connection, FinishedRun { run, failed, stopped, goals });
        }
    }

    fn run_goals(
        &self,
        config: &Config,
        stem: &str,
        planned: &PlannedRun,
        (run, stop): (&Run, &Arc<AtomicBool>),
        goals: &mut Vec<HistoryEntry>,
    ) -> Result<(), Error> {
        let connection = config.connection(stem)?;
        if let Some(corrected) = &planned.corrected {
            let entry = self.import_corrected(config, connection, corrected, (run, stop))?;
            self.goal_ended(stem, entry, goals);
            return Ok(());
        }
        let includes = |goal: &Goal<'_>| planned.includes(goal.name());
        let selected = select(config, vec![connection], includes, true)?;
        let watch = Watch::Service(self.current_runs.live(), &run.id);
        let mut runner = Runner::new(config, &self.store, false, watch, stop, &self.turns)?;
        (runner.reimport, runner.resumed) = (planned.reimport, planned.resumed.clone());
        for selected in &selected {
            runner.run(selected, run, |entry| {
                self.goal_ended(stem, entry, goals);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn goal_ended(&self, stem: &str, entry: HistoryEntry, goals: &mut Vec<HistoryEntry>) {
        self.metrics.goal(stem, &entry.report);
        tracing::info!(goal = entry.report.goal, status = ?entry.report.status, "{}", entry.report.line());
        goals.push(entry);
    }

    /// Imports corrected lines that the run's folder holds.
    fn import_corrected(
        &self,
        config: &Config,
        connection: &Connection,
        corrected: &CorrectedRows,
        (run, stop): (&Run, &Arc<AtomicBool>),
    ) -> Result<HistoryEntry, Error> {
        let folder = corrected.folder(config);
        let files = corrected_files(&folder)?;
        let entry = goal_run(Some(&self.store), &corrected.run, &corrected.goal)?;
        let selected = select(config, vec![connection], |goal| goal.name() == corrected.goal, true)?;
        let watch = Watch::Service(self.current_runs.live(), &run.id);
        let runner = Runner::new(config, &self.store, false, watch, stop, &self.turns)?;
        let Some(selected) = selected.first() else { return Err(no_run(&corrected.run)) };
        Ok(runner.import_corrected(selected, run, &entry, Some(&files))?.0)
    }

    /// Records a failure that kept a run from its goals in the history of each goal that did not run.
    fn record_failure(
        &self,
        connection: &Connection,
        planned: &PlannedRun,
        run: &Run,
        ended: &[HistoryEntry],
        error: &Error,
    ) -> Vec<HistoryEntry> {
        let left = connection.all_goals().filter(|goal| goal.enabled() && planned.includes(goal.name()));
        let left = left.filter(|goal| !ended.iter().any(|entry| entry.report.goal == goal.name()));
        let record = |goal: Goal<'_>| {
            let report = Report::of(&run.id, &connection.name, goal.name(), goal.kind());
            let recorded = GoalRun::begin(&self.store, run, report.clone())
                .and_then(|goal_run| goal_run.fail(&self.store, error));
            let entry = recorded.unwrap_or_else(|store_error| {
                tracing::error!(goal = goal.name(), error = %store_error, "the failure cannot be recorded");
                let mut entry = HistoryEntry::new(report, Timestamp::now(), run);
                entry.end(Some(error), Duration::ZERO);
                entry
            });
            self.metrics.goal(&connection.stem, &entry.report);
            entry
        };
        left.map(record).collect()
    }
}
