//! Whether the daemon stays as it is while processes come and go: memory, descriptors and lost samples over minutes.
//!
//! In: a daemon beside 500 idle processes, a churn of brief ones, storms of exec, and a program that loads and unloads
//! plugins. Out: a line every ten seconds, and the slope of what may not grow.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use profiler_tests::programs;
use serde_json::Value;
use tempfile::TempDir;

use super::agent::Usage;
use super::report;
use crate::binaries::Binaries;
use crate::children::{Interrupt, Running};
use crate::command;
use crate::session::Session;

const IDLE: usize = 500;
/// What fills for as long as it is kept is kept for a short time, or in little room: profiles, and the readings of an hour.
const STORE: &str = "[store]\nretention = \"1m\"\nwindow = \"1s\"\nmax_series_bytes = \"2MiB\"\n";
/// What is shed and taken back moves all that is measured here, and this company costs about as much as the default cap.
const CAPS: &str = "[budget]\nmax_cpu_percent = 20\n";
const READING_EVERY: Duration = Duration::from_secs(10);
/// The part of the time at the start whose slopes are not looked at: everything fills.
const SETTLING: f64 = 0.25;
/// Budgets: the daemon may grow by 1 MB a day; what an hour can show of that is drowned by its own windows.
const RESIDENT_MB_PER_HOUR: f64 = 1.0;
const KERNEL_MB_PER_HOUR: f64 = 0.1;
const DESCRIPTORS_PER_HOUR: f64 = 1.0;
/// Budget of the entries of the kernel's maps beyond those of watched processes, the last quarter against the first: a process
/// may come or go between the two looks.
const ENTRIES_GAINED: f64 = 3.0;
const LOST_PERCENT: f64 = 0.1;
/// Budget of the most memory at the start over that of the rest.
const PEAK_OVER_STEADY: f64 = 1.3;

/// What is seen at one moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    hours: f64,
    resident_bytes: u64,
    kernel_bytes: u64,
    descriptors: usize,
    /// Of the kernel's maps from which somebody must remove them.
    entries: u64,
    watched: u64,
    samples: u64,
    rooted: u64,
    lost: u64,
}

pub(super) fn run(binaries: &Binaries, minutes: u64, interrupt: &Interrupt) -> Result<()> {
    let folder = TempDir::with_prefix("profiler-soak-").context("cannot make a folder")?;
    let session = Session::start(binaries, &configuration(folder.path()), interrupt)?;
    let list = programs::compile_rust(folder.path(), "bpf_programs", &[]);
    let _company = company(folder.path())?;
    let (start, length) = (Instant::now(), Duration::from_secs(minutes * 60));
    println!("soak: {minutes} minutes beside {IDLE} idle processes, brief ones, storms of exec, and dlopen");
    println!(
        "{:>8} {:>12} {:>10} {:>6} {:>8} {:>8} {:>10} {:>8}",
        "seconds", "resident kB", "kernel kB", "fds", "entries", "watched", "samples", "lost"
    );
    let mut readings = Vec::new();
    while start.elapsed() < length {
        interrupt.sleep(READING_EVERY)?;
        let reading = match Reading::take(&session, &list, start.elapsed()) {
            Ok(reading) => reading,
            Err(error) => {
                // An hour is not thrown away for its last ten seconds.
                print(&readings)?;
                return Err(error);
            }
        };
        println!(
            "{:>8.0} {:>12} {:>10} {:>6} {:>8} {:>8} {:>10} {:>8}",
            reading.hours * 3600.0,
            reading.resident_bytes / 1024,
            reading.kernel_bytes / 1024,
            reading.descriptors,
            reading.entries,
            reading.watched,
            reading.samples,
            reading.lost
        );
        readings.push(reading);
    }
    print(&readings)
}

/// Only its own company is watched: what else runs on the host, of the same names even, would have its part in every slope.
fn configuration(folder: &Path) -> String {
    let own = folder.join("*");
    format!(
        "[targets]\ndiscover_rust = false\ndiscover_python = false\ninclude = [{:?}]\n{STORE}{CAPS}",
        own.display().to_string()
    )
}

