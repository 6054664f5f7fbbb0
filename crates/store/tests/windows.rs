//! Windows one by one, as a comparison wants them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use profiler_profile::{Frame, FrameKind, ProcessLabel, Profile, ProfileBuilder};
use profiler_store::{Limits, Selection, Span, Store, Target};

fn at(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + second)
}

fn process(pid: u32, started: u64, service: &str) -> ProcessLabel {
    ProcessLabel {
        pid,
        start: at(started),
        name: "svc".into(),
        service: service.into(),
    }
}

fn window(start: u64, period: Duration, processes: &[(&ProcessLabel, u64)]) -> Profile {
    let mut builder = ProfileBuilder::new(period, at(start), at(start + 5));
    for (process, count) in processes {
        let frame = Frame {
            kind: FrameKind::Native,
            function: "f".into(),
            module: "m".into(),
            file: "".into(),
            line: 0,
        };
        builder.add(process, &Arc::from("main"), std::iter::once(frame), *count);
    }
    builder.build()
}

fn store(windows: Vec<Profile>) -> Store {
    let mut store = Store::new(Limits {
        retention: Duration::from_secs(1_000_000),
        max_bytes: 1 << 30,
    });
    for window in windows {
        store.insert(window, Duration::from_secs(3_600));
    }
    store
}

fn select(store: &Store, target: Target, start: Option<u64>, end: u64) -> Selection {
    let span = Span {
        start: start.map(at),
        end: at(end),
    };
    store.select(target, span)
}

fn counts(selection: &Selection) -> Vec<u64> {
    selection.windows().map(|window| window.samples()).collect()
}

const PERIOD: Duration = Duration::from_millis(10);

#[test]
fn a_window_belongs_to_one_of_two_spans_that_touch() {
    let one = process(1, 0, "web");
    let store = store(
        (0..4)
            .map(|number| window(number * 5, PERIOD, &[(&one, number + 1)]))
            .collect(),
    );
    let service = || Target::Service("web".into());
    // The second window is from 5 to 10.
    for (border, before, after) in [
        (5, vec![1], vec![2, 3, 4]),
        (7, vec![1], vec![2, 3, 4]),
        (8, vec![1, 2], vec![3, 4]),
        (10, vec![1, 2], vec![3, 4]),
    ] {
        assert_eq!(counts(&select(&store, service(), Some(0), border)), before, "{border}");
        assert_eq!(counts(&select(&store, service(), Some(border), 20)), after, "{border}");
    }
    assert_eq!(counts(&select(&store, service(), None, 20)), [1, 2, 3, 4]);
}

#[test]
fn idle_windows_are_there_and_empty() {
    let (web, other) = (process(1, 0, "web"), process(2, 0, ""));
    let windows = vec![
        window(0, PERIOD, &[(&web, 5), (&other, 7)]),
        window(5, PERIOD, &[(&other, 9)]),
        window(10, Duration::ZERO, &[]),
        window(15, PERIOD * 2, &[(&web, 3)]),
    ];
    let store = store(windows);
    let web = select(&store, Target::Service("web".into()), Some(0), 20);
    assert_eq!(counts(&web), [5, 0, 0, 3]);
    let periods: Vec<Duration> = web.windows().map(|window| window.period).collect();
    assert_eq!(periods, [PERIOD, PERIOD, Duration::ZERO, PERIOD * 2]);
    assert_eq!(counts(&select(&store, Target::Everything, Some(0), 20)), [12, 9, 0, 3]);
    assert!(web.is_known());
    assert!(!select(&store, Target::Process(9), Some(0), 20).is_known());
    // Known from another time.
    assert!(select(&store, Target::Process(1), Some(6), 9).is_known());
}

#[test]
fn of_a_reused_id_the_last_process_counts() {
    let (old, new) = (process(1, 0, ""), process(1, 7, ""));
    let store = store(vec![window(0, PERIOD, &[(&old, 5)]), window(10, PERIOD, &[(&new, 3)])]);
    assert_eq!(counts(&select(&store, Target::Process(1), Some(0), 20)), [0, 3]);
    assert_eq!(counts(&select(&store, Target::Process(1), Some(0), 6)), [5]);
}
