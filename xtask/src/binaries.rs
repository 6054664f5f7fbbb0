//! The release binaries that demo, benchmarks and the kernel ring run.

use std::path::PathBuf;

use anyhow::Result;

use crate::{command, metadata, workspace};

/// Where the built binaries are.
#[derive(Debug)]
pub(crate) struct Binaries {
    pub(crate) daemon: PathBuf,
    pub(crate) cli: PathBuf,
    pub(crate) demo: PathBuf,
}

impl Binaries {
    /// Builds all of them with the release profile.
    pub(crate) fn build() -> Result<Self> {
        let packages = [
            "--package=profiler-daemon",
            "--package=profiler-cli",
            "--package=profiler-demo",
        ];
        command::run(
            workspace::cargo()
                .args(["build", "--release", "--locked", "--bins"])
                .args(packages),
        )?;
        Self::locate()
    }

    /// Where they are once they are built.
    pub(crate) fn locate() -> Result<Self> {
        let folder = metadata::target_directory(&metadata::of_workspace()?)?.join("release");
        Ok(Self {
            daemon: folder.join("profiler-daemon"),
            cli: folder.join("profiler-cli"),
            demo: folder.join("profiler-demo"),
        })
    }

    /// How tests find them.
    pub(crate) fn environment(&self) -> [(&'static str, &PathBuf); 3] {
        [
            ("PROFILER_DAEMON_BIN", &self.daemon),
            ("PROFILER_CLI_BIN", &self.cli),
            ("PROFILER_DEMO_BIN", &self.demo),
        ]
    }
}
