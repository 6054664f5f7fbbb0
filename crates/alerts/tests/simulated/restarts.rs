//! Alerts that are taken out of one evaluator and put into the next.

use std::time::Duration;

use profiler_alerts::{Change, Evaluator, Limit, Settings};
use profiler_readings::Metric;

use crate::simulation::{Simulation, host, limit, repeat, service};

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
