//! Between messages and domain values, both ways.

pub(super) mod alerts;
pub(super) mod census;
pub(super) mod comparison;
pub(super) mod evidence;
pub(super) mod growth;
pub(super) mod readings;
mod reports;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use profiler_profile::{Frame, FrameKind, Measure, PageKind, PageQuality, ProcessLabel, Profile, Quality, View};
use profiler_proto::v1;
use profiler_store::{Span, Target};
use prost_types::Timestamp;

pub(super) use self::reports::{budget, cost, mapped_calls, memory_profile, part, sampling, store};
use crate::{
    command::{InterpreterState, InterpreterSummary, ProcessSummary, Runtime, WatchProgress, WatchState},
    kernel::records::Pid,
};

/// Longest and default lease of a watch without a stream.
pub(super) const MAX_LEASE: Duration = Duration::from_secs(60);
/// The current window may reach this far into the past, being as long as the configuration allows; and a recording that
/// ended a moment before it is asked for lies in it.
const LONGEST_WINDOW: Duration = Duration::from_secs(60);

/// A request that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidRequest {
    #[error("{field} is missing")]
    Missing { field: &'static str },
    #[error("process 0 is no process: it is the kernel's idle loop")]
    PidZero,
    #[error("{field} is not a time that can be told")]
    Time { field: &'static str },
    #[error("start_time is not before end_time")]
    EmptySpan,
    #[error("start_time is in the future")]
    Future,
    #[error("the spans before and after overlap")]
    Overlap,
    #[error("measure {measure} is not known")]
    Measure { measure: i32 },
    #[error("an alert's id has up to 16 hexadecimal digits")]
    AlertId,
    #[error("a silence holds for more than no time and at most 366 days")]
    SilenceDuration,
    #[error("duration is not more than nothing")]
    Duration,
    #[error("this can be asked of CPU time only")]
    CpuOnly,
    #[error("kind {kind} is not known")]
    Kind { kind: i32 },
    #[error(transparent)]
    Metric(#[from] profiler_readings::UnknownMetric),
    #[error("scope {scope} is not known")]
    Scope { scope: i32 },
    #[error("step is not more than nothing")]
    Step,
    #[error("interval is not more than nothing")]
    Interval,
    #[error("quantiles are shares from 0 to 1, at most {most} of them")]
    Quantiles { most: usize },
}

/// What a query asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) target: Target,
    pub(super) span: Span,
    /// The span may reach into the window that has not ended yet.
    pub(super) recent: bool,
}

/// Reads a selector. An end after `now` is cut to it.
pub(super) fn query(selector: Option<v1::ProfileSelector>, now: SystemTime) -> Result<Query, InvalidRequest> {
    let selector = selector.ok_or(InvalidRequest::Missing { field: "selector" })?;
    match v1::SampleKind::try_from(selector.kind) {
        Ok(v1::SampleKind::Unspecified | v1::SampleKind::Cpu) => {}
        Ok(_) => return Err(InvalidRequest::CpuOnly),
        Err(prost::UnknownEnumValue(kind)) => return Err(InvalidRequest::Kind { kind }),
    }
    let target = match selector.target {
        Some(v1::profile_selector::Target::Pid(pid)) => Target::Process(self::pid(pid)?.0),
        Some(v1::profile_selector::Target::Service(service)) if !service.is_empty() => {
            Target::Service(Arc::from(service))
        }
        Some(v1::profile_selector::Target::Everything(true)) => Target::Everything,
        _ => {
            return Err(InvalidRequest::Missing {
                field: "selector.pid or selector.service",
            });
        }
    };
    let start = selector
        .start_time
        .map(|time| system_time(time, "start_time"))
        .transpose()?;
    let end = selector
        .end_time
        .map(|time| system_time(time, "end_time"))
        .transpose()?;
    if start.zip(end).is_some_and(|(start, end)| start >= end) {
        return Err(InvalidRequest::EmptySpan);
    }
    let end = end.unwrap_or(now).min(now);
    if start.is_some_and(|start| start >= end) {
        return Err(InvalidRequest::Future);
    }
    Ok(Query {
        target,
        span: Span { start, end },
        recent: now.duration_since(end).is_ok_and(|past| past <= LONGEST_WINDOW),
    })
}

/// What is asked of memory; `None` if something else is.
pub(super) fn memory_kind(selector: Option<&v1::ProfileSelector>) -> Option<(PageKind, Measure)> {
    match v1::SampleKind::try_from(selector?.kind).ok()? {
        v1::SampleKind::Unspecified | v1::SampleKind::Cpu | v1::SampleKind::MemoryMapped => None,
        v1::SampleKind::MemoryGrowth => Some((PageKind::Anonymous, Measure::Growth)),
        v1::SampleKind::MemoryFirstTouch => Some((PageKind::Anonymous, Measure::FirstTouch)),
        v1::SampleKind::FileGrowth => Some((PageKind::File, Measure::Growth)),
        v1::SampleKind::FileFirstTouch => Some((PageKind::File, Measure::FirstTouch)),
        v1::SampleKind::CopiedGrowth => Some((PageKind::Copied, Measure::Growth)),
        v1::SampleKind::CopiedFirstTouch => Some((PageKind::Copied, Measure::FirstTouch)),
    }
}

/// Whether calls for memory are asked for.
pub(super) fn is_mapped(selector: Option<&v1::ProfileSelector>) -> bool {
    selector.is_some_and(|selector| selector.kind == i32::from(v1::SampleKind::MemoryMapped))
}

/// The other way round.
fn sample_kind(pages: Option<&PageQuality>) -> v1::SampleKind {
    let Some(pages) = pages else { return v1::SampleKind::Cpu };
    if pages.measure == Measure::Mapped {
        return v1::SampleKind::MemoryMapped;
    }
    let is_gross = pages.measure == Measure::FirstTouch;
    match (pages.kind, is_gross) {
        (PageKind::Anonymous, false) => v1::SampleKind::MemoryGrowth,
        (PageKind::Anonymous, true) => v1::SampleKind::MemoryFirstTouch,
        (PageKind::File, false) => v1::SampleKind::FileGrowth,
        (PageKind::File, true) => v1::SampleKind::FileFirstTouch,
        (PageKind::Copied, false) => v1::SampleKind::CopiedGrowth,
        (PageKind::Copied, true) => v1::SampleKind::CopiedFirstTouch,
    }
}

/// A process id that can be one.
pub(super) fn pid(pid: u32) -> Result<Pid, InvalidRequest> {
    if pid == 0 {
        Err(InvalidRequest::PidZero)
    } else {
        Ok(Pid(pid))
    }
}

/// How long a lease lasts: at most and by default [`MAX_LEASE`].
pub(super) fn lease(duration: Option<prost_types::Duration>) -> Result<Duration, InvalidRequest> {
    let Some(duration) = duration else { return Ok(MAX_LEASE) };
    match Duration::try_from(duration) {
        Ok(duration) if !duration.is_zero() => Ok(duration.min(MAX_LEASE)),
        _ => Err(InvalidRequest::Duration),
    }
}

fn system_time(time: Timestamp, field: &'static str) -> Result<SystemTime, InvalidRequest> {
    // Nanoseconds out of range would be carried into the seconds.
    if !(0..1_000_000_000).contains(&time.nanos) {
        return Err(InvalidRequest::Time { field });
    }
    SystemTime::try_from(time).map_err(|_error| InvalidRequest::Time { field })
}

/// A duration as a message; the longest there is if it does not fit.
pub(super) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).unwrap_or(prost_types::Duration {
        seconds: i64::MAX,
        nanos: 999_999_999,
    })
}

