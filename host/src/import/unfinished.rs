//! What becomes of the files of an imported set: they stay, get the suffix `.done`, or are deleted. The last commit of a set
//! names the files, so that the next run does what an interrupted one did not.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use sluicebox_files::FoundFile;
use sluicebox_model::OrNever;
use sluicebox_store::Commit;

use crate::config::AfterImport;
use crate::error::Error;
use crate::import::Import;
use crate::import::sets::FileSet;
use crate::runs::fingerprint::Fingerprint;

/// The files of a set that are moved or deleted once it is imported: its root file, and those of its linked files that no
/// later set needs.
pub(crate) struct Unfinished<'a> {
    import: &'a Import<'a>,
    files: Vec<&'a FoundFile>,
    /// The store's key of the set.
    key: [u8; 32],
}

/// The files of an imported set as the store holds them.
#[derive(Serialize, Deserialize)]
struct StoredFiles {
    connection: String,
    goal: String,
    /// The run that imported them; empty in stores of earlier versions.
    #[serde(default)]
    run: String,
    /// Each file's name with its digest, which tells it from a later file of that name.
    files: BTreeMap<String, String>,
}

impl<'a> Unfinished<'a> {
    /// The files of a set, given its linked files that no later set needs.
    pub(crate) fn new(import: &'a Import<'a>, set: &'a FileSet, linked: Vec<&'a FoundFile>) -> Self {
        let key = Fingerprint::of([&import.connection.stem, &import.goal.name, &set.root.name]);
        let files = std::iter::once(&set.root).chain(linked).collect();
        Self { import, files, key }
    }

    /// What the last commit of the set holds; `None` if its files stay.
    pub(crate) fn to_commit(&self, digests: &HashMap<String, [u8; 32]>) -> Option<([u8; 32], Vec<u8>)> {
        if !moves_files(self.import) {
            return None;
        }
        let names = self.files.iter().map(|file| &file.name);
        let stored = StoredFiles {
            connection: self.import.connection.stem.clone(),
            goal: self.import.goal.name.clone(),
            run: self.import.run.id.clone(),
            files: names.filter_map(|name| Some((name.clone(), hex(digests.get(name)?)))).collect(),
        };
        Some((self.key, serde_json::to_vec(&stored).or_never("the JSON of files")))
    }

    /// Moves or deletes the files, and notes that it is done.
    ///
    /// # Errors
    /// If a file cannot be moved or deleted. The next run tries again.
    pub(crate) fn finish(&self) -> Result<(), Error> {
        if !moves_files(self.import) {
            return Ok(());
        }
        self.files.iter().try_for_each(|file| finish_file(self.import, file, None))?;
        let done = Commit { unfinished: Some((self.key, Vec::new())), ..Commit::default() };
        Ok(self.import.store.commit(done)?)
    }

    /// Moves or deletes the files that interrupted runs left; answers whether there were any.
    ///
    /// # Errors
    /// If a file cannot be read, moved or deleted, or the store fails.
    pub(crate) fn finish_interrupted(import: &Import<'_>, found: &[FoundFile]) -> Result<bool, Error> {
        if !moves_files(import) {
            return Ok(false);
        }
        let mut any = false;
        for (key, bytes) in import.store.unfinished()? {
            let Ok(stored) = serde_json::from_slice::<StoredFiles>(&bytes) else { continue };
            if stored.connection != import.connection.stem || stored.goal != import.goal.name {
                continue;
            }
            for (name, digest) in &stored.files {
                let Some(file) = found.iter().find(|file| file.name == *name) else { continue };
                if hex(&import.digest(file)?) == *digest {
                    finish_file(import, file, Some(&stored.run))?;
                }
            }
            import.store.commit(Commit { unfinished: Some((key, Vec::new())), ..Commit::default() })?;
            any = true;
        }
        Ok(any)
    }
}

fn moves_files(import: &Import<'_>) -> bool {
    !import.dry && import.corrections.is_none() && import.goal.after_import != AfterImport::Keep
}

/// Moves or deletes a file. `interrupted` is the run that may have begun that.
fn finish_file(import: &Import<'_>, file: &FoundFile, interrupted: Option<&str>) -> Result<(), Error> {
    let run = interrupted.filter(|run| !run.is_empty()).unwrap_or(&import.run.id);
    let done = match import.goal.after_import {
        AfterImport::Keep => Ok(()),
        AfterImport::DoneSuffix => file.mark_done(run, interrupted.is_some()),
        AfterImport::Delete => file.delete(),
    };
    done.map_err(|error| Error::File { name: file.name.clone(), error })
}

fn hex(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
