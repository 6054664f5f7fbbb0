//! Shares of the demo's three kinds of work against what they are by construction.

use anyhow::{Result, bail};

use super::report;
use crate::binaries::Binaries;
use crate::children::Interrupt;
use crate::demo::TRUTH;
use crate::folded::Folded;
use crate::session::{self, SHORT_WINDOWS, Session};

const SAMPLE_HZ: u32 = 997;
/// One recording; on a busy machine several are needed.
const RECORDING: &str = "12s";
const MOST_RECORDINGS: usize = 8;
const ENOUGH_SAMPLES: u64 = 10_000;
/// How far a share may be from the truth, in points.
const TOLERANCE: f64 = 2.0;

pub(super) fn run(binaries: &Binaries, interrupt: &Interrupt) -> Result<()> {
    let demo = session::start_demo(binaries)?;
    let session = Session::start(
        binaries,
        &format!("[sampling]\nhz = {SAMPLE_HZ}\n{SHORT_WINDOWS}"),
        interrupt,
    )?;
    session.wait_until_walked(demo.pid())?;
    let mut counts = Counts::default();
    for _ in 0..MOST_RECORDINGS {
        counts.add(&record(&session, demo.pid())?)?;
        if counts.samples >= ENOUGH_SAMPLES {
            counts.print();
            return Ok(());
        }
    }
    bail!(
        "only {} samples in {MOST_RECORDINGS} times {RECORDING} at {SAMPLE_HZ} Hz: is the machine too busy?",
        counts.samples
    )
}

fn record(session: &Session, pid: u32) -> Result<String> {
    let pid = pid.to_string();
    session.cli_output(&[
        "flamegraph",
        "--pid",
        &pid,
        "--duration",
        RECORDING,
        "--format",
        "folded",
        "-o",
        "-",
    ])
}

/// Samples of all recordings, and those of each kind of work.
#[derive(Debug, Default)]
struct Counts {
    samples: u64,
    of_kind: [u64; TRUTH.len()],
}

impl Counts {
    fn add(&mut self, text: &str) -> Result<()> {
        let folded = Folded::parse(text)?;
        self.samples += folded.samples();
        for (count, (function, _)) in self.of_kind.iter_mut().zip(TRUTH) {
            *count += folded.samples_of(function);
        }
        Ok(())
    }

    fn print(&self) {
        report::head(&format!("truth: {} samples at {SAMPLE_HZ} Hz", self.samples));
        for (count, (function, expected)) in self.of_kind.into_iter().zip(TRUTH) {
            let share = count as f64 * 100.0 / self.samples as f64;
            report::fact(&format!("share of {function}, true {expected}"), "%", share);
            let distance = (share - f64::from(expected)).abs();
            report::at_most(&format!("distance of {function}"), "points", distance, TOLERANCE);
        }
    }
}
