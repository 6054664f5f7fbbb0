//! Hours of readings in a moment: what becomes of them under limits.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use profiler_alerts::{
    Alert, AlertKind, Change, Comparison, EndReason, Evaluator, Fingerprint, Level, Limit, Matcher, Moment,
    Observation, Phase, Settings, Severity, Silence, SilenceId, Stored, Subjects, Transition,
};
use profiler_readings::{Gap, Metric, Subject};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_oneof, proptest};

fn level(value: f64) -> Level {
    Level::new(value).expect("a number")
}

fn limit(name: &str, metric: Metric) -> Limit {
    Limit {
        name: name.to_owned(),
        metric,
        subjects: Subjects::All,
        comparison: Comparison::Above,
        level: level(0.7),
        clear: level(0.63),
        hold_for: Duration::from_secs(30),
        keep_firing_for: Duration::from_secs(60),
        no_data_after: Duration::from_secs(60),
        severity: Severity::Warning,
        labels: BTreeMap::new(),
        sinks: vec!["journal".to_owned()],
    }
}

/// An evaluator on clocks of its own, a second a step.
struct Simulation {
    evaluator: Evaluator,
    seconds: u64,
    /// What the clock on the wall shows beyond the seconds.
    wall_offset: Duration,
    seen: Vec<(u64, Transition)>,
}

impl Simulation {
    fn new(limits: &[Limit]) -> Self {
        let mut simulation = Self {
            evaluator: Evaluator::new(Settings::default()),
            seconds: 0,
            wall_offset: Duration::from_secs(1_800_000_000),
            seen: Vec::new(),
        };
        simulation.set_limits(limits);
        simulation
    }

    fn set_limits(&mut self, limits: &[Limit]) {
        let now = self.now();
        let changed = self.evaluator.set_limits(limits.iter().cloned().map(Arc::new), now);
        self.note(changed);
    }

    fn now(&self) -> Moment {
        let since_boot = Duration::from_secs(self.seconds);
        Moment {
            time: UNIX_EPOCH + self.wall_offset + since_boot,
            since_boot,
        }
    }

    fn note(&mut self, changed: Vec<Transition>) {
        self.seen
            .extend(changed.into_iter().map(|change| (self.seconds, change)));
    }

    fn observe(&mut self, observations: &[Observation]) {
        self.seconds += 1;
        let changed = self.evaluator.evaluate(observations, self.now());
        self.note(changed);
    }

    /// One value of the host's CPU each second.
    fn host(&mut self, values: impl IntoIterator<Item = Result<f64, Gap>>) {
        for value in values {
            self.observe(&[host(value)]);
        }
    }

    /// When what happened to alerts of a kind.
    fn changes(&self, kind: AlertKind) -> Vec<(u64, Change)> {
        let of_kind = self.seen.iter().filter(|(_, seen)| seen.stored.alert.kind == kind);
        of_kind.map(|(at, seen)| (*at, seen.change)).collect()
    }

    fn last(&self) -> &Transition {
        &self.seen.last().expect("something happened").1
    }

    fn told(&self) -> Vec<(u64, Change)> {
        let told = self.seen.iter().filter(|(_, seen)| seen.notify);
        told.map(|(at, seen)| (*at, seen.change)).collect()
    }
}

fn host(value: Result<f64, Gap>) -> Observation {
    Observation {
        metric: Metric::HostCpuBusy,
        subject: Subject::Host,
        value,
    }
}

fn service(name: &str, value: f64) -> Observation {
    Observation {
        metric: Metric::ServiceMemoryLimitUsed,
        subject: Subject::Service(name.into()),
        value: Ok(value),
    }
}

fn repeat(value: f64, seconds: usize) -> impl Iterator<Item = Result<f64, Gap>> {
    std::iter::repeat_n(Ok(value), seconds)
}

