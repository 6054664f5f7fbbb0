//! Python stacks: from the thread state of the sampled thread outwards, apart from its native stack.

use aya_ebpf::helpers::{
    bpf_probe_read_user,
    generated::{bpf_get_current_task, bpf_ktime_get_ns, bpf_probe_read_user as read_user_bytes},
};
use profiler_common::{
    limits::FRAME_SLOTS,
    process::ProcessEntry,
    python::{ANCHOR, PythonEntry, PythonLayout, PythonStop},
    python_walk::{PythonTarget, begin},
};

use crate::{
    kernel_target::{masked, read_field},
    maps::{CODE_SLOTS, PYTHON_BUFFER_WORDS, PYTHON_LAYOUTS, Scratch, TASK_THREAD_POINTER},
    stack::Driver,
};

/// Spreads the bits of a key over the slots (Fibonacci hashing).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a walk of a Python stack uses of the state on this CPU.
pub(crate) struct PythonKernelTarget<'a> {
    pub(crate) frames: &'a mut [u64; FRAME_SLOTS],
    /// Slots already taken by the kernel's and the user's stack.
    pub(crate) taken: u32,
    pub(crate) buffer: &'a mut [u64; PYTHON_BUFFER_WORDS],
    pub(crate) seen: &'a mut [u64; CODE_SLOTS],
    pub(crate) saw_new: &'a mut u64,
    pub(crate) pid: u32,
}

impl<'a> PythonKernelTarget<'a> {
    /// Over the state of this CPU, whose walk of the user stack has ended.
    #[inline(always)]
    pub(crate) fn new(scratch: &'a mut Scratch) -> Self {
        Self {
            taken: first_slot(scratch),
            pid: scratch.header.pid,
            frames: &mut scratch.frames,
            buffer: &mut scratch.python_buffer,
            seen: &mut scratch.seen_code,
            saw_new: &mut scratch.saw_new_code,
        }
    }

    /// Notes whether the code object was not sampled lately, so that it is looked at while its process lives.
    #[inline(always)]
    fn note_code(&mut self, entry: &PythonEntry) {
        let key = entry.address ^ u64::from(entry.check) << 32 ^ u64::from(self.pid) << 1;
        let slot = masked::<{ CODE_SLOTS as i32 - 1 }>(key.wrapping_mul(SPREAD) >> 48);
        // SAFETY: masked to less than the number of slots, which is a power of two.
        let seen = unsafe { self.seen.get_unchecked_mut(slot as usize) };
        if *seen != key {
            *seen = key;
            *self.saw_new = 1;
        }
    }
}

impl PythonTarget for PythonKernelTarget<'_> {
    #[inline(always)]
    fn read(&self, runtime_address: u64) -> Option<u64> {
        // SAFETY: the helper checks the address and fails on one that cannot be read.
        unsafe { bpf_probe_read_user(runtime_address as *const u64) }.ok()
    }

    #[inline(always)]
    fn fill(&mut self, runtime_address: u64, length: u32) -> bool {
        let length = masked::<{ PYTHON_BUFFER_WORDS as i32 * 8 - 1 }>(u64::from(length));
        // SAFETY: masked to less than the bytes of the buffer; the helper checks the address.
        let result = unsafe {
            read_user_bytes(
                (&raw mut *self.buffer).cast(),
                length as u32,
                runtime_address as *const core::ffi::c_void,
            )
        };
        result == 0
    }

    #[inline(always)]
    fn word(&self, index: u32) -> u64 {
        let index = masked::<{ PYTHON_BUFFER_WORDS as i32 - 1 }>(u64::from(index));
        // SAFETY: masked to less than the number of words, which is a power of two.
        unsafe { *self.buffer.get_unchecked(index as usize) }
    }

    #[inline(always)]
    fn push(&mut self, index: u32, entry: PythonEntry) {
        if entry.instruction != ANCHOR {
            self.note_code(&entry);
        }
        let slot = u64::from(self.taken) + 2 * u64::from(index);
        let words = [
            entry.address,
            u64::from(entry.instruction as u32) | u64::from(entry.check) << 32,
        ];
        for (slot, word) in (slot..).zip(words) {
            let index = masked::<{ FRAME_SLOTS as i32 - 1 }>(slot);
            // SAFETY: masked to less than the number of slots, which is a power of two.
            unsafe { *self.frames.get_unchecked_mut(index as usize) = word };
        }
    }
}

/// The slot behind the user's stack.
#[inline(always)]
fn first_slot(scratch: &Scratch) -> u32 {
    u32::from(scratch.header.kernel_frames) + (u32::from(scratch.header.user_frames) << scratch.frame_shift)
}

/// What is known of the interpreter of a process.
#[inline(always)]
pub(crate) fn layout(entry: &ProcessEntry) -> Option<&'static PythonLayout> {
    if entry.python == 0 {
        return None;
    }
    PYTHON_LAYOUTS.get(entry.python)
}

/// What a walk of a Python stack found, and what it took.
#[derive(Clone, Copy, Default)]
pub(crate) struct Walked {
    pub(crate) frames: u64,
    pub(crate) nanoseconds: u64,
}

/// Walks the Python stack of the current thread and says in the header what came of it.
#[inline(always)]
pub(crate) fn walk<D: Driver>(scratch: &mut Scratch, layout: &PythonLayout) -> Walked {
    // SAFETY: the helpers have no preconditions.
    let (start_ns, task) = unsafe { (bpf_ktime_get_ns(), bpf_get_current_task()) };
    let Some(thread_pointer) = read_field(task, TASK_THREAD_POINTER.load()) else {
        scratch.header.python_stop = PythonStop::ThreadStateUnreadable as u8;
        return Walked::default();
    };
    let mut walk = scratch.python;
    let goes_on = begin(&mut walk, layout, &PythonKernelTarget::new(scratch), thread_pointer);
    scratch.python = walk;
    if goes_on {
        D::walk_python(scratch, layout);
    }
    scratch.header.python_entries = scratch.python.entries as u16;
    scratch.header.python_stop = scratch.python.stop as u8;
    scratch.header.python_flags = scratch.python.flags as u8;
    Walked {
        frames: u64::from(scratch.python.frames),
        // SAFETY: the helper has no preconditions.
        nanoseconds: unsafe { bpf_ktime_get_ns() } - start_ns,
    }
}
