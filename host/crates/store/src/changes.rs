use std::collections::HashMap;

use rocksdb::{Direction, IteratorMode, WriteBatch};
use sluicebox_model::RecordId;

use crate::keys::{self, CHANGES, LISTED, RECORDS};
use crate::open::durable;
use crate::{Store, StoreError};

/// Lists of changes are kept for at least so many records: reading them costs less than looking at all.
const FEWEST_LISTED: u64 = 100_000;

/// In the length of the file's name: the ids that follow are shortened.
const SHORT: u32 = 1 << 31;
/// Bytes of a file's name; paths are shorter.
const LONGEST_FILE: usize = 1 << 16;

/// Where the changes of a commit come from.
#[derive(Clone, Copy, Debug)]
pub struct Changed<'a> {
    /// The time of the goal run, in milliseconds since the epoch.
    pub now: i64,
    /// The file; empty where it is none.
    pub file: &'a str,
    /// Whether what is overwritten is kept, so that it can be put back.
    pub keep: bool,
}

/// A list of what a commit changed.
struct Listed {
    now: i64,
    goal_run: u64,
    file: String,
    ids: Vec<RecordId>,
}

impl Changed<'_> {
    /// The entry that lists sorted ids; none if there are none.
    pub(crate) fn entry(&self, ids: &[RecordId], goal_run: u64, commit: u64) -> Option<(Vec<u8>, Vec<u8>)> {
        if ids.is_empty() {
            return None;
        }
        let key = [self.now.to_be_bytes(), commit.to_be_bytes()].concat();
        let mut list = Vec::with_capacity(16 + self.file.len() + ids.len() * 4);
        list.extend_from_slice(&goal_run.to_be_bytes());
        let file = self.file.get(..self.file.floor_char_boundary(LONGEST_FILE)).unwrap_or_default();
        list.extend_from_slice(&(SHORT | file.len() as u32).to_be_bytes());
        list.extend_from_slice(file.as_bytes());
        list.extend_from_slice(&u32::try_from(ids.len()).unwrap_or(u32::MAX).to_be_bytes());
        let mut last = [0; 16];
        for id in ids {
            shorten(&last, &id.0, &mut list);
            last = id.0;
        }
        Some((key, list))
    }
}

/// Appends an id after another one: a byte with how many bytes they have in common at the start, and in its lower half at the
/// end, fifteen at most; and those between. Ids that were made together differ in two or three bytes.
fn shorten(last: &[u8; 16], id: &[u8; 16], list: &mut Vec<u8>) {
    let pairs = || last.iter().zip(id);
    let start = pairs().take_while(|(one, other)| one == other).count().min(15);
    let end = pairs().rev().take_while(|(one, other)| one == other).count().min(15 - start);
    list.push((start << 4 | end) as u8);
    list.extend_from_slice(id.get(start..16 - end).unwrap_or_default());
}

/// Reads what [`shorten`] appended.
fn lengthen(last: &[u8; 16], list: &mut &[u8]) -> Option<[u8; 16]> {
    let (common, rest) = list.split_first()?;
    let (start, end) = (usize::from(common >> 4), usize::from(common & 15));
    let mut id = *last;
    let between = id.get_mut(start..16_usize.checked_sub(end)?)?;
    let (bytes, rest) = rest.split_at_checked(between.len())?;
    between.copy_from_slice(bytes);
    *list = rest;
    Some(id)
}

impl Listed {
    fn decode(key: &[u8], list: &[u8]) -> Option<Self> {
        let now = keys::read_i64(key.get(..8)?)?;
        let Parts { goal_run, file, short, ids } = Parts::of(list)?;
        let ids = if short { short_ids(ids) } else { whole_ids(ids) }?;
        Some(Self { now, goal_run, file: String::from_utf8(file.to_vec()).ok()?, ids })
    }
}

/// A list as bytes.
struct Parts<'a> {
    goal_run: u64,
    file: &'a [u8],
    /// Whether the ids are shortened, and begin with their number.
    short: bool,
    ids: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(list: &'a [u8]) -> Option<Self> {
        let (goal_run, list) = list.split_at_checked(8)?;
        let (length, list) = list.split_at_checked(4)?;
        let length = keys::read_u32(length)?;
        let (file, ids) = list.split_at_checked(usize::try_from(length & !SHORT).ok()?)?;
        Some(Self { goal_run: keys::read_u64(goal_run)?, file, short: length & SHORT != 0, ids })
    }
}

