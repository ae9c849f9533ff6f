//! The samples of a plugin: rows and a configuration.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use sluicebox_files::{CsvOptions, Reader};
use sluicebox_model::RecordBatch;
use sluicebox_processors::{Plugin, PluginError};

use super::build;
use crate::error::Error;

/// Rows that go in, and how the plugin is configured for them.
pub(super) struct Sample {
    /// `samples/NAME.csv`.
    pub csv: PathBuf,
    /// As JSON; from `samples/NAME.toml`.
    pub config: String,
}

impl Sample {
    /// What went wrong with a batch of it, or before the first.
    pub(super) fn failed(&self, batch: Option<u64>, error: PluginError) -> Error {
        Error::Processor { file: self.csv.display().to_string(), batch, error }
    }
}

/// The component of a plugin's folder: `component`, or what building it makes. With its name.
///
/// # Errors
/// If it cannot be built, or is no plugin.
pub(super) fn load(folder: &Path, component: Option<&Path>) -> Result<Plugin, Error> {
    let place = match component {
        Some(file) => file.to_owned(),
        None => build::component(folder)?,
    };
    super::read(&place).map(|(_, plugin, _)| plugin)
}

/// The samples in a plugin's folder, by name.
///
/// # Errors
/// If there are none, or a configuration is not TOML.
pub(super) fn all(folder: &Path) -> Result<Vec<Sample>, Error> {
    let place = folder.join("samples");
    let entries = fs::read_dir(&place).map_err(|error| Error::io(&place, error))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let is_input = |file: &&PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".csv") && !name.ends_with(".expected.csv") && !name.ends_with(".rejected.csv")
    };
    let samples = files.iter().filter(is_input).map(|csv| {
        let toml = csv.with_extension("toml");
        let text = fs::read_to_string(&toml).map_err(|error| Error::io(&toml, error))?;
        let wrong = |error: String| Error::Usage(format!("{}: {error}", toml.display()));
        let table: toml::Table = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let config = serde_json::to_string(&table).map_err(|error| wrong(error.to_string()))?;
        Ok(Sample { csv: csv.clone(), config })
    });
    let samples = samples.collect::<Result<Vec<_>, Error>>()?;
    if samples.is_empty() {
        return Err(Error::Usage(format!("there is no sample: {} has no .csv", place.display())));
    }
    Ok(samples)
}

/// The columns of a file and its rows, in batches.
///
/// # Errors
/// If it cannot be read.
pub(super) fn read(csv: &Path, batch_rows: usize) -> Result<(Vec<String>, Vec<RecordBatch>), Error> {
    let file = File::open(csv).map_err(|error| Error::io(csv, error))?;
    let failed = |error| Error::File { name: csv.display().to_string(), error };
    let reader = Reader::open(Box::new(file), Default::default(), CsvOptions::default(), batch_rows);
    let Some(mut reader) = reader.map_err(failed)? else { return Ok(Default::default()) };
    let mut batches = Vec::new();
    while let Some(batch) = reader.next_batch().map_err(failed)? {
        batches.push(batch);
    }
    Ok((reader.header().columns.clone(), batches))
}
