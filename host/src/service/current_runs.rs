//! The current runs: their progress, and how each is stopped.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::runs::progress::{Live, LiveRuns};

/// The current runs.
pub(super) struct CurrentRuns {
    /// By their ids, what is set to stop each at its next batch.
    stops: Mutex<BTreeMap<String, Arc<AtomicBool>>>,
    /// Set once, when the service stops.
    stopping: watch::Sender<bool>,
    live: watch::Sender<LiveRuns>,
}

impl CurrentRuns {
    pub(super) fn new() -> Self {
        let (stopping, live) = (watch::Sender::new(false), watch::Sender::new(LiveRuns::new()));
        Self { stops: Mutex::default(), stopping, live }
    }

    fn stops(&self) -> MutexGuard<'_, BTreeMap<String, Arc<AtomicBool>>> {
        self.stops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a run, and answers with what is set to stop it.
    pub(super) fn begin(&self, run: &str) -> Arc<AtomicBool> {
        let mut stops = self.stops();
        let stopping = *self.stopping.borrow();
        let stop = stops.entry(run.to_owned()).or_default();
        stop.fetch_or(stopping, Ordering::SeqCst);
        Arc::clone(stop)
    }

    /// Ends a run.
    pub(super) fn end(&self, run: &str) {
        self.stops().remove(run);
        self.live.send_modify(|live| drop(live.remove(run)));
    }

    /// Stops a current run at its next batch, or one that is about to begin.
    pub(super) fn stop(&self, run: &str) {
        self.stops().entry(run.to_owned()).or_default().store(true, Ordering::SeqCst);
    }

    /// Stops all runs, and those that begin from now on.
    pub(super) fn stop_all(&self) {
        let stops = self.stops();
        self.stopping.send_replace(true);
        stops.values().for_each(|stop| stop.store(true, Ordering::SeqCst));
    }

    /// Whether the service stops.
    pub(super) fn are_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Reports that the service stops.
    pub(super) fn watch_stop(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Where runs show their progress.
    pub(super) fn live(&self) -> &watch::Sender<LiveRuns> {
        &self.live
    }

    /// The progress of a run.
    pub(super) fn live_of(&self, run: &str) -> Option<Live> {
        self.live.borrow().get(run).cloned()
    }
}