#[test]
fn fires_after_its_time_and_resolves_for_good() {
    let mut simulation = Simulation::new(&[limit("host_cpu", Metric::HostCpuBusy)]);
    simulation.host(repeat(0.5, 10).chain(repeat(0.9, 60)).chain(repeat(0.65, 100)));
    // Above the clear level it goes on.
    assert_eq!(
        simulation.changes(AlertKind::Limit),
        [(11, Change::Pending), (41, Change::Firing)]
    );
    simulation.host(repeat(0.6, 59).chain(repeat(0.65, 1)).chain(repeat(0.6, 100)));
    assert_eq!(simulation.changes(AlertKind::Limit)[2..], [(291, Change::Resolved)]);
    let alert = &simulation.last().stored.alert;
    assert_eq!((alert.latest, alert.worst), (Some(0.6), Some(0.9)));
    assert!(matches!(
        alert.phase,
        Phase::Resolved {
            reason: EndReason::Recovered,
            ..
        }
    ));
    assert_eq!(simulation.told(), [(41, Change::Firing), (291, Change::Resolved)]);
    assert_eq!(simulation.evaluator.alerts().count(), 0);
}

#[test]
fn a_short_peak_is_dropped_unheard() {
    let mut simulation = Simulation::new(&[limit("host_cpu", Metric::HostCpuBusy)]);
    simulation.host(repeat(0.9, 30).chain(repeat(0.5, 1)).chain(repeat(0.9, 30)));
    assert_eq!(
        simulation.changes(AlertKind::Limit),
        [(1, Change::Pending), (31, Change::Dropped), (32, Change::Pending)]
    );
    assert!(simulation.told().is_empty());
}

/// Between the levels the time of a pending alert stands still; a stay of its whole time there drops it.
#[test]
fn between_the_levels_pending_waits() {
    let mut simulation = Simulation::new(&[limit("host_cpu", Metric::HostCpuBusy)]);
    simulation.host(repeat(0.9, 20).chain(repeat(0.65, 29)).chain(repeat(0.9, 11)));
    assert_eq!(
        simulation.changes(AlertKind::Limit),
        [(1, Change::Pending), (60, Change::Firing)]
    );
    let mut simulation = Simulation::new(&[limit("host_cpu", Metric::HostCpuBusy)]);
    simulation.host(repeat(0.9, 20).chain(repeat(0.65, 30)));
    assert_eq!(
        simulation.changes(AlertKind::Limit),
        [(1, Change::Pending), (50, Change::Dropped)]
    );
}

/// Ten minutes around the limit, as waves of several lengths and heights, with noise: one alert, one resolve.
#[test]
fn a_load_that_oscillates_makes_one_alert() {
    for period in [2.0, 7.0, 20.0, 45.0, 90.0] {
        for height in [0.03, 0.05, 0.2] {
            let mut simulation = Simulation::new(&[limit("host_cpu", Metric::HostCpuBusy)]);
            let mut noise = 12_345_u32;
            let around = |second: u32| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let noise = (f64::from(noise >> 16) / 65_536.0 - 0.5) * 0.02;
                let wave = (f64::from(second) * std::f64::consts::TAU / period).sin();
                Ok(0.72 + wave * height + noise)
            };
            let quiet = || repeat(0.4, 300);
            simulation.host(quiet().chain((0..600).map(around)).chain(quiet()));
            let told: Vec<Change> = simulation.told().into_iter().map(|(_, change)| change).collect();
            // Waves that dip below the clear level before `for` is over never hold: they make no alert, and none flaps.
            let held = told == [Change::Firing, Change::Resolved];
            let never = told.is_empty() && height > 0.09 && period < 120.0;
            assert!(
                held || never,
                "period {period} height {height}: {:?}",
                simulation.told()
            );
            if height < 0.09 {
                assert!(held, "period {period} height {height}");
                let resolved = simulation.told()[1].0;
                assert!((900..=965).contains(&resolved), "resolved at {resolved}");
            }
        }
    }
}

#[test]
fn constant_load_fires_within_two_periods_of_its_time() {
    for (hold_for, period) in [(0, 1), (1, 1), (30, 1), (30, 5), (31, 5), (120, 10)] {
        let mut limit = limit("host_cpu", Metric::HostCpuBusy);
        limit.hold_for = Duration::from_secs(hold_for);
        let mut simulation = Simulation::new(&[limit]);
        for _ in 0..60 {
            simulation.seconds += period - 1;
            simulation.host([Ok(0.95)]);
        }
        let began = period;
        let (fired, _) = *simulation.told().first().expect("fires");
        assert!(
            (began + hold_for..=began + hold_for + 2 * period).contains(&fired),
            "for {hold_for} s at {period} s: fired at {fired}"
        );
    }
}

