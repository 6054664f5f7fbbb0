//! A running program that tests stop wherever it happens to be: its registers, memory and mappings.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use profiler_tests::not_run::skip;

const MEMORY_PAGE: u64 = 4096;

/// A child that is traced and killed when dropped.
#[derive(Debug)]
pub(crate) struct Tracee {
    child: Child,
    pid: Pid,
    memory: File,
    /// What was read since the last stop.
    pages: RefCell<HashMap<u64, Option<Box<[u8]>>>>,
    stopped: bool,
}

/// An executable mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CodeMapping {
    pub(crate) runtime: Range<u64>,
    pub(crate) file_offset: u64,
    pub(crate) path: String,
}

impl Tracee {
    /// Starts a program that prints a line when it is ready. `None`, with a note, where tracing is not allowed.
    pub(crate) fn start(command: &mut Command) -> Option<Self> {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        let pid = Pid::from_raw(child.id().cast_signed());
        let memory = File::open(format!("/proc/{pid}/mem")).and_then(|memory| {
            match ptrace::seize(pid, ptrace::Options::empty()) {
                Ok(()) => Ok(memory),
                Err(error) => Err(error.into()),
            }
        });
        match memory {
            Ok(memory) => Some(Self {
                child,
                pid,
                memory,
                pages: RefCell::default(),
                stopped: false,
            }),
            Err(error) => {
                skip(&format!("{command:?} may not be traced: {error}"));
                child.kill().unwrap();
                child.wait().unwrap();
                None
            }
        }
    }

    /// Lets the program run for a while and stops it.
    pub(crate) fn run_for(&mut self, time: Duration) {
        if self.stopped {
            ptrace::cont(self.pid, None).unwrap();
        }
        std::thread::sleep(time);
        ptrace::interrupt(self.pid).unwrap();
        loop {
            match waitpid(self.pid, None).unwrap() {
                WaitStatus::PtraceEvent(..) => break,
                WaitStatus::Stopped(_, signal) => ptrace::cont(self.pid, Some(signal)).unwrap(),
                other => panic!("the program ended: {other:?}"),
            }
        }
        self.stopped = true;
        self.pages.borrow_mut().clear();
    }

    /// Executes one instruction, or enters a signal handler.
    pub(crate) fn step(&mut self) {
        let mut signal = None;
        loop {
            ptrace::step(self.pid, signal).unwrap();
            match waitpid(self.pid, None).unwrap() {
                WaitStatus::Stopped(_, Signal::SIGTRAP) => break,
                WaitStatus::Stopped(_, other) => signal = Some(other),
                WaitStatus::PtraceEvent(..) => signal = None,
                other => panic!("the program ended: {other:?}"),
            }
        }
        self.pages.borrow_mut().clear();
    }

    /// Registers in the order of their DWARF numbers, with the instruction pointer as number 16.
    pub(crate) fn registers(&self) -> [u64; 17] {
        let regs = ptrace::getregs(self.pid).unwrap();
        [
            regs.rax, regs.rdx, regs.rcx, regs.rbx, regs.rsi, regs.rdi, regs.rbp, regs.rsp, regs.r8, regs.r9, regs.r10,
            regs.r11, regs.r12, regs.r13, regs.r14, regs.r15, regs.rip,
        ]
    }

    pub(crate) fn read(&self, address: u64) -> Option<u64> {
        let start = address & !(MEMORY_PAGE - 1);
        let offset = (address - start) as usize;
        let mut pages = self.pages.borrow_mut();
        let page = pages
            .entry(start)
            .or_insert_with(|| self.read_range(start..start.checked_add(MEMORY_PAGE)?));
        match page.as_ref()?[offset..].first_chunk() {
            Some(word) => Some(u64::from_le_bytes(*word)),
            // It crosses into the next page.
            None => Some(u64::from_le_bytes(
                *self.read_range(address..address.checked_add(8)?)?.first_chunk()?,
            )),
        }
    }

    /// Reads a range of memory.
    pub(crate) fn read_range(&self, range: Range<u64>) -> Option<Box<[u8]>> {
        let mut bytes = vec![0; (range.end - range.start) as usize].into_boxed_slice();
        self.memory.read_exact_at(&mut bytes, range.start).ok()?;
        Some(bytes)
    }

    /// The executable mappings, sorted by address.
    pub(crate) fn code_mappings(&self) -> Vec<CodeMapping> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid)).unwrap();
        let mapping = |line: &str| {
            let mut fields = line.split_ascii_whitespace();
            let (start, end) = fields.next()?.split_once('-')?;
            let executable = fields.next()?.contains('x');
            let file_offset = u64::from_str_radix(fields.next()?, 16).ok()?;
            let path = fields.nth(2).unwrap_or_default().to_owned();
            let runtime = u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
            executable.then_some(CodeMapping {
                runtime,
                file_offset,
                path,
            })
        };
        maps.lines().filter_map(mapping).collect()
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        // A traced child that is killed needs no detaching; one that is gone already is as good.
        match nix::sys::signal::kill(self.pid, Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => println!("cannot kill {}: {error}", self.pid),
        }
        if let Err(error) = self.child.wait() {
            println!("cannot wait for {}: {error}", self.pid);
        }
    }
}
