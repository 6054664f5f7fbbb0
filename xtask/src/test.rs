//! The rings of tests: what needs nothing, then what needs a kernel and root.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::binaries::Binaries;
use crate::not_run::NotRun;
use crate::privilege::{self, Privilege};
use crate::steps::Steps;
use crate::{check, command, ebpf, fuzz, interpreters, metadata, prometheus, vm, workspace};

/// One ring of tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Ring {
    /// Every test that needs neither root nor a particular kernel.
    Unit,
    /// The command line against a double of the daemon; part of `unit`.
    Cli,
    /// The daemon and its programs on this machine's kernel. Needs root.
    Kernel,
}

/// Which tests to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only this ring, without the checks.
    #[arg(long)]
    ring: Option<Ring>,
    /// The kernel ring also in a virtual machine, with the kernel of this release of Debian.
    #[arg(long, value_name = "RELEASE", num_args = 0..=1, default_missing_value = "bookworm")]
    vm: Option<vm::Release>,
    /// Only this ring, or only tests whose names contain one of these, or both in this order; without the checks.
    #[arg(value_names = ["RING", "FILTER"])]
    words: Vec<String>,
}

impl Arguments {
    /// The one ring, and what names of tests must contain one of; any name will do if there is none.
    fn selection(&self) -> (Option<Ring>, &[String]) {
        use clap::ValueEnum as _;
        let named = self.words.first().and_then(|word| Ring::from_str(word, false).ok());
        match (self.ring, named) {
            (None, Some(named)) => (Some(named), &self.words[1..]),
            _ => (self.ring, &self.words),
        }
    }
}

/// Whether names that contain this are among those asked for.
fn asked_for(filters: &[String], name: &str) -> bool {
    filters.is_empty() || filters.iter().any(|filter| filter.contains(name))
}

/// Runs the checks and the rings in order, also when one fails.
///
/// # Errors
/// Something failed, or the kernel ring could not run where it must.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut steps = Steps::default();
    let not_run = NotRun::begin()?;
    let (only, filters) = arguments.selection();
    let wanted = |ring| only.is_none_or(|only| only == ring);
    if only.is_none() && filters.is_empty() {
        // Where nothing may be left out, the object is built anew from its sources.
        steps.run("check", || check::run(privilege::in_ci() && ebpf::can_rebuild()));
    }
    if only == Some(Ring::Cli) {
        steps.run("cli ring", || {
            command::run(
                runner(&not_run)
                    .args(["--package=profiler-tests", "--test=cli", "--"])
                    .args(filters),
            )
        });
    }
    if wanted(Ring::Unit) {
        steps.run("unit ring", || unit(filters, &not_run));
    }
    if only.is_none() && filters.is_empty() && privilege::in_ci() {
        match fuzz::missing() {
            None => steps.run("fuzz targets", fuzz::brief),
            Some(reason) => steps.skip("fuzz targets", &reason),
        }
    }
    if wanted(Ring::Kernel) {
        match Privilege::probe() {
            privilege @ (Privilege::Root | Privilege::Sudo) => {
                steps.run("kernel ring", || kernel(privilege, filters, &not_run));
                virtual_machine(&mut steps, arguments.vm, filters);
            }
            _ if privilege::in_ci() || only.is_some() => {
                steps.run("kernel ring", || bail!("needs root, or sudo that does not ask"));
            }
            _ => steps.skip("kernel ring", "needs root, or sudo that does not ask"),
        }
    }
    not_run.print();
    steps.finish()
}

/// The kernel ring in a virtual machine, after that on this host, whose compiled programs it runs.
fn virtual_machine(steps: &mut Steps, release: Option<vm::Release>, filters: &[String]) {
    const STEP: &str = "kernel ring in a virtual machine";
    match (release, vm::missing()) {
        (None, _) => steps.skip(STEP, "nobody asked for it: --vm"),
        (Some(_), Some(reason)) => steps.run(STEP, || bail!("{reason}")),
        (Some(release), None) => steps.run(STEP, || {
            vm::run(release, filters, &Binaries::build()?, &kernel_tests()?)
        }),
    }
}

/// The test program of the kernel ring.
fn kernel_tests() -> Result<PathBuf> {
    let messages = command::output(workspace::cargo().args([
        "test",
        "--locked",
        "--no-run",
        "--message-format=json",
        "--package=profiler-tests",
        "--test=kernel",
    ]))?;
    let executable = messages.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let path = message["executable"].as_str()?;
        (message["target"]["name"] == "kernel").then(|| PathBuf::from(path))
    });
    executable.context("cargo built no test program of the kernel ring")
}

