use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, Options, WriteOptions,
};
use tempfile::TempDir;

use super::bloom::KnownIdentifiers;
use super::prefetch::Prefetch;
use super::{CHANGES, EVENTS, FAMILIES, IDENTIFIERS, RECORDS, RocksStore, UNDO, entries_of, pages, tables};
use crate::error::io;
use crate::keys::{self, KeyKind, Meta};
use crate::names::Dictionary;
use crate::{Names, StoreError};

/// The newest layout that this version reads, and the one that it writes.
pub(super) const LAYOUT: u32 = 7;
const LOCK_FILE: &str = "sluicebox.lock";
const MEBIBYTE: usize = 1024 * 1024;
/// A file of the log counts as this many bytes at least.
const MIN_LOG_FILE: u64 = 128 << 10;
/// Families whose tables are merged after large commits.
const MERGED_LATER: [&str; 2] = [RECORDS, IDENTIFIERS];
/// How often a store is copied while another process writes to it, until nothing but the log changed meanwhile, and how
/// long each attempt waits for the next.
const MAX_COPIES: u32 = 100;
const COPY_INTERVAL: Duration = Duration::from_millis(50);
/// Where a family has more tables, each of which may have a key, they are merged in any case.
const MAX_TABLES: u64 = 40;
/// Bytes that may stay in the log when the store is closed.
const MAX_IN_LOG: u64 = 4 << 20;

impl Drop for RocksStore {
    fn drop(&mut self) {
        // Opening the store reads the log, which takes long if it is large. Its content is durable already, so that a
        // failure changes nothing.
        if self.lock.is_none() || self.log_bytes() <= MAX_IN_LOG {
            return;
        }
        let _ = self.flush();
    }
}

impl RocksStore {
    /// Writes what only the log holds into tables. The log stays until every family has its part of it in tables.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        for name in FAMILIES.into_iter().chain(["default"]) {
            self.db.flush_cf(self.family(name)?)?;
        }
        Ok(())
    }

    /// The bytes of the log. Opening a file of it costs as much as reading some, so that each has a minimum.
    fn log_bytes(&self) -> u64 {
        let entries = fs::read_dir(self.db.path()).into_iter().flatten().flatten();
        let logs =
            entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "log"));
        logs.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len().max(MIN_LOG_FILE)).sum()
    }
}

/// A folder with a store that is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Copied {
    _folder: TempDir,
    /// Keeps others from changing the original while table files are shared.
    _lock: Option<File>,
}

impl RocksStore {
    /// Whether there is a store.
    pub(crate) fn exists(path: &Path) -> bool {
        path.join("CURRENT").exists()
    }

    /// An empty store that is gone when `Copied` is dropped.
    pub(crate) fn temporary() -> Result<(Self, Copied), StoreError> {
        let place = std::env::temp_dir();
        let folder = private("sluicebox-".as_ref(), &place)?;
        let store = Self::open(folder.path())?;
        Ok((store, Copied { _folder: folder, _lock: None }))
    }

    /// A copy of the store at `path`, or an empty store where there is none. Table files, which never change, are shared by
    /// hard links, so that a store of any size is copied at once. Beside a process that writes, the copy has what it
    /// committed until some moment.
    pub(crate) fn dry_copy_of(path: &Path) -> Result<(Self, Copied), StoreError> {
        if !path.exists() {
            return Self::temporary();
        }
        let lock = match lock(path) {
            Ok(lock) => Some(lock),
            Err(StoreError::Locked { .. }) => None,
            Err(error) => return Err(error),
        };
        for attempt in 1..=MAX_COPIES {
            let folder = beside(path)?;
            let before = files(path)?;
            // A table that is being written must not be shared: the copy could write to it.
            let tables = if lock.is_some() { Ok(None) } else { tables_of(path).map(Some) };
            let copied = tables.and_then(|tables| {
                let mut wanted = before.iter().filter(|file| file.is_wanted(tables.as_ref()));
                wanted.try_for_each(|file| copy_file(path, folder.path(), file))
            });
            let is_whole = lock.is_some() || (copied.is_ok() && is_one_moment(&before, &files(path)?));
            if !is_whole {
                // A large commit writes for seconds, but names its tables in a moment.
                if attempt < MAX_COPIES {
                    std::thread::sleep(COPY_INTERVAL);
                }
                continue;
            }
            copied?;
            let store = Self::open(folder.path())?;
            return Ok((store, Copied { _folder: folder, _lock: lock }));
        }
        Err(StoreError::Busy { path: path.to_owned() })
    }

