//! `flamegraph`: where a process or a service spends its CPU time.
//!
//! What the daemon watches by itself is shown at once, from what it has kept; anything else is recorded first.

mod interrupt;
mod record;
mod target;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, SystemTime},
};

use profiler_profile::Quality;
use profiler_proto::v1::{Process, ProfileSelector, SampleKind, WatchState};

use self::{
    interrupt::Interrupt,
    record::{Ending, Recording},
    target::Target,
};
use crate::{
    args::{Connection, FlamegraphArgs},
    client::Client,
    commands::connect,
    convert,
    error::CliError,
    output::{Destination, Format, NOTE_STYLE, printable},
    span::span_text,
};

/// What is shown of a process that is watched already.
const DEFAULT_LAST: Duration = Duration::from_secs(60);
/// How long a process is recorded that is not.
const DEFAULT_DURATION: Duration = Duration::from_secs(10);
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
    let asked = Span::asked(args, SystemTime::now())?;
    let client = connect(connection).await?;
    let target = Target::find(&client, &args.target, asked.is_none()).await?;
    let plan = match (asked, args.duration) {
        (Some(span), _) => Plan::Show(span),
        (None, Some(duration)) => Plan::Record(duration),
        (None, None) if target.processes.iter().any(is_shown_at_once) => Plan::Show(Span::last(DEFAULT_LAST)),
        (None, None) => Plan::Record(DEFAULT_DURATION),
    };
    let rendering = match plan {
        Plan::Show(span) => fetch(&client, &target, span, None, format).await?,
        Plan::Record(duration) => {
            let mut interrupt = Interrupt::new()?;
            let recording = Recording::take(&client, &target, duration, &mut interrupt).await?;
            let span = Span {
                start: recording.start,
                end: Some(recording.end),
            };
            // The recording is held until its profile is here: with its stream the daemon may let go of the process.
            let rendering = fetch(&client, &target, span, Some(&recording), format);
            let rendering = interrupt.guard(rendering).await?;
            drop(recording);
            rendering
        }
    };
    finish(&rendering, &destination, format, args.open)?;
    Ok(ExitCode::SUCCESS)
}

/// How to come by the samples.
enum Plan {
    /// Show what the daemon has kept.
    Show(Span),
    /// Record from now on.
    Record(Duration),
}

/// From when to when; without an end until now.
#[derive(Clone, Copy)]
struct Span {
    start: SystemTime,
    end: Option<SystemTime>,
}

impl Span {
    /// The span of the past that was asked for.
    fn asked(args: &FlamegraphArgs, now: SystemTime) -> Result<Option<Self>, CliError> {
        if let Some(last) = args.last {
            return Ok(Some(Self::last(last)));
        }
        let Some(from) = args.from else { return Ok(None) };
        let span = Self {
            start: from.resolve(now),
            end: args.to.map(|to| to.resolve(now)),
        };
        let usage = |message: &str| {
            Err(CliError::Usage {
                message: message.to_owned(),
            })
        };
        match span.end {
            _ if span.start >= now => usage("--from is not in the past"),
            Some(end) if end <= span.start => usage("--to is not after --from"),
            _ => Ok(Some(span)),
        }
    }

    fn last(length: Duration) -> Self {
        Self {
            start: SystemTime::now().checked_sub(length).unwrap_or(SystemTime::UNIX_EPOCH),
            end: None,
        }
    }
}

/// Whether the daemon watches a process by itself, so that its last minute is there.
fn is_shown_at_once(process: &Process) -> bool {
    process.watch_state() == WatchState::Watched && process.watch_reason == DISCOVERED
}

/// A profile in its format.
struct Rendering {
    bytes: Vec<u8>,
    quality: Quality,
    stem: String,
}

/// Asks for a profile and renders it.
async fn fetch(
    client: &Client,
    target: &Target,
    span: Span,
    recording: Option<&Recording>,
    format: Format,
) -> Result<Rendering, CliError> {
    let selector = ProfileSelector {
        target: Some(target.selector()),
        kind: SampleKind::Cpu.into(),
        start_time: Some(span.start.into()),
        end_time: span.end.map(Into::into),
    };
    let no_samples = |quality: &Quality| CliError::NoSamples {
        target: target.to_string(),
        hint: hint(span, recording, quality),
    };
    // The daemon renders pprof itself: only there the names of threads are still known.
    if format == Format::Pprof {
        let response = client.query_pprof(selector).await?;
        let quality = convert::quality(response.quality.unwrap_or_default());
        if quality.samples == 0 {
            return Err(no_samples(&quality));
        }
        return Ok(Rendering {
            bytes: response.pprof,
            quality,
            stem: target.file_stem(None),
        });
    }
    let profile = convert::profile(client.query_profile(selector).await?)?;
    if profile.samples() == 0 {
        return Err(no_samples(&profile.quality));
    }
    let stem = target.file_stem(profile.processes.first().map(|process| &*process.name));
    // Rendering may take a moment: not on the thread that listens for Ctrl-C.
    let rendered = tokio::task::spawn_blocking(move || (format.render(&profile), profile.quality)).await;
    let (bytes, quality) = rendered.map_err(|source| CliError::Render {
        format: format.name(),
        source: source.into(),
    })?;
    Ok(Rendering {
        bytes: bytes?,
        quality,
        stem,
    })
}

/// What it means that there are no samples.
fn hint(span: Span, recording: Option<&Recording>, quality: &Quality) -> String {
    let mut hint = match recording {
        Some(Recording {
            ending: Ending::Exited,
            elapsed,
            ..
        }) => {
            format!("it exited after {}, before it was seen on a CPU", span_text(*elapsed))
        }
        Some(Recording { elapsed, .. }) => {
            format!(
                "it used no CPU for the {} of the recording, and only time on a CPU is sampled",
                span_text(*elapsed)
            )
        }
        None => {
            let end = span.end.unwrap_or_else(SystemTime::now);
            let length = end.duration_since(span.start).unwrap_or_default();
            format!(
                "nothing is kept of the {} asked for; either it used no CPU then, or it was not watched; --duration \
                 records from now on",
                span_text(length)
            )
        }
    };
    if quality.lost.values().any(|count| *count > 0) {
        hint.push_str(&format!(" ({quality})"));
    }
    hint
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
    drop(writeln!(notes, "{}", rendering.quality));
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
