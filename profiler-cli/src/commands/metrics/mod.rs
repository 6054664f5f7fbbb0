//! `metrics`: what the host, its services and processes measure: now, over a span, or as it comes.

mod document;
mod value;

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _, Write},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use profiler_proto::v1::{
    GetRangeRequest, GetRangeResponse, MetricDescription, MetricKind, Reading, ReadingSelector, Scope, Series, Subject,
    Unit,
};

pub(super) use self::value::value_text;
use self::{
    document::{ListDocument, RangeDocument, SnapshotDocument},
    value::sparkline,
};
use crate::{
    args::{Connection, MetricsArgs},
    client::{self, Client},
    commands::connect,
    error::CliError,
    output::{CLEAR_SCREEN, Cell, NOTE_STYLE, Table, printable, thousands, write_json},
    span::time_text,
};

/// What is shown where nothing is named: the readings that tell most, in place of a hundred.
const HEADLINES: &[&str] = &[
    "host_cpu_busy_ratio",
    "host_cpu_pressure_ratio",
    "host_load1",
    "host_memory_used_ratio",
    "host_memory_pressure_ratio",
    "host_swap_used_ratio",
    "host_io_pressure_ratio",
    "disk_busy_ratio",
    "network_received_bytes_total",
    "network_sent_bytes_total",
    "filesystem_used_ratio",
    "service_cpu_cores",
    "service_memory_bytes",
    "service_memory_limit_ratio",
    "gpu_utilization_ratio",
    "gpu_memory_used_ratio",
];
/// Steps of a span that its line of bars shows.
const BARS: u32 = 24;
/// Shortest step that the daemon knows.
const MIN_STEP: Duration = Duration::from_secs(1);
/// Quantiles of a span.
const QUANTILES: [f64; 2] = [0.5, 0.99];
/// Most bytes shown of the name of a subject.
const MAX_NAME_BYTES: usize = 40;

/// The metrics that the daemon knows, by name.
type Known = BTreeMap<String, MetricDescription>;

/// Shows readings.
pub(crate) async fn run(connection: &Connection, args: &MetricsArgs) -> Result<ExitCode, CliError> {
    let client = connect(connection).await?;
    let metrics = client.list_metrics().await?;
    if args.list {
        return list(args, &metrics);
    }
    let known: Known = metrics
        .into_iter()
        .map(|metric| (metric.name.clone(), metric))
        .collect();
    let selector = selector(args, &known)?;
    match args.last {
        Some(last) => range(&client, args, selector, last, &known).await,
        None if args.watch => watch(&client, args, selector, &known).await,
        None => snapshot(&client, args, selector, &known).await,
    }
}

