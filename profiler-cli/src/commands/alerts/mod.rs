//! `alerts`: which limits are crossed, which were, and who is to be told.

mod document;
mod silences;
mod sinks;

use std::{
    io::{self, Write},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use profiler_proto::v1::{Alert, AlertPhase, Limit, ListAlertsRequest, Scope, WatchAlertsResponse};
use prost_types::Timestamp;

use self::document::{AlertsDocument, ChangeDocument, LimitsDocument, OneAlertDocument};
use crate::{
    args::{AlertsArgs, AlertsVerb, Connection, ListAlertsArgs},
    client::{self, Client},
    commands::{
        connect,
        metrics::{scope_name, value_text},
    },
    error::CliError,
    output::{Cell, NOTE_STYLE, Table, printable, write_json},
    span::{span_text, time_text},
};

/// Most bytes shown of the name of a subject, and of a label.
const MAX_NAME_BYTES: usize = 60;
/// Most bytes shown of a line of what was found.
const MAX_FINDING_BYTES: usize = 1024;

/// Shows alerts, or does what the verb says.
pub(crate) async fn run(connection: &Connection, args: &AlertsArgs) -> Result<ExitCode, CliError> {
    let client = connect(connection).await?;
    match &args.verb {
        None => list(&client, &args.list).await,
        Some(AlertsVerb::List(args)) => list(&client, args).await,
        Some(AlertsVerb::Show { id, json }) => show(&client, id, *json).await,
        Some(AlertsVerb::Watch { json }) => watch(&client, *json).await,
        Some(AlertsVerb::Limits { json }) => limits(&client, *json).await,
        Some(AlertsVerb::Sinks { json }) => sinks::list(&client, *json).await,
        Some(AlertsVerb::TestSink { sink }) => sinks::test(&client, sink).await,
        Some(AlertsVerb::Silence(args)) => silences::create(&client, args).await,
        Some(AlertsVerb::Silences { json }) => silences::list(&client, *json).await,
        Some(AlertsVerb::Unsilence { id }) => silences::expire(&client, *id).await,
    }
}

async fn list(client: &Client, args: &ListAlertsArgs) -> Result<ExitCode, CliError> {
    let request = ListAlertsRequest {
        include_ended: args.all,
        limit: args.limit.clone().unwrap_or_default(),
        page_size: args.most,
    };
    let answer = client.list_alerts(request).await?;
    if args.json {
        write_json(&AlertsDocument::new(&answer.alerts, answer.truncated))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = anstream::stdout().lock();
    if answer.alerts.is_empty() {
        match args.all {
            true => writeln!(out, "no alerts are kept")?,
            false => writeln!(out, "no limit is crossed; `--all` shows what was")?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    write_alerts(&mut out, &answer.alerts, SystemTime::now())?;
    if answer.truncated {
        let shown = answer.alerts.len();
        writeln!(out, "{NOTE_STYLE}the newest {shown}; `--most` shows more{NOTE_STYLE:#}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write_alerts(out: &mut impl Write, alerts: &[Alert], now: SystemTime) -> io::Result<()> {
    let headings = [
        "ID", "STATE", "SEVERITY", "LIMIT", "SUBJECT", "VALUE", "WORST", "SINCE", "FOR",
    ];
    let mut table = Table::new(headings.into_iter().map(Cell::text).collect());
    for alert in alerts {
        let began = time(alert.firing_time.or(alert.begin_time));
        let ended = time(alert.end_time);
        let lasted = began.and_then(|began| ended.unwrap_or(now).duration_since(began).ok());
        table.row(vec![
            Cell::text(&alert.id),
            Cell::text(&state_text(alert)),
            Cell::text(&alert.severity),
            Cell::text(&printable(&alert.limit, MAX_NAME_BYTES)),
            Cell::text(&subject_text(alert)),
            Cell::number(value(alert, alert.latest)),
            Cell::number(value(alert, alert.worst)),
            Cell::text(&began.map(time_text).unwrap_or_default()),
            Cell::text(
                &lasted
                    .map(|lasted| span_text(whole_seconds(lasted)))
                    .unwrap_or_default(),
            ),
        ]);
    }
    table.write(out)
}

async fn show(client: &Client, id: &str, json: bool) -> Result<ExitCode, CliError> {
    let answer = client.get_alert(id, false).await?;
    let (alert, findings) = (answer.alert.unwrap_or_default(), answer.findings);
    if json {
        write_json(&OneAlertDocument::new(&alert, &findings))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = anstream::stdout().lock();
    write_alert(&mut out, &alert)?;
    for finding in &findings {
        writeln!(out, "  {}", printable(finding, MAX_FINDING_BYTES))?;
    }
    if !findings.is_empty() {
        let (id, what) = (&alert.id, shown_by_flamegraph(&alert));
        writeln!(
            out,
            "{NOTE_STYLE}profiler-cli flamegraph --alert {id} shows {what}{NOTE_STYLE:#}"
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What the flame graph of an alert is.
fn shown_by_flamegraph(alert: &Alert) -> &'static str {
    let is_about_memory = ["memory", "swap", "oom"].iter().any(|word| alert.metric.contains(word));
    match is_about_memory && alert.kind == "limit" && !alert.metric.starts_with("gpu") {
        true => "the code that touched first what grew, where that is known, or else the difference",
        false => "the difference",
    }
}

fn write_alert(out: &mut impl Write, alert: &Alert) -> io::Result<()> {
    writeln!(
        out,
        "{} {}: {}",
        alert.id,
        state_text(alert),
        printable(&alert.meaning, 1024)
    )?;
    let mut fact = |name: &str, value: String| match value.is_empty() {
        true => Ok(()),
        false => writeln!(out, "  {name:<10} {value}"),
    };
    fact("subject", subject_text(alert))?;
    if alert.kind == "no_data" {
        fact("kind", "no data: readings of it are missing".to_owned())?;
    }
    fact("value", value(alert, alert.latest))?;
    fact("worst", value(alert, alert.worst))?;
    fact("began", time(alert.begin_time).map(time_text).unwrap_or_default())?;
    fact("fired", time(alert.firing_time).map(time_text).unwrap_or_default())?;
    fact("ended", time(alert.end_time).map(time_text).unwrap_or_default())?;
    fact("because", end_text(&alert.end_reason).to_owned())?;
    let mut labels: Vec<_> = alert.labels.iter().collect();
    labels.sort();
    let labels: Vec<String> = labels
        .into_iter()
        .map(|(name, value)| format!("{}={}", printable(name, MAX_NAME_BYTES), quoted(value)))
        .collect();
    fact("labels", labels.join(" "))
}

/// Shows changes until the daemon or the user ends it.
async fn watch(client: &Client, json: bool) -> Result<ExitCode, CliError> {
    let mut stream = client.watch_alerts().await?;
    loop {
        let message = stream.message().await.map_err(|status| client::refusal(&status))?;
        let Some(message) = message else {
            return Ok(ExitCode::SUCCESS);
        };
        let Some(alert) = &message.alert else { continue };
        if json {
            let mut out = io::stdout().lock();
            let document = ChangeDocument {
                change: &message.change,
                missed: message.missed,
                alert: alert.into(),
            };
            serde_json::to_writer(&mut out, &document)?;
            writeln!(out)?;
            out.flush()?;
        } else {
            let mut out = anstream::stdout().lock();
            write_change(&mut out, &message, alert, SystemTime::now())?;
            out.flush()?;
        }
    }
}

fn write_change(out: &mut impl Write, message: &WatchAlertsResponse, alert: &Alert, now: SystemTime) -> io::Result<()> {
    if message.missed > 0 {
        writeln!(out, "{NOTE_STYLE}{} changes were missed{NOTE_STYLE:#}", message.missed)?;
    }
    let at = match message.change.as_str() {
        "now" | "pending" => alert.begin_time,
        "firing" => alert.firing_time,
        "resolved" | "dropped" => alert.end_time,
        _ => None,
    };
    let change = match message.change.as_str() {
        "now" => state_text(alert),
        change => change.to_owned(),
    };
    let value = value(alert, alert.latest);
    let at = time_text(time(at).unwrap_or(now));
    let (limit, subject) = (printable(&alert.limit, MAX_NAME_BYTES), subject_text(alert));
    writeln!(
        out,
        "{at} {change:<10} {} {limit} {subject} {value} {}",
        alert.severity, alert.id
    )
}

async fn limits(client: &Client, json: bool) -> Result<ExitCode, CliError> {
    let limits = client.list_limits().await?;
    if json {
        write_json(&LimitsDocument::from(&limits[..]))?;
        return Ok(ExitCode::SUCCESS);
    }
    write_limits(&mut anstream::stdout().lock(), &limits)?;
    Ok(ExitCode::SUCCESS)
}

fn write_limits(out: &mut impl Write, limits: &[Limit]) -> io::Result<()> {
    let mut table = Table::new(["PENDING", "FIRING", "LIMIT"].into_iter().map(Cell::text).collect());
    for limit in limits {
        table.row(vec![
            Cell::number(limit.pending.to_string()),
            Cell::number(limit.firing.to_string()),
            Cell::long(&printable(&limit.meaning, 1024)),
        ]);
    }
    table.write(out)
}

/// State of an alert in a word or two.
fn state_text(alert: &Alert) -> String {
    let phase = phase_name(alert.phase());
    match alert.silenced {
        true => format!("{phase} (silenced)"),
        false => phase.to_owned(),
    }
}

fn phase_name(phase: AlertPhase) -> &'static str {
    match phase {
        AlertPhase::Pending => "pending",
        AlertPhase::Firing => "firing",
        AlertPhase::Resolved => "resolved",
        AlertPhase::Dropped => "dropped",
        AlertPhase::Unspecified => "unknown",
    }
}

fn end_text(reason: &str) -> &str {
    match reason {
        "recovered" => "the reading is back within its limit",
        "gone" => "the subject is gone",
        "unsupported" => "this host cannot measure it any more",
        "limit_removed" => "the limit is not in force any more",
        "no_data" => "there was no reading for too long",
        "interrupted" => "the daemon was away for too long",
        other => other,
    }
}

/// Whom an alert is about: `host`, `service checkout`, `process 4242 uvicorn`.
fn subject_text(alert: &Alert) -> String {
    printable(&subject_name(alert), MAX_NAME_BYTES).into_owned()
}

/// The same as it is, for machines.
fn subject_name(alert: &Alert) -> String {
    let Some(subject) = &alert.subject else {
        return String::new();
    };
    let scope = scope_name(subject.scope());
    match subject.scope() {
        Scope::Host => scope.to_owned(),
        Scope::Process if subject.name.is_empty() => format!("{scope} {}", subject.pid),
        Scope::Process => format!("{scope} {} {}", subject.pid, subject.name),
        _ => format!("{scope} {}", subject.name),
    }
}

/// A value of a label between quotes, so that where it ends is seen.
fn quoted(value: &str) -> String {
    printable(&format!("{value:?}"), MAX_NAME_BYTES).into_owned()
}

fn value(alert: &Alert, value: Option<f64>) -> String {
    value
        .map(|value| value_text(alert.unit(), value, false))
        .unwrap_or_default()
}

fn time(time: Option<Timestamp>) -> Option<SystemTime> {
    SystemTime::try_from(time?).ok()
}

fn whole_seconds(span: Duration) -> Duration {
    Duration::from_secs(span.as_secs())
}
