//! The walker of Python stacks on interpreters made by hand: each kind of frames, each way to end.

use std::collections::BTreeMap;

use profiler_common::{
    cpu::python_flags::{GIL_KNOWN, HAS_GIL},
    python::{
        ANCHOR, MAX_CODE_BYTES, MAX_FRAME_BYTES, MAX_PYTHON_ENTRIES, MAX_PYTHON_FRAMES, PythonEntry, PythonLayout,
        PythonStop, boundary, instruction, top_frame,
    },
    python_walk::{MAX_PYTHON_STEPS, PythonTarget, PythonWalk, begin, step},
};

const THREAD_POINTER: u64 = 0x7000_0000;
const STATE: u64 = 0x10_0000;
const FRAMES: u64 = 0x20_0000;
const CODE: u64 = 0x30_0000;
const CODE_TYPE: u64 = 0x40_0000;
const GIL: u64 = 0x50_0000;
/// The C stack, where anchors lie.
const STACK: u64 = 0x7fff_0000_0000;

/// Of the made-up structures.
const PREVIOUS: u32 = 8;
const EXECUTABLE: u32 = 0;
const INSTRUCTION: u32 = 56;
const MARK: u32 = 70;
const BYTECODE_INDEX: u32 = 76;
const BYTECODE: u32 = 200;
const THREAD_BYTECODES: u32 = 208;
const FRAME_SIZE: u64 = 0x100;
const CODE_SIZE: u64 = 0x400;

/// A process: memory in words, and the walker's buffer.
#[derive(Clone, Debug, Default)]
struct Process {
    memory: BTreeMap<u64, u64>,
    buffer: [u64; MAX_CODE_BYTES / 8],
    entries: Vec<PythonEntry>,
}

impl PythonTarget for Process {
    fn read(&self, runtime_address: u64) -> Option<u64> {
        self.memory.get(&runtime_address).copied()
    }
    fn fill(&mut self, runtime_address: u64, length: u32) -> bool {
        assert!(length as usize <= MAX_CODE_BYTES && length.is_multiple_of(8));
        for word in 0..u64::from(length) / 8 {
            let Some(value) = self.read(runtime_address.wrapping_add(8 * word)) else {
                return false;
            };
            self.buffer[word as usize] = value;
        }
        true
    }
    fn word(&self, index: u32) -> u64 {
        self.buffer.get(index as usize).copied().unwrap_or_default()
    }
    fn push(&mut self, index: u32, entry: PythonEntry) {
        assert_eq!(index as usize, self.entries.len(), "entries are pushed in order");
        self.entries.push(entry);
    }
}

impl Process {
    /// The thread state is known to the thread pointer; the code objects are there.
    fn new() -> Self {
        let mut process = Self::default();
        process.set(THREAD_POINTER + 16, STATE);
        for word in 0..64 {
            process.set(STATE + 8 * word, 0);
        }
        for number in 0..4 {
            for word in 0..CODE_SIZE / 8 {
                process.set(code(number) + 8 * word, number << 32 | word);
            }
            process.set(code(number) + 8, CODE_TYPE);
        }
        process
    }

    fn set(&mut self, address: u64, value: u64) {
        assert_eq!(address % 8, 0);
        self.memory.insert(address, value);
    }

    /// A byte or a half word in a word that is there.
    fn set_bits(&mut self, address: u64, bits: u32, value: u64) {
        let shift = (address & 7) * 8;
        let word = self.memory.entry(address & !7).or_default();
        *word = *word & !(((1 << bits) - 1) << shift) | value << shift;
    }

    /// A frame of a function at an instruction, called from another frame.
    fn frame(&mut self, address: u64, executable: u64, position: u64, previous: u64) {
        for word in 0..FRAME_SIZE / 8 {
            self.set(address + 8 * word, 0);
        }
        self.set(address + u64::from(EXECUTABLE), executable);
        self.set(address + u64::from(INSTRUCTION), position);
        self.set(address + u64::from(PREVIOUS), previous);
    }

    fn mark(&mut self, frame: u64, mark: u64) {
        self.set_bits(frame + u64::from(MARK), 8, mark);
    }