/// A table of strings in which 0 is the empty one.
struct Strings {
    table: Vec<String>,
    indices: HashMap<Arc<str>, u32>,
}

impl Strings {
    fn new() -> Self {
        Self {
            table: vec![String::new()],
            indices: HashMap::from([(Arc::from(""), 0)]),
        }
    }

    fn index(&mut self, text: &Arc<str>) -> u32 {
        if let Some(index) = self.indices.get(text) {
            return *index;
        }
        let index = self.table.len() as u32;
        self.table.push(text.to_string());
        self.indices.insert(Arc::clone(text), index);
        index
    }
}

/// A profile as a tree; its threads are merged.
pub(super) fn profile(profile: &Profile) -> v1::Profile {
    let mut strings = Strings::new();
    let frames = profile
        .frames
        .iter()
        .map(|frame| self::frame(frame, &mut strings))
        .collect();
    let node = |node: profiler_profile::Node| v1::Node {
        parent: node
            .parent
            .map_or(-1, |parent| i32::try_from(parent).unwrap_or(i32::MAX)),
        frame: node.frame,
        process: node.process,
        self_samples: node.self_samples,
    };
    v1::Profile {
        kind: sample_kind(profile.quality.pages.as_ref()).into(),
        period: Some(duration(profile.period)),
        start_time: Some(profile.start.into()),
        end_time: Some(profile.end.into()),
        frames,
        nodes: profile.tree().nodes.into_iter().map(node).collect(),
        processes: profile.processes.iter().map(profiled_process).collect(),
        quality: Some(quality(&profile.quality)),
        strings: strings.table,
    }
}

