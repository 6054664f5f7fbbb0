//! The rings of tests: what needs nothing, then what needs a kernel and root.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::binaries::Binaries;
use crate::privilege::{self, Privilege};
use crate::steps::Steps;
use crate::{check, command, ebpf, fuzz, metadata, workspace};

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
    /// Only tests whose name contains this, without the checks.
    filter: Option<String>,
}

/// Runs the checks and the rings in order, also when one fails.
///
/// # Errors
/// Something failed, or the kernel ring could not run where it must.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut steps = Steps::default();
    let filter = arguments.filter.as_deref();
    let wanted = |ring| arguments.ring.is_none_or(|only| only == ring);
    if arguments.ring.is_none() && filter.is_none() {
        // Where nothing may be left out, the object is built anew from its sources.
        steps.run("check", || check::run(privilege::in_ci() && ebpf::can_rebuild()));
    }
    if arguments.ring == Some(Ring::Cli) {
        steps.run("cli ring", || {
            command::run(runner().args(["--package=profiler-tests", "--test=cli"]).args(filter))
        });
    }
    if wanted(Ring::Unit) {
        steps.run("unit ring", || unit(filter));
    }
    if arguments.ring.is_none() && filter.is_none() && privilege::in_ci() {
        match fuzz::missing() {
            None => steps.run("fuzz targets", fuzz::brief),
            Some(reason) => steps.skip("fuzz targets", &reason),
        }
    }
    if wanted(Ring::Kernel) {
        match Privilege::probe() {
            privilege @ (Privilege::Root | Privilege::Sudo) => steps.run("kernel ring", || kernel(privilege, filter)),
            _ if privilege::in_ci() || arguments.ring.is_some() => {
                steps.run("kernel ring", || bail!("needs root, or sudo that does not ask"));
            }
            _ => steps.skip("kernel ring", "needs root, or sudo that does not ask"),
        }
    }
    steps.finish()
}

/// `cargo nextest run` where it is installed, else `cargo test`.
fn runner() -> Command {
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
    cargo
}

fn unit(filter: Option<&str>) -> Result<()> {
    let metadata = metadata::of_workspace()?;
    if metadata::has_target(&metadata, "profiler-tests", "test", "kernel", true) {
        bail!("tests/Cargo.toml must set `test = false` for the target `kernel`: `cargo test` needs no root");
    }
    command::run(runner().arg("--workspace").args(filter))?;
    // nextest does not run the examples in the documentation.
    command::run(
        workspace::cargo()
            .args(["test", "--workspace", "--locked", "--doc", "--quiet"])
            .args(filter),
    )
}

fn kernel(privilege: Privilege, filter: Option<&str>) -> Result<()> {
    let binaries = Binaries::build()?;
    let mut command = runner();
    command.envs(binaries.environment());
    if privilege == Privilege::Sudo {
        // Built as the user, run as root.
        let names = binaries.environment().map(|(name, _)| name).join(",");
        let host = command::output(Command::new("rustc").args(["--print", "host-tuple"]))?;
        let variable = format!("CARGO_TARGET_{}_RUNNER", host.to_uppercase().replace('-', "_"));
        command.env(variable, format!("sudo -n --preserve-env={names}"));
    }
    // One at a time: each starts a daemon of its own and loads every CPU.
    command.args(["--package=profiler-tests", "--test=kernel", "--test-threads=1"]);
    command::run(command.args(filter))
}
