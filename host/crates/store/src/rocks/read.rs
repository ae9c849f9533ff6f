use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, mpsc};
use std::thread;

use rocksdb::{ColumnFamily, DBRawIterator, IteratorMode, ReadOptions};
use sluicebox_model::{Event, EventKey, Identifier, IdentifierHash, IdentifierHasher, Record, RecordId};

use super::pages::{self, PageKey};
use super::{EVENTS, IDENTIFIERS, RECORDS, RocksStore, entries_of};
use crate::keys::{self, KeyKind};
use crate::record_format::{Stored, decode, decode_event};
use crate::{FileState, StoreError, Unfinished};

/// Keys of one call to RocksDB: enough to share the work of a block, few enough to pin little memory.
const LOOKUPS: usize = 1024;
/// A walk is chosen where it passes no more entries for each key than this: pages of identifiers are short, and most of them
/// are in several tables, which a lookup reads one after the other; records are long.
const WALKED_PER_PAGE: u64 = 12;
const WALKED_PER_RECORD: u64 = 4;
/// A walk that would pass more entries to the next key seeks that key.
const MAX_STEPS: u32 = 128;
/// Fewer keys are not worth another thread.
const KEYS_PER_THREAD: usize = 8192;
/// Parts of the keys for each thread, about; a part has no fewer keys than are worth beginning one.
const PARTS_PER_THREAD: usize = 8;
const KEYS_PER_PART: usize = 512;
/// Threads that look keys up: mostly they wait for the disk, if the store is not in memory.
const THREADS_PER_CORE: usize = 8;
/// Bytes that a walk reads ahead.
const READ_AHEAD: usize = 256 << 10;
/// Merged records lead to the one that stayed in few steps: more are a loop.
const MAX_CHAIN: usize = 64;

impl RocksStore {
    pub(crate) fn family(&self, name: &'static str) -> Result<&ColumnFamily, StoreError> {
        self.db.cf_handle(name).ok_or(StoreError::Damaged("a column family is missing"))
    }

    pub(crate) fn hasher(&self) -> IdentifierHasher {
        self.hasher
    }

    pub(crate) fn find_sorted(&self, hashes: &[IdentifierHash]) -> Result<Vec<Option<RecordId>>, StoreError> {
        let known = self.known_identifiers.lock().unwrap_or_else(PoisonError::into_inner);
        let may_be_there = known.as_ref().map(|known| {
            (0..).zip(hashes).filter(|(_, hash)| known.may_hold(**hash)).collect::<Vec<(usize, _)>>()
        });
        drop(known);
        let Some(may_be_there) = may_be_there else { return self.find_in_pages(hashes) };
        let wanted: Vec<IdentifierHash> = may_be_there.iter().map(|(_, hash)| **hash).collect();
        let mut found = vec![None; hashes.len()];
        for ((place, _), id) in may_be_there.into_iter().zip(self.find_in_pages(&wanted)?) {
            if let Some(found) = found.get_mut(place) {
                *found = id;
            }
        }
        Ok(found)
    }

    fn find_in_pages(&self, hashes: &[IdentifierHash]) -> Result<Vec<Option<RecordId>>, StoreError> {
        let of_pages = hashes.chunk_by(|one, next| pages::page(*one) == pages::page(*next));
        let wanted =
            of_pages.filter_map(|hashes| Some(PageLookup { key: pages::page(*hashes.first()?), hashes }));
        self.get_sorted(IDENTIFIERS, &wanted.collect::<Vec<_>>(), hashes.len(), |wanted, page, found| {
            pages::find(page, wanted.hashes, found)
        })
    }

    pub(crate) fn load_sorted(
        &self,
        ids: &[RecordId],
    ) -> Result<Vec<Option<(RecordId, Record)>>, StoreError> {
        self.get_sorted(RECORDS, ids, ids.len(), |id, stored, records| self.read_record(*id, stored, records))
    }

