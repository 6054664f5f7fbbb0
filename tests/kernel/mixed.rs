//! A program with recursion, callbacks, allocation, system calls, a PLT and signal handlers: built in the usual ways.

use std::path::Path;

use crate::{
    FAST_HZ, host, only,
    profile::{Profile, Stack},
    profile_of, profile_once, profile_when, start,
};

const ENOUGH_SAMPLES: u64 = 10_000;
const ROOTED_PERCENT: f64 = 99.5;
const LOST_PERCENT: f64 = 0.1;
/// Signals interrupt any function anywhere, also between two instructions of a prologue: still each stack is held to this.
const STACK_PERCENT: f64 = 99.5;
/// Calls of `recurse` below each other.
const DEPTH: usize = 40;
/// What both threads do in turn.
const WORK: [&str; 5] = ["recurse", "sort_numbers", "grow_tree", "read_zeros", "call_through_plt"];

/// Whether a profile is long enough for what a loud machine did to it to be a small part.
fn is_settled(profile: &Profile) -> bool {
    profile.rooted_share() >= ROOTED_PERCENT && profile.lost_share() <= LOST_PERCENT
}

#[test]
fn a_rust_program_is_discovered() {
    let Some(host) = host() else { return };
    let program = host.rust("mixed");
    let daemon = host.daemon(&format!("[sampling]\nhz = {FAST_HZ}\n"));
    let mixed = start(&program, &[]);
    let whole = |stack: &Stack| stack.has_in_order(&["_start", "main", "mixed::main", "run_rounds"]);
    // Its first windows may be named before its symbols are read.
    let profile = profile_when(
        || Some(profile_of(&daemon, mixed.pid())),
        |profile| profile.samples >= 500 && profile.count(whole) > 0,
    );
    let process = daemon.process(mixed.pid());
    assert_eq!(
        (&process["runtime"], &process["watch_reason"]),
        (&"rust".into(), &"discovered".into()),
        "{process}"
    );
    assert_eq!(process["watch_state"], "watched", "{process}");
    assert!(profile.count(whole) > 0, "{:#?}", profile.stacks);
}

#[test]
fn stacks_of_all_kinds_reach_their_root() {
    let Some(host) = host() else { return };
    let program = host.rust("mixed");
    let daemon = host.daemon(&only(FAST_HZ, "mixed"));
    let mixed = start(&program, &[]);
    let profile = profile_once(&daemon, mixed.pid(), ENOUGH_SAMPLES, is_settled);
    profile.assert_rooted(ROOTED_PERCENT);
    profile.assert_lost_at_most(LOST_PERCENT);
    assert_callers(&profile);
    assert_libc(&profile);
    assert_kernel(&profile);
    assert_signals(&profile);
}

#[test]
fn without_symbols_it_is_walked_to_its_root() {
    let Some(host) = host() else { return };
    let program = host.rust_with("mixed", &["-Cstrip=symbols"]);
    // Running before the daemon: it is found by the scan.
    let mixed = start(&program, &[]);
    let daemon = host.daemon(&only(FAST_HZ, "mixed"));
    let profile = profile_once(&daemon, mixed.pid(), ENOUGH_SAMPLES / 2, is_settled);
    profile.assert_rooted(ROOTED_PERCENT);
    let named = |stack: &Stack| {
        let mut own = stack.frames.iter().filter(|frame| frame.module == "mixed");
        own.all(|frame| {
            !frame.function.is_empty() && frame.function.starts_with("mixed+0x") == (frame.kind == "unnamed")
        })
    };
    profile.assert_share("named by module and offset", 100.0, |_| true, named);
    profile.assert_share(
        "of the program without a name",
        99.0,
        |_| true,
        |stack| {
            stack
                .frames
                .iter()
                .any(|frame| frame.module == "mixed" && frame.kind == "unnamed")
        },
    );
}

#[test]
fn a_static_position_independent_program_is_walked_to_its_root() {
    let Some(host) = host() else { return };
    if !Path::new("/usr/lib/x86_64-linux-gnu/libc.a").exists() && !Path::new("/usr/lib64/libc.a").exists() {
        return crate::skip("there is no static C library");
    }
    let program = host.rust_with("mixed", &["-Ctarget-feature=+crt-static", "-Crelocation-model=pie"]);
    let daemon = host.daemon(&only(FAST_HZ, "mixed"));
    let mixed = start(&program, &[]);
    let profile = profile_once(&daemon, mixed.pid(), ENOUGH_SAMPLES / 2, is_settled);
    profile.assert_rooted(ROOTED_PERCENT);
    assert_callers(&profile);
    assert_signals(&profile);
}

