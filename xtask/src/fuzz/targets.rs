//! What targets there are, how long their inputs may be, and which sources they guard.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::workspace;

/// One fuzz target.
#[derive(Debug)]
pub(super) struct Target {
    /// Its name in `fuzz/Cargo.toml`.
    pub(super) name: &'static str,
    /// Longest input in bytes.
    pub(super) longest: usize,
    /// Files and folders beside `fuzz/` whose change makes another run worthwhile.
    guards: &'static [&'static str],
}

const fn target(name: &'static str, longest: usize, guards: &'static [&'static str]) -> Target {
    Target { name, longest, guards }
}

/// All of them, in the order in which a sample passes what they guard.
pub(super) const TARGETS: [Target; 20] = [
    target("walk", 1 << 10, &["crates/common"]),
    target("eh_frame", 4 << 10, &["crates/common", "crates/unwinding"]),
    target("elf_rows", 16 << 10, &["crates/common", "crates/unwinding"]),
    target("stored_rows", 1 << 10, &["crates/common", "crates/unwinding"]),
    target(
        "sample_record",
        1 << 10,
        &["crates/common", "profiler-daemon/src/kernel"],
    ),
    target(
        "fault_record",
        1 << 10,
        &["crates/common", "profiler-daemon/src/kernel"],
    ),
    target("lifecycle_record", 512, &["profiler-daemon/src/kernel"]),
    target("proc_parsers", 2 << 10, &["profiler-daemon/src/processes"]),
    target("readings", 4 << 10, &["crates/readings"]),
    target("discovery", 16 << 10, &["profiler-daemon/src/processes"]),
    target("python_object", 8 << 10, &["crates/common", "crates/unwinding"]),
    target("python_code", 2 << 10, &["crates/common", "crates/unwinding"]),
    target("census", 16 << 10, &["crates/census", "crates/unwinding"]),
    target("symbols", 32 << 10, &["crates/symbolizer"]),
    target("kallsyms", 4 << 10, &["crates/symbolizer"]),
    target("perf_map", 2 << 10, &["crates/symbolizer"]),
    target("demangle", 2 << 10, &["crates/symbolizer"]),
    target(
        "render",
        2 << 10,
        &["crates/profile", "profiler-cli/src/convert", "profiler-daemon/src/api"],
    ),
    target(
        "rpc",
        2 << 10,
        &[
            "crates/store",
            "crates/profile",
            "proto",
            "profiler-cli/src/convert",
            "profiler-daemon/src/api",
        ],
    ),
    target("config", 2 << 10, &["crates/config"]),
];

/// What every target is made of.
const SHARED: [&str; 4] = ["fuzz/src", "fuzz/fuzz_targets", "fuzz/Cargo.toml", "fuzz/Cargo.lock"];

impl Target {
    /// The corpus in the repository.
    pub(super) fn seeds(&self) -> PathBuf {
        super::folder().join("corpus").join(self.name)
    }

    /// What runs on this machine found.
    pub(super) fn found(&self) -> PathBuf {
        scratch().join("corpus").join(self.name)
    }

    /// Where inputs go that crash the target.
    pub(super) fn artifacts(&self) -> PathBuf {
        super::folder().join("artifacts").join(self.name)
    }

    /// Words that its inputs are made of, if somebody wrote them down.
    pub(super) fn dictionary(&self) -> Option<PathBuf> {
        let path = super::folder().join("dictionaries").join(format!("{}.dict", self.name));
        path.is_file().then_some(path)
    }

    /// Where the output of the last run is.
    pub(super) fn log(&self) -> PathBuf {
        scratch().join("logs").join(self.name)
    }

    /// Whether the last run with the sources as they are found nothing.
    pub(super) fn has_passed(&self) -> Result<bool> {
        let digest = self.digest()?;
        Ok(fs::read_to_string(self.passed()).is_ok_and(|passed| passed == digest))
    }

    /// Notes that a run with the sources as they are found nothing.
    pub(super) fn note_passed(&self) -> Result<()> {
        let path = self.passed();
        create_parent(&path)?;
        fs::write(&path, self.digest()?).with_context(|| format!("cannot write {}", path.display()))
    }

    fn passed(&self) -> PathBuf {
        scratch().join("passed").join(self.name)
    }

    /// A hash over everything that a run depends on.
    fn digest(&self) -> Result<String> {
        let mut digest = Sha256::new();
        for name in SHARED.iter().chain(self.guards) {
            add(&workspace::root().join(name), &mut digest)?;
        }
        if self.seeds().is_dir() {
            add(&self.seeds(), &mut digest)?;
        }
        Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// Where everything goes that is not committed.
pub(super) fn scratch() -> PathBuf {
    workspace::scratch().join("fuzz")
}

/// Makes the folder that a file will lie in.
pub(super) fn create_parent(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// Adds a file, or every file of a folder, with its name.
fn add(path: &Path, digest: &mut Sha256) -> Result<()> {
    if path.is_dir() {
        let entries = fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?;
        let mut paths = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<Vec<_>, _>>()?;
        paths.sort();
        return paths.iter().try_for_each(|path| add(path, digest));
    }
    let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    digest.update(path.to_string_lossy().as_bytes());
    digest.update((content.len() as u64).to_le_bytes());
    digest.update(content);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_of_the_manifest_is_known_and_guards_something() {
        let text = fs::read_to_string(super::super::folder().join("Cargo.toml")).unwrap();
        let manifest: toml::Table = text.parse().unwrap();
        let mut named: Vec<_> = manifest["bin"]
            .as_array()
            .unwrap()
            .iter()
            .map(|target| target["name"].as_str().unwrap())
            .collect();
        let mut known: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        named.sort_unstable();
        known.sort_unstable();
        assert_eq!(named, known);
        for target in &TARGETS {
            assert!(target.seeds().is_dir(), "{} has no corpus", target.name);
            target.digest().unwrap();
        }
    }

    #[test]
    fn a_change_shows_in_the_digest() {
        let folder = tempfile::tempdir().unwrap();
        let of_folder = || {
            let mut digest = Sha256::new();
            add(folder.path(), &mut digest).unwrap();
            digest.finalize()
        };
        fs::create_dir(folder.path().join("deep")).unwrap();
        fs::write(folder.path().join("deep/a.rs"), "a").unwrap();
        let before = of_folder();
        assert_eq!(before, of_folder());
        fs::write(folder.path().join("deep/a.rs"), "b").unwrap();
        assert_ne!(before, of_folder());
    }
}
