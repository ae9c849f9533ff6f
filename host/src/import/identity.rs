//! What the ledger knows of a file set: whether it was imported under this configuration of the goal, how far, and with which
//! builds of the plugins.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value as Json;
use sluicebox_files::{FileError, FoundFile};
use sluicebox_store::FileState;

use crate::config::property_settings;
use crate::error::Error;
use crate::import::Import;
use crate::import::notes::{
    self, BulkHashes, ConfigurationNote, GoalNote, Hash, KeyedNote, NotedImport, Present, SetNote,
};
use crate::import::sets::FileSet;
use crate::runs::fingerprint::Fingerprint;
use crate::runs::imported_again::ImportedAgain;

/// A file set as the ledger knows it.
pub(crate) struct Identified {
    /// The ledger's key of its import under the present configuration.
    pub key: [u8; 32],
    pub state: FileState,
    /// The digest of each file, by its name.
    pub digests: HashMap<String, [u8; 32]>,
    /// The plugins of which another build imported the rows so far.
    pub changed_plugins: Vec<String>,
    /// Why the set is imported again, if it was imported under another configuration.
    pub again: Option<ImportedAgain>,
    /// The notes that the store must have before rows are committed under the key.
    pub notes: Vec<KeyedNote>,
    /// The imports of the set, with the one under the present configuration.
    noted: SetNote,
    note_key: [u8; 32],
    /// The earlier import that `again` is about; `None` where only the history knows of it.
    other: Option<NotedImport>,
}

/// What an import of a set under the present configuration is found as.
pub(super) struct FoundImport {
    pub import: NotedImport,
    pub state: FileState,
    pub changed_plugins: Vec<String>,
}

/// The properties that a bulk mapping writes of a file, as settings.
#[derive(Default)]
struct BulkSettings {
    /// Those of the file's columns and of the columns that processors add, in the order of the columns.
    all: Vec<Json>,
    /// Those of the file's columns.
    own: Vec<Json>,
}

impl BulkSettings {
    fn hashes(&self) -> BulkHashes {
        fn hash<'s>(settings: impl Iterator<Item = &'s Json>) -> Hash {
            Hash(Fingerprint::of(settings.map(ToString::to_string)))
        }
        let added = self.all.iter().filter(|settings| !self.own.contains(settings));
        BulkHashes { own: hash(self.own.iter()), added: hash(added) }
    }
}

