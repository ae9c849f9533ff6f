//! The files that the next run of a goal would import again because its configuration changed.

use std::collections::BTreeSet;

use serde::Serialize;
use sluicebox_store::Store;
use utoipa::ToSchema;

use crate::config::{Config, Connection, Goal, ImportGoal};
use crate::error::Error;
use crate::import::Import;
use crate::import::notes::{self, GoalNote, Hash};
use crate::import::sets::FileSet;
use crate::plugins;
use crate::queries::examine::{comparable, known};
use crate::runs::imported_again::{ImportedAgain, counted_twice, in_words};
use crate::runs::report::HistoryEntry;

/// The last goal runs among which those of a goal are searched.
const RECENT_RUNS: usize = 1000;

/// The files that the next run would import again.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(crate) struct DueAgain {
    pub files: Vec<ImportedAgain>,
    /// The properties whose rule is `sum` or `add`: a second import of the same values counts them twice.
    pub counted_twice: Vec<String>,
    /// Plugins of which another build imported files; these files are not imported again.
    pub changed_plugins: Vec<String>,
    /// Whether all files were compared. Large ones are not while a person waits.
    pub complete: bool,
    /// The same in words.
    #[serde(skip)]
    pub lines: Vec<String>,
}

/// Finds the files that the next run of a goal would import again.
///
/// # Errors
/// If the location cannot be listed, a plugin cannot be used, or the store fails.
pub(crate) fn find(
    config: &Config,
    connection: &Connection,
    goal: &ImportGoal,
    store: &Store,
) -> Result<DueAgain, Error> {
    let mut due = DueAgain { counted_twice: counted_twice(goal), ..DueAgain::default() };
    let mut changed = BTreeSet::new();
    let warning = each_known(config, connection, goal, store, |import, sets| {
        let (small, complete) = comparable(sets);
        due.complete = complete;
        for set in small {
            let Some(identified) = known(import, set)? else { continue };
            if identified.state.complete {
                changed.extend(identified.changed_plugins);
            }
            due.files.extend(identified.again);
        }
        import.warning_of_changed(&changed)
    })?;
    due.lines = in_words(&due.files, goal);
    due.lines.extend(warning);
    due.changed_plugins = changed.into_iter().collect();
    Ok(due)
}

/// Notes under which configuration a goal's files are imported, before the configuration changes: stores of earlier versions
/// do not have that.
///
/// # Errors
/// As [`find`].
pub(crate) fn remember(
    config: &Config,
    connection: &Connection,
    goal: &ImportGoal,
    store: &Store,
) -> Result<(), Error> {
    each_known(config, connection, goal, store, |import, sets| {
        for set in comparable(sets).0 {
            if let Some(identified) = known(import, set)? {
                store.note_imports(&identified.notes)?;
            }
        }
        Ok(())
    })
}

fn each_known<T>(
    config: &Config,
    connection: &Connection,
    goal: &ImportGoal,
    store: &Store,
    look: impl FnOnce(&Import<'_>, &[&FileSet]) -> Result<T, Error>,
) -> Result<T, Error> {
    let processors = plugins::load(config, &goal.processors, &plugins::runtime(config, false)?)?;
    let opened = connection.open(&config.root)?;
    let import = Import::new(config, connection, goal, &opened, &processors, store);
    let found = import.sets()?;
    look(&import, &found.sets.iter().flatten().collect::<Vec<_>>())
}

/// Whether the configuration of a goal differs from that of its last run; `None` if the store did not note one. Builds of plugins
/// are not compared, and no file is opened but those of secrets.
///
/// # Errors
/// If a secret is missing, or the store fails.
pub(crate) fn differs_from_last_run(
    config: &Config,
    connection: &Connection,
    goal: &ImportGoal,
    store: &Store,
) -> Result<Option<bool>, Error> {
    let Some(last) = notes::read::<GoalNote>(store, &notes::goal_key(connection, goal))? else {
        return Ok(None);
    };
    let configs = goal.processors.iter().map(|entry| Ok((entry.file, entry.config.open(&config.root)?)));
    let configs = configs.collect::<Result<Vec<_>, Error>>()?;
    let configs = configs.iter().map(|(file, config)| (*file, config.json()));
    let names = goal.processors.iter().map(|entry| entry.plugin.as_str());
    let is_same = notes::configuration(connection, goal, configs) == last.configuration
        && names.eq(last.plugins.iter().map(|plugin| plugin.name.as_str()));
    Ok(Some(!is_same))
}

/// Whether files of a goal may have to be imported again, so that it is worth comparing them with the ledger.
///
/// # Errors
/// As [`differs_from_last_run`].
pub(crate) fn is_worth_a_look(
    config: &Config,
    connection: &Connection,
    goal: &ImportGoal,
    store: &Store,
) -> Result<bool, Error> {
    match differs_from_last_run(config, connection, goal, store)? {
        // The schema decides about bulk mappings.
        Some(differs) => {
            Ok(differs || goal.all_fields.is_some() || has_other_builds(config, connection, goal, store)?)
        }
        // A goal that ran before the store noted configurations.
        None => {
            let kind = Goal::Import(goal).kind();
            for entry in store.history().take(RECENT_RUNS) {
                let report = HistoryEntry::decode(&entry?.1).map(|entry| entry.report).unwrap_or_default();
                let found = (report.connection.as_str(), report.goal.as_str(), report.kind.as_str());
                if found == (connection.name.as_str(), goal.name.as_str(), kind) {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}

/// Whether plugins have other builds than in the last run of a goal.
fn has_other_builds(
    config: &Config,
    connection: &Connection,
    goal: &ImportGoal,
    store: &Store,
) -> Result<bool, Error> {
    let last = notes::read::<GoalNote>(store, &notes::goal_key(connection, goal))?;
    let last = last.map(|last| last.plugins).unwrap_or_default();
    let now =
        goal.processors.iter().map(|entry| plugins::digest(config, entry).map(|build| Some(Hash(build))));
    let now = now.collect::<Result<Vec<_>, Error>>()?;
    Ok(!now.into_iter().eq(last.into_iter().map(|plugin| plugin.build)))
}
