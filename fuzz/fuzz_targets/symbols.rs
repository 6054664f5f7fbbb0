//! See `profiler_fuzz::symbols`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| profiler_fuzz::symbols::run(data));
