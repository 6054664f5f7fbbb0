//! Stacks of the current thread, native and Python: what the programs that take them share.

use core::ffi::{c_long, c_void};

use aya_ebpf::{
    bindings::pt_regs,
    helpers::{
        bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_probe_read_kernel,
        generated::{
            bpf_for_each_map_elem, bpf_get_current_comm, bpf_get_current_task_btf, bpf_loop, bpf_task_pt_regs,
        },
    },
};
use profiler_common::{
    cpu::{CpuSampleHeader, flags},
    limits::THREAD_NAME_BYTES,
    process::{ProcessEntry, state},
    python::{PythonLayout, PythonStop},
    python_walk::{self, MAX_PYTHON_STEPS},
    stop::StopReason,
    walk::{self, MAX_STEPS, Target as _, Walk},
};

use crate::{
    kernel_target::{KernelTarget, has_no_user_part, is_stack_start},
    maps::{PROCESSES, STEPS, Scratch},
    python::{self, PythonKernelTarget},
};

/// `__USER32_CS` (arch/x86/include/asm/segment.h).
const USER32_CS: u64 = 0x23;

/// How a walk is driven from frame to frame.
pub(crate) trait Driver {
    /// Walks the user stack.
    fn walk_user(scratch: *mut Scratch);
    /// Walks the Python stack.
    fn walk_python(scratch: *mut Scratch, layout: *const PythonLayout);
}

/// With `bpf_loop` (Linux 5.17 and newer).
pub(crate) struct WithLoop;

impl Driver for WithLoop {
    #[inline(always)]
    fn walk_user(scratch: *mut Scratch) {
        let mut context = LoopContext { scratch };
        // SAFETY: the callback has the signature of bpf_loop's callbacks and gets the context that lives until return.
        unsafe { bpf_loop(MAX_STEPS, loop_step as *mut c_void, (&raw mut context).cast(), 0) };
    }

    #[inline(always)]
    fn walk_python(scratch: *mut Scratch, layout: *const PythonLayout) {
        let mut context = PythonLoopContext { scratch, layout };
        let callback = python_loop_step as *mut c_void;
        // SAFETY: as above.
        unsafe { bpf_loop(MAX_PYTHON_STEPS, callback, (&raw mut context).cast(), 0) };
    }
}

/// With `bpf_for_each_map_elem` (Linux 5.13 and newer), which calls back for each element of an array until told to end.
pub(crate) struct WithEach;

impl Driver for WithEach {
    #[inline(always)]
    fn walk_user(scratch: *mut Scratch) {
        let mut context = LoopContext { scratch };
        // SAFETY: as above, with the signature of bpf_for_each_map_elem's callbacks.
        unsafe { bpf_for_each_map_elem(steps(), each_step as *mut c_void, (&raw mut context).cast(), 0) };
    }

    #[inline(always)]
    fn walk_python(scratch: *mut Scratch, layout: *const PythonLayout) {
        let mut context = PythonLoopContext { scratch, layout };
        let callback = python_each_step as *mut c_void;
        // SAFETY: as above.
        unsafe { bpf_for_each_map_elem(steps(), callback, (&raw mut context).cast(), 0) };
    }
}

#[inline(always)]
fn steps() -> *mut c_void {
    (&raw const STEPS).cast_mut().cast()
}

/// What a callback gets.
struct LoopContext {
    scratch: *mut Scratch,
}

/// What a callback for Python stacks gets.
struct PythonLoopContext {
    scratch: *mut Scratch,
    layout: *const PythonLayout,
}

unsafe extern "C" fn loop_step(_index: u64, context: *mut c_void) -> c_long {
    // SAFETY: called by bpf_loop with the context given to it.
    unsafe { one_step(context.cast()) }
}

unsafe extern "C" fn each_step(_map: *mut c_void, _key: *const u32, _value: *mut u32, context: *mut c_void) -> c_long {
    // SAFETY: called by bpf_for_each_map_elem with the context given to it.
    unsafe { one_step(context.cast()) }
}

