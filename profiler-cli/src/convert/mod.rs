//! A profile as the daemon sends it → a profile that can be rendered.
//!
//! The daemon is another version of the same program at best, so nothing is taken on trust: every index is looked up, parents
//! come before their children, and the memory that stacks take when they are written out in full is bounded.

pub(crate) mod comparison;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use indexmap::IndexSet;
use profiler_profile::{
    Frame, FrameKind, Gil, Measure, PageKind, PageQuality, ProcessLabel, Profile, PythonQuality, Quality, Stack,
};
use profiler_proto::v1;

/// Deepest stack taken: kernel, user and Python frames at their limits, with every user frame inlined many times over.
const MAX_STACK_FRAMES: u32 = 16_384;
/// Frames of all stacks together, each written out from its root: 256 MiB of indices.
const MAX_WRITTEN_FRAMES: u64 = 64 << 20;

/// Why a profile is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProfileError {
    /// A reference to something that is not there.
    #[error("{owner} {position} refers to {table} {index}, and there are {len}")]
    OutOfRange {
        /// What holds the reference.
        owner: &'static str,
        /// Where among its like.
        position: usize,
        /// What it refers to.
        table: &'static str,
        /// Where it points.
        index: i64,
        /// How many there are.
        len: usize,
    },
    /// A node comes before its parent, or is its own.
    #[error("node {node} comes before its parent {parent}")]
    ParentAfterChild {
        /// The node.
        node: usize,
        /// Its parent.
        parent: i32,
    },
    /// A node belongs to another process than its parent.
    #[error("node {node} belongs to another process than its parent {parent}")]
    ProcessMismatch {
        /// The node.
        node: usize,
        /// Its parent.
        parent: usize,
    },
    /// A stack is deeper than can be.
    #[error("a stack is deeper than {MAX_STACK_FRAMES} frames")]
    TooDeep,
    /// The stacks together take too much memory.
    #[error("its stacks together are longer than {MAX_WRITTEN_FRAMES} frames")]
    TooLarge,
    /// More samples than a number can hold.
    #[error("its samples are too many to count")]
    TooManySamples,
    /// The table of strings does not begin with the empty one.
    #[error("string 0 is not empty")]
    FirstString,
    /// A number that is none, or below zero where it cannot be.
    #[error("a value of its {owner} is not valid")]
    Value {
        /// What holds it.
        owner: &'static str,
    },
    /// A time or span is missing, negative or out of range.
    #[error("its {field} is not valid")]
    Time {
        /// Which one.
        field: &'static str,
    },
}

/// Converts and validates a profile.
pub(crate) fn profile(message: v1::Profile) -> Result<Profile, ProfileError> {
    let kind = message.kind();
    let strings: Vec<Arc<str>> = message.strings.into_iter().map(Arc::from).collect();
    if strings.first().is_some_and(|first| !first.is_empty()) {
        return Err(ProfileError::FirstString);
    }
    let (frames, frame_indices) = frames(&message.frames, &strings)?;
    let (processes, process_indices) = processes(message.processes)?;
    let stacks = stacks(&message.nodes, &frame_indices, &process_indices)?;
    let total = stacks.values().try_fold(0_u64, |sum, count| sum.checked_add(*count));
    total.ok_or(ProfileError::TooManySamples)?;
    Ok(Profile {
        period: span(message.period)?,
        start: time(message.start_time, "start time")?,
        end: time(message.end_time, "end time")?,
        frames,
        processes,
        threads: IndexSet::from([Arc::from("")]),
        stacks,
        quality: quality_of_kind(message.quality.unwrap_or_default(), kind),
        process_quality: HashMap::new(),
    })
}

/// Converts the account of what was lost.
pub(crate) fn quality(message: v1::Quality) -> Quality {
    Quality {
        samples: message.samples,
        rooted: message.rooted_samples,
        stopped: message.stopped_samples,
        lost: message.lost_samples,
        user_frames: message.user_frames,
        named_user_frames: message.named_user_frames,
        incomplete_kernel_stacks: message.incomplete_kernel_stacks,
        python: PythonQuality {
            samples: message.python_samples,
            with_frames: message.samples_with_python_frames,
            stopped: message.stopped_python_samples,
        },
        pages: None,
    }
}

