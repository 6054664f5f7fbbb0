//! What holds whatever the readings are.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use profiler_alerts::{Alert, AlertKind, Change, Evaluator, Fingerprint, Observation, Settings, Stored, Transition};
use profiler_readings::{Gap, Metric, Subject};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_oneof, proptest};

use crate::simulation::{Simulation, limit};

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