unsafe extern "C" fn python_loop_step(_index: u64, context: *mut c_void) -> c_long {
    // SAFETY: called by bpf_loop with the context given to it.
    unsafe { one_python_step(context.cast()) }
}

unsafe extern "C" fn python_each_step(
    _map: *mut c_void,
    _key: *const u32,
    _value: *mut u32,
    context: *mut c_void,
) -> c_long {
    // SAFETY: called by bpf_for_each_map_elem with the context given to it.
    unsafe { one_python_step(context.cast()) }
}

/// One step of the walk: 0 to go on, 1 to end.
///
/// # Safety
/// `context` must be valid and its scratch state in use by nobody else.
#[inline(always)]
unsafe fn one_step(context: *mut LoopContext) -> c_long {
    // SAFETY: by the caller's promise; the scratch state is marked busy.
    let scratch = unsafe { &mut *(*context).scratch };
    let mut target = KernelTarget {
        frames: &mut scratch.frames,
        kernel_frames: u32::from(scratch.header.kernel_frames),
        return_instance: &mut scratch.return_instance,
        frame_shift: scratch.frame_shift,
    };
    c_long::from(!walk::step(&mut scratch.walk, &mut target))
}

/// The same of the walk of a Python stack.
///
/// # Safety
/// `context` must be valid and its scratch state in use by nobody else.
#[inline(always)]
unsafe fn one_python_step(context: *mut PythonLoopContext) -> c_long {
    // SAFETY: by the caller's promise; the scratch state is marked busy, and the layout is an element of a map.
    let (scratch, layout) = unsafe { (&mut *(*context).scratch, &*(*context).layout) };
    let mut walk = scratch.python;
    let goes_on = python_walk::step(&mut walk, layout, &mut PythonKernelTarget::new(scratch));
    scratch.python = walk;
    c_long::from(!goes_on)
}

