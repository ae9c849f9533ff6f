//! Verifies and measures a store, compacts it, backs it up and restores it.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{BottommostLevelCompaction, CompactOptions, IteratorMode};
use sluicebox_model::{IdentifierHash, PropertyId, RecordId};

use super::open::{folder, lock};
use super::read::record_id;
use super::{FAMILIES, IDENTIFIERS, RECORDS, RocksStore, pages};
use crate::error::io;
use crate::keys::{self, Meta};
use crate::record_format::{MergedInto, Stored, decode};
use crate::{Stats, StoreError, Verification};

/// Identifiers that are looked up together, and records.
const IDENTIFIERS_AT_ONCE: usize = 1 << 18;
const RECORDS_AT_ONCE: usize = 1 << 16;
impl RocksStore {
    pub(crate) fn verify(&self, unique: &[PropertyId]) -> Result<Verification, StoreError> {
        let mut found = Verification::default();
        let sums = self.verify_events(&mut found)?;
        let changed = self.last_changes()?;
        let listed_from = self.listed_from()?;
        let mut identifiers = Vec::new();
        for entry in self.db.iterator_cf(self.family(RECORDS)?, IteratorMode::Start) {
            let (id, bytes) = entry?;
            let (Ok(id), Ok(stored)) = (record_id(&id), decode(&bytes)) else {
                found.problem("a record cannot be decoded".to_owned());
                continue;
            };
            let record = match stored {
                Stored::MergedInto(MergedInto { record: to, .. }) => {
                    found.merged += 1;
                    if self.load(to)?.is_none() {
                        found.problem(format!("record {id} was merged into {to}, which is not there"));
                    }
                    continue;
                }
                Stored::Record(record) => record,
            };
            *found.records.entry(record.space).or_default() += 1;
            for property in unique {
                let hash = |value| self.hash(record.space, *property, value);
                identifiers.extend(record.values(*property).iter().map(|value| (hash(value), id)));
            }
            if identifiers.len() >= IDENTIFIERS_AT_ONCE {
                self.verify_found(&mut identifiers, &mut found)?;
            }
            if record.events != sums.get(&id).copied().unwrap_or_default() {
                found.problem(format!(
                    "record {id}: the sum of its events is not that of those that are there"
                ));
            }
            if record.modified > listed_from && changed.get(&id) != Some(&record.modified) {
                found.problem(format!("record {id}: its last change is in no list"));
            }
        }
        self.verify_found(&mut identifiers, &mut found)?;
        self.verify_identifiers(unique, &mut found)?;
        self.verify_counts(&mut found)?;
        Ok(found)
    }

    /// Whether identifiers find the records that hold them.
    fn verify_found(
        &self,
        identifiers: &mut Vec<(IdentifierHash, RecordId)>,
        found: &mut Verification,
    ) -> Result<(), StoreError> {
        identifiers.sort_unstable();
        let hashes: Vec<IdentifierHash> = identifiers.iter().map(|(hash, _)| *hash).collect();
        for ((hash, id), holder) in identifiers.drain(..).zip(self.find_sorted(&hashes)?) {
            if holder != Some(id) {
                let holder = holder.map_or("no record".to_owned(), |holder| holder.to_string());
                let property = hash.property().0;
                found.problem(format!("record {id}: a value of property {property} finds {holder}"));
            }
        }
        Ok(())
    }

    /// Answers with the sum of the events' fingerprints for each record.
    fn verify_events(&self, found: &mut Verification) -> Result<HashMap<RecordId, u64>, StoreError> {
        let mut sums: HashMap<RecordId, u64> = HashMap::new();
        for entry in self.events()? {
            found.events += 1;
            match entry {
                Ok((key, event)) => {
                    let sum = sums.entry(key.record).or_default();
                    *sum = sum.wrapping_add(event.fingerprint(&key));
                }
                Err(StoreError::Damaged(_)) => found.problem("an event cannot be decoded".to_owned()),
                Err(error) => return Err(error),
            }
        }
        for record in sums.keys() {
            let stored = self.db.get_pinned_cf(self.family(RECORDS)?, record.0)?;
            if !stored.is_some_and(|bytes| matches!(decode(&bytes), Ok(Stored::Record(_)))) {
                found.problem(format!("there are events of record {record}, which is not there"));
            }
        }
        Ok(sums)
    }

