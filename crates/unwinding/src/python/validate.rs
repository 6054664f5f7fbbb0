//! Holds a layout against the process it was made for, before anything is named by it.
//!
//! The interpreter keeps a list of its threads, which says what the thread pointer of each is. From there the way must lead
//! back to the very thread state that the list has; and from a thread state the walker must come to the end of the stack, over
//! code objects that have names, and instructions and line tables of the same length. A wrong offset does not get through.
//!
//! The process is not stopped: threads come and go, and frames change, while they are looked at. So nothing is held
//! against it that a second look does not show.

use std::ops::RangeInclusive;

use profiler_common::cpu::python_flags;
use profiler_common::python::{
    ANCHOR, MAX_CODE_BYTES, MAX_PYTHON_ENTRIES, MAX_PYTHON_FRAMES, PythonEntry, PythonStop, boundary,
};
use profiler_common::python_walk::{self, MAX_PYTHON_STEPS, PythonTarget, PythonWalk};

use super::error::PythonError;
use super::layout::Layout;
use super::memory::{ProcessMemory, Reads, word_at};
use super::threads::Listed;

/// Looks at a process before it is refused.
const PASSES: u32 = 8;
/// Most stacks that are walked in one look.
const MAX_STACKS: usize = 64;
/// Code objects of a stack that are read in full, from the innermost frame outwards.
const MAX_CODES: usize = 8;
/// `FRAME_OWNED_BY_INTERPRETER` and `FRAME_OWNED_BY_CSTACK`, which have changed places.
const OWNERS_OF_LOOP: RangeInclusive<u8> = 3..=4;
/// The first minor version whose frames of the evaluation loop have `None` for code.
const FIRST_WITHOUT_TRAMPOLINE: u8 = 13;
/// Words of the walker's buffer.
const BUFFER_WORDS: usize = MAX_CODE_BYTES / 8;

/// What was found to be true.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Validation {
    /// Threads in the interpreter's lists.
    pub threads: u32,
    /// Threads whose own state was found from their thread pointer.
    pub found: u32,
    /// Among those, threads whose native id is one of the process (3.11 and newer).
    pub named: u32,
    /// Stacks that were walked to their end.
    pub stacks: u32,
}

/// One stack, as the walker sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkedStack {
    /// Innermost first.
    pub entries: Vec<PythonEntry>,
    /// Why the walk ended.
    pub stop: PythonStop,
    /// Whether the thread had the GIL; `None` if that cannot be told.
    pub has_gil: Option<bool>,
}

impl Layout {
    /// Holds the layout against the process. `native_thread_ids` are the process's threads as it numbers them itself (the
    /// last number of `NSpid`).
    ///
    /// # Errors
    /// [`PythonError::ThreadsDiffer`] if no thread leads to its state, [`PythonError::StacksDiffer`] if no stack can be walked to
    /// its end, [`PythonError::Idle`] if there is none; all may pass ([`PythonError::is_transient`]).
    pub fn validate(&self, memory: &impl ProcessMemory, native_thread_ids: &[u32]) -> Result<Validation, PythonError> {
        let mut refused = PythonError::NotRunning;
        for _ in 0..PASSES {
            match self.look(memory, native_thread_ids) {
                Ok(validation) => return Ok(validation),
                Err(error) if error.is_transient() => refused = error,
                Err(error) => return Err(error),
            }
        }
        Err(refused)
    }

    /// Walks the stack of the thread with this thread pointer, as the kernel does.
    pub fn walk_stack(&self, memory: &impl ProcessMemory, thread_pointer: u64) -> WalkedStack {
        let mut target = Target {
            memory,
            buffer: [0; BUFFER_WORDS],
            entries: Vec::new(),
        };
        let mut walk = PythonWalk::default();
        if python_walk::begin(&mut walk, &self.walk, &target, thread_pointer) {
            for _ in 0..MAX_PYTHON_STEPS {
                if !python_walk::step(&mut walk, &self.walk, &mut target) {
                    break;
                }
            }
        }
        // There are two of them.
        let flags = walk.flags as u8;
        WalkedStack {
            entries: target.entries,
            stop: u8::try_from(walk.stop)
                .ok()
                .and_then(PythonStop::from_number)
                .unwrap_or(PythonStop::NotPython),
            has_gil: (flags & python_flags::GIL_KNOWN != 0).then_some(flags & python_flags::HAS_GIL != 0),
        }
    }

