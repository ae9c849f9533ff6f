//! What commits overwrote, so that a goal run can be undone and each property's history is known.

use std::collections::{BTreeMap, HashSet};

use rocksdb::{Direction, IteratorMode, WriteBatch};
use sluicebox_model::{Event, EventKey, EventTypeId, Identifier, OrNever, PropertyId, Record, RecordId};

use super::read::record_id;
use super::{CHANGES, EVENTS, RECORDS, RocksStore, UNDO};
use crate::commit::Grown;
use crate::keys;
use crate::record_format::{Stored, decode, decode_event, encode, encode_event};
use crate::undo::{self, PropertyUndo};
use crate::{GoalRunLease, NotRestored, PreviousState, Reason, StoreError, UndoReport, changes};

/// Records that are restored in one commit.
const RECORDS_A_COMMIT: usize = 4096;

/// The goal run that is undone, and what undoes it.
struct Undoing<'u> {
    /// The time and the number of the goal run that is undone.
    at: i64,
    goal_run: u64,
    /// The goal run that undoes it.
    lease: &'u GoalRunLease,
    /// Properties whose values find records.
    unique: &'u [PropertyId],
    /// Records that the goal run merged, on both sides.
    merged: HashSet<RecordId>,
    /// The times of the goal runs after the one that is undone.
    later: Vec<i64>,
    /// Writes that wait for their commit, and the records that they change.
    batch: WriteBatch,
    changed: Vec<RecordId>,
    /// By how many the records of spaces grow.
    grown: Grown,
    report: UndoReport,
}

impl Undoing<'_> {
    fn not_restored(&mut self, record: RecordId, reason: Reason) {
        self.report.not_restored.push(NotRestored { record, reason });
    }
}

/// What one goal run overwrote of one record: the oldest state of each.
#[derive(Default)]
struct Overwritten {
    record: Option<Box<[u8]>>,
    events: BTreeMap<Vec<u8>, Box<[u8]>>,
}

