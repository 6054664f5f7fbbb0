//! `diff`: which functions cost more or less CPU than before.

mod document;
mod report;

use std::{
    io::Write as _,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use profiler_profile::{
    compare::{Comparison, Party},
    render,
};
use profiler_proto::v1::{
    CompareMeasure, CompareProfilesRequest, ProfileSelector, ProfileView, SampleKind, profile_selector::Target,
};

use crate::{
    args::{CompareBy, Connection, DiffArgs, DiffFormat},
    commands::connect,
    convert,
    error::CliError,
    output::{Destination, Format, file_stem, printable, write_json},
};

/// Most bytes shown of a name.
const MAX_NAME_BYTES: usize = 80;
/// Most bytes shown of a path.
const MAX_PATH_BYTES: usize = 4_096;

/// Shows what changed between two spans.
pub(crate) async fn run(connection: &Connection, args: &DiffArgs) -> Result<ExitCode, CliError> {
    let format = format(args)?;
    let request = request(args, SystemTime::now())?;
    let client = connect(connection).await?;
    let comparison = convert::comparison::comparison(client.compare_profiles(request).await?)?;
    let title = title(args, &comparison);
    if comparison
        .before
        .quality
        .samples
        .saturating_add(comparison.after.quality.samples)
        == 0
    {
        return Err(CliError::NoSamples {
            target: title,
            hint: "nothing is kept of both spans; either it used no CPU then, or it was not watched".to_owned(),
        });
    }
    let bytes = match format {
        DiffFormat::Json if args.output.is_none() => {
            write_json(&document::Document::new(&title, &comparison))?;
            return Ok(ExitCode::SUCCESS);
        }
        DiffFormat::Text if args.output.is_none() => {
            report::write(&mut anstream::stdout().lock(), &title, &comparison)?;
            return Ok(ExitCode::SUCCESS);
        }
        format => render(format, &title, &comparison)?,
    };
    let (extension, destination) = match format {
        DiffFormat::Svg => (Format::Svg, Destination::choose(args.output.as_deref(), false)?),
        _ => (Format::Folded, Destination::choose(args.output.as_deref(), false)?),
    };
    let stem = format!("{}-diff", file_stem(&title, None));
    let path = destination.write(&bytes, &stem, extension)?;
    let mut notes = anstream::stderr().lock();
    // Without a stderr there is nobody to tell.
    if let Some(path) = path {
        let shown = path.display().to_string();
        drop(writeln!(notes, "wrote {}", printable(&shown, MAX_PATH_BYTES)));
    }
    for line in report::endings(&comparison) {
        drop(writeln!(notes, "{line}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// What to write: as asked, or as the file's name says.
fn format(args: &DiffArgs) -> Result<DiffFormat, CliError> {
    if args.json {
        return Ok(DiffFormat::Json);
    }
    if let Some(format) = args.format {
        return Ok(format);
    }
    let extension = args.output.as_deref().and_then(std::path::Path::extension);
    match extension.and_then(std::ffi::OsStr::to_str) {
        None | Some("txt") => Ok(DiffFormat::Text),
        Some("svg") => Ok(DiffFormat::Svg),
        Some("folded") => Ok(DiffFormat::Folded),
        Some("json") => Ok(DiffFormat::Json),
        Some(_) => Err(CliError::Usage {
            message:
                "the name of the file tells no format; give --format, or one of the extensions .txt .svg .folded .json"
                    .to_owned(),
        }),
    }
}

fn request(args: &DiffArgs, now: SystemTime) -> Result<CompareProfilesRequest, CliError> {
    let after = args.after.resolve(now, "--after")?;
    let before = match args.before {
        Some(before) => before.resolve(now, "--before")?,
        None => {
            let length = after.1.duration_since(after.0).unwrap_or(Duration::ZERO);
            (after.0.checked_sub(length).unwrap_or(SystemTime::UNIX_EPOCH), after.0)
        }
    };
    if before.0 < after.1 && after.0 < before.1 {
        return Err(CliError::Usage {
            message: "--before and --after overlap".to_owned(),
        });
    }
    let target = match (args.target.pid, &args.target.service) {
        (Some(pid), _) => Target::Pid(pid),
        (None, Some(service)) => Target::Service(service.clone()),
        (None, None) => Target::Everything(true),
    };
    let selector = |(start, end): (SystemTime, SystemTime)| {
        Some(ProfileSelector {
            target: Some(target.clone()),
            kind: SampleKind::Cpu.into(),
            start_time: Some(start.into()),
            // Until now means until the daemon's.
            end_time: (end != now).then(|| end.into()),
        })
    };
    let measure = match args.by {
        CompareBy::Cores => CompareMeasure::Cores,
        CompareBy::Share => CompareMeasure::Share,
    };
    Ok(CompareProfilesRequest {
        before: selector(before),
        after: selector(after),
        view: Some(ProfileView {
            native_python: args.view.native_python,
            threads: args.view.threads,
            gil: args.view.gil,
        }),
        measure: measure.into(),
    })
}

/// Whose comparison it is.
fn title(args: &DiffArgs, comparison: &Comparison) -> String {
    let process = comparison.parties.iter().find_map(|party| match &party.party {
        Party::Process(process) => Some(&process.name),
        Party::Service(_) | Party::Program(_) => None,
    });
    match (args.target.pid, &args.target.service, process) {
        (Some(pid), _, Some(name)) => format!("{} (pid {pid})", printable(name, MAX_NAME_BYTES)),
        (Some(pid), _, None) => format!("process {pid}"),
        (None, Some(service), _) => format!("service {}", printable(service, MAX_NAME_BYTES)),
        (None, None, _) => "host".to_owned(),
    }
}

/// A differential flame graph.
pub(super) fn svg(title: &str, comparison: &Comparison) -> Result<Vec<u8>, CliError> {
    render(DiffFormat::Svg, title, comparison)
}

/// Stacks with what they took before and after.
pub(super) fn folded(title: &str, comparison: &Comparison) -> Result<Vec<u8>, CliError> {
    render(DiffFormat::Folded, title, comparison)
}

/// The whole comparison.
pub(super) fn json(title: &str, comparison: &Comparison) -> Result<Vec<u8>, CliError> {
    render(DiffFormat::Json, title, comparison)
}

/// The lines that end a report.
pub(super) fn endings(comparison: &Comparison) -> Vec<String> {
    report::endings(comparison)
}

fn render(format: DiffFormat, title: &str, comparison: &Comparison) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let (name, rendered) = match format {
        DiffFormat::Svg => ("svg", render::svg::write_difference(comparison, title, &mut bytes)),
        DiffFormat::Folded => (
            "folded",
            render::folded::write_difference(comparison, title, &mut bytes),
        ),
        DiffFormat::Text => {
            report::write(&mut anstream::StripStream::new(&mut bytes), title, comparison)?;
            ("text", Ok(()))
        }
        DiffFormat::Json => {
            serde_json::to_writer_pretty(&mut bytes, &document::Document::new(title, comparison))?;
            bytes.push(b'\n');
            ("json", Ok(()))
        }
    };
    match rendered {
        Ok(()) => Ok(bytes),
        Err(render::RenderError::NoSamples) => Err(CliError::NoSamples {
            target: title.to_owned(),
            hint: "it used no CPU in the span after, and a flame graph is as wide as that; --format text shows what \
                   is gone"
                .to_owned(),
        }),
        Err(source) => Err(CliError::Render {
            format: name,
            source: Box::new(source),
        }),
    }
}
