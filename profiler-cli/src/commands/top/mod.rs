//! `top`: the functions, lines or services that cost most CPU.

mod document;

use std::{
    io::{self, IsTerminal as _, Write},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use profiler_profile::{FunctionSamples, PartySamples, Profile};
use profiler_proto::v1::{ProfileSelector, ProfileView, SampleKind, profile_selector::Target};

use self::document::Document;
use crate::{
    args::{Connection, TopArgs, TopBy},
    client::Client,
    commands::connect,
    convert,
    error::CliError,
    output::{CLEAR_SCREEN, Cell, HEADING_STYLE, Table, percent, printable, write_json},
    span::span_text,
};

/// Most bytes shown of a name.
const MAX_NAME_BYTES: usize = 80;
/// Most bytes shown of a function.
const MAX_FUNCTION_BYTES: usize = 72;

/// What is shown.
#[derive(Debug)]
struct Top {
    /// Whose samples.
    title: String,
    profile: Profile,
    rows: Rows,
}

#[derive(Debug)]
enum Rows {
    Functions(Vec<FunctionSamples>),
    Parties(Vec<PartySamples>),
}

/// Shows what costs most.
pub(crate) async fn run(connection: &Connection, args: &TopArgs) -> Result<ExitCode, CliError> {
    let client = connect(connection).await?;
    if args.watch {
        return watch(&client, args).await;
    }
    let top = fetch(&client, args).await?;
    if top.profile.samples() == 0 {
        return Err(no_samples(args, &top));
    }
    if args.json {
        write_json(&Document::new(&top, args.by))?;
    } else {
        write(&mut anstream::stdout().lock(), &top, args.by)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows it again and again, until the user ends it or the daemon is gone.
async fn watch(client: &Client, args: &TopArgs) -> Result<ExitCode, CliError> {
    let is_terminal = io::stdout().is_terminal();
    let mut turns = tokio::time::interval(args.interval);
    // After an answer that took long the next one is not asked for at once.
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let top = fetch(client, args).await?;
        if args.json {
            let mut out = io::stdout().lock();
            serde_json::to_writer(&mut out, &Document::new(&top, args.by))?;
            writeln!(out)?;
            out.flush()?;
            continue;
        }
        let mut out = anstream::stdout().lock();
        if is_terminal {
            write!(out, "{CLEAR_SCREEN}")?;
        }
        write(&mut out, &top, args.by)?;
        if !is_terminal {
            writeln!(out)?;
        }
        out.flush()?;
    }
}

async fn fetch(client: &Client, args: &TopArgs) -> Result<Top, CliError> {
    let target = match (args.target.pid, &args.target.service) {
        (Some(pid), _) => Target::Pid(pid),
        (None, Some(service)) => Target::Service(service.clone()),
        (None, None) => Target::Everything(true),
    };
    let start = SystemTime::now().checked_sub(args.last);
    let selector = ProfileSelector {
        target: Some(target),
        kind: SampleKind::Cpu.into(),
        start_time: Some(start.unwrap_or(SystemTime::UNIX_EPOCH).into()),
        end_time: None,
    };
    let view = ProfileView {
        native_python: args.native_python,
        threads: false,
        gil: args.gil,
    };
    let profile = convert::profile(client.query_profile(selector, view).await?)?;
    let count = args.count as usize;
    Ok(Top {
        title: title(args, &profile),
        rows: match args.by {
            TopBy::Function => Rows::Functions(profile.top(count)),
            TopBy::Line => Rows::Functions(profile.top_lines(count)),
            TopBy::Service => Rows::Parties(profile.top_services(count)),
        },
        profile,
    })
}

/// Whose samples they are.
fn title(args: &TopArgs, profile: &Profile) -> String {
    let name = profile.processes.first().map(|process| &process.name);
    match (args.target.pid, &args.target.service, name) {
        (Some(pid), _, Some(name)) => format!("{} (pid {pid})", printable(name, MAX_NAME_BYTES)),
        (Some(pid), _, None) => format!("process {pid}"),
        (None, Some(service), _) => format!("service {}", printable(service, MAX_NAME_BYTES)),
        (None, None, _) => "all that is watched".to_owned(),
    }
}

fn no_samples(args: &TopArgs, top: &Top) -> CliError {
    let hint = match top.profile.quality.samples {
        1.. if args.gil => "none is of a thread that is known to have held an interpreter's lock".to_owned(),
        _ => format!(
            "nothing is kept of the last {}; either it used no CPU then, or it was not watched",
            span_text(args.last)
        ),
    };
    CliError::NoSamples {
        target: top.title.clone(),
        hint,
    }
}

impl Top {
    /// CPUs that some samples kept busy, on average over the span.
    fn cpus(&self, samples: u64) -> f64 {
        let span = self.profile.end.duration_since(self.profile.start);
        let span = span.unwrap_or(Duration::ZERO).as_secs_f64();
        if span > 0.0 {
            samples as f64 * self.profile.period.as_secs_f64() / span
        } else {
            0.0
        }
    }
}

fn write(out: &mut impl Write, top: &Top, by: TopBy) -> Result<(), CliError> {
    let samples = top.profile.samples();
    let span = top.profile.end.duration_since(top.profile.start).unwrap_or_default();
    writeln!(
        out,
        "{HEADING_STYLE}{}{HEADING_STYLE:#}: {:.2} CPUs busy over {}",
        top.title,
        top.cpus(samples),
        span_text(span)
    )?;
    writeln!(out)?;
    match &top.rows {
        Rows::Functions(rows) => write_functions(out, top, rows, by)?,
        Rows::Parties(rows) => write_parties(out, top, rows)?,
    }
    writeln!(out)?;
    writeln!(out, "{}", top.profile.summary())?;
    Ok(())
}

fn right(heading: &str) -> Cell {
    Cell::number(heading.to_owned())
}

fn write_functions(out: &mut impl Write, top: &Top, rows: &[FunctionSamples], by: TopBy) -> Result<(), CliError> {
    let samples = top.profile.samples();
    let mut table = Table::new(vec![
        right("SELF"),
        right("TOTAL"),
        right("SELF CPUS"),
        Cell::text("FUNCTION"),
        Cell::text("MODULE"),
        Cell::text(if by == TopBy::Line { "LINE" } else { "HOTTEST LINE" }),
    ]);
    for row in rows {
        table.row(vec![
            Cell::number(percent(row.self_samples, samples)),
            Cell::number(percent(row.total_samples, samples)),
            Cell::number(format!("{:.2}", top.cpus(row.self_samples))),
            Cell::bounded(&row.function, MAX_FUNCTION_BYTES),
            Cell::text(&row.module),
            Cell::long(&place(row)),
        ]);
    }
    table.write(out)?;
    Ok(())
}

/// File and line, as far as they are known.
fn place(row: &FunctionSamples) -> String {
    match (&*row.file, row.line) {
        ("", _) => String::new(),
        (file, 0) => file.to_owned(),
        (file, line) => format!("{file}:{line}"),
    }
}

fn write_parties(out: &mut impl Write, top: &Top, rows: &[PartySamples]) -> Result<(), CliError> {
    let samples = top.profile.samples();
    let mut table = Table::new(vec![
        right("SHARE"),
        right("CPUS"),
        right("PROCESSES"),
        Cell::text("SERVICE"),
    ]);
    for row in rows {
        let name = match row.is_service {
            true => row.name.to_string(),
            false => format!("{} (no service)", row.name),
        };
        table.row(vec![
            Cell::number(percent(row.samples, samples)),
            Cell::number(format!("{:.2}", top.cpus(row.samples))),
            Cell::number(row.processes.to_string()),
            Cell::text(&name),
        ]);
    }
    table.write(out)?;
    Ok(())
}
