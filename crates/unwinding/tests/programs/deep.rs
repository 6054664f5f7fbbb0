//! A program to stop anywhere: deep recursion, callbacks from the C library, signal handlers on their own stack, panics
//! that are caught, realigned stacks, dynamic loading, allocation and calls into the kernel. Runs until it is killed.

use std::collections::BTreeMap;
use std::ffi::{c_char, c_int, c_void};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

#[repr(C)]
struct SignalAction {
    handler: extern "C" fn(c_int),
    mask: [u64; 16],
    flags: c_int,
    restorer: usize,
}

#[repr(C)]
struct SignalStack {
    base: *mut c_void,
    flags: c_int,
    bytes: usize,
}

#[repr(C)]
struct Timer {
    interval: [i64; 2],
    value: [i64; 2],
}

unsafe extern "C" {
    fn qsort(base: *mut c_void, count: usize, size: usize, compare: extern "C" fn(*const c_void, *const c_void) -> c_int);
    fn sigaction(signal: c_int, new: *const SignalAction, old: *mut c_void) -> c_int;
    fn sigaltstack(new: *const SignalStack, old: *mut c_void) -> c_int;
    fn setitimer(which: c_int, new: *const Timer, old: *mut c_void) -> c_int;
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlclose(library: *mut c_void) -> c_int;
    fn getppid() -> c_int;
}

static COUNTER: AtomicU64 = AtomicU64::new(0);

#[inline(never)]
fn spin(rounds: u64) -> u64 {
    let mut sum = 0u64;
    for round in 0..rounds {
        sum = black_box(sum.wrapping_mul(31).wrapping_add(round));
    }
    sum
}

extern "C" fn compare(left: *const c_void, right: *const c_void) -> c_int {
    let (left, right) = unsafe { (*left.cast::<u64>(), *right.cast::<u64>()) };
    spin(3);
    left.cmp(&right) as c_int
}

#[inline(never)]
fn in_handler(depth: u32) -> u64 {
    if depth == 0 { spin(30_000) } else { black_box(in_handler(depth - 1)) + 1 }
}

extern "C" fn on_signal(_signal: c_int) {
    COUNTER.fetch_add(in_handler(12), Ordering::Relaxed);
}

#[repr(align(64))]
struct Wide([u64; 16]);

/// Its frame lies at an address that is a multiple of 64, which no caller promises.
#[inline(never)]
fn realigned(depth: u32, seed: u64) -> u64 {
    let mut wide = Wide([seed; 16]);
    black_box(&mut wide);
    let below = if depth == 0 { leaf(seed) } else { realigned(depth - 1, seed + 1) };
    below.wrapping_add(black_box(&wide).0[(seed & 15) as usize])
}

#[inline(never)]
fn leaf(seed: u64) -> u64 {
    match seed % 7 {
        0 => {
            let mut numbers: Vec<u64> = (0..200).map(|index| index * 7919 % 211).collect();
            unsafe { qsort(numbers.as_mut_ptr().cast(), numbers.len(), 8, compare) };
            numbers[3]
        }
        1 => {
            let map: BTreeMap<String, u64> = (0..60).map(|index| (format!("key {index}"), index)).collect();
            map.values().sum()
        }
        2 => {
            let result = std::panic::catch_unwind(|| std::panic::resume_unwind(Box::new(seed)));
            u64::from(result.is_err())
        }
        3 => {
            let library = unsafe { dlopen(c"libresolv.so.2".as_ptr(), 2) };
            if !library.is_null() {
                unsafe { dlclose(library) };
            }
            1
        }
        4 => (0..50).map(|_| black_box(Instant::now()).elapsed().subsec_nanos() as u64).sum(),
        5 => (0..20).map(|_| unsafe { getppid() } as u64).sum(),
        _ => {
            let mut words: Vec<String> = (0..80u64).map(|index| (index * 7919 % 101).to_string()).collect();
            words.sort_by(|left, right| right.cmp(left));
            words.concat().len() as u64
        }
    }
}

/// Goes down through calls of every kind, so that frames of many shapes lie on top of each other.
#[inline(never)]
fn descend(depth: u64, visit: &dyn Fn(u64) -> u64, seed: u64) -> u64 {
    let room = black_box([seed; 9]);
    let below = if depth == 0 {
        visit(seed)
    } else if depth.is_multiple_of(3) {
        let closure = |value: u64| visit(value) + room[(value & 7) as usize];
        descend(depth - 1, &closure, seed)
    } else {
        descend(depth - 1, visit, seed)
    };
    black_box(below) ^ room[(depth & 7) as usize]
}

fn main() {
    let mut stack = vec![0u8; 1 << 16];
    let alternate = SignalStack { base: stack.as_mut_ptr().cast(), flags: 0, bytes: stack.len() };
    // Restart interrupted calls, and run on the other stack.
    let action = SignalAction { handler: on_signal, mask: [0; 16], flags: 0x1000_0000 | 0x0800_0000, restorer: 0 };
    // Counts the program's own time, or it would always have fired while the program was stopped.
    let timer = Timer { interval: [0, 4000], value: [0, 4000] };
    unsafe {
        sigaltstack(&alternate, std::ptr::null_mut());
        sigaction(26, &action, std::ptr::null_mut());
        setitimer(1, &timer, std::ptr::null_mut());
    }
    println!("ready");
    // With an argument: the dynamic loader and the clock, which the vDSO reads, and nothing else.
    while std::env::args().len() > 1 {
        black_box(leaf(3));
        (0..20).for_each(|_| COUNTER.store(leaf(4), Ordering::Relaxed));
    }
    let mut round = 0;
    loop {
        let visit = |seed: u64| realigned((seed % 5) as u32, seed);
        COUNTER.fetch_add(descend(10 + round % 50, &visit, round), Ordering::Relaxed);
        round += 1;
    }
}
