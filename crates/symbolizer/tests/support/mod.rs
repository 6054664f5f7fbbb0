//! Programs to name, compiled for the test.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

/// A directory for compiled programs that goes away with the test.
#[derive(Debug)]
pub(crate) struct Workshop {
    directory: TempDir,
}

impl Workshop {
    pub(crate) fn new() -> Self {
        Self {
            directory: TempDir::new().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Compiles one of `tests/programs`; `None`, with a line that says so, where there is no such compiler.
    pub(crate) fn compile(&self, compiler: &str, source: &str, options: &[&str]) -> Option<PathBuf> {
        if !is_available(compiler) {
            return None;
        }
        let output = self.path(&format!("{source}{}", options.join("")).replace(['/', '=', ' '], "-"));
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
        let mut command = Command::new(compiler);
        command
            .args(options)
            .arg(source)
            .arg("-o")
            .arg(&output)
            .current_dir(sources);
        assert!(command.status().unwrap().success(), "{command:?} failed");
        Some(output)
    }
}

/// Whether a program can be run; says so if not.
pub(crate) fn is_available(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let available = found.is_ok_and(|status| status.success());
    if !available {
        println!("skipped: no {program} on this machine");
    }
    available
}
