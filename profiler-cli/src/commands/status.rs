//! `status`: what the daemon does, what it lost and what it costs.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anstyle::Style;
use profiler_proto::v1::{Cost, GetStatusResponse, Part, PartState, SamplingStatus, StoreStatus};
use serde::Serialize;

use crate::{
    args::{Connection, StatusArgs},
    commands::connect,
    error::CliError,
    output::{
        BAD_STYLE, Cell, GOOD_STYLE, HEADING_STYLE, NOTE_STYLE, Table, bytes_text, percent, printable, thousands,
        write_json,
    },
    span::{span_text, time_text},
};

/// Most bytes shown of one text.
const MAX_TEXT_BYTES: usize = 300;
/// Reasons shown of one count; JSON has them all.
const MAX_REASONS: usize = 24;

/// Reports on the daemon.
pub(crate) async fn run(connection: &Connection, args: &StatusArgs) -> Result<ExitCode, CliError> {
    let status = connect(connection).await?.get_status().await?;
    if args.json {
        write_json(&Document::from(&status))?;
    } else {
        write_report(&mut anstream::stdout().lock(), &status, SystemTime::now())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The name of a part's state.
pub(crate) fn state_name(state: PartState) -> &'static str {
    match state {
        PartState::Active => "active",
        PartState::Disabled => "disabled",
        PartState::Unsupported => "unsupported",
        PartState::Failed => "failed",
        PartState::Unspecified => "unknown",
    }
}

/// The sum of counts by reason.
pub(crate) fn total(counts: &BTreeMap<String, u64>) -> u64 {
    counts.values().fold(0, |sum, count| sum.saturating_add(*count))
}

fn state_style(state: PartState) -> Style {
    match state {
        PartState::Active => GOOD_STYLE,
        PartState::Disabled => NOTE_STYLE,
        PartState::Unsupported | PartState::Failed | PartState::Unspecified => BAD_STYLE,
    }
}

fn write_report(out: &mut impl Write, status: &GetStatusResponse, now: SystemTime) -> io::Result<()> {
    let up = uptime(status, now);
    write!(out, "profiler-daemon {}", printable(&status.version, MAX_TEXT_BYTES))?;
    write!(out, " on Linux {}", printable(&status.kernel_release, MAX_TEXT_BYTES))?;
    if let Some(up) = up {
        write!(out, ", up {}", span_text(up))?;
    }
    writeln!(out, ", {} watched", status.watched_processes)?;
    writeln!(out)?;
    let headings = ["PART", "STATE", "WHY", "WHAT TO DO"];
    let mut table = Table::new(headings.map(Cell::text).to_vec());
    for part in &status.parts {
        table.row(vec![
            Cell::text(&part.name),
            Cell::text(state_name(part.state())).styled(state_style(part.state())),
            Cell::text(&part.reason),
            Cell::text(&part.remedy),
        ]);
    }
    table.write(out)?;
    if let Some(sampling) = &status.sampling {
        write_sampling(out, sampling)?;
    }
    if let Some(cost) = &status.cost {
        write_cost(out, cost, up)?;
    }
    if let Some(store) = &status.store {
        write_store(out, store)?;
    }
    Ok(())
}

fn uptime(status: &GetStatusResponse, now: SystemTime) -> Option<Duration> {
    let start = SystemTime::try_from(status.start_time?).ok()?;
    now.duration_since(start).ok()
}

fn heading(out: &mut impl Write, title: &str) -> io::Result<()> {
    writeln!(out, "\n{HEADING_STYLE}{title}{HEADING_STYLE:#}")
}

fn write_sampling(out: &mut impl Write, sampling: &SamplingStatus) -> io::Result<()> {
    heading(out, "Sampling")?;
    if sampling.sample_hz == 0 {
        return writeln!(out, "  nothing is sampled");
    }
    let walker_loop = printable(&sampling.walker_loop, MAX_TEXT_BYTES);
    writeln!(
        out,
        "  rate          {} samples/s on each CPU, walker loop {walker_loop}",
        sampling.sample_hz
    )?;
    let share = percent(sampling.runs, sampling.expected_runs);
    writeln!(
        out,
        "  runs          {} of {} expected ({share})",
        thousands(sampling.runs),
        thousands(sampling.expected_runs)
    )?;
    write_counts(out, "outcomes", &sampling.run_outcomes)?;
    write_counts(out, "stacks end by", &sampling.stop_reasons)?;
    write_counts(out, "lost", &sampling.lost)?;
    writeln!(
        out,
        "  lifecycle     {} records, {} lost",
        thousands(sampling.lifecycle_records),
        thousands(sampling.lifecycle_lost)
    )
}

/// One line a reason, the most frequent first.
fn write_counts(out: &mut impl Write, title: &str, counts: &BTreeMap<String, u64>) -> io::Result<()> {
    let sum = total(counts);
    writeln!(out, "  {title:<13} {}", thousands(sum))?;
    let mut sorted: Vec<_> = counts.iter().filter(|(_, count)| **count > 0).collect();
    sorted.sort_by(|left, right| right.1.cmp(left.1).then_with(|| left.0.cmp(right.0)));
    for (reason, count) in sorted.iter().take(MAX_REASONS) {
        let reason = printable(reason, MAX_TEXT_BYTES);
        writeln!(
            out,
            "    {:>15}  {:>7}  {reason}",
            thousands(**count),
            percent(**count, sum)
        )?;
    }
    if sorted.len() > MAX_REASONS {
        writeln!(out, "    and {} more, in --json", sorted.len() - MAX_REASONS)?;
    }
    Ok(())
}

fn write_cost(out: &mut impl Write, cost: &Cost, up: Option<Duration>) -> io::Result<()> {
    heading(out, "Cost")?;
    let share = |used: Duration| match up {
        Some(up) if !up.is_zero() => format!(" ({:.2} % of one CPU)", 100.0 * used.as_secs_f64() / up.as_secs_f64()),
        _ => String::new(),
    };
    let daemon = span(cost.daemon_cpu);
    writeln!(out, "  daemon        {} of CPU{}", span_text(daemon), share(daemon))?;
    let kernel = span(cost.kernel_cpu);
    write!(out, "  kernel        {} of CPU{}", span_text(kernel), share(kernel))?;
    if cost.kernel_runs > 0 {
        let per_run_us = kernel.as_secs_f64() * 1e6 / cost.kernel_runs as f64;
        write!(out, " in {} runs, {per_run_us:.2} µs each", thousands(cost.kernel_runs))?;
    }
    writeln!(out)?;
    let resident = cost.resident_anon_bytes.saturating_add(cost.resident_shmem_bytes);
    writeln!(
        out,
        "  memory        {} in the daemon, {} in the kernel",
        bytes_text(resident),
        bytes_text(cost.kernel_bytes)
    )
}

fn write_store(out: &mut impl Write, store: &StoreStatus) -> io::Result<()> {
    heading(out, "Store")?;
    write!(
        out,
        "  windows       {} in {} of {}",
        thousands(store.windows),
        bytes_text(store.bytes),
        bytes_text(store.capacity_bytes)
    )?;
    if let Some(oldest) = store.oldest_time.and_then(|time| SystemTime::try_from(time).ok()) {
        write!(out, ", since {}", time_text(oldest))?;
    }
    writeln!(out)
}

/// A span; nothing if it is missing or negative.
fn span(message: Option<prost_types::Duration>) -> Duration {
    message
        .and_then(|span| Duration::try_from(span).ok())
        .unwrap_or_default()
}

#[derive(Serialize)]
struct Document<'a> {
    version: &'a str,
    start_time: Option<String>,
    kernel_release: &'a str,
    watched_processes: u32,
    parts: Vec<PartDocument<'a>>,
    sampling: SamplingDocument,
    cost: CostDocument,
    store: StoreDocument,
}

