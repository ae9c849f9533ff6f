//! The rows of linked files for the time of an import, found by the value that links them: in memory, or, where they
//! would take too much of it, in tables on the disk, so that a linked file may be larger than memory.
//!
//! The tables are RocksDB's: this crate and the store are the only users of it. Nothing of them outlives the import.
//!
//! | key | value |
//! | --- | --- |
//! | `r` file u32, hash of the link u128, number of the row u64 | the length and the text of each cell of the row |
//! | `c` file u32, hash of the link u128 | present when a row of the parent file has this value |
//!
//! Integers in keys are big endian, others are packed as in records. Values are compared by their hashes alone:
//! SipHash-1-3 with 128 bits and a random key for each import, so that no file can be made in which two values collide.

mod error;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::slice::ParallelSliceMut;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Direction, IngestExternalFileOptions, IteratorMode,
    Options, ReadOptions, SliceTransform, SstFileWriter, WriteBatch, WriteOptions,
};
use siphasher::sip128::SipHasher13;
use sluicebox_model::packed::{Unpacker, pack_number};
use sluicebox_model::{Column, OrNever};

pub use error::LinkedRowsError;
use error::io;

const ROW: u8 = b'r';
const CLAIM: u8 = b'c';
const MEBIBYTE: usize = 1024 * 1024;
/// Bytes of rows that lie together in memory; a longer row lies alone.
const BLOCK: usize = MEBIBYTE;
/// Bytes of a key before a row's number.
const PREFIX: usize = 1 + 4 + 16;

/// The hash of a value that links rows to one of the parent file; in halves, for the sake of their alignment.
type Link = (u64, u64);

/// The rows of linked files by the value that links them. Dropping it removes what is on the disk.
pub struct LinkedRowIndex {
    path: PathBuf,
    hasher: SipHasher13,
    /// Bytes that rows may take in memory.
    max_bytes: usize,
    files: BTreeMap<u32, FileRows>,
    /// The bytes of rows in memory, and how much room is taken for them.
    blocks: Vec<Vec<u8>>,
    bytes: usize,
    /// Where all rows are once they were too many for memory.
    disk: Option<Disk>,
}

/// Rows on the disk.
struct Disk {
    db: DB,
    options: Options,
    /// How many they are.
    rows: u64,
}

/// The rows of one file that are in memory.
#[derive(Default)]
struct FileRows {
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

/// Bytes that a row takes besides its cells once it is found: a partner decides how many rows have a link, and a cell may be empty.
const ROW_OVERHEAD: usize = 128;

/// A row's link, and where its bytes begin. Rows of a link sort as they came.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    link: Link,
    block: u32,
    from: u32,
}