    /// What a walk finds: frames as the number of their code and their instruction, anchors as their address.
    fn walk(&mut self, layout: &PythonLayout) -> (Vec<Found>, PythonStop, u32) {
        let mut walk = PythonWalk::default();
        if begin(&mut walk, layout, self, THREAD_POINTER) {
            let mut steps = 1;
            while step(&mut walk, layout, self) {
                steps += 1;
                if steps > MAX_PYTHON_STEPS {
                    break;
                }
            }
        }
        let entries = std::mem::take(&mut self.entries);
        assert_eq!(walk.entries as usize, entries.len());
        assert!(entries.len() <= MAX_PYTHON_ENTRIES && walk.frames as usize <= MAX_PYTHON_FRAMES);
        let frames = entries.iter().filter(|entry| entry.instruction != ANCHOR);
        assert_eq!(walk.frames as usize, frames.count());
        let found = entries.iter().map(|entry| match entry.instruction {
            ANCHOR => Found::Anchor(entry.address),
            at => Found::Frame((entry.address.wrapping_sub(CODE)) / CODE_SIZE, at, entry.check != 0),
        });
        let stop = PythonStop::from_number(walk.stop as u8).expect("a known reason");
        (found.collect(), stop, walk.flags)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// Number of the code, instruction, whether the code could be read.
    Frame(u64, i32, bool),
    Anchor(u64),
}

use Found::{Anchor, Frame};

fn code(number: u64) -> u64 {
    CODE + number * CODE_SIZE
}

fn frame(number: u64) -> u64 {
    FRAMES + number * FRAME_SIZE
}

/// Bytecode of a function at a distance in bytes.
fn at(number: u64, bytes: u64) -> u64 {
    code(number) + u64::from(BYTECODE) + bytes
}

/// Frames that are found by the thread state, whose loops are frames themselves: as 3.13 has them.
fn newest() -> PythonLayout {
    PythonLayout {
        thread_state: [16, 0, 0],
        code_type: CODE_TYPE,
        thread_state_reads: 1,
        top_frame: top_frame::DIRECT,
        thread_frame: 72,
        thread_cframe: 56,
        cframe_frame: 8,
        cframe_previous: 16,
        frame_bytes: 80,
        frame_previous: PREVIOUS,
        frame_code: EXECUTABLE,
        frame_instruction: INSTRUCTION,
        instruction: instruction::POINTER,
        frame_boundary: MARK,
        boundary: boundary::OWNER,
        object_type: 8,
        code_bytes: 144,
        code_bytecode: BYTECODE,
        check_words: [48, 56, 64, 112, 120, 136],
        ..PythonLayout::default()
    }
}

/// Two loops: the inner runs functions 0 and 1, the outer function 2.
fn two_loops() -> Process {
    let mut process = Process::new();
    process.set(STATE + 72, frame(0));
    process.frame(frame(0), code(0), at(0, 10), frame(1));
    process.frame(frame(1), code(1), at(1, 20), STACK);
    process.frame(STACK, CODE_TYPE, 0, frame(2));
    process.mark(STACK, 3);
    process.frame(frame(2), code(2), at(2, 0), STACK + 0x1000);
    process.frame(STACK + 0x1000, 0, 0, 0);
    process.mark(STACK + 0x1000, 4);
    process
}

#[test]
fn loops_that_are_frames_themselves() {
    let (found, stop, flags) = two_loops().walk(&newest());
    let expected = [
        Frame(0, 10, true),
        Frame(1, 20, true),
        Anchor(STACK),
        Frame(2, 0, true),
        Anchor(STACK + 0x1000),
    ];
    assert_eq!((&found[..], stop, flags), (&expected[..], PythonStop::Whole, 0));
}

#[test]
fn a_frame_found_through_a_cframe() {
    let mut process = two_loops();
    process.set(STATE + 72, 0);
    process.set(STATE + 56, STACK + 0x800);
    process.set(STACK + 0x800 + 8, frame(1));
    let layout = PythonLayout {
        top_frame: top_frame::CFRAME,
        ..newest()
    };
    let (found, stop, _) = process.walk(&layout);
    assert_eq!(
        (found[0], found.len(), stop),
        (Frame(1, 20, true), 4, PythonStop::Whole)
    );
    // A thread that never entered a loop.
    process.set(STATE + 56, 0);
    assert_eq!(process.walk(&layout).1, PythonStop::Whole);
    process.set(STATE + 56, 0x1);
    assert_eq!(process.walk(&layout).1, PythonStop::ThreadStateUnreadable);
}

#[test]
fn the_entry_of_a_loop_is_marked_on_its_outermost_frame() {
    let mut process = Process::new();
    let (inner, outer) = (STACK + 0x100, STACK + 0x900);
    process.set(STATE + 56, inner);
    process.set(inner + 8, frame(0));
    process.set(inner + 16, outer);
    process.set(outer + 16, STATE + 40);
    process.frame(frame(0), code(0), at(0, 2), frame(1));
    process.frame(frame(1), code(1), at(1, 4), frame(2));
    process.mark(frame(1), 1);
    // Before its first instruction.
    process.frame(frame(2), code(2), at(2, 0) - 2, 0);
    process.mark(frame(2), 1);
    let layout = PythonLayout {
        top_frame: top_frame::CFRAME,
        boundary: boundary::IS_ENTRY,
        ..newest()
    };
    let expected = [
        Frame(0, 2, true),
        Frame(1, 4, true),
        Anchor(inner),
        Frame(2, -2, true),
        Anchor(outer),
    ];
    assert_eq!(process.walk(&layout).0, expected);
}

#[test]
fn each_frame_has_its_own_loop() {
    let mut process = Process::new();
    process.set(STATE + 72, frame(0));
    process.set(STATE + 56, STACK + 0x100);
    process.set(STACK + 0x100 + 16, STACK + 0x900);
    process.frame(frame(0), code(0), 0xffff_ffff, frame(1));
    process.frame(frame(1), code(1), 7, frame(2));
    process.frame(frame(2), code(2), 0x7fff_ffff, 0);
    let layout = PythonLayout {
        top_frame: top_frame::DIRECT_WITH_CFRAMES,
        boundary: boundary::EACH,
        instruction: instruction::UNITS,
        ..newest()
    };
    // The outermost has no cframe left, since the chain cannot be read.
    let expected = [
        Frame(0, -2, true),
        Anchor(STACK + 0x100),
        Frame(1, 14, true),
        Anchor(STACK + 0x900),
        Frame(2, -2, true),
    ];
    let (found, stop, _) = process.walk(&layout);
    assert_eq!((&found[..], stop), (&expected[..], PythonStop::Whole));
}

#[test]
fn the_oldest_have_no_anchors_and_count_bytes() {
    let mut process = Process::new();
    process.set(STATE + 72, frame(0));
    process.frame(frame(0), code(0), 0, frame(1));
    process.set_bits(frame(0) + 104, 32, 24);
    process.frame(frame(1), code(1), 0, 0);
    process.set_bits(frame(1) + 104, 32, 0xffff_ffff);
    let layout = PythonLayout {
        boundary: boundary::UNANCHORED,
        instruction: instruction::BYTES,
        frame_instruction: 104,
        frame_bytes: MAX_FRAME_BYTES as u32,
        ..newest()
    };
    assert_eq!(process.walk(&layout).0, [Frame(0, 24, true), Frame(1, -1, true)]);
}

#[test]
fn a_count_in_the_upper_half_of_a_word() {
    let mut process = Process::new();
    process.set(STATE + 72, frame(0));
    process.frame(frame(0), code(0), 0, 0);
    process.set_bits(frame(0) + 60, 32, 5);
    let layout = PythonLayout {
        boundary: boundary::UNANCHORED,
        instruction: instruction::BYTES,
        frame_instruction: 60,
        ..newest()
    };
    assert_eq!(process.walk(&layout).0, [Frame(0, 5, true)]);
}

#[test]
fn no_process_can_forge_an_anchor() {
    let anchor = u64::from(ANCHOR as u32);
    for (kind, position) in [
        (instruction::BYTES, anchor),
        (instruction::UNITS, anchor >> 1),
        (instruction::POINTER, at(0, anchor)),
        (instruction::POINTER, at(0, 0).wrapping_sub(anchor)),
    ] {
        let mut process = Process::new();
        process.set(STATE + 72, frame(0));
        process.frame(frame(0), code(0), position, 0);
        let layout = PythonLayout {
            boundary: boundary::UNANCHORED,
            instruction: kind,
            ..newest()
        };
        assert_eq!(process.walk(&layout).0, [Frame(0, -2, true)], "{kind}: {position:x}");
    }
}

#[test]
fn tags_of_the_code_pointer_are_taken_off() {
    let mut process = two_loops();
    process.frame(frame(0), code(0) | 1, at(0, 10), frame(1));
    assert_eq!(process.walk(&newest()).1, PythonStop::NotCode);
    let layout = PythonLayout {
        code_tag_mask: 3,
        ..newest()
    };
    let (found, stop, _) = process.walk(&layout);
    assert_eq!((found[0], stop), (Frame(0, 10, true), PythonStop::Whole));
}

#[test]
fn a_thread_may_run_a_copy_of_the_bytecode() {
    let mut process = two_loops();
    let copies = 0x60_0000;
    process.frame(frame(0), code(0), 0x61_0000 + 6, frame(1));
    process.set_bits(frame(0) + u64::from(BYTECODE_INDEX), 32, 2);
    process.set(code(0) + u64::from(THREAD_BYTECODES), copies);
    process.set(copies, 3);
    process.set(copies + 8 + 16, 0x61_0000);
    let layout = PythonLayout {
        frame_bytecode_index: BYTECODE_INDEX,
        code_thread_bytecodes: THREAD_BYTECODES,
        ..newest()
    };
    let (found, stop, _) = process.walk(&layout);
    assert_eq!((found[0], found[1]), (Frame(0, 6, true), Frame(1, 20, true)));
    assert_eq!(stop, PythonStop::Whole);
    // The index is beyond what there is: the instruction is not known, the function is.
    process.set(copies, 2);
    assert_eq!(process.walk(&layout).0[0], Frame(0, -2, true));
    process.memory.remove(&copies);
    assert_eq!(process.walk(&layout).0[0], Frame(0, -2, true));
}

#[test]
fn the_thread_state_is_found_in_up_to_three_reads() {
    let mut process = two_loops();
    process.set(THREAD_POINTER + 8, 0x80_0000);
    process.set(0x80_0020, 0x90_0000);
    process.set(0x90_0000 - 40, STATE);
    let layout = PythonLayout {
        thread_state: [8, 32, -40],
        thread_state_reads: 3,
        ..newest()
    };
    assert_eq!(process.walk(&layout).1, PythonStop::Whole);
    for (address, value) in [
        (0x80_0020, 0),
        (0x80_0020, u64::MAX),
        (0x90_0000 - 40, 0),
        (THREAD_POINTER + 8, 0),
    ] {
        let mut without = process.clone();
        without.set(address, value);
        assert_eq!(without.walk(&layout).1, PythonStop::NoThreadState, "{address:x}");
    }
    process.memory.remove(&0x80_0020);
    assert_eq!(process.walk(&layout).1, PythonStop::ThreadStateUnreadable);
}

#[test]
fn who_has_the_lock() {
    let mut process = two_loops();
    let alone = PythonLayout {
        gil_holder: GIL,
        ..newest()
    };
    assert_eq!(process.walk(&alone).2, 0, "it cannot be read");
    process.set(GIL, STATE);
    let (has, has_not) = (u32::from(GIL_KNOWN | HAS_GIL), u32::from(GIL_KNOWN));
    assert_eq!(process.walk(&alone).2, has);
    let with_flag = PythonLayout {
        gil_locked: GIL + 8,
        ..alone
    };
    assert_eq!(process.walk(&with_flag).2, 0, "the flag cannot be read");
    // What lies behind the flag is not part of it.
    process.set(GIL + 8, 1 << 32);
    assert_eq!(process.walk(&with_flag).2, has_not);
    process.set(GIL + 8, 1);
    assert_eq!(process.walk(&with_flag).2, has);
    process.set(GIL, STATE + 8);
    assert_eq!(process.walk(&with_flag).2, has_not);
}

#[test]
fn code_that_cannot_be_read_is_kept_and_what_is_none_ends_the_walk() {
    let mut process = two_loops();
    process.memory.remove(&(code(0) + 64));
    let (found, stop, _) = process.walk(&newest());
    assert_eq!((found[0], stop), (Frame(0, 10, false), PythonStop::Whole));
    process.set(code(1) + 8, CODE_TYPE + 8);
    let (found, stop, _) = process.walk(&newest());
    assert_eq!((found.len(), stop), (1, PythonStop::NotCode));
    process.memory.remove(&(frame(1) + 8));
    assert_eq!(process.walk(&newest()).1, PythonStop::FrameUnreadable);
    process.set(STATE + 72, frame(0) + 4);
    assert_eq!(process.walk(&newest()).1, PythonStop::FrameUnreadable);
}

#[test]
fn the_check_tells_code_objects_apart() {
    let checks = |process: &mut Process| {
        let mut walk = PythonWalk::default();
        assert!(begin(&mut walk, &newest(), process, THREAD_POINTER));
        assert!(step(&mut walk, &newest(), process));
        std::mem::take(&mut process.entries)[0].check
    };
    let mut process = two_loops();
    let before = checks(&mut process);
    for offset in [48, 56, 64, 112, 120, 136] {
        let mut other = two_loops();
        other.set(code(0) + offset, 1 << 60);
        assert_ne!(checks(&mut other), before, "{offset}");
    }
    // A count of references is no part of it.
    process.set(code(0), 99);
    assert_eq!(checks(&mut process), before);
}

#[test]
fn a_chain_without_end_is_cut() {
    let mut process = Process::new();
    process.set(STATE + 72, frame(0));
    process.frame(frame(0), code(0), at(0, 2), frame(0));
    let (found, stop, _) = process.walk(&newest());
    assert_eq!((found.len(), stop), (MAX_PYTHON_FRAMES, PythonStop::DepthLimit));
    process.mark(frame(0), 3);
    let (found, stop, _) = process.walk(&newest());
    assert_eq!((found.len(), stop), (MAX_PYTHON_ENTRIES - 1, PythonStop::DepthLimit));
    process.set(STATE + 56, STACK);
    process.set(STACK + 16, STACK);
    let layout = PythonLayout {
        top_frame: top_frame::DIRECT_WITH_CFRAMES,
        boundary: boundary::EACH,
        ..newest()
    };
    let (found, stop, _) = process.walk(&layout);
    assert_eq!((found.len(), stop), (MAX_PYTHON_ENTRIES, PythonStop::DepthLimit));
}

/// Memory that answers every read with something made up.
struct Garbage {
    seed: u64,
    buffer: [u64; MAX_CODE_BYTES / 8],
    entries: u32,
}

impl PythonTarget for Garbage {
    fn read(&self, runtime_address: u64) -> Option<u64> {
        let mixed = (runtime_address ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 60 != 0).then_some(if mixed >> 58 & 1 == 0 { mixed & 0xfff8 } else { mixed })
    }
    fn fill(&mut self, runtime_address: u64, length: u32) -> bool {
        for word in 0..u64::from(length).min(MAX_CODE_BYTES as u64) / 8 {
            let Some(value) = self.read(runtime_address.wrapping_add(8 * word)) else {
                return false;
            };
            self.buffer[word as usize] = value;
        }
        true
    }
    fn word(&self, index: u32) -> u64 {
        self.buffer.get(index as usize).copied().unwrap_or_default()
    }
    fn push(&mut self, index: u32, _entry: PythonEntry) {
        assert_eq!(index, self.entries);
        self.entries += 1;
    }
}

/// Numbers without a pattern (xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, end: u32) -> u32 {
        (self.next() % u64::from(end)) as u32
    }
    /// An offset that may lie beyond the buffer.
    fn offset(&mut self) -> u32 {
        self.below(MAX_CODE_BYTES as u32 + 40)
    }
    fn layout(&mut self) -> PythonLayout {
        PythonLayout {
            thread_state: [self.next() as i64, self.next() as i64, self.next() as i64],
            code_type: self.next() & 0xf8,
            gil_holder: self.next(),
            gil_locked: self.next(),
            thread_state_reads: self.below(5),
            top_frame: self.below(4),
            thread_frame: self.next() as u32,
            thread_cframe: self.next() as u32,
            cframe_frame: self.next() as u32,
            cframe_previous: self.next() as u32,
            frame_bytes: self.offset(),
            frame_previous: self.offset(),
            frame_code: self.offset(),
            frame_instruction: self.offset(),
            instruction: self.below(4),
            frame_boundary: self.offset(),
            boundary: self.below(5),
            frame_bytecode_index: self.offset(),
            code_tag_mask: self.next() as u32,
            object_type: self.offset(),
            code_bytes: self.offset(),
            code_bytecode: self.next() as u32,
            code_thread_bytecodes: self.next() as u32,
            check_words: [0; 6].map(|_| self.offset()),
            reserved: 0,
        }
    }
}

#[test]
fn no_memory_and_no_layout_break_the_bounds() {
    let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
    let mut deepest = 0;
    for _ in 0..20_000 {
        let layout = numbers.layout();
        let mut memory = Garbage {
            seed: numbers.next(),
            buffer: [0; MAX_CODE_BYTES / 8],
            entries: 0,
        };
        let mut walk = PythonWalk::default();
        let mut steps = 0;
        if begin(&mut walk, &layout, &memory, numbers.next()) {
            steps = 1;
            while step(&mut walk, &layout, &mut memory) {
                steps += 1;
            }
        }
        assert!(steps <= MAX_PYTHON_STEPS);
        assert!(memory.entries as usize <= MAX_PYTHON_ENTRIES && walk.entries == memory.entries);
        let stop = PythonStop::from_number(walk.stop as u8);
        assert!(stop.is_some_and(|stop| stop != PythonStop::NotPython));
        deepest = deepest.max(walk.entries);
    }
    assert!(deepest > 4, "the made-up memory is walked at all");
}
