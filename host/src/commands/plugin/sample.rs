//! The samples of a plugin: rows with a configuration.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use sluicebox_files::{CsvOptions, Reader};
use sluicebox_model::RecordBatch;
use sluicebox_processors::{Configuration, Plugin, PluginError, Session};

use super::build;
use crate::error::Error;

/// Rows, `samples/NAME.csv`, and the configuration for them, `samples/NAME.toml`.
pub(super) struct Sample {
    pub csv: PathBuf,
}

impl Sample {
    /// The configuration, as JSON.
    ///
    /// # Errors
    /// If it is missing or not TOML.
    pub(super) fn config(&self) -> Result<String, Error> {
        let toml = self.csv.with_extension("toml");
        let text = fs::read_to_string(&toml).map_err(|error| Error::io(&toml, error))?;
        let wrong = |error: String| Error::Usage(format!("{}: {error}", toml.display()));
        let table: toml::Table = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        serde_json::to_string(&table).map_err(|error| wrong(error.to_string()))
    }

    /// Opens a session on the sample.
    ///
    /// # Errors
    /// If the plugin refuses the configuration or fails.
    pub(super) fn open(&self, plugin: &Plugin, config: &str, header: &[String]) -> Result<Session, Error> {
        let config = Configuration::new(config.to_owned(), &[]);
        plugin.open("", &config, header).map_err(|error| self.failed(None, error))
    }

    /// A failure at a batch, counted from 1, or before the first.
    pub(super) fn failed(&self, batch: Option<u64>, error: PluginError) -> Error {
        Error::Processor { file: self.csv.display().to_string(), batch, error }
    }
}

/// The plugin in a folder: `component`, or the component that building the folder gives.
///
/// # Errors
/// If it cannot be built, or is not a plugin.
pub(super) fn load(folder: &Path, component: Option<&Path>) -> Result<Plugin, Error> {
    let place = match component {
        Some(file) => file.to_owned(),
        None => build::component(folder)?,
    };
    super::read(&place).map(|(_, plugin, _)| plugin)
}

/// The samples of a plugin, sorted by name.
///
/// # Errors
/// If there are none.
pub(super) fn all(folder: &Path) -> Result<Vec<Sample>, Error> {
    let place = folder.join("samples");
    let entries = fs::read_dir(&place).map_err(|error| Error::io(&place, error))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let is_input = |file: &&PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".csv") && !name.ends_with(".expected.csv") && !name.ends_with(".rejected.csv")
    };
    let samples: Vec<Sample> = files.iter().filter(is_input).map(|csv| Sample { csv: csv.clone() }).collect();
    if samples.is_empty() {
        return Err(Error::Usage(format!("no samples: {} has no .csv", place.display())));
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
