//! Calls by which a process asks the kernel for memory: their program, in the kernel only while somebody asks for a process,
//! and their ring.
//!
//! The program is called at the end of each system call of each process on the host, which is why it is not there otherwise.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufRead, BufReader},
    os::fd::{AsFd as _, BorrowedFd},
    time::Duration,
};

use aya::{
    Btf, Ebpf, Pod,
    maps::{Array, MapData, MapError, PerCpuArray, RingBuf},
    programs::BtfTracePoint,
};
use profiler_common::mapped::{Asked, LEAST_BYTES, MappedCounter, MappedHeader, MappedKind, in_pages};
use thiserror::Error;
use zerocopy::FromBytes as _;

use super::{
    cost::program_cost,
    load::{self, LoadError, WalkerLoop, chain, take_map},
    records::{Pid, RawMapped},
    sample_rings::{self, SampleBatch},
    sampler::Sampler,
};

/// The tracepoint at the end of system calls.
const TRACEPOINT: &str = "sys_exit";
/// How often the end of the heap is looked for until it has not moved meanwhile.
const LOOKS: usize = 3;
/// Lines of `/proc/PID/maps` among which the heap is looked for: it follows the program's own.
const MAX_LINES: usize = 1 << 16;
/// Bytes that a process may ask for at once: all its addresses.
const MAX_BYTES: u64 = 1 << 56;

/// Counters as the programs have them.
type Values = [u64; MappedCounter::ALL.len()];

#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
struct AskedValue(Asked);

// SAFETY: plain words without padding, as its zerocopy derives prove.
unsafe impl Pod for AskedValue {}

/// Why the calls of a process cannot be taken.
#[derive(Debug, Error)]
pub enum MappedRefused {
    /// The kernel refuses the program.
    #[error(transparent)]
    Program(#[from] LoadError),
    /// The program cannot be told whose calls to take.
    #[error("the program cannot be told of the process: {}", chain(source))]
    Map {
        /// Why.
        #[from]
        source: MapError,
    },
    /// Where the heap of the process ends cannot be told.
    #[error("the heap of process {pid} cannot be found: {source}")]
    Heap {
        /// The process.
        pid: Pid,
        /// Why.
        source: io::Error,
    },
}

/// What the program has done and cost since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MappedCounts {
    /// Whose calls are taken now.
    pub pid: Option<Pid>,
    /// By counter, all CPUs together.
    pub counters: BTreeMap<MappedCounter, u64>,
    /// Runs of the program, one for each system call on the host; 0 without BPF statistics.
    pub runs: u64,
    /// Time in them.
    pub time: Duration,
}

impl MappedCounts {
    /// One counter.
    pub fn get(&self, counter: MappedCounter) -> u64 {
        self.counters.get(&counter).copied().unwrap_or_default()
    }
}

/// The program, and what comes out of it.
pub(super) struct Mapped {
    program: &'static str,
    asked: Array<MapData, AskedValue>,
    ring: RingBuf<MapData>,
    counters: PerCpuArray<MapData, Values>,
    /// Whose calls are taken.
    pid: Option<Pid>,
    /// Runs and time of the program while it was in the kernel before.
    past: (u64, Duration),
    malformed: u64,
}

impl Mapped {
    /// Takes the maps. The program is loaded when it is wanted.
    pub(super) fn new(object: &mut Ebpf, walker_loop: WalkerLoop) -> Result<Self, LoadError> {
        Ok(Self {
            program: match walker_loop {
                WalkerLoop::BpfLoop => "mapped_loop",
                WalkerLoop::ForEachMapElem => "mapped_each",
            },
            asked: Array::try_from(take_map(object, "ASKED")?)?,
            ring: RingBuf::try_from(take_map(object, "MAPPED_RING")?)?,
            counters: PerCpuArray::try_from(take_map(object, "MAPPED_COUNTERS")?)?,
            pid: None,
            past: (0, Duration::ZERO),
            malformed: 0,
        })
    }

