//! The files of the checkout as the rules see them.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, workspace};

/// Text files by their path from the root. Files that are not text have no entry in `texts` but count as existing.
#[derive(Debug, Default)]
pub(super) struct Tree {
    texts: BTreeMap<String, String>,
    others: Vec<String>,
}

impl Tree {
    /// Reads what git tracks, and what it would track.
    pub(super) fn of_checkout() -> Result<Self> {
        let root = workspace::root();
        let mut list = Command::new("git");
        list.current_dir(&root)
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let names = command::output(&mut list).context("the rules hold for the files that git knows")?;
        let mut tree = Self::default();
        for name in names.split('\0').filter(|name| !name.is_empty()) {
            let path = root.join(name);
            // A file that is deleted but not committed is still listed.
            if !path.is_file() {
                continue;
            }
            let content = fs::read(&path).with_context(|| format!("cannot read {name}"))?;
            match String::from_utf8(content) {
                Ok(text) => tree.add(name, &text),
                Err(_) => tree.others.push(name.to_owned()),
            }
        }
        Ok(tree)
    }

    /// Adds a text file.
    pub(super) fn add(&mut self, path: &str, text: &str) {
        self.texts.insert(path.to_owned(), text.to_owned());
    }

    /// The text of one file.
    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.texts.get(path).map(String::as_str)
    }

    /// All text files that are written by hand.
    pub(super) fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()))
            .filter(|(path, _)| !is_generated(path))
    }

    /// The Rust sources that are written by hand.
    pub(super) fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts().filter(|(path, _)| path.ends_with(".rs"))
    }

    /// Whether `path` is a file, or a folder with files in it.
    pub(super) fn exists(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let below = |name: &String| name.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
        self.texts.contains_key(path)
            || self.others.iter().any(|name| name == path)
            || self.texts.keys().chain(&self.others).any(below)
    }

    /// The folders of the workspace's members.
    pub(super) fn members(&self) -> Vec<String> {
        let manifest = self
            .text("Cargo.toml")
            .and_then(|text| text.parse::<toml::Table>().ok());
        let members = manifest
            .as_ref()
            .and_then(|table| table.get("workspace")?.get("members")?.as_array());
        members
            .into_iter()
            .flatten()
            .filter_map(|member| Some(member.as_str()?.to_owned()))
            .collect()
    }

    /// The files and folders directly below `folder`, without what lies deeper.
    pub(super) fn children(&self, folder: &str) -> Vec<String> {
        let names = self.texts.keys().chain(&self.others);
        let mut children: Vec<_> = names
            .filter_map(|name| name.strip_prefix(folder)?.strip_prefix('/')?.split('/').next())
            .map(str::to_owned)
            .collect();
        children.sort_unstable();
        children.dedup();
        children
    }
}

fn is_generated(path: &str) -> bool {
    path.contains("/generated/")
        || path.contains("/prebuilt/")
        || path.starts_with("fuzz/corpus/")
        || path.ends_with("Cargo.lock")
        || path.starts_with("LICENSE")
        || path.contains("/LICENSE")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_exist_through_their_files() {
        let mut tree = Tree::default();
        tree.add("Cargo.toml", "[workspace]\nmembers = [\"a\", \"b/c\"]");
        tree.add("a/src/lib.rs", "");
        tree.add("a/src/deep/x.rs", "");
        assert!(tree.exists("a/src/") && tree.exists("a/src/lib.rs") && !tree.exists("a/sr"));
        assert_eq!(tree.members(), ["a", "b/c"]);
        assert_eq!(tree.children("a/src"), ["deep", "lib.rs"]);
    }

    #[test]
    fn generated_files_are_not_held_to_the_rules() {
        let mut tree = Tree::default();
        tree.add("proto/src/generated/a.rs", "");
        tree.add("proto/src/lib.rs", "");
        assert_eq!(
            tree.rust().map(|(path, _)| path).collect::<Vec<_>>(),
            ["proto/src/lib.rs"]
        );
    }
}
