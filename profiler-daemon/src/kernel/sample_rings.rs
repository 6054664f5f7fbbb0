//! Samples on their way out of the kernel: the rings, and what is in them.

use aya::{
    Ebpf,
    maps::{ArrayOfMaps, MapData, RingBuf},
};
use profiler_common::{
    cpu::{CpuSampleHeader, flags, python_flags},
    limits::{CPUS_PER_RING, FRAME_SLOTS, MAX_RINGS},
    process::Relocation,
    python::{PythonEntry, PythonStop},
    stop::StopReason,
};
use zerocopy::{FromBytes, IntoBytes};

use super::{
    load::{LoadError, take_map},
    records::{Pid, RawSample, UserFrames},
};

/// Words of a record that hardly any is longer than: half of those that fit, which only a stack that is at its deepest in
/// the kernel, in native code and in Python takes.
const DEEP_RECORD_WORDS: usize = FRAME_SLOTS / 2;
/// Time for which a ring of samples can hold such records of all its CPUs.
const RING_SECONDS: f64 = 0.25;
const PYTHON_ENTRY_WORDS: usize = size_of::<PythonEntry>() / size_of::<u64>();
const MIN_RING_BYTES: u32 = 1 << 18;
const MAX_RING_BYTES: u32 = 1 << 23;

/// The rings of samples, and the programs' array that holds them.
pub(super) type Rings = (Vec<RingBuf<MapData>>, ArrayOfMaps<MapData, MapData>);

/// Samples as the kernel wrote them. As large as the rings at most.
#[derive(Debug, Default)]
pub struct SampleBatch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl SampleBatch {
    /// Replaces the batch by what is in the rings.
    pub(super) fn fill(&mut self, rings: &mut [RingBuf<MapData>]) {
        self.bytes.clear();
        self.ends.clear();
        for ring in rings {
            while let Some(item) = ring.next() {
                self.bytes.extend_from_slice(&item);
                self.ends.push(self.bytes.len());
            }
        }
    }

    /// The records as they are.
    pub(super) fn records(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[*start..*end])
    }

    /// Looks at each sample; returns how many contradict themselves.
    pub(super) fn decode(&self, mut take: impl FnMut(RawSample<'_>)) -> u64 {
        let mut malformed = 0;
        let mut frames = Vec::with_capacity(FRAME_SLOTS);
        for record in self.records() {
            match decode(record, &mut frames) {
                Some(sample) => take(sample),
                None => malformed += 1,
            }
        }
        malformed
    }
}

/// Makes the rings of samples and gives them to the programs.
pub(super) fn open(object: &mut Ebpf, cpus: &[u32], sample_hz: u32) -> Result<Rings, LoadError> {
    let mut ring_map: ArrayOfMaps<MapData, MapData> = ArrayOfMaps::try_from(take_map(object, "RINGS")?)?;
    Ok((make(&mut ring_map, cpus, sample_hz)?, ring_map))
}

/// Makes rings for a rate and gives them to the programs, in the place of what they had.
pub(super) fn make(
    ring_map: &mut ArrayOfMaps<MapData, MapData>,
    cpus: &[u32],
    sample_hz: u32,
) -> Result<Vec<RingBuf<MapData>>, LoadError> {
    let highest = cpus.iter().max().copied().unwrap_or_default();
    let new = |index| {
        let sharers = cpus.iter().filter(|cpu| **cpu / CPUS_PER_RING == index).count() as u32;
        let description = aya_obj::Map::new_from_params(
            aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_RINGBUF as u32,
            0,
            0,
            ring_bytes(sharers, sample_hz),
            0,
        );
        MapData::create(description, "SAMPLES", None)
    };
    // All of them before the first takes its place: what the programs write to is always read.
    let maps = (0..=highest / CPUS_PER_RING).take(MAX_RINGS as usize).map(new);
    let maps = maps.collect::<Result<Vec<_>, _>>()?;
    for (index, map) in (0..).zip(&maps) {
        ring_map.set(index, map, 0)?;
    }
    let rings = maps
        .into_iter()
        .map(|map| Ok(RingBuf::try_from(aya::maps::Map::RingBuf(map))?));
    rings.collect()
}

