//! What undoing a goal run means, whatever the backend.

use std::collections::{BTreeMap, BTreeSet};

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

/// The sets of records that pairs connect.
pub(crate) fn groups(pairs: &[(RecordId, RecordId)]) -> Vec<Vec<RecordId>> {
    let mut neighbours: BTreeMap<RecordId, Vec<RecordId>> = BTreeMap::new();
    for (one, other) in pairs {
        neighbours.entry(*one).or_default().push(*other);
        neighbours.entry(*other).or_default().push(*one);
    }
    let mut groups = Vec::new();
    while let Some((first, next)) = neighbours.pop_first() {
        let (mut group, mut open) = (vec![first], next);
        while let Some(id) = open.pop() {
            if let Some(next) = neighbours.remove(&id) {
                group.push(id);
                open.extend(next);
            }
        }
        groups.push(group);
    }
    groups
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
        let id = |number: u8| RecordId([number; 16]);
        let pairs = [(1, 2), (5, 4), (3, 2), (6, 6), (7, 3)].map(|(one, other)| (id(one), id(other)));
        let groups: Vec<BTreeSet<u8>> =
            groups(&pairs).iter().map(|group| group.iter().map(|id| id.0[0]).collect()).collect();
        assert_eq!(groups, [BTreeSet::from([1, 2, 3, 7]), BTreeSet::from([4, 5]), BTreeSet::from([6])]);
    }
}
