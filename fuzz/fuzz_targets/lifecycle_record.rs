//! See `profiler_fuzz::lifecycle_record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| profiler_fuzz::lifecycle_record::run(data));