impl LinkedRowIndex {
    /// An empty index. Rows beyond `max_bytes` of memory go to `path`, a folder that must not exist yet.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn new(path: &Path, max_bytes: usize) -> Result<Self, LinkedRowsError> {
        Ok(Self {
            path: path.to_owned(),
            hasher: SipHasher13::new_with_key(&random_key().map_err(io(path))?),
            max_bytes,
            files: BTreeMap::new(),
            blocks: Vec::new(),
            bytes: 0,
            disk: None,
        })
    }

    fn link(&self, value: &str) -> Link {
        let hash = self.hasher.hash(value.as_bytes());
        (hash.h1, hash.h2)
    }

    /// Keeps rows of a linked file, each with the value that links it and its cells. Rows of one value are found in the
    /// order in which they were put.
    ///
    /// # Errors
    /// If the disk is full, or fails.
    pub fn put<'r, C: Iterator<Item = &'r str> + Clone>(
        &mut self,
        file: u32,
        rows: impl IntoIterator<Item = (&'r str, C)>,
    ) -> Result<(), LinkedRowsError> {
        for (value, cells) in rows {
            let link = self.link(value);
            let (block, from) = self.write(cells);
            push(&mut self.files.entry(file).or_default().rows, Row { link, block, from });
        }
        self.relieve()
    }

    /// Writes a row's cells into the last block, and returns the block and where in it they begin.
    fn write<'r>(&mut self, cells: impl Iterator<Item = &'r str> + Clone) -> (u32, u32) {
        let length = cells.clone().map(|cell| packed_size(cell.len()) + cell.len()).sum();
        let size = packed_size(length) + length;
        if self.blocks.last().is_none_or(|block| block.capacity() - block.len() < size) {
            self.blocks.push(Vec::with_capacity(size.max(BLOCK)));
            self.bytes += size.max(BLOCK);
        }
        let number = u32::try_from(self.blocks.len() - 1).or_never("the number of a block");
        let Some(block) = self.blocks.last_mut() else { return (number, 0) };
        let from = block.len();
        pack_number(length as u64, block);
        for cell in cells {
            pack_number(cell.len() as u64, block);
            block.extend_from_slice(cell.as_bytes());
        }
        (number, u32::try_from(from).or_never("the place of a row"))
    }

    /// A row's cells, packed.
    fn row(&self, row: &Row) -> &[u8] {
        let block = self.blocks.get(row.block as usize).and_then(|block| block.get(row.from as usize..));
        let mut rest = Unpacker(block.or_never("the block of a row"));
        rest.length().and_then(|length| rest.take(length)).or_never("a row in its block")
    }

    /// Notes that rows of the parent file have these values.
    ///
    /// # Errors
    /// If the disk is full, or fails.
    pub fn claim<'l>(
        &mut self,
        file: u32,
        values: impl IntoIterator<Item = &'l str>,
    ) -> Result<(), LinkedRowsError> {
        for value in values {
            let link = self.link(value);
            push(&mut self.files.entry(file).or_default().claims, link);
        }
        self.relieve()
    }

    fn relieve(&mut self) -> Result<(), LinkedRowsError> {
        let lists = self.files.values().map(FileRows::memory).sum::<usize>();
        if self.bytes + lists > self.max_bytes { self.spill() } else { Ok(()) }
    }

    /// Ends putting: from here on rows are looked up.
    ///
    /// # Errors
    /// If the disk is full, or fails.
    pub fn complete(&mut self) -> Result<(), LinkedRowsError> {
        if self.disk.is_some() {
            return self.spill();
        }
        self.files.values_mut().for_each(FileRows::complete);
        Ok(())
    }

    /// Writes what is in memory to the disk, as a table.
    fn spill(&mut self) -> Result<(), LinkedRowsError> {
        if self.files.is_empty() {
            return Ok(());
        }
        let mut disk = match self.disk.take() {
            Some(disk) => disk,
            None => Disk::create(&self.path)?,
        };
        let mut files = std::mem::take(&mut self.files);
        let table = self.path.join("rows");
        let mut writer = SstFileWriter::create(&disk.options);
        writer.open(&table)?;
        // In the order of keys: all claims come before all rows.
        for (file, held) in &mut files {
            held.claims.par_sort_unstable();
            held.claims.dedup();
            held.claims.iter().try_for_each(|link| writer.put(key(CLAIM, *file, *link), []))?;
        }
        for (file, held) in &mut files {
            held.rows.par_sort_unstable();
            for row in &held.rows {
                let number = disk.rows.to_be_bytes();
                writer.put([&key(ROW, *file, row.link)[..], &number].concat(), self.row(row))?;
                disk.rows += 1;
            }
        }
        writer.finish()?;
        drop(writer);
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        disk.db.ingest_external_file_opts(&options, vec![table])?;
        (self.blocks, self.bytes, self.disk) = (Vec::new(), 0, Some(disk));
        Ok(())
    }

    /// Notes that rows of the parent file have these values, after [`LinkedRowIndex::complete`].
    ///
    /// # Errors
    /// If the disk is full, or fails.
    pub fn claim_complete(&self, file: u32, values: &[&str]) -> Result<(), LinkedRowsError> {
        let links = values.iter().map(|value| self.link(value));
        if let Some(Disk { db, .. }) = &self.disk {
            let mut batch = WriteBatch::default();
            links.for_each(|link| batch.put(key(CLAIM, file, link), []));
            return Ok(db.write_opt(batch, &unlogged())?);
        }
        if let Some(held) = self.files.get(&file) {
            links.filter_map(|link| held.first(link)).for_each(|first| held.claim(first));
        }
        Ok(())
    }

    /// The rows of a linked file with each of these values, in the order of the file. At most `bytes` of rows.
    ///
    /// # Errors
    /// [`LinkedRowsError::TooMany`] if there are more; or if the disk fails.
    pub fn find(
        &self,
        file: u32,
        values: &[&str],
        bytes: usize,
    ) -> Result<Vec<Vec<Column>>, LinkedRowsError> {
        let mut taken = 0;
        let mut take = |row: &[u8]| {
            taken += row.len() + ROW_OVERHEAD;
            if taken > bytes {
                return Err(LinkedRowsError::TooMany { bytes });
            }
            unpack(row).ok_or(LinkedRowsError::Damaged)
        };
        let links = values.iter().map(|value| self.link(value));
        let Some(Disk { db, .. }) = &self.disk else {
            let Some(held) = self.files.get(&file) else { return Ok(vec![Vec::new(); values.len()]) };
            let rows = |link| held.rows_of(link).map(|row| take(self.row(row))).collect();
            return links.map(rows).collect();
        };
        let mut found: Vec<Vec<Column>> = vec![Vec::new(); values.len()];
        let mut sorted: Vec<_> = links.map(|link| key(ROW, file, link)).zip(&mut found).collect();
        sorted.sort_unstable_by_key(|(prefix, _)| *prefix);
        let mut options = ReadOptions::default();
        options.set_prefix_same_as_start(true);
        let mut rows = db.raw_iterator_opt(options);
        for (prefix, found) in sorted {
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

    /// Calls `take` with the cells of each row of a linked file whose value no row of the parent file has.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn each_orphan(&self, file: u32, mut take: impl FnMut(&Column)) -> Result<(), LinkedRowsError> {
        let mut take = |row: &[u8]| {
            take(&unpack(row).ok_or(LinkedRowsError::Damaged)?);
            Ok(())
        };
        let Some(Disk { db, .. }) = &self.disk else {
            let orphans = self.files.get(&file).map(FileRows::orphans).into_iter().flatten();
            return orphans.map(|row| self.row(row)).try_for_each(take);
        };
        // The links and values of all entries of a file.
        let entries = |kind: u8| {
            let begin = [&[kind][..], &file.to_be_bytes()].concat();
            let mut options = ReadOptions::default();
            options.set_total_order_seek(true);
            let entries = db.iterator_opt(IteratorMode::From(&begin, Direction::Forward), options);
            entries
                .map(move |entry| {
                    let (key, value) = entry?;
                    let link = key.strip_prefix(begin.as_slice()).and_then(|rest| rest.first_chunk::<16>());
                    Ok(link.map(|link| (*link, value)))
                })
                .map_while(Result::<_, LinkedRowsError>::transpose)
        };
        let mut claims = entries(CLAIM).fuse();
        let mut claim = claims.next().transpose()?;
        for entry in entries(ROW) {
            let (link, row) = entry?;
            while claim.as_ref().is_some_and(|(claim, _)| *claim < link) {
                claim = claims.next().transpose()?;
            }
            if claim.as_ref().is_none_or(|(claim, _)| *claim != link) {
                take(&row)?;
            }
        }
        Ok(())
    }
}

