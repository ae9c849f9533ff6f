//! Sluicebox: moves customer records between delimited files and a profile store, through sandboxed WebAssembly
//! processors.

mod cli;
mod commands;
mod config;
mod diff;
mod erasure;
mod error;
mod events;
mod exchange;
mod export;
mod guest;
mod import;
mod linked;
mod plan;
mod plugins;
mod progress;
mod provenance;
mod registry;
mod rejected;
mod report;
mod rows;
mod runs;
mod schedule;
mod segments;
mod service;
mod sets;
mod unfinished;
mod view;
mod walk;

use std::process::ExitCode;

/// Cells become values on one thread and are given back on another, which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
