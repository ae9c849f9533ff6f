//! The command line: arguments, the log and the exit code.

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::commands;
use crate::output::{plain, print_error};
use crate::plugins;
use crate::runs::progress::{JsonLogWriter, LogWriter};
use crate::service::traces::Traces;

/// Moves customer records between delimited files and a profile store, through sandboxed processors.
#[derive(Parser)]
#[command(name = "sluicebox", version, arg_required_else_help = true)]
struct Arguments {
    /// The working folder.
    #[arg(short = 'C', value_name = "DIR", default_value = ".", global = true)]
    folder: PathBuf,
    /// Logs more and shows the causes of errors; twice, even more.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// The format of the log on stderr.
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
    /// Creates a working folder with a small example that runs.
    Init {
        /// The folder; it must be empty or missing.
        dir: PathBuf,
    },
    /// Runs goals now.
    Run(commands::run::Arguments),
    /// Marks files as imported that a changed configuration would have imported again.
    Accept(commands::accept::Arguments),
    /// Validates the configuration, then checks plugins, permissions and the next file of each goal.
    Check {
        /// The connections; all by default.
        connections: Vec<String>,
    },
    /// Shows the files that a goal would take; without a goal, the buckets and folders of the location.
    Scan {
        /// The connection.
        connection: String,
        /// Its goal.
        goal: Option<String>,
        /// Prints one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Shows the first rows of a goal's next file, before and after the processors.
    Preview {
        /// The connection.
        connection: String,
        /// Its goal.
        goal: String,
        /// How many rows.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        rows: u16,
        /// Prints one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Runs connections when they are due, and serves a page and an API to watch and control them.
    Serve {
        /// The address to listen on, instead of `address` in `[server]`.
        #[arg(long, value_name = "ADDRESS:PORT")]
        address: Option<SocketAddr>,
    },
    /// Shows the next scheduled runs.
    Schedule {
        /// The connections; all by default.
        connections: Vec<String>,
        /// How many runs.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
        count: u16,
        /// Prints one JSON object per run.
        #[arg(long)]
        json: bool,
    },
    /// Shows past goal runs.
    History {
        /// Shows one run, with the profiles that it created or updated last.
        run: Option<String>,
        /// Prints one JSON object per goal run.
        #[arg(long)]
        json: bool,
    },
    /// Reads and erases profiles.
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
    /// Verifies, measures, compacts, backs up and restores the store.
    #[command(subcommand)]
    Store(commands::store::Command),
    /// Lists and shows what runs did not take, and imports it once it is corrected.
    #[command(subcommand)]
    Rejected(commands::rejected::Command),
    /// Restores what a run changed, unless it changed again since.
    Undo {
        /// The run, as `sluicebox history` shows it.
        run: String,
        /// Prints one JSON object per goal.
        #[arg(long)]
        json: bool,
    },
    /// Lists, builds, tests and installs plugins.
    #[command(subcommand)]
    Plugin(commands::plugin::Command),
    /// Compiles a plugin from standard input to standard output, for the process that starts it.
    #[command(hide = true)]
    CompilePlugin {
        /// Bytes that it may take.
        memory: u64,
        /// The time that it may take.
        milliseconds: u64,
        /// The number of the process that starts it.
        parent: u32,
    },
}

pub(crate) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let serves = matches!(arguments.command, Command::Serve { .. });
    // The log of a service tells later what it did.
    let traces = serves.then(Traces::from_environment).flatten();
    log(arguments.verbose.max(u8::from(serves)), arguments.log_format, traces.as_ref());
    let folder = &arguments.folder;
    let done = match arguments.command {
        Command::Init { dir } => commands::init::run(&folder.join(dir)),
        Command::Run(run) => commands::run::run(folder, &run),
        Command::Accept(accept) => commands::accept::run(folder, &accept),
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
        Command::Rejected(command) => commands::rejected::run(folder, &command),
        Command::Undo { run, json } => commands::undo::run(folder, &run, json),
        Command::Plugin(command) => commands::plugin::run(folder, &command),
        Command::CompilePlugin { memory, milliseconds, parent } => {
            Ok(plugins::compile(memory, milliseconds, parent))
        }
    };
    if let Some(traces) = traces {
        traces.finish();
    }
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            print_error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn log(verbose: u8, format: LogFormat, traces: Option<&Traces>) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    // Other crates may log personal data: only our own log.
    let filter = || EnvFilter::new(format!("off,sluicebox={level},sluicebox_processors={level}"));
    let lines = tracing_subscriber::fmt::layer().with_target(false);
    let registry = tracing_subscriber::registry().with(traces.map(Traces::layer));
    match format {
        LogFormat::Text => {
            let lines = lines.with_writer(|| LogWriter).with_ansi(io::stderr().is_terminal());
            // An event is one line, whatever names and reasons it has.
            let fields = debug_fn(|writer, field, value| {
                let value = format!("{value:?}");
                match field.name() {
                    "message" => write!(writer, "{}", plain(&value)),
                    name => write!(writer, "{name}={}", plain(&value)),
                }
            });
            let lines = lines.without_time().fmt_fields(fields.delimited(" "));
            registry.with(lines.with_filter(filter())).init();
        }
        LogFormat::Json => {
            let lines = lines.with_writer(|| JsonLogWriter).json().flatten_event(true);
            registry.with(lines.with_filter(filter())).init();
        }
    }
}
