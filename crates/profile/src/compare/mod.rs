//! Two spans of time compared: which functions, and whose, cost more or less than before.
//!
//! In: windows of both sides, each a [`Profile`](crate::Profile) of a few seconds. Out: a [`Comparison`], which calls a
//! difference one only if blocks of windows on both sides agree on it, if it is not among the differences that chance makes
//! between so many functions, and if it is large enough to matter. Where nothing is found it says what would have been.

mod blocks;
mod collect;
mod evaluate;
mod nodes;
mod statistics;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use indexmap::IndexSet;

use crate::{Frame, ProcessLabel, Quality, number::counted};

pub use collect::Comparer;
pub use statistics::{Difference, Sample};

/// Blocks that each side needs: of fewer, nothing can be told.
pub const MIN_BLOCKS: usize = 3;
/// A change of less of the CPU than this is none that matters.
pub const MIN_SHARE: f64 = 0.005;
/// Nor is one of less than this part of what was there before.
pub const MIN_RELATIVE: f64 = 0.1;
/// How often the true change lies in the interval that is told.
pub const CONFIDENCE: f64 = 0.95;
/// How often the smallest change that is told would have been found.
pub const POWER: f64 = 0.8;

/// Which of the two spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What is compared with.
    Before,
    /// What is in question.
    After,
}

/// What is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measure {
    /// CPU seconds a second: what is used up. It grows with the load too.
    #[default]
    Cores,
    /// The share of all CPU time that was sampled: how it is spent, whatever the load.
    Share,
}

impl Measure {
    /// A value in words: `6.10 % of a CPU`, `6.10 % of the CPU time`.
    pub fn text(self, value: f64) -> String {
        let whole = match self {
            Self::Cores => "a CPU",
            Self::Share => "the CPU time",
        };
        format!("{:.2} % of {whole}", value * 100.0)
    }
}

/// Whose functions belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of the samples are one target's: functions are told over all of its processes, and processes apart.
    Target,
    /// The samples are of a host: each service has functions of its own. Processes without a service are told by their
    /// names, so that short ones add up.
    Host,
}

/// How to compare.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// What is compared.
    pub measure: Measure,
    /// Whose functions belong together.
    pub scope: Scope,
    /// Part of what is called a change that may be none, on average.
    pub level: f64,
}

/// Who used the CPU.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    /// All processes of a service.
    Service(Arc<str>),
    /// All processes of a name that belong to no service.
    Program(Arc<str>),
    /// One process.
    Process(ProcessLabel),
}

impl Party {
    /// Its name, as found in the target: escape it for every output.
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Service(name) | Self::Program(name) => name,
            Self::Process(process) => &process.name,
        }
    }

    /// Services by name, then programs, then processes by id.
    fn order(&self) -> (u8, &str, u32, SystemTime) {
        match self {
            Self::Service(name) => (0, name, 0, SystemTime::UNIX_EPOCH),
            Self::Program(name) => (1, name, 0, SystemTime::UNIX_EPOCH),
            Self::Process(process) => (2, &process.name, process.pid, process.start),
        }
    }
}

/// Which way something changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// It costs more than before.
    Grew,
    /// It costs less.
    Shrank,
}

/// One quantity on both sides, in the unit of the measure.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Change {
    /// What it was before.
    pub before: f64,
    /// What it is after.
    pub after: f64,
    /// Which way it changed; none if it cannot be told from chance, or is too small to matter.
    pub direction: Option<Direction>,
    /// What the test says; none if it was not tested, because it is too small to matter or there are too few blocks.
    pub test: Option<Test>,
}

/// What the test of one quantity says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Test {
    /// Ends of the interval in which the change (after less before) lies with [`CONFIDENCE`].
    pub interval: (f64, f64),
    /// How often chance alone makes such a difference, before correction for the number of tests.
    pub p_value: f64,
}

impl Change {
    /// After less before.
    pub fn difference(&self) -> f64 {
        self.after - self.before
    }
}

/// A party's change.
#[derive(Clone, Debug, PartialEq)]
pub struct PartyChange {
    /// Who.
    pub party: Party,
    /// All that it used.
    pub change: Change,
}

/// A function's change, over all its callers and lines.
#[derive(Clone, Debug, PartialEq)]
pub struct FunctionChange {
    /// Whose function it is, by its place in [`Comparison::parties`]; none if all samples are one target's.
    pub party: Option<u32>,
    /// The function; its line is 0.
    pub frame: Frame,
    /// In the function itself.
    pub own: Change,
    /// In the function or in what it called. Recursion counts once.
    pub total: Change,
}

impl FunctionChange {
    /// Whether the function, or what it called, changed.
    pub fn is_significant(&self) -> bool {
        self.own.direction.is_some() || self.total.direction.is_some()
    }
}

