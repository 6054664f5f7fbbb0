//! What the store keeps, drops and answers.

use std::{
    collections::BTreeMap,
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

/// How long the host runs at a second.
fn up(second: u64) -> Duration {
    Duration::from_secs(3600 + second)
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
        store.insert(window(index * 10, index * 10 + 10, &[(&a, 1 << index)]), up(40));
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
    store.insert(window(0, 10, &[(&process(1, 0, "web"), 5)]), up(10));
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
    store.insert(window(0, 10, &[(&a, 5)]), up(10));
    store.insert(window(10, 20, &[(&b, 7)]), up(20));
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
    store.insert(window(0, 10, &[(&a, 1), (&b, 2), (&c, 4)]), up(10));
    let answer = ask(&store, Target::Service("web".into()), span(0, 10));
    assert_eq!(summary(&answer), (Found::Samples, 3, Some(1)));
    assert_eq!((answer.profile.processes.len(), answer.profile.quality.samples), (2, 3));
}

#[test]
fn a_reused_id_is_the_last_process_that_had_it() {
    let (old, new) = (process(1, 0, "web"), process(1, 15, "batch"));
    let mut store = Store::new(ROOMY);
    store.insert(window(0, 10, &[(&old, 1)]), up(10));
    store.insert(window(10, 20, &[(&old, 2), (&new, 4)]), up(20));
    store.insert(window(20, 30, &[(&new, 8)]), up(30));
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
        store.insert(window(start, start + 10, &[(&a, 1)]), up(start + 10));
    }
    assert_eq!(store.status().windows, 3);
    store.expire(up(51));
    let status = store.status();
    assert_eq!((status.windows, status.oldest), (1, Some(at(30))));
    assert_eq!(
        status.dropped,
        Dropped {
            by_age: 3,
            ..Dropped::default()
        }
    );
    store.expire(up(1000));
    assert_eq!((store.status().windows, store.status().bytes), (0, 0));
}

#[test]
fn a_clock_that_is_set_changes_no_age() {
    let a = process(1, 0, "web");
    let mut store = Store::new(Limits {
        retention: Duration::from_secs(20),
        ..ROOMY
    });
    // The time of day of each window's start: it is set ahead by a day, and back to a day before.
    let days = [100_000, 186_400, 10];
    for (index, start) in days.into_iter().enumerate() {
        store.insert(window(start, start + 10, &[(&a, 1 << index)]), up(10 * index as u64));
    }
    for (index, start) in days.into_iter().enumerate() {
        let answer = ask(&store, Target::Process(1), span(start, start + 10));
        assert_eq!(answer.profile.samples(), 1 << index, "by its time of day");
        assert_eq!((answer.profile.start, answer.profile.end), (at(start), at(start + 10)));
    }
    assert_eq!(store.status().oldest, Some(at(10)));
    // They go in the order in which they came.
    for (uptime, left) in [(20, 0b111), (21, 0b110), (31, 0b100), (41, 0)] {
        store.expire(up(uptime));
        let everything = Span {
            start: None,
            end: at(1_000_000),
        };
        assert_eq!(ask(&store, Target::Process(1), everything).profile.samples(), left);
    }
}

#[test]
fn room_is_made_by_dropping_the_oldest() {
    let a = process(1, 0, "web");
    let max_bytes = 20_000;
    let mut store = Store::new(Limits { max_bytes, ..ROOMY });
    for start in 0..1000 {
        store.insert(window(start, start + 1, &[(&a, 1)]), up(start + 1));
        assert!(store.status().bytes <= max_bytes);
    }
    let status = store.status();
    assert!(status.windows > 12 && status.bytes > max_bytes / 2, "{status:?}");
    assert_eq!(status.oldest, Some(at(1000 - status.windows as u64)));
    assert_eq!(
        status.dropped,
        Dropped {
            by_bytes: 1000 - status.windows as u64,
            ..Dropped::default()
        }
    );
}

#[test]
fn names_that_nobody_uses_any_more_take_no_room() {
    let a = process(1, 0, "web");
    let mut store = Store::new(Limits {
        retention: Duration::from_secs(60),
        ..ROOMY
    });
    let mut most = 0;
    for start in 0..2000 {
        let mut builder = ProfileBuilder::new(Duration::from_millis(10), at(start), at(start + 1));
        let function = format!("{start}{}", "x".repeat(1000));
        builder.add(&a, &Arc::from("main"), [frame(&function)].into_iter(), 1);
        store.insert(builder.build(), up(start + 1));
        most = most.max(store.status().bytes);
    }
    assert!((60_000..200_000).contains(&most), "{most}");
}