    /// Thread pointers of the threads in the interpreter's lists.
    ///
    /// # Errors
    /// If the lists cannot be read or do not end.
    pub fn thread_pointers(&self, memory: &impl ProcessMemory) -> Result<Vec<u64>, PythonError> {
        let threads = self.lists.threads(memory)?;
        Ok(threads
            .iter()
            .map(|thread| thread.thread_id)
            .filter(|pointer| *pointer != 0)
            .collect())
    }

    fn look(&self, memory: &impl ProcessMemory, native_thread_ids: &[u32]) -> Result<Validation, PythonError> {
        let threads = self.lists.threads(memory)?;
        let mut states: Vec<u64> = threads.iter().map(|thread| thread.state).collect();
        states.sort_unstable();
        let is_listed = |state: u64| states.binary_search(&state).is_ok();
        // Several interpreters may share a thread, which then has the state of one of them.
        let leads_to_state = |thread: &&Listed| self.way.follow(memory, thread.thread_id).is_some_and(is_listed);
        let begun = threads.iter().filter(|thread| thread.thread_id != 0);
        let (found, other): (Vec<&Listed>, Vec<&Listed>) = begun.partition(leads_to_state);
        // Thread states may outlive their threads.
        if found.is_empty() || other.len() > found.len() {
            return Err(PythonError::ThreadsDiffer {
                threads: threads.len() as u32,
                found: found.len() as u32,
                other: other.len() as u32,
            });
        }
        let is_own = |id: u64| u32::try_from(id).is_ok_and(|id| native_thread_ids.contains(&id));
        let named = found
            .iter()
            .filter(|thread| thread.native_thread_id.is_some_and(is_own))
            .count();
        Ok(Validation {
            threads: threads.len() as u32,
            found: found.len() as u32,
            named: named as u32,
            stacks: self.look_at_stacks(memory, &found)?,
        })
    }

    fn look_at_stacks(&self, memory: &impl ProcessMemory, threads: &[&Listed]) -> Result<u32, PythonError> {
        let mut whole = 0;
        let mut wrong = None;
        for thread in threads.iter().take(MAX_STACKS) {
            match self.look_at_stack(memory, thread.thread_id) {
                Ok(true) => whole += 1,
                Ok(false) => {}
                Err(what) => wrong = Some(what),
            }
        }
        let threads = threads.len() as u32;
        match (whole, wrong) {
            (0, Some(what)) => Err(PythonError::StacksDiffer { threads, what }),
            (0, None) => Err(PythonError::Idle { threads }),
            _ => Ok(whole),
        }
    }

