//! The audit log: who changed what, and when. A line of JSON for each change, in a file that only grows. It names what was changed,
//! never the values: they may be secrets.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sluicebox_model::OrNever;
use utoipa::ToSchema;

use super::access::Caller;
use crate::error::Error;

const FILE: &str = "audit.jsonl";

/// The audit log.
pub(super) struct Audit {
    path: PathBuf,
    file: Mutex<File>,
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Entry {
    /// RFC 3339.
    pub at: String,
    /// The name of the token; `local` where there are none.
    pub who: String,
    /// The address of the client.
    pub from: String,
    /// Such as `run` or `change mapping`.
    pub action: String,
    /// What was changed, such as `loyalty / customers`.
    pub what: String,
}

impl Audit {
    /// Opens the log in a folder, and creates it if there is none.
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

    /// Adds a change; it is on the disk when this returns.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn record(&self, caller: &Caller, action: &str, what: &str) -> Result<(), Error> {
        let entry = Entry {
            at: Timestamp::now().to_string(),
            who: caller.name.clone(),
            from: caller.address.to_string(),
            action: action.to_owned(),
            what: what.to_owned(),
        };
        let mut line = serde_json::to_vec(&entry).or_never("the JSON of an audit entry");
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&line).and_then(|()| file.sync_data()).map_err(|error| Error::io(&self.path, error))
    }

    /// The last changes, the latest first.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn last(&self, count: usize) -> Result<Vec<Entry>, Error> {
        let failed = |error| Error::io(&self.path, error);
        let lines = BufReader::new(File::open(&self.path).map_err(failed)?).lines();
        let mut last = std::collections::VecDeque::new();
        for line in lines {
            // A process that died may have left half a line.
            if let Ok(entry) = serde_json::from_str::<Entry>(&line.map_err(failed)?) {
                last.push_front(entry);
                last.truncate(count);
            }
        }
        Ok(last.into())
    }
}
