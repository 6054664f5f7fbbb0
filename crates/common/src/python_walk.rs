//! The walker of Python stacks: from a thread's state to its outermost interpreter frame, one frame a step.
//!
//! In: a [`PythonLayout`], the thread pointer, user memory. Out: [`PythonEntry`]s, innermost first, and a [`PythonStop`]. One
//! source for the kernel, where a step is the body of a verified loop, and for the host, where the daemon tries a layout
//! before it trusts it. It indexes nothing itself: what is read lies in a buffer of the target, which bounds every access.

use crate::{
    cpu::python_flags,
    python::{
        ANCHOR, CHECK_WORDS, MAX_PYTHON_ENTRIES, MAX_PYTHON_FRAMES, PythonEntry, PythonLayout, PythonStop, boundary,
        check, instruction, top_frame,
    },
};

/// Steps that a walk may need at most: each but the last finds an entry.
pub const MAX_PYTHON_STEPS: u32 = MAX_PYTHON_ENTRIES as u32 + 1;

/// Entries that one step may find: a frame and an anchor.
const ENTRIES_PER_STEP: u32 = 2;
/// Values of a frame's owner from this one on mark frames of the evaluation loop itself (`FRAME_OWNED_BY_INTERPRETER` of
/// CPython's pycore_interpframe_structs.h; 3.12 calls it `FRAME_OWNED_BY_CSTACK`).
const FIRST_OWNER_OF_LOOP: u32 = 3;
/// What an instruction is said to be where it cannot be told: the one before the first.
const BEFORE_FIRST: i32 = -2;
/// `TLS_DTV_UNALLOCATED` (glibc's elf/dl-dtv.h): the thread has not touched the thread-local memory of this object.
const UNALLOCATED: u64 = u64::MAX;

/// Where a walk stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PythonWalk {
    /// The thread state.
    pub thread_state: u64,
    /// The next interpreter frame; 0 after the outermost.
    pub frame: u64,
    /// The `_PyCFrame` of the evaluation loop that runs it, where there are such; 0 if none is left.
    pub cframe: u64,
    /// Entries found so far.
    pub entries: u32,
    /// Frames among them.
    pub frames: u32,
    /// [`PythonStop`] as a number.
    pub stop: u32,
    /// Bits of [`python_flags`].
    pub flags: u32,
}

/// What a walk reads from and writes to.
pub trait PythonTarget {
    /// Eight bytes of user memory.
    fn read(&self, runtime_address: u64) -> Option<u64>;
    /// Reads so many bytes of user memory, at most [`crate::python::MAX_CODE_BYTES`], into the target's buffer. Returns whether
    /// they could be read.
    fn fill(&mut self, runtime_address: u64, length: u32) -> bool;
    /// The word of this number in the buffer; anything for one that was not filled.
    fn word(&self, index: u32) -> u64;
    /// Records entry number `index`.
    fn push(&mut self, index: u32, entry: PythonEntry);
}

/// Finds the thread state and its innermost frame. Returns whether there is something to walk; if not,
/// [`PythonWalk::stop`] says why.
#[inline(always)]
pub fn begin<T: PythonTarget>(walk: &mut PythonWalk, layout: &PythonLayout, target: &T, thread_pointer: u64) -> bool {
    *walk = PythonWalk {
        // Ends the walk if the loop does, before the walk itself.
        stop: PythonStop::DepthLimit as u32,
        ..PythonWalk::default()
    };
    match find_thread_state(layout, target, thread_pointer) {
        Ok(thread_state) => walk.thread_state = thread_state,
        Err(reason) => return stop(walk, reason),
    }
    walk.flags = gil_flags(layout, target, walk.thread_state);
    let found = find_top(walk, layout, target);
    found || stop(walk, PythonStop::ThreadStateUnreadable)
}

