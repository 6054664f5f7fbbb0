//! Prometheus and promtool: those that are installed, or those of Debian's package, which the kernel ring of
//! `cargo xtask test` unpacks.

use std::{
    env,
    path::{Path, PathBuf},
};

/// Debian's package of both.
pub const PACKAGE: &str = "prometheus";

/// Where the package is unpacked.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target/prometheus")
}

/// Finds a program of the package.
///
/// # Errors
/// It is neither installed nor unpacked, in words.
pub fn find(program: &str) -> Result<PathBuf, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        .chain([folder().join("usr/bin")])
        .map(|folder| folder.join(program))
        .find(|program| program.is_file());
    found.ok_or_else(|| format!("{program} is not here: apt-get install {PACKAGE}"))
}
