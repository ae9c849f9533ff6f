//! `sluicebox history`.

use std::path::Path;

use serde_json::Value as Json;
use sluicebox_model::OrNever;
use sluicebox_store::Store;

use crate::commands::run::MAX_FAULTS;
use crate::config::Config;
use crate::error::Error;
use crate::output::{counted, print, print_lines};
use crate::queries::history;
use crate::runs::report::HistoryEntry;

/// Shows past goal runs, newest first, or those of one run with their last profiles.
///
/// # Errors
/// If the store fails or has no such run.
pub(crate) fn run(folder: &Path, run: Option<&str>, json: bool) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    let store = Store::open_read_only(&config.settings.store)?;
    match (run, &store) {
        (Some(run), store) => history::of_run(store.as_ref(), run, |entry| show(entry, json, true))?,
        (None, Some(store)) => history::all(store, |entry| show(entry, json, false))?,
        (None, None) => {}
    }
    Ok(0)
}

fn show(entry: &HistoryEntry, json: bool, with_profiles: bool) -> Result<(), Error> {
    if json {
        let mut shown = serde_json::to_value(entry).or_never("the JSON of a history entry");
        if let Json::Object(object) = &mut shown {
            object.shift_remove("rejected_files");
            object.shift_remove("unmerged_files");
            object.shift_remove("at");
            object.shift_remove("changed_at");
            object.shift_remove("sources");
            if !with_profiles {
                object.shift_remove("last_profiles");
            }
        }
        return print(shown);
    }
    print_lines(format!("{}  {}  {}", entry.report.run, entry.started, entry.report.line()))?;
    if let Some(error) = &entry.report.error {
        print(format!("  {error}"))?;
    }
    if let Some(words) = &entry.plugin_words {
        print(format!("  the plugin says: {words}"))?;
    }
    for line in entry.report.fault_lines(if with_profiles { usize::MAX } else { MAX_FAULTS }) {
        print(format!("  {line}"))?;
    }
    if with_profiles {
        for file in &entry.report.files {
            print(format!("  {}: {}", file.name, counted(file.rows, "row")))?;
        }
        for last in &entry.last_profiles {
            print(format!("  {} {}", last.change, last.profile_id))?;
        }
    }
    Ok(())
}
