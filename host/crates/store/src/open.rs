use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, IteratorMode, Options,
    WriteOptions,
};
use sluicebox_model::{EventTypeId, IdentifierHasher, NestedTypeId, PropertyId, SpaceId};

use crate::StoreError;
use crate::ahead::Ahead;
use crate::keys::{
    self, CHANGES, EVENTS, FAMILIES, FORMAT, IDENTIFIERS, LISTED, NAME, PAGED, RECORDS, TABLES, UNDO,
};
use crate::known::Known;
use crate::{pages, tables};

/// The newest layout that this version reads, and the one that it writes.
pub(crate) const LAYOUT: u32 = 6;
const LOCK_FILE: &str = "sluicebox.lock";
const MEBIBYTE: usize = 1024 * 1024;
/// A small file of the log counts as so many bytes.
const LEAST_LOG: u64 = 128 << 10;
/// Families whose tables are merged after large commits.
const MERGED_LATER: [&str; 2] = [RECORDS, IDENTIFIERS];
/// So many tables, each of which may have a key, are merged in any case.
const MANY_TABLES: u64 = 40;
/// Bytes that are left to the log when the store is closed.
const MOST_IN_LOG: u64 = 4 << 20;

/// An open store.
pub struct Store {
    pub(crate) db: DB,
    pub(crate) names: Mutex<HashMap<String, u32>>,
    pub(crate) hasher: IdentifierHasher,
    /// The identifiers that are there, where this process saw the store empty.
    pub(crate) known: Mutex<Option<Known>>,
    /// Held while the store may be written to.
    lock: Option<File>,
    /// Held from the batch that names new tables until the store took them: a copy that is made between has not both.
    pub(crate) taking: Mutex<()>,
    /// Whether tables are merged while the store is open.
    merges: AtomicBool,
    /// How new tables are written.
    pub(crate) table_options: Options,
    /// What was read ahead of its newest tables.
    pub(crate) ahead: Ahead,
}

impl Drop for Store {
    fn drop(&mut self) {
        // What only the log holds would be read from it the next time, which takes longer if it is much. All of it is
        // durable already, so that a failure changes nothing.
        if self.lock.is_none() || self.log_bytes() <= MOST_IN_LOG {
            return;
        }
        let _ = self.flush();
    }
}

impl Store {
    /// Writes what only the log holds into tables. The log lives as long as any family has something in it that is in
    /// no table.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        for name in FAMILIES.into_iter().chain(["default"]) {
            self.db.flush_cf(self.family(name)?)?;
        }
        Ok(())
    }

    /// The bytes of the files of the log, where opening one costs as much as reading some.
    fn log_bytes(&self) -> u64 {
        let entries = fs::read_dir(self.db.path()).into_iter().flatten().flatten();
        let logs =
            entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "log"));
        logs.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len().max(LEAST_LOG)).sum()
    }
}

/// A copy of a store that a dry run may write to; gone when it is dropped.
pub struct DryCopy {
    path: PathBuf,
    // Keeps others from changing the original while parts of it are shared.
    _lock: Option<File>,
}

impl DryCopy {
    /// Where the copy lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Copies the store at `path`, or makes an empty folder where there is none. Table files, which never
    /// change, are shared by hard links, so that a store of any size is copied at once.
    ///
    /// # Errors
    /// If the store is locked or a file cannot be linked or copied.
    pub fn of(path: &Path) -> Result<Self, StoreError> {
        let suffix = format!("sluicebox-dry-run-{}", std::process::id());
        if !path.exists() {
            let copy = Self { path: std::env::temp_dir().join(suffix), _lock: None };
            return folder(&copy.path).map(|()| copy);
        }
        let lock = lock(path)?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{suffix}"));
        let copy = Self { path: beside.into(), _lock: Some(lock) };
        folder(&copy.path)?;
        for entry in fs::read_dir(path).map_err(io(path))? {
            let entry = entry.map_err(io(path))?;
            let (from, to) = (entry.path(), copy.path.join(entry.file_name()));
            let name = entry.file_name();
            if name != "LOCK" && name != LOCK_FILE && !from.is_dir() {
                share(&from, &to)?;
            }
        }
        // A process may have died before the store took these.
        for entry in fs::read_dir(path.join(tables::FOLDER)).into_iter().flatten().flatten() {
            let folder = copy.path.join(tables::FOLDER);
            fs::create_dir_all(&folder).map_err(io(&folder))?;
            share(&entry.path(), &folder.join(entry.file_name()))?;
        }
        Ok(copy)
    }
}

