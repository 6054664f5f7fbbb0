//! The process whose heap is counted: opened once, so that no other can take its place.

use std::{
    cell::{Cell, RefCell},
    fs::File,
    hash::{DefaultHasher, Hasher as _},
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    os::{fd::OwnedFd, unix::fs::FileExt as _},
};

use object::ReadCache;
use profiler_census::{Interpreter, Refusal};
use profiler_profile::visible;
use profiler_unwinding::{
    Segments,
    python::{InterpreterObject, ProcessMemory, PythonError},
};
use rustix::fs::{Mode, OFlags};

use super::{CensusError, mounts::Mounts, pace::Pace, take::COUNT_WITHIN};
use crate::{
    kernel::records::{MapRecord, Pid},
    processes::{
        files::{BoundedFile, MappedPlace, open_mapped},
        scan::{ProcFs, ScanError, parse_stat},
    },
};

/// Most bytes of `/proc/PID/stat`.
const MAX_STAT_BYTES: u64 = 64 << 10;
/// Most bytes that are read of one object to find an interpreter in it.
const MAX_OBJECT_BYTES: u64 = 64 << 20;
/// Objects that are looked at for one.
const MAX_OBJECTS: usize = 512;
/// Most bytes of a path that are told.
const MAX_PATH_BYTES: usize = 200;
/// Most bytes of `/proc/PID/auxv`, and the entry of it that says where the kernel left random bytes for the program
/// (include/uapi/linux/auxvec.h).
const MAX_AUXV_BYTES: u64 = 4 << 10;
const AT_RANDOM: u64 = 25;
const RANDOM_BYTES: usize = 16;

/// A process, held by the folder that `/proc` has of it.
#[derive(Debug)]
pub(super) struct Target {
    folder: OwnedFd,
    pid: Pid,
    /// In ticks since boot.
    pub(super) start_ticks: u64,
}

impl Target {
    pub(super) fn open(proc: &ProcFs, pid: Pid) -> Result<Self, CensusError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(proc.root().join(pid.to_string()), flags, Mode::empty())
            .map_err(|_error| CensusError::NoSuchProcess { pid })?;
        let mut target = Self {
            folder,
            pid,
            start_ticks: 0,
        };
        target.start_ticks = target.start().ok_or(CensusError::NoSuchProcess { pid })?;
        Ok(target)
    }

    /// When it started; nothing once it has ended.
    fn start(&self) -> Option<u64> {
        let mut text = Vec::new();
        let file = self.file("stat").ok()?;
        file.take(MAX_STAT_BYTES).read_to_end(&mut text).ok()?;
        let stat = parse_stat(&text)?;
        (!stat.zombie || stat.threads > 1).then_some(stat.start_ticks)
    }

    /// Tells the program that it runs from any other that the same process has run or will: what the kernel gave it at its
    /// start, where everything lies and bytes that nobody chose.
    pub(super) fn program(&self, memory: &PacedMemory<'_>) -> Result<u64, CensusError> {
        let mut auxv = Vec::new();
        let file = memory.pace.during(|| self.open_file("auxv"))?;
        let read = file.take(MAX_AUXV_BYTES).read_to_end(&mut auxv);
        if read.is_err() || auxv.is_empty() {
            return Err(CensusError::Ended { pid: self.pid });
        }
        let mut hasher = DefaultHasher::new();
        hasher.write(&auxv);
        let words = auxv.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word));
        let words: Vec<u64> = words.collect();
        let entries = words.as_chunks().0;
        if let Some([_, address]) = entries.iter().find(|[kind, _]| *kind == AT_RANDOM) {
            let mut random = [0; RANDOM_BYTES];
            if memory.read(*address, &mut random) {
                hasher.write(&random);
            }
        }
        Ok(hasher.finish())
    }

    /// Whether it still runs.
    pub(super) fn is_running(&self) -> bool {
        self.start() == Some(self.start_ticks)
    }

    fn file(&self, name: &str) -> rustix::io::Result<File> {
        let descriptor = rustix::fs::openat(&self.folder, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(File::from(descriptor))
    }

    /// One of its files, or why it cannot be had.
    pub(super) fn open_file(&self, name: &'static str) -> Result<File, CensusError> {
        self.file(name).map_err(|error| match error {
            rustix::io::Errno::SRCH | rustix::io::Errno::NOENT => CensusError::Ended { pid: self.pid },
            error => CensusError::Unreadable {
                pid: self.pid,
                what: name,
                reason: error.to_string(),
            },
        })
    }

    /// The interpreter that it runs, with the version. What is mapped is read at a pace, and no more of it once that is over.
    pub(super) fn interpreter(&self, proc: &ProcFs, pace: &Pace<'_>) -> Result<(Interpreter, String), CensusError> {
        let pid = self.pid;
        let maps = pace.during(|| proc.maps(pid)).map_err(|error| match error {
            ScanError::Gone => CensusError::Ended { pid },
            error => CensusError::Unreadable {
                pid,
                what: "maps",
                reason: error.to_string(),
            },
        })?;
        let mut records: Vec<&MapRecord> = maps.executable.iter().filter(|record| is_file(record)).collect();
        // The likeliest first; which it is tells its content.
        records.sort_by_key(|record| !base_name(record).windows(6).any(|part| part == b"python"));
        records.dedup_by_key(|record| (record.device_inode, record.path.clone()));
        let mut refused = None;
        let mounts = pace.during(|| Mounts::read(proc, pid));
        for record in records.into_iter().take(MAX_OBJECTS) {
            match interpreter_in(proc, pid, (record, &mounts), pace) {
                None => {}
                Some(Ok(found)) => return Ok(found),
                Some(Err(reason)) => refused = refused.or(Some(reason)),
            }
        }
        if pace.is_unwanted() {
            return Err(CensusError::Unwanted);
        }
        if pace.is_over() {
            refused = Some(format!(
                "its interpreter was not found within {} s",
                COUNT_WITHIN.as_secs()
            ));
        }
        Err(match refused {
            Some(reason) => CensusError::Refused { pid, reason },
            None => CensusError::NotPython { pid },
        })
    }
}

