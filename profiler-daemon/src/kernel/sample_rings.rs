//! Samples on their way out of the kernel: the rings, and what is in them.

use aya::{
    Ebpf,
    maps::{ArrayOfMaps, MapData, RingBuf},
};
use profiler_common::{
    cpu::{CpuSampleHeader, flags},
    limits::{CPUS_PER_RING, FRAME_SLOTS, MAX_RINGS},
    process::Relocation,
    stop::StopReason,
};
use zerocopy::FromBytes;

use super::{
    load::{LoadError, take_map},
    records::{Pid, RawSample},
};

/// Time for which a ring of samples can hold what its CPUs produce at their deepest.
const RING_SECONDS: f64 = 0.25;
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

    /// Looks at each sample; returns how many contradict themselves.
    pub(super) fn decode(&self, mut take: impl FnMut(RawSample<'_>)) -> u64 {
        let mut malformed = 0;
        let mut frames = Vec::with_capacity(FRAME_SLOTS);
        let mut start = 0;
        for end in &self.ends {
            match decode(&self.bytes[start..*end], &mut frames) {
                Some(sample) => take(sample),
                None => malformed += 1,
            }
            start = *end;
        }
        malformed
    }
}

/// Makes the rings of samples and gives them to the programs.
pub(super) fn open(object: &mut Ebpf, cpus: &[u32], sample_hz: u32) -> Result<Rings, LoadError> {
    let mut ring_map: ArrayOfMaps<MapData, MapData> = ArrayOfMaps::try_from(take_map(object, "RINGS")?)?;
    let highest = cpus.iter().max().copied().unwrap_or_default();
    let rings = (0..=highest / CPUS_PER_RING)
        .take(MAX_RINGS as usize)
        .map(|index| {
            let sharers = cpus.iter().filter(|cpu| **cpu / CPUS_PER_RING == index).count() as u32;
            let description = aya_obj::Map::new_from_params(
                aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_RINGBUF as u32,
                0,
                0,
                ring_bytes(sharers, sample_hz),
                0,
            );
            let map = MapData::create(description, "SAMPLES", None)?;
            ring_map.set(index, &map, 0)?;
            Ok(RingBuf::try_from(aya::maps::Map::RingBuf(map))?)
        })
        .collect::<Result<_, LoadError>>()?;
    Ok((rings, ring_map))
}

/// A power of two that holds what `cpus` CPUs produce in [`RING_SECONDS`], within bounds.
fn ring_bytes(cpus: u32, sample_hz: u32) -> u32 {
    let record = size_of::<CpuSampleHeader>() + FRAME_SLOTS * size_of::<u64>();
    let bytes = f64::from(cpus.max(1)) * f64::from(sample_hz) * RING_SECONDS * record as f64;
    (bytes as u32).clamp(MIN_RING_BYTES, MAX_RING_BYTES).next_power_of_two()
}

/// The sample in a record, its addresses copied to `frames`; `None` if the record contradicts itself.
pub(crate) fn decode<'a>(record: &'a [u8], frames: &'a mut Vec<u64>) -> Option<RawSample<'a>> {
    let (header, rest) = CpuSampleHeader::read_from_prefix(record).ok()?;
    let (kernel, user) = (usize::from(header.kernel_frames), usize::from(header.user_frames));
    let (addresses, rest) = rest.split_at_checked((kernel + user) * size_of::<u64>())?;
    let relocation = match header.flags & flags::RELOCATED {
        0 => None,
        _ => Some(Relocation::read_from_prefix(rest).ok()?.0),
    };
    frames.clear();
    frames.extend(
        addresses
            .as_chunks::<8>()
            .0
            .iter()
            .map(|bytes| u64::from_ne_bytes(*bytes)),
    );
    let (kernel_frames, user_frames) = frames.split_at_checked(kernel)?;
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
        user_frames,
        relocation,
    })
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

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
            reserved: 0,
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
        assert_eq!((sample.kernel_frames, sample.user_frames), (&[10][..], &[20, 30][..]));
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
        assert_eq!((sample.user_frames, sample.relocation), (&[10][..], Some(relocation)));
        record.pop();
        assert!(decode(&record, &mut frames).is_none());
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
    }

    #[test]
    fn rings_are_powers_of_two_within_bounds() {
        for (cpus, hertz) in [(1, 1), (2, 99), (16, 99), (16, 4999), (0, 10_000)] {
            let bytes = ring_bytes(cpus, hertz);
            assert!(bytes.is_power_of_two() && (MIN_RING_BYTES..=MAX_RING_BYTES).contains(&bytes));
        }
    }
}
