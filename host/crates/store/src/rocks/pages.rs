//! Identifiers in pages. A page holds those whose hashes begin alike, sorted, each with the record that it finds: walking
//! through many identifiers is walking through arrays then, where single entries would take ten times as long. RocksDB merges
//! what commits wrote of a page, for each reader, and for good when it merges tables.

use std::sync::PoisonError;

use rocksdb::{DB, IteratorMode, MergeOperands, WriteBatch};
use sluicebox_model::{Identifier, IdentifierHash, IdentifierHasher, PropertyId, RecordId, SpaceId, Value};

use super::open::{LAYOUT, durable, random_key};
use super::read::record_id;
use super::{IDENTIFIERS, RocksStore};
use crate::StoreError;
use crate::keys::Meta;

/// The property, and the first 16 bits of hashes: few enough pages for a million identifiers, which are 15 on each, and enough for a
/// hundred million, of which one has 43 KB.
pub(crate) type PageKey = [u8; 6];
/// A hash without its property, and a record's id; zeros, which no id is, where the identifier finds no record any more. The
/// hash is whole, so that an entry does not depend on how many pages there are.
type Entry = [u8; ENTRY];

pub(crate) const ENTRY: usize = HASH + 16;
/// Bytes of a hash without its property.
const HASH: usize = 12;
const REMOVED: [u8; 16] = [0; 16];
/// A page with at least this many entries for each wanted identifier is searched for them one by one.
const SEARCHED: usize = 16;
/// Identifiers of an older layout that are moved at a time.
const MOVED: usize = 65_536;

/// The page of a hash.
pub(crate) fn page(hash: IdentifierHash) -> PageKey {
    let [key @ .., _, _, _, _, _, _, _, _, _, _] = hash.0.to_be_bytes();
    key
}

/// What a page has of an identifier.
fn entry(hash: IdentifierHash, id: Option<RecordId>) -> Entry {
    let [_, _, _, _, hash @ ..] = hash.0.to_be_bytes();
    let mut entry = [0; ENTRY];
    if let Some((to, of_record)) = entry.split_first_chunk_mut()
        && let Some(of_record) = of_record.first_chunk_mut()
    {
        (*to, *of_record) = (hash, id.map_or(REMOVED, |id| id.0));
    }
    entry
}

/// The hashes of a page and the record that each finds.
pub(crate) fn entries(
    key: &[u8],
    page: &[u8],
) -> Result<impl Iterator<Item = (IdentifierHash, Option<RecordId>)>, StoreError> {
    let (property, _) = key.split_first_chunk().ok_or_else(damaged)?;
    let property = u128::from(u32::from_be_bytes(*property)) << (8 * HASH);
    Ok(whole(page)?.iter().map(move |entry| (IdentifierHash(property | hash(entry)), found(entry))))
}