impl Store {
    /// The same of a store that this process has open.
    ///
    /// # Errors
    /// If it cannot be copied.
    pub fn dry_copy(&self) -> Result<DryCopy, StoreError> {
        let number = self.db.latest_sequence_number();
        let mut beside = self.db.path().as_os_str().to_owned();
        beside.push(format!(".sluicebox-dry-run-{}-{number}", std::process::id()));
        let copy = DryCopy { path: beside.into(), _lock: None };
        self.back_up(&copy.path)?;
        Ok(copy)
    }
}

impl Drop for DryCopy {
    fn drop(&mut self) {
        // Nothing can be done about a folder that does not go away.
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl Store {
    /// Opens the store for reading and writing, and creates it where there is none. One process at a time.
    ///
    /// # Errors
    /// [`StoreError::Locked`] while another process has it open for writing.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        folder(path)?;
        let lock = lock(path)?;
        let mut options = database_options();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let db = DB::open_cf_descriptors(&options, path, column_families())?;
        let new = db.get(FORMAT)?.is_none();
        let store = Self::check(db, Some(lock))?;
        store.take_tables()?;
        store.move_into_pages()?;
        store.clear_tables()?;
        let mut held = store.db.raw_iterator_cf(store.family(IDENTIFIERS)?);
        held.seek_to_first();
        held.status()?;
        let known = (!held.valid()).then(Known::default);
        drop(held);
        *store.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
        if store.db.get(LISTED)?.is_none() {
            // What a store of an older version changed is listed nowhere.
            let from = if new { 0 } else { jiff::Timestamp::now().as_millisecond() };
            store.db.put_opt(LISTED, from.to_be_bytes(), &durable())?;
        }
        Ok(store)
    }

    /// Opens the store as it is now, beside a process that may be writing to it. `None` where there is none.
    ///
    /// # Errors
    /// If the store is of a newer format or damaged.
    pub fn open_read_only(path: &Path) -> Result<Option<Self>, StoreError> {
        if !path.join("CURRENT").exists() {
            return Ok(None);
        }
        let read_only = || {
            let options = database_options();
            let held = DB::list_cf(&options, path)?;
            let families =
                column_families().into_iter().filter(|family| held.iter().any(|name| name == family.name()));
            Ok::<_, StoreError>(DB::open_cf_descriptors_read_only(&options, path, families, false)?)
        };
        let mut db = read_only()?;
        let (taken, paged) = (db.get(TABLES)?.is_none(), db.get(PAGED)?.is_some());
        if !(taken && paged) {
            drop(db);
            match Self::open(path) {
                // It is in the middle of its commit, and will be done in a moment.
                Err(StoreError::Locked { .. }) if paged => {}
                // A process died in the middle of its commit, or the store is of an older layout.
                opened => drop(opened?),
            }
            db = read_only()?;
        }
        Self::check(db, None).map(Some)
    }

    fn check(db: DB, lock: Option<File>) -> Result<Self, StoreError> {
        if let Some(format) = db.get(FORMAT)? {
            let found = keys::read_u32(&format).ok_or(StoreError::Damaged("its format"))?;
            if found > LAYOUT {
                return Err(StoreError::Newer { found, known: LAYOUT });
            }
        }
        let hasher = pages::hasher(&db)?;
        let mut names = HashMap::new();
        for entry in db.iterator(IteratorMode::From(&[NAME], rocksdb::Direction::Forward)) {
            let (key, value) = entry?;
            let Some((&NAME, name)) = key.split_first() else { break };
            let name = String::from_utf8(name.to_vec()).map_err(|_| StoreError::Damaged("a name"))?;
            names.insert(name, keys::read_u32(&value).ok_or(StoreError::Damaged("a number of a name"))?);
        }
        Ok(Self {
            db,
            names: Mutex::new(names),
            hasher,
            known: Mutex::new(None),
            lock,
            taking: Mutex::new(()),
            merges: AtomicBool::new(false),
            table_options: table_options(),
            ahead: Ahead::default(),
        })
    }

    /// Lets tables be merged from now on, after a large commit or where there are many of them: it takes a core, and a small
    /// import would be over by then.
    pub(crate) fn merge_tables(&self, large: bool) -> Result<(), StoreError> {
        if self.merges.load(Ordering::Relaxed) {
            return Ok(());
        }
        let many = |name: &&'static str| {
            let tables = self.db.property_int_value_cf(self.family(name)?, "rocksdb.num-files-at-level0")?;
            Ok::<_, StoreError>(tables.unwrap_or_default() >= MANY_TABLES)
        };
        if large || MERGED_LATER.iter().map(many).collect::<Result<Vec<_>, _>>()?.contains(&true) {
            for name in MERGED_LATER {
                self.db.set_options_cf(self.family(name)?, &[("disable_auto_compactions", "false")])?;
            }
            self.merges.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The number of a name; a new one the first time.
    ///
    /// # Errors
    /// If the new number cannot be written.
    pub fn property(&self, owner: Owner<'_>, name: &str) -> Result<PropertyId, StoreError> {
        self.number(format!("{}{name}", owner.properties())).map(PropertyId)
    }

    /// The number of a domain group; a new one the first time.
    ///
    /// # Errors
    /// If the new number cannot be written.
    pub fn domain_group(&self, name: &str) -> Result<SpaceId, StoreError> {
        self.number(format!("{DOMAIN_GROUP}{name}")).map(SpaceId)
    }

    /// The number of a type of groups; a new one the first time.
    ///
    /// # Errors
    /// If the new number cannot be written.
    pub fn group_type(&self, name: &str) -> Result<SpaceId, StoreError> {
        self.number(format!("{GROUP_TYPE}{name}")).map(SpaceId)
    }

    /// The number of a type of events; a new one the first time.
    ///
    /// # Errors
    /// If the new number cannot be written.
    pub fn event_type(&self, name: &str) -> Result<EventTypeId, StoreError> {
        self.number(format!("{EVENT_TYPE}{name}")).map(EventTypeId)
    }

    /// The number of a type of nested rows; a new one the first time.
    ///
    /// # Errors
    /// If the new number cannot be written.
    pub fn nested_type(&self, event: &str, name: &str) -> Result<NestedTypeId, StoreError> {
        self.number(format!("{NESTED_TYPE}{event}{BETWEEN}{name}")).map(NestedTypeId)
    }

    /// The number of a name that the store has met.
    pub fn known_property(&self, owner: Owner<'_>, name: &str) -> Option<PropertyId> {
        self.known(&format!("{}{name}", owner.properties())).map(PropertyId)
    }

    /// The number of a type of nested rows that the store has met.
    pub fn known_nested_type(&self, event: &str, name: &str) -> Option<NestedTypeId> {
        self.known(&format!("{NESTED_TYPE}{event}{BETWEEN}{name}")).map(NestedTypeId)
    }

    fn known(&self, name: &str) -> Option<u32> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }

    fn number(&self, name: String) -> Result<u32, StoreError> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = names.get(&name) {
            return Ok(*number);
        }
        let number = u32::try_from(names.len()).map_err(|_| StoreError::Damaged("its names"))?;
        self.db.put_opt(keys::key(NAME, name.as_bytes()), number.to_be_bytes(), &durable())?;
        names.insert(name, number);
        Ok(number)
    }

