//! The code objects of Python stacks: read once, kept for the next sample.
//!
//! In: addresses that the walker found, each with the check that it took there. Out: [`PythonCode`]s, which a thread of their
//! own fills from the memory of the process as soon as they were first seen, so that a process that exits keeps its
//! names, and the sampling loop reads nothing. What is read must have the check that was sampled: otherwise another
//! object lies there by now, and the frame says so instead of another's name. Forks that share an interpreter share codes.

use std::{
    collections::HashMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use profiler_common::python::PythonEntry;
use profiler_unwinding::python::{Code, CodeError};

use crate::{
    kernel::records::Pid,
    processes::{interpreter::Interpreter, memory::TargetMemory, scan::ProcFs},
};

/// Codes that may wait to be read.
const QUEUE: usize = 1 << 13;
/// Codes in a generation of those that are kept.
const MAX_GENERATION: usize = 1 << 14;
/// A generation with fewer makes no room for another, however much windows hold.
const MIN_GENERATION: usize = 1 << 10;
/// Bytes of all codes.
const MAX_BYTES: usize = 24 << 20;
/// What a code costs beside its texts and lines.
const ENTRY_BYTES: usize = 128;
/// Pause of one who waits for a code.
const PAUSE: Duration = Duration::from_millis(2);

/// Why a code has no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CodeGap {
    /// Another object lay there when it was looked at.
    Gone,
    /// The memory could not be read: the process has ended, or the daemon may not.
    Unreadable,
    /// It is no code object.
    Malformed,
    /// More codes wait to be read, or are kept, than may.
    Backlog,
}

impl CodeGap {
    /// What stands for the function.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gone => "[python code gone]",
            Self::Unreadable => "[python code unreadable]",
            Self::Malformed => "[python code malformed]",
            Self::Backlog => "[python code not read]",
        }
    }
}

impl From<CodeError> for CodeGap {
    fn from(error: CodeError) -> Self {
        match error {
            CodeError::Gone => Self::Gone,
            CodeError::Unreadable => Self::Unreadable,
            CodeError::Malformed { .. } => Self::Malformed,
        }
    }
}

/// A code object, read or about to be.
#[derive(Debug)]
pub struct PythonCode {
    code: OnceLock<Result<Code, CodeGap>>,
    /// Bytes of all codes together.
    held: Arc<AtomicUsize>,
}

impl PythonCode {
    fn new(held: &Arc<AtomicUsize>) -> Self {
        Self {
            code: OnceLock::new(),
            held: Arc::clone(held),
        }
    }

    /// What was read; `None` if that has not happened by the deadline.
    pub fn wait(&self, deadline: Instant) -> Option<&Result<Code, CodeGap>> {
        while self.code.get().is_none() && Instant::now() < deadline {
            std::thread::sleep(PAUSE);
        }
        self.code.get()
    }

    fn has_failed(&self) -> bool {
        matches!(self.code.get(), Some(Err(_)))
    }

    fn fill(&self, code: Result<Code, CodeGap>) {
        let bytes = code.as_ref().map_or(0, bytes_of);
        let fits = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes <= MAX_BYTES;
        if !fits {
            self.held.fetch_sub(bytes, Ordering::Relaxed);
        }
        self.code
            .get_or_init(|| if fits { code } else { Err(CodeGap::Backlog) });
    }
}

impl Drop for PythonCode {
    fn drop(&mut self) {
        if let Some(Ok(code)) = self.code.get() {
            self.held.fetch_sub(bytes_of(code), Ordering::Relaxed);
        }
    }
}

fn bytes_of(code: &Code) -> usize {
    code.memory_bytes() + ENTRY_BYTES
}

/// What tells codes apart: the interpreter that forks share, the address, and what was found there.
pub(super) type CodeKey = (u64, u64, u32);

#[derive(Debug)]
struct Request {
    pid: Pid,
    interpreter: Arc<Interpreter>,
    address: u64,
    check: u32,
    code: Arc<PythonCode>,
}

/// The codes met so far. What was not used for two generations is forgotten.
#[derive(Debug)]
pub struct PythonCodes {
    young: HashMap<CodeKey, Arc<PythonCode>>,
    old: HashMap<CodeKey, Arc<PythonCode>>,
    requests: SyncSender<Request>,
    held: Arc<AtomicUsize>,
}

