//! Undoes a run: restores what its goal runs overwrote, the last goal run first, and leaves alone what changed since.

use serde_json::{Value as Json, json};
use sluicebox_model::PropertyId;
use sluicebox_store::{Commit, Names, NotRestored, Reason, Store, StoreError, UndoReport};

use crate::config::Config;
use crate::error::Error;
use crate::import::plan::unique;
use crate::runs::goal_run::GoalRun;
use crate::runs::report::{HistoryEntry, Profiles, Report, Run, Trigger};

/// The number of records left alone that are listed.
const MAX_LISTED: usize = 1000;

/// What undoing a goal run did.
pub(crate) struct UndoneGoal {
    /// The run that undid it.
    pub run: String,
    /// The run that was undone.
    pub undone_run: String,
    pub connection: String,
    pub goal: String,
    pub restored: u64,
    pub removed: u64,
    pub events: u64,
    /// How many records were left alone.
    pub left_alone: usize,
    /// The first of them, each with the reason.
    pub left: Vec<(String, String)>,
}

impl UndoneGoal {
    fn of(own: &Run, entry: &HistoryEntry, undone: &UndoReport, names: &Names) -> Self {
        let left = undone.not_restored.iter().take(MAX_LISTED);
        Self {
            run: own.id.clone(),
            undone_run: entry.report.run.clone(),
            connection: entry.report.connection.clone(),
            goal: entry.report.goal.clone(),
            restored: undone.restored,
            removed: undone.removed,
            events: undone.events,
            left_alone: undone.not_restored.len(),
            left: left.map(|left| (left.record.to_string(), reason(names, left))).collect(),
        }
    }

    /// What happened, as one JSON object.
    pub(crate) fn json(&self) -> Json {
        let left = self.left.iter().map(|(id, why)| json!({ "profile_id": id, "why": why }));
        json!({
            "run": self.run, "undone": self.undone_run, "connection": self.connection, "goal": self.goal,
            "restored": self.restored, "removed": self.removed, "events": self.events,
            "left_alone": self.left_alone, "left": left.collect::<Vec<_>>(),
        })
    }
}

/// Undoes the goal runs of a run and calls `done` after each.
///
/// # Errors
/// If there is no such run, the values that it overwrote are no longer retained, or the store or `done` fails.
pub(crate) fn undo(
    config: &Config,
    store: &Store,
    run: &str,
    mut done: impl FnMut(&UndoneGoal) -> Result<(), Error>,
) -> Result<(), Error> {
    let goal_runs = goal_runs(store, run)?;
    if goal_runs.is_empty() {
        return Err(no_run(run));
    }
    let unique = unique(&config.schema, store)?;
    let own = Run::new(Trigger::Command);
    for (number, entry) in &goal_runs {
        if entry.report.profiles.created + entry.report.profiles.updated <= 0 {
            continue;
        }
        let mut are_retained = true;
        for time in entry.times() {
            are_retained &= store.can_undo(*time)?;
        }
        if !are_retained {
            return Err(Error::Failed(format!(
                "{} / {}: the values that it overwrote are not retained; `[undo] keep` in sluicebox.toml sets for how long they are",
                entry.report.connection, entry.report.goal
            )));
        }
        let undone = undo_goal_run(store, (*number, entry), &own, &unique)?;
        done(&UndoneGoal::of(&own, entry, &undone, &store.names()))?;
    }
    Ok(())
}

/// There is no run of that id.
pub(crate) fn no_run(run: &str) -> Error {
    Error::NotFound(format!("there is no run `{run}`"))
}

/// The goal runs of a run with their numbers, the last first.
fn goal_runs(store: &Store, run: &str) -> Result<Vec<(u64, HistoryEntry)>, Error> {
    let mut goal_runs = Vec::new();
    for entry in store.history() {
        let (number, bytes) = entry?;
        let entry = HistoryEntry::decode(&bytes).ok_or(StoreError::Damaged("the history"))?;
        if entry.report.run == run {
            goal_runs.push((number, entry));
        }
    }
    Ok(goal_runs)
}

/// Undoes one goal run, as a goal run of its own.
fn undo_goal_run(
    store: &Store,
    (number, entry): (u64, &HistoryEntry),
    run: &Run,
    unique: &[PropertyId],
) -> Result<UndoReport, Error> {
    let report = Report::of(&run.id, &entry.report.connection, &entry.report.goal, "undo");
    let mut own = GoalRun::begin(store, run, report)?;
    let mut undone = UndoReport::default();
    // The last change first.
    for time in entry.times().iter().rev() {
        own.advance(store)?;
        own.entry.changes(own.lease.time());
        undone.add(store.undo((*time, number), &own.lease, unique)?);
    }
    let updated = i64::try_from(undone.restored + undone.removed).unwrap_or(i64::MAX);
    own.entry.report.profiles = Profiles { updated, ..Profiles::default() };
    own.finish(store, Ok(()), Commit::default())?;
    Ok(undone)
}

/// Why something was left alone.
fn reason(names: &Names, left: &NotRestored) -> String {
    let name = |property| names.properties.get(property).map_or("?", String::as_str);
    match &left.reason {
        Reason::Property(property) => format!("`{}` was changed since", name(property)),
        Reason::Taken(property) => format!("another record holds the value that `{}` had", name(property)),
        Reason::Created => "the run created it, and it was changed since".to_owned(),
        Reason::Merged => "another run merged it with another record since".to_owned(),
        Reason::MergedWith => "the run merged it with a record that is left alone".to_owned(),
        Reason::Gone => "the record no longer exists".to_owned(),
        Reason::Event(key) => {
            let kind = names.event_types.get(&key.event_type).map_or("?", String::as_str);
            format!("an event of type `{kind}` was changed since")
        }
    }
}
