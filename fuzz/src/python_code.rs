//! Any bytes as the memory of a running Python interpreter: its threads, frames, code objects, strings and line tables.
//!
//! The first byte chooses the version; the last eight are an address and what else is asked for.

use std::sync::OnceLock;

use profiler_common::python::{ANCHOR, MAX_PYTHON_ENTRIES};
use profiler_unwinding::python::{InterpreterObject, Libc};

use crate::made::{self, MadeUp};

/// What one code object may take in memory: its names, of four bytes a character, and its lines.
const MAX_CODE_MEMORY: usize = (2 * 1025 + 4097) * 4 + (16 << 20);

/// The first version that is known of Python 3.
const FIRST_MINOR: u8 = 8;
/// How many there are.
const VERSIONS: usize = 8;

/// What an input is the memory of. It is made once: that takes longer than an input.
struct Interpreter {
    file: Vec<u8>,
    object: InterpreterObject,
    words: Vec<(u64, u64)>,
}

fn interpreter(choice: u8) -> &'static Interpreter {
    static INTERPRETERS: [OnceLock<Interpreter>; VERSIONS] = [const { OnceLock::new() }; VERSIONS];
    let index = usize::from(choice) % VERSIONS;
    INTERPRETERS[index].get_or_init(|| {
        let minor = FIRST_MINOR + index as u8;
        let file = made::interpreter(minor);
        Interpreter {
            object: InterpreterObject::read(&*file).unwrap().unwrap(),
            words: made::running(minor),
            file,
        }
    })
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let [choice, bytes @ ..] = data else { return };
    let Some(tail) = bytes.last_chunk() else { return };
    let tail = u64::from_le_bytes(*tail);
    let Interpreter { file, object, words } = interpreter(*choice);
    let memory = MadeUp {
        object: file,
        bytes,
        words,
    };
    let layout = object.layout(0, Libc::Glibc, &memory).unwrap();
    // Either way: memory is anything.
    assert!(
        layout
            .validate(&memory, &[1])
            .is_ok_and(|validation| validation.stacks > 0)
            || layout.validate(&memory, &[1]).is_err()
    );
    let asked = [tail & 0xff_fff8, 0x1_0000 + (tail >> 32 & 0xfff8)];
    for address in asked {
        let stack = layout.walk_stack(&memory, address);
        assert!(stack.entries.len() <= MAX_PYTHON_ENTRIES);
        for entry in stack.entries.iter().filter(|entry| entry.instruction != ANCHOR).take(4) {
            read(&layout, &memory, entry.address, entry.check, entry.instruction);
        }
        read(&layout, &memory, address, 0, (tail >> 48) as i32 - 2);
    }
}

fn read(layout: &profiler_unwinding::python::Layout, memory: &MadeUp<'_>, address: u64, check: u32, instruction: i32) {
    let Ok(code) = layout.read_code(memory, address, check) else {
        return;
    };
    assert!(code.memory_bytes() <= MAX_CODE_MEMORY);
    assert!(!code.qualified_name.contains('\0') && !code.filename.contains('\0'));
    assert_ne!(code.line(instruction), Some(0));
    assert_eq!(code.line(-1).unwrap_or(0), code.first_line);
}