/// The ids of a list of layout 3 and before, as they are.
fn whole_ids(list: &[u8]) -> Option<Vec<RecordId>> {
    let (ids, rest) = list.as_chunks();
    rest.is_empty().then(|| ids.iter().map(|id| RecordId(*id)).collect())
}

fn short_ids(list: &[u8]) -> Option<Vec<RecordId>> {
    let (count, mut list) = list.split_at_checked(4)?;
    let mut last = [0; 16];
    let mut next = || {
        last = lengthen(&last, &mut list)?;
        Some(RecordId(last))
    };
    let ids = (0..keys::read_u32(count)?).map(|_| next()).collect::<Option<Vec<_>>>()?;
    list.is_empty().then_some(ids)
}

/// How many ids a list has.
fn count(list: &[u8]) -> Option<u64> {
    let Parts { short, ids, .. } = Parts::of(list)?;
    if short { keys::read_u32(ids.get(..4)?).map(u64::from) } else { Some((ids.len() / 16) as u64) }
}

impl Store {
    /// The records that changed after a time, sorted; `None` where the lists do not reach back so far.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn changed_since(&self, since: i64) -> Result<Option<Vec<RecordId>>, StoreError> {
        if since < self.listed_from()? {
            return Ok(None);
        }
        let mut ids = Vec::new();
        for listed in self.listed(since.saturating_add(1))? {
            ids.extend(listed?.ids);
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(Some(ids))
    }