    /// The descriptor that becomes readable when there is something to take at once.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring owns the descriptor and outlives what borrows from it.
        unsafe { BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(&self.ring)) }
    }

    fn begin(&mut self, object: &mut Ebpf, pid: Pid) -> Result<(), MappedRefused> {
        let btf = Btf::from_sys_fs().map_err(LoadError::from)?;
        let program: &mut BtfTracePoint = load::program(object, self.program)?;
        program.load(TRACEPOINT, &btf).map_err(load::refused(self.program))?;
        program.attach().map_err(load::refused(self.program))?;
        self.ask(pid)
    }

    /// Has the program take the calls of a process. It must know the end of the heap, which may move while it is looked for.
    fn ask(&mut self, pid: Pid) -> Result<(), MappedRefused> {
        let look = || heap_end(pid).map_err(|source| MappedRefused::Heap { pid, source });
        let mut end = look()?;
        for _ in 0..LOOKS {
            self.set(pid.0, end)?;
            let known = end;
            end = look()?;
            let AskedValue(seen) = self.asked.get(&0, 0)?;
            if end == known || end == in_pages(seen.last_break) {
                break;
            }
        }
        self.pid = Some(pid);
        Ok(())
    }

    fn set(&mut self, pid: u32, last_break: u64) -> Result<(), MapError> {
        let asked = Asked {
            pid,
            reserved: 0,
            last_break,
        };
        self.asked.set(0, AskedValue(asked), 0)
    }

    /// Takes the program out of the kernel.
    fn end(&mut self, object: &mut Ebpf) {
        self.pid = None;
        if let Err(error) = self.set(0, 0) {
            tracing::warn!(error = %chain(&error), "the program may take calls until it is gone");
        }
        let (runs, time) = self.cost(object);
        self.past = (self.past.0 + runs, self.past.1 + time);
        let program = load::program::<BtfTracePoint>(object, self.program);
        // One that was refused is not there.
        let unloaded = program.map(|program| program.fd().is_ok().then(|| program.unload()));
        if let Ok(Some(Err(error))) = unloaded {
            tracing::error!(error = %chain(&error), "the program at the end of system calls may still be there");
        }
    }

    /// Runs of the program that is in the kernel now, and time in them.
    fn cost(&self, object: &Ebpf) -> (u64, Duration) {
        let program = object.program(self.program).and_then(|program| program.fd().ok());
        program
            .and_then(|program| program_cost(program.as_fd()))
            .unwrap_or_default()
    }
}

impl Sampler {
    /// Takes the calls of a process from now on; none other's.
    ///
    /// # Errors
    /// Nothing is taken then, and nothing is left in the kernel.
    pub fn begin_mapped(&mut self, pid: Pid) -> Result<(), MappedRefused> {
        let Self { object, mapped, .. } = self;
        let begun = mapped.begin(object, pid);
        if begun.is_err() {
            mapped.end(object);
        }
        begun
    }

    /// Takes no more calls. What was taken is in the ring then.
    pub fn end_mapped(&mut self) {
        self.mapped.end(&mut self.object);
    }

    /// Replaces the batch by the calls in the ring.
    pub fn drain_mapped(&mut self, batch: &mut SampleBatch) {
        batch.fill(std::slice::from_mut(&mut self.mapped.ring));
    }