/// The processes beside the daemon. They end with what is returned.
fn company(folder: &Path) -> Result<Vec<Running>> {
    let soak = programs::compile_rust(folder, "soak", &[]);
    let dl = programs::compile_rust(folder, "dl", &[]);
    let plugins = ["alpha", "beta"].map(|name| {
        let flags = ["-shared", "-fPIC", &format!("-DHOT=plugin_{name}")];
        programs::compile_c(folder, "plugin", &format!("{name}.so"), &flags)
    });
    let quiet = |command: &mut Command| Running::start(command.stdin(Stdio::null()).stdout(Stdio::null()));
    let mut company = vec![
        quiet(Command::new(&dl).args(plugins))?,
        quiet(Command::new(&soak).arg("churn"))?,
    ];
    for _ in 0..IDLE {
        company.push(quiet(Command::new(&soak).arg("idle"))?);
    }
    Ok(company)
}

impl Reading {
    fn take(session: &Session, list: &Path, elapsed: Duration) -> Result<Self> {
        let pid = session.daemon_pid();
        let usage = Usage::read(Path::new("/proc"), pid)?;
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).context("cannot list the daemon's descriptors")?;
        let status = session.cli_output(&["status", "--json"])?;
        let status: Value = serde_json::from_str(&status).context("status is no JSON")?;
        let sampling = &status["sampling"];
        let number = |value: &Value, what: &str| {
            value
                .as_u64()
                .with_context(|| format!("status has no {what}, but {status}"))
        };
        let lost = sampling["lost"].as_object().context("status counts no losses")?;
        Ok(Self {
            hours: elapsed.as_secs_f64() / 3600.0,
            resident_bytes: usage.resident_bytes,
            kernel_bytes: usage.kernel_bytes,
            descriptors: descriptors.count(),
            entries: entries(list, pid)?,
            watched: number(&status["watched_processes"], "watched_processes")?,
            samples: number(&sampling["run_outcomes"]["delivered"], "delivered samples")?,
            rooted: sampling["stop_reasons"]["root"].as_u64().unwrap_or(0),
            lost: lost.values().filter_map(Value::as_u64).sum(),
        })
    }
}

/// Entries of the maps in which nothing gives way by itself: of processes and of programs.
fn entries(list: &Path, pid: u32) -> Result<u64> {
    let printed = command::output(Command::new(list).args(["entries", &pid.to_string()]))?;
    entries_in(&printed)
}

fn entries_in(printed: &str) -> Result<u64> {
    let counts = printed.lines().map(|line| {
        let count = line.rsplit_once(' ').and_then(|(_, count)| count.parse::<u64>().ok());
        count.with_context(|| format!("{line:?} counts no entries"))
    });
    let counts: Vec<u64> = counts.collect::<Result<_>>()?;
    if counts.is_empty() {
        bail!("the daemon holds no hash map");
    }
    Ok(counts.iter().sum())
}

/// What is gained from the first quarter of some readings to the last, each by its mean.
fn gained(readings: &[Reading], value: impl Fn(&Reading) -> f64) -> f64 {
    let quarter = readings.len().div_ceil(4);
    let mean = |part: &[Reading]| part.iter().map(&value).sum::<f64>() / part.len() as f64;
    mean(&readings[readings.len() - quarter..]) - mean(&readings[..quarter])
}

