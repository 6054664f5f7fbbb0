//! The way of a record out of the kernel.

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::bpf_ringbuf_query,
    maps::RingBuf,
};
use profiler_common::{
    counters::Counter,
    cpu::{CpuSampleHeader, flags},
    limits::{CPUS_PER_RING, FRAME_SLOTS},
    memory::FaultHeader,
    process::RELOCATION_WORDS,
};

use crate::{
    cpu::count,
    kernel_target::masked,
    maps::{RINGS, Scratch},
};

/// `BPF_RB_AVAIL_DATA` and `BPF_RB_RING_SIZE` (include/uapi/linux/bpf.h).
const AVAILABLE_DATA: u64 = 0;
const RING_SIZE: u64 = 1;
/// How often at most the daemon is woken for code that was not seen before.
const TELL_EACH_NS: u64 = 20_000_000;

/// Puts how the walk's addresses were translated behind the stacks.
#[inline(always)]
fn append_relocation(scratch: &mut Scratch, frames: u64) {
    let relocation = scratch.entry.relocation;
    let words = [
        relocation.is_used,
        relocation.program_start,
        relocation.program_end,
        relocation.program_distance,
        relocation.vdso_start,
        relocation.vdso_end,
        relocation.vdso_distance,
        relocation.other_distance,
    ];
    for (slot, word) in (frames..).zip(words) {
        let index = masked::<{ FRAME_SLOTS as i32 - 1 }>(slot);
        // SAFETY: masked to less than the number of slots.
        unsafe { *scratch.frames.get_unchecked_mut(index as usize) = word };
    }
}

/// Words of the record behind its header.
#[inline(always)]
fn words(header: &CpuSampleHeader, frame_shift: u64) -> u64 {
    u64::from(header.kernel_frames)
        + (u64::from(header.user_frames) << frame_shift)
        + 2 * u64::from(header.python_entries)
}

/// Ends the stacks of the record, and returns its length from the header on.
#[inline(always)]
fn seal(scratch: &mut Scratch) -> u64 {
    let mut words = words(&scratch.header, scratch.frame_shift);
    if scratch.entry.relocation.is_used != 0 {
        scratch.header.flags |= flags::RELOCATED;
        append_relocation(scratch, words);
        words += RELOCATION_WORDS as u64;
    }
    size_of::<CpuSampleHeader>() as u64 + 8 * masked::<{ FRAME_SLOTS as i32 - 1 }>(words)
}

/// Whether the daemon is to be woken: when the ring fills, or for code that it may have to look at soon. Otherwise it looks
/// by itself.
#[inline(always)]
fn wakeup(scratch: &mut Scratch, unread: u64, size: u64) -> u64 {
    let tells = scratch.saw_new_code != 0 && scratch.header.time_ns.wrapping_sub(scratch.told_ns) >= TELL_EACH_NS;
    if tells || unread >= size / 4 {
        scratch.told_ns = scratch.header.time_ns;
        scratch.saw_new_code = 0;
        u64::from(BPF_RB_FORCE_WAKEUP)
    } else {
        u64::from(BPF_RB_NO_WAKEUP)
    }
}

/// Writes the record of a CPU sample to the CPU's ring.
#[inline(always)]
pub(crate) fn deliver(scratch: &mut Scratch) {
    let length = seal(scratch);
    let Some(ring) = RINGS.get(scratch.header.cpu / CPUS_PER_RING) else {
        count(Counter::Internal);
        return;
    };
    let ring_pointer = core::ptr::from_ref(ring).cast_mut().cast();
    // SAFETY: the ring is a ring buffer map.
    let (unread, size) = unsafe {
        (
            bpf_ringbuf_query(ring_pointer, AVAILABLE_DATA),
            bpf_ringbuf_query(ring_pointer, RING_SIZE),
        )
    };
    let wakeup = wakeup(scratch, unread, size);
    // SAFETY: header and frames are contiguous and the length is bounded by both.
    let record = unsafe { core::slice::from_raw_parts((&raw const scratch.header).cast::<u8>(), length as usize) };
    match ring.output_untyped::<[u8]>(record, wakeup) {
        Ok(()) => count(Counter::Delivered),
        Err(_) => count(Counter::RingFull),
    }
}

/// Writes the record of what is told by a header of its own, such as a page fault, to a ring of all CPUs. Whether it fitted.
#[inline(always)]
pub(crate) fn deliver_with_lead(scratch: &mut Scratch, ring: &RingBuf) -> bool {
    let length = size_of::<FaultHeader>() as u64 + seal(scratch);
    let (unread, size) = (ring.query(AVAILABLE_DATA), ring.query(RING_SIZE));
    let wakeup = wakeup(scratch, unread, size);
    // SAFETY: the fault, header and frames are contiguous and the length is bounded by all of them.
    let record = unsafe { core::slice::from_raw_parts((&raw const scratch.fault).cast::<u8>(), length as usize) };
    ring.output::<[u8]>(record, wakeup).is_ok()
}
