use std::process::{Child, Command};

use profiler_common::memory::fault;
use profiler_profile::{PageKind, ProcessLabel};
use profiler_store::{GrowthQuery, Span, Target};

use super::*;
use crate::{
    health::PartState,
    memory::{MemoryError, condition::LOST_BACKLOG},
};

fn parts(proc: &str) -> (MemoryKeeper, MemoryHandle) {
    MemoryKeeper::new(MemoryParts {
        proc: ProcFs::new(proc),
        retention: Duration::from_secs(900),
        salt: 7,
        stop: Arc::default(),
    })
}

fn keeper(proc: &str) -> MemoryKeeper {
    parts(proc).0
}

fn sleeper() -> Child {
    Command::new("sleep").arg("60").spawn().unwrap()
}

/// A page of the program that has been written to since it began: one of its stack.
fn page_of(child: &Child) -> u64 {
    let start = Instant::now();
    loop {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", child.id())).unwrap();
        let stack = maps.lines().find(|line| line.ends_with("[stack]"));
        let end = stack.and_then(|line| line.split(['-', ' ']).nth(1));
        if let Some(end) = end
            && std::fs::read_link(format!("/proc/{}/exe", child.id())).is_ok_and(|exe| !exe.ends_with("deps"))
        {
            return (u64::from_str_radix(end, 16).unwrap() >> 12) - 1;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "it does not begin");
    }
}

fn window(processes: Vec<FaultProcess>) -> NamedFaults {
    let stack = NamedStack {
        thread: Arc::from("sleep"),
        frames: Box::default(),
    };
    NamedFaults {
        end: SystemTime::now(),
        lost: BTreeMap::new(),
        processes,
        stacks: [(1, stack)].into(),
    }
}

fn process(image: u64, pid: u32, page: u64) -> FaultProcess {
    FaultProcess {
        image,
        label: ProcessLabel {
            pid,
            start: SystemTime::UNIX_EPOCH,
            name: "sleep".into(),
            service: "web".into(),
        },
        start_ticks: None,
        is_running: true,
        shares_pages: false,
        runs_python: false,
        touches: vec![RawTouch {
            page,
            level: 0,
            code: fault::WRITE | fault::USER,
            time: SystemTime::now(),
            stack: 1,
            stop: StopReason::Root,
        }],
    }
}

#[test]
fn nothing_stays_open_of_programs_that_ended() {
    let mut keeper = keeper("/proc");
    let mut children: Vec<Child> = (0..3).map(|_| sleeper()).collect();
    let of = |(image, child): (usize, &Child)| process(image as u64, child.id(), page_of(child));
    let processes = children.iter().enumerate().map(of).collect();
    keeper.on_window(window(processes));
    assert_eq!(
        (keeper.growth.running(), keeper.presence.open_maps()),
        (vec![0, 1, 2], 3)
    );
    for child in &mut children[1..] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    keeper.sweep();
    assert_eq!((keeper.growth.running(), keeper.presence.open_maps()), (vec![0], 1));
    assert_eq!(keeper.running.len(), 1);
    // What it touched is not there: nothing is left to look at.
    let (running, first) = (children[0].id(), 1);
    let mut own = keeper.growth.pages_of(0);
    own.truncate(1);
    keeper.growth.found(0, &own, &[Look::Gone]);
    keeper.on_window(window(vec![process(0, running, first)]));
    assert_eq!(keeper.presence.open_maps(), 0);
    children[0].kill().unwrap();
    children[0].wait().unwrap();
}

fn query() -> GrowthQuery {
    GrowthQuery {
        target: Target::Everything,
        span: Span {
            start: None,
            end: SystemTime::now() + Duration::from_secs(1),
        },
        kind: PageKind::Anonymous,
    }
}

#[test]
fn pages_that_nobody_may_look_at_are_no_growth() {
    let mut keeper = keeper("/proc");
    keeper.presence.bound_to(0);
    let own = process(1, std::process::id(), 77);
    keeper.on_window(window(vec![own]));
    let answer = keeper.growth.answer(&query(), SystemTime::now());
    assert_eq!((answer.growth.samples(), answer.first_touch.samples()), (0, 4096));
    assert_eq!(answer.growth.quality.lost[LOST_NOT_LOOKED_AT], 1);
    assert!(keeper.condition.status().lost.contains(&(LOST_NOT_LOOKED_AT, 1)));
    let trouble = keeper.condition.trouble(Instant::now());
    assert!(
        matches!(&trouble, Some(PartState::Failed { reason, .. }) if reason.contains("too many")),
        "{trouble:?}"
    );
}

#[test]
fn a_fault_whose_stack_is_unknown_is_lost_with_the_reason() {
    let (mut keeper, handle) = parts("/proc");
    let mut own = process(1, std::process::id(), 77);
    let mut unknown = own.touches[0];
    unknown.stack = 2;
    own.touches.extend([unknown, unknown]);
    keeper.on_window(window(vec![own]));
    let lost = keeper.growth.answer(&query(), SystemTime::now()).growth.quality.lost;
    assert_eq!(lost.get(LOST_NO_STACK), Some(&2), "{lost:?}");
    assert!(handle.status().lost.contains(&(LOST_NO_STACK, 2)));
}

#[test]
fn what_finds_no_room_is_told_at_once_and_in_the_next_window() {
    let (mut keeper, handle) = parts("/proc");
    let lossy = || NamedFaults {
        lost: [("window_full".to_owned(), 5)].into(),
        ..window(vec![process(1, std::process::id(), 77)])
    };
    for _ in 0..QUEUE + 2 {
        handle.window(lossy());
    }
    // Nobody has answered yet.
    assert!(handle.status().lost.contains(&(LOST_BACKLOG, 2)));
    while let Ok(command) = keeper.commands.try_recv() {
        keeper.take(command);
    }
    let lost = keeper.growth.answer(&query(), SystemTime::now()).growth.quality.lost;
    assert_eq!(lost[LOST_BACKLOG], 2, "{lost:?}");
    assert_eq!(
        lost["window_full"],
        5 * (QUEUE as u64 + 2),
        "what was lost in those two, too"
    );
}

#[test]
fn what_is_kept_is_told_without_the_keeper() {
    let (mut keeper, handle) = parts("/proc");
    let stop = Arc::clone(&keeper.stop);
    keeper.on_window(window(vec![process(1, std::process::id(), 77)]));
    let thread = std::thread::spawn(move || keeper.run());
    let start = Instant::now();
    while handle.status().growth.processes == 0 {
        assert!(start.elapsed() < Duration::from_secs(30), "it is never told");
        std::thread::sleep(Duration::from_millis(5));
    }
    stop.store(true, Ordering::Release);
    thread.join().unwrap();
    assert_eq!(handle.status().growth.processes, 1);
}

#[test]
fn who_asks_does_not_wait_for_ever() {
    let (keeper, handle) = parts("/proc");
    let asked = handle.query_within(query(), Duration::from_millis(20));
    assert_eq!(asked.err(), Some(MemoryError::Late { seconds: 0 }));
    assert_eq!(handle.trouble(), None);
    drop(keeper);
    assert_eq!(handle.query_blocking(query()).err(), Some(MemoryError::Ended));
    assert_eq!(handle.trouble(), Some(PartState::thread_panicked()));
}