    /// Whether there is a stack, and it is one.
    fn look_at_stack(&self, memory: &impl ProcessMemory, thread_pointer: u64) -> Result<bool, &'static str> {
        let stack = self.walk_stack(memory, thread_pointer);
        match stack.stop {
            PythonStop::Whole => {}
            PythonStop::DepthLimit if stack.entries.len() >= MAX_PYTHON_FRAMES => {}
            stop => return Err(stop.name()),
        }
        let frames = stack.entries.iter().filter(|entry| entry.instruction != ANCHOR);
        if frames.clone().count() == 0 {
            return Ok(false);
        }
        let is_anchored = self.walk.boundary != boundary::UNANCHORED;
        let ends_anchored = stack.entries.last().is_some_and(|entry| entry.instruction == ANCHOR);
        if is_anchored && stack.stop == PythonStop::Whole && !ends_anchored {
            return Err("the outermost frame was entered from nowhere");
        }
        for anchor in stack.entries.iter().filter(|entry| entry.instruction == ANCHOR) {
            self.look_at_anchor(memory, anchor.address)?;
        }
        if !begins(frames.clone().map(|frame| frame.instruction)) {
            return Err("functions call others before they begin");
        }
        let mut has_lines = false;
        for frame in frames.take(MAX_CODES) {
            has_lines |= self.look_at_code(memory, frame)?;
        }
        // Code that was generated may have any table.
        match has_lines {
            true => Ok(true),
            false => Err("no line table is as long as its function"),
        }
    }

    /// A frame of the evaluation loop has an owner that there is, and runs no code of its own.
    fn look_at_anchor(&self, memory: &impl ProcessMemory, frame: u64) -> Result<(), &'static str> {
        if self.walk.boundary != boundary::OWNER {
            return Ok(());
        }
        let unreadable = "a frame of the evaluation loop cannot be read";
        let at = |offset: u32| frame.wrapping_add(u64::from(offset));
        let [owner] = memory.array(at(self.walk.frame_boundary)).ok_or(unreadable)?;
        if !OWNERS_OF_LOOP.contains(&owner) {
            return Err("a frame has an owner that there is not");
        }
        // Until then it runs a code object that stands for it.
        if self.version.minor < FIRST_WITHOUT_TRAMPOLINE {
            return Ok(());
        }
        let code = memory.word(at(self.walk.frame_code)).ok_or(unreadable)?;
        let object = code & !u64::from(self.walk.code_tag_mask);
        let kind = memory.word(object.wrapping_add(u64::from(self.walk.object_type)));
        match kind == Some(self.walk.code_type) {
            true => Err("a frame of the evaluation loop has code"),
            false => Ok(()),
        }
    }

    /// Whether the code object's lines are as long as itself.
    fn look_at_code(&self, memory: &impl ProcessMemory, frame: &PythonEntry) -> Result<bool, &'static str> {
        let Ok(code) = self.read_code(memory, frame.address, frame.check) else {
            return Err("a code object cannot be read");
        };
        // Before its first instruction a frame may stand.
        match u32::try_from(frame.instruction).is_ok_and(|offset| offset >= code.length) {
            true => Err("an instruction lies beyond its function"),
            false => Ok(code.has_whole_lines()),
        }
    }
}

/// Whether instructions of a stack, innermost first, may be ones: the innermost function may be about to begin, those that
/// called it have begun; and what is called has been loaded before, so that not all are at their first instruction.
fn begins(instructions: impl Iterator<Item = i32> + Clone) -> bool {
    instructions.clone().skip(1).all(|instruction| instruction >= 0) && instructions.into_iter().any(|at| at > 0)
}

/// What the walker reads from, on this side.
struct Target<'memory, M> {
    memory: &'memory M,
    buffer: [u64; BUFFER_WORDS],
    entries: Vec<PythonEntry>,
}

impl<M: ProcessMemory> PythonTarget for Target<'_, M> {
    fn read(&self, runtime_address: u64) -> Option<u64> {
        self.memory.word(runtime_address)
    }

    fn fill(&mut self, runtime_address: u64, length: u32) -> bool {
        let mut bytes = [0; MAX_CODE_BYTES];
        let Some(wanted) = bytes.get_mut(..length as usize) else {
            return false;
        };
        let is_read = self.memory.read(runtime_address, wanted);
        for (index, word) in self.buffer.iter_mut().enumerate() {
            *word = word_at(&bytes, index as u32 * 8).unwrap_or(0);
        }
        is_read
    }

    fn word(&self, index: u32) -> u64 {
        self.buffer.get(index as usize).copied().unwrap_or(0)
    }

    fn push(&mut self, index: u32, entry: PythonEntry) {
        // The walker numbers entries as they come.
        if self.entries.len() == index as usize && self.entries.len() < MAX_PYTHON_ENTRIES {
            self.entries.push(entry);
        }
    }
}
