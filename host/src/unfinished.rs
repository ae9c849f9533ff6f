//! What becomes of files whose rows are all in the store: nothing, `.done`, or they are deleted. The last commit of a
//! set holds what is to do, so that a run that breaks off in between leaves nothing behind.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sluicebox_files::FoundFile;
use sluicebox_store::Commit;

use crate::config::AfterImport;
use crate::error::Error;
use crate::import::Import;
use crate::sets::FileSet;

/// The files of an imported set, for a goal that moves or deletes them.
pub(crate) struct Unfinished<'a> {
    import: &'a Import<'a>,
}

/// As the store keeps it.
#[derive(Serialize, Deserialize)]
struct Rest {
    connection: String,
    goal: String,
    /// Each file's name with its digest: another file of that name is not meant.
    files: BTreeMap<String, String>,
}

impl<'a> Unfinished<'a> {
    pub(crate) fn of(import: &'a Import<'a>) -> Self {
        Self { import }
    }

    fn key(&self, set: &FileSet) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for part in [&self.import.connection.stem, &self.import.goal.name, &set.root.name] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        hasher.finalize().into()
    }

    fn moves_files(&self) -> bool {
        !self.import.dry && self.import.goal.after_import != AfterImport::Keep
    }

    /// What the last commit of a set holds: its root file, and those of its linked files that no other set needs.
    pub(crate) fn rest(
        &self,
        set: &FileSet,
        linked: &[&FoundFile],
        digests: &std::collections::HashMap<String, [u8; 32]>,
    ) -> Option<([u8; 32], Vec<u8>)> {
        if !self.moves_files() {
            return None;
        }
        let names = std::iter::once(&set.root).chain(linked.iter().copied()).map(|file| &file.name);
        let rest = Rest {
            connection: self.import.connection.stem.clone(),
            goal: self.import.goal.name.clone(),
            files: names.filter_map(|name| Some((name.clone(), hex(digests.get(name)?)))).collect(),
        };
        // Texts alone: this cannot fail.
        Some((self.key(set), serde_json::to_vec(&rest).unwrap_or_default()))
    }

    /// Does it, and notes that it is done.
    ///
    /// # Errors
    /// If a file cannot be moved or deleted: the next run does it.
    pub(crate) fn finish(&self, set: &FileSet, linked: &[&FoundFile]) -> Result<(), Error> {
        if !self.moves_files() {
            return Ok(());
        }
        for file in std::iter::once(&set.root).chain(linked.iter().copied()) {
            self.finish_file(file)?;
        }
        let done = Commit { unfinished: Some((self.key(set), Vec::new())), ..Commit::default() };
        Ok(self.import.store.commit(done)?)
    }

    fn finish_file(&self, file: &FoundFile) -> Result<(), Error> {
        let done = match self.import.goal.after_import {
            AfterImport::Keep => Ok(()),
            AfterImport::DoneSuffix => file.mark_done(),
            AfterImport::Delete => file.delete(),
        };
        done.map_err(|error| Error::File { name: file.name.clone(), error })
    }

    /// Does what runs before this one did not come to, and answers whether there was anything.
    ///
    /// # Errors
    /// If a file cannot be read, moved or deleted, or the store fails.
    pub(crate) fn finish_all(&self, found: &[FoundFile]) -> Result<bool, Error> {
        if !self.moves_files() {
            return Ok(false);
        }
        let mut any = false;
        for (key, bytes) in self.import.store.unfinished()? {
            let Ok(rest) = serde_json::from_slice::<Rest>(&bytes) else { continue };
            if rest.connection != self.import.connection.stem || rest.goal != self.import.goal.name {
                continue;
            }
            for (name, digest) in &rest.files {
                let Some(file) = found.iter().find(|file| file.name == *name) else { continue };
                if hex(&self.import.digest(file)?) == *digest {
                    self.finish_file(file)?;
                }
            }
            self.import.store.commit(Commit { unfinished: Some((key, Vec::new())), ..Commit::default() })?;
            any = true;
        }
        Ok(any)
    }
}

fn hex(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
