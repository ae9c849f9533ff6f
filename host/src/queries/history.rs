//! The history of goal runs.

use sluicebox_store::{Store, StoreError};

use crate::error::Error;
use crate::runs::report::HistoryEntry;
use crate::runs::undo::no_run;

/// Calls `take` with all goal runs, newest first.
///
/// # Errors
/// If the store or `take` fails.
pub(crate) fn all(
    store: &Store,
    mut take: impl FnMut(&HistoryEntry) -> Result<(), Error>,
) -> Result<(), Error> {
    for entry in store.history() {
        let (_, bytes) = entry?;
        take(&HistoryEntry::decode(&bytes).ok_or(StoreError::Damaged("the history"))?)?;
    }
    Ok(())
}

/// Calls `take` with the goal runs of one run, newest first.
///
/// # Errors
/// If there is no such run, or the store or `take` fails.
pub(crate) fn of_run(
    store: Option<&Store>,
    run: &str,
    mut take: impl FnMut(&HistoryEntry) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut is_known = false;
    if let Some(store) = store {
        all(store, |entry| {
            if entry.report.run != run {
                return Ok(());
            }
            is_known = true;
            take(entry)
        })?;
    }
    if is_known { Ok(()) } else { Err(no_run(run)) }
}
