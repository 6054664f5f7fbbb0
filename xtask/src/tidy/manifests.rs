//! Every member inherits the workspace's lints and takes its dependencies' versions from the workspace.

use super::Finding;
use super::tree::Tree;

const DEPENDENCY_TABLES: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let members = tree.members();
    if members.is_empty() {
        findings.push(Finding::error("Cargo.toml", 0, "names no workspace members"));
    }
    for member in members {
        let path = format!("{member}/Cargo.toml");
        match tree.text(&path).map(str::parse::<toml::Table>) {
            Some(Ok(manifest)) => check_member(&path, &manifest, &mut findings),
            Some(Err(error)) => findings.push(Finding::error(&path, 0, error.message())),
            None => findings.push(Finding::error(
                "Cargo.toml",
                0,
                format!("names {member}, which has no manifest"),
            )),
        }
    }
    findings
}

fn check_member(path: &str, manifest: &toml::Table, findings: &mut Vec<Finding>) {
    if !manifest.get("lints").is_some_and(from_workspace) {
        findings.push(Finding::error(
            path,
            0,
            "does not inherit the lints: add `[lints]` with `workspace = true`",
        ));
    }
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let tables = targets
        .into_iter()
        .flat_map(toml::Table::values)
        .filter_map(toml::Value::as_table);
    for table in tables.chain([manifest]) {
        for kind in DEPENDENCY_TABLES {
            let dependencies = table.get(kind).and_then(toml::Value::as_table);
            for (name, value) in dependencies.into_iter().flatten() {
                if !from_workspace(value) {
                    let message = format!("`{name}` has its own version: write `{name}.workspace = true`");
                    findings.push(Finding::error(path, 0, message));
                }
            }
        }
    }
}

fn from_workspace(value: &toml::Value) -> bool {
    value.get("workspace").and_then(toml::Value::as_bool) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(manifest: &str) -> Vec<String> {
        let mut tree = Tree::default();
        tree.add("Cargo.toml", "[workspace]\nmembers = [\"a\"]");
        tree.add("a/Cargo.toml", manifest);
        check(&tree).into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn lints_and_versions_come_from_the_workspace() {
        let good =
            "[lints]\nworkspace = true\n[dependencies]\nx.workspace = true\ny = { workspace = true, optional = true }";
        assert_eq!(messages(good), [""; 0]);
        let bad = "[dependencies]\nx = \"1\"\n[target.'cfg(unix)'.dev-dependencies]\ny = { path = \"../y\" }";
        assert_eq!(
            messages(bad),
            [
                "error: a/Cargo.toml: does not inherit the lints: add `[lints]` with `workspace = true`",
                "error: a/Cargo.toml: `y` has its own version: write `y.workspace = true`",
                "error: a/Cargo.toml: `x` has its own version: write `x.workspace = true`",
            ]
        );
    }

    #[test]
    fn a_member_without_manifest_is_found() {
        let mut tree = Tree::default();
        assert_eq!(check(&tree).len(), 1);
        tree.add("Cargo.toml", "[workspace]\nmembers = [\"a\"]");
        assert_eq!(check(&tree)[0].message, "names a, which has no manifest");
    }
}
