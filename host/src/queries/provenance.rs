//! Which run and file set each property of a profile: the record names them, and their history entries say more.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use jiff::Timestamp;
use serde_json::{Map, Value as Json, json};
use sluicebox_model::Record;
use sluicebox_store::{Names, Store, StoreError};

use crate::error::Error;
use crate::runs::report::HistoryEntry;

/// For each property of a profile the run and file that set it last, and when; `null` for a value that an older version
/// wrote, which did not remember that.
///
/// # Errors
/// If the store fails or is damaged.
pub(crate) fn of(store: &Store, names: &Names, record: &Record) -> Result<Json, Error> {
    let (mut explained, mut runs) = (Map::new(), HashMap::new());
    for (property, _) in record.properties() {
        let Some(name) = names.properties.get(&property) else { continue };
        let setter = record.provenance.get(property);
        if setter.is_known()
            && let Entry::Vacant(unknown) = runs.entry(setter.goal_run)
        {
            unknown.insert(run(store, setter.goal_run)?);
        }
        let set_by = runs.get(&setter.goal_run).and_then(Option::as_ref).map(|run| {
            let file = usize::try_from(setter.file).ok().and_then(|place| run.sources.get(place));
            json!({
                "run": run.report.run, "connection": run.report.connection, "goal": run.report.goal, "file": file,
                "at": Timestamp::from_millisecond(run.at).ok().map(|at| at.to_string()),
            })
        });
        explained.insert(name.clone(), set_by.unwrap_or(Json::Null));
    }
    Ok(Json::Object(explained))
}

fn run(store: &Store, goal_run: u64) -> Result<Option<HistoryEntry>, Error> {
    let Some(bytes) = store.report_of(goal_run)? else { return Ok(None) };
    Ok(Some(HistoryEntry::decode(&bytes).ok_or(StoreError::Damaged("the history"))?))
}