fn is_file(record: &MapRecord) -> bool {
    record.path.starts_with(b"/") && record.device_inode.is_none_or(|(_, inode)| inode != 0)
}

fn base_name(record: &MapRecord) -> &[u8] {
    let end = record.path.iter().rposition(|byte| *byte == b'/');
    &record.path[end.map_or(0, |end| end + 1)..]
}

/// The interpreter in an object, or why its heap cannot be counted. Nothing if there is none, or the file cannot be read.
fn interpreter_in(
    proc: &ProcFs,
    pid: Pid,
    (record, mounts): (&MapRecord, &Mounts),
    pace: &Pace<'_>,
) -> Option<Result<(Interpreter, String), String>> {
    if !pace.go_on() {
        return None;
    }
    // Memory with a name is not on any file system that is mounted.
    let (device, _) = record.device_inode.filter(|_| !record.path.starts_with(b"/memfd:"))?;
    if let Some(refusal) = mounts.refusal(device) {
        let path = String::from_utf8_lossy(&record.path);
        return Some(Err(format!("{} {refusal}", visible(&path, MAX_PATH_BYTES))));
    }
    let place = MappedPlace {
        pid,
        start: record.start,
        end: record.start.saturating_add(record.length),
        device_inode: record.device_inode,
        path: record.path.clone(),
    };
    let file = pace.during(|| open_mapped(proc, &place)).ok()?;
    let bounded = BoundedFile::new(&file.descriptor, file.identity.length, MAX_OBJECT_BYTES);
    let cache = ReadCache::new(PacedFile { file: bounded, pace });
    let object = match InterpreterObject::read(&cache) {
        Ok(object) => object?,
        // It is no object at all.
        Err(PythonError::Object(_)) => return None,
        Err(error) => return Some(Err(error.to_string())),
    };
    let bias = Segments::parse(&cache).ok()?.bias(record.start, record.file_offset)?;
    let version = object.version.to_string();
    Some(match Interpreter::of(&object, bias) {
        Ok(interpreter) => Ok((interpreter, version)),
        Err(refusal @ (Refusal::FreeThreaded { .. } | Refusal::Version { .. } | Refusal::NoTypeOfTypes)) => {
            Err(refusal.to_string())
        }
    })
}

/// A file that is read at a pace.
struct PacedFile<'a, F> {
    file: F,
    pace: &'a Pace<'a>,
}

impl<F: Read> Read for PacedFile<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.pace.go_on() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let file = &mut self.file;
        self.pace.during(|| file.read(buffer))
    }
}

impl<F: Seek> Seek for PacedFile<'_, F> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// The memory of a process, read at a pace.
pub(super) struct PacedMemory<'a> {
    file: File,
    pub(super) pace: &'a Pace<'a>,
    bytes: Cell<u64>,
    /// What is not read, in the order of addresses: it may never come.
    avoided: RefCell<Vec<Range<u64>>>,
    /// Nothing is read any more once the time is over.
    pub(super) is_strict: Cell<bool>,
}

