use profiler_readings::Source;
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const GAUGE: Metric = Metric::ProcessCpu;
const COUNTER: Metric = Metric::ProcessReadBytes;

fn limits(max_bytes: usize) -> SeriesLimits {
    SeriesLimits {
        retention: Duration::from_secs(3600),
        max_bytes,
    }
}

fn store() -> SeriesStore {
    SeriesStore::new(limits(16 << 20))
}

fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn process(pid: u32) -> Subject {
    Subject::Process { pid, start_ticks: 7 }
}

fn range_of(store: &SeriesStore, metric: Metric, subject: &Subject, steps: Steps, quantiles: &[f64]) -> Range {
    let found = store
        .series()
        .find(|series| series.metric == metric && series.subject == subject);
    found.expect("the series is there").range(steps, quantiles)
}

fn steps(from: f64, to: f64, step: f64) -> Steps {
    Steps {
        from: at(from),
        to: at(to),
        step: at(step),
    }
}

/// What the store says that it takes, counted anew.
fn counted(store: &SeriesStore) -> usize {
    let entry = |(subject, entry): (&Subject, &Entry)| {
        entry_bytes(subject, entry) + entry.lines.iter().map(|(_, line)| line.bytes()).sum::<usize>()
    };
    store.entries.iter().map(entry).sum()
}

#[test]
fn a_missing_value_stays_missing() {
    let mut store = store();
    for second in [1, 2, 3, 7, 8] {
        store.record(GAUGE, &process(1), f64::from(second), at(f64::from(second)), SECOND);
    }
    let range = range_of(&store, GAUGE, &process(1), steps(0.0, 10.0, 1.0), &[]);
    let found: Vec<(u32, f64)> = range.buckets.iter().map(|bucket| (bucket.index, bucket.last)).collect();
    assert_eq!(found, [(0, 1.0), (1, 2.0), (2, 3.0), (6, 7.0), (7, 8.0)]);
    let range = range_of(&store, GAUGE, &process(1), steps(3.0, 6.0, 1.0), &[0.5]);
    assert_eq!(
        range,
        Range::default(),
        "nothing was read then, and what was read at 3 is not after 3"
    );
}

#[test]
fn steps_have_their_least_mean_greatest_and_last_value() {
    let mut store = store();
    for (second, value) in [(1.0, 4.0), (2.0, 1.0), (3.0, 3.0), (5.0, 8.0)] {
        store.record(GAUGE, &process(1), value, at(second), SECOND);
    }
    let range = range_of(&store, GAUGE, &process(1), steps(0.0, 8.0, 4.0), &[0.0, 0.5, 0.75, 1.0]);
    let first = Bucket {
        index: 0,
        count: 3,
        min: 1.0,
        mean: 8.0 / 3.0,
        max: 4.0,
        last: 3.0,
    };
    assert!((range.buckets[0].mean - first.mean).abs() < 1e-9);
    assert_eq!(
        Bucket {
            mean: first.mean,
            ..range.buckets[0]
        },
        first
    );
    assert_eq!(
        (range.buckets.len(), range.buckets[1].index, range.buckets[1].mean),
        (2, 1, 8.0)
    );
    assert_eq!(range.quantiles, [1.0, 3.0, 4.0, 8.0]);
    assert_eq!(steps(0.0, 8.0, 3.0).count(), 3);
    assert_eq!(steps(8.0, 8.0, 3.0).count(), 0);
    assert_eq!(steps(0.0, 8.0, 0.0).count(), 0);
}

#[test]
fn a_counter_becomes_a_rate_that_is_never_negative() {
    let (counter, subject) = (COUNTER, process(1));
    let mut store = store();
    // It begins again between 3 and 4, and is not read at 5 and 6.
    for (second, value) in [
        (1.0, 1e15),
        (2.0, 1e15 + 10.0),
        (3.0, 1e15 + 30.0),
        (4.0, 5.0),
        (7.0, 35.0),
    ] {
        store.record(counter, &subject, value, at(second), SECOND);
    }
    let range = range_of(&store, counter, &subject, steps(0.0, 7.0, 1.0), &[1.0]);
    let found: Vec<(u32, f64)> = range.buckets.iter().map(|bucket| (bucket.index, bucket.mean)).collect();
    assert_eq!(found, [(1, 10.0), (2, 20.0), (3, 5.0), (6, 10.0)]);
    assert_eq!(range.quantiles, [20.0]);
    // The value before the span counts, and the mean is over time.
    let range = range_of(&store, counter, &subject, steps(3.0, 7.0, 4.0), &[]);
    assert!((range.buckets[0].mean - 35.0 / 4.0).abs() < 1e-9, "{range:?}");
    let latest = store.latest(at(8.0), |_| true);
    assert_eq!((latest[0].value, latest[0].rate), (35.0, Some(10.0)));
}