    pub(crate) fn load_part(
        &self,
        ids: &[RecordId],
        all: usize,
    ) -> Result<Vec<Option<(RecordId, Record)>>, StoreError> {
        let family = self.family(RECORDS)?;
        let read = |id: &RecordId, stored: Option<&[u8]>, records: &mut Vec<_>| {
            self.read_record(*id, stored, records)
        };
        if self.walks(RECORDS, all)? {
            self.walk(family, ids, &read)
        } else {
            self.get_each(family, ids, &read)
        }
    }

    fn read_record(
        &self,
        id: RecordId,
        stored: Option<&[u8]>,
        records: &mut Vec<Option<(RecordId, Record)>>,
    ) -> Result<(), StoreError> {
        records.push(match stored.map(decode).transpose()? {
            None => None,
            Some(Stored::Record(record)) => Some((id, record)),
            Some(Stored::MergedInto(merged)) => self.follow(merged.record)?,
        });
        Ok(())
    }

    /// Whether a walk through a family finds this many keys faster than lookups.
    fn walks(&self, name: &'static str, keys: usize) -> Result<bool, StoreError> {
        let entries = self.db.property_int_value_cf(self.family(name)?, "rocksdb.estimate-num-keys")?;
        let passed = if name == RECORDS { WALKED_PER_RECORD } else { WALKED_PER_PAGE };
        Ok(keys as u64 * passed >= entries.unwrap_or_default())
    }

