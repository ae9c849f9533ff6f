//! The one place where an error gets its words, its hint and its exit code.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use sluicebox_files::FileError;
use sluicebox_processors::PluginError;
use sluicebox_store::StoreError;

use crate::config::{Problem, nearest};

/// Why a command, a goal or a file fails.
#[derive(Debug)]
pub(crate) enum Error {
    /// The working folder's files are wrong.
    Config(Vec<Problem>),
    /// There is nothing like a working folder.
    NoWorkingFolder(PathBuf),
    /// A secret is not where the configuration says.
    Secret { place: String, reason: String },
    /// The command line names something that is not there.
    Unknown { kind: &'static str, name: String, known: Vec<String> },
    /// The command line is wrong.
    Usage(String),
    /// A profile or run that is not there.
    NotFound(String),
    /// A plugin cannot be used at all.
    Plugin { place: String, reason: String },
    /// Something else was done meanwhile.
    Conflict(String),
    /// A tool failed at its work, and has said why.
    Failed(String),
    /// A plugin failed at its work.
    Processor { file: String, batch: Option<u64>, error: PluginError },
    /// A connection's location cannot be used.
    Location { place: String, error: FileError },
    /// An identity of S3 may not do what a goal needs.
    Permissions { identity: String, lacking: Vec<&'static str>, place: String },
    /// A root file without the files that belong to it.
    Set { name: String, message: String },
    /// A file cannot be read.
    File { name: String, error: FileError },
    /// A file lacks a column, or has it twice.
    Columns { name: String, message: String },
    /// Several files of a goal failed.
    Files(String),
    /// More rows were rejected than may be.
    TooManyRejected(String),
    /// The store failed.
    Store(StoreError),
    /// A file or folder of the system cannot be used.
    Io { path: PathBuf, error: io::Error },
    /// Ctrl-C.
    Interrupted,
}

impl Error {
    pub(crate) fn io(path: &Path, error: io::Error) -> Self {
        Self::Io { path: path.to_owned(), error }
    }

    /// 1 a goal failed, 2 the command line or configuration is wrong, 130 interrupted.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_)
            | Self::NoWorkingFolder(_)
            | Self::Secret { .. }
            | Self::Unknown { .. }
            | Self::Usage(_)
            | Self::Plugin { .. } => 2,
            Self::NotFound(_)
            | Self::Conflict(_)
            | Self::Processor { .. }
            | Self::Failed(_)
            | Self::Location { .. }
            | Self::Permissions { .. }
            | Self::Set { .. }
            | Self::File { .. }
            | Self::Columns { .. }
            | Self::Files(_)
            | Self::TooManyRejected(_)
            | Self::Store(_)
            | Self::Io { .. } => 1,
            Self::Interrupted => 130,
        }
    }

    /// What the service answers with, as a status of HTTP.
    pub(crate) fn http_status(&self) -> u16 {
        match self {
            Self::Unknown { .. } | Self::NotFound(_) => 404,
            Self::Conflict(_) => 409,
            Self::Config(_)
            | Self::NoWorkingFolder(_)
            | Self::Secret { .. }
            | Self::Usage(_)
            | Self::Plugin { .. }
            | Self::Processor { .. }
            | Self::Failed(_)
            | Self::Location { .. }
            | Self::Permissions { .. }
            | Self::Set { .. }
            | Self::File { .. }
            | Self::Columns { .. }
            | Self::Files(_)
            | Self::TooManyRejected(_) => 422,
            Self::Store(_) | Self::Io { .. } => 500,
            Self::Interrupted => 503,
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::NoWorkingFolder(_) => {
                Some("`sluicebox init DIR` makes one; `-C DIR` names another".to_owned())
            }
            Self::Unknown { name, known, .. } => {
                let near = nearest(name, known.iter().map(String::as_str));
                Some(match near {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if known.is_empty() => return None,
                    None => format!("there are: {}", known.join(", ")),
                })
            }
            Self::Store(StoreError::Locked { .. }) => {
                let hint = "wait until the other run has ended; if it is `sluicebox serve`, have the service run the connection. \
                            Reading commands work meanwhile";
                Some(hint.to_owned())
            }
            Self::TooManyRejected(_) => Some(
                "the rejected rows say what is wrong with each; max_rejected sets how many may be".to_owned(),
            ),
            Self::Permissions { .. } => Some(
                "allow it in the policy of the identity, or in that of the bucket, and check again"
                    .to_owned(),
            ),
            Self::Interrupted => Some("run it again: it goes on where it stopped".to_owned()),
            _ => None,
        }
    }

    /// Whether the goal cannot go on with its other files.
    pub(crate) fn ends_goal(&self) -> bool {
        !matches!(self, Self::File { .. } | Self::Columns { .. } | Self::Set { .. })
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
                    "{} is no working folder: it holds no sluicebox.toml, schema.toml or connections",
                    path.display()
                )
            }
            Self::Secret { place, reason } | Self::Plugin { place, reason } => write!(f, "{place}: {reason}"),
            Self::Unknown { kind, name, .. } => write!(f, "there is no {kind} `{name}`"),
            Self::Usage(message)
            | Self::NotFound(message)
            | Self::Conflict(message)
            | Self::Failed(message)
            | Self::Files(message)
            | Self::TooManyRejected(message) => f.write_str(message),
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
            Self::Columns { name, message } | Self::Set { name, message } => write!(f, "{name}: {message}"),
            Self::Store(error) => write!(f, "{error}"),
            Self::Io { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
