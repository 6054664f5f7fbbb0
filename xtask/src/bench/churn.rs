//! How much is seen of processes that are over at once, and what seeing it costs them.
//!
//! In: a program that runs another one, which does nothing, as fast as it can, beside 500 idle processes. Out: spawns a
//! second with and without a daemon, in turn; the part of their CPU time that was sampled; the part of those samples whose
//! stack is whole, and why the others are not; and what a spawn costs the daemon.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use profiler_tests::programs;
use serde_json::Value;
use tempfile::TempDir;

use super::agent::{Statistics, Usage};
use super::report;
use super::spread::Spread;
use crate::binaries::Binaries;
use crate::children::{Interrupt, Running};
use crate::session::Session;

const IDLE: &str = "500";
/// Pairs of a round with and a round without the daemon, which take turns to be first.
const ROUNDS: usize = 12;
/// Length of a round.
const SECONDS: &str = "4";
/// Until the daemon has looked at everything, and until it has taken the last samples.
const SETTLE: Duration = Duration::from_secs(1);
const SAMPLE_HZ: f64 = 99.0;
/// The programs: the one that spawns is watched as well, since a child is its copy until it executes.
const CONFIG: &str = "[targets]\ndiscover_rust = false\ndiscover_python = false\ninclude = [\"brief\", \"spawner\"]\n";
const SPAWNS_PER_SECOND: f64 = 1500.0;
const CAUGHT_PERCENT: f64 = 95.0;
const ROOTED_PERCENT: f64 = 90.0;
/// Stacks that are whole: those of threads without a user part are by their nature.
const WHOLE: [&str; 2] = ["root", "no_user_registers"];

/// What one round of spawning came to.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Round {
    spawns: f64,
    own_seconds: f64,
    children_seconds: f64,
}

/// What a daemon counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counts {
    delivered: u64,
    stops: BTreeMap<String, u64>,
    lost: BTreeMap<String, u64>,
}

pub(super) fn run(binaries: &Binaries, interrupt: &Interrupt) -> Result<()> {
    let folder = TempDir::with_prefix("profiler-churn-").context("cannot make a folder")?;
    let spawner = programs::compile_c(folder.path(), "churn", "spawner", &[]);
    let brief = programs::compile_c(folder.path(), "churn", "brief", &[]);
    let idle = programs::compile_c(folder.path(), "churn", "idle", &[]);
    let _idle = Running::start(Command::new(idle).args(["idle", IDLE]).stdout(Stdio::null()))?;
    let round = || spawn(folder.path(), &spawner, &brief, interrupt);
    round()?;
    let (mut without, mut with, mut seen) = (Vec::new(), Vec::new(), Counts::default());
    let _statistics = Statistics::enable()?;
    let (mut daemon, mut kernel) = (Duration::ZERO, Duration::ZERO);
    for pair in 0..ROUNDS {
        if pair % 2 == 0 {
            without.push(round()?);
        }
        let session = Session::start(binaries, CONFIG, interrupt)?;
        interrupt.sleep(SETTLE)?;
        // The first processes make the program known.
        Running::start(&mut Command::new(&brief))?.wait(interrupt)?;
        interrupt.sleep(SETTLE)?;
        let before = Counts::read(&session)?;
        let usage = || Usage::read(Path::new("/proc"), session.daemon_pid());
        let used = usage()?;
        with.push(round()?);
        interrupt.sleep(SETTLE)?;
        let used_then = usage()?;
        daemon += used_then.daemon_cpu.saturating_sub(used.daemon_cpu);
        kernel += used_then.kernel_cpu.saturating_sub(used.kernel_cpu);
        seen.add(&Counts::read(&session)?, &before);
        drop(session);
        if pair % 2 == 1 {
            without.push(round()?);
        }
    }
    print(&without, &with, &seen)?;
    let spawns: f64 = with.iter().map(|round| round.spawns).sum();
    for (part, time) in [("daemon", daemon), ("programs in the kernel", kernel)] {
        report::fact(
            &format!("CPU time of the {part}, a spawn"),
            "us",
            time.as_secs_f64() * 1e6 / spawns,
        );
    }
    Ok(())
}

/// Spawns for one round.
fn spawn(folder: &Path, spawner: &Path, brief: &Path, interrupt: &Interrupt) -> Result<Round> {
    let output = folder.join("spawned");
    let file = fs::File::create(&output).with_context(|| format!("cannot write {}", output.display()))?;
    let mut command = Command::new(spawner);
    command.arg("spawn").arg(brief).arg(SECONDS).stdout(file);
    let status = Running::start(&mut command)?.wait(interrupt)?;
    if !status.success() {
        bail!("{} ended with {status}", spawner.display());
    }
    Round::parse(&fs::read_to_string(&output).with_context(|| format!("cannot read {}", output.display()))?)
}

impl Round {
    fn parse(text: &str) -> Result<Self> {
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        match numbers[..] {
            [spawns, own_seconds, children_seconds, _] => Ok(Self {
                spawns,
                own_seconds,
                children_seconds,
            }),
            _ => bail!("the spawner said {text:?}"),
        }
    }
}

