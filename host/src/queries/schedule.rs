//! When connections run next.

use jiff::Timestamp;

use crate::config::Connection;

/// The next runs of the enabled connections, in order.
pub(crate) fn upcoming<'c>(
    connections: impl IntoIterator<Item = &'c Connection>,
    now: Timestamp,
    count: usize,
) -> Vec<(Timestamp, &'c Connection)> {
    let scheduled = connections.into_iter().filter(|connection| connection.enabled);
    let scheduled = scheduled.filter_map(|connection| Some((connection, connection.schedule.as_ref()?)));
    let runs = scheduled.flat_map(|(connection, schedule)| {
        schedule.upcoming(now).take(count).map(move |at| (at, connection))
    });
    let mut runs: Vec<_> = runs.collect();
    runs.sort_by(|(a, one), (b, other)| (a, &one.stem).cmp(&(b, &other.stem)));
    runs.truncate(count);
    runs
}