impl<'a> PacedMemory<'a> {
    pub(super) fn new(file: File, pace: &'a Pace<'a>) -> Self {
        Self {
            file,
            pace,
            bytes: Cell::new(0),
            avoided: RefCell::default(),
            is_strict: Cell::new(false),
        }
    }

    /// Reads none of these from now on.
    pub(super) fn avoid(&self, ranges: Vec<Range<u64>>) {
        *self.avoided.borrow_mut() = ranges;
    }

    fn is_avoided(&self, address: u64, length: usize) -> bool {
        let avoided = self.avoided.borrow();
        let next = avoided.partition_point(|range| range.end <= address);
        let end = address.saturating_add(length as u64);
        avoided.get(next).is_some_and(|range| range.start < end)
    }

    /// Bytes read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.get()
    }
}

impl ProcessMemory for PacedMemory<'_> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        if !self.pace.go_on() && self.is_strict.get() || self.is_avoided(address, buffer.len()) {
            return false;
        }
        self.bytes.set(self.bytes.get() + buffer.len() as u64);
        self.pace.during(|| self.file.read_exact_at(buffer, address)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::{process, time::Duration};

    use super::*;

    #[test]
    fn a_program_is_told_from_another_of_the_same_process() {
        let proc = ProcFs::new("/proc");
        let mut child = process::Command::new("sh")
            // The same program, at the same addresses where the host does not shuffle them.
            .args(["-c", "read line; exec sh -c 'read line'"])
            .stdin(process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid(child.id());
        let pace = Pace::new(Duration::from_secs(600), &|_| false);
        let now = || {
            let target = Target::open(&proc, pid).unwrap();
            let memory = PacedMemory::new(target.open_file("mem").unwrap(), &pace);
            (target.start_ticks, target.program(&memory).unwrap())
        };
        let (start, first) = now();
        assert_eq!(now(), (start, first));
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
        let begun = std::time::Instant::now();
        let after = loop {
            match now() {
                (_, program) if program == first => {
                    assert!(begun.elapsed() < Duration::from_secs(30), "it does not execute");
                }
                other => break other,
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(after.0, start);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn what_may_never_come_is_not_read() {
        let proc = ProcFs::new("/proc");
        let target = Target::open(&proc, Pid(process::id())).unwrap();
        let pace = Pace::new(Duration::from_secs(600), &|_| false);
        let memory = PacedMemory::new(target.open_file("mem").unwrap(), &pace);
        let there = [7_u8; 64];
        let start = there.as_ptr() as u64;
        let reads = |offset: u64, length: usize| memory.read(start + offset, &mut vec![0; length]);
        assert!(reads(0, 64));
        memory.avoid(vec![start + 8..start + 16, start + 32..start + 40]);
        assert!(reads(0, 8) && reads(16, 16) && reads(40, 24));
        assert!(!reads(0, 9) && !reads(15, 1) && !reads(16, 17) && !reads(0, 64));
    }

    #[test]
    fn a_file_that_may_never_answer_is_not_opened() {
        let (proc, pid) = (ProcFs::new("/proc"), Pid(process::id()));
        let maps = proc.maps(pid).unwrap();
        let record = maps.executable.iter().find(|record| is_file(record)).unwrap();
        let (device, _) = record.device_inode.unwrap();
        assert_eq!(Mounts::read(&proc, pid).refusal(device), None);
        let pace = Pace::new(Duration::from_secs(600), &|_| false);
        let refused = interpreter_in(&proc, pid, (record, &Mounts::default()), &pace);
        let refused = refused.unwrap().map(|_found| ()).unwrap_err();
        assert!(refused.contains("whether it answers"), "{refused}");
    }

    #[test]
    fn an_interpreter_is_sought_for_no_longer_than_there_is_time() {
        let (proc, pid) = (ProcFs::new("/proc"), Pid(process::id()));
        let target = Target::open(&proc, pid).unwrap();
        let found = |within, is_unwanted: &dyn Fn(Duration) -> bool| {
            let pace = Pace::new(within, is_unwanted);
            target.interpreter(&proc, &pace).map(|(_, version)| version)
        };
        let long = Duration::from_secs(600);
        assert_eq!(found(long, &|_| false), Err(CensusError::NotPython { pid }));
        assert_eq!(found(long, &|_| true), Err(CensusError::Unwanted));
        let reason = "its interpreter was not found within 14 s".to_owned();
        assert_eq!(
            found(Duration::ZERO, &|_| false),
            Err(CensusError::Refused { pid, reason })
        );
    }
}
