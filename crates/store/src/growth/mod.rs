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
mod processes;
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
use processes::Processes;
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
    /// Chosen faults whose processes were dropped before their time because there were too many.
    pub dropped_with_processes: u64,
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
    processes: Processes,
    stacks: Stacks,
    /// What was lost, by time and reason.
    lost: VecDeque<(SystemTime, BTreeMap<String, u64>)>,
    thinned: u64,
    dropped_touches: u64,
    dropped_processes: DroppedProcesses,
}

/// What went with processes that were dropped before their time.
#[derive(Debug, Default)]
struct DroppedProcesses {
    /// Chosen faults in all.
    faults: u64,
    /// Those still missing from what was touched, and the time of the last of them.
    touched: Option<(u64, SystemTime)>,
    /// Pages that may still be there, and when the last of them was touched.
    pages: Option<(u64, SystemTime)>,
}

impl DroppedProcesses {
    fn note(&mut self, process: &ProcessPages) {
        let (before, dropped_until) = process.dropped.unzip();
        let touched: u64 = process.touched.iter().map(|touched| touched.pages).sum();
        let touched = touched + before.unwrap_or(0);
        let last = process.touched.back().map(|touched| touched.time).max(dropped_until);
        add_up(&mut self.touched, touched, last);
        // Of one that has ended nothing is there any more.
        let pages = if process.ended.is_none() {
            process.len() as u64
        } else {
            0
        };
        add_up(
            &mut self.pages,
            pages,
            process.pages.values().map(|page| page.time).max(),
        );
        self.faults += touched.max(pages);
    }

    fn forget_before(&mut self, horizon: SystemTime) {
        for dropped in [&mut self.touched, &mut self.pages] {
            *dropped = dropped.filter(|(_, last)| *last > horizon);
        }
    }
}

fn add_up(sum: &mut Option<(u64, SystemTime)>, count: u64, last: Option<SystemTime>) {
    if let Some(last) = last.filter(|_| count > 0) {
        let (before, last_before) = sum.unwrap_or((0, last));
        *sum = Some((before + count, last.max(last_before)));
    }
}

impl Growth {
    /// A keeper that knows no page.
    pub fn new(limits: GrowthLimits) -> Self {
        Self {
            limits,
            processes: Processes::default(),
            stacks: Stacks::new(limits.stack_bytes),
            lost: VecDeque::new(),
            thinned: 0,
            dropped_touches: 0,
            dropped_processes: DroppedProcesses::default(),
        }
    }

    /// The stack with these contents, shared by all that have it.
    pub fn stack(&mut self, stack: TouchedStack) -> Arc<TouchedStack> {
        self.stacks.share(stack)
    }

    /// Takes the faults of a process, in the order of their times, each with what was found at its page. What a program had that
    /// the process ran before is gone.
    pub fn touch(&mut self, process: &GrowthProcess, touches: &[PageTouch], looks: &[Look]) {
        if !self.processes.enter(process) {
            return;
        }
        let most = self.limits.process_pages;
        let thinned = self.processes.change(process.image, |pages| {
            pages.touch(touches, looks);
            pages.thin_to(most)
        });
        self.thinned += thinned.unwrap_or(0);
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
        let processes = self.processes.by_image().iter();
        let running = processes.filter(|(_, pages)| pages.ended.is_none());
        running.map(|(image, _)| *image).collect()
    }

    /// The programs that a query is about.
    pub fn images_of(&self, target: &crate::Target) -> Vec<u64> {
        let meant = answer::meant(self.processes.by_image(), target);
        meant.map(|(image, _)| image).collect()
    }

    /// Whether anything is kept of a program that still runs as far as is known.
    pub fn is_running(&self, image: u64) -> bool {
        self.process(image).is_some_and(|pages| pages.ended.is_none())
    }

    /// Whether any page of a program is held to be there.
    pub fn has_pages(&self, image: u64) -> bool {
        self.process(image).is_some_and(|pages| pages.len() > 0)
    }

    /// The pages of a program to look at, in the order of their numbers.
    pub fn pages_of(&self, image: u64) -> Vec<PageLook> {
        self.process(image).map_or_else(Vec::new, ProcessPages::to_look_at)
    }

    /// Takes what was found at the pages given by [`Self::pages_of`].
    pub fn found(&mut self, image: u64, pages: &[PageLook], looks: &[Look]) {
        let low = self.limits.process_pages / 4;
        self.processes.change(image, |process| process.found(pages, looks, low));
    }

    /// The process has ended: what it had is kept for a while as it was.
    pub fn ended(&mut self, image: u64, time: SystemTime) {
        self.processes.change(image, |process| {
            process.ended.get_or_insert(time);
        });
    }

    /// The process has executed another program: nothing of what it had is left.
    pub fn replaced(&mut self, image: u64) {
        self.processes.remove(image);
    }

    /// Drops what is older than it may become.
    pub fn expire(&mut self, now: SystemTime) {
        let Some(horizon) = now.checked_sub(self.limits.retention) else {
            return;
        };
        self.processes.expire(horizon);
        self.dropped_processes.forget_before(horizon);
        while self.lost.front().is_some_and(|(time, _)| *time <= horizon) {
            self.lost.pop_front();
        }
        self.stacks.drop_unused();
    }

    /// What is kept.
    pub fn status(&self) -> GrowthStatus {
        GrowthStatus {
            processes: self.processes.by_image().len() as u64,
            pages: self.processes.pages() as u64,
            stacks: self.stacks.len() as u64,
            thinned: self.thinned,
            dropped_touches: self.dropped_touches,
            dropped_with_processes: self.dropped_processes.faults,
        }
    }

    fn process(&self, image: u64) -> Option<&ProcessPages> {
        self.processes.by_image().get(&image)
    }

    /// Makes room where there is too much of anything.
    fn bound(&mut self) {
        self.thinned += self.processes.thin_to(self.limits.pages);
        self.dropped_touches += self.processes.drop_touches_to(self.limits.touches);
        // Each ended process costs, however few pages it has.
        while self.processes.by_image().len() > self.limits.pages / 8
            && let Some(process) = self.processes.remove_oldest()
        {
            self.dropped_processes.note(&process);
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
