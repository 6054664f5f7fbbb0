//! Any bytes as a record of a ring of samples.

use profiler_common::cpu::{CpuSampleHeader, flags};
use profiler_daemon::fuzzing::decode_sample;
use zerocopy::{FromBytes, IntoBytes};

/// Runs one input.
pub fn run(data: &[u8]) {
    // What an earlier record left behind must not show.
    let mut frames = vec![u64::MAX; 3];
    let Some(sample) = decode_sample(data, &mut frames) else {
        return;
    };
    let Ok((header, rest)) = CpuSampleHeader::read_from_prefix(data) else {
        panic!("a sample from less than a header")
    };
    assert_eq!(
        (sample.time_ns, sample.pid.0, sample.tid, sample.generation),
        (header.time_ns, header.pid, header.tid, header.generation)
    );
    assert_eq!(sample.stop as u8, header.stop);
    assert_eq!(sample.in_kernel, header.flags & flags::IN_KERNEL != 0);
    assert_eq!(
        sample.kernel_stack_incomplete,
        header.flags & flags::KERNEL_STACK_INCOMPLETE != 0
    );
    assert!(header.thread_name.starts_with(sample.thread_name) && !sample.thread_name.contains(&0));
    let addresses = [sample.kernel_frames, sample.user_frames].concat();
    assert_eq!(sample.kernel_frames.len(), usize::from(header.kernel_frames));
    assert_eq!(sample.user_frames.len(), usize::from(header.user_frames));
    assert!(rest.starts_with(addresses.as_bytes()));
}
