use std::io;
use std::path::PathBuf;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process writes to it.
    #[error("the store {} is in use by {holder}", path.display())]
    Locked {
        /// The store.
        path: PathBuf,
        /// Who, as far as is known.
        holder: String,
    },
    /// A file or folder of the store cannot be used.
    #[error("the store {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store was written by a later version of Sluicebox.
    #[error("the store has format {found}; this version reads up to {known}")]
    Newer {
        /// The format found.
        found: u32,
        /// The newest format known.
        known: u32,
    },
    /// Something in the store cannot be decoded.
    #[error("the store is damaged: {0}")]
    Damaged(&'static str),
    /// A property cannot identify because two records hold one value.
    #[error("two or more records hold the same value, so the property cannot identify")]
    NotUnique,
    /// The linked rows of a few rows take too much memory.
    #[error(
        "the linked rows that belong to one batch of rows take more than {bytes} bytes; smaller batches (import.batch_rows) need less"
    )]
    TooManyLinked {
        /// The most that is allowed.
        bytes: usize,
    },
    /// RocksDB failed.
    #[error("the store failed: {0}")]
    Rocks(#[from] rocksdb::Error),
}
