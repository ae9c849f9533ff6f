//! The thread that runs connections, one after the other.

use std::sync::atomic::Ordering;
use std::time::Instant;

use jiff::Timestamp;
use sluicebox_store::{Commit, StoreError};

use super::Service;
use super::notify::Ended;
use super::queue::Wanted;
use crate::config::{Config, Connection, Goal};
use crate::error::Error;
use crate::progress::{Live, Watch};
use crate::report::{Kept, Report, Run, Status};
use crate::runs::{Runner, select};

impl Service {
    /// Runs what is in the queue until the service stops.
    pub(super) fn work(&self) {
        loop {
            let next = self.queue.take(&self.store);
            match next {
                Ok(Some((connection, wanted))) => self.run(&connection, &wanted),
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(%error, "no run can begin");
                    return self.stop();
                }
            }
        }
    }

    fn run(&self, stem: &str, wanted: &Wanted) {
        let run = wanted.as_run();
        let span = tracing::info_span!("run", connection = stem, run = run.id, trigger = ?run.trigger);
        let _entered = span.enter();
        let begun = Instant::now();
        // Somebody may have stopped the run before. The order matters: the service may stop between the two lines.
        self.stop_run.store(false, Ordering::SeqCst);
        if *self.stopping.borrow() {
            self.stop_run.store(true, Ordering::SeqCst);
        }
        tracing::info!("a run begins");
        let mut ended = Vec::new();
        let config = self.folder.current();
        let result = match &config {
            Ok(config) => self.goals(config, stem, wanted, &run, &mut ended),
            Err(_) => Ok(()),
        };
        // A folder that is wrong is told in the words of its problems.
        let (config, wrong) = match config {
            Ok(config) => (config, None),
            Err(error) => (self.folder.config(), Some(error)),
        };
        let error = wrong.or(result.err());
        let stopped = matches!(error, Some(Error::Interrupted));
        if let Some(error) = error.filter(|_| !stopped) {
            tracing::error!(%error, "the run failed");
            if let Ok(connection) = config.connection(stem) {
                ended.extend(self.record_failure(connection, wanted, &run, &ended, &error));
            }
        }
        self.live.send_replace(Live::default());
        let cut_off = stopped && *self.stopping.borrow();
        if let Err(error) = self.queue.ended(&self.store, stem, !cut_off) {
            tracing::error!(%error, "the run ended, and that cannot be written down");
        }
        let failed = stopped || ended.iter().any(|kept| kept.report.status == Status::Failed);
        self.metrics.run(stem, failed, begun.elapsed());
        tracing::info!(failed, "the run ended");
        if let Ok(connection) = config.connection(stem)
            && !cut_off
        {
            self.notifier.tell(&config, connection, Ended { run, failed, stopped, goals: ended });
        }
    }

    fn goals(
        &self,
        config: &Config,
        stem: &str,
        wanted: &Wanted,
        run: &Run,
        ended: &mut Vec<Kept>,
    ) -> Result<(), Error> {
        let connection = config.connection(stem)?;
        let wants = |goal: &Goal<'_>| wanted.wants(goal.name());
        let selected = select(config, vec![connection], wants, true)?;
        let watch = Watch::Service(&self.live);
        let runner = Runner::new(config, &self.store, false, watch, &self.stop_run)?;
        for selected in &selected {
            runner.run(selected, run, |kept| {
                self.metrics.goal(stem, &kept.report);
                tracing::info!(goal = kept.report.goal, status = ?kept.report.status, "{}", kept.report.line());
                ended.push(kept);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// What keeps a run from its goals is in the history of each that it did not come to.
    fn record_failure(
        &self,
        connection: &Connection,
        wanted: &Wanted,
        run: &Run,
        ended: &[Kept],
        error: &Error,
    ) -> Vec<Kept> {
        let left = connection.all_goals().filter(|goal| goal.enabled() && wanted.wants(goal.name()));
        let left = left.filter(|goal| !ended.iter().any(|kept| kept.report.goal == goal.name()));
        let record = |goal: Goal<'_>| {
            let report = Report::of(&run.id, &connection.name, goal.name(), goal.kind());
            let mut kept = Kept::new(report, Timestamp::now(), run);
            kept.end(Some(error), std::time::Duration::ZERO);
            if let Err(error) = self.write_down(&mut kept) {
                tracing::error!(goal = goal.name(), %error, "the run failed, and that cannot be written down");
            }
            self.metrics.goal(&connection.stem, &kept.report);
            kept
        };
        left.map(record).collect()
    }

    /// Puts a goal run that ended before it began into the history.
    fn write_down(&self, kept: &mut Kept) -> Result<(), StoreError> {
        let now = Timestamp::now().as_millisecond();
        let (number, at) = self.store.begin_goal_run(now, |_| kept.encode())?;
        kept.at = at;
        let goal_run = Some((number, kept.encode()));
        self.store.commit(Commit { goal_run, ends_goal_run: true, ..Commit::default() })
    }
}
