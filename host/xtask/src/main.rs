//! What developers run: `cargo xtask setup | build-plugins | demo | test | bench`.
#![expect(clippy::print_stdout, reason = "a developer reads it")]

mod bench;
mod data;
mod demo;
// The same search as `sluicebox plugin build`.
#[path = "../../src/guest.rs"]
mod guest;
mod plugins;
mod setup;
mod shell;
mod test;

use clap::{Parser, Subcommand};

/// The tasks of the Sluicebox repository.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Finds or installs what building needs, and says which.
    Setup,
    /// Builds the bundled plugins as components, into plugins/built.
    BuildPlugins {
        /// Those that attack the host in its tests too, into tests/hostile/built.
        #[arg(long)]
        hostile: bool,
    },
    /// Imports a file of a million rows through two processors and looks profiles up.
    Demo {
        /// How many rows the file has.
        #[arg(long, default_value_t = 1_000_000)]
        rows: u64,
    },
    /// Checks everything: formatting, lints, licences, and all tests.
    Test,
    /// Measures imports and exports beside DuckDB and a Python script at the same work, and writes docs/bench.md.
    Bench {
        /// Only one import after the other, with the time of each stage: create, update, re-import; with 0, 1 and 3 processors.
        #[arg(long, conflicts_with_all = ["s3", "export"])]
        stages: bool,
        /// Imports while 200 readers look at the service, and without them.
        #[arg(long, conflicts_with_all = ["s3", "export", "stages"])]
        readers: bool,
        /// How many rows the file has.
        #[arg(long, default_value_t = 1_000_000)]
        rows: u64,
        /// The same file from a folder and from a bucket of SeaweedFS instead. 16000000 rows are 2 GB.
        #[arg(long)]
        s3: bool,
        /// Exports of all profiles and of a thousand that changed instead.
        #[arg(long, conflicts_with = "s3")]
        export: bool,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Setup => setup::everything(),
        Task::BuildPlugins { hostile: false } => plugins::build(),
        Task::BuildPlugins { hostile: true } => plugins::build().and_then(|()| plugins::build_hostile()),
        Task::Demo { rows } => demo::run(rows),
        Task::Test => test::run(),
        Task::Bench { rows, stages: true, .. } => bench::run(rows),
        Task::Bench { rows, readers: true, .. } => bench::readers(rows),
        Task::Bench { rows, export: true, .. } => bench::export(rows),
        Task::Bench { rows, s3: true, .. } => bench::bucket(rows),
        Task::Bench { rows, .. } => bench::suite::run(rows),
    }
}
