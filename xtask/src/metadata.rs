//! What cargo knows about the workspace.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{command, workspace};

/// The output of `cargo metadata` with every dependency.
///
/// # Errors
/// Cargo fails, or Cargo.lock does not fit the manifests.
pub(crate) fn of_workspace() -> Result<Value> {
    let text = command::output(workspace::cargo().args(["metadata", "--format-version=1", "--locked"]))?;
    serde_json::from_str(&text).context("cargo metadata printed no JSON")
}

/// Where cargo puts what it builds.
pub(crate) fn target_directory(metadata: &Value) -> Result<PathBuf> {
    let path = metadata["target_directory"]
        .as_str()
        .context("cargo metadata names no target directory")?;
    Ok(PathBuf::from(path))
}

/// Whether `package` has a target `name` of the kind `kind`, which `cargo test` runs by default or not.
pub(crate) fn has_target(metadata: &Value, package: &str, kind: &str, name: &str, by_default: bool) -> bool {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages
        .filter(|candidate| candidate["name"] == package && candidate["source"].is_null())
        .flat_map(|candidate| candidate["targets"].as_array().into_iter().flatten())
        .any(|target| {
            let mut kinds = target["kind"].as_array().into_iter().flatten();
            target["name"] == name && target["test"] == by_default && kinds.any(|known| known == kind)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_found_by_package_kind_and_name() {
        let metadata = serde_json::json!({
            "target_directory": "/a",
            "packages": [
                {"name": "p", "source": null, "targets": [{"name": "t", "kind": ["test"], "test": false}]},
                {"name": "p", "source": "registry", "targets": [{"name": "u", "kind": ["test"], "test": false}]},
            ],
        });
        assert!(has_target(&metadata, "p", "test", "t", false));
        assert!(!has_target(&metadata, "p", "test", "t", true));
        assert!(!has_target(&metadata, "p", "bin", "t", false));
        assert!(!has_target(&metadata, "p", "test", "u", false));
        assert_eq!(target_directory(&metadata).unwrap(), PathBuf::from("/a"));
        assert!(target_directory(&serde_json::json!({})).is_err());
    }
}