/// A place in the merged tree of stacks of both sides.
#[derive(Clone, Debug, PartialEq)]
pub struct DifferenceNode {
    /// Index of the caller in the tree; none for the outermost frame of a stack.
    pub parent: Option<u32>,
    /// Index of the frame in [`Comparison::frames`].
    pub frame: u32,
    /// As in [`FunctionChange::party`].
    pub party: Option<u32>,
    /// In this place itself, before and after.
    pub own: (f64, f64),
    /// There and in all that was called from there.
    pub total: Change,
}

/// What is known of one side.
#[derive(Clone, Debug, PartialEq)]
pub struct SideFacts {
    /// Start of the first window; the epoch if there is none.
    pub start: SystemTime,
    /// End of the last one.
    pub end: SystemTime,
    /// Time that the windows cover.
    pub length: Duration,
    /// Blocks that were compared.
    pub blocks: usize,
    /// How far the samples can be trusted.
    pub quality: Quality,
}

/// Two spans of time compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// How they were compared.
    pub settings: Settings,
    /// The one.
    pub before: SideFacts,
    /// The other.
    pub after: SideFacts,
    /// Everything together, in CPU seconds a second whatever the measure.
    pub whole: Change,
    /// A change of a function that would have been found in most cases, as a share of all CPU time; for nine functions of
    /// ten. None if nothing could be tested.
    pub smallest_share: Option<f64>,
    /// Services and programs, or processes: those that changed first, by how much.
    pub parties: Vec<PartyChange>,
    /// Functions that matter on either side: those that changed in themselves first, by how much.
    pub functions: Vec<FunctionChange>,
    /// What the nodes refer to. Lines are 0.
    pub frames: IndexSet<Frame>,
    /// The merged tree: callers before what they call, depth first; what one function calls in the order of names.
    pub nodes: Vec<DifferenceNode>,
    /// Samples whose stacks were cut, or left out, because the tables would have become too large.
    pub cut_samples: u64,
}

impl Comparison {
    /// Whether both sides have enough blocks for a test.
    pub fn is_enough(&self) -> bool {
        self.before.blocks >= MIN_BLOCKS && self.after.blocks >= MIN_BLOCKS
    }

    /// Functions that changed this way, in themselves or with what they called.
    pub fn changed(&self, direction: Direction) -> impl Iterator<Item = &FunctionChange> {
        let is_meant = move |change: &Change| change.direction == Some(direction);
        self.functions
            .iter()
            .filter(move |function| is_meant(&function.own) || is_meant(&function.total))
    }

    /// All CPU time, in the unit of the measure: what shares are shares of.
    pub fn whole_in_measure(&self) -> f64 {
        match self.settings.measure {
            Measure::Cores => self.whole.before.max(self.whole.after),
            Measure::Share => 1.0,
        }
    }

    /// The frames from the outermost one to a node of the tree.
    pub fn path<'a>(&'a self, node: &'a DifferenceNode) -> impl DoubleEndedIterator<Item = &'a Frame> {
        let above = |node: &&'a DifferenceNode| node.parent.map(|parent| &self.nodes[parent as usize]);
        let mut frames: Vec<&Frame> = std::iter::successors(Some(node), above)
            .map(|node| &self.frames[node.frame as usize])
            .collect();
        frames.reverse();
        frames.into_iter()
    }

    /// Forgets places in the tree that take less than this share of all CPU time on both sides; they stay in their
    /// callers' totals.
    pub fn prune(&mut self, smallest_share: f64) {
        let smallest = smallest_share * self.whole_in_measure();
        let mut kept: Vec<Option<u32>> = Vec::with_capacity(self.nodes.len());
        let mut count = 0;
        self.nodes.retain_mut(|node| {
            // A caller takes at least what it calls: it was kept if this is.
            let parent = node.parent.map(|parent| kept[parent as usize]);
            let is_kept = node.total.before.max(node.total.after) >= smallest && parent != Some(None);
            kept.push(is_kept.then_some(count));
            count += u32::from(is_kept);
            node.parent = parent.flatten();
            is_kept
        });
    }
}

/// What was found, in a sentence without a full stop.
impl fmt::Display for Comparison {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_enough() {
            let blocks = |side: &SideFacts| counted(side.blocks as u64, "block");
            return write!(
                out,
                "not enough to compare: {} before and {} after, and each side needs {MIN_BLOCKS}",
                blocks(&self.before),
                blocks(&self.after)
            );
        }
        let count = |direction| self.changed(direction).count() as u64;
        match (count(Direction::Grew), count(Direction::Shrank)) {
            (0, 0) => out.write_str("no change found")?,
            (grew, 0) => write!(out, "{} grew", counted(grew, "function"))?,
            (0, shrank) => write!(out, "{} shrank", counted(shrank, "function"))?,
            (grew, shrank) => write!(out, "{} grew and {shrank} shrank", counted(grew, "function"))?,
        }
        match self.smallest_share {
            Some(share) if share <= 1.0 => write!(out, "; {:.1} % of the CPU would have been seen", share * 100.0),
            Some(_) => out.write_str("; too little was sampled to see less than a doubling"),
            None => out.write_str("; no function takes enough of the CPU to matter"),
        }
    }
}

#[cfg(test)]
mod tests;