/// A power of two that holds what `cpus` CPUs produce in [`RING_SECONDS`], within bounds.
fn ring_bytes(cpus: u32, sample_hz: u32) -> u32 {
    let record = size_of::<CpuSampleHeader>() + DEEP_RECORD_WORDS * size_of::<u64>();
    let bytes = f64::from(cpus.max(1)) * f64::from(sample_hz) * RING_SECONDS * record as f64;
    (bytes as u32).clamp(MIN_RING_BYTES, MAX_RING_BYTES).next_power_of_two()
}

/// The sample in a record, its words copied to `words`; `None` if the record contradicts itself.
pub(crate) fn decode<'a>(record: &'a [u8], words: &'a mut Vec<u64>) -> Option<RawSample<'a>> {
    let (header, rest) = CpuSampleHeader::read_from_prefix(record).ok()?;
    let has_stack_pointers = header.flags & flags::STACK_POINTERS != 0;
    let kernel = usize::from(header.kernel_frames);
    let user = usize::from(header.user_frames) << usize::from(has_stack_pointers);
    let python = usize::from(header.python_entries) * PYTHON_ENTRY_WORDS;
    let (stacks, rest) = rest.split_at_checked((kernel + user + python) * size_of::<u64>())?;
    let relocation = match header.flags & flags::RELOCATED {
        0 => None,
        _ => Some(Relocation::read_from_prefix(rest).ok()?.0),
    };
    words.clear();
    let chunks = stacks.as_chunks::<8>().0.iter();
    words.extend(chunks.map(|bytes| u64::from_ne_bytes(*bytes)));
    let (kernel_frames, words) = words.split_at_checked(kernel)?;
    let (user, python) = words.split_at_checked(user)?;
    let name_at = std::mem::offset_of!(CpuSampleHeader, thread_name);
    let thread_name = record.get(name_at..name_at + header.thread_name.len())?;
    let end = thread_name
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(thread_name.len());
    Some(RawSample {
        time_ns: header.time_ns,
        pid: Pid(header.pid),
        tid: header.tid,
        generation: header.generation,
        thread_name: &thread_name[..end],
        in_kernel: header.flags & flags::IN_KERNEL != 0,
        kernel_stack_incomplete: header.flags & flags::KERNEL_STACK_INCOMPLETE != 0,
        stop: StopReason::from_number(header.stop)?,
        kernel_frames,
        user: match has_stack_pointers {
            true => UserFrames::with_stack_pointers(user),
            false => UserFrames::addresses_only(user),
        },
        python: <[PythonEntry]>::ref_from_bytes(python.as_bytes()).ok()?,
        python_stop: PythonStop::from_number(header.python_stop)?,
        has_gil: has_gil(header.python_flags),
        relocation,
    })
}

fn has_gil(flags: u8) -> Option<bool> {
    (flags & python_flags::GIL_KNOWN != 0).then_some(flags & python_flags::HAS_GIL != 0)
}

#[cfg(test)]
mod tests {
    use profiler_common::python::ANCHOR;

    use super::*;

    fn header(kernel_frames: u16, user_frames: u16) -> CpuSampleHeader {
        let mut thread_name = [0; 16];
        thread_name[..4].copy_from_slice(b"work");
        CpuSampleHeader {
            time_ns: 1,
            pid: 2,
            tid: 3,
            generation: 4,
            cpu: 5,
            kernel_frames,
            user_frames,
            stop: StopReason::Root as u8,
            flags: flags::IN_KERNEL,
            python_entries: 0,
            python_stop: PythonStop::NotPython as u8,
            python_flags: 0,
            reserved: [0; 6],
            thread_name,
        }
    }

