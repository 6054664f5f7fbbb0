//! Page faults of watched processes: the stack of each whose page is chosen, a count of all others.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_kernel, generated::bpf_get_current_task},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use profiler_common::{
    cpu::flags,
    memory::{
        CPU_QUOTA, FaultCounter, FaultHeader, OomVictim, PAGE_SHIFT, Pace, READ_LEVELS, fault, is_chosen, pace_quota,
        page_hash, process_salt,
    },
    process::ProcessEntry,
};

use crate::{
    delivery::deliver_with_lead,
    kernel_target::read_field,
    maps::{
        CPU_PACE, EVENT_RING, FAULT_COUNTERS, FAULT_RING, FAULT_SALT, FAULT_SCRATCH, PACES, PROCESSES,
        TASK_PAGEFAULT_DISABLED, TASK_TGID, UNKNOWN_OFFSET,
    },
    stack::{self, Driver, WithEach, WithLoop},
};

/// Of so many faults of a CPU that are not chosen, and one more, one has the paces look at the clock. A power of two less one.
const PASSES_UNTIMED: u64 = 7;

/// `page_fault_user(unsigned long address, struct pt_regs *regs, unsigned long error_code)`; walks by [`WithLoop`].
#[btf_tracepoint(function = "page_fault_user")]
pub(crate) fn fault_user_loop(context: BtfTracePointContext) -> i32 {
    on_fault::<WithLoop>(&context)
}

/// `page_fault_kernel`, with the same arguments: the kernel touched a page of the process.
#[btf_tracepoint(function = "page_fault_kernel")]
pub(crate) fn fault_kernel_loop(context: BtfTracePointContext) -> i32 {
    on_fault::<WithLoop>(&context)
}

/// As `fault_user_loop`; walks by [`WithEach`].
#[btf_tracepoint(function = "page_fault_user")]
pub(crate) fn fault_user_each(context: BtfTracePointContext) -> i32 {
    on_fault::<WithEach>(&context)
}

/// As `fault_kernel_loop`; walks by [`WithEach`].
#[btf_tracepoint(function = "page_fault_kernel")]
pub(crate) fn fault_kernel_each(context: BtfTracePointContext) -> i32 {
    on_fault::<WithEach>(&context)
}

/// `mark_victim(struct task_struct *task, uid_t uid)`, up to Linux 6.8 `mark_victim(int pid)`: the kernel ends a process for
/// want of memory.
#[btf_tracepoint(function = "mark_victim")]
pub(crate) fn oom_victim(context: BtfTracePointContext) -> i32 {
    // Read as bytes, because the verifier would know of one kernel's type only.
    // SAFETY: the helper checks the address.
    let Ok(argument) = (unsafe { bpf_probe_read_kernel(context.as_ptr().cast::<u64>()) }) else {
        count(FaultCounter::EventLost);
        return 0;
    };
    let mut victim = OomVictim {
        // SAFETY: the helper has no preconditions.
        time_ns: unsafe { bpf_ktime_get_ns() },
        ..OomVictim::default()
    };
    // Addresses of the kernel are negative numbers, ids are not.
    if (argument as i64) < 0 {
        let Some(tgid) = read_field(argument, TASK_TGID.load()) else {
            count(FaultCounter::EventLost);
            return 0;
        };
        victim.pid = tgid as u32;
    } else {
        victim.tid = argument as u32;
    }
    if EVENT_RING.output::<OomVictim>(&victim, 0).is_err() {
        count(FaultCounter::EventLost);
    }
    0
}

#[inline(always)]
pub(crate) fn count(counter: FaultCounter) {
    if let Some(counters) = FAULT_COUNTERS.get_ptr_mut(0) {
        // SAFETY: the element is this CPU's and the index is a constant below its length.
        unsafe { *(*counters).as_mut_ptr().add(counter as usize) += 1 };
    }
}

