use serde_json::{Value, json};
use sluicebox_files::{LinkedPattern, Pattern};

use super::goal::pattern_text;
use super::reader::{Entry, Section, nearest};

/// A file joined to the root file, or to another linked file, by a column.
#[derive(Debug)]
pub(crate) struct LinkedEntry {
    pub name: String,
    pub files: LinkedPattern,
    /// The pattern in the configuration.
    pub pattern: String,
    /// The column of this file that links its rows to the parent's.
    pub column: String,
    /// The parent: a linked file, or the root file for `None`.
    pub parent: Option<usize>,
    /// The column of the parent with the same values.
    pub parent_column: String,
}

impl LinkedEntry {
    pub(crate) fn settings(&self) -> Value {
        json!([self.name, self.pattern, self.column, self.parent, self.parent_column])
    }
}

/// The linked files from the root file to this one, including itself.
pub(crate) fn chain(linked: &[LinkedEntry], file: usize) -> Vec<usize> {
    let mut chain = Vec::new();
    let mut next = Some(file);
    while let Some(file) = next.filter(|file| !chain.contains(file)) {
        chain.insert(0, file);
        next = linked.get(file).and_then(|entry| entry.parent);
    }
    chain
}

pub(crate) fn read(goal: &Section<'_>, root: Option<&Pattern>) -> Vec<LinkedEntry> {
    let sections = goal.sections("linked");
    let mut linked: Vec<LinkedEntry> = Vec::new();
    let mut parents = Vec::new();
    for section in &sections {
        let name = section.required("name").to_owned();
        if name == "root" || linked.iter().any(|other| other.name == name) {
            section.problem(format!(
                "another file of this goal is named `{name}`; each needs a name of its own"
            ));
        }
        let files = files(section, root);
        let column = section.required("column").to_owned();
        let parent = section.get("parent");
        let parent_column = section.required("parent_column").to_owned();
        section.finish();
        let Some((files, pattern)) = files else { return Vec::new() };
        linked.push(LinkedEntry { name, files, pattern, column, parent: None, parent_column });
        parents.push(parent);
    }
    for (place, parent) in parents.into_iter().enumerate() {
        let Some(parent) = parent else { continue };
        let found = file(&linked, &parent).flatten();
        if let Some(entry) = linked.get_mut(place) {
            entry.parent = found;
        }
    }
    for (place, section) in sections.iter().enumerate() {
        let first = chain(&linked, place).first().copied();
        if first.and_then(|first| linked.get(first)).is_some_and(|first| first.parent.is_some()) {
            section.problem(
                "the file is linked to itself through its parents; link one of them to the root file",
            );
            return Vec::new();
        }
    }
    linked
}

/// The file that an entry names; `Some(None)` = the root file; `None` = an unknown file, reported as a problem.
pub(crate) fn file(linked: &[LinkedEntry], entry: &Entry<'_>) -> Option<Option<usize>> {
    let name = entry.text()?;
    if name == "root" {
        return Some(None);
    }
    let found = linked.iter().position(|other| other.name == name);
    if found.is_none() {
        let known = linked.iter().map(|other| other.name.as_str()).chain(["root"]);
        let hint = nearest(name, known).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        entry.problem(format!("`{}`: the goal has no linked file `{name}`{hint}", entry.key()));
    }
    found.map(Some)
}

fn files(section: &Section<'_>, root: Option<&Pattern>) -> Option<(LinkedPattern, String)> {
    let (entry, text, regex) = pattern_text(section)?;
    let pattern = if regex { LinkedPattern::regex(text) } else { LinkedPattern::wildcard(text) };
    let pattern = pattern.map_err(|error| entry.problem(format!("`{}`: {error}", entry.key()))).ok()?;
    if let Some(root) = root {
        let groups: Vec<&str> = root.group_names().collect();
        let unknown = pattern.placeholders().into_iter().find(|name| !groups.contains(&name.as_str()));
        // Without groups, braces in a wildcard are alternatives.
        if let Some(name) = unknown.filter(|_| !groups.is_empty()) {
            let hint =
                nearest(&name, groups).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            entry.problem(format!("`{}`: the root's expression has no group `{name}`{hint}", entry.key()));
        }
    }
    Some((pattern, text.to_owned()))
}
