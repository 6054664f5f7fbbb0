//! Asks for the profile of a span, and renders it.

use std::{
    pin::pin,
    time::{Duration, SystemTime},
};

use profiler_profile::Quality;
use profiler_proto::v1::{ProfileSelector, ProfileView, SampleKind};
use tonic::Code;

use super::{
    record::{Ending, Recording},
    target::Target,
};
use crate::{
    args::{FlamegraphArgs, ViewArgs},
    client::{Client, ClientError},
    convert,
    error::CliError,
    output::{Format, Progress, thousands},
    span::span_text,
};

/// How long an answer may take before it is shown that it is waited for.
const QUIET: Duration = Duration::from_secs(1);

/// From when to when; without an end until now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// From the oldest that is kept on if there is none.
    pub(super) start: Option<SystemTime>,
    pub(super) end: Option<SystemTime>,
}

impl Span {
    /// All that is kept.
    pub(super) const EVERYTHING: Self = Self { start: None, end: None };

    /// The span of the past that was asked for.
    pub(super) fn asked(args: &FlamegraphArgs, now: SystemTime) -> Result<Option<Self>, CliError> {
        if let Some(last) = args.last {
            return Ok(Some(Self::last(last)));
        }
        let Some(from) = args.from else { return Ok(None) };
        let start = from.resolve(now);
        let span = Self {
            start: Some(start),
            end: args.to.map(|to| to.resolve(now)),
        };
        let usage = |message: &str| {
            Err(CliError::Usage {
                message: message.to_owned(),
            })
        };
        match span.end {
            _ if start >= now => usage("--from is not in the past"),
            Some(end) if end <= start => usage("--to is not after --from"),
            _ => Ok(Some(span)),
        }
    }

    /// The span of this length until now.
    pub(super) fn last(length: Duration) -> Self {
        Self {
            start: Some(SystemTime::now().checked_sub(length).unwrap_or(SystemTime::UNIX_EPOCH)),
            end: None,
        }
    }
}

/// A profile in its format.
#[derive(Debug)]
pub(super) struct Rendering {
    pub(super) bytes: Vec<u8>,
    /// The line that ends its report.
    pub(super) summary: String,
    /// For the name of its file.
    pub(super) stem: String,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Query<'a> {
    pub(super) client: &'a Client,
    pub(super) target: &'a Target,
    pub(super) span: Span,
    pub(super) format: Format,
    pub(super) kind: SampleKind,
    pub(super) view: ViewArgs,
}

impl Query<'_> {
    /// Asks and renders. `recording` is what the span was recorded by, if it is not of the past.
    pub(super) async fn fetch(self, recording: Option<&Recording>) -> Result<Rendering, CliError> {
        if self.format == Format::Pprof
            && let Some(rendering) = self.fetch_pprof(recording).await?
        {
            return Ok(rendering);
        }
        let answer = shown(self.client.query_profile(self.selector(), self.view())).await;
        let profile = convert::profile(answer.map_err(|error| self.explain(error, recording))?)?;
        if profile.samples() == 0 {
            return Err(self.no_samples(recording, &profile.quality));
        }
        let stem = self
            .target
            .file_stem(profile.processes.first().map(|process| &*process.name));
        let format = self.format;
        // Rendering may take a moment: not on the thread that listens for Ctrl-C.
        let rendered = tokio::task::spawn_blocking(move || (format.render(&profile), profile.summary())).await;
        let (bytes, summary) = rendered.map_err(|source| CliError::Render {
            format: format.name(),
            source: source.into(),
        })?;
        Ok(Rendering {
            bytes: bytes?,
            summary,
            stem,
        })
    }

    /// The daemon renders pprof itself: only there the names of threads are still known. None if it has nothing to
    /// render: whether that means no samples or no such process, its answer does not tell.
    async fn fetch_pprof(self, recording: Option<&Recording>) -> Result<Option<Rendering>, CliError> {
        let response = match shown(self.client.query_pprof(self.selector(), self.view())).await {
            Err(ClientError::NotFound { .. }) => return Ok(None),
            answer => answer.map_err(|error| self.explain(error, recording))?,
        };
        let quality = convert::quality_of_kind(response.quality.unwrap_or_default(), self.kind);
        if quality.samples == 0 {
            return Err(self.no_samples(recording, &quality));
        }
        // Daemons before this one do not tell how many they show.
        let summary = match response.samples {
            0 => quality.to_string(),
            shown => quality.summary(shown),
        };
        Ok(Some(Rendering {
            bytes: response.pprof,
            summary,
            stem: self.target.file_stem(None),
        }))
    }

    fn view(self) -> ProfileView {
        ProfileView {
            native_python: self.view.native_python,
            threads: self.view.threads,
            gil: self.view.gil,
        }
    }

    fn selector(self) -> ProfileSelector {
        ProfileSelector {
            target: Some(self.target.selector()),
            kind: self.kind.into(),
            start_time: self.span.start.map(Into::into),
            end_time: self.span.end.map(Into::into),
        }
    }

    /// What a refusal means after all that is known of the target.
    fn explain(self, error: ClientError, recording: Option<&Recording>) -> CliError {
        match (error, recording, self.target.not_watched()) {
            // It was there when the recording began.
            (ClientError::NotFound { .. }, Some(_), _) => self.no_samples(recording, &Quality::default()),
            (
                ClientError::Refused {
                    code: Code::FailedPrecondition,
                    ..
                },
                None,
                Some(reason),
            ) => CliError::NotWatched {
                target: self.target.to_string(),
                reason: reason.to_owned(),
            },
            (error, _, _) => error.into(),
        }
    }

    fn no_samples(self, recording: Option<&Recording>, quality: &Quality) -> CliError {
        let hint = match quality.samples {
            samples @ 1.. if self.view.gil => format!(
                "none of its {} samples is of a thread that is known to have held an interpreter's lock",
                thousands(samples)
            ),
            _ if self.kind == SampleKind::MemoryMapped => exact_hint(quality),
            _ if self.kind != SampleKind::Cpu => memory_hint(recording, quality),
            _ => hint(self.span, recording, quality),
        };
        CliError::NoSamples {
            target: self.target.to_string(),
            hint,
        }
    }
}

/// Waits for an answer, and shows that it does if that takes long: what was sampled last is named first.
async fn shown<T>(answer: impl Future<Output = T>) -> T {
    let mut answer = pin!(answer);
    if let Ok(answer) = tokio::time::timeout(QUIET, &mut answer).await {
        return answer;
    }
    let _progress = Progress::wait("waiting until the daemon has named the samples");
    answer.await
}

/// What it means that no call for memory was taken.
fn exact_hint(quality: &Quality) -> String {
    let hint = "it asked the kernel for no 128 KiB or more at once during the recording";
    match quality.lost.values().any(|count| *count > 0) {
        true => format!("no call for memory could be taken ({quality})"),
        false => hint.to_owned(),
    }
}

/// What it means that no memory was touched, or none is left.
fn memory_hint(recording: Option<&Recording>, quality: &Quality) -> String {
    let touched = quality.pages.map_or(0, |pages| pages.first_touch);
    let hint = match recording {
        _ if touched > 0 => "all that was touched in this time is gone again; --value first-touch shows it",
        Some(_) => "no memory was touched for the first time during the recording",
        None => {
            "no memory was touched for the first time in this time, or it was not watched; --duration records from now on"
        }
    };
    if quality.lost.values().any(|count| *count > 0) {
        return format!("{hint} ({quality})");
    }
    hint.to_owned()
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
            let start = span.start.unwrap_or(end);
            let length = end.duration_since(start).unwrap_or_default();
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
