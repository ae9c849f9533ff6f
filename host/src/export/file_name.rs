//! The name of an exported file.

use jiff::{Timestamp, ZonedDateTime};

use crate::export::Export;

impl Export<'_> {
    /// The name of the file, with its placeholders filled in.
    pub(super) fn file_name(&self, started: Timestamp) -> String {
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
