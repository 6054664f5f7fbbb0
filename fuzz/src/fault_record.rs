//! Any bytes as a record of the ring of chosen page faults, and of that of calls for memory, which is laid out alike.

use profiler_common::{
    mapped::{LEAST_BYTES, MappedHeader},
    memory::FaultHeader,
};
use profiler_daemon::fuzzing::{decode_fault, decode_mapped};
use zerocopy::FromBytes;

use crate::sample_record;

/// Pages of a whole address space.
const MOST_PAGES: u64 = 1 << 52;
/// Bytes of one of user space.
const MOST_BYTES: u64 = 1 << 56;

/// Runs one input.
pub fn run(data: &[u8]) {
    fault(data);
    call(data);
}

fn fault(data: &[u8]) {
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

fn call(data: &[u8]) {
    let mut frames = vec![u64::MAX; 3];
    let Some(call) = decode_mapped(data, &mut frames) else {
        return;
    };
    let Ok((header, rest)) = MappedHeader::read_from_prefix(data) else {
        panic!("a call from less than a header")
    };
    assert_eq!((call.bytes, call.kind as u32), (header.bytes, header.kind));
    assert!((LEAST_BYTES..=MOST_BYTES).contains(&call.bytes), "{call:?}");
    sample_record::check(&call.sample, rest);
}
