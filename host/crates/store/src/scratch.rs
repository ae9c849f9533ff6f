//! The rows of linked files for the time of an import, found by the value that links them: in memory, or, where they would
//! take too much of it, in a RocksDB of their own, so that a linked file may be larger than memory.
//!
//! | key | value |
//! | --- | --- |
//! | `r` file u32, hash of the link u128, number of the row u64 | the row's cells: their number u32, each end u32, the text |
//! | `c` file u32, hash of the link u128 | present when a row of the parent file has this value |
//!
//! Integers in keys are big endian. Values are told apart by their hashes alone, SipHash-1-3 with 128 bits and a key of its own for each
//! import: whoever writes a file cannot make two values one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::slice::ParallelSliceMut;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Direction, IteratorMode, Options, WriteBatch,
    WriteOptions,
};
use siphasher::sip128::SipHasher13;
use sluicebox_model::Column;

use crate::StoreError;
use crate::open::{folder, io};

const ROW: u8 = b'r';
const CLAIM: u8 = b'c';
const MEBIBYTE: usize = 1024 * 1024;
/// Bytes of rows that lie together in memory; a longer row lies alone.
const BLOCK: usize = MEBIBYTE;
/// Bytes that are written to the disk at a time.
const WRITTEN_AT_ONCE: usize = 4 * MEBIBYTE;
/// Bytes of a key before its row's number.
const PREFIX: usize = 1 + 4 + 16;

/// The hash of a value that links rows to one of the parent file; in halves, for the sake of their alignment.
type Link = (u64, u64);

/// Rows of linked files by the value that links them. What is on the disk is gone when it is dropped.
pub struct Scratch {
    path: PathBuf,
    hasher: SipHasher13,
    /// Bytes that may be in memory.
    most_bytes: usize,
    files: BTreeMap<u32, Held>,
    /// The bytes of rows in memory, and how many they are.
    blocks: Vec<Vec<u8>>,
    bytes: usize,
    /// Where all rows are once they were too many for memory, and how many those are.
    db: Option<DB>,
    spilled: u64,
}

/// What is in memory of a file.
#[derive(Default)]
struct Held {
    /// Sorted once they are complete.
    rows: Vec<Row>,
    /// The links that rows of the parent file have.
    claims: Vec<Link>,
    /// Of complete rows: whether a row of the parent file has the link of which this is the first.
    claimed: Vec<AtomicBool>,
    /// Where the rows begin whose links begin with each number of `bits` bits, and where the last of them end.
    starts: Vec<u32>,
    bits: u32,
}

/// A row's link, and where its bytes begin. Rows of a link sort as they came.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    link: Link,
    block: u32,
    from: u32,
}

