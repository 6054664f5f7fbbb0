//! Which code touched the pages that processes still have.
//!
//! In: chosen page faults with their stacks, and what of the pages is still there. Out: profiles in bytes, of the pages that
//! are still there (growth) and of all that were touched (first touch).
//!
//! One page of 2^level is chosen by a hash of its number, so that each stands for 2^level pages of its kind, and the sum is
//! true on average however the level changed meanwhile. To stay within its bounds the keeper raises the level of the process
//! that has most pages: it drops those that the higher level would not have chosen, and the others count for more.

mod answer;
mod pages;
mod stacks;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};

use profiler_profile::ProcessLabel;

pub use answer::{GrowthAnswer, GrowthQuery};
pub use pages::{Look, PageLook, PageTouch};
pub use stacks::TouchedStack;

use pages::ProcessPages;
use stacks::Stacks;

/// Notes of what was lost: older ones are added up.
const MAX_LOST: usize = 1024;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrowthLimits {
    /// Most pages of a process.
    pub process_pages: usize,
    /// Most pages of all processes.
    pub pages: usize,
    /// Most sums of touched pages, one for each stack and window.
    pub touches: usize,
    /// Most bytes of distinct stacks.
    pub stack_bytes: usize,
    /// How long touches are kept, and processes that ended.
    pub retention: Duration,
}

impl Default for GrowthLimits {
    fn default() -> Self {
        Self {
            process_pages: 8192,
            pages: 1 << 16,
            touches: 1 << 16,
            stack_bytes: 12 << 20,
            retention: Duration::from_secs(15 * 60),
        }
    }
}

/// What is kept, for the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrowthStatus {
    /// Processes, those that ended included.
    pub processes: u64,
    /// Chosen pages that are held to be there.
    pub pages: u64,
    /// Distinct stacks.
    pub stacks: u64,
    /// Pages dropped since the start because a process, or all of them, had too many: the others count for more.
    pub thinned: u64,
    /// Sums of touched pages dropped before their time because there were too many.
    pub dropped_touches: u64,
}

/// A process whose pages are looked at.
#[derive(Clone, Debug)]
pub struct GrowthProcess {
    /// Number of the program that it runs: another one after an exec.
    pub image: u64,
    /// The process.
    pub label: ProcessLabel,
    /// Salt of the hash of its pages.
    pub salt: u64,
    /// A write to a page that is there may copy it, because it was shared at a fork.
    pub shares_pages: bool,
    /// It runs Python.
    pub runs_python: bool,
}

/// The keeper of pages.
#[derive(Debug)]
pub struct Growth {
    limits: GrowthLimits,
    processes: BTreeMap<u64, ProcessPages>,
    stacks: Stacks,
    /// What was lost, by time and reason.
    lost: VecDeque<(SystemTime, BTreeMap<String, u64>)>,
    thinned: u64,
    dropped_touches: u64,
}

impl Growth {
    /// A keeper that knows no page.
    pub fn new(limits: GrowthLimits) -> Self {
        Self {
            limits,
            processes: BTreeMap::new(),
            stacks: Stacks::new(limits.stack_bytes),
            lost: VecDeque::new(),
            thinned: 0,
            dropped_touches: 0,
        }
    }

    /// The stack with these contents, shared by all that have it.
    pub fn stack(&mut self, stack: TouchedStack) -> Arc<TouchedStack> {
        self.stacks.share(stack)
    }

    /// Takes the faults of a process, in the order of their times, each with what was found at its page. What a program had that
    /// the process ran before is gone.
    pub fn touch(&mut self, process: &GrowthProcess, touches: &[PageTouch], looks: &[Look]) {
        let is_same = |label: &ProcessLabel| (label.pid, label.start) == (process.label.pid, process.label.start);
        let of_process = self.processes.iter().filter(|(_, pages)| is_same(&pages.process.label));
        let programs: Vec<u64> = of_process.map(|(image, _)| *image).collect();
        if programs.iter().any(|image| *image > process.image) {
            return;
        }
        for earlier in programs.iter().filter(|image| **image < process.image) {
            self.processes.remove(earlier);
        }
        let pages = self
            .processes
            .entry(process.image)
            .or_insert_with(|| ProcessPages::new(process));
        pages.update(process);
        pages.touch(touches, looks);
        self.thinned += pages.thin_to(self.limits.process_pages);
        self.bound();
    }

    /// Counts faults that were lost up to a time, by reason. They count for all processes.
    pub fn note_lost(&mut self, time: SystemTime, lost: &BTreeMap<String, u64>) {
        if lost.values().all(|count| *count == 0) {
            return;
        }
        if self.lost.len() >= MAX_LOST
            && let Some((_, oldest)) = self.lost.pop_front()
            && let Some((_, next)) = self.lost.front_mut()
        {
            for (reason, count) in oldest {
                *next.entry(reason).or_default() += count;
            }
        }
        self.lost.push_back((time, lost.clone()));
    }

