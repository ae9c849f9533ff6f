//! What commits overwrote, so that a goal run can be undone and it can be told who set a property.

use std::collections::{BTreeMap, HashSet};

use rocksdb::{Direction, IteratorMode, WriteBatch};
use sluicebox_model::{Event, EventKey, EventTypeId, Identifier, PropertyId, Record, RecordId};

use crate::changes::Changed;
use crate::encode::{Stored, decode, decode_event, encode, encode_event};
use crate::keys::{self, CHANGES, EVENTS, RECORDS, UNDO};
use crate::open::durable;
use crate::read::record_id;
use crate::{Store, StoreError};

/// Records that are put back in one commit.
const RECORDS_A_COMMIT: usize = 4096;

/// The state of a record before a goal run changed it.
#[derive(Clone, Debug, PartialEq)]
pub struct Before {
    /// The time of the goal run.
    pub at: i64,
    /// The record then; `None` = it was not there, or was merged into another.
    pub record: Option<Record>,
}

/// What an undone goal run leaves behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Undone {
    /// Records that are as they were, at least in part.
    pub restored: u64,
    /// Records that the goal run had created, and that are gone.
    pub removed: u64,
    /// Events that are as they were.
    pub events: u64,
    /// What was left alone.
    pub left: Vec<Left>,
}

/// Something of a record that was left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// The record.
    pub record: RecordId,
    /// What of it, and why.
    pub what: LeftWhat,
}

/// Why something was left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeftWhat {
    /// The property was changed since.
    Property(PropertyId),
    /// Another record holds the value that the property had.
    Taken(PropertyId),
    /// The goal run created the record, and it was changed since.
    Created,
    /// The record was merged with another.
    Merged,
    /// The record is gone.
    Gone,
    /// An event of it was changed since.
    Event(EventKey),
}

/// What one goal run overwrote of one record, the oldest of each first.
#[derive(Default)]
struct Overwritten {
    record: Option<Box<[u8]>>,
    events: BTreeMap<Vec<u8>, Box<[u8]>>,
}

fn bound(at: i64, record: RecordId) -> Vec<u8> {
    [at.to_be_bytes().as_slice(), &record.0].concat()
}

