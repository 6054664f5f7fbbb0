//! See `profiler_fuzz::kallsyms`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| profiler_fuzz::kallsyms::run(data));
