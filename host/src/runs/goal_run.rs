//! One goal of a run, from its first entry in the history to its last: imports, exports, undo and failures of the worker
//! all begin and finish here.

use std::time::Instant;

use jiff::Timestamp;
use sluicebox_store::{Commit, GoalRunLease, Store, StoreError};

use crate::error::Error;
use crate::runs::report::{HistoryEntry, Report, Run};

/// A goal run that is under way. The history shows it as running until [`GoalRun::finish`].
pub(crate) struct GoalRun {
    /// The right to commit for it, with its number and the time of its changes.
    pub lease: GoalRunLease,
    pub entry: HistoryEntry,
    begun: Instant,
}

impl GoalRun {
    /// Writes the goal run into the history as running.
    ///
    /// # Errors
    /// If the store fails.
    pub(crate) fn begin(store: &Store, run: &Run, report: Report) -> Result<Self, StoreError> {
        let (begun, started) = (Instant::now(), Timestamp::now());
        let entry = HistoryEntry::new(report, started, run);
        let lease = store.begin_goal_run(started.as_millisecond(), |_| entry.encode())?;
        let entry = HistoryEntry { at: lease.time(), ..entry };
        Ok(Self { lease, entry, begun })
    }

    /// Makes the time of its changes later than that of all other goal runs. It must have its turn to merge.
    ///
    /// # Errors
    /// If the store fails.
    pub(crate) fn advance(&mut self, store: &Store) -> Result<(), StoreError> {
        store.advance(&mut self.lease, Timestamp::now().as_millisecond()).map(drop)
    }

    /// Closes the report and commits it, together with what `last` holds.
    ///
    /// # Errors
    /// If the store fails or failed, or the run was interrupted. Any other failure of the goal is in its report.
    pub(crate) fn finish(
        self,
        store: &Store,
        result: Result<(), Error>,
        last: Commit<'_>,
    ) -> Result<HistoryEntry, Error> {
        let entry = self.close(store, result.as_ref().err(), last)?;
        match result {
            Err(error @ (Error::Store(_) | Error::LinkedRows(_) | Error::Interrupted)) => Err(error),
            _ => Ok(entry),
        }
    }

    /// Closes the report with the failure that kept the goal from running, and commits it.
    ///
    /// # Errors
    /// If the store fails.
    pub(crate) fn fail(self, store: &Store, error: &Error) -> Result<HistoryEntry, StoreError> {
        self.close(store, Some(error), Commit::default())
    }

    fn close(
        mut self,
        store: &Store,
        error: Option<&Error>,
        last: Commit<'_>,
    ) -> Result<HistoryEntry, StoreError> {
        self.entry.end(error, self.begun.elapsed());
        let report = Some(self.entry.encode());
        store.commit(Commit { lease: Some(&self.lease), report, ends_goal_run: true, ..last })?;
        Ok(self.entry)
    }
}
