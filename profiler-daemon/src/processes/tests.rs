//! The owner of processes over a tree that looks like `/proc`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use profiler_config::{Pattern, Targets};
use proptest::prelude::*;

use super::{
    Processes,
    double::WalkerDouble,
    fake_proc::{
        FakeProc, FakeProcess, SECOND_NS, START_NS, at, event, exec, exit, fork, map, native_program, rust_program,
        settle, targets, watch_all,
    },
    walker_tables::Backing,
};
use crate::{
    command::{Lease, ProcessError, Runtime, WatchError, WatchId, WatchProgress, WatchStart, WatchState},
    kernel::records::{LifecycleEvent, Pid},
    stacks::window::Location,
};

type Owner = Processes<WalkerDouble>;

const CODE: u64 = 0x5000_0000_0000;

fn watched(owner: &Owner) -> Vec<u32> {
    owner.walker().processes.keys().map(|pid| pid.0).collect()
}

fn ranges(owner: &Owner, pid: u32) -> Vec<(u64, u64)> {
    owner.walker().processes[&Pid(pid)]
        .iter()
        .map(|mapping| (mapping.start, mapping.end))
        .collect()
}

/// Name of what lies at an address of a process at a time.
fn object_at(owner: &Owner, pid: u32, address: u64, time_ns: u64) -> Option<String> {
    let image = owner.image_at(Pid(pid), START_NS + time_ns)?;
    match image.resolve(address, START_NS + time_ns).location {
        Location::Object { object, .. } => Some(object.name.to_string()),
        Location::Python { .. } | Location::Unmapped { .. } => None,
    }
}

fn program_name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// An owner over a tree with these processes, scanned and settled.
fn scanned(proc: &FakeProc, targets: Targets, processes: &[(u32, FakeProcess)]) -> (Owner, Instant) {
    for (pid, process) in processes {
        proc.set(*pid, process);
    }
    let base = Instant::now();
    let mut owner = proc.owner(targets);
    owner.scan(at(base, 0)).unwrap();
    settle(&mut owner, at(base, 0));
    (owner, base)
}

#[test]
fn rust_programs_are_found_and_get_rows() {
    let proc = FakeProc::new();
    let rust = FakeProcess {
        cgroup: "0::/system.slice/api.service\n".to_owned(),
        ..FakeProcess::new(&rust_program())
    };
    let kernel_thread = FakeProcess {
        flags: 0x0020_0000,
        ..FakeProcess::new(&native_program())
    };
    let processes = [
        (1, FakeProcess::new(&native_program())),
        (2, kernel_thread),
        (7, rust.clone()),
        (8, rust.clone()),
        (999, rust),
    ];
    let (mut owner, _) = scanned(&proc, targets(), &processes);
    assert_eq!(
        watched(&owner),
        [7, 8],
        "neither the native program nor the profiler itself"
    );
    for pid in [7, 8] {
        let mappings = &owner.walker().processes[&Pid(pid)];
        assert!(
            mappings
                .iter()
                .any(|mapping| matches!(mapping.backing, Backing::Rows(_))),
            "{mappings:x?}"
        );
    }
    assert_eq!(owner.walker().tables.len(), 1, "both share the rows");

    let list = owner.list(None).unwrap();
    assert_eq!(list.iter().map(|process| process.pid.0).collect::<Vec<_>>(), [7, 8]);
    let first = &list[0];
    assert_eq!(first.start, SystemTime::UNIX_EPOCH + Duration::from_secs(1));
    assert_eq!(
        (first.runtime, first.watch_state, first.user_id),
        (Runtime::Rust, WatchState::Watched, 1007)
    );
    assert_eq!((&*first.service, &*first.watch_reason), ("api.service", "discovered"));
    assert_eq!(first.executable, rust_program().to_string_lossy());
    assert_eq!(first.command_line, [program_name(&rust_program()), "--flag".to_owned()]);

    let other = |owner: &mut Owner, pid| owner.list(Some(Pid(pid))).unwrap().remove(0);
    let native = other(&mut owner, 1);
    assert_eq!(
        (native.runtime, native.watch_state),
        (Runtime::Native, WatchState::NotWatched)
    );
    assert_eq!(native.watch_reason, "neither a Rust nor a Python program");
    assert_eq!(other(&mut owner, 2).watch_reason, "a kernel thread");
    assert_eq!(other(&mut owner, 999).watch_reason, "the profiler itself");
    assert_eq!(
        owner.list(Some(Pid(55))),
        Err(ProcessError::NoSuchProcess { pid: Pid(55) })
    );
}

#[test]
fn real_mappings_of_this_process_get_rows() {
    // The tree holds this process as /proc has it, under another id.
    let proc = FakeProc::new();
    let mut process = FakeProcess::new(&rust_program());
    process.mappings.clear();
    proc.set(7, &process);
    let own = std::fs::read_to_string("/proc/self/maps").unwrap();
    std::fs::write(proc.root().join("7/maps"), &own).unwrap();
    let base = Instant::now();
    let mut owner = proc.owner(targets());
    owner.scan(at(base, 0)).unwrap();
    settle(&mut owner, at(base, 0));
    let with_rows = |owner: &Owner| {
        let mappings = &owner.walker().processes[&Pid(7)];
        mappings
            .iter()
            .filter(|mapping| matches!(mapping.backing, Backing::Rows(_)))
            .count()
    };
    assert!(
        with_rows(&owner) >= 2,
        "the program and the C library: {:x?}",
        owner.walker().processes
    );
    let function = real_mappings_of_this_process_get_rows as *const () as u64;
    let covers = |mapping: &&super::walker_tables::WalkerMapping| (mapping.start..mapping.end).contains(&function);
    let mapping = owner.walker().processes[&Pid(7)].iter().find(covers).unwrap();
    assert!(matches!(mapping.backing, Backing::Rows(_)));
    assert_eq!(object_at(&owner, 7, function, 0), Some(program_name(&rust_program())));
    let summary = owner.list(None).unwrap().remove(0);
    assert_eq!(summary.mappings_with_rows as usize, with_rows(&owner));
}

