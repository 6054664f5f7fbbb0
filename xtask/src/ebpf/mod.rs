//! The object of the programs that run in the kernel: built here, committed, embedded by the daemon.
//!
//! A user of the profiler builds with cargo alone, because `profiler-ebpf/prebuilt/profiler.bpf.o` is in the repository.
//! Beside it lies `profiler.sources`, the list of everything that went into it: a change of the sources without a
//! rebuild is found by comparing that list, even where the object cannot be rebuilt.

mod build;
mod sources;
mod toolchain;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::workspace;

const OBJECT: &str = "profiler-ebpf/prebuilt/profiler.bpf.o";
const SOURCES: &str = "profiler-ebpf/prebuilt/profiler.sources";

/// What can be done with the object.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Build the object and record what it was built from.
    Build,
    /// Fail when the committed object does not belong to the sources.
    Check {
        /// Also hold the programs against the lints, build the object anew, and compare the bytes.
        #[arg(long)]
        rebuild: bool,
    },
}

/// Runs one verb.
pub(crate) fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Build => build(),
        Verb::Check { rebuild } => check(rebuild),
    }
}

fn build() -> Result<()> {
    let tools = toolchain::prepare()?;
    // Listed before the build: a source that is edited meanwhile makes the object stale instead of hiding the edit.
    let inputs = sources::collect()?;
    let object = build::object(&tools, &workspace::scratch().join("ebpf"))?;
    let path = workspace::root().join(OBJECT);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::write(&path, &object).with_context(|| format!("cannot write {}", path.display()))?;
    let record = sources::Record {
        object: sources::sha256(&object),
        inputs,
    };
    let sources_path = workspace::root().join(SOURCES);
    fs::write(&sources_path, record.to_string()).with_context(|| format!("cannot write {}", sources_path.display()))?;
    println!("{OBJECT}: {} bytes, sha256 {}", object.len(), record.object);
    Ok(())
}

/// Whether the tools to build the object are here or can be installed. Says why not.
pub(crate) fn can_rebuild() -> bool {
    match toolchain::prepare() {
        Ok(_) => true,
        Err(error) => {
            println!("the eBPF object is compared by its recorded sources only: {error:#}");
            false
        }
    }
}

/// Compares the committed object with the record beside it and the record with the sources.
///
/// # Errors
/// The object is missing, stale, or (with `rebuild`) not what the sources build.
pub(crate) fn check(rebuild: bool) -> Result<()> {
    let object = read(OBJECT)?;
    let record = String::from_utf8(read(SOURCES)?).with_context(|| format!("{SOURCES} is not text"))?;
    let record = sources::Record::parse(&record)?;
    if record.object != sources::sha256(&object) {
        bail!("{OBJECT} is not the object that {SOURCES} describes; run `cargo xtask ebpf build` and commit both");
    }
    let changes = record.changes(&sources::collect()?);
    if !changes.is_empty() {
        bail!(
            "{OBJECT} is older than its sources; run `cargo xtask ebpf build` and commit the result:\n  {}",
            changes.join("\n  ")
        );
    }
    if rebuild {
        let tools = toolchain::prepare()?;
        // A folder of its own, so that a path that leaks into the object shows as a difference.
        let folder = workspace::scratch().join("ebpf-rebuild");
        build::lint(&tools, &folder)?;
        let rebuilt = build::object(&tools, &folder)?;
        if rebuilt != object {
            let kept = folder.join("differs.bpf.o");
            fs::write(&kept, &rebuilt).with_context(|| format!("cannot write {}", kept.display()))?;
            bail!(
                "{OBJECT} is not what its sources build; the rebuilt object is {}",
                kept.display()
            );
        }
    }
    Ok(())
}

fn read(name: &str) -> Result<Vec<u8>> {
    let path: PathBuf = workspace::root().join(name);
    fs::read(&path).with_context(|| format!("cannot read {name}; `cargo xtask ebpf build` makes it"))
}