#[derive(Serialize)]
struct PartDocument<'a> {
    name: &'a str,
    state: &'static str,
    reason: &'a str,
    remedy: &'a str,
}

#[derive(Serialize)]
struct SamplingDocument {
    sample_hz: u32,
    walker_loop: String,
    expected_runs: u64,
    runs: u64,
    run_outcomes: BTreeMap<String, u64>,
    lost: BTreeMap<String, u64>,
    lifecycle_records: u64,
    lifecycle_lost: u64,
    stop_reasons: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct CostDocument {
    daemon_cpu_seconds: f64,
    kernel_cpu_seconds: f64,
    kernel_runs: u64,
    resident_anon_bytes: u64,
    resident_shmem_bytes: u64,
    kernel_bytes: u64,
}

#[derive(Serialize)]
struct StoreDocument {
    windows: u64,
    bytes: u64,
    capacity_bytes: u64,
    oldest_time: Option<String>,
}

impl<'a> From<&'a GetStatusResponse> for Document<'a> {
    fn from(status: &'a GetStatusResponse) -> Self {
        let part = |part: &'a Part| PartDocument {
            name: &part.name,
            state: state_name(part.state()),
            reason: &part.reason,
            remedy: &part.remedy,
        };
        Self {
            version: &status.version,
            start_time: status.start_time.map(|time| time.to_string()),
            kernel_release: &status.kernel_release,
            watched_processes: status.watched_processes,
            parts: status.parts.iter().map(part).collect(),
            sampling: status.sampling.clone().unwrap_or_default().into(),
            cost: status.cost.unwrap_or_default().into(),
            store: status.store.unwrap_or_default().into(),
        }
    }
}

impl From<SamplingStatus> for SamplingDocument {
    fn from(sampling: SamplingStatus) -> Self {
        Self {
            sample_hz: sampling.sample_hz,
            walker_loop: sampling.walker_loop,
            expected_runs: sampling.expected_runs,
            runs: sampling.runs,
            run_outcomes: sampling.run_outcomes,
            lost: sampling.lost,
            lifecycle_records: sampling.lifecycle_records,
            lifecycle_lost: sampling.lifecycle_lost,
            stop_reasons: sampling.stop_reasons,
        }
    }
}

impl From<Cost> for CostDocument {
    fn from(cost: Cost) -> Self {
        Self {
            daemon_cpu_seconds: span(cost.daemon_cpu).as_secs_f64(),
            kernel_cpu_seconds: span(cost.kernel_cpu).as_secs_f64(),
            kernel_runs: cost.kernel_runs,
            resident_anon_bytes: cost.resident_anon_bytes,
            resident_shmem_bytes: cost.resident_shmem_bytes,
            kernel_bytes: cost.kernel_bytes,
        }
    }
}

impl From<StoreStatus> for StoreDocument {
    fn from(store: StoreStatus) -> Self {
        Self {
            windows: store.windows,
            bytes: store.bytes,
            capacity_bytes: store.capacity_bytes,
            oldest_time: store.oldest_time.map(|time| time.to_string()),
        }
    }
}
