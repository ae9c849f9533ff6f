//! Which run and file set each property of a profile: from the values that runs overwrote, and the lists of their changes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use jiff::Timestamp;
use serde_json::{Map, Value as Json, json};
use sluicebox_model::{PropertyId, Record, RecordId};
use sluicebox_store::Store;

use crate::error::Error;
use crate::runs::report::HistoryEntry;

/// For each property of a profile the run and file that set it last, and when; `null` where that was before the retained
/// history.
///
/// # Errors
/// If the store fails.
pub(crate) fn of(store: &Store, id: RecordId, record: &Record) -> Result<Json, Error> {
    let names = store.names();
    let runs = runs(store)?;
    let before = store.previous_states(id)?;
    let (mut explained, mut by_time) = (Map::new(), HashMap::new());
    for (property, _) in record.properties() {
        let Some(name) = names.properties.get(&property) else { continue };
        let at = set_at(record, &before, property);
        if let Some(at) = at
            && let Entry::Vacant(unknown) = by_time.entry(at)
        {
            unknown.insert(store.changed_by(id, at)?);
        }
        let set_by = at.and_then(|at| {
            let (number, file) = by_time.get(&at)?.as_ref()?;
            let run = runs.get(number)?;
            let file = if file.is_empty() { Json::Null } else { file.as_str().into() };
            let at = Timestamp::from_millisecond(at).ok()?;
            Some(json!({
                "run": run.report.run, "connection": run.report.connection, "goal": run.report.goal, "file": file,
                "at": at.to_string(),
            }))
        });
        explained.insert(name.clone(), set_by.unwrap_or(Json::Null));
    }
    Ok(Json::Object(explained))
}

/// The time of the run that gave a property its value; `None` if that was before the retained history.
fn set_at(record: &Record, before: &[sluicebox_store::PreviousState], property: PropertyId) -> Option<i64> {
    let current = record.get_packed(property);
    let changed = before.iter().find(|before| match &before.record {
        Some(record) => record.get_packed(property) != current,
        None => true,
    });
    match changed {
        Some(before) => Some(before.at),
        // Nothing was overwritten since the record was created, or nothing of that is retained.
        None if record.modified == record.created => Some(record.created),
        None => before.last().is_some_and(|first| first.at > record.created).then_some(record.created),
    }
}

/// The history, by the numbers of goal runs.
fn runs(store: &Store) -> Result<HashMap<u64, HistoryEntry>, Error> {
    let mut runs = HashMap::new();
    for entry in store.history() {
        let (number, bytes) = entry?;
        if let Some(entry) = HistoryEntry::decode(&bytes) {
            runs.insert(number, entry);
        }
    }
    Ok(runs)
}
