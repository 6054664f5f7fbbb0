//! What a machine says: the kernel and systemd to a log, the tests to a second one, which is shown as it grows.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::children::{Interrupt, Running};

/// How often we look for more.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How the last line of a run begins.
const RESULT: &str = "result: ";

/// The serial ports of a machine, as files.
#[derive(Debug)]
pub(super) struct Console {
    /// Of the kernel and systemd.
    pub(super) log: PathBuf,
    /// Of the tests.
    pub(super) results: PathBuf,
    file: File,
    said: Vec<u8>,
}

impl Console {
    /// Empty files.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let (log, results) = (folder.join("console.log"), folder.join("results.log"));
        fs::write(&results, "").with_context(|| format!("cannot write {}", results.display()))?;
        let file = File::open(&results)?;
        let said = Vec::new();
        Ok(Self {
            log,
            results,
            file,
            said,
        })
    }

    /// Shows what the tests say until the machine is off.
    ///
    /// # Errors
    /// It is not off in time, or its last line is not that all is well.
    pub(super) fn follow(&mut self, mut machine: Running, interrupt: &Interrupt, end: Instant) -> Result<()> {
        interrupt.wait_for(|| {
            self.show()?;
            let ended = machine.ended()?;
            if ended.is_none() {
                if Instant::now() >= end {
                    bail!("the machine is still on; its console: {}", self.log.display());
                }
                thread::sleep(LOOK_EVERY);
            }
            Ok(ended)
        })?;
        self.show()?;
        match result(&String::from_utf8_lossy(&self.said)) {
            Some("0") => Ok(()),
            Some(_) => bail!("something failed in the machine: see {}", self.results.display()),
            None => bail!(
                "the machine ended without a result; its console: {}",
                self.log.display()
            ),
        }
    }

    fn show(&mut self) -> Result<()> {
        let before = self.said.len();
        self.file.read_to_end(&mut self.said)?;
        io::stdout().write_all(&self.said[before..])?;
        Ok(io::stdout().flush()?)
    }
}

/// What a run says of itself at its end.
fn result(said: &str) -> Option<&str> {
    said.lines().rev().find_map(|line| line.strip_prefix(RESULT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_its_last_line_has_no_result() {
        assert_eq!(result("kernel 6.1\r\nok: a\r\nresult: 0\r\n"), Some("0"));
        assert_eq!(result("FAILED: a\nresult: 1\nFailed to connect\n"), Some("1"));
        assert_eq!(result("ok: a\nthe result: 0\n"), None);
    }
}