/// A window in which nothing was sampled and nothing lost.
fn idle(start: u64, end: u64) -> Profile {
    ProfileBuilder::new(Duration::from_millis(10), at(start), at(end)).build()
}

#[test]
fn idle_windows_take_little_room_and_keep_no_names() {
    let a = process(1, 0, "web");
    let long = frame(&"n".repeat(100_000));
    let mut builder = ProfileBuilder::new(Duration::from_millis(10), at(0), at(5));
    builder.add(&a, &Arc::from("main"), std::iter::once(long), 1);
    let with_long_name = builder.build();
    let mut store = Store::new(Limits {
        retention: Duration::from_secs(600),
        ..ROOMY
    });
    store.insert(with_long_name, up(5));
    for start in (5..600).step_by(5) {
        store.insert(idle(start, start + 5), up(start + 5));
    }
    let status = store.status();
    assert_eq!((status.windows, status.oldest), (120, Some(at(0))));
    assert!((100_000..150_000).contains(&status.bytes), "{status:?}");
    let answer = ask(&store, Target::Process(1), span(0, 600));
    assert_eq!(summary(&answer), (Found::Samples, 1, None));
    assert_eq!((answer.profile.start, answer.profile.end), (at(0), at(600)));
    let last_minute = ask(&store, Target::Process(1), span(540, 600));
    assert_eq!(summary(&last_minute), (Found::Empty, 0, None));
    // The name goes with the only window that refers to it, not with the last of those beside it.
    store.expire(up(606));
    let status = store.status();
    assert_eq!((status.windows, status.oldest), (119, Some(at(5))));
    assert!(status.bytes < 119 * 300, "{status:?}");
    assert_eq!(ask(&store, Target::Process(1), span(0, 600)).found, Found::NotFound);
    // Whoever comes next is named as ever.
    store.insert(window(600, 605, &[(&a, 3)]), up(610));
    let answer = ask(&store, Target::Process(1), span(0, 605));
    assert_eq!(summary(&answer), (Found::Samples, 3, Some(1)));
    assert_eq!(&*answer.profile.frames[0].function, "f");
}

#[test]
fn names_are_shared_across_idle_windows() {
    let a = process(1, 0, "web");
    let name = "n".repeat(10_000);
    let bytes = |idle_between: u64| {
        let mut store = Store::new(ROOMY);
        for round in 0..24 {
            let start = round * (idle_between + 1);
            let mut builder = ProfileBuilder::new(Duration::from_millis(10), at(start), at(start + 1));
            builder.add(&a, &Arc::from("main"), std::iter::once(frame(&name)), round + 1);
            store.insert(builder.build(), up(start));
            for start in start + 1..=start + idle_between {
                store.insert(idle(start, start + 1), up(start));
            }
        }
        assert_eq!(ask(&store, Target::Process(1), span(0, 1_000)).profile.samples(), 300);
        store.status().bytes
    };
    let idle_windows = 24 * 11;
    assert!(
        bytes(11) < bytes(0) + idle_windows * 300,
        "{} and {}",
        bytes(11),
        bytes(0)
    );
}

#[test]
fn what_was_not_recorded_for_a_process_is_said() {
    let (a, b) = (process(1, 0, "web"), process(2, 0, "web"));
    let mut builder = ProfileBuilder::new(Duration::from_millis(10), at(0), at(5));
    for process in [&a, &b] {
        builder.add(process, &Arc::from("main"), [frame("f")].into_iter(), 3);
    }
    builder.quality_mut().merge(&Quality {
        samples: 6,
        rooted: 6,
        ..Quality::default()
    });
    let mut store = Store::new(ROOMY);
    store.insert(builder.build(), up(5));
    let quality = ask(&store, Target::Process(1), span(0, 5)).profile.quality;
    assert_eq!(
        (quality.samples, quality.rooted, quality.stopped["not_recorded"]),
        (3, 0, 3)
    );
}

#[test]
fn a_query_keeps_its_windows_while_the_store_goes_on() {
    let a = process(1, 0, "web");
    let mut store = Store::new(Limits {
        retention: Duration::from_secs(20),
        ..ROOMY
    });
    store.insert(window(0, 10, &[(&a, 1)]), up(10));
    let selection = store.select(Target::Process(1), span(0, 1000));
    for start in 1..100 {
        store.insert(window(start * 10, start * 10 + 10, &[(&a, 2)]), up(start * 10 + 10));
    }
    assert_eq!(selection.merge().expect("one period").profile.samples(), 1);
    assert_eq!(ask(&store, Target::Process(1), span(0, 10)).found, Found::Empty);
}

