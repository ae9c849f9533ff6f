//! A cache of history entries and of plugins' descriptions. A goal run that ended never changes; a plugin is described again when
//! its file changes.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use sluicebox_store::StoreError;

use crate::error::Error;
use crate::plugins::{BUNDLED, in_plugin_folder, runtime, sha256};
use crate::runs::report::{HistoryEntry, Status};
use crate::service::Service;

/// History entries in the cache.
const MAX_ENTRIES: usize = 2000;

/// The cache.
#[derive(Default)]
pub(super) struct LookupCache {
    /// By their numbers.
    entries: Mutex<BTreeMap<u64, Arc<HistoryEntry>>>,
    bundled: OnceLock<Vec<Arc<PluginInfo>>>,
    in_folder: Mutex<HashMap<PathBuf, CachedPlugin>>,
}

/// The time and size of a plugin's file, and what it holds.
type CachedPlugin = (SystemTime, u64, Arc<PluginInfo>);

/// A plugin as it describes itself.
#[derive(Debug)]
pub(super) struct PluginInfo {
    pub name: String,
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    pub bundled: bool,
    pub version: Option<String>,
    pub summary: Option<String>,
    /// Why it cannot be used.
    pub problem: Option<String>,
}

impl Service {
    /// The goal runs of the history, newest first.
    pub(super) fn history_entries(&self) -> impl Iterator<Item = Result<Arc<HistoryEntry>, Error>> + '_ {
        self.store.history().map(|entry| {
            let (number, bytes) = entry?;
            let mut cached = self.lookup_cache.entries.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(entry) = cached.get(&number) {
                return Ok(Arc::clone(entry));
            }
            let entry = Arc::new(HistoryEntry::decode(&bytes).ok_or(StoreError::Damaged("the history"))?);
            if entry.report.status != Status::Running {
                cached.insert(number, Arc::clone(&entry));
                if cached.len() > MAX_ENTRIES {
                    cached.pop_first();
                }
            }
            Ok(entry)
        })
    }

    /// The bundled plugins, then those of the plugin folder.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub(super) fn all_plugins(&self) -> Result<Vec<Arc<PluginInfo>>, Error> {
        let bundled = self.lookup_cache.bundled.get_or_init(|| {
            let found = BUNDLED.iter().map(|(name, bytes)| Arc::new(self.describe(name, bytes, true)));
            found.collect()
        });
        let mut plugins = bundled.clone();
        for (name, path) in in_plugin_folder(&self.folder.config()) {
            plugins.push(self.plugin_file(&name, &path).map_err(|error| Error::io(&path, error))?);
        }
        Ok(plugins)
    }

    fn plugin_file(&self, name: &str, path: &Path) -> std::io::Result<Arc<PluginInfo>> {
        let metadata = fs::metadata(path)?;
        let (modified, size) = (metadata.modified()?, metadata.len());
        let mut files = self.lookup_cache.in_folder.lock().unwrap_or_else(PoisonError::into_inner);
        match files.get(path) {
            Some((at, length, plugin)) if (*at, *length) == (modified, size) => Ok(Arc::clone(plugin)),
            _ => {
                let plugin = Arc::new(self.describe(name, &fs::read(path)?, false));
                files.insert(path.to_owned(), (modified, size, Arc::clone(&plugin)));
                Ok(plugin)
            }
        }
    }

    fn describe(&self, name: &str, bytes: &[u8], bundled: bool) -> PluginInfo {
        let config = self.folder.config();
        let described = runtime(&config, true).map_err(|error| error.to_string()).and_then(|runtime| {
            let plugin =
                runtime.load(name, bytes, config.settings.limits).map_err(|error| error.to_string())?;
            plugin.describe().map_err(|error| error.to_string())
        });
        PluginInfo {
            name: name.to_owned(),
            sha256: sha256(bytes),
            size: bytes.len() as u64,
            bundled,
            version: described.as_ref().ok().map(|it| it.version.clone()),
            summary: described.as_ref().ok().map(|it| it.summary.clone()),
            problem: described.err(),
        }
    }
}
