//! `sluicebox rejected`.

use std::path::{Path, PathBuf};

use serde_json::json;
use sluicebox_store::Store;

use crate::commands::run::{MAX_FAULTS, stop_on_signal};
use crate::config::Config;
use crate::error::Error;
use crate::import::corrections::CorrectedLines;
use crate::output::{counted, print, print_lines};
use crate::queries::rejected::{self, NotTaken, ShownLine};
use crate::runs::progress::Watch;
use crate::runs::report::{HistoryEntry, Run, Status, Trigger};
use crate::runs::turns::MergeTurns;
use crate::runs::undo::no_run;
use crate::runs::{Runner, recover, select};

/// What to do with rows that were not taken.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Lists the goal runs that did not take everything, the latest first.
    List {
        /// Only of this run.
        run: Option<String>,
        /// Prints one JSON object per goal run.
        #[arg(long)]
        json: bool,
    },
    /// Shows what a goal run did not take, and why.
    Show {
        /// The run, as `sluicebox history` shows it.
        run: String,
        /// The goal.
        goal: String,
        /// Prints one JSON object per line.
        #[arg(long)]
        json: bool,
    },
    /// Imports corrected lines through the same goal, each of them once.
    Import {
        /// The run that did not take them.
        run: String,
        /// The goal.
        goal: String,
        /// The corrected lines: a copy of a file of rejected rows. By default the goal run's own files.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Reports what would change and writes nothing.
        #[arg(long)]
        dry_run: bool,
        /// Prints one JSON object.
        #[arg(long)]
        json: bool,
    },
}

/// Lists, shows or imports what runs did not take.
///
/// # Errors
/// If the configuration is wrong, there is no such run or goal, or the store fails.
pub(crate) fn run(folder: &Path, command: &Command) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    match command {
        Command::List { run, json } => {
            let store = Store::open_read_only(&config.settings.store)?;
            rejected::list(&config, store.as_ref(), run.as_deref(), |not_taken| list(&not_taken, *json))?;
            Ok(0)
        }
        Command::Show { run, goal, json } => {
            let store = Store::open_read_only(&config.settings.store)?;
            let entry = rejected::goal_run(store.as_ref(), run, goal)?;
            rejected::lines(&config, store.as_ref(), &entry, |recorded_in, line, is_imported| {
                if *json {
                    return print(json!(ShownLine::of(line, recorded_in, is_imported)));
                }
                let imported = if is_imported { " (imported)" } else { "" };
                let (file, number, code, reason) = (&line.file, line.number, &line.code, &line.reason);
                print(format!("{file}, line {number}: {code}: {reason}{imported}"))
            })?;
            Ok(0)
        }
        Command::Import { run, goal, file, dry_run, json } => {
            import(&config, (run, goal), file.as_deref(), *dry_run, *json)
        }
    }
}

fn list(not_taken: &NotTaken, json: bool) -> Result<(), Error> {
    if json {
        return print(json!(not_taken));
    }
    print(format!("{}  {} / {}", not_taken.run, not_taken.connection, not_taken.goal))?;
    for file in &not_taken.files {
        let imported =
            if file.imported == 0 { String::new() } else { format!(", {} imported", file.imported) };
        print(format!("  {}: {}{imported}", file.name, counted(file.lines, "line")))?;
    }
    not_taken.faults.iter().take(MAX_FAULTS).try_for_each(|fault| print(format!("  {}", fault.line())))
}

fn import(
    config: &Config,
    (run, goal): (&str, &str),
    file: Option<&Path>,
    dry_run: bool,
    json: bool,
) -> Result<u8, Error> {
    let (opened, copy);
    let store: &Store = if dry_run {
        copy = Store::dry_copy_of(&config.settings.store)?;
        &copy
    } else {
        opened = Store::open_existing(&config.settings.store)?.ok_or_else(|| no_run(run))?;
        &opened
    };
    let corrected = rejected::goal_run(Some(store), run, goal)?;
    let connection = config.connection(&corrected.report.connection)?;
    let selected = select(config, vec![connection], |candidate| candidate.name() == goal, !dry_run)?;
    let stop = stop_on_signal()?;
    recover(config, store, dry_run)?;
    let turns = MergeTurns::new();
    let runner = Runner::new(config, store, dry_run, Watch::Terminal, &stop, &turns)?;
    let Some(selected) = selected.first() else { return Err(no_run(run)) };
    let files = file.map(|file| vec![file.to_owned()]);
    let (entry, lines) =
        runner.import_corrected(selected, &Run::new(Trigger::Command), &corrected, files.as_deref())?;
    show(&entry, &lines, json)?;
    Ok(u8::from(entry.report.status == Status::Failed || entry.report.rows.rejected > 0))
}

fn show(entry: &HistoryEntry, lines: &CorrectedLines, json: bool) -> Result<(), Error> {
    let report = &entry.report;
    if json {
        let mut shown = json!(report);
        if let Some(object) = shown.as_object_mut() {
            object.insert("already_imported".to_owned(), json!(lines.already_imported));
            object.insert("refused".to_owned(), json!(lines.refused));
        }
        return print(shown);
    }
    print_lines(report.line())?;
    if let Some(error) = &report.error {
        print(format!("  {error}"))?;
    }
    if let Some(words) = &entry.plugin_words {
        print(format!("  the plugin says: {words}"))?;
    }
    if lines.already_imported > 0 {
        print(format!("  {} imported before", counted(lines.already_imported, "line")))?;
    }
    for refused in &lines.refused {
        print(format!("  {}, line {}: {}: {}", refused.file, refused.line, refused.code, refused.reason))?;
    }
    let is_refused =
        |file: &str, line: u64| lines.refused.iter().any(|one| one.file == file && one.line == line);
    let faults = report.faults.iter().filter(|fault| !is_refused(&fault.file, fault.line));
    faults.take(MAX_FAULTS).try_for_each(|fault| print(format!("  {}", fault.line())))
}
