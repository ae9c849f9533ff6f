use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

/// Why linked rows cannot be kept or found.
#[derive(Debug, thiserror::Error)]
pub enum LinkedRowsError {
    /// The linked rows of a few rows take too much memory.
    #[error(
        "the linked rows that belong to one batch of rows take more than {bytes} bytes; smaller batches (import.batch_rows) need less"
    )]
    TooMany {
        /// The most that is allowed.
        bytes: usize,
    },
    /// The folder of linked rows cannot be used.
    #[error("the linked rows in {}: {source}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system reports.
        source: io::Error,
    },
    /// A row on the disk cannot be decoded.
    #[error("a row of a linked file is damaged")]
    Damaged,
    /// Linked rows cannot be written to the disk, or read from it.
    #[error("the linked rows on the disk: {source}")]
    Disk {
        /// What the tables report.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl From<rocksdb::Error> for LinkedRowsError {
    fn from(error: rocksdb::Error) -> Self {
        Self::Disk { source: error.into() }
    }
}

pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> LinkedRowsError + '_ {
    move |source| LinkedRowsError::Io { path: path.to_owned(), source }
}
