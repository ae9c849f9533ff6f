//! Sluicebox: moves customer records between delimited files and a profile store, through sandboxed WebAssembly
//! processors.

mod cli;
mod commands;
mod config;
mod erasure;
mod error;
mod export;
mod import;
mod output;
mod plugins;
mod queries;
mod runs;
mod service;

use std::process::ExitCode;

/// Threads free values that other threads allocated, which the system's allocator is slow at. mimalloc is built without huge pages
/// (`no_thp`): hosts of virtual machines that reclaim freed memory make those expensive.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc 3: for how many milliseconds it keeps empty pages.
const PURGE_DELAY: i32 = 15;
/// The memory of one chunk is kept for the next, and not much longer. The default is a second.
const PURGE_DELAY_MS: std::ffi::c_long = 300;

fn main() -> ExitCode {
    #[expect(unsafe_code, reason = "mimalloc is a C library; options are set before there are other threads")]
    // SAFETY: its documentation requires that options are set before other threads start, and they are.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, PURGE_DELAY_MS);
    }
    cli::main()
}
