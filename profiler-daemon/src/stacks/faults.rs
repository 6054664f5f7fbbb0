//! Chosen page faults of an interval: whose they are, which page, and which stack.
//!
//! The stacks are counted as those of CPU samples are; beside them each fault is kept for itself, because a page counts for as
//! long as its process has it.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, SystemTime},
};

use profiler_common::stop::StopReason;
use profiler_profile::ProcessLabel;

use super::{
    aggregate::{Aggregator, Counted},
    moment::Moment,
    window::{RawStack, StackWindow},
};
use crate::{
    kernel::records::RawFault,
    processes::{ImageId, Processes, walker_tables::WalkerTables},
};

/// Faults of a window; what is beyond is lost. The kernel chooses far fewer.
const MAX_TOUCHES: usize = 1 << 16;
/// Reason of loss: the window had no room for another fault.
const LOST_WINDOW_FULL: &str = "window_full";

/// One chosen fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawTouch {
    /// Number of the page.
    pub page: u64,
    /// At which level it was chosen.
    pub level: u32,
    /// Bits of [`profiler_common::memory::fault`].
    pub code: u32,
    /// When.
    pub time: SystemTime,
    /// Number of its stack.
    pub stack: u32,
    /// Why its user stack ended.
    pub stop: StopReason,
}

/// The faults of one program run by one process.
#[derive(Debug)]
pub struct FaultProcess {
    /// The program, by the daemon's own number: another one after an exec.
    pub image: u64,
    /// The process.
    pub label: ProcessLabel,
    /// When it started, in ticks since boot, if known.
    pub start_ticks: Option<u64>,
    /// The process still runs it, as far as is known.
    pub is_running: bool,
    /// It was forked, or has forked: a write to a page that is there may copy it.
    pub shares_pages: bool,
    /// Its interpreter's frames are sought.
    pub runs_python: bool,
    /// Its faults in the order of arrival.
    pub touches: Vec<RawTouch>,
}

/// The chosen faults of an interval.
#[derive(Debug)]
pub struct FaultWindow {
    /// Their stacks, as those of samples are kept: to be named.
    pub window: StackWindow,
    /// Stacks by number, of those that could be resolved.
    pub stacks: HashMap<u32, RawStack>,
    /// The faults by process.
    pub processes: Vec<FaultProcess>,
}

impl FaultWindow {
    /// How many faults it holds.
    pub fn touches(&self) -> u64 {
        self.processes.iter().map(|process| process.touches.len() as u64).sum()
    }
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    image: ImageId,
    page: u64,
    level: u32,
    code: u32,
    time_ns: u64,
    stack: u32,
    stop: StopReason,
}

/// Keeps the faults of the current interval.
#[derive(Debug)]
pub struct FaultAggregator {
    stacks: Aggregator,
    pending: Vec<Pending>,
    /// What the kernel counted as lost up to the last window, by reason.
    lost_before: BTreeMap<&'static str, u64>,
}

impl FaultAggregator {
    /// An empty window. `stacks` counts the stacks; nothing else may be counted by it.
    pub fn new(stacks: Aggregator) -> Self {
        Self {
            stacks,
            pending: Vec::new(),
            lost_before: BTreeMap::new(),
        }
    }

    /// Takes a fault.
    pub fn on_fault<T: WalkerTables>(&mut self, fault: &RawFault<'_>, processes: &mut Processes<T>) {
        let Counted { stop, place } = self.stacks.on_event(&fault.sample, processes);
        let Some((image, stack)) = place else { return };
        if self.pending.len() >= MAX_TOUCHES {
            self.stacks.add_lost(LOST_WINDOW_FULL, 1);
            return;
        }
        self.pending.push(Pending {
            image,
            page: fault.page,
            level: fault.level,
            code: fault.code,
            time_ns: fault.sample.time_ns,
            stack,
            stop,
        });
    }

    /// Takes note of how many the kernel has lost for a reason since it began.
    pub fn note_lost(&mut self, reason: &'static str, total: u64) {
        let before = self.lost_before.insert(reason, total).unwrap_or_default();
        self.stacks.add_lost(reason, total.saturating_sub(before));
    }

    /// Counts faults that were lost.
    pub fn add_lost(&mut self, reason: &str, count: u64) {
        self.stacks.add_lost(reason, count);
    }

    /// Ends the window at `now`, which is `now_ns` on the kernel's clock; `None` if there is nothing in it.
    pub fn take<T: WalkerTables>(&mut self, now: Moment, now_ns: u64, processes: &Processes<T>) -> Option<FaultWindow> {
        let mut stacks = HashMap::new();
        let window = self.stacks.take_with(now, processes, |number, stack| {
            stacks.insert(number, stack.clone());
        });
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() && window.lost.is_empty() {
            return None;
        }
        let mut by_image: HashMap<ImageId, FaultProcess> = HashMap::new();
        for touch in pending {
            // Of an image that was forgotten meanwhile the window has counted its stacks as lost.
            let Some(image) = processes.image(touch.image) else {
                continue;
            };
            let process = by_image.entry(touch.image).or_insert_with(|| FaultProcess {
                image: touch.image.0,
                label: image.label(),
                start_ticks: image.start_ticks(),
                is_running: image.is_running(),
                shares_pages: image.shares_pages(),
                runs_python: image.interpreter().is_some(),
                touches: Vec::new(),
            });
            let ago = Duration::from_nanos(now_ns.saturating_sub(touch.time_ns));
            process.touches.push(RawTouch {
                page: touch.page,
                level: touch.level,
                code: touch.code,
                time: now.time.checked_sub(ago).unwrap_or(now.time),
                stack: touch.stack,
                stop: touch.stop,
            });
        }
        let mut processes: Vec<FaultProcess> = by_image.into_values().collect();
        processes.sort_by_key(|process| (process.label.pid, process.image));
        Some(FaultWindow {
            window,
            stacks,
            processes,
        })
    }
}
