//! Watches that are asked for.

use std::time::Duration;

use super::{ranges, scanned, watched};
use crate::{
    command::{Lease, WatchError, WatchId, WatchProgress, WatchStart},
    kernel::records::Pid,
    processes::fake_proc::{
        FakeProc, FakeProcess, SECOND_NS, START_NS, at, exec, exit, fork, map, native_program, settle, targets,
    },
};

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