    /// The names of everything that has a number.
    pub fn names(&self) -> Names {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = Names::default();
        for (name, number) in names.iter() {
            found.add(name, *number);
        }
        found
    }
}

/// Whose property it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner<'a> {
    /// Every profile's.
    Profile,
    /// That of groups of a type.
    Group(&'a str),
    /// That of events of a type.
    Event(&'a str),
    /// That of the rows of a nested type, after the type of events.
    Nested(&'a str, &'a str),
}

// How names stand in the dictionary; `BETWEEN` is in no name of a schema.
const BETWEEN: char = '\u{1f}';
const PROFILE: &str = "p//";
const GROUP: &str = "g/";
const EVENT: &str = "e/";
const NESTED: &str = "n/";
const DOMAIN_GROUP: &str = "d/";
const GROUP_TYPE: &str = "G/";
const EVENT_TYPE: &str = "E/";
const NESTED_TYPE: &str = "N/";

impl Owner<'_> {
    fn properties(self) -> String {
        match self {
            Self::Profile => PROFILE.to_owned(),
            Self::Group(kind) => format!("{GROUP}{kind}{BETWEEN}"),
            Self::Event(kind) => format!("{EVENT}{kind}{BETWEEN}"),
            Self::Nested(kind, nested) => format!("{NESTED}{kind}{BETWEEN}{nested}{BETWEEN}"),
        }
    }
}

