//! What the store keeps, drops and answers.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use profiler_profile::{Frame, FrameKind, ProcessLabel, Profile, ProfileBuilder, Quality};
use profiler_store::{Answer, Dropped, Found, Limits, Span, Store, Target};
use proptest::prelude::{ProptestConfig, prop, proptest};

const ROOMY: Limits = Limits {
    retention: Duration::from_secs(1_000_000),
    max_bytes: 1 << 30,
};

fn at(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + second)
}

fn span(start: u64, end: u64) -> Span {
    Span {
        start: Some(at(start)),
        end: at(end),
    }
}

fn process(pid: u32, started: u64, service: &str) -> ProcessLabel {
    ProcessLabel {
        pid,
        start: at(started),
        name: "svc".into(),
        service: service.into(),
    }
}

fn frame(function: &str) -> Frame {
    Frame {
        kind: FrameKind::Native,
        function: function.into(),
        module: "m".into(),
        file: "".into(),
        line: 0,
    }
}

/// A window with some samples of one function for each process, and one lost sample.
fn window(start: u64, end: u64, processes: &[(&ProcessLabel, u64)]) -> Profile {
    let mut builder = ProfileBuilder::new(Duration::from_millis(10), at(start), at(end));
    for (process, count) in processes {
        builder.add(process, &Arc::from("main"), [frame("f")].into_iter(), *count);
        builder.add_process_quality(
            process,
            &Quality {
                samples: *count,
                rooted: *count,
                ..Quality::default()
            },
        );
    }
    builder.quality_mut().lost.insert("ring_full".to_owned(), 1);
    builder.build()
}

fn ask(store: &Store, target: Target, span: Span) -> Answer {
    store.select(target, span).merge().expect("one period")
}

fn summary(answer: &Answer) -> (Found, u64, Option<u64>) {
    (
        answer.found,
        answer.profile.samples(),
        answer.profile.quality.lost.get("ring_full").copied(),
    )
}

#[test]
fn a_window_belongs_if_it_overlaps_the_span() {
    let a = process(1, 0, "web");
    let mut store = Store::new(ROOMY);
    for index in 0..4 {
        store.insert(window(index * 10, index * 10 + 10, &[(&a, 1 << index)]), at(40));
    }
    for (span, expected) in [
        (span(0, 40), 0b1111_u64),
        (span(10, 20), 0b0010),
        (span(9, 11), 0b0011),
        (span(19, 20), 0b0010),
        (span(20, 21), 0b0100),
        (
            Span {
                start: None,
                end: at(11),
            },
            0b0011,
        ),
        (span(39, 1000), 0b1000),
    ] {
        let answer = ask(&store, Target::Process(1), span);
        assert_eq!(
            summary(&answer),
            (Found::Samples, expected, Some(u64::from(expected.count_ones()))),
            "{span:?}"
        );
    }
    let answer = ask(&store, Target::Process(1), span(9, 11));
    assert_eq!((answer.profile.start, answer.profile.end), (at(0), at(20)));
}

#[test]
fn a_span_that_holds_nothing() {
    let mut store = Store::new(ROOMY);
    store.insert(window(0, 10, &[(&process(1, 0, "web"), 5)]), at(10));
    for span in [span(10, 20), span(5, 5), span(8, 3), span(0, 0)] {
        let answer = ask(&store, Target::Process(1), span);
        assert_eq!(summary(&answer), (Found::Empty, 0, None), "{span:?}");
        assert!(answer.profile.start <= answer.profile.end);
    }
}

#[test]
fn not_found_is_told_from_empty() {
    let (a, b) = (process(1, 0, "web"), process(2, 0, "db"));
    let mut store = Store::new(ROOMY);
    assert_eq!(
        summary(&ask(&store, Target::Process(1), span(0, 10))),
        (Found::NotFound, 0, None)
    );
    store.insert(window(0, 10, &[(&a, 5)]), at(10));
    store.insert(window(10, 20, &[(&b, 7)]), at(20));
    assert_eq!(
        summary(&ask(&store, Target::Process(1), span(10, 20))),
        (Found::Empty, 0, Some(1))
    );
    assert_eq!(
        summary(&ask(&store, Target::Process(3), span(0, 20))),
        (Found::NotFound, 0, Some(2))
    );
    assert_eq!(
        summary(&ask(&store, Target::Service("db".into()), span(0, 10))),
        (Found::Empty, 0, Some(1))
    );
    assert_eq!(
        summary(&ask(&store, Target::Service("db".into()), span(0, 20))),
        (Found::Samples, 7, Some(2))
    );
    assert_eq!(
        summary(&ask(&store, Target::Service("d".into()), span(0, 20))),
        (Found::NotFound, 0, Some(2))
    );
}

