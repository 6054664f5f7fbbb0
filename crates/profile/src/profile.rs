//! Counts of stacks over a span of time.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use indexmap::IndexSet;

use crate::{Frame, Quality};

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

/// One distinct stack of one process and thread name. Indices refer to the tables of its [`Profile`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stack {
    /// Index of the [`ProcessLabel`].
    pub process: u32,
    /// Index of the thread's name.
    pub thread: u32,
    /// Indices of the frames, root first.
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
            },
        }
    }

    /// Adds `count` samples of one stack, frames root first.
    pub fn add(&mut self, process: &ProcessLabel, thread: &Arc<str>, frames: impl Iterator<Item = Frame>, count: u64) {
        let profile = &mut self.profile;
        let frames = frames.map(|frame| profile.frames.insert_full(frame).0 as u32).collect();
        let process = match profile.processes.get_index_of(process) {
            Some(index) => index,
            None => profile.processes.insert_full(process.clone()).0,
        } as u32;
        let thread = profile.threads.insert_full(Arc::clone(thread)).0 as u32;
        *profile.stacks.entry(Stack { process, thread, frames }).or_default() += count;
    }

    /// The counts of what was lost and what is whole.
    pub fn quality_mut(&mut self) -> &mut Quality {
        &mut self.profile.quality
    }

    /// The profile.
    pub fn build(self) -> Profile {
        self.profile
    }
}
