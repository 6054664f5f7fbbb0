//! Page faults out of the kernel: their programs, attached only while there is somebody to watch, and their ring.
//!
//! Beside them the events of one more program, which the kernel calls when it ends a process for want of memory. A kernel
//! that refuses any of these programs goes on sampling CPU stacks.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    os::fd::{AsFd as _, BorrowedFd},
    time::Duration,
};

use aya::{
    Btf, Ebpf,
    maps::{MapData, PerCpuArray, RingBuf},
    programs::{BtfTracePoint, tp_btf::BtfTracePointLinkId},
};
use profiler_common::memory::{FaultCounter, FaultHeader, OomVictim};
use zerocopy::FromBytes as _;

use super::{
    cost::program_cost,
    load::{self, LoadError, WalkerLoop, take_map},
    records::{Pid, RawFault},
    sample_rings,
    sampler::Sampler,
};

/// The programs and their tracepoints, by the form of the walker's loop.
const PROGRAMS: [(WalkerLoop, [(&str, &str); 2]); 2] = [
    (
        WalkerLoop::BpfLoop,
        [
            ("fault_user_loop", "page_fault_user"),
            ("fault_kernel_loop", "page_fault_kernel"),
        ],
    ),
    (
        WalkerLoop::ForEachMapElem,
        [
            ("fault_user_each", "page_fault_user"),
            ("fault_kernel_each", "page_fault_kernel"),
        ],
    ),
];
const VICTIM: (&str, &str) = ("oom_victim", "mark_victim");

/// Counters as the programs have them.
type Values = [u64; FaultCounter::ALL.len()];

/// A process that the kernel ended because memory ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OomKill {
    /// The process. Of one that was gone before it could be asked for, kernels before 6.9 leave the thread that was named: its
    /// first, if that had not ended before.
    pub pid: Pid,
    /// When it was chosen: `CLOCK_MONOTONIC` in nanoseconds. It may have gone by now, or be about to go.
    pub time_ns: u64,
}

/// What the programs for page faults have done and cost since they were loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// They are attached now.
    pub is_attached: bool,
    /// By counter, all CPUs together.
    pub counters: BTreeMap<FaultCounter, u64>,
    /// Runs of the programs, those for processes that are not watched included; 0 without BPF statistics.
    pub runs: u64,
    /// Time in them.
    pub time: Duration,
}

impl FaultCounts {
    /// One counter.
    pub fn get(&self, counter: FaultCounter) -> u64 {
        self.counters.get(&counter).copied().unwrap_or_default()
    }
}

/// Faults as the kernel wrote them.
#[derive(Debug, Default)]
pub struct FaultBatch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// The programs for page faults, and what comes out of them.
pub(super) struct Faults {
    programs: [(&'static str, &'static str); 2],
    /// Why they cannot be attached.
    refused: Option<LoadError>,
    victim_refused: Option<LoadError>,
    links: Vec<(&'static str, BtfTracePointLinkId)>,
    ring: RingBuf<MapData>,
    events: RingBuf<MapData>,
    counters: PerCpuArray<MapData, Values>,
    salt: u64,
    pub(super) malformed: u64,
}

/// A number that nobody outside can tell: a process must not be able to choose what is seen of it.
pub(super) fn new_salt() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

impl Faults {
    /// Takes the maps, and loads the programs; attaches the one for victims.
    pub(super) fn load(object: &mut Ebpf, walker_loop: WalkerLoop, salt: u64) -> Result<Self, LoadError> {
        let btf = Btf::from_sys_fs()?;
        let programs = match PROGRAMS {
            [(first, programs), _] if first == walker_loop => programs,
            [_, (_, programs)] => programs,
        };
        let refused = programs
            .iter()
            .find_map(|(name, tracepoint)| load_one(object, name, tracepoint, &btf).err());
        let (name, tracepoint) = VICTIM;
        let victim = load_one(object, name, tracepoint, &btf).and_then(|()| {
            let program: &mut BtfTracePoint = load::program(object, name)?;
            program.attach().map_err(load::refused(name))?;
            Ok(())
        });
        Ok(Self {
            programs,
            refused,
            victim_refused: victim.err(),
            links: Vec::new(),
            ring: RingBuf::try_from(take_map(object, "FAULT_RING")?)?,
            events: RingBuf::try_from(take_map(object, "EVENT_RING")?)?,
            counters: PerCpuArray::try_from(take_map(object, "FAULT_COUNTERS")?)?,
            salt,
            malformed: 0,
        })
    }

