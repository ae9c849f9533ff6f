use std::sync::Arc;

/// The right to commit for one goal run, from [`Store::begin_goal_run`](crate::Store::begin_goal_run) until a commit ends
/// the goal run. A commit whose lease has ended, or that another process has taken over, is refused with
/// [`StoreError::LeaseLost`](crate::StoreError::LeaseLost) and writes nothing.
#[derive(Debug)]
pub struct GoalRunLease {
    pub(crate) number: u64,
    pub(crate) time: i64,
    /// Dropped with the lease: a goal run that is running and whose lease is gone was interrupted.
    pub(crate) _held: Arc<()>,
    /// Every lease of a store has another; the one that may commit is known to the store.
    pub(crate) fence: u64,
}

impl GoalRunLease {
    /// The number of the goal run, greater than all before it.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The time of the goal run's changes in milliseconds since the epoch, later than the changes of all goal runs before it.
    /// Records that it changes are modified at this time. [`Store::advance`](crate::Store::advance) makes it later.
    pub fn time(&self) -> i64 {
        self.time
    }
}
