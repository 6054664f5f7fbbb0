//! That freed memory goes back to the kernel. A program of its own: what other tests hold would count.
#![forbid(unsafe_code)]

use std::{hint::black_box, path::Path, thread};

use profiler_daemon::{health::OwnCost, kernel};

/// What the allocator would learn from, if it were let: it would take all smaller blocks out of arenas from then on.
const LARGE_BYTES: usize = 16 << 20;
/// Blocks as reading and compiling an object takes them.
const BLOCK_BYTES: usize = 1 << 20;
const BLOCKS: usize = 24;
/// What is kept of an object, in the middle of what is not.
const KEPT_BYTES: usize = 3 << 10;
/// What may remain of it all.
const MAX_REMAINS: u64 = 2 << 20;

#[test]
fn what_an_object_took_goes_back_although_something_of_it_is_kept() {
    kernel::bound_heap();
    // Threads other than the first have arenas of their own.
    let work = thread::spawn(|| {
        drop(filled(LARGE_BYTES));
        let before = anonymous();
        let blocks: Vec<Vec<u8>> = (0..BLOCKS).map(|_| filled(BLOCK_BYTES)).collect();
        let kept = filled(KEPT_BYTES);
        let taken = anonymous().saturating_sub(before);
        drop(blocks);
        let remains = anonymous().saturating_sub(before);
        drop(kept);
        (taken, remains)
    });
    let (taken, remains) = work.join().expect("the thread ends well");
    assert!(taken >= (BLOCKS * BLOCK_BYTES) as u64, "{} KiB were taken", taken >> 10);
    assert!(
        remains <= MAX_REMAINS,
        "{} of {} KiB remain",
        remains >> 10,
        taken >> 10
    );
}

/// Memory that is resident.
fn filled(bytes: usize) -> Vec<u8> {
    black_box(vec![1; bytes])
}

/// Anonymous memory of this process that is resident.
fn anonymous() -> u64 {
    OwnCost::read(Path::new("/proc"))
        .expect("a process may read its own cost")
        .resident_anon_bytes
}