#[test]
fn below_is_the_other_way_round() {
    let mut limit = limit("host_cpu", Metric::HostCpuBusy);
    limit.comparison = Comparison::Below;
    limit.level = level(0.1);
    limit.clear = level(0.2);
    let mut simulation = Simulation::new(&[limit]);
    simulation.host(repeat(0.05, 31).chain(repeat(0.15, 100)).chain(repeat(0.2, 61)));
    assert_eq!(simulation.told(), [(31, Change::Firing), (192, Change::Resolved)]);
    assert_eq!(simulation.last().stored.alert.worst, Some(0.05));
}

#[test]
fn missing_data_keep_it_firing_and_are_an_alert_of_their_own() {
    let mut simulation = Simulation::new(&[limit("host_cpu", Metric::HostCpuBusy)]);
    simulation.host(repeat(0.9, 40));
    simulation.host(std::iter::repeat_n(Err(Gap::NoData), 1000));
    assert_eq!(
        simulation.changes(AlertKind::Limit),
        [(1, Change::Pending), (31, Change::Firing)]
    );
    assert_eq!(simulation.changes(AlertKind::NoData), [(101, Change::Firing)]);
    let loss = simulation.last().stored.alert.clone();
    let since = simulation.now().time.duration_since(loss.began).unwrap();
    assert_eq!(since.as_secs(), 1040 - 41);
    // The readings are back: the loss ends once they stay, the breach goes on by them.
    simulation.host(repeat(0.9, 100));
    assert_eq!(simulation.changes(AlertKind::NoData)[1..], [(1101, Change::Resolved)]);
    assert_eq!(simulation.evaluator.counts().firing, 1);
    let ids: BTreeSet<_> = simulation.seen.iter().map(|(_, seen)| seen.stored.alert.id).collect();
    assert_eq!(ids.len(), 2);
}

#[test]
fn a_host_that_is_not_observed_is_missed_too() {
    let mut simulation = Simulation::new(&[limit("host_cpu", Metric::HostCpuBusy)]);
    simulation.host(repeat(0.1, 5));
    for _ in 0..61 {
        simulation.observe(&[]);
    }
    assert_eq!(simulation.told(), [(66, Change::Firing)]);
    assert_eq!(simulation.last().stored.alert.kind, AlertKind::NoData);
    // A value that is no number is none.
    simulation.host(repeat(f64::NAN, 100));
    assert_eq!(simulation.told().len(), 1);
}

#[test]
fn what_cannot_be_measured_raises_nothing() {
    let mut simulation = Simulation::new(&[limit("host_cpu", Metric::HostCpuBusy)]);
    simulation.host(std::iter::repeat_n(Err(Gap::Unsupported), 1000));
    assert!(simulation.seen.is_empty());
    // What fired before ends with its reason.
    simulation.host(repeat(0.9, 40));
    simulation.host(std::iter::repeat_n(Err(Gap::Unsupported), 1000));
    assert_eq!(simulation.told(), [(1031, Change::Firing), (1071, Change::Resolved)]);
    assert!(matches!(
        simulation.last().stored.alert.phase,
        Phase::Resolved {
            reason: EndReason::Unsupported,
            ..
        }
    ));
}

#[test]
fn a_pending_alert_without_data_is_dropped() {
    let mut simulation = Simulation::new(&[limit("host_cpu", Metric::HostCpuBusy)]);
    simulation.host(repeat(0.9, 20));
    // A short gap neither counts nor starts the time again.
    simulation.host(std::iter::repeat_n(Err(Gap::NoData), 30));
    simulation.host(repeat(0.9, 9));
    assert_eq!(simulation.changes(AlertKind::Limit), [(1, Change::Pending)]);
    simulation.host(std::iter::repeat_n(Err(Gap::NoData), 61));
    assert_eq!(
        simulation.changes(AlertKind::Limit),
        [(1, Change::Pending), (120, Change::Dropped)]
    );
}

