//! Erased persons: their profile and rejected rows are removed, and keyed hashes of their identifiers keep imports from bringing
//! them back.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use sluicebox_files::RowWriter;
use sluicebox_model::RecordId;
use sluicebox_store::{ErasureKey, Store};

use crate::config::Config;
use crate::error::Error;
use crate::import::plan::unique;
use crate::queries::profile::{identifiers, no_profile};
use crate::runs::rejected;

/// The file of the key, beside the store and no part of it: see [`ErasureKey`].
const KEY_FILE: &str = "erasure.key";

/// The key, if any person was erased.
///
/// # Errors
/// If it cannot be read, or is damaged.
pub(crate) fn key(config: &Config) -> Result<Option<ErasureKey>, Error> {
    let place = config.data().join(KEY_FILE);
    match fs::read(&place) {
        Ok(bytes) => match bytes.try_into() {
            Ok(key) => Ok(Some(key)),
            Err(_) => Err(Error::Failed(format!("{} is damaged: it is not a key", place.display()))),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(&place, error)),
    }
}

/// The key; a new one the first time.
///
/// # Errors
/// If it cannot be read or written.
fn key_or_new(config: &Config) -> Result<ErasureKey, Error> {
    if let Some(key) = key(config)? {
        return Ok(key);
    }
    let place = config.data().join(KEY_FILE);
    let mut key: ErasureKey = [0; 32];
    getrandom::fill(&mut key).map_err(|error| Error::failed("no random numbers", error))?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&place);
    file.and_then(|mut file| {
        file.write_all(&key)?;
        file.sync_all()
    })
    .map_err(|error| Error::io(&place, error))?;
    Ok(key)
}

/// An erased profile.
pub(crate) struct Erased {
    pub id: RecordId,
    /// The rejected rows of the person that were removed.
    pub rejected_rows: u64,
}

/// Erases the profile of an id, with its events, its overwritten values and the person's rejected rows.
///
/// # Errors
/// If there is no such profile, or the store, the key or a file of rejected rows cannot be read or written.
pub(crate) fn erase(config: &Config, id: &str) -> Result<Erased, Error> {
    let missing = || no_profile(id);
    let wanted: RecordId = id.parse().map_err(|_| missing())?;
    let store = Store::open_existing(&config.settings.store)?.ok_or_else(missing)?;
    let (id, record) = store.load(wanted)?.ok_or_else(missing)?;
    let values = identifiers(config, &store, &record);
    let key = key_or_new(config)?;
    store.erase(id, &unique(&config.schema, &store)?, &key, Timestamp::now().as_millisecond())?;
    drop(store);
    // Opening the store writes the list of its files anew, which then names nothing of the profile.
    drop(Store::open(&config.settings.store)?);
    Ok(Erased { id, rejected_rows: clean_rejected(config, &values)? })
}

/// Removes the rows that hold one of the values from all files of rejected rows; answers with their number.
///
/// # Errors
/// If a file cannot be read or written.
fn clean_rejected(config: &Config, values: &HashSet<String>) -> Result<u64, Error> {
    let mut removed = 0;
    for file in rejected::files(config)? {
        removed += clean(config, &file, values)?;
    }
    Ok(removed)
}

/// A rejected row: its file, and the names and cells of its columns.
pub(crate) type FoundRow = (PathBuf, Vec<(String, String)>);

/// The rejected rows that hold one of the values.
///
/// # Errors
/// If a file cannot be read.
pub(crate) fn find_rejected(config: &Config, values: &HashSet<String>) -> Result<Vec<FoundRow>, Error> {
    let mut found = Vec::new();
    for file in rejected::files(config)? {
        rejected::read(config, &file, |columns, cells| {
            if is_of_person(columns, cells, values) {
                let row = columns.iter().cloned().zip(cells.iter().map(|cell| (*cell).to_owned()));
                found.push((file.clone(), row.collect()));
            }
            Ok(())
        })?;
    }
    Ok(found)
}

/// Whether a cell of a rejected row is one of the values. The bytes of a row that could not be split hold them anywhere.
fn is_of_person(columns: &[String], cells: &[&str], values: &HashSet<String>) -> bool {
    let raw = columns.iter().zip(cells).find(|(name, _)| *name == "_raw").map(|(_, cell)| *cell);
    let raw = raw.filter(|raw| !raw.is_empty()).and_then(rejected::raw_bytes);
    let raw = raw.map(|raw| String::from_utf8_lossy(&raw).into_owned());
    cells.iter().any(|cell| values.contains(cell.trim()))
        || raw.is_some_and(|raw| values.iter().any(|value| !value.is_empty() && raw.contains(value)))
}

/// Rewrites a file without the rows that hold one of the values; answers with their number.
fn clean(config: &Config, file: &Path, values: &HashSet<String>) -> Result<u64, Error> {
    let temporary = file.with_extension("cleaning");
    // What a process that died has left.
    let _ = fs::remove_file(&temporary);
    let out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
    let out = out.map_err(|error| Error::io(&temporary, error))?;
    let mut writer = RowWriter::new(BufWriter::new(out), &rejected::options(config, file)?);
    let (mut removed, mut begun) = (0, false);
    let io = |error| Error::io(&temporary, error);
    rejected::read(config, file, |columns, cells| {
        if !begun {
            writer.write(columns.iter().map(String::as_str)).map_err(io)?;
            begun = true;
        }
        if is_of_person(columns, cells, values) {
            removed += 1;
            return Ok(());
        }
        writer.write(cells.iter().copied()).map_err(io)
    })?;
    let written = writer.get_mut();
    written.flush().and_then(|()| written.get_ref().sync_all()).map_err(io)?;
    if removed > 0 {
        fs::rename(&temporary, file).map_err(|error| Error::io(file, error))?;
    } else {
        fs::remove_file(&temporary).map_err(io)?;
    }
    Ok(removed)
}
