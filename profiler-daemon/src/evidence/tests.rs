//! Hosts whose truth is known.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use profiler_profile::{Frame, FrameKind, ProcessLabel, ProfileBuilder, Quality};
use profiler_store::{Limits, SeriesLimits};

use super::*;

const WINDOW: Duration = Duration::from_secs(5);
const QUIET_WINDOWS: u32 = 60;
const BREACH_WINDOWS: u32 = 6;

/// Numbers that look random and are the same in every run (xorshift64*).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            random.unit();
        }
        random
    }

    /// From 0 to 1.
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Services whose load wanders, of some thirty functions each, whose samples follow each other.
struct Host {
    random: Random,
    load: f64,
}

impl Host {
    fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            load: 0.5,
        }
    }

    fn window(&mut self, start: SystemTime, burning: u64) -> Profile {
        let mut builder = ProfileBuilder::new(Duration::from_millis(10), start, start + WINDOW);
        for (pid, service) in (1..).zip(["web", "db", "batch"]) {
            let process = ProcessLabel {
                pid,
                start: UNIX_EPOCH,
                name: "svc".into(),
                service: service.into(),
            };
            // It comes back to its mean: a load that stays higher is a change.
            self.load = 0.5 + 0.3 * (self.load - 0.5) + 0.1 * (self.random.unit() - 0.5);
            let samples = (300.0 * self.load) as u64;
            let mut running = 0;
            for _ in 0..samples {
                if self.random.unit() >= 0.4 {
                    let at = self.random.unit();
                    running = (at * at * 30.0) as usize;
                }
                add(&mut builder, &process, &format!("work_{running}"), 1);
            }
            let mut all = samples;
            if service == "batch" && burning > 0 {
                let burnt = burning + (20.0 * self.random.unit()) as u64;
                add(&mut builder, &process, "burn", burnt);
                all += burnt;
            }
            let quality = Quality {
                samples: all,
                rooted: all,
                ..Quality::default()
            };
            builder.add_process_quality(&process, &quality);
        }
        builder.build()
    }

    /// Five quiet minutes and half a minute of a breach, until now.
    fn store(&mut self, burning: u64) -> (Mutex<Store>, Breach) {
        let mut store = Store::new(Limits {
            retention: Duration::from_secs(3_600),
            max_bytes: 1 << 28,
        });
        let end = SystemTime::now();
        let start = end - WINDOW * BREACH_WINDOWS;
        let first = start - WINDOW * QUIET_WINDOWS;
        for number in 0..QUIET_WINDOWS + BREACH_WINDOWS {
            let burning = if number >= QUIET_WINDOWS { burning } else { 0 };
            store.insert(self.window(first + WINDOW * number, burning), Duration::from_secs(60));
        }
        let breach = Breach {
            start,
            end,
            seen_late: Duration::ZERO,
            subject: Subject::Host,
            metric: Metric::HostCpuBusy,
        };
        (Mutex::new(store), breach)
    }
}

fn add(builder: &mut ProfileBuilder, process: &ProcessLabel, function: &str, count: u64) {
    let frame = |function: &str| Frame {
        kind: FrameKind::Python,
        function: function.into(),
        module: "app".into(),
        file: "/srv/app/handlers.py".into(),
        line: 7,
    };
    builder.add(
        process,
        &Arc::from("main"),
        [frame("main"), frame(function)].into_iter(),
        count,
    );
}

fn board() -> Board {
    Board::new(SeriesLimits {
        retention: Duration::from_secs(3_600),
        max_bytes: 1 << 20,
    })
}

