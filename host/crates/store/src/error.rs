use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

/// Why the store cannot do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process writes to it.
    #[error("the store {} is in use by {holder}", path.display())]
    Locked {
        /// The store.
        path: PathBuf,
        /// The process that holds it, as far as is known.
        holder: String,
    },
    /// Another process writes to it so often that no moment was found to copy it.
    #[error("the store {} is being written to; try again later", path.display())]
    Busy {
        /// The store.
        path: PathBuf,
    },
    /// A file or folder of the store cannot be used.
    #[error("the store {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system reports.
        source: io::Error,
    },
    /// A later version of Sluicebox wrote the store.
    #[error("the store has format {found}; this version reads up to {known}")]
    Newer {
        /// The format found.
        found: u32,
        /// The newest format that this version knows.
        known: u32,
    },
    /// Something in the store cannot be decoded.
    #[error("the store is damaged: {0}")]
    Damaged(&'static str),
    /// A property cannot identify because two records hold the same value.
    #[error("two or more records hold the same value, so the property cannot identify")]
    NotUnique,
    /// A commit met what another writer had written.
    #[error("{0}")]
    Conflict(#[from] Conflict),
    /// A commit belongs to a goal run that has ended, or that another process has taken over.
    #[error("goal run {goal_run} has ended or was taken over, so that it cannot commit")]
    LeaseLost {
        /// The number of the goal run.
        goal_run: u64,
    },
    /// The database under the store failed.
    #[error("the store failed: {source}")]
    Database {
        /// What it reports.
        source: Box<dyn Error + Send + Sync>,
    },
}

/// A commit wrote nothing, because what it is based on may have changed since it was read: read again and apply again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("records were changed by another writer since they were read")]
pub struct Conflict;

pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> StoreError + '_ {
    move |source| StoreError::Io { path: path.to_owned(), source }
}
