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

const SAMPLE_HZ: f64 = 99.0;
const KERNEL_NS_PER_SAMPLE: f64 = 1500.0;
const KERNEL_NS_PER_NATIVE_FRAME: f64 = 200.0;
const KERNEL_NS_PER_PYTHON_FRAME: f64 = 300.0;
const COMPUTED_PERCENT_OF_SERVICE: f64 = 0.5;
const CPU_PERCENT_OF_HOST: f64 = 0.5;
const RESIDENT_MB: f64 = 80.0;
const KERNEL_MB: f64 = 64.0;
const LOST_PERCENT: f64 = 0.1;

pub(super) fn run(binaries: &Binaries, interrupt: &Interrupt) -> Result<()> {
    let demos: Vec<Running> = (0..PROCESSES)
        .map(|_| session::start_demo(binaries))
        .collect::<Result<_>>()?;
    let session = Session::start(binaries, "", interrupt)?;
    let cost = Cost::measure(&session, interrupt)?;
    let frames = frames_per_sample(&session, &demos)?;
    cost.print(&format!("cost: {PROCESSES} busy processes"), frames)
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

/// Frames of an average sample, as they were walked.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Frames {
    /// Of the kernel, of programs and of interpreters.
    pub(super) native: f64,
    pub(super) python: f64,
}

impl Frames {
    /// What a sample of that depth may take in the kernel.
    fn budget_ns(self) -> f64 {
        KERNEL_NS_PER_SAMPLE + KERNEL_NS_PER_NATIVE_FRAME * self.native + KERNEL_NS_PER_PYTHON_FRAME * self.python
    }
}

/// All processes run the same program, which has no Python.
fn frames_per_sample(session: &Session, demos: &[Running]) -> Result<Frames> {
    let pid = demos.first().context("no process")?.pid().to_string();
    let text = session.cli_output(&["flamegraph", "--pid", &pid, "--format", "folded", "-o", "-"])?;
    let folded = Folded::parse(&text)?;
    Ok(Frames {
        native: folded.frames() as f64 / folded.samples() as f64,
        python: 0.0,
    })
}

/// What a daemon used, counted and has.
#[derive(Debug)]
pub(super) struct Cost {
    cpus: usize,
    wall: Duration,
    daemon_cpu: Duration,
    kernel_cpu: Duration,
    sampling: Duration,
    runs: u64,
    samples: u64,
    lost: u64,
    missed_ticks: u64,
    usage: Usage,
}

impl Cost {
    /// Measures for some time, after the start is over.
    pub(super) fn measure(session: &Session, interrupt: &Interrupt) -> Result<Self> {
        let _statistics = Statistics::enable()?;
        interrupt.sleep(SETTLE)?;
        let proc = Path::new("/proc");
        let (usage_before, counts_before) = (Usage::read(proc, session.daemon_pid())?, Counts::read(session)?);
        let start = Instant::now();
        interrupt.sleep(MEASURE)?;
        let (usage, counts) = (Usage::read(proc, session.daemon_pid())?, Counts::read(session)?);
        Ok(Self {
            cpus: thread::available_parallelism().context("cannot count the CPUs")?.get(),
            wall: start.elapsed(),
            daemon_cpu: usage.daemon_cpu.saturating_sub(usage_before.daemon_cpu),
            kernel_cpu: usage.kernel_cpu.saturating_sub(usage_before.kernel_cpu),
            sampling: usage.sampling.saturating_sub(usage_before.sampling),
            runs: usage.sampling_runs.saturating_sub(usage_before.sampling_runs),
            samples: counts.delivered.saturating_sub(counts_before.delivered),
            lost: counts.lost.saturating_sub(counts_before.lost),
            missed_ticks: counts.missed_ticks.saturating_sub(counts_before.missed_ticks),
            usage,
        })
    }

    /// Prints it next to what is promised for samples of this depth.
    pub(super) fn print(&self, what: &str, frames: Frames) -> Result<()> {
        if self.samples == 0 || self.runs == 0 {
            bail!(
                "{} samples and {} runs in {:?}: nothing was measured",
                self.samples,
                self.runs,
                self.wall
            );
        }
        report::head(&format!("{what} on {} CPUs for {:.0?}", self.cpus, self.wall));
        report::fact("runs of the sampling program", "count", self.runs as f64);
        report::fact("samples", "count", self.samples as f64);
        report::fact("native frames of a sample, mean", "count", frames.native);
        report::fact("Python frames of a sample, mean", "count", frames.python);
        let per_sample = self.sampling.as_nanos() as f64 / self.samples as f64;
        report::at_most(
            "kernel time of a sample of that depth",
            "ns",
            per_sample,
            frames.budget_ns(),
        );
        report::fact(
            "kernel time of a frame, all included",
            "ns",
            per_sample / (frames.native + frames.python),
        );
        report::at_most(
            "computed from it: slowdown of what is always on a CPU",
            "%",
            per_sample * SAMPLE_HZ / 1e9 * 100.0,
            COMPUTED_PERCENT_OF_SERVICE,
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

    #[test]
    fn deeper_samples_may_take_longer() {
        let frames = Frames {
            native: 10.0,
            python: 2.0,
        };
        assert!((frames.budget_ns() - (1500.0 + 2000.0 + 600.0)).abs() < 1e-9);
    }
}
