//! Where things are in the checkout.

use std::env;
use std::path::{Path, PathBuf};

/// The root of the workspace: the folder above this crate.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Where verbs keep what they build beside the ordinary artefacts. Always below the checkout, whatever
/// `CARGO_TARGET_DIR` says, so that tools are installed once.
pub(crate) fn scratch() -> PathBuf {
    root().join("target")
}

/// The cargo that runs this, or the one on the path.
pub(crate) fn cargo() -> std::process::Command {
    let mut command = std::process::Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}