impl Counts {
    fn read(session: &Session) -> Result<Self> {
        let status = session.cli_output(&["status", "--json"])?;
        Self::parse(&serde_json::from_str(&status).context("status is no JSON")?)
    }

    fn parse(status: &Value) -> Result<Self> {
        let sampling = &status["sampling"];
        let table = |value: &Value| -> BTreeMap<String, u64> {
            let entries = value.as_object().into_iter().flatten();
            entries
                .filter_map(|(name, count)| Some((name.clone(), count.as_u64()?)))
                .collect()
        };
        Ok(Self {
            delivered: sampling["run_outcomes"]["delivered"]
                .as_u64()
                .context("status counts no samples")?,
            stops: table(&sampling["stop_reasons"]),
            lost: table(&sampling["lost"]),
        })
    }

    /// Adds what was counted between two looks.
    fn add(&mut self, after: &Self, before: &Self) {
        self.delivered += after.delivered.saturating_sub(before.delivered);
        let mut add =
            |into: fn(&mut Self) -> &mut BTreeMap<String, u64>, after: &BTreeMap<_, u64>, before: &BTreeMap<_, u64>| {
                for (name, count) in after {
                    let count = count.saturating_sub(before.get(name).copied().unwrap_or(0));
                    *into(self).entry(String::clone(name)).or_default() += count;
                }
            };
        add(|counts| &mut counts.stops, &after.stops, &before.stops);
        add(|counts| &mut counts.lost, &after.lost, &before.lost);
    }
}

fn print(without: &[Round], with: &[Round], seen: &Counts) -> Result<()> {
    if seen.delivered == 0 {
        bail!("no sample was delivered: nothing was measured");
    }
    report::head(&format!(
        "churn: a program that does nothing, beside {IDLE} idle processes"
    ));
    print_rates(without, with);
    let cpu: f64 = with
        .iter()
        .map(|round| round.own_seconds + round.children_seconds)
        .sum();
    let children: f64 = with.iter().map(|round| round.children_seconds).sum();
    report::fact(
        "CPU time of the processes",
        "% of it and the spawner's",
        children * 100.0 / cpu,
    );
    let samples = seen.delivered as f64;
    report::fact("samples", "count", samples);
    report::at_least(
        "on-CPU samples caught",
        "%",
        samples / SAMPLE_HZ * 100.0 / cpu,
        CAUGHT_PERCENT,
    );
    let stopped: u64 = seen.stops.values().sum();
    let whole: u64 = WHOLE.iter().filter_map(|name| seen.stops.get(*name)).sum();
    report::at_least(
        "of those with a proven root",
        "%",
        whole as f64 * 100.0 / stopped as f64,
        ROOTED_PERCENT,
    );
    for (kind, table) in [("stopped", &seen.stops), ("lost", &seen.lost)] {
        for (name, count) in table.iter().filter(|(_, count)| **count > 0) {
            report::fact(&format!("  {kind}: {name}"), "count", *count as f64);
        }
    }
    Ok(())
}

fn print_rates(without: &[Round], with: &[Round]) {
    let length: f64 = SECONDS.parse().unwrap_or(1.0);
    for (when, rounds) in [("without the daemon", without), ("with it", with)] {
        let rates = Spread::of(rounds.iter().map(|round| round.spawns / length));
        report::at_least(
            &format!("spawns a second {when}, mean"),
            "1/s",
            rates.mean,
            SPAWNS_PER_SECOND,
        );
    }
    println!("  each round without: {}", list(without));
    println!("  each round with:    {}", list(with));
    let pairs = with.iter().zip(without);
    let ratio = Spread::of(pairs.map(|(with, without)| with.spawns * 100.0 / without.spawns));
    report::fact("spawn rate with the daemon, mean of pairs", "% of without", ratio.mean);
    report::fact("  95 % interval: more or less by", "points", ratio.interval());
    let bare = Spread::of(without.iter().map(|round| round.spawns));
    report::at_most(
        "spawn rate lost, against the spread without",
        "%",
        100.0 - ratio.mean,
        bare.deviation * 100.0 / bare.mean,
    );
}

fn list(rounds: &[Round]) -> String {
    let spawns: Vec<String> = rounds.iter().map(|round| format!("{:.0}", round.spawns)).collect();
    spawns.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_what_the_spawner_says() {
        let round = Round::parse("6000 1.5 2.25 77\n").unwrap();
        assert_eq!(
            (round.spawns, round.own_seconds, round.children_seconds),
            (6000.0, 1.5, 2.25)
        );
        assert!(Round::parse("6000 1.5\n").is_err());
    }

    #[test]
    fn counts_are_of_the_time_between_two_looks() {
        let status = |delivered: u64, root: u64| {
            let status = serde_json::json!({
                "sampling": {"run_outcomes": {"delivered": delivered}, "stop_reasons": {"root": root}, "lost": {}},
            });
            Counts::parse(&status).unwrap()
        };
        let mut seen = Counts::default();
        seen.add(&status(30, 20), &status(10, 5));
        seen.add(&status(7, 6), &status(0, 0));
        assert_eq!((seen.delivered, seen.stops["root"]), (27, 21));
        assert!(Counts::parse(&serde_json::json!({})).is_err());
    }
}
