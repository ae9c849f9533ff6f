//! Passes any cells through the boundary.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sluicebox_processors::fuzz::batch(bytes));
