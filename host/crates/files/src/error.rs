use std::io;

use crate::{PgpError, S3Error};

/// Why a file cannot be read to its end. The file's name is added by the caller; no cell is quoted.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Reading failed, or the compressed data is broken.
    #[error("{0}")]
    Io(io::Error),
    /// Compressed data without its end.
    #[error("the compressed data breaks off: the file is truncated; it needs to be sent again")]
    BrokenOff,
    /// A quote that nothing closes.
    #[error("line {line}: the quoted cell that begins in this row is not closed before the file ends")]
    Unclosed {
        /// Where the row begins.
        line: u64,
    },
    /// A quote that nothing closes in a reasonable distance.
    #[error(
        "line {line}: the quoted cell that begins in this row is not closed within {limit} bytes (max_row)"
    )]
    UnclosedWithin {
        /// Where the row begins.
        line: u64,
        /// `max_row`.
        limit: u64,
    },
    /// A row without an end.
    #[error("line {line}: the row that begins here does not end within {limit} bytes (max_row)")]
    RowTooLong {
        /// Where the row begins.
        line: u64,
        /// `max_row`.
        limit: u64,
    },
    /// The first row cannot name columns.
    #[error("line {line}: the header {problem}")]
    Header {
        /// Where it is.
        line: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A small file that expands beyond reason.
    #[error("the file expands to more than {times} times its size; raise limits.expansion to read it")]
    Expansion {
        /// The ratio allowed.
        times: u64,
    },
    /// An archive with anything but one file in it.
    #[error("the zip archive holds {0} files, expected one")]
    ZipEntries(usize),
    /// An archive that cannot be read.
    #[error("the zip archive cannot be read: {0}")]
    Zip(String),
    /// A zip archive that cannot be read from its end, because it is encrypted as a whole.
    #[error("a zip archive inside an encrypted file cannot be read; compress with gzip or zstd")]
    EncryptedZip,
    /// It cannot be decrypted.
    #[error("{0}")]
    Pgp(#[from] PgpError),
    /// A bucket refused, or could not be reached.
    #[error("{0}")]
    S3(S3Error),
    /// The file was written to during the import.
    #[error("the file changed while it was read; it is taken as a new file at the next run")]
    Changed,
}

impl From<S3Error> for FileError {
    fn from(error: S3Error) -> Self {
        Self::S3(error)
    }
}

/// Readers say more than `io::Error` can by carrying one of these.
impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(carried) => carried,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Self::BrokenOff,
            Err(error) => Self::Io(error),
        }
    }
}
