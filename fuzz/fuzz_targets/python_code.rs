//! See `profiler_fuzz::python_code`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| profiler_fuzz::python_code::run(data));
