//! What page faults cost, and how true the growth of memory is that is told.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::agent::{Statistics, Usage};
use super::report;
use crate::binaries::Binaries;
use crate::children::{Interrupt, Running};
use crate::session::Session;

/// Faults a second that are asked for; how many there are is measured.
const RATES: [u64; 3] = [200, 1_000, 10_000];
const SETTLE: Duration = Duration::from_secs(10);
const MEASURE: Duration = Duration::from_secs(20);
/// Share of a core for a thousand faults a second, and for fewer: some pages are chosen however few there are.
const PERCENT_PER_1000: f64 = 0.3;
const GROWTH_PERCENT: f64 = 15.0;

/// Maps and touches a page so often, keeps one of four, and gives the others back.
const FAULTER: &str = r#"
import mmap, sys, time
rate, kept = int(sys.argv[1]), []
batch = max(4, rate // 50)
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
def keep(pages):
    piece = mmap.mmap(-1, pages << 12, flags=PRIVATE)
    piece[::4096] = b"x" * pages
    kept.append(piece)
def churn(pages):
    piece = mmap.mmap(-1, pages << 12, flags=PRIVATE)
    piece[::4096] = b"x" * pages
    piece.close()
due = time.monotonic()
while True:
    keep(batch // 4)
    churn(batch - batch // 4)
    due += batch / rate
    time.sleep(max(0, due - time.monotonic()))
"#;

pub(super) fn run(binaries: &Binaries, interrupt: &Interrupt) -> Result<()> {
    report::head("memory: page faults of a Python program, three of four pages given back at once");
    for rate in RATES {
        measure(binaries, rate, interrupt)?;
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    faults: u64,
    delivered: u64,
    lost: u64,
    program: f64,
    daemon: Duration,
    resident_kib: u64,
}

impl Reading {
    fn take(session: &Session, pid: u32) -> Result<Self> {
        let status: Value = serde_json::from_str(&session.cli_output(&["status", "--json"])?)?;
        let memory = &status["memory_profile"];
        let count = |field: &str| {
            memory[field]
                .as_u64()
                .with_context(|| format!("status tells no {field}"))
        };
        let lost = memory["lost"].as_object().context("status tells no losses")?;
        Ok(Self {
            faults: count("faults")?,
            delivered: count("delivered")?,
            lost: lost.values().filter_map(Value::as_u64).sum(),
            program: memory["seconds"]
                .as_f64()
                .context("status tells no time of the programs")?,
            daemon: Usage::read(Path::new("/proc"), session.daemon_pid())?.daemon_cpu,
            resident_kib: resident_kib(pid)?,
        })
    }
}

fn measure(binaries: &Binaries, rate: u64, interrupt: &Interrupt) -> Result<()> {
    let config = "[budget]\nmax_cpu_percent = 100\n[targets]\ndiscover_rust = false\ndiscover_python = false\n\
                  include = [\"*python3*\"]\n";
    let session = Session::start(binaries, config, interrupt)?;
    let _statistics = Statistics::enable()?;
    let mut command = Command::new("python3");
    command.args(["-c", FAULTER, &rate.to_string()]);
    let faulter = Running::start(&mut command)?;
    interrupt.sleep(SETTLE)?;
    let begun = std::time::SystemTime::now();
    let (before, start) = (Reading::take(&session, faulter.pid())?, Instant::now());
    interrupt.sleep(MEASURE)?;
    let (after, wall) = (Reading::take(&session, faulter.pid())?, start.elapsed().as_secs_f64());
    let from = begun.duration_since(std::time::UNIX_EPOCH)?.as_secs_f64();
    let pid = faulter.pid().to_string();
    let from = format!("@{from:.0}");
    let target = ["flamegraph", "--pid", &pid, "--kind", "memory"];
    let options = ["--from", &from, "--format", "json", "-o", "-"];
    let profile: Value = serde_json::from_str(&session.cli_output(&[&target[..], &options].concat())?)?;
    let resident_after = resident_kib(faulter.pid())?;
    let quality = &profile["quality"]["memory"];
    let bytes = |field: &str| {
        quality[field]
            .as_f64()
            .with_context(|| format!("the profile tells no {field}"))
    };

    let faults = (after.faults - before.faults) as f64 / wall;
    report::fact(&format!("faults ({rate} asked for)"), "1/s", faults);
    report::fact("chosen", "1/s", (after.delivered - before.delivered) as f64 / wall);
    report::at_most("lost", "count", (after.lost - before.lost) as f64, 0.0);
    let daemon = after.daemon.saturating_sub(before.daemon).as_secs_f64() / wall * 100.0;
    let program = (after.program - before.program) / wall * 100.0;
    report::at_most(
        "CPU of the programs for page faults",
        "% of a core",
        program,
        PERCENT_PER_1000 * (faults / 1_000.0).max(1.0),
    );
    report::fact("CPU of the daemon, all it does", "% of a core", daemon);
    report::fact(
        "programs for 1,000 faults a second",
        "% of a core",
        program / faults * 1_000.0,
    );
    let grown = (resident_after - before.resident_kib) as f64 * 1024.0;
    let told = bytes("growth_bytes")?;
    report::fact("RssAnon grew by", "MiB", grown / 1_048_576.0);
    report::fact("standard error told", "%", 100.0 * bytes("growth_error_bytes")? / told);
    report::at_most(
        "growth told, off by",
        "%",
        100.0 * (told - grown).abs() / grown,
        GROWTH_PERCENT,
    );
    Ok(())
}

fn resident_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    number.context("the kernel tells no RssAnon")
}
