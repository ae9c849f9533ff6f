//! What a goal run did: `run` prints it and the history stores it.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sluicebox_matching::Counts;
use sluicebox_model::{Class, OrNever, RecordId};
use sluicebox_processors::Usage;
use utoipa::ToSchema;

use crate::error::{Error, FailureCode};
use crate::plugins::Processor;
use crate::runs::faults::Fault;
use crate::runs::imported_again::ImportedAgain;

/// A goal run as `run --json` prints it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Report {
    pub run: String,
    pub connection: String,
    pub goal: String,
    pub kind: String,
    pub status: Status,
    pub files: Vec<FileReport>,
    pub rows: Rows,
    /// Files that were imported before, under another configuration of the goal, with what changed since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imported_again: Vec<ImportedAgain>,
    /// The properties with `sum` or `add` that these files count twice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counted_twice: Vec<String>,
    /// Only of a goal with linked files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linked: Option<LinkedRows>,
    pub cells_rejected: u64,
    /// What was not taken: the most frequent kinds of faults.
    #[serde(default)]
    pub faults: Vec<Fault>,
    /// Excluded rows that were not recorded, because there are more than `record_excluded`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub excluded_unrecorded: u64,
    pub profiles: Profiles,
    pub events: Events,
    /// In the order of the goal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processors: Vec<ProcessorReport>,
    pub duration_ms: u64,
    pub error: Option<String>,
    /// What kind of failure `error` describes; absent where the goal run did not fail, and in entries of old versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureCode>,
    /// Milliseconds spent in each stage. Stages run at the same time.
    #[serde(default)]
    pub stages_ms: Stages,
}

/// The status of a goal run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Status {
    /// It is under way, or its process died.
    #[default]
    Running,
    Succeeded,
    Failed,
    /// The goal or its connection is not enabled.
    Skipped,
}

/// A file of a goal run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct FileReport {
    pub name: String,
    pub status: FileStatus,
    /// Rows that this run read.
    pub rows: u64,
}

/// The status of a file in a goal run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FileStatus {
    Imported,
    AlreadyImported,
    Exported,
    /// It was imported under another configuration, and counts as imported under the present one.
    Accepted,
    Failed,
}

impl FileStatus {
    /// The status in words.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Imported => "imported",
            Self::AlreadyImported => "already imported",
            Self::Exported => "exported",
            Self::Accepted => "accepted",
            Self::Failed => "failed",
        }
    }
}

/// The rows of root files: `read` is the sum of the others. Of an export: profiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Rows {
    pub read: u64,
    pub dropped: u64,
    pub rejected: u64,
    pub excluded: u64,
    pub merged: u64,
}

impl Rows {
    /// These rows without some rejected ones.
    pub(crate) fn without_rejected(self, rejected: u64) -> Self {
        let without = |count: u64| count.saturating_sub(rejected);
        Self { read: without(self.read), rejected: without(self.rejected), ..self }
    }
}

/// What a processor did in a goal run, and the time and memory that it took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct ProcessorReport {
    pub plugin: String,
    /// Rows that it saw, without those that earlier processors dropped or rejected.
    pub read: u64,
    pub kept: u64,
    pub dropped: u64,
    pub rejected: u64,
    /// How often it trapped or was stopped.
    pub traps: u64,
    /// Milliseconds in its calls.
    pub time_ms: u64,
    /// Bytes.
    pub peak_memory: u64,
}

impl ProcessorReport {
    /// The empty report of a processor.
    pub(crate) fn of(processor: &Processor) -> Self {
        Self { plugin: processor.plugin.name().to_owned(), ..Self::default() }
    }

    /// Adds what the processor did with a file.
    pub(crate) fn add(&mut self, usage: Usage) {
        self.read += usage.rows;
        self.kept += usage.rows - usage.dropped - usage.rejected;
        self.dropped += usage.dropped;
        self.rejected += usage.rejected;
        self.time_ms += u64::try_from(usage.time.as_millis()).unwrap_or(u64::MAX);
        self.peak_memory = self.peak_memory.max(usage.peak_memory);
    }
}

/// The rows of linked files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct LinkedRows {
    pub read: u64,
    /// Rows whose link is empty, or is in no row of the parent file.
    pub orphaned: u64,
    /// Rows that a processor dropped.
    pub dropped: u64,
    pub rejected: u64,
}

impl std::ops::AddAssign for LinkedRows {
    fn add_assign(&mut self, more: Self) {
        self.read += more.read;
        self.orphaned += more.orphaned;
        self.dropped += more.dropped;
        self.rejected += more.rejected;
    }
}

