//! The walker's target in the kernel: user memory by helper, tables in maps, frames into the record.

use aya_ebpf::helpers::{bpf_probe_read_kernel, bpf_probe_read_user, generated::bpf_get_current_task};
use profiler_common::{
    limits::{FRAME_SLOTS, ROWS_PER_SHARD, SHARD_SHIFT},
    process::Mapping,
    row::{Page, Row},
    walk::Target,
};

use crate::maps::{
    MAPPINGS, MM_START_STACK, PAGES, RETURN_CHAINED, RETURN_NEXT, RETURN_ORIGINAL, SHARDS, TASK_FLAGS, TASK_IN_EXECVE,
    TASK_MM, TASK_UTASK, UNKNOWN_OFFSET, UTASK_RETURN_INSTANCES, UTASK_VADDR, UTASK_XOL_VADDR,
};

/// Uretprobes on one function that share a slot of the stack.
const MAX_CHAINED_RETURNS: u32 = 4;

/// `PF_EXITING` (include/linux/sched.h).
const PF_EXITING: u64 = 4;

/// The frames and bookkeeping of the walk on this CPU.
pub(crate) struct KernelTarget<'a> {
    pub(crate) frames: &'a mut [u64; FRAME_SLOTS],
    /// Slots already taken by the kernel stack.
    pub(crate) kernel_frames: u32,
    pub(crate) return_instance: &'a mut u64,
    /// log2 of the words that a frame takes: with 1, its stack pointer is beside it.
    pub(crate) frame_shift: u64,
}

/// An AND that the compiler can neither move nor drop, so that the verifier sees the bound where the index is used.
#[inline(always)]
pub(crate) fn masked<const MASK: i32>(mut value: u64) -> u64 {
    // SAFETY: one register in, the same one out, no memory touched.
    unsafe { core::arch::asm!("{x} &= {m}", x = inout(reg) value, m = const MASK, options(pure, nomem)) };
    value
}

impl Target for KernelTarget<'_> {
    #[inline(always)]
    fn read(&self, runtime_address: u64) -> Option<u64> {
        // SAFETY: the helper checks the address and fails on one that cannot be read.
        unsafe { bpf_probe_read_user(runtime_address as *const u64) }.ok()
    }

    #[inline(always)]
    fn mapping(&self, index: u32) -> Option<&Mapping> {
        MAPPINGS.get(index)
    }

    #[inline(always)]
    fn page(&self, index: u32) -> Option<Page> {
        PAGES.get(index).map(|page| Page(*page))
    }

    #[inline(always)]
    fn row(&self, index: u32) -> Option<Row> {
        SHARDS
            .get_value(index >> SHARD_SHIFT, &(index & (ROWS_PER_SHARD - 1)))
            .map(|row| Row(*row))
    }

    #[inline(always)]
    fn push(&mut self, index: u32, ip: u64, sp: u64) {
        let slot = u64::from(self.kernel_frames) + (u64::from(index) << self.frame_shift);
        let (of_ip, of_sp) = (
            masked::<{ FRAME_SLOTS as i32 - 1 }>(slot),
            masked::<{ FRAME_SLOTS as i32 - 1 }>(slot + self.frame_shift),
        );
        // SAFETY: masked to less than the number of slots, which is a power of two. The address goes over the stack pointer
        // where that has no slot of its own.
        unsafe {
            *self.frames.get_unchecked_mut(of_sp as usize) = sp;
            *self.frames.get_unchecked_mut(of_ip as usize) = ip;
        }
    }

    #[inline(always)]
    fn uprobe_instruction(&self, ip: u64) -> Option<u64> {
        let utask = uprobe_task()?;
        let original = read_field(utask, UTASK_VADDR.load())?;
        let copy = read_field(utask, UTASK_XOL_VADDR.load())?;
        let offset = ip.wrapping_sub(copy);
        // A slot holds one instruction of at most 16 bytes (MAX_UINSN_BYTES, arch/x86/include/asm/uprobes.h).
        (original != 0 && offset <= 16).then(|| original.wrapping_add(offset))
    }

    #[inline(always)]
    fn uprobe_return(&mut self, index: u32) -> Option<u64> {
        if index == 0 {
            *self.return_instance = read_field(uprobe_task()?, UTASK_RETURN_INSTANCES.load())?;
        }
        let mut instance = *self.return_instance;
        let original = read_field(instance, RETURN_ORIGINAL.load())?;
        let mut chained = 0;
        while chained < MAX_CHAINED_RETURNS {
            chained += 1;
            let more = read_field(instance, RETURN_CHAINED.load())? & 0xff;
            instance = read_field(instance, RETURN_NEXT.load())?;
            if more == 0 {
                break;
            }
        }
        *self.return_instance = instance;
        Some(original)
    }
}

/// Whether the current thread is exiting, when its memory may be gone, or executing a program, when it may be another's
/// than its registers are.
#[inline(always)]
pub(crate) fn has_no_user_part() -> bool {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    if read_field(task, TASK_FLAGS.load()).is_some_and(|flags| flags & PF_EXITING != 0) {
        return true;
    }
    let bit = TASK_IN_EXECVE.load();
    bit != UNKNOWN_OFFSET && read_field(task, bit >> 6 << 3).is_some_and(|word| word >> (bit & 63) & 1 != 0)
}

/// Whether a stack pointer is the one that the program began with: no frame lies above it. The dynamic loader's entry, where
/// every program begins, is described by no unwind table.
#[inline(always)]
pub(crate) fn is_stack_start(sp: u64) -> bool {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let memory = read_field(task, TASK_MM.load());
    memory.and_then(|memory| read_field(memory, MM_START_STACK.load())) == Some(sp)
}

/// The `struct uprobe_task` of the current thread.
#[inline(always)]
fn uprobe_task() -> Option<u64> {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    read_field(task, TASK_UTASK.load())
}

/// Eight bytes at an offset of a kernel structure.
#[inline(always)]
pub(crate) fn read_field(structure: u64, offset: u64) -> Option<u64> {
    if structure == 0 || offset == UNKNOWN_OFFSET {
        return None;
    }
    // SAFETY: the helper checks the address and fails on one that cannot be read.
    unsafe { bpf_probe_read_kernel((structure + offset) as *const u64) }.ok()
}
