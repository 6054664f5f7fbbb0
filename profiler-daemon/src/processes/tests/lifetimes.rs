//! What has ended, and how long it is remembered.

use std::time::Duration;

use super::{CODE, scanned};
use crate::{
    kernel::records::Pid,
    processes::fake_proc::{
        FakeProc, FakeProcess, SECOND_NS, START_NS, at, exec, exit, fork, map, native_program, rust_program, settle,
        targets, watch_all,
    },
};

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
fn what_a_long_window_holds_is_remembered_until_it_ends() {
    let proc = FakeProc::new();
    let (mut owner, base) = scanned(&proc, targets(), &[(7, FakeProcess::new(&rust_program()))]);
    owner.remember_for_windows_of(Duration::from_secs(90));
    let image = owner.count_sample(Pid(7), START_NS + 5, true).unwrap().image;
    proc.remove(7);
    owner.on_lifecycle(&exit(10, 7), at(base, 10));
    for (second, is_known) in [(3, true), (91, true), (101, false)] {
        owner.poll(at(base, second * SECOND_NS));
        assert_eq!(owner.image(image).is_some(), is_known, "after {second} s");
    }
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
