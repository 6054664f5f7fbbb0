//! One window as it is kept: numbers that refer to a dictionary.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use profiler_profile::{Gil, PeriodMismatch, Profile, Quality};

use crate::dictionary::Dictionary;

/// What an allocator adds to a block.
const BLOCK_BYTES: usize = 16;

/// Samples of one stack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) process: u32,
    pub(crate) thread: u32,
    pub(crate) gil: Gil,
    /// Place in the dictionary's tree.
    pub(crate) stack: u32,
    pub(crate) count: u64,
}

/// Counts by a reason in the dictionary.
type Reasons = Box<[(u32, u64)]>;

/// How far the samples of one process can be trusted; losses are the window's.
#[derive(Clone, Debug)]
pub(crate) struct ProcessQuality {
    pub(crate) process: u32,
    samples: u64,
    rooted: u64,
    user_frames: u64,
    named_user_frames: u64,
    incomplete_kernel_stacks: u64,
    stopped: Reasons,
    python: ProcessPython,
}

/// How much of the Python stacks of one process is there.
#[derive(Clone, Debug)]
struct ProcessPython {
    samples: u64,
    with_frames: u64,
    stopped: Reasons,
}

/// A window.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) period: Duration,
    pub(crate) start: SystemTime,
    pub(crate) end: SystemTime,
    pub(crate) entries: Box<[Entry]>,
    /// Every process in the window.
    pub(crate) processes: Box<[ProcessQuality]>,
    lost: Reasons,
}

impl Window {
    /// Takes a profile into the dictionary.
    pub(crate) fn new(profile: &Profile, dictionary: &mut Dictionary) -> Self {
        let frames: Vec<u32> = profile.frames.iter().map(|frame| dictionary.frame(frame)).collect();
        let processes: Vec<u32> = profile
            .processes
            .iter()
            .map(|process| dictionary.process(process))
            .collect();
        let threads: Vec<u32> = profile.threads.iter().map(|thread| dictionary.thread(thread)).collect();
        let entry = |(stack, count): (&profiler_profile::Stack, &u64)| Entry {
            process: processes[stack.process as usize],
            thread: threads[stack.thread as usize],
            gil: stack.gil,
            stack: dictionary.stack(stack.frames.iter().map(|frame| frames[*frame as usize])),
            count: *count,
        };
        let entries = profile.stacks.iter().map(entry).collect();
        let qualities = (0..profile.processes.len()).map(|index| {
            let quality = match profile.process_quality.get(&(index as u32)) {
                Some(quality) => quality.clone(),
                // What is not recorded for a process apart is told from its stacks.
                None => {
                    profile
                        .filter(|process| profile.processes.get_index_of(process) == Some(index))
                        .quality
                }
            };
            ProcessQuality {
                process: processes[index],
                samples: quality.samples,
                rooted: quality.rooted,
                user_frames: quality.user_frames,
                named_user_frames: quality.named_user_frames,
                incomplete_kernel_stacks: quality.incomplete_kernel_stacks,
                stopped: reasons(&quality.stopped, dictionary),
                python: ProcessPython {
                    samples: quality.python.samples,
                    with_frames: quality.python.with_frames,
                    stopped: reasons(&quality.python.stopped, dictionary),
                },
            }
        });
        Self {
            period: profile.period,
            start: profile.start,
            end: profile.end,
            entries,
            processes: qualities.collect(),
            lost: reasons(&profile.quality.lost, dictionary),
        }
    }

    /// What was lost on the host, as a quality without samples.
    pub(crate) fn lost(&self, dictionary: &Dictionary) -> Quality {
        let mut quality = Quality::default();
        add(&mut quality.lost, &self.lost, dictionary);
        quality
    }

    /// Whether nothing was sampled and nothing lost in it: it refers to no dictionary.
    pub(crate) fn is_idle(&self) -> bool {
        self.entries.is_empty() && self.processes.is_empty() && self.lost.is_empty()
    }

    /// How many samples of a period each of this window stands for.
    pub(crate) fn weight(&self, period: Duration) -> Result<u64, PeriodMismatch> {
        let (ours, theirs) = (period.as_nanos(), self.period.as_nanos());
        match theirs.checked_rem(ours) {
            Some(0) => Ok(u64::try_from(theirs / ours).unwrap_or(u64::MAX)),
            _ => Err(PeriodMismatch {
                ours: period,
                theirs: self.period,
            }),
        }
    }

    /// An estimate of the memory that the window takes besides the dictionary.
    pub(crate) fn bytes(&self) -> usize {
        let reasons = |reasons: &Reasons| match reasons.len() {
            0 => 0,
            count => count * size_of::<(u32, u64)>() + BLOCK_BYTES,
        };
        let of_process = |process: &ProcessQuality| reasons(&process.stopped) + reasons(&process.python.stopped);
        let stopped: usize = self.processes.iter().map(of_process).sum();
        size_of::<Self>()
            + 3 * BLOCK_BYTES
            + self.entries.len() * size_of::<Entry>()
            + self.processes.len() * size_of::<ProcessQuality>()
            + stopped
            + reasons(&self.lost)
    }
}

impl ProcessQuality {
    /// The quality in full.
    pub(crate) fn to_quality(&self, dictionary: &Dictionary) -> Quality {
        let mut quality = Quality {
            samples: self.samples,
            rooted: self.rooted,
            user_frames: self.user_frames,
            named_user_frames: self.named_user_frames,
            incomplete_kernel_stacks: self.incomplete_kernel_stacks,
            ..Quality::default()
        };
        quality.python.samples = self.python.samples;
        quality.python.with_frames = self.python.with_frames;
        add(&mut quality.python.stopped, &self.python.stopped, dictionary);
        add(&mut quality.stopped, &self.stopped, dictionary);
        quality
    }
}

fn reasons(counts: &BTreeMap<String, u64>, dictionary: &mut Dictionary) -> Reasons {
    counts
        .iter()
        .map(|(reason, count)| (dictionary.reason(reason), *count))
        .collect()
}

fn add(counts: &mut BTreeMap<String, u64>, reasons: &Reasons, dictionary: &Dictionary) {
    for (reason, count) in reasons {
        let Some(reason) = dictionary.reasons.get_index(*reason as usize) else {
            continue;
        };
        match counts.get_mut(&**reason) {
            Some(sum) => *sum = sum.saturating_add(*count),
            None => {
                counts.insert(reason.to_string(), *count);
            }
        }
    }
}
