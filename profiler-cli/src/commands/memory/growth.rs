//! `memory growth`: whose memory grows, how fast, and for how long what is left lasts.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use profiler_proto::v1::{GrowthPace, ListGrowthRequest, MemoryGrowth, MemoryRoom, MemoryTrend, RoomLimit, Scope};
use serde::Serialize;

use crate::{
    args::{Connection, GrowthArgs},
    commands::{connect, metrics::scope_name},
    error::CliError,
    output::{BAD_STYLE, Cell, NOTE_STYLE, Table, bytes_text, printable, write_json},
    span::span_text,
};

/// Most bytes shown of a name.
const MAX_NAME_BYTES: usize = 40;
/// What lasts for longer is not worth a figure.
const LONG: Duration = Duration::from_secs(365 * 86_400);
/// Verdicts need so many minutes.
const MINUTES_NEEDED: u64 = 29;

/// Shows verdicts.
pub(super) async fn run(connection: &Connection, args: &GrowthArgs) -> Result<ExitCode, CliError> {
    let request = ListGrowthRequest {
        service: args.service.clone().unwrap_or_default(),
        pid: args.pid.unwrap_or_default(),
    };
    let all = connect(connection).await?.list_growth(request).await?;
    if let Some(error) = nothing(args, &all) {
        return Err(error);
    }
    let is_narrowed = args.pid.is_some() || args.service.is_some();
    let (shown, left_out): (Vec<&MemoryGrowth>, Vec<&MemoryGrowth>) = all
        .iter()
        .partition(|growth| args.all || is_narrowed || is_service(growth) || changes(growth));
    if args.json {
        write_json(&GrowthDocument::new(&shown))?;
        return Ok(ExitCode::SUCCESS);
    }
    write_report(&mut anstream::stdout().lock(), &shown, left_out.len())?;
    Ok(ExitCode::SUCCESS)
}

/// Why there is nothing to show.
fn nothing(args: &GrowthArgs, all: &[MemoryGrowth]) -> Option<CliError> {
    let of = match (&args.service, args.pid) {
        _ if !all.is_empty() => return None,
        (Some(service), _) => format!(" of the service {service:?}"),
        (None, Some(pid)) => format!(" of process {pid}"),
        (None, None) => String::new(),
    };
    Some(CliError::NoReadings { of })
}

fn is_service(growth: &MemoryGrowth) -> bool {
    growth
        .subject
        .as_ref()
        .is_some_and(|subject| subject.scope() == Scope::Service)
}

fn changes(growth: &MemoryGrowth) -> bool {
    matches!(growth.trend(), MemoryTrend::Growing | MemoryTrend::Shrinking)
}

fn write_report(out: &mut impl Write, shown: &[&MemoryGrowth], left_out: usize) -> io::Result<()> {
    let right = |heading: &str| Cell::number(heading.to_owned());
    let mut table = Table::new(vec![
        Cell::text("SUBJECT"),
        Cell::text("MEMORY"),
        right("HOLDS"),
        right("PER HOUR"),
        right("99 % INTERVAL"),
        right("OVER"),
        Cell::text("WHAT IS LEFT"),
    ]);
    for growth in shown {
        table.row(row(growth));
    }
    table.write(out)?;
    if left_out > 0 {
        let noun = if left_out == 1 { "process" } else { "processes" };
        writeln!(
            out,
            "{NOTE_STYLE}{left_out} {noun} without growth; `--all` shows them{NOTE_STYLE:#}"
        )?;
    }
    if shown.iter().any(|growth| growth.trend() == MemoryTrend::NotEnoughData) {
        writeln!(
            out,
            "{NOTE_STYLE}a verdict needs {MINUTES_NEEDED} minutes without a gap; none outlives the daemon{NOTE_STYLE:#}"
        )?;
    }
    Ok(())
}

fn row(growth: &MemoryGrowth) -> Vec<Cell> {
    let style = match growth.trend() {
        MemoryTrend::Growing => BAD_STYLE,
        _ => anstyle::Style::new(),
    };
    let pace = growth.pace.as_ref();
    let number = |value: fn(&GrowthPace) -> String| Cell::number(pace.map(value).unwrap_or_default());
    vec![
        Cell::text(&subject_text(growth)),
        Cell::text(&trend_name(growth.trend()).replace('_', " ")).styled(style),
        Cell::number(bytes_text(growth.held_bytes)),
        number(|pace| signed(pace.bytes_per_hour)),
        number(|pace| format!("{} to {}", signed(pace.low), signed(pace.high))),
        Cell::number(span_text(span(pace.map_or(growth.followed, |pace| pace.span)))),
        Cell::long(&growth.room.as_ref().map(room_text).unwrap_or_default()),
    ]
}

