//! Tasks for developers: `cargo xtask setup | build-plugins | demo | test | kills | bench`.
#![expect(clippy::print_stdout, reason = "output for a developer")]

mod bench;
mod data;
mod demo;
// The search for a compiler that `sluicebox plugin build` uses too.
#[path = "../../src/plugins/guest.rs"]
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
    /// Finds or installs the tools that building needs, and lists them.
    Setup,
    /// Builds the bundled plugins as components in plugins/built.
    BuildPlugins {
        /// Also builds the plugins that attack the host in tests, in tests/hostile/built.
        #[arg(long)]
        hostile: bool,
    },
    /// Imports a file of a million rows through two processors, and queries the profiles.
    Demo {
        /// The number of rows in the file.
        #[arg(long, default_value_t = 1_000_000)]
        rows: u64,
    },
    /// Checks everything: formatting, lints, licences, and all tests.
    Test,
    /// Kills imports, exports, undos, erasures, backups and services at random moments, a thousand times in all.
    Kills {
        /// How often each is killed.
        #[arg(long, default_value_t = 170)]
        each: u32,
        /// Chooses the moments.
        #[arg(long, default_value_t = 0x2545_f491_4f6c_dd1d)]
        seed: u64,
    },
    /// Measures imports and exports, with DuckDB and a Python script at the same work, and writes docs/bench.md.
    Bench {
        /// Measures the stages of imports instead: create, update and re-import, with 0, 1 and 3 processors.
        #[arg(long, conflicts_with_all = ["s3", "export"])]
        stages: bool,
        /// Measures imports with and without 200 readers of the service instead.
        #[arg(long, conflicts_with_all = ["s3", "export", "stages"])]
        readers: bool,
        /// The number of rows in the file.
        #[arg(long, default_value_t = 1_000_000)]
        rows: u64,
        /// Measures imports from a folder and from a bucket of SeaweedFS instead. 16000000 rows are 2 GB.
        #[arg(long)]
        s3: bool,
        /// Measures exports of all profiles and of a thousand changed ones instead.
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
        Task::Kills { each, seed } => test::kills(each, seed),
        Task::Bench { rows, stages: true, .. } => bench::run(rows),
        Task::Bench { rows, readers: true, .. } => bench::readers(rows),
        Task::Bench { rows, export: true, .. } => bench::export(rows),
        Task::Bench { rows, s3: true, .. } => bench::bucket(rows),
        Task::Bench { rows, .. } => bench::suite::run(rows),
    }
}
