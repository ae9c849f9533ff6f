//! The changes that each row of a dry run would make: a profile's values before and after.

use serde_json::{Map, Value as Json, json};
use sluicebox_matching::Applied;
use sluicebox_model::{Property, PropertyId, Record, RecordId, RejectedScope};
use sluicebox_store::Names;

use crate::error::Error;
use crate::output::print;
use crate::queries::view;

/// How changes are shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Diff {
    /// One JSON object a row.
    pub json: bool,
}

/// A row, and the records that it found as they were before it.
pub(crate) struct Row<'a> {
    pub goal: &'a str,
    pub file: &'a str,
    /// The row's place in the file, from 1.
    pub number: u64,
    pub before: &'a [(RecordId, Record)],
}

impl Diff {
    /// Shows what a row changed, after the rejected rows before it. Nothing else may have been applied.
    ///
    /// # Errors
    /// If stdout fails.
    pub(crate) fn show(self, names: &Names, row: &Row<'_>, applied: &Applied) -> Result<(), Error> {
        let counts = &applied.counts;
        for rejected in applied.rejected.iter().filter(|row| row.scope == RejectedScope::Row) {
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

/// The properties that differ, by name, each before and after.
fn changes(names: &Names, before: Option<&Record>, after: &Record) -> Map<String, Json> {
    let value = |record: Option<&Record>, property| record.and_then(|record| record.get(property));
    let of = |record: &Record| record.properties().map(|(id, _)| id).collect::<Vec<PropertyId>>();
    let mut ids = of(after);
    ids.extend(before.map(of).unwrap_or_default());
    ids.sort_unstable();
    ids.dedup();
    let json = |value: Option<Property>| value.map_or(Json::Null, |value| view::property(&value));
    let differing = ids.into_iter().filter_map(|id| {
        let (old, new) = (value(before, id), value(Some(after), id));
        let name = names.properties.get(&id).filter(|_| old != new)?;
        Some((name.clone(), serde_json::json!({ "before": json(old), "after": json(new) })))
    });
    differing.collect()
}
