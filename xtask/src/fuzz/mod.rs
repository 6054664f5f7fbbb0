//! The fuzz targets: built by the stable compiler with libFuzzer's instrumentation, run from their committed corpora.
//!
//! In: `fuzz/`. Out: how often each target ran and whether it crashed. What the runs find besides stays under
//! `target/fuzz/corpus`, where the next run takes it up; `--adopt` puts the best of it into the committed corpora.

mod build;
mod corpus;
mod session;
mod targets;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use build::Built;
use session::Length;
use targets::{TARGETS, Target};

/// Executions of each target in a brief run.
const BRIEF_RUNS: u64 = 20_000;
/// Seconds that each target gets by default.
const DEFAULT_SECONDS: u64 = 10;

/// Which targets to run, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only these targets.
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = DEFAULT_SECONDS)]
    seconds: u64,
    /// Executions of each target, however long they take.
    #[arg(long, conflicts_with = "seconds")]
    runs: Option<u64>,
    /// Run the targets on this input alone, as often as not: once.
    #[arg(long, value_name = "FILE", requires = "targets")]
    input: Option<PathBuf>,
    /// Leave out targets that passed with the sources as they are.
    #[arg(long, conflicts_with_all = ["targets", "input"])]
    changed: bool,
    /// Afterwards put the inputs that reach most code, made few, into the committed corpus.
    #[arg(long, conflicts_with = "input")]
    adopt: bool,
}

/// Builds the targets and runs them one after the other, also when one crashes.
///
/// # Errors
/// There is no such target, the build fails, or a target crashed.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut chosen = chosen(&arguments.targets)?;
    if arguments.changed {
        leave_out_passed(&mut chosen)?;
    }
    if chosen.is_empty() {
        return Ok(());
    }
    let built = build::run(&chosen)?;
    if let Some(input) = &arguments.input {
        return chosen
            .iter()
            .try_for_each(|target| session::once(&built, target, input));
    }
    let length = match arguments.runs {
        Some(runs) => Length::Runs(runs),
        None => Length::Time(Duration::from_secs(arguments.seconds)),
    };
    run_all(&built, &chosen, &length)?;
    if arguments.adopt {
        chosen.iter().try_for_each(|target| corpus::adopt(&built, target))?;
    }
    Ok(())
}

/// Runs every target for the same number of executions from the same seed and the committed corpora alone: what it says
/// depends on the sources only.
///
/// # Errors
/// The build fails, or a target crashed.
pub(crate) fn brief() -> Result<()> {
    let chosen = chosen(&[])?;
    let built = build::run(&chosen)?;
    run_all(&built, &chosen, &Length::SameRuns(BRIEF_RUNS))
}

/// What is missing to build the targets; `None` if nothing is.
pub(crate) fn missing() -> Option<String> {
    build::missing_compiler()
}

/// Leaves out the targets that passed with the sources as they are, and says which.
fn leave_out_passed(chosen: &mut Vec<&'static Target>) -> Result<()> {
    let mut changed = Vec::new();
    for target in chosen.drain(..) {
        if target.has_passed()? {
            println!("{}: not run, it passed with these sources before", target.name);
        } else {
            changed.push(target);
        }
    }
    *chosen = changed;
    Ok(())
}

/// The targets of these names, in their order; all if there is no name.
fn chosen(names: &[String]) -> Result<Vec<&'static Target>> {
    if names.is_empty() {
        return Ok(TARGETS.iter().collect());
    }
    let named = |name: &String| {
        TARGETS.iter().find(|target| target.name == name).with_context(|| {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            format!("there is no target {name}; there are {}", names.join(", "))
        })
    };
    names.iter().map(named).collect()
}

fn run_all(built: &Built, chosen: &[&Target], length: &Length) -> Result<()> {
    let mut crashed = Vec::new();
    for target in chosen {
        match session::fuzz(built, target, length)? {
            session::Outcome::Clean => target.note_passed()?,
            session::Outcome::Crashed => crashed.push(target.name),
        }
    }
    if !crashed.is_empty() {
        bail!("crashed: {}", crashed.join(", "));
    }
    Ok(())
}

/// The folder of the fuzz targets.
fn folder() -> PathBuf {
    crate::workspace::root().join("fuzz")
}

/// A path as one would type it in the checkout.
fn shown(path: &Path) -> String {
    let root = crate::workspace::root();
    path.strip_prefix(&root).unwrap_or(path).display().to_string()
}