#[test]
fn python_is_recognised_in_the_program_and_in_a_library() {
    let directory = tempfile::tempdir().unwrap();
    let build = |name: &str, source: &str, arguments: &[&str]| {
        let (input, output) = (directory.path().join(format!("{name}.c")), directory.path().join(name));
        std::fs::write(&input, source).unwrap();
        let status = Command::new("cc")
            .args(arguments)
            .arg("-o")
            .arg(&output)
            .arg(&input)
            .status();
        status.is_ok_and(|status| status.success()).then_some(output)
    };
    let interpreter = build(
        "interpreter",
        "long _PyRuntime[9] = {1}; int main(void) { return 0; }",
        &["-rdynamic"],
    );
    let library = build("libpython3.so.1", "long _PyRuntime[9] = {1};", &["-shared", "-fPIC"]);
    let named_so_only = build("libpython4.so.1", "long other[9] = {1};", &["-shared", "-fPIC"]);
    let (Some(interpreter), Some(library), Some(named_so_only)) = (interpreter, library, named_so_only) else {
        println!("skipped: cc is missing");
        return;
    };
    let with_library = |library: PathBuf| {
        let mut process = FakeProcess::new(&native_program());
        process.mappings.push((0x7000_0000_0000, 0x7000_0000_1000, library));
        process
    };
    let proc = FakeProc::new();
    let processes = [
        (7, FakeProcess::new(&interpreter)),
        (8, with_library(library.clone())),
        (9, with_library(named_so_only)),
        (10, FakeProcess::new(&native_program())),
    ];
    let (mut owner, base) = scanned(&proc, targets(), &processes);
    assert_eq!(watched(&owner), [0_u32; 0]);
    let discovering = Targets {
        discover_python: true,
        ..targets()
    };
    let (discovered, _) = scanned(&proc, discovering, &processes);
    assert_eq!(watched(&discovered), [7, 8]);
    let described = |owner: &mut Owner, pid| {
        let process = owner.list(Some(Pid(pid))).unwrap().remove(0);
        (process.runtime, process.watch_reason)
    };
    let python = (Runtime::Python, "discovery of Python programs is off".to_owned());
    let native = (Runtime::Native, "neither a Rust nor a Python program".to_owned());
    assert_eq!(described(&mut owner, 7), python);
    assert_eq!(described(&mut owner, 8), python);
    assert_eq!(described(&mut owner, 9), native);
    assert_eq!(described(&mut owner, 10), native);
    // It is loaded later.
    let load = |owner: &mut Owner, base| {
        proc.set(10, &with_library(library.clone()));
        owner.on_lifecycle(&map(5, 10, 0x7000_0000_0000, 0x7000_0000_1000, &library), at(base, 5));
        settle(owner, at(base, 5));
    };
    load(&mut owner, base);
    assert_eq!(described(&mut owner, 10), python);
    // The same in a process that is watched before it has an interpreter.
    let including = Targets {
        include: vec![Pattern::new(&program_name(&native_program())).unwrap()],
        ..targets()
    };
    let (mut owner, base) = scanned(&proc, including, &processes);
    assert!(watched(&owner).contains(&10));
    assert_eq!(described(&mut owner, 10).0, Runtime::Native);
    load(&mut owner, base);
    assert_eq!(described(&mut owner, 10).0, Runtime::Python);
}

#[test]
fn includes_excludes_and_the_limit() {
    let (rust, native) = (FakeProcess::new(&rust_program()), FakeProcess::new(&native_program()));
    let check = |targets: Targets, expected: &[u32]| {
        let proc = FakeProc::new();
        let processes = [(7, rust.clone()), (8, native.clone()), (9, rust.clone())];
        let (owner, _) = scanned(&proc, targets, &processes);
        assert_eq!(watched(&owner), expected);
    };
    let pattern = |path: PathBuf| vec![Pattern::new(&program_name(&path)).unwrap()];
    check(targets(), &[7, 9]);
    check(
        Targets {
            discover_rust: false,
            discover_python: false,
            ..targets()
        },
        &[],
    );
    check(
        Targets {
            include: pattern(native_program()),
            ..targets()
        },
        &[7, 8, 9],
    );
    check(
        Targets {
            exclude: pattern(rust_program()),
            ..targets()
        },
        &[],
    );
    check(
        Targets {
            exclude: pattern(rust_program()),
            ..watch_all()
        },
        &[8],
    );
    check(
        Targets {
            max_processes: 1.try_into().unwrap(),
            ..targets()
        },
        &[7],
    );
}

#[test]
fn when_one_leaves_the_next_is_watched() {
    let proc = FakeProc::new();
    let rust = FakeProcess::new(&rust_program());
    let limited = Targets {
        max_processes: 1.try_into().unwrap(),
        ..targets()
    };
    let (mut owner, base) = scanned(&proc, limited, &[(7, rust.clone()), (9, rust)]);
    let reason = owner.list(Some(Pid(9))).unwrap().remove(0).watch_reason;
    assert_eq!(reason, "1 processes are watched already");
    let error = owner.watch(Pid(9), Lease::Stream(WatchId(1)), at(base, 1)).unwrap_err();
    assert_eq!(error, WatchError::TooManyProcesses { limit: 1 });
    assert_eq!(owner.watch_progress(WatchId(1)), None);
    proc.remove(7);
    owner.on_lifecycle(&exit(5, 7), at(base, 5));
    owner.poll(at(base, 20 * SECOND_NS));
    assert_eq!(watched(&owner), [9]);
}

