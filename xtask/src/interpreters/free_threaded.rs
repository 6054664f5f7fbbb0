//! An interpreter without a global lock, which no package brings: built from Debian's source of 3.13. It takes a quarter of an
//! hour and more, so that it is done only when somebody asks for it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use profiler_tests::interpreters::{built, folder};
use tempfile::TempDir;

use super::debian::{self, Release};
use crate::command;

/// What it is called below `target/interpreters/built`.
pub(super) const NAME: &str = "3.13t";
/// The release whose source is built, and its package.
const SOURCE: (&str, &str) = ("trixie", "python3.13");
/// Optimized as the interpreters that people run, without what takes long for a few percent.
const CONFIGURE: &str = "--disable-gil --without-ensurepip --disable-test-modules";

/// Builds it, unless that is done.
///
/// # Errors
/// The source cannot be had, or does not build.
pub(super) fn build() -> Result<()> {
    let prefix = built(&folder(), NAME);
    if prefix.join("bin/python3.13t").is_file() {
        return Ok(());
    }
    fs::create_dir_all(folder()).with_context(|| format!("cannot make {}", folder().display()))?;
    let work = TempDir::with_prefix_in("free-threaded-", folder()).context("cannot make a folder")?;
    let (suite, package) = SOURCE;
    println!("building {NAME} from Debian's {suite}");
    let archive = Release::open(suite)?.download_source(package, work.path())?;
    let source = work.path().join("source");
    fs::create_dir(&source).context("cannot make a folder")?;
    let mut tar = Command::new("tar");
    tar.args(["-x", "--strip-components=1", "-f"])
        .arg(archive)
        .arg("-C")
        .arg(&source);
    debian::quietly(&mut tar)?;
    let configure = format!("./configure --prefix='{}' {CONFIGURE}", prefix.display());
    for step in [&configure, "make -j2", "make install"] {
        quietly_in(&source, step)?;
    }
    Ok(())
}

/// Runs a step of the build, last in line for the CPUs.
fn quietly_in(source: &Path, step: &str) -> Result<()> {
    println!("{step}");
    let mut shell = Command::new("nice");
    shell.args(["-n", "19", "sh", "-c"]);
    shell.arg(format!(
        "{step} >build.log 2>&1 || {{ tail -n 20 build.log >&2; exit 1; }}"
    ));
    command::run(shell.current_dir(source))
}