    fn verify_identifiers(&self, unique: &[PropertyId], found: &mut Verification) -> Result<(), StoreError> {
        let mut holding = Vec::new();
        for entry in self.db.iterator_cf(self.family(IDENTIFIERS)?, IteratorMode::Start) {
            let (key, page) = entry?;
            let Ok(entries) = pages::entries(&key, &page) else {
                found.problem("a page of identifiers cannot be decoded".to_owned());
                continue;
            };
            let (mut last, mut sorted) = (None, true);
            for (hash, id) in entries {
                sorted &= last.replace(hash).is_none_or(|last| last < hash);
                let Some(id) = id else { continue };
                found.identifiers += 1;
                // Others are left of a property that identified once.
                if unique.contains(&hash.property()) {
                    holding.push((id, hash));
                }
            }
            if holding.len() >= RECORDS_AT_ONCE {
                self.verify_holding(&mut holding, found)?;
            }
            if !sorted {
                found.problem("the identifiers of a page are not in order".to_owned());
            }
        }
        self.verify_holding(&mut holding, found)
    }

    /// Whether records hold the values of the identifiers that find them.
    fn verify_holding(
        &self,
        holding: &mut Vec<(RecordId, IdentifierHash)>,
        found: &mut Verification,
    ) -> Result<(), StoreError> {
        holding.sort_unstable();
        let ids: Vec<RecordId> = holding.iter().map(|(id, _)| *id).collect();
        for ((id, hash), record) in holding.drain(..).zip(self.load_sorted(&ids)?) {
            let property = hash.property();
            let holds = record.is_some_and(|(held, record)| {
                let hash_of = |value| self.hash(record.space, property, value);
                held == id && record.values(property).iter().any(|value| hash_of(value) == hash)
            });
            if !holds {
                let property = property.0;
                found.problem(format!(
                    "an identifier of property {property} finds record {id}, which does not hold it"
                ));
            }
        }
        Ok(())
    }

    pub(crate) fn stats(&self) -> Result<Stats, StoreError> {
        let mut families = Vec::new();
        for name in FAMILIES {
            let Some(family) = self.db.cf_handle(name) else { continue };
            let number = |property: &str| self.db.property_int_value_cf(family, property);
            let bytes = number("rocksdb.total-sst-files-size")?.unwrap_or_default();
            let entries = match name {
                // Entries that are in no table yet are single identifiers.
                IDENTIFIERS => {
                    let unwritten = number("rocksdb.num-entries-active-mem-table")?.unwrap_or_default();
                    bytes / pages::ENTRY as u64 + unwritten
                }
                _ => number("rocksdb.estimate-num-keys")?.unwrap_or_default(),
            };
            families.push((name, entries, bytes));
        }
        let layout =
            self.db.get(Meta::Format)?.and_then(|format| keys::read_u32(&format)).unwrap_or_default();
        Ok(Stats { layout, families, bytes: size(self.db.path())? })
    }

    pub(crate) fn compact(&self) -> Result<(), StoreError> {
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        self.flush()?;
        for name in FAMILIES {
            self.db.compact_range_cf_opt(self.family(name)?, None::<&[u8]>, None::<&[u8]>, &options);
        }
        Ok(())
    }

    pub(crate) fn back_up(&self, to: &Path) -> Result<(), StoreError> {
        if to.exists() {
            return Err(io(to)(std::io::ErrorKind::AlreadyExists.into()));
        }
        if let Some(parent) = to.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            folder(parent)?;
        }
        let whole = self.ingest.lock().unwrap_or_else(PoisonError::into_inner);
        Checkpoint::new(&self.db)?.create_checkpoint(to)?;
        drop(whole);
        fs::set_permissions(to, fs::Permissions::from_mode(0o700)).map_err(io(to))
    }

    pub(crate) fn restore(backup: &Path, path: &Path) -> Result<Option<PathBuf>, StoreError> {
        if Self::open_read_only(backup)?.is_none() {
            return Err(io(backup)(std::io::Error::other("there is no backup of a store")));
        }
        let beside = |suffix: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        let incoming = beside(".restoring");
        let _ = fs::remove_dir_all(&incoming);
        folder(&incoming)?;
        for entry in fs::read_dir(backup).map_err(io(backup))? {
            let entry = entry.map_err(io(backup))?;
            if entry.path().is_file() && entry.file_name() != "LOCK" {
                let to = incoming.join(entry.file_name());
                fs::copy(entry.path(), &to).map_err(io(&to))?;
                fs::File::open(&to).and_then(|file| file.sync_all()).map_err(io(&to))?;
            }
        }
        if !path.exists() {
            fs::rename(&incoming, path).map_err(io(path))?;
            return Ok(None);
        }
        let held = lock(path)?;
        let now = jiff::Timestamp::now().as_second();
        let before = beside(&format!(".before-restore-{now}"));
        fs::rename(path, &before).map_err(io(path))?;
        fs::rename(&incoming, path).map_err(io(path))?;
        drop(held);
        Ok(Some(before))
    }
}

fn size(folder: &Path) -> Result<u64, StoreError> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).map_err(io(folder))? {
        bytes += entry.and_then(|entry| entry.metadata()).map_err(io(folder))?.len();
    }
    Ok(bytes)
}
