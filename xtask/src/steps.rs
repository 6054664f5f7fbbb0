//! A row of steps that all run, so that one call names everything that is wrong.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The steps that ran, in order, and what became of each.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    name: String,
    took: Duration,
    outcome: Outcome,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Ok,
    Failed,
    Skipped(String),
}

impl Steps {
    /// Runs one step. A failure is printed, and kept for [`Steps::finish`].
    pub(crate) fn run(&mut self, name: &str, step: impl FnOnce() -> Result<()>) {
        println!("==> {name}");
        let start = Instant::now();
        let outcome = match step() {
            Ok(()) => Outcome::Ok,
            Err(error) => {
                eprintln!("{name}: {error:#}");
                Outcome::Failed
            }
        };
        self.done.push(Step {
            name: name.to_owned(),
            took: start.elapsed(),
            outcome,
        });
    }

    /// Notes a step that cannot run here, and why.
    pub(crate) fn skip(&mut self, name: &str, reason: &str) {
        let outcome = Outcome::Skipped(reason.to_owned());
        self.done.push(Step {
            name: name.to_owned(),
            took: Duration::ZERO,
            outcome,
        });
    }

    /// Prints a line for each step.
    ///
    /// # Errors
    /// A step failed.
    pub(crate) fn finish(self) -> Result<()> {
        println!();
        for step in &self.done {
            println!("{}", step.line());
        }
        let failed: Vec<_> = self
            .done
            .iter()
            .filter(|step| step.outcome == Outcome::Failed)
            .map(|step| step.name.as_str())
            .collect();
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        Ok(())
    }
}

impl Step {
    fn line(&self) -> String {
        let seconds = self.took.as_secs_f64();
        match &self.outcome {
            Outcome::Ok => format!("ok      {seconds:>7.1} s  {}", self.name),
            Outcome::Failed => format!("FAILED  {seconds:>7.1} s  {}", self.name),
            Outcome::Skipped(reason) => format!("not run            {}: {reason}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_steps_run_and_the_failed_ones_are_named() {
        let mut steps = Steps::default();
        let mut ran = Vec::new();
        steps.run("one", || bail!("broken"));
        steps.run("two", || {
            ran.push("two");
            Ok(())
        });
        steps.run("three", || bail!("broken too"));
        assert_eq!(ran, ["two"]);
        assert_eq!(steps.finish().unwrap_err().to_string(), "failed: one, three");
    }

    #[test]
    fn success_is_no_error() {
        let mut steps = Steps::default();
        steps.run("one", || Ok(()));
        steps.skip("two", "needs a kernel");
        assert_eq!(steps.done[1].line(), "not run            two: needs a kernel");
        steps.finish().unwrap();
    }
}
