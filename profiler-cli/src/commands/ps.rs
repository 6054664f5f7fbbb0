//! `ps`: the processes that the daemon watches, and how well each can be profiled.

use std::{io::Write, process::ExitCode};

use profiler_proto::v1::{Interpreter, InterpreterState, Process, Runtime, WatchState};
use serde::Serialize;

use crate::{
    args::{Connection, PsArgs},
    commands::connect,
    error::CliError,
    output::{BAD_STYLE, Cell, GOOD_STYLE, NOTE_STYLE, Table, percent, printable, thousands, write_json},
};

/// Limitations shown of one process; JSON has them all.
const MAX_LIMITATIONS: usize = 8;
/// Most bytes shown of one limitation.
const MAX_LIMITATION_BYTES: usize = 400;

/// How the daemon finds interpreters: by what the mapped object defines.
const FOUND_BY: &str = "_PyRuntime";

/// Lists processes.
pub(crate) async fn run(connection: &Connection, args: &PsArgs) -> Result<ExitCode, CliError> {
    let client = connect(connection).await?;
    let mut processes = client.list_processes(args.pid).await?;
    processes.sort_by_key(|process| process.pid);
    if args.json {
        let processes = processes.iter().map(ProcessDocument::from).collect();
        write_json(&Document { processes })?;
    } else {
        write_report(&mut anstream::stdout().lock(), &processes)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write_report(out: &mut impl Write, processes: &[Process]) -> Result<(), CliError> {
    if processes.is_empty() {
        writeln!(
            out,
            "no process is watched; `profiler-cli flamegraph --pid PID` watches one while it runs"
        )?;
        return Ok(());
    }
    let right = |heading: &str| Cell::number(heading.to_owned());
    let mut table = Table::new(vec![
        right("PID"),
        Cell::text("NAME"),
        Cell::text("RUNTIME"),
        Cell::text("SERVICE"),
        Cell::text("STATE"),
        right("SAMPLES"),
        right("ROOT %"),
        right("MAPPINGS"),
    ]);
    for process in processes {
        table.row(row(process));
    }
    table.write(out)?;
    write_limitations(out, processes)?;
    let sum = |count: fn(&Process) -> u64| {
        processes
            .iter()
            .fold(0_u64, |sum, process| sum.saturating_add(count(process)))
    };
    let (samples, rooted) = (sum(|process| process.samples), sum(|process| process.rooted_samples));
    writeln!(out)?;
    let noun = if processes.len() == 1 { "process" } else { "processes" };
    write!(out, "{} {noun}, {} samples", processes.len(), thousands(samples))?;
    if samples > 0 {
        write!(out, ", {} with a proven root", percent(rooted, samples))?;
    }
    writeln!(out)?;
    Ok(())
}

fn row(process: &Process) -> Vec<Cell> {
    let reason = if process.watch_reason.is_empty() {
        String::new()
    } else {
        format!(" ({})", process.watch_reason)
    };
    let state_style = match process.watch_state() {
        WatchState::Watched => GOOD_STYLE,
        WatchState::Pending => NOTE_STYLE,
        WatchState::NotWatched | WatchState::Unspecified => BAD_STYLE,
    };
    vec![
        Cell::number(process.pid.to_string()),
        Cell::text(&process.name),
        Cell::text(&runtime(process)),
        Cell::text(&process.service),
        Cell::text(&format!(
            "{}{reason}",
            state_name(process.watch_state()).replace('_', " ")
        ))
        .styled(state_style),
        Cell::number(thousands(process.samples)),
        Cell::number(percent(process.rooted_samples, process.samples)),
        Cell::number(format!("{}/{}", process.mappings_with_rows, process.mappings)),
    ]
}

fn write_limitations(out: &mut impl Write, processes: &[Process]) -> Result<(), CliError> {
    for process in processes.iter().filter(|process| !process.limitations.is_empty()) {
        let name = printable(&process.name, MAX_LIMITATION_BYTES);
        writeln!(out, "\n{} {name} cannot be profiled in full:", process.pid)?;
        for limitation in process.limitations.iter().take(MAX_LIMITATIONS) {
            writeln!(out, "  {}", printable(limitation, MAX_LIMITATION_BYTES))?;
        }
        if let Some(more) = process
            .limitations
            .len()
            .checked_sub(MAX_LIMITATIONS)
            .filter(|more| *more > 0)
        {
            writeln!(out, "  and {more} more, in --json")?;
        }
    }
    Ok(())
}

/// What it runs, with the version of its interpreter, and whether that is understood.
fn runtime(process: &Process) -> String {
    let name = runtime_name(process.runtime());
    let Some(interpreter) = &process.interpreter else {
        return name.to_owned();
    };
    let version = interpreter.version.split('.').take(2).collect::<Vec<_>>().join(".");
    let free_threaded = if interpreter.free_threaded { "t" } else { "" };
    let state = match interpreter.state() {
        InterpreterState::Active => "",
        _ => " (native only)",
    };
    format!("{name} {version}{free_threaded}{state}")
}

fn interpreter_state_name(state: InterpreterState) -> &'static str {
    match state {
        InterpreterState::Looking => "looking",
        InterpreterState::Active => "active",
        InterpreterState::Refused => "refused",
        InterpreterState::Unspecified => "unknown",
    }
}

fn runtime_name(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Rust => "rust",
        Runtime::Python => "python",
        Runtime::Native => "native",
        Runtime::Unspecified => "unknown",
    }
}