impl Import<'_> {
    /// Finds a set in the ledger. Names and contents of its files and the configuration of the goal make it the same set;
    /// another build of a plugin makes no other.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub(crate) fn identify(&self, set: &FileSet) -> Result<Identified, Error> {
        let mut digests = HashMap::new();
        let mut contents = Fingerprint::new();
        for part in ["file set", &self.connection.stem, &self.goal.name] {
            contents.add(part.as_bytes());
        }
        for file in set.files() {
            let digest = self.digest(file)?;
            contents.add(file.name.as_bytes());
            contents.add(&digest);
            digests.insert(file.name.clone(), digest);
        }
        let note_key = contents.finish();
        let bulk = self.bulk_properties(&set.root)?;
        let present = self.present(bulk.hashes());
        let mut noted: SetNote = notes::read(self.store, &note_key)?.unwrap_or_default();
        let stored = noted.clone();
        let (mut found, mut other) = (self.find_noted(&noted, &present)?, None);
        if found.is_none() {
            other = self.last_noted(&noted)?;
            found = self.find_of_earlier_version(set, &digests, &bulk.all, &present)?;
            if found.is_none() && other.is_none() {
                let ledger = noted.next_ledger(&note_key, &present);
                found = self.find_of_unknown_build(&set.root, ledger, &present)?;
            }
            noted.imports.extend(found.iter().map(|found| found.import.clone()));
        }
        let mut again = None;
        let FoundImport { import, state, changed_plugins } = match found {
            Some(found) => found,
            None => {
                if let Some((import, state)) = &other {
                    let goal = (self.connection, self.goal, self.processors);
                    let rows_imported = if state.complete { None } else { Some(state.position) };
                    let why = import.changes(self.store, goal, &present)?;
                    again = Some(ImportedAgain { file: set.root.name.clone(), rows_imported, why });
                } else if self.earlier_import(&set.root)?.is_some() {
                    let why =
                        vec!["an earlier version imported it and did not note its configuration".to_owned()];
                    again = Some(ImportedAgain { file: set.root.name.clone(), rows_imported: None, why });
                }
                let import = noted.begin(&note_key, &present);
                FoundImport { import, state: FileState::default(), changed_plugins: Vec::new() }
            }
        };
        let mut new_notes = Vec::new();
        if !state.complete {
            noted.continue_with(&import, &present);
        }
        if noted != stored {
            new_notes.push((note_key, notes::encode(&noted)));
            new_notes.extend(self.configuration_note(&present)?);
        }
        Ok(Identified {
            key: import.ledger.0,
            state,
            digests,
            changed_plugins,
            again,
            notes: new_notes,
            noted,
            note_key,
            other: other.map(|(import, _)| import),
        })
    }

    /// The configuration with which the goal runs now.
    fn present(&self, bulk: BulkHashes) -> Present<'_> {
        let configs = self.processors.iter().map(|processor| (processor.file, processor.config.json()));
        Present {
            configuration: notes::configuration(self.connection, self.goal, configs),
            bulk,
            builds: self.processors.iter().map(|processor| &processor.build).collect(),
        }
    }

    /// The newest noted import under the present configuration that the ledger knows, or that is due.
    fn find_noted(&self, noted: &SetNote, present: &Present<'_>) -> Result<Option<FoundImport>, Error> {
        for import in noted.imports.iter().rev() {
            let Some(changed_plugins) = import.changed_plugins(present) else { continue };
            if let Some(state) = self.state_of(import)? {
                return Ok(Some(FoundImport { import: import.clone(), state, changed_plugins }));
            }
            if import.due {
                let state = FileState::default();
                return Ok(Some(FoundImport { import: import.clone(), state, changed_plugins: Vec::new() }));
            }
        }
        Ok(None)
    }

    /// The newest import of which rows are in the store, and how far it is.
    fn last_noted(&self, noted: &SetNote) -> Result<Option<(NotedImport, FileState)>, Error> {
        for import in noted.imports.iter().rev() {
            if let Some(state) = self.state_of(import)? {
                return Ok(Some((import.clone(), state)));
            }
        }
        Ok(None)
    }

    /// How far an import is; `None` if it never committed anything.
    fn state_of(&self, import: &NotedImport) -> Result<Option<FileState>, Error> {
        let state = self.store.file_state(&import.ledger.0)?;
        match import.accepted {
            true => Ok(Some(FileState { complete: true, ..state.unwrap_or_default() })),
            false => Ok(state.filter(|state| state.complete || state.position > 0)),
        }
    }

    /// The note of the present configuration, if the store does not have it.
    fn configuration_note(&self, present: &Present<'_>) -> Result<Option<KeyedNote>, Error> {
        let key = notes::configuration_key(self.connection, self.goal, present.configuration);
        if self.store.import_note(&key)?.is_some() {
            return Ok(None);
        }
        let note = ConfigurationNote::of(self.connection, self.goal, self.processors);
        Ok(Some((key, notes::encode(&note))))
    }

    /// The note of the goal, once all its file sets are known.
    pub(crate) fn goal_note(&self) -> KeyedNote {
        let present = self.present(BulkHashes::default());
        let note = GoalNote {
            configuration: present.configuration,
            plugins: notes::used(present.builds.iter().copied()),
        };
        (notes::goal_key(self.connection, self.goal), notes::encode(&note))
    }

    /// What people must know where another build of some plugins imported files that are not imported again. Nothing if the
    /// goal's last run had the present builds: it said so.
    ///
    /// # Errors
    /// If the store fails.
    pub(crate) fn warning_of_changed(&self, plugins: &BTreeSet<String>) -> Result<Option<String>, Error> {
        let present = self.present(BulkHashes::default());
        let last: Option<GoalNote> = notes::read(self.store, &notes::goal_key(self.connection, self.goal))?;
        let is_known = last.is_some_and(|last| last.plugins == notes::used(present.builds.iter().copied()));
        if plugins.is_empty() || is_known {
            return Ok(None);
        }
        let names: Vec<&str> = plugins.iter().map(String::as_str).collect();
        let (plugin, names) = (if names.len() == 1 { "plugin" } else { "plugins" }, names.join(", "));
        Ok(Some(format!(
            "{plugin} {names} changed since these files were imported; they are not imported again; \
             `sluicebox run {} --goal {} --reimport` takes them again",
            shell_word(&self.connection.stem),
            shell_word(&self.goal.name)
        )))
    }

    /// Whether the digests of a set's files are known, or take no download: no run has seen a large object whose digest is not.
    ///
    /// # Errors
    /// If the store fails.
    pub(crate) fn has_digests(&self, set: &FileSet) -> Result<bool, Error> {
        for version in set.files().filter_map(FoundFile::version) {
            if self.store.digest(&version)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
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
    fn bulk_properties(&self, file: &FoundFile) -> Result<BulkSettings, Error> {
        if self.goal.all_fields.is_none() {
            return Ok(BulkSettings::default());
        }
        let source = file.open().map_err(|error| Error::File { name: file.name.clone(), error })?;
        let Some(open) = self.open(file, source, None)? else { return Ok(BulkSettings::default()) };
        let settings = |columns: &[String]| {
            let bulk = self.resolver().bulk(&file.name, columns)?;
            Ok::<_, Error>(bulk.columns.iter().map(|(_, property)| property_settings(property)).collect())
        };
        Ok(BulkSettings { all: settings(&open.columns)?, own: settings(&open.reader.header().columns)? })
    }
}

/// A name as an argument of a command.
pub(crate) fn shell_word(name: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "_.-/".contains(character);
    if !name.is_empty() && name.chars().all(is_plain) { name.to_owned() } else { format!("'{name}'") }
}

impl Identified {
    /// The notes by which a set that is imported is imported again.
    ///
    /// # Errors
    /// If the store fails.
    pub(crate) fn make_due(mut self, import: &Import<'_>) -> Result<Vec<KeyedNote>, Error> {
        let present = import.present(self.noted_bulk());
        let mut due = NotedImport::new(self.noted.next_ledger(&self.note_key, &present), &present);
        due.due = true;
        self.noted.imports.push(due);
        let mut keyed = vec![(self.note_key, notes::encode(&self.noted))];
        keyed.extend(import.configuration_note(&present)?);
        Ok(keyed)
    }

    /// The notes by which what was imported of the set counts as imported under the present configuration.
    ///
    /// # Errors
    /// If the store fails.
    pub(crate) fn accept(mut self, import: &Import<'_>) -> Result<Vec<KeyedNote>, Error> {
        let present = import.present(self.noted_bulk());
        let (ledger, accepted) = match &self.other {
            Some(other) => (other.ledger, other.accepted),
            None => (Hash(self.key), true),
        };
        let accepted = NotedImport { accepted, ..NotedImport::new(ledger, &present) };
        self.noted.imports.push(accepted);
        let mut keyed = vec![(self.note_key, notes::encode(&self.noted))];
        keyed.extend(import.configuration_note(&present)?);
        Ok(keyed)
    }

    /// The hashes of the bulk mapping's properties now.
    fn noted_bulk(&self) -> BulkHashes {
        let own = self.noted.imports.iter().rev().find(|import| import.ledger.0 == self.key);
        own.map(|import| import.bulk).unwrap_or_default()
    }

    /// The note of the set as the store has it now.
    pub(crate) fn note_key(&self) -> [u8; 32] {
        self.note_key
    }
}

impl SetNote {
    /// The import under the present configuration that is about to begin: one that never committed anything begins again.
    fn begin(&mut self, set: &[u8; 32], present: &Present<'_>) -> NotedImport {
        let ledger = self.next_ledger(set, present);
        let begun = self.imports.iter_mut().rev().find(|import| import.changed_plugins(present).is_some());
        match begun {
            Some(begun) => {
                begun.plugins = notes::used(present.builds.iter().copied());
                begun.bulk = present.bulk;
                begun.clone()
            }
            None => {
                let import = NotedImport::new(ledger, present);
                self.imports.push(import.clone());
                import
            }
        }
    }

    /// Notes that an import that other builds may have begun goes on with the present ones.
    fn continue_with(&mut self, import: &NotedImport, present: &Present<'_>) {
        for noted in self.imports.iter_mut().filter(|noted| *noted == import) {
            noted.plugins = notes::used(present.builds.iter().copied());
        }
    }

    /// The ledger's key of one more import.
    fn next_ledger(&self, set: &[u8; 32], present: &Present<'_>) -> Hash {
        let number = (self.imports.len() as u64).to_le_bytes();
        let BulkHashes { own, added } = present.bulk;
        let parts: [&[u8]; 6] = [b"import", set, &present.configuration.0, &own.0, &added.0, &number];
        Hash(Fingerprint::of(parts))
    }
}
