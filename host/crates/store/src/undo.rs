//! What undoing a goal run means, whatever the backend.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sluicebox_model::{EventKey, PropertyId, Record, RecordId};

/// The state of a record before a goal run changed it.
#[derive(Clone, Debug, PartialEq)]
pub struct PreviousState {
    /// The time of the goal run.
    pub at: i64,
    /// The record before it; `None` = it did not exist, or was merged into another.
    pub record: Option<Record>,
}

/// What undoing a goal run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UndoReport {
    /// Records that were restored, at least in part.
    pub restored: u64,
    /// Records that the goal run had created, and that were removed.
    pub removed: u64,
    /// Events that were restored.
    pub events: u64,
    /// What was not restored.
    pub not_restored: Vec<NotRestored>,
}

impl UndoReport {
    /// Adds what undoing the changes of another time did.
    pub fn add(&mut self, other: Self) {
        self.restored += other.restored;
        self.removed += other.removed;
        self.events += other.events;
        self.not_restored.extend(other.not_restored);
    }
}

/// Something of a record that was not restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotRestored {
    /// The record.
    pub record: RecordId,
    /// What of it, and why.
    pub reason: Reason,
}

/// Why something was not restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The property has changed since.
    Property(PropertyId),
    /// Another record holds the value that the property had.
    Taken(PropertyId),
    /// The goal run created the record, and it has changed since.
    Created,
    /// Another goal run merged the record since.
    Merged,
    /// The goal run merged the record with one that is left alone.
    MergedWith,
    /// The record is gone.
    Gone,
    /// An event of it has changed since.
    Event(EventKey),
}

/// What undo does with a property that a goal run changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PropertyUndo {
    /// It gets its value from before the goal run.
    Restore(PropertyId),
    /// It has changed since, and keeps its value.
    ChangedSince(PropertyId),
}

/// What undo does with each property of a record, by the record's state before the goal run, after it, and now. Those that
/// the goal run did not change, or that have their value from before again, are left out.
pub(crate) fn properties(before: &Record, after: &Record, now: &Record) -> Vec<PropertyUndo> {
    let held = before.properties().chain(after.properties()).map(|(property, _)| property);
    let held: BTreeSet<PropertyId> = held.collect();
    let undo = |property| {
        let [before, after, now] = [before, after, now].map(|record| record.get_packed(property));
        if before == after || now == before {
            None
        } else if now == after {
            Some(PropertyUndo::Restore(property))
        } else {
            Some(PropertyUndo::ChangedSince(property))
        }
    };
    held.into_iter().filter_map(undo).collect()
}

/// Records that are restored together because identifiers went from one to another; more would take too much memory.
const MAX_CONNECTED: usize = 10_000;

/// The sets of records that pairs connect; one that would have more than `max` records is in parts.
fn groups(pairs: &[(RecordId, RecordId)], max: usize) -> Vec<Vec<RecordId>> {
    let mut neighbours: BTreeMap<RecordId, Vec<RecordId>> = BTreeMap::new();
    for (one, other) in pairs {
        neighbours.entry(*one).or_default().push(*other);
        neighbours.entry(*other).or_default().push(*one);
    }
    let mut groups = Vec::new();
    while let Some((first, next)) = neighbours.pop_first() {
        let (mut group, mut open) = (vec![first], next);
        while group.len() < max
            && let Some(id) = open.pop()
        {
            if let Some(next) = neighbours.remove(&id) {
                group.push(id);
                open.extend(next);
            }
        }
        groups.push(group);
    }
    groups
}

/// Groups of merged records by pairs of them, and lists of groups that are connected because records of them had the same identifier.
/// Records that are in no pair are left out.
pub(crate) fn connected(
    merged: &[(RecordId, RecordId)],
    identified: &[(RecordId, RecordId)],
) -> Vec<Vec<Vec<RecordId>>> {
    let merged = groups(merged, usize::MAX);
    // A group is represented by its first record.
    let mut first_of = HashMap::new();
    let mut by_first = HashMap::new();
    for group in merged {
        let Some(first) = group.first().copied() else { continue };
        first_of.extend(group.iter().map(|id| (*id, first)));
        by_first.insert(first, group);
    }
    let first = |id: &RecordId| first_of.get(id).copied().unwrap_or(*id);
    let pairs: Vec<_> = identified.iter().map(|(one, other)| (first(one), first(other))).collect();
    let mut whole = |id: RecordId| by_first.remove(&id).unwrap_or_else(|| vec![id]);
    let lists = groups(&pairs, MAX_CONNECTED).into_iter();
    let mut lists: Vec<Vec<_>> = lists.map(|list| list.into_iter().map(&mut whole).collect()).collect();
    lists.extend(by_first.into_values().map(|group| vec![group]));
    lists
}

#[cfg(test)]
mod tests {
    use sluicebox_model::{Property, SpaceId, Value};

    use super::*;

    fn record(values: &[(u32, &str)]) -> Record {
        let mut record = Record::new(SpaceId(0), 0);
        for (property, value) in values {
            record.set(PropertyId(*property), &Property::One(Value::Text((*value).into())));
        }
        record
    }

    #[test]
    fn a_property_is_restored_unless_it_has_changed_since() {
        let before = record(&[(1, "same"), (2, "old"), (3, "old"), (4, "old"), (6, "gone")]);
        let after = record(&[(1, "same"), (2, "new"), (3, "new"), (4, "new"), (5, "added")]);
        let now = record(&[(1, "later"), (2, "new"), (3, "later"), (4, "old"), (5, "added"), (7, "later")]);
        let expected = [
            PropertyUndo::Restore(PropertyId(2)),
            PropertyUndo::ChangedSince(PropertyId(3)),
            PropertyUndo::Restore(PropertyId(5)),
            PropertyUndo::Restore(PropertyId(6)),
        ];
        assert_eq!(properties(&before, &after, &now), expected);
    }

    #[test]
    fn records_that_pairs_connect_are_together() {
        let pairs = |numbers: &[(u8, u8)]| -> Vec<_> {
            numbers.iter().map(|(one, other)| (RecordId([*one; 16]), RecordId([*other; 16]))).collect()
        };
        let numbers = |group: &Vec<RecordId>| {
            let mut numbers: Vec<u8> = group.iter().map(|id| id.0[0]).collect();
            numbers.sort_unstable();
            numbers
        };
        let found = groups(&pairs(&[(1, 2), (5, 4), (3, 2), (6, 6), (7, 3)]), usize::MAX);
        assert_eq!(found.iter().map(numbers).collect::<Vec<_>>(), [vec![1, 2, 3, 7], vec![4, 5], vec![6]]);
        let found = groups(&pairs(&[(1, 2), (2, 3), (3, 4)]), 2);
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
        let found = connected(&pairs(&[(1, 2), (4, 5), (8, 9)]), &pairs(&[(2, 3), (5, 3), (6, 7)]));
        let mut found: Vec<Vec<Vec<u8>>> =
            found.iter().map(|list| list.iter().map(numbers).collect()).collect();
        found.iter_mut().for_each(|list| list.sort());
        found.sort();
        assert_eq!(found, [vec![vec![1, 2], vec![3], vec![4, 5]], vec![vec![6], vec![7]], vec![vec![8, 9]]]);
    }
}
