//! The interpreter of one process, held against the process itself.
//!
//! In: what the object of an interpreter says, and where a process has it mapped. Out: an [`Interpreter`] by which the walker
//! walks Python stacks and their code is read, or the reason why there is none.

use std::{ops::Range, sync::Arc};

use profiler_common::python::boundary;
use profiler_unwinding::python::{InterpreterObject, Layout, Libc, PythonError};

use super::{
    jobs::Failure,
    memory::TargetMemory,
    reader::{does_pass, scan_failure},
    scan::ProcFs,
};
use crate::{kernel::records::Pid, stacks::merge::Placement};

/// An interpreter as a process has it mapped.
#[derive(Clone, Debug)]
pub(super) struct MappedInterpreter {
    pub(super) object: Arc<InterpreterObject>,
    /// Base name of the object.
    pub(super) name: Arc<str>,
    /// Runtime address minus link address, wrapping.
    pub(super) bias: u64,
    /// What it may run on, the likelier first.
    pub(super) libcs: Vec<Libc>,
}

/// The interpreter of a process and of its forks.
#[derive(Debug)]
pub(crate) struct Interpreter {
    /// Where the process keeps its stacks.
    pub(crate) layout: Layout,
    /// Tells it from other interpreters: forks share it, other processes do not.
    pub(crate) family: u64,
    /// Base name of the object that holds it.
    pub(crate) object: Arc<str>,
    /// Runtime addresses of the evaluation loop, where frames are placed by them.
    loops: Vec<Range<u64>>,
}

impl Interpreter {
    /// How its frames are placed among native ones.
    pub(crate) fn placement(&self) -> Placement<'_> {
        match self.layout.walk.boundary {
            boundary::UNANCHORED => Placement::EvaluationLoops(&self.loops),
            _ => Placement::Anchors,
        }
    }
}

/// When a process that is not fit is worth another look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// Its interpreter is not one that can be read.
    Never,
    /// It is starting, or changed while it was looked at.
    Soon,
    /// It runs no Python code, and may at any time.
    WhenItRuns,
}

/// Why the layout of an interpreter is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unfit {
    pub(super) reason: String,
    pub(super) again: Again,
}

impl From<Failure> for Unfit {
    fn from(failure: Failure) -> Self {
        Self {
            reason: failure.reason,
            again: if failure.passes { Again::Soon } else { Again::Never },
        }
    }
}

impl From<String> for Unfit {
    fn from(reason: String) -> Self {
        Failure::from(reason).into()
    }
}

impl From<PythonError> for Unfit {
    fn from(error: PythonError) -> Self {
        Self {
            reason: error.to_string(),
            again: match error {
                error if error.is_idle() => Again::WhenItRuns,
                error if error.is_transient() => Again::Soon,
                _ => Again::Never,
            },
        }
    }
}