impl RocksStore {
    /// Adds what a batch overwrites to it.
    pub(super) fn keep<'e>(
        &self,
        now: i64,
        commit: u64,
        records: impl Iterator<Item = RecordId>,
        events: impl Iterator<Item = &'e EventKey>,
        batch: &mut WriteBatch,
    ) -> Result<(), StoreError> {
        let (undo, of_records, of_events) = (self.family(UNDO)?, self.family(RECORDS)?, self.family(EVENTS)?);
        let key = |record: RecordId, event: &[u8]| keys::undo(now, record, commit, event);
        for id in records {
            let before = self.db.get_pinned_cf(of_records, id.0)?;
            batch.put_cf(undo, key(id, &[]), before.as_deref().unwrap_or_default());
        }
        for event in events {
            let stored = keys::event(event);
            let before = self.db.get_pinned_cf(of_events, &stored)?;
            let rest = stored.get(16..).or_never("the type and id of an event");
            batch.put_cf(undo, key(event.record, rest), before.as_deref().unwrap_or_default());
        }
        Ok(())
    }

    pub(crate) fn forget_overwritten(&self, time: i64) -> Result<(), StoreError> {
        let family = self.family(UNDO)?;
        let first = self.db.iterator_cf(family, IteratorMode::Start).next().transpose()?;
        if first.is_none_or(|(key, _)| *key >= time.max(0).to_be_bytes()[..]) {
            return Ok(());
        }
        // Times are after 1970: as big-endian integers they sort by time.
        self.db.delete_range_cf(family, [0; 8].as_slice(), &time.max(0).to_be_bytes())?;
        Ok(())
    }

    /// The times of the goal runs whose overwritten values are retained, oldest first.
    fn kept_times(&self) -> Result<Vec<i64>, StoreError> {
        let Some(family) = self.db.cf_handle(UNDO) else { return Ok(Vec::new()) };
        let (mut times, mut next) = (Vec::new(), 0_i64);
        let mut entries = self.db.raw_iterator_cf(family);
        loop {
            entries.seek(next.to_be_bytes());
            let Some(key) = entries.key() else { break };
            let time = keys::read_time(key).ok_or(StoreError::Damaged("an overwritten value"))?;
            times.push(time);
            next = time.saturating_add(1);
        }
        entries.status()?;
        Ok(times)
    }

    pub(crate) fn previous_states(&self, id: RecordId) -> Result<Vec<PreviousState>, StoreError> {
        let mut states = Vec::new();
        for at in self.kept_times()?.into_iter().rev() {
            if let Some(bytes) = self.overwritten_of(at, id)?.record {
                states.push(PreviousState { at, record: decoded(&bytes)? });
            }
        }
        Ok(states)
    }

    fn overwritten_of(&self, at: i64, id: RecordId) -> Result<Overwritten, StoreError> {
        let mut found = Overwritten::default();
        let Some(family) = self.db.cf_handle(UNDO) else { return Ok(found) };
        let prefix = keys::undo_prefix(at, id);
        for entry in self.db.iterator_cf(family, IteratorMode::From(&prefix, Direction::Forward)) {
            let (key, before) = entry?;
            let Some(rest) = key.strip_prefix(prefix.as_slice()) else { break };
            found.add(rest, before)?;
        }
        Ok(found)
    }

    pub(crate) fn can_undo(&self, at: i64) -> Result<bool, StoreError> {
        Ok(self.kept_times()?.contains(&at))
    }

    pub(crate) fn undo(
        &self,
        (at, goal_run): (i64, u64),
        lease: &GoalRunLease,
        unique: &[PropertyId],
    ) -> Result<UndoReport, StoreError> {
        let mut undoing = Undoing {
            at,
            goal_run,
            lease,
            unique,
            merged: self.merged_at(at)?,
            later: self.kept_times()?.into_iter().filter(|time| *time > at).collect(),
            batch: WriteBatch::default(),
            changed: Vec::new(),
            grown: Grown::new(),
            report: UndoReport::default(),
        };
        let from = at.to_be_bytes();
        let entries = self.db.iterator_cf(self.family(UNDO)?, IteratorMode::From(&from, Direction::Forward));
        let mut group: Option<(RecordId, Overwritten)> = None;
        for entry in entries {
            let (key, before) = entry?;
            let Some(rest) = key.strip_prefix(from.as_slice()) else { break };
            let (id, rest) = rest.split_at_checked(16).ok_or(StoreError::Damaged("an overwritten value"))?;
            let id = record_id(id)?;
            if group.as_ref().is_none_or(|(current, _)| *current != id) {
                if let Some((id, overwritten)) = group.take() {
                    self.restore_record(id, &overwritten, &mut undoing)?;
                }
                if undoing.changed.len() >= RECORDS_A_COMMIT {
                    self.write_undone(&mut undoing)?;
                }
                group = Some((id, Overwritten::default()));
            }
            if let Some((_, overwritten)) = &mut group {
                overwritten.add(rest, before)?;
            }
        }
        if let Some((id, overwritten)) = group {
            self.restore_record(id, &overwritten, &mut undoing)?;
        }
        self.write_undone(&mut undoing)?;
        Ok(undoing.report)
    }

    fn write_undone(&self, undoing: &mut Undoing<'_>) -> Result<(), StoreError> {
        let mut batch = std::mem::take(&mut undoing.batch);
        let mut changed = std::mem::take(&mut undoing.changed);
        let grown = std::mem::take(&mut undoing.grown);
        changed.sort_unstable();
        let lease = undoing.lease;
        if let Some(list) = changes::list(&changed, lease.number, "") {
            let key = keys::change(lease.time, self.db.latest_sequence_number());
            batch.put_cf(self.family(CHANGES)?, key, list);
        }
        self.write_data(batch, &grown, Some(lease))
    }

    /// Records that the goal run merged, on both sides.
    fn merged_at(&self, at: i64) -> Result<HashSet<RecordId>, StoreError> {
        let mut merged = HashSet::new();
        let from = at.to_be_bytes();
        for entry in self.db.iterator_cf(self.family(UNDO)?, IteratorMode::From(&from, Direction::Forward)) {
            let (key, _) = entry?;
            let Some(rest) = key.strip_prefix(from.as_slice()) else { break };
            let (id, rest) = rest.split_at_checked(16).ok_or(StoreError::Damaged("an overwritten value"))?;
            // Of records, not of events.
            if keys::read_undo_event(rest).is_none_or(|event| !event.is_empty()) {
                continue;
            }
            let id = record_id(id)?;
            if let Some(Stored::MergedInto(other)) = self.stored(id)? {
                merged.insert(id);
                merged.insert(other);
            }
        }
        Ok(merged)
    }

    fn stored(&self, id: RecordId) -> Result<Option<Stored>, StoreError> {
        let bytes = self.db.get_pinned_cf(self.family(RECORDS)?, id.0)?;
        bytes.map(|bytes| decode(&bytes)).transpose()
    }

    /// Restores one record, its identifiers and events, as far as they have not changed since.
    fn restore_record(
        &self,
        id: RecordId,
        overwritten: &Overwritten,
        undoing: &mut Undoing<'_>,
    ) -> Result<(), StoreError> {
        if undoing.merged.contains(&id) {
            undoing.not_restored(id, Reason::Merged);
            return Ok(());
        }
        let Some(Stored::Record(mut record)) = self.stored(id)? else {
            undoing.not_restored(id, Reason::Gone);
            return Ok(());
        };
        let (now, number) = (undoing.lease.time, self.db.latest_sequence_number());
        let was_created = overwritten.record.as_ref().is_some_and(|before| before.is_empty());
        if was_created {
            if record.modified == undoing.at {
                self.keep(now, number, [id].into_iter(), [].iter(), &mut undoing.batch)?;
                self.remove_whole(id, &record, undoing.unique, now, &mut undoing.batch)?;
                undoing.changed.push(id);
                undoing.grown.push((record.space, -1));
                undoing.report.removed += 1;
            } else {
                undoing.not_restored(id, Reason::Created);
            }
            return Ok(());
        }
        let events = self.restore_events(id, overwritten, &mut record, undoing)?;
        let has_properties = match &overwritten.record {
            Some(before) => self.restore_properties(id, before, &mut record, undoing)?,
            None => false,
        };
        if !events.is_empty() || has_properties {
            self.keep(now, number, [id].into_iter(), events.iter(), &mut undoing.batch)?;
            record.modified = now;
            let mut bytes = Vec::new();
            encode(&record, &mut bytes);
            undoing.batch.put_cf(self.family(RECORDS)?, id.0, bytes);
            undoing.changed.push(id);
            undoing.report.restored += 1;
            undoing.report.events += events.len() as u64;
        }
        Ok(())
    }

    /// Whether a property was restored.
    fn restore_properties(
        &self,
        id: RecordId,
        before: &[u8],
        record: &mut Record,
        undoing: &mut Undoing<'_>,
    ) -> Result<bool, StoreError> {
        let Some(before) = decoded(before)? else { return Ok(false) };
        let after = if record.modified == undoing.at {
            record.clone()
        } else {
            self.after(&undoing.later, id, record)?
        };
        let mut restored = Vec::new();
        for property in undo::properties(&before, &after, record) {
            let property = match property {
                PropertyUndo::ChangedSince(property) => {
                    undoing.not_restored(id, Reason::Property(property));
                    continue;
                }
                PropertyUndo::Restore(property) => property,
            };
            if undoing.unique.contains(&property)
                && !self.identify_again(id, record, &before, property, &mut undoing.batch)?
            {
                undoing.not_restored(id, Reason::Taken(property));
                continue;
            }
            match before.get_packed(property) {
                Some(value) => record.set_packed(property, value),
                None => record.clear(property),
            }
            restored.push((property, before.provenance.get(property)));
        }
        record.set_setters(&restored);
        Ok(!restored.is_empty())
    }

    /// Lets the values that a unique property had find the record again; `false` if another record holds one of them.
    fn identify_again(
        &self,
        id: RecordId,
        record: &Record,
        before: &Record,
        property: PropertyId,
        batch: &mut WriteBatch,
    ) -> Result<bool, StoreError> {
        let (now, then) = (record.values(property), before.values(property));
        let key = |value| Identifier::new(record.space, property, value);
        let back: Vec<Identifier> = then.iter().filter(|value| !now.contains(value)).map(key).collect();
        for identifier in &back {
            if self.find(identifier)?.is_some_and(|holder| holder != id) {
                return Ok(false);
            }
        }
        back.iter().try_for_each(|identifier| self.identify(identifier, Some(id), batch))?;
        for identifier in now.iter().filter(|value| !then.contains(value)).map(key) {
            if self.find(&identifier)? == Some(id) {
                self.identify(&identifier, None, batch)?;
            }
        }
        Ok(true)
    }

    /// The events that were restored.
    fn restore_events(
        &self,
        id: RecordId,
        overwritten: &Overwritten,
        record: &mut Record,
        undoing: &mut Undoing<'_>,
    ) -> Result<Vec<EventKey>, StoreError> {
        let family = self.family(EVENTS)?;
        let mut restored = Vec::new();
        for (rest, before) in &overwritten.events {
            let stored = [id.0.as_slice(), rest].concat();
            let event_type = rest.first_chunk().map(|number| EventTypeId(u32::from_be_bytes(*number)));
            let event_type = event_type.ok_or(StoreError::Damaged("an overwritten event"))?;
            let Some(bytes) = self.db.get_pinned_cf(family, &stored)? else { continue };
            let (event_id, now) = decode_event(&bytes)?;
            let key = EventKey { record: id, event_type, id: event_id };
            let before = event(before)?;
            if before.as_ref().is_some_and(|before| before.same_as(&now)) {
                // Only its rows were found again.
                continue;
            }
            if now.touch.goal_run != undoing.goal_run {
                undoing.not_restored(id, Reason::Event(key));
                continue;
            }
            record.events = record.events.wrapping_sub(now.fingerprint(&key));
            match before {
                None => undoing.batch.delete_cf(family, &stored),
                Some(before) => {
                    record.events = record.events.wrapping_add(before.fingerprint(&key));
                    let mut bytes = Vec::new();
                    encode_event(&key.id, &before, &mut bytes);
                    undoing.batch.put_cf(family, &stored, bytes);
                }
            }
            restored.push(key);
        }
        Ok(restored)
    }

    /// The record right after the goal run that is undone: what the next one that changed it found.
    fn after(&self, later: &[i64], id: RecordId, now: &Record) -> Result<Record, StoreError> {
        for later in later {
            if let Some(bytes) = self.overwritten_of(*later, id)?.record {
                return Ok(decoded(&bytes)?.unwrap_or_else(|| now.clone()));
            }
        }
        Ok(now.clone())
    }

    /// Removes a record with its identifiers and events.
    pub(super) fn remove_whole(
        &self,
        id: RecordId,
        record: &Record,
        unique: &[PropertyId],
        keep_at: i64,
        batch: &mut WriteBatch,
    ) -> Result<(), StoreError> {
        let events = self.events_of(id)?;
        if keep_at > 0 {
            let number = self.db.latest_sequence_number();
            self.keep(keep_at, number, [].into_iter(), events.iter().map(|(key, _)| key), batch)?;
        }
        for property in unique {
            for value in record.values(*property) {
                let identifier = Identifier::new(record.space, *property, &value);
                if self.find(&identifier)? == Some(id) {
                    self.identify(&identifier, None, batch)?;
                }
            }
        }
        for (key, _) in &events {
            batch.delete_cf(self.family(EVENTS)?, keys::event(key));
        }
        batch.delete_cf(self.family(RECORDS)?, id.0);
        Ok(())
    }

    /// Forgets everything that was overwritten of a record.
    pub(super) fn forget(&self, id: RecordId, batch: &mut WriteBatch) -> Result<(), StoreError> {
        let Some(family) = self.db.cf_handle(UNDO) else { return Ok(()) };
        for at in self.kept_times()? {
            let prefix = keys::undo_prefix(at, id);
            for entry in self.db.iterator_cf(family, IteratorMode::From(&prefix, Direction::Forward)) {
                let (key, _) = entry?;
                if !key.starts_with(&prefix) {
                    break;
                }
                batch.delete_cf(family, key);
            }
        }
        Ok(())
    }
}

impl Overwritten {
    /// Adds an entry, unless there is an older one of the same goal run. `rest` is what follows the record's id.
    fn add(&mut self, rest: &[u8], before: Box<[u8]>) -> Result<(), StoreError> {
        let event = keys::read_undo_event(rest).ok_or(StoreError::Damaged("an overwritten value"))?;
        match event {
            [] => drop(self.record.get_or_insert(before)),
            event => drop(self.events.entry(event.to_vec()).or_insert(before)),
        }
        Ok(())
    }
}

fn decoded(bytes: &[u8]) -> Result<Option<Record>, StoreError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    Ok(match decode(bytes)? {
        Stored::Record(record) => Some(record),
        Stored::MergedInto(_) => None,
    })
}

fn event(bytes: &[u8]) -> Result<Option<Event>, StoreError> {
    if bytes.is_empty() { Ok(None) } else { Ok(Some(decode_event(bytes)?.1)) }
}