    /// A copy of the present state of this store.
    pub(crate) fn dry_copy(&self) -> Result<(Self, Copied), StoreError> {
        let folder = beside(self.db.path())?;
        let path = folder.path().join("store");
        self.back_up(&path)?;
        let store = Self::open(&path)?;
        Ok((store, Copied { _folder: folder, _lock: None }))
    }
}

/// A file of a store, and its size.
struct StoreFile {
    /// Its path below the store's folder.
    name: PathBuf,
    bytes: u64,
}

impl StoreFile {
    fn has_extension(&self, extension: &str) -> bool {
        self.name.extension().is_some_and(|found| found == extension)
    }

    /// Whether a copy needs it, given the names of the store's tables.
    fn is_wanted(&self, tables: Option<&HashSet<PathBuf>>) -> bool {
        let is_new = self.name.starts_with(tables::FOLDER);
        is_new || !self.has_extension("sst") || tables.is_none_or(|tables| tables.contains(&self.name))
    }

    /// Whether it is the list of the store's tables, or says which file is.
    fn lists_tables(&self) -> bool {
        self.name.to_string_lossy().starts_with("MANIFEST-") || self.name == Path::new("CURRENT")
    }
}

/// The files of the store in a folder, in the order in which they are copied: logs first, the oldest first, so that what is
/// copied of them is what was written until one moment; then tables; then what names tables.
fn files(path: &Path) -> Result<Vec<StoreFile>, StoreError> {
    let mut found = Vec::new();
    // Tables of the second folder belong to a commit that RocksDB has not ingested yet: a process may have died.
    for folder in [Path::new(""), Path::new(tables::FOLDER)] {
        let entries = match fs::read_dir(path.join(folder)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries.map_err(io(path))?,
        };
        for entry in entries {
            let entry = entry.map_err(io(path))?;
            let name = entry.file_name();
            // A file may be gone by now: the next list shows that.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_file() && name != "LOCK" && name != LOCK_FILE {
                found.push(StoreFile { name: folder.join(name), bytes: metadata.len() });
            }
        }
    }
    found.sort_by_key(|file| (!file.has_extension("log"), file.lists_tables(), file.name.clone()));
    Ok(found)
}

/// The names of the tables of the store in a folder.
fn tables_of(path: &Path) -> Result<HashSet<PathBuf>, StoreError> {
    let tables = read_only(path)?.live_files()?;
    Ok(tables.iter().map(|table| PathBuf::from(table.name.trim_start_matches('/'))).collect())
}

/// Opens the present state of the database in a folder, beside a process that may be writing to it.
fn read_only(path: &Path) -> Result<DB, StoreError> {
    let options = database_options();
    let found = DB::list_cf(&options, path)?;
    let families =
        column_families().into_iter().filter(|family| found.iter().any(|name| name == family.name()));
    Ok(DB::open_cf_descriptors_read_only(&options, path, families, false)?)
}

fn copy_file(from: &Path, to: &Path, file: &StoreFile) -> Result<(), StoreError> {
    let place = to.join(&file.name);
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder).map_err(io(folder))?;
    }
    share(&from.join(&file.name), &place)
}

/// Whether a store had the same logs and tables from one list of its files to the next. Then what was copied in between is a
/// state that it had: only the end of the newest log may be missing.
fn is_one_moment(before: &[StoreFile], after: &[StoreFile]) -> bool {
    let matters = |file: &&StoreFile| file.has_extension("log") || file.lists_tables();
    let state = |files: &[StoreFile]| {
        let bytes = |file: &StoreFile| if file.has_extension("log") { 0 } else { file.bytes };
        files.iter().filter(matters).map(|file| (file.name.clone(), bytes(file))).collect::<Vec<_>>()
    };
    state(before) == state(after)
}

/// A temporary folder on the disk of the store.
fn beside(path: &Path) -> Result<TempDir, StoreError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut prefix = path.file_name().unwrap_or_default().to_owned();
    prefix.push(".sluicebox-dry-run-");
    private(&prefix, parent)
}

/// A temporary folder that its owner alone may read.
fn private(prefix: &OsStr, parent: &Path) -> Result<TempDir, StoreError> {
    let mut folder = tempfile::Builder::new();
    folder.prefix(prefix).permissions(Permissions::from_mode(0o700));
    folder.tempdir_in(parent).map_err(io(parent))
}

