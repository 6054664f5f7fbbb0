//! Any bytes as a record of a ring of samples.

use profiler_common::cpu::{CpuSampleHeader, flags, python_flags};
use profiler_daemon::{fuzzing::decode_sample, kernel::records::RawSample};
use zerocopy::{FromBytes, IntoBytes};

/// Runs one input.
pub fn run(data: &[u8]) {
    // What an earlier record left behind must not show.
    let mut frames = vec![u64::MAX; 3];
    if let Some(sample) = decode_sample(data, &mut frames) {
        check(&sample, data);
    }
}

/// Holds a sample against the record that it was in.
pub(crate) fn check(sample: &RawSample<'_>, record: &[u8]) {
    let Ok((header, rest)) = CpuSampleHeader::read_from_prefix(record) else {
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
    assert_eq!(sample.kernel_frames.len(), usize::from(header.kernel_frames));
    assert_eq!(sample.user.len(), usize::from(header.user_frames));
    assert_eq!(sample.user.addresses().len(), sample.user.len());
    assert_eq!(sample.python.len(), usize::from(header.python_entries));
    assert_eq!(sample.python_stop as u8, header.python_stop);
    assert_eq!(
        sample.has_gil.is_some(),
        header.python_flags & python_flags::GIL_KNOWN != 0
    );
    let has_stack_pointers = header.flags & flags::STACK_POINTERS != 0;
    let mut words = sample.kernel_frames.to_vec();
    for index in 0..sample.user.len() {
        words.extend(sample.user.address(index));
        assert_eq!(sample.user.stack_pointer(index).is_some(), has_stack_pointers);
        words.extend(sample.user.stack_pointer(index));
    }
    assert_eq!(sample.user.address(sample.user.len()), None);
    assert!(rest.starts_with(&[words.as_bytes(), sample.python.as_bytes()].concat()));
}