    /// Looks at the calls of a batch.
    pub fn decode_mapped(&mut self, batch: &SampleBatch, mut take: impl FnMut(RawMapped<'_>)) {
        let mut words = Vec::new();
        for record in batch.records() {
            match decode(record, &mut words) {
                Some(call) => take(call),
                None => self.mapped.malformed += 1,
            }
        }
    }

    /// What the program has done and cost.
    pub fn mapped_counts(&self) -> MappedCounts {
        let (runs, time) = self.mapped.cost(&self.object);
        let mut counts = MappedCounts {
            pid: self.mapped.pid,
            counters: BTreeMap::new(),
            runs: self.mapped.past.0 + runs,
            time: self.mapped.past.1 + time,
        };
        if let Ok(values) = self.mapped.counters.get(&0, 0) {
            for counter in MappedCounter::ALL {
                let sum = values.iter().map(|values| values[counter as usize]).sum();
                counts.counters.insert(counter, sum);
            }
        }
        counts
    }

    /// Calls that did not have their layout: a defect, not a loss of the kernel.
    pub fn malformed_mapped(&self) -> u64 {
        self.mapped.malformed
    }
}

/// The call in a record; `None` if the record contradicts itself.
pub(crate) fn decode<'a>(record: &'a [u8], words: &'a mut Vec<u64>) -> Option<RawMapped<'a>> {
    let (header, rest) = MappedHeader::read_from_prefix(record).ok()?;
    if !(LEAST_BYTES..=MAX_BYTES).contains(&header.bytes) {
        return None;
    }
    Some(RawMapped {
        bytes: header.bytes,
        kind: MappedKind::from_number(header.kind)?,
        sample: sample_rings::decode(rest, words)?,
    })
}

/// Where the heap of a process ends, in whole pages.
fn heap_end(pid: Pid) -> io::Result<u64> {
    let maps = BufReader::new(File::open(format!("/proc/{pid}/maps"))?);
    if let Some(end) = heap_end_in(maps)? {
        return Ok(end);
    }
    // It has none yet: it begins where it would.
    let stat = fs::read(format!("/proc/{pid}/stat"))?;
    let start = heap_start_in(&stat).filter(|start| *start > 0);
    start.map(in_pages).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The end of the mappings that are named `[heap]`.
fn heap_end_in(maps: impl BufRead) -> io::Result<Option<u64>> {
    let mut end = None;
    for line in maps.split(b'\n').take(MAX_LINES) {
        let line = line?;
        let found = line.ends_with(b" [heap]").then(|| range_end(&line)).flatten();
        if end.is_some() && found.is_none() {
            break;
        }
        end = found.or(end);
    }
    Ok(end)
}

/// The second of two hexadecimal numbers with a `-` between them, at the beginning of a line.
fn range_end(line: &[u8]) -> Option<u64> {
    let range = line.split(|byte| *byte == b' ').next()?;
    let (_, end) = std::str::from_utf8(range).ok()?.split_once('-')?;
    u64::from_str_radix(end, 16).ok()
}

/// `start_brk` in the text of `/proc/PID/stat` (proc_pid_stat(5)): the 45th field after the name.
fn heap_start_in(stat: &[u8]) -> Option<u64> {
    // The name may have anything in it.
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let fields = std::str::from_utf8(stat.get(after_name..)?).ok()?;
    fields.split_ascii_whitespace().nth(44)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use profiler_common::{cpu::CpuSampleHeader, python::PythonStop, stop::StopReason};
    use zerocopy::IntoBytes as _;

    use super::*;

    fn record(header: MappedHeader) -> Vec<u8> {
        let sample = CpuSampleHeader {
            time_ns: 5,
            pid: 7,
            tid: 8,
            generation: 1,
            cpu: 0,
            kernel_frames: 0,
            user_frames: 2,
            stop: StopReason::Root as u8,
            flags: 0,
            python_entries: 0,
            python_stop: PythonStop::NotPython as u8,
            python_flags: 0,
            reserved: [0; 6],
            thread_name: [0; 16],
        };
        let mut record = header.as_bytes().to_vec();
        record.extend(sample.as_bytes());
        record.extend([0x1000_u64, 0x2000].as_bytes());
        record
    }

    #[test]
    fn a_call_comes_with_its_stack() {
        let header = MappedHeader {
            bytes: LEAST_BYTES,
            kind: MappedKind::Brk as u32,
            reserved: 0,
        };
        let bytes = record(header);
        let mut words = Vec::new();
        let call = decode(&bytes, &mut words).unwrap();
        assert_eq!((call.bytes, call.kind), (LEAST_BYTES, MappedKind::Brk));
        assert_eq!((call.sample.pid, call.sample.user.len()), (Pid(7), 2));
        for bad in [
            MappedHeader { kind: 6, ..header },
            MappedHeader {
                bytes: LEAST_BYTES - 1,
                ..header
            },
            MappedHeader {
                bytes: MAX_BYTES + 1,
                ..header
            },
        ] {
            assert!(decode(&record(bad), &mut Vec::new()).is_none(), "{bad:?}");
        }
        for length in [0, 15, 16, 40, bytes.len() - 1] {
            assert!(decode(&bytes[..length], &mut Vec::new()).is_none(), "{length}");
        }
    }

    #[test]
    fn the_heap_is_found_among_mappings() {
        let check = |maps: &str, expected| assert_eq!(heap_end_in(maps.as_bytes()).unwrap(), expected, "{maps}");
        check(
            "00400000-00401000 r-xp 00000000 08:01 1 /bin/\u{fffd}\n\
             01000000-01021000 rw-p 00000000 00:00 0                          [heap]\n\
             01021000-01042000 rw-p 00000000 00:00 0                          [heap]\n\
             7f0000000000-7f0000001000 rw-p 00000000 00:00 0\n\
             7f0000002000-7f0000003000 rw-p 00000000 00:00 0                  [heap]\n",
            Some(0x0104_2000),
        );
        check("00400000-00401000 r-xp 00000000 08:01 1 /tmp/x[heap]\n", None);
        check("hostile [heap]\n", None);
        check("", None);
    }

    #[test]
    fn a_heap_that_is_empty_begins_somewhere() {
        // Of oneself all fields are there to be read.
        let stat = fs::read("/proc/self/stat").unwrap();
        let start = heap_start_in(&stat).unwrap();
        let end = heap_end(Pid(std::process::id())).unwrap();
        assert!(start > 0 && end >= start, "{start:#x} {end:#x}");
        let mut fields: Vec<String> = (3..53).map(|number| number.to_string()).collect();
        fields[0] = "R".to_owned();
        let stat = format!("12 (a) b) 7) {}\n", fields.join(" "));
        assert_eq!(heap_start_in(stat.as_bytes()), Some(47));
        for stat in ["", "12 (a", "12 (a) R 1 2"] {
            assert_eq!(heap_start_in(stat.as_bytes()), None, "{stat}");
        }
    }
}