impl RocksStore {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        folder(path)?;
        let lock = lock(path)?;
        let mut options = database_options();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let db = DB::open_cf_descriptors(&options, path, column_families())?;
        let is_new = db.get(Meta::Format)?.is_none();
        let store = Self::check(db, Some(lock))?;
        store.ingest_tables()?;
        store.move_into_pages()?;
        store.clear_tables()?;
        store.count_once()?;
        let mut identifiers = store.db.raw_iterator_cf(store.family(IDENTIFIERS)?);
        identifiers.seek_to_first();
        identifiers.status()?;
        let known = (!identifiers.valid()).then(KnownIdentifiers::default);
        drop(identifiers);
        *store.known_identifiers.lock().unwrap_or_else(PoisonError::into_inner) = known;
        let written = store.db.get(Meta::Format)?.as_deref().and_then(keys::read_u32);
        if written.is_none_or(|written| written < LAYOUT) {
            // From now on it has records that older versions cannot read.
            store.db.put_opt(Meta::Format, LAYOUT.to_be_bytes(), &durable())?;
        }
        if store.db.get(Meta::ListedFrom)?.is_none() {
            // Older versions kept no lists of changes.
            let from = if is_new { 0 } else { jiff::Timestamp::now().as_millisecond() };
            store.db.put_opt(Meta::ListedFrom, from.to_be_bytes(), &durable())?;
        }
        Ok(store)
    }

    pub(crate) fn open_read_only(path: &Path) -> Result<Option<Self>, StoreError> {
        if !Self::exists(path) {
            return Ok(None);
        }
        let mut db = read_only(path)?;
        let (is_ingested, is_paged) = (db.get(Meta::Tables)?.is_none(), db.get(Meta::Paged)?.is_some());
        if !(is_ingested && is_paged) {
            drop(db);
            match Self::open(path) {
                // Another process is in the middle of a commit.
                Err(StoreError::Locked { .. }) if is_paged => {}
                // A process died in the middle of its commit, or the store is of an older layout.
                opened => drop(opened?),
            }
            db = read_only(path)?;
        }
        Self::check(db, None).map(Some)
    }

    fn check(db: DB, lock: Option<File>) -> Result<Self, StoreError> {
        if let Some(format) = db.get(Meta::Format)? {
            let found = keys::read_u32(&format).ok_or(StoreError::Damaged("its format"))?;
            if found > LAYOUT {
                return Err(StoreError::Newer { found, known: LAYOUT });
            }
        }
        let hasher = pages::hasher(&db)?;
        let mut names = Dictionary::default();
        for entry in entries_of(&db, KeyKind::Name) {
            let (name, number) = entry?;
            let name = String::from_utf8(name).map_err(|_| StoreError::Damaged("a name"))?;
            let number = keys::read_u32(&number).ok_or(StoreError::Damaged("a number of a name"))?;
            names.insert(name, number);
        }
        Ok(Self {
            db,
            names: Mutex::new(names),
            hasher,
            known_identifiers: Mutex::new(None),
            lock,
            ingest: Mutex::new(()),
            commits: Mutex::default(),
            merges: AtomicBool::new(false),
            table_options: table_options(),
            prefetch: Prefetch::default(),
        })
    }

    /// Has RocksDB merge tables from now on, after a large commit or where there are many of them. Merging takes a core, so
    /// that small imports do without it.
    pub(super) fn merge_tables(&self, large: bool) -> Result<(), StoreError> {
        if self.merges.load(Ordering::Relaxed) {
            return Ok(());
        }
        let many = |name: &&'static str| {
            let tables = self.db.property_int_value_cf(self.family(name)?, "rocksdb.num-files-at-level0")?;
            Ok::<_, StoreError>(tables.unwrap_or_default() >= MAX_TABLES)
        };
        if large || MERGED_LATER.iter().map(many).collect::<Result<Vec<_>, _>>()?.contains(&true) {
            for name in MERGED_LATER {
                self.db.set_options_cf(self.family(name)?, &[("disable_auto_compactions", "false")])?;
            }
            self.merges.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(crate) fn known_number(&self, name: &str) -> Option<u32> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).get(name)
    }

    pub(crate) fn number(&self, name: String) -> Result<u32, StoreError> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = names.get(&name) {
            return Ok(number);
        }
        let number = names.next().ok_or(StoreError::Damaged("its names"))?;
        self.db.put_opt(KeyKind::Name.key(name.as_bytes()), number.to_be_bytes(), &durable())?;
        names.insert(name, number);
        Ok(number)
    }

    pub(crate) fn names(&self) -> Names {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).names()
    }
}

/// Table files never change: both stores may have them.
fn share(from: &Path, to: &Path) -> Result<(), StoreError> {
    let table = from.extension().is_some_and(|extension| extension == "sst");
    if !(table && fs::hard_link(from, to).is_ok()) {
        fs::copy(from, to).map_err(io(from))?;
    }
    Ok(())
}

