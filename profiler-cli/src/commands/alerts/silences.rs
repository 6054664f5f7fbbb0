//! Silences: made, listed, ended.

use std::{io::Write as _, process::ExitCode};

use profiler_proto::v1::{CreateSilenceRequest, Matcher, Silence};

use super::{
    MAX_NAME_BYTES,
    document::{SilenceDocument, SilencesDocument},
    quoted, time,
};
use crate::{
    args::SilenceArgs,
    client::Client,
    error::CliError,
    output::{Cell, Table, printable, write_json},
    span::time_text,
};

/// Makes a silence.
pub(super) async fn create(client: &Client, args: &SilenceArgs) -> Result<ExitCode, CliError> {
    let matchers: Result<Vec<Matcher>, CliError> = args.matchers.iter().map(|text| matcher(text)).collect();
    let request = CreateSilenceRequest {
        matchers: matchers?,
        duration: prost_types::Duration::try_from(args.duration).ok(),
        comment: args.comment.clone().unwrap_or_default(),
    };
    let silence = client.create_silence(request).await?;
    if args.json {
        write_json(&SilenceDocument::from(&silence))?;
        return Ok(ExitCode::SUCCESS);
    }
    let until = time(silence.end_time).map(time_text).unwrap_or_default();
    writeln!(
        anstream::stdout().lock(),
        "silence {} holds until {until} for {}; `profiler-cli alerts unsilence {}` ends it",
        silence.id,
        matchers_text(&silence),
        silence.id,
    )?;
    Ok(ExitCode::SUCCESS)
}

/// `limit=VALUE` or `label!=VALUE`.
fn matcher(text: &str) -> Result<Matcher, CliError> {
    let (label, value) = text.split_once('=').ok_or_else(|| CliError::Usage {
        message: format!("{text:?} is no LABEL=VALUE, such as alertname=host_cpu"),
    })?;
    let (label, negated) = match label.strip_suffix('!') {
        Some(label) => (label, true),
        None => (label, false),
    };
    if label.is_empty() {
        return Err(CliError::Usage {
            message: format!("{text:?} names no label"),
        });
    }
    Ok(Matcher {
        label: label.to_owned(),
        value: value.to_owned(),
        negated,
    })
}

/// Lists the silences that hold.
pub(super) async fn list(client: &Client, json: bool) -> Result<ExitCode, CliError> {
    let silences = client.list_silences().await?;
    if json {
        write_json(&SilencesDocument::from(&silences[..]))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = anstream::stdout().lock();
    if silences.is_empty() {
        writeln!(out, "nothing is silenced")?;
        return Ok(ExitCode::SUCCESS);
    }
    let headings = ["ID", "UNTIL", "BY", "MATCHES", "COMMENT"];
    let mut table = Table::new(headings.into_iter().map(Cell::text).collect());
    for silence in &silences {
        table.row(vec![
            Cell::number(silence.id.to_string()),
            Cell::text(&time(silence.end_time).map(time_text).unwrap_or_default()),
            Cell::text(&printable(&silence.created_by, MAX_NAME_BYTES)),
            Cell::text(&matchers_text(silence)),
            Cell::long(&printable(&silence.comment, 200)),
        ]);
    }
    table.write(&mut out)?;
    Ok(ExitCode::SUCCESS)
}

fn matchers_text(silence: &Silence) -> String {
    let matchers: Vec<String> = silence
        .matchers
        .iter()
        .map(|matcher| {
            let sign = if matcher.negated { "!=" } else { "=" };
            format!(
                "{}{sign}{}",
                printable(&matcher.label, MAX_NAME_BYTES),
                quoted(&matcher.value)
            )
        })
        .collect();
    matchers.join(" ")
}

/// Ends a silence.
pub(super) async fn expire(client: &Client, id: u64) -> Result<ExitCode, CliError> {
    client.expire_silence(id).await?;
    writeln!(anstream::stdout().lock(), "silence {id} has ended")?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matchers_are_read_as_they_are_written() {
        let read = |text| matcher(text).map(|matcher| (matcher.label, matcher.negated, matcher.value));
        let parts = |label: &str, negated, value: &str| (label.to_owned(), negated, value.to_owned());
        assert_eq!(
            read("alertname=host_cpu").unwrap(),
            parts("alertname", false, "host_cpu")
        );
        assert_eq!(read("severity!=info").unwrap(), parts("severity", true, "info"));
        assert_eq!(read("subject=a=b").unwrap(), parts("subject", false, "a=b"));
        assert!(read("host_cpu").is_err());
        assert!(read("=host_cpu").is_err());
    }
}