/// `service checkout`, `4242 uvicorn`.
fn subject_text(growth: &MemoryGrowth) -> String {
    let Some(subject) = &growth.subject else {
        return String::new();
    };
    let name = printable(&subject.name, MAX_NAME_BYTES);
    match subject.scope() {
        Scope::Process => format!("{} {name}", subject.pid),
        scope => format!("{} {name}", scope_name(scope)),
    }
}

fn room_text(room: &MemoryRoom) -> String {
    let of = match room.limit() {
        RoomLimit::ControlGroup => "in its control group",
        RoomLimit::Host | RoomLimit::Unspecified => "on the host",
    };
    let lasts = match room.lasts.map(|lasts| span(Some(lasts))) {
        None => String::new(),
        Some(lasts) if lasts > LONG => ", lasts for years".to_owned(),
        Some(lasts) => format!(
            ", lasts {}, at least {}",
            span_text(lasts),
            span_text(span(room.lasts_at_least))
        ),
    };
    format!("{} {of}{lasts}", bytes_text(room.bytes))
}

fn signed(bytes: f64) -> String {
    let sign = if bytes < 0.0 { "-" } else { "+" };
    format!("{sign}{}", bytes_text(bytes.abs().round() as u64))
}

fn span(duration: Option<prost_types::Duration>) -> Duration {
    duration
        .and_then(|duration| Duration::try_from(duration).ok())
        .unwrap_or_default()
}

fn trend_name(trend: MemoryTrend) -> &'static str {
    match trend {
        MemoryTrend::NotEnoughData => "not_enough_data",
        MemoryTrend::Steady => "steady",
        MemoryTrend::Growing => "growing",
        MemoryTrend::Shrinking => "shrinking",
        MemoryTrend::Unspecified => "unknown",
    }
}

#[derive(Serialize)]
struct GrowthDocument<'a> {
    growth: Vec<OneDocument<'a>>,
}

#[derive(Serialize)]
struct OneDocument<'a> {
    scope: &'static str,
    subject: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "str::is_empty")]
    service: &'a str,
    trend: &'static str,
    held_bytes: u64,
    certain_bytes_per_hour: f64,
    pace: Option<PaceDocument>,
    followed_seconds: f64,
    room: Option<RoomDocument>,
}

#[derive(Serialize)]
struct PaceDocument {
    bytes_per_hour: f64,
    low: f64,
    high: f64,
    span_seconds: f64,
}

#[derive(Serialize)]
struct RoomDocument {
    limit: &'static str,
    bytes: u64,
    lasts_seconds: Option<f64>,
    lasts_at_least_seconds: Option<f64>,
}

impl<'a> GrowthDocument<'a> {
    fn new(shown: &[&'a MemoryGrowth]) -> Self {
        Self {
            growth: shown.iter().copied().filter_map(OneDocument::new).collect(),
        }
    }
}

impl<'a> OneDocument<'a> {
    fn new(growth: &'a MemoryGrowth) -> Option<Self> {
        let seconds = |duration| span(duration).as_secs_f64();
        let subject = growth.subject.as_ref()?;
        Some(Self {
            scope: scope_name(subject.scope()),
            subject: &subject.name,
            pid: (subject.pid != 0).then_some(subject.pid),
            service: &subject.service,
            trend: trend_name(growth.trend()),
            held_bytes: growth.held_bytes,
            certain_bytes_per_hour: growth.certain_bytes_per_hour,
            pace: growth.pace.as_ref().map(|pace| PaceDocument {
                bytes_per_hour: pace.bytes_per_hour,
                low: pace.low,
                high: pace.high,
                span_seconds: seconds(pace.span),
            }),
            followed_seconds: seconds(growth.followed),
            room: growth.room.as_ref().map(|room| RoomDocument {
                limit: match room.limit() {
                    RoomLimit::ControlGroup => "cgroup",
                    RoomLimit::Host => "host",
                    RoomLimit::Unspecified => "unknown",
                },
                bytes: room.bytes,
                lasts_seconds: room.lasts.map(|lasts| seconds(Some(lasts))),
                lasts_at_least_seconds: room.lasts_at_least.map(|lasts| seconds(Some(lasts))),
            }),
        })
    }
}
