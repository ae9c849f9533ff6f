//! `sluicebox run`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use sluicebox_model::OrNever;
use sluicebox_store::Store;

use crate::config::{Config, Connection};
use crate::error::Error;
use crate::import::diff::Diff;
use crate::output::{note, print, print_lines};
use crate::runs::progress::Watch;
use crate::runs::rejected;
use crate::runs::report::{HistoryEntry, Run, Status, Trigger};
use crate::runs::turns::MergeTurns;
use crate::runs::{Runner, recover, select};

/// Kinds of faults that are shown of a goal run.
pub(crate) const MAX_FAULTS: usize = 5;

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The connections; all by default.
    connections: Vec<String>,
    /// Runs only goals of this name; may be given several times.
    #[arg(long = "goal", value_name = "NAME")]
    goals: Vec<String>,
    /// Reports what would change and writes nothing.
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: shows what each row would change, with the values before and after. Slow: rows are applied one by one.
    #[arg(long, requires = "dry_run")]
    diff: bool,
    /// Imports the goals' files again that were imported already, `sum` and `add` included.
    #[arg(long)]
    reimport: bool,
    /// Prints one JSON object per goal.
    #[arg(long)]
    json: bool,
}

/// Runs the goals, one after the other.
///
/// # Errors
/// If the configuration is wrong or the store fails; a goal that fails is in the report.
pub(crate) fn run(folder: &Path, arguments: &Arguments) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let connections = connections(&config, arguments)?;
    let named = |name: &str| arguments.goals.is_empty() || arguments.goals.iter().any(|goal| goal == name);
    let selected = select(&config, connections, |goal| named(goal.name()), !arguments.dry_run)?;
    let stop = stop_on_signal()?;

    let (opened, copy);
    let store: &Store = if arguments.dry_run {
        copy = Store::dry_copy_of(&config.settings.store)?;
        &copy
    } else {
        opened = Store::open(&config.settings.store)?;
        &opened
    };
    recover(&config, store, arguments.dry_run)?;
    let turns = MergeTurns::new();
    let mut runner = Runner::new(&config, store, arguments.dry_run, Watch::Terminal, &stop, &turns)?;
    runner.diff = arguments.diff.then_some(Diff { json: arguments.json });
    runner.reimport = arguments.reimport;

    let mut failed = false;
    for selected in &selected {
        let ran = runner.run(selected, &Run::new(Trigger::Command), |entry| {
            failed |= entry.report.status == Status::Failed;
            show(&config, &entry, arguments)
        });
        if matches!(ran, Err(Error::Interrupted)) && arguments.reimport && !arguments.dry_run {
            note("`sluicebox run` without --reimport imports the rest of the goal that was stopped");
        }
        ran?;
    }
    Ok(u8::from(failed))
}

fn connections<'c>(config: &'c Config, arguments: &Arguments) -> Result<Vec<&'c Connection>, Error> {
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
    Ok(connections)
}

fn show(config: &Config, entry: &HistoryEntry, arguments: &Arguments) -> Result<(), Error> {
    let report = &entry.report;
    if arguments.json {
        return print(serde_json::to_string(report).or_never("the JSON of a report"));
    }
    let dry = if arguments.dry_run { "dry run: " } else { "" };
    print_lines(format!("{dry}{}", report.line()))?;
    if let Some(error) = &report.error {
        print(format!("  {error}"))?;
    }
    if let Some(words) = &entry.plugin_words {
        print(format!("  the plugin says: {words}"))?;
    }
    for line in report.fault_lines(MAX_FAULTS) {
        print(format!("  {line}"))?;
    }
    if !report.faults.is_empty() && !arguments.dry_run {
        print(format!("  rejected rows: {}", rejected::folder(config, &report.run).display()))?;
    }
    Ok(())
}

/// The first Ctrl-C or SIGTERM stops the run at the next batch, the second ends the process. The store stays consistent either way.
pub(crate) fn stop_on_signal() -> Result<Arc<AtomicBool>, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    let failed = |error| Error::io("signals".as_ref(), error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let seen = Arc::clone(&stop);
    let (ready, wait) = std::sync::mpsc::sync_channel(1);
    let listen = async move {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        // The receiver is gone only if the process ends.
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
