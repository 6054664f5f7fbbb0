//! See `profiler_fuzz::eh_frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| profiler_fuzz::eh_frame::run(data));