/// Profiles that a goal run changed or found, each counted once; of a group import, groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Profiles {
    pub created: i64,
    pub updated: i64,
    pub unchanged: i64,
}

/// The events of a goal run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Events {
    pub created: u64,
    pub updated: u64,
    pub rejected: u64,
    /// Older than the retention of their type.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub expired: u64,
    /// Lost, because another row of the same file has the same profile, type and id.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub overwritten: u64,
    /// Written to files.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub exported: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Milliseconds spent in each stage of an import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Stages {
    pub parse: u64,
    pub processors: u64,
    pub match_and_merge: u64,
    pub commit: u64,
}

/// A run of a connection: its goals run one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Run {
    /// When it began, and four digits that distinguish runs of the same second.
    pub id: String,
    pub trigger: Trigger,
    /// The interrupted run that this one continues.
    pub continues: Option<String>,
}

/// What started a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Trigger {
    /// `sluicebox run`.
    #[default]
    Command,
    /// A request to the service.
    Request,
    /// The schedule.
    Schedule,
    /// The schedule, at a time when the service was down or busy with the same connection.
    Missed,
    /// An interrupted run, which this one continues.
    Continuation,
}

impl Run {
    /// A new run.
    pub(crate) fn new(trigger: Trigger) -> Self {
        let now = Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
        let random = uuid::Uuid::now_v7().simple().to_string();
        Self { id: format!("{now}-{}", random.get(28..).unwrap_or_default()), trigger, ..Self::default() }
    }
}

impl Trigger {
    fn is_command(&self) -> bool {
        *self == Self::Command
    }
}

/// A goal run as the history stores it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct HistoryEntry {
    #[serde(flatten)]
    pub report: Report,
    /// RFC 3339.
    pub started: String,
    #[serde(default, skip_serializing_if = "Trigger::is_command")]
    pub trigger: Trigger,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<String>,
    /// The words of the plugin that failed it while it had rows. They may quote rows, so no mail and no webhook has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin_words: Option<String>,
    /// Whether the goal run was stopped, or its process died.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interrupted: bool,
    /// The last five profiles that it created or updated, oldest first.
    #[serde(default)]
    pub last_profiles: Vec<LastProfile>,
    /// The files of rejected rows, each with its length at the last commit.
    #[serde(default)]
    pub rejected_files: Vec<(String, u64)>,
    /// Files of which nothing was merged, because too much of them was rejected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmerged_files: Vec<String>,
    /// The time at which it began, in milliseconds since the epoch.
    #[serde(default)]
    pub at: i64,
    /// The times of its changes, oldest first: several where other goal runs changed something meanwhile. Empty if it changed
    /// nothing, and in entries of earlier versions, which changed everything at `at`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed_at: Vec<i64>,
    /// The files that it merged, in their order. Records name what set a value by its place here (see
    /// [`Setter`](sluicebox_model::Setter)): none of them ever moves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
}

/// A profile that a goal run changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct LastProfile {
    pub profile_id: String,
    /// `created` or `updated`.
    pub change: String,
}

impl HistoryEntry {
    /// The entry of a goal run that begins.
    pub(crate) fn new(report: Report, started: Timestamp, run: &Run) -> Self {
        Self {
            report,
            started: started.to_string(),
            trigger: run.trigger,
            continues: run.continues.clone(),
            ..Self::default()
        }
    }

    /// Notes that it changes records at a time.
    pub(crate) fn changes(&mut self, time: i64) {
        if self.changed_at.last() != Some(&time) {
            self.changed_at.push(time);
        }
    }

    /// The times of its changes, oldest first.
    pub(crate) fn times(&self) -> &[i64] {
        if self.changed_at.is_empty() { std::slice::from_ref(&self.at) } else { &self.changed_at }
    }

    /// Whether the goal run began in an earlier second than a run, and so is none of its goal runs. Goal runs of several runs
    /// at a time lie between each other in the history, in the order in which they began.
    pub(crate) fn began_before(&self, run: &str) -> bool {
        let digits = |text: &str| text.chars().filter(char::is_ascii_digit).take(14).collect::<String>();
        digits(&self.started) < digits(run)
    }

    /// The place of a file among the sources; the file that was merged last comes last.
    pub(crate) fn source(&mut self, file: &str) -> u32 {
        if self.sources.last().is_none_or(|last| last != file) {
            self.sources.push(file.to_owned());
        }
        u32::try_from(self.sources.len() - 1).unwrap_or(u32::MAX)
    }