/// The same of a profile, with how well the bytes of one of memory are known.
pub(crate) fn quality_of_kind(message: v1::Quality, kind: v1::SampleKind) -> Quality {
    let memory = message.memory;
    let pages = memory_kind(kind).map(|(kind, measure)| {
        let memory = memory.unwrap_or_default();
        PageQuality {
            measure,
            kind,
            growth: memory.growth_bytes,
            growth_error: memory.growth_error_bytes,
            first_touch: memory.first_touch_bytes,
            other_growth: memory.other_growth_bytes,
            pages: memory.pages,
            levels: (memory.lowest_level, memory.highest_level),
        }
    });
    Quality {
        pages,
        ..quality(message)
    }
}

/// Which memory a kind is of; `None` for CPU time.
fn memory_kind(kind: v1::SampleKind) -> Option<(PageKind, Measure)> {
    match kind {
        v1::SampleKind::Unspecified | v1::SampleKind::Cpu => None,
        v1::SampleKind::MemoryGrowth => Some((PageKind::Anonymous, Measure::Growth)),
        v1::SampleKind::MemoryFirstTouch => Some((PageKind::Anonymous, Measure::FirstTouch)),
        v1::SampleKind::FileGrowth => Some((PageKind::File, Measure::Growth)),
        v1::SampleKind::FileFirstTouch => Some((PageKind::File, Measure::FirstTouch)),
        v1::SampleKind::CopiedGrowth => Some((PageKind::Copied, Measure::Growth)),
        v1::SampleKind::CopiedFirstTouch => Some((PageKind::Copied, Measure::FirstTouch)),
        v1::SampleKind::MemoryMapped => Some((PageKind::Anonymous, Measure::Mapped)),
    }
}

/// The distinct frames, and the index among them for each frame of the message.
fn frames(messages: &[v1::Frame], strings: &[Arc<str>]) -> Result<(IndexSet<Frame>, Vec<u32>), ProfileError> {
    let mut distinct = IndexSet::with_capacity(messages.len());
    let mut indices = Vec::with_capacity(messages.len());
    for (position, message) in messages.iter().enumerate() {
        let string = |index: u32| match strings.get(index as usize) {
            Some(string) => Ok(Arc::clone(string)),
            None if index == 0 => Ok(Arc::from("")),
            None => Err(out_of_range("frame", position, "string", index.into(), strings.len())),
        };
        let frame = Frame {
            kind: match message.kind() {
                v1::FrameKind::Kernel => FrameKind::Kernel,
                v1::FrameKind::Native => FrameKind::Native,
                v1::FrameKind::Inlined => FrameKind::Inlined,
                v1::FrameKind::Python => FrameKind::Python,
                v1::FrameKind::Interpreter => FrameKind::Interpreter,
                v1::FrameKind::Thread => FrameKind::Thread,
                // A kind of a newer daemon is shown, without a claim of what it is.
                v1::FrameKind::Unnamed | v1::FrameKind::Unspecified => FrameKind::Unnamed,
            },
            function: string(message.function)?,
            module: string(message.module)?,
            file: string(message.file)?,
            line: message.line,
        };
        indices.push(distinct.insert_full(frame).0 as u32);
    }
    Ok((distinct, indices))
}

/// The distinct processes, and the index among them for each process of the message.
fn processes(messages: Vec<v1::ProfiledProcess>) -> Result<(IndexSet<ProcessLabel>, Vec<u32>), ProfileError> {
    let mut distinct = IndexSet::with_capacity(messages.len());
    let mut indices = Vec::with_capacity(messages.len());
    for message in messages {
        let process = ProcessLabel {
            pid: message.pid,
            start: time(message.start_time, "start time of a process")?,
            name: message.name.into(),
            service: message.service.into(),
        };
        indices.push(distinct.insert_full(process).0 as u32);
    }
    Ok((distinct, indices))
}