#[test]
fn a_large_counter_that_stands_still_never_goes_back() {
    let mut store = store();
    let mut value = 9_007_199_254_740_001.0;
    for second in 1..=1000_u32 {
        // It counts in bursts, and stands still where runs meet.
        if second % 60 > 5 && second % 60 < 50 {
            value += 123_456_789.0;
        }
        store.record(COUNTER, &process(1), value, at(f64::from(second)), SECOND);
    }
    let range = range_of(&store, COUNTER, &process(1), steps(0.0, 1000.0, 1.0), &[]);
    assert_eq!(range.buckets.len(), 999);
    for bucket in &range.buckets {
        let expected = if (bucket.index + 1) % 60 > 5 && (bucket.index + 1) % 60 < 50 {
            123_456_789.0
        } else {
            0.0
        };
        // Within the digits that are kept of what a run counted.
        assert!((bucket.mean - expected).abs() < 1000.0, "{bucket:?}");
        assert!(bucket.min >= 0.0, "{bucket:?}");
    }
}

#[test]
fn the_latest_value_is_exact_and_grows_old() {
    let mut store = store();
    store.record(GAUGE, &process(1), 0.1, at(10.0), SECOND);
    store.record(Metric::ProcessMemory, &process(1), 123_456_789.0, at(10.0), at(10.0));
    let values = |now| -> Vec<f64> {
        store
            .latest(at(now), |_| true)
            .iter()
            .map(|latest| latest.value)
            .collect()
    };
    assert_eq!(values(11.0), [0.1, 123_456_789.0]);
    assert_eq!(values(20.0), [123_456_789.0], "read every second, and not for ten");
    assert_eq!(values(60.0), [0.0; 0]);
}

#[test]
fn a_late_reading_takes_the_nearest_slot() {
    let mut store = store();
    for second in [1.0, 2.01, 3.4, 4.49, 5.0, 6.2] {
        store.record(GAUGE, &process(1), second, at(second), SECOND);
    }
    let range = range_of(&store, GAUGE, &process(1), steps(0.0, 6.0, 1.0), &[]);
    assert_eq!(range.buckets.len(), 6, "{range:?}");
    // Backwards, and what is no number.
    store.record(GAUGE, &process(1), 1.0, at(2.0), SECOND);
    store.record(GAUGE, &process(1), f64::NAN, at(7.0), SECOND);
    store.record(GAUGE, &process(1), 1e300, at(7.0), SECOND);
    assert_eq!(store.status().dropped.invalid, 3);
    assert_eq!(range_of(&store, GAUGE, &process(1), steps(0.0, 9.0, 1.0), &[]), range);
}

#[test]
fn the_time_of_day_is_that_of_the_present_clock() {
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let now = Moment {
        steady: at(100.0),
        wall,
    };
    assert_eq!(now.wall_of(at(90.0)), wall - at(10.0));
    assert_eq!(now.steady_of(wall - at(10.0)), at(90.0));
    assert_eq!(now.steady_of(SystemTime::UNIX_EPOCH), Duration::ZERO);
    // Set back by an hour: the order and the distance of readings stay.
    let stepped = Moment {
        steady: at(101.0),
        wall: wall - at(3600.0),
    };
    let times: Vec<SystemTime> = [90.0, 100.0, 101.0].map(|second| stepped.wall_of(at(second))).to_vec();
    assert!(times.is_sorted());
    assert_eq!(times[2].duration_since(times[0]).unwrap(), at(11.0));
    assert_eq!(now.wall_of(Duration::MAX), wall, "no time that can be told");
}

#[test]
fn values_are_kept_for_an_hour() {
    let mut store = store();
    for second in 1..=4000_u32 {
        store.record(GAUGE, &process(1), f64::from(second), at(f64::from(second)), SECOND);
    }
    let range = range_of(&store, GAUGE, &process(1), steps(0.0, 4000.0, 1.0), &[]);
    let kept = range.buckets.len();
    assert!((3600..3700).contains(&kept), "{kept}");
    assert_eq!(store.bytes, counted(&store));
    store.expire(at(20_000.0));
    assert_eq!((store.bytes, store.series().count()), (0, 0));
}