fn state_name(state: WatchState) -> &'static str {
    match state {
        WatchState::Watched => "watched",
        WatchState::Pending => "pending",
        WatchState::NotWatched => "not_watched",
        WatchState::Unspecified => "unknown",
    }
}

#[derive(Serialize)]
struct Document<'a> {
    processes: Vec<ProcessDocument<'a>>,
}

#[derive(Serialize)]
struct ProcessDocument<'a> {
    pid: u32,
    start_time: Option<String>,
    name: &'a str,
    executable: &'a str,
    command_line: &'a [String],
    runtime: &'static str,
    service: &'a str,
    watch_state: &'static str,
    watch_reason: &'a str,
    user_id: u32,
    mappings: u32,
    mappings_with_rows: u32,
    samples: u64,
    rooted_samples: u64,
    python_samples: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    interpreter: Option<InterpreterDocument<'a>>,
    limitations: &'a [String],
}

#[derive(Serialize)]
struct InterpreterDocument<'a> {
    version: &'a str,
    free_threaded: bool,
    object: &'a str,
    found_by: &'static str,
    state: &'static str,
    reason: &'a str,
}

impl<'a> From<&'a Interpreter> for InterpreterDocument<'a> {
    fn from(interpreter: &'a Interpreter) -> Self {
        Self {
            version: &interpreter.version,
            free_threaded: interpreter.free_threaded,
            object: &interpreter.object,
            found_by: FOUND_BY,
            state: interpreter_state_name(interpreter.state()),
            reason: &interpreter.reason,
        }
    }
}

impl<'a> From<&'a Process> for ProcessDocument<'a> {
    fn from(process: &'a Process) -> Self {
        Self {
            pid: process.pid,
            start_time: process.start_time.as_ref().map(ToString::to_string),
            name: &process.name,
            executable: &process.executable,
            command_line: &process.command_line,
            runtime: runtime_name(process.runtime()),
            service: &process.service,
            watch_state: state_name(process.watch_state()),
            watch_reason: &process.watch_reason,
            user_id: process.user_id,
            mappings: process.mappings,
            mappings_with_rows: process.mappings_with_rows,
            samples: process.samples,
            rooted_samples: process.rooted_samples,
            python_samples: process.python_samples,
            interpreter: process.interpreter.as_ref().map(InterpreterDocument::from),
            limitations: &process.limitations,
        }
    }
}