/// The pages of sorted identifiers, one after the other.
fn put<E>(
    identifiers: impl Iterator<Item = (IdentifierHash, Option<RecordId>)>,
    mut put: impl FnMut(PageKey, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let (mut begun, mut last, mut bytes) = (None, None, Vec::new());
    for (hash, id) in identifiers {
        let next = page(hash);
        if let Some(key) = begun.filter(|key| *key != next) {
            put(key, &bytes)?;
            bytes.clear();
        }
        if last == Some(hash) {
            bytes.truncate(bytes.len() - ENTRY);
        }
        (begun, last) = (Some(next), Some(hash));
        bytes.extend_from_slice(&entry(hash, id));
    }
    begun.map_or(Ok(()), |key| put(key, &bytes))
}

/// Adds the records that sorted hashes of one page find.
pub(crate) fn find(
    page: Option<&[u8]>,
    hashes: &[IdentifierHash],
    all: &mut Vec<Option<RecordId>>,
) -> Result<(), StoreError> {
    let mut left = whole(page.unwrap_or_default())?;
    let one_by_one = left.len() > hashes.len() * SEARCHED;
    all.extend(hashes.iter().map(|of| {
        let wanted = of.0 & ((1 << (8 * HASH)) - 1);
        let smaller = |entry: &Entry| hash(entry) < wanted;
        let passed = if one_by_one {
            left.partition_point(smaller)
        } else {
            left.iter().take_while(|entry| smaller(entry)).count()
        };
        left = left.get(passed..).unwrap_or_default();
        left.first().filter(|entry| hash(entry) == wanted).and_then(found)
    }));
    Ok(())
}

/// The page that results from what was written to it, the oldest first.
pub(crate) fn merge_whole(_: &[u8], held: Option<&[u8]>, written: &MergeOperands) -> Option<Vec<u8>> {
    merge(held.into_iter().chain(written), false)
}

/// Several writes of a page as one.
pub(crate) fn merge_writes(_: &[u8], _: Option<&[u8]>, written: &MergeOperands) -> Option<Vec<u8>> {
    merge(written.iter(), true)
}

/// The last write of an identifier counts. `None` if something is no page.
fn merge<'p>(written: impl Iterator<Item = &'p [u8]>, keep_removed: bool) -> Option<Vec<u8>> {
    let mut pages: Vec<MergeCursor> =
        written.map(|page| Some(MergeCursor::of(whole(page).ok()?))).collect::<Option<_>>()?;
    let mut merged = Vec::with_capacity(pages.iter().map(|page| page.left.len() * ENTRY).sum());
    while let Some(least) = pages.iter().map(|page| page.next).min().filter(|least| *least < NO_MORE) {
        let mut last = None;
        for page in pages.iter_mut().filter(|page| page.next == least) {
            last = page.take();
        }
        if let Some(entry) = last.filter(|entry| keep_removed || found(entry).is_some()) {
            merged.extend_from_slice(entry);
        }
    }
    Some(merged)
}

/// What is left of a page that is merged.
struct MergeCursor<'p> {
    left: &'p [Entry],
    /// The hash of the first, as [`hash`] has it.
    next: u128,
}

/// No hash of a page is as great.
const NO_MORE: u128 = u128::MAX;

impl<'p> MergeCursor<'p> {
    fn of(left: &'p [Entry]) -> Self {
        Self { left, next: left.first().map_or(NO_MORE, hash) }
    }

    fn take(&mut self) -> Option<&'p Entry> {
        let (first, left) = self.left.split_first()?;
        *self = Self::of(left);
        Some(first)
    }
}

fn hash(entry: &Entry) -> u128 {
    let mut bytes = [0; 16];
    if let Some(to) = bytes.last_chunk_mut::<HASH>()
        && let Some(from) = entry.first_chunk()
    {
        *to = *from;
    }
    u128::from_be_bytes(bytes)
}

fn found(entry: &Entry) -> Option<RecordId> {
    entry.last_chunk().filter(|id| **id != REMOVED).copied().map(RecordId)
}

fn whole(page: &[u8]) -> Result<&[Entry], StoreError> {
    let (entries, rest) = page.as_chunks();
    if rest.is_empty() { Ok(entries) } else { Err(damaged()) }
}

fn damaged() -> StoreError {
    StoreError::Damaged("a page of identifiers")
}

/// What hashes the store's identifiers. A store without a key gets one, and has the newest layout from then on.
pub(crate) fn hasher(db: &DB) -> Result<IdentifierHasher, StoreError> {
    if let Some(key) = db.get(Meta::HashKey)? {
        let key = key.as_slice().try_into().map_err(|_| StoreError::Damaged("the key of its identifiers"))?;
        return Ok(IdentifierHasher::new(key));
    }
    let key = random_key(db.path())?;
    let mut batch = WriteBatch::default();
    batch.put(Meta::HashKey, key);
    batch.put(Meta::Format, LAYOUT.to_be_bytes());
    db.write_opt(batch, &durable())?;
    Ok(IdentifierHasher::new(&key))
}

impl RocksStore {
    /// The hash of a value by which records of a space are found.
    pub(crate) fn hash(&self, space: SpaceId, property: PropertyId, value: &Value) -> IdentifierHash {
        self.hasher.hash(&Identifier::new(space, property, value).0)
    }

    /// Adds the record that an identifier finds to a batch, or removes the identifier.
    pub(crate) fn identify(
        &self,
        identifier: &Identifier,
        id: Option<RecordId>,
        batch: &mut WriteBatch,
    ) -> Result<(), StoreError> {
        self.identify_all([(self.hasher.hash(&identifier.0), id)].into_iter(), batch)
    }

