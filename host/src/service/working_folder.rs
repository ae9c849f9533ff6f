//! The configuration as its files are now, and changes to them. The files stay the truth: whoever edits them by hand is heard
//! at the next look.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::config::Config;
use crate::error::Error;

/// A working folder that is looked at again and again.
pub(super) struct WorkingFolder {
    root: PathBuf,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    /// The files when they were read.
    seen: Vec<(PathBuf, SystemTime, u64)>,
    /// The last that was free of problems.
    config: Arc<Config>,
    /// What is wrong with the files now.
    wrong: Option<String>,
}

impl WorkingFolder {
    /// Reads a folder, which must be free of problems at first.
    pub(super) fn open(root: &Path) -> Result<Self, Error> {
        let seen = files(root);
        let config = Arc::new(Config::load(root)?);
        Ok(Self { root: root.to_owned(), loaded: Mutex::new(Loaded { seen, config, wrong: None }) })
    }

    /// The last configuration that was free of problems.
    pub(super) fn config(&self) -> Arc<Config> {
        self.look().0
    }

    /// What is wrong with the files, if they are not those of [`Self::config`].
    pub(super) fn wrong(&self) -> Option<String> {
        self.look().1
    }

    /// The configuration as the files are now.
    ///
    /// # Errors
    /// With every problem of them.
    pub(super) fn current(&self) -> Result<Arc<Config>, Error> {
        match self.look() {
            (config, None) => Ok(config),
            (_, Some(wrong)) => Err(Error::Usage(wrong)),
        }
    }

    fn look(&self) -> (Arc<Config>, Option<String>) {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = files(&self.root);
        if seen != loaded.seen {
            match Config::load(&self.root) {
                Ok(config) => {
                    loaded.config = Arc::new(config);
                    loaded.wrong = None;
                }
                Err(error) => {
                    tracing::error!(%error, "the working folder is wrong; what was read before stays");
                    loaded.wrong = Some(error.to_string());
                }
            }
            loaded.seen = seen;
        }
        (Arc::clone(&loaded.config), loaded.wrong.clone())
    }

    /// The text of a file of the folder; empty where it is missing.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn text(&self, name: &str) -> Result<String, Error> {
        let path = self.root.join(name);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            read => read.map_err(|error| Error::io(&path, error)),
        }
    }

    /// Gives a file of the folder another text, if the folder is free of problems with it, and as long as it is what it was
    /// when the change was thought out.
    ///
    /// # Errors
    /// With every problem that it would have; if it was changed meanwhile; if it cannot be written.
    pub(super) fn write(&self, name: &str, before: &str, text: &str) -> Result<(), Error> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if self.text(name)? != before {
            return Err(Error::Conflict(format!("{name} was changed meanwhile: look at it again")));
        }
        let config = Config::load_with(&self.root, Some((name, text)))?;
        let path = self.root.join(name);
        replace(&path, text.as_bytes()).map_err(|error| Error::io(&path, error))?;
        *loaded = Loaded { seen: files(&self.root), config: Arc::new(config), wrong: None };
        Ok(())
    }
}

/// Whoever reads the file sees the old text or the new one.
fn replace(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    // Its name has no `.toml` at its end: nobody takes it for a connection.
    let beside = folder.join(format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy()));
    let mut file = fs::File::create(&beside)?;
    if let Ok(metadata) = fs::metadata(path) {
        file.set_permissions(metadata.permissions())?;
    }
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
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