#[test]
fn a_service_starts_by_fork_and_exec() {
    let proc = FakeProc::new();
    let (mut owner, base) = scanned(&proc, targets(), &[(1, FakeProcess::new(&native_program()))]);
    let rust = rust_program();
    proc.set(50, &FakeProcess::new(&rust));
    let now = at(base, 10);
    owner.on_lifecycle(&fork(1, 50, 1), now);
    owner.on_lifecycle(&exec(2, 50, "api"), now);
    owner.on_lifecycle(&map(3, 50, CODE, CODE + 0x10_0000, &rust), now);
    owner.on_lifecycle(&map(4, 50, CODE + 0x20_0000, CODE + 0x30_0000, &native_program()), now);
    assert_eq!(watched(&owner), [0_u32; 0], "nobody knows yet what it is");
    settle(&mut owner, now);
    assert_eq!(watched(&owner), [50]);
    let mapped: Vec<u64> = owner
        .running(Pid(50))
        .unwrap()
        .mappings()
        .live()
        .map(|mapping| mapping.start)
        .collect();
    assert_eq!(mapped, [CODE, CODE + 0x20_0000]);
    assert_eq!(object_at(&owner, 50, CODE, 2), None);
    assert_eq!(object_at(&owner, 50, CODE, 3), Some(program_name(&rust)));

    // The same program once more is watched from its first mapping on, before anybody reads it.
    owner.on_lifecycle(&exec(20, 51, "api"), at(base, 20));
    owner.on_lifecycle(&map(21, 51, CODE, CODE + 0x1000, &rust), at(base, 21));
    owner.poll(at(base, 21));
    assert_eq!(watched(&owner), [50, 51]);
    assert!(
        owner.walker().processes[&Pid(51)]
            .iter()
            .all(|mapping| mapping.backing != Backing::Pending)
    );

    // And a native one is left alone at once.
    proc.set(52, &FakeProcess::new(&native_program()));
    owner.on_lifecycle(&exec(30, 52, "sh"), at(base, 30));
    owner.on_lifecycle(&map(31, 52, CODE, CODE + 0x1000, &native_program()), at(base, 31));
    settle(&mut owner, at(base, 31));
    assert_eq!(watched(&owner), [50, 51]);
    assert!(!owner.image_at(Pid(52), START_NS + 31).unwrap().tracked);
}

#[test]
fn a_program_that_execs_another() {
    let proc = FakeProc::new();
    let (rust, native) = (rust_program(), native_program());
    let (mut owner, base) = scanned(&proc, targets(), &[(7, FakeProcess::new(&rust))]);
    proc.set(7, &FakeProcess::new(&native));
    owner.on_lifecycle(&exec(10, 7, "sh"), at(base, 10));
    owner.poll(at(base, 10));
    assert_eq!(watched(&owner), [7], "undecided: the kernel's mark as pending stays");
    owner.on_lifecycle(&map(11, 7, CODE + 0x1000, CODE + 0x2000, &native), at(base, 11));
    settle(&mut owner, at(base, 12));
    assert_eq!(watched(&owner), [0_u32; 0]);
    assert_eq!(
        object_at(&owner, 7, CODE, 9),
        Some(program_name(&rust)),
        "samples of before are still resolved"
    );
    assert_eq!(
        owner.image_at(Pid(7), START_NS + 9).unwrap().label().name.as_ref(),
        program_name(&rust)
    );
    assert_eq!(
        owner.image_at(Pid(7), START_NS + 11).unwrap().label().name.as_ref(),
        "sh"
    );
}

#[test]
fn requests_survive_exec_and_not_fork() {
    let proc = FakeProc::new();
    let native = native_program();
    let (mut owner, base) = scanned(&proc, targets(), &[(7, FakeProcess::new(&native))]);
    let stream = WatchId(3);
    let start = owner.watch(Pid(7), Lease::Stream(stream), at(base, 1)).unwrap();
    assert_eq!(start, WatchStart { already_watched: false });
    assert_eq!(watched(&owner), [7], "at once");
    settle(&mut owner, at(base, 1));
    let again = owner.watch(Pid(7), Lease::Stream(WatchId(4)), at(base, 1)).unwrap();
    assert_eq!(again, WatchStart { already_watched: true });
    owner.end_watch(WatchId(4), at(base, 1));

    owner.walker_mut().forked.insert(Pid(8));
    proc.set(8, &FakeProcess::new(&native));
    owner.on_lifecycle(&fork(5, 8, 7), at(base, 5));
    settle(&mut owner, at(base, 5));
    assert_eq!(
        owner.walker().forked.len(),
        0,
        "the entry that the kernel copied is taken back"
    );

    owner.on_lifecycle(&exec(6, 7, "other"), at(base, 6));
    owner.on_lifecycle(&map(7, 7, 0x1000, 0x2000, &native), at(base, 7));
    settle(&mut owner, at(base, 7));
    assert_eq!(ranges(&owner, 7).first().map(|range| range.0), Some(0x1000));
    assert_eq!(
        owner
            .count_sample(Pid(7), START_NS + 8, true)
            .map(|stamp| stamp.changed_ns),
        Some(START_NS + 7)
    );
    owner.count_sample(Pid(7), START_NS + 8, false);
    let progress = WatchProgress {
        samples: 2,
        rooted_samples: 1,
        exited: false,
    };
    assert_eq!(owner.watch_progress(stream), Some(progress));

    proc.remove(7);
    owner.on_lifecycle(&exit(9, 7), at(base, 9));
    assert_eq!(watched(&owner), [0_u32; 0], "the entry goes at once");
    assert_eq!(
        owner.watch_progress(stream),
        Some(WatchProgress {
            exited: true,
            ..progress
        })
    );
    owner.end_watch(stream, at(base, 10));
    assert_eq!(owner.watch_progress(stream), None);
}

#[test]
fn an_entry_that_the_kernel_copied_too_late_to_be_heard_of_is_removed() {
    let proc = FakeProc::new();
    let (mut owner, base) = scanned(&proc, targets(), &[(7, FakeProcess::new(&native_program()))]);
    owner.watch(Pid(7), Lease::Stream(WatchId(1)), at(base, 1)).unwrap();
    owner.end_watch(WatchId(1), at(base, 2));
    owner.poll(at(base, 2));
    // The fork was before that, the record of it comes after.
    owner.walker_mut().forked.extend([Pid(8), Pid(9)]);
    owner.on_lifecycle(&fork(1, 8, 7), at(base, 3));
    owner.poll(at(base, 3));
    assert_eq!(owner.walker().forked.len(), 2);
    assert!(owner.count_sample(Pid(8), START_NS + 4, false).is_none());
    owner.poll(at(base, 5));
    assert_eq!(owner.walker().forked.iter().collect::<Vec<_>>(), [&Pid(9)]);
}