impl Drop for LinkedRowIndex {
    fn drop(&mut self) {
        self.disk = None;
        // There is no folder if no row went to the disk; the next run removes what is left.
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl FileRows {
    /// Sorts the rows, and marks those that are claimed.
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
        for (first, rows) in self.links() {
            let Some(link) = rows.first().map(|row| row.link) else { continue };
            while claims.next_if(|claim| *claim < link).is_some() {}
            if claims.peek() == Some(&link) {
                self.claim(first);
            }
        }
    }

    /// The rows of each link, with the place of the first of them.
    fn links(&self) -> impl Iterator<Item = (usize, &[Row])> + '_ {
        let mut next = 0;
        self.rows.chunk_by(|one, next| one.link == next.link).map(move |rows| {
            let first = next;
            next += rows.len();
            (first, rows)
        })
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
    fn claim(&self, first: usize) {
        if let Some(claimed) = self.claimed.get(first) {
            claimed.store(true, Ordering::Relaxed);
        }
    }

    fn orphans(&self) -> impl Iterator<Item = &Row> {
        let claimed = |first: usize| self.claimed.get(first).is_some_and(|is| is.load(Ordering::Relaxed));
        self.links().filter(move |(first, _)| !claimed(*first)).flat_map(|(_, rows)| rows)
    }

    /// Bytes of memory that the rows take, now and when they are complete.
    fn memory(&self) -> usize {
        self.rows.capacity() * (size_of::<Row>() + 2) + self.claims.capacity() * size_of::<Link>()
    }
}

impl Disk {
    /// Creates tables in a folder of their own.
    fn create(path: &Path) -> Result<Self, LinkedRowsError> {
        // People's data lies here: the folder is its owner's alone. One that is there already may be another's.
        DirBuilder::new().mode(0o700).create(path).map_err(io(path))?;
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(32 * MEBIBYTE));
        // A lookup reads one block of each table that may have the link, for a few rows.
        table.set_block_size(4 * 1024);
        table.set_bloom_filter(10.0, false);
        table.set_whole_key_filtering(false);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_prefix_extractor(SliceTransform::create_fixed_prefix(PREFIX));
        options.set_block_based_table_factory(&table);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_write_buffer_size(16 * MEBIBYTE);
        options.set_max_write_buffer_number(2);
        options.set_max_background_jobs(2);
        options.set_max_open_files(256);
        Ok(Self { db: DB::open(&options, path)?, options, rows: 0 })
    }
}