#[test]
fn samples_of_a_lower_rate_count_for_as_long_as_they_stand_for() {
    let a = process(1, 0, "web");
    let mut store = Store::new(ROOMY);
    store.insert(window(0, 5, &[(&a, 8)]), up(5));
    let mut slow = window(5, 10, &[(&a, 3)]);
    slow.period *= 4;
    store.insert(slow, up(10));
    let answer = ask(&store, Target::Process(1), span(0, 10));
    assert_eq!(
        (answer.profile.period, answer.profile.samples()),
        (Duration::from_millis(10), 8 + 4 * 3)
    );
    let quality = &answer.profile.quality;
    assert_eq!(
        (quality.samples, quality.rooted, quality.lost["ring_full"]),
        (20, 20, 5)
    );
    // A process that was sampled at the lower rate alone has the weight it had.
    let answer = ask(&store, Target::Process(1), span(5, 10));
    assert_eq!(answer.profile.period * 3, Duration::from_millis(120));
    assert_eq!(answer.profile.samples(), 3);

    let mut odd = window(10, 15, &[(&a, 1)]);
    odd.period = Duration::from_millis(15);
    store.insert(odd, up(15));
    assert!(store.select(Target::Process(1), span(0, 15)).merge().is_err());
}

#[test]
fn a_window_that_never_fits_is_refused_and_counted() {
    let a = process(1, 0, "web");
    let mut store = Store::new(ROOMY);
    store.insert(window(0, 10, &[(&a, 1)]), up(10));
    let one = store.status().bytes;
    let mut store = Store::new(Limits {
        max_bytes: one,
        ..ROOMY
    });
    store.insert(window(0, 10, &[(&a, 1)]), up(10));
    let mut builder = ProfileBuilder::new(Duration::from_millis(10), at(10), at(20));
    for number in 0..100 {
        builder.add(
            &a,
            &Arc::from("main"),
            [frame(&format!("function {number}"))].into_iter(),
            1,
        );
    }
    store.insert(builder.build(), up(20));
    assert_eq!(
        store.status().dropped,
        Dropped {
            too_large: 1,
            ..Dropped::default()
        }
    );
    assert_eq!(store.status().windows, 1);
}

/// Samples by process, thread and functions, root first.
type Counted = BTreeMap<(u32, SystemTime, Arc<str>, Vec<Arc<str>>), u64>;

fn counted(profile: &Profile) -> Counted {
    let mut counts = Counted::new();
    for (stack, count) in &profile.stacks {
        let process = &profile.processes[stack.process as usize];
        let functions = stack
            .frames
            .iter()
            .map(|frame| Arc::clone(&profile.frames[*frame as usize].function));
        let thread = Arc::clone(&profile.threads[stack.thread as usize]);
        *counts
            .entry((process.pid, process.start, thread, functions.collect()))
            .or_default() += count;
    }
    counts
}