/// The names of a store's dictionary by their numbers.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Of properties, whoever's they are.
    pub properties: HashMap<PropertyId, String>,
    /// The properties of profiles, by their names.
    pub profile_properties: HashMap<String, PropertyId>,
    /// The properties of groups, by the names of type and property.
    pub group_properties: HashMap<(String, String), PropertyId>,
    /// Of domain groups.
    pub domain_groups: HashMap<SpaceId, String>,
    /// Of types of groups.
    pub group_types: HashMap<SpaceId, String>,
    /// Of types of events.
    pub event_types: HashMap<EventTypeId, String>,
    /// Of types of nested rows, without the type of events.
    pub nested_types: HashMap<NestedTypeId, String>,
}

impl Names {
    fn add(&mut self, name: &str, number: u32) {
        let last = |name: &str| name.rsplit(BETWEEN).next().unwrap_or_default().to_owned();
        if let Some(name) = name.strip_prefix(PROFILE) {
            self.properties.insert(PropertyId(number), name.to_owned());
            self.profile_properties.insert(name.to_owned(), PropertyId(number));
        } else if let Some(name) = name.strip_prefix(GROUP) {
            self.properties.insert(PropertyId(number), last(name));
            if let Some((kind, property)) = name.split_once(BETWEEN) {
                self.group_properties.insert((kind.to_owned(), property.to_owned()), PropertyId(number));
            }
        } else if let Some(name) = name.strip_prefix(EVENT).or_else(|| name.strip_prefix(NESTED)) {
            self.properties.insert(PropertyId(number), last(name));
        } else if let Some(name) = name.strip_prefix(DOMAIN_GROUP) {
            self.domain_groups.insert(SpaceId(number), name.to_owned());
        } else if let Some(name) = name.strip_prefix(GROUP_TYPE) {
            self.group_types.insert(SpaceId(number), name.to_owned());
        } else if let Some(name) = name.strip_prefix(EVENT_TYPE) {
            self.event_types.insert(EventTypeId(number), name.to_owned());
        } else if let Some(name) = name.strip_prefix(NESTED_TYPE) {
            self.nested_types.insert(NestedTypeId(number), last(name));
        }
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

/// Whatever is written with this is on the disk when the call returns.
pub(crate) fn durable() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    // A commit's keys are sorted.
    options.set_memtable_insert_hint_per_batch(true);
    options
}

pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> StoreError + '_ {
    move |source| StoreError::Io { path: path.to_owned(), source }
}

/// A key for hashes that nobody can foresee; `path` is what it is for.
pub(crate) fn random_key(path: &Path) -> Result<[u8; 16], StoreError> {
    let mut key = [0; 16];
    getrandom::fill(&mut key).map_err(|error| io(path)(std::io::Error::other(error.to_string())))?;
    Ok(key)
}

/// People's data lies here: the folder is its owner's alone.
pub(crate) fn folder(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io(path))
}

pub(crate) fn lock(path: &Path) -> Result<File, StoreError> {
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
    // The number is for the message above only: the lock is the system's.
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
    // A thread is not worth what it takes to open a table.
    options.set_max_file_opening_threads(1);
    options.set_keep_log_file_num(2);
    // What it tells of its work has keys in it, which are people's identifiers.
    options.set_log_level(rocksdb::LogLevel::Error);
    options.set_max_total_wal_size(256 * MEBIBYTE as u64);
    options.set_bytes_per_sync(MEBIBYTE as u64);
    // What the log holds stays there when the store is opened: small runs would write many small tables.
    options.get_options_from_string("avoid_flush_during_recovery=true").unwrap_or(options)
}

/// How a table is written that the store takes as it is. Other tables will be merged with it, which compresses.
fn table_options() -> Options {
    let mut options = Options::default();
    options.set_bytes_per_sync(MEBIBYTE as u64);
    options.set_block_based_table_factory(&block_options(&Cache::new_lru_cache(MEBIBYTE)));
    options.set_compression_type(DBCompressionType::None);
    // Each table has one, in memory that was not touched before.
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
        // What is written first is soon merged with the rest, and compressed then; but hashes cannot be.
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
        // A table of records rewrites most others when they are merged; one of identifiers is short, and a walk passes through all.
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
