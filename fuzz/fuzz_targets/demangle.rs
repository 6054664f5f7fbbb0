//! See `profiler_fuzz::demangle`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| profiler_fuzz::demangle::run(data));
