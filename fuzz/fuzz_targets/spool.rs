//! See `florelay_fuzz_targets::spool`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| florelay_fuzz_targets::spool::run(bytes));