#[test]
fn an_entry_that_the_kernel_marked_after_the_last_record_is_written_again() {
    let proc = FakeProc::new();
    let (mut owner, base) = scanned(&proc, targets(), &[(7, FakeProcess::new(&rust_program()))]);
    let writes = owner.walker().writes;
    owner.note_outdated(Pid(7), START_NS + 1);
    owner.poll(at(base, 2));
    assert_eq!(owner.walker().writes, writes + 1);
    // A sample of what ran before the exec says nothing about the entry that there is now.
    owner.on_lifecycle(&exec(10, 7, "api"), at(base, 11));
    owner.on_lifecycle(&map(11, 7, CODE, CODE + 0x1000, &rust_program()), at(base, 11));
    settle(&mut owner, at(base, 12));
    let writes = owner.walker().writes;
    owner.note_outdated(Pid(7), START_NS + 9);
    owner.note_outdated(Pid(8), START_NS + 9);
    owner.poll(at(base, 13));
    assert_eq!(owner.walker().writes, writes);
}

#[test]
fn streams_and_leases_end() {
    let proc = FakeProc::new();
    let (mut owner, base) = scanned(&proc, targets(), &[(7, FakeProcess::new(&native_program()))]);
    let until = |seconds| Lease::Until(base + Duration::from_secs(seconds));
    owner.watch(Pid(7), until(60), at(base, 1)).unwrap();
    owner.watch(Pid(7), until(30), at(base, 1)).unwrap();
    owner.poll(at(base, 59 * SECOND_NS));
    assert_eq!(watched(&owner), [7], "an earlier end does not shorten it");
    owner.poll(at(base, 61 * SECOND_NS));
    assert_eq!(watched(&owner), [0_u32; 0]);
    owner
        .watch(Pid(7), Lease::Stream(WatchId(1)), at(base, 62 * SECOND_NS))
        .unwrap();
    owner.end_watch(WatchId(1), at(base, 63 * SECOND_NS));
    owner.end_watch(WatchId(2), at(base, 63 * SECOND_NS));
    owner.poll(at(base, 63 * SECOND_NS));
    assert_eq!(watched(&owner), [0_u32; 0]);
}

#[test]
fn what_cannot_be_watched_says_why() {
    let proc = FakeProc::new();
    let native = FakeProcess::new(&native_program());
    let (mut owner, base) = scanned(&proc, targets(), &[]);
    let compat = FakeProcess {
        mappings: vec![(0x0804_8000, 0x0804_9000, native_program())],
        has_stack: false,
        ..native.clone()
    };
    proc.set(
        2,
        &FakeProcess {
            flags: 0x0020_0000,
            ..native.clone()
        },
    );
    proc.set(
        3,
        &FakeProcess {
            state: 'Z',
            ..native.clone()
        },
    );
    proc.set(4, &compat);
    proc.set(
        5,
        &FakeProcess {
            mappings: Vec::new(),
            has_stack: false,
            ..native.clone()
        },
    );
    proc.set(6, &native);
    std::fs::write(proc.root().join("6/maps"), "no list of mappings\n").unwrap();
    let mut check = |pid: u32, expected: WatchError| {
        let error = owner
            .watch(Pid(pid), Lease::Stream(WatchId(1)), at(base, 1))
            .unwrap_err();
        assert_eq!(error, expected);
        assert!(owner.watch_progress(WatchId(1)).is_none() && owner.watched_count() == 0);
    };
    for pid in [0, 1, 3, 5] {
        check(pid, WatchError::NoSuchProcess { pid: Pid(pid) });
    }
    check(2, WatchError::KernelThread { pid: Pid(2) });
    check(4, WatchError::Compat32 { pid: Pid(4) });
    check(999, WatchError::OwnProcess { pid: Pid(999) });
    let path = proc.root().join("6/maps");
    check(
        6,
        WatchError::Unsupported {
            reason: format!("{} is not of the kernel's format", path.display()),
        },
    );
}

#[test]
fn full_tables_refuse_with_a_reason() {
    let proc = FakeProc::new();
    let (mut owner, base) = scanned(&proc, targets(), &[(7, FakeProcess::new(&native_program()))]);
    owner.walker_mut().max_mappings = 0;
    let error = owner.watch(Pid(7), Lease::Stream(WatchId(1)), at(base, 1)).unwrap_err();
    let reason = "the walker's table of mappings is full: 1 more of at most 0".to_owned();
    assert_eq!(error, WatchError::Unsupported { reason });
    owner.walker_mut().max_mappings = 10;
    owner.walker_mut().max_rows = 0;
    owner.watch(Pid(7), Lease::Stream(WatchId(1)), at(base, 2)).unwrap();
    settle(&mut owner, at(base, 2));
    assert!(
        owner.walker().processes[&Pid(7)]
            .iter()
            .all(|mapping| mapping.backing == Backing::FramePointers)
    );
    let summary = owner.list(None).unwrap().remove(0);
    assert!(
        summary.limitations[0].contains("the walker's table of rows is full"),
        "{:?}",
        summary.limitations
    );
    // Room again: the rows are tried once more after a while.
    owner.walker_mut().max_rows = u64::MAX;
    owner.on_lifecycle(
        &map(1, 7, 0x1000, 0x2000, Path::new("//anon")),
        at(base, 60 * SECOND_NS),
    );
    settle(&mut owner, at(base, 60 * SECOND_NS));
    assert_eq!(owner.list(None).unwrap().remove(0).limitations, Vec::<String>::new());
}

fn has_rows(owner: &Owner, pid: u32) -> bool {
    let mappings = &owner.walker().processes[&Pid(pid)];
    mappings
        .iter()
        .any(|mapping| matches!(mapping.backing, Backing::Rows(_)))
}