/// Fills the header of a record without any frame.
#[inline(always)]
pub(crate) fn begin(scratch: &mut Scratch, ids: u64) {
    // SAFETY: the helpers have no preconditions.
    let (time_ns, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    scratch.header = CpuSampleHeader {
        time_ns,
        pid: (ids >> 32) as u32,
        tid: ids as u32,
        generation: scratch.entry.generation,
        cpu,
        kernel_frames: 0,
        user_frames: 0,
        stop: StopReason::Running as u8,
        flags: if scratch.frame_shift == 0 {
            0
        } else {
            flags::STACK_POINTERS
        },
        python_entries: 0,
        python_stop: PythonStop::NotPython as u8,
        python_flags: 0,
        reserved: [0; 6],
        thread_name: [0; THREAD_NAME_BYTES],
    };
    // SAFETY: the buffer is as long as said.
    unsafe {
        bpf_get_current_comm((&raw mut scratch.header.thread_name).cast(), THREAD_NAME_BYTES as u32);
    }
}

/// The code segment and the walk of the user registers that the current thread entered the kernel with.
#[inline(always)]
pub(crate) fn registers_at_entry() -> (u64, Walk) {
    // SAFETY: the helpers have no preconditions. The registers are copied by a checked read, because direct loads here and of
    // a program's own registers would be merged into one that the verifier refuses.
    match unsafe { bpf_probe_read_kernel(bpf_task_pt_regs(bpf_get_current_task_btf()) as *const pt_regs) } {
        Ok(registers) => {
            let mut walk = initial_walk(&registers);
            // -1 unless the kernel was entered by a system call (arch/x86/entry/entry_64.S), whose instruction left the
            // address behind it in rcx. They differ once the kernel has set up a signal handler to return to.
            if registers.orig_rax as i64 != -1 && registers.rcx == registers.rip {
                walk.flags |= walk::flags::AFTER_SYSCALL;
            }
            (registers.cs, walk)
        }
        Err(_) => (0, Walk::default()),
    }
}

#[inline(always)]
pub(crate) fn initial_walk(registers: &pt_regs) -> Walk {
    Walk {
        ip: registers.rip,
        sp: registers.rsp,
        bp: registers.rbp,
        r10: registers.r10,
        r11: registers.r11,
        r13: registers.r13,
        rax: registers.rax,
        flags: walk::flags::INTERRUPTED,
        ..Walk::default()
    }
}

/// Begins the walk with these registers. Returns whether there is something to walk.
#[inline(always)]
pub(crate) fn begin_walk(scratch: &mut Scratch, cs: u64, walk: Walk) -> bool {
    scratch.return_instance = 0;
    let entry = scratch.entry;
    scratch.walk = walk;
    let walk = &mut scratch.walk;
    walk.first_mapping = entry.first_mapping;
    walk.mapping_hint = entry.first_mapping;
    walk.mapping_count = entry.mapping_count;
    walk.relocation = entry.relocation;
    let reason = if cs & 3 != 3 {
        StopReason::NoUserRegisters
    } else if cs == USER32_CS {
        StopReason::Compat32
    } else if entry.state == state::PENDING {
        StopReason::Pending
    } else {
        // Ends the walk if the loop does, before the walk itself.
        walk.stop = StopReason::DepthLimit as u32;
        return true;
    };
    walk.stop = reason as u32;
    if !matches!(reason, StopReason::NoUserRegisters) {
        walk.frames = 1;
        let (ip, sp) = (walk.ip, walk.sp);
        let mut target = KernelTarget {
            frames: &mut scratch.frames,
            kernel_frames: u32::from(scratch.header.kernel_frames),
            return_instance: &mut scratch.return_instance,
            frame_shift: scratch.frame_shift,
        };
        target.push(0, ip, sp);
    }
    false
}

/// Takes the native and the Python stack of the current thread, which has entered the kernel.
#[inline(always)]
pub(crate) fn take_at_entry<D: Driver>(scratch_pointer: *mut Scratch, ids: u64, entry: &ProcessEntry) {
    // SAFETY: the caller has marked it busy.
    let scratch = unsafe { &mut *scratch_pointer };
    scratch.entry = *entry;
    let layout = python::layout(&scratch.entry);
    scratch.frame_shift = u64::from(layout.is_some());
    begin(scratch, ids);
    let (cs, walk) = registers_at_entry();
    let is_walkable = begin_walk(scratch, cs, walk);
    if is_walkable {
        D::walk_user(scratch_pointer);
    }
    end_walk(scratch);
    if let Some(layout) = layout
        && is_walkable
        && scratch.header.stop != StopReason::NoUserRegisters as u8
    {
        python::walk::<D>(scratch, layout);
    }
    settle((ids >> 32) as u32, scratch);
}

/// Says in the header what came of the walk of the user stack.
#[inline(always)]
pub(crate) fn end_walk(scratch: &mut Scratch) {
    if scratch.walk.stop == StopReason::NoRow as u32 && is_stack_start(scratch.walk.sp) {
        scratch.walk.stop = StopReason::Root as u32;
    }
    scratch.header.user_frames = scratch.walk.frames as u16;
    scratch.header.stop = scratch.walk.stop as u8;
    let is_whole = scratch.walk.stop == StopReason::Root as u32 || scratch.walk.stop == StopReason::DepthLimit as u32;
    if !is_whole && has_no_user_part() {
        // The stack went with the rest of its memory, or is that of a program that has not begun.
        scratch.header.user_frames = 0;
        scratch.header.stop = StopReason::NoUserRegisters as u8;
    }
}

/// Keeps only what is sure of the stacks if the process's tables changed under the walk.
#[inline(always)]
pub(crate) fn settle(pid: u32, scratch: &mut Scratch) {
    // SAFETY: one field is read.
    let is_unchanged = match unsafe { PROCESSES.get(&pid) } {
        Some(entry) => entry.generation == scratch.entry.generation,
        None => false,
    };
    if !is_unchanged {
        // The tables may have been those of another process in the middle of the walk: only the innermost frame is sure.
        scratch.header.user_frames = if scratch.walk.frames == 0 { 0 } else { 1 };
        scratch.header.stop = StopReason::TablesChanged as u8;
        scratch.header.python_entries = 0;
        scratch.header.python_stop = PythonStop::NotPython as u8;
        scratch.header.python_flags = 0;
    }
}
