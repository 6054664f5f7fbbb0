//! Who is told of alerts.

use std::{io::Write as _, process::ExitCode};

use super::{MAX_NAME_BYTES, document::SinksDocument, time};
use crate::{
    client::Client,
    error::CliError,
    output::{Cell, Table, printable, thousands, write_json},
    span::time_text,
};

/// Most bytes shown of a reason.
const MAX_REASON_BYTES: usize = 300;

/// Lists sinks and how well they do.
pub(super) async fn list(client: &Client, json: bool) -> Result<ExitCode, CliError> {
    let sinks = client.list_sinks().await?;
    if json {
        write_json(&SinksDocument::from(&sinks[..]))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = anstream::stdout().lock();
    if sinks.is_empty() {
        writeln!(out, "nobody is told of alerts: no sink is switched on")?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut headings = vec![Cell::text("SINK"), Cell::text("KIND")];
    headings.extend(["SENT", "QUEUED", "RETRIED", "LOST"].map(|heading| Cell::number(heading.to_owned())));
    headings.push(Cell::text("STATE"));
    let mut table = Table::new(headings);
    for sink in &sinks {
        let since = time(sink.failing_since).map(time_text).unwrap_or_default();
        let state = match sink.failure.as_str() {
            "" => "well".to_owned(),
            reason => format!("failing since {since}: {}", printable(reason, MAX_REASON_BYTES)),
        };
        table.row(vec![
            Cell::text(&printable(&sink.name, MAX_NAME_BYTES)),
            Cell::text(&sink.kind),
            Cell::number(thousands(sink.sent)),
            Cell::number(thousands(sink.queued)),
            Cell::number(thousands(sink.retried)),
            Cell::number(thousands(sink.dropped.saturating_add(sink.refused))),
            Cell::long(&state),
        ]);
    }
    table.write(&mut out)?;
    Ok(ExitCode::SUCCESS)
}

/// Tells a sink of a test.
pub(super) async fn test(client: &Client, sink: &str) -> Result<ExitCode, CliError> {
    client.test_sink(sink).await?;
    writeln!(
        anstream::stdout().lock(),
        "the sink {} took the test alert",
        printable(sink, MAX_NAME_BYTES)
    )?;
    Ok(ExitCode::SUCCESS)
}
