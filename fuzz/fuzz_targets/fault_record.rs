//! See `profiler_fuzz::fault_record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| profiler_fuzz::fault_record::run(data));