/// The next run removes the folder after a crash: it needs no log.
fn unlogged() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options
}

/// A key for hashes that cannot be foreseen.
fn random_key() -> std::io::Result<[u8; 16]> {
    let mut key = [0; 16];
    getrandom::fill(&mut key).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(key)
}

fn key(kind: u8, file: u32, (high, low): Link) -> [u8; PREFIX] {
    let mut key = [kind; PREFIX];
    let rest = file.to_be_bytes().into_iter().chain(high.to_be_bytes()).chain(low.to_be_bytes());
    key.iter_mut().skip(1).zip(rest).for_each(|(to, from)| *to = from);
    key
}

/// Appends to a list that takes little more memory than is in it: it grows by a quarter at a time, not to twice its size.
fn push<T>(list: &mut Vec<T>, item: T) {
    if list.len() == list.capacity() {
        list.reserve_exact((list.len() / 4).max(16));
    }
    list.push(item);
}

/// Bytes that a length takes when it is packed.
fn packed_size(length: usize) -> usize {
    length.max(1).ilog2() as usize / 7 + 1
}

fn unpack(row: &[u8]) -> Option<Column> {
    let (mut text, mut ends) = (Vec::with_capacity(row.len()), Vec::with_capacity(8));
    let mut rest = Unpacker(row);
    while !rest.0.is_empty() {
        let length = rest.length()?;
        text.extend_from_slice(rest.take(length)?);
        ends.push(u32::try_from(text.len()).ok()?);
    }
    Column::new(String::from_utf8(text).ok()?, ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orphans(rows: &LinkedRowIndex, file: u32) -> Result<u64, LinkedRowsError> {
        let mut count = 0;
        rows.each_orphan(file, |_| count += 1)?;
        Ok(count)
    }

    fn row(cells: &[&str]) -> Column {
        cells.iter().copied().collect()
    }

    /// The same whether rows are in memory, on the disk, or were put into memory when others had left it.
    fn check(max_bytes: usize, is_on_disk: bool) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let mut index = LinkedRowIndex::new(&path, max_bytes).unwrap();
        let long = "x".repeat(100);
        let rows = [
            ("a", ["a", "1"]),
            ("ab", ["ab", ""]),
            ("a", ["a", "2"]),
            (long.as_str(), ["long", "é"]),
            ("lost", ["lost", ""]),
            ("a", ["a", "3"]),
        ];
        index.claim(1, ["0", "b"]).unwrap();
        for (link, cells) in rows {
            index.put(1, [(link, cells.into_iter())]).unwrap();
        }
        index.claim(1, [long.as_str()]).unwrap();
        index.claim(2, ["lost"]).unwrap();
        index.complete().unwrap();
        assert_eq!(path.exists(), is_on_disk);
        let found = index.find(1, &["ab", long.as_str(), "a", "", "none"], 1 << 20).unwrap();
        let of = |places: &[usize]| places.iter().map(|place| row(&rows[*place].1)).collect::<Vec<_>>();
        assert_eq!(found, [of(&[1]), of(&[3]), of(&[0, 2, 5]), of(&[]), of(&[])]);
        assert_eq!(index.find(2, &["a"], 1 << 20).unwrap(), [vec![]]);
        let enough = 12 + 3 * ROW_OVERHEAD;
        assert!(matches!(index.find(1, &["a"], enough - 1), Err(LinkedRowsError::TooMany { .. })));
        assert_eq!(index.find(1, &["a"], enough).unwrap().concat().len(), 3);

        assert_eq!(orphans(&index, 1).unwrap(), 5);
        index.claim_complete(1, &["a", "none"]).unwrap();
        assert_eq!((orphans(&index, 1).unwrap(), orphans(&index, 2).unwrap()), (2, 0));
        drop(index);
        assert!(!path.exists());
    }

    #[test]
    fn rows_are_found_by_their_link_in_order() {
        check(usize::MAX, false);
        check(0, true);
        check(BLOCK + 200, true);
    }

    #[test]
    fn the_size_of_a_packed_length_is_known() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 1 << 21, usize::MAX] {
            let mut packed = Vec::new();
            pack_number(length as u64, &mut packed);
            assert_eq!(packed_size(length), packed.len(), "{length}");
        }
    }

    #[test]
    fn long_rows_lie_alone_and_are_counted() {
        let mut index = LinkedRowIndex::new(Path::new("nowhere"), usize::MAX).unwrap();
        let long = "x".repeat(2 * BLOCK);
        index.put(1, [(long.as_str(), [long.as_str()].into_iter()), ("a", [""].into_iter())]).unwrap();
        assert!(index.bytes >= 2 * BLOCK && index.blocks.len() == 2);
        index.complete().unwrap();
        assert_eq!(index.find(1, &["a", &long], usize::MAX).unwrap(), [[row(&[""])], [row(&[&long])]]);
    }

    /// Rows of which many begin alike, on the disk and in memory, beside a model.
    #[test]
    fn many_rows_are_found_and_orphans_counted() {
        for max_bytes in [usize::MAX, BLOCK + 100_000] {
            let folder = tempfile::tempdir().unwrap();
            let mut index = LinkedRowIndex::new(&folder.path().join("index"), max_bytes).unwrap();
            let mut model: BTreeMap<String, Vec<Column>> = BTreeMap::new();
            for place in 0..20_000 {
                let (value, cell) = (format!("v{}", place * 7919 % 6007), place.to_string());
                index.put(3, [(value.as_str(), [cell.as_str()].into_iter())]).unwrap();
                model.entry(value).or_default().push(row(&[&cell]));
            }
            index.claim(3, model.keys().step_by(3).map(String::as_str)).unwrap();
            index.complete().unwrap();
            assert_eq!(index.disk.is_some(), max_bytes < usize::MAX);
            let later: Vec<&str> = model.keys().skip(1).step_by(3).map(String::as_str).collect();
            index.claim_complete(3, &later).unwrap();
            let values: Vec<&str> = model.keys().map(String::as_str).collect();
            let found = index.find(3, &values, usize::MAX).unwrap();
            assert!(found.iter().eq(model.values()));
            let expected: usize = model.values().skip(2).step_by(3).map(Vec::len).sum();
            assert_eq!(orphans(&index, 3).unwrap(), expected as u64);
        }
    }
}
