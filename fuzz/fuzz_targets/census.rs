//! See `profiler_fuzz::census`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| profiler_fuzz::census::run(data));
