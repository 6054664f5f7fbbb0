//! Programs to name: compiled for the test, and read as the daemon reads them.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use profiler_symbolizer::ReadAt;
use tempfile::TempDir;

/// A file, read with `pread`.
#[derive(Debug)]
pub(crate) struct FileSource {
    file: File,
    length: u64,
}

impl FileSource {
    pub(crate) fn open(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let length = file.metadata().unwrap().len();
        Self { file, length }
    }
}

impl ReadAt for FileSource {
    fn len(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        FileExt::read_at(&self.file, buffer, offset)
    }
}

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

/// The output of a command that must succeed.
pub(crate) fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
