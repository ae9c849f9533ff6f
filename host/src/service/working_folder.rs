//! The configuration, and changes of its files. The files are the only source: an edit by hand takes effect at the next request or
//! run.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use sluicebox_files::read_regular;
use sluicebox_model::OrNever;

use crate::config::{Config, FileChange};
use crate::error::Error;

/// A working folder whose files may change.
pub(super) struct WorkingFolder {
    root: PathBuf,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    /// The files when they were read.
    seen: Vec<(PathBuf, SystemTime, u64)>,
    /// The last valid configuration.
    config: Arc<Config>,
    /// What is wrong with the files now.
    error: Option<String>,
}

impl WorkingFolder {
    /// Reads a folder.
    ///
    /// # Errors
    /// With every problem of its files.
    pub(super) fn open(root: &Path) -> Result<Self, Error> {
        let seen = files(root);
        let config = shared(Config::load(root)?);
        Ok(Self { root: root.to_owned(), loaded: Mutex::new(Loaded { seen, config, error: None }) })
    }

    /// The last valid configuration.
    pub(super) fn config(&self) -> Arc<Config> {
        self.load().0
    }

    /// What is wrong with the files, if they differ from [`Self::config`].
    pub(super) fn error(&self) -> Option<String> {
        self.load().1
    }

    /// The configuration as in the files now.
    ///
    /// # Errors
    /// With every problem of the files.
    pub(super) fn current(&self) -> Result<Arc<Config>, Error> {
        match self.load() {
            (config, None) => Ok(config),
            (_, Some(error)) => Err(Error::Usage(error)),
        }
    }

    fn load(&self) -> (Arc<Config>, Option<String>) {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = files(&self.root);
        if seen != loaded.seen {
            match Config::load(&self.root) {
                Ok(config) => {
                    loaded.config = shared(config);
                    loaded.error = None;
                }
                Err(error) => {
                    tracing::error!(%error, "configuration error; runs are paused");
                    loaded.error = Some(error.to_string());
                }
            }
            loaded.seen = seen;
        }
        (Arc::clone(&loaded.config), loaded.error.clone())
    }

    /// The text of a file of the folder; empty if there is none.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn text(&self, name: &str) -> Result<String, Error> {
        let path = self.root.join(name);
        let text = |bytes| String::from_utf8(bytes).map_err(|_| std::io::ErrorKind::InvalidData.into());
        match read_regular(&path).and_then(text) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            read => read.map_err(|error| Error::io(&path, error)),
        }
    }

    /// The configuration as it would be if some files had other texts.
    ///
    /// # Errors
    /// With every problem of the files.
    pub(super) fn config_with(&self, changed: &[FileChange]) -> Result<Config, Error> {
        Config::load_with(&self.root, changed)
    }

    /// Replaces the texts of files, if the folder is valid with the new texts and no file was changed meanwhile: all or none.
    ///
    /// # Errors
    /// With every problem of the new texts; if a file was changed meanwhile; if one cannot be written.
    pub(super) fn write(&self, changes: &[FileChange]) -> Result<(), Error> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            if self.text(&change.name)? != change.before {
                return Err(Error::Conflict(format!("{} was changed meanwhile: load it again", change.name)));
            }
        }
        let config = Config::load_with(&self.root, changes)?;
        for (place, change) in changes.iter().enumerate() {
            let path = self.root.join(&change.name);
            if let Err(error) = replace(&path, change.text.as_bytes()) {
                for written in changes.iter().take(place) {
                    // The disk fails: its first error is the one to show.
                    let _ = replace(&self.root.join(&written.name), written.before.as_bytes());
                }
                return Err(Error::io(&path, error));
            }
        }
        *loaded = Loaded { seen: files(&self.root), config: shared(config), error: None };
        Ok(())
    }
}

/// A configuration for runs that share the memory.
fn shared(mut config: Config) -> Arc<Config> {
    config.settings.tuning.share(config.settings.server.runs);
    Arc::new(config)
}

/// Replaces a file atomically: readers see the old text or the new one.
fn replace(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().map(|name| name.to_string_lossy()).or_never("the name of a file");
    // Random, and created here: a link that someone put there is not followed. It does not end in `.toml`: it is not read as a
    // connection.
    let beside = folder.join(format!(".{name}.{}.new", uuid::Uuid::now_v7().simple()));
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    let permissions = fs::metadata(path).ok().map(|metadata| metadata.permissions());
    if permissions.is_some() {
        options.mode(0o600);
    }
    let write = || {
        let mut file = options.open(&beside)?;
        if let Some(permissions) = permissions {
            file.set_permissions(permissions)?;
        }
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    let written = write();
    if written.is_err() {
        // It may not have been created.
        let _ = fs::remove_file(&beside);
    }
    written?;
    fs::File::open(folder)?.sync_all()
}

fn files(root: &Path) -> Vec<(PathBuf, SystemTime, u64)> {
    let connections = fs::read_dir(root.join("connections")).into_iter().flatten().flatten();
    let connections = connections.map(|entry| entry.path());
    let own = ["sluicebox.toml", "schema.toml"].map(|name| root.join(name));
    let seen = own.into_iter().chain(connections).filter_map(|path| {
        let metadata = fs::metadata(&path).ok()?;
        Some((path, metadata.modified().ok()?, metadata.len()))
    });
    let mut seen: Vec<_> = seen.collect();
    seen.sort();
    seen
}
