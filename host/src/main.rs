//! Sluicebox: moves customer records between delimited files and a profile store, through sandboxed WebAssembly
//! processors.

mod cli;
mod commands;
mod config;
mod error;
mod events;
mod import;
mod linked;
mod plan;
mod plugins;
mod progress;
mod rejected;
mod report;
mod sets;
mod unfinished;
mod view;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