#[test]
fn what_does_not_change_costs_little() {
    let mut store = store();
    for second in 1..=3600_u32 {
        let now = at(f64::from(second));
        store.record(GAUGE, &process(1), 0.0, now, SECOND);
        store.record(GAUGE, &process(2), f64::from(second), now, SECOND);
    }
    let bytes = |pid| store.line(&process(pid), GAUGE).unwrap().bytes();
    assert!(bytes(1) * 5 < bytes(2), "{} {}", bytes(1), bytes(2));
    let range = range_of(&store, GAUGE, &process(1), steps(0.0, 3600.0, 3600.0), &[]);
    assert_eq!((range.buckets[0].count, range.buckets[0].max), (3600, 0.0));
}

#[test]
fn the_longest_silent_subject_goes_first() {
    let mut store = SeriesStore::new(limits(64 << 10));
    // Each is read for a minute and then no more.
    for pid in 1..=200_u32 {
        for second in 0..60_u32 {
            let now = at(f64::from(pid * 60 + second));
            store.record(GAUGE, &process(pid), f64::from(second), now, SECOND);
            store.record(GAUGE, &Subject::Host, f64::from(second), now, SECOND);
        }
        assert!(store.status().bytes <= 64 << 10);
    }
    let status = store.status();
    assert!(status.dropped.subjects > 0 && status.dropped.refused == 0, "{status:?}");
    let pids: Vec<u32> = store
        .series()
        .filter_map(|series| match series.subject {
            Subject::Process { pid, .. } => Some(*pid),
            _ => None,
        })
        .collect();
    assert_eq!(pids.last(), Some(&200));
    assert!(pids.windows(2).all(|pair| pair[1] == pair[0] + 1), "{pids:?}");
    assert_eq!(store.bytes, counted(&store));
}

#[test]
fn history_is_shortened_before_a_live_subject_goes() {
    let mut store = SeriesStore::new(limits(256 << 10));
    for second in 0..3600_u32 {
        for pid in 1..=100 {
            store.record(GAUGE, &process(pid), f64::from(second), at(f64::from(second)), SECOND);
        }
    }
    let status = store.status();
    assert!(status.bytes <= status.capacity_bytes, "{status:?}");
    assert_eq!(
        (status.subjects, status.dropped.subjects, status.dropped.refused),
        (100, 0, 0)
    );
    assert!(status.dropped.runs > 1000, "{status:?}");
    let range = range_of(&store, GAUGE, &process(1), steps(0.0, 3599.0, 1.0), &[]);
    assert!(range.buckets.len() >= 60, "{}", range.buckets.len());
    assert_eq!(range.buckets.last().unwrap().last, 3599.0);
}

#[test]
fn too_many_live_subjects_are_refused() {
    let mut store = SeriesStore::new(limits(64 << 10));
    for second in 0..3_u32 {
        for pid in 1..=5000 {
            store.record(GAUGE, &process(pid), 1.0, at(f64::from(second)), SECOND);
        }
        let status = store.status();
        assert!(status.bytes <= status.capacity_bytes, "{status:?}");
    }
    let status = store.status();
    assert_eq!(status.dropped.refused, 3 * (5000 - status.subjects as u64));
    assert!(status.subjects > 50, "{status:?}");
    // Those that came first are kept, and read on.
    assert_eq!(
        range_of(&store, GAUGE, &process(1), steps(0.0, 2.0, 1.0), &[])
            .buckets
            .len(),
        2
    );
}

#[test]
fn room_is_not_looked_for_by_every_value() {
    const PROCESSES: u32 = 2_000;
    // Room for the newest values of some of them, and for hardly any older ones.
    let mut store = SeriesStore::new(limits(600 << 10));
    for second in 0..300_u32 {
        for pid in 1..=PROCESSES {
            // Each value is another, so that no run costs nothing.
            let value = f64::from(pid * 1_000 + second);
            store.record(GAUGE, &process(pid), value, at(f64::from(second)), SECOND);
            assert!(store.bytes <= 600 << 10);
        }
    }
    let status = store.status();
    assert!(
        status.series > 500 && status.dropped.refused > 100_000 && status.dropped.runs > 1_000,
        "{status:?}"
    );
    assert_eq!(status.bytes, counted(&store));
    // Once a second for those that are refused, and some times a minute for those that go on.
    assert!(store.passes < 600, "{} passes", store.passes);
}

#[test]
fn a_lower_limit_holds_at_once() {
    let mut store = store();
    for second in 0..100_u32 {
        for pid in 1..=500 {
            store.record(GAUGE, &process(pid), f64::from(second), at(f64::from(second)), SECOND);
        }
    }
    store.set_limits(limits(64 << 10), at(100.0));
    let status = store.status();
    assert!(status.bytes <= 64 << 10 && status.series > 50, "{status:?}");
    assert_eq!(status.bytes, counted(&store));
    assert_eq!(status.dropped.subjects, 500 - status.subjects as u64);
}

