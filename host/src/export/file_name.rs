//! The name of an exported file.

use jiff::{SignedDuration, Timestamp, ZonedDateTime};

use crate::export::Export;

/// How many later seconds are tried for a name with a time in it.
const MAX_SECONDS_LATER: i64 = 60;

impl Export<'_> {
    /// The name of the file. One with the time in it never replaces another file: of two runs within a second, the second gets
    /// the next second.
    pub(super) fn free_name(&self, started: Timestamp) -> String {
        let packing = self.packing();
        let exists = |name: &String| self.opened.location.exists(&self.goal.directory, &packing.name(name));
        let seconds = if self.goal.file.contains("{time}") && !self.dry { MAX_SECONDS_LATER } else { 0 };
        let later = |second| started.checked_add(SignedDuration::from_secs(second)).unwrap_or(started);
        let mut names = (0..seconds).map(|second| self.file_name(later(second)));
        names.find(|name| !exists(name)).unwrap_or_else(|| self.file_name(started))
    }

    /// The name of the file, with its placeholders filled in.
    fn file_name(&self, started: Timestamp) -> String {
        let at = ZonedDateTime::new(started, self.goal.timezone.clone());
        let safe = |text: &str| text.replace(['/', '\\', '\0'], "_");
        self.goal
            .file
            .replace("{date}", &at.strftime("%Y-%m-%d").to_string())
            .replace("{time}", &at.strftime("%H%M%S").to_string())
            .replace("{run}", &self.run.id)
            .replace("{goal}", &self.goal.name)
            .replace("{connection}", &safe(&self.connection.stem))
    }
}