fn frame(frame: &Frame, strings: &mut Strings) -> v1::Frame {
    let kind = match frame.kind {
        FrameKind::Kernel => v1::FrameKind::Kernel,
        FrameKind::Native => v1::FrameKind::Native,
        FrameKind::Inlined => v1::FrameKind::Inlined,
        FrameKind::Python => v1::FrameKind::Python,
        FrameKind::Unnamed => v1::FrameKind::Unnamed,
        FrameKind::Interpreter => v1::FrameKind::Interpreter,
        FrameKind::Thread => v1::FrameKind::Thread,
    };
    v1::Frame {
        kind: kind.into(),
        function: strings.index(&frame.function),
        module: strings.index(&frame.module),
        file: strings.index(&frame.file),
        line: frame.line,
    }
}

fn profiled_process(process: &ProcessLabel) -> v1::ProfiledProcess {
    v1::ProfiledProcess {
        pid: process.pid,
        start_time: Some(process.start.into()),
        name: process.name.to_string(),
        service: process.service.to_string(),
    }
}

/// How far a profile can be trusted.
pub(super) fn quality(quality: &Quality) -> v1::Quality {
    let counts = |counts: &std::collections::BTreeMap<String, u64>| {
        counts.iter().map(|(reason, count)| (reason.clone(), *count)).collect()
    };
    v1::Quality {
        samples: quality.samples,
        rooted_samples: quality.rooted,
        stopped_samples: counts(&quality.stopped),
        lost_samples: counts(&quality.lost),
        user_frames: quality.user_frames,
        named_user_frames: quality.named_user_frames,
        incomplete_kernel_stacks: quality.incomplete_kernel_stacks,
        python_samples: quality.python.samples,
        samples_with_python_frames: quality.python.with_frames,
        stopped_python_samples: counts(&quality.python.stopped),
        memory: quality.pages.map(|pages| v1::MemoryQuality {
            growth_bytes: pages.growth,
            growth_error_bytes: pages.growth_error,
            first_touch_bytes: pages.first_touch,
            other_growth_bytes: pages.other_growth,
            pages: pages.pages,
            lowest_level: pages.levels.0,
            highest_level: pages.levels.1,
        }),
    }
}

