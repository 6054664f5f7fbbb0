//! See `profiler_fuzz::python_object`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| profiler_fuzz::python_object::run(data));