#[test]
fn a_newcomer_waits_for_room_and_takes_it_from_nobody() {
    let proc = FakeProc::new();
    let processes = [
        (7, FakeProcess::new(&rust_program())),
        (8, FakeProcess::new(&native_program())),
    ];
    let (mut owner, base) = scanned(&proc, targets(), &processes);
    assert!(has_rows(&owner, 7));
    let used = owner.walker().tables.values().map(|(_, rows)| rows).sum();
    owner.walker_mut().max_rows = used;
    owner.watch(Pid(8), Lease::Stream(WatchId(1)), at(base, 1)).unwrap();
    for seconds in [1, 40, 110, 250] {
        settle(&mut owner, at(base, seconds * SECOND_NS));
        assert!(has_rows(&owner, 7) && !has_rows(&owner, 8), "after {seconds} s");
        let limitations = owner.list(Some(Pid(8))).unwrap().remove(0).limitations;
        assert!(
            limitations[0].contains("the walker's table of rows is full"),
            "{limitations:?}"
        );
        assert!(!owner.is_loading(Pid(8)), "refused is not pending");
    }
    proc.remove(7);
    owner.on_lifecycle(&exit(251 * SECOND_NS, 7), at(base, 251 * SECOND_NS));
    settle(&mut owner, at(base, 252 * SECOND_NS));
    settle(&mut owner, at(base, 1500 * SECOND_NS));
    assert!(has_rows(&owner, 8));
}

#[test]
fn libraries_that_come_and_go_at_one_address_have_the_rows_of_the_last() {
    let proc = FakeProc::new();
    let (mut owner, base) = scanned(&proc, targets(), &[(7, FakeProcess::new(&rust_program()))]);
    let of_native = FakeProcess::new(&native_program()).mappings[0].clone();
    let (start, end) = (0x7000_0000_0000, 0x7000_0000_0000 + of_native.1 - of_native.0);
    let mut tables = std::collections::BTreeSet::new();
    for round in 1..20_u64 {
        let time = round * SECOND_NS;
        let path = if round % 2 == 0 {
            Path::new("//anon")
        } else {
            &*of_native.2
        };
        owner.on_lifecycle(&map(time, 7, start, end, path), at(base, time));
        settle(&mut owner, at(base, time));
        let written = &owner.walker().processes[&Pid(7)];
        let at_start: Vec<_> = written
            .iter()
            .filter(|mapping| mapping.start >= start && mapping.end <= end)
            .map(|mapping| mapping.backing)
            .collect();
        let with_rows = at_start.iter().filter_map(|backing| match backing {
            Backing::Rows(table) => Some(*table),
            _ => None,
        });
        let found: Vec<_> = with_rows.collect();
        assert_eq!(found.is_empty(), round % 2 == 0, "round {round}: {at_start:?}");
        tables.extend(found);
    }
    assert_eq!(tables.len(), 1, "the rows stay for the next time: {tables:?}");
}

#[test]
fn an_id_is_given_to_another_process() {
    let proc = FakeProc::new();
    let (rust, native) = (rust_program(), native_program());
    let (mut owner, base) = scanned(
        &proc,
        targets(),
        &[(1, FakeProcess::new(&native)), (7, FakeProcess::new(&rust))],
    );
    // Its exit was missed; the fork tells.
    owner.on_lifecycle(&fork(20, 7, 1), at(base, 20));
    assert_eq!(watched(&owner), [0_u32; 0]);
    assert_eq!(object_at(&owner, 7, CODE, 19), Some(program_name(&rust)));
    assert!(owner.image_at(Pid(7), START_NS + 20).is_none());
    // Nothing was heard at all; the start time tells when somebody asks for it.
    let (mut owner, base) = scanned(&proc, targets(), &[(7, FakeProcess::new(&rust))]);
    proc.set(
        7,
        &FakeProcess {
            start_ticks: 4000,
            name: "second".to_owned(),
            ..FakeProcess::new(&native)
        },
    );
    owner.watch(Pid(7), Lease::Stream(WatchId(1)), at(base, 30)).unwrap();
    settle(&mut owner, at(base, 30));
    let summary = owner.list(Some(Pid(7))).unwrap().remove(0);
    assert_eq!((&*summary.name, &*summary.watch_reason), ("second", "requested"));
    assert_eq!(summary.start, SystemTime::UNIX_EPOCH + Duration::from_secs(40));
}

#[test]
fn late_records_find_their_place() {
    let proc = FakeProc::new();
    let (mut owner, base) = scanned(&proc, watch_all(), &[]);
    let (a, b) = (rust_program(), native_program());
    let now = at(base, 100);
    owner.on_lifecycle(&exec(10, 7, "first"), now);
    owner.on_lifecycle(&map(11, 7, 0x1000, 0x2000, &a), now);
    owner.on_lifecycle(&exec(50, 7, "second"), now);
    owner.on_lifecycle(&map(51, 7, 0x1000, 0x2000, &b), now);
    // Of the first program, heard of after the second had begun.
    owner.on_lifecycle(&map(40, 7, 0x1000, 0x1800, &b), now);
    owner.on_lifecycle(&exit(30, 7), now);
    owner.on_lifecycle(&exec(20, 7, "late"), now);
    for (time, expected) in [
        (10, None),
        (11, Some(&a)),
        (39, Some(&a)),
        (40, Some(&b)),
        (50, None),
        (51, Some(&b)),
    ] {
        assert_eq!(
            object_at(&owner, 7, 0x1000, time),
            expected.map(|path| program_name(path)),
            "at {time}"
        );
    }
    assert_eq!(object_at(&owner, 7, 0x1900, 45), Some(program_name(&a)));
    owner.poll(now);
    assert_eq!(watched(&owner), [7]);
    assert_eq!(&*owner.running(Pid(7)).unwrap().name, "second");

    // A fork whose child was heard to exec before.
    owner.on_lifecycle(&exec(80, 9, "child"), now);
    owner.on_lifecycle(&map(81, 9, 0x9000, 0xa000, &a), now);
    owner.on_lifecycle(&fork(70, 9, 7), now);
    assert_eq!(object_at(&owner, 9, 0x1000, 75), Some(program_name(&b)));
    assert_eq!(object_at(&owner, 9, 0x1000, 81), None);
    assert_eq!(object_at(&owner, 9, 0x9000, 81), Some(program_name(&a)));
    // A record of before the daemon had seen the process at all.
    owner.on_lifecycle(&map(5, 7, 0x1000, 0x2000, &a), now);
    assert_eq!(owner.tallies().records_of_unknown, 1);
}

