//! How long each stage of an import takes, and what its processors use.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use sluicebox_processors::Usage;

use crate::runs::report::{ProcessorReport, Stages};

/// Nanoseconds spent in each stage, and what processors used, by their places in the goal.
#[derive(Default)]
pub(crate) struct StageTimes {
    usage: Mutex<Vec<(usize, Usage)>>,
    pub parse: AtomicU64,
    pub processors: AtomicU64,
    pub match_and_merge: AtomicU64,
    pub commit: AtomicU64,
}

impl StageTimes {
    /// Adds what processors used for a file, by their places in the goal.
    pub(crate) fn add_usage(&self, usage: impl IntoIterator<Item = (usize, Usage)>) {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner).extend(usage);
    }

    /// Moves what processors used into their reports.
    pub(crate) fn report_usage(&self, reports: &mut [ProcessorReport]) {
        for (place, usage) in self.usage.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if let Some(report) = reports.get_mut(place) {
                report.add(usage);
            }
        }
    }

    /// The times for the report.
    pub(crate) fn milliseconds(&self) -> Stages {
        let milliseconds = |total: &AtomicU64| total.load(Ordering::Relaxed) / 1_000_000;
        Stages {
            parse: milliseconds(&self.parse),
            processors: milliseconds(&self.processors),
            match_and_merge: milliseconds(&self.match_and_merge),
            commit: milliseconds(&self.commit),
        }
    }
}

/// Adds the time that `work` takes to `total`.
pub(crate) fn timed<T>(total: &AtomicU64, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    total.fetch_add(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    done
}
