//! Which files belong together: a root file and the linked files whose names take the values of its wildcards.

use std::collections::HashMap;

use sluicebox_files::{FileError, FoundFile, Listing, Location, Pattern, PatternError};

use crate::config::ImportGoal;

/// A root file with the files that are linked to it.
#[derive(Debug)]
pub(crate) struct FileSet {
    pub root: FoundFile,
    /// For each linked file of the goal, those that its pattern takes, in the order of their names.
    pub linked: Vec<Vec<FoundFile>>,
}

impl FileSet {
    /// The root file and every linked file.
    pub(crate) fn files(&self) -> impl Iterator<Item = &FoundFile> {
        std::iter::once(&self.root).chain(self.linked.iter().flatten())
    }
}

/// A root file that is no set, and why.
#[derive(Debug)]
pub(crate) struct Incomplete {
    pub root: FoundFile,
    pub message: String,
}

/// What a goal finds in its directory.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    /// In the order of the root files' names.
    pub sets: Vec<Result<FileSet, Incomplete>>,
    /// Every file that the goal could take, as a root file or as a linked one.
    pub files: Vec<FoundFile>,
    pub warnings: Vec<String>,
}

impl Sets {
    /// The root files.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &FoundFile> {
        self.sets.iter().map(|set| match set {
            Ok(set) => &set.root,
            Err(incomplete) => &incomplete.root,
        })
    }

    /// How many sets each linked file belongs to.
    pub(crate) fn uses(&self) -> HashMap<String, usize> {
        let mut uses = HashMap::new();
        for file in self.sets.iter().flatten().flat_map(|set| set.linked.iter().flatten()) {
            *uses.entry(file.name.clone()).or_default() += 1;
        }
        uses
    }
}

/// Lists a goal's directory once and puts the sets together.
///
/// # Errors
/// If the directory cannot be listed.
pub(crate) fn find(location: &Location, goal: &ImportGoal) -> Result<Sets, FileError> {
    let any = goal.linked.iter().map(|linked| linked.files.of_any(&goal.files));
    let any = any.collect::<Result<Vec<Pattern>, _>>().map_err(unreadable)?;
    let patterns: Vec<&Pattern> = std::iter::once(&goal.files).chain(&any).collect();
    let Listing { files, warnings } = location.list(&goal.directory, &patterns)?;
    let mut sets = Vec::new();
    for root in files.iter().filter(|file| goal.files.matches(&file.below)) {
        sets.push(set(goal, root, &files)?);
    }
    Ok(Sets { sets, files, warnings })
}

fn set(
    goal: &ImportGoal,
    root: &FoundFile,
    files: &[FoundFile],
) -> Result<Result<FileSet, Incomplete>, FileError> {
    let taken = goal.files.taken(&root.below);
    let incomplete = |message| Ok(Err(Incomplete { root: root.clone(), message }));
    let mut linked = Vec::new();
    for entry in &goal.linked {
        let pattern = entry.files.of(&taken).map_err(unreadable)?;
        let found: Vec<FoundFile> =
            files.iter().filter(|file| pattern.matches(&file.below)).cloned().collect();
        if found.is_empty() {
            return incomplete(format!(
                "its linked file `{}` is missing: no file matches `{}`",
                entry.name, pattern.shown
            ));
        }
        if found.iter().any(|file| file.name == root.name) {
            return incomplete(format!(
                "the pattern `{}` of the linked file `{}` takes the root file itself; they need different names",
                pattern.shown, entry.name
            ));
        }
        linked.push(found);
    }
    Ok(Ok(FileSet { root: root.clone(), linked }))
}

fn unreadable(error: PatternError) -> FileError {
    FileError::Io(std::io::Error::other(error.to_string()))
}
