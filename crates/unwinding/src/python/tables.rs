//! Structures of the versions that do not state them: 3.8 to 3.12.
//!
//! Offsets do not vary between releases of one minor version, nor between x86-64 and AArch64, apart from those in the
//! runtime that lie behind a mutex of the C library. Those of AArch64, which nothing here reads yet:
//!
//! | | 3.8 | 3.9, 3.10 | 3.11 | 3.12 |
//! |---|---|---|---|---|
//! | `gilstate.autoTSSkey` | 1408 | 600 | 608 | 1544 |
//! | `gilstate.tstate_current` | 1384 | 584 | 592 | - |
//!
//! They are those of CPython's headers (`Include/internal/pycore_runtime.h`, `pycore_interp.h`, `pycore_frame.h`,
//! `Include/cpython/{pystate,code,frameobject,unicodeobject}.h`), as a compiler lays them out.

use super::error::PythonError;
use super::offsets::{
    Boundary, Bytecode, Code, Frame, Gil, Instruction, Interpreter, Object, Offsets, Text, Thread, TopFrame,
};
use super::version::Version;

/// Where the key of the thread state is in the runtime, also of the versions that state their other offsets (on AArch64
/// it is in the same place for 3.13 and 3.14). From 3.15 there is none.
pub(super) fn thread_key(minor: u8) -> Option<u32> {
    match minor {
        8 => Some(1392),
        9 | 10 => Some(584),
        11 => Some(592),
        12 => Some(1544),
        13 => Some(2160),
        14 => Some(2336),
        _ => None,
    }
}

/// Objects of builds with a GIL, in all versions.
pub(super) const OBJECT: Object = Object {
    kind: 8,
    size: 16,
    bytes: 32,
    members: 240,
};

pub(super) fn offsets(version: Version) -> Result<Offsets, PythonError> {
    let minor = version.minor;
    match minor {
        8..=10 => Ok(frame_objects(minor)),
        11 | 12 => Ok(interpreter_frames(minor)),
        _ => Err(PythonError::VersionUnsupported { version }),
    }
}

/// 3.8 to 3.10: frames are objects.
fn frame_objects(minor: u8) -> Offsets {
    let is_3_10 = minor == 10;
    let holder = if minor == 8 { 1368 } else { 568 };
    Offsets {
        interpreters_head: 32,
        thread_key: thread_key(minor),
        gil: Gil::Runtime { holder },
        interpreter: Interpreter {
            next: 0,
            threads_head: 8,
        },
        thread: Thread {
            next: 8,
            thread_id: 176,
            native_thread_id: None,
            top: match is_3_10 {
                true => TopFrame::DirectWithCFrames {
                    frame: 24,
                    cframe: 48,
                    previous: 8,
                },
                false => TopFrame::Direct { frame: 24 },
            },
        },
        frame: Frame {
            previous: 24,
            code: 32,
            instruction: if is_3_10 { 96 } else { 104 },
            instruction_kind: if is_3_10 {
                Instruction::Units
            } else {
                Instruction::Bytes
            },
            boundary: if is_3_10 { Boundary::Each } else { Boundary::Unanchored },
            bytecode_index: None,
            code_tag_mask: 0,
        },
        code: Code {
            argument_count: 16,
            first_line: 40,
            filename: 104,
            name: 112,
            qualified_name: None,
            line_table: 120,
            bytecode: Bytecode::Object(48),
            thread_bytecodes: None,
        },
        object: OBJECT,
        string: Text {
            length: 16,
            state: 32,
            ascii: 48,
            other: 72,
            kind_shift: 2,
        },
    }
}

/// 3.11 and 3.12: frames lie on a stack of their own.
fn interpreter_frames(minor: u8) -> Offsets {
    let is_3_12 = minor == 12;
    Offsets {
        interpreters_head: 40,
        thread_key: thread_key(minor),
        gil: match is_3_12 {
            true => Gil::Interpreter {
                lock: 384,
                holder: 8,
                locked: 16,
                is_optional: false,
            },
            false => Gil::Runtime { holder: 576 },
        },
        interpreter: Interpreter {
            next: 0,
            threads_head: if is_3_12 { 72 } else { 16 },
        },
        thread: Thread {
            next: 8,
            thread_id: if is_3_12 { 136 } else { 152 },
            native_thread_id: Some(if is_3_12 { 144 } else { 160 }),
            top: TopFrame::CFrame {
                cframe: 56,
                frame: if is_3_12 { 0 } else { 8 },
                previous: if is_3_12 { 8 } else { 16 },
            },
        },
        frame: Frame {
            previous: if is_3_12 { 8 } else { 48 },
            code: if is_3_12 { 0 } else { 32 },
            instruction: 56,
            instruction_kind: Instruction::Pointer,
            boundary: if is_3_12 {
                Boundary::Owner(70)
            } else {
                Boundary::IsEntry(68)
            },
            bytecode_index: None,
            code_tag_mask: 0,
        },
        code: Code {
            argument_count: if is_3_12 { 52 } else { 56 },
            first_line: if is_3_12 { 68 } else { 72 },
            filename: 112,
            name: 120,
            qualified_name: Some(128),
            line_table: 136,
            bytecode: Bytecode::Inline(if is_3_12 { 192 } else { 184 }),
            thread_bytecodes: None,
        },
        object: OBJECT,
        string: Text {
            length: 16,
            state: 32,
            ascii: if is_3_12 { 40 } else { 48 },
            other: if is_3_12 { 56 } else { 72 },
            kind_shift: 2,
        },
    }
}
