//! See `florelay_fuzz_targets::xsk`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| florelay_fuzz_targets::xsk::run(bytes));