#[test]
fn the_service_that_burns_is_named_first_and_no_other() {
    for seed in 0..20 {
        let (store, breach) = Host::new(seed).store(250);
        let evidence = gather(&store, &board(), &breach, None);
        assert_eq!(
            (evidence.comparison.before.blocks, evidence.comparison.after.blocks),
            (30, 6)
        );
        let (party, function) = evidence.accused().next().expect("somebody is accused");
        assert_eq!(
            (party, &*function.frame.function),
            (&Party::Service("batch".into()), "burn"),
            "{seed}"
        );
        let parties: Vec<&Party> = evidence.grown().map(|party| &party.party).collect();
        assert_eq!(parties, [&Party::Service("batch".into())], "{seed}");
        assert!(
            evidence
                .accused()
                .all(|(party, _)| *party == Party::Service("batch".into())),
            "{seed}"
        );
        let lines = lines(&evidence);
        assert!(
            lines[0].starts_with("batch: burn (app/handlers.py) grew from 0.0 to "),
            "{}",
            lines[0]
        );
        assert!(
            lines
                .iter()
                .any(|line| line.contains("% batch: main (app/handlers.py) > burn")),
            "{lines:?}"
        );
    }
}

#[test]
fn a_breach_of_something_else_accuses_nobody() {
    for seed in 100..120 {
        let (store, breach) = Host::new(seed).store(0);
        let evidence = gather(&store, &board(), &breach, None);
        assert_eq!(evidence.accused().count(), 0, "{seed}: {:?}", lines(&evidence));
        assert_eq!(evidence.grown().count(), 0, "{seed}");
        assert!(lines(&evidence)[0].starts_with("nothing that was sampled grew: no change found; "));
    }
}

/// The reading that crossed the limit speaks of the second before it, and was looked at up to a second later. Windows are not
/// cut: one that goes on into the breach is no quiet one.
#[test]
fn the_quiet_time_holds_nothing_of_the_breach() {
    for (seen_after, seen_late, quiet) in [
        // On time: all windows before it.
        (0, 0, QUIET_WINDOWS),
        // Two seconds after it began, which nobody knows.
        (2, 2, QUIET_WINDOWS),
        // As far as is known it may have begun two seconds earlier.
        (0, 2, QUIET_WINDOWS - 1),
    ] {
        let (store, mut breach) = Host::new(7).store(250);
        breach.start += Duration::from_secs(seen_after);
        breach.seen_late = Duration::from_secs(seen_late);
        let evidence = gather(&store, &board(), &breach, None);
        let kept = evidence.quiet.expect("a quiet time").profile;
        assert!(kept.end <= breach.start - breach.seen_late, "{:?}", kept.end);
        let burnt = kept.frames.iter().any(|frame| &*frame.function == "burn");
        assert!(!burnt, "seen {seen_after} s after, {seen_late} s late");
        assert_eq!(evidence.comparison.before.length, WINDOW * quiet);
    }
}

#[test]
fn what_is_kept_is_bounded() {
    let mut store = Store::new(Limits {
        retention: Duration::from_secs(3_600),
        max_bytes: 1 << 30,
    });
    let end = SystemTime::now();
    let process = ProcessLabel {
        pid: 1,
        start: UNIX_EPOCH,
        name: "wide".into(),
        service: "".into(),
    };
    for number in 0..6 {
        let start = end - WINDOW * (6 - number);
        let mut builder = ProfileBuilder::new(Duration::from_millis(10), start, start + WINDOW);
        for function in 0..8_000 {
            add(
                &mut builder,
                &process,
                &format!("f{function}"),
                if function < 100 { 50 } else { 1 },
            );
        }
        store.insert(builder.build(), Duration::ZERO);
    }
    let breach = Breach {
        start: end - WINDOW * 3,
        end,
        seen_late: Duration::ZERO,
        subject: Subject::Host,
        metric: Metric::HostCpuBusy,
    };
    let evidence = gather(&Mutex::new(store), &board(), &breach, None);
    let kept = evidence.during.unwrap();
    assert!(kept.profile.stacks.len() <= MAX_STACKS && kept.profile.frames.len() <= MAX_STACKS + 1);
    assert_eq!(kept.profile.samples() + kept.left_out, 3 * (100 * 50 + 7_900));
    assert!(
        evidence.comparison.nodes.len() < 200,
        "{}",
        evidence.comparison.nodes.len()
    );
    assert!(evidence.comparison.functions.len() <= MAX_UNCHANGED);
}

