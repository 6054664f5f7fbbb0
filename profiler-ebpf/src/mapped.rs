//! Calls by which the process asked for gets memory of the kernel: the stack of each that is large enough.

use aya_ebpf::{
    EbpfContext,
    bindings::pt_regs,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_kernel},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use profiler_common::{
    mapped::{Asked, LEAST_BYTES, MappedCounter, MappedHeader, MappedKind, call, growth, in_pages, is_error},
    process::ProcessEntry,
};

use crate::{
    delivery::deliver_with_lead,
    maps::{ASKED, FAULT_SCRATCH, MAPPED_COUNTERS, MAPPED_PACE, MAPPED_RING, PROCESSES},
    stack::{self, Driver, WithEach, WithLoop},
};

/// `__USER_CS` (arch/x86/include/asm/segment.h): the code segment of 64-bit programs.
const USER_CS: u64 = 0x33;

/// `sys_exit(struct pt_regs *regs, long ret)`; walks by [`WithLoop`].
#[btf_tracepoint(function = "sys_exit")]
pub(crate) fn mapped_loop(context: BtfTracePointContext) -> i32 {
    on_exit::<WithLoop>(&context)
}

/// As `mapped_loop`; walks by [`WithEach`].
#[btf_tracepoint(function = "sys_exit")]
pub(crate) fn mapped_each(context: BtfTracePointContext) -> i32 {
    on_exit::<WithEach>(&context)
}

#[inline(always)]
fn count(counter: MappedCounter) {
    if let Some(counters) = MAPPED_COUNTERS.get_ptr_mut(0) {
        // SAFETY: the element is this CPU's and the index is a constant below its length.
        unsafe { *(*counters).as_mut_ptr().add(counter as usize) += 1 };
    }
}

/// A member of the registers that a system call was entered with.
macro_rules! register {
    ($registers:expr, $name:ident) => {
        // Each as a load of its own and of the whole member, which is what the verifier knows it by.
        // SAFETY: the tracepoint gives the address of the registers, and the kernel's BTF says where this one is.
        unsafe { (&raw const (*$registers).$name).read_volatile() }
    };
}

// Each call of each process on the host comes here: what tells most of them away comes first.
#[inline(always)]
fn on_exit<D: Driver>(context: &BtfTracePointContext) -> i32 {
    let arguments = context.as_ptr().cast::<u64>();
    // SAFETY: the tracepoint has two arguments, as BTF says.
    let (registers, result) = unsafe { (*arguments as *const pt_regs, *arguments.add(1)) };
    let number = register!(registers, orig_rax);
    if !matches!(
        number,
        call::MMAP | call::BRK | call::MREMAP | call::EXECVE | call::EXECVEAT
    ) {
        return 0;
    }
    let Some(asked) = ASKED.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: an element of a map. Threads that move the end of the heap at once would see each other's; they do not, because the
    // allocator that does holds a lock.
    let asked = unsafe { &mut *asked };
    let ids = bpf_get_current_pid_tgid();
    let pid = (ids >> 32) as u32;
    if asked.pid != pid || is_error(result) {
        return 0;
    }
    // SAFETY: the helper checks the address.
    let cs = unsafe { bpf_probe_read_kernel(&raw const (*registers).cs) };
    if cs.is_ok_and(|cs| cs & 0xffff != USER_CS) {
        return 0;
    }
    let (bytes, kind) = match number {
        call::MMAP => (
            in_pages(register!(registers, rsi)),
            MappedKind::of_mmap(register!(registers, rdx), register!(registers, r10)),
        ),
        call::MREMAP => (
            growth(register!(registers, rsi), register!(registers, rdx)),
            MappedKind::Mremap,
        ),
        call::BRK => (moved_break(asked, result), MappedKind::Brk),
        _ => {
            // Another program: its heap begins anew, which its first `brk` tells.
            asked.last_break = 0;
            return 0;
        }
    };
    if bytes < LEAST_BYTES {
        return 0;
    }
    count(MappedCounter::Seen);
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let Some(pace) = MAPPED_PACE.get_ptr_mut(0) else {
        count(MappedCounter::Internal);
        return 0;
    };
    // SAFETY: the element is this CPU's.
    if !unsafe { (*pace).admits(now_ns) } {
        count(MappedCounter::OverQuota);
        return 0;
    }
    // SAFETY: copied at once; the generation is compared again after the walk.
    let Some(entry) = (unsafe { PROCESSES.get(&pid) }) else {
        count(MappedCounter::NotWatched);
        return 0;
    };
    let header = MappedHeader {
        bytes,
        kind: kind as u32,
        reserved: 0,
    };
    take::<D>(ids, entry, header);
    0
}

/// Notes where the heap ends now, and tells by how much it has grown.
#[inline(always)]
fn moved_break(asked: &mut Asked, end: u64) -> u64 {
    let before = asked.last_break;
    asked.last_break = end;
    if before == 0 { 0 } else { growth(before, end) }
}

/// Writes the record of a call.
#[inline(always)]
fn take<D: Driver>(ids: u64, entry: &ProcessEntry, header: MappedHeader) {
    let Some(scratch_pointer) = FAULT_SCRATCH.get_ptr_mut(0) else {
        count(MappedCounter::Internal);
        return;
    };
    // SAFETY: the element is this CPU's; nobody else uses it while it is marked busy.
    let scratch = unsafe { &mut *scratch_pointer };
    if scratch.busy != 0 {
        count(MappedCounter::Busy);
        return;
    }
    scratch.busy = 1;
    // SAFETY: it takes the place of a fault's, which is as large and as aligned.
    unsafe { (&raw mut scratch.fault).cast::<MappedHeader>().write(header) };
    stack::take_at_entry::<D>(scratch_pointer, ids, entry);
    if deliver_with_lead(scratch, &MAPPED_RING) {
        count(MappedCounter::Delivered);
    } else {
        count(MappedCounter::RingFull);
    }
    scratch.busy = 0;
}
