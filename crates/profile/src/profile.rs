//! Counts of stacks over a span of time.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use indexmap::IndexSet;

use crate::{Frame, Measure, Quality};

/// The process that a stack was sampled in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProcessLabel {
    /// Thread group id.
    pub pid: u32,
    /// When it started; tells processes with the same id apart.
    pub start: SystemTime,
    /// Name of the process.
    pub name: Arc<str>,
    /// Service it belongs to; empty if none.
    pub service: Arc<str>,
}

/// Whether a thread held its interpreter's lock when it was sampled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Gil {
    /// It is not known, or there is no such lock.
    #[default]
    Unknown,
    /// It did.
    Held,
    /// It did not: it ran code that needs no lock.
    Released,
}

/// One distinct stack of one process and thread name. Indices refer to the tables of its [`Profile`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stack {
    /// Index of the [`ProcessLabel`].
    pub process: u32,
    /// Index of the thread's name.
    pub thread: u32,
    /// Whether the thread held its interpreter's lock.
    pub gil: Gil,
    /// Indices of the frames, root first. Never empty.
    pub frames: Box<[u32]>,
}

/// Counts of stacks over a span of time.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Time that one sample stands for.
    pub period: Duration,
    /// Start of the span.
    pub start: SystemTime,
    /// End of the span.
    pub end: SystemTime,
    /// Distinct frames.
    pub frames: IndexSet<Frame>,
    /// Distinct processes.
    pub processes: IndexSet<ProcessLabel>,
    /// Distinct names of threads.
    pub threads: IndexSet<Arc<str>>,
    /// Samples by stack.
    pub stacks: HashMap<Stack, u64>,
    /// How far all this can be trusted.
    pub quality: Quality,
    /// The part of `quality` that is known to belong to one process, by its index, so that a filtered profile can tell
    /// its own. Losses are the host's and not in here.
    pub process_quality: HashMap<u32, Quality>,
}

impl Profile {
    /// The index of a process in the table, which it enters if it is new.
    pub(crate) fn intern_process(&mut self, process: &ProcessLabel) -> u32 {
        let index = match self.processes.get_index_of(process) {
            Some(index) => index,
            None => self.processes.insert_full(process.clone()).0,
        };
        index as u32
    }

    /// Adds samples of a stack whose indices are this profile's.
    pub(crate) fn add_stack(&mut self, stack: Stack, count: u64) {
        let samples = self.stacks.entry(stack).or_default();
        *samples = samples.saturating_add(count);
    }

    /// Gives back the room that growing tables took in advance.
    pub(crate) fn shrink_to_fit(&mut self) {
        self.frames.shrink_to_fit();
        self.processes.shrink_to_fit();
        self.threads.shrink_to_fit();
        self.stacks.shrink_to_fit();
        self.process_quality.shrink_to_fit();
    }

    /// What its counts are.
    pub fn measure(&self) -> Measure {
        self.quality.pages.map_or(Measure::CpuTime, |pages| pages.measure)
    }

    /// The line that ends a report of this profile: its quality, and how many of the samples it shows if not all.
    pub fn summary(&self) -> String {
        self.quality.summary(self.samples())
    }

    /// Samples of all stacks.
    pub fn samples(&self) -> u64 {
        self.stacks
            .values()
            .fold(0, |total, count| total.saturating_add(*count))
    }
}

/// Builds a [`Profile`] stack by stack.
#[derive(Debug)]
pub struct ProfileBuilder {
    profile: Profile,
}

impl ProfileBuilder {
    /// An empty profile of the span from `start` to `end`.
    pub fn new(period: Duration, start: SystemTime, end: SystemTime) -> Self {
        Self {
            profile: Profile {
                period,
                start,
                end,
                frames: IndexSet::new(),
                processes: IndexSet::new(),
                threads: IndexSet::new(),
                stacks: HashMap::new(),
                quality: Quality::default(),
                process_quality: HashMap::new(),
            },
        }
    }

    /// Adds `count` samples of one stack, frames root first. Without any frame they count for a frame `[no stack]`.
    pub fn add(&mut self, process: &ProcessLabel, thread: &Arc<str>, frames: impl Iterator<Item = Frame>, count: u64) {
        let frames = frames.map(|frame| self.number(frame)).collect();
        self.add_numbered(process, thread, Gil::Unknown, frames, count);
    }

    /// The number of a frame in this profile, for [`ProfileBuilder::add_numbered`].
    pub fn number(&mut self, frame: Frame) -> u32 {
        self.profile.frames.insert_full(frame).0 as u32
    }

    /// As [`ProfileBuilder::add`], with the frames by their numbers: for many stacks that share frames. Numbers that
    /// this builder has not given are left out.
    pub fn add_numbered(
        &mut self,
        process: &ProcessLabel,
        thread: &Arc<str>,
        gil: Gil,
        mut frames: Vec<u32>,
        count: u64,
    ) {
        let known = self.profile.frames.len();
        frames.retain(|frame| (*frame as usize) < known);
        if frames.is_empty() {
            frames.push(self.number(Frame::no_stack()));
        }
        let profile = &mut self.profile;
        let process = profile.intern_process(process);
        let thread = profile.threads.insert_full(Arc::clone(thread)).0 as u32;
        profile.add_stack(
            Stack {
                process,
                thread,
                gil,
                frames: frames.into_boxed_slice(),
            },
            count,
        );
    }

    /// Adds what is known of the samples of one process, to its own quality and to the whole's.
    pub fn add_process_quality(&mut self, process: &ProcessLabel, quality: &Quality) {
        let index = self.profile.intern_process(process);
        self.profile.quality.merge(quality);
        let own = self.profile.process_quality.entry(index).or_default();
        own.merge(quality);
        own.lost.clear();
    }

    /// The counts of what was lost and what is whole, of all processes.
    pub fn quality_mut(&mut self) -> &mut Quality {
        &mut self.profile.quality
    }

    /// The profile, with no more room than it needs.
    pub fn build(mut self) -> Profile {
        self.profile.shrink_to_fit();
        self.profile
    }
}
