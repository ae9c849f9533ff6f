//! The one place where an error gets its words, its hint, its exit code and its failure code.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sluicebox_files::FileError;
use sluicebox_linked_rows::LinkedRowsError;
use sluicebox_processors::PluginError;
use sluicebox_store::StoreError;
use utoipa::ToSchema;

use crate::config::{Problem, nearest};
use crate::output::counted;

/// Why a command, a goal or a file fails.
#[derive(Debug)]
pub(crate) enum Error {
    /// The files of the working folder have problems.
    Config(Vec<Problem>),
    /// The folder is not a working folder.
    NoWorkingFolder(PathBuf),
    /// A secret is not where the configuration says.
    Secret { place: String, reason: String },
    /// The command line names something that does not exist.
    Unknown { kind: &'static str, name: String, known: Vec<String> },
    /// The command line is wrong.
    Usage(String),
    /// The schema makes a property unique of which two records hold the same value.
    NotUnique { property: String, error: StoreError },
    /// There is no such profile, group, run or store.
    NotFound(String),
    /// A plugin cannot be used at all.
    Plugin { place: String, reason: String },
    /// A plugin cannot say what it is: it trapped, or was stopped.
    BrokenPlugin(String),
    /// Something else changed in the meantime.
    Conflict(String),
    /// Something failed, and the message says why.
    Failed(String),
    /// Something failed because of another error.
    FailedWith { what: String, error: Box<dyn std::error::Error + Send + Sync> },
    /// A plugin failed while it processed a file.
    Processor { file: String, batch: Option<u64>, error: PluginError },
    /// A connection's location cannot be used.
    Location { place: String, error: FileError },
    /// An identity of S3 lacks permissions that a goal needs.
    Permissions { identity: String, lacking: Vec<&'static str>, place: String },
    /// A root file lacks its linked files.
    Set { name: String, message: String },
    /// A file cannot be read.
    File { name: String, error: FileError },
    /// A file lacks a column, or has it twice.
    Columns { name: String, message: String, missing: Option<String> },
    /// Several files of a goal failed.
    Files { failed: u64, first: Box<Error> },
    /// The files so far have more rejected rows than `max_rejected` allows.
    TooManyRejected(String),
    /// Too much of a file is rejected, or all of it: nothing of it was merged.
    Rejected { name: String, message: String, code: FailureCode },
    /// The store failed.
    Store(StoreError),
    /// Linked rows take too much memory, or cannot be written to the disk.
    LinkedRows(LinkedRowsError),
    /// A file or folder of the system cannot be used.
    Io { path: PathBuf, error: io::Error },
    /// A person or the system stopped the run.
    Interrupted,
}

/// What kind of failure ended a goal run: programs and pages decide by it, never by the words of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FailureCode {
    /// The configuration, a secret or the command line is wrong.
    Configuration,
    /// A plugin cannot be used, or failed.
    Plugin,
    /// The location cannot be reached or listed.
    Location,
    /// The identity lacks a permission.
    Permission,
    /// A root file lacks its linked files.
    FileSet,
    /// A file cannot be read or written.
    File,
    /// A file lacks a column, or has it twice.
    Columns,
    /// There are more rejected rows or cells than `max_rejected` or `max_rejected_cells` allows.
    MaxRejected,
    /// Every row of a file was rejected.
    AllRejected,
    /// The store failed or is in use.
    Store,
    /// A file or folder of the system cannot be used.
    System,
    /// A person or the system stopped the run.
    Stopped,
    /// The process ended before the run did.
    Interrupted,
    /// Anything else, also codes of later versions.
    #[serde(other)]
    Other,
}

impl Error {
    pub(crate) fn io(path: &Path, error: io::Error) -> Self {
        Self::Io { path: path.to_owned(), error }
    }

    /// Something failed because of another error.
    pub(crate) fn failed(
        what: impl Into<String>,
        error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::FailedWith { what: what.into(), error: error.into() }
    }

