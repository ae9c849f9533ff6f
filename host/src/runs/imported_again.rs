//! Files that are imported again because the goal's configuration changed: which, and why.

use serde::{Deserialize, Serialize};
use sluicebox_model::MergeRule;
use utoipa::ToSchema;

use crate::config::{Connection, ImportGoal};
use crate::import::identity::shell_word;
use crate::output::counted;

/// Names in a message; of more, only the number is given.
const MAX_NAMES: usize = 10;

/// A root file that was imported under another configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct ImportedAgain {
    pub file: String,
    /// How many of its rows were imported; absent if all were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_imported: Option<u64>,
    /// What is different since.
    pub why: Vec<String>,
}

/// The properties of a goal to which a second import of the same file adds the same values once more.
pub(crate) fn counted_twice(goal: &ImportGoal) -> Vec<String> {
    let accumulates = |rule| matches!(rule, MergeRule::Sum | MergeRule::Add);
    let fields = goal.fields.iter().filter(|field| accumulates(field.rule));
    let mut names: Vec<String> = fields.map(|field| field.property.name.clone()).collect();
    names.dedup();
    names.extend(goal.all_fields.iter().filter(|all| accumulates(all.rule)).map(|_| "all_fields".to_owned()));
    names
}

/// What people must know of files that are imported again, as lines: the files with the reason, and what counts twice. Nothing
/// if there are none.
pub(crate) fn in_words(again: &[ImportedAgain], goal: &ImportGoal) -> Vec<String> {
    let mut by_reason: Vec<(String, Vec<&str>)> = Vec::new();
    for file in again {
        let reason = file.reason();
        match by_reason.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, names)) => names.push(&file.file),
            None => by_reason.push((reason, vec![&file.file])),
        }
    }
    let mut lines: Vec<String> = by_reason
        .iter()
        .map(|(reason, names)| {
            let shown = names.iter().take(MAX_NAMES).copied().collect::<Vec<_>>().join(", ");
            let more = match names.len().saturating_sub(MAX_NAMES) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let verb = if names.len() == 1 { "is" } else { "are" };
            let count = counted(names.len() as u64, "file");
            format!("{count} {verb} imported again: {shown}{more} ({reason})")
        })
        .collect();
    let twice = counted_twice(goal);
    if !(again.is_empty() || twice.is_empty()) {
        lines.push(format!("`sum` and `add` count twice: {}", twice.join(", ")));
    }
    lines
}

/// How to keep files from being imported again.
pub(crate) fn how_to_accept(connection: &Connection, goal: &ImportGoal) -> String {
    format!(
        "`sluicebox accept {} {}` marks them as imported under the new configuration",
        shell_word(&connection.stem),
        shell_word(&goal.name)
    )
}

impl ImportedAgain {
    /// What was imported of the file, if not all, and what is different since.
    pub(crate) fn reason(&self) -> String {
        let part = self.rows_imported.map(|rows| format!("its first {} were imported", counted(rows, "row")));
        part.into_iter().chain(self.why.iter().cloned()).collect::<Vec<_>>().join("; ")
    }
}
