//! Prometheus, promtool and Alertmanager: those that are installed, or those of Debian's packages, which `cargo xtask test`
//! unpacks.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

/// Debian's packages, each with its programs.
pub const PACKAGES: [(&str, &[&str]); 2] = [
    ("prometheus", &["prometheus", "promtool"]),
    ("prometheus-alertmanager", &["prometheus-alertmanager"]),
];

/// Where the packages are unpacked.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target/prometheus")
}

/// Where programs are looked for, with what is unpacked behind what is installed.
pub fn path() -> OsString {
    let installed = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&installed).chain([folder().join("usr/bin")]);
    // What was split at colons has none.
    env::join_paths(folders).unwrap_or(installed)
}

/// Finds a program of the packages.
///
/// # Errors
/// It is neither installed nor unpacked, in words.
pub fn find(program: &str) -> Result<PathBuf, String> {
    let found = env::split_paths(&path())
        .map(|folder| folder.join(program))
        .find(|program| program.is_file());
    let package = PACKAGES.iter().find(|(_, programs)| programs.contains(&program));
    let package = package.map_or(program, |(package, _)| package);
    found.ok_or_else(|| format!("{program} is not here: apt-get install {package}"))
}