#[test]
fn a_service_that_stops_is_gone_and_one_that_restarts_is_not() {
    let mut simulation = Simulation::new(&[limit("memory", Metric::ServiceMemoryLimitUsed)]);
    for _ in 0..40 {
        simulation.observe(&[service("web", 0.9), service("quiet", 0.1)]);
    }
    for _ in 0..20 {
        simulation.observe(&[]);
    }
    for _ in 0..5 {
        simulation.observe(&[service("web", 0.9)]);
    }
    assert_eq!(simulation.told(), [(31, Change::Firing)]);
    for _ in 0..100 {
        simulation.observe(&[]);
    }
    assert_eq!(simulation.told(), [(31, Change::Firing), (96, Change::Resolved)]);
    let alert = &simulation.last().stored.alert;
    assert!(matches!(
        alert.phase,
        Phase::Resolved {
            reason: EndReason::Gone,
            ..
        }
    ));
    assert_eq!(simulation.seen.len(), 3, "nothing is missed of a service that stopped");
}

#[test]
fn the_clock_on_the_wall_decides_nothing() {
    let hour = Duration::from_secs(3600);
    for ahead in [true, false] {
        let mut simulation = Simulation::new(&[limit("host_cpu", Metric::HostCpuBusy)]);
        let step = |simulation: &mut Simulation| {
            if ahead {
                simulation.wall_offset += hour;
            } else {
                simulation.wall_offset -= hour;
            }
        };
        let silence = Silence {
            until: simulation.now().time + Duration::from_secs(200),
            ..silence("other", &simulation)
        };
        let now = simulation.now();
        simulation.evaluator.add_silence(silence, now).unwrap();
        simulation.host(repeat(0.9, 10));
        step(&mut simulation);
        simulation.host(repeat(0.9, 20));
        assert!(simulation.told().is_empty());
        simulation.host(repeat(0.9, 5));
        step(&mut simulation);
        simulation.host(repeat(0.5, 60));
        assert_eq!(simulation.told(), [(31, Change::Firing)]);
        assert_eq!(simulation.evaluator.silences().count(), 1);
        simulation.host(repeat(0.5, 1));
        assert_eq!(simulation.told()[1..], [(96, Change::Resolved)]);
        simulation.host(repeat(0.5, 110));
        assert_eq!(simulation.evaluator.silences().count(), 0);
    }
}

/// A daemon that was stopped for an hour saw two readings, not an hour of them.
#[test]
fn a_long_pause_counts_little() {
    let mut simulation = Simulation::new(&[limit("host_cpu", Metric::HostCpuBusy)]);
    simulation.host(repeat(0.9, 2));
    simulation.seconds += 3600;
    simulation.host(repeat(0.9, 10));
    assert!(simulation.told().is_empty());
    simulation.host(repeat(0.9, 20));
    assert_eq!(simulation.told().len(), 1);
}

fn silence(limit: &str, simulation: &Simulation) -> Silence {
    Silence {
        id: SilenceId(7),
        matchers: vec![Matcher {
            label: "alertname".to_owned(),
            value: limit.to_owned(),
            negated: false,
        }],
        made: simulation.now().time,
        until: simulation.now().time + Duration::from_secs(100),
        who: "uid 0".to_owned(),
        comment: "maintenance".to_owned(),
    }
}

