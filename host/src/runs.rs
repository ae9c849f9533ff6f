//! Runs goals of connections on an open store: the command does, and the service.

use std::sync::atomic::AtomicBool;

use jiff::Timestamp;
use sluicebox_store::{Commit, ErasureKey, Store, StoreError};

use crate::config::{Config, Connection, Goal, Opened};
use crate::diff::Diff;
use crate::erasure;
use crate::error::Error;
use crate::export::Export;
use crate::import::Import;
use crate::linked;
use crate::plan::unique;
use crate::plugins::{self, Processor};
use crate::progress::Watch;
use crate::rejected;
use crate::report::{Kept, LinkedRows, Report, Run, Status};

/// A connection and those of its goals that are asked for, with the plugins of those that run.
pub(crate) struct Selected<'c> {
    pub connection: &'c Connection,
    /// The way to its files, if a goal of it runs.
    opened: Option<Opened>,
    goals: Vec<(Goal<'c>, Option<Vec<Processor>>)>,
}

/// Opens what the goals of connections need, before the first of them runs.
///
/// # Errors
/// If a plugin or a secret is missing or wrong.
pub(crate) fn select<'c>(
    config: &Config,
    connections: Vec<&'c Connection>,
    wanted: impl Fn(&Goal<'c>) -> bool,
    keep_compiled: bool,
) -> Result<Vec<Selected<'c>>, Error> {
    let mut runtime = None;
    let mut selected = Vec::new();
    for connection in connections {
        let mut goals = Vec::new();
        for goal in connection.all_goals().filter(|goal| wanted(goal)) {
            let processors = match goal.processors() {
                _ if !(connection.enabled && goal.enabled()) => None,
                [] => Some(Vec::new()),
                entries => {
                    let runtime = match &mut runtime {
                        Some(runtime) => runtime,
                        none => none.insert(plugins::runtime(config, keep_compiled)?),
                    };
                    Some(plugins::load(config, entries, runtime)?)
                }
            };
            goals.push((goal, processors));
        }
        let runs = goals.iter().any(|(_, processors)| processors.is_some());
        let opened = runs.then(|| connection.open(&config.root)).transpose()?;
        selected.push(Selected { connection, opened, goals });
    }
    Ok(selected)
}

/// What goals run with.
pub(crate) struct Runner<'a> {
    pub config: &'a Config,
    pub store: &'a Store,
    /// Whether the store is a copy: files stay as they are and rejected rows are only counted.
    pub dry: bool,
    pub diff: Option<Diff>,
    pub watch: Watch<'a>,
    /// Set to stop at the next batch.
    pub stop: &'a AtomicBool,
    erasure_key: Option<ErasureKey>,
}

impl<'a> Runner<'a> {
    /// Readies the store: what a process that died left is brought to an end, and what is too old is removed.
    ///
    /// # Errors
    /// If the store fails, or a property cannot be unique.
    pub(crate) fn new(
        config: &'a Config,
        store: &'a Store,
        dry: bool,
        watch: Watch<'a>,
        stop: &'a AtomicBool,
    ) -> Result<Self, Error> {
        recover(config, store, dry)?;
        if !dry {
            linked::clear(config.data())?;
        }
        index(config, store)?;
        expire(config, store)?;
        store.trim_changes()?;
        store.forget_before(overwritten_from(config))?;
        let erasure_key = erasure::key(config)?;
        Ok(Self { config, store, dry, diff: None, watch, stop, erasure_key })
    }

    /// Runs the goals of a connection, one after the other, and hands on what each did. What goes wrong with a goal is
    /// in its report, and the next one runs.
    ///
    /// # Errors
    /// If the store fails, the run is interrupted, or with what `ended` says.
    pub(crate) fn run(
        &self,
        selected: &Selected<'_>,
        run: &Run,
        mut ended: impl FnMut(Kept) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for (goal, processors) in &selected.goals {
            let kept = match (processors, &selected.opened) {
                (Some(processors), Some(opened)) => {
                    self.goal(selected.connection, goal, opened, processors, run)?
                }
                _ => skipped(run, selected.connection, goal),
            };
            ended(kept)?;
        }
        Ok(())
    }

    fn goal(
        &self,
        connection: &Connection,
        goal: &Goal<'_>,
        opened: &Opened,
        processors: &[Processor],
        run: &Run,
    ) -> Result<Kept, Error> {
        let span =
            tracing::info_span!("goal", connection = connection.name, goal = goal.name(), run = run.id);
        let _entered = span.enter();
        let Self { config, store, dry, watch, stop, .. } = *self;
        match goal {
            Goal::Import(goal) => Import {
                erasure_key: self.erasure_key.as_ref(),
                keep: config.settings.undo.is_some(),
                diff: self.diff,
                run,
                watch,
                dry,
                stop,
                ..Import::looking(config, connection, goal, opened, processors, store)
            }
            .run(),
            Goal::Export(goal) => Export {
                run,
                watch,
                dry,
                stop,
                ..Export::looking(config, connection, goal, opened, processors, store)
            }
            .run(),
        }
    }
}

fn skipped(run: &Run, connection: &Connection, goal: &Goal<'_>) -> Kept {
    let has_linked = matches!(goal, Goal::Import(goal) if !goal.linked.is_empty());
    let report = Report {
        status: Status::Skipped,
        linked: has_linked.then(LinkedRows::default),
        ..Report::of(&run.id, &connection.name, goal.name(), goal.kind())
    };
    Kept::new(report, Timestamp::now(), run)
}

/// Brings to an end what a process that died left: its goal run is marked, and the rejected rows that no commit
/// holds are taken away. They are rejected again when the file goes on.
pub(crate) fn recover(config: &Config, store: &Store, dry: bool) -> Result<(), Error> {
    let Some((number, bytes)) = store.interrupted()? else { return Ok(()) };
    let mut commit = Commit { ends_goal_run: true, ..Commit::default() };
    if let Some(mut kept) = Kept::decode(&bytes) {
        if !dry {
            let folder = rejected::folder(config, &kept.report.run);
            rejected::truncate(&folder, &kept.report.goal, &kept.rejected_files)?;
        }
        kept.report.status = Status::Failed;
        kept.report.error = Some("interrupted: its process ended before it did".to_owned());
        kept.interrupted = true;
        commit.goal_run = Some((number, kept.encode()));
    }
    store.commit(commit)?;
    Ok(())
}

/// Removes the events that are older than their type is kept, once a day.
fn expire(config: &Config, store: &Store) -> Result<(), Error> {
    let now = Timestamp::now();
    let mut kept = Vec::new();
    for event in &config.schema.events {
        if let Some(from) = event.keep_from(now) {
            kept.push((store.event_type(&event.name)?, from));
        }
    }
    let removed = store.expire(&kept, now)?;
    if removed > 0 {
        tracing::info!(removed, "events that are older than their type is kept were removed");
    }
    Ok(())
}

/// What was overwritten before this time is forgotten.
fn overwritten_from(config: &Config) -> i64 {
    let kept = config.settings.undo.unwrap_or_default().as_millis();
    Timestamp::now().as_millisecond().saturating_sub(i64::try_from(kept).unwrap_or(i64::MAX))
}

fn index(config: &Config, store: &Store) -> Result<(), Error> {
    let unique = unique(&config.schema, store)?;
    store.index(&unique).map_err(|(property, error)| match error {
        StoreError::NotUnique => {
            let names = store.names().properties;
            let name = names.get(&property).cloned().unwrap_or_default();
            Error::Usage(format!("schema.toml: property `{name}` cannot be unique: {error}"))
        }
        error => error.into(),
    })
}
