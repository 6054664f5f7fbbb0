//! One run of one target, and what it printed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::build::Built;
use super::shown;
use super::targets::{Target, create_parent};

/// Longest that one input may take, in seconds. The usual one takes less than a millisecond.
const INPUT_SECONDS: u32 = 10;
/// Most memory of the whole process, the fuzzer's tables included, in MiB. Targets bound their own.
const MEMORY_MIB: u32 = 1024;
/// Stack in KiB: what a thread of the daemon has.
const STACK_KIB: u32 = 2048;
/// Lines of a crash that are shown.
const SHOWN_LINES: usize = 12;

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Clean,
    Crashed,
}

/// How long a run is, and what it begins with.
#[derive(Debug)]
pub(super) enum Length {
    /// A search for as long as this, from the committed corpus and what earlier runs found.
    Time(Duration),
    /// A search of so many executions, from the same.
    Runs(u64),
    /// So many executions, the same ones each time, from the committed corpus alone.
    SameRuns(u64),
}

/// Runs a target.
pub(super) fn fuzz(built: &Built, target: &Target, length: &Length) -> Result<Outcome> {
    let passing = tempfile::tempdir().context("cannot make a folder")?;
    let found = match length {
        Length::Time(_) | Length::Runs(_) => target.found(),
        Length::SameRuns(_) => passing.path().to_path_buf(),
    };
    for folder in [&found, &target.artifacts()] {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let mut command = bounded(built, target);
    match length {
        Length::Time(time) => command.arg(format!("-max_total_time={}", time.as_secs().max(1))),
        Length::Runs(runs) => command.arg(format!("-runs={runs}")),
        Length::SameRuns(runs) => command.args([format!("-runs={runs}"), "-seed=1".to_owned()]),
    };
    command.arg("-print_final_stats=1");
    if let Some(dictionary) = target.dictionary() {
        command.arg(joined("-dict=", &dictionary));
    }
    // New inputs go to the first folder.
    command.arg(found);
    command.args(target.seeds().is_dir().then(|| target.seeds()));
    let start = Instant::now();
    let (succeeded, log) = logged(&mut command, &target.log())?;
    let figures = Figures::of(&log);
    println!(
        "{:<17} {:>10} executions in {:>4.0} s, {} inputs reach {} edges: {}",
        target.name,
        figures.executions,
        start.elapsed().as_secs_f64(),
        figures.inputs,
        figures.edges,
        if succeeded { "clean" } else { "CRASHED" }
    );
    if succeeded {
        return Ok(Outcome::Clean);
    }
    show_crash(target, &log);
    Ok(Outcome::Crashed)
}

/// Runs a target on one input, with its output on our terminal.
pub(super) fn once(built: &Built, target: &Target, input: &Path) -> Result<()> {
    if !input.is_file() {
        bail!("there is no input {}", input.display());
    }
    crate::command::run(bounded(built, target).env("RUST_BACKTRACE", "1").arg(input))
}

/// The target's program within its bounds.
pub(super) fn bounded(built: &Built, target: &Target) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit -s {STACK_KIB} && exec \"$0\" \"$@\"")])
        .arg(built.program(target.name))
        .arg(format!("-max_len={}", target.longest))
        .arg(format!("-timeout={INPUT_SECONDS}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg(joined("-artifact_prefix=", &target.artifacts().join("")))
        // A backtrace is for whoever runs one input again.
        .env("RUST_BACKTRACE", "0");
    command
}

/// Runs a command with its output in a file; whether it succeeded, and the output.
pub(super) fn logged(command: &mut Command, path: &Path) -> Result<(bool, String)> {
    create_parent(path)?;
    let create = || File::create(path).with_context(|| format!("cannot write {}", path.display()));
    let file = create()?;
    let copy = file.try_clone().context("cannot share the log")?;
    let status = command
        .stdout(file)
        .stderr(copy)
        .status()
        .context("cannot run a target")?;
    let log = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok((status.success(), String::from_utf8_lossy(&log).into_owned()))
}

fn joined(option: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(option);
    argument.push(path);
    argument
}

/// Prints why the target crashed, where the input is, and how to run it again.
fn show_crash(target: &Target, log: &str) {
    let lines: Vec<_> = log.lines().collect();
    let cause = |line: &&str| {
        line.contains("panicked at") || line.contains("ERROR: libFuzzer") || line.contains("memory allocation of")
    };
    let start = lines
        .iter()
        .position(cause)
        .unwrap_or(lines.len().saturating_sub(SHOWN_LINES));
    for line in lines[start..].iter().take(SHOWN_LINES) {
        println!("    {line}");
    }
    println!("    the whole output is in {}", shown(&target.log()));
    match artifact(log) {
        Some(path) => println!(
            "    run it again: cargo xtask fuzz {} --input {}",
            target.name,
            shown(&path)
        ),
        None => println!("    the fuzzer kept no input"),
    }
}

/// Where the fuzzer says that it wrote the input.
fn artifact(log: &str) -> Option<PathBuf> {
    let line = log.lines().find_map(|line| line.split_once("Test unit written to "))?;
    Some(PathBuf::from(line.1.trim()))
}

/// What the fuzzer tells of a run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Figures {
    executions: u64,
    edges: u64,
    inputs: u64,
}

