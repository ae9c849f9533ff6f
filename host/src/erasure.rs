//! People who are to stay away: the key that hashes of their identifiers are made with, and their rows among the
//! rejected ones.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use sluicebox_files::{CsvOptions, Reader, RowWriter};
use sluicebox_store::ErasureKey;

use crate::config::Config;
use crate::error::Error;

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
    for file in rejected_files(config)? {
        removed += clean(&file, &options(config, &file), values)?;
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
    for file in rejected_files(config)? {
        read(&file, &options(config, &file), |columns, cells| {
            if cells.iter().any(|cell| values.contains(cell.trim())) {
                let row = columns.iter().cloned().zip(cells.iter().map(|cell| (*cell).to_owned()));
                found.push((file.clone(), row.collect()));
            }
            Ok(())
        })?;
    }
    Ok(found)
}

fn rejected_files(config: &Config) -> Result<Vec<PathBuf>, Error> {
    let folder = config.data().join("rejected");
    let mut files = Vec::new();
    let Ok(runs) = fs::read_dir(&folder) else { return Ok(files) };
    for run in runs.flatten() {
        let entries = fs::read_dir(run.path()).map_err(|error| Error::io(&run.path(), error))?;
        let csv = entries.flatten().map(|entry| entry.path());
        files.extend(csv.filter(|path| path.extension().is_some_and(|extension| extension == "csv")));
    }
    files.sort();
    Ok(files)
}

/// A file of rejected rows is written as its goal's files are; its name is the goal's, with a number where there are
/// several.
fn options(config: &Config, file: &Path) -> CsvOptions {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let numbered = stem.rsplit_once('-').filter(|(_, number)| number.parse::<u32>().is_ok());
    let names = [Some(stem.as_ref()), numbered.map(|(name, _)| name)];
    let goals = || config.connections.iter().flat_map(|connection| &connection.goals);
    let goal = names.into_iter().flatten().find_map(|name| goals().find(|goal| goal.name == name));
    let own = goal.map(|goal| goal.csv.clone()).unwrap_or_default();
    CsvOptions { header: true, skip_rows: 0, trim: false, null_values: Vec::new(), ..own }
}

fn read(
    file: &Path,
    options: &CsvOptions,
    mut row: impl FnMut(&[String], &[&str]) -> Result<(), Error>,
) -> Result<(), Error> {
    let failed = |error| Error::File { name: file.display().to_string(), error };
    let input = File::open(file).map_err(|error| Error::io(file, error))?;
    let input = Box::new(BufReader::new(input));
    let reader = Reader::open(input, Arc::new(AtomicU64::new(0)), options.clone(), 1024).map_err(failed)?;
    let Some(mut reader) = reader else { return Ok(()) };
    let columns = reader.header().columns.clone();
    while let Some(batch) = reader.next_batch().map_err(failed)? {
        for place in 0..batch.rows() {
            let cells: Vec<&str> = (0..columns.len()).map(|column| batch.raw(place, column)).collect();
            row(&columns, &cells)?;
        }
        for rejected in &batch.rejected {
            let cells: Vec<&str> = rejected.cells.iter().map(String::as_str).collect();
            row(&columns, &cells)?;
        }
    }
    Ok(())
}

fn clean(file: &Path, options: &CsvOptions, values: &HashSet<String>) -> Result<u64, Error> {
    let temporary = file.with_extension("cleaning");
    let out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary);
    let out = out.map_err(|error| Error::io(&temporary, error))?;
    let mut writer = RowWriter::new(BufWriter::new(out), options);
    let (mut removed, mut begun) = (0, false);
    let io = |error| Error::io(&temporary, error);
    read(file, options, |columns, cells| {
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
