//! See `florelay_fuzz_targets::thrift`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| florelay_fuzz_targets::thrift::run(bytes));
