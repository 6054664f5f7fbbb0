//! Counting and looking up samples over an owner of processes that reads a made-up `/proc`.

use std::{
    path::Path,
    sync::LazyLock,
    time::{Duration, Instant, SystemTime},
};

use profiler_common::{python::PythonStop, stop::StopReason};

use super::{Aggregator, LOST_UNKNOWN_PROCESS, LOST_WINDOW_FULL, Moment, WindowLimits};
use crate::{
    kernel::records::{MARKED_GENERATION, Pid, RawSample, UserFrames},
    processes::{
        Processes,
        double::WalkerDouble,
        fake_proc::{
            FakeProc, FakeProcess, START_NS, at, exec, exit, map, native_program, rust_program, settle, targets,
            watch_all,
        },
        scan::ProcFs,
    },
    stacks::codes::PythonCodes,
    stacks::window::{Location, RawStack, StackWindow},
};

const CODE: u64 = 0x10_0000;

fn epoch(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// When the tests began; the tests' clocks show some seconds since then.
static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A moment at which nobody has set the clock.
fn moment(seconds: u64) -> Moment {
    Moment {
        time: epoch(seconds),
        steady: *BEGUN + Duration::from_secs(seconds),
    }
}

fn aggregator(limits: WindowLimits) -> Aggregator {
    let codes = PythonCodes::start(ProcFs::new("/nonexistent")).unwrap();
    Aggregator::new(Duration::from_millis(10), limits, moment(100), codes)
}

fn sample<'a>(time_ns: u64, pid: u32, thread: &'a str, user: &'a [u64]) -> RawSample<'a> {
    RawSample {
        relocation: None,
        time_ns: START_NS + time_ns,
        pid: Pid(pid),
        tid: pid,
        generation: 1,
        thread_name: thread.as_bytes(),
        in_kernel: false,
        kernel_stack_incomplete: false,
        stop: StopReason::Root,
        kernel_frames: &[],
        user: UserFrames::addresses_only(user),
        python: &[],
        python_stop: PythonStop::NotPython,
        has_gil: None,
    }
}

/// A process whose code of interest lies in memory without a file: addresses there stay as they are.
struct Host {
    proc: FakeProc,
    owner: Processes<WalkerDouble>,
    base: Instant,
}

impl Host {
    fn new() -> Self {
        let proc = FakeProc::new();
        let base = Instant::now();
        let mut owner = proc.owner(watch_all());
        let process = FakeProcess::new(&native_program());
        proc.set(7, &process);
        owner.on_lifecycle(&exec(1, 7, "service"), at(base, 1));
        owner.on_lifecycle(&map(2, 7, 0x1000, 0x2000, &native_program()), at(base, 2));
        owner.on_lifecycle(&map(3, 7, CODE, 2 * CODE, Path::new("//anon")), at(base, 3));
        settle(&mut owner, at(base, 4));
        Self { proc, owner, base }
    }
}

fn counts(window: &StackWindow) -> Vec<(&str, Vec<String>, u64)> {
    let mut counts: Vec<_> = window
        .processes
        .iter()
        .flat_map(|process| &process.stacks)
        .map(|(stack, &count)| (&*stack.thread, stack.user.iter().map(shown).collect(), count))
        .collect();
    counts.sort();
    counts
}

fn shown(location: &Location) -> String {
    match location {
        Location::Object { object, link_address } => format!("{}+{link_address:x}", object.name),
        Location::Python { instruction, .. } => format!("python at {instruction}"),
        Location::Unmapped { runtime_address } => format!("?{runtime_address:x}"),
    }
}

#[test]
fn an_entry_that_the_kernel_marked_is_written_again() {
    let mut host = Host::new();
    let mut aggregator = aggregator(WindowLimits::default());
    let writes = host.owner.walker().writes;
    aggregator.on_sample(&sample(10, 7, "worker", &[CODE]), &mut host.owner);
    host.owner.poll(at(host.base, 11));
    assert_eq!(host.owner.walker().writes, writes);
    let pending = RawSample {
        generation: MARKED_GENERATION,
        stop: StopReason::Pending,
        ..sample(20, 7, "worker", &[CODE])
    };
    aggregator.on_sample(&pending, &mut host.owner);
    host.owner.poll(at(host.base, 21));
    assert_eq!(host.owner.walker().writes, writes + 1);
}

#[test]
fn kernel_stacks_that_are_not_whole_are_counted_and_a_new_period_is_the_next_windows() {
    let mut host = Host::new();
    let mut aggregator = aggregator(WindowLimits::default());
    let cut = RawSample {
        kernel_stack_incomplete: true,
        ..sample(10, 7, "worker", &[CODE])
    };
    aggregator.on_sample(&cut, &mut host.owner);
    aggregator.on_sample(&sample(20, 7, "worker", &[CODE]), &mut host.owner);
    let window = aggregator.take(moment(105), &host.owner);
    assert_eq!(window.processes[0].incomplete_kernel_stacks, 1);
    assert_eq!(window.period, Duration::from_millis(10));
    aggregator.set_period(Duration::from_millis(20));
    aggregator.on_sample(&sample(30, 7, "worker", &[CODE]), &mut host.owner);
    let window = aggregator.take(moment(110), &host.owner);
    assert_eq!(window.processes[0].incomplete_kernel_stacks, 0);
    assert_eq!(window.period, Duration::from_millis(20));
}

#[test]
fn equal_stacks_are_counted_and_return_addresses_point_at_the_call() {
    let mut host = Host::new();
    let mut aggregator = aggregator(WindowLimits::default());
    let stack = [CODE + 0x10, CODE + 0x20, 0xdead];
    for time in [10, 20, 30] {
        aggregator.on_sample(&sample(time, 7, "worker", &stack), &mut host.owner);
    }
    aggregator.on_sample(&sample(40, 7, "other", &stack), &mut host.owner);
    let kernel = RawSample {
        kernel_frames: &[1, 2],
        stop: StopReason::ReadFailed,
        ..sample(50, 7, "worker", &[])
    };
    aggregator.on_sample(&kernel, &mut host.owner);
    aggregator.add_lost("ring_full", 3);
    aggregator.add_lost("busy", 0);
    assert_eq!(aggregator.samples(), 5);
    let window = aggregator.take(moment(105), &host.owner);
    let frames = ["[anon]+100010", "[anon]+10001f", "?deac"].map(str::to_owned).to_vec();
    assert_eq!(
        counts(&window),
        [
            ("other", frames.clone(), 1),
            ("worker", Vec::new(), 1),
            ("worker", frames, 3)
        ]
    );
    let [process] = &window.processes[..] else {
        panic!("one process")
    };
    assert_eq!((process.label.pid, &*process.label.name), (7, "service"));
    let stops: Vec<_> = process.stops.iter().map(|(stop, count)| (*stop, *count)).collect();
    assert_eq!(stops, [(StopReason::Root, 4), (StopReason::ReadFailed, 1)]);
    let kernel_stack = |stack: &&RawStack| !stack.kernel.is_empty();
    assert_eq!(*process.stacks.keys().find(kernel_stack).unwrap().kernel, [1, 2]);
    assert_eq!(
        window.lost.into_iter().collect::<Vec<_>>(),
        [("ring_full".to_owned(), 3)]
    );
    assert_eq!(
        (window.start, window.end, window.period),
        (epoch(100), epoch(105), Duration::from_millis(10))
    );

    let next = aggregator.take(moment(107), &host.owner);
    assert!(next.processes.is_empty() && next.lost.is_empty());
    assert_eq!((next.start, next.end), (epoch(105), epoch(107)));
    let summary = host.owner.list(None).unwrap().remove(0);
    assert_eq!((summary.samples, summary.rooted_samples), (5, 4));
}

#[test]
fn a_window_is_as_long_as_it_was_when_the_clock_is_set() {
    let host = Host::new();
    let mut aggregator = aggregator(WindowLimits::default());
    let mut check = |steady: u64, time: SystemTime, start: SystemTime| {
        let now = Moment { time, ..moment(steady) };
        let window = aggregator.take(now, &host.owner);
        assert_eq!((window.start, window.end), (start, time), "after {steady} s");
    };
    let ahead = 86_400;
    check(105, epoch(105), epoch(100));
    check(110, epoch(ahead + 110), epoch(ahead + 105));
    check(115, epoch(ahead + 115), epoch(ahead + 110));
    check(120, epoch(20), epoch(15));
    // A clock that is only corrected leaves no gap between windows.
    check(125, epoch(25) + Duration::from_millis(30), epoch(20));
    // The epoch itself is not passed.
    check(130, epoch(2), epoch(2) - Duration::from_secs(5));
}

#[test]
fn a_sample_sees_the_mappings_of_its_moment() {
    let mut host = Host::new();
    let mut aggregator = aggregator(WindowLimits::default());
    let stack = [CODE + 0x10];
    aggregator.on_sample(&sample(10, 7, "t", &stack), &mut host.owner);
    host.owner
        .on_lifecycle(&map(20, 7, CODE, 2 * CODE, Path::new("[heap]")), at(host.base, 20));
    aggregator.on_sample(&sample(19, 7, "t", &stack), &mut host.owner);
    aggregator.on_sample(&sample(20, 7, "t", &stack), &mut host.owner);
    // Mapped before the sample, heard of after it, and before the window ends.
    aggregator.on_sample(&sample(30, 7, "t", &[5 * CODE]), &mut host.owner);
    host.owner
        .on_lifecycle(&map(25, 7, 5 * CODE, 6 * CODE, Path::new("//anon")), at(host.base, 31));
    let window = aggregator.take(moment(105), &host.owner);
    let one = |text: &str| vec![text.to_owned()];
    assert_eq!(
        counts(&window),
        [
            ("t", one("[anon]+100010"), 2),
            ("t", one("[anon]+500000"), 1),
            ("t", one("[heap]+100010"), 1)
        ]
    );
}

#[test]
fn programs_of_one_process_are_told_apart() {
    let mut host = Host::new();
    let mut aggregator = aggregator(WindowLimits::default());
    let stack = [CODE + 0x10];
    aggregator.on_sample(&sample(10, 7, "t", &stack), &mut host.owner);
    host.owner.on_lifecycle(&exec(20, 7, "second"), at(host.base, 20));
    aggregator.on_sample(&sample(21, 7, "t", &stack), &mut host.owner);
    host.proc.remove(7);
    host.owner.on_lifecycle(&exit(30, 7), at(host.base, 30));
    aggregator.on_sample(&sample(29, 7, "t", &stack), &mut host.owner);
    aggregator.on_sample(&sample(30, 7, "t", &stack), &mut host.owner);
    aggregator.on_sample(&sample(10, 8, "t", &stack), &mut host.owner);
    host.owner.poll(at(host.base, 5_000_000_000));
    let window = aggregator.take(moment(105), &host.owner);
    let names: Vec<_> = window
        .processes
        .iter()
        .map(|process| (&*process.label.name, process.stacks.values().sum()))
        .collect();
    assert_eq!(
        {
            let mut names = names;
            names.sort();
            names
        },
        [("second", 3_u64), ("service", 1)]
    );
    assert_eq!(window.lost[LOST_UNKNOWN_PROCESS], 1);
}

#[test]
fn a_full_window_counts_what_it_loses() {
    let mut host = Host::new();
    let check = |host: &mut Host, limits: WindowLimits, expected_stacks: u64| {
        let mut aggregator = aggregator(limits);
        for number in 0..100 {
            aggregator.on_sample(&sample(10, 7, "t", &[CODE + number, CODE]), &mut host.owner);
            aggregator.on_sample(&sample(10, 7, "t", &[CODE, CODE]), &mut host.owner);
        }
        let window = aggregator.take(moment(105), &host.owner);
        let stacks = &window.processes[0].stacks;
        assert_eq!(stacks.len() as u64, expected_stacks);
        assert_eq!(stacks.values().sum::<u64>() + window.lost[LOST_WINDOW_FULL], 200);
        assert_eq!(window.processes[0].stops[&StopReason::Root], 100 + expected_stacks);
        // The next window has room again.
        aggregator.on_sample(&sample(10, 7, "t", &[CODE, CODE]), &mut host.owner);
        assert_eq!(aggregator.take(moment(110), &host.owner).lost.len(), 0);
    };
    let limits = WindowLimits::default();
    check(
        &mut host,
        WindowLimits {
            max_stacks: 10,
            ..limits
        },
        10,
    );
    check(
        &mut host,
        WindowLimits {
            max_bytes: 20 * 104,
            ..limits
        },
        20,
    );
}

#[test]
fn names_of_threads_are_bounded_and_harmless() {
    let mut host = Host::new();
    let mut aggregator = aggregator(WindowLimits {
        max_thread_names: 2,
        ..WindowLimits::default()
    });
    for name in ["a", "b", "c", "d", "a"] {
        aggregator.on_sample(&sample(10, 7, name, &[CODE]), &mut host.owner);
    }
    let window = aggregator.take(moment(105), &host.owner);
    let names: Vec<_> = counts(&window)
        .into_iter()
        .map(|(name, _, count)| (name.to_owned(), count))
        .collect();
    let expected = [("[other threads]", 2), ("a", 2), ("b", 1)].map(|(name, count)| (name.to_owned(), count));
    assert_eq!(names, expected);
    let odd = RawSample {
        thread_name: b"\xff\x1b[0m",
        ..sample(10, 7, "", &[CODE])
    };
    aggregator.on_sample(&odd, &mut host.owner);
    assert_eq!(
        counts(&aggregator.take(moment(110), &host.owner))[0].0,
        "\u{fffd}\u{1b}[0m"
    );
}

/// The frame that a signal struck is looked up where it is, not before: it was not called.
#[test]
fn the_frame_below_a_signal_trampoline_is_no_return_address() {
    let own = Pid(std::process::id());
    let maps = ProcFs::new("/proc").maps(own).unwrap();
    let is_libc = |path: &[u8]| path.windows(7).any(|part| part == b"libc.so");
    let Some(libc) = maps.executable.iter().find(|record| is_libc(&record.path)) else {
        println!("skipped: this test is not linked with a shared C library");
        return;
    };
    let bytes = std::fs::read(Path::new(std::str::from_utf8(&libc.path).unwrap())).unwrap();
    let (content, table) = crate::processes::unwind::compile(&bytes[..], |_| false).unwrap();
    let summary = crate::processes::unwind::UnwindSummary::of(content, &table.unwrap());
    let trampoline = (libc.file_offset..libc.file_offset + libc.length)
        .find(|&link_address| summary.is_signal_frame(link_address))
        .expect("the C library returns from signals");

    let proc = FakeProc::new();
    let base = Instant::now();
    proc.set(7, &FakeProcess::new(&rust_program()));
    std::fs::copy(format!("/proc/{own}/maps"), proc.root().join("7/maps")).unwrap();
    let mut owner = proc.owner(targets());
    owner.scan(at(base, 0)).unwrap();
    settle(&mut owner, at(base, 0));
    let bias = libc.start - libc.file_offset;
    // A return address into the trampoline is one past the first byte that its description covers.
    let user = [
        bias + trampoline + 0x1000,
        bias + trampoline + 1,
        bias + 0x5_0000,
        bias + 0x6_0000,
    ];
    let mut aggregator = aggregator(WindowLimits::default());
    aggregator.on_sample(&sample(1, 7, "t", &user), &mut owner);
    let window = aggregator.take(moment(105), &owner);
    let stack = window.processes[0].stacks.keys().next().unwrap();
    let links: Vec<u64> = stack
        .user
        .iter()
        .map(|location| match location {
            Location::Object { link_address, .. } => *link_address,
            Location::Python { .. } | Location::Unmapped { .. } => 0,
        })
        .collect();
    assert_eq!(links, [trampoline + 0x1000, trampoline, 0x5_0000, 0x5_ffff]);
}
