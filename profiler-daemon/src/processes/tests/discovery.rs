//! Which processes are found, and what is said of them.

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use profiler_config::{Pattern, Targets};
use rustix::time::{ClockId, clock_gettime};

use super::{Owner, program_name, scanned, watched};
use crate::{
    command::{Lease, ProcessError, Runtime, WatchError, WatchId, WatchState},
    kernel::records::{LifecycleEvent, Pid},
    processes::{
        fake_proc::{
            FakeProc, FakeProcess, SECOND_NS, at, event, exit, fork, map, native_program, rust_program, settle,
            targets, watch_all,
        },
        walker_tables::Backing,
    },
};

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
fn a_name_like_an_interpreters_buys_few_looks() {
    let proc = FakeProc::new();
    let (mut owner, base) = scanned(&proc, targets(), &[(7, FakeProcess::new(&native_program()))]);
    proc.set(8, &FakeProcess::new(&native_program()));
    let anonymous = PathBuf::from("/nowhere/libpython3.so.1");
    for time in 0..1_000 {
        let start = 0x7000_0000_0000 + time * 0x1000;
        owner.on_lifecycle(&map(time, 7, start, start + 0x1000, &anonymous), at(base, time));
    }
    assert_eq!(owner.builder.open(), 4);
    // Nor does a child begin anew.
    owner.on_lifecycle(&fork(1_001, 8, 7), at(base, 1_001));
    owner.on_lifecycle(
        &map(1_002, 8, 0x7000_0000_0000, 0x7000_0000_1000, &anonymous),
        at(base, 1_002),
    );
    assert_eq!(owner.builder.open(), 4);
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

/// A host with far more processes than may be watched: each is looked at, and once they are known they cost next to nothing.
#[test]
fn thousands_of_processes_are_looked_at_and_then_left_alone() {
    const ALL: u32 = 5_000;
    /// One in so many is a Rust program, and half of these may be watched.
    const RUST: u32 = 25;
    /// Two minutes of them.
    const POLLS: u32 = 240;
    /// Processor time that looking at all of them may take, in a build for tests; a release takes a small part of that.
    const MOST: Duration = Duration::from_secs(30);
    let proc = FakeProc::new();
    let (rust, native) = (FakeProcess::new(&rust_program()), FakeProcess::new(&native_program()));
    for pid in 1_000..1_000 + ALL {
        proc.set(pid, if pid % RUST == 0 { &rust } else { &native });
    }
    let base = Instant::now();
    let mut owner = proc.owner(targets());
    let cpu = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let begun = cpu();
    owner.scan(at(base, 0)).unwrap();
    // As many as fit wait for the builder; the others come later.
    let mut second = 0;
    let known = |owner: &Owner| owner.images.values().filter(|image| image.identity().is_some()).count();
    while known(&owner) < ALL as usize {
        assert!(second < 3_600, "{} of {ALL} are known", known(&owner));
        settle(&mut owner, at(base, second * SECOND_NS));
        second += 1;
    }
    let looking = cpu() - begun;
    assert_eq!(watched(&owner).len(), 100);
    let refused = owner
        .images
        .values()
        .filter(|image| image.watch.refused.is_some())
        .count();
    assert_eq!(refused, 100, "those beyond what may be watched say so");
    assert_eq!(
        (owner.images.len(), owner.tallies().refused_processes),
        (ALL as usize, 0)
    );
    assert!(looking < MOST, "{looking:?}");

    let begun = cpu();
    for half in 0..POLLS {
        owner.poll(at(base, second * SECOND_NS + u64::from(half) * SECOND_NS / 2));
    }
    let resting = cpu() - begun;
    println!("{looking:?} to look at them, {resting:?} for two minutes after that");
    assert!(
        resting / POLLS < looking / 10,
        "each of {POLLS} polls costs as much as looking at a good part of them: {resting:?} after {looking:?}"
    );
}