impl Store {
    /// Adds to a batch what it overwrites.
    pub(crate) fn keep<'e>(
        &self,
        now: i64,
        commit: u64,
        records: impl Iterator<Item = RecordId>,
        events: impl Iterator<Item = &'e EventKey>,
        batch: &mut WriteBatch,
    ) -> Result<(), StoreError> {
        let (undo, of_records, of_events) = (self.family(UNDO)?, self.family(RECORDS)?, self.family(EVENTS)?);
        let key = |record: RecordId, rest: &[u8]| {
            [bound(now, record).as_slice(), &commit.to_be_bytes(), rest].concat()
        };
        for id in records {
            let before = self.db.get_pinned_cf(of_records, id.0)?;
            batch.put_cf(undo, key(id, &[]), before.as_deref().unwrap_or_default());
        }
        for event in events {
            let stored = keys::event(event);
            let before = self.db.get_pinned_cf(of_events, &stored)?;
            let rest = stored.get(16..).unwrap_or_default();
            batch.put_cf(undo, key(event.record, rest), before.as_deref().unwrap_or_default());
        }
        Ok(())
    }

    /// Forgets what goal runs before a time overwrote.
    ///
    /// # Errors
    /// If the store fails.
    pub fn forget_before(&self, time: i64) -> Result<(), StoreError> {
        let family = self.family(UNDO)?;
        let first = self.db.iterator_cf(family, IteratorMode::Start).next().transpose()?;
        if first.is_none_or(|(key, _)| *key >= time.max(0).to_be_bytes()[..]) {
            return Ok(());
        }
        // Times are after 1970: as big-endian integers they sort as they should.
        self.db.delete_range_cf(family, [0; 8].as_slice(), &time.max(0).to_be_bytes())?;
        Ok(())
    }

    /// The times of the goal runs whose overwritten values are kept, oldest first.
    fn kept_times(&self) -> Result<Vec<i64>, StoreError> {
        let Some(family) = self.db.cf_handle(UNDO) else { return Ok(Vec::new()) };
        let (mut times, mut next) = (Vec::new(), 0_i64);
        let mut entries = self.db.raw_iterator_cf(family);
        loop {
            entries.seek(next.to_be_bytes());
            let Some(key) = entries.key() else { break };
            let time =
                key.get(..8).and_then(keys::read_i64).ok_or(StoreError::Damaged("an overwritten value"))?;
            times.push(time);
            next = time.saturating_add(1);
        }
        entries.status()?;
        Ok(times)
    }

    /// What a record was before each goal run that changed it, newest first, as far as that is kept.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn before(&self, id: RecordId) -> Result<Vec<Before>, StoreError> {
        let mut states = Vec::new();
        for at in self.kept_times()?.into_iter().rev() {
            if let Some(bytes) = self.overwritten_of(at, id)?.record {
                states.push(Before { at, record: decoded(&bytes)? });
            }
        }
        Ok(states)
    }

    fn overwritten_of(&self, at: i64, id: RecordId) -> Result<Overwritten, StoreError> {
        let mut found = Overwritten::default();
        let Some(family) = self.db.cf_handle(UNDO) else { return Ok(found) };
        let prefix = bound(at, id);
        for entry in self.db.iterator_cf(family, IteratorMode::From(&prefix, Direction::Forward)) {
            let (key, before) = entry?;
            let Some(rest) = key.strip_prefix(prefix.as_slice()) else { break };
            found.add(rest, before)?;
        }
        Ok(found)
    }

    /// Whether a goal run of this time can be undone.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn can_undo(&self, at: i64) -> Result<bool, StoreError> {
        Ok(self.kept_times()?.contains(&at))
    }

    /// Puts back what the goal run of time `at` and number `goal_run` changed, and leaves alone what was changed since.
    /// It counts as a goal run of time `now` and number `own` itself. Values of `unique` properties find their records
    /// again. In one commit for some thousands of records: one that breaks off is finished by asking again.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn undo(
        &self,
        (at, goal_run): (i64, u64),
        (now, own): (i64, u64),
        unique: &[PropertyId],
    ) -> Result<Undone, StoreError> {
        let mut undone = Undone::default();
        let merged = self.merged_at(at)?;
        let family = self.family(UNDO)?;
        let from = at.to_be_bytes();
        let entries = self.db.iterator_cf(family, IteratorMode::From(&from, Direction::Forward));
        let mut group: Option<(RecordId, Overwritten)> = None;
        let mut batch = Putting {
            batch: WriteBatch::default(),
            changed: Vec::new(),
            later: self.kept_times()?.into_iter().filter(|time| *time > at).collect(),
        };
        for entry in entries {
            let (key, before) = entry?;
            let Some(rest) = key.strip_prefix(from.as_slice()) else { break };
            let (id, rest) = rest.split_at_checked(16).ok_or(StoreError::Damaged("an overwritten value"))?;
            let id = record_id(id)?;
            if group.as_ref().is_none_or(|(known, _)| *known != id) {
                if let Some((id, overwritten)) = group.take() {
                    self.put_back(
                        (at, goal_run),
                        now,
                        id,
                        &overwritten,
                        (&merged, unique),
                        &mut batch,
                        &mut undone,
                    )?;
                }
                if batch.changed.len() >= RECORDS_A_COMMIT {
                    self.write_undone(&mut batch, now, own)?;
                }
                group = Some((id, Overwritten::default()));
            }
            if let Some((_, overwritten)) = &mut group {
                overwritten.add(rest, before)?;
            }
        }
        if let Some((id, overwritten)) = group {
            self.put_back((at, goal_run), now, id, &overwritten, (&merged, unique), &mut batch, &mut undone)?;
        }
        self.write_undone(&mut batch, now, own)?;
        Ok(undone)
    }

    fn write_undone(&self, putting: &mut Putting, now: i64, own: u64) -> Result<(), StoreError> {
        let mut batch = std::mem::take(&mut putting.batch);
        putting.changed.sort_unstable();
        let changed = Changed { now, file: "", keep: false };
        if let Some((key, list)) = changed.entry(&putting.changed, own, self.db.latest_sequence_number()) {
            batch.put_cf(self.family(CHANGES)?, key, list);
        }
        putting.changed.clear();
        Ok(self.db.write_opt(batch, &durable())?)
    }

    /// Records that the goal run merged, on both sides.
    fn merged_at(&self, at: i64) -> Result<HashSet<RecordId>, StoreError> {
        let mut merged = HashSet::new();
        let from = at.to_be_bytes();
        for entry in self.db.iterator_cf(self.family(UNDO)?, IteratorMode::From(&from, Direction::Forward)) {
            let (key, _) = entry?;
            let Some(rest) = key.strip_prefix(from.as_slice()) else { break };
            // Of records, not of events.
            if rest.len() != 24 {
                continue;
            }
            let id = record_id(rest.get(..16).unwrap_or_default())?;
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

    #[expect(clippy::too_many_arguments, reason = "one record's part of `undo`, which has them at hand")]
    fn put_back(
        &self,
        (at, goal_run): (i64, u64),
        now: i64,
        id: RecordId,
        overwritten: &Overwritten,
        (merged, unique): (&HashSet<RecordId>, &[PropertyId]),
        putting: &mut Putting,
        undone: &mut Undone,
    ) -> Result<(), StoreError> {
        let left = |what| Left { record: id, what };
        if merged.contains(&id) {
            undone.left.push(left(LeftWhat::Merged));
            return Ok(());
        }
        let Some(Stored::Record(mut record)) = self.stored(id)? else {
            undone.left.push(left(LeftWhat::Gone));
            return Ok(());
        };
        let created = overwritten.record.as_ref().is_some_and(|before| before.is_empty());
        if created {
            if record.modified == at {
                self.keep(
                    now,
                    self.db.latest_sequence_number(),
                    [id].into_iter(),
                    [].iter(),
                    &mut putting.batch,
                )?;
                self.remove_whole(id, &record, unique, now, &mut putting.batch)?;
                putting.changed.push(id);
                undone.removed += 1;
            } else {
                undone.left.push(left(LeftWhat::Created));
            }
            return Ok(());
        }
        let mut keys = Vec::new();
        let events =
            self.put_back_events(goal_run, id, overwritten, &mut record, (&mut keys, undone), putting)?;
        let properties = match &overwritten.record {
            Some(before) => {
                self.put_back_properties(at, id, before, &mut record, unique, (undone, putting))?
            }
            None => false,
        };
        if events > 0 || properties {
            self.keep(
                now,
                self.db.latest_sequence_number(),
                [id].into_iter(),
                keys.iter(),
                &mut putting.batch,
            )?;
            record.modified = now;
            let mut bytes = Vec::new();
            encode(&record, &mut bytes);
            putting.batch.put_cf(self.family(RECORDS)?, id.0, bytes);
            putting.changed.push(id);
            undone.restored += 1;
            undone.events += events;
        }
        Ok(())
    }

    /// Answers whether a property is as it was.
    fn put_back_properties(
        &self,
        at: i64,
        id: RecordId,
        before: &[u8],
        record: &mut Record,
        unique: &[PropertyId],
        (undone, putting): (&mut Undone, &mut Putting),
    ) -> Result<bool, StoreError> {
        let Some(before) = decoded(before)? else { return Ok(false) };
        let after =
            if record.modified == at { record.clone() } else { self.after(&putting.later, id, record)? };
        let mut ids: Vec<PropertyId> =
            before.properties().chain(after.properties()).map(|(property, _)| property).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut changed = false;
        for property in ids {
            let (was, then) = (before.get_packed(property), after.get_packed(property));
            let is = record.get_packed(property);
            if was == then || is == was {
                continue;
            }
            if is != then {
                undone.left.push(Left { record: id, what: LeftWhat::Property(property) });
                continue;
            }
            if unique.contains(&property) && !self.identify_again(id, record, &before, property, putting)? {
                undone.left.push(Left { record: id, what: LeftWhat::Taken(property) });
                continue;
            }
            match was {
                Some(was) => record.set_packed(property, was),
                None => record.clear(property),
            }
            changed = true;
        }
        Ok(changed)
    }

    /// Lets the values that a unique property had find the record again; `false` if another holds one of them.
    fn identify_again(
        &self,
        id: RecordId,
        record: &Record,
        before: &Record,
        property: PropertyId,
        putting: &mut Putting,
    ) -> Result<bool, StoreError> {
        let (now, then) = (record.values(property), before.values(property));
        let key = |value| Identifier::new(record.space, property, value);
        let back: Vec<Identifier> = then.iter().filter(|value| !now.contains(value)).map(key).collect();
        for identifier in &back {
            if self.find(identifier)?.is_some_and(|holder| holder != id) {
                return Ok(false);
            }
        }
        back.iter().try_for_each(|identifier| self.identify(identifier, Some(id), &mut putting.batch))?;
        for identifier in now.iter().filter(|value| !then.contains(value)).map(key) {
            if self.find(&identifier)? == Some(id) {
                self.identify(&identifier, None, &mut putting.batch)?;
            }
        }
        Ok(true)
    }

    /// Answers how many events are as they were.
    fn put_back_events(
        &self,
        goal_run: u64,
        id: RecordId,
        overwritten: &Overwritten,
        record: &mut Record,
        (keys, undone): (&mut Vec<EventKey>, &mut Undone),
        putting: &mut Putting,
    ) -> Result<u64, StoreError> {
        let family = self.family(EVENTS)?;
        let mut count = 0;
        for (rest, before) in &overwritten.events {
            let stored = [id.0.as_slice(), rest].concat();
            let event_type = rest.first_chunk().map(|number| EventTypeId(u32::from_be_bytes(*number)));
            let event_type = event_type.ok_or(StoreError::Damaged("an overwritten event"))?;
            let Some(bytes) = self.db.get_pinned_cf(family, &stored)? else { continue };
            let (event_id, now) = decode_event(&bytes)?;
            let key = EventKey { record: id, event_type, id: event_id };
            if now.touch.goal_run != goal_run {
                undone.left.push(Left { record: id, what: LeftWhat::Event(key) });
                continue;
            }
            record.events = record.events.wrapping_sub(now.fingerprint(&key));
            match event(before)? {
                None => putting.batch.delete_cf(family, &stored),
                Some(before) => {
                    record.events = record.events.wrapping_add(before.fingerprint(&key));
                    let mut bytes = Vec::new();
                    encode_event(&key.id, &before, &mut bytes);
                    putting.batch.put_cf(family, &stored, bytes);
                }
            }
            keys.push(key);
            count += 1;
        }
        Ok(count)
    }

    /// What a record was right after the goal run of a time: what the next one that changed it found.
    fn after(&self, later: &[i64], id: RecordId, now: &Record) -> Result<Record, StoreError> {
        for later in later {
            if let Some(bytes) = self.overwritten_of(*later, id)?.record {
                return Ok(decoded(&bytes)?.unwrap_or_else(|| now.clone()));
            }
        }
        Ok(now.clone())
    }

    /// Removes a record with its identifiers and events.
    pub(crate) fn remove_whole(
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
    pub(crate) fn forget(&self, id: RecordId, batch: &mut WriteBatch) -> Result<(), StoreError> {
        let Some(family) = self.db.cf_handle(UNDO) else { return Ok(()) };
        for at in self.kept_times()? {
            let prefix = bound(at, id);
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

/// Writes that wait for their commit.
struct Putting {
    batch: WriteBatch,
    changed: Vec<RecordId>,
    /// The times of the goal runs after the one that is undone.
    later: Vec<i64>,
}

impl Overwritten {
    /// Takes an entry, unless an older one of the same goal run is there. `rest` is what follows the record's id.
    fn add(&mut self, rest: &[u8], before: Box<[u8]>) -> Result<(), StoreError> {
        let (_, event) = rest.split_at_checked(8).ok_or(StoreError::Damaged("an overwritten value"))?;
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