/// A window from numbers: for each sample its process, its thread and its functions.
fn random_window(start: u64, samples: &[(u32, u8, Vec<u8>)]) -> Profile {
    let mut builder = ProfileBuilder::new(Duration::from_millis(10), at(start), at(start + 5));
    for (pid, thread, functions) in samples {
        let label = process(*pid, 0, if pid % 2 == 0 { "even" } else { "odd" });
        let frames = functions.iter().map(|number| frame(&format!("f{number}")));
        builder.add(&label, &Arc::from(format!("t{thread}")), frames, 1);
        let quality = Quality {
            samples: 1,
            rooted: u64::from(*thread == 0),
            stopped: (*thread != 0).then(|| ("no_row".to_owned(), 1)).into_iter().collect(),
            user_frames: functions.len() as u64,
            named_user_frames: functions.len() as u64,
            ..Quality::default()
        };
        builder.add_process_quality(&label, &quality);
    }
    builder
        .quality_mut()
        .lost
        .insert(format!("reason {}", start % 3), start);
    builder.build()
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
            store.insert(window(*start, start + length, &[(&process(*pid, 0, "web"), *count)]), up(start + length));
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

    /// What comes out is what the profiles themselves merge to, over any number of dictionaries.
    #[test]
    fn nothing_changes_by_being_kept(
        windows in prop::collection::vec(
            prop::collection::vec((1_u32..5, 0_u8..3, prop::collection::vec(0_u8..6, 1..6)), 0..12),
            1..40,
        ),
        first in 0_u64..40,
        last in 0_u64..40,
    ) {
        let mut store = Store::new(ROOMY);
        let mut kept = Vec::new();
        for (index, samples) in windows.iter().enumerate() {
            let start = index as u64 * 5;
            let window = random_window(start, samples);
            kept.push(window.clone());
            store.insert(window, up(start + 5));
        }
        let span = Span { start: Some(at(first * 5)), end: at(last * 5 + 5) };
        let inside: Vec<&Profile> =
            kept.iter().filter(|window| window.start >= at(first * 5) && window.end <= span.end).collect();
        for target in [Target::Process(1), Target::Process(2), Target::Service("odd".into()), Target::Everything] {
            let answer = ask(&store, target.clone(), span);
            let is_meant = |process: &ProcessLabel| match &target {
                Target::Process(pid) => process.pid == *pid,
                Target::Service(service) => process.service == *service,
                Target::Everything => true,
            };
            let parts: Vec<Profile> = inside.iter().map(|window| window.filter(is_meant)).collect();
            let Some(expected) = Profile::merge_all(&parts).expect("one period") else {
                assert_ne!(answer.found, Found::Samples);
                continue;
            };
            assert_eq!(counted(&answer.profile), counted(&expected));
            assert_eq!(answer.profile.quality, expected.quality);
            assert_eq!((answer.profile.start, answer.profile.end), (expected.start, expected.end));
            assert_eq!(answer.found == Found::Samples, !expected.stacks.is_empty());
        }
    }
}

/// Windows are picked by when they ended, whatever the time of day was then.
#[test]
fn windows_are_picked_by_the_clock_that_nobody_sets() {
    let a = process(1, 0, "web");
    let mut store = Store::new(ROOMY);
    store.insert(window(100, 110, &[(&a, 1)]), up(10));
    // It was named three seconds after its end.
    store.insert_late(window(110, 120, &[(&a, 2)]), up(23), Duration::from_secs(3));
    // Now the time of day is set back to that of the first.
    store.insert(window(100, 110, &[(&a, 4)]), up(30));
    let picked = |from, to| {
        let ended_in = |_began: Duration, ended: Duration| ended > up(from) && ended <= up(to);
        store.select_by_uptime(Target::Everything, span(0, 1), ended_in)
    };
    for (from, to, samples, windows) in [
        (0, 20, 3, 2),
        (10, 20, 2, 1),
        (10, 30, 6, 2),
        (20, 30, 4, 1),
        (0, 9, 0, 0),
    ] {
        let selection = picked(from, to);
        let answer = selection.merge().unwrap();
        assert_eq!(answer.profile.samples(), samples, "{from} to {to}");
        assert_eq!(selection.windows().count(), windows, "{from} to {to}");
        assert_eq!(selection.is_empty(), windows == 0);
        assert_eq!(selection.memory_bytes() == 0, windows == 0);
    }
    let began = |second| store.select_by_uptime(Target::Everything, span(0, 1), |began, _ended| began == up(second));
    assert_eq!(began(10).merge().unwrap().profile.samples(), 2);
    let none = picked(0, 9).merge().unwrap();
    assert_eq!((none.profile.start, none.profile.end), (at(0), at(1)));
    assert_eq!(none.found, Found::Empty);
}

/// What is held of a store outlives what the store keeps, and is not counted twice while it is kept.
#[test]
fn what_was_picked_goes_with_what_is_picked_later() {
    let a = process(1, 0, "web");
    let mut store = Store::new(Limits {
        retention: Duration::from_secs(25),
        ..ROOMY
    });
    for second in [10, 20] {
        store.insert(window(second - 10, second, &[(&a, second)]), up(second));
    }
    assert_eq!(store.forgotten_until(), None);
    let all = |store: &Store| store.select_by_uptime(Target::Everything, span(0, 40), |_began, _ended| true);
    let held = all(&store);
    for second in [30, 40] {
        store.insert(window(second - 10, second, &[(&a, second)]), up(second));
    }
    assert_eq!(store.forgotten_until(), Some(up(10)));
    assert_eq!(all(&store).merge().unwrap().profile.samples(), 20 + 30 + 40);
    let both = held.and(all(&store));
    assert_eq!(both.windows().count(), 4);
    let merged = both.merge().unwrap().profile;
    assert_eq!((merged.samples(), merged.start, merged.end), (100, at(0), at(40)));
}
