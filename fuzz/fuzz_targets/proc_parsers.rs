//! See `profiler_fuzz::proc_parsers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| profiler_fuzz::proc_parsers::run(data));
