//! `sluicebox history`.

use std::path::Path;

use serde_json::Value as Json;
use sluicebox_store::{Store, StoreError};

use crate::cli::print;
use crate::config::Config;
use crate::error::Error;
use crate::report::Kept;

/// Shows past goal runs, newest first, or those of one run with their last profiles.
///
/// # Errors
/// If the store fails or has no such run.
pub(crate) fn run(folder: &Path, run: Option<&str>, json: bool) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    let mut known = Vec::new();
    let store = Store::open_read_only(&config.settings.store)?;
    for entry in store.iter().flat_map(Store::history) {
        let (_, bytes) = entry?;
        let kept = Kept::decode(&bytes).ok_or(StoreError::Damaged("the history"))?;
        match run {
            Some(run) if run != kept.report.run => known.push(kept.report.run),
            Some(_) => {
                known.clear();
                show(&kept, json, true)?;
                known.push(kept.report.run);
            }
            None => show(&kept, json, false)?,
        }
    }
    match run {
        Some(run) if !known.iter().any(|found| found == run) => {
            Err(Error::NotFound(format!("there is no run `{run}`")))
        }
        _ => Ok(0),
    }
}

fn show(kept: &Kept, json: bool, with_profiles: bool) -> Result<(), Error> {
    if json {
        let mut shown = serde_json::to_value(kept).unwrap_or_default();
        if let Json::Object(object) = &mut shown {
            object.shift_remove("rejected_files");
            object.shift_remove("at");
            if !with_profiles {
                object.shift_remove("last_profiles");
            }
        }
        return print(shown);
    }
    print(format!("{}  {}  {}", kept.report.run, kept.started, kept.report.line()))?;
    if let Some(error) = &kept.report.error {
        print(format!("  {error}"))?;
    }
    if with_profiles {
        for file in &kept.report.files {
            print(format!("  {}: {} rows", file.name, file.rows))?;
        }
        for last in &kept.last_profiles {
            print(format!("  {} {}", last.change, last.profile_id))?;
        }
    }
    Ok(())
}
