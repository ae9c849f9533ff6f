use sluicebox_model::{Event, EventKey, IdentifierHash, Record, RecordId, SpaceId};

use crate::changes::Changed;
use crate::exports::ExportState;
use crate::keys;
use crate::lease::GoalRunLease;

/// The key of a file set, and what is still to do with it.
pub type Unfinished = ([u8; 32], Box<[u8]>);
/// The lease of a goal run whose process died, and the goal run's last report.
pub type Interrupted = (GoalRunLease, Vec<u8>);

/// How far a file was imported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileState {
    /// The position: rows of the file that are accounted for.
    pub position: u64,
    /// Whether nothing is left to do.
    pub complete: bool,
}

impl FileState {
    pub(crate) fn encode(self) -> [u8; 9] {
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

/// By how many the records of spaces grow; a space may be there several times.
pub type Grown = Vec<(SpaceId, i64)>;

/// A moment in the order of commits: see [`Store::read_point`](crate::Store::read_point).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadPoint(pub(crate) u64);

/// One atomic write: the store holds all of it or nothing.
#[derive(Debug, Default)]
pub struct Commit<'a> {
    /// The goal run that commits; `None` for what belongs to no goal run.
    pub lease: Option<&'a GoalRunLease>,
    /// The moment before the commit's records and identifiers were read. If another writer may have written some of them
    /// since, the commit is refused with [`Conflict`](crate::Conflict). What the same goal run wrote is no conflict: it
    /// knows of that. `None` commits in any case.
    pub read_point: Option<ReadPoint>,
    /// Records to write.
    pub records: Vec<(RecordId, Record)>,
    /// Records that were merged into another: the old id and the one that stayed.
    pub merged: Vec<(RecordId, RecordId)>,
    /// By how many the records of spaces grow, if the writer knows which of the commit's records are new and which were merged. Without
    /// it the store finds out.
    pub grown: Option<Grown>,
    /// Identifiers to write, or to remove.
    pub identifiers: Vec<(IdentifierHash, Option<RecordId>)>,
    /// Events to write, or to remove.
    pub events: Vec<(EventKey, Option<Event>)>,
    /// A file set that is imported, by its key, and what is still to do with it; empty = nothing any more.
    pub unfinished: Option<([u8; 32], Vec<u8>)>,
    /// The file's key and how far it is imported now.
    pub file: Option<([u8; 32], FileState)>,
    /// Keys of corrected lines that are imported now. The ledger has them as files that are complete.
    pub lines: Vec<[u8; 32]>,
    /// What the host notes of its imports, each under a key that the host makes.
    pub import_notes: Vec<([u8; 32], Vec<u8>)>,
    /// The goal run's report so far.
    pub report: Option<Vec<u8>>,
    /// Whether the goal run is over. Its lease ends with the commit.
    pub ends_goal_run: bool,
    /// Where the changes come from, so that they are listed. The records that changed are those that were modified at the
    /// time of the goal run.
    pub changed: Option<Changed<'a>>,
    /// What an export goal remembers of a run that succeeded.
    pub export: Option<([u8; 32], ExportState)>,
    /// The sketch of the profiles that went through a connection.
    pub exchanged: Option<SketchUpdate>,
}

impl Commit<'_> {
    /// Whether it changes records, identifiers or events.
    pub(crate) fn has_data(&self) -> bool {
        !(self.records.is_empty()
            && self.merged.is_empty()
            && self.identifiers.is_empty()
            && self.events.is_empty())
    }
}

/// A sketch that counts distinct profiles, as bytes that the host reads and writes. Writers that add to one sketch at the
/// same time lose nothing: the store merges what they hold.
#[derive(Clone, Debug)]
pub struct SketchUpdate {
    /// The connection and the direction.
    pub key: String,
    /// The sketch that the writer began with, as it was stored; empty if there was none.
    pub base: Vec<u8>,
    /// The base and what the writer added.
    pub sketch: Vec<u8>,
    /// Merges two sketches; `None` if one of them cannot be read.
    pub merge: fn(&[u8], &[u8]) -> Option<Vec<u8>>,
}

impl SketchUpdate {
    /// What to store in place of the sketch that is stored now. A stored sketch that is damaged is replaced.
    pub(crate) fn apply(&self, stored: Option<Vec<u8>>) -> Vec<u8> {
        let others = stored.filter(|stored| *stored != self.base);
        others.and_then(|stored| (self.merge)(&stored, &self.sketch)).unwrap_or_else(|| self.sketch.clone())
    }
}
