//! Asks each connection's schedule when it is due.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Service;

/// The clock of the wall is asked again at least this often: it may be set, and files may change.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);

/// Puts what is due into the queue, until the service stops.
pub(super) async fn run(service: Arc<Service>) {
    let mut queue = service.queue.watch();
    loop {
        let ticked = Arc::clone(&service);
        let next = tokio::task::spawn_blocking(move || ticked.tick(Timestamp::now())).await.ok().flatten();
        let sleep = next.map_or(LONGEST_SLEEP, |next| {
            let left = next.duration_since(Timestamp::now());
            Duration::try_from(left).unwrap_or(Duration::ZERO).min(LONGEST_SLEEP)
        });
        queue.mark_unchanged();
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            // A run ended: its connection may be due again.
            changed = queue.changed() => if changed.is_err() { return },
        }
    }
}

impl Service {
    /// Puts what is due into the queue; answers when the next connection is due.
    fn tick(&self, now: Timestamp) -> Option<Timestamp> {
        let config = self.folder.config();
        let due = config.connections.iter().filter_map(|connection| {
            self.queue.tick(&self.store, connection, now).unwrap_or_else(|error| {
                tracing::error!(connection = connection.name, %error, "the schedule cannot be kept");
                None
            })
        });
        due.min()
    }
}
