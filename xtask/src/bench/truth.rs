//! Shares of the demo's three kinds of work against what they are by construction.

use anyhow::{Result, bail};

use super::report;
use crate::binaries::Binaries;
use crate::children::Interrupt;
use crate::demo::TRUTH;
use crate::folded::Folded;
use crate::session::{self, SHORT_WINDOWS, Session};

const SAMPLE_HZ: u32 = 997;
/// Long enough for [`ENOUGH_SAMPLES`] when the service gets three quarters of a CPU.
const RECORDING: &str = "15s";
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
    let pid = demo.pid().to_string();
    let text = session.cli_output(&[
        "flamegraph",
        "--pid",
        &pid,
        "--duration",
        RECORDING,
        "--format",
        "folded",
        "-o",
        "-",
    ])?;
    let folded = Folded::parse(&text)?;
    let samples = folded.samples();
    if samples < ENOUGH_SAMPLES {
        bail!("only {samples} samples in {RECORDING} at {SAMPLE_HZ} Hz: is the machine too busy?");
    }
    report::head(&format!("truth: {samples} samples at {SAMPLE_HZ} Hz"));
    for (function, expected) in TRUTH {
        let share = folded.samples_of(function) as f64 * 100.0 / samples as f64;
        report::fact(&format!("share of {function}, true {expected}"), "%", share);
        report::at_most(
            &format!("distance of {function}"),
            "points",
            (share - f64::from(expected)).abs(),
            TOLERANCE,
        );
    }
    Ok(())
}