    /// Reads what is stored under each of the sorted keys, on several threads; about `all` results in all.
    fn get_sorted<K: AsRef<[u8]> + Sync, T: Send>(
        &self,
        name: &'static str,
        keys: &[K],
        all: usize,
        read: impl Fn(&K, Option<&[u8]>, &mut Vec<T>) -> Result<(), StoreError> + Sync,
    ) -> Result<Vec<T>, StoreError> {
        let family = self.family(name)?;
        let walks = self.walks(name, keys.len())?;
        let get =
            |keys| if walks { self.walk(family, keys, &read) } else { self.get_each(family, keys, &read) };
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let threads = if walks { cores } else { cores * THREADS_PER_CORE };
        if threads == 1 || keys.len() < KEYS_PER_THREAD {
            return get(keys);
        }
        // Parts take different times: a thread that is done with one takes the next.
        let size = (keys.len() / (threads * PARTS_PER_THREAD)).max(KEYS_PER_PART);
        let (parts, next) = (keys.chunks(size).collect::<Vec<_>>(), AtomicUsize::new(0));
        let (send, received) = mpsc::channel();
        let take = |send: mpsc::Sender<_>| {
            while let place = next.fetch_add(1, Ordering::Relaxed)
                && let Some(keys) = parts.get(place)
            {
                let found = get(keys);
                let failed = found.is_err();
                if send.send((place, found)).is_err() || failed {
                    break;
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..threads {
                let send = send.clone();
                scope.spawn(|| take(send));
            }
            drop(send);
            // Results are moved out of the threads' memory in order, as soon as those before them are there.
            let (mut all, mut taken) = (Vec::with_capacity(all), 0);
            let mut early: Vec<Option<Vec<T>>> = (0..parts.len()).map(|_| None).collect();
            for (place, found) in received {
                if let Some(part) = early.get_mut(place) {
                    *part = Some(found?);
                }
                while let Some(mut part) = early.get_mut(taken).and_then(Option::take) {
                    all.append(&mut part);
                    taken += 1;
                }
            }
            if taken < parts.len() { Err(StoreError::Damaged("a lookup")) } else { Ok(all) }
        })
    }

    fn get_each<K: AsRef<[u8]>, T>(
        &self,
        family: &ColumnFamily,
        keys: &[K],
        read: &impl Fn(&K, Option<&[u8]>, &mut Vec<T>) -> Result<(), StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut all = Vec::with_capacity(keys.len());
        let mut options = ReadOptions::default();
        // The keys are sorted: no block is needed again.
        options.fill_cache(false);
        for keys in keys.chunks(LOOKUPS) {
            let found = self.db.batched_multi_get_cf_opt(family, keys, true, &options);
            for (key, found) in keys.iter().zip(found) {
                read(key, found?.as_deref(), &mut all)?;
            }
        }
        Ok(all)
    }

    /// Finds keys by walking through a family once.
    fn walk<K: AsRef<[u8]>, T>(
        &self,
        family: &ColumnFamily,
        keys: &[K],
        read: &impl Fn(&K, Option<&[u8]>, &mut Vec<T>) -> Result<(), StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut all = Vec::with_capacity(keys.len());
        let mut entries = self.walk_through(family);
        // Once it is at its end, nothing is left for greater keys.
        let mut begun = false;
        for wanted in keys {
            let key = wanted.as_ref();
            walk_to(key, &mut entries, &mut begun);
            match entries.item() {
                Some((held, stored)) if held == key => read(wanted, Some(stored), &mut all)?,
                _ => {
                    entries.status()?;
                    read(wanted, None, &mut all)?;
                }
            }
        }
        Ok(all)
    }

    /// Entries of a family, to be read in their order.
    pub(super) fn walk_through<'s>(&'s self, family: &ColumnFamily) -> DBRawIterator<'s> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_readahead_size(READ_AHEAD);
        self.db.raw_iterator_cf_opt(family, options)
    }

    fn follow(&self, mut id: RecordId) -> Result<Option<(RecordId, Record)>, StoreError> {
        for _ in 0..MAX_CHAIN {
            match self.db.get_pinned_cf(self.family(RECORDS)?, id.0)? {
                None => return Ok(None),
                Some(bytes) => match decode(&bytes)? {
                    Stored::Record(record) => return Ok(Some((id, record))),
                    Stored::MergedInto(merged) => id = merged.record,
                },
            }
        }
        Err(StoreError::Damaged("merged records lead to each other"))
    }

    pub(crate) fn load(&self, id: RecordId) -> Result<Option<(RecordId, Record)>, StoreError> {
        self.follow(id)
    }

    pub(crate) fn find(&self, identifier: &Identifier) -> Result<Option<RecordId>, StoreError> {
        let hash = self.hasher.hash(&identifier.0);
        let page = self.db.get_pinned_cf(self.family(IDENTIFIERS)?, pages::page(hash))?;
        let mut found = Vec::with_capacity(1);
        pages::find(page.as_deref(), &[hash], &mut found)?;
        Ok(found.pop().flatten())
    }

    pub(crate) fn records(
        &self,
    ) -> Result<impl Iterator<Item = Result<(RecordId, Record), StoreError>> + '_, StoreError> {
        let entries = self.db.iterator_cf(self.family(RECORDS)?, IteratorMode::Start);
        Ok(entries.filter_map(|entry| {
            let read = || {
                let (id, bytes) = entry?;
                Ok(match decode(&bytes)? {
                    Stored::Record(record) => Some((record_id(&id)?, record)),
                    Stored::MergedInto(_) => None,
                })
            };
            read().transpose()
        }))
    }

    pub(crate) fn file_state(&self, key: &[u8; 32]) -> Result<Option<FileState>, StoreError> {
        let bytes = self.db.get(KeyKind::Ledger.key(key))?;
        bytes.map(|bytes| FileState::decode(&bytes).ok_or(StoreError::Damaged("the ledger"))).transpose()
    }

    pub(crate) fn import_note(&self, key: &[u8; 32]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.db.get(KeyKind::ImportNote.key(key))?)
    }

    pub(crate) fn digest(&self, version: &str) -> Result<Option<[u8; 32]>, StoreError> {
        let key = KeyKind::Digest.key(blake3::hash(version.as_bytes()).as_bytes());
        Ok(self.db.get(key)?.and_then(|digest| digest.try_into().ok()))
    }

    pub(crate) fn unfinished(&self) -> Result<Vec<Unfinished>, StoreError> {
        let mut sets = Vec::new();
        for entry in entries_of(&self.db, KeyKind::Unfinished) {
            let (key, rest) = entry?;
            let key = key.try_into().map_err(|_| StoreError::Damaged("the list of unfinished files"))?;
            sets.push((key, rest));
        }
        Ok(sets)
    }

    pub(crate) fn load_events_sorted(&self, keys: &[EventKey]) -> Result<Vec<Option<Event>>, StoreError> {
        let Some(family) = self.db.cf_handle(EVENTS) else { return Ok(vec![None; keys.len()]) };
        let mut events = Vec::with_capacity(keys.len());
        for keys in keys.chunks(LOOKUPS) {
            // The keys' order is that of their bytes but for long ids, which are hashed.
            let keys: Vec<Vec<u8>> = keys.iter().map(keys::event).collect();
            for stored in self.db.batched_multi_get_cf(family, keys.iter(), false) {
                events.push(match stored? {
                    None => None,
                    Some(bytes) => Some(decode_event(&bytes)?.1),
                });
            }
        }
        Ok(events)
    }

    pub(crate) fn events_of(&self, record: RecordId) -> Result<Vec<(EventKey, Event)>, StoreError> {
        let events = self.events_from(record)?;
        let of_record = |entry: &Result<(EventKey, Event), StoreError>| {
            entry.as_ref().map_or(true, |(key, _)| key.record == record)
        };
        events.take_while(of_record).collect()
    }

    pub(crate) fn events(
        &self,
    ) -> Result<impl Iterator<Item = Result<(EventKey, Event), StoreError>> + '_, StoreError> {
        self.events_from(RecordId([0; 16]))
    }

    fn events_from(
        &self,
        record: RecordId,
    ) -> Result<impl Iterator<Item = Result<(EventKey, Event), StoreError>> + '_, StoreError> {
        // A store of layout 1 that is open for reading has none.
        let entries = self.db.cf_handle(EVENTS).map(|family| {
            self.db.iterator_cf(family, IteratorMode::From(&record.0, rocksdb::Direction::Forward))
        });
        Ok(entries.into_iter().flatten().map(|entry| {
            let (key, bytes) = entry?;
            let (id, event) = decode_event(&bytes)?;
            let read = keys::read_event(&key);
            let (record, event_type) = read.ok_or(StoreError::Damaged("the key of an event"))?;
            Ok((EventKey { record, event_type, id }, event))
        }))
    }

    pub(crate) fn report_of(&self, goal_run: u64) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.db.get(KeyKind::History.key(&goal_run.to_be_bytes()))?)
    }

    pub(crate) fn history(&self) -> impl Iterator<Item = Result<(u64, Box<[u8]>), StoreError>> + '_ {
        let last = KeyKind::History.key(&[0xff; 8]);
        let entries = self.db.iterator(IteratorMode::From(&last, rocksdb::Direction::Reverse));
        entries
            .map(|entry| {
                let (key, report) = entry?;
                let Some(number) = KeyKind::History.rest(&key) else { return Ok(None) };
                let number = keys::read_u64(number).ok_or(StoreError::Damaged("the history"))?;
                Ok(Some((number, report)))
            })
            .map_while(Result::transpose)
    }
}

/// Walks to a key, or to where it would be; keys come in their order. `begun`: whether the walk has begun.
pub(super) fn walk_to(key: &[u8], entries: &mut DBRawIterator<'_>, begun: &mut bool) {
    let mut steps = 0;
    while entries.key().is_some_and(|held| held < key) && steps < MAX_STEPS {
        entries.next();
        steps += 1;
    }
    if steps == MAX_STEPS || !*begun {
        entries.seek(key);
        *begun = true;
    }
}

/// Hashes that are looked up in one page.
struct PageLookup<'h> {
    key: PageKey,
    hashes: &'h [IdentifierHash],
}

impl AsRef<[u8]> for PageLookup<'_> {
    fn as_ref(&self) -> &[u8] {
        &self.key
    }
}

pub(crate) fn record_id(bytes: &[u8]) -> Result<RecordId, StoreError> {
    bytes.try_into().map(RecordId).map_err(|_| StoreError::Damaged("a record's id"))
}