#[inline(always)]
fn on_fault<D: Driver>(context: &BtfTracePointContext) -> i32 {
    let ids = bpf_get_current_pid_tgid();
    let pid = (ids >> 32) as u32;
    // SAFETY: copied at once; the generation is compared again after the walk.
    let Some(entry) = (unsafe { PROCESSES.get(&pid) }) else {
        return 0;
    };
    let arguments = context.as_ptr().cast::<u64>();
    // SAFETY: the tracepoint has three arguments, of which the first and the third are numbers, as BTF says.
    let (address, code) = unsafe { (*arguments, *arguments.add(2) as u32 & fault::KNOWN) };
    // The kernel's own memory; or a read that must not fault and fails instead, such as those of these programs.
    if (address as i64) < 0 || code & fault::USER == 0 && is_pagefault_disabled() {
        return 0;
    }
    let index = entry.pace;
    let of_cpu = (CPU_PACE.get_ptr_mut(0), FAULT_COUNTERS.get_ptr_mut(0));
    let (Some(of_process), (Some(of_cpu), Some(counters))) = (PACES.get_ptr_mut(index), of_cpu) else {
        count(FaultCounter::Internal);
        return 0;
    };
    // SAFETY: elements of maps. Several CPUs may change the pace of a process at once: counts may be lost, and the level is one of
    // those that the CPUs would have set. The others are this CPU's.
    let (of_process, of_cpu, counters) = unsafe { (&mut *of_process, &mut *of_cpu, &mut *counters) };
    let passed = &mut counters[FaultCounter::Passed as usize];
    let mut level = of_process.level;
    if of_cpu.level > level {
        level = of_cpu.level;
    }
    if code & fault::WRITE == 0 {
        level += READ_LEVELS;
    }
    let page = address >> PAGE_SHIFT;
    let is_chosen = is_chosen(page_hash(page, process_salt(FAULT_SALT.load(), pid)), level);
    // The clock is as dear as all the rest, and what passes need not tell the time each time.
    if is_chosen || *passed & PASSES_UNTIMED == 0 {
        follow(of_process, of_cpu, pace_quota(index), is_chosen);
    }
    if is_chosen {
        take::<D>(ids, entry, FaultHeader { page, level, code });
    } else {
        *passed += 1;
    }
    0
}

/// Has the paces know the time, and whether a page was chosen.
// Inlined, it would be there twice: a page was chosen, or not.
#[inline(never)]
fn follow(of_process: &mut Pace, of_cpu: &mut Pace, quota: u32, is_chosen: bool) {
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    of_process.turn(now_ns, quota);
    of_cpu.turn(now_ns, CPU_QUOTA);
    if is_chosen {
        of_process.choose(quota);
        of_cpu.choose(CPU_QUOTA);
    }
}

/// Writes the record of a chosen fault.
#[inline(always)]
fn take<D: Driver>(ids: u64, entry: &ProcessEntry, header: FaultHeader) {
    let Some(scratch_pointer) = FAULT_SCRATCH.get_ptr_mut(0) else {
        count(FaultCounter::Internal);
        return;
    };
    // SAFETY: the element is this CPU's; nobody else uses it while it is marked busy.
    let scratch = unsafe { &mut *scratch_pointer };
    if scratch.busy != 0 {
        count(FaultCounter::Busy);
        return;
    }
    scratch.busy = 1;
    scratch.fault = header;
    stack::take_at_entry::<D>(scratch_pointer, ids, entry);
    if scratch.fault.code & fault::USER == 0 {
        scratch.header.flags |= flags::IN_KERNEL;
    }
    if deliver_with_lead(scratch, &FAULT_RING) {
        count(FaultCounter::Delivered);
    } else {
        count(FaultCounter::RingFull);
    }
    scratch.busy = 0;
}

/// Whether faults of the current thread fail instead of being served (`task_struct.pagefault_disabled`).
#[inline(always)]
fn is_pagefault_disabled() -> bool {
    let offset = TASK_PAGEFAULT_DISABLED.load();
    if offset == UNKNOWN_OFFSET {
        return false;
    }
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    // The member has four bytes.
    // SAFETY: the helper checks the address and fails on one that cannot be read.
    let count = unsafe { bpf_probe_read_kernel((task + offset) as *const u32) };
    // The helper's own read is one of those that must not fault (`copy_from_kernel_nofault`, mm/maccess.c).
    count.is_ok_and(|count| count > 1)
}
