//! Every kind of key. Integers in keys are big endian, so that keys sort by them.
//!
//! | column family | key | value |
//! | --- | --- | --- |
//! | `default` | `m` `format` | version of this layout, u32 |
//! | `default` | `m` `goal-run` | number of the last goal run, u64 |
//! | `default` | `m` `running` | number of the goal run under way, u64; absent when none is |
//! | `default` | `m` `now` | the time of the last goal run, in milliseconds i64: each one's is later than all before |
//! | `default` | `m` `changes` | what changed after this time, in milliseconds i64, is listed in `changes` |
//! | `default` | `m` `expired` | when old events were removed last, in seconds i64, and for each type its number u32 and how long it is kept, in seconds i64 |
//! | `default` | `d` name | number of a property or space, u32 (see [`Store::property`](crate::Store::property)) |
//! | `default` | `u` property u32 | present when the values of the property are in `identifiers` |
//! | `default` | `l` 32-byte hash | a file's [`FileState`](crate::FileState): position u64, complete u8, rows u64 |
//! | `default` | `h` goal run u64 | the goal run's report, as the host writes it |
//! | `default` | `e` 32-byte hash of an object's version | 32-byte digest of its content |
//! | `default` | `f` 32-byte hash of a goal and a file | what is still to do with files that are imported, as the host writes it |
//! | `default` | `x` 32-byte hash of an export goal | its last successful run's time, i64, and 32-byte hash of its settings |
//! | `default` | `s` connection | what the service remembers of the connection's runs, as the host writes it |
//! | `default` | `c` connection and way | sketch of the profiles that were imported or exported, as the host writes it |
//! | `default` | `m` `hash-key` | 16 random bytes, with which identifiers are hashed |
//! | `default` | `m` `paged` | nothing; present when all identifiers are in pages |
//! | `default` | `m` `probe` | nothing; written to see that the store can be |
//! | `default` | `m` `tables` | names of table files that belong to the last commit and that the store has not taken yet, one a line |
//! | `records` | 16-byte record id | a record, or the id of the record that it was merged into (see `encode`) |
//! | `identifiers` | property u32, first 16 bits of hashes (see [`IdentifierHash`](sluicebox_model::IdentifierHash)) | a page: sorted, for each identifier the 12 bytes of its hash and the 16 of a record's id, or of zeros where it finds nobody any more (see `pages`); up to layout 5 the key was an [`Identifier`](sluicebox_model::Identifier), and the value the record's id |
//! | `changes` | time of a goal run, i64, number of the commit, u64 | what the commit changed: goal run u64, length u32 and text of the file's name, sorted record ids: where the highest bit of that length is set, their number u32 and each without what it has in common with the one before (`changes::shorten`); otherwise 16 bytes each |
//! | `undo` | time of a goal run, i64, 16-byte record id, number of the commit, u64, then nothing, or an event's type and id as in `events` | what the commit overwrote there: the stored bytes; empty = nothing was there |
//! | `default` | `t` 32-byte keyed hash of an identifier | when it was erased, in milliseconds i64 |
//! | `events` | 16-byte record id, type u32, the event's id (one of more than 64 bytes: a zero byte and its BLAKE3 hash) | an event (see `encode`) |

use sluicebox_model::EventKey;

pub(crate) const FORMAT: &[u8] = b"mformat";
pub(crate) const GOAL_RUN: &[u8] = b"mgoal-run";
pub(crate) const EXPIRED: &[u8] = b"mexpired";
pub(crate) const RUNNING: &[u8] = b"mrunning";
pub(crate) const NOW: &[u8] = b"mnow";
pub(crate) const TABLES: &[u8] = b"mtables";
pub(crate) const HASH_KEY: &[u8] = b"mhash-key";
pub(crate) const PAGED: &[u8] = b"mpaged";
pub(crate) const PROBE: &[u8] = b"mprobe";
pub(crate) const LISTED: &[u8] = b"mchanges";

pub(crate) const RECORDS: &str = "records";
pub(crate) const IDENTIFIERS: &str = "identifiers";
pub(crate) const EVENTS: &str = "events";
pub(crate) const CHANGES: &str = "changes";
pub(crate) const UNDO: &str = "undo";

/// Every family but `default`.
pub(crate) const FAMILIES: [&str; 5] = [RECORDS, IDENTIFIERS, EVENTS, CHANGES, UNDO];

pub(crate) const NAME: u8 = b'd';
pub(crate) const INDEXED: u8 = b'u';
pub(crate) const LEDGER: u8 = b'l';
pub(crate) const HISTORY: u8 = b'h';
pub(crate) const DIGEST: u8 = b'e';
pub(crate) const UNFINISHED: u8 = b'f';
pub(crate) const EXPORT: u8 = b'x';
pub(crate) const ERASED: u8 = b't';
pub(crate) const RUNS: u8 = b's';
pub(crate) const EXCHANGED: u8 = b'c';

/// Bytes of a text that a key holds as they are; no text begins with the zero byte that marks a hash.
const LONGEST_TEXT: usize = 64;

/// Appends a text, or the hash of a long one.
pub(crate) fn put_text(text: &str, key: &mut Vec<u8>) {
    if text.len() <= LONGEST_TEXT && !text.as_bytes().contains(&0) {
        key.extend_from_slice(text.as_bytes());
    } else {
        key.push(0);
        key.extend_from_slice(blake3::hash(text.as_bytes()).as_bytes());
    }
}

/// A key of `events`.
pub(crate) fn event(event: &EventKey) -> Vec<u8> {
    let mut key = Vec::with_capacity(48);
    key.extend_from_slice(&event.record.0);
    key.extend_from_slice(&event.event_type.0.to_be_bytes());
    put_text(&event.id, &mut key);
    key
}

/// A key of `default`.
pub(crate) fn key(kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + rest.len());
    key.push(kind);
    key.extend_from_slice(rest);
    key
}

pub(crate) fn read_u64(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

pub(crate) fn read_i64(bytes: &[u8]) -> Option<i64> {
    bytes.try_into().ok().map(i64::from_be_bytes)
}

pub(crate) fn read_u32(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_be_bytes)
}
