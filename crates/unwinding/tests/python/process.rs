//! A running program with an interpreter: its memory, its threads, and the object that the interpreter is in.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use profiler_tests::not_run::skip;
use profiler_unwinding::Segments;
use profiler_unwinding::python::{InterpreterObject, Layout, Libc, ProcessMemory};

/// Most time that a program takes to be stopped, or to be fit.
const PATIENCE: Duration = Duration::from_secs(20);

/// The memory of a process.
#[derive(Debug)]
pub(crate) struct Memory(File);

impl ProcessMemory for Memory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        self.0.read_exact_at(buffer, address).is_ok()
    }
}

/// A process that runs an interpreter.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    pub(crate) memory: Memory,
    pub(crate) object: InterpreterObject,
    pub(crate) bias: u64,
    pub(crate) path: PathBuf,
}

impl Process {
    /// Finds the interpreter among the mappings, by content. `None`, with a note, where memory may not be read.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let memory = match File::open(format!("/proc/{pid}/mem")) {
            Ok(memory) => Memory(memory),
            Err(error) => {
                skip(&format!("the memory of other processes cannot be read: {error}"));
                return None;
            }
        };
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let mut seen = Vec::new();
        for line in maps.lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [range, rights, offset, _, _, path] = fields[..] else {
                continue;
            };
            if !rights.contains('x') || !path.starts_with('/') || seen.contains(&path) {
                continue;
            }
            seen.push(path);
            let file = fs::read(path).unwrap();
            let Some(object) = InterpreterObject::read(&*file).unwrap() else {
                continue;
            };
            let hex = |text| u64::from_str_radix(text, 16).unwrap();
            let start = hex(range.split('-').next().unwrap());
            let bias = Segments::parse(&*file).unwrap().bias(start, hex(offset)).unwrap();
            return Some(Self {
                pid,
                memory,
                object,
                bias,
                path: Path::new(path).to_path_buf(),
            });
        }
        panic!("no interpreter among {seen:?}");
    }

    pub(crate) fn libc(&self) -> Libc {
        self.object.libc.unwrap()
    }

    /// The layout, once the interpreter is fit for it.
    pub(crate) fn layout(&self) -> Layout {
        let start = Instant::now();
        loop {
            let layout = self.object.layout(self.bias, self.libc(), &self.memory);
            match layout.and_then(|layout| layout.validate(&self.memory, &self.threads()).map(|_| layout)) {
                Ok(layout) => return layout,
                Err(error) => assert!(error.is_transient() && start.elapsed() < PATIENCE, "{error}"),
            }
        }
    }

    pub(crate) fn threads(&self) -> Vec<u32> {
        fs::read_dir(format!("/proc/{}/task", self.pid))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
            .collect()
    }

    /// Stops all threads wherever they are, while `look` looks.
    pub(crate) fn stopped<T>(&self, look: impl FnOnce() -> T) -> T {
        let pid = Pid::from_raw(self.pid.cast_signed());
        kill(pid, Signal::SIGSTOP).unwrap();
        let start = Instant::now();
        while !self.threads().iter().all(|thread| self.is_stopped(*thread)) {
            assert!(start.elapsed() < PATIENCE, "{} does not stop", self.pid);
            std::thread::sleep(Duration::from_micros(200));
        }
        let seen = look();
        kill(pid, Signal::SIGCONT).unwrap();
        seen
    }

    fn is_stopped(&self, thread: u32) -> bool {
        let Ok(stat) = fs::read_to_string(format!("/proc/{}/task/{thread}/stat", self.pid)) else {
            // It ended meanwhile.
            return true;
        };
        // The name before it may hold anything.
        stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T"))
    }
}
