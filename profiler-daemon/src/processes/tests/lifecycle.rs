//! Forks, executions, exits and mappings, as they come, come late, or are lost.

use std::time::{Duration, SystemTime};

use super::{CODE, Owner, object_at, program_name, ranges, scanned, watched};
use crate::{
    command::{Lease, WatchId},
    kernel::records::{LifecycleEvent, Pid},
    processes::{
        fake_proc::{
            FakeProc, FakeProcess, SECOND_NS, START_NS, at, event, exec, exit, fork, map, native_program, rust_program,
            settle, targets, watch_all,
        },
        walker_tables::Backing,
    },
};

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

/// What began when, as readings count from it: a fork is no execution, and each execution is a beginning.
#[test]
fn it_is_known_when_a_program_was_executed() {
    let proc = FakeProc::new();
    let rust = rust_program();
    let (mut owner, base) = scanned(&proc, watch_all(), &[(7, FakeProcess::new(&rust))]);
    let executed = |owner: &Owner, pid| {
        let members = owner.members();
        let member = members.iter().find(|member| member.pid == Pid(pid));
        member.expect("it is watched").executed
    };
    let since_boot = |time_ns| Some(Duration::from_nanos(START_NS + time_ns));
    assert_eq!(executed(&owner, 7), None, "it ran before anybody looked");
    // Of the same program as the one that forked, and found by a look after its fork.
    proc.set(50, &FakeProcess::new(&rust));
    owner.on_lifecycle(&fork(1, 50, 7), at(base, 1));
    owner.scan(at(base, 2)).unwrap();
    settle(&mut owner, at(base, 2));
    assert_eq!(executed(&owner, 50), None);
    for time_ns in [10, 20] {
        owner.on_lifecycle(&exec(time_ns, 50, "api"), at(base, time_ns));
        owner.on_lifecycle(&map(time_ns + 1, 50, CODE, CODE + 0x1000, &rust), at(base, time_ns + 1));
        settle(&mut owner, at(base, time_ns + 1));
        assert_eq!(executed(&owner, 50), since_boot(time_ns));
    }
    // One that is told of only after a look has found the process, with what it executed.
    proc.set(60, &FakeProcess::new(&rust));
    owner.scan(at(base, 40)).unwrap();
    settle(&mut owner, at(base, 40));
    owner.on_lifecycle(&exec(30, 60, "late"), at(base, 41));
    assert_eq!(executed(&owner, 60), since_boot(30));
}
