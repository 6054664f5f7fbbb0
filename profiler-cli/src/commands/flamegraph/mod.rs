//! `flamegraph`: where a process or a service spends its CPU time, or what its memory has grown by.
//!
//! What the daemon watches by itself is shown at once, from what it has kept; anything else is recorded first.

mod alert;
mod interrupt;
mod query;
mod record;
mod target;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, SystemTime},
};

use profiler_proto::v1::{Process, SampleKind, WatchState};

use self::{
    interrupt::Interrupt,
    query::{Query, Rendering, Span},
    record::Recording,
    target::Target,
};
use crate::{
    args::{Connection, FlamegraphArgs, Kind, MemoryValue, Pages},
    commands::connect,
    error::CliError,
    output::{Destination, Format, NOTE_STYLE, printable},
    span::span_text,
};

/// What is shown of a process that is watched already.
const DEFAULT_LAST: Duration = Duration::from_secs(60);
/// How long a process is recorded that is not.
const DEFAULT_DURATION: Duration = Duration::from_secs(10);
/// How long calls for memory are recorded at most. The daemon ends it a little later by itself.
const MAX_EXACT: Duration = Duration::from_secs(600);
/// The reason that the daemon gives for a process that it watches by itself.
const DISCOVERED: &str = "discovered";
/// What opens a file in a desktop.
const OPENER: &str = "xdg-open";
/// Most bytes shown of a path.
const MAX_PATH_BYTES: usize = 4_096;

/// Shows the flame graph of a target.
pub(crate) async fn run(connection: &Connection, args: &FlamegraphArgs) -> Result<ExitCode, CliError> {
    let destination = Destination::choose(args.output.as_deref(), args.open)?;
    let format = match (args.format, &destination) {
        (Some(format), _) => format,
        (None, Destination::File(path)) => Format::of_file(path)?,
        (None, Destination::Stdout | Destination::NewFile) => Format::Svg,
    };
    if args.exact {
        check_exact(args)?;
    }
    if args.kind == Kind::Memory && args.view.gil {
        return Err(CliError::Usage {
            message: "--gil is of CPU time: a page is touched by whoever is given it".to_owned(),
        });
    }
    let asked = Span::asked(args, SystemTime::now())?;
    let client = connect(connection).await?;
    if let Some(id) = &args.target.alert {
        let rendering = alert::render(&client, id, args, format).await?;
        finish(&rendering, &destination, format, args.open)?;
        return Ok(ExitCode::SUCCESS);
    }
    let target = Target::find(&client, &args.target, asked.is_none()).await?;
    let plan = match (asked, args.duration) {
        (Some(span), _) => Plan::Show(span),
        (None, Some(duration)) => Plan::Record(duration),
        (None, None) if args.exact => Plan::Record(DEFAULT_DURATION),
        (None, None) if target.processes.iter().any(is_shown_at_once) => Plan::Show(match args.kind {
            Kind::Cpu => Span::last(DEFAULT_LAST),
            Kind::Memory => Span::EVERYTHING,
        }),
        (None, None) => Plan::Record(DEFAULT_DURATION),
    };
    let query = |span| Query {
        client: &client,
        target: &target,
        span,
        format,
        kind: sample_kind(args),
        view: args.view,
    };
    let rendering = match plan {
        Plan::Show(span) => query(span).fetch(None).await?,
        Plan::Record(duration) => {
            let mut interrupt = Interrupt::new()?;
            let recording = Recording::take(&client, &target, duration, args.exact, &mut interrupt).await?;
            let span = Span {
                start: Some(recording.start),
                end: Some(recording.end),
            };
            // The recording is held until its profile is here: with its stream the daemon may let go of the process.
            let rendering = interrupt.guard(query(span).fetch(Some(&recording))).await?;
            drop(recording);
            rendering
        }
    };
    finish(&rendering, &destination, format, args.open)?;
    Ok(ExitCode::SUCCESS)
}

/// Whether exact stacks can be asked for in this way.
fn check_exact(args: &FlamegraphArgs) -> Result<(), CliError> {
    let message = match args.duration {
        _ if args.kind != Kind::Memory => "--exact is of memory: add --kind memory".to_owned(),
        Some(duration) if duration > MAX_EXACT => {
            let (asked, most) = (span_text(duration), span_text(MAX_EXACT));
            format!("--exact is for {most} at most, not for {asked}: it costs each system call on the host")
        }
        _ => return Ok(()),
    };
    Err(CliError::Usage { message })
}

/// What is asked for.
fn sample_kind(args: &FlamegraphArgs) -> SampleKind {
    if args.exact {
        return SampleKind::MemoryMapped;
    }
    match (args.kind, args.memory.pages, args.memory.value) {
        (Kind::Cpu, ..) => SampleKind::Cpu,
        (Kind::Memory, Pages::Anonymous, MemoryValue::Growth) => SampleKind::MemoryGrowth,
        (Kind::Memory, Pages::Anonymous, MemoryValue::FirstTouch) => SampleKind::MemoryFirstTouch,
        (Kind::Memory, Pages::File, MemoryValue::Growth) => SampleKind::FileGrowth,
        (Kind::Memory, Pages::File, MemoryValue::FirstTouch) => SampleKind::FileFirstTouch,
        (Kind::Memory, Pages::Copied, MemoryValue::Growth) => SampleKind::CopiedGrowth,
        (Kind::Memory, Pages::Copied, MemoryValue::FirstTouch) => SampleKind::CopiedFirstTouch,
    }
}

/// How to come by the samples.
enum Plan {
    /// Show what the daemon has kept.
    Show(Span),
    /// Record from now on.
    Record(Duration),
}

/// Whether the daemon watches a process by itself, so that its last minute is there.
fn is_shown_at_once(process: &Process) -> bool {
    process.watch_state() == WatchState::Watched && process.watch_reason == DISCOVERED
}

/// Writes what was rendered, and says where and how good it is.
fn finish(rendering: &Rendering, destination: &Destination, format: Format, open: bool) -> Result<(), CliError> {
    let path: Option<PathBuf> = destination.write(&rendering.bytes, &rendering.stem, format)?;
    let mut notes = anstream::stderr().lock();
    // Without a stderr there is nobody to tell.
    if let Some(path) = &path {
        let shown = path.display().to_string();
        drop(writeln!(notes, "wrote {}", printable(&shown, MAX_PATH_BYTES)));
        if open && let Err(error) = open_file(path) {
            drop(writeln!(
                notes,
                "{NOTE_STYLE}note:{NOTE_STYLE:#} cannot run {OPENER} to open it: {error}"
            ));
        }
    }
    drop(writeln!(notes, "{}", rendering.summary));
    Ok(())
}

/// Starts the desktop's program for a file, and leaves it to itself.
fn open_file(path: &Path) -> std::io::Result<()> {
    // A name that begins with a dash is no option.
    let path = std::path::absolute(path)?;
    Command::new(OPENER)
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(())
}
