//! Waits until files have stood still: a file that is still being copied must not be imported.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use sluicebox_files::Settle;

use crate::error::Error;
use crate::import::Import;
use crate::import::sets::FoundSets;
use crate::runs::report::Trigger;

/// How long a file must stand still before the service imports it, unless the goal sets `settle`.
const SERVICE_DEFAULT: Duration = Duration::from_secs(10);
/// The longest time that a run waits for files.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// How often a waiting run looks whether it is stopped.
const STOP_INTERVAL: Duration = Duration::from_millis(50);

impl Import<'_> {
    /// The goal's file sets, without those with a file that was written to a moment ago.
    ///
    /// # Errors
    /// If the goal's directory cannot be listed, or the run is stopped.
    pub(super) fn settled_sets(&self) -> Result<FoundSets, Error> {
        let mut settle = Settle::new(self.settle());
        let mut found = self.find_sets(&mut settle)?;
        let near = found.unsettled.iter().map(|(_, remaining)| *remaining);
        if let Some(longest) = near.filter(|remaining| *remaining <= MAX_WAIT).max() {
            self.wait(longest)?;
            found = self.find_sets(&mut settle)?;
        }
        for (name, _) in &found.unsettled {
            self.warn(&format!("{name} was written to a moment ago; a later run imports it (settle)"));
        }
        Ok(found)
    }

    /// How long a file must stand still. A person who runs a goal knows that the files are there; the service does not.
    fn settle(&self) -> Duration {
        let default = match self.run.trigger {
            Trigger::Command => Duration::ZERO,
            _ => SERVICE_DEFAULT,
        };
        self.goal.settle.unwrap_or(default)
    }

    fn wait(&self, duration: Duration) -> Result<(), Error> {
        let end = Instant::now() + duration;
        loop {
            let remaining = end.saturating_duration_since(Instant::now());
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            if remaining.is_zero() {
                return Ok(());
            }
            thread::sleep(remaining.min(STOP_INTERVAL));
        }
    }
}
