//! Finds a goal's plugins: bundled in this binary, in the plugin folder, or at a path.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use sluicebox_processors::{Limits, Plugin, Runtime};

use crate::config::{Config, ImportGoal, ProcessorEntry, nearest};
use crate::error::Error;

/// The components that this binary carries, by name.
pub(crate) const BUNDLED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/bundled.rs"));

/// A plugin with its configuration.
pub(crate) struct Processor {
    pub plugin: Plugin,
    /// The linked file whose rows it sees; `None` = the root file.
    pub file: Option<usize>,
    /// With its secrets: never shown.
    pub config: String,
}

/// Loads the plugins of a goal.
///
/// # Errors
/// If one is missing, is no component, or is not the one that is pinned; if a secret is missing.
pub(crate) fn load(config: &Config, goal: &ImportGoal, runtime: &Runtime) -> Result<Vec<Processor>, Error> {
    let load = |entry: &ProcessorEntry| {
        let failed = |reason: String| Error::Plugin { place: entry.place.clone(), reason };
        let (bytes, name) = find(config, &entry.plugin).map_err(failed)?;
        if let Some(pinned) = &entry.sha256 {
            let found = sha256(&bytes);
            if found != *pinned {
                return Err(failed(format!(
                    "plugin {name} is not the one that is pinned: its sha256 is {found}"
                )));
            }
        }
        let plugin = runtime.load(&name, &bytes, entry.limits).map_err(|error| failed(error.to_string()))?;
        Ok(Processor { plugin, file: entry.file, config: entry.config.open(&config.root)? })
    };
    goal.processors.iter().map(load).collect()
}

/// The bytes of a plugin and the name to call it by.
fn find(config: &Config, plugin: &str) -> Result<(Vec<u8>, String), String> {
    let path = Path::new(plugin);
    if plugin.ends_with(".wasm") || path.components().count() > 1 {
        let place = config.root.join(path);
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        return read(&place).map(|bytes| (bytes, name));
    }
    let in_folder = config.settings.plugins.join(format!("{plugin}.wasm"));
    if in_folder.is_file() {
        return read(&in_folder).map(|bytes| (bytes, plugin.to_owned()));
    }
    if let Some((_, bytes)) = BUNDLED.iter().find(|(name, _)| *name == plugin) {
        return Ok((bytes.to_vec(), plugin.to_owned()));
    }
    let mut known: Vec<String> = BUNDLED.iter().map(|(name, _)| (*name).to_owned()).collect();
    known.extend(in_plugin_folder(config).into_iter().map(|(name, _)| name));
    let hint = match nearest(plugin, known.iter().map(String::as_str)) {
        Some(near) => format!("; did you mean `{near}`?"),
        None if BUNDLED.is_empty() => {
            "; this binary was built without the bundled ones, which `cargo xtask build-plugins` makes"
                .to_owned()
        }
        None => format!("; there are: {}", known.join(", ")),
    };
    Err(format!("there is no plugin `{plugin}`{hint}"))
}

fn read(place: &Path) -> Result<Vec<u8>, String> {
    // A FIFO would be waited for, for ever.
    match fs::metadata(place) {
        Ok(metadata) if !metadata.is_file() => Err(format!("the plugin {} is not a file", place.display())),
        _ => {
            fs::read(place).map_err(|error| format!("the plugin {} cannot be read: {error}", place.display()))
        }
    }
}

/// Names and files of the plugins in the plugin folder.
pub(crate) fn in_plugin_folder(config: &Config) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(&config.settings.plugins).into_iter().flatten().flatten();
    let wasm =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|it| it == "wasm"));
    let mut found: Vec<_> =
        wasm.filter_map(|path| Some((path.file_stem()?.to_str()?.to_owned(), path))).collect();
    found.sort();
    found
}

/// The SHA-256 of a file, as pins have it.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An engine whose compiled plugins are kept beside the store, if `keep`: what only looks leaves no trace.
///
/// # Errors
/// If this machine cannot run WebAssembly.
pub(crate) fn runtime(config: &Config, keep: bool) -> Result<Runtime, Error> {
    let cache = config.data().join("plugin-cache");
    let keep = keep || cache.exists();
    Runtime::new(keep.then_some(cache.as_path())).map_err(|fault| Error::Usage(fault.to_string()))
}

/// The limits under which plugins are asked what they are.
pub(crate) fn inspection_limits() -> Limits {
    Limits::default()
}
