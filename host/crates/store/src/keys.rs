//! Every kind of key. Key bytes are for ever: a byte or name that was once used for something is never used for anything
//! else. Integers in keys are big endian, so that keys sort by them.
//!
//! The key-value layout of RocksDB, by column family. Other backends have tables of their own, and use the same bytes for
//! whatever they keep as bytes.
//!
//! | column family | key | value |
//! | --- | --- | --- |
//! | `default` | `m` `format` | version of this layout, u32 |
//! | `default` | `m` `counted` | nothing; present when `n` has the number of records of each space |
//! | `default` | `m` `goal-run` | number of the last goal run, u64 |
//! | `default` | `m` `running` | number of the goal run under way, u64; absent when there is none |
//! | `default` | `m` `now` | time of the last goal run, in milliseconds i64: each one's is later than all before |
//! | `default` | `m` `changes` | time in milliseconds, i64: `changes` lists what changed after it |
//! | `default` | `m` `expired` | when old events were last removed, in seconds i64; then for each type its number u32 and how long its events are kept, in seconds i64 |
//! | `default` | `m` `hash-key` | 16 random bytes, with which identifiers are hashed |
//! | `default` | `m` `paged` | nothing; present when all identifiers are in pages |
//! | `default` | `m` `probe` | nothing; written to find out whether the store can be written to |
//! | `default` | `m` `tables` | names of table files that belong to the last commit and that RocksDB has not ingested yet, one a line |
//! | `default` | `d` name | number of a property or space, u32 (see [`Store::property`](crate::Store::property)) |
//! | `default` | `u` property u32 | present when the values of the property are in `identifiers` |
//! | `default` | `l` 32-byte hash | a file's [`FileState`](crate::FileState): position u64, complete u8 |
//! | `default` | `h` goal run u64 | the goal run's report, as the host writes it |
//! | `default` | `e` 32-byte hash of an object's version | 32-byte digest of its content |
//! | `default` | `f` 32-byte hash of a goal and a file | what is still to do with files that are imported, as the host writes it |
//! | `default` | `i` 32-byte hash of a file set, a goal or a configuration | what the host notes of its imports, as the host writes it |
//! | `default` | `x` 32-byte hash of an export goal | [`ExportState`](crate::ExportState): the cursor of its last successful run, i64, and the 32-byte hash of its settings |
//! | `default` | `s` connection | what the service remembers of the connection's runs, as the host writes it |
//! | `default` | `c` connection and direction | sketch of the profiles that were imported or exported, as the host writes it |
//! | `default` | `n` space u32 | how many records the space has, u64; absent = none |
//! | `default` | `t` 32-byte keyed hash of an identifier | when it was erased, in milliseconds i64 |
//! | `records` | 16-byte record id | a record, or the id of the record that it was merged into (see `record_format`) |
//! | `identifiers` | property u32, first 16 bits of hashes (see [`IdentifierHash`](sluicebox_model::IdentifierHash)) | a page: sorted, for each identifier the 12 bytes of its hash and the 16 of a record's id, or of zeros where it finds no record any more (see `rocks::pages`); up to layout 5 the key was an [`Identifier`](sluicebox_model::Identifier), and the value the record's id |
//! | `events` | 16-byte record id, type u32, the event's id (one of more than 64 bytes: a zero byte and its BLAKE3 hash) | an event (see `record_format`) |
//! | `changes` | time of a goal run, i64, number of the commit, u64 | what the commit changed (see `changes`) |
//! | `undo` | time of a goal run, i64, 16-byte record id, number of the commit, u64, then nothing, or an event's type and id as in `events` | what the commit overwrote: the stored bytes; empty = nothing was there |

use sluicebox_model::{EventKey, EventTypeId, RecordId};

/// First bytes of keys that meant something in an older layout. They stay reserved; a test keeps them out of [`KeyKind`].
/// None was retired up to layout 7.
#[cfg(test)]
const RETIRED_KINDS: &[u8] = &[];
/// The same of the names after `m`.
#[cfg(test)]
const RETIRED_META: &[&str] = &[];

/// The kinds of keys of the `default` column family, by their first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum KeyKind {
    /// One entry for the whole store, by its name. [`Meta`] has the whole keys.
    #[cfg_attr(not(test), expect(dead_code, reason = "reserves the byte"))]
    Meta = b'm',
    Name = b'd',
    Indexed = b'u',
    Ledger = b'l',
    History = b'h',
    Digest = b'e',
    Unfinished = b'f',
    Export = b'x',
    Erased = b't',
    Runs = b's',
    Exchanged = b'c',
    ImportNote = b'i',
    Count = b'n',
}