/// Makes the layout of a process and holds it against the process. `family` names the result.
pub(super) fn inspect(
    proc: &ProcFs,
    pid: Pid,
    mapped: &MappedInterpreter,
    family: u64,
) -> Result<Arc<Interpreter>, Unfit> {
    let memory = TargetMemory::open(proc, pid).map_err(|reason| Failure {
        passes: does_pass(&reason),
        reason: format!("its memory cannot be opened: {reason}"),
    })?;
    let threads = proc.own_thread_ids(pid).map_err(|error| scan_failure(&error))?;
    let object = &mapped.object;
    let mut refused = PythonError::NotRunning;
    for libc in &mapped.libcs {
        let layout = object.layout(mapped.bias, *libc, &memory);
        match layout.and_then(|layout| layout.validate(&memory, &threads).map(|_| layout)) {
            Ok(layout) => {
                let moved =
                    |range: &Range<u64>| range.start.wrapping_add(mapped.bias)..range.end.wrapping_add(mapped.bias);
                return Ok(Arc::new(Interpreter {
                    layout,
                    family,
                    object: Arc::clone(&mapped.name),
                    loops: object.eval_ranges.iter().map(moved).collect(),
                }));
            }
            Err(error) => refused = error,
        }
    }
    Err(refused.into())
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        io::{BufRead as _, BufReader},
        process::{Child, Command, Stdio},
        time::{Duration, Instant},
    };

    use object::ReadCache;
    use profiler_common::python::{ANCHOR, PythonEntry};
    use profiler_unwinding::Segments;

    use super::*;
    use crate::stacks::codes::{CodeGap, PythonCodes};

    /// A sleeping Python program, ended when it is dropped.
    struct Sleeper(Child);

    impl Drop for Sleeper {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    const PROGRAM: &str = "\
import time
class Shop:
    def sell(self):
        print('ready', flush=True); wait()
def wait():
    while True:
        time.sleep(60)
Shop().sell()
";

    /// The program and the interpreter as it has it mapped; `None` on a host without one that is linked statically.
    fn start() -> Option<(Sleeper, Pid, MappedInterpreter)> {
        let interpreter = "/usr/bin/python3";
        let Ok(file) = File::open(interpreter) else {
            println!("skipped: there is no {interpreter}");
            return None;
        };
        let cache = ReadCache::new(file);
        let Some(object) = InterpreterObject::read(&cache).unwrap() else {
            println!("skipped: {interpreter} loads its interpreter from a library");
            return None;
        };
        let child = Command::new(interpreter)
            .args(["-c", PROGRAM])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut sleeper = Sleeper(child);
        // While it imports, it has other stacks of as many frames.
        let mut said = String::new();
        let output = sleeper.0.stdout.as_mut().unwrap();
        BufReader::new(output).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n");
        let pid = Pid(sleeper.0.id());
        let program = fs::canonicalize(interpreter).unwrap();
        let segments = Segments::parse(&cache).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            assert!(Instant::now() < deadline, "it does not execute its program");
            let maps = ProcFs::new("/proc").maps(pid).unwrap();
            let mut records = maps.executable.iter();
            let Some(record) = records.find(|record| record.path == program.as_os_str().as_encoded_bytes()) else {
                continue;
            };
            let mapped = MappedInterpreter {
                libcs: object.libc.map_or_else(Vec::new, |libc| vec![libc]),
                object: Arc::new(object),
                name: "python3".into(),
                bias: segments.bias(record.start, record.file_offset).unwrap(),
            };
            return Some((sleeper, pid, mapped));
        }
    }

    fn inspected(pid: Pid, mapped: &MappedInterpreter) -> Arc<Interpreter> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match inspect(&ProcFs::new("/proc"), pid, mapped, 1) {
                Ok(interpreter) => return interpreter,
                // It is only starting.
                Err(unfit) => assert!(unfit.again != Again::Never && Instant::now() < deadline, "{unfit:?}"),
            }
        }
    }

    /// Code objects of the only stack, once the program sleeps.
    fn stack(pid: Pid, interpreter: &Interpreter) -> Vec<PythonEntry> {
        let memory = TargetMemory::open(&ProcFs::new("/proc"), pid).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut before = Vec::new();
        loop {
            let pointers = interpreter.layout.thread_pointers(&memory).unwrap();
            let walked = interpreter.layout.walk_stack(&memory, pointers[0]);
            let frames = walked.entries.iter().filter(|entry| entry.instruction != ANCHOR);
            let frames: Vec<PythonEntry> = frames.copied().collect();
            if frames.len() == 3 && frames == before {
                return frames;
            }
            before = frames;
            assert!(Instant::now() < deadline, "{walked:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn a_program_is_walked_and_its_functions_are_named() {
        let Some((sleeper, pid, mapped)) = start() else { return };
        let interpreter = inspected(pid, &mapped);
        let stack = stack(pid, &interpreter);
        let mut codes = PythonCodes::start(ProcFs::new("/proc")).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut found = Vec::new();
        let mut kept = Vec::new();
        for entry in &stack {
            let code = codes.find(pid, &interpreter, entry);
            let read = code.wait(deadline).unwrap().as_ref().unwrap();
            found.push((read.name.to_string(), read.line(entry.instruction)));
            kept.push(code);
        }
        let expected = [("wait", 7), ("sell", 4), ("<module>", 8)];
        assert_eq!(found, expected.map(|(name, line)| (name.to_owned(), Some(line))));
        assert!(codes.memory_bytes() > 0);
        // Another object than was sampled is not given its name.
        let other = PythonEntry {
            check: stack[0].check ^ 2,
            ..stack[0]
        };
        let code = codes.find(pid, &interpreter, &other);
        assert!(matches!(code.wait(deadline), Some(Err(CodeGap::Gone))));
        // Names outlive the process; what was not read then has none.
        drop(sleeper);
        let again = codes.find(pid, &interpreter, &stack[0]);
        assert!(Arc::ptr_eq(&again, &kept[0]));
        let late = PythonEntry {
            address: stack[0].address + 8,
            ..stack[0]
        };
        let code = codes.find(pid, &interpreter, &late);
        assert!(matches!(code.wait(deadline), Some(Err(CodeGap::Unreadable))));
    }

    #[test]
    fn a_wrong_place_is_refused() {
        let Some((_sleeper, pid, mapped)) = start() else { return };
        inspected(pid, &mapped);
        let elsewhere = MappedInterpreter {
            bias: mapped.bias.wrapping_add(0x1000),
            ..mapped
        };
        let failure = inspect(&ProcFs::new("/proc"), pid, &elsewhere, 1).unwrap_err();
        assert!(!failure.reason.is_empty());
    }
}