#[test]
fn readings_around_the_breach_are_kept() {
    let board = board();
    let now = Board::now();
    let subjects = [
        (Metric::HostCpuBusy, Subject::Host),
        (Metric::ServiceCpu, Subject::Service("batch".into())),
        (Metric::ServiceCpu, Subject::Service("web".into())),
        (Metric::FilesystemUsed, Subject::Filesystem("/".into())),
    ];
    for second in 0..120 {
        let at = now.steady.saturating_sub(Duration::from_secs(120 - second));
        for (metric, subject) in &subjects {
            let value = second as f64 / 120.0;
            board
                .series()
                .record(*metric, subject, value, at, Duration::from_secs(1));
        }
    }
    let (store, mut breach) = Host::new(1).store(250);
    breach.subject = Subject::Filesystem("/".into());
    let evidence = gather(&store, &board, &breach, None);
    let mut subjects: Vec<String> = evidence
        .readings
        .iter()
        .map(|track| format!("{:?}", track.subject))
        .collect();
    subjects.sort();
    // Not of the service that did not grow.
    assert_eq!(subjects, [r#"Filesystem("/")"#, "Host", r#"Service("batch")"#]);
    for track in &evidence.readings {
        assert!(track.range.buckets.len() <= READING_STEPS as usize && track.range.buckets.len() > 20);
    }
}

/// A store that nothing was put into, and a breach of one window.
fn nothing_kept(subject: Subject, metric: Metric) -> (Mutex<Store>, Breach) {
    let store = Mutex::new(Store::new(Limits {
        retention: Duration::from_secs(3_600),
        max_bytes: 1 << 20,
    }));
    let breach = Breach {
        start: UNIX_EPOCH,
        end: UNIX_EPOCH + WINDOW,
        seen_late: Duration::ZERO,
        subject,
        metric,
    };
    (store, breach)
}

#[test]
fn nothing_kept_is_no_accusation() {
    let (store, breach) = nothing_kept(Subject::Service("\x1b[31m".into()), Metric::ServiceCpu);
    let evidence = gather(&store, &board(), &breach, None);
    assert_eq!(evidence.accused().count(), 0);
    assert!(
        lines(&evidence)[0].contains("not enough to compare"),
        "{:?}",
        lines(&evidence)
    );
}

#[test]
fn an_alert_about_memory_of_any_kind_is_looked_into() {
    // How much there is of it, and what of it waits to be written, is nothing that processes hold.
    const OTHERS: [Metric; 5] = [
        Metric::HostMemoryTotal,
        Metric::HostMemoryDirty,
        Metric::HostSwapTotal,
        Metric::ControlGroupMemoryLimit,
        Metric::ControlGroupSwapLimit,
    ];
    let is_of_memory = |metric: &Metric| {
        let name = metric.name();
        ["memory", "swap", "oom"].iter().any(|word| name.contains(word)) && !name.contains("gpu")
    };
    for metric in Metric::ALL.iter().copied().filter(is_of_memory) {
        let is_looked_into = super::memory::concerns_memory(metric);
        assert_eq!(is_looked_into, !OTHERS.contains(&metric), "{}", metric.name());
    }
}

#[test]
fn of_a_control_group_no_more_is_said_than_is_known() {
    let group = Subject::ControlGroup("/system.slice/web.service".into());
    let (store, breach) = nothing_kept(group, Metric::ControlGroupMemoryMaxEvents);
    let memory = super::memory::gather(&store, &board(), &breach, |_query| panic!("of whom?"));
    assert_eq!(
        memory.missing,
        ["which code grew: which processes are of a control group is not known"]
    );
}

#[test]
fn a_breach_begins_before_it_is_noticed_whatever_the_clock_does() {
    let second = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let held = Duration::from_secs(30);
    assert_eq!(breach_start(second(5_000), held, second(5_031)), second(5_000));
    // The clock was set back by an hour in between.
    assert_eq!(breach_start(second(5_000), held, second(1_431)), second(1_401));
    assert_eq!(breach_start(second(5_000), held, second(3)), SystemTime::UNIX_EPOCH);
}