impl KeyKind {
    #[cfg(test)]
    const ALL: [Self; 13] = [
        Self::Meta,
        Self::Name,
        Self::Indexed,
        Self::Ledger,
        Self::History,
        Self::Digest,
        Self::Unfinished,
        Self::Export,
        Self::Erased,
        Self::Runs,
        Self::Exchanged,
        Self::ImportNote,
        Self::Count,
    ];

    /// The first byte of its keys, which all of them begin with and no others.
    pub(crate) const fn byte(self) -> u8 {
        self as u8
    }

    /// A key of this kind.
    pub(crate) fn key(self, rest: &[u8]) -> Vec<u8> {
        let mut key = Vec::with_capacity(1 + rest.len());
        key.push(self.byte());
        key.extend_from_slice(rest);
        key
    }

    /// What follows the first byte of a key, if the key is of this kind.
    pub(crate) fn rest(self, key: &[u8]) -> Option<&[u8]> {
        key.strip_prefix(&[self.byte()])
    }
}

/// Entries that a store has once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meta {
    Format,
    GoalRun,
    Running,
    Now,
    ListedFrom,
    Expired,
    HashKey,
    Paged,
    Probe,
    Tables,
    Counted,
}

impl Meta {
    #[cfg(test)]
    const ALL: [Self; 11] = [
        Self::Format,
        Self::GoalRun,
        Self::Running,
        Self::Now,
        Self::ListedFrom,
        Self::Expired,
        Self::HashKey,
        Self::Paged,
        Self::Probe,
        Self::Tables,
        Self::Counted,
    ];

    /// The whole key.
    pub(crate) const fn key(self) -> &'static [u8] {
        match self {
            Self::Format => b"mformat",
            Self::GoalRun => b"mgoal-run",
            Self::Running => b"mrunning",
            Self::Now => b"mnow",
            Self::ListedFrom => b"mchanges",
            Self::Expired => b"mexpired",
            Self::HashKey => b"mhash-key",
            Self::Paged => b"mpaged",
            Self::Probe => b"mprobe",
            Self::Tables => b"mtables",
            Self::Counted => b"mcounted",
        }
    }
}

impl AsRef<[u8]> for Meta {
    fn as_ref(&self) -> &[u8] {
        self.key()
    }
}

/// Bytes of a text that a key holds unchanged; no text begins with the zero byte that marks a hash.
const MAX_TEXT: usize = 64;

