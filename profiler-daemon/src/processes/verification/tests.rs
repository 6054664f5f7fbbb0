//! Stacks that were walked with mappings that the process did not have, or had no more.

use std::{path::PathBuf, time::Instant};

use profiler_common::{
    process::{Anchors, Exec, FileKey, Relocation, Template},
    python::PythonStop,
    stop::StopReason,
};

use crate::{
    kernel::records::{Pid, RawSample, UserFrames},
    processes::{
        Processes,
        double::WalkerDouble,
        fake_proc::{
            FakeProc, FakeProcess, START_NS, at, code_bytes, device_inode, event, exec, fork, map, native_program,
            rust_program, settle, targets,
        },
    },
};

const PROGRAM: u64 = 0x5000_0000_0000;
const LIBRARY: u64 = 0x7000_0000_0000;
const LOADER: u64 = 0x7100_0000_0000;
/// How far the parts of the second process lie from those of the first.
const PROGRAM_MOVED: u64 = 0x10_0000;
const LIBRARIES_MOVED: u64 = 0x30_0000;

fn libraries() -> [PathBuf; 2] {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut paths = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    let libc = std::fs::canonicalize(paths.find(|path| path.contains("/libc.so")).unwrap()).unwrap();
    ["libc.so.6", "libm.so.6"].map(|name| libc.with_file_name(name))
}

fn sample(time_ns: u64, pid: u32, generation: u32, user: &[u64]) -> RawSample<'_> {
    RawSample {
        time_ns: START_NS + time_ns,
        pid: Pid(pid),
        tid: pid,
        generation,
        thread_name: b"worker",
        in_kernel: false,
        kernel_stack_incomplete: false,
        stop: StopReason::Root,
        kernel_frames: &[],
        user: UserFrames::addresses_only(user),
        python: &[],
        python_stop: PythonStop::NotPython,
        has_gil: None,
        relocation: None,
    }
}

/// An owner that watches process 7, which maps its program and a library.
fn watching(proc: &FakeProc) -> (Processes<WalkerDouble>, Instant) {
    let rust = FakeProcess::new(&rust_program());
    proc.set(7, &rust);
    let base = Instant::now();
    let mut owner = proc.owner(targets());
    owner.scan(at(base, 0)).unwrap();
    settle(&mut owner, at(base, 0));
    let [library, _] = libraries();
    let end = LIBRARY + code_bytes(&library);
    owner.on_lifecycle(&map(10, 7, LIBRARY, end, &library), at(base, 11));
    settle(&mut owner, at(base, 12));
    (owner, base)
}

fn generation(owner: &Processes<WalkerDouble>) -> u32 {
    owner.walker().writes as u32
}

#[test]
fn a_library_in_the_place_of_another_is_not_walked_with_its_rows() {
    let proc = FakeProc::new();
    let (mut owner, base) = watching(&proc);
    let before = generation(&owner);
    let [library, other] = libraries();
    let in_library = LIBRARY + 0x2000;
    let frames = [PROGRAM + 0x1000, in_library, PROGRAM + 0x2000];
    let check = |owner: &mut Processes<WalkerDouble>, time_ns, generation, expect| {
        assert_eq!(owner.verified(&sample(time_ns, 7, generation, &frames)), expect);
    };
    let (whole, cut) = ((3, StopReason::Root), (2, StopReason::Pending));
    check(&mut owner, 15, before, whole);
    // Another library lies there from 20 on, which the walker does not know before the next list.
    let end = LIBRARY + code_bytes(&other);
    owner.on_lifecycle(&map(20, 7, LIBRARY, end, &other), at(base, 21));
    settle(&mut owner, at(base, 22));
    let after = generation(&owner);
    assert_ne!(before, after);
    check(&mut owner, 19, before, whole);
    check(&mut owner, 20, before, cut);
    check(&mut owner, 25, after, whole);
    // The first one again, at the same place: the list before the last had it so.
    let end = LIBRARY + code_bytes(&library);
    owner.on_lifecycle(&map(30, 7, LIBRARY, end, &library), at(base, 31));
    check(&mut owner, 32, before, whole);
    check(&mut owner, 32, after, cut);
    // A child is walked with the list that its parent had at the fork.
    owner.on_lifecycle(&fork(40, 8, 7), at(base, 41));
    assert_eq!(owner.verified(&sample(42, 8, after, &frames)), cut);
    assert_eq!(owner.verified(&sample(42, 8, before, &frames)), whole);
    // Nothing is known of a list that the process never had.
    assert_eq!(owner.verified(&sample(42, 7, 999, &frames)), (1, StopReason::Pending));
}

