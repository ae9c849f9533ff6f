use std::io;

/// Why a file cannot be read to its end. The file's name is added by the caller; no cell is quoted.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Reading failed, or the compressed data is broken.
    #[error("{0}")]
    Io(#[from] io::Error),
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
    /// The file was written to during the import.
    #[error("the file changed while it was read; it is taken as a new file at the next run")]
    Changed,
}
