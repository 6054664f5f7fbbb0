//! The committed corpora: seeds that somebody chose, and the fewest inputs that reach what else was found, within bounds.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::build::Built;
use super::session::{bounded, logged};
use super::shown;
use super::targets::{Target, scratch};

/// Bytes of what was found for one target, as committed. All corpora together stay below 2 MB.
const MAX_BYTES: u64 = 80_000;
/// Files of it.
const MAX_FILES: usize = 300;
/// The fuzzer names an input by its SHA-1.
const NAME_DIGITS: usize = 40;

/// An input and its bytes.
type Input = (PathBuf, Vec<u8>);

/// Replaces what was found in the committed corpus by the fewest inputs that reach as much beside the chosen seeds.
pub(super) fn adopt(built: &Built, target: &Target) -> Result<()> {
    let merged = scratch().join("merged").join(target.name);
    if merged.exists() {
        fs::remove_dir_all(&merged).with_context(|| format!("cannot empty {}", merged.display()))?;
    }
    for folder in [&merged, &target.seeds(), &target.found()] {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    // What the first folder holds already is not looked for again.
    for (path, content) in inputs(&target.seeds())?.iter().filter(|(path, _)| !is_found(path)) {
        write(&merged, path, content)?;
    }
    let mut command = bounded(built, target);
    command
        .arg("-merge=1")
        .arg(&merged)
        .arg(target.seeds())
        .arg(target.found());
    let (succeeded, _) = logged(&mut command, &target.log())?;
    if !succeeded {
        bail!(
            "{}: the corpora cannot be merged, see {}",
            target.name,
            shown(&target.log())
        );
    }
    replace(target, inputs(&merged)?)
}

fn replace(target: &Target, mut merged: Vec<Input>) -> Result<()> {
    let seeds = target.seeds();
    for (path, _) in inputs(&seeds)?.iter().filter(|(path, _)| is_found(path)) {
        fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    merged.retain(|(path, _)| is_found(path));
    // Small inputs first: most of them fit.
    merged.sort_by(|a, b| (a.1.len(), &a.0).cmp(&(b.1.len(), &b.0)));
    let (mut bytes, mut files) = (0, 0);
    for (path, content) in &merged {
        bytes += content.len() as u64;
        if bytes > MAX_BYTES || files == MAX_FILES {
            break;
        }
        write(&seeds, path, content)?;
        files += 1;
    }
    println!(
        "{}: {files} of {} inputs found go to {}",
        target.name,
        merged.len(),
        shown(&seeds)
    );
    Ok(())
}

fn inputs(folder: &Path) -> Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry
            .with_context(|| format!("cannot list {}", folder.display()))?
            .path();
        let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        inputs.push((path, content));
    }
    Ok(inputs)
}

fn write(folder: &Path, path: &Path, content: &[u8]) -> Result<()> {
    let to = folder.join(path.file_name().unwrap_or_default());
    fs::write(&to, content).with_context(|| format!("cannot write {}", to.display()))
}

/// Whether the fuzzer named the input; somebody who chose one gave it a name of its own.
fn is_found(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.len() == NAME_DIGITS && name.iter().all(u8::is_ascii_hexdigit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_seeds_are_told_from_found_inputs() {
        assert!(is_found(Path::new("/a/0123456789abcdef0123456789abcdef01234567")));
        assert!(!is_found(Path::new("/a/deep-c.so")));
        assert!(!is_found(Path::new("/a/0123456789abcdef")));
    }
}