/// Writes out the stack of each node in which samples end.
fn stacks(nodes: &[v1::Node], frames: &[u32], processes: &[u32]) -> Result<HashMap<Stack, u64>, ProfileError> {
    let depths = depths(nodes)?;
    let mut stacks = HashMap::new();
    let mut written = 0_u64;
    for (position, node) in nodes.iter().enumerate() {
        let table = |index: u32, table: &'static str, indices: &[u32]| {
            let found = indices.get(index as usize).copied();
            found.ok_or_else(|| out_of_range("node", position, table, index.into(), indices.len()))
        };
        let process = table(node.process, "process", processes)?;
        table(node.frame, "frame", frames)?;
        if node.self_samples == 0 {
            continue;
        }
        written += u64::from(depths[position]);
        if written > MAX_WRITTEN_FRAMES {
            return Err(ProfileError::TooLarge);
        }
        let mut stack = Vec::with_capacity(depths[position] as usize);
        let mut at = Some(position);
        while let Some(index) = at {
            stack.push(table(nodes[index].frame, "frame", frames)?);
            at = usize::try_from(nodes[index].parent).ok();
        }
        stack.reverse();
        let count = stacks
            .entry(Stack {
                process,
                thread: 0,
                gil: Gil::Unknown,
                frames: stack.into(),
            })
            .or_insert(0_u64);
        *count = count
            .checked_add(node.self_samples)
            .ok_or(ProfileError::TooManySamples)?;
    }
    Ok(stacks)
}

/// How many frames the stack of each node has; proves that parents come first.
fn depths(nodes: &[v1::Node]) -> Result<Vec<u32>, ProfileError> {
    let mut depths: Vec<u32> = Vec::with_capacity(nodes.len());
    for (position, node) in nodes.iter().enumerate() {
        let depth = match node.parent {
            -1 => 1,
            parent => {
                let index = usize::try_from(parent).unwrap_or(usize::MAX);
                if index >= nodes.len() {
                    return Err(out_of_range("node", position, "node", parent.into(), nodes.len()));
                }
                let above = depths
                    .get(index)
                    .ok_or(ProfileError::ParentAfterChild { node: position, parent })?;
                if nodes[index].process != node.process {
                    return Err(ProfileError::ProcessMismatch {
                        node: position,
                        parent: index,
                    });
                }
                above + 1
            }
        };
        if depth > MAX_STACK_FRAMES {
            return Err(ProfileError::TooDeep);
        }
        depths.push(depth);
    }
    Ok(depths)
}

fn out_of_range(owner: &'static str, position: usize, table: &'static str, index: i64, len: usize) -> ProfileError {
    ProfileError::OutOfRange {
        owner,
        position,
        table,
        index,
        len,
    }
}

/// A point in time; the epoch where none is given, as in a profile without samples.
fn time(message: Option<prost_types::Timestamp>, field: &'static str) -> Result<SystemTime, ProfileError> {
    let time = message.unwrap_or_default();
    SystemTime::try_from(time).ok().ok_or(ProfileError::Time { field })
}