#[test]
fn names_of_processes_go_with_them() {
    let owner = |name: &str| Owner {
        name: name.into(),
        service: "shop".into(),
    };
    let mut store = store();
    store.set_owner(&process(1), &owner("a"));
    assert_eq!(store.bytes, 0, "nothing is known of what has no series");
    store.record(GAUGE, &process(1), 1.0, at(1.0), SECOND);
    store.set_owner(&process(1), &owner("a"));
    store.set_owner(&process(1), &owner("longer"));
    assert_eq!(store.bytes, counted(&store));
    assert_eq!(store.latest(at(1.0), |_| true)[0].owner, Some(owner("longer")));
    store.expire(at(10_000.0));
    assert_eq!(store.bytes, 0);
}

/// What a subject takes whose every reading changed every time for an hour.
fn hour_of(subject: &Subject) -> usize {
    let mut store = store();
    for second in 1..=3600_u32 {
        // Of what uses no GPU.
        let is_usual = |metric: &&Metric| metric.scope() == subject.scope() && Source::of(**metric) != Source::Gpu;
        for metric in Metric::ALL.iter().filter(is_usual) {
            let interval = Source::of(*metric).interval();
            if u64::from(second) % interval.as_secs() == 0 {
                store.record(*metric, subject, f64::from(second), at(f64::from(second)), interval);
            }
        }
    }
    assert_eq!(store.status().dropped, SeriesDropped::default());
    store.bytes
}

/// 200 processes in 50 services, of which one in five does something, on a host of 16 CPUs.
#[test]
fn an_hour_of_a_usual_host_fits_the_default() {
    let process = hour_of(&process(1));
    let service = hour_of(&Subject::Service("checkout.service".into()));
    let core = hour_of(&Subject::Core(1));
    let host = hour_of(&Subject::Host);
    let busiest = 200 * process + 50 * service + 16 * core + host;
    println!("process {process}, service {service}, core {core}, host {host}: {busiest} if nothing stands still");
    // An idle one takes a tenth: what does not change costs its place.
    let usual = busiest / 5 + busiest / 5 * 4 / 10;
    assert!(usual < 8 << 20 && busiest < 28 << 20, "{usual} {busiest}");
}

proptest! {
    /// Held against a map of slots.
    #[test]
    fn a_series_is_what_was_written(
        writes in prop::collection::vec((0..400_u64, -1e6..1e6_f64), 1..200),
        from in 0..400_u64, length in 1..400_u64, step in 1..50_u64,
    ) {
        let mut store = store();
        let mut model = BTreeMap::new();
        let mut now = 0;
        for (ahead, value) in writes {
            now += ahead % 7;
            let value = f64::from(value as f32);
            store.record(GAUGE, &process(1), value, Duration::from_secs(now), SECOND);
            model.insert(now, value);
        }
        let steps = Steps {
            from: Duration::from_secs(from),
            to: Duration::from_secs(from + length),
            step: Duration::from_secs(step),
        };
        let range = range_of(&store, GAUGE, &process(1), steps, &[0.5]);
        let mut expected: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
        for (second, value) in model.range(from + 1..=from + length) {
            expected.entry(((second - from - 1) / step) as u32).or_default().push(*value);
        }
        let found: Vec<(u32, u32, f64, f64, f64)> = range
            .buckets
            .iter()
            .map(|bucket| (bucket.index, bucket.count, bucket.min, bucket.max, bucket.last))
            .collect();
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(index, values)| {
                let least = values.iter().copied().fold(f64::INFINITY, f64::min);
                let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                (index, values.len() as u32, least, most, values[values.len() - 1])
            })
            .collect();
        prop_assert_eq!(found, expected);
        prop_assert_eq!(store.bytes, counted(&store));
    }

    /// Whatever is written, the bytes are within their bound and add up.
    #[test]
    fn bytes_are_bounded(
        writes in prop::collection::vec((0..300_u32, 0..400_u64, any::<f64>()), 1..400),
        kilobytes in 1..64_usize,
    ) {
        let mut store = SeriesStore::new(limits(kilobytes << 10));
        let mut now = Duration::ZERO;
        for (pid, ahead, value) in writes {
            now += Duration::from_secs(ahead);
            store.record(GAUGE, &process(pid), value, now, SECOND);
            prop_assert!(store.bytes <= kilobytes << 10);
            prop_assert_eq!(store.bytes, counted(&store));
        }
    }
}
