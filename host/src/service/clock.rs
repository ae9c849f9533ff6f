//! The thread that queues runs when they are due. It shares no thread with requests: none of them can hold it up.

use std::time::Duration;

use jiff::Timestamp;
use tokio::runtime::Handle;

use super::Service;

/// The clock may be set, and files may change: schedules are checked at least this often.
const MAX_SLEEP: Duration = Duration::from_secs(10);

impl Service {
    /// Queues runs when they are due, until the service stops.
    pub(super) fn queue_due_runs(&self, runtime: &Handle) {
        let mut queue = self.queue.watch();
        let mut stopping = self.current_runs.watch_stop();
        loop {
            queue.mark_unchanged();
            let next = self.tick(Timestamp::now());
            let sleep = next.map_or(MAX_SLEEP, |next| {
                let left = next.duration_since(Timestamp::now());
                // A time that has passed.
                Duration::try_from(left).unwrap_or(Duration::ZERO).min(MAX_SLEEP)
            });
            let goes_on = runtime.block_on(async {
                tokio::select! {
                    () = tokio::time::sleep(sleep) => true,
                    // A run ended: its connection may be due again.
                    changed = queue.changed() => changed.is_ok(),
                    _ = stopping.wait_for(|stopping| *stopping) => false,
                }
            });
            if !goes_on {
                return;
            }
        }
    }

    /// Queues what is due; answers when the next connection is due.
    fn tick(&self, now: Timestamp) -> Option<Timestamp> {
        let config = self.folder.config();
        let due = config.connections.iter().filter_map(|connection| {
            self.queue.tick(&self.store, connection, now).unwrap_or_else(|error| {
                tracing::error!(connection = connection.name, %error, "a scheduled run cannot be queued");
                None
            })
        });
        due.min()
    }
}
