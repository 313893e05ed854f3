//! See `florelay_fuzz_targets::grpc`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| florelay_fuzz_targets::grpc::run(bytes));
