//! See `profiler_fuzz::stored_rows`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| profiler_fuzz::stored_rows::run(data));
