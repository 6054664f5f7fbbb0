//! See `profiler_fuzz::perf_map`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| profiler_fuzz::perf_map::run(data));
