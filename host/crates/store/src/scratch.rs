//! The rows of linked files for the time of an import, found by the value that links them: a RocksDB of its own, so
//! that a linked file may be larger than memory.
//!
//! | key | value |
//! | --- | --- |
//! | `r` file u32, link, zero byte, number of the row u64 | the row's cells: their number u32, each end u32, the text |
//! | `c` file u32, link, zero byte | present when a row of the parent file has this value |
//!
//! A link is its text, or a zero byte and its BLAKE3 hash where the text is long. Integers in keys are big endian.

use std::fs;
use std::path::{Path, PathBuf};

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Direction, IteratorMode, Options, WriteBatch,
    WriteOptions,
};
use sluicebox_model::Column;

use crate::StoreError;
use crate::keys::put_text;
use crate::open::folder;

const ROW: u8 = b'r';
const CLAIM: u8 = b'c';
const MEBIBYTE: usize = 1024 * 1024;

/// Rows of linked files by the value that links them. Its folder is gone when it is dropped.
pub struct Scratch {
    db: Option<DB>,
    path: PathBuf,
}

impl Scratch {
    /// An empty one in a folder of its own, which must not be there.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        folder(path)?;
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(32 * MEBIBYTE));
        table.set_block_size(16 * 1024);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&table);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_write_buffer_size(32 * MEBIBYTE);
        options.set_max_write_buffer_number(2);
        options.set_max_background_jobs(2);
        let db = DB::open(&options, path)?;
        Ok(Self { db: Some(db), path: path.to_owned() })
    }

    fn db(&self) -> Result<&DB, StoreError> {
        self.db.as_ref().ok_or(StoreError::Damaged("the rows of linked files"))
    }

    /// Keeps rows of a linked file, each with its link's value and its number in the file.
    ///
    /// # Errors
    /// If the disk is full, or fails.
    pub fn put<'r>(
        &self,
        file: u32,
        rows: impl IntoIterator<Item = (&'r str, u64, &'r Column)>,
    ) -> Result<(), StoreError> {
        let (mut batch, mut bytes) = (WriteBatch::default(), Vec::new());
        for (link, number, row) in rows {
            let mut key = link_key(ROW, file, link);
            key.extend_from_slice(&number.to_be_bytes());
            bytes.clear();
            encode(row, &mut bytes);
            batch.put(key, &bytes);
        }
        Ok(self.db()?.write_opt(batch, &unlogged())?)
    }

    /// Notes that rows of the parent file have these values.
    ///
    /// # Errors
    /// If the disk is full, or fails.
    pub fn claim<'l>(&self, file: u32, links: impl IntoIterator<Item = &'l str>) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        links.into_iter().for_each(|link| batch.put(link_key(CLAIM, file, link), []));
        Ok(self.db()?.write_opt(batch, &unlogged())?)
    }

    /// The rows of a linked file with each of these values, in the order of the file. At most `bytes` of rows.
    ///
    /// # Errors
    /// [`StoreError::TooManyLinked`] if there are more; or if the disk fails.
    pub fn find(&self, file: u32, links: &[&str], bytes: usize) -> Result<Vec<Vec<Column>>, StoreError> {
        let mut found: Vec<Vec<Column>> = vec![Vec::new(); links.len()];
        let keys = links.iter().map(|link| link_key(ROW, file, link)).enumerate();
        let mut sorted: Vec<(Vec<u8>, usize)> = keys.map(|(place, key)| (key, place)).collect();
        sorted.sort_unstable();
        let mut rows = self.db()?.raw_iterator();
        let mut taken = 0;
        for (prefix, place) in sorted {
            rows.seek(&prefix);
            while let (true, Some(key), Some(value)) = (rows.valid(), rows.key(), rows.value()) {
                // The number that follows the link has eight bytes; a longer rest belongs to another link.
                if !key.starts_with(&prefix) || key.len() != prefix.len() + 8 {
                    break;
                }
                taken += value.len();
                if taken > bytes {
                    return Err(StoreError::TooManyLinked { bytes });
                }
                if let Some(found) = found.get_mut(place) {
                    found.push(decode(value).ok_or(StoreError::Damaged("a row of a linked file"))?);
                }
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
        let db = self.db()?;
        let prefix = |kind: u8| [&[kind][..], &file.to_be_bytes()].concat();
        let (rows_prefix, claims_prefix) = (prefix(ROW), prefix(CLAIM));
        let entries = |prefix: &[u8]| db.iterator(IteratorMode::From(prefix, Direction::Forward));
        let mut claims = entries(&claims_prefix).peekable();
        let mut orphans = 0;
        for row in entries(&rows_prefix) {
            let (key, _) = row?;
            let Some(rest) = key.strip_prefix(rows_prefix.as_slice()) else { break };
            let link = rest.get(..rest.len().saturating_sub(8)).unwrap_or_default();
            let claimed = loop {
                match claims.peek() {
                    None => break false,
                    Some(Err(_)) => {
                        if let Some(Err(error)) = claims.next() {
                            return Err(error.into());
                        }
                    }
                    Some(Ok((claim, _))) => match claim.strip_prefix(claims_prefix.as_slice()) {
                        None => break false,
                        Some(claim) if claim < link => drop(claims.next()),
                        Some(claim) => break claim == link,
                    },
                }
            };
            orphans += u64::from(!claimed);
        }
        Ok(orphans)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.db = None;
        // The next run takes away what is left.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The folder is gone after a crash anyway: nothing needs a log.
fn unlogged() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options
}

fn link_key(kind: u8, file: u32, link: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(link.len().min(64) + 14);
    key.push(kind);
    key.extend_from_slice(&file.to_be_bytes());
    put_text(link, &mut key);
    key.push(0);
    key
}

fn encode(row: &Column, out: &mut Vec<u8>) {
    let (text, ends) = row.parts();
    out.extend_from_slice(&u32::try_from(ends.len()).unwrap_or(u32::MAX).to_le_bytes());
    ends.iter().for_each(|end| out.extend_from_slice(&end.to_le_bytes()));
    out.extend_from_slice(text.as_bytes());
}

fn decode(bytes: &[u8]) -> Option<Column> {
    let (count, rest) = bytes.split_first_chunk()?;
    let (ends, text) =
        rest.split_at_checked(usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(4)?)?;
    let ends =
        ends.chunks_exact(4).map(|end| end.try_into().map(u32::from_le_bytes)).collect::<Result<_, _>>();
    Column::new(String::from_utf8(text.to_vec()).ok()?, ends.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Column {
        cells.iter().copied().collect()
    }

    #[test]
    fn rows_are_found_by_their_link_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scratch");
        let scratch = Scratch::create(&path).unwrap();
        let long = "x".repeat(100);
        let rows = [
            ("a", row(&["a", "1"])),
            ("ab", row(&["ab", ""])),
            ("a", row(&["a", "2"])),
            (long.as_str(), row(&["long", "é"])),
            ("lost", row(&["lost", ""])),
        ];
        let numbered = (0..).zip(&rows).map(|(number, (link, row))| (*link, number, row));
        scratch.put(1, numbered).unwrap();
        let found = scratch.find(1, &["ab", long.as_str(), "a", "", "none"], 1 << 20).unwrap();
        let (one, two) = (vec![rows[0].1.clone(), rows[2].1.clone()], vec![rows[1].1.clone()]);
        assert_eq!(found, [two, vec![rows[3].1.clone()], one, vec![], vec![]]);
        assert_eq!(scratch.find(2, &["a"], 1 << 20).unwrap(), [vec![]]);
        assert!(matches!(scratch.find(1, &["a"], 20), Err(StoreError::TooManyLinked { bytes: 20 })));

        assert_eq!(scratch.orphans(1).unwrap(), 5);
        scratch.claim(1, ["0", "a", "b", long.as_str()]).unwrap();
        scratch.claim(2, ["lost"]).unwrap();
        assert_eq!(scratch.orphans(1).unwrap(), 2);
        drop(scratch);
        assert!(!path.exists());
    }
}