impl Scratch {
    /// An empty one, with a folder of its own for what does not fit into so many bytes of memory; it must not be there.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn new(path: &Path, most_bytes: usize) -> Result<Self, StoreError> {
        let mut key = [0; 16];
        getrandom::fill(&mut key).map_err(|error| io(path)(std::io::Error::other(error.to_string())))?;
        Ok(Self {
            path: path.to_owned(),
            hasher: SipHasher13::new_with_key(&key),
            most_bytes,
            files: BTreeMap::new(),
            blocks: Vec::new(),
            bytes: 0,
            db: None,
            spilled: 0,
        })
    }

    fn link(&self, value: &str) -> Link {
        let hash = self.hasher.hash(value.as_bytes());
        (hash.h1, hash.h2)
    }

    /// Keeps rows of a linked file, each with its link's value and its cells. Those of a value are found in the order in which they come.
    ///
    /// # Errors
    /// If the disk is full, or fails.
    pub fn put<'r, C: Iterator<Item = &'r str> + Clone>(
        &mut self,
        file: u32,
        rows: impl IntoIterator<Item = (&'r str, C)>,
    ) -> Result<(), StoreError> {
        for (value, cells) in rows {
            let link = self.link(value);
            let (block, from) = self.write(cells);
            self.files.entry(file).or_default().rows.push(Row { link, block, from });
        }
        self.relieve()
    }

    /// Writes a row's cells into the last block; answers where they are.
    fn write<'r>(&mut self, cells: impl Iterator<Item = &'r str> + Clone) -> (u32, u32) {
        let size = encoded_size(cells.clone());
        self.bytes += size;
        if self.blocks.last().is_none_or(|block| block.capacity() - block.len() < size) {
            self.blocks.push(Vec::with_capacity(size.max(BLOCK)));
        }
        let number = number(self.blocks.len() - 1);
        let Some(block) = self.blocks.last_mut() else { return (number, 0) };
        let from = block.len();
        encode(cells, block);
        (number, u32::try_from(from).unwrap_or(u32::MAX))
    }

    /// The bytes from where a row begins.
    fn bytes_from(&self, row: &Row) -> &[u8] {
        let block = self.blocks.get(row.block as usize);
        block.and_then(|block| block.get(row.from as usize..)).unwrap_or_default()
    }

    /// Notes that rows of the parent file have these values.
    ///
    /// # Errors
    /// If the disk is full, or fails.
    pub fn claim<'l>(
        &mut self,
        file: u32,
        values: impl IntoIterator<Item = &'l str>,
    ) -> Result<(), StoreError> {
        for value in values {
            let link = self.link(value);
            self.files.entry(file).or_default().claims.push(link);
        }
        self.relieve()
    }

    fn relieve(&mut self) -> Result<(), StoreError> {
        let lists = self.files.values().map(Held::memory).sum::<usize>();
        if self.bytes + lists > self.most_bytes { self.spill() } else { Ok(()) }
    }

    /// All rows are put: from here on they are looked up.
    ///
    /// # Errors
    /// If the disk is full, or fails.
    pub fn complete(&mut self) -> Result<(), StoreError> {
        if self.db.is_some() {
            return self.spill();
        }
        self.files.values_mut().for_each(Held::complete);
        Ok(())
    }

    /// Writes what is in memory to the disk.
    fn spill(&mut self) -> Result<(), StoreError> {
        let db = match self.db.take() {
            Some(db) => db,
            None => open(&self.path)?,
        };
        let mut batch = WriteBatch::default();
        for (file, held) in std::mem::take(&mut self.files) {
            let Held { mut rows, claims, .. } = held;
            for link in claims {
                batch.put(key(CLAIM, file, link), []);
                write_full(&db, &mut batch)?;
            }
            // Sorted keys go into the tables several times faster than random ones.
            rows.par_sort_unstable();
            for row in &rows {
                let number = self.spilled.to_be_bytes();
                self.spilled += 1;
                let (bytes, _) = split(self.bytes_from(row)).ok_or(DAMAGED)?;
                batch.put([&key(ROW, file, row.link)[..], &number].concat(), bytes);
                write_full(&db, &mut batch)?;
            }
        }
        db.write_opt(batch, &unlogged())?;
        (self.blocks, self.bytes, self.db) = (Vec::new(), 0, Some(db));
        Ok(())
    }

    /// Notes of rows that are complete that rows of the parent file have these values.
    ///
    /// # Errors
    /// If the disk is full, or fails.
    pub fn claim_complete(&self, file: u32, values: &[&str]) -> Result<(), StoreError> {
        let links = values.iter().map(|value| self.link(value));
        if let Some(db) = &self.db {
            let mut batch = WriteBatch::default();
            links.for_each(|link| batch.put(key(CLAIM, file, link), []));
            return Ok(db.write_opt(batch, &unlogged())?);
        }
        if let Some(held) = self.files.get(&file) {
            links.for_each(|link| held.claim(held.first(link)));
        }
        Ok(())
    }

    /// The rows of a linked file with each of these values, in the order of the file. At most `bytes` of rows.
    ///
    /// # Errors
    /// [`StoreError::TooManyLinked`] if there are more; or if the disk fails.
    pub fn find(&self, file: u32, values: &[&str], bytes: usize) -> Result<Vec<Vec<Column>>, StoreError> {
        let mut taken = 0;
        let mut take = |row: &[u8]| {
            let (row, text) = split(row).ok_or(DAMAGED)?;
            taken += row.len();
            if taken > bytes {
                return Err(StoreError::TooManyLinked { bytes });
            }
            decode(row, text).ok_or(DAMAGED)
        };
        let links = values.iter().map(|value| self.link(value));
        let Some(db) = &self.db else {
            let Some(held) = self.files.get(&file) else { return Ok(vec![Vec::new(); values.len()]) };
            let rows = |link| held.rows_of(link).map(|row| take(self.bytes_from(row))).collect();
            return links.map(rows).collect();
        };
        let mut found: Vec<Vec<Column>> = vec![Vec::new(); values.len()];
        let mut sorted: Vec<_> = links.zip(&mut found).collect();
        sorted.sort_unstable_by_key(|(link, _)| *link);
        let mut rows = db.raw_iterator();
        for (link, found) in sorted {
            let prefix = key(ROW, file, link);
            rows.seek(prefix);
            while let (true, Some(key), Some(row)) = (rows.valid(), rows.key(), rows.value())
                && key.starts_with(&prefix)
            {
                found.push(take(row)?);
                rows.next();
            }
            rows.status()?;
        }
        Ok(found)
    }

    /// The number of rows of a linked file whose value no row of the parent file has.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn orphans(&self, file: u32) -> Result<u64, StoreError> {
        let Some(db) = &self.db else { return Ok(self.files.get(&file).map_or(0, Held::orphans)) };
        let entries = |kind: u8| {
            let begin = [&[kind][..], &file.to_be_bytes()].concat();
            let entries = db.iterator(IteratorMode::From(&begin, Direction::Forward));
            // All entries of a file, each by its link.
            entries
                .map(move |entry| {
                    let (key, _) = entry?;
                    Ok(key.strip_prefix(begin.as_slice()).and_then(|rest| rest.first_chunk::<16>().copied()))
                })
                .map_while(Result::<_, StoreError>::transpose)
        };
        let (mut claims, mut claim, mut orphans) = (entries(CLAIM).fuse(), None, 0);
        for link in entries(ROW) {
            let link = link?;
            while claim.is_none_or(|claim| claim < link) {
                match claims.next().transpose()? {
                    Some(next) => claim = Some(next),
                    None => break,
                }
            }
            orphans += u64::from(claim != Some(link));
        }
        Ok(orphans)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.db.take().is_some() {
            // The next run takes away what is left.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

impl Held {
    /// Sorts the rows, and tells those that are claimed.
    fn complete(&mut self) {
        self.rows.par_sort_unstable();
        self.claims.par_sort_unstable();
        // Two rows or a few more begin alike.
        self.bits = self.rows.len().max(2).ilog2() - 1;
        self.starts = vec![0; (1 << self.bits) + 1];
        for row in &self.rows {
            let next = self.begin(row.link) + 1;
            self.starts.get_mut(next).into_iter().for_each(|rows| *rows += 1);
        }
        let mut before = 0;
        for start in &mut self.starts {
            before += *start;
            *start = before;
        }
        self.claimed = self.rows.iter().map(|_| AtomicBool::new(false)).collect();
        let mut claims = std::mem::take(&mut self.claims).into_iter().peekable();
        let mut first = 0;
        for rows in self.rows.chunk_by(|one, next| one.link == next.link) {
            let Some(link) = rows.first().map(|row| row.link) else { continue };
            while claims.next_if(|claim| *claim < link).is_some() {}
            if claims.peek() == Some(&link) {
                self.claim(Some(first));
            }
            first += rows.len();
        }
    }

    /// The number that a link's first bits are.
    fn begin(&self, link: Link) -> usize {
        usize::try_from(link.0.checked_shr(64 - self.bits).unwrap_or(0)).unwrap_or(usize::MAX)
    }

    /// The place of the first row of a link, if there is one.
    fn first(&self, link: Link) -> Option<usize> {
        let begin = self.begin(link);
        let (from, to) = (*self.starts.get(begin)? as usize, *self.starts.get(begin + 1)? as usize);
        let place = from + self.rows.get(from..to)?.partition_point(|row| row.link < link);
        self.rows.get(place).filter(|row| row.link == link).map(|_| place)
    }

    fn rows_of(&self, link: Link) -> impl Iterator<Item = &Row> {
        let rows = self.first(link).and_then(|first| self.rows.get(first..)).unwrap_or_default();
        rows.iter().take_while(move |row| row.link == link)
    }

    /// Notes that a row of the parent file has the link of which this is the first row.
    fn claim(&self, first: Option<usize>) {
        let claimed = first.and_then(|first| self.claimed.get(first));
        claimed.into_iter().for_each(|claimed| claimed.store(true, Ordering::Relaxed));
    }

    fn orphans(&self) -> u64 {
        let (mut first, mut orphans) = (0, 0);
        for rows in self.rows.chunk_by(|one, next| one.link == next.link) {
            let claimed = self.claimed.get(first).is_some_and(|claimed| claimed.load(Ordering::Relaxed));
            orphans += if claimed { 0 } else { rows.len() as u64 };
            first += rows.len();
        }
        orphans
    }

    /// Bytes of memory that it takes, and will take when it is complete.
    fn memory(&self) -> usize {
        self.rows.capacity() * (size_of::<Row>() + 2) + self.claims.capacity() * size_of::<Link>()
    }
}

const DAMAGED: StoreError = StoreError::Damaged("a row of a linked file");

/// Opens the rows on the disk.
fn open(path: &Path) -> Result<DB, StoreError> {
    folder(path)?;
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(32 * MEBIBYTE));
    table.set_block_size(16 * 1024);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(16 * MEBIBYTE);
    options.set_max_write_buffer_number(2);
    options.set_max_background_jobs(2);
    Ok(DB::open(&options, path)?)
}