/// A write with these options is on the disk when the call returns.
pub(super) fn durable() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    // A commit's keys are sorted.
    options.set_memtable_insert_hint_per_batch(true);
    options
}

/// A key for hashes that cannot be foreseen; `path` is what it is for.
pub(super) fn random_key(path: &Path) -> Result<[u8; 16], StoreError> {
    let mut key = [0; 16];
    getrandom::fill(&mut key).map_err(|error| io(path)(std::io::Error::other(error.to_string())))?;
    Ok(key)
}

/// Creates a folder for people's data, which its owner alone may read.
pub(super) fn folder(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io(path))
}

pub(super) fn lock(path: &Path) -> Result<File, StoreError> {
    let place = path.join(LOCK_FILE);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&place)
        .map_err(io(&place))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let read = Read::by_ref(&mut file).take(20).read_to_string(&mut holder);
            let holder = match (read, holder.trim().parse::<u32>()) {
                (Ok(_), Ok(process)) => format!("process {process}"),
                _ => "another process".to_owned(),
            };
            return Err(StoreError::Locked { path: path.to_owned(), holder });
        }
        Err(TryLockError::Error(source)) => return Err(StoreError::Io { path: place, source }),
    }
    // The number is only for the message above: the operating system holds the lock.
    let mut note = || {
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(std::process::id().to_string().as_bytes())
    };
    note().map_err(io(&place))?;
    Ok(file)
}

fn database_options() -> Options {
    let mut options = Options::default();
    options.set_max_background_jobs(2);
    // Opening tables on several threads gains nothing.
    options.set_max_file_opening_threads(1);
    options.set_keep_log_file_num(2);
    // Its log of what it does shows keys, which are people's identifiers.
    options.set_log_level(rocksdb::LogLevel::Error);
    options.set_max_total_wal_size(256 * MEBIBYTE as u64);
    options.set_bytes_per_sync(MEBIBYTE as u64);
    // Opening the store does not flush the log: small runs would write many small tables.
    options.get_options_from_string("avoid_flush_during_recovery=true").unwrap_or(options)
}

/// How a table is written that RocksDB ingests. Merging it with others compresses it.
fn table_options() -> Options {
    let mut options = Options::default();
    options.set_bytes_per_sync(MEBIBYTE as u64);
    options.set_block_based_table_factory(&block_options(&Cache::new_lru_cache(MEBIBYTE)));
    options.set_compression_type(DBCompressionType::None);
    // Each table has its own buffer, in memory that was not touched before.
    options.set_writable_file_max_buffer_size(64 << 10);
    options
}

fn block_options(cache: &Cache) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_bloom_filter(10.0, false);
    table.set_format_version(5);
    table.set_block_size(8 * 1024);
    table.set_block_restart_interval(4);
    table
}

/// Records are read at random by id and identifiers by whole keys that are mostly absent while a store grows:
/// Bloom filters answer for the absent ones, in memory too.
fn column_families() -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(64 * MEBIBYTE);
    let family = |name: &str, write_buffer: usize| {
        let mut options = Options::default();
        options.set_block_based_table_factory(&block_options(&cache));
        // New tables are soon merged, and compressed then. Hashes cannot be compressed.
        let none = DBCompressionType::None;
        let merged = if name == IDENTIFIERS { none } else { DBCompressionType::Lz4 };
        options.set_compression_per_level(&[none, merged, merged, merged, merged, merged, merged]);
        if name == IDENTIFIERS {
            options.set_merge_operator(c"pages", pages::merge_whole, pages::merge_writes);
        }
        options.set_write_buffer_size(write_buffer);
        options.set_max_write_buffer_number(2);
        options.set_memtable_prefix_bloom_ratio(0.01);
        options.set_memtable_whole_key_filtering(true);
        // Merging a table of records rewrites most others. A table of identifiers is small, and a walk reads all of them.
        let tables = if name == IDENTIFIERS { 8 } else { 16 };
        options.set_level_zero_file_num_compaction_trigger(tables);
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_disable_auto_compactions(MERGED_LATER.contains(&name));
        ColumnFamilyDescriptor::new(name, options)
    };
    vec![
        family("default", 4 * MEBIBYTE),
        family(RECORDS, 40 * MEBIBYTE),
        family(IDENTIFIERS, 20 * MEBIBYTE),
        family(EVENTS, 20 * MEBIBYTE),
        family(CHANGES, 8 * MEBIBYTE),
        family(UNDO, 20 * MEBIBYTE),
    ]
}