    /// The same of sorted hashes of identifiers.
    pub(crate) fn identify_all(
        &self,
        identifiers: impl Iterator<Item = (IdentifierHash, Option<RecordId>)>,
        batch: &mut WriteBatch,
    ) -> Result<(), StoreError> {
        let family = self.family(IDENTIFIERS)?;
        self.put_identifiers(identifiers, |key, page| {
            batch.merge_cf(family, key, page);
            Ok(())
        })
    }

    /// Puts sorted identifiers, or that they are removed, into pages, one after the other. The last of equal identifiers
    /// counts.
    pub(crate) fn put_identifiers(
        &self,
        identifiers: impl Iterator<Item = (IdentifierHash, Option<RecordId>)>,
        put: impl FnMut(PageKey, &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut known = self.known_identifiers.lock().unwrap_or_else(PoisonError::into_inner);
        let identifiers = identifiers.inspect(|(hash, _)| {
            if let Some(known) = known.as_mut() {
                known.insert(*hash);
            }
        });
        self::put(identifiers, put)
    }

    /// Moves identifiers into pages, which layouts up to 5 have under keys of their own. Each identifier is in one place at
    /// any time, so that a move that broke off goes on.
    pub(crate) fn move_into_pages(&self) -> Result<(), StoreError> {
        if self.db.get(Meta::Paged)?.is_some() {
            return Ok(());
        }
        let family = self.family(IDENTIFIERS)?;
        let (mut batch, mut moved) = (WriteBatch::default(), 0_usize);
        for held in self.db.iterator_cf(family, IteratorMode::Start) {
            let (key, id) = held?;
            if key.len() <= size_of::<PageKey>() {
                continue;
            }
            let hash = self.hasher.hash(&key);
            self.identify_all([(hash, Some(record_id(&id)?))].into_iter(), &mut batch)?;
            batch.delete_cf(family, key);
            moved += 1;
            if moved.is_multiple_of(MOVED) {
                self.db.write(std::mem::take(&mut batch))?;
            }
        }
        batch.put(Meta::Paged, []);
        self.db.write_opt(batch, &durable())?;
        if moved >= MOVED {
            self.db.compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use sluicebox_model::Record;

    use super::*;
    use crate::Commit;

    fn hash(number: u16) -> IdentifierHash {
        // In few pages, and different at both ends of what a page has of it.
        IdentifierHash(u128::from(number % 5) << 80 | u128::from(number) << 60 | u128::from(number))
    }

    fn of_page_found(
        page: Option<&[u8]>,
        hashes: &[IdentifierHash],
    ) -> Result<Vec<Option<RecordId>>, StoreError> {
        let mut all = Vec::new();
        find(page, hashes, &mut all).map(|()| all)
    }

    fn id(number: u8) -> RecordId {
        RecordId([number; 16])
    }

    fn pages(writes: &BTreeMap<u16, u8>) -> BTreeMap<PageKey, Vec<u8>> {
        let mut pages = BTreeMap::new();
        let mut identifiers: Vec<_> =
            writes.iter().map(|(number, to)| (hash(*number), (*to > 0).then(|| id(*to)))).collect();
        identifiers.sort_unstable();
        let took = put(identifiers.into_iter(), |key, page| match pages.insert(key, page.to_vec()) {
            None => Ok(()),
            Some(_) => Err(key),
        });
        assert_eq!(took, Ok(()));
        pages
    }

    proptest! {
        #[test]
        fn pages_are_what_was_written_last(
            commits in prop::collection::vec(prop::collection::btree_map(0_u16..400, 0_u8..4, 0..80), 1..6),
            wanted in prop::collection::btree_set(0_u16..400, 0..200),
            split in 0_usize..6,
        ) {
            let mut model: BTreeMap<IdentifierHash, u8> = BTreeMap::new();
            let mut written: BTreeMap<PageKey, Vec<Vec<u8>>> = BTreeMap::new();
            for commit in &commits {
                model.extend(commit.iter().map(|(number, to)| (hash(*number), *to)));
                for (key, page) in pages(commit) {
                    written.entry(key).or_default().push(page);
                }
            }
            model.retain(|_, to| *to > 0);
            let mut found = BTreeMap::new();
            let mut wanted: Vec<IdentifierHash> = wanted.into_iter().map(hash).collect();
            wanted.sort_unstable();
            for (key, written) in &written {
                // RocksDB may merge some writes before it has all of them.
                let (first, rest) = written.split_at(split.min(written.len()));
                let first = merge(first.iter().map(Vec::as_slice), true).unwrap();
                let page = merge([first].iter().chain(rest).map(Vec::as_slice), false).unwrap();
                found.extend(entries(key, &page).unwrap().map(|(hash, id)| (hash, id.unwrap().0[0])));
                let of_page: Vec<IdentifierHash> =
                    wanted.iter().copied().filter(|hash| super::page(*hash) == *key).collect();
                let expected = of_page.iter().map(|hash| model.get(hash).map(|to| id(*to))).collect::<Vec<_>>();
                prop_assert_eq!(of_page_found(Some(&page), &of_page).unwrap(), expected);
            }
            prop_assert_eq!(found, model);
        }
    }

    #[test]
    fn bytes_that_are_no_page_are_an_error() {
        assert!(merge([[0; ENTRY + 1].as_slice()].into_iter(), true).is_none());
        assert!(of_page_found(Some(&[0; ENTRY - 1]), &[hash(1)]).is_err());
        assert_eq!(of_page_found(None, &[hash(1), hash(2)]).unwrap(), [None, None]);
    }

    fn identifier(number: u32) -> Identifier {
        Identifier::new(SpaceId(1), PropertyId(7), &Value::Text(format!("c{number}").into()))
    }

    #[test]
    fn a_store_of_an_older_layout_is_moved_into_pages() {
        let folder = tempfile::tempdir().unwrap();
        let store = RocksStore::open(folder.path()).unwrap();
        let to = |number: u32| RecordId(u128::from(number + 1).to_be_bytes());
        let records = (0..100_000).map(|number| (to(number), Record::new(SpaceId(1), 1))).collect();
        store.commit(Commit { records, ..Commit::default() }).unwrap();
        // As one of layout 5 is, whose move broke off after the first identifiers.
        let family = store.family(IDENTIFIERS).unwrap();
        for number in 0..100_000 {
            let identifier = identifier(number);
            if number < 10 {
                let hash = store.hasher.hash(&identifier.0);
                store.db.merge_cf(family, page(hash), entry(hash, Some(to(number)))).unwrap();
            } else {
                store.db.put_cf(family, &identifier.0, to(number).0).unwrap();
            }
        }
        store.db.delete(Meta::Paged).unwrap();
        drop(store);
        for open in [|path| RocksStore::open_read_only(path).map(Option::unwrap), RocksStore::open] {
            let store = open(folder.path()).unwrap();
            let found = |number| store.find(&identifier(number)).unwrap();
            let numbers = [0, 9, 10, 65_600, 99_999, 100_000];
            assert_eq!(
                numbers.map(found),
                [0, 9, 10, 65_600, 99_999]
                    .map(|number| Some(to(number)))
                    .into_iter()
                    .chain([None])
                    .collect::<Vec<_>>()[..]
            );
            let keys = store.db.iterator_cf(store.family(IDENTIFIERS).unwrap(), IteratorMode::Start);
            assert!(keys.into_iter().all(|held| held.unwrap().0.len() == size_of::<PageKey>()));
        }
        // One that has no key yet, as all of older layouts.
        let store = RocksStore::open(folder.path()).unwrap();
        store
            .db
            .delete_range_cf(store.family(IDENTIFIERS).unwrap(), [0; 6].as_slice(), [255; 7].as_slice())
            .unwrap();
        store.db.put_cf(store.family(IDENTIFIERS).unwrap(), &identifier(3).0, to(3).0).unwrap();
        for key in [Meta::Paged, Meta::HashKey, Meta::Format] {
            store.db.delete(key).unwrap();
        }
        drop(store);
        let store = RocksStore::open_read_only(folder.path()).unwrap().unwrap();
        assert_eq!(store.find(&identifier(3)).unwrap(), Some(to(3)));
        assert_eq!(store.stats().unwrap().layout, LAYOUT);
    }
}
