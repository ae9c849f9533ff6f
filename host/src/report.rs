//! What a goal run did: printed by `run`, kept in the history.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sluicebox_matching::Counts;
use sluicebox_model::{Class, RecordId};
use sluicebox_processors::Usage;
use utoipa::ToSchema;

use crate::config::EXPORT_PROFILES;
use crate::error::Error;
use crate::plugins::Processor;

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
    /// Of a goal with linked files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linked: Option<LinkedRows>,
    pub cells_rejected: u64,
    pub profiles: Profiles,
    pub events: Events,
    /// In the order of the goal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processors: Vec<ProcessorReport>,
    pub duration_ms: u64,
    pub error: Option<String>,
    /// Where the time went, in milliseconds: stages run at the same time.
    #[serde(default)]
    pub stages_ms: Stages,
}

/// How a goal run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Status {
    /// It goes on, or its process died.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FileStatus {
    Imported,
    AlreadyImported,
    Exported,
    Failed,
}

impl FileStatus {
    /// For people.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Imported => "imported",
            Self::AlreadyImported => "already imported",
            Self::Exported => "exported",
            Self::Failed => "failed",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Rows {
    pub read: u64,
    pub dropped: u64,
    pub rejected: u64,
    pub excluded: u64,
    pub merged: u64,
}

/// What a processor of a goal did in a run, and what it took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct ProcessorReport {
    pub plugin: String,
    /// Rows that it saw; those that processors before it took out are not among them.
    pub read: u64,
    pub kept: u64,
    pub dropped: u64,
    pub rejected: u64,
    /// How often it broke off or was stopped.
    pub traps: u64,
    /// The time of its calls.
    pub time_ms: u64,
    /// In bytes.
    pub peak_memory: u64,
}

impl ProcessorReport {
    pub(crate) fn of(processor: &Processor) -> Self {
        Self { plugin: processor.plugin.name().to_owned(), ..Self::default() }
    }

    /// Adds what it did with a file.
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
    /// Their link is empty, or no row of their parent file has its value.
    pub orphaned: u64,
    /// By a processor.
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

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Profiles {
    pub created: i64,
    pub updated: i64,
    pub unchanged: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Events {
    pub created: u64,
    pub updated: u64,
    pub rejected: u64,
    /// Older than their type is kept.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub expired: u64,
    /// Written to files.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub exported: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Stages {
    pub parse: u64,
    pub processors: u64,
    pub match_and_merge: u64,
    pub commit: u64,
}

/// A run of a connection: its goals, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Run {
    /// When it began, and four digits that tell runs of one second apart.
    pub id: String,
    pub trigger: Trigger,
    /// The run that was cut off and that this one goes on with.
    pub continues: Option<String>,
}

/// Why a run began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Trigger {
    /// `sluicebox run`.
    #[default]
    Command,
    /// Somebody asked the service.
    Request,
    /// It was due.
    Schedule,
    /// It was due while the service was down, or at work on the same connection.
    Missed,
    /// A run was cut off.
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

/// A goal run as the history keeps it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Kept {
    #[serde(flatten)]
    pub report: Report,
    /// RFC 3339.
    pub started: String,
    #[serde(default, skip_serializing_if = "Trigger::is_command")]
    pub trigger: Trigger,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<String>,
    /// Whether it ended before it was done: it was stopped, or its process died.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interrupted: bool,
    /// The last five profiles created or updated, oldest first.
    #[serde(default)]
    pub last_profiles: Vec<LastProfile>,
    /// The files of rejected rows with the length that the last commit vouches for.
    #[serde(default)]
    pub rejected_files: Vec<(String, u64)>,
    /// The time of its changes, in milliseconds since the epoch.
    #[serde(default)]
    pub at: i64,
}

/// A profile that a goal run changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct LastProfile {
    pub profile_id: String,
    /// `created` or `updated`.
    pub change: String,
}

impl Kept {
    /// What a goal run begins with.
    pub(crate) fn new(report: Report, started: Timestamp, run: &Run) -> Self {
        Self {
            report,
            started: started.to_string(),
            trigger: run.trigger,
            continues: run.continues.clone(),
            ..Self::default()
        }
    }

    /// How a goal run ended that took this long.
    pub(crate) fn end(&mut self, error: Option<&Error>, took: Duration) {
        self.report.status = if error.is_none() { Status::Succeeded } else { Status::Failed };
        self.report.error = error.map(ToString::to_string);
        self.report.duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.interrupted = matches!(error, Some(Error::Interrupted));
    }

    /// As the store keeps it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        // Texts and numbers alone: this cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// As the store kept it.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// Remembers the last five profiles.
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
    /// The first report of a goal run.
    pub(crate) fn of(run: &str, connection: &str, goal: &str, kind: &str) -> Self {
        Self {
            run: run.to_owned(),
            connection: connection.to_owned(),
            goal: goal.to_owned(),
            kind: kind.to_owned(),
            ..Self::default()
        }
    }

    /// Counts the trap of a processor, if the error is one.
    pub(crate) fn trapped(&mut self, error: &Error) {
        let Error::Processor { error, .. } = error else { return };
        let processor = self.processors.iter_mut().find(|processor| processor.plugin == error.plugin);
        if let Some(processor) = processor.filter(|_| error.fault.is_trap()) {
            processor.traps += 1;
        }
    }

    /// Adds what a commit did.
    pub(crate) fn add(&mut self, counts: &Counts) -> u64 {
        let read = counts.dropped + counts.rejected + counts.excluded + counts.merged;
        self.rows.read += read;
        self.rows.dropped += counts.dropped;
        self.rows.rejected += counts.rejected;
        self.rows.excluded += counts.excluded;
        self.rows.merged += counts.merged;
        self.cells_rejected += counts.cells_rejected;
        self.events.created += counts.events_created;
        self.events.updated += counts.events_updated;
        self.events.rejected += counts.events_rejected;
        self.events.expired += counts.events_expired;
        self.profiles.created += counts.created;
        self.profiles.updated += counts.updated;
        self.profiles.unchanged += counts.unchanged;
        read
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let status = match self.status {
            Status::Running => "running",
            Status::Succeeded => "succeeded",
            Status::Failed => "FAILED",
            Status::Skipped => return format!("{} / {}: skipped", self.connection, self.goal),
        };
        let (rows, profiles) = (self.rows, self.profiles);
        if self.kind == EXPORT_PROFILES {
            let mut line = format!(
                "{} / {}: {status}: {} profiles selected ({} exported, {} excluded, {} dropped, {} rejected)",
                self.connection,
                self.goal,
                rows.read,
                rows.merged,
                rows.excluded,
                rows.dropped,
                rows.rejected,
            );
            if self.events.exported > 0 {
                line.push_str(&format!("; {} events", self.events.exported));
            }
            for file in &self.files {
                line.push_str(&format!("\n  {}: {} rows", file.name, file.rows));
            }
            return line;
        }
        let mut line = format!(
            "{} / {}: {status}: {} file{}, {} rows ({} merged, {} excluded, {} dropped, {} rejected); \
             {}: {} created, {} updated, {} unchanged",
            self.connection,
            self.goal,
            self.files.len(),
            if self.files.len() == 1 { "" } else { "s" },
            rows.read,
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
            line.push_str(&format!("; {} cells rejected", self.cells_rejected));
        }
        line
    }
}
