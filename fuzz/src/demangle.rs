//! Any bytes as the name of a symbol.

use profiler_symbolizer::demangle;

/// What a demangled name may be long; a name that stays as it is can be longer, and its broken bytes grow.
const LONGEST_DEMANGLED: usize = 16 << 10;
const REPLACEMENT_BYTES: usize = 3;

/// Runs one input.
pub fn run(data: &[u8]) {
    let readable = demangle(data);
    assert!(
        readable.len() <= LONGEST_DEMANGLED.max(data.len() * REPLACEMENT_BYTES),
        "{} bytes from {}",
        readable.len(),
        data.len()
    );
    assert_eq!(demangle(data), readable);
    if !data.starts_with(b"_") && !data.starts_with(b"Z") && !data.starts_with(b"R") {
        assert_eq!(readable, String::from_utf8_lossy(data));
    }
}
