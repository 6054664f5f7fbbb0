//! What the agent costs with 200 Python processes, a few of them busy, as the kernel counts it.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::cost::{Cost, Frames};
use crate::binaries::Binaries;
use crate::children::{Interrupt, Running};
use crate::session::Session;
use crate::workspace;

/// The default, for Python alone.
pub(super) const CONFIG: &str = "[targets]\ndiscover_rust = false\n";
const IDLE: usize = 196;
/// Enough for two CPUs, and few enough that the daemon gets some of them.
const BUSY: usize = 4;
/// What an idle service has loaded.
const IDLE_PROGRAM: &str = "import asyncio, http.client, json, logging, time
while True:
    time.sleep(1)";
const BUSY_PROGRAM: &str = "tests/fixtures/python/measured.py";
const TURNS: [&str; 4] = ["busy", "nested", "generators", "callbacks"];
/// How long all interpreters may take to be understood.
const WALKED_WITHIN: Duration = Duration::from_secs(120);
const ASK_EVERY: Duration = Duration::from_secs(1);

pub(super) fn run(binaries: &Binaries, interrupt: &Interrupt) -> Result<()> {
    let session = Session::start(binaries, CONFIG, interrupt)?;
    let _idle = start(IDLE, &["-c", IDLE_PROGRAM])?;
    let script = workspace::root().join(BUSY_PROGRAM);
    let script = script.to_str().context("the path of the checkout is not UTF-8")?;
    let busy = start(BUSY, &[&[script], &TURNS[..]].concat())?;
    wait_until_walked(&session, interrupt)?;
    let cost = Cost::measure(&session, interrupt)?;
    // All that are busy run the same program.
    let pid = busy.first().context("no process")?.pid().to_string();
    let options = ["--native-python", "--format", "json", "-o", "-"];
    let profile = session.cli_output(&[&["flamegraph", "--pid", &pid], &options[..]].concat())?;
    let profile: Value = serde_json::from_str(&profile).context("the profile is no JSON")?;
    let frames = frames_of(&profile).context("the profile has no samples, or other fields than it had")?;
    let what = format!("cost: {} Python processes, {BUSY} of them busy,", IDLE + BUSY);
    cost.print(&what, frames)
}

fn start(count: usize, arguments: &[&str]) -> Result<Vec<Running>> {
    let mut python = Command::new("python3");
    python.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    (0..count).map(|_| Running::start(&mut python)).collect()
}

fn wait_until_walked(session: &Session, interrupt: &Interrupt) -> Result<()> {
    let end = Instant::now() + WALKED_WITHIN;
    loop {
        let status = session.cli_output(&["status", "--json"])?;
        let status: Value = serde_json::from_str(&status).context("status is no JSON")?;
        let counts = &status["sampling"]["python_processes"];
        let walked = counts["walked"].as_u64().unwrap_or(0);
        if walked >= (IDLE + BUSY) as u64 {
            return Ok(());
        }
        if Instant::now() >= end {
            bail!(
                "of {} Python processes after {} s: {counts}",
                IDLE + BUSY,
                WALKED_WITHIN.as_secs()
            );
        }
        interrupt.sleep(ASK_EVERY)?;
    }
}

/// Frames of an average sample of a profile with the frames of interpreters; none if it is no such profile.
fn frames_of(profile: &Value) -> Option<Frames> {
    let index = |value: &Value| usize::try_from(value.as_u64()?).ok();
    let kinds = profile["frames"].as_array()?.iter().map(|frame| frame["kind"].as_str());
    let kinds: Vec<&str> = kinds.collect::<Option<_>>()?;
    // Native and Python frames of each node; callers stand before what they call.
    let mut depths: Vec<(u64, u64)> = Vec::new();
    let (mut samples, mut native, mut python) = (0, 0, 0);
    for node in profile["nodes"].as_array()? {
        let caller = index(&node["parent"]).map(|parent| depths.get(parent).copied());
        let (mut natives, mut pythons) = caller.unwrap_or(Some((0, 0)))?;
        match *kinds.get(index(&node["frame"])?)? {
            "python" => pythons += 1,
            // Named later: it was no frame when it was walked.
            "inlined" => {}
            _ => natives += 1,
        }
        depths.push((natives, pythons));
        let own = node["self"].as_u64()?;
        samples += own;
        native += own * natives;
        python += own * pythons;
    }
    (samples > 0).then(|| Frames {
        native: native as f64 / samples as f64,
        python: python as f64 / samples as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_as_they_were_walked() {
        let profile = serde_json::json!({
            "frames": [{"kind": "native"}, {"kind": "python"}, {"kind": "inlined"}, {"kind": "interpreter"}],
            "nodes": [
                {"parent": null, "frame": 0, "self": 0},
                {"parent": 0, "frame": 3, "self": 1},
                {"parent": 1, "frame": 1, "self": 0},
                {"parent": 2, "frame": 1, "self": 2},
                {"parent": 3, "frame": 2, "self": 1},
            ],
        });
        let frames = frames_of(&profile).unwrap();
        assert_eq!((frames.native, frames.python), (2.0, 1.5));
        assert_eq!(frames_of(&serde_json::json!({"frames": [], "nodes": []})), None);
        assert_eq!(frames_of(&serde_json::json!({})), None);
    }
}