#[test]
fn a_silenced_alert_keeps_its_state_unheard() {
    let mut simulation = Simulation::new(&[limit("host_cpu", Metric::HostCpuBusy)]);
    let now = simulation.now();
    let silence_of_host = silence("host_cpu", &simulation);
    simulation.evaluator.add_silence(silence_of_host.clone(), now).unwrap();
    simulation.host(repeat(0.9, 90));
    assert_eq!(
        simulation.changes(AlertKind::Limit),
        [(1, Change::Pending), (31, Change::Firing)]
    );
    assert!(simulation.told().is_empty());
    let counts = simulation.evaluator.counts();
    assert_eq!((counts.firing, counts.silenced), (1, 1));
    // Its end is heard, because it still fires.
    simulation.host(repeat(0.9, 90));
    assert_eq!(simulation.told(), [(100, Change::Unsilenced)]);
    simulation.host(repeat(0.1, 61));
    assert_eq!(simulation.told()[1..], [(241, Change::Resolved)]);

    // One that fires and ends under a silence is never heard of.
    let mut simulation = Simulation::new(&[limit("host_cpu", Metric::HostCpuBusy)]);
    simulation.evaluator.add_silence(silence_of_host, now).unwrap();
    simulation.host(repeat(0.9, 31).chain(repeat(0.1, 200)));
    assert_eq!(simulation.changes(AlertKind::Limit).len(), 3);
    assert!(simulation.told().is_empty());
    assert!(!simulation.evaluator.remove_silence(SilenceId(7)));
}

#[test]
fn a_changed_configuration() {
    let cpu = limit("host_cpu", Metric::HostCpuBusy);
    let mut simulation = Simulation::new(std::slice::from_ref(&cpu));
    simulation.host(repeat(0.9, 40));
    // Other levels: the alert goes on by them.
    let mut changed = cpu.clone();
    changed.level = level(0.95);
    changed.clear = level(0.92);
    simulation.set_limits(&[changed]);
    assert_eq!(simulation.told().len(), 1);
    simulation.host(repeat(0.9, 61));
    assert_eq!(simulation.told()[1..], [(101, Change::Resolved)]);
    simulation.set_limits(&[cpu]);
    simulation.host(repeat(0.9, 40));
    simulation.set_limits(&[]);
    assert_eq!(simulation.told().len(), 4);
    assert!(matches!(
        simulation.last().stored.alert.phase,
        Phase::Resolved {
            reason: EndReason::LimitRemoved,
            ..
        }
    ));
}

#[test]
fn one_limit_does_not_take_the_room_of_another() {
    let memory = limit("memory", Metric::ServiceMemoryLimitUsed);
    let mut simulation = Simulation::new(&[memory, limit("host_cpu", Metric::HostCpuBusy)]);
    let mut observations: Vec<Observation> = (0..250).map(|number| service(&format!("s{number}"), 0.9)).collect();
    observations.push(host(Ok(0.9)));
    for _ in 0..31 {
        simulation.observe(&observations);
    }
    let counts = simulation.evaluator.counts();
    assert_eq!((counts.firing, counts.refused), (101, 150 * 31));
}

#[test]
fn fingerprints_are_the_same_for_ever() {
    let process = |start_ticks| Subject::Process { pid: 42, start_ticks };
    let of = |subject: &Subject, kind| Fingerprint::of("host_cpu", subject, kind).to_string();
    assert_eq!(of(&Subject::Host, AlertKind::Limit), "00f0f46b985458ad");
    let all: BTreeSet<String> = [
        of(&Subject::Host, AlertKind::Limit),
        of(&Subject::Host, AlertKind::NoData),
        of(&process(1), AlertKind::Limit),
        of(&process(2), AlertKind::Limit),
        of(&Subject::Core(42), AlertKind::Limit),
        of(&Subject::Service("42".into()), AlertKind::Limit),
    ]
    .into();
    assert_eq!(all.len(), 6);
}

fn restart(simulation: &mut Simulation, away: u64) {
    let stored = simulation.evaluator.save(simulation.now().time);
    let limits: Vec<Limit> = simulation.evaluator.limits().map(|limit| (**limit).clone()).collect();
    simulation.evaluator = Evaluator::new(Settings::default());
    // The other clock begins again with the host.
    simulation.wall_offset += Duration::from_secs(simulation.seconds + away);
    simulation.seconds = 0;
    simulation.set_limits(&limits);
    let now = simulation.now();
    let ended = simulation.evaluator.restore(stored, now);
    simulation.note(ended);
}

