//! What is counted adds up: every run of the programs has one outcome, and every sample that left the kernel arrives.

use std::{thread, time::Duration};

use profiler_tests::{daemon::Daemon, programs::wait_for};
use serde_json::Value;

use crate::{SAMPLES_WITHIN, host, only, profile_of, start};

/// As dense as the issue of counting is at its hardest.
const DENSE_HZ: u32 = 4_999;
/// Reasons for which samples are lost between the kernel and the store.
const LOST_ON_THE_WAY: [&str; 3] = ["unknown_process", "window_full", "naming_backlog"];
const LOAD: Duration = Duration::from_secs(8);

#[test]
fn at_4999_hz_every_run_has_an_outcome_and_every_sample_arrives() {
    let Some(host) = host() else { return };
    let program = host.rust("mixed");
    let daemon = host.daemon(&only(DENSE_HZ, "mixed"));
    let mut mixed = start(&program, &[]);
    let pid = mixed.pid();
    daemon.wait_for_samples(pid, 1, SAMPLES_WITHIN);
    thread::sleep(LOAD);
    let under_load = daemon.status();
    assert_outcomes(&under_load);
    let profile = profile_of(&daemon, pid);
    mixed.stop();

    // Nothing is watched any more: what was delivered stays as it is, and the rings empty.
    let status = wait_for("end of samples", SAMPLES_WITHIN, || settled(&daemon));
    assert_outcomes(&status);
    let sampling = &status["sampling"];
    let (expected, runs) = (number(&sampling["expected_runs"]), number(&sampling["runs"]));
    println!("expected {expected}, runs {runs}, {sampling}");
    // The counters are read first, so that no run comes in that was not expected; but the clocks' own count is rounded.
    let allowance = u64::from(DENSE_HZ) * cpus() / 100;
    assert!(expected + allowance >= runs, "{expected} ticks made {runs} runs");
    let delivered = number(&sampling["run_outcomes"]["delivered"]);
    assert!(delivered > 5_000, "{sampling}");
    assert_eq!(
        sum(&sampling["stop_reasons"]),
        delivered,
        "what the kernel delivered arrived: {sampling}"
    );
    for reason in ["ring_full", "busy", "internal"] {
        let outcome = number(&sampling["run_outcomes"][reason]);
        assert_eq!(number(&sampling["lost"][reason]), outcome, "{reason}: {sampling}");
    }
    // What the clocks should have produced and did not is counted apart from what was lost.
    assert_eq!(
        number(&sampling["missed_ticks"]),
        expected.saturating_sub(runs),
        "{sampling}"
    );

    // From the kernel to the profile nothing is lost without a reason. The losses of a window count when it has ended.
    let all = profile_of(&daemon, pid);
    assert!(all.samples >= profile.samples);
    let lost = &daemon.status()["sampling"]["lost"];
    println!("{} lost {lost}", all.summary);
    let on_the_way: u64 = LOST_ON_THE_WAY.iter().map(|reason| number(&lost[reason])).sum();
    assert_eq!(
        all.samples + on_the_way,
        delivered,
        "samples in the profile: {sampling}"
    );
    let known = ["ring_full", "busy", "internal"];
    for reason in lost.as_object().unwrap().keys() {
        assert!(
            known.iter().chain(&LOST_ON_THE_WAY).any(|known| known == reason),
            "{reason}: {lost}"
        );
    }
}

/// The status, once the samples of two looks are the same.
fn settled(daemon: &Daemon) -> Option<Value> {
    let delivered = |status: &Value| number(&status["sampling"]["run_outcomes"]["delivered"]);
    let before = daemon.status();
    thread::sleep(Duration::from_millis(500));
    let status = daemon.status();
    (delivered(&before) == delivered(&status) && delivered(&status) == sum(&status["sampling"]["stop_reasons"]))
        .then_some(status)
}

/// Each run is counted when it begins and when its outcome is known: while the counters are read, one run of each CPU may
/// be in between, or begin and end.
#[track_caller]
fn assert_outcomes(status: &Value) {
    let sampling = &status["sampling"];
    let (runs, outcomes) = (number(&sampling["runs"]), sum(&sampling["run_outcomes"]));
    assert!(
        runs.abs_diff(outcomes) <= cpus(),
        "{runs} runs, {outcomes} outcomes: {sampling}"
    );
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn sum(counts: &Value) -> u64 {
    counts.as_object().unwrap().values().map(number).sum()
}

fn cpus() -> u64 {
    thread::available_parallelism().unwrap().get() as u64
}
