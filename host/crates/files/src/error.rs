use std::io;

use crate::{PgpError, S3Error, S3Problem};

/// Why a file cannot be read to its end. The caller adds the file's name. No message quotes a cell.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Reading failed, or the compressed data is broken.
    #[error("{0}")]
    Io(io::Error),
    /// The compressed data ends too early.
    #[error("the compressed data ends too early: the file is truncated; ask the partner to send it again")]
    Truncated,
    /// A quoted cell that is not closed before the file ends.
    #[error("line {line}: the quoted cell that begins in this row is not closed before the file ends")]
    UnclosedQuote {
        /// Where the row begins.
        line: u64,
    },
    /// A quoted cell that is not closed within `max_row` bytes.
    #[error(
        "line {line}: the quoted cell that begins in this row is not closed within {limit} bytes (max_row)"
    )]
    UnclosedQuoteWithin {
        /// Where the row begins.
        line: u64,
        /// `max_row`.
        limit: u64,
    },
    /// A row that is longer than `max_row`.
    #[error("line {line}: the row that begins here does not end within {limit} bytes (max_row)")]
    RowTooLong {
        /// Where the row begins.
        line: u64,
        /// `max_row`.
        limit: u64,
    },
    /// The header cannot name columns.
    #[error("line {line}: the header {problem}")]
    Header {
        /// The line of the header.
        line: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A compressed file that expands beyond the limit.
    #[error("the file expands to more than {ratio} times its size; raise limits.expansion to read it")]
    Expansion {
        /// The ratio allowed.
        ratio: u64,
    },
    /// A zip archive that does not hold exactly one file.
    #[error("the zip archive holds {0} files; expected one")]
    ZipEntries(usize),
    /// A file that is not CSV.
    #[error("the file is {kind}, not CSV; {remedy}")]
    OtherKind {
        /// What it is, with its article.
        kind: &'static str,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A compressed file in a compressed file.
    #[error("the file is compressed twice ({inner} in {outer}); ask the partner to compress it once")]
    CompressedTwice {
        /// The compression of the file.
        outer: &'static str,
        /// The compression of what is in it.
        inner: &'static str,
    },
    /// UTF-16 that needs its encoding named.
    #[error(
        "the file looks like UTF-16 without a byte-order mark; set encoding = \"{name}\" in the goal's csv"
    )]
    Utf16WithoutMark {
        /// The name of the encoding.
        name: &'static str,
    },
    /// Two byte-order marks at the start of the file.
    #[error("the file begins with two byte-order marks; ask the partner to write one, or none")]
    TwoMarks,
    /// An archive that cannot be read.
    #[error("the zip archive cannot be read: {0}")]
    Zip(String),
    /// A zip archive in an encrypted file. The directory of an archive is at its end, and an encrypted file is read from the front.
    #[error("a zip archive inside an encrypted file cannot be read; compress with gzip, zstd, xz or bzip2")]
    EncryptedZip,
    /// The file cannot be decrypted.
    #[error("{0}")]
    Pgp(#[from] PgpError),
    /// A bucket refused the request, or cannot be reached.
    #[error("{0}")]
    S3(S3Error),
    /// More files match than are taken at a time.
    #[error(
        "more than {files} files match, or their names take more than {} MiB: give the goal's files a directory of their own, \
         narrow its pattern, or let it put imported files out of the way (after_import)",
        name_bytes >> 20
    )]
    TooManyFiles {
        /// The most files.
        files: usize,
        /// The most bytes of their names.
        name_bytes: u64,
    },
    /// Another file got the name of an exported one, so late that it cannot get another name.
    #[error(
        "another file got this name while the export was written; nothing was replaced: run it again. If that fails too, the \
         identity may not see that file: give it s3:GetObject and s3:ListBucket"
    )]
    NameTaken,
    /// The name leads to a place outside of the location.
    #[error(
        "it leads out of the location: a link to another place, or one that begins with `/`; put the file itself there"
    )]
    LeadsOut,
    /// A link, where the kernel cannot follow links safely.
    #[error(
        "it is a link, which this system (Linux before 5.6) cannot follow safely; put the file itself there"
    )]
    LinkNotFollowed,
    /// Something else has the name of a file.
    #[error("it is {0}, not a regular file")]
    NotRegular(&'static str),
    /// The folder of an exported file is another one than when the export began.
    #[error(
        "the folder or the file was moved or replaced while the export was written; nothing was written elsewhere: run it again"
    )]
    Moved,
    /// The file changed during the import.
    #[error("the file changed while it was being read; the next run imports it as a new file")]
    Changed,
}

impl FileError {
    /// Whether the wait for a location was stopped.
    pub fn is_stopped(&self) -> bool {
        let is_stopped = |error: &S3Error| error.problem == S3Problem::Stopped;
        match self {
            Self::S3(error) => is_stopped(error),
            Self::Io(error) => error.get_ref().is_some_and(|inner| {
                inner.downcast_ref().is_some_and(is_stopped)
                    || inner.downcast_ref().is_some_and(Self::is_stopped)
            }),
            _ => false,
        }
    }
}

impl From<S3Error> for FileError {
    fn from(error: S3Error) -> Self {
        Self::S3(error)
    }
}

/// Unwraps the `FileError` that a reader put into an `io::Error`.
impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(inner) => inner,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Self::Truncated,
            Err(error) => Self::Io(error),
        }
    }
}
