//! The rules of the repository that neither the compiler nor clippy holds.

mod documents;
mod manifests;
mod rust_text;
mod sources;
mod tree;

use std::fmt::{self, Display, Formatter};

use anyhow::{Result, bail};

use tree::Tree;

/// One place that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    /// Counted from 1; 0 for the file as a whole.
    line: usize,
    message: String,
    /// Whether it is worth saying only.
    warning: bool,
}

impl Finding {
    fn error(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            message: message.into(),
            warning: false,
        }
    }

    fn warning(path: &str, message: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line: 0,
            message: message.into(),
            warning: true,
        }
    }
}

impl Display for Finding {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let kind = if self.warning { "warning" } else { "error" };
        match self.line {
            0 => write!(f, "{kind}: {}: {}", self.path, self.message),
            line => write!(f, "{kind}: {}:{line}: {}", self.path, self.message),
        }
    }
}

/// Holds every rule against the files of the checkout.
///
/// # Errors
/// A rule is broken; each place was printed.
pub(crate) fn run() -> Result<()> {
    let tree = Tree::of_checkout()?;
    let findings = all_findings(&tree);
    for finding in &findings {
        eprintln!("{finding}");
    }
    match findings.iter().filter(|finding| !finding.warning).count() {
        0 => Ok(()),
        errors => bail!("{errors} places break the rules of the repository"),
    }
}

fn all_findings(tree: &Tree) -> Vec<Finding> {
    let mut findings = manifests::check(tree);
    findings.extend(sources::check(tree));
    findings.extend(documents::check(tree));
    findings
}