    /// The message for the history, mails and webhooks: where a plugin fails while it has rows, without its own words, which may
    /// quote them.
    pub(crate) fn reported(&self) -> String {
        match self {
            Self::Processor { file, batch, error } if error.fault.own_words().is_some() => {
                let what = error.fault.own_words().map(|(_, instead)| instead).unwrap_or_default();
                let batch = batch.map_or_else(String::new, |batch| format!(", batch {batch}"));
                format!("{file}{batch}: plugin {}: {what}", error.plugin)
            }
            _ => self.to_string(),
        }
    }

    /// The words of a plugin that failed while it had rows: for people who may see rows.
    pub(crate) fn plugin_words(&self) -> Option<&str> {
        match self {
            Self::Processor { error, .. } => error.fault.own_words().map(|(words, _)| words),
            _ => None,
        }
    }

    /// The code of a failed goal run.
    pub(crate) fn code(&self) -> FailureCode {
        match self {
            Self::Config(_)
            | Self::NoWorkingFolder(_)
            | Self::Secret { .. }
            | Self::Unknown { .. }
            | Self::Usage(_)
            | Self::NotUnique { .. } => FailureCode::Configuration,
            Self::Plugin { .. } | Self::BrokenPlugin(_) | Self::Processor { .. } => FailureCode::Plugin,
            Self::Location { .. } => FailureCode::Location,
            Self::Permissions { .. } => FailureCode::Permission,
            Self::Set { .. } => FailureCode::FileSet,
            Self::File { error: FileError::S3(_), .. } => FailureCode::Location,
            Self::File { .. } => FailureCode::File,
            Self::Columns { .. } => FailureCode::Columns,
            Self::Files { first, .. } => first.code(),
            Self::TooManyRejected(_) => FailureCode::MaxRejected,
            Self::Rejected { code, .. } => *code,
            Self::Store(_) => FailureCode::Store,
            Self::LinkedRows(_) | Self::Io { .. } => FailureCode::System,
            Self::Interrupted => FailureCode::Stopped,
            Self::NotFound(_) | Self::Conflict(_) | Self::Failed(_) | Self::FailedWith { .. } => {
                FailureCode::Other
            }
        }
    }

