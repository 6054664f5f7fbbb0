//! Expected output in files: compared, or written anew where `PROFILER_UPDATE_FIXTURES` is set.

use std::{env, fs, path::Path};

/// Holds `actual` against the file `name` of the fixtures.
pub(crate) fn compare(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/cli").join(name);
    if env::var_os("PROFILER_UPDATE_FIXTURES").is_some() {
        fs::write(&path, actual).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == actual,
        "{name} differs; PROFILER_UPDATE_FIXTURES=1 takes over what is right.\n--- expected\n{expected}\n--- actual\n{actual}"
    );
}