/// The folder is gone after a crash anyway: nothing needs a log.
fn unlogged() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options
}

/// Writes a batch if much is in it.
fn write_full(db: &DB, batch: &mut WriteBatch) -> Result<(), StoreError> {
    if batch.size_in_bytes() < WRITTEN_AT_ONCE {
        return Ok(());
    }
    Ok(db.write_opt(std::mem::take(batch), &unlogged())?)
}

fn key(kind: u8, file: u32, (high, low): Link) -> [u8; PREFIX] {
    let mut key = [kind; PREFIX];
    let rest = file.to_be_bytes().into_iter().chain(high.to_be_bytes()).chain(low.to_be_bytes());
    key.iter_mut().skip(1).zip(rest).for_each(|(to, from)| *to = from);
    key
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn encoded_size<'r>(cells: impl Iterator<Item = &'r str>) -> usize {
    cells.fold(4, |size, cell| size + 4 + cell.len())
}

fn encode<'r>(cells: impl Iterator<Item = &'r str> + Clone, out: &mut Vec<u8>) {
    out.extend_from_slice(&number(cells.clone().count()).to_le_bytes());
    let mut end = 0;
    for cell in cells.clone() {
        end += cell.len();
        out.extend_from_slice(&number(end).to_le_bytes());
    }
    cells.for_each(|cell| out.extend_from_slice(cell.as_bytes()));
}