/// Records the current frame and moves to the one that called it. Returns whether the walk goes on; if not,
/// [`PythonWalk::stop`] says why it ended.
#[inline(always)]
pub fn step<T: PythonTarget>(walk: &mut PythonWalk, layout: &PythonLayout, target: &mut T) -> bool {
    let frame = walk.frame;
    if frame == 0 {
        return stop(walk, PythonStop::Whole);
    }
    if walk.frames >= MAX_PYTHON_FRAMES as u32 || walk.entries + ENTRIES_PER_STEP > MAX_PYTHON_ENTRIES as u32 {
        return stop(walk, PythonStop::DepthLimit);
    }
    if frame & 7 != 0 || !target.fill(frame, layout.frame_bytes) {
        return stop(walk, PythonStop::FrameUnreadable);
    }
    walk.frame = word_at(target, layout.frame_previous);
    let mark = byte_at(target, layout.frame_boundary);
    if layout.boundary == boundary::OWNER && mark >= FIRST_OWNER_OF_LOOP {
        push_anchor(walk, target, frame);
        return true;
    }
    let code = word_at(target, layout.frame_code) & !u64::from(layout.code_tag_mask);
    let position = word_at(target, layout.frame_instruction);
    let count = half_at(target, layout.frame_instruction) as i32;
    let bytecode_index = match layout.frame_bytecode_index {
        0 => 0,
        offset => half_at(target, offset),
    };
    let Some(check) = look_at_code(layout, target, code) else {
        return stop(walk, PythonStop::NotCode);
    };
    let instruction = match layout.instruction {
        instruction::BYTES => count,
        instruction::UNITS => count.wrapping_mul(2),
        _ => match bytecode(layout, target, code, bytecode_index) {
            Some(start) => distance(position, start),
            None => BEFORE_FIRST,
        },
    };
    let entry = PythonEntry {
        address: code,
        // Whatever the process holds there, it must not pass for an anchor.
        instruction: if instruction < BEFORE_FIRST {
            BEFORE_FIRST
        } else {
            instruction
        },
        check,
    };
    target.push(walk.entries, entry);
    walk.entries += 1;
    walk.frames += 1;
    if layout.boundary == boundary::EACH || layout.boundary == boundary::IS_ENTRY && mark == 1 {
        leave_cframe(walk, layout, target);
    }
    true
}

/// Ends the walk.
#[inline(always)]
fn stop(walk: &mut PythonWalk, reason: PythonStop) -> bool {
    walk.stop = reason as u32;
    false
}

#[inline(always)]
fn find_thread_state<T: PythonTarget>(
    layout: &PythonLayout,
    target: &T,
    thread_pointer: u64,
) -> Result<u64, PythonStop> {
    let [first, second, third] = layout.thread_state;
    let mut address = follow(target, thread_pointer, first)?;
    if layout.thread_state_reads > 1 {
        address = follow(target, address, second)?;
    }
    if layout.thread_state_reads > 2 {
        address = follow(target, address, third)?;
    }
    Ok(address)
}

/// The pointer at a distance from an address.
#[inline(always)]
fn follow<T: PythonTarget>(target: &T, address: u64, distance: i64) -> Result<u64, PythonStop> {
    if address == 0 {
        return Err(PythonStop::NoThreadState);
    }
    match target.read(address.wrapping_add(distance as u64)) {
        Some(0 | UNALLOCATED) => Err(PythonStop::NoThreadState),
        Some(pointer) => Ok(pointer),
        None => Err(PythonStop::ThreadStateUnreadable),
    }
}

/// Whether this thread has the interpreter's lock, as far as that can be told.
#[inline(always)]
fn gil_flags<T: PythonTarget>(layout: &PythonLayout, target: &T, thread_state: u64) -> u32 {
    if layout.gil_holder == 0 {
        return 0;
    }
    let Some(holder) = target.read(layout.gil_holder) else {
        return 0;
    };
    let is_locked = match layout.gil_locked {
        0 => true,
        address => match target.read(address) {
            Some(word) => word as u32 != 0,
            None => return 0,
        },
    };
    let known = u32::from(python_flags::GIL_KNOWN);
    if is_locked && holder == thread_state {
        known | u32::from(python_flags::HAS_GIL)
    } else {
        known
    }
}