    #[test]
    fn decodes_both_stacks() {
        let mut record = header(1, 2).as_bytes().to_vec();
        record.extend([10u64, 20, 30].as_bytes());
        // Rings pad records; what follows is not part of one.
        record.extend([0; 8]);
        let mut frames = Vec::new();
        let sample = decode(&record, &mut frames).unwrap();
        assert_eq!(sample.kernel_frames, [10]);
        assert_eq!(sample.user, UserFrames::addresses_only(&[20, 30]));
        assert_eq!(
            (sample.python, sample.python_stop, sample.has_gil),
            (&[][..], PythonStop::NotPython, None)
        );
        assert_eq!(
            (sample.thread_name, sample.stop, sample.in_kernel),
            (&b"work"[..], StopReason::Root, true)
        );
    }

    #[test]
    fn a_relocation_follows_the_stacks() {
        let relocation = Relocation {
            is_used: 1,
            other_distance: 0x1000,
            ..Relocation::NONE
        };
        let mut moved = header(0, 1);
        moved.flags = flags::RELOCATED;
        let mut record = moved.as_bytes().to_vec();
        record.extend(10u64.as_bytes());
        record.extend(relocation.as_bytes());
        let mut frames = Vec::new();
        let sample = decode(&record, &mut frames).unwrap();
        assert_eq!(sample.user, UserFrames::addresses_only(&[10]));
        assert_eq!(sample.relocation, Some(relocation));
        record.pop();
        assert!(decode(&record, &mut frames).is_none());
    }

    #[test]
    fn a_python_stack_lies_between_the_user_stack_and_the_relocation() {
        let mut python = header(1, 2);
        python.flags = flags::STACK_POINTERS | flags::RELOCATED;
        python.python_entries = 2;
        python.python_stop = PythonStop::Whole as u8;
        python.python_flags = python_flags::GIL_KNOWN;
        let entries = [(0x100, 8, 5), (0x7ff0, ANCHOR, 0)].map(|(address, instruction, check)| PythonEntry {
            address,
            instruction,
            check,
        });
        let mut record = python.as_bytes().to_vec();
        record.extend([10u64, 20, 1, 30, 2].as_bytes());
        record.extend(entries.as_bytes());
        record.extend(Relocation::NONE.as_bytes());
        let mut frames = Vec::new();
        let sample = decode(&record, &mut frames).unwrap();
        assert_eq!(sample.user, UserFrames::with_stack_pointers(&[20, 1, 30, 2]));
        assert_eq!((sample.kernel_frames, sample.python), (&[10][..], &entries[..]));
        assert_eq!((sample.python_stop, sample.has_gil), (PythonStop::Whole, Some(false)));
        assert_eq!(sample.relocation, Some(Relocation::NONE));
        record.truncate(record.len() - size_of::<Relocation>() - 1);
        assert!(decode(&record, &mut frames).is_none());
        assert_eq!((has_gil(0), has_gil(3), has_gil(1)), (None, Some(true), None));
    }

    #[test]
    fn refuses_what_contradicts_itself() {
        let mut frames = Vec::new();
        assert!(decode(&[], &mut frames).is_none());
        let mut short = header(1, 2).as_bytes().to_vec();
        short.extend([10u64, 20].as_bytes());
        assert!(decode(&short, &mut frames).is_none());
        let mut unknown_stop = header(0, 0);
        unknown_stop.stop = 200;
        assert!(decode(unknown_stop.as_bytes(), &mut frames).is_none());
        let mut unknown_python_stop = header(0, 0);
        unknown_python_stop.python_stop = 200;
        assert!(decode(unknown_python_stop.as_bytes(), &mut frames).is_none());
    }

    #[test]
    fn rings_are_powers_of_two_within_bounds() {
        for (cpus, hertz) in [(1, 1), (2, 99), (16, 99), (16, 4999), (0, 10_000)] {
            let bytes = ring_bytes(cpus, hertz);
            assert!(bytes.is_power_of_two() && (MIN_RING_BYTES..=MAX_RING_BYTES).contains(&bytes));
        }
    }
}