#[test]
fn a_firing_alert_is_restored_and_not_told_again() {
    for away in [5, 5 * 3600] {
        let mut simulation = Simulation::new(&[limit("host_cpu", Metric::HostCpuBusy)]);
        simulation.host(repeat(0.9, 40));
        let id = simulation.last().stored.alert.id;
        restart(&mut simulation, away);
        simulation.host(repeat(0.9, 40).chain(repeat(0.5, 61)));
        assert_eq!(simulation.told(), [(31, Change::Firing), (101, Change::Resolved)]);
        assert_eq!(simulation.last().stored.alert.id, id);
    }
}

#[test]
fn a_pending_alert_goes_on_after_a_short_absence() {
    let mut simulation = Simulation::new(&[limit("host_cpu", Metric::HostCpuBusy)]);
    simulation.host(repeat(0.9, 20));
    restart(&mut simulation, 100);
    simulation.host(repeat(0.9, 11));
    assert_eq!(simulation.told(), [(11, Change::Firing)]);

    let mut simulation = Simulation::new(&[limit("host_cpu", Metric::HostCpuBusy)]);
    simulation.host(repeat(0.9, 20));
    restart(&mut simulation, 1000);
    assert_eq!(simulation.last().change, Change::Dropped);
    simulation.host(repeat(0.9, 30));
    assert!(simulation.told().is_empty());
}

#[test]
fn what_ended_while_nobody_looked() {
    let mut simulation = Simulation::new(&[
        limit("memory", Metric::ServiceMemoryLimitUsed),
        limit("host_cpu", Metric::HostCpuBusy),
    ]);
    for _ in 0..40 {
        simulation.observe(&[service("web", 0.9), host(Ok(0.9))]);
    }
    let stored = simulation.evaluator.save(simulation.now().time);
    assert_eq!(stored.len(), 2);
    // The service stopped and one limit was removed while the daemon was away.
    let now = simulation.now();
    simulation.evaluator = Evaluator::new(Settings::default());
    simulation.set_limits(&[limit("memory", Metric::ServiceMemoryLimitUsed)]);
    let ended = simulation
        .evaluator
        .restore(stored.clone().into_iter().chain(stored), now);
    assert!(
        ended
            .iter()
            .all(|ended| ended.notify && ended.stored.alert.limit.name == "host_cpu")
    );
    assert_eq!(simulation.evaluator.alerts().count(), 1);
    for _ in 0..31 {
        simulation.observe(&[]);
    }
    assert_eq!(simulation.last().change, Change::Resolved);
    assert!(simulation.last().notify);
}

fn any_value() -> impl Strategy<Value = Result<f64, Gap>> {
    prop_oneof![
        6 => (0.5..0.9).prop_map(Ok),
        1 => Just(Ok(f64::NAN)),
        1 => Just(Err(Gap::NoData)),
        1 => Just(Err(Gap::Unsupported)),
    ]
}

/// Runs of equal values, so that something comes of them.
fn any_course() -> impl Strategy<Value = Vec<(Result<f64, Gap>, usize)>> {
    prop::collection::vec((any_value(), 1_usize..90), 1..30)
}

fn observe(observations: &mut Vec<Observation>, subject: Subject, metric: Metric, value: Result<f64, Gap>) {
    observations.push(Observation { metric, subject, value });
}

