//! Shares of Python functions next to what py-spy says of the same minute: one busy thread on one CPU, both at 99 Hz.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use profiler_tests::interpreters;

use super::report;
use crate::binaries::Binaries;
use crate::children::{Interrupt, Running};
use crate::folded::Folded;
use crate::interpreters::venvs::PYSPY;
use crate::session::{self, SHORT_WINDOWS, Session};
use crate::workspace;

const SAMPLE_HZ: u32 = 99;
const RECORDING_SECONDS: u32 = 60;
/// A program that makes no system calls: py-spy takes the time that a thread waits for a CPU for time on it, and where it
/// waits is not where it works.
const PROGRAM: [&str; 2] = ["tests/fixtures/python/shapes.py", "mixed"];
/// Functions that py-spy sees in fewer samples are not compared.
const LEAST_PERCENT: f64 = 5.0;
/// How far a share may be from py-spy's, in points.
const TOLERANCE: f64 = 3.0;

pub(super) fn run(binaries: &Binaries, interrupt: &Interrupt) -> Result<()> {
    if let Err(error) = PYSPY.make(&interpreters::all()) {
        println!("\npython: not compared, because py-spy cannot be had: {error:#}");
        return Ok(());
    }
    let mut python = Command::new("python3");
    python.arg(workspace::root().join(PROGRAM[0])).arg(PROGRAM[1]);
    let program = Running::start(python.stdin(Stdio::null()).stdout(Stdio::null()))?;
    pin(program.pid())?;
    let session = Session::start(
        binaries,
        &format!("[sampling]\nhz = {SAMPLE_HZ}\n{SHORT_WINDOWS}"),
        interrupt,
    )?;
    session.wait_until_walked(program.pid())?;
    let theirs = session.path("pyspy.folded");
    let pyspy = Running::start(
        Command::new(PYSPY.program("py-spy"))
            .args(["record", "--format=raw", "--pid", &program.pid().to_string()])
            .args([format!("--rate={SAMPLE_HZ}"), format!("--duration={RECORDING_SECONDS}")])
            .args(["--output", session::text_of(&theirs)?])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )?;
    let ours = record(&session, program.pid())?;
    let status = pyspy.wait(interrupt)?;
    if !status.success() {
        bail!("py-spy ended with {status}");
    }
    let theirs = fs::read_to_string(&theirs).context("py-spy wrote nothing")?;
    compare(
        &Shares::of(&Folded::parse(&ours)?),
        &Shares::of(&Folded::parse(&theirs)?),
    )
}

/// On the last CPU, where fewer interrupts arrive than on the first.
fn pin(pid: u32) -> Result<()> {
    let mut cpus = rustix::thread::CpuSet::new();
    let last = std::thread::available_parallelism().map_or(0, |count| count.get() - 1);
    cpus.set(last);
    let process = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    rustix::thread::sched_setaffinity(process, &cpus).context("cannot choose a CPU")
}

fn record(session: &Session, pid: u32) -> Result<String> {
    let (pid, duration) = (pid.to_string(), format!("{RECORDING_SECONDS}s"));
    let arguments = ["flamegraph", "--pid", &pid, "--duration", &duration];
    session.cli_output(&[&arguments[..], &["--format", "folded", "-o", "-"]].concat())
}

/// Of each function the share of the samples that it is on the stack of, in percent. The first of each stack is not counted:
/// ours begin with the process, py-spy's with the module.
#[derive(Debug)]
struct Shares {
    samples: u64,
    of_function: BTreeMap<String, f64>,
}

impl Shares {
    fn of(folded: &Folded<'_>) -> Self {
        let samples = folded.samples();
        let percent = |count| count as f64 * 100.0 / samples as f64;
        let counts = folded.samples_by(simple_name).into_iter();
        Self {
            samples,
            of_function: counts.map(|(function, count)| (function, percent(count))).collect(),
        }
    }
}

/// A function without its class, its file and its mark: `serve` of `Share.serve` and of `serve (shop.py:33)`.
fn simple_name(frame: &str) -> &str {
    let name = frame.split(" (").next().unwrap_or(frame);
    let name = name.split("_[").next().unwrap_or(name);
    name.rsplit('.').next().unwrap_or(name)
}

fn compare(ours: &Shares, theirs: &Shares) -> Result<()> {
    report::head(&format!(
        "python: {} samples at {SAMPLE_HZ} Hz, {} of py-spy",
        ours.samples, theirs.samples
    ));
    let mut compared = 0;
    for (function, theirs) in &theirs.of_function {
        if *theirs < LEAST_PERCENT {
            continue;
        }
        let ours = ours.of_function.get(function).copied().unwrap_or_default();
        report::fact(&format!("share of {function}, py-spy's {theirs:.1}"), "%", ours);
        report::at_most(
            &format!("distance of {function}"),
            "points",
            (ours - theirs).abs(),
            TOLERANCE,
        );
        compared += 1;
    }
    if compared == 0 {
        bail!("py-spy saw no function in {LEAST_PERCENT} % of its samples");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_name_are_one() {
        let ours = Folded::parse("python3 7;main;Share.serve;sum_prices 3\npython3 7;main;Share.serve;zlib_[k] 1\n");
        let theirs =
            Folded::parse("<module> (shop.py:84);main (shop.py:80);serve (shop.py:33);sum_prices (shop.py:40) 6\n");
        let (ours, theirs) = (Shares::of(&ours.unwrap()), Shares::of(&theirs.unwrap()));
        assert_eq!(ours.of_function["serve"], 100.0);
        assert_eq!(ours.of_function["sum_prices"], 75.0);
        assert_eq!(
            theirs.of_function.keys().collect::<Vec<_>>(),
            ["main", "serve", "sum_prices"]
        );
    }
}
