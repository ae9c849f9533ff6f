//! What a run changed of each profile: its values before and after.

use serde_json::{Map, Value as Json, json};
use sluicebox_model::{Property, PropertyId, Record};
use sluicebox_store::{Names, Store};

use crate::cli::print;
use crate::error::Error;
use crate::report::Kept;
use crate::view;

/// Shows every record that a goal run created or changed. The run must have kept what it overwrote.
///
/// # Errors
/// If the store fails.
pub(crate) fn show(store: &Store, kept: &Kept, json: bool) -> Result<(), Error> {
    let names = store.names();
    for entry in store.changed_at(kept.at)? {
        let (id, before) = entry?;
        let Some((_, after)) = store.load(id)? else { continue };
        let changes = changes(&names, before.as_ref(), &after);
        let change = if before.is_none() { "created" } else { "updated" };
        if json {
            print(json!({
                "goal": kept.report.goal, "profile_id": id.to_string(), "change": change, "properties": changes,
            }))?;
            continue;
        }
        print(format!("{change} {id}"))?;
        for (name, pair) in &changes {
            match (&pair["before"], &pair["after"]) {
                (Json::Null, after) => print(format!("  + {name}: {after}"))?,
                (before, Json::Null) => print(format!("  - {name}: {before}"))?,
                (before, after) => print(format!("  {name}: {before} → {after}"))?,
            }
        }
    }
    Ok(())
}

/// The properties that differ, by name.
fn changes(names: &Names, before: Option<&Record>, after: &Record) -> Map<String, Json> {
    let held = |record: Option<&Record>, property| record.and_then(|record| record.get(property));
    let of = |record: &Record| record.properties().map(|(id, _)| id).collect::<Vec<PropertyId>>();
    let mut ids = of(after);
    ids.extend(before.map(of).unwrap_or_default());
    ids.sort_unstable();
    ids.dedup();
    let shown = |held: Option<Property>| held.map_or(Json::Null, |held| view::held_json(&held));
    let differing = ids.into_iter().filter_map(|id| {
        let (was, is) = (held(before, id), held(Some(after), id));
        let name = names.properties.get(&id).filter(|_| was != is)?;
        Some((name.clone(), json!({ "before": shown(was), "after": shown(is) })))
    });
    differing.collect()
}
