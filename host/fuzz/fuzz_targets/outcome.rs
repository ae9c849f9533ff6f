//! Checks any answer of a processor.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sluicebox_processors::fuzz::outcome(bytes));
