//! See `profiler_fuzz::sample_record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| profiler_fuzz::sample_record::run(data));
