//! Arguments, output and exit codes.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::commands;
use crate::error::Error;
use crate::progress::LogWriter;
use crate::service::traces::Traces;

/// Moves customer records between delimited files and a profile store, through sandboxed processors.
#[derive(Parser)]
#[command(name = "sluicebox", version, arg_required_else_help = true)]
struct Arguments {
    /// The working folder.
    #[arg(short = 'C', value_name = "DIR", default_value = ".", global = true)]
    folder: PathBuf,
    /// Logs more; twice, even more.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// How the log is written to stderr.
    #[arg(long, value_enum, default_value = "text", global = true)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a working folder with a small example that runs.
    Init {
        /// The folder; it must be empty or missing.
        dir: PathBuf,
    },
    /// Runs goals now.
    Run(commands::run::Arguments),
    /// Validates the configuration, the plugins and the files' columns.
    Check {
        /// The connections; all if none is named.
        connections: Vec<String>,
    },
    /// Shows which files a goal would take; without a goal, the buckets and folders that there are.
    Scan {
        /// The connection.
        connection: String,
        /// Its goal.
        goal: Option<String>,
        /// One JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Shows a file's first rows before and after the processors.
    Preview {
        /// The connection.
        connection: String,
        /// Its goal.
        goal: String,
        /// How many rows.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        rows: u16,
        /// One JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Runs connections when they are due, and serves a page and an API to look in and to run them from.
    Serve {
        /// Where to listen, in place of `address` of the settings.
        #[arg(long, value_name = "ADDRESS:PORT")]
        address: Option<SocketAddr>,
    },
    /// Shows the next runs of the connections that have a schedule.
    Schedule {
        /// The connections; all if none is named.
        connections: Vec<String>,
        /// How many.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
        count: u16,
        /// One JSON object a run.
        #[arg(long)]
        json: bool,
    },
    /// Shows past goal runs.
    History {
        /// One run, with its last created or updated profiles.
        run: Option<String>,
        /// One JSON object a goal run.
        #[arg(long)]
        json: bool,
    },
    /// Reads profiles.
    #[command(subcommand)]
    Profile(commands::profile::Command),
    /// Reads groups, such as households.
    #[command(subcommand)]
    Group(commands::group::Command),
    /// Counts and shows the profiles of segments.
    #[command(subcommand)]
    Segment(commands::segment::Command),
    /// Reads the products that events say were bought.
    #[command(subcommand)]
    Product(commands::product::Command),
    /// Looks after the store: verifies, measures, compacts, backs up, restores.
    #[command(subcommand)]
    Store(commands::store::Command),
    /// Puts back what a run changed, and leaves alone what was changed since.
    Undo {
        /// The run, as `sluicebox history` shows it.
        run: String,
        /// One JSON object a goal.
        #[arg(long)]
        json: bool,
    },
    /// Shows plugins.
    #[command(subcommand)]
    Plugin(commands::plugin::Command),
}

pub(crate) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let serves = matches!(arguments.command, Command::Serve { .. });
    // Whoever leaves a service running wants to read later what it did.
    let traces = serves.then(Traces::wanted).flatten();
    log(arguments.verbose.max(u8::from(serves)), arguments.log_format, traces.as_ref());
    let folder = &arguments.folder;
    let done = match arguments.command {
        Command::Init { dir } => commands::init::run(&folder.join(dir)),
        Command::Run(run) => commands::run::run(folder, &run),
        Command::Check { connections } => commands::check::run(folder, &connections),
        Command::Scan { connection, goal, json } => {
            commands::scan::run(folder, &connection, goal.as_deref(), json)
        }
        Command::Preview { connection, goal, rows, json } => {
            commands::preview::run(folder, &connection, &goal, usize::from(rows), json)
        }
        Command::Serve { address } => commands::serve::run(folder, address),
        Command::Schedule { connections, count, json } => {
            commands::schedule::run(folder, &connections, usize::from(count), json)
        }
        Command::History { run, json } => commands::history::run(folder, run.as_deref(), json),
        Command::Profile(command) => commands::profile::run(folder, &command),
        Command::Group(command) => commands::group::run(folder, &command),
        Command::Segment(command) => commands::segment::run(folder, &command),
        Command::Product(command) => commands::product::run(folder, &command),
        Command::Store(command) => commands::store::run(folder, &command),
        Command::Undo { run, json } => commands::undo::run(folder, &run, json),
        Command::Plugin(command) => commands::plugin::run(folder, &command),
    };
    if let Some(traces) = traces {
        traces.finish();
    }
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            complain(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// Writes an error and its hint to stderr.
pub(crate) fn complain(error: &Error) {
    let mut stderr = io::stderr().lock();
    // There is nowhere left to report that stderr is gone.
    let _ = writeln!(stderr, "error: {error}");
    if let Some(hint) = error.hint() {
        let _ = writeln!(stderr, "hint: {hint}");
    }
}

/// Writes a line of results to stdout. Whoever stopped reading has seen enough.
pub(crate) fn print(line: impl fmt::Display) -> Result<(), Error> {
    match writeln!(io::stdout().lock(), "{line}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        written => written.map_err(|error| Error::io("stdout".as_ref(), error)),
    }
}

fn log(verbose: u8, format: LogFormat, traces: Option<&Traces>) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    // The crates below know nothing of people's data policy: only ours speak.
    let filter = || EnvFilter::new(format!("off,sluicebox={level},sluicebox_processors={level}"));
    let lines = tracing_subscriber::fmt::layer().with_writer(|| LogWriter).with_target(false);
    let lines = lines.with_ansi(io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(traces.map(Traces::layer));
    match format {
        LogFormat::Text => registry.with(lines.without_time().with_filter(filter())).init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true).with_filter(filter())).init(),
    }
}
