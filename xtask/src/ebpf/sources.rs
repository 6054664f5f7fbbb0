//! What the object was built from: one line for each file, locked package, flag and tool.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter, Write as _};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::{build, toolchain};
use crate::{command, workspace};

/// Folders and files whose content goes into the object.
const FILES: [&str; 4] = [
    "profiler-ebpf/Cargo.toml",
    "profiler-ebpf/src",
    "crates/common/Cargo.toml",
    "crates/common/src",
];
const HEADER: &str =
    "# What profiler.bpf.o was built from. Written by `cargo xtask ebpf build`, held by `cargo xtask ebpf check`.";

/// The content of `profiler.sources`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Hash of the object.
    pub(super) object: String,
    /// One line for each input.
    pub(super) inputs: BTreeSet<String>,
}

impl Record {
    /// Reads back what [`Display`] wrote.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut object = None;
        let mut inputs = BTreeSet::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            match line.strip_prefix("object ") {
                Some(hash) => object = Some(hash.to_owned()),
                None => {
                    inputs.insert(line.to_owned());
                }
            }
        }
        let Some(object) = object else {
            bail!("no line says which object the sources belong to")
        };
        Ok(Self { object, inputs })
    }

    /// How `now` differs from the record, a line for each input.
    pub(super) fn changes(&self, now: &BTreeSet<String>) -> Vec<String> {
        let gone = self.inputs.difference(now).map(|line| format!("was {line}"));
        let come = now.difference(&self.inputs).map(|line| format!("now {line}"));
        gone.chain(come).collect()
    }
}

impl Display for Record {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}\nobject {}", self.object)?;
        self.inputs.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// Lists the inputs as they are now.
pub(super) fn collect() -> Result<BTreeSet<String>> {
    let mut inputs = BTreeSet::new();
    inputs.insert(format!("tool rustc {}", toolchain::RUSTC));
    inputs.insert(format!("tool bpf-linker {}", toolchain::BPF_LINKER));
    inputs.extend(build::RUSTFLAGS.iter().map(|flag| format!("flag {flag}")));
    inputs.extend(build::PROFILE.iter().map(|setting| format!("flag {setting}")));
    let manifest = read_toml("Cargo.toml")?;
    let edition = manifest
        .get("workspace")
        .and_then(|table| table.get("package")?.get("edition")?.as_str());
    inputs.insert(format!(
        "flag edition={}",
        edition.context("Cargo.toml names no workspace.package.edition")?
    ));
    for name in FILES {
        collect_files(&workspace::root(), name, &mut inputs)?;
    }
    collect_packages(&mut inputs)?;
    Ok(inputs)
}

/// Adds `name` below `root`: the file itself, or every file of the folder.
fn collect_files(root: &Path, name: &str, inputs: &mut BTreeSet<String>) -> Result<()> {
    let path = root.join(name);
    if path.is_dir() {
        for entry in fs::read_dir(&path).with_context(|| format!("cannot list {name}"))? {
            let child = entry.with_context(|| format!("cannot list {name}"))?.file_name();
            collect_files(root, &format!("{name}/{}", child.to_string_lossy()), inputs)?;
        }
        return Ok(());
    }
    let content = fs::read(&path).with_context(|| format!("cannot read {name}"))?;
    inputs.insert(format!("file {name} {}", sha256(&content)));
    Ok(())
}

/// Adds every package that is compiled into the object, with its version, features and the locked checksum.
fn collect_packages(inputs: &mut BTreeSet<String>) -> Result<()> {
    let lock = read_toml("Cargo.lock")?;
    let tree = command::output(workspace::cargo().args([
        "tree",
        "--quiet",
        "--package=profiler-ebpf",
        "--target=bpfel-unknown-none",
        "--edges=normal,build",
        "--prefix=none",
        "--no-dedupe",
        "--format={p}|{f}",
    ]))?;
    for line in tree.lines() {
        let (package, features) = line
            .split_once('|')
            .with_context(|| format!("cargo tree printed {line:?}"))?;
        // "name v1.2.3", "name v1.2.3 (proc-macro)" or "name v1.2.3 (/path)".
        let mut words = package.split(' ');
        let (Some(name), Some(version)) = (words.next(), words.next()) else {
            bail!("cargo tree printed {line:?}");
        };
        let version = version.trim_start_matches('v');
        let checksum = checksum(&lock, name, version).unwrap_or("workspace");
        inputs.insert(format!("package {name} {version} [{features}] {checksum}"));
    }
    Ok(())
}

fn read_toml(name: &str) -> Result<toml::Table> {
    let text = fs::read_to_string(workspace::root().join(name)).with_context(|| format!("cannot read {name}"))?;
    text.parse().with_context(|| format!("cannot read {name}"))
}

/// The checksum that Cargo.lock holds for a package; packages of the workspace have none.
fn checksum<'a>(lock: &'a toml::Table, name: &str, version: &str) -> Option<&'a str> {
    let packages = lock.get("package")?.as_array()?;
    let is =
        |package: &toml::Value, key: &str, value: &str| package.get(key).and_then(toml::Value::as_str) == Some(value);
    let package = packages
        .iter()
        .find(|package| is(package, "name", name) && is(package, "version", version))?;
    package.get("checksum")?.as_str()
}

/// The hash of `content` in hexadecimal digits.
pub(super) fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(lines: &[&str]) -> Record {
        Record {
            object: "ab".to_owned(),
            inputs: lines.iter().map(|line| (*line).to_owned()).collect(),
        }
    }

    #[test]
    fn record_is_read_back_as_written() {
        let written = record(&["file a 1", "tool rustc 1"]);
        assert_eq!(Record::parse(&written.to_string()).unwrap(), written);
        assert!(Record::parse("file a 1\n").is_err());
    }

    #[test]
    fn every_kind_of_change_is_named() {
        let then = record(&["file a 1", "file b 1", "flag x"]);
        let now = record(&["file a 2", "file c 1", "flag x"]);
        assert_eq!(
            then.changes(&now.inputs),
            ["was file a 1", "was file b 1", "now file a 2", "now file c 1"]
        );
        assert_eq!(then.changes(&then.inputs), [""; 0]);
    }

    #[test]
    fn files_are_listed_with_their_folders() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("src/deep")).unwrap();
        fs::write(root.path().join("src/deep/a.rs"), "").unwrap();
        let mut inputs = BTreeSet::new();
        collect_files(root.path(), "src", &mut inputs).unwrap();
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(
            inputs.into_iter().collect::<Vec<_>>(),
            [format!("file src/deep/a.rs {empty}")]
        );
        assert!(collect_files(root.path(), "absent", &mut BTreeSet::new()).is_err());
    }
}
