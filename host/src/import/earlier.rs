//! What stores of earlier versions know of imports. Their ledger's keys are hashes of the whole configuration, with a digest of
//! each plugin; nothing was noted beside. The history has the names of files and how many rows each had.

use std::collections::HashMap;

use serde_json::Value as Json;
use sluicebox_files::{FileError, FoundFile, Reader, decode};
use sluicebox_store::StoreError;

use crate::error::Error;
use crate::import::Import;
use crate::import::identity::FoundImport;
use crate::import::notes::{self, GoalNote, Hash, NotedImport, Present};
use crate::import::sets::FileSet;
use crate::runs::fingerprint::Fingerprint;
use crate::runs::report::{FileStatus, HistoryEntry};

/// Keys of the ledger that are tried: two for each processor, of combinations up to this number.
const MAX_KEYS: usize = 4096;

/// An import of a file that the history has, by a goal that has not run since the store notes configurations.
#[derive(Debug)]
pub(crate) struct EarlierImport {
    rows: u64,
    /// RFC 3339.
    started: String,
    /// The names of the plugins.
    plugins: Vec<String>,
}

impl Import<'_> {
    /// The import of a set under the present configuration in the ledger of an earlier version: with the present builds of its
    /// plugins, or with any build of bundled ones.
    pub(super) fn find_of_earlier_version(
        &self,
        set: &FileSet,
        digests: &HashMap<String, [u8; 32]>,
        bulk: &[Json],
        present: &Present<'_>,
    ) -> Result<Option<FoundImport>, Error> {
        let mut tried: Vec<Vec<Option<[u8; 32]>>> = vec![Vec::new()];
        for build in &present.builds {
            // The builds of bundled plugins are not known: all have one digest.
            let all_builds = build.first_release.map(|_| None);
            let digests = [Some(Some(build.digest)), all_builds];
            let longer = tried.iter().flat_map(|tried| {
                digests.into_iter().flatten().map(|digest| [tried.as_slice(), &[digest]].concat())
            });
            tried = longer.take(MAX_KEYS).collect();
        }
        for builds in tried {
            let key = self.earlier_key(set, digests, bulk, &builds);
            let state = self.store.file_state(&key)?;
            let Some(state) = state.filter(|state| state.complete || state.position > 0) else { continue };
            let mut import = NotedImport::new(Hash(key), present);
            for (plugin, build) in import.plugins.iter_mut().zip(builds) {
                plugin.build = build.map(Hash);
            }
            return Ok(Some(FoundImport { import, state, changed_plugins: Vec::new() }));
        }
        Ok(None)
    }

    /// The key of a set in the ledger of earlier versions. `None` stands for any build of a bundled plugin.
    fn earlier_key(
        &self,
        set: &FileSet,
        digests: &HashMap<String, [u8; 32]>,
        bulk: &[Json],
        builds: &[Option<[u8; 32]>],
    ) -> [u8; 32] {
        let mut fingerprint = Fingerprint::new();
        let settings = self.goal.settings.to_string();
        let names = [&self.connection.stem, &self.goal.name, &set.root.name, &settings];
        names.iter().for_each(|name| fingerprint.add(name.as_bytes()));
        self.connection.objectives.iter().for_each(|objective| fingerprint.add(objective.as_bytes()));
        for file in set.files() {
            fingerprint.add(file.name.as_bytes());
            fingerprint.add(digests.get(&file.name).map_or(&[][..], |digest| digest));
        }
        for (processor, build) in self.processors.iter().zip(builds) {
            let digest = build.or(processor.build.first_release).unwrap_or(processor.build.digest);
            fingerprint.add(&digest);
            fingerprint.add(&processor.file.map_or(0, |file| file as u64 + 1).to_le_bytes());
            fingerprint.add(processor.config.json().as_bytes());
        }
        bulk.iter().for_each(|property| fingerprint.add(property.to_string().as_bytes()));
        fingerprint.finish()
    }

    /// The import of a file by the same plugins, of which one may have had another build: the ledger of earlier versions
    /// cannot be searched without its digest, so the history decides. `ledger` is the import's new key.
    pub(super) fn find_of_unknown_build(
        &self,
        file: &FoundFile,
        ledger: Hash,
        present: &Present<'_>,
    ) -> Result<Option<FoundImport>, Error> {
        let unknown = present.builds.iter().filter(|build| build.first_release.is_none());
        let changed_plugins: Vec<String> = unknown.map(|build| build.name.clone()).collect();
        if changed_plugins.is_empty() {
            return Ok(None);
        }
        let Some(earlier) = self.earlier_import(file)? else { return Ok(None) };
        let names = self.processors.iter().map(|processor| processor.plugin.name());
        if !names.eq(earlier.plugins.iter().map(String::as_str)) {
            return Ok(None);
        }
        let mut import = NotedImport::new(ledger, present);
        import.accepted = true;
        import.plugins.iter_mut().for_each(|plugin| plugin.build = None);
        let state = sluicebox_store::FileState { position: earlier.rows, complete: true };
        Ok(Some(FoundImport { import, state, changed_plugins }))
    }

    /// The last import of a file of this name, as far as it seems to have been of this content.
    pub(super) fn earlier_import(&self, file: &FoundFile) -> Result<Option<&EarlierImport>, Error> {
        let Some(earlier) = self.earlier_imports()?.get(&file.name) else { return Ok(None) };
        let started = earlier.started.parse::<jiff::Timestamp>().ok();
        let modified = file.modified.and_then(|time| jiff::Timestamp::try_from(time).ok());
        let is_older = started.zip(modified).is_some_and(|(started, modified)| modified < started);
        Ok((is_older || self.count_rows(file)? == earlier.rows).then_some(earlier))
    }

    /// The files that the history has of this goal, by their names; none if the store notes the goal's configurations, because
    /// every file has its own notes then.
    fn earlier_imports(&self) -> Result<&HashMap<String, EarlierImport>, Error> {
        if let Some(known) = self.earlier.get() {
            return Ok(known);
        }
        let mut found = HashMap::new();
        let noted: Option<GoalNote> = notes::read(self.store, &notes::goal_key(self.connection, self.goal))?;
        let mut history = noted.is_none().then(|| self.store.history()).into_iter().flatten();
        history.try_for_each(|entry| {
            let entry = HistoryEntry::decode(&entry?.1).ok_or(StoreError::Damaged("the history"))?;
            let HistoryEntry { report, started, .. } = entry;
            if report.connection != self.connection.name
                || report.goal != self.goal.name
                || report.kind != self.goal.target.kind().key()
            {
                return Ok::<_, Error>(());
            }
            for file in report.files.into_iter().filter(|file| file.status == FileStatus::Imported) {
                found.entry(file.name).or_insert_with(|| EarlierImport {
                    rows: file.rows,
                    started: started.clone(),
                    plugins: report.processors.iter().map(|processor| processor.plugin.clone()).collect(),
                });
            }
            Ok(())
        })?;
        Ok(self.earlier.get_or_init(|| found))
    }

    /// How many rows a file has.
    fn count_rows(&self, file: &FoundFile) -> Result<u64, Error> {
        let failed = |error: FileError| Error::File { name: file.name.clone(), error };
        let source = file.open().map_err(failed)?;
        let reader = decode(source, &self.decoding)
            .and_then(|(text, read)| {
                let batch_rows = self.config.settings.tuning.batch_rows;
                Reader::open(text, read, self.goal.csv.clone(), batch_rows)
            })
            .map_err(failed)?;
        let Some(mut reader) = reader else { return Ok(0) };
        let mut rows = 0;
        while let Some(batch) = reader.next_batch().map_err(failed)? {
            rows = batch.end;
        }
        Ok(rows)
    }
}