    /// The goal run and the file that changed a record at a time, if that is listed.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn changed_by(&self, record: RecordId, at: i64) -> Result<Option<(u64, String)>, StoreError> {
        for listed in self.listed(at)? {
            let listed = listed?;
            if listed.now != at {
                break;
            }
            if listed.ids.binary_search(&record).is_ok() {
                return Ok(Some((listed.goal_run, listed.file)));
            }
        }
        Ok(None)
    }

    /// After which time changes are listed.
    pub(crate) fn listed_from(&self) -> Result<i64, StoreError> {
        match self.db.get(LISTED)? {
            // A store that an older version made and nobody has written to since.
            None => Ok(i64::MAX),
            Some(from) => keys::read_i64(&from).ok_or(StoreError::Damaged("the list of changes")),
        }
    }

    /// The time of the last listed change of each record.
    pub(crate) fn last_changes(&self) -> Result<HashMap<RecordId, i64>, StoreError> {
        let mut last = HashMap::new();
        for listed in self.listed(0)? {
            let listed = listed?;
            last.extend(listed.ids.iter().map(|id| (*id, listed.now)));
        }
        Ok(last)
    }

    fn listed(&self, from: i64) -> Result<impl Iterator<Item = Result<Listed, StoreError>> + '_, StoreError> {
        let entries = self.db.cf_handle(CHANGES).map(|family| {
            self.db.iterator_cf(family, IteratorMode::From(&from.to_be_bytes(), Direction::Forward))
        });
        Ok(entries.into_iter().flatten().map(|entry| {
            let (key, list) = entry?;
            Listed::decode(&key, &list).ok_or(StoreError::Damaged("the list of changes"))
        }))
    }

    /// Removes the oldest lists of changes while they name more records than there are.
    ///
    /// # Errors
    /// If the store fails or is damaged.
    pub fn trim_changes(&self) -> Result<(), StoreError> {
        let (family, records) = (self.family(CHANGES)?, self.family(RECORDS)?);
        let held = self.db.property_int_value_cf(records, "rocksdb.estimate-num-keys")?.unwrap_or_default();
        let most = held.max(FEWEST_LISTED);
        let bytes = self
            .db
            .property_int_value_cf(family, "rocksdb.estimate-live-data-size")?
            .unwrap_or_default()
            + self.db.property_int_value_cf(family, "rocksdb.cur-size-all-mem-tables")?.unwrap_or_default();
        // An id takes two bytes at least, and compressed one.
        if bytes <= most {
            return Ok(());
        }
        let mut listed = 0;
        let mut batch = WriteBatch::default();
        let mut from = None;
        for entry in self.db.iterator_cf(family, IteratorMode::End) {
            let (key, list) = entry?;
            listed += count(&list).ok_or(StoreError::Damaged("the list of changes"))?;
            if listed > most {
                let now = key.get(..8).and_then(keys::read_i64);
                let now = now.ok_or(StoreError::Damaged("the list of changes"))?;
                from = from.max(Some(now));
                batch.delete_cf(family, key);
            }
        }
        if let Some(from) = from {
            batch.put(LISTED, from.to_be_bytes());
            self.db.write_opt(batch, &durable())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sluicebox_model::{Record, RecordIds, SpaceId};

    use super::*;
    use crate::Commit;

    fn commit(store: &Store, now: i64, ids: &[RecordId]) {
        let mut record = Record::new(SpaceId(0), 0);
        record.modified = now;
        let records = ids.iter().map(|id| (*id, record.clone())).collect();
        let changed = Some(Changed { now, file: "in/a.csv", keep: false });
        store.commit(Commit { records, changed, goal_run: Some((7, vec![])), ..Commit::default() }).unwrap();
    }

    proptest! {
        #[test]
        fn ids_come_back_as_they_were(
            mut ids in prop::collection::vec(prop::array::uniform16(prop::sample::select(vec![0_u8, 1, 255])), 1..40),
            place: prop::sample::Index,
        ) {
            ids.sort();
            ids.dedup();
            let ids: Vec<RecordId> = ids.into_iter().map(RecordId).collect();
            let changed = Changed { now: 5, file: "in/a.csv", keep: false };
            let (key, list) = changed.entry(&ids, 7, 3).unwrap();
            let listed = Listed::decode(&key, &list).unwrap();
            prop_assert_eq!((listed.now, listed.goal_run, listed.file.as_str()), (5, 7, "in/a.csv"));
            prop_assert_eq!((count(&list), &listed.ids), (Some(ids.len() as u64), &ids));
            prop_assert!(Listed::decode(&key, &list[..place.index(list.len())]).is_none());
        }
    }

    #[test]
    fn lists_of_older_layouts_are_read() {
        let ids = [RecordId([1; 16]), RecordId([2; 16])];
        let list =
            [&7_u64.to_be_bytes()[..], &8_u32.to_be_bytes(), b"in/a.csv", &ids[0].0, &ids[1].0].concat();
        let listed = Listed::decode(&[0; 16], &list).unwrap();
        assert_eq!((listed.goal_run, listed.file.as_str(), listed.ids), (7, "in/a.csv", ids.to_vec()));
        assert_eq!(count(&list), Some(2));
    }

    #[test]
    fn ids_that_were_made_together_are_short() {
        let made = RecordIds::now();
        let ids: Vec<RecordId> = (0..1000).map(|number| made.get(3, number)).collect();
        let (_, list) = Changed { now: 5, file: "", keep: false }.entry(&ids, 7, 3).unwrap();
        assert!(list.len() < 2100, "{}", list.len());
    }

    #[test]
    fn changes_are_listed_once_and_forgotten_from_the_oldest_on() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let ids: Vec<RecordId> = (0..4).map(|_| RecordId::create()).collect();
        commit(&store, 10, &ids[..3]);
        commit(&store, 20, &ids[1..2]);
        commit(&store, 30, &ids[1..4]);
        assert_eq!(store.changed_since(0).unwrap(), Some(ids.clone()));
        assert_eq!(store.changed_since(10).unwrap(), Some(ids[1..].to_vec()));
        assert_eq!(store.changed_since(30).unwrap(), Some(vec![]));
        assert_eq!(store.changed_by(ids[1], 20).unwrap(), Some((7, "in/a.csv".to_owned())));
        assert_eq!(store.changed_by(ids[0], 20).unwrap(), None);

        let many: Vec<RecordId> = (0..60_000).map(|_| RecordId::create()).collect();
        commit(&store, 40, &many);
        commit(&store, 50, &many);
        // Records that were written twice are counted twice until then.
        store.compact().unwrap();
        store.trim_changes().unwrap();
        assert_eq!(store.changed_since(0).unwrap(), None);
        assert_eq!(store.changed_since(40).unwrap().map(|ids| ids.len()), Some(60_000));
    }
}
