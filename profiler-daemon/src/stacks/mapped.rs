//! Calls of an interval that asked the kernel for memory: whose they are, how much they asked for, and which stack.
//!
//! The stacks are counted as those of CPU samples are; beside them the bytes are summed by stack and by how they were asked for.

use std::collections::HashMap;

use profiler_common::mapped::MappedKind;
use profiler_profile::ProcessLabel;

use super::{
    aggregate::{Aggregator, Counted},
    moment::Moment,
    window::{RawStack, StackWindow},
};
use crate::{
    kernel::records::RawMapped,
    processes::{ImageId, Processes, walker_tables::WalkerTables},
};

/// Bytes that a stack asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedBytes {
    /// Number of the stack.
    pub stack: u32,
    /// How they were asked for.
    pub kind: MappedKind,
    /// How many.
    pub bytes: u64,
}

/// The calls of one program run by one process.
#[derive(Debug)]
pub struct MappedProcess {
    /// The process.
    pub label: ProcessLabel,
    /// What it asked for, by stack and kind.
    pub sums: Vec<MappedBytes>,
}

/// The calls of an interval.
#[derive(Debug)]
pub struct MappedWindow {
    /// Their stacks, as those of samples are kept: to be named. Its samples are calls.
    pub window: StackWindow,
    /// Stacks by number, of those that could be resolved.
    pub stacks: HashMap<u32, RawStack>,
    /// The calls by process.
    pub processes: Vec<MappedProcess>,
}

impl MappedWindow {
    /// How many calls it holds.
    pub fn calls(&self) -> u64 {
        let processes = self.window.processes.iter();
        processes.flat_map(|process| process.stacks.values()).sum()
    }
}

/// Keeps the calls of the current interval. What it takes is bounded by the stacks that it may have.
#[derive(Debug)]
pub struct MappedAggregator {
    stacks: Aggregator,
    sums: HashMap<(ImageId, u32, MappedKind), u64>,
    /// What the kernel counted as lost up to the last window, by reason.
    lost_before: HashMap<&'static str, u64>,
}

impl MappedAggregator {
    /// An empty window. `stacks` counts the stacks; nothing else may be counted by it.
    pub fn new(stacks: Aggregator) -> Self {
        Self {
            stacks,
            sums: HashMap::new(),
            lost_before: HashMap::new(),
        }
    }

    /// Takes a call.
    pub fn on_call<T: WalkerTables>(&mut self, call: &RawMapped<'_>, processes: &mut Processes<T>) {
        let Counted { place, .. } = self.stacks.on_event(&call.sample, processes);
        // One without a place has been counted as lost.
        let Some((image, stack)) = place else { return };
        let bytes = self.sums.entry((image, stack, call.kind)).or_default();
        *bytes = bytes.saturating_add(call.bytes);
    }

    /// Takes note of how many the kernel has lost for a reason since it began.
    pub fn note_lost(&mut self, reason: &'static str, total: u64) {
        let before = self.lost_before.insert(reason, total).unwrap_or_default();
        self.stacks.add_lost(reason, total.saturating_sub(before));
    }

    /// Counts calls that were lost.
    pub fn add_lost(&mut self, reason: &str, count: u64) {
        self.stacks.add_lost(reason, count);
    }

