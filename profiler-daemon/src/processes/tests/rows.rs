//! Mappings of processes and the rows for them.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use super::{CODE, Owner, object_at, program_name, ranges, scanned};
use crate::{
    command::{Lease, WatchError, WatchId},
    kernel::records::Pid,
    processes::{
        fake_proc::{
            FakeProc, FakeProcess, SECOND_NS, at, exec, exit, map, native_program, rust_program, settle, targets,
            watch_all,
        },
        walker_tables::{Backing, WalkerMapping},
    },
};

fn has_rows(owner: &Owner, pid: u32) -> bool {
    let mappings = &owner.walker().processes[&Pid(pid)];
    mappings
        .iter()
        .any(|mapping| matches!(mapping.backing, Backing::Rows(_)))
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
    let covers = |mapping: &&WalkerMapping| (mapping.start..mapping.end).contains(&function);
    let mapping = owner.walker().processes[&Pid(7)].iter().find(covers).unwrap();
    assert!(matches!(mapping.backing, Backing::Rows(_)));
    assert_eq!(object_at(&owner, 7, function, 0), Some(program_name(&rust_program())));
    let summary = owner.list(None).unwrap().remove(0);
    assert_eq!(summary.mappings_with_rows as usize, with_rows(&owner));
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

#[test]
fn what_the_kernel_refuses_is_told_as_it_is_and_tried_again() {
    let proc = FakeProc::new();
    let processes = [
        (7, FakeProcess::new(&rust_program())),
        (8, FakeProcess::new(&native_program())),
    ];
    let (mut owner, base) = scanned(&proc, targets(), &processes);
    owner.walker_mut().is_refused = true;
    let error = owner.watch(Pid(8), Lease::Stream(WatchId(1)), at(base, 1)).unwrap_err();
    let reason = "the kernel refused a change of the walker's table of processes: Operation not permitted".to_owned();
    assert_eq!(error, WatchError::Unsupported { reason });
    assert!(has_rows(&owner, 7), "others keep what they have");
    owner.walker_mut().is_refused = false;
    owner.watch(Pid(8), Lease::Stream(WatchId(1)), at(base, 2)).unwrap();
    settle(&mut owner, at(base, 60 * SECOND_NS));
    assert!(has_rows(&owner, 8));
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