#[test]
fn what_the_program_before_was_walked_with_proves_nothing_of_the_next() {
    let proc = FakeProc::new();
    let (mut owner, base) = watching(&proc);
    let before = generation(&owner);
    owner.on_lifecycle(&exec(20, 7, "next"), at(base, 21));
    let program = native_program();
    owner.on_lifecycle(
        &map(21, 7, PROGRAM, PROGRAM + code_bytes(&program), &program),
        at(base, 22),
    );
    let frames = [PROGRAM + 0x1000, PROGRAM + 0x2000];
    assert_eq!(owner.verified(&sample(19, 7, before, &frames)), (2, StopReason::Root));
    assert_eq!(
        owner.verified(&sample(22, 7, before, &frames)),
        (1, StopReason::Pending)
    );
}

/// What the kernel sees of an exec of the Rust program whose parts lie so far from where they lay first.
fn executed(time_ns: u64, program_moved: u64, libraries_moved: u64) -> Exec {
    let (device, inode) = device_inode(&rust_program()).unwrap();
    Exec {
        time_ns: START_NS + time_ns,
        program: FileKey { device, inode },
        anchors: Anchors {
            code_start: PROGRAM + program_moved,
            loader_start: LOADER + libraries_moved,
            vdso_start: 0,
        },
        ..Exec::default()
    }
}

/// Executes the Rust program as a process, which maps some libraries: so far from where they lay first.
fn run(
    (proc, owner): (&FakeProc, &mut Processes<WalkerDouble>),
    (base, time_ns): (Instant, u64),
    pid: u32,
    moved: (u64, u64),
    libraries: &[(u64, &PathBuf)],
) {
    let (rust, now) = (rust_program(), at(base, time_ns));
    proc.set(pid, &FakeProcess::new(&rust));
    let seen = executed(time_ns, moved.0, moved.1);
    owner.walker_mut().execs.insert(Pid(pid), seen);
    owner.on_lifecycle(&exec(time_ns, pid, "program"), now);
    let start = PROGRAM + moved.0;
    owner.on_lifecycle(&map(time_ns + 1, pid, start, start + code_bytes(&rust), &rust), now);
    for (start, path) in libraries {
        owner.on_lifecycle(&map(time_ns + 2, pid, *start, start + code_bytes(path), path), now);
    }
    settle(owner, now);
}

/// The only template that there is, with its generation.
fn only_template(owner: &Processes<WalkerDouble>) -> Template {
    assert_eq!(owner.walker().templates.len(), 1);
    let (generation, layout, _) = owner.walker().templates.values().next().unwrap().clone();
    Template {
        anchors: layout.anchors,
        code_end: layout.code_end,
        vdso_end: layout.vdso_end,
        generation,
        ..Template::default()
    }
}

