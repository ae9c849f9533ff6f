use std::sync::{Arc, MutexGuard, PoisonError, Weak};

use rocksdb::WriteBatch;
use sluicebox_model::{SpaceId, never};

use super::open::durable;
use super::tables::{MIN_ROWS, Tables};
use super::{CHANGES, EVENTS, RECORDS, RocksStore};
use crate::keys::{self, KeyKind, Meta};
use crate::record_format::{MergedInto, encode, encode_event};
use crate::{
    Commit, Conflict, GoalRunLease, Interrupted, Packer, ReadPoint, StoreError, Writer, WriterHints, changes,
};

/// Records that are in memory twice, on their way into a table.
const PACKED_AT_ONCE: usize = 4096;

/// Who may commit, and what was committed since the store was opened. One process writes: nothing of it is stored.
#[derive(Debug, Default)]
pub(super) struct CommitState {
    /// The leases that may commit.
    leases_held: Vec<HeldLease>,
    /// How many leases there were.
    leases: u64,
    /// How many commits changed records, identifiers or events.
    commits: u64,
    /// The lease of the last of them, if it had one.
    last_by: Option<u64>,
    /// The number of the last one that had another lease, or none.
    last_by_other: u64,
}

/// A lease that may commit.
#[derive(Debug)]
struct HeldLease {
    fence: u64,
    /// The number of its goal run.
    number: u64,
    /// Gone when the lease is dropped.
    held: Weak<()>,
}

impl CommitState {
    /// A new lease; another one of the same goal run is superseded.
    fn begin(&mut self, number: u64, time: i64) -> GoalRunLease {
        self.leases += 1;
        let held = Arc::new(());
        self.leases_held.retain(|lease| lease.number != number);
        self.leases_held.push(HeldLease { fence: self.leases, number, held: Arc::downgrade(&held) });
        GoalRunLease { number, time, fence: self.leases, _held: held }
    }

    fn check(&self, lease: &GoalRunLease) -> Result<(), StoreError> {
        match self.leases_held.iter().any(|held| held.fence == lease.fence) {
            true => Ok(()),
            false => Err(StoreError::LeaseLost { goal_run: lease.number }),
        }
    }

    /// Whether a lease of a goal run is in use.
    fn is_held(&self, number: u64) -> bool {
        self.leases_held.iter().any(|lease| lease.number == number && lease.held.strong_count() > 0)
    }

    fn end(&mut self, lease: &GoalRunLease) {
        self.leases_held.retain(|held| held.fence != lease.fence);
    }

    /// Whether another writer committed since a moment.
    fn others_since(&self, point: ReadPoint, lease: Option<&GoalRunLease>) -> bool {
        let own = lease.is_some() && self.last_by == lease.map(|lease| lease.fence);
        point.0 < if own { self.last_by_other } else { self.commits }
    }

    fn committed(&mut self, lease: Option<&GoalRunLease>) {
        let by = lease.map(|lease| lease.fence);
        if by != self.last_by {
            self.last_by_other = self.commits;
        }
        self.last_by = by;
        self.commits += 1;
    }
}

impl Commit<'_> {
    /// Whether its records, identifiers and events are worth tables of their own; each key is there once.
    fn fits_tables(&self) -> bool {
        let several = self.records.len() + self.events.len() >= MIN_ROWS;
        self.merged.is_empty() && several
    }

    /// Makes tables of its records and identifiers, which are sorted, and its events.
    fn write_tables(&mut self, store: &RocksStore) -> Result<Tables, StoreError> {
        let now = self.lease.map_or(i64::MIN, GoalRunLease::time);
        let hints = WriterHints {
            records: self.records.len(),
            identifiers: self.identifiers.len(),
            mostly_new: false,
            keep_at: self.changed.filter(|changed| changed.keep).map(|_| now),
        };
        let mut tables = store.new_tables(hints)?;
        let packer = Packer::default();
        for records in std::mem::take(&mut self.records).chunks(PACKED_AT_ONCE) {
            tables.put_records(&packer.pack(records, now), None)?;
        }
        tables.put_identifiers(std::mem::take(&mut self.identifiers).into_iter());
        tables.put_events(std::mem::take(&mut self.events))?;
        tables.finish()
    }

    /// About how many bytes it writes but for events.
    fn size(&self) -> usize {
        let records = self.records.iter().map(|(_, record)| record.packed().len() + 80).sum::<usize>();
        let identifiers = self.identifiers.len() * 40;
        records + identifiers + self.merged.len() * 40 + 4096
    }
}

