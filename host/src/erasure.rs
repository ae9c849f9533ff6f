//! People who are to stay away: the key that hashes of their identifiers are made with, and their rows among the
//! rejected ones.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sluicebox_files::{CsvOptions, RowWriter};
use sluicebox_store::ErasureKey;

use crate::config::Config;
use crate::error::Error;
use crate::rejected;

/// Beside the store, and no part of it: see [`ErasureKey`].
const KEY_FILE: &str = "erasure.key";

/// The key, if anyone was erased.
///
/// # Errors
/// If it cannot be read, or is none.
pub(crate) fn key(config: &Config) -> Result<Option<ErasureKey>, Error> {
    let place = config.data().join(KEY_FILE);
    match fs::read(&place) {
        Ok(bytes) => match bytes.try_into() {
            Ok(key) => Ok(Some(key)),
            Err(_) => {
                Err(Error::Failed(format!("{} is not the key that was written there", place.display())))
            }
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(&place, error)),
    }
}

/// The key, made where there is none.
///
/// # Errors
/// If it cannot be read or written.
pub(crate) fn key_or_new(config: &Config) -> Result<ErasureKey, Error> {
    if let Some(key) = key(config)? {
        return Ok(key);
    }
    let place = config.data().join(KEY_FILE);
    let mut key: ErasureKey = [0; 32];
    getrandom::fill(&mut key).map_err(|error| Error::Failed(format!("no random numbers: {error}")))?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&place);
    file.and_then(|mut file| {
        file.write_all(&key)?;
        file.sync_all()
    })
    .map_err(|error| Error::io(&place, error))?;
    Ok(key)
}

/// Takes the rows that hold one of the values out of all files of rejected rows; answers how many they were.
///
/// # Errors
/// If a file cannot be read or written.
pub(crate) fn clean_rejected(config: &Config, values: &HashSet<String>) -> Result<u64, Error> {
    let mut removed = 0;
    for file in rejected::files(config)? {
        removed += clean(&file, &rejected::options(config, &file), values)?;
    }
    Ok(removed)
}

/// A row with its file: the names and cells of its columns.
pub(crate) type FoundRow = (PathBuf, Vec<(String, String)>);

/// The rejected rows that hold one of the values, each as the names and cells of its columns, with its file.
///
/// # Errors
/// If a file cannot be read.
pub(crate) fn find_rejected(config: &Config, values: &HashSet<String>) -> Result<Vec<FoundRow>, Error> {
    let mut found = Vec::new();
    for file in rejected::files(config)? {
        rejected::read(&file, &rejected::options(config, &file), |columns, cells| {
            if cells.iter().any(|cell| values.contains(cell.trim())) {
                let row = columns.iter().cloned().zip(cells.iter().map(|cell| (*cell).to_owned()));
                found.push((file.clone(), row.collect()));
            }
            Ok(())
        })?;
    }
    Ok(found)
}

fn clean(file: &Path, options: &CsvOptions, values: &HashSet<String>) -> Result<u64, Error> {
    let temporary = file.with_extension("cleaning");
    let out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary);
    let out = out.map_err(|error| Error::io(&temporary, error))?;
    let mut writer = RowWriter::new(BufWriter::new(out), options);
    let (mut removed, mut begun) = (0, false);
    let io = |error| Error::io(&temporary, error);
    rejected::read(file, options, |columns, cells| {
        if !begun {
            writer.write(columns.iter().map(String::as_str)).map_err(io)?;
            begun = true;
        }
        if cells.iter().any(|cell| values.contains(cell.trim())) {
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