    /// Records how the goal run ended, and how long it took.
    pub(crate) fn end(&mut self, error: Option<&Error>, took: Duration) {
        self.report.status = if error.is_none() { Status::Succeeded } else { Status::Failed };
        self.report.error = error.map(Error::reported);
        self.plugin_words = error.and_then(Error::plugin_words).map(str::to_owned);
        self.report.failure = error.map(Error::code);
        self.report.duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.interrupted = matches!(error, Some(Error::Interrupted));
    }

    /// The entry as the store holds it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).or_never("the JSON of a history entry")
    }

    /// The entry that the store holds; `None` if it is damaged.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// Adds profiles that were created or updated; the last five stay.
    pub(crate) fn remember(&mut self, changed: impl Iterator<Item = (RecordId, Class)>) {
        for (id, class) in changed {
            let profile_id = id.to_string();
            self.last_profiles.retain(|last| last.profile_id != profile_id);
            let change = if class == Class::Created { "created" } else { "updated" };
            self.last_profiles.push(LastProfile { profile_id, change: change.to_owned() });
        }
        let surplus = self.last_profiles.len().saturating_sub(5);
        self.last_profiles.drain(..surplus);
    }
}

impl Report {
    /// The empty report of a goal run.
    pub(crate) fn of(run: &str, connection: &str, goal: &str, kind: &str) -> Self {
        Self {
            run: run.to_owned(),
            connection: connection.to_owned(),
            goal: goal.to_owned(),
            kind: kind.to_owned(),
            ..Self::default()
        }
    }

    /// Counts the trap if the error is one of a processor.
    pub(crate) fn count_trap(&mut self, error: &Error) {
        let Error::Processor { error, .. } = error else { return };
        let processor = self.processors.iter_mut().find(|processor| processor.plugin == error.plugin);
        if let Some(processor) = processor.filter(|_| error.fault.is_trap()) {
            processor.traps += 1;
        }
    }

    /// Adds the counts of a commit.
    pub(crate) fn add(&mut self, counts: &Counts) {
        let read = counts.dropped + counts.rejected + counts.excluded + counts.merged;
        self.rows.read += read;
        self.rows.dropped += counts.dropped;
        self.rows.rejected += counts.rejected;
        self.rows.excluded += counts.excluded;
        self.rows.merged += counts.merged;
        self.cells_rejected += counts.cells_rejected;
        self.events.created = self.events.created.saturating_add_signed(counts.events_created);
        self.events.updated = self.events.updated.saturating_add_signed(counts.events_updated);
        self.events.overwritten += counts.events_overwritten;
        self.events.rejected += counts.events_rejected;
        self.events.expired += counts.events_expired;
        self.profiles.created += counts.created;
        self.profiles.updated += counts.updated;
        self.profiles.unchanged += counts.unchanged;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_old_versions_and_codes_of_later_ones_are_read() {
        let report = Report::of("r", "shop", "customers", "import_profiles");
        let entry = HistoryEntry { report, ..HistoryEntry::default() };
        let encoded = String::from_utf8(entry.encode()).unwrap();
        assert!(!encoded.contains("failure"), "{encoded}");
        assert_eq!(HistoryEntry::decode(encoded.as_bytes()), Some(entry));
        let later = encoded.replace("\"error\":null", "\"error\":\"?\",\"failure\":\"of-tomorrow\"");
        let decoded = HistoryEntry::decode(later.as_bytes()).unwrap();
        assert_eq!(decoded.report.failure, Some(FailureCode::Other));
    }

    #[test]
    fn goal_runs_that_began_before_a_run_are_none_of_it() {
        let entry =
            HistoryEntry { started: "2026-01-02T03:04:05.678Z".to_owned(), ..HistoryEntry::default() };
        assert!(entry.began_before("20260102-030406-0000"));
        assert!(!entry.began_before("20260102-030405-ffff"));
        assert!(!entry.began_before("20260102-030404-ffff"));
    }

    #[test]
    fn the_times_of_changes_are_kept_in_their_order() {
        let mut entry = HistoryEntry { at: 5, ..HistoryEntry::default() };
        assert_eq!(entry.times(), [5]);
        [5, 5, 8, 8].into_iter().for_each(|time| entry.changes(time));
        assert_eq!(entry.times(), [5, 8]);
    }

    #[test]
    fn a_stopped_goal_run_says_so_by_its_code() {
        let mut entry = HistoryEntry::default();
        entry.end(Some(&Error::Interrupted), Duration::ZERO);
        assert!(entry.interrupted && entry.report.status == Status::Failed);
        assert!(String::from_utf8(entry.encode()).unwrap().contains(r#""failure":"stopped""#));
    }
}
