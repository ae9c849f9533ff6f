//! A report in one line, for people.

use crate::config::EXPORT_PROFILES;
use crate::output::{counted, plain};
use crate::runs::accept;
use crate::runs::faults::Fault;
use crate::runs::report::{Events, FileStatus, Report, Status};

impl Report {
    /// What was not taken, in lines for people: the most frequent kinds of faults, `most` of them.
    pub(crate) fn fault_lines(&self, most: usize) -> Vec<String> {
        let mut lines: Vec<String> = self.faults.iter().take(most).map(Fault::line).collect();
        if self.excluded_unrecorded > 0 {
            let rows = counted(self.excluded_unrecorded, "excluded row");
            lines.push(format!("{rows} not recorded: more than record_excluded"));
        }
        lines
    }

    /// One line that says how a goal run went; the files of an export follow, one a line.
    pub(crate) fn line(&self) -> String {
        let status = match self.status {
            Status::Running => "running",
            Status::Succeeded => "succeeded",
            Status::Failed => "FAILED",
            Status::Skipped => return format!("{} / {}: skipped", self.connection, self.goal),
        };
        if self.kind == accept::KIND {
            let files = counted(self.files.len() as u64, "file");
            return format!("{} / {}: {status}: {files} accepted as imported", self.connection, self.goal);
        }
        let (rows, profiles) = (self.rows, self.profiles);
        if self.kind == EXPORT_PROFILES {
            let mut line = format!(
                "{} / {}: {status}: {} selected ({} exported, {} excluded, {} dropped, {} rejected)",
                self.connection,
                self.goal,
                counted(rows.read, "profile"),
                rows.merged,
                rows.excluded,
                rows.dropped,
                rows.rejected,
            );
            if self.events.exported > 0 {
                line.push_str(&format!("; {}", counted(self.events.exported, "event")));
            }
            for file in &self.files {
                line.push_str(&format!("\n  {}: {}", plain(&file.name), counted(file.rows, "row")));
            }
            return line;
        }
        let mut line = format!(
            "{} / {}: {status}: {}, {} ({} merged, {} excluded, {} dropped, {} rejected); \
             {}: {} created, {} updated, {} unchanged",
            self.connection,
            self.goal,
            counted(self.files.len() as u64, "file"),
            counted(rows.read, "row"),
            rows.merged,
            rows.excluded,
            rows.dropped,
            rows.rejected,
            if self.kind == "import_groups" { "groups" } else { "profiles" },
            profiles.created,
            profiles.updated,
            profiles.unchanged,
        );
        let events = self.events;
        if events != Events::default() {
            line.push_str(&format!(
                "; events: {} created, {} updated, {} rejected",
                events.created, events.updated, events.rejected
            ));
            if events.expired > 0 {
                line.push_str(&format!(", {} too old", events.expired));
            }
            if events.overwritten > 0 {
                line.push_str(&format!(", {} overwritten", events.overwritten));
            }
        }
        if let Some(linked) = self.linked {
            line.push_str(&format!(
                "; linked rows: {} ({} orphaned, {} dropped, {} rejected)",
                linked.read, linked.orphaned, linked.dropped, linked.rejected
            ));
        }
        let known = self.files.iter().filter(|file| file.status == FileStatus::AlreadyImported).count();
        if known > 0 {
            line.push_str(&format!("; {known} already imported"));
        }
        if self.cells_rejected > 0 {
            line.push_str(&format!("; {} rejected", counted(self.cells_rejected, "cell")));
        }
        line
    }
}
