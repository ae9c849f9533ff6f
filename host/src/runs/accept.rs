//! Marks what was imported of files under another configuration as imported under the present one.

use serde::Serialize;
use sluicebox_store::{Commit, Store};
use utoipa::ToSchema;

use crate::error::Error;
use crate::import::Import;
use crate::import::notes::KeyedNote;
use crate::import::sets::FileSet;
use crate::runs::goal_run::GoalRun;
use crate::runs::imported_again::ImportedAgain;
use crate::runs::report::{FileReport, FileStatus, HistoryEntry, Report, Run};

/// The kind of a goal run that accepts files.
pub(crate) const KIND: &str = "accept";

/// What is to be accepted, before it is written.
pub(crate) struct Acceptance {
    /// The files that the next run would import again.
    pub files: Vec<ImportedAgain>,
    notes: Vec<KeyedNote>,
    /// The notes of the files as they were, to see that nothing imported them meanwhile.
    before: Vec<([u8; 32], Option<Vec<u8>>)>,
    report: Report,
}

/// What was accepted.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Accepted {
    /// The run in the history; absent if no file had to be accepted.
    pub run: Option<String>,
    pub connection: String,
    pub goal: String,
    /// The files that now count as imported. Of one that was imported in part, the next run imports the rest.
    pub files: Vec<ImportedAgain>,
}

/// Finds the files that the next run of a goal would import again; only these root files if any are named.
///
/// # Errors
/// If a named file is not there or was never imported, or a file cannot be read.
pub(crate) fn find(import: &Import<'_>, named: &[String], run: &Run) -> Result<Acceptance, Error> {
    let found = import.sets()?;
    let sets: Vec<&FileSet> = found.sets.iter().flatten().collect();
    let is_named =
        |set: &FileSet, name: &str| [&set.root.name, &set.root.below].iter().any(|own| *own == name);
    for name in named {
        if !sets.iter().any(|set| is_named(set, name)) {
            let known = sets.iter().map(|set| set.root.name.clone()).collect();
            return Err(Error::Unknown { kind: "file", name: name.clone(), known });
        }
    }
    let (connection, goal) = (&import.connection.name, &import.goal.name);
    let mut acceptance = Acceptance {
        files: Vec::new(),
        notes: Vec::new(),
        before: Vec::new(),
        report: Report::of(&run.id, connection, goal, KIND),
    };
    for set in sets.into_iter().filter(|set| named.is_empty() || named.iter().any(|name| is_named(set, name)))
    {
        let identified = import.identify(set)?;
        let key = identified.note_key();
        let notes = match &identified.again {
            Some(again) => {
                let (name, status) = (again.file.clone(), FileStatus::Accepted);
                acceptance.report.files.push(FileReport { name, status, rows: 0 });
                acceptance.files.push(again.clone());
                identified.accept(import)?
            }
            // What the store knows only by the history is noted, as a run would.
            None if identified.state.complete => identified.notes,
            None if named.is_empty() => continue,
            None => {
                return Err(Error::Failed(format!(
                    "{}: it was never imported, so there is nothing to accept; `sluicebox run` imports it",
                    set.root.name
                )));
            }
        };
        acceptance.before.push((key, import.store.import_note(&key)?));
        acceptance.notes.extend(notes);
    }
    if named.is_empty() {
        acceptance.notes.push(import.goal_note());
    }
    Ok(acceptance)
}

impl Acceptance {
    /// Writes it in one commit, as a goal run of its own.
    ///
    /// # Errors
    /// If a run imported one of the files meanwhile, or the store fails.
    pub(crate) fn write(self, store: &Store, run: &Run) -> Result<Accepted, Error> {
        let Self { files, notes, before, report } = self;
        let (connection, goal) = (report.connection.clone(), report.goal.clone());
        if files.is_empty() {
            return Ok(Accepted { run: None, connection, goal, files });
        }
        for (key, before) in before {
            if store.import_note(&key)? != before {
                return Err(Error::Conflict("a run took the files meanwhile: look again".to_owned()));
            }
        }
        let own = GoalRun::begin(store, run, report)?;
        let last = Commit { import_notes: notes, ..Commit::default() };
        let HistoryEntry { report, .. } = own.finish(store, Ok(()), last)?;
        Ok(Accepted { run: Some(report.run), connection, goal, files })
    }
}
