use std::path::Path;

use sluicebox_files::Directory;
use sluicebox_model::Schema;
use sluicebox_processors::Limits;

use super::goal::{self, ImportGoal};
use super::reader::{Section, nearest};

/// A partner's location and the goals that work on it.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The name of its file without `.toml`.
    pub stem: String,
    /// The name that people see.
    pub name: String,
    /// Whether its goals run.
    pub enabled: bool,
    /// A profile is processed only if it consented to one of these; empty = all are.
    pub objectives: Vec<String>,
    /// Where the files are.
    pub location: Directory,
    /// In the order in which they run.
    pub goals: Vec<ImportGoal>,
}

impl Connection {
    /// The names of its goals.
    pub(crate) fn goal_names(&self) -> Vec<String> {
        self.goals.iter().map(|goal| goal.name.clone()).collect()
    }
}

pub(crate) fn read(
    root: &Path,
    stem: &str,
    schema: &Schema,
    limits: Limits,
    file: Section<'_>,
) -> Connection {
    let name = file.text("name").unwrap_or(stem).to_owned();
    let enabled = file.flag("enabled", true);
    let objectives = objectives(&file, schema);
    let location = match file.section("location") {
        Some(location) => directory(root, &location),
        None => {
            file.problem("[location] is missing");
            Directory { root: root.to_owned() }
        }
    };
    let mut goals: Vec<ImportGoal> = Vec::new();
    for section in file.sections("import_profiles") {
        let Some(goal) = goal::read(schema, limits, &section) else { continue };
        if goals.iter().any(|other| other.name == goal.name) {
            section.problem(format!("two goals are named `{}`", goal.name));
        }
        goals.push(goal);
    }
    for key in ["import_groups", "export_profiles", "pgp"] {
        if let Some(entry) = file.get(key) {
            entry.problem(format!("`{key}` is not supported in this version"));
        }
    }
    file.finish();
    Connection { stem: stem.to_owned(), name, enabled, objectives, location, goals }
}

fn objectives(file: &Section<'_>, schema: &Schema) -> Vec<String> {
    let entries = file.get("objectives").map(|entry| entry.array()).unwrap_or_default();
    let mut names = Vec::new();
    for entry in entries {
        let Some(name) = entry.text() else { continue };
        if !schema.objectives.iter().any(|known| known == name) {
            let near = nearest(name, schema.objectives.iter().map(String::as_str));
            let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            entry.problem(format!("schema.toml has no objective `{name}`{hint}"));
        }
        names.push(name.to_owned());
    }
    names
}

fn directory(root: &Path, location: &Section<'_>) -> Directory {
    if location.required("kind") == "s3" {
        location.problem("the location kind `s3` is not supported in this version; expected `directory`");
        return Directory { root: root.to_owned() };
    }
    location.choice("kind", &[("directory", ())], ());
    let path = location.required("path");
    location.finish();
    Directory { root: root.join(path) }
}