impl PythonCodes {
    /// No codes yet, and a thread that reads them under this `/proc`.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(proc: ProcFs) -> io::Result<Self> {
        let (requests, inbox) = sync_channel(QUEUE);
        // Not joined at the end: what it reads at that time may take long.
        std::thread::Builder::new()
            .name("python-codes".to_owned())
            .spawn(move || read_all(&proc, &inbox))?;
        Ok(Self {
            young: HashMap::new(),
            old: HashMap::new(),
            requests,
            held: Arc::default(),
        })
    }

    /// Another set of codes that the same thread reads, and that shares the bound on their bytes.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            requests: self.requests.clone(),
            held: Arc::clone(&self.held),
        }
    }

    /// Bytes of all codes, those included that windows hold.
    pub fn memory_bytes(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// A code that has no name for this reason.
    pub(super) fn without_name(&self, gap: CodeGap) -> Arc<PythonCode> {
        let code = PythonCode::new(&self.held);
        code.fill(Err(gap));
        Arc::new(code)
    }

    pub(super) fn key(interpreter: &Interpreter, entry: &PythonEntry) -> CodeKey {
        (interpreter.family, entry.address, entry.check)
    }

    /// The code that an entry of a process's stack means.
    pub(crate) fn find(&mut self, pid: Pid, interpreter: &Arc<Interpreter>, entry: &PythonEntry) -> Arc<PythonCode> {
        let key = Self::key(interpreter, entry);
        let known = self.young.get(&key).cloned().or_else(|| self.old.remove(&key));
        // Nothing tells whether what has no check is what it was; what failed may succeed through another process.
        if let Some(code) = known.filter(|code| key.2 != 0 && !code.has_failed()) {
            self.keep(key, &code);
            return code;
        }
        let code = Arc::new(PythonCode::new(&self.held));
        let request = Request {
            pid,
            interpreter: Arc::clone(interpreter),
            address: entry.address,
            check: entry.check,
            code: Arc::clone(&code),
        };
        match self.requests.try_send(request) {
            Ok(()) => self.keep(key, &code),
            Err(_) => code.fill(Err(CodeGap::Backlog)),
        }
        code
    }

    fn keep(&mut self, key: CodeKey, code: &Arc<PythonCode>) {
        let is_large = self.memory_bytes() > MAX_BYTES / 2 && self.young.len() >= MIN_GENERATION;
        if self.young.len() >= MAX_GENERATION || is_large {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, Arc::clone(code));
    }
}

/// Reads codes until nobody asks any more.
fn read_all(proc: &ProcFs, inbox: &Receiver<Request>) {
    let mut open: Option<(Pid, TargetMemory)> = None;
    loop {
        let request = match inbox.try_recv() {
            Ok(request) => request,
            Err(_) => {
                // Nothing is held open while nothing is to be read.
                open = None;
                match inbox.recv() {
                    Ok(request) => request,
                    Err(_) => return,
                }
            }
        };
        if open.as_ref().is_none_or(|(pid, _)| *pid != request.pid) {
            open = TargetMemory::open(proc, request.pid)
                .ok()
                .map(|memory| (request.pid, memory));
        }
        request.code.fill(match &open {
            Some((_, memory)) => read(&request, memory),
            None => Err(CodeGap::Unreadable),
        });
    }
}

/// What a process has in its memory may be made to break the reader, but not the thread.
fn read(request: &Request, memory: &TargetMemory) -> Result<Code, CodeGap> {
    let read = || {
        request
            .interpreter
            .layout
            .read_code(memory, request.address, request.check)
    };
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or(Err(CodeError::Malformed { part: "whole" }))
        .map_err(CodeGap::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_in_use_are_kept_while_windows_hold_much() {
        const IN_USE: u64 = 16;
        let mut codes = PythonCodes::start(ProcFs::new("/nonexistent")).unwrap();
        codes.held.store(MAX_BYTES, Ordering::Relaxed);
        let code = Arc::new(PythonCode::new(&codes.held));
        for address in 0..IN_USE {
            codes.keep((1, address, 1), &code);
        }
        let is_known = |address| codes.young.contains_key(&(1, address, 1)) || codes.old.contains_key(&(1, address, 1));
        assert!((0..IN_USE).all(is_known));
    }
}