/// The row that bytes begin with, and where its text begins.
fn split(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let number = |bytes: &[u8; 4]| usize::try_from(u32::from_le_bytes(*bytes)).ok();
    let text = number(bytes.first_chunk()?)?.checked_mul(4)?.checked_add(4)?;
    let length = match bytes.get(4..text)?.last_chunk() {
        Some(end) => number(end)?,
        None => 0,
    };
    Some((bytes.get(..text.checked_add(length)?)?, text))
}

fn decode(row: &[u8], text: usize) -> Option<Column> {
    let ends = row.get(4..text)?.chunks_exact(4).map(|end| end.try_into().map(u32::from_le_bytes));
    Column::new(String::from_utf8(row.get(text..)?.to_vec()).ok()?, ends.collect::<Result<_, _>>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Column {
        cells.iter().copied().collect()
    }

    /// The same whether rows are in memory, on the disk, or were put into memory when others had left it.
    fn check(most_bytes: usize, is_on_disk: bool) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scratch");
        let mut scratch = Scratch::new(&path, most_bytes).unwrap();
        let long = "x".repeat(100);
        let rows = [
            ("a", ["a", "1"]),
            ("ab", ["ab", ""]),
            ("a", ["a", "2"]),
            (long.as_str(), ["long", "é"]),
            ("lost", ["lost", ""]),
            ("a", ["a", "3"]),
        ];
        scratch.claim(1, ["0", "b"]).unwrap();
        for (link, cells) in rows {
            scratch.put(1, [(link, cells.into_iter())]).unwrap();
        }
        scratch.claim(1, [long.as_str()]).unwrap();
        scratch.claim(2, ["lost"]).unwrap();
        scratch.complete().unwrap();
        assert_eq!(path.exists(), is_on_disk);
        let found = scratch.find(1, &["ab", long.as_str(), "a", "", "none"], 1 << 20).unwrap();
        let of = |places: &[usize]| places.iter().map(|place| row(&rows[*place].1)).collect::<Vec<_>>();
        assert_eq!(found, [of(&[1]), of(&[3]), of(&[0, 2, 5]), of(&[]), of(&[])]);
        assert_eq!(scratch.find(2, &["a"], 1 << 20).unwrap(), [vec![]]);
        assert!(matches!(scratch.find(1, &["a"], 20), Err(StoreError::TooManyLinked { bytes: 20 })));

        assert_eq!(scratch.orphans(1).unwrap(), 5);
        scratch.claim_complete(1, &["a", "none"]).unwrap();
        assert_eq!((scratch.orphans(1).unwrap(), scratch.orphans(2).unwrap()), (2, 0));
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn rows_are_found_by_their_link_in_order() {
        check(1 << 20, false);
        check(0, true);
        check(400, true);
    }

    #[test]
    fn long_rows_lie_alone_and_are_counted() {
        let mut scratch = Scratch::new(Path::new("nowhere"), usize::MAX).unwrap();
        let long = "x".repeat(2 * BLOCK);
        scratch.put(1, [(long.as_str(), [long.as_str()].into_iter()), ("a", [""].into_iter())]).unwrap();
        assert!(scratch.bytes >= 2 * BLOCK && scratch.blocks.len() == 2);
        scratch.complete().unwrap();
        assert_eq!(scratch.find(1, &["a", &long], usize::MAX).unwrap(), [[row(&[""])], [row(&[&long])]]);
    }

    /// Rows of which many begin alike, on the disk and in memory, beside a model.
    #[test]
    fn many_rows_are_found_and_orphans_counted() {
        for most_bytes in [usize::MAX, 100_000] {
            let folder = tempfile::tempdir().unwrap();
            let mut scratch = Scratch::new(&folder.path().join("scratch"), most_bytes).unwrap();
            let mut model: BTreeMap<String, Vec<Column>> = BTreeMap::new();
            for place in 0..20_000 {
                let (value, cell) = (format!("v{}", place * 7919 % 6007), place.to_string());
                scratch.put(3, [(value.as_str(), [cell.as_str()].into_iter())]).unwrap();
                model.entry(value).or_default().push(row(&[&cell]));
            }
            scratch.claim(3, model.keys().step_by(3).map(String::as_str)).unwrap();
            scratch.complete().unwrap();
            assert_eq!(scratch.db.is_some(), most_bytes < usize::MAX);
            let later: Vec<&str> = model.keys().skip(1).step_by(3).map(String::as_str).collect();
            scratch.claim_complete(3, &later).unwrap();
            let values: Vec<&str> = model.keys().map(String::as_str).collect();
            let found = scratch.find(3, &values, usize::MAX).unwrap();
            assert!(found.iter().eq(model.values()));
            let orphans: usize = model.values().skip(2).step_by(3).map(Vec::len).sum();
            assert_eq!(scratch.orphans(3).unwrap(), orphans as u64);
        }
    }
}