#[test]
fn first_threads_may_end_before_others() {
    let proc = FakeProc::new();
    let rust = FakeProcess {
        threads: 3,
        ..FakeProcess::new(&rust_program())
    };
    let (mut owner, base) = scanned(&proc, targets(), &[(7, rust.clone())]);
    proc.set(
        7,
        &FakeProcess {
            state: 'Z',
            threads: 3,
            ..rust.clone()
        },
    );
    owner.on_lifecycle(&exit(10, 7), at(base, 10));
    owner.poll(at(base, SECOND_NS));
    assert_eq!(watched(&owner), [7], "other threads run");
    assert!(
        owner.list(None).unwrap()[0]
            .limitations
            .iter()
            .any(|limitation| limitation.contains("first thread"))
    );
    // Lost records do not make it lose its mappings, which /proc does not show any more.
    std::fs::write(proc.root().join("7/maps"), "").unwrap();
    owner.on_lifecycle(&event(20, LifecycleEvent::Lost { count: 1 }), at(base, 2 * SECOND_NS));
    owner.poll(at(base, 3 * SECOND_NS));
    assert!(!ranges(&owner, 7).is_empty());
    proc.set(
        7,
        &FakeProcess {
            state: 'Z',
            threads: 1,
            ..rust
        },
    );
    owner.poll(at(base, 5 * SECOND_NS));
    assert_eq!(watched(&owner), [0_u32; 0]);
}

#[test]
fn a_watch_follows_a_process_that_another_than_its_first_thread_executes() {
    let native = FakeProcess::new(&native_program());
    let check = |shown: Option<FakeProcess>, lost: bool, is_followed: bool| {
        let proc = FakeProc::new();
        let (mut owner, base) = scanned(&proc, targets(), &[(7, native.clone())]);
        let stream = WatchId(1);
        owner.watch(Pid(7), Lease::Stream(stream), at(base, 1)).unwrap();
        let start = owner.running(Pid(7)).unwrap().start;
        settle(&mut owner, at(base, 2));
        proc.remove(7);
        if let Some(shown) = shown {
            proc.set(7, &shown);
        }
        // The end of the first thread is told of before the exec, and may be looked at long before.
        owner.on_lifecycle(&exit(10, 7), at(base, 10));
        owner.poll(at(base, SECOND_NS));
        assert_eq!(watched(&owner).len(), usize::from(is_followed));
        if lost {
            owner.on_lifecycle(&event(11, LifecycleEvent::Lost { count: 1 }), at(base, 2 * SECOND_NS));
        } else {
            owner.on_lifecycle(&exec(11, 7, "next"), at(base, 2 * SECOND_NS));
            let program = map(12, 7, CODE, CODE + 0x1000, &rust_program());
            owner.on_lifecycle(&program, at(base, 2 * SECOND_NS));
        }
        settle(&mut owner, at(base, 3 * SECOND_NS));
        let progress = owner.watch_progress(stream).unwrap();
        assert_eq!(progress.exited, !is_followed);
        if is_followed {
            assert_eq!(watched(&owner), [7]);
            assert_eq!(owner.running(Pid(7)).unwrap().start, start);
            assert!(!owner.running(Pid(7)).unwrap().leader_ended);
        }
    };
    let executed = FakeProcess::new(&rust_program());
    let another = FakeProcess {
        start_ticks: 200,
        ..executed.clone()
    };
    let ended = FakeProcess {
        state: 'Z',
        ..native.clone()
    };
    check(Some(executed.clone()), false, true);
    check(Some(executed), true, true);
    check(Some(another), false, false);
    check(Some(ended), false, false);
    check(None, false, false);
}

#[test]
fn lost_records_are_made_good() {
    let proc = FakeProc::new();
    let (rust, native) = (rust_program(), native_program());
    let process = FakeProcess::new(&rust);
    let (mut owner, base) = scanned(
        &proc,
        targets(),
        &[
            (1, FakeProcess::new(&native)),
            (7, process.clone()),
            (8, process.clone()),
            (9, process.clone()),
        ],
    );
    owner.poll(at(base, SECOND_NS));
    // One loaded a library, one ended, one runs another program, one is new, one is a fork that was not heard of.
    let mut grown = process.clone();
    grown
        .mappings
        .push((0x7000_0000_0000, 0x7000_0000_1000, native.clone()));
    proc.set(7, &grown);
    proc.remove(8);
    proc.set(9, &FakeProcess::new(&native));
    proc.set(
        10,
        &FakeProcess {
            start_ticks: 9000,
            ..process.clone()
        },
    );
    owner.walker_mut().forked.extend([Pid(1), Pid(77)]);
    owner.on_lifecycle(
        &event(2 * SECOND_NS, LifecycleEvent::Lost { count: 5 }),
        at(base, 3 * SECOND_NS),
    );
    settle(&mut owner, at(base, 4 * SECOND_NS));
    assert_eq!(watched(&owner), [7, 10]);
    assert!(owner.walker().forked.is_empty());
    let library = program_name(&native);
    assert_eq!(object_at(&owner, 7, 0x7000_0000_0000, 2 * SECOND_NS), Some(library));
    assert_eq!(
        object_at(&owner, 7, CODE, 0),
        Some(program_name(&rust)),
        "what stayed is known as before"
    );
    assert_eq!((owner.tallies().lost_records, owner.tallies().repairs), (5, 1));
    // Not more than once a second.
    owner.on_lifecycle(
        &event(4 * SECOND_NS, LifecycleEvent::Lost { count: 1 }),
        at(base, 4 * SECOND_NS),
    );
    owner.poll(at(base, 4 * SECOND_NS + 1));
    assert_eq!(owner.tallies().repairs, 1);
    owner.poll(at(base, 6 * SECOND_NS));
    assert_eq!(owner.tallies().repairs, 2);
}