/// Each kind of work has its callers up to the thread's root, in both threads.
fn assert_callers(profile: &Profile) {
    for function in WORK {
        let in_main = |stack: &Stack| stack.has_in_order(&["_start", "main", "mixed::main", "run_rounds", function]);
        let in_second = |stack: &Stack| stack.has_in_order(&["run_second", "run_rounds", function]);
        let whole = |stack: &Stack| in_main(stack) || in_second(stack);
        profile.assert_share(function, STACK_PERCENT, |stack| stack.has(function), whole);
        assert!(profile.count(in_main) > 0, "{function} of the first thread");
        assert!(profile.count(in_second) > 0, "{function} of the second thread");
    }
    let whole = |stack: &Stack| stack.count("recurse") == DEPTH;
    profile.assert_share(
        "all recursion",
        STACK_PERCENT,
        |stack| stack.has("spin_at_the_bottom"),
        whole,
    );
}

/// What lies between Rust and Rust, or below Rust, is the C library's.
fn assert_libc(profile: &Profile) {
    let through_libc = |stack: &Stack| {
        let (caller, callback) = (stack.position("sort_numbers"), stack.position("compare_numbers"));
        let (Some(caller), Some(callback)) = (caller, callback) else {
            return false;
        };
        let between = stack.frames.get(caller + 1..callback).unwrap_or_default();
        !between.is_empty() && between.iter().all(|frame| frame.module.starts_with("libc"))
    };
    profile.assert_share(
        "callback through qsort",
        STACK_PERCENT,
        |stack| stack.has("compare_numbers"),
        through_libc,
    );
    // With the debug file of the C library it may have the name of an alias, such as `__GI___qsort_r`.
    let sorts = profile.count(|stack| {
        let mut frames = stack.frames.iter();
        stack.has_in_order(&["sort_numbers", "compare_numbers"])
            && frames.any(|frame| frame.function.ends_with("qsort_r"))
    });
    assert!(sorts > 0, "qsort has a name");
    let in_allocator = |stack: &Stack| {
        stack.has("grow_tree") && stack.user_leaf().is_some_and(|frame| frame.module.starts_with("libc"))
    };
    assert!(profile.count(in_allocator) > 0, "allocation below grow_tree");
    profile.assert_share(
        "called through the PLT",
        STACK_PERCENT,
        |stack| stack.user_leaf().is_some_and(|frame| frame.is("rand_r")),
        |stack| stack.has("call_through_plt"),
    );
    if profile.count(is_in_plt) > 0 {
        profile.assert_share("interrupted in the PLT", 90.0, is_in_plt, |stack| {
            stack.has("run_rounds")
        });
    }
}

/// Whether it was interrupted in the PLT, of which each call executes one instruction.
fn is_in_plt(stack: &Stack) -> bool {
    stack.user_leaf().is_some_and(|frame| frame.function.ends_with("@plt"))
}

/// The kernel's frames lie on the system call, and on nothing else of the user's.
fn assert_kernel(profile: &Profile) {
    let reads = |stack: &Stack| stack.has("vfs_read");
    profile.assert_share("read in the kernel", STACK_PERCENT, reads, |stack| {
        let first = stack.frames.iter().position(|frame| frame.is_kernel());
        let calls = first.is_some_and(|first| stack.frames[first..].iter().all(|frame| frame.is_kernel()));
        calls && stack.has("read_zeros")
    });
}

/// A handler's stack goes on at the interrupted function, on whichever stack the handler ran.
fn assert_signals(profile: &Profile) {
    for (handler, work) in [
        ("on_alarm", "work_in_handler"),
        ("on_user_signal", "work_on_alternate_stack"),
    ] {
        // The trampoline that a handler returns to lies between it and what it interrupted.
        let interrupts = |stack: &Stack| {
            let (thread, handled) = (stack.position("run_rounds"), stack.position(handler));
            let in_thread = stack.has_in_order(&["_start", "mixed::main"]) || stack.has("run_second");
            in_thread
                && matches!((thread, handled), (Some(thread), Some(handled)) if handled >= thread + 2)
                && stack.has_in_order(&["run_rounds", handler, work])
        };
        profile.assert_share(handler, STACK_PERCENT, |stack| stack.has(work), interrupts);
        let interrupted = |stack: &Stack| {
            WORK.iter()
                .any(|function| stack.has_in_order(&[function, handler, work]))
        };
        profile.assert_share("interrupted work", 90.0, |stack| stack.has(work), interrupted);
    }
    profile.assert_share(
        "the second thread's signal",
        STACK_PERCENT,
        |stack| stack.has("on_user_signal"),
        |stack| stack.has("run_second"),
    );
}
