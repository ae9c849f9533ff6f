use rocksdb::WriteBatch;
use sluicebox_model::{Event, EventKey, IdentifierHash, Record, RecordId};

use crate::changes::Changed;
use crate::encode::{encode, encode_event, merged_into};
use crate::exports::{ExportState, export_key};
use crate::keys::{
    self, CHANGES, DIGEST, EVENTS, EXCHANGED, GOAL_RUN, HISTORY, LEDGER, NOW, RECORDS, RUNNING, UNFINISHED,
};
use crate::open::durable;
use crate::tables::{FEWEST, PackedRecords, Tables};
use crate::{Store, StoreError};

/// Records that are in memory twice, on their way into a table.
const PACKED_AT_ONCE: usize = 4096;

/// How far a file was imported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileState {
    /// Records of the file that are accounted for.
    pub position: u64,
    /// Whether nothing is left to do.
    pub complete: bool,
}

impl FileState {
    fn encode(self) -> [u8; 9] {
        let mut bytes = [u8::from(self.complete); 9];
        for (to, from) in bytes.iter_mut().zip(self.position.to_be_bytes()) {
            *to = from;
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (position, complete) = bytes.split_at_checked(8)?;
        Some(Self { position: keys::read_u64(position)?, complete: complete == [1] })
    }
}

/// What one stretch of a file does to the store: all of it or nothing.
#[derive(Debug, Default)]
pub struct Commit<'a> {
    /// What is written already.
    pub tables: Option<Tables>,
    /// Records to write.
    pub records: Vec<(RecordId, Record)>,
    /// Records that were merged into another: the old id and the one that stayed.
    pub merged: Vec<(RecordId, RecordId)>,
    /// Identifiers to write, or to remove.
    pub identifiers: Vec<(IdentifierHash, Option<RecordId>)>,
    /// Events to write, or to remove.
    pub events: Vec<(EventKey, Option<Event>)>,
    /// A set of files that is imported, by its key, and what is still to do with it; empty = nothing any more.
    pub unfinished: Option<([u8; 32], Vec<u8>)>,
    /// The file's key and how far it is imported now.
    pub file: Option<([u8; 32], FileState)>,
    /// The goal run's number and its report so far.
    pub goal_run: Option<(u64, Vec<u8>)>,
    /// Whether that goal run is over.
    pub ends_goal_run: bool,
    /// Where the changes come from; the records that changed are those that were modified at its time.
    pub changed: Option<Changed<'a>>,
    /// What an export goal remembers of a run that succeeded.
    pub export: Option<([u8; 32], ExportState)>,
    /// A connection's way in or out, and the sketch of the profiles that went it so far.
    pub exchanged: Option<(String, Vec<u8>)>,
}

impl Commit<'_> {
    /// Whether its records, identifiers and events are worth tables of their own; each key is there once.
    fn fits_tables(&self) -> bool {
        let several = self.records.len() + self.events.len() >= FEWEST;
        // What is kept of what was there before is found by what the commit lists.
        let lists = self.changed.is_some_and(|changed| changed.keep) && !self.events.is_empty();
        self.tables.is_none() && self.merged.is_empty() && several && !lists
    }

    /// Makes tables of its records and identifiers, which are sorted, and its events.
    fn write_tables(&mut self, store: &Store) -> Result<(), StoreError> {
        let now = self.changed.map_or(i64::MIN, |changed| changed.now);
        let mut tables = store.new_tables(self.records.len(), self.identifiers.len(), false)?;
        for records in std::mem::take(&mut self.records).chunks(PACKED_AT_ONCE) {
            tables.put_records(&PackedRecords::new(records, now), None)?;
        }
        tables.put_identifiers(std::mem::take(&mut self.identifiers).into_iter());
        tables.put_events(std::mem::take(&mut self.events))?;
        self.tables = Some(tables.finish()?);
        Ok(())
    }

    /// About how many bytes it writes but for events.
    fn size(&self) -> usize {
        let records = self.records.iter().map(|(_, record)| record.packed().len() + 80).sum::<usize>();
        let identifiers = self.identifiers.len() * 40;
        records + identifiers + self.merged.len() * 40 + 4096
    }
}