fn print(readings: &[Reading]) -> Result<()> {
    let (start, settled) = readings.split_at((readings.len() as f64 * SETTLING) as usize);
    let [first, .., last] = settled else {
        bail!(
            "{} readings are too few for a slope; ask for more minutes",
            readings.len()
        );
    };
    let samples = last.samples - first.samples;
    if samples == 0 {
        bail!("no sample was delivered: nothing was measured");
    }
    let slope_of = |value: fn(&Reading) -> f64| slope(settled.iter().map(|reading| (reading.hours, value(reading))));
    report::head(&format!("soak: after {:.0} minutes", last.hours * 60.0));
    report::at_most(
        "RssAnon + RssShmem",
        "MB/h",
        slope_of(|reading| reading.resident_bytes as f64 / 1e6),
        RESIDENT_MB_PER_HOUR,
    );
    let resident = |readings: &[Reading]| {
        readings
            .iter()
            .map(|reading| reading.resident_bytes as f64)
            .collect::<Vec<_>>()
    };
    let steady = resident(settled).iter().sum::<f64>() / settled.len() as f64;
    let peak = resident(start).into_iter().fold(0.0, f64::max);
    report::at_most("peak at the start over the rest", "x", peak / steady, PEAK_OVER_STEADY);
    report::at_most(
        "BPF memory",
        "MB/h",
        slope_of(|reading| reading.kernel_bytes as f64 / 1e6),
        KERNEL_MB_PER_HOUR,
    );
    report::at_most(
        "descriptors",
        "1/h",
        slope_of(|reading| reading.descriptors as f64),
        DESCRIPTORS_PER_HOUR,
    );
    report::fact("entries of maps", "1/h", slope_of(|reading| reading.entries as f64));
    report::at_most(
        "entries beyond those watched, gained",
        "count",
        gained(settled, |reading| reading.entries as f64 - reading.watched as f64),
        ENTRIES_GAINED,
    );
    report::fact("watched processes", "1/h", slope_of(|reading| reading.watched as f64));
    report::fact("samples", "count", samples as f64);
    let rooted = (last.rooted - first.rooted) as f64 * 100.0 / samples as f64;
    report::fact("samples with a proven root", "%", rooted);
    let lost = last.lost - first.lost;
    report::at_most(
        "samples lost",
        "%",
        lost as f64 * 100.0 / (samples + lost) as f64,
        LOST_PERCENT,
    );
    Ok(())
}

/// The slope of a straight line through points, by least squares.
fn slope(points: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let count = points.clone().count() as f64;
    let (sum_x, sum_y) = points
        .clone()
        .fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
    let (mean_x, mean_y) = (sum_x / count, sum_y / count);
    let (over, under) = points.fold((0.0, 0.0), |(over, under), (x, y)| {
        (over + (x - mean_x) * (y - mean_y), under + (x - mean_x) * (x - mean_x))
    });
    over / under
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_company_is_watched() {
        let text = configuration(Path::new("/tmp/soak-x"));
        assert!(text.contains("include = [\"/tmp/soak-x/*\"]"), "{text}");
    }

    #[test]
    fn entries_are_those_of_all_maps() {
        assert_eq!(entries_in("PROCESSES 512\nTEMPLATES 3\n").unwrap(), 515);
        for wrong in ["", "PROCESSES\n", "PROCESSES many\n"] {
            assert!(entries_in(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_gained_is_told_however_long_it_takes() {
        let reading = |entries| Reading {
            hours: 0.0,
            resident_bytes: 0,
            kernel_bytes: 0,
            descriptors: 0,
            entries,
            watched: 500,
            samples: 0,
            rooted: 0,
            lost: 0,
        };
        let readings: Vec<Reading> = (0..8).map(|at| reading(500 + at / 2)).collect();
        let beyond = |reading: &Reading| reading.entries as f64 - reading.watched as f64;
        assert!((gained(&readings, beyond) - 3.0).abs() < 1e-9);
        assert!(gained(&readings[..1], beyond).abs() < 1e-9);
    }

    #[test]
    fn a_line_has_its_slope_whatever_shakes_it() {
        let points = [(0.0, 5.0), (1.0, 7.0), (2.0, 9.0)];
        assert!((slope(points.into_iter()) - 2.0).abs() < 1e-9);
        let shaken = (0..100).map(|at| (f64::from(at), f64::from(at % 2)));
        assert!(slope(shaken).abs() < 0.001);
    }
}
