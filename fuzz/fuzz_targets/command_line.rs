//! See `florelay_fuzz_targets::command_line`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| florelay_fuzz_targets::command_line::run(bytes));