    /// 1 a goal failed, 2 the command line or configuration is wrong, 130 interrupted.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_)
            | Self::NoWorkingFolder(_)
            | Self::Secret { .. }
            | Self::Unknown { .. }
            | Self::Usage(_)
            | Self::NotUnique { .. }
            | Self::Plugin { .. } => 2,
            Self::NotFound(_)
            | Self::Conflict(_)
            | Self::Processor { .. }
            | Self::BrokenPlugin(_)
            | Self::Failed(_)
            | Self::FailedWith { .. }
            | Self::Location { .. }
            | Self::Permissions { .. }
            | Self::Set { .. }
            | Self::File { .. }
            | Self::Columns { .. }
            | Self::Files { .. }
            | Self::TooManyRejected(_)
            | Self::Rejected { .. }
            | Self::Store(_)
            | Self::LinkedRows(_)
            | Self::Io { .. } => 1,
            Self::Interrupted => 130,
        }
    }

    /// The HTTP status that the service answers with.
    pub(crate) fn http_status(&self) -> u16 {
        match self {
            Self::Unknown { .. } | Self::NotFound(_) => 404,
            Self::Conflict(_) => 409,
            Self::Config(_)
            | Self::NoWorkingFolder(_)
            | Self::Secret { .. }
            | Self::Usage(_)
            | Self::NotUnique { .. }
            | Self::Plugin { .. }
            | Self::BrokenPlugin(_)
            | Self::Processor { .. }
            | Self::Failed(_)
            | Self::FailedWith { .. }
            | Self::Location { .. }
            | Self::Permissions { .. }
            | Self::Set { .. }
            | Self::File { .. }
            | Self::Columns { .. }
            | Self::Files { .. }
            | Self::TooManyRejected(_)
            | Self::Rejected { .. } => 422,
            Self::Store(_) | Self::LinkedRows(_) | Self::Io { .. } => 500,
            Self::Interrupted => 503,
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::NoWorkingFolder(_) => {
                Some("`sluicebox init DIR` creates one; `-C DIR` chooses another".to_owned())
            }
            Self::Unknown { name, known, .. } => {
                let near = nearest(name, known.iter().map(String::as_str));
                Some(match near {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if known.is_empty() => return None,
                    None => format!("known names: {}", known.join(", ")),
                })
            }
            Self::Store(StoreError::Locked { .. }) => {
                let hint = "wait until the other run ends; if `sluicebox serve` uses the store, start the run there. \
                            Commands that only read still work";
                Some(hint.to_owned())
            }
            Self::TooManyRejected(_) | Self::Rejected { .. } => Some(
                "each rejected row states its reason; `sluicebox rejected show RUN GOAL` shows them"
                    .to_owned(),
            ),
            Self::Permissions { .. } => {
                Some("allow it in the policy of the identity or of the bucket, then check again".to_owned())
            }
            Self::Interrupted => Some("run it again: it continues where it stopped".to_owned()),
            _ => None,
        }
    }

    /// The error; [`Error::Interrupted`] if the wait for a location was stopped.
    pub(crate) fn or_interrupted(self) -> Self {
        match &self {
            Self::File { error, .. } | Self::Location { error, .. } if error.is_stopped() => {
                Self::Interrupted
            }
            _ => self,
        }
    }

    /// Whether the goal ends at once. Otherwise its next file is imported.
    pub(crate) fn ends_goal(&self) -> bool {
        !matches!(self, Self::File { .. } | Self::Columns { .. } | Self::Set { .. } | Self::Rejected { .. })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(problems) => {
                for (place, problem) in problems.iter().enumerate() {
                    write!(f, "{}{problem}", if place == 0 { "" } else { "\n" })?;
                }
                Ok(())
            }
            Self::NoWorkingFolder(path) => {
                write!(
                    f,
                    "{} is not a working folder: it has no sluicebox.toml, no schema.toml and no connections",
                    path.display()
                )
            }
            Self::Secret { place, reason } | Self::Plugin { place, reason } => write!(f, "{place}: {reason}"),
            Self::Unknown { kind, name, .. } => write!(f, "there is no {kind} `{name}`"),
            Self::Usage(message)
            | Self::NotFound(message)
            | Self::Conflict(message)
            | Self::BrokenPlugin(message)
            | Self::Failed(message)
            | Self::TooManyRejected(message) => f.write_str(message),
            Self::NotUnique { property, error } => {
                write!(f, "schema.toml: property `{property}` cannot be unique: {error}")
            }
            Self::FailedWith { what, error } => write!(f, "{what}: {error}"),
            Self::Files { failed, first } => {
                write!(f, "{} failed; the first: {first}", counted(*failed, "file"))
            }
            Self::Processor { file, batch: Some(batch), error } => {
                write!(f, "{file}, batch {batch}: {error}")
            }
            Self::Processor { file, batch: None, error } => write!(f, "{file}: {error}"),
            Self::Location { place, error } => write!(f, "{place}: {error}"),
            Self::Permissions { identity, lacking, place } => {
                write!(f, "{place}: {identity} lacks {}", lacking.join(", "))
            }
            // What is wrong with an object says its whole address.
            Self::File { error: FileError::S3(error), .. } => write!(f, "{error}"),
            Self::File { name, error } => write!(f, "{name}: {error}"),
            Self::Columns { name, message, .. }
            | Self::Set { name, message }
            | Self::Rejected { name, message, .. } => {
                write!(f, "{name}: {message}")
            }
            Self::Store(error) => write!(f, "{error}"),
            Self::LinkedRows(error) => write!(f, "{error}"),
            Self::Io { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotUnique { error, .. } | Self::Store(error) => Some(error),
            Self::LinkedRows(error) => Some(error),
            Self::FailedWith { error, .. } => Some(error.as_ref()),
            Self::Processor { error, .. } => Some(error),
            Self::Location { error, .. } | Self::File { error, .. } => Some(error),
            Self::Files { first, .. } => Some(first.as_ref()),
            Self::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl From<LinkedRowsError> for Error {
    fn from(error: LinkedRowsError) -> Self {
        Self::LinkedRows(error)
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