fn list(args: &MetricsArgs, metrics: &[MetricDescription]) -> Result<ExitCode, CliError> {
    if args.json {
        write_json(&ListDocument::from(metrics))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(vec![
        Cell::text("METRIC"),
        Cell::text("OF"),
        Cell::number("SERIES".to_owned()),
        Cell::text("WHAT"),
    ]);
    for metric in metrics {
        table.row(vec![
            Cell::text(&metric.name),
            Cell::text(scope_name(metric.scope())),
            Cell::number(thousands(metric.series.into())),
            Cell::long(&metric.help),
        ]);
    }
    table.write(&mut anstream::stdout().lock())?;
    Ok(ExitCode::SUCCESS)
}

/// Which series the arguments mean. A name that is none is taken as the beginning of several.
fn selector(args: &MetricsArgs, known: &Known) -> Result<ReadingSelector, CliError> {
    let mut metrics = Vec::new();
    for name in &args.names {
        if known.contains_key(name) {
            metrics.push(name.clone());
            continue;
        }
        let before = metrics.len();
        metrics.extend(known.keys().filter(|known| known.starts_with(name.as_str())).cloned());
        if metrics.len() == before || name.is_empty() {
            return Err(CliError::Usage {
                message: format!("no metric is called {name:?} or begins so; `profiler-cli metrics --list` lists them"),
            });
        }
    }
    let is_narrowed = args.service.is_some() || args.pid.is_some() || args.subject.is_some() || !args.scope.is_empty();
    if metrics.is_empty() && !is_narrowed {
        let headlines = HEADLINES.iter().filter(|name| known.contains_key(**name));
        metrics.extend(headlines.map(ToString::to_string));
    }
    Ok(ReadingSelector {
        metrics,
        scopes: args.scope.iter().map(|scope| Scope::from(*scope).into()).collect(),
        service: args.service.clone().unwrap_or_default(),
        pid: args.pid.unwrap_or_default(),
        subject: args.subject.clone().unwrap_or_default(),
    })
}

async fn snapshot(
    client: &Client,
    args: &MetricsArgs,
    selector: ReadingSelector,
    known: &Known,
) -> Result<ExitCode, CliError> {
    let snapshot = client.get_snapshot(selector).await?;
    if snapshot.readings.is_empty() {
        return Err(no_readings(args));
    }
    if args.json {
        write_json(&SnapshotDocument::new(snapshot.time, &snapshot.readings, known))?;
    } else {
        write_snapshot(&mut anstream::stdout().lock(), &snapshot.readings, known)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows snapshots until the daemon or the user ends it.
async fn watch(
    client: &Client,
    args: &MetricsArgs,
    selector: ReadingSelector,
    known: &Known,
) -> Result<ExitCode, CliError> {
    let mut stream = client.watch_readings(selector, args.interval).await?;
    let is_terminal = io::stdout().is_terminal();
    loop {
        let message = stream.message().await.map_err(|status| client::refusal(&status))?;
        let Some(message) = message else {
            return Ok(ExitCode::SUCCESS);
        };
        if args.json {
            let mut out = io::stdout().lock();
            serde_json::to_writer(&mut out, &SnapshotDocument::new(message.time, &message.readings, known))?;
            writeln!(out)?;
            out.flush()?;
            continue;
        }
        let mut out = anstream::stdout().lock();
        if is_terminal {
            write!(out, "{CLEAR_SCREEN}")?;
        }
        let time = message.time.and_then(|time| SystemTime::try_from(time).ok());
        writeln!(
            out,
            "{NOTE_STYLE}{}{NOTE_STYLE:#}",
            time.map(time_text).unwrap_or_default()
        )?;
        if message.readings.is_empty() {
            writeln!(out, "no readings")?;
        } else {
            write_snapshot(&mut out, &message.readings, known)?;
        }
        if !is_terminal {
            writeln!(out)?;
        }
        out.flush()?;
    }
}

async fn range(
    client: &Client,
    args: &MetricsArgs,
    selector: ReadingSelector,
    last: Duration,
    known: &Known,
) -> Result<ExitCode, CliError> {
    let start = SystemTime::now().checked_sub(last);
    let step = (last / BARS).max(MIN_STEP);
    let request = GetRangeRequest {
        selector: Some(selector),
        start_time: start.map(Into::into),
        end_time: None,
        step: prost_types::Duration::try_from(step).ok(),
        quantiles: QUANTILES.to_vec(),
    };
    let range = client.get_range(request).await?;
    if range.series.is_empty() {
        return Err(no_readings(args));
    }
    if args.json {
        write_json(&RangeDocument::new(&range, &QUANTILES, known))?;
    } else {
        write_range(&mut anstream::stdout().lock(), &range, known)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn no_readings(args: &MetricsArgs) -> CliError {
    let of = match (&args.service, args.pid, &args.subject) {
        (Some(service), _, _) => format!(" of the service {service:?}"),
        (None, Some(pid), _) => format!(" of process {pid}"),
        (None, None, Some(subject)) => format!(" of {subject:?}"),
        (None, None, None) => String::new(),
    };
    CliError::NoReadings { of }
}

fn write_snapshot(out: &mut impl Write, readings: &[Reading], known: &Known) -> io::Result<()> {
    let mut table = Table::new(vec![
        Cell::text("SUBJECT"),
        Cell::text("METRIC"),
        Cell::number("VALUE".to_owned()),
        Cell::number("TOTAL".to_owned()),
    ]);
    for reading in readings {
        let (unit, is_counter) = described(&reading.metric, known);
        // Of a counter its rate says more.
        let (value, total) = if is_counter {
            let rate = reading.rate.map(|rate| value_text(unit, rate, true));
            (rate.unwrap_or_default(), value_text(unit, reading.value, false))
        } else {
            (value_text(unit, reading.value, false), String::new())
        };
        table.row(vec![
            Cell::text(&subject_text(reading.subject.as_ref())),
            Cell::text(&reading.metric),
            Cell::number(value),
            Cell::number(total),
        ]);
    }
    table.write(out)
}

fn write_range(out: &mut impl Write, range: &GetRangeResponse, known: &Known) -> io::Result<()> {
    let mut headings = vec![Cell::text("SUBJECT"), Cell::text("METRIC")];
    headings.extend(["MIN", "MEAN", "P50", "P99", "MAX", "LAST"].map(|heading| Cell::number(heading.to_owned())));
    headings.push(Cell::text("TREND"));
    let mut table = Table::new(headings);
    for series in &range.series {
        table.row(range_row(series, known));
    }
    table.write(out)
}

fn range_row(series: &Series, known: &Known) -> Vec<Cell> {
    let (unit, is_counter) = described(&series.metric, known);
    let least = series.steps.iter().map(|step| step.min).fold(f64::INFINITY, f64::min);
    let most = series
        .steps
        .iter()
        .map(|step| step.max)
        .fold(f64::NEG_INFINITY, f64::max);
    let readings: f64 = series.steps.iter().map(|step| f64::from(step.readings)).sum();
    let sum: f64 = series
        .steps
        .iter()
        .map(|step| step.mean * f64::from(step.readings))
        .sum();
    let last = series.steps.last().map(|step| step.last);
    let values = [
        Some(least),
        (readings > 0.0).then(|| sum / readings),
        series.quantiles.first().copied(),
        series.quantiles.get(1).copied(),
        Some(most),
        last,
    ];
    let bars: Vec<(u32, f64)> = series.steps.iter().map(|step| (step.index, step.mean)).collect();
    let mut row = vec![
        Cell::text(&subject_text(series.subject.as_ref())),
        Cell::text(&series.metric),
    ];
    row.extend(values.map(|value| {
        let value = value.filter(|value| value.is_finite());
        Cell::number(
            value
                .map(|value| value_text(unit, value, is_counter))
                .unwrap_or_default(),
        )
    }));
    row.push(Cell::long(&sparkline(&bars, BARS)));
    row
}

/// Unit and whether it only goes up. A metric of a newer daemon is shown as a plain number.
fn described(metric: &str, known: &Known) -> (Unit, bool) {
    match known.get(metric) {
        Some(metric) => (metric.unit(), metric.kind() == MetricKind::Counter),
        None => (Unit::Unspecified, false),
    }
}

/// Whom a reading is about: `host`, `disk sda`, `process 42 python`.
fn subject_text(subject: Option<&Subject>) -> String {
    let Some(subject) = subject else { return String::new() };
    let name = printable(&subject.name, MAX_NAME_BYTES);
    let scope = scope_name(subject.scope());
    match subject.scope() {
        Scope::Host => scope.to_owned(),
        Scope::Process if name.is_empty() => format!("{scope} {}", subject.pid),
        Scope::Process => format!("{scope} {} {name}", subject.pid),
        _ => format!("{scope} {name}"),
    }
}

pub(super) fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::Host => "host",
        Scope::Core => "core",
        Scope::Disk => "disk",
        Scope::Network => "network",
        Scope::Filesystem => "filesystem",
        Scope::Service => "service",
        Scope::Process => "process",
        Scope::ControlGroup => "cgroup",
        Scope::Gpu => "gpu",
        Scope::Unspecified => "unknown",
    }
}

fn unit_name(unit: Unit) -> &'static str {
    match unit {
        Unit::Ratio => "ratio",
        Unit::Bytes => "bytes",
        Unit::Seconds => "seconds",
        Unit::Cores => "cores",
        Unit::Count => "count",
        Unit::Celsius => "celsius",
        Unit::Watts => "watts",
        Unit::Joules => "joules",
        Unit::Hertz => "hertz",
        Unit::BytesPerHour => "bytes_per_hour",
        Unit::Unspecified => "unknown",
    }
}