#[test]
fn a_process_that_cannot_be_looked_at_has_not_ended() {
    let proc = FakeProc::new();
    let (mut owner, base) = scanned(&proc, targets(), &[(7, FakeProcess::new(&rust_program()))]);
    owner.poll(at(base, SECOND_NS));
    // As when the daemon has no descriptor left: an error, but not that there is no such process.
    let stat = proc.root().join("7/stat");
    std::fs::remove_file(&stat).unwrap();
    std::fs::create_dir(&stat).unwrap();
    owner.on_lifecycle(
        &event(2 * SECOND_NS, LifecycleEvent::Lost { count: 1 }),
        at(base, 3 * SECOND_NS),
    );
    owner.poll(at(base, 4 * SECOND_NS));
    assert_eq!(owner.tallies().repairs, 1);
    assert_eq!(watched(&owner), [7]);
}

#[test]
fn sixty_thousand_mappings() {
    let proc = FakeProc::new();
    let mut process = FakeProcess::new(&native_program());
    process.mappings = (0..60_000)
        .map(|number| (0x10_0000 + number * 0x2000, 0x10_1000 + number * 0x2000, PathBuf::new()))
        .collect();
    let (mut owner, base) = scanned(&proc, targets(), &[(7, process)]);
    owner.watch(Pid(7), Lease::Stream(WatchId(1)), at(base, 1)).unwrap();
    settle(&mut owner, at(base, 2));
    assert_eq!(ranges(&owner, 7).len(), 8192);
    let limitation = "51808 executable mappings beyond those with the lowest addresses are left out";
    assert_eq!(owner.list(None).unwrap()[0].limitations, [limitation]);
}

#[test]
fn names_pass_unharmed_and_harmless() {
    let proc = FakeProc::new();
    let name = "\u{1b}[2J) R 1 (<script>";
    let process = FakeProcess {
        name: name.to_owned(),
        ..FakeProcess::new(&rust_program())
    };
    let (mut owner, base) = scanned(&proc, targets(), &[(7, process)]);
    assert_eq!(&*owner.list(None).unwrap()[0].name, name);
    let renamed = LifecycleEvent::Rename {
        pid: Pid(7),
        tid: 7,
        name: b"\xff\xfe\x1b]0;".to_vec(),
    };
    owner.on_lifecycle(&event(1, renamed), at(base, 1));
    let thread = LifecycleEvent::Rename {
        pid: Pid(7),
        tid: 8,
        name: b"worker".to_vec(),
    };
    owner.on_lifecycle(&event(1, thread), at(base, 1));
    assert_eq!(
        &*owner.running(Pid(7)).unwrap().label().name,
        "\u{fffd}\u{fffd}\u{1b}]0;"
    );
}

#[test]
fn files_that_one_process_cannot_show_another_can() {
    let proc = FakeProc::new();
    let rust = rust_program();
    let (mut owner, base) = scanned(&proc, watch_all(), &[]);
    proc.set(8, &FakeProcess::new(&rust));
    // The first that maps it has gone already.
    owner.on_lifecycle(&exec(10, 7, "gone"), at(base, 10));
    owner.on_lifecycle(&map(11, 7, CODE, CODE + 0x1000, &rust), at(base, 11));
    owner.on_lifecycle(&exec(12, 8, "here"), at(base, 12));
    owner.on_lifecycle(&map(13, 8, CODE, CODE + 0x1000, &rust), at(base, 13));
    settle(&mut owner, at(base, 14));
    assert_eq!(owner.walker().tables.len(), 1);
    assert!(
        owner
            .list(None)
            .unwrap()
            .iter()
            .all(|process| process.limitations.iter().all(|text| !text.contains("gone")))
    );

    owner.on_lifecycle(&map(20, 7, 0x1000, 0x2000, Path::new("/nowhere/lib.so")), at(base, 20));
    settle(&mut owner, at(base, 20));
    let limitations = &owner.list(Some(Pid(8))).unwrap()[0].limitations;
    assert!(limitations.iter().all(|text| !text.starts_with("lib.so")));
    assert!(
        owner.walker().processes[&Pid(7)]
            .iter()
            .any(|mapping| mapping.backing == Backing::FramePointers)
    );
}

#[test]
fn ended_processes_are_remembered_for_a_while() {
    let proc = FakeProc::new();
    let rust = FakeProcess::new(&rust_program());
    let (mut owner, base) = scanned(&proc, targets(), &[(7, rust.clone()), (8, rust)]);
    assert!(owner.count_sample(Pid(7), START_NS + 5, true).is_some());
    for pid in [7, 8] {
        proc.remove(pid);
        owner.on_lifecycle(&exit(10, pid), at(base, 10));
    }
    owner.poll(at(base, SECOND_NS));
    assert!(
        owner.count_sample(Pid(8), START_NS + 9, true).is_some(),
        "a late sample of a process that has ended"
    );
    assert!(
        owner.count_sample(Pid(8), START_NS + 11, true).is_some(),
        "one that gives back its memory"
    );
    let long_after = START_NS + 11 + SECOND_NS;
    assert!(owner.count_sample(Pid(8), long_after, true).is_none());
    owner.poll(at(base, 30 * SECOND_NS));
    assert_eq!(owner.images.len(), 2);
    owner.poll(at(base, 100 * SECOND_NS));
    assert_eq!(
        (
            owner.images.len(),
            owner.by_pid.len(),
            owner.ended.len() + owner.ended_sampled.len(),
            owner.ended_mappings
        ),
        (0, 0, 0, 0)
    );
}