fn span(message: Option<prost_types::Duration>) -> Result<Duration, ProfileError> {
    let span = message.unwrap_or_default();
    Duration::try_from(span)
        .ok()
        .ok_or(ProfileError::Time { field: "period" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(parent: i32, frame: u32, self_samples: u64) -> v1::Node {
        v1::Node {
            parent,
            frame,
            process: 0,
            self_samples,
        }
    }

    fn message(nodes: Vec<v1::Node>) -> v1::Profile {
        let samples = nodes
            .iter()
            .fold(0_u64, |sum, node| sum.saturating_add(node.self_samples));
        v1::Profile {
            kind: v1::SampleKind::Cpu.into(),
            period: Some(prost_types::Duration {
                seconds: 0,
                nanos: 10_101_010,
            }),
            start_time: Some(prost_types::Timestamp {
                seconds: 1_000,
                nanos: 0,
            }),
            end_time: Some(prost_types::Timestamp {
                seconds: 1_010,
                nanos: 0,
            }),
            strings: ["", "main", "work", "app"].map(String::from).to_vec(),
            frames: vec![
                v1::Frame {
                    kind: v1::FrameKind::Native.into(),
                    function: 1,
                    module: 3,
                    file: 0,
                    line: 7,
                },
                v1::Frame {
                    kind: v1::FrameKind::Inlined.into(),
                    function: 2,
                    module: 3,
                    file: 0,
                    line: 0,
                },
                // The same frame once more.
                v1::Frame {
                    kind: v1::FrameKind::Inlined.into(),
                    function: 2,
                    module: 3,
                    file: 0,
                    line: 0,
                },
            ],
            nodes,
            processes: vec![v1::ProfiledProcess {
                pid: 7,
                start_time: None,
                name: "app".into(),
                service: String::new(),
            }],
            quality: Some(v1::Quality {
                samples,
                ..v1::Quality::default()
            }),
        }
    }

    #[test]
    fn a_tree_becomes_stacks() {
        let profile = profile(message(vec![node(-1, 0, 2), node(0, 1, 3), node(0, 2, 4)])).unwrap();
        let name = |frame: u32| profile.frames[frame as usize].function.to_string();
        let mut stacks: Vec<(Vec<String>, u64)> = profile
            .stacks
            .iter()
            .map(|(stack, count)| (stack.frames.iter().map(|frame| name(*frame)).collect(), *count))
            .collect();
        stacks.sort();
        let expected = [
            (vec!["main".to_owned()], 2),
            (vec!["main".to_owned(), "work".to_owned()], 7),
        ];
        assert_eq!(stacks, expected);
        assert_eq!(profile.quality.samples, 9);
        assert_eq!(
            profile.end.duration_since(profile.start).unwrap(),
            Duration::from_secs(10)
        );
        assert_eq!(profile.processes[0].pid, 7);
    }

    #[test]
    fn an_empty_message_is_an_empty_profile() {
        let profile = profile(v1::Profile::default()).unwrap();
        assert_eq!((profile.stacks.len(), profile.quality.samples), (0, 0));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        type Spoil = fn(&mut v1::Profile);
        let cases: [(&str, Spoil); 12] = [
            ("frame 0 refers to string 9, and there are 4", |message| {
                message.frames[0].function = 9
            }),
            ("node 1 refers to frame 9, and there are 3", |message| {
                message.nodes[1].frame = 9
            }),
            ("node 0 refers to process 1, and there are 1", |message| {
                message.nodes.iter_mut().for_each(|node| node.process = 1);
            }),
            ("node 1 refers to node 9, and there are 2", |message| {
                message.nodes[1].parent = 9
            }),
            ("node 1 refers to node -2, and there are 2", |message| {
                message.nodes[1].parent = -2
            }),
            ("node 0 comes before its parent 1", |message| {
                message.nodes[0].parent = 1
            }),
            ("node 1 comes before its parent 1", |message| {
                message.nodes[1].parent = 1
            }),
            ("node 1 belongs to another process than its parent 0", |message| {
                message.processes.push(message.processes[0].clone());
                message.nodes[1].process = 1;
            }),
            ("string 0 is not empty", |message| message.strings[0].push('x')),
            ("its period is not valid", |message| {
                message.period = Some(prost_types::Duration { seconds: -1, nanos: 0 })
            }),
            ("its start time is not valid", |message| {
                message.start_time = Some(prost_types::Timestamp {
                    seconds: i64::MIN,
                    nanos: 0,
                });
            }),
            ("its samples are too many to count", |message| {
                message.nodes[0].self_samples = u64::MAX
            }),
        ];
        for (expected, spoil) in cases {
            let mut spoiled = message(vec![node(-1, 0, 1), node(0, 1, 2)]);
            spoil(&mut spoiled);
            assert_eq!(profile(spoiled).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn depth_and_memory_are_bounded() {
        let chain = |length: u32, samples: u64| -> Vec<v1::Node> {
            (0..length)
                .map(|position| node(position as i32 - 1, 0, samples))
                .collect()
        };
        assert!(profile(message(chain(MAX_STACK_FRAMES, 0))).is_ok());
        assert_eq!(
            profile(message(chain(MAX_STACK_FRAMES + 1, 0))).unwrap_err(),
            ProfileError::TooDeep
        );
        // Each node's stack is written out: the square of the depth.
        assert_eq!(
            profile(message(chain(MAX_STACK_FRAMES, 1))).unwrap_err(),
            ProfileError::TooLarge
        );
    }
}
