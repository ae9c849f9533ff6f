//! File sets: a root file, and the linked files whose names take the values of its wildcards.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sluicebox_files::{FileError, FoundFile, Listing, Location, Pattern, PatternError, Settle};
use sluicebox_model::never;

use crate::config::ImportGoal;
use crate::error::Error;

/// A root file with the files that are linked to it.
#[derive(Debug)]
pub(crate) struct FileSet {
    pub root: FoundFile,
    /// For each linked file of the goal, the files that its pattern matches, in the order of their names.
    pub linked: Vec<Vec<FoundFile>>,
}

impl FileSet {
    /// The root file and every linked file.
    pub(crate) fn files(&self) -> impl Iterator<Item = &FoundFile> {
        std::iter::once(&self.root).chain(self.linked.iter().flatten())
    }
}

/// A root file that lacks linked files, and why.
#[derive(Debug)]
pub(crate) struct Incomplete {
    pub root: FoundFile,
    pub message: String,
}

impl From<Incomplete> for Error {
    fn from(incomplete: Incomplete) -> Self {
        Self::Set { name: incomplete.root.name, message: incomplete.message }
    }
}

/// What a goal finds in its directory.
#[derive(Debug, Default)]
pub(crate) struct FoundSets {
    /// In the order of the root files' names.
    pub sets: Vec<Result<FileSet, Incomplete>>,
    /// All files that the goal could take, as root files or as linked ones.
    pub files: Vec<FoundFile>,
    pub warnings: Vec<String>,
    /// Files that may still be being written, and how long each must stand still yet. Their sets are not among `sets`.
    pub unsettled: Vec<(String, Duration)>,
}

impl FoundSets {
    /// Counts how many sets each linked file belongs to.
    pub(crate) fn uses(&self) -> Uses {
        let mut uses = HashMap::new();
        for file in self.sets.iter().flatten().flat_map(|set| set.linked.iter().flatten()) {
            *uses.entry(file.name.clone()).or_default() += 1;
        }
        Uses(uses)
    }
}

/// How many sets still need each linked file.
pub(crate) struct Uses(HashMap<String, usize>);

impl Uses {
    /// The linked files of a set that no later set needs.
    pub(crate) fn last<'s>(&mut self, set: &'s FileSet) -> Vec<&'s FoundFile> {
        let mut is_last = |file: &FoundFile| match self.0.get_mut(&file.name) {
            Some(uses) => {
                *uses = uses.saturating_sub(1);
                *uses == 0
            }
            None => !never!(true, "a linked file was not counted"),
        };
        set.linked.iter().flatten().filter(|file| is_last(file)).collect()
    }
}

/// Lists a goal's directory once and forms its sets.
///
/// # Errors
/// If the directory cannot be listed.
pub(crate) fn find(
    location: &Location,
    goal: &ImportGoal,
    settle: &mut Settle,
) -> Result<FoundSets, FileError> {
    let any = goal.linked.iter().map(|linked| linked.files.for_any_root(&goal.files));
    let any = any.collect::<Result<Vec<Pattern>, _>>().map_err(unreadable)?;
    let patterns: Vec<&Pattern> = std::iter::once(&goal.files).chain(&any).collect();
    let Listing { files, warnings, .. } = location.list(&goal.directory, &patterns)?;
    let unsettled: Vec<(String, Duration)> =
        files.iter().filter_map(|file| Some((file.name.clone(), settle.remaining(file)?))).collect();
    let moving: HashSet<&str> = unsettled.iter().map(|(name, _)| name.as_str()).collect();
    let mut sets = Vec::new();
    for root in files.iter().filter(|file| goal.files.matches(&file.below)) {
        let set = set(goal, root, &files)?;
        let is_settled = match &set {
            Ok(set) => !set.files().any(|file| moving.contains(file.name.as_str())),
            Err(incomplete) => !moving.contains(incomplete.root.name.as_str()),
        };
        if is_settled {
            sets.push(set);
        }
    }
    Ok(FoundSets { sets, files, warnings, unsettled })
}

fn set(
    goal: &ImportGoal,
    root: &FoundFile,
    files: &[FoundFile],
) -> Result<Result<FileSet, Incomplete>, FileError> {
    let values = goal.files.wildcard_values(&root.below);
    let incomplete = |message| Ok(Err(Incomplete { root: root.clone(), message }));
    let mut linked = Vec::new();
    for entry in &goal.linked {
        let pattern = entry.files.for_root(&values).map_err(unreadable)?;
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
                "the pattern `{}` of the linked file `{}` matches the root file too; they need different names",
                pattern.shown, entry.name
            ));
        }
        linked.push(found);
    }
    Ok(Ok(FileSet { root: root.clone(), linked }))
}

fn unreadable(error: PatternError) -> FileError {
    FileError::Io(std::io::Error::other(error))
}