    /// The programs that still run as far as is known.
    pub fn running(&self) -> Vec<u64> {
        let running = self.processes.iter().filter(|(_, pages)| pages.ended.is_none());
        running.map(|(image, _)| *image).collect()
    }

    /// The programs that a query is about.
    pub fn images_of(&self, target: &crate::Target) -> Vec<u64> {
        answer::meant(&self.processes, target).map(|(image, _)| image).collect()
    }

    /// Whether anything is kept of a program that still runs as far as is known.
    pub fn is_running(&self, image: u64) -> bool {
        self.processes.get(&image).is_some_and(|pages| pages.ended.is_none())
    }

    /// Whether any page of a program is held to be there.
    pub fn has_pages(&self, image: u64) -> bool {
        self.processes.get(&image).is_some_and(|pages| pages.len() > 0)
    }

    /// The pages of a program to look at, in the order of their numbers.
    pub fn pages_of(&self, image: u64) -> Vec<PageLook> {
        self.processes
            .get(&image)
            .map_or_else(Vec::new, ProcessPages::to_look_at)
    }

    /// Takes what was found at the pages given by [`Self::pages_of`].
    pub fn found(&mut self, image: u64, pages: &[PageLook], looks: &[Look]) {
        if let Some(process) = self.processes.get_mut(&image) {
            process.found(pages, looks, self.limits.process_pages / 4);
        }
    }

    /// The process has ended: what it had is kept for a while as it was.
    pub fn ended(&mut self, image: u64, time: SystemTime) {
        if let Some(process) = self.processes.get_mut(&image) {
            process.ended.get_or_insert(time);
        }
    }

    /// The process has executed another program: nothing of what it had is left.
    pub fn replaced(&mut self, image: u64) {
        self.processes.remove(&image);
    }

    /// Drops what is older than it may become.
    pub fn expire(&mut self, now: SystemTime) {
        let Some(horizon) = now.checked_sub(self.limits.retention) else {
            return;
        };
        self.processes
            .retain(|_, process| process.ended.is_none_or(|ended| ended > horizon));
        for process in self.processes.values_mut() {
            process.forget_touches_before(horizon);
        }
        while self.lost.front().is_some_and(|(time, _)| *time <= horizon) {
            self.lost.pop_front();
        }
        self.stacks.drop_unused();
    }

    /// What is kept.
    pub fn status(&self) -> GrowthStatus {
        GrowthStatus {
            processes: self.processes.len() as u64,
            pages: self.page_count() as u64,
            stacks: self.stacks.len() as u64,
            thinned: self.thinned,
            dropped_touches: self.dropped_touches,
        }
    }

    fn page_count(&self) -> usize {
        self.processes.values().map(ProcessPages::len).sum()
    }

    /// Makes room where there is too much of anything.
    fn bound(&mut self) {
        let mut total = self.page_count();
        while total > self.limits.pages {
            let Some(largest) = self.processes.values_mut().max_by_key(|process| process.len()) else {
                break;
            };
            let before = largest.len();
            self.thinned += largest.thin_to(before.saturating_sub(1));
            total -= before - largest.len();
        }
        let mut touches: usize = self.processes.values().map(|process| process.touched.len()).sum();
        while touches > self.limits.touches {
            let Some(longest) = self.processes.values_mut().max_by_key(|process| process.touched.len()) else {
                break;
            };
            let dropped = longest.drop_oldest_touches();
            self.dropped_touches += dropped as u64;
            touches -= dropped.max(1);
        }
        // Each ended process costs, however few pages it has.
        while self.processes.len() > self.limits.pages / 8 {
            let ended = self
                .processes
                .iter()
                .filter_map(|(image, process)| Some((process.ended?, *image)));
            match ended.min() {
                Some((_, oldest)) => self.processes.remove(&oldest),
                None => self.processes.pop_first().map(|(_, process)| process),
            };
        }
    }
}

/// Counts by reason of a span.
fn lost_within<'a>(
    lost: impl Iterator<Item = &'a (SystemTime, BTreeMap<String, u64>)>,
    is_within: impl Fn(SystemTime) -> bool,
) -> BTreeMap<String, u64> {
    let mut sum: HashMap<&str, u64> = HashMap::new();
    for (_, counts) in lost.filter(|(time, _)| is_within(*time)) {
        for (reason, count) in counts {
            *sum.entry(reason).or_default() += count;
        }
    }
    sum.into_iter()
        .map(|(reason, count)| (reason.to_owned(), count))
        .collect()
}