/// Appends a text, or the hash of a long one.
pub(crate) fn put_text(text: &str, key: &mut Vec<u8>) {
    if text.len() <= MAX_TEXT && !text.as_bytes().contains(&0) {
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

/// The record and the type of a key of `events`; the event itself holds its id.
pub(crate) fn read_event(key: &[u8]) -> Option<(RecordId, EventTypeId)> {
    let (record, rest) = key.split_first_chunk()?;
    let (event_type, _) = rest.split_first_chunk()?;
    Some((RecordId(*record), EventTypeId(u32::from_be_bytes(*event_type))))
}

/// A key of `changes`.
pub(crate) fn change(time: i64, commit: u64) -> Vec<u8> {
    [time.to_be_bytes(), commit.to_be_bytes()].concat()
}

/// What all keys of `undo` begin with that a goal run of this time wrote of a record.
pub(crate) fn undo_prefix(time: i64, record: RecordId) -> Vec<u8> {
    [time.to_be_bytes().as_slice(), &record.0].concat()
}

/// A key of `undo`; `event` is what follows the record's id in the key of an event, or nothing for the record itself.
pub(crate) fn undo(time: i64, record: RecordId, commit: u64, event: &[u8]) -> Vec<u8> {
    [undo_prefix(time, record).as_slice(), &commit.to_be_bytes(), event].concat()
}

/// Writes the key of `undo` for a record itself.
pub(crate) fn put_undo(time: i64, record: RecordId, commit: u64, key: &mut Vec<u8>) {
    key.clear();
    key.extend_from_slice(&time.to_be_bytes());
    key.extend_from_slice(&record.0);
    key.extend_from_slice(&commit.to_be_bytes());
}

/// What follows the commit's number in a key of `undo`, of which `rest` follows the record's id.
pub(crate) fn read_undo_event(rest: &[u8]) -> Option<&[u8]> {
    rest.split_first_chunk::<8>().map(|(_, event)| event)
}

/// The time that keys of `changes` and `undo` begin with.
pub(crate) fn read_time(key: &[u8]) -> Option<i64> {
    key.first_chunk().map(|time| i64::from_be_bytes(*time))
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_kind_has_the_byte_of_another_or_of_a_retired_one() {
        let bytes: HashSet<u8> = KeyKind::ALL.iter().map(|kind| kind.byte()).collect();
        assert_eq!(bytes.len(), KeyKind::ALL.len());
        assert!(RETIRED_KINDS.iter().all(|byte| !bytes.contains(byte)));
        let names: HashSet<&[u8]> = Meta::ALL.iter().map(|meta| meta.key()).collect();
        assert_eq!(names.len(), Meta::ALL.len());
        assert!(names.iter().all(|key| KeyKind::Meta.rest(key).is_some_and(|name| !name.is_empty())));
        assert!(
            RETIRED_META.iter().all(|name| !names.contains(KeyKind::Meta.key(name.as_bytes()).as_slice()))
        );
    }

    /// Stores have these bytes: a change of this test is a new layout.
    #[test]
    fn bytes_of_kinds_stay() {
        let bytes: Vec<u8> = KeyKind::ALL.iter().map(|kind| kind.byte()).collect();
        assert_eq!(bytes, b"mdulhefxtscin");
        let names: Vec<&[u8]> = Meta::ALL.iter().map(|meta| meta.key()).collect();
        let expected: [&[u8]; 11] = [
            b"mformat",
            b"mgoal-run",
            b"mrunning",
            b"mnow",
            b"mchanges",
            b"mexpired",
            b"mhash-key",
            b"mpaged",
            b"mprobe",
            b"mtables",
            b"mcounted",
        ];
        assert_eq!(names, expected);
    }

    fn kind() -> impl Strategy<Value = KeyKind> {
        prop::sample::select(KeyKind::ALL.to_vec())
    }

    fn event_key() -> impl Strategy<Value = EventKey> {
        let id = prop_oneof![any::<String>(), "[a-c]{60,70}"];
        (prop::array::uniform16(0_u8..3), 0_u32..3, id).prop_map(|(record, event_type, id)| EventKey {
            record: RecordId(record),
            event_type: EventTypeId(event_type),
            id: id.into(),
        })
    }

    proptest! {
        #[test]
        fn keys_of_a_kind_come_back_and_sort_as_what_follows(
            kinds in (kind(), kind()),
            one: Vec<u8>,
            other: Vec<u8>,
        ) {
            let (key, next) = (kinds.0.key(&one), kinds.0.key(&other));
            prop_assert_eq!(kinds.0.rest(&key), Some(one.as_slice()));
            prop_assert_eq!(key.cmp(&next), one.cmp(&other));
            prop_assert_eq!(kinds.1.rest(&key).is_some(), kinds.0 == kinds.1);
        }

        #[test]
        fn keys_of_events_sort_by_record_and_type(one in event_key(), other in event_key()) {
            let (key, next) = (event(&one), event(&other));
            prop_assert_eq!(read_event(&key), Some((one.record, one.event_type)));
            let (whose, whose_next) = ((one.record, one.event_type), (other.record, other.event_type));
            if whose != whose_next {
                prop_assert_eq!(key.cmp(&next), whose.cmp(&whose_next));
            }
            prop_assert!(key.starts_with(&one.record.0));
            prop_assert_eq!(key == next, one == other);
            prop_assert!(key.len() <= 16 + 4 + MAX_TEXT);
        }

        #[test]
        fn keys_of_changes_and_undo_sort_by_time(
            times in (0_i64.., 0_i64..),
            commits: (u64, u64),
            record in event_key(),
            other in event_key(),
        ) {
            let (key, next) = (change(times.0, commits.0), change(times.1, commits.1));
            prop_assert_eq!(read_time(&key), Some(times.0));
            prop_assert_eq!(key.cmp(&next), (times.0, commits.0).cmp(&(times.1, commits.1)));

            let stored = event(&record);
            let rest = stored.get(16..).unwrap();
            let (key, next) = (undo(times.0, record.record, commits.0, rest), undo(times.1, other.record, commits.1, &[]));
            prop_assert_eq!(read_time(&key), Some(times.0));
            let prefix = undo_prefix(times.0, record.record);
            prop_assert_eq!(key.strip_prefix(prefix.as_slice()).and_then(read_undo_event), Some(rest));
            prop_assert_eq!(next.strip_prefix(undo_prefix(times.1, other.record).as_slice()).and_then(read_undo_event), Some(&[][..]));
            let (order, next_order) = ((times.0, record.record, commits.0), (times.1, other.record, commits.1));
            if order != next_order {
                prop_assert_eq!(key.cmp(&next), order.cmp(&next_order));
            }
        }

        #[test]
        fn numbers_come_back(number: u64, signed: i64, short: u32) {
            prop_assert_eq!(read_u64(&number.to_be_bytes()), Some(number));
            prop_assert_eq!(read_i64(&signed.to_be_bytes()), Some(signed));
            prop_assert_eq!(read_u32(&short.to_be_bytes()), Some(short));
            prop_assert_eq!(read_u64(&short.to_be_bytes()), None);
        }
    }
}
