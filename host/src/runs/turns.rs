//! Runs of one store at the same time: they wait for partners, read and process side by side, and merge one after the other.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::Error;

/// How often a wait looks whether its run is to stop.
const STOP_CHECK: Duration = Duration::from_millis(100);

/// The turns of the runs that merge into one store, in the order in which they asked.
#[derive(Debug)]
pub(crate) struct MergeTurns {
    queue: Mutex<Queue>,
    moved: Condvar,
    /// How many runs are under way.
    runs: AtomicUsize,
}

#[derive(Debug)]
struct Queue {
    /// The first has its turn, the others wait.
    tickets: VecDeque<u64>,
    /// The number of tickets so far.
    given: u64,
}

/// The right to merge until it is dropped.
#[derive(Debug)]
pub(crate) struct MergeTurn<'t>(&'t MergeTurns);

/// A run that is under way until this is dropped.
#[derive(Debug)]
pub(crate) struct RunUnderWay<'t>(&'t MergeTurns);

impl MergeTurns {
    /// Turns that no run waits for.
    pub(crate) const fn new() -> Self {
        let queue = Queue { tickets: VecDeque::new(), given: 0 };
        Self { queue: Mutex::new(queue), moved: Condvar::new(), runs: AtomicUsize::new(0) }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a run.
    pub(crate) fn begin_run(&self) -> RunUnderWay<'_> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        RunUnderWay(self)
    }

    /// Whether several runs are under way.
    pub(crate) fn are_shared(&self) -> bool {
        self.runs.load(Ordering::SeqCst) > 1
    }

    /// Whether another run waits for its turn.
    pub(crate) fn are_wanted(&self) -> bool {
        self.queue().tickets.len() > 1
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// If the run is to stop.
    pub(crate) fn take(&self, stop: &AtomicBool) -> Result<MergeTurn<'_>, Error> {
        let mut queue = self.queue();
        let ticket = queue.given;
        queue.given += 1;
        queue.tickets.push_back(ticket);
        while queue.tickets.front() != Some(&ticket) {
            if stop.load(Ordering::Relaxed) {
                queue.tickets.retain(|waiting| *waiting != ticket);
                return Err(Error::Interrupted);
            }
            let waited = self.moved.wait_timeout(queue, STOP_CHECK);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(MergeTurn(self))
    }
}

impl Drop for MergeTurn<'_> {
    fn drop(&mut self) {
        self.0.queue().tickets.pop_front();
        self.0.moved.notify_all();
    }
}

impl Drop for RunUnderWay<'_> {
    fn drop(&mut self) {
        self.0.runs.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn turns_come_in_the_order_of_their_requests() {
        let turns = MergeTurns::new();
        let going_on = AtomicBool::new(false);
        let taken = Mutex::new(Vec::new());
        thread::scope(|scope| {
            let first = turns.take(&going_on).unwrap();
            for number in 1..=3 {
                let (turns, going_on, taken) = (&turns, &going_on, &taken);
                scope.spawn(move || {
                    let _turn = turns.take(going_on).unwrap();
                    taken.lock().unwrap().push(number);
                });
                while turns.queue().tickets.len() <= number {
                    thread::yield_now();
                }
            }
            assert!(turns.are_wanted());
            drop(first);
        });
        assert_eq!(*taken.lock().unwrap(), [1, 2, 3]);
        assert!(!turns.are_wanted());
    }

    #[test]
    fn a_run_that_stops_waits_no_longer_and_holds_up_no_other() {
        let turns = MergeTurns::new();
        let (going_on, stopped) = (AtomicBool::new(false), AtomicBool::new(true));
        let first = turns.take(&going_on).unwrap();
        assert!(matches!(turns.take(&stopped), Err(Error::Interrupted)));
        drop(first);
        turns.take(&going_on).unwrap();
    }

    #[test]
    fn turns_are_shared_while_several_runs_are_under_way() {
        let turns = MergeTurns::new();
        let one = turns.begin_run();
        assert!(!turns.are_shared());
        let other = turns.begin_run();
        assert!(turns.are_shared());
        drop((one, other));
        assert!(!turns.are_shared());
    }
}
