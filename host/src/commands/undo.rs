//! `sluicebox undo`.

use std::path::Path;
use std::time::Instant;

use jiff::Timestamp;
use serde_json::{Value as Json, json};
use sluicebox_store::{Commit, Left, LeftWhat, Names, Store, StoreError};

use crate::cli::print;
use crate::config::Config;
use crate::error::Error;
use crate::plan::unique;
use crate::report::{Kept, Profiles, Report, Run, Trigger};

/// What is left alone is shown up to this number.
const SHOWN: usize = 1000;

/// Puts back what a run changed, the last of its goal runs first, and shows what was changed since and is left alone.
///
/// # Errors
/// If there is no such run, or what it overwrote is not kept.
pub(crate) fn run(folder: &Path, run: &str, json: bool) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    if !config.settings.store.join("CURRENT").exists() {
        return Err(Error::NotFound(format!("there is no run `{run}`")));
    }
    let store = Store::open(&config.settings.store)?;
    let mut goal_runs = Vec::new();
    for entry in store.history() {
        let (number, bytes) = entry?;
        let kept = Kept::decode(&bytes).ok_or(StoreError::Damaged("the history"))?;
        if kept.report.run == run {
            goal_runs.push((number, kept));
        }
    }
    if goal_runs.is_empty() {
        return Err(Error::NotFound(format!("there is no run `{run}`")));
    }
    let unique = unique(&config.schema, &store)?;
    let own = Run::new(Trigger::Command);
    for (number, kept) in &goal_runs {
        let changed = kept.report.profiles.created + kept.report.profiles.updated > 0;
        if !changed {
            continue;
        }
        if !store.can_undo(kept.at)? {
            return Err(Error::Failed(format!(
                "{} / {}: what it overwrote is not kept; `[undo] keep` in sluicebox.toml says for how long it is",
                kept.report.connection, kept.report.goal
            )));
        }
        undo(&store, (*number, kept), &own, &unique, json)?;
    }
    Ok(0)
}

fn undo(
    store: &Store,
    (number, kept): (u64, &Kept),
    run: &Run,
    unique: &[sluicebox_model::PropertyId],
    json: bool,
) -> Result<(), Error> {
    let (begun, started) = (Instant::now(), Timestamp::now());
    let report = Report::of(&run.id, &kept.report.connection, &kept.report.goal, "undo");
    let mut own = Kept::new(report, started, run);
    let (own_number, now) = store.begin_goal_run(started.as_millisecond(), |_| own.encode())?;
    own.at = now;
    let undone = store.undo((kept.at, number), (now, own_number), unique)?;
    let updated = i64::try_from(undone.restored + undone.removed).unwrap_or(i64::MAX);
    own.report.profiles = Profiles { updated, ..Profiles::default() };
    own.end(None, begun.elapsed());
    let end = Commit { goal_run: Some((own_number, own.encode())), ends_goal_run: true, ..Commit::default() };
    store.commit(end)?;

    let names = store.names();
    let left = undone.left.iter().take(SHOWN).map(|left| (left, why(&names, left)));
    if json {
        let left: Vec<Json> =
            left.map(|(left, why)| json!({ "profile_id": left.record.to_string(), "why": why })).collect();
        return print(json!({
            "run": run.id, "undone": kept.report.run, "connection": kept.report.connection, "goal": kept.report.goal,
            "restored": undone.restored, "removed": undone.removed, "events": undone.events,
            "left_alone": undone.left.len(), "left": left,
        }));
    }
    print(format!(
        "{} / {}: {} restored, {} removed, {} events; {} left alone",
        kept.report.connection,
        kept.report.goal,
        undone.restored,
        undone.removed,
        undone.events,
        undone.left.len()
    ))?;
    for (left, why) in left {
        print(format!("  {}: {why}", left.record))?;
    }
    Ok(())
}

fn why(names: &Names, left: &Left) -> String {
    let name = |property| names.properties.get(property).map_or("?", String::as_str);
    match &left.what {
        LeftWhat::Property(property) => format!("`{}` was changed since", name(property)),
        LeftWhat::Taken(property) => format!("another record holds the value that `{}` had", name(property)),
        LeftWhat::Created => "it was created by the run, and changed since".to_owned(),
        LeftWhat::Merged => "it was merged with another, which is not undone".to_owned(),
        LeftWhat::Gone => "it is gone".to_owned(),
        LeftWhat::Event(key) => {
            let kind = names.event_types.get(&key.event_type).map_or("?", String::as_str);
            format!("an event of type `{kind}` was changed since")
        }
    }
}