    /// The descriptors that become readable when there is something to take at once.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.ring, &self.events].into_iter().map(|ring| {
            // SAFETY: the ring owns the descriptor and outlives what borrows from it.
            unsafe { BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(ring)) }
        })
    }

    fn attach(&mut self, object: &mut Ebpf) -> Result<(), LoadError> {
        for (name, _) in self.programs {
            let program: &mut BtfTracePoint = load::program(object, name)?;
            let link = program.attach().map_err(load::refused(name))?;
            self.links.push((name, link));
        }
        Ok(())
    }

    fn detach(&mut self, object: &mut Ebpf) -> Result<(), LoadError> {
        each(self.links.drain(..), |(name, link)| {
            let program: &mut BtfTracePoint = load::program(object, name)?;
            program.detach(link).map_err(load::refused(name))
        })
    }
}

/// Does it with each, whatever becomes of the others; the first error.
fn each<T, E>(those: impl Iterator<Item = T>, mut act: impl FnMut(T) -> Result<(), E>) -> Result<(), E> {
    let mut first = Ok(());
    for one in those {
        first = first.and(act(one));
    }
    first
}

fn load_one(object: &mut Ebpf, name: &'static str, tracepoint: &'static str, btf: &Btf) -> Result<(), LoadError> {
    let program: &mut BtfTracePoint = load::program(object, name)?;
    program.load(tracepoint, btf).map_err(load::refused(name))
}

impl Sampler {
    /// Why page faults cannot be taken on this host; `None` if they can.
    pub fn faults_refused(&self) -> Option<&LoadError> {
        self.faults.refused.as_ref()
    }

    /// Why nothing is heard of processes that are ended for want of memory; `None` if it is.
    pub fn victims_refused(&self) -> Option<&LoadError> {
        self.faults.victim_refused.as_ref()
    }

    /// Salt of the hash that chooses pages.
    pub fn fault_salt(&self) -> u64 {
        self.faults.salt
    }

    /// Attaches the programs for page faults, or detaches them. What is refused is not tried again.
    pub fn want_faults(&mut self, wanted: bool) {
        let Self { object, faults, .. } = self;
        if faults.refused.is_some() || wanted != faults.links.is_empty() {
            return;
        }
        let done = if wanted {
            faults.attach(object)
        } else {
            faults.detach(object)
        };
        if let Err(error) = done {
            // What was attached of two is of no use alone.
            if let Err(also) = faults.detach(object) {
                tracing::warn!(error = %also, "a program for page faults may stay attached");
            }
            faults.refused = Some(error);
        }
    }

    /// Replaces the batch by the faults in the ring.
    pub fn drain_faults(&mut self, batch: &mut FaultBatch) {
        batch.bytes.clear();
        batch.ends.clear();
        while let Some(item) = self.faults.ring.next() {
            batch.bytes.extend_from_slice(&item);
            batch.ends.push(batch.bytes.len());
        }
    }

