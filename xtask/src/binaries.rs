//! The release binaries that demo, benchmarks and the kernel ring run.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::{command, metadata, workspace};

/// Where the built binaries are.
#[derive(Debug)]
pub(crate) struct Binaries {
    pub(crate) folder: PathBuf,
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
        Ok(Self::in_folder(
            &metadata::target_directory(&metadata::of_workspace()?)?.join("release"),
        ))
    }

    /// The binaries of an earlier build.
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self {
            folder: folder.to_path_buf(),
            daemon: folder.join("profiler-daemon"),
            cli: folder.join("profiler-cli"),
            demo: folder.join("profiler-demo"),
        }
    }

    /// How tests find them.
    pub(crate) fn environment(&self) -> [(&'static str, &Path); 3] {
        [
            ("PROFILER_DAEMON_BIN", &self.daemon),
            ("PROFILER_CLI_BIN", &self.cli),
            ("PROFILER_DEMO_BIN", &self.demo),
        ]
    }
}