/// Which alerts fire after a run of transitions; panics on a sequence that must not be.
fn follow(transitions: &[Transition]) {
    let mut live: BTreeMap<Fingerprint, (Alert, Change)> = BTreeMap::new();
    let mut told = HashSet::new();
    for Transition { change, stored, notify } in transitions {
        let alert = &stored.alert;
        let before = live
            .get(&alert.fingerprint)
            .map(|(before, change)| (before.id, *change));
        let expected = match change {
            Change::Pending => before.is_none() && alert.kind == AlertKind::Limit,
            Change::Firing if alert.kind == AlertKind::NoData => before.is_none(),
            Change::Firing | Change::Dropped => before == Some((alert.id, Change::Pending)),
            Change::Unsilenced => before == Some((alert.id, Change::Firing)),
            Change::Resolved => before.is_some_and(|(id, change)| id == alert.id && change != Change::Pending),
        };
        assert!(expected, "{change:?} after {before:?}");
        if *notify {
            let is_first = told.insert((alert.id, *change));
            assert!(is_first, "told twice");
        }
        assert_eq!(
            alert.phase.is_over(),
            matches!(change, Change::Resolved | Change::Dropped)
        );
        if alert.phase.is_over() {
            live.remove(&alert.fingerprint);
        } else {
            live.insert(alert.fingerprint, (alert.clone(), *change));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the readings, alerts go their way: nothing resolves that did not fire, no two with one fingerprint are
    /// live, nobody is told twice. And a restart in between changes nothing of it.
    #[test]
    fn alerts_go_their_way(
        cpu in any_course(),
        memory in any_course(),
        restart_after in 0_usize..1500,
        steps in prop::collection::vec(any::<bool>(), 32),
    ) {
        let limits = [limit("host_cpu", Metric::HostCpuBusy), limit("memory", Metric::ServiceMemoryLimitUsed)];
        let mut plain = Simulation::new(&limits);
        let mut restarted = Simulation::new(&limits);
        let spread = |course: &[(Result<f64, Gap>, usize)]| -> Vec<Result<f64, Gap>> {
            course.iter().flat_map(|(value, times)| std::iter::repeat_n(*value, *times)).collect()
        };
        let (cpu, memory) = (spread(&cpu), spread(&memory));
        for (index, value) in cpu.iter().enumerate() {
            let mut observations = Vec::new();
            observe(&mut observations, Subject::Host, Metric::HostCpuBusy, *value);
            if let Some(value) = memory.get(index) {
                observe(&mut observations, Subject::Service("web".into()), Metric::ServiceMemoryLimitUsed, *value);
            }
            if index == restart_after {
                let stored: Vec<Stored> = restarted.evaluator.save(restarted.now().time);
                restarted.evaluator = Evaluator::new(Settings::default());
                let now = restarted.now();
                restarted.evaluator.set_limits(limits.iter().cloned().map(Arc::new), now);
                let ended = restarted.evaluator.restore(stored, now);
                assert!(ended.is_empty());
            }
            // The clock on the wall steps about.
            if steps[index % steps.len()] && index % 50 == 7 {
                for simulation in [&mut plain, &mut restarted] {
                    simulation.wall_offset += Duration::from_secs(3600);
                }
            }
            plain.observe(&observations);
            restarted.observe(&observations);
        }
        let transitions = |simulation: &Simulation| simulation.seen.iter().map(|(_, seen)| seen.clone()).collect::<Vec<_>>();
        follow(&transitions(&plain));
        follow(&transitions(&restarted));
    }

    /// With readings only, a restart changes nothing at all.
    #[test]
    fn a_restart_changes_nothing(
        course in prop::collection::vec((0.5..0.9_f64, 1_usize..90), 1..30),
        restart_after in 0_usize..600,
    ) {
        let limits = [limit("host_cpu", Metric::HostCpuBusy)];
        let mut plain = Simulation::new(&limits);
        let mut restarted = Simulation::new(&limits);
        let values = course.iter().flat_map(|(value, times)| std::iter::repeat_n(*value, *times));
        for (index, value) in values.enumerate() {
            if index == restart_after {
                let now = restarted.now();
                let stored = restarted.evaluator.save(now.time);
                restarted.evaluator = Evaluator::new(Settings::default());
                restarted.evaluator.set_limits(limits.iter().cloned().map(Arc::new), now);
                assert!(restarted.evaluator.restore(stored, now).is_empty());
            }
            plain.host([Ok(value)]);
            restarted.host([Ok(value)]);
        }
        assert_eq!(plain.seen, restarted.seen);
    }
}

/// A reading that lies in the future or the far past of the clock is no reason to panic.
#[test]
fn odd_clocks() {
    let mut simulation = Simulation::new(&[limit("host_cpu", Metric::HostCpuBusy)]);
    let odd = [Duration::MAX, Duration::ZERO, Duration::from_secs(5)];
    for since_boot in odd {
        let time = SystemTime::UNIX_EPOCH;
        let _changed = simulation
            .evaluator
            .evaluate(&[host(Ok(0.9)), host(Err(Gap::NoData))], Moment { time, since_boot });
    }
    assert_eq!(simulation.evaluator.counts().pending, 1);
}