/// `cargo nextest run` where it is installed, else `cargo test`.
fn runner(not_run: &NotRun) -> Command {
    let mut cargo = workspace::cargo();
    let mut probe = workspace::cargo();
    probe
        .args(["nextest", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if command::run(&mut probe).is_ok() {
        cargo.args(["nextest", "run", "--locked", "--no-tests=warn"]);
    } else {
        println!("cargo-nextest is not installed; using cargo test");
        cargo.args(["test", "--locked"]);
    }
    let (list, path) = not_run.environment();
    cargo.env(list, path);
    cargo
}

fn unit(filters: &[String], not_run: &NotRun) -> Result<()> {
    let metadata = metadata::of_workspace()?;
    if metadata::has_target(&metadata, "profiler-tests", "test", "kernel", true) {
        bail!("tests/Cargo.toml must set `test = false` for the target `kernel`: `cargo test` needs no root");
    }
    if asked_for(filters, "alertmanager") || asked_for(filters, "promtool") {
        prometheus::prepare(not_run);
    }
    let mut tests = runner(not_run);
    tests.env("PATH", profiler_tests::prometheus::path());
    command::run(tests.args(["--workspace", "--"]).args(filters))?;
    // nextest does not run the examples in the documentation.
    command::run(
        workspace::cargo()
            .args(["test", "--workspace", "--locked", "--doc", "--quiet", "--"])
            .args(filters),
    )
}

fn kernel(privilege: Privilege, filters: &[String], not_run: &NotRun) -> Result<()> {
    let binaries = Binaries::build()?;
    if asked_for(filters, "python") {
        interpreters::prepare(not_run);
    }
    if asked_for(filters, "prometheus") {
        prometheus::prepare(not_run);
    }
    let programs = vm::compiled_programs();
    fs::create_dir_all(&programs).with_context(|| format!("cannot make {}", programs.display()))?;
    let environment: Vec<_> = binaries
        .environment()
        .into_iter()
        .chain([
            ("PROFILER_TEST_KEEP_PROGRAMS", programs.as_path()),
            not_run.environment(),
        ])
        .collect();
    let mut command = runner(not_run);
    command.envs(environment.iter().copied());
    if privilege == Privilege::Sudo {
        // Built as the user, run as root.
        let mut names: Vec<_> = environment.iter().map(|(name, _)| *name).collect();
        names.push("RUST_TEST_THREADS");
        let names = names.join(",");
        let host = command::output(Command::new("rustc").args(["--print", "host-tuple"]))?;
        let variable = format!("CARGO_TARGET_{}_RUNNER", host.to_uppercase().replace('-', "_"));
        command.env(variable, format!("sudo -n --preserve-env={names}"));
    }
    // One at a time: each starts a daemon of its own and loads every CPU.
    command.envs([("NEXTEST_TEST_THREADS", "1"), ("RUST_TEST_THREADS", "1")]);
    command.args(["--package=profiler-tests", "--test=kernel", "--"]);
    command::run(command.args(filters))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(ring: Option<Ring>, words: &[&str]) -> (Option<Ring>, Vec<String>) {
        let arguments = Arguments {
            ring,
            vm: None,
            words: words.iter().map(ToString::to_string).collect(),
        };
        let (ring, filters) = arguments.selection();
        (ring, filters.to_vec())
    }

    #[test]
    fn a_first_word_that_names_a_ring_is_one() {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(selection(None, &[]), (None, words(&[])));
        assert_eq!(selection(None, &["kernel"]), (Some(Ring::Kernel), words(&[])));
        assert_eq!(
            selection(None, &["kernel", "walks", "mixed"]),
            (Some(Ring::Kernel), words(&["walks", "mixed"]))
        );
        assert_eq!(selection(None, &["walks"]), (None, words(&["walks"])));
        assert_eq!(
            selection(Some(Ring::Kernel), &["kernel"]),
            (Some(Ring::Kernel), words(&["kernel"]))
        );
    }

    #[test]
    fn what_no_filter_asks_for_is_not_prepared() {
        assert!(asked_for(&[], "python"));
        assert!(asked_for(&["walks".to_owned(), "python::".to_owned()], "python"));
        assert!(!asked_for(&["walks".to_owned()], "python"));
    }
}
