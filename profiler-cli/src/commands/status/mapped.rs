//! What `status` tells of exact stacks of calls for memory.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use profiler_proto::v1::MappedCallsStatus;
use serde::Serialize;

use super::{heading, span, total, write_counts};
use crate::{output::thousands, span::span_text};

/// Writes what was taken, and what it costs. Nothing if nobody has ever asked.
pub(super) fn write(out: &mut impl Write, calls: &MappedCallsStatus) -> io::Result<()> {
    if calls.pid == 0 && calls.seen == 0 && calls.runs == 0 {
        return Ok(());
    }
    heading(out, "Exact stacks of calls for memory")?;
    match calls.pid {
        0 => writeln!(out, "  taken of      no process: the program is not in the kernel")?,
        pid => writeln!(
            out,
            "  taken of      process {pid}, at the end of each system call on the host"
        )?,
    }
    writeln!(
        out,
        "  calls         {} seen, {} delivered",
        thousands(calls.seen),
        thousands(calls.delivered)
    )?;
    if total(&calls.lost) > 0 {
        write_counts(out, "lost", &calls.lost)?;
    }
    if calls.runs > 0 {
        let time = span(calls.time);
        let per_run_ns = time.as_secs_f64() * 1e9 / calls.runs as f64;
        writeln!(
            out,
            "  program       {} of CPU in {} runs, {per_run_ns:.0} ns each",
            span_text(time),
            thousands(calls.runs)
        )?;
    }
    Ok(())
}

/// The same as JSON.
#[derive(Serialize)]
pub(super) struct MappedCallsDocument {
    /// None if nobody asks.
    pid: Option<u32>,
    seen: u64,
    delivered: u64,
    lost: BTreeMap<String, u64>,
    runs: u64,
    seconds: f64,
}

impl From<MappedCallsStatus> for MappedCallsDocument {
    fn from(calls: MappedCallsStatus) -> Self {
        Self {
            pid: (calls.pid != 0).then_some(calls.pid),
            seen: calls.seen,
            delivered: calls.delivered,
            lost: calls.lost,
            runs: calls.runs,
            seconds: span(calls.time).as_secs_f64(),
        }
    }
}
