//! Shares of Python functions next to what the program measured of itself and to what py-spy says of the same minute: one
//! busy thread on one CPU, both profilers at 99 Hz.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use profiler_tests::interpreters;
use tempfile::TempDir;

use super::report;
use crate::binaries::Binaries;
use crate::children::{Interrupt, Running};
use crate::folded::Folded;
use crate::interpreters::venvs::PYSPY;
use crate::session::{self, SHORT_WINDOWS, Session};
use crate::workspace;

const SAMPLE_HZ: u32 = 99;
const RECORDING_SECONDS: u32 = 60;
const SETTLE: Duration = Duration::from_secs(3);
const PROGRAM: &str = "tests/fixtures/python/measured.py";
/// What makes no system calls: py-spy takes the time that a thread waits for a CPU for time on it, and where it waits is not
/// where it works. The deep recursion is for ourselves only: py-spy stops the program while it reads, longer the more frames
/// there are, and takes more samples of a CPU second where it stops it longer.
const SHALLOW: [&str; 4] = ["busy", "nested", "generators", "callbacks"];
const ALL: [&str; 5] = ["busy", "nested", "generators", "callbacks", "recursion"];
/// Functions that py-spy sees in fewer samples are not compared.
const LEAST_PERCENT: f64 = 5.0;
/// How far a share may be from py-spy's, in points.
const TOLERANCE: f64 = 3.0;
/// How far a share may be from the program's own, in points: three deviations of a share of a third among 5,900 samples.
const OWN_TOLERANCE: f64 = 2.0;

pub(super) fn run(binaries: &Binaries, interrupt: &Interrupt) -> Result<()> {
    if let Err(error) = PYSPY.make(&interpreters::all()) {
        println!("\npython: not compared, because py-spy cannot be had: {error:#}");
        return Ok(());
    }
    compare(&minute(binaries, interrupt, &SHALLOW)?)?;
    compare(&minute(binaries, interrupt, &ALL)?)
}

/// What three observers say of the same minute.
#[derive(Debug)]
struct Minute {
    turns: usize,
    own: BTreeMap<String, f64>,
    ours: Shares,
    pyspy: Shares,
}

fn minute(binaries: &Binaries, interrupt: &Interrupt, turns: &[&str]) -> Result<Minute> {
    let folder = TempDir::with_prefix("profiler-python-").context("cannot make a folder")?;
    let told = folder.path().join("told");
    let mut python = Command::new("python3");
    python.arg(workspace::root().join(PROGRAM)).args(turns);
    let told_file = fs::File::create(&told).context("cannot make a file")?;
    let program = Running::start(python.stdin(Stdio::null()).stdout(told_file))?;
    pin(program.pid())?;
    let session = Session::start(
        binaries,
        &format!("[sampling]\nhz = {SAMPLE_HZ}\n{SHORT_WINDOWS}"),
        interrupt,
    )?;
    session.wait_until_walked(program.pid())?;
    // Until it has told something.
    interrupt.sleep(SETTLE)?;
    let theirs = session.path("pyspy.folded");
    let before = Spent::last(&told)?;
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
    let own = Spent::last(&told)?.since(&before);
    let status = pyspy.wait(interrupt)?;
    if !status.success() {
        bail!("py-spy ended with {status}");
    }
    let pyspy = fs::read_to_string(&theirs).context("py-spy wrote nothing")?;
    Ok(Minute {
        turns: turns.len(),
        own,
        ours: Shares::of(&Folded::parse(&ours)?),
        pyspy: Shares::of(&Folded::parse(&pyspy)?),
    })
}

/// CPU seconds that each turn took since the program's start.
#[derive(Debug)]
struct Spent(BTreeMap<String, f64>);

impl Spent {
    /// The last whole line of what the program told.
    fn last(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).context("cannot read what the program told")?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let line = whole.lines().next_back().context("the program has told nothing")?;
        Ok(Self(
            serde_json::from_str(line).context("the program told something else")?,
        ))
    }

    /// The share of each turn in what was spent since an earlier line, in percent.
    fn since(&self, before: &Self) -> BTreeMap<String, f64> {
        let spent = |(name, seconds): (&String, &f64)| (name.clone(), seconds - before.0.get(name).unwrap_or(&0.0));
        let spent: BTreeMap<_, _> = self.0.iter().map(spent).collect();
        let whole: f64 = spent.values().sum();
        spent
            .into_iter()
            .map(|(name, seconds)| (name, seconds * 100.0 / whole))
            .collect()
    }
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

fn compare(minute: &Minute) -> Result<()> {
    let Minute {
        turns,
        own,
        ours,
        pyspy,
    } = minute;
    report::head(&format!(
        "python: {turns} kinds of turns, {} samples at {SAMPLE_HZ} Hz, {} of py-spy",
        ours.samples, pyspy.samples
    ));
    for (turn, own) in own {
        let of = |shares: &Shares| shares.of_function.get(turn).copied().unwrap_or_default();
        report::fact(&format!("CPU time in {turn} by its own clock"), "%", *own);
        report::at_most(
            &format!("distance of {turn} from that"),
            "points",
            (of(ours) - own).abs(),
            OWN_TOLERANCE,
        );
        report::fact(
            &format!("  py-spy's distance of {turn}"),
            "points",
            (of(pyspy) - own).abs(),
        );
    }
    if *turns > SHALLOW.len() {
        return Ok(());
    }
    let mut compared = 0;
    for (function, theirs) in &pyspy.of_function {
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

    #[test]
    fn shares_are_of_what_was_spent_between_two_lines() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("told");
        fs::write(&path, "{\"a\": 1.0, \"b\": 1.0}\n").unwrap();
        let before = Spent::last(&path).unwrap();
        fs::write(&path, "{\"a\": 1.0, \"b\": 1.0}\n{\"a\": 2.0, \"b\": 4.0}\n{\"a\": 9").unwrap();
        let own = Spent::last(&path).unwrap().since(&before);
        assert_eq!((own["a"], own["b"]), (25.0, 75.0));
    }
}
