//! What must be refused: layouts with one wrong offset, held against each interpreter that is here.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::{Child, Stdio};

use profiler_tests::interpreters::{self, Interpreter};

use super::offsets::{Boundary, Bytecode, Offsets, TopFrame};
use super::{InterpreterObject, ProcessMemory, PythonError, Validation};
use crate::Segments;

const SCRIPT: &str = "import time
def outer():
    inner()
def inner():
    print('ready', flush=True)
    time.sleep(1000)
outer()";

struct Memory(File);

impl ProcessMemory for Memory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        self.0.read_exact_at(buffer, address).is_ok()
    }
}

/// An interpreter that sleeps, and is killed when dropped.
struct Sleeper {
    child: Child,
    memory: Memory,
    object: InterpreterObject,
    bias: u64,
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Sleeper {
    fn start(interpreter: &Interpreter) -> Option<Self> {
        let mut command = interpreter.command();
        command.args(["-c", SCRIPT]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        let pid = child.id();
        let Ok(memory) = File::open(format!("/proc/{pid}/mem")) else {
            println!("the memory of other processes cannot be read here");
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        };
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let (object, bias) = maps.lines().find_map(interpreter_of).unwrap();
        Some(Self {
            child,
            memory: Memory(memory),
            object,
            bias,
        })
    }

    fn validate(&self, object: &InterpreterObject) -> Result<Validation, PythonError> {
        let libc = object.libc.unwrap();
        let layout = object.layout(self.bias, libc, &self.memory)?;
        layout.validate(&self.memory, &[self.child.id()])
    }
}

/// The interpreter in a line of a process's mappings.
fn interpreter_of(line: &str) -> Option<(InterpreterObject, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [range, rights, offset, _, _, path] = fields[..] else {
        return None;
    };
    let file = rights.contains('x').then(|| fs::read(path).ok())??;
    let object = InterpreterObject::read(&*file).unwrap()?;
    let hex = |text| u64::from_str_radix(text, 16).unwrap();
    let start = hex(range.split('-').next()?);
    Some((object, Segments::parse(&*file).unwrap().bias(start, hex(offset))?))
}

type Damage = fn(&mut Offsets);

/// One wrong offset each. All of them are read, so each must be noticed.
const DAMAGES: [(&str, Damage); 26] = [
    ("list of interpreters", |offsets| offsets.interpreters_head += 16),
    ("list of threads", |offsets| offsets.interpreter.threads_head -= 8),
    ("thread's id", |offsets| offsets.thread.thread_id += 8),
    ("thread's id, before", |offsets| offsets.thread.thread_id -= 8),
    ("current frame", |offsets| match &mut offsets.thread.top {
        TopFrame::Direct { frame } | TopFrame::DirectWithCFrames { frame, .. } => *frame += 8,
        TopFrame::CFrame { cframe, .. } => *cframe += 8,
    }),
    ("current frame, before", |offsets| match &mut offsets.thread.top {
        TopFrame::Direct { frame } | TopFrame::DirectWithCFrames { frame, .. } => *frame -= 8,
        TopFrame::CFrame { cframe, .. } => *cframe -= 8,
    }),
    ("caller", |offsets| offsets.frame.previous += 8),
    ("caller, as its own code", |offsets| {
        offsets.frame.previous = offsets.frame.code
    }),
    ("code", |offsets| offsets.frame.code += 8),
    ("code, as its caller", |offsets| {
        offsets.frame.code = offsets.frame.previous
    }),
    ("instruction", |offsets| offsets.frame.instruction += 8),
    ("instruction, before", |offsets| offsets.frame.instruction -= 8),
    ("boundary", |offsets| match &mut offsets.frame.boundary {
        Boundary::IsEntry(at) | Boundary::Owner(at) => *at += 1,
        // There is none to be wrong.
        Boundary::Each | Boundary::Unanchored => offsets.object.kind += 8,
    }),
    ("boundary, before", |offsets| match &mut offsets.frame.boundary {
        Boundary::IsEntry(at) | Boundary::Owner(at) => *at -= 2,
        Boundary::Each | Boundary::Unanchored => offsets.object.kind += 8,
    }),
    ("co_argcount", |offsets| offsets.code.argument_count += 4),
    ("co_firstlineno", |offsets| offsets.code.first_line += 4),
    ("co_filename", |offsets| offsets.code.filename += 8),
    ("co_name", |offsets| offsets.code.name -= 8),
    ("co_qualname", |offsets| match &mut offsets.code.qualified_name {
        Some(at) => *at -= 8,
        None => offsets.code.name -= 8,
    }),
    ("line table", |offsets| offsets.code.line_table += 8),
    ("bytecode", |offsets| match &mut offsets.code.bytecode {
        Bytecode::Object(at) => *at += 8,
        Bytecode::Inline(at) => *at += 1024,
    }),
    ("type", |offsets| offsets.object.kind += 8),
    ("size", |offsets| offsets.object.size -= 8),
    ("bytes", |offsets| match &mut offsets.frame.boundary {
        // Tables of lines that do not say how long they are.
        Boundary::Unanchored => offsets.object.kind += 8,
        _ => offsets.object.bytes += 8,
    }),
    ("string's length", |offsets| offsets.string.length += 8),
    ("string's characters", |offsets| offsets.string.ascii += 8),
];

#[test]
fn a_wrong_offset_is_refused() {
    let found = interpreters::all();
    let mut accepted = Vec::new();
    for interpreter in &found.interpreters {
        let Some(sleeper) = Sleeper::start(interpreter) else {
            return;
        };
        let validation = sleeper.validate(&sleeper.object).unwrap();
        assert_eq!((validation.found, validation.stacks), (1, 1), "{}", interpreter.name);
        for (what, damage) in DAMAGES {
            let mut object = sleeper.object.clone();
            damage(&mut object.offsets);
            if let Ok(validation) = sleeper.validate(&object) {
                accepted.push((interpreter.name.clone(), what, validation));
            }
        }
        refuse_other_ways(&sleeper, interpreter);
    }
    assert_eq!(accepted, []);
}

/// Ways to the thread state, and objects, that are not this process's.
fn refuse_other_ways(sleeper: &Sleeper, interpreter: &Interpreter) {
    // Where there is no key, a variable of the thread may lie in the same place on every C library.
    if let Some(key) = sleeper.object.offsets.thread_key {
        let mut object = sleeper.object.clone();
        object.offsets.thread_key = Some(key + 8);
        let refused = sleeper.validate(&object);
        assert!(refused.is_err(), "{}, key: {refused:?}", interpreter.name);
        let mut object = sleeper.object.clone();
        object.libc = Some(super::Libc::Musl);
        let refused = sleeper.validate(&object);
        assert!(refused.is_err(), "{}, C library: {refused:?}", interpreter.name);
    }
    let mut object = sleeper.object.clone();
    object.runtime += 8;
    let refused = sleeper.validate(&object);
    assert!(refused.is_err(), "{}, runtime: {refused:?}", interpreter.name);
}
