//! What the profiler costs and how true it is, next to what it promises.

mod accuracy;
mod agent;
mod churn;
mod cost;
mod cost_python;
mod evidence;
mod memory;
mod python;
mod python_truth;
mod readings;
mod report;
mod service;
mod soak;
mod spread;
mod start;
mod torch;
mod truth;

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::children::Interrupt;
use crate::demo;

/// Which benchmark.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Name {
    /// Time in the kernel, CPU and memory of the agent with 50 busy processes.
    Cost,
    /// Shares of a program whose profile is known.
    Truth,
    /// Self time of functions next to perf's.
    Accuracy,
    /// Shares of Python functions next to py-spy's.
    Python,
    /// Time to the first flame graph, and to one of a process that is already watched.
    Start,
    /// What is seen of processes that are over at once.
    Churn,
    /// Stacks of a process with PyTorch; only when it is asked for, because the package is large.
    Torch,
    /// Readings next to those of vmstat, free and pidstat, and what the samplers cost; only when it is asked for.
    Readings,
    /// Whom the evidence of an alert accuses, over twenty splits of one recording; only when it is asked for.
    Evidence,
    /// What page faults cost, and how true the growth of memory is; only when it is asked for.
    Memory,
    /// Memory, descriptors and lost samples over an hour of churn; only when it is asked for.
    Soak,
}

impl Name {
    const fn text(self) -> &'static str {
        match self {
            Self::Cost => "cost",
            Self::Truth => "truth",
            Self::Accuracy => "accuracy",
            Self::Python => "python",
            Self::Start => "start",
            Self::Churn => "churn",
            Self::Torch => "torch",
            Self::Readings => "readings",
            Self::Evidence => "evidence",
            Self::Memory => "memory",
            Self::Soak => "soak",
        }
    }
}

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only this one.
    name: Option<Name>,
    /// Of `truth` and `cost`: programs in Python instead of those in Rust, and of `cost` also what a web service loses; it takes
    /// minutes.
    #[arg(long)]
    python: bool,
    /// How long to soak.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// Folder of binaries that are already built.
    #[arg(long, hide = true)]
    built: Option<PathBuf>,
}

/// Runs the benchmarks one after the other, as root.
///
/// # Errors
/// A benchmark cannot be run. A figure above its budget is printed as such and is no error.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if matches!(arguments.name, Some(Name::Readings)) {
        return readings::run(&Interrupt::install()?);
    }
    let mut verb = arguments
        .name
        .map_or("bench".to_owned(), |name| format!("bench {}", name.text()));
    if arguments.python {
        if !matches!(arguments.name, Some(Name::Truth | Name::Cost)) {
            bail!("--python belongs to `bench truth` and `bench cost`");
        }
        verb.push_str(" --python");
    }
    let Some(binaries) = demo::as_root(&verb, arguments.built.as_deref())? else {
        return Ok(());
    };
    let interrupt = Interrupt::install()?;
    if matches!(arguments.name, Some(Name::Soak)) {
        return soak::run(&binaries, arguments.minutes, &interrupt);
    }
    if matches!(arguments.name, Some(Name::Evidence)) {
        return evidence::run(&binaries, &interrupt);
    }
    if matches!(arguments.name, Some(Name::Memory)) {
        return memory::run(&binaries, &interrupt);
    }
    if matches!(arguments.name, Some(Name::Torch)) {
        return torch::run(&binaries, &interrupt);
    }
    if arguments.python {
        if matches!(arguments.name, Some(Name::Cost)) {
            cost_python::run(&binaries, &interrupt)?;
            return service::run(&binaries, &interrupt);
        }
        return python_truth::run(&binaries, &interrupt);
    }
    let wanted = |name: &str| arguments.name.is_none_or(|only| only.text() == name);
    if wanted("truth") {
        truth::run(&binaries, &interrupt)?;
    }
    if wanted("accuracy") {
        accuracy::run(&binaries, &interrupt)?;
    }
    if wanted("python") {
        python::run(&binaries, &interrupt)?;
    }
    if wanted("start") {
        start::run(&binaries, &interrupt)?;
    }
    if wanted("churn") {
        churn::run(&binaries, &interrupt)?;
    }
    if wanted("cost") {
        cost::run(&binaries, &interrupt)?;
    }
    Ok(())
}
