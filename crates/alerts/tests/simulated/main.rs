//! Hours of readings in a moment: what becomes of them under limits.

mod properties;
mod restarts;
mod simulation;

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use profiler_alerts::{
    AlertKind, Change, Comparison, EndReason, Fingerprint, Matcher, Moment, Observation, Phase, Silence, SilenceId,
};
use profiler_readings::{Gap, Metric, Subject};

use crate::simulation::{Simulation, host, level, limit, repeat, service};

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
