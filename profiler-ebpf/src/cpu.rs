//! CPU samples: on each tick of a CPU's clock event, the kernel and user stack of a watched process.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, generated::bpf_get_stack},
    macros::perf_event,
    programs::PerfEventContext,
};
use profiler_common::{counters::Counter, cpu::flags, limits::MAX_KERNEL_FRAMES, stop::StopReason, walk::Walk};

use crate::{
    delivery::deliver,
    maps::{COUNTERS, PROCESSES, SCRATCH, Scratch},
    python,
    stack::{self, Driver, WithEach, WithLoop},
};

/// Walks by [`WithLoop`].
#[perf_event]
pub(crate) fn cpu_sample_loop(context: PerfEventContext) -> u32 {
    sample::<WithLoop>(&context)
}

/// Walks by [`WithEach`].
#[perf_event]
pub(crate) fn cpu_sample_each(context: PerfEventContext) -> u32 {
    sample::<WithEach>(&context)
}

#[inline(always)]
pub(crate) fn count(counter: Counter) {
    add(counter, 1);
}

#[inline(always)]
fn add(counter: Counter, amount: u64) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: the element is this CPU's and the index is a constant below its length.
        unsafe { *(*counters).as_mut_ptr().add(counter as usize) += amount };
    }
}

#[inline(always)]
fn sample<D: Driver>(context: &PerfEventContext) -> u32 {
    count(Counter::Runs);
    let ids = bpf_get_current_pid_tgid();
    if ids == 0 {
        count(Counter::Idle);
        return 0;
    }
    let pid = (ids >> 32) as u32;
    // SAFETY: copied at once; the generation is compared again after the walk.
    let Some(entry) = (unsafe { PROCESSES.get(&pid) }) else {
        count(Counter::NotWatched);
        return 0;
    };
    let Some(scratch_pointer) = SCRATCH.get_ptr_mut(0) else {
        count(Counter::Internal);
        return 0;
    };
    // SAFETY: the element is this CPU's; nobody else uses it while it is marked busy.
    let scratch = unsafe { &mut *scratch_pointer };
    if scratch.busy != 0 {
        count(Counter::Busy);
        return 0;
    }
    scratch.busy = 1;
    scratch.entry = *entry;
    let layout = python::layout(&scratch.entry);
    scratch.frame_shift = u64::from(layout.is_some());
    stack::begin(scratch, ids);
    take_kernel_stack(context, scratch);
    let (cs, walk) = registers(context);
    let is_walkable = stack::begin_walk(scratch, cs, walk);
    if is_walkable {
        D::walk_user(scratch_pointer);
    }
    stack::end_walk(scratch);
    if let Some(layout) = layout
        && is_walkable
        && scratch.header.stop != StopReason::NoUserRegisters as u8
    {
        let walked = python::walk::<D>(scratch, layout);
        add(Counter::PythonFrames, walked.frames);
        add(Counter::PythonNanoseconds, walked.nanoseconds);
    }
    stack::settle(pid, scratch);
    deliver(scratch);
    add(
        Counter::SampleFrames,
        u64::from(scratch.header.kernel_frames) + u64::from(scratch.header.user_frames),
    );
    // SAFETY: the helper has no preconditions.
    add(
        Counter::SampleNanoseconds,
        unsafe { bpf_ktime_get_ns() } - scratch.header.time_ns,
    );
    scratch.busy = 0;
    0
}

/// Takes the kernel stack, if the thread was interrupted in the kernel.
#[inline(always)]
fn take_kernel_stack(context: &PerfEventContext, scratch: &mut Scratch) {
    // SAFETY: the context is the program's own.
    if unsafe { (*context.ctx).regs.cs } & 3 == 3 {
        return;
    }
    scratch.header.flags |= flags::IN_KERNEL;
    // SAFETY: the buffer is as long as said.
    let bytes = unsafe {
        bpf_get_stack(
            context.as_ptr(),
            (&raw mut scratch.frames).cast(),
            (MAX_KERNEL_FRAMES * 8) as u32,
            0,
        )
    };
    if bytes > 0 {
        scratch.header.kernel_frames = (bytes as u64 >> 3) as u16 & 127;
    }
    if bytes <= 0 || bytes as usize >= MAX_KERNEL_FRAMES * 8 {
        scratch.header.flags |= flags::KERNEL_STACK_INCOMPLETE;
    }
}

/// The user registers of the current thread.
#[inline(always)]
fn registers(context: &PerfEventContext) -> (u64, Walk) {
    // SAFETY: the context is the program's own.
    let registers = unsafe { &(*context.ctx).regs };
    if registers.cs & 3 == 3 {
        (registers.cs, stack::initial_walk(registers))
    } else {
        stack::registers_at_entry()
    }
}
