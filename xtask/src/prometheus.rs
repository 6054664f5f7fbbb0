//! Prometheus and Alertmanager for the tests: Debian's packages, unpacked below `target/prometheus` without being installed
//! or started, where the host has none. What cannot be had is named with its reason, and stops nothing.

use std::path::Path;

use anyhow::Result;
use profiler_tests::prometheus::{PACKAGES, find, folder};

use crate::interpreters::debian::{Release, extract};
use crate::not_run::NotRun;

/// The release that they are taken from. They need no more of the host than a C library of its age or newer.
const SUITE: &str = "bookworm";

/// Unpacks what is not there yet, for tests that come next; says what could not be had.
pub(crate) fn prepare(not_run: &NotRun) {
    let missing = |programs: &[&str]| programs.iter().any(|program| find(program).is_err());
    let packages: Vec<&str> = PACKAGES
        .iter()
        .filter(|(_, programs)| missing(programs))
        .map(|(package, _)| *package)
        .collect();
    if packages.is_empty() {
        return;
    }
    println!("unpacking {}", packages.join(" and "));
    if let Err(error) = unpack(&packages, &folder()) {
        not_run.add(&packages.join(", no "), &format!("{error:#}"));
    }
}

fn unpack(packages: &[&str], folder: &Path) -> Result<()> {
    let release = Release::open(SUITE)?;
    std::fs::create_dir_all(folder)?;
    for package in packages {
        extract(&release.download_alone(package)?, folder, Some("./usr/bin"))?;
    }
    Ok(())
}