impl Store {
    /// Writes a commit. When this returns, it is on the disk; when it fails, nothing of it is.
    ///
    /// # Errors
    /// If the store fails.
    pub fn commit(&self, mut commit: Commit<'_>) -> Result<(), StoreError> {
        let (records, events) = (self.family(RECORDS)?, self.family(EVENTS)?);
        // Sorted keys go into the tables several times faster than random ones.
        // They come as a few sorted runs, which a stable sort only has to merge.
        commit.records.sort_by_key(|(id, _)| *id);
        commit.identifiers.sort();
        if commit.fits_tables() {
            commit.write_tables(self)?;
        }
        let mut bytes = Vec::with_capacity(1024);
        let mut batch = WriteBatch::with_capacity_bytes(commit.size());
        for (id, record) in &commit.records {
            bytes.clear();
            encode(record, &mut bytes);
            batch.put_cf(records, id.0, &bytes);
        }
        if let Some(changed) = commit.changed {
            // Those in tables may be many: they are not copied.
            let in_tables = commit.tables.as_mut().map(|tables| std::mem::take(&mut tables.changed));
            let mut ids = in_tables.unwrap_or_default();
            let others = commit.records.iter().filter(|(_, record)| record.modified == changed.now);
            ids.extend(others.map(|(id, _)| *id));
            let run = commit.goal_run.as_ref().map_or(0, |(number, _)| *number);
            let number = self.db.latest_sequence_number();
            if let Some((key, list)) = changed.entry(&ids, run, number) {
                batch.put_cf(self.family(CHANGES)?, key, list);
            }
            if changed.keep {
                let merged = commit.merged.iter().map(|(id, _)| *id);
                let events = commit.events.iter().map(|(key, _)| key);
                self.keep(changed.now, number, ids.into_iter().chain(merged), events, &mut batch)?;
            }
        }
        if let Some((goal, state)) = &commit.export {
            batch.put(export_key(goal), state.encode());
        }
        if let Some((way, sketch)) = &commit.exchanged {
            batch.put(keys::key(EXCHANGED, way.as_bytes()), sketch);
        }
        for (from, to) in &commit.merged {
            batch.put_cf(records, from.0, merged_into(*to));
        }
        self.identify_all(commit.identifiers.into_iter(), &mut batch)?;
        for (key, event) in &commit.events {
            match event {
                Some(event) => {
                    bytes.clear();
                    encode_event(&key.id, event, &mut bytes);
                    batch.put_cf(events, keys::event(key), &bytes);
                }
                None => batch.delete_cf(events, keys::event(key)),
            }
        }
        match &commit.unfinished {
            Some((key, rest)) if rest.is_empty() => batch.delete(keys::key(UNFINISHED, key)),
            Some((key, rest)) => batch.put(keys::key(UNFINISHED, key), rest),
            None => {}
        }
        if let Some((key, state)) = &commit.file {
            batch.put(keys::key(LEDGER, key), state.encode());
        }
        if let Some((number, report)) = &commit.goal_run {
            batch.put(keys::key(HISTORY, &number.to_be_bytes()), report);
        }
        if commit.ends_goal_run {
            batch.delete(RUNNING);
        }
        match &commit.tables {
            Some(tables) => self.commit_tables(batch, tables)?,
            None => self.db.write_opt(batch, &durable())?,
        }
        self.merge_tables(commit.tables.is_some())
    }

    /// Begins a goal run; answers with its number, greater than all before it, and its time in milliseconds since the
    /// epoch: that of the clock, or later than all before it where the clock was set back. `report` makes its first
    /// report.
    ///
    /// # Errors
    /// If the store fails.
    pub fn begin_goal_run(
        &self,
        clock: i64,
        report: impl FnOnce(u64) -> Vec<u8>,
    ) -> Result<(u64, i64), StoreError> {
        let before = match self.db.get(NOW)? {
            None => i64::MIN,
            Some(bytes) => {
                keys::read_i64(&bytes).ok_or(StoreError::Damaged("the time of the last goal run"))?
            }
        };
        let now = clock.max(before.saturating_add(1));
        let last = match self.db.get(GOAL_RUN)? {
            None => 0,
            Some(bytes) => keys::read_u64(&bytes).ok_or(StoreError::Damaged("the number of goal runs"))?,
        };
        let number = last + 1;
        let mut batch = WriteBatch::default();
        batch.put(GOAL_RUN, number.to_be_bytes());
        batch.put(RUNNING, number.to_be_bytes());
        batch.put(NOW, now.to_be_bytes());
        batch.put(keys::key(HISTORY, &number.to_be_bytes()), report(number));
        self.db.write_opt(batch, &durable())?;
        Ok((number, now))
    }

    /// Remembers what [`Store::digest`] answers for a version of an object.
    ///
    /// # Errors
    /// If the store fails.
    pub fn remember_digest(&self, version: &str, digest: [u8; 32]) -> Result<(), StoreError> {
        let key = keys::key(DIGEST, blake3::hash(version.as_bytes()).as_bytes());
        Ok(self.db.put(key, digest)?)
    }
}
