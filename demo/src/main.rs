//! A service whose profile is known beforehand: three kinds of work that take 50, 30 and 20 % of its CPU time, below
//! 10, 30 and 60 nested calls.
//!
//! The shares hold by construction, whatever the machine does: each kind of work goes on until it has used its part of
//! the thread's CPU time, not for a number of rounds. Runs until it is stopped.
//!
//! Each function that calls another at its end hands a value to `black_box` after it: otherwise the compiler makes a jump of
//! the call, and the caller is missing from the stack.
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Rounds of work between two looks at the clock: short against the slices, long against the look.
const ROUNDS: u32 = 20_000;

fn main() {
    loop {
        serve_requests();
    }
}

/// One turn of the service. Slices of milliseconds, so that every second of a recording holds all kinds of work.
#[inline(never)]
fn serve_requests() {
    price_basket(Duration::from_millis(25));
    render_page(Duration::from_millis(15));
    let last = Duration::from_millis(10);
    compress_reply(last);
    black_box(last);
}

/// Half of the time, 10 calls deep: floating point.
#[inline(never)]
fn price_basket(slice: Duration) {
    apply_discounts(10, slice);
    black_box(slice);
}

#[inline(never)]
fn apply_discounts(depth: u32, slice: Duration) {
    match depth {
        0 => work_for(slice, sum_prices),
        _ => apply_discounts(depth - 1, slice),
    }
    black_box(depth);
}

#[inline(never)]
fn sum_prices() {
    let mut sum = black_box(1.0_f64);
    for item in 0..ROUNDS {
        sum = (sum + f64::from(item)).sqrt() * 1.19;
    }
    black_box(sum);
}

/// Three tenths of the time, 30 calls deep: searching a string.
#[inline(never)]
fn render_page(slice: Duration) {
    render_node(30, slice);
    black_box(slice);
}

#[inline(never)]
fn render_node(depth: u32, slice: Duration) {
    match depth {
        0 => work_for(slice, escape_text),
        _ => render_node(depth - 1, slice),
    }
    black_box(depth);
}

#[inline(never)]
fn escape_text() {
    let text = black_box("<li class=\"item\">tea & biscuits</li>");
    let mut escaped = 0_usize;
    for _ in 0..ROUNDS / 32 {
        escaped += black_box(text)
            .chars()
            .filter(|c| matches!(c, '<' | '>' | '&' | '"'))
            .count();
    }
    black_box(escaped);
}

/// A fifth of the time, 60 calls deep: integers.
#[inline(never)]
fn compress_reply(slice: Duration) {
    compress_block(60, slice);
    black_box(slice);
}

#[inline(never)]
fn compress_block(depth: u32, slice: Duration) {
    match depth {
        0 => work_for(slice, hash_bytes),
        _ => compress_block(depth - 1, slice),
    }
    black_box(depth);
}

#[inline(never)]
fn hash_bytes() {
    let mut hash = black_box(0xcbf2_9ce4_8422_2325_u64);
    for byte in 0..ROUNDS {
        hash = (hash ^ u64::from(byte & 0xff)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    black_box(hash);
}

/// Repeats `work` until this thread has spent `slice` on a CPU.
#[inline(never)]
fn work_for(slice: Duration, work: fn()) {
    let end = cpu_time() + slice;
    while cpu_time() < end {
        work();
    }
}

fn cpu_time() -> Duration {
    // The kernel keeps both fields of this clock positive.
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