#[test]
fn a_service_is_all_its_processes() {
    let (a, b, c) = (process(1, 0, "web"), process(2, 0, "web"), process(3, 0, ""));
    let mut store = Store::new(ROOMY);
    store.insert(window(0, 10, &[(&a, 1), (&b, 2), (&c, 4)]), at(10));
    let answer = ask(&store, Target::Service("web".into()), span(0, 10));
    assert_eq!(summary(&answer), (Found::Samples, 3, Some(1)));
    assert_eq!((answer.profile.processes.len(), answer.profile.quality.samples), (2, 3));
}

#[test]
fn a_reused_id_is_the_last_process_that_had_it() {
    let (old, new) = (process(1, 0, "web"), process(1, 15, "batch"));
    let mut store = Store::new(ROOMY);
    store.insert(window(0, 10, &[(&old, 1)]), at(10));
    store.insert(window(10, 20, &[(&old, 2), (&new, 4)]), at(20));
    store.insert(window(20, 30, &[(&new, 8)]), at(30));
    assert_eq!(ask(&store, Target::Process(1), span(0, 30)).profile.samples(), 12);
    assert_eq!(ask(&store, Target::Process(1), span(0, 10)).profile.samples(), 1);
}

#[test]
fn what_is_too_old_is_dropped() {
    let a = process(1, 0, "web");
    let mut store = Store::new(Limits {
        retention: Duration::from_secs(20),
        ..ROOMY
    });
    for start in [0, 10, 20, 30] {
        store.insert(window(start, start + 10, &[(&a, 1)]), at(start + 10));
    }
    assert_eq!(store.status().windows, 3);
    store.expire(at(51));
    let status = store.status();
    assert_eq!((status.windows, status.oldest), (1, Some(at(30))));
    assert_eq!(
        status.dropped,
        Dropped {
            by_age: 3,
            ..Dropped::default()
        }
    );
    store.expire(at(1000));
    assert_eq!((store.status().windows, store.status().bytes), (0, 0));
}

#[test]
fn a_clock_set_back_drops_no_new_window() {
    let a = process(1, 0, "web");
    let mut store = Store::new(Limits {
        retention: Duration::from_secs(20),
        ..ROOMY
    });
    store.insert(window(1000, 1010, &[(&a, 1)]), at(1010));
    store.insert(window(0, 10, &[(&a, 2)]), at(10));
    assert_eq!(ask(&store, Target::Process(1), span(0, 10)).profile.samples(), 2);
}

#[test]
fn room_is_made_by_dropping_the_oldest() {
    let a = process(1, 0, "web");
    let mut store = Store::new(ROOMY);
    store.insert(window(0, 10, &[(&a, 1)]), at(10));
    let one = store.status().bytes;
    let mut store = Store::new(Limits {
        max_bytes: one * 5 / 2,
        ..ROOMY
    });
    for start in 0..10 {
        store.insert(window(start, start + 1, &[(&a, 1)]), at(start + 1));
        assert!(store.status().bytes <= one * 5 / 2);
    }
    let status = store.status();
    assert_eq!(
        (status.windows, status.oldest, status.dropped.by_bytes),
        (2, Some(at(8)), 8)
    );
}

#[test]
fn a_window_that_never_fits_is_refused_and_counted() {
    let a = process(1, 0, "web");
    let mut store = Store::new(ROOMY);
    store.insert(window(0, 10, &[(&a, 1)]), at(10));
    let one = store.status().bytes;
    let mut store = Store::new(Limits {
        max_bytes: one,
        ..ROOMY
    });
    store.insert(window(0, 10, &[(&a, 1)]), at(10));
    let mut builder = ProfileBuilder::new(Duration::from_millis(10), at(10), at(20));
    for number in 0..100 {
        builder.add(
            &a,
            &Arc::from("main"),
            [frame(&format!("function {number}"))].into_iter(),
            1,
        );
    }
    store.insert(builder.build(), at(20));
    assert_eq!(
        store.status().dropped,
        Dropped {
            too_large: 1,
            ..Dropped::default()
        }
    );
    assert_eq!(store.status().windows, 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_over_its_limits_and_every_window_accounted_for(
        inserts in prop::collection::vec((0_u64..600, 0_u64..30, 0_u32..4, 1_u64..100), 0..60),
        max_kib in 1_usize..16,
    ) {
        let limits = Limits { retention: Duration::from_secs(100), max_bytes: max_kib << 10 };
        let mut store = Store::new(limits);
        for (start, length, pid, count) in &inserts {
            store.insert(window(*start, start + length, &[(&process(*pid, 0, "web"), *count)]), at(start + length));
            assert!(store.status().bytes <= limits.max_bytes);
        }
        let status = store.status();
        let dropped = status.dropped.by_age + status.dropped.by_bytes + status.dropped.too_large;
        assert_eq!(status.windows as u64 + dropped, inserts.len() as u64);
        let everything = Span { start: None, end: at(10_000) };
        let by_service = ask(&store, Target::Service("web".into()), everything).profile.samples();
        let by_pid: u64 = (0..4).map(|pid| ask(&store, Target::Process(pid), everything).profile.samples()).sum();
        assert_eq!(by_service, by_pid);
    }
}