impl RocksStore {
    pub(crate) fn writer(&self, hints: WriterHints) -> Result<Writer<'_>, StoreError> {
        Ok(Writer::rocks(self.new_tables(hints)?))
    }

    pub(crate) fn commit(&self, commit: Commit<'_>) -> Result<(), StoreError> {
        self.commit_with(commit, None)
    }

    /// Commits together with tables that are written already.
    pub(crate) fn commit_with(
        &self,
        mut commit: Commit<'_>,
        tables: Option<Tables>,
    ) -> Result<(), StoreError> {
        // Sorted keys go into RocksDB several times faster than random ones.
        // They come as a few sorted runs, which a stable sort only has to merge.
        commit.records.sort_by_key(|(id, _)| *id);
        commit.identifiers.sort();
        let changes_data = tables.is_some() || commit.has_data();
        let written_before = tables.is_some();
        let after = if commit.grown.is_none() { commit.spaces_after() } else { Vec::new() };
        let mut tables = match tables {
            None if commit.fits_tables() => Some(commit.write_tables(self)?),
            tables => tables,
        };
        let (lease, ends) = (commit.lease, commit.ends_goal_run);
        let is_large = tables.is_some();
        let mut state = self.commit_state();
        if let Some(lease) = lease {
            state.check(lease)?;
        }
        if commit.read_point.is_some_and(|point| state.others_since(point, lease)) {
            return Err(Conflict.into());
        }
        let grown = match commit.grown.take() {
            Some(grown) => Some(grown),
            // Which of the records in tables are new, only who wrote them could know.
            None if written_before => None,
            None => Some(self.growth(&after)?),
        };
        let mut batch = self.batch_of(commit, tables.as_mut())?;
        match grown {
            Some(grown) => self.put_growth(&grown, &mut batch)?,
            None => batch.delete(Meta::Counted),
        }
        if changes_data {
            // A commit that fails may be in the store in part, as far as others can tell.
            state.committed(lease);
        }
        match &tables {
            Some(tables) => self.commit_tables(batch, tables)?,
            None => self.db.write_opt(batch, &durable())?,
        }
        if let Some(lease) = lease.filter(|_| ends) {
            state.end(lease);
        }
        drop(state);
        self.merge_tables(is_large)
    }

    /// A batch of everything in a commit that is in no table.
    fn batch_of(&self, commit: Commit<'_>, tables: Option<&mut Tables>) -> Result<WriteBatch, StoreError> {
        let (records, events) = (self.family(RECORDS)?, self.family(EVENTS)?);
        let mut bytes = Vec::with_capacity(1024);
        let mut batch = WriteBatch::with_capacity_bytes(commit.size());
        for (id, record) in &commit.records {
            bytes.clear();
            encode(record, &mut bytes);
            batch.put_cf(records, id.0, &bytes);
        }
        never!(commit.changed.is_some() && commit.lease.is_none(), "changes of no goal run cannot be listed");
        never!(commit.report.is_some() && commit.lease.is_none(), "a report is of no goal run");
        if let Some((changed, lease)) = commit.changed.zip(commit.lease) {
            // Those in tables may be many: they are not copied.
            let keeps = tables.as_ref().is_some_and(|tables| tables.keeps);
            let mut ids = tables.map(|tables| std::mem::take(&mut tables.changed)).unwrap_or_default();
            let kept = if keeps { ids.len() } else { 0 };
            let others = commit.records.iter().filter(|(_, record)| record.modified == lease.time);
            ids.extend(others.map(|(id, _)| *id));
            let number = self.db.latest_sequence_number();
            if let Some(list) = changes::list(&ids, lease.number, changed.file) {
                batch.put_cf(self.family(CHANGES)?, keys::change(lease.time, number), list);
            }
            if changed.keep {
                let merged = commit.merged.iter().map(|(id, _)| *id);
                let events = commit.events.iter().map(|(key, _)| key);
                self.keep(lease.time, number, ids.into_iter().skip(kept).chain(merged), events, &mut batch)?;
            }
        }
        if let Some((goal, state)) = &commit.export {
            batch.put(KeyKind::Export.key(goal), state.encode());
        }
        if let Some(update) = &commit.exchanged {
            let key = KeyKind::Exchanged.key(update.key.as_bytes());
            let stored = self.db.get(&key)?;
            batch.put(key, update.apply(stored));
        }
        for (from, to) in &commit.merged {
            let goal_run = commit.lease.map_or(0, GoalRunLease::number);
            batch.put_cf(records, from.0, MergedInto { record: *to, goal_run }.encode());
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
            Some((key, rest)) if rest.is_empty() => batch.delete(KeyKind::Unfinished.key(key)),
            Some((key, rest)) => batch.put(KeyKind::Unfinished.key(key), rest),
            None => {}
        }
        if let Some((key, state)) = &commit.file {
            batch.put(KeyKind::Ledger.key(key), state.encode());
        }
        let complete = crate::FileState { position: 0, complete: true }.encode();
        commit.lines.iter().for_each(|key| batch.put(KeyKind::Ledger.key(key), complete));
        for (key, note) in &commit.import_notes {
            batch.put(KeyKind::ImportNote.key(key), note);
        }
        if let Some((lease, report)) = commit.lease.zip(commit.report) {
            batch.put(KeyKind::History.key(&lease.number.to_be_bytes()), report);
        }
        if let Some(lease) = commit.lease.filter(|_| commit.ends_goal_run) {
            let mut running = self.running()?;
            running.retain(|number| *number != lease.number);
            put_running(&running, &mut batch);
        }
        Ok(batch)
    }

    fn commit_state(&self) -> MutexGuard<'_, CommitState> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn read_point(&self) -> ReadPoint {
        ReadPoint(self.commit_state().commits)
    }

    /// Writes a batch of records, identifiers or events that is no [`Commit`]. `grown` says by how many the records of spaces grow.
    pub(super) fn write_data(
        &self,
        mut batch: WriteBatch,
        grown: &[(SpaceId, i64)],
        lease: Option<&GoalRunLease>,
    ) -> Result<(), StoreError> {
        let mut state = self.commit_state();
        if let Some(lease) = lease {
            state.check(lease)?;
        }
        self.put_growth(grown, &mut batch)?;
        state.committed(lease);
        Ok(self.db.write_opt(batch, &durable())?)
    }

    pub(crate) fn begin_goal_run(
        &self,
        clock: i64,
        report: impl FnOnce(u64) -> Vec<u8>,
    ) -> Result<GoalRunLease, StoreError> {
        let mut state = self.commit_state();
        let time = clock.max(self.last_time()?.saturating_add(1));
        let last = match self.db.get(Meta::GoalRun)? {
            None => 0,
            Some(bytes) => keys::read_u64(&bytes).ok_or(StoreError::Damaged("the number of goal runs"))?,
        };
        let number = last + 1;
        let mut batch = WriteBatch::default();
        batch.put(Meta::GoalRun, number.to_be_bytes());
        let mut running = self.running()?;
        running.push(number);
        put_running(&running, &mut batch);
        batch.put(Meta::Now, time.to_be_bytes());
        batch.put(KeyKind::History.key(&number.to_be_bytes()), report(number));
        self.db.write_opt(batch, &durable())?;
        Ok(state.begin(number, time))
    }

    pub(crate) fn advance(&self, lease: &mut GoalRunLease, clock: i64) -> Result<bool, StoreError> {
        let state = self.commit_state();
        state.check(lease)?;
        let last = self.last_time()?;
        if last == lease.time {
            return Ok(false);
        }
        lease.time = clock.max(last.saturating_add(1));
        // It is on the disk before the changes of that time, which come after it in the log.
        self.db.put(Meta::Now, lease.time.to_be_bytes())?;
        Ok(true)
    }

    /// The time of the goal run that began or advanced last.
    fn last_time(&self) -> Result<i64, StoreError> {
        let Some(bytes) = self.db.get(Meta::Now)? else { return Ok(i64::MIN) };
        keys::read_i64(&bytes).ok_or(StoreError::Damaged("the time of the last goal run"))
    }

    /// The numbers of the goal runs that are running.
    fn running(&self) -> Result<Vec<u64>, StoreError> {
        let bytes = self.db.get(Meta::Running)?.unwrap_or_default();
        let (numbers, rest) = bytes.as_chunks();
        if !rest.is_empty() {
            return Err(StoreError::Damaged("the history"));
        }
        Ok(numbers.iter().map(|number| u64::from_be_bytes(*number)).collect())
    }

    pub(crate) fn interrupted(&self) -> Result<Vec<Interrupted>, StoreError> {
        let mut state = self.commit_state();
        let (mut interrupted, time) = (Vec::new(), self.last_time()?);
        for number in self.running()? {
            if state.is_held(number) {
                continue;
            }
            if let Some(report) = self.db.get(KeyKind::History.key(&number.to_be_bytes()))? {
                interrupted.push((state.begin(number, time), report));
            }
        }
        Ok(interrupted)
    }

    pub(crate) fn note_imports(&self, notes: &[([u8; 32], Vec<u8>)]) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        for (key, note) in notes {
            batch.put(KeyKind::ImportNote.key(key), note);
        }
        Ok(self.db.write(batch)?)
    }

    pub(crate) fn remember_digest(&self, version: &str, digest: [u8; 32]) -> Result<(), StoreError> {
        let key = KeyKind::Digest.key(blake3::hash(version.as_bytes()).as_bytes());
        Ok(self.db.put(key, digest)?)
    }
}

fn put_running(numbers: &[u64], batch: &mut WriteBatch) {
    match numbers {
        [] => batch.delete(Meta::Running),
        numbers => batch
            .put(Meta::Running, numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<_>>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_others_commit_is_a_conflict() {
        let mut state = CommitState::default();
        let own = state.begin(1, 1);
        let others_since = |state: &CommitState, point| state.others_since(point, Some(&own));
        let point = |state: &CommitState| ReadPoint(state.commits);
        let first = point(&state);
        assert!(!others_since(&state, first));
        state.committed(Some(&own));
        state.committed(Some(&own));
        assert!(!others_since(&state, first) && state.others_since(first, None));
        let second = point(&state);
        state.committed(None);
        assert!(others_since(&state, first) && others_since(&state, second));
        assert!(!others_since(&state, point(&state)));
        let third = point(&state);
        state.committed(Some(&own));
        assert!(others_since(&state, second) && !others_since(&state, third));
        state.committed(None);
        state.committed(None);
        assert!(others_since(&state, third) && state.others_since(third, None));
    }
}
