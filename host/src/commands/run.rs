//! `sluicebox run`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use jiff::Timestamp;
use sluicebox_store::{Commit, DryCopy, Store, StoreError};

use crate::cli::print;
use crate::config::{Config, Connection, Goal, Opened};
use crate::diff::Diff;
use crate::erasure;
use crate::error::Error;
use crate::export::Export;
use crate::import::Import;
use crate::linked;
use crate::plan::unique;
use crate::plugins::{self, Processor};
use crate::rejected;
use crate::report::{Kept, LinkedRows, Report, Status};

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The connections; all if none is named.
    connections: Vec<String>,
    /// Only goals of this name; may be given several times.
    #[arg(long = "goal", value_name = "NAME")]
    goals: Vec<String>,
    /// Reports what would change, and writes nothing.
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: shows what each row would change, with the values before and after. It takes the rows one by one.
    #[arg(long, requires = "dry_run")]
    diff: bool,
    /// One JSON object a goal.
    #[arg(long)]
    json: bool,
}

/// A connection and those of its goals that are asked for, with the plugins of those that run.
struct Selected<'c> {
    connection: &'c Connection,
    /// The way to its files, if a goal of it runs.
    opened: Option<Opened>,
    goals: Vec<(Goal<'c>, Option<Vec<Processor>>)>,
}

/// Runs the goals, one after the other.
///
/// # Errors
/// If the configuration is wrong or the store fails; a goal that fails is in the report.
pub(crate) fn run(folder: &Path, arguments: &Arguments) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let selected = select(&config, arguments)?;
    let stop = stop_on_signal()?;

    let copy = arguments.dry_run.then(|| DryCopy::of(&config.settings.store)).transpose()?;
    let store = Store::open(copy.as_ref().map_or(&config.settings.store, |copy| copy.path()))?;
    recover(&config, &store, copy.is_some())?;
    if copy.is_none() {
        linked::clear(config.data())?;
    }
    index(&config, &store)?;
    expire(&config, &store)?;
    store.trim_changes()?;
    store.forget_before(overwritten_from(&config))?;
    let erasure_key = erasure::key(&config)?;

    let mut failed = false;
    for Selected { connection, opened, goals } in &selected {
        let run = run_id();
        for (goal, processors) in goals {
            let report = match (processors, opened) {
                (None, _) | (_, None) => skipped(&run, connection, goal),
                (Some(processors), Some(opened)) => {
                    let (config, store, run, stop) = (&config, &store, run.as_str(), &*stop);
                    let (dry, erasure_key) = (copy.is_some(), erasure_key.as_ref());
                    let kept = match goal {
                        Goal::Import(goal) => {
                            let decoding = opened.decoding(&config.settings, goal);
                            let location = &opened.location;
                            let keep = config.settings.undo.is_some();
                            let diff = arguments.diff.then_some(Diff { json: arguments.json });
                            let import = Import {
                                config,
                                connection,
                                goal,
                                location,
                                decoding,
                                processors,
                                store,
                                erasure_key,
                                keep,
                                diff,
                                run,
                                dry,
                                stop,
                            };
                            import.run()?
                        }
                        Goal::Export(goal) => {
                            Export { config, connection, goal, opened, processors, store, run, dry, stop }
                                .run()?
                        }
                    };
                    kept.report
                }
            };
            failed |= report.status == Status::Failed;
            show(&config, &report, arguments)?;
        }
    }
    Ok(u8::from(failed))
}

fn show(config: &Config, report: &Report, arguments: &Arguments) -> Result<(), Error> {
    if arguments.json {
        return print(serde_json::to_string(report).unwrap_or_default());
    }
    let dry = if arguments.dry_run { "dry run: " } else { "" };
    print(format!("{dry}{}", report.line()))?;
    if let Some(error) = &report.error {
        print(format!("  {error}"))?;
    }
    if report.rows.rejected > 0 && !arguments.dry_run {
        print(format!("  rejected rows: {}", config.data().join("rejected").join(&report.run).display()))?;
    }
    Ok(())
}

fn select<'c>(config: &'c Config, arguments: &Arguments) -> Result<Vec<Selected<'c>>, Error> {
    let mut connections: Vec<&Connection> = match arguments.connections.as_slice() {
        [] => config.connections.iter().collect(),
        names => names.iter().map(|name| config.connection(name)).collect::<Result<_, _>>()?,
    };
    connections.sort_by(|a, b| a.stem.cmp(&b.stem));
    connections.dedup_by(|a, b| a.stem == b.stem);
    for name in &arguments.goals {
        if !connections.iter().any(|connection| connection.goal_names().contains(name)) {
            let known = connections.iter().flat_map(|connection| connection.goal_names()).collect();
            return Err(Error::Unknown { kind: "goal", name: name.clone(), known });
        }
    }
    let mut runtime = None;
    let mut selected = Vec::new();
    for connection in connections {
        let mut goals = Vec::new();
        for goal in connection.all_goals() {
            if !arguments.goals.is_empty() && !arguments.goals.iter().any(|name| name == goal.name()) {
                continue;
            }
            let processors = match goal.processors() {
                _ if !(connection.enabled && goal.enabled()) => None,
                [] => Some(Vec::new()),
                entries => {
                    let runtime = match &mut runtime {
                        Some(runtime) => runtime,
                        none => none.insert(plugins::runtime(config, !arguments.dry_run)?),
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

fn skipped(run: &str, connection: &Connection, goal: &Goal<'_>) -> Report {
    let has_linked = matches!(goal, Goal::Import(goal) if !goal.linked.is_empty());
    Report {
        status: Status::Skipped,
        linked: has_linked.then(LinkedRows::default),
        ..Report::of(run, &connection.name, goal.name(), goal.kind())
    }
}

/// Brings to an end what a process that died left: its goal run is marked, and the rejected rows that no commit
/// holds are taken away. They are rejected again when the file goes on.
fn recover(config: &Config, store: &Store, dry: bool) -> Result<(), Error> {
    let Some((number, bytes)) = store.interrupted()? else { return Ok(()) };
    let mut commit = Commit { ends_goal_run: true, ..Commit::default() };
    if let Some(mut kept) = Kept::decode(&bytes) {
        if !dry {
            let folder = config.data().join("rejected").join(&kept.report.run);
            rejected::truncate(&folder, &kept.report.goal, &kept.rejected_files)?;
        }
        kept.report.status = Status::Failed;
        kept.report.error = Some("interrupted: its process ended before it did".to_owned());
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

/// The id of a run: when it began, and four digits that tell runs of one second apart.
pub(crate) fn run_id() -> String {
    let now = Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
    let random = uuid::Uuid::now_v7().simple().to_string();
    format!("{now}-{}", random.get(28..).unwrap_or_default())
}

/// The first Ctrl-C, or SIGTERM, stops at the next batch; the second ends the process. The store is whole either way.
fn stop_on_signal() -> Result<Arc<AtomicBool>, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    let failed = |error| Error::io("signals".as_ref(), error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let seen = Arc::clone(&stop);
    let (ready, wait) = std::sync::mpsc::sync_channel(1);
    let listen = async move {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        // Nobody waits any more only if the process ends.
        let _ = ready.send(());
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if seen.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
        }
        #[expect(unreachable_code, reason = "names the type of the errors above")]
        Ok::<(), std::io::Error>(())
    };
    let thread = thread::Builder::new().name("signals".to_owned());
    thread
        .spawn(move || {
            if let Err(error) = runtime.block_on(listen) {
                tracing::warn!(%error, "Ctrl-C ends the process at once");
            }
        })
        .map_err(failed)?;
    let _ = wait.recv();
    Ok(stop)
}
