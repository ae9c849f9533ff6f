//! What a run does with what the ledger knows of its files: it notes how they are imported, and warns of what people may not
//! expect.

use sluicebox_store::Commit;

use crate::error::Error;
use crate::import::identity::Identified;
use crate::import::notes::KeyedNote;
use crate::import::sets::{FileSet, FoundSets};
use crate::import::{Import, RunningImport};
use crate::output::counted;
use crate::runs::imported_again;

impl Import<'_> {
    /// Finds a set in the ledger, and notes under which configuration it is imported.
    ///
    /// # Errors
    /// If a file cannot be read, or the store fails.
    pub(super) fn recognize(&self, set: &FileSet, running: &mut RunningImport) -> Result<Identified, Error> {
        let identified = self.identify(set)?;
        let (name, state) = (&set.root.name, identified.state);
        if !identified.changed_plugins.is_empty() {
            let plugins = identified.changed_plugins.join(", ");
            if state.complete {
                running.changed_plugins.extend(identified.changed_plugins.iter().cloned());
            } else {
                let rows = counted(state.position, "row");
                self.warn(&format!(
                    "{name}: its first {rows} were imported with another build of {plugins}; the rest is imported with the present one"
                ));
            }
        }
        if let Some(again) = &identified.again {
            running.run.entry.report.imported_again.push(again.clone());
        }
        // Before rows are committed under the key: a note without rows counts as nothing.
        self.store.note_imports(&identified.notes)?;
        Ok(identified)
    }

    /// Has every set that is imported be imported again, in one commit: a run that breaks off is continued by the next.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) fn make_due(&self, found: &FoundSets, running: &RunningImport) -> Result<(), Error> {
        let mut import_notes = Vec::new();
        for set in found.sets.iter().flatten() {
            match self.identify(set) {
                Ok(identified) if identified.state.complete => {
                    import_notes.extend(identified.make_due(self)?)
                }
                // One that is half imported goes on. A file that cannot be read fails later.
                Ok(_) => {}
                Err(error) if error.ends_goal() => return Err(error),
                Err(_) => {}
            }
        }
        let lease = Some(&running.run.lease);
        Ok(self.store.commit(Commit { lease, import_notes, ..Commit::default() })?)
    }

    /// What the last commit of a goal run notes; warns of files that are imported again, and of plugins that changed.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) fn notes_at_end(&self, running: &mut RunningImport) -> Result<Vec<KeyedNote>, Error> {
        let again = &running.run.entry.report.imported_again;
        for line in imported_again::in_words(again, self.goal) {
            self.warn(&line);
        }
        if self.dry && !again.is_empty() {
            self.warn(&imported_again::how_to_accept(self.connection, self.goal));
        }
        if !again.is_empty() {
            running.run.entry.report.counted_twice = imported_again::counted_twice(self.goal);
        }
        if !running.all_known {
            return Ok(Vec::new());
        }
        if let Some(warning) = self.warning_of_changed(&running.changed_plugins)? {
            self.warn(&warning);
        }
        Ok(vec![self.goal_note()])
    }
}