#[test]
fn a_template_from_before_a_library_was_mapped_gives_way_once_stacks_end_there() {
    let proc = FakeProc::new();
    let [library, _] = libraries();
    let base = Instant::now();
    let mut owner = proc.owner(targets());
    run((&proc, &mut owner), (base, 10), 7, (0, 0), &[]);
    let short = only_template(&owner);
    let whole: &[(u64, &PathBuf)] = &[(LIBRARY, &library)];
    run((&proc, &mut owner), (base, 100), 8, (0, 0), whole);
    assert_eq!(
        only_template(&owner).generation,
        short.generation,
        "nothing shows that it is short"
    );
    let frames = [PROGRAM + 0x1000, LIBRARY + 0x2000];
    let walked = |time_ns, pid, generation, stop| RawSample {
        relocation: Some(Relocation::NONE),
        stop,
        ..sample(time_ns, pid, generation, &frames)
    };
    // Where the process itself has nothing, another list would not help.
    assert_eq!(
        owner.verified(&walked(15, 7, short.generation, StopReason::NoMapping)),
        (2, StopReason::Pending)
    );
    run((&proc, &mut owner), (base, 200), 9, (0, 0), whole);
    assert_eq!(only_template(&owner).generation, short.generation);
    assert_eq!(
        owner.verified(&walked(205, 9, short.generation, StopReason::NoMapping)),
        (2, StopReason::Pending)
    );
    run((&proc, &mut owner), (base, 300), 10, (0, 0), &[]);
    assert_eq!(only_template(&owner).generation, short.generation, "no longer than it");
    run((&proc, &mut owner), (base, 400), 11, (0, 0), whole);
    let longer = only_template(&owner).generation;
    assert_ne!(longer, short.generation);
    assert_eq!(
        owner.verified(&walked(405, 11, longer, StopReason::Root)),
        (2, StopReason::Root)
    );
    run((&proc, &mut owner), (base, 500), 12, (0, 0), whole);
    assert_eq!(only_template(&owner).generation, longer, "it stays");
}

#[test]
fn a_template_that_guesses_wrongly_makes_no_wrong_stack() {
    let proc = FakeProc::new();
    let [library, other] = libraries();
    let base = Instant::now();
    let mut owner = proc.owner(targets());
    run((&proc, &mut owner), (base, 10), 7, (0, 0), &[(LIBRARY, &library)]);
    // What a template is made of is known whole by now.
    let template = only_template(&owner);
    let generation = template.generation;
    let moved = (PROGRAM_MOVED, LIBRARIES_MOVED);
    let relocation = template.entry(&executed(0, moved.0, moved.1).anchors).relocation;
    let expected = LIBRARY + LIBRARIES_MOVED;
    let mut check = |pid: u32, libraries: &[(u64, &PathBuf)], expect: (usize, StopReason)| {
        let time_ns = u64::from(pid) * 100;
        run((&proc, &mut owner), (base, time_ns), pid, moved, libraries);
        let frames = [
            PROGRAM + PROGRAM_MOVED + 0x1000,
            expected + 0x2000,
            PROGRAM + PROGRAM_MOVED + 0x2000,
        ];
        let walked = RawSample {
            relocation: Some(relocation),
            ..sample(time_ns + 5, pid, generation, &frames)
        };
        assert_eq!(owner.verified(&walked), expect, "process {pid}");
        // Nor is the kernel's word taken for where things lie.
        let unmoved = RawSample {
            relocation: Some(Relocation::NONE),
            ..walked
        };
        assert_eq!(owner.verified(&unmoved), (1, StopReason::Pending), "process {pid}");
    };
    check(8, &[(expected, &library)], (3, StopReason::Root));
    // Another library lies where that one is expected: it was replaced on disk, or is loaded in another order.
    check(9, &[(expected, &other)], (2, StopReason::Pending));
    // The library lies elsewhere, and what is expected there is no code at all.
    check(10, &[(expected + 0x100_0000, &library)], (2, StopReason::Pending));
    // Or it lies a page beside.
    check(11, &[(expected + 0x1000, &library)], (2, StopReason::Pending));
    check(12, &[], (2, StopReason::Pending));
}

#[test]
fn a_template_of_another_program_proves_nothing() {
    let proc = FakeProc::new();
    let (mut owner, base) = watching(&proc);
    owner.on_lifecycle(
        &event(20, crate::kernel::records::LifecycleEvent::Exit { pid: Pid(7) }),
        at(base, 21),
    );
    let frames = [PROGRAM + 0x1000, PROGRAM + 0x2000];
    let unknown = profiler_common::process::TEMPLATE_GENERATION | 77;
    let walked = RawSample {
        relocation: Some(Relocation::NONE),
        ..sample(15, 7, unknown, &frames)
    };
    assert_eq!(owner.verified(&walked), (1, StopReason::Pending));
}