/// A process, with its command line only if the caller may see it.
pub(super) fn process(process: ProcessSummary, with_command_line: bool) -> v1::Process {
    let runtime = match process.runtime {
        Runtime::Native => v1::Runtime::Native,
        Runtime::Rust => v1::Runtime::Rust,
        Runtime::Python => v1::Runtime::Python,
    };
    let watch_state = match process.watch_state {
        WatchState::NotWatched => v1::WatchState::NotWatched,
        WatchState::Pending => v1::WatchState::Pending,
        WatchState::Watched => v1::WatchState::Watched,
    };
    v1::Process {
        pid: process.pid.0,
        start_time: Some(process.start.into()),
        name: process.name.to_string(),
        executable: process.executable,
        command_line: if with_command_line {
            process.command_line
        } else {
            Vec::new()
        },
        runtime: runtime.into(),
        service: process.service.to_string(),
        watch_state: watch_state.into(),
        watch_reason: process.watch_reason,
        user_id: process.user_id,
        mappings: process.mappings,
        mappings_with_rows: process.mappings_with_rows,
        samples: process.samples,
        rooted_samples: process.rooted_samples,
        limitations: process.limitations,
        interpreter: process.interpreter.map(interpreter),
        python_samples: process.python_samples,
    }
}

fn interpreter(interpreter: InterpreterSummary) -> v1::Interpreter {
    let state = match interpreter.state {
        InterpreterState::Looking => v1::InterpreterState::Looking,
        InterpreterState::Active => v1::InterpreterState::Active,
        InterpreterState::Refused => v1::InterpreterState::Refused,
    };
    v1::Interpreter {
        object: interpreter.object.to_string(),
        version: interpreter.version.unwrap_or_default(),
        free_threaded: interpreter.free_threaded,
        state: state.into(),
        reason: interpreter.reason,
    }
}

/// What of a profile is asked for.
pub(super) fn view(view: Option<v1::ProfileView>) -> View {
    let view = view.unwrap_or_default();
    View {
        native_python: view.native_python,
        threads: view.threads,
        gil: view.gil,
    }
}

/// How far a watch has come.
pub(super) fn watch_progress(
    progress: WatchProgress,
    elapsed: Duration,
    already_watched: bool,
) -> v1::WatchProcessResponse {
    v1::WatchProcessResponse {
        elapsed: Some(duration(elapsed)),
        samples: progress.samples,
        rooted_samples: progress.rooted_samples,
        already_watched,
        exited: progress.exited,
    }
}

#[cfg(test)]
mod tests {
    use profiler_profile::ProfileBuilder;

    use super::*;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn selector(pid: u32, start: Option<i64>, end: Option<i64>) -> v1::ProfileSelector {
        let time = |seconds| Timestamp { seconds, nanos: 0 };
        v1::ProfileSelector {
            target: Some(v1::profile_selector::Target::Pid(pid)),
            kind: 0,
            start_time: start.map(time),
            end_time: end.map(time),
        }
    }

    #[test]
    fn the_end_of_a_query_is_cut_to_now() {
        for (start, end, expected) in [
            (None, None, Ok((None, 1000, true))),
            (Some(10), None, Ok((Some(10), 1000, true))),
            (Some(10), Some(20), Ok((Some(10), 20, false))),
            (Some(10), Some(939), Ok((Some(10), 939, false))),
            (Some(10), Some(940), Ok((Some(10), 940, true))),
            (Some(10), Some(999), Ok((Some(10), 999, true))),
            (Some(10), Some(1_000_000), Ok((Some(10), 1000, true))),
            (None, Some(i64::from(u32::MAX)), Ok((None, 1000, true))),
            (Some(20), Some(20), Err(InvalidRequest::EmptySpan)),
            (Some(21), Some(20), Err(InvalidRequest::EmptySpan)),
            (Some(1000), None, Err(InvalidRequest::Future)),
            (Some(2000), Some(3000), Err(InvalidRequest::Future)),
            (Some(i64::MIN), None, Err(InvalidRequest::Time { field: "start_time" })),
            (None, Some(i64::MAX), Ok((None, 1000, true))),
        ] {
            let read = query(Some(selector(1, start, end)), at(1000));
            let expected = expected.map(|(start, end, recent)| Query {
                target: Target::Process(1),
                span: Span {
                    start: start.map(at),
                    end: at(end),
                },
                recent,
            });
            assert_eq!(read, expected, "{start:?} to {end:?}");
        }
    }

