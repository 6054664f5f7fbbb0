//! `doctor`: what keeps the profiler from working, and what to do about it.

mod host;

use std::{io::Write, path::Path, process::ExitCode};

use anstyle::Style;
use profiler_proto::v1::{GetStatusResponse, PartState};
use serde::Serialize;

use crate::{
    args::{Connection, DoctorArgs},
    client::{Client, ClientError},
    commands::{
        connect,
        status::{state_name, total},
    },
    error::{CliError, FAILURE},
    output::{BAD_STYLE, GOOD_STYLE, NOTE_STYLE, percent, printable, thousands, write_json},
};

/// Most bytes shown of one finding.
const MAX_TEXT_BYTES: usize = 1_000;
/// One sample in so many may be lost before it is worth a note.
const TOLERATED_LOSS: u64 = 1_000;

/// How the names of parts begin that read one thing of the host.
const READINGS: &str = "readings_";

/// What came out of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// As it should be.
    Well,
    /// Worth knowing, stands in nobody's way.
    Note,
    /// Stands in the way.
    Problem,
}

/// One check and its outcome.
#[derive(Clone, Debug, Serialize)]
struct Check {
    name: String,
    verdict: Verdict,
    /// What was found.
    found: String,
    /// What to do; empty if nothing.
    remedy: String,
}

impl Check {
    fn new(verdict: Verdict, name: &str, found: String, remedy: &str) -> Self {
        Self {
            name: name.to_owned(),
            verdict,
            found,
            remedy: remedy.to_owned(),
        }
    }

    fn well(name: &str, found: String) -> Self {
        Self::new(Verdict::Well, name, found, "")
    }

    fn note(name: &str, found: String, remedy: impl AsRef<str>) -> Self {
        Self::new(Verdict::Note, name, found, remedy.as_ref())
    }

    fn problem(name: &str, found: String, remedy: impl AsRef<str>) -> Self {
        Self::new(Verdict::Problem, name, found, remedy.as_ref())
    }
}

/// Checks all, reports, and is content only without problems.
pub(crate) async fn run(connection: &Connection, args: &DoctorArgs) -> Result<ExitCode, CliError> {
    // Those of another host say nothing of the daemon's.
    let mut checks = match connection.remote.address {
        None => host::checks(Path::new("/"), &connection.socket),
        Some(_) => Vec::new(),
    };
    match ask(connection).await {
        Ok(status) => {
            let found = format!("version {} answers on {}", status.version, connection.place());
            checks.push(Check::well("daemon", found));
            checks.extend(daemon_checks(&status));
        }
        Err(error) => checks.push(unreachable(&error)),
    }
    let problems = checks.iter().filter(|check| check.verdict == Verdict::Problem).count();
    if args.json {
        write_json(&Document {
            well: problems == 0,
            checks: &checks,
        })?;
    } else {
        write_report(&mut anstream::stdout().lock(), &checks, problems)?;
    }
    Ok(if problems == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILURE)
    })
}

async fn ask(connection: &Connection) -> Result<GetStatusResponse, ClientError> {
    let client: Client = connect(connection).await?;
    client.get_status().await
}

/// Errors of the socket say themselves what to do.
fn unreachable(error: &ClientError) -> Check {
    let remedy = match error {
        ClientError::SocketMissing { .. } | ClientError::NobodyListens { .. } | ClientError::SocketForbidden { .. } => {
            ""
        }
        _ => "look into the daemon's log: journalctl -u profiler-daemon",
    };
    Check::problem("daemon", error.to_string(), remedy)
}

/// What the daemon says of itself.
fn daemon_checks(status: &GetStatusResponse) -> Vec<Check> {
    let mut checks = Vec::new();
    let version = env!("CARGO_PKG_VERSION");
    if status.version != version {
        let found = format!("this is profiler-cli {version}, and the daemon is {}", status.version);
        checks.push(Check::note("version", found, "install both from one release"));
    }
    for part in &status.parts {
        let name = format!("part {}", part.name);
        let found = if part.reason.is_empty() {
            state_name(part.state()).to_owned()
        } else {
            format!("{}: {}", state_name(part.state()), part.reason)
        };
        checks.push(match part.state() {
            PartState::Active => Check::well(&name, found),
            PartState::Disabled => Check::note(&name, found, &part.remedy),
            // What this host does not measure is missing, and keeps nothing else from working.
            PartState::Unsupported if part.name.starts_with(READINGS) => Check::note(&name, found, &part.remedy),
            PartState::Unsupported | PartState::Failed | PartState::Late | PartState::Unspecified => {
                Check::problem(&name, found, &part.remedy)
            }
        });
    }
    if let Some(sampling) = &status.sampling {
        let (lost, runs) = (total(&sampling.lost), sampling.runs);
        if lost > runs / TOLERATED_LOSS {
            let found = format!(
                "{} lost in {} runs ({})",
                thousands(lost),
                thousands(runs),
                percent(lost, runs)
            );
            checks.push(Check::note("loss", found, "`profiler-cli status` tells the reasons"));
        }
    }
    if status.watched_processes == 0 {
        let remedy = "`profiler-cli flamegraph --pid PID` watches any process while it runs";
        checks.push(Check::note("targets", "no process is watched".to_owned(), remedy));
    }
    checks
}

fn write_report(out: &mut impl Write, checks: &[Check], problems: usize) -> Result<(), CliError> {
    for check in checks {
        let (mark, style): (&str, Style) = match check.verdict {
            Verdict::Well => ("ok     ", GOOD_STYLE),
            Verdict::Note => ("note   ", NOTE_STYLE),
            Verdict::Problem => ("problem", BAD_STYLE),
        };
        let (name, found) = (
            printable(&check.name, MAX_TEXT_BYTES),
            printable(&check.found, MAX_TEXT_BYTES),
        );
        writeln!(out, "{style}{mark}{style:#}  {name}: {found}")?;
        if !check.remedy.is_empty() {
            writeln!(out, "         {}", printable(&check.remedy, MAX_TEXT_BYTES))?;
        }
    }
    match problems {
        0 => writeln!(out, "\nall is well")?,
        1 => writeln!(out, "\n1 problem")?,
        _ => writeln!(out, "\n{problems} problems")?,
    }
    Ok(())
}

#[derive(Serialize)]
struct Document<'a> {
    well: bool,
    checks: &'a [Check],
}