#[test]
fn a_storm_of_forks_does_not_push_out_what_was_sampled() {
    const CHILDREN: u64 = 20_000;
    let proc = FakeProc::new();
    let (mut owner, base) = scanned(&proc, targets(), &[(7, FakeProcess::new(&rust_program()))]);
    let mut sampled = Vec::new();
    for child in 0..CHILDREN {
        // All within a second, and no id twice: more than are remembered.
        let (pid, time) = (1_000 + child as u32, child * 50_000);
        let now = at(base, time);
        owner.on_lifecycle(&fork(time, pid, 7), now);
        if child % 100 == 0 {
            sampled.push(owner.count_sample(Pid(pid), START_NS + time + 1, true).unwrap().image);
        }
        owner.on_lifecycle(&exit(time + 2, pid), now);
        if child % 50 == 0 {
            owner.poll(now);
        }
    }
    assert!(sampled.iter().all(|id| owner.image(*id).is_some()));
    assert!(owner.images.len() < CHILDREN as usize, "{} images", owner.images.len());
    settle(&mut owner, at(base, 200 * SECOND_NS));
    assert_eq!(
        (owner.images.len(), owner.ended_sampled.len(), owner.ended_mappings),
        (1, 0, 0)
    );
}

#[test]
fn churn_leaves_nothing_behind() {
    let proc = FakeProc::new();
    let (mut owner, base) = scanned(&proc, watch_all(), &[]);
    let program = native_program();
    for round in 0..20_000_u64 {
        let (pid, time) = (100 + (round % 5000) as u32, round * 1_000_000);
        let now = at(base, time);
        owner.on_lifecycle(&exec(time, pid, "true"), now);
        owner.on_lifecycle(&map(time + 1, pid, CODE, CODE + 0x1000, &program), now);
        owner.on_lifecycle(&exit(time + 2, pid), now);
        if round % 50 == 0 {
            owner.poll(now);
        }
    }
    assert!(
        owner.images.len() <= 2100 && owner.ended.len() <= 2100,
        "{} images",
        owner.images.len()
    );
    settle(&mut owner, at(base, 200 * SECOND_NS));
    assert_eq!(
        (
            owner.images.len(),
            owner.by_pid.len(),
            owner.ended.len() + owner.ended_sampled.len(),
            owner.ended_mappings
        ),
        (0, 0, 0, 0)
    );
    assert!(owner.walker().processes.is_empty());
}

/// What may happen in the property test, each at a time of its own.
#[derive(Clone, Debug)]
enum Step {
    Start { pid: u32 },
    Fork { pid: u32, parent: u32 },
    Map { pid: u32, page: u64, pages: u64 },
    Exit { pid: u32 },
    Lost,
    Poll,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pid = || 1_u32..5;
    prop::collection::vec(
        prop_oneof![
            2 => pid().prop_map(|pid| Step::Start { pid }),
            2 => (pid(), pid()).prop_map(|(pid, parent)| Step::Fork { pid, parent }),
            6 => (pid(), 0_u64..12, 1_u64..5).prop_map(|(pid, page, pages)| Step::Map { pid, page, pages }),
            1 => pid().prop_map(|pid| Step::Exit { pid }),
            1 => Just(Step::Lost),
            2 => Just(Step::Poll),
        ],
        0..60,
    )
}

/// The model: for each process, which step mapped each page.
type Model = BTreeMap<u32, BTreeMap<u64, u64>>;

const PAGE: u64 = 0x1000;

/// Makes the tree show what the model says.
fn show(proc: &FakeProc, model: &Model) {
    for pid in 1..5 {
        if proc.root().join(pid.to_string()).exists() {
            proc.remove(pid);
        }
    }
    for (pid, pages) in model {
        let mut process = FakeProcess::new(&native_program());
        process.mappings = pages
            .keys()
            .map(|&page| ((page + 1) * PAGE, (page + 2) * PAGE, PathBuf::new()))
            .collect();
        proc.set(*pid, &process);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_events_leaves_the_walker_with_the_mappings_that_are(steps in steps()) {
        let proc = FakeProc::new();
        let (mut owner, base) = scanned(&proc, watch_all(), &[]);
        let mut model = Model::new();
        let program = native_program();
        let memory = Path::new("//anon");
        for (number, step) in steps.iter().enumerate() {
            let time = (number as u64 + 1) * 1000;
            let now = at(base, time + 10);
            match *step {
                Step::Start { pid } => {
                    owner.on_lifecycle(&exec(time, pid, "program"), now);
                    owner.on_lifecycle(&map(time + 1, pid, PAGE, 2 * PAGE, &program), now);
                    model.insert(pid, BTreeMap::from([(0, time + 1)]));
                }
                Step::Fork { pid, parent } if pid != parent => {
                    owner.on_lifecycle(&fork(time, pid, parent), now);
                    match model.get(&parent).cloned() {
                        Some(pages) => model.insert(pid, pages),
                        None => model.remove(&pid),
                    };
                }
                Step::Fork { .. } => {}
                Step::Map { pid, page, pages } => {
                    owner.on_lifecycle(&map(time, pid, (page + 1) * PAGE, (page + pages + 1) * PAGE, memory), now);
                    if let Some(process) = model.get_mut(&pid) {
                        process.extend((page..page + pages).map(|page| (page, time)));
                    }
                }
                Step::Exit { pid } => {
                    show(&proc, &Model::new());
                    owner.on_lifecycle(&exit(time, pid), now);
                    model.remove(&pid);
                }
                Step::Lost => {
                    show(&proc, &model);
                    owner.on_lifecycle(&event(time, LifecycleEvent::Lost { count: 1 }), now);
                }
                Step::Poll => {
                    show(&proc, &model);
                    owner.poll(now);
                }
            }
        }
        let end = (steps.len() as u64 + 1) * 1000;
        show(&proc, &model);
        owner.poll(at(base, end));
        owner.poll(at(base, end + 2 * SECOND_NS));
        prop_assert_eq!(watched(&owner), model.keys().copied().collect::<Vec<_>>());
        for (pid, pages) in &model {
            let covered: Vec<u64> = ranges(&owner, *pid)
                .into_iter()
                .flat_map(|(start, end)| (start / PAGE..end / PAGE).map(|page| page - 1))
                .collect();
            prop_assert_eq!(covered, pages.keys().copied().collect::<Vec<_>>(), "process {}", pid);
        }
    }
}
