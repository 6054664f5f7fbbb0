//! What the agent costs with 50 busy processes, as the kernel counts it.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::agent::{Statistics, Usage};
use super::report;
use crate::binaries::Binaries;
use crate::children::{Interrupt, Running};
use crate::folded::Folded;
use crate::session::{self, Session};

const PROCESSES: usize = 50;
/// Until rows and symbols are in, which are a cost of the start.
const SETTLE: Duration = Duration::from_secs(10);
const MEASURE: Duration = Duration::from_secs(30);

const KERNEL_NS_PER_SAMPLE: f64 = 1500.0;
const KERNEL_NS_PER_FRAME: f64 = 200.0;
const CPU_PERCENT_OF_HOST: f64 = 0.5;
const RESIDENT_MB: f64 = 80.0;
const KERNEL_MB: f64 = 64.0;
const LOST_PERCENT: f64 = 0.1;

pub(super) fn run(binaries: &Binaries, interrupt: &Interrupt) -> Result<()> {
    let demos: Vec<Running> = (0..PROCESSES)
        .map(|_| session::start_demo(binaries))
        .collect::<Result<_>>()?;
    let session = Session::start(binaries, "", interrupt)?;
    let _statistics = Statistics::enable()?;
    interrupt.sleep(SETTLE)?;
    let proc = Path::new("/proc");
    let (usage_before, counts_before) = (Usage::read(proc, session.daemon_pid())?, Counts::read(&session)?);
    let start = Instant::now();
    interrupt.sleep(MEASURE)?;
    let (usage, counts) = (Usage::read(proc, session.daemon_pid())?, Counts::read(&session)?);
    let wall = start.elapsed();
    let frames = frames_per_sample(&session, &demos)?;
    let cost = Cost {
        cpus: thread::available_parallelism().context("cannot count the CPUs")?.get(),
        wall,
        daemon_cpu: usage.daemon_cpu.saturating_sub(usage_before.daemon_cpu),
        kernel_cpu: usage.kernel_cpu.saturating_sub(usage_before.kernel_cpu),
        sampling: usage.sampling.saturating_sub(usage_before.sampling),
        runs: usage.sampling_runs.saturating_sub(usage_before.sampling_runs),
        samples: counts.delivered.saturating_sub(counts_before.delivered),
        lost: counts.lost.saturating_sub(counts_before.lost),
        missed_ticks: counts.missed_ticks.saturating_sub(counts_before.missed_ticks),
        frames_per_sample: frames,
        usage,
    };
    cost.print()
}

/// Counters from `profiler-cli status --json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    delivered: u64,
    lost: u64,
    /// Ticks that never ran the program: of the host, not lost by the profiler.
    missed_ticks: u64,
}

impl Counts {
    fn read(session: &Session) -> Result<Self> {
        let status = session.cli_output(&["status", "--json"])?;
        Self::parse(&serde_json::from_str(&status).context("status is no JSON")?)
    }

    fn parse(status: &Value) -> Result<Self> {
        let sampling = &status["sampling"];
        let delivered = sampling["run_outcomes"]["delivered"]
            .as_u64()
            .context("status counts no samples")?;
        let lost = sampling["lost"].as_object().context("status counts no losses")?;
        Ok(Self {
            delivered,
            lost: lost.values().filter_map(Value::as_u64).sum(),
            missed_ticks: sampling["missed_ticks"]
                .as_u64()
                .context("status counts no missed ticks")?,
        })
    }
}

/// Frames of an average sample; all processes run the same program.
fn frames_per_sample(session: &Session, demos: &[Running]) -> Result<f64> {
    let pid = demos.first().context("no process")?.pid().to_string();
    let text = session.cli_output(&["flamegraph", "--pid", &pid, "--format", "folded", "-o", "-"])?;
    let folded = Folded::parse(&text)?;
    Ok(folded.frames() as f64 / folded.samples() as f64)
}

#[derive(Debug)]
struct Cost {
    cpus: usize,
    wall: Duration,
    daemon_cpu: Duration,
    kernel_cpu: Duration,
    sampling: Duration,
    runs: u64,
    samples: u64,
    lost: u64,
    missed_ticks: u64,
    frames_per_sample: f64,
    usage: Usage,
}

impl Cost {
    fn print(&self) -> Result<()> {
        if self.samples == 0 || self.runs == 0 {
            bail!(
                "{} samples and {} runs in {:?}: nothing was measured",
                self.samples,
                self.runs,
                self.wall
            );
        }
        report::head(&format!(
            "cost: {PROCESSES} busy processes on {} CPUs for {:.0?}",
            self.cpus, self.wall
        ));
        report::fact("runs of the sampling program", "count", self.runs as f64);
        report::fact("samples", "count", self.samples as f64);
        report::fact("frames of a sample, mean", "count", self.frames_per_sample);
        let per_sample = self.sampling.as_nanos() as f64 / self.samples as f64;
        let budget = KERNEL_NS_PER_SAMPLE + KERNEL_NS_PER_FRAME * self.frames_per_sample;
        report::at_most("kernel time of a sample of that depth", "ns", per_sample, budget);
        report::fact(
            "kernel time of a frame, all included",
            "ns",
            per_sample / self.frames_per_sample,
        );
        let host = self.wall.as_secs_f64() * self.cpus as f64 / 100.0;
        report::fact("CPU of the daemon", "% of host", self.daemon_cpu.as_secs_f64() / host);
        report::fact(
            "CPU of its programs in the kernel",
            "% of host",
            self.kernel_cpu.as_secs_f64() / host,
        );
        let together = (self.daemon_cpu + self.kernel_cpu).as_secs_f64() / host;
        report::at_most("CPU together", "% of host", together, CPU_PERCENT_OF_HOST);
        report::at_most(
            "RssAnon + RssShmem",
            "MB",
            self.usage.resident_bytes as f64 / 1e6,
            RESIDENT_MB,
        );
        report::at_most("BPF memory", "MB", self.usage.kernel_bytes as f64 / 1e6, KERNEL_MB);
        let lost = self.lost as f64 * 100.0 / (self.samples + self.lost) as f64;
        report::at_most("samples lost", "%", lost, LOST_PERCENT);
        report::fact("ticks missed by the host", "count", self.missed_ticks as f64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_come_from_the_status() {
        let status = serde_json::json!({
            "sampling": {"run_outcomes": {"delivered": 7, "idle": 9}, "lost": {"ring_full": 1, "busy": 2}, "missed_ticks": 4},
        });
        assert_eq!(
            Counts::parse(&status).unwrap(),
            Counts {
                delivered: 7,
                lost: 3,
                missed_ticks: 4,
            }
        );
        assert!(Counts::parse(&serde_json::json!({})).is_err());
    }
}