/// Sets the walk to the innermost frame. Returns false if it could not be read.
#[inline(always)]
fn find_top<T: PythonTarget>(walk: &mut PythonWalk, layout: &PythonLayout, target: &T) -> bool {
    let state = walk.thread_state;
    if layout.top_frame != top_frame::DIRECT {
        let Some(cframe) = read_at(target, state, layout.thread_cframe) else {
            return false;
        };
        walk.cframe = cframe;
    }
    if layout.top_frame == top_frame::CFRAME && walk.cframe == 0 {
        // No loop was ever entered: there is no frame.
        return true;
    }
    let (holder, offset) = if layout.top_frame == top_frame::CFRAME {
        (walk.cframe, layout.cframe_frame)
    } else {
        (state, layout.thread_frame)
    };
    match read_at(target, holder, offset) {
        Some(frame) => {
            walk.frame = frame;
            true
        }
        None => false,
    }
}

/// The check of a code object, 0 if it cannot be read; `None` if it is none.
#[inline(always)]
fn look_at_code<T: PythonTarget>(layout: &PythonLayout, target: &mut T, code: u64) -> Option<u32> {
    if code == 0 || code & 7 != 0 {
        return None;
    }
    if !target.fill(code, layout.code_bytes) {
        return Some(0);
    }
    if word_at(target, layout.object_type) != layout.code_type {
        return None;
    }
    let [a, b, c, d, e, f] = layout.check_words;
    let words: [u64; CHECK_WORDS] = [
        word_at(target, a),
        word_at(target, b),
        word_at(target, c),
        word_at(target, d),
        word_at(target, e),
        word_at(target, f),
    ];
    Some(check(&words))
}

/// Where the bytecode that a frame runs begins; `None` if that cannot be read. Threads of a free-threaded interpreter
/// have copies of their own (`_PyCodeArray` of CPython's cpython/code.h: a size, then pointers).
#[inline(always)]
fn bytecode<T: PythonTarget>(layout: &PythonLayout, target: &T, code: u64, index: u32) -> Option<u64> {
    if index == 0 || layout.code_thread_bytecodes == 0 {
        return Some(code.wrapping_add(u64::from(layout.code_bytecode)));
    }
    let copies = read_at(target, code, layout.code_thread_bytecodes)?;
    let size = target.read(copies)?;
    if u64::from(index) >= size {
        return None;
    }
    target.read(copies.wrapping_add(8).wrapping_add(8 * u64::from(index)))
}

/// Bytes from the start of the bytecode to an instruction.
#[inline(always)]
fn distance(position: u64, start: u64) -> i32 {
    let bytes = position.wrapping_sub(start) as i64;
    if bytes < 0 || bytes > i64::from(i32::MAX) {
        BEFORE_FIRST
    } else {
        bytes as i32
    }
}

/// Records where the current evaluation loop lies, and moves to the one around it.
#[inline(always)]
fn leave_cframe<T: PythonTarget>(walk: &mut PythonWalk, layout: &PythonLayout, target: &mut T) {
    if walk.cframe == 0 {
        return;
    }
    push_anchor(walk, target, walk.cframe);
    walk.cframe = read_at(target, walk.cframe, layout.cframe_previous).unwrap_or(0);
}

#[inline(always)]
fn push_anchor<T: PythonTarget>(walk: &mut PythonWalk, target: &mut T, address: u64) {
    let entry = PythonEntry {
        address,
        instruction: ANCHOR,
        check: 0,
    };
    target.push(walk.entries, entry);
    walk.entries += 1;
}

#[inline(always)]
fn read_at<T: PythonTarget>(target: &T, address: u64, offset: u32) -> Option<u64> {
    target.read(address.wrapping_add(u64::from(offset)))
}

/// The aligned word of the buffer that an offset lies in.
#[inline(always)]
fn word_at<T: PythonTarget>(target: &T, offset: u32) -> u64 {
    target.word(offset >> 3)
}

#[inline(always)]
fn half_at<T: PythonTarget>(target: &T, offset: u32) -> u32 {
    (word_at(target, offset) >> ((offset & 4) * 8)) as u32
}

#[inline(always)]
fn byte_at<T: PythonTarget>(target: &T, offset: u32) -> u32 {
    (word_at(target, offset) >> ((offset & 7) * 8)) as u32 & 0xff
}
