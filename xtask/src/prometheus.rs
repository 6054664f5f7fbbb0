//! Prometheus for the tests: Debian's package, unpacked below `target/prometheus` without being installed, where the host has
//! none. What cannot be had is named with its reason, and stops nothing.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use profiler_tests::prometheus::{PACKAGE, find, folder};

use crate::command;

/// Longest time for the package manager, in seconds.
const LIMIT: &str = "120";

/// Unpacks it if it is not there yet, for tests that come next; says why it could not be had.
pub(crate) fn prepare() {
    if find("prometheus").is_ok() && find("promtool").is_ok() {
        return;
    }
    if let Err(error) = unpack(&folder()) {
        println!("no Prometheus: {error:#}");
    }
}

fn unpack(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut download = Command::new("timeout");
    download
        .args(["--kill-after=5", LIMIT, "apt-get", "-qq"])
        .args(["-o", "Acquire::Retries=1", "-o", "APT::Sandbox::User=root"])
        .args(["download", PACKAGE])
        .current_dir(folder)
        .stdin(Stdio::null());
    command::run(&mut download)?;
    let files = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files = files.flatten().map(|file| file.path());
    let package = files
        .find(|file| file.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("{PACKAGE} was not downloaded"))?;
    let unpacked = command::run(Command::new("dpkg-deb").arg("--extract").args([&package, folder]));
    fs::remove_file(&package).context("cannot remove the package")?;
    unpacked
}
