//! What did not run, and why, at the end of everything: what a test says of it goes by among thousands of lines, or is hidden
//! because the test passes.

use std::path::Path;

use anyhow::{Context as _, Result};
use profiler_tests::not_run;
use tempfile::NamedTempFile;

use crate::workspace;

/// The list of what did not run, which tests add to.
#[derive(Debug)]
pub(crate) struct NotRun(NamedTempFile);

impl NotRun {
    /// An empty list.
    ///
    /// # Errors
    /// There is no place for it.
    pub(crate) fn begin() -> Result<Self> {
        let folder = workspace::scratch();
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let file = NamedTempFile::with_prefix_in("not-run-", folder);
        Ok(Self(file.context("cannot make a list of what does not run")?))
    }

    /// How tests find it.
    pub(crate) fn environment(&self) -> (&'static str, &Path) {
        (not_run::LIST, self.0.path())
    }

    /// Says what cannot be had for the tests, and why.
    pub(crate) fn add(&self, what: &str, reason: &str) {
        println!("no {what}: {reason}");
        if let Err(error) = not_run::add(self.0.path(), what, reason) {
            eprintln!("warning: cannot write the list of what does not run: {error}");
        }
    }

    /// Prints it.
    pub(crate) fn print(&self) {
        match not_run::read(self.0.path()) {
            Ok(reasons) => print(&reasons),
            Err(error) => eprintln!("warning: cannot read the list of what did not run: {error}"),
        }
    }
}

fn print(reasons: &not_run::NotRun) {
    if reasons.is_empty() {
        return;
    }
    println!("\nnot run, all or in part:");
    for (reason, what) in reasons {
        println!("  {reason}");
        for what in what {
            println!("    {what}");
        }
    }
}
