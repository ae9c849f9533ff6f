//! What commits overwrote, so that a goal run can be undone and each property's history is known.

use std::collections::{BTreeMap, HashMap, HashSet};

use rocksdb::{Direction, IteratorMode, WriteBatch};
use sluicebox_model::{Event, EventKey, EventTypeId, Identifier, OrNever, PropertyId, Record, RecordId};

use super::read::record_id;
use super::{CHANGES, EVENTS, RECORDS, RocksStore, UNDO};
use crate::commit::Grown;
use crate::keys;
use crate::record_format::{MergedInto, Stored, decode, decode_event, encode, encode_event};
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

/// A record that the goal run changed.
struct Member {
    id: RecordId,
    /// The number of the group of records that were merged, and whether it has others.
    group: usize,
    together: bool,
    overwritten: Overwritten,
    /// What is stored of it now.
    now: Option<Stored>,
    becomes: Becomes,
}

/// What undo makes of a record.
enum Becomes {
    /// A record that is there now, with values from before the goal run.
    Restored(Record),
    /// A record that is not there now, because it was merged into another or removed.
    Back(Record),
    /// It is merged into another record again.
    MergedInto(RecordId),
    /// It is removed.
    Removed,
}

impl Becomes {
    fn record(&self) -> Option<&Record> {
        match self {
            Self::Restored(record) | Self::Back(record) => Some(record),
            Self::MergedInto(_) | Self::Removed => None,
        }
    }

    fn record_mut(&mut self) -> Option<&mut Record> {
        match self {
            Self::Restored(record) | Self::Back(record) => Some(record),
            Self::MergedInto(_) | Self::Removed => None,
        }
    }
}

impl Member {
    /// The record that is stored now.
    fn present(&self) -> Option<&Record> {
        match &self.now {
            Some(Stored::Record(record)) => Some(record),
            _ => None,
        }
    }

    /// Whether what it becomes differs from what it is now, events included.
    fn changes(&self) -> bool {
        match &self.becomes {
            Becomes::Restored(record) => self.present() != Some(record),
            Becomes::Back(_) | Becomes::MergedInto(_) | Becomes::Removed => true,
        }
    }
}

