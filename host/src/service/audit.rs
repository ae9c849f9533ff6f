//! Who changed what, and when: a line of JSON for each change, in a file that only grows. It names what was changed, never the
//! values: they may be secrets.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::access::Who;
use crate::error::Error;

const FILE: &str = "audit.jsonl";

/// The file.
pub(super) struct Audit {
    path: PathBuf,
    file: Mutex<File>,
}

/// A line of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Entry {
    /// RFC 3339.
    pub at: String,
    /// The name of the token; `local` where there are none.
    pub who: String,
    /// The address that it came from.
    pub from: String,
    /// What was done, such as `run` or `change mapping`.
    pub action: String,
    /// To what, such as `loyalty / customers`.
    pub what: String,
}

impl Audit {
    /// Opens it in this folder.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn open(folder: &Path) -> Result<Self, Error> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|error| Error::io(folder, error))?;
        let path = folder.join(FILE);
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let file = file.map_err(|error| Error::io(&path, error))?;
        Ok(Self { path, file: Mutex::new(file) })
    }

    /// Adds a line; it is on the disk when this returns.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn record(&self, who: &Who, action: &str, what: &str) -> Result<(), Error> {
        let entry = Entry {
            at: Timestamp::now().to_string(),
            who: who.name.clone(),
            from: who.address.to_string(),
            action: action.to_owned(),
            what: what.to_owned(),
        };
        // Texts alone: this cannot fail.
        let mut line = serde_json::to_vec(&entry).unwrap_or_default();
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&line).and_then(|()| file.sync_data()).map_err(|error| Error::io(&self.path, error))
    }

    /// The last lines, the last first.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn last(&self, count: usize) -> Result<Vec<Entry>, Error> {
        let failed = |error| Error::io(&self.path, error);
        let lines = BufReader::new(File::open(&self.path).map_err(failed)?).lines();
        let mut last = std::collections::VecDeque::new();
        for line in lines {
            // A line that a dying process left half is none.
            if let Ok(entry) = serde_json::from_str::<Entry>(&line.map_err(failed)?) {
                last.push_front(entry);
                last.truncate(count);
            }
        }
        Ok(last.into())
    }
}
