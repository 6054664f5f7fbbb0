//! `status`: what the daemon does, what it lost and what it costs.

mod document;
mod mapped;

use std::{
    collections::BTreeMap,
    io::{self, Write},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anstyle::Style;
use profiler_proto::v1::{
    ApiStatus, BudgetState, BudgetStatus, Cost, GetStatusResponse, MemoryProfileStatus, PartState, ReadingsStatus,
    SamplingStatus, StoreStatus,
};

use self::document::Document;
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
        PartState::Late => "late",
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
        PartState::Unsupported | PartState::Failed | PartState::Late | PartState::Unspecified => BAD_STYLE,
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
    let mut table = Table::new(["PART", "STATE", "WHY"].map(Cell::text).to_vec());
    for part in &status.parts {
        table.row(vec![
            Cell::text(&part.name),
            Cell::text(state_name(part.state())).styled(state_style(part.state())),
            Cell::long(&part.reason),
        ]);
        if !part.remedy.is_empty() {
            table.row(vec![Cell::text(""), Cell::text(""), Cell::long(&part.remedy)]);
        }
    }
    table.write(out)?;
    if let Some(sampling) = &status.sampling {
        write_sampling(out, sampling)?;
    }
    if let Some(memory) = &status.memory_profile {
        write_memory_profile(out, memory)?;
    }
    if let Some(calls) = &status.mapped_calls {
        mapped::write(out, calls)?;
    }
    if let Some(cost) = &status.cost {
        write_cost(out, cost, up)?;
    }
    if let Some(budget) = &status.budget {
        write_budget(out, budget)?;
    }
    if let Some(store) = &status.store {
        write_store(out, store)?;
    }
    if let Some(readings) = &status.readings {
        write_readings(out, readings, up)?;
    }
    if let Some(api) = status.api {
        write_api(out, api)?;
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
    let configured = sampling.sample_hz;
    let rate = match sampling.effective_hz {
        // A daemon that does not tell samples as configured; a period in whole nanoseconds is none of so many a second.
        hz if hz <= 0.0 || (hz / f64::from(configured) - 1.0).abs() < 0.01 => configured.to_string(),
        hz => format!("{hz:.1} of {configured} configured"),
    };
    writeln!(
        out,
        "  rate          {rate} samples/s on each CPU, walker loop {walker_loop}"
    )?;
    let share = percent(sampling.runs, sampling.expected_runs);
    writeln!(
        out,
        "  runs          {} of {} expected ({share})",
        thousands(sampling.runs),
        thousands(sampling.expected_runs)
    )?;
    writeln!(
        out,
        "  missed ticks  {} never ran: throttled, or the virtual CPU stood still",
        thousands(sampling.missed_ticks)
    )?;
    write_counts(out, "outcomes", &sampling.run_outcomes)?;
    write_counts(out, "stacks end by", &sampling.stop_reasons)?;
    if !sampling.python_stop_reasons.is_empty() {
        write_counts(out, "Python stacks end by", &sampling.python_stop_reasons)?;
    }
    if !sampling.python_processes.is_empty() {
        write_counts(out, "Python processes", &sampling.python_processes)?;
    }
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

fn write_memory_profile(out: &mut impl Write, memory: &MemoryProfileStatus) -> io::Result<()> {
    heading(out, "Memory profile")?;
    let lost = total(&memory.lost);
    writeln!(
        out,
        "  page faults   {} of watched processes, {} delivered, {} lost",
        thousands(memory.faults),
        thousands(memory.delivered),
        thousands(lost)
    )?;
    writeln!(
        out,
        "  pages         {} of {} processes, {} stacks, {} given up for others that count for more",
        thousands(memory.pages),
        thousands(memory.processes),
        thousands(memory.stacks),
        thousands(memory.thinned_pages)
    )?;
    let state = if memory.attached { "attached" } else { "not attached" };
    write!(out, "  programs      {state}")?;
    if memory.runs > 0 {
        let time = span(memory.time);
        let per_run_us = time.as_secs_f64() * 1e6 / memory.runs as f64;
        let runs = thousands(memory.runs);
        write!(
            out,
            ", {} of CPU in {runs} runs, {per_run_us:.2} µs each",
            span_text(time)
        )?;
    }
    writeln!(out)
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
    if cost.kernel_runs > 0 {
        let source = if cost.kernel_cpu_from_statistics {
            "the kernel's statistics of all programs"
        } else {
            "the sampling program's own clock, without its entry"
        };
        writeln!(out, "                measured by {source}")?;
    }
    let resident = cost.resident_anon_bytes.saturating_add(cost.resident_shmem_bytes);
    writeln!(
        out,
        "  memory        {} in the daemon, {} in the kernel",
        bytes_text(resident),
        bytes_text(cost.kernel_bytes)
    )?;
    if cost.possible_cpus > 0 {
        writeln!(
            out,
            "                of that in the kernel {} for each of {} CPUs",
            bytes_text(cost.kernel_bytes_per_cpu),
            cost.possible_cpus
        )?;
    }
    if cost.max_descriptors > 0 {
        let (open, most) = (u64::from(cost.descriptors), u64::from(cost.max_descriptors));
        writeln!(out, "  descriptors   {} of {}", thousands(open), thousands(most))?;
    }
    Ok(())
}

/// The name of the state of the budget.
fn budget_name(state: BudgetState) -> &'static str {
    match state {
        BudgetState::Within => "within",
        BudgetState::Shedding => "shedding",
        BudgetState::Exhausted => "exhausted",
        BudgetState::Unspecified => "unknown",
    }
}

fn write_budget(out: &mut impl Write, budget: &BudgetStatus) -> io::Result<()> {
    heading(out, "Budget")?;
    let style = match budget.state() {
        BudgetState::Within => GOOD_STYLE,
        _ => BAD_STYLE,
    };
    write!(out, "  state         {style}{}{style:#}", budget_name(budget.state()))?;
    if let Some(since) = budget.since.and_then(|time| SystemTime::try_from(time).ok()) {
        write!(out, " since {}", time_text(since))?;
    }
    if !budget.reason.is_empty() {
        write!(out, ": {}", printable(&budget.reason, MAX_TEXT_BYTES))?;
    }
    writeln!(out)?;
    for step in budget.shed.iter().take(MAX_REASONS) {
        writeln!(out, "  given up      {}", printable(step, MAX_TEXT_BYTES))?;
    }
    writeln!(
        out,
        "  steps         {} given up, {} taken back",
        thousands(budget.sheddings),
        thousands(budget.recoveries)
    )?;
    writeln!(
        out,
        "  of its caps   CPU {:.2} of {:.2} % of the host, memory {} of {}, in the kernel {} of {}",
        budget.cpu_percent,
        budget.max_cpu_percent,
        bytes_text(budget.memory_bytes),
        bytes_text(budget.max_memory_bytes),
        bytes_text(budget.kernel_bytes),
        bytes_text(budget.max_kernel_bytes)
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
    writeln!(out)?;
    writeln!(
        out,
        "  dropped       {} at the end of their time, {} for want of room, {} too large",
        thousands(store.dropped_by_age),
        thousands(store.dropped_by_bytes),
        thousands(store.dropped_too_large)
    )
}

fn write_readings(out: &mut impl Write, readings: &ReadingsStatus, up: Option<Duration>) -> io::Result<()> {
    heading(out, "Readings")?;
    writeln!(
        out,
        "  series        {} of {} subjects in {} of {}",
        thousands(readings.series),
        thousands(readings.subjects),
        bytes_text(readings.bytes),
        bytes_text(readings.capacity_bytes)
    )?;
    let cpu = span(readings.cpu);
    write!(
        out,
        "  rounds        {}, {} missed, {} of CPU",
        thousands(readings.rounds),
        thousands(readings.missed_rounds),
        span_text(cpu)
    )?;
    if let Some(up) = up.filter(|up| !up.is_zero()) {
        write!(
            out,
            " ({:.2} % of one CPU)",
            100.0 * cpu.as_secs_f64() / up.as_secs_f64()
        )?;
    }
    writeln!(out)?;
    writeln!(
        out,
        "  dropped       {} subjects, {} runs of old values and {} values for want of room, {} invalid",
        thousands(readings.dropped_subjects),
        thousands(readings.dropped_runs),
        thousands(readings.refused_values),
        thousands(readings.invalid_values)
    )
}

fn write_api(out: &mut impl Write, api: ApiStatus) -> io::Result<()> {
    heading(out, "API")?;
    writeln!(out, "  connections   {}", api.connections)?;
    writeln!(
        out,
        "  refused       {} connections, {} watches, {} commands",
        thousands(api.refused_connections),
        thousands(api.refused_watches),
        thousands(api.refused_commands)
    )
}

/// A span; nothing if it is missing or negative.
fn span(message: Option<prost_types::Duration>) -> Duration {
    message
        .and_then(|span| Duration::try_from(span).ok())
        .unwrap_or_default()
}