    /// Ends the window at `now`; `None` if there is nothing in it.
    pub fn take<T: WalkerTables>(&mut self, now: Moment, processes: &Processes<T>) -> Option<MappedWindow> {
        let mut stacks = HashMap::new();
        let window = self.stacks.take_with(now, processes, |number, stack| {
            stacks.insert(number, stack.clone());
        });
        let sums = std::mem::take(&mut self.sums);
        if sums.is_empty() && window.lost.is_empty() {
            return None;
        }
        let mut by_image: HashMap<ImageId, MappedProcess> = HashMap::new();
        for ((image, stack, kind), bytes) in sums {
            // Of an image that was forgotten meanwhile the window has counted its stacks as lost.
            let Some(known) = processes.image(image) else {
                continue;
            };
            let process = by_image.entry(image).or_insert_with(|| MappedProcess {
                label: known.label(),
                sums: Vec::new(),
            });
            process.sums.push(MappedBytes { stack, kind, bytes });
        }
        Some(MappedWindow {
            window,
            stacks,
            processes: by_image.into_values().collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        path::Path,
        time::{Duration, Instant, SystemTime},
    };

    use profiler_common::{python::PythonStop, stop::StopReason};

    use super::*;
    use crate::{
        kernel::records::{Pid, RawSample, UserFrames},
        processes::{
            fake_proc::{FakeProc, FakeProcess, START_NS, at, exec, map, native_program, settle, watch_all},
            scan::ProcFs,
        },
        stacks::{codes::PythonCodes, limits::WindowLimits},
    };

    const CODE: u64 = 0x10_0000;

    fn call(pid: u32, kind: MappedKind, bytes: u64, user: &[u64]) -> RawMapped<'_> {
        RawMapped {
            bytes,
            kind,
            sample: RawSample {
                relocation: None,
                time_ns: START_NS + 10,
                pid: Pid(pid),
                tid: pid,
                generation: 1,
                thread_name: b"main",
                in_kernel: false,
                kernel_stack_incomplete: false,
                stop: StopReason::Root,
                kernel_frames: &[],
                user: UserFrames::addresses_only(user),
                python: &[],
                python_stop: PythonStop::NotPython,
                has_gil: None,
            },
        }
    }

    #[test]
    fn bytes_are_summed_by_stack_and_kind_and_losses_are_told_once() {
        let proc = FakeProc::new();
        let base = Instant::now();
        let mut owner = proc.owner(watch_all());
        proc.set(7, &FakeProcess::new(&native_program()));
        owner.on_lifecycle(&exec(1, 7, "service"), at(base, 1));
        owner.on_lifecycle(&map(2, 7, CODE, 2 * CODE, Path::new("//anon")), at(base, 2));
        settle(&mut owner, at(base, 4));
        let moment = |seconds| Moment {
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
            steady: base + Duration::from_secs(seconds),
        };
        let codes = PythonCodes::start(ProcFs::new("/nonexistent")).unwrap();
        let stacks = Aggregator::new(Duration::ZERO, WindowLimits::of_faults(), moment(100), codes);
        let mut mapped = MappedAggregator::new(stacks);
        let (one, other) = ([CODE, CODE + 64], [CODE + 32, CODE + 64]);
        for (kind, bytes, user) in [
            (MappedKind::Anonymous, 1 << 20, &one),
            (MappedKind::Anonymous, 2 << 20, &one),
            (MappedKind::Brk, 1 << 18, &one),
            (MappedKind::Brk, 1 << 19, &other),
        ] {
            mapped.on_call(&call(7, kind, bytes, user), &mut owner);
        }
        mapped.on_call(&call(99, MappedKind::Brk, 1 << 20, &one), &mut owner);
        mapped.note_lost("ring_full", 4);
        let window = mapped.take(moment(105), &owner).unwrap();
        assert_eq!((window.calls(), window.stacks.len()), (4, 2));
        let [process] = &window.processes[..] else {
            panic!("{window:?}")
        };
        assert_eq!(process.label.pid, 7);
        let mut sums: Vec<_> = process
            .sums
            .iter()
            .map(|sum| (window.stacks[&sum.stack].user.len(), sum.kind, sum.bytes))
            .collect();
        sums.sort_unstable();
        let expected = [
            (2, MappedKind::Anonymous, 3 << 20),
            (2, MappedKind::Brk, 1 << 18),
            (2, MappedKind::Brk, 1 << 19),
        ];
        assert_eq!(sums, expected);
        let lost = [("ring_full".to_owned(), 4), ("unknown_process".to_owned(), 1)];
        assert_eq!(window.window.lost, lost.into());

        mapped.note_lost("ring_full", 4);
        assert!(
            mapped.take(moment(110), &owner).is_none(),
            "nothing more came or was lost"
        );
        mapped.note_lost("ring_full", 6);
        let window = mapped.take(moment(115), &owner).unwrap();
        assert_eq!((window.calls(), window.window.lost["ring_full"]), (0, 2));
    }
}
