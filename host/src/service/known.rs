//! What need not be found out again at each look: goal runs that ended stay as they are, and so does a plugin's file as long as
//! nobody touches it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use sluicebox_store::StoreError;

use crate::error::Error;
use crate::plugins::{BUNDLED, in_plugin_folder, runtime, sha256};
use crate::report::{Kept, Status};
use crate::service::Service;

/// Goal runs that are remembered.
const MOST_RUNS: usize = 2000;

/// What was found out.
#[derive(Default)]
pub(super) struct Known {
    runs: Mutex<BTreeMap<u64, Arc<Kept>>>,
    bundled: OnceLock<Vec<Arc<KnownPlugin>>>,
    in_folder: Mutex<HashMap<PathBuf, SeenPlugin>>,
}

/// A plugin's file when it was looked at: its time, its bytes, and what it is.
type SeenPlugin = (SystemTime, u64, Arc<KnownPlugin>);

/// A plugin as its file says.
#[derive(Debug)]
pub(super) struct KnownPlugin {
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
    pub(super) fn kept(&self) -> impl Iterator<Item = Result<Arc<Kept>, Error>> + '_ {
        self.store.history().map(|entry| {
            let (number, bytes) = entry?;
            let mut runs = self.known.runs.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = runs.get(&number) {
                return Ok(Arc::clone(known));
            }
            let kept = Arc::new(Kept::decode(&bytes).ok_or(StoreError::Damaged("the history"))?);
            if kept.report.status != Status::Running {
                runs.insert(number, Arc::clone(&kept));
                if runs.len() > MOST_RUNS {
                    runs.pop_first();
                }
            }
            Ok(kept)
        })
    }

    /// The bundled plugins, and those of the plugin folder as they are now.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub(super) fn known_plugins(&self) -> Result<Vec<Arc<KnownPlugin>>, Error> {
        let bundled = self.known.bundled.get_or_init(|| {
            let found = BUNDLED.iter().map(|(name, bytes)| Arc::new(self.look_at(name, bytes, true)));
            found.collect()
        });
        let mut plugins = bundled.clone();
        for (name, path) in in_plugin_folder(&self.folder.config()) {
            plugins.push(self.plugin_file(&name, &path).map_err(|error| Error::io(&path, error))?);
        }
        Ok(plugins)
    }

    fn plugin_file(&self, name: &str, path: &Path) -> std::io::Result<Arc<KnownPlugin>> {
        let metadata = fs::metadata(path)?;
        let (modified, size) = (metadata.modified()?, metadata.len());
        let mut files = self.known.in_folder.lock().unwrap_or_else(PoisonError::into_inner);
        match files.get(path) {
            Some((at, length, known)) if (*at, *length) == (modified, size) => Ok(Arc::clone(known)),
            _ => {
                let known = Arc::new(self.look_at(name, &fs::read(path)?, false));
                files.insert(path.to_owned(), (modified, size, Arc::clone(&known)));
                Ok(known)
            }
        }
    }

    fn look_at(&self, name: &str, bytes: &[u8], bundled: bool) -> KnownPlugin {
        let config = self.folder.config();
        let described = runtime(&config, true).map_err(|error| error.to_string()).and_then(|runtime| {
            let plugin =
                runtime.load(name, bytes, config.settings.limits).map_err(|error| error.to_string())?;
            plugin.describe().map_err(|error| error.to_string())
        });
        KnownPlugin {
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
