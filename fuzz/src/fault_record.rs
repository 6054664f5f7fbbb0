//! Any bytes as a record of the ring of chosen page faults.

use profiler_common::memory::FaultHeader;
use profiler_daemon::fuzzing::decode_fault;
use zerocopy::FromBytes;

use crate::sample_record;

/// Pages of a whole address space.
const MOST_PAGES: u64 = 1 << 52;

/// Runs one input.
pub fn run(data: &[u8]) {
    // What an earlier record left behind must not show.
    let mut frames = vec![u64::MAX; 3];
    let Some(fault) = decode_fault(data, &mut frames) else {
        return;
    };
    let Ok((header, rest)) = FaultHeader::read_from_prefix(data) else {
        panic!("a fault from less than a header")
    };
    assert_eq!(
        (fault.page, fault.level, fault.code),
        (header.page, header.level, header.code)
    );
    // The address of a page, and what one stands for, are reckoned by shifts.
    assert!(fault.page < MOST_PAGES && fault.level < u64::BITS, "{fault:?}");
    sample_record::check(&fault.sample, rest);
}
