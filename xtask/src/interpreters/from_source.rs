//! Interpreters that no package brings, built from Debian's sources: one without a global lock, and one on musl instead of
//! the GNU C library. Each takes a quarter of an hour and more, so that it is done only when somebody asks for it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use profiler_tests::interpreters::{ON_MUSL, built, folder};
use tempfile::TempDir;

use super::debian::{self, Release};
use crate::command;

/// An interpreter that is built here.
#[derive(Debug)]
pub(super) struct Recipe {
    /// What it is called below `target/interpreters`.
    pub(super) name: &'static str,
    /// The program in `bin`.
    program: &'static str,
    /// The release whose source is built, and its package.
    source: (&'static str, &'static str),
    /// How it is configured: optimized as those that people run, without what takes long for a few percent.
    configure: &'static str,
}

pub(super) const FREE_THREADED: Recipe = Recipe {
    name: "3.13t",
    program: "python3.13t",
    source: ("trixie", "python3.13"),
    configure: "./configure --disable-gil --without-ensurepip --disable-test-modules",
};

/// The compiler is of `musl-tools`. The multiarch name that it gives is that of glibc, whose headers would be taken then.
pub(super) const MUSL: Recipe = Recipe {
    name: ON_MUSL,
    program: "python3.11",
    source: ("bookworm", "python3.11"),
    configure: "printf '#!/bin/sh\\ncase $1 in *-print-multiarch) echo x86_64-linux-musl ;; *) exec musl-gcc \"$@\" ;; esac\\n' \
                >musl-cc && chmod 755 musl-cc && \
                ./configure CC=\"$PWD/musl-cc\" --without-ensurepip --disable-test-modules",
};

impl Recipe {
    /// Builds it, unless that is done.
    ///
    /// # Errors
    /// The source cannot be had, or does not build.
    pub(super) fn build(&self) -> Result<()> {
        let prefix = built(&folder(), self.name);
        if prefix.join("bin").join(self.program).is_file() {
            return Ok(());
        }
        fs::create_dir_all(folder()).with_context(|| format!("cannot make {}", folder().display()))?;
        let work = TempDir::with_prefix_in("source-", folder()).context("cannot make a folder")?;
        let (suite, package) = self.source;
        println!("building {} from Debian's {suite}", self.name);
        let archive = Release::open(suite)?.download_source(package, work.path())?;
        let source = work.path().join("source");
        fs::create_dir(&source).context("cannot make a folder")?;
        let mut tar = Command::new("tar");
        tar.args(["-x", "--strip-components=1", "-f"])
            .arg(archive)
            .arg("-C")
            .arg(&source);
        debian::quietly(&mut tar)?;
        let configure = format!("{} --prefix='{}'", self.configure, prefix.display());
        for step in [&configure, "make -j2", "make install"] {
            quietly_in(&source, step)?;
        }
        Ok(())
    }
}

/// Runs a step of the build, last in line for the CPUs.
fn quietly_in(source: &Path, step: &str) -> Result<()> {
    println!("{step}");
    let mut shell = Command::new("nice");
    shell.args(["-n", "19", "sh", "-c"]);
    shell.arg(format!(
        "{{ {step}; }} >build.log 2>&1 || {{ tail -n 20 build.log >&2; exit 1; }}"
    ));
    command::run(shell.current_dir(source))
}
