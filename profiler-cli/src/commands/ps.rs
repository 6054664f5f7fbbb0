//! `ps`: the processes that the daemon watches, and how well each can be profiled.

use std::{collections::BTreeMap, io::Write, process::ExitCode};

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
/// Most bytes shown of a name, a runtime and a service: with them a row has 120 columns at most.
const MAX_NAME_BYTES: usize = 15;
const MAX_RUNTIME_BYTES: usize = 12;
const MAX_SERVICE_BYTES: usize = 28;
/// Interpreters shown.
const MAX_INTERPRETERS: usize = 8;
/// Most bytes shown of an interpreter's object.
const MAX_OBJECT_BYTES: usize = 64;

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
        Cell::text("WATCHED"),
        right("SAMPLES"),
        right("ROOT %"),
        right("PYTHON %"),
        right("MAPPINGS"),
    ]);
    for process in processes {
        table.row(row(process));
    }
    table.write(out)?;
    write_unwatched(out, processes)?;
    write_limitations(out, processes)?;
    write_interpreters(out, processes)?;
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
    // Of one that is watched, why; of any other that is a sentence.
    let (state, style) = match process.watch_state() {
        WatchState::Watched if process.watch_reason.is_empty() => ("yes", GOOD_STYLE),
        WatchState::Watched => (&*process.watch_reason, GOOD_STYLE),
        WatchState::Pending => ("pending", NOTE_STYLE),
        WatchState::NotWatched | WatchState::Unspecified => ("no", BAD_STYLE),
    };
    vec![
        Cell::number(process.pid.to_string()),
        Cell::bounded(&process.name, MAX_NAME_BYTES),
        Cell::bounded(&runtime(process), MAX_RUNTIME_BYTES),
        Cell::bounded(&process.service, MAX_SERVICE_BYTES),
        Cell::bounded(state, MAX_RUNTIME_BYTES).styled(style),
        Cell::number(thousands(process.samples)),
        Cell::number(percent(process.rooted_samples, process.samples)),
        Cell::number(python_share(process)),
        Cell::number(format!("{}/{}", process.mappings_with_rows, process.mappings)),
    ]
}

/// The share of the samples that have Python frames, of a process with an interpreter that is understood.
fn python_share(process: &Process) -> String {
    match process.interpreter.as_ref().map(Interpreter::state) {
        None => "-".to_owned(),
        Some(InterpreterState::Active) => percent(process.python_samples, process.samples),
        Some(state) => interpreter_state_name(state).to_owned(),
    }
}

fn write_unwatched(out: &mut impl Write, processes: &[Process]) -> Result<(), CliError> {
    let is_left_out = |process: &&Process| process.watch_state() == WatchState::NotWatched;
    for (index, process) in processes.iter().filter(is_left_out).enumerate() {
        let gap = if index == 0 { "\n" } else { "" };
        let name = printable(&process.name, MAX_LIMITATION_BYTES);
        let reason = printable(&process.watch_reason, MAX_LIMITATION_BYTES);
        writeln!(out, "{gap}{} {name} is not watched: {reason}", process.pid)?;
    }
    Ok(())
}

/// The interpreters, and where each was found.
fn write_interpreters(out: &mut impl Write, processes: &[Process]) -> Result<(), CliError> {
    let mut found: BTreeMap<(String, &str), u64> = BTreeMap::new();
    for interpreter in processes.iter().filter_map(|process| process.interpreter.as_ref()) {
        let free_threaded = if interpreter.free_threaded { "t" } else { "" };
        let version = format!("{}{free_threaded}", interpreter.version);
        *found.entry((version, &interpreter.object)).or_default() += 1;
    }
    if found.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nInterpreters, each found as the object that defines {FOUND_BY}:")?;
    for ((version, object), processes) in found.iter().take(MAX_INTERPRETERS) {
        let (version, object) = (printable(version, MAX_NAME_BYTES), printable(object, MAX_OBJECT_BYTES));
        let noun = if *processes == 1 { "process" } else { "processes" };
        writeln!(out, "  Python {version} in {object}: {processes} {noun}")?;
    }
    if let Some(more) = found.len().checked_sub(MAX_INTERPRETERS).filter(|more| *more > 0) {
        writeln!(out, "  and {more} more, in --json")?;
    }
    Ok(())
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

/// What it runs, with the version of its interpreter.
fn runtime(process: &Process) -> String {
    let name = runtime_name(process.runtime());
    let Some(interpreter) = &process.interpreter else {
        return name.to_owned();
    };
    let version = interpreter.version.split('.').take(2).collect::<Vec<_>>().join(".");
    let free_threaded = if interpreter.free_threaded { "t" } else { "" };
    format!("{name} {version}{free_threaded}")
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