/// An event that the goal run wrote or removed.
struct EventUndo {
    /// The place of its record among the members.
    member: usize,
    key: EventKey,
    /// Its key in the store.
    stored: Vec<u8>,
    before: Option<Event>,
    now: Option<Event>,
    /// Whether it has changed since the goal run.
    has_changed: bool,
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
            later: self.kept_times()?.into_iter().filter(|time| *time > at).collect(),
            batch: WriteBatch::default(),
            changed: Vec::new(),
            grown: Grown::new(),
            report: UndoReport::default(),
        };
        let connected = self.connected(&undoing)?;
        let together: HashSet<RecordId> = connected.iter().flatten().flatten().copied().collect();
        let from = at.to_be_bytes();
        let entries = self.db.iterator_cf(self.family(UNDO)?, IteratorMode::From(&from, Direction::Forward));
        let mut next: Option<(RecordId, Overwritten)> = None;
        for entry in entries {
            let (key, before) = entry?;
            let Some(rest) = key.strip_prefix(from.as_slice()) else { break };
            let (id, rest) = rest.split_at_checked(16).ok_or(StoreError::Damaged("an overwritten value"))?;
            let id = record_id(id)?;
            if together.contains(&id) {
                continue;
            }
            if next.as_ref().is_none_or(|(current, _)| *current != id) {
                if let Some(record) = next.take() {
                    self.restore_records(vec![vec![record]], &mut undoing)?;
                }
                next = Some((id, Overwritten::default()));
            }
            if let Some((_, overwritten)) = &mut next {
                overwritten.add(rest, before)?;
            }
        }
        if let Some(record) = next {
            self.restore_records(vec![vec![record]], &mut undoing)?;
        }
        for groups in connected {
            let overwritten = |id: RecordId| Ok((id, self.overwritten_of(at, id)?));
            let records = |ids: Vec<RecordId>| ids.into_iter().map(overwritten).collect();
            let groups = groups.into_iter().map(records).collect::<Result<_, StoreError>>()?;
            self.restore_records(groups, &mut undoing)?;
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

    /// Records that are restored together: in each list, groups of which one got an identifier that another had; in each group,
    /// records of which the goal run made one, or that it made of one.
    fn connected(&self, undoing: &Undoing<'_>) -> Result<Vec<Vec<Vec<RecordId>>>, StoreError> {
        let (mut merged, mut identified) = (Vec::new(), Vec::new());
        let from = undoing.at.to_be_bytes();
        for entry in self.db.iterator_cf(self.family(UNDO)?, IteratorMode::From(&from, Direction::Forward)) {
            let (key, before) = entry?;
            let Some(rest) = key.strip_prefix(from.as_slice()) else { break };
            let (id, rest) = rest.split_at_checked(16).ok_or(StoreError::Damaged("an overwritten value"))?;
            // Of records, not of events.
            if keys::read_undo_event(rest).is_none_or(|event| !event.is_empty()) {
                continue;
            }
            let id = record_id(id)?;
            let now = self.db.get_pinned_cf(self.family(RECORDS)?, id.0)?;
            let leads = now.as_deref().and_then(MergedInto::read);
            let leads = leads.filter(|to| [0, undoing.goal_run].contains(&to.goal_run));
            merged.extend(leads.into_iter().chain(MergedInto::read(&before)).map(|to| (id, to.record)));
            let Some(before) = decoded(&before)? else { continue };
            let now = now.map(|now| decoded(&now)).transpose()?.flatten();
            for identifier in given_up(&before, now.as_ref(), undoing.unique) {
                let holder = self.find(&identifier)?.filter(|holder| *holder != id);
                if let Some(holder) = holder
                    && self.overwritten_of(undoing.at, holder)?.record.is_some()
                {
                    identified.push((id, holder));
                }
            }
        }
        Ok(undo::connected(&merged, &identified))
    }

    fn stored(&self, id: RecordId) -> Result<Option<Stored>, StoreError> {
        let bytes = self.db.get_pinned_cf(self.family(RECORDS)?, id.0)?;
        bytes.map(|bytes| decode(&bytes)).transpose()
    }

    /// Restores connected records, with their identifiers and events, as far as they have not changed since.
    fn restore_records(
        &self,
        groups: Vec<Vec<(RecordId, Overwritten)>>,
        undoing: &mut Undoing<'_>,
    ) -> Result<(), StoreError> {
        let mut members = Vec::new();
        for (group, records) in groups.into_iter().enumerate() {
            let together = records.len() > 1;
            let ids: Vec<RecordId> = records.iter().map(|(id, _)| *id).collect();
            let (mut whole, mut left) = (Vec::with_capacity(records.len()), Vec::new());
            for (id, overwritten) in records {
                let now = self.stored(id)?;
                match self.becomes(id, &overwritten, &now, undoing)? {
                    Ok(becomes) => whole.push(Member { id, group, together, overwritten, now, becomes }),
                    Err(reason) => left.push((id, reason)),
                }
            }
            if left.is_empty() {
                members.append(&mut whole);
                continue;
            }
            // Values of one may be with another: all are left alone.
            for id in ids {
                let reason = left.iter().find(|(of, _)| *of == id).map(|(_, reason)| reason.clone());
                undoing.not_restored(id, reason.unwrap_or(Reason::MergedWith));
            }
        }
        // Records that are there keep what they hold; those that come back get what is left.
        members.sort_by_key(|member| !matches!(member.becomes, Becomes::Restored(_)));
        for member in &mut members {
            self.restore_properties(member, undoing)?;
        }
        let identifiers = self.restore_identifiers(&mut members, undoing)?;
        let mut events = self.restore_events(&mut members, undoing)?;
        let (now, number) = (undoing.lease.time, self.db.latest_sequence_number());
        let (family, mut bytes) = (self.family(RECORDS)?, Vec::new());
        for member in members.iter_mut().filter(|member| member.changes()) {
            self.keep(now, number, [member.id].into_iter(), [].iter(), &mut undoing.batch)?;
            undoing.grown.extend(member.present().map(|record| (record.space, -1)));
            undoing.grown.extend(member.becomes.record().map(|record| (record.space, 1)));
            match &mut member.becomes {
                Becomes::Restored(record) | Becomes::Back(record) => {
                    record.modified = now;
                    bytes.clear();
                    encode(record, &mut bytes);
                    undoing.batch.put_cf(family, member.id.0, &bytes);
                }
                Becomes::MergedInto(to) => {
                    let merged = MergedInto { record: *to, goal_run: undoing.lease.number };
                    undoing.batch.put_cf(family, member.id.0, merged.encode());
                }
                Becomes::Removed => undoing.batch.delete_cf(family, member.id.0),
            }
            match member.becomes {
                Becomes::Removed => undoing.report.removed += 1,
                _ => undoing.report.restored += 1,
            }
            undoing.changed.push(member.id);
        }
        events.sort_unstable();
        self.keep(now, number, [].into_iter(), events.iter(), &mut undoing.batch)?;
        for (identifier, id) in identifiers {
            self.identify(&identifier, id, &mut undoing.batch)?;
        }
        if undoing.changed.len() >= RECORDS_A_COMMIT {
            self.write_undone(undoing)?;
        }
        Ok(())
    }

    /// What a record becomes, but for its properties, or why it is left alone.
    fn becomes(
        &self,
        id: RecordId,
        overwritten: &Overwritten,
        now: &Option<Stored>,
        undoing: &Undoing<'_>,
    ) -> Result<Result<Becomes, Reason>, StoreError> {
        let merged_by_it = |merged: &MergedInto| -> Result<bool, StoreError> {
            match merged.goal_run {
                // An older version merged it. A goal run that did so later retained what it overwrote.
                0 => Ok(self.state_after(&undoing.later, id)?.is_none()),
                goal_run => Ok(goal_run == undoing.goal_run),
            }
        };
        // Its events are added as they come back.
        let back = |mut record: Record| {
            record.events = 0;
            Becomes::Back(record)
        };
        let before = match &overwritten.record {
            None => match now {
                Some(Stored::Record(record)) => return Ok(Ok(Becomes::Restored(record.clone()))),
                _ => return Ok(Err(Reason::Merged)),
            },
            Some(before) if before.is_empty() => None,
            Some(before) => Some(decode(before)?),
        };
        let is_unchanged = match (&before, now) {
            (None | Some(Stored::MergedInto(_)), Some(Stored::Record(record))) => {
                self.is_unchanged(id, record, undoing)?
            }
            _ => false,
        };
        Ok(match (before, now) {
            (Some(Stored::Record(_)), Some(Stored::Record(record))) => Ok(Becomes::Restored(record.clone())),
            (Some(Stored::Record(before)), None) => Ok(back(before)),
            (before, Some(Stored::MergedInto(merged))) => match before {
                _ if !merged_by_it(merged)? => Err(Reason::Merged),
                Some(Stored::Record(before)) => Ok(back(before)),
                None => Ok(Becomes::Removed),
                Some(Stored::MergedInto(_)) => Err(Reason::Merged),
            },
            (None, Some(Stored::Record(_))) if is_unchanged => Ok(Becomes::Removed),
            (None, Some(Stored::Record(_))) => Err(Reason::Created),
            (Some(Stored::MergedInto(to)), Some(Stored::Record(_))) if is_unchanged => {
                Ok(Becomes::MergedInto(to.record))
            }
            (Some(Stored::MergedInto(_)), Some(Stored::Record(_))) => Err(Reason::Merged),
            (Some(Stored::MergedInto(to)), None) => Ok(Becomes::MergedInto(to.record)),
            (None, None) => Err(Reason::Gone),
        })
    }

    /// Whether a record is as the goal run left it: nothing changed it since, or what did was undone.
    fn is_unchanged(&self, id: RecordId, record: &Record, undoing: &Undoing<'_>) -> Result<bool, StoreError> {
        if record.modified == undoing.at {
            return Ok(true);
        }
        let after = self.state_after(&undoing.later, id)?.map(|bytes| decoded(&bytes)).transpose()?.flatten();
        Ok(after.is_some_and(|after| after.packed() == record.packed() && after.events == record.events))
    }

    /// Restores the properties of a record that is there.
    fn restore_properties(&self, member: &mut Member, undoing: &mut Undoing<'_>) -> Result<(), StoreError> {
        let together = member.together;
        let Becomes::Restored(record) = &mut member.becomes else { return Ok(()) };
        let Some(before) = member.overwritten.record.as_deref().map(decoded).transpose()?.flatten() else {
            return Ok(());
        };
        let after = if record.modified == undoing.at {
            record.clone()
        } else {
            self.after(&undoing.later, member.id, record)?
        };
        let mut setters = Vec::new();
        for property in undo::properties(&before, &after, record) {
            match property {
                PropertyUndo::ChangedSince(property) => {
                    undoing.not_restored(member.id, Reason::Property(property));
                }
                PropertyUndo::Restore(property) => {
                    match before.get_packed(property) {
                        Some(value) => record.set_packed(property, value),
                        None => record.clear(property),
                    }
                    setters.push((property, before.provenance.get(property)));
                }
            }
        }
        record.set_setters(&setters);
        // A value that is as before the goal run may still say that the goal run set it: changed and changed back, or undone.
        let same = record.properties().map(|(property, _)| property).filter(|property| {
            record.get_packed(*property) == before.get_packed(*property)
                && record.provenance.get(*property) == after.provenance.get(*property)
        });
        let same: Vec<_> = same.map(|property| (property, before.provenance.get(property))).collect();
        record.set_setters(&same);
        if together {
            // The record that others are merged into is as old as the oldest of them.
            record.created = before.created;
        }
        Ok(())
    }

    /// Lets the values that unique properties had find their records again, and answers with the identifiers to write, those
    /// that find no record any more first. A record does not get a value back that another one holds.
    fn restore_identifiers(
        &self,
        members: &mut [Member],
        undoing: &mut Undoing<'_>,
    ) -> Result<Vec<(Identifier, Option<RecordId>)>, StoreError> {
        let places: HashMap<RecordId, usize> =
            (0..).zip(&*members).map(|(place, member)| (member.id, place)).collect();
        let mut claimed: HashMap<Vec<u8>, (Identifier, RecordId)> = HashMap::new();
        // A member that does not get its value back keeps the present one, which another may have claimed.
        while let Some((place, property)) = self.claim(members, &places, undoing.unique, &mut claimed)? {
            if let Some(member) = members.get_mut(place) {
                undoing.not_restored(member.id, Reason::Taken(property));
                member.keep_present(property);
            }
            claimed.clear();
        }
        let mut identifiers = Vec::new();
        for member in members.iter().filter(|member| member.changes()) {
            let Some(record) = member.present() else { continue };
            for property in undoing.unique {
                let stays =
                    member.becomes.record().map(|record| record.values(*property)).unwrap_or_default();
                for value in record.values(*property).iter().filter(|value| !stays.contains(value)) {
                    let identifier = Identifier::new(record.space, *property, value);
                    if !claimed.contains_key(&identifier.0[..]) && self.find(&identifier)? == Some(member.id)
                    {
                        identifiers.push((identifier, None));
                    }
                }
            }
        }
        identifiers.extend(claimed.into_values().map(|(identifier, id)| (identifier, Some(id))));
        Ok(identifiers)
    }

    /// Collects the identifiers that members get back; or answers with the first member and property whose values another record
    /// holds, one of them at least.
    fn claim(
        &self,
        members: &[Member],
        places: &HashMap<RecordId, usize>,
        unique: &[PropertyId],
        claimed: &mut HashMap<Vec<u8>, (Identifier, RecordId)>,
    ) -> Result<Option<(usize, PropertyId)>, StoreError> {
        for (place, member) in members.iter().enumerate().filter(|(_, member)| member.changes()) {
            let Some(record) = member.becomes.record() else { continue };
            for property in unique {
                let held = member.present().map(|record| record.values(*property)).unwrap_or_default();
                for value in record.values(*property).iter().filter(|value| !held.contains(value)) {
                    let identifier = Identifier::new(record.space, *property, value);
                    let taken = match self.find(&identifier)? {
                        Some(holder) if holder != member.id => {
                            let holder = places.get(&holder).and_then(|place| members.get(*place));
                            // A record that is not restored keeps it.
                            holder.is_none_or(|holder| {
                                let record = holder.becomes.record();
                                record.is_some_and(|record| record.values(*property).contains(value))
                            })
                        }
                        _ => false,
                    };
                    let key = identifier.0.to_vec();
                    if taken || claimed.insert(key, (identifier, member.id)).is_some() {
                        return Ok(Some((place, *property)));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Restores events, and answers with the keys of those that are written or removed.
    fn restore_events(
        &self,
        members: &mut [Member],
        undoing: &mut Undoing<'_>,
    ) -> Result<Vec<EventKey>, StoreError> {
        let family = self.family(EVENTS)?;
        // An event of one record may have moved to the one that it was merged into: those of a type and id belong together.
        let mut all: BTreeMap<(usize, Vec<u8>), Vec<EventUndo>> = BTreeMap::new();
        for (place, member) in members.iter().enumerate() {
            if member.overwritten.events.is_empty() {
                continue;
            }
            let changed_since = self.events_changed_since(member, undoing)?;
            for (rest, before) in &member.overwritten.events {
                let stored = [member.id.0.as_slice(), rest].concat();
                let event_type = rest.first_chunk().map(|number| EventTypeId(u32::from_be_bytes(*number)));
                let event_type = event_type.ok_or(StoreError::Damaged("an overwritten event"))?;
                let now = self.db.get_pinned_cf(family, &stored)?;
                let now = now.map(|bytes| decode_event(&bytes)).transpose()?;
                let before = if before.is_empty() { None } else { Some(decode_event(before)?) };
                let Some(id) = now.as_ref().or(before.as_ref()).map(|(id, _)| id.clone()) else { continue };
                let key = EventKey { record: member.id, event_type, id };
                let [before, now] = [before, now].map(|event| event.map(|(_, event)| event));
                let same = match (&before, &now) {
                    (Some(before), Some(now)) => before.same_as(now),
                    (None, None) => true,
                    _ => false,
                };
                if !same {
                    let is_newer = now.as_ref().is_some_and(|now| now.touch.goal_run > undoing.goal_run);
                    let has_changed = is_newer || changed_since.contains(rest);
                    let undo = EventUndo { member: place, key, stored, before, now, has_changed };
                    all.entry((member.group, rest.clone())).or_default().push(undo);
                }
            }
        }
        let mut written = Vec::new();
        for events in all.into_values() {
            if events.iter().any(|undo| undo.has_changed) {
                for EventUndo { key, .. } in events.into_iter().filter(|undo| undo.has_changed) {
                    undoing.not_restored(key.record, Reason::Event(key));
                }
                continue;
            }
            let stays = |undo: &EventUndo| {
                members.get(undo.member).is_some_and(|member| !matches!(member.becomes, Becomes::Removed))
            };
            undoing.report.events += u64::from(events.iter().any(stays));
            for EventUndo { member, key, stored, before, now, .. } in events {
                let Some(member) = members.get_mut(member) else { continue };
                match (&before, member.becomes.record_mut()) {
                    (Some(before), Some(record)) => {
                        let more = before.fingerprint(&key);
                        record.events = record.events.wrapping_add(more);
                        let mut bytes = Vec::new();
                        encode_event(&key.id, before, &mut bytes);
                        undoing.batch.put_cf(family, &stored, bytes);
                    }
                    _ => undoing.batch.delete_cf(family, &stored),
                }
                if let Some((now, record)) = now.zip(member.becomes.record_mut()) {
                    record.events = record.events.wrapping_sub(now.fingerprint(&key));
                }
                written.push(key);
            }
        }
        Ok(written)
    }

    /// The events of a record that later goal runs changed, as their keys follow the record's id.
    fn events_changed_since(
        &self,
        member: &Member,
        undoing: &Undoing<'_>,
    ) -> Result<HashSet<Vec<u8>>, StoreError> {
        let mut changed = HashSet::new();
        if member.present().is_some_and(|record| record.modified != undoing.at) {
            for later in &undoing.later {
                changed.extend(self.overwritten_of(*later, member.id)?.events.into_keys());
            }
        }
        Ok(changed)
    }

    /// The record right after the goal run that is undone: what the next one that changed it found.
    fn after(&self, later: &[i64], id: RecordId, now: &Record) -> Result<Record, StoreError> {
        let after = self.state_after(later, id)?.map(|bytes| decoded(&bytes)).transpose()?.flatten();
        Ok(after.unwrap_or_else(|| now.clone()))
    }

    /// What is stored of a record that the first of some goal runs changed.
    fn state_after(&self, later: &[i64], id: RecordId) -> Result<Option<Box<[u8]>>, StoreError> {
        for later in later {
            if let Some(bytes) = self.overwritten_of(*later, id)?.record {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Removes a record with its identifiers and events.
    pub(super) fn remove_whole(
        &self,
        id: RecordId,
        record: &Record,
        unique: &[PropertyId],
        batch: &mut WriteBatch,
    ) -> Result<(), StoreError> {
        let events = self.events_of(id)?;
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

impl Member {
    /// Lets a property have the value that the record has now; none if there is no record now.
    fn keep_present(&mut self, property: PropertyId) {
        let present = self.present();
        let value = present.and_then(|record| record.get_packed(property)).map(<[u8]>::to_vec);
        let setter = present.map(|record| record.provenance.get(property)).unwrap_or_default();
        let Some(record) = self.becomes.record_mut() else { return };
        match value {
            Some(value) => {
                record.set_packed(property, &value);
                record.set_setters(&[(property, setter)]);
            }
            None => record.clear(property),
        }
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

/// The identifiers that a record had and does not have any more.
fn given_up(before: &Record, now: Option<&Record>, unique: &[PropertyId]) -> Vec<Identifier> {
    let mut identifiers = Vec::new();
    for property in unique {
        if now.is_some_and(|now| now.get_packed(*property) == before.get_packed(*property)) {
            continue;
        }
        let held = now.map(|now| now.values(*property)).unwrap_or_default();
        let gone = before.values(*property).into_iter().filter(|value| !held.contains(value));
        identifiers.extend(gone.map(|value| Identifier::new(before.space, *property, &value)));
    }
    identifiers
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
