//! Names the stacks of calls for memory.

use std::{collections::HashMap, sync::Arc, time::Duration};

use profiler_common::mapped::MappedKind;
use profiler_profile::{Frame, FrameKind, Profile, ProfileBuilder};

use crate::{
    stacks::{mapped::MappedWindow, window::RawStack},
    symbols::Symbols,
};

/// The module of the innermost frames: the kernel answers the calls.
const KERNEL: &str = "[kernel]";

/// A store adds up what stands for the same time, which must be some.
const PERIOD: Duration = Duration::from_nanos(1);

/// A profile of which the counts are bytes and the samples are calls. The innermost frame of each stack says how was asked.
pub(super) fn name(symbols: &mut Symbols, mapped: &MappedWindow) -> Profile {
    let mut numbers: HashMap<(u32, &RawStack), Box<[u32]>> = HashMap::new();
    let calls = symbols.name_with(&mapped.window, |pid, stack, frames| {
        numbers.insert((pid, stack), frames.into());
    });
    let mut builder = ProfileBuilder::new(PERIOD, calls.start, calls.end);
    // In their order, so that they keep their numbers.
    for frame in &calls.frames {
        builder.number(frame.clone());
    }
    let kernel: Arc<str> = Arc::from(KERNEL);
    let asked = MappedKind::ALL.map(|kind| {
        builder.number(Frame {
            kind: FrameKind::Kernel,
            function: Arc::from(kind.name()),
            module: Arc::clone(&kernel),
            file: Arc::default(),
            line: 0,
        })
    });
    for process in &mapped.processes {
        for sum in &process.sums {
            let Some(stack) = mapped.stacks.get(&sum.stack) else {
                continue;
            };
            let named = numbers.get(&(process.label.pid, stack));
            let mut frames = named.map(|frames| frames.to_vec()).unwrap_or_default();
            frames.push(asked[sum.kind as usize]);
            builder.add_numbered(&process.label, &stack.thread, stack.gil, frames, sum.bytes);
        }
    }
    for (index, quality) in &calls.process_quality {
        builder.add_process_quality(&calls.processes[*index as usize], quality);
    }
    builder.quality_mut().lost.clone_from(&calls.quality.lost);
    builder.build()
}