    /// Looks at the faults of a batch.
    pub fn decode_faults(&mut self, batch: &FaultBatch, mut take: impl FnMut(RawFault<'_>)) {
        let mut words = Vec::new();
        let mut start = 0;
        for end in &batch.ends {
            match decode(&batch.bytes[start..*end], &mut words) {
                Some(fault) => take(fault),
                None => self.faults.malformed += 1,
            }
            start = *end;
        }
    }

    /// Takes the processes that were chosen to be ended for want of memory since the last call.
    pub fn drain_victims(&mut self) -> Vec<OomKill> {
        let mut kills = Vec::new();
        while let Some(item) = self.faults.events.next() {
            match OomVictim::read_from_prefix(&item) {
                Ok((victim, _)) => kills.push(OomKill {
                    pid: Pid(if victim.pid == 0 {
                        process_of(victim.tid)
                    } else {
                        victim.pid
                    }),
                    time_ns: victim.time_ns,
                }),
                Err(_) => self.faults.malformed += 1,
            }
        }
        kills
    }

    /// What the programs for page faults have done and cost.
    pub fn fault_counts(&self) -> FaultCounts {
        let mut counts = FaultCounts {
            is_attached: !self.faults.links.is_empty(),
            ..FaultCounts::default()
        };
        if let Ok(values) = self.faults.counters.get(&0, 0) {
            for counter in FaultCounter::ALL {
                let sum = values.iter().map(|values| values[counter as usize]).sum();
                counts.counters.insert(counter, sum);
            }
        }
        for (name, _) in self.faults.programs {
            let program = self.object.program(name).and_then(|program| program.fd().ok());
            if let Some((runs, time)) = program.and_then(|program| program_cost(program.as_fd())) {
                counts.runs += runs;
                counts.time += time;
            }
        }
        counts
    }

    /// Faults and events that did not have their layout: a defect, not a loss of the kernel.
    pub fn malformed_faults(&self) -> u64 {
        self.faults.malformed
    }
}

/// The process of a thread: older kernels name the thread. It is about to end, so that it may be too late to ask; then it is
/// taken for the first thread of its process, which bears the same number and is named unless it has ended before.
fn process_of(tid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    line.and_then(|tgid| tgid.trim().parse().ok()).unwrap_or(tid)
}

/// The fault in a record; `None` if the record contradicts itself.
pub(crate) fn decode<'a>(record: &'a [u8], words: &'a mut Vec<u64>) -> Option<RawFault<'a>> {
    let (header, rest) = FaultHeader::read_from_prefix(record).ok()?;
    if header.level > 63 || header.page >> 52 != 0 {
        return None;
    }
    Some(RawFault {
        page: header.page,
        level: header.level,
        code: header.code,
        sample: sample_rings::decode(rest, words)?,
    })
}

#[cfg(test)]
mod tests {
    use profiler_common::{cpu::CpuSampleHeader, memory::fault, python::PythonStop, stop::StopReason};
    use zerocopy::IntoBytes as _;

    use super::*;

    fn record(header: FaultHeader) -> Vec<u8> {
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
    fn a_fault_comes_with_its_stack() {
        let header = FaultHeader {
            page: 0x7f00_1234,
            level: 3,
            code: fault::WRITE,
        };
        let bytes = record(header);
        let mut words = Vec::new();
        let fault = decode(&bytes, &mut words).unwrap();
        assert_eq!((fault.page, fault.level, fault.code), (0x7f00_1234, 3, fault::WRITE));
        assert_eq!((fault.sample.pid, fault.sample.user.len()), (Pid(7), 2));
        for bad in [
            FaultHeader { level: 64, ..header },
            FaultHeader {
                page: 1 << 52,
                ..header
            },
        ] {
            assert!(decode(&record(bad), &mut Vec::new()).is_none());
        }
        for length in [0, 15, 16, 40, bytes.len() - 1] {
            assert!(decode(&bytes[..length], &mut Vec::new()).is_none(), "{length}");
        }
    }

    #[test]
    fn an_error_with_one_spares_none_of_the_others() {
        let mut done = Vec::new();
        let result = each(0..4, |number| {
            done.push(number);
            if number % 2 == 1 { Err(number) } else { Ok(()) }
        });
        assert_eq!((result, done), (Err(1), vec![0, 1, 2, 3]));
    }

    #[test]
    fn the_process_of_a_thread_is_found() {
        assert_eq!(process_of(std::process::id()), std::process::id());
        assert_eq!(process_of(u32::MAX), u32::MAX);
    }
}
