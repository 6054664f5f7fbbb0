//! How long an operator waits for a flame graph.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::report;
use crate::binaries::Binaries;
use crate::children::Interrupt;
use crate::session::{self, Session};

const RECORDING: Duration = Duration::from_secs(2);
/// How long the daemon watches before it is asked: a few of its windows.
const WATCHED_FOR: Duration = Duration::from_secs(12);
/// Queries of the watched process; the median counts.
const QUERIES: usize = 9;
const COLD_BUDGET_SECONDS: f64 = 3.0;
const WATCHED_BUDGET_SECONDS: f64 = 0.3;

pub(super) fn run(binaries: &Binaries, interrupt: &Interrupt) -> Result<()> {
    let demo = session::start_demo(binaries)?;
    let pid = demo.pid().to_string();
    let start = Instant::now();
    let session = Session::start(binaries, "", interrupt)?;
    let picture = session.path("flamegraph.svg");
    let target = ["flamegraph", "--pid", &pid];
    let write = ["--format", "svg", "-o", session::text_of(&picture)?];
    let duration = format!("{}s", RECORDING.as_secs());
    session.cli(&[&target[..], &["--duration", &duration], &write].concat())?;
    let cold = start.elapsed().saturating_sub(RECORDING);

    interrupt.sleep(WATCHED_FOR)?;
    let mut times = Vec::with_capacity(QUERIES);
    for _ in 0..QUERIES {
        let start = Instant::now();
        session.cli_output(&[&target[..], &["--format", "svg", "-o", "-"]].concat())?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    report::head("start");
    report::at_most(
        "daemon start to first flame graph, less recording",
        "s",
        cold.as_secs_f64(),
        COLD_BUDGET_SECONDS,
    );
    let median = times[QUERIES / 2].as_secs_f64();
    report::at_most(
        "flame graph of a watched process, median",
        "s",
        median,
        WATCHED_BUDGET_SECONDS,
    );
    Ok(())
}
