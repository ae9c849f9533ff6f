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
mod stretch;
mod unfinished;
mod view;
mod walk;

use std::process::ExitCode;

/// Cells become values on one thread and are given back on another, which the system's allocator is slow at. It asks for no huge pages
/// (`no_thp`): where a host takes back what its guests free, those are the dear ones.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc 3: for how many milliseconds it keeps pages that nothing is in any more.
const PURGE_DELAY: i32 = 15;
/// What one stretch took is there for the next, and not much longer; a second is the default.
const SHORT: std::ffi::c_long = 300;

fn main() -> ExitCode {
    #[expect(unsafe_code, reason = "mimalloc is a C library; options are set before there are other threads")]
    // SAFETY: see the reason, which is what its documentation asks for.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, SHORT);
    }
    cli::main()
}