    #[test]
    fn selectors_that_select_nothing() {
        let check = |selector, expected: &str| {
            assert_eq!(query(selector, at(1000)).unwrap_err().to_string(), expected);
        };
        check(None, "selector is missing");
        check(
            Some(v1::ProfileSelector::default()),
            "selector.pid or selector.service is missing",
        );
        check(
            Some(selector(0, None, None)),
            "process 0 is no process: it is the kernel's idle loop",
        );
        let service = v1::profile_selector::Target::Service(String::new());
        let empty = v1::ProfileSelector {
            target: Some(service),
            ..selector(1, None, None)
        };
        check(Some(empty), "selector.pid or selector.service is missing");
        check(
            Some(v1::ProfileSelector {
                kind: 77,
                ..selector(1, None, None)
            }),
            "kind 77 is not known",
        );
        let nanos = Some(Timestamp { seconds: 5, nanos: -1 });
        check(
            Some(v1::ProfileSelector {
                start_time: nanos,
                ..selector(1, None, None)
            }),
            "start_time is not a time that can be told",
        );
    }

    #[test]
    fn leases_are_bounded() {
        let message = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
        assert_eq!(lease(None), Ok(MAX_LEASE));
        assert_eq!(lease(message(5, 0)), Ok(Duration::from_secs(5)));
        assert_eq!(lease(message(i64::MAX, 0)), Ok(MAX_LEASE));
        assert_eq!(lease(message(0, 0)), Err(InvalidRequest::Duration));
        assert_eq!(lease(message(-5, 0)), Err(InvalidRequest::Duration));
    }

    #[test]
    fn a_profile_keeps_its_stacks_and_names() {
        let process = |pid, name: &str| ProcessLabel {
            pid,
            start: at(1),
            name: name.into(),
            service: "web".into(),
        };
        let hostile = "<b>\n\x1b[31m\u{202e};";
        let frame = |function: &str| Frame {
            kind: FrameKind::Native,
            function: function.into(),
            module: "m".into(),
            file: "".into(),
            line: 3,
        };
        let mut builder = ProfileBuilder::new(Duration::from_millis(10), at(10), at(20));
        let thread = Arc::from("t");
        builder.add(
            &process(1, hostile),
            &thread,
            [frame("main"), frame(hostile)].into_iter(),
            5,
        );
        builder.add(&process(1, hostile), &thread, [frame("main")].into_iter(), 2);
        builder.add(&process(2, "b"), &thread, [frame("main")].into_iter(), 1);
        builder.quality_mut().samples = 8;
        let sent = profile(&builder.build());
        assert_eq!(sent.strings[0], "");
        let path = |mut index: i32| {
            let mut names = Vec::new();
            while index >= 0 {
                let node = &sent.nodes[index as usize];
                assert!(node.parent < index, "parents come first");
                names.push(sent.strings[sent.frames[node.frame as usize].function as usize].as_str());
                index = node.parent;
            }
            names.reverse();
            names
        };
        let mut stacks: Vec<_> = (0..sent.nodes.len())
            .filter(|index| sent.nodes[*index].self_samples > 0)
            .map(|index| {
                let node = &sent.nodes[index];
                (
                    sent.processes[node.process as usize].pid,
                    path(index as i32),
                    node.self_samples,
                )
            })
            .collect();
        stacks.sort();
        assert_eq!(
            stacks,
            [
                (1, vec!["main"], 2),
                (1, vec!["main", hostile], 5),
                (2, vec!["main"], 1)
            ]
        );
        assert_eq!(sent.processes[0].name, hostile);
        let frame = &sent.frames[0];
        assert_eq!(
            (sent.strings[frame.module as usize].as_str(), frame.file, frame.line),
            ("m", 0, 3)
        );
        assert_eq!(sent.quality.unwrap().samples, 8);
        assert_eq!(sent.period.unwrap().nanos, 10_000_000);
    }
}
