//! Tells files that are still being written from those that are complete.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use super::FoundFile;

/// Knows how long files have stood still: their sizes and times have not changed.
#[derive(Debug)]
pub struct Settle {
    /// How long a file must stand still.
    duration: Duration,
    /// Each file's size and time, and when they were first seen.
    seen: HashMap<String, (Snapshot, Instant)>,
}

type Snapshot = (u64, Option<SystemTime>);

impl Settle {
    /// Files must stand still for `duration`; zero takes every file.
    pub fn new(duration: Duration) -> Self {
        Self { duration, seen: HashMap::new() }
    }

    /// How long the file must stand still yet; `None` if it is settled. Files in buckets always are.
    ///
    /// A file stands still since it was last written to, by the clock of its folder; or since this first saw its size and
    /// time, if that clock is ahead.
    pub fn remaining(&mut self, file: &FoundFile) -> Option<Duration> {
        self.remaining_at(file, SystemTime::now(), Instant::now())
    }

    fn remaining_at(&mut self, file: &FoundFile, now: SystemTime, instant: Instant) -> Option<Duration> {
        if self.duration.is_zero() || file.is_object() {
            return None;
        }
        let snapshot = (file.size, file.modified);
        let (seen, since) = self.seen.entry(file.name.clone()).or_insert((snapshot, instant));
        if *seen != snapshot {
            (*seen, *since) = (snapshot, instant);
        }
        let age = file.modified.and_then(|modified| now.duration_since(modified).ok()).unwrap_or_default();
        let still = age.max(instant.saturating_duration_since(*since));
        self.duration.checked_sub(still).filter(|remaining| !remaining.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Directory, Location, Pattern};

    #[test]
    fn a_file_settles_when_its_size_and_time_stand_still() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let location = Location::Directory(Directory { root: folder.path().to_owned() });
        let look = |text: &str, modified: SystemTime| {
            std::fs::write(&path, text).unwrap();
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
            location.list("", &[&Pattern::wildcard("*").unwrap()]).unwrap().files.remove(0)
        };
        let (now, instant) = (SystemTime::now(), Instant::now());
        let seconds = Duration::from_secs;
        let mut settle = Settle::new(seconds(10));
        let written = look("x", now - seconds(4));
        assert_eq!(settle.remaining_at(&written, now, instant), Some(seconds(6)));
        assert_eq!(settle.remaining_at(&look("x", now - seconds(10)), now, instant), None);
        // The clock of the folder is ahead.
        let ahead = look("x", now + seconds(60));
        assert_eq!(settle.remaining_at(&ahead, now, instant), Some(seconds(10)));
        assert_eq!(settle.remaining_at(&ahead, now + seconds(7), instant + seconds(7)), Some(seconds(3)));
        let longer = look("xx", now + seconds(60));
        assert_eq!(settle.remaining_at(&longer, now + seconds(9), instant + seconds(9)), Some(seconds(10)));
        assert_eq!(settle.remaining_at(&longer, now + seconds(19), instant + seconds(19)), None);
        assert_eq!(Settle::new(Duration::ZERO).remaining(&longer), None);
    }
}