impl Figures {
    fn of(log: &str) -> Self {
        let mut figures = Self::default();
        for line in log.lines() {
            let mut words = line.split_ascii_whitespace();
            if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
                figures.executions = count.trim().parse().unwrap_or(0);
            } else if let Some(count) = number_of_status(line) {
                // A crash leaves no statistics.
                figures.executions = figures.executions.max(count);
                while let Some(word) = words.next() {
                    // `corp: 12/345b`: inputs and their bytes.
                    let value = |words: &mut std::str::SplitAsciiWhitespace<'_>| {
                        words.next().and_then(|value| value.split('/').next()?.parse().ok())
                    };
                    match word {
                        "cov:" => figures.edges = value(&mut words).unwrap_or(figures.edges),
                        "corp:" => figures.inputs = value(&mut words).unwrap_or(figures.inputs),
                        _ => {}
                    }
                }
            }
        }
        figures
    }
}

/// The number that a line of status begins with: `#123 NEW cov: …`.
fn number_of_status(line: &str) -> Option<u64> {
    line.strip_prefix('#')?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
INFO: Running with entropic power schedule (0xFF, 100).
#2\tINITED cov: 54 ft: 55 corp: 1/1b exec/s: 0 rss: 36Mb
#1024\tNEW    cov: 60 ft: 70 corp: 12/345b lim: 17 exec/s: 512 rss: 40Mb L: 3/4 MS: 1 ChangeByte-
#4096\tDONE   cov: 61 ft: 71 corp: 13/350b lim: 17 exec/s: 512 rss: 40Mb
Done 4096 runs in 8 second(s)
stat::number_of_executed_units: 4096
stat::peak_rss_mb:              40
";

    #[test]
    fn figures_are_read_from_the_log() {
        let expected = Figures {
            executions: 4096,
            edges: 61,
            inputs: 13,
        };
        assert_eq!(Figures::of(LOG), expected);
        assert_eq!(Figures::of(""), Figures::default());
    }

    #[test]
    fn a_crash_without_statistics_still_has_figures() {
        let cut = LOG.split("#4096").next().unwrap();
        assert_eq!(Figures::of(cut).executions, 1024);
    }

    #[test]
    fn the_input_of_a_crash_is_found() {
        let log = "==1== ERROR: libFuzzer: deadly signal\nartifact_prefix='/a/'; Test unit written to /a/crash-01\nBase64: AA==\n";
        assert_eq!(artifact(log), Some(PathBuf::from("/a/crash-01")));
        assert_eq!(artifact(LOG), None);
    }
}
