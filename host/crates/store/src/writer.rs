//! Large commits: records and identifiers are written while the import goes on, and are in the store once they are
//! committed, and not before.

use std::sync::{Arc, Mutex, PoisonError};

use sluicebox_model::{IdentifierHash, OrNever, Record, RecordId};

use crate::record_format::{encode, encoded_size};
use crate::rocks::{TableWriter, Tables};
use crate::{Commit, RocksStore, StoreError};

/// What a writer will be given, about: it makes room for that much.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriterHints {
    /// How many records.
    pub records: usize,
    /// How many identifiers.
    pub identifiers: usize,
    /// Whether most records are new, so that rows to come will look them up.
    pub mostly_new: bool,
    /// The time of the goal run, if what it overwrites is retained.
    pub keep_at: Option<i64>,
}

/// Turns records into bytes, on any thread. The memory of packed records that are written is used again.
#[derive(Clone, Debug, Default)]
pub struct Packer {
    free: Arc<Mutex<Vec<Buffers>>>,
}

#[derive(Debug, Default)]
struct Buffers {
    bytes: Vec<u8>,
    /// Each record's id, where it ends in `bytes`, and what happened to it.
    entries: Vec<(RecordId, usize, Change)>,
}

/// What a goal run did with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing but to count it.
    None,
    Changed,
    /// It did not exist before the goal run.
    Created,
}

impl Packer {
    /// Packs sorted records, each of which is there once. Those that were modified at the time `now` have changed.
    pub fn pack(&self, records: &[(RecordId, Record)], now: i64) -> PackedRecords {
        let mut buffers = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        buffers.bytes.clear();
        buffers.entries.clear();
        buffers.bytes.reserve(records.iter().map(|(_, record)| encoded_size(record)).sum());
        buffers.entries.reserve(records.len());
        for (id, record) in records {
            encode(record, &mut buffers.bytes);
            let change = match (record.modified == now, record.created == now) {
                (false, _) => Change::None,
                (true, false) => Change::Changed,
                (true, true) => Change::Created,
            };
            buffers.entries.push((*id, buffers.bytes.len(), change));
        }
        PackedRecords { buffers, packer: self.clone() }
    }
}

/// Sorted records as bytes, each there once.
#[derive(Debug)]
pub struct PackedRecords {
    buffers: Buffers,
    packer: Packer,
}

impl PackedRecords {
    /// The ids.
    pub fn ids(&self) -> impl Iterator<Item = RecordId> + '_ {
        self.buffers.entries.iter().map(|(id, ..)| *id)
    }

    /// Each record's id, its bytes, and what happened to it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (RecordId, &[u8], Change)> + '_ {
        let mut from = 0;
        self.buffers.entries.iter().map(move |(id, to, change)| {
            let bytes = self.buffers.bytes.get(from..*to).or_never("the bytes of a record");
            from = *to;
            (*id, bytes, *change)
        })
    }
}

impl Drop for PackedRecords {
    fn drop(&mut self) {
        let buffers = std::mem::take(&mut self.buffers);
        self.packer.free.lock().unwrap_or_else(PoisonError::into_inner).push(buffers);
    }
}

/// A large commit in the making: what was put is in the store once it is committed. Dropping the writer forgets it.
#[derive(Debug)]
pub struct Writer<'s>(Inner<'s>);

#[derive(Debug)]
enum Inner<'s> {
    Rocks(Box<TableWriter<'s>>),
}

impl<'s> Writer<'s> {
    pub(crate) fn rocks(writer: TableWriter<'s>) -> Self {
        Self(Inner::Rocks(Box::new(writer)))
    }

    /// Puts records. Most that are put later are not less than `next`: records in ascending order are written once.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn put(&mut self, records: &PackedRecords, next: Option<RecordId>) -> Result<(), StoreError> {
        match &mut self.0 {
            Inner::Rocks(writer) => writer.put_records(records, next),
        }
    }

    /// Puts sorted identifiers, each with the record that it finds, or with `None` to remove it.
    pub fn put_identifiers(&mut self, identifiers: impl Iterator<Item = (IdentifierHash, Option<RecordId>)>) {
        match &mut self.0 {
            Inner::Rocks(writer) => writer.put_identifiers(identifiers),
        }
    }

    /// Whether one of these identifiers was put before.
    pub fn contains_any(&self, hashes: &[IdentifierHash]) -> bool {
        match &self.0 {
            Inner::Rocks(writer) => writer.contains_any(hashes),
        }
    }

    /// About how many bytes of memory the writer takes.
    pub fn memory(&self) -> usize {
        match &self.0 {
            Inner::Rocks(writer) => writer.memory(),
        }
    }

    /// Writes what was put, as far as that can be done before the commit.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(self) -> Result<FinishedWriter<'s>, StoreError> {
        match self.0 {
            Inner::Rocks(writer) => {
                let store = writer.store();
                Ok(FinishedWriter(Finished::Rocks(store, writer.finish()?)))
            }
        }
    }

    /// Finishes and commits.
    ///
    /// # Errors
    /// As [`FinishedWriter::commit`].
    pub fn commit(self, commit: Commit<'_>) -> Result<(), StoreError> {
        self.finish()?.commit(commit)
    }
}

/// A large commit that only has to be committed.
#[derive(Debug)]
pub struct FinishedWriter<'s>(Finished<'s>);

#[derive(Debug)]
enum Finished<'s> {
    Rocks(&'s RocksStore, Tables),
}

impl FinishedWriter<'_> {
    /// Commits what was put together with `commit`. When this returns, it is on the disk; when it fails, nothing of it is.
    ///
    /// # Errors
    /// As [`Store::commit`](crate::Store::commit).
    pub fn commit(self, commit: Commit<'_>) -> Result<(), StoreError> {
        match self.0 {
            Finished::Rocks(store, tables) => store.commit_with(commit, Some(tables)),
        }
    }
}
