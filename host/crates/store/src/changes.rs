//! Lists of what commits changed, in commit order, so that an export of few changes does not read the whole store.
//!
//! A list is the goal run, u64, the length of the file's name, u32, and its text; then the ids, sorted. Where the highest
//! bit of that length is set, which it is since layout 4, the number of ids follows, u32, and each id without what it has
//! in common with the one before ([`shorten`]); otherwise ids have 16 bytes each. Integers are big endian.

use sluicebox_model::{OrNever, Record, RecordId};

use crate::keys;

/// In the length of the file's name: the ids that follow are shortened.
const SHORT: u32 = 1 << 31;
/// Bytes of a file's name; paths are shorter.
const MAX_FILE: usize = 1 << 16;

/// Where the changes of a commit come from.
#[derive(Clone, Copy, Debug)]
pub struct Changed<'a> {
    /// The file; empty where there is none.
    pub file: &'a str,
    /// Whether overwritten values are retained, so that the goal run can be undone.
    pub keep: bool,
}

/// A position in the order in which changes are committed: [`Store::changed_since`](crate::Store::changed_since) lists what
/// was committed after it. Only the store knows what the position means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeCursor(i64);

impl ChangeCursor {
    /// The cursor of everything that goal runs up to this time changed. Where one goal run follows the other, they commit in the
    /// order of their times.
    pub(crate) fn at(time: i64) -> Self {
        Self(time)
    }

    /// The time of [`ChangeCursor::at`].
    pub(crate) fn time(self) -> i64 {
        self.0
    }

    /// Whether a record changed after it.
    pub(crate) fn is_before(self, record: &Record) -> bool {
        record.modified > self.0
    }

    /// The cursor as bytes, to be kept.
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// Reads what [`ChangeCursor::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        keys::read_i64(bytes).map(Self)
    }
}

/// A list of what a commit changed.
pub(crate) struct Listed {
    /// The time of the goal run.
    pub time: i64,
    pub ids: Vec<RecordId>,
}

/// The list of sorted ids that a commit of a goal run changed; `None` if there are none.
pub(crate) fn list(ids: &[RecordId], goal_run: u64, file: &str) -> Option<Vec<u8>> {
    if ids.is_empty() {
        return None;
    }
    let mut list = Vec::with_capacity(16 + file.len() + ids.len() * 4);
    list.extend_from_slice(&goal_run.to_be_bytes());
    let file = file.get(..file.floor_char_boundary(MAX_FILE)).unwrap_or_default();
    list.extend_from_slice(&(SHORT | file.len() as u32).to_be_bytes());
    list.extend_from_slice(file.as_bytes());
    list.extend_from_slice(&u32::try_from(ids.len()).or_never("the number of ids").to_be_bytes());
    let mut last = [0; 16];
    for id in ids {
        shorten(&last, &id.0, &mut list);
        last = id.0;
    }
    Some(list)
}

/// Appends an id after another one: a byte with how many bytes they have in common at the start, and in its lower half how
/// many at the end, up to fifteen; then the bytes in between. Ids that were made together differ in two or three bytes.
fn shorten(last: &[u8; 16], id: &[u8; 16], list: &mut Vec<u8>) {
    let pairs = || last.iter().zip(id);
    let start = pairs().take_while(|(one, other)| one == other).count().min(15);
    let end = pairs().rev().take_while(|(one, other)| one == other).count().min(15 - start);
    list.push((start << 4 | end) as u8);
    list.extend_from_slice(id.get(start..16 - end).or_never("the middle of an id"));
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
    /// Reads a list and the time in its key.
    pub(crate) fn decode(key: &[u8], list: &[u8]) -> Option<Self> {
        let time = keys::read_time(key)?;
        let Parts { short, ids } = Parts::of(list)?;
        let ids = if short { short_ids(ids) } else { whole_ids(ids) }?;
        Some(Self { time, ids })
    }
}

/// A list as bytes.
struct Parts<'a> {
    /// Whether the ids are shortened, and begin with their number.
    short: bool,
    ids: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(list: &'a [u8]) -> Option<Self> {
        let (_goal_run, list) = list.split_at_checked(8)?;
        let (length, list) = list.split_at_checked(4)?;
        let length = keys::read_u32(length)?;
        let (_file, ids) = list.split_at_checked(usize::try_from(length & !SHORT).ok()?)?;
        Some(Self { short: length & SHORT != 0, ids })
    }
}

/// The ids of a list of layout 3 and before, which are not shortened.
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
pub(crate) fn count(list: &[u8]) -> Option<u64> {
    let Parts { short, ids, .. } = Parts::of(list)?;
    if short { keys::read_u32(ids.get(..4)?).map(u64::from) } else { Some((ids.len() / 16) as u64) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sluicebox_model::RecordIds;

    use super::*;

    proptest! {
        #[test]
        fn ids_come_back_as_they_were(
            mut ids in prop::collection::vec(prop::array::uniform16(prop::sample::select(vec![0_u8, 1, 255])), 1..40),
            place: prop::sample::Index,
        ) {
            ids.sort();
            ids.dedup();
            let ids: Vec<RecordId> = ids.into_iter().map(RecordId).collect();
            let (key, list) = (keys::change(5, 3), list(&ids, 7, "in/a.csv").unwrap());
            let listed = Listed::decode(&key, &list).unwrap();
            prop_assert_eq!((listed.time, count(&list), &listed.ids), (5, Some(ids.len() as u64), &ids));
            prop_assert!(Listed::decode(&key, &list[..place.index(list.len())]).is_none());
        }
    }

    #[test]
    fn lists_of_older_layouts_are_read() {
        let ids = [RecordId([1; 16]), RecordId([2; 16])];
        let list =
            [&7_u64.to_be_bytes()[..], &8_u32.to_be_bytes(), b"in/a.csv", &ids[0].0, &ids[1].0].concat();
        let listed = Listed::decode(&[0; 16], &list).unwrap();
        assert_eq!(listed.ids, ids);
        assert_eq!(count(&list), Some(2));
    }

    #[test]
    fn ids_that_were_made_together_are_short() {
        let made = RecordIds::now();
        let ids: Vec<RecordId> = (0..1000).map(|number| made.get(3, number)).collect();
        let list = list(&ids, 7, "").unwrap();
        assert!(list.len() < 2100, "{}", list.len());
    }
}
