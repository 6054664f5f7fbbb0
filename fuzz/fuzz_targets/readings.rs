//! See `profiler_fuzz::readings`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| profiler_fuzz::readings::run(data));
