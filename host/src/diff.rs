//! What each row of a dry run would change: a profile's values before and after.

use serde_json::{Map, Value as Json, json};
use sluicebox_matching::Applied;
use sluicebox_model::{Property, PropertyId, Record, RecordId};
use sluicebox_store::Names;

use crate::cli::print;
use crate::error::Error;
use crate::view;

/// How differences are shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Diff {
    /// One JSON object a row.
    pub json: bool,
}

/// A row and the records that it found, as they were before it.
pub(crate) struct Row<'a> {
    pub goal: &'a str,
    pub file: &'a str,
    /// The record's place in the file, from 1.
    pub number: u64,
    pub before: &'a [(RecordId, Record)],
}

impl Diff {
    /// Shows what a row did, and those before it that were rejected; nothing else may have been applied.
    ///
    /// # Errors
    /// If nothing can be printed.
    pub(crate) fn show(self, names: &Names, row: &Row<'_>, applied: &Applied) -> Result<(), Error> {
        let counts = &applied.counts;
        for rejected in &applied.rejected {
            let row = Row { number: rejected.number + 1, ..*row };
            self.print(&row, "rejected", Some(&rejected.reason), None)?;
        }
        if counts.excluded > 0 || counts.dropped > 0 {
            return self.print(row, if counts.dropped > 0 { "dropped" } else { "excluded" }, None, None);
        }
        for (id, after) in &applied.records {
            let before = row.before.iter().find(|(known, _)| known == id).map(|(_, before)| before);
            let changes = changes(names, before, after);
            let change = match before {
                None => "created",
                Some(before) if changes.is_empty() && before.events == after.events => "unchanged",
                Some(_) => "updated",
            };
            self.print(row, change, None, Some((*id, changes)))?;
        }
        applied.merged.iter().try_for_each(|(id, into)| {
            self.print(row, "merged", Some(&format!("into {into}")), Some((*id, Map::new())))
        })
    }

    fn print(
        self,
        row: &Row<'_>,
        change: &str,
        reason: Option<&str>,
        record: Option<(RecordId, Map<String, Json>)>,
    ) -> Result<(), Error> {
        let id = record.as_ref().map(|(id, _)| id.to_string());
        let changes = record.map(|(_, changes)| changes).unwrap_or_default();
        if self.json {
            return print(json!({
                "goal": row.goal, "file": row.file, "row": row.number, "change": change, "reason": reason,
                "profile_id": id, "properties": changes,
            }));
        }
        let words = [Some(change), id.as_deref(), reason].into_iter().flatten().collect::<Vec<_>>().join(" ");
        print(format!("{}, row {}: {words}", row.file, row.number))?;
        for (name, pair) in &changes {
            match (&pair["before"], &pair["after"]) {
                (Json::Null, after) => print(format!("  + {name}: {after}"))?,
                (before, Json::Null) => print(format!("  - {name}: {before}"))?,
                (before, after) => print(format!("  {name}: {before} → {after}"))?,
            }
        }
        Ok(())
    }
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
