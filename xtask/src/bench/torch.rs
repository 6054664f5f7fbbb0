//! Stacks of a process with PyTorch, whose libraries have more rows than there is room for: how many reach their root, why
//! others do not, and what the rows take.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use profiler_tests::interpreters;
use serde_json::Value;

use super::agent::Usage;
use super::report;
use crate::binaries::Binaries;
use crate::children::{Interrupt, Running};
use crate::interpreters::venvs::TORCH;
use crate::session::{SHORT_WINDOWS, Session};
use crate::workspace;

const PROGRAM: &str = "tests/fixtures/python/tensors.py";
/// Two recordings: at first the rows that are used are being loaded.
const RECORDING_SECONDS: [u32; 2] = [20, 60];
/// Share of the stacks with a proven root, in percent.
const ROOTED_PERCENT: f64 = 99.0;
const RESIDENT_MB: f64 = 80.0;
const KERNEL_MB: f64 = 64.0;
/// Modules named that stacks end in.
const MAX_MODULES: usize = 8;

pub(super) fn run(binaries: &Binaries, interrupt: &Interrupt) -> Result<()> {
    if let Err(error) = TORCH.make(&interpreters::all()) {
        println!("\ntorch: not measured, because it cannot be had: {error:#}");
        return Ok(());
    }
    let mut program = Command::new(TORCH.program("python"));
    program.arg(workspace::root().join(PROGRAM));
    let program = Running::start(program.stdin(Stdio::null()).stdout(Stdio::null()))?;
    let session = Session::start(binaries, SHORT_WINDOWS, interrupt)?;
    session.wait_until_walked(program.pid())?;
    for seconds in RECORDING_SECONDS {
        let (pid, duration) = (program.pid().to_string(), format!("{seconds}s"));
        let arguments = ["flamegraph", "--pid", &pid, "--duration", &duration];
        let profile = session.cli_output(&[&arguments[..], &["--format", "json", "-o", "-"]].concat())?;
        print(
            &serde_json::from_str(&profile).context("the profile is no JSON")?,
            seconds,
        )?;
    }
    let usage = Usage::read(Path::new("/proc"), session.daemon_pid())?;
    report::head("torch: what it takes");
    report::fact("rows", "MB", usage.row_bytes as f64 / 1e6);
    report::at_most("BPF memory", "MB", usage.kernel_bytes as f64 / 1e6, KERNEL_MB);
    report::at_most(
        "RssAnon + RssShmem",
        "MB",
        usage.resident_bytes as f64 / 1e6,
        RESIDENT_MB,
    );
    session.cli(&["ps", "--pid", &program.pid().to_string()])
}

fn print(profile: &Value, seconds: u32) -> Result<()> {
    let quality = &profile["quality"];
    let count = |value: &Value| value.as_u64().map(|count| count as f64);
    let samples = count(&quality["samples"]).context("the profile counts no samples")?;
    report::head(&format!("torch: {samples} samples in {seconds} s"));
    let percent = |count: f64| count * 100.0 / samples;
    let rooted = count(&quality["rooted"]).context("the profile counts no roots")?;
    report::at_least("stacks with a proven root", "%", percent(rooted), ROOTED_PERCENT);
    for (reason, stopped) in quality["stopped"].as_object().into_iter().flatten() {
        report::fact(reason, "%", percent(count(stopped).unwrap_or_default()));
    }
    let python = count(&quality["python"]["with_frames"]).unwrap_or_default();
    report::fact("with Python frames", "%", percent(python));
    for (module, ended) in outermost(profile).into_iter().take(MAX_MODULES) {
        report::fact(&format!("stacks that end in {module}"), "%", percent(ended as f64));
    }
    Ok(())
}

/// Samples by the module of their outermost frame, the most first.
fn outermost(profile: &Value) -> Vec<(&str, u64)> {
    let mut by_module = BTreeMap::<_, u64>::new();
    for node in profile["nodes"].as_array().into_iter().flatten() {
        let frame = node["frame"].as_u64().and_then(|frame| usize::try_from(frame).ok());
        if let (true, Some(frame)) = (node["parent"].is_null(), frame) {
            let module = profile["frames"][frame]["module"].as_str().unwrap_or_default();
            *by_module.entry(module).or_default() += node["total"].as_u64().unwrap_or_default();
        }
    }
    let mut modules: Vec<_> = by_module.into_iter().collect();
    modules.sort_by_key(|(_, samples)| std::cmp::Reverse(*samples));
    modules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_told_by_where_their_stacks_end() {
        let node = |parent: Option<u32>, frame, total| serde_json::json!({"parent": parent, "process": 0, "frame": frame, "self": 0, "total": total});
        let profile = serde_json::json!({
            "frames": [{"module": "libc.so.6"}, {"module": "libtorch_cpu.so"}, {"module": "libc.so.6"}],
            "nodes": [node(None, 0, 5), node(Some(0), 1, 4), node(None, 1, 9), node(None, 2, 6)],
        });
        assert_eq!(outermost(&profile), [("libc.so.6", 11), ("libtorch_cpu.so", 9)]);
        assert!(outermost(&serde_json::json!({})).is_empty());
    }
}
