//! Reads a file as an import would, without processing or merging it: a small one to its end, of a large one the beginning.

use sluicebox_files::{FileError, FoundFile};

use crate::error::Error;
use crate::import::Import;
use crate::import::identity::Identified;
use crate::import::reader::OpenFile;
use crate::import::sets::FileSet;

/// Of a larger file, only the beginning is read.
const MAX_BYTES: u64 = 16 << 20;

/// How many bytes a preview compares with the ledger to find a file that is not imported yet.
const MAX_COMPARED_BYTES: u64 = 256 << 20;

/// A file that was read.
pub(crate) struct Examined<T> {
    /// The file's columns.
    pub columns: Vec<String>,
    /// What its columns, with those that processors add, were resolved to.
    pub resolved: T,
    /// How many bytes of the file were read without a failure.
    pub bytes_read: u64,
    /// Whether the whole file was read.
    pub is_complete: bool,
    /// Why it cannot be read on.
    pub failure: Option<Error>,
}

impl<T> Examined<T> {
    /// What people must know of a file that was not read to its end.
    pub(crate) fn remark(&self) -> Option<String> {
        let is_partial = !self.is_complete && self.failure.is_none();
        is_partial.then(|| format!("only the first {} MiB were read", MAX_BYTES >> 20))
    }
}

/// Opens a file and its processors, resolves its columns and reads it; `None` if it is empty. `linked` is its place among the
/// goal's linked files.
///
/// # Errors
/// If its header cannot be read, a processor refuses its columns, or `resolve` does.
pub(crate) fn examine<T>(
    import: &Import<'_>,
    file: &FoundFile,
    linked: Option<usize>,
    resolve: impl FnOnce(&[String]) -> Result<T, Error>,
) -> Result<Option<Examined<T>>, Error> {
    let failed = |error: FileError| Error::File { name: file.name.clone(), error };
    let Some(open) = import.open(file, file.open().map_err(failed)?, linked)? else { return Ok(None) };
    let resolved = resolve(&open.columns).map_err(|error| open.explain(error))?;
    let OpenFile { mut reader, .. } = open;
    let columns = reader.header().columns.clone();
    let (mut bytes_read, mut is_complete, mut failure) = (0, false, None);
    while bytes_read < MAX_BYTES {
        match reader.next_batch() {
            Ok(Some(batch)) => bytes_read = batch.bytes_read,
            Ok(None) => {
                (bytes_read, is_complete) = (file.size, true);
                break;
            }
            Err(error) => {
                failure = Some(failed(error));
                break;
            }
        }
    }
    Ok(Some(Examined { columns, resolved, bytes_read, is_complete, failure }))
}

/// The sets whose files are small enough to be compared with the ledger while a person waits, in their order, and whether that
/// is all of them.
pub(crate) fn comparable<'s>(sets: &[&'s FileSet]) -> (Vec<&'s FileSet>, bool) {
    let mut compared = 0;
    let small = sets.iter().copied().take_while(|set| {
        compared += set.files().map(|file| file.size).sum::<u64>();
        compared <= MAX_COMPARED_BYTES
    });
    let small: Vec<&FileSet> = small.collect();
    let is_all = small.len() == sets.len();
    (small, is_all)
}

/// The set to preview: the first that is not imported yet. Where large files would have to be compared with the ledger to find it,
/// the last set, which is likely to be new.
///
/// # Errors
/// If the store fails.
pub(crate) fn first_new<'s>(import: &Import<'_>, sets: &[&'s FileSet]) -> Result<Option<&'s FileSet>, Error> {
    let (comparable, is_all) = comparable(sets);
    for set in comparable {
        if !known(import, set)?.is_some_and(|identified| identified.state.complete) {
            return Ok(Some(set));
        }
    }
    Ok(if is_all { sets.first().copied() } else { sets.last().copied() })
}

/// What the ledger knows of a set; nothing of one with a file that cannot be read, and of a large object that no run has seen.
///
/// # Errors
/// If the store fails.
pub(crate) fn known(import: &Import<'_>, set: &FileSet) -> Result<Option<Identified>, Error> {
    let identified = match import.has_digests(set)? {
        true => import.identify(set).map(Some),
        false => Ok(None),
    };
    match identified {
        Err(error) if error.ends_goal() => Err(error),
        identified => Ok(identified.unwrap_or_default()),
    }
}
