//! What the ledger knows of a file set: whether it was imported under this configuration of the goal, and how far.

use std::collections::HashMap;

use sluicebox_files::{FileError, FoundFile};
use sluicebox_model::PropertySchema;
use sluicebox_store::FileState;

use crate::config::property_settings;
use crate::error::Error;
use crate::import::Import;
use crate::import::sets::FileSet;
use crate::runs::fingerprint::Fingerprint;

/// A file set as the ledger knows it.
pub(crate) struct Identified {
    /// The ledger's key: a hash of names, contents and the goal's configuration.
    pub key: [u8; 32],
    pub state: FileState,
    /// The digest of each file, by its name.
    pub digests: HashMap<String, [u8; 32]>,
}

impl Import<'_> {
    /// Finds a set in the ledger. Names and contents of its files and the configuration of the goal make it the same set.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub(crate) fn identify(&self, set: &FileSet) -> Result<Identified, Error> {
        let mut fingerprint = Fingerprint::new();
        let settings = self.goal.settings.to_string();
        let names = [&self.connection.stem, &self.goal.name, &set.root.name, &settings];
        names.iter().for_each(|name| fingerprint.add(name.as_bytes()));
        self.connection.objectives.iter().for_each(|objective| fingerprint.add(objective.as_bytes()));
        let mut digests = HashMap::new();
        for file in set.files() {
            let digest = self.digest(file)?;
            fingerprint.add(file.name.as_bytes());
            fingerprint.add(&digest);
            digests.insert(file.name.clone(), digest);
        }
        for processor in self.processors {
            fingerprint.add(&processor.ledger_digest());
            fingerprint.add(&processor.file.map_or(0, |file| file as u64 + 1).to_le_bytes());
            fingerprint.add(processor.config.as_bytes());
        }
        for property in self.bulk_properties(&set.root)? {
            fingerprint.add(property_settings(&property).to_string().as_bytes());
        }
        let key = fingerprint.finish();
        let state = self.store.file_state(&key)?.unwrap_or_default();
        Ok(Identified { key, state, digests })
    }

    /// Whether the ledger says that a set is imported. A large object whose digest is not known is not downloaded for that: no run
    /// has seen it yet.
    ///
    /// # Errors
    /// If a file cannot be read, or the store fails.
    pub(crate) fn is_imported(&self, set: &FileSet) -> Result<bool, Error> {
        for version in set.files().filter_map(FoundFile::version) {
            if self.store.digest(&version)?.is_none() {
                return Ok(false);
            }
        }
        Ok(self.identify(set)?.state.complete)
    }

    /// The digest of a file's content.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn digest(&self, file: &FoundFile) -> Result<[u8; 32], Error> {
        let failed = |error: FileError| Error::File { name: file.name.clone(), error };
        let version = file.version();
        if let Some(version) = &version
            && let Some(digest) = self.store.digest(version)?
        {
            return Ok(digest);
        }
        let digest = file.open().and_then(|mut source| source.digest()).map_err(failed)?;
        if let Some(version) = version.filter(|_| !self.dry) {
            self.store.remember_digest(&version, digest)?;
        }
        Ok(digest)
    }

    /// The properties that the bulk mapping writes of this file, which depend on its columns.
    fn bulk_properties(&self, file: &FoundFile) -> Result<Vec<PropertySchema>, Error> {
        if self.goal.all_fields.is_none() {
            return Ok(Vec::new());
        }
        let source = file.open().map_err(|error| Error::File { name: file.name.clone(), error })?;
        let Some(open) = self.open(file, source, None)? else { return Ok(Vec::new()) };
        let bulk = self.resolver().bulk(&file.name, &open.columns)?;
        Ok(bulk.columns.into_iter().map(|(_, property)| property.clone()).collect())
    }
}
