//! See `profiler_fuzz::elf_rows`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| profiler_fuzz::elf_rows::run(data));
