//! How long a service takes until it listens is counted from when it was executed, not from when its process began to prepare.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use profiler_tests::{daemon::Daemon, programs::Running, python::Scripts};
use rustix::time::{ClockId, clock_gettime};

use crate::{FAST_HZ, host, only, python::of_version, wait_until_watched};

/// What is the same under every version of Python is tested under this one.
const MINOR: u32 = 11;
const METRIC: &str = "process_listen_delay_seconds";
/// What the scripts before the services take, far longer than readings are late. Of a service that is looked at too late nothing is
/// told: on a machine that stands still for seconds there is another.
const PREPARE: [&str; 3] = ["5", "10", "15"];
/// What the service takes, besides its interpreter.
const DELAY: &str = "0.5";
/// How long anything of them may take on a machine that is busy with others.
const WITHIN: Duration = Duration::from_secs(60);
/// How long it may take until a service is looked at, or will not be.
const LOOKED_AT_WITHIN: Duration = Duration::from_secs(6);
/// What the clock of a record and that of a program may be apart.
const APART: f64 = 0.05;

fn delay(daemon: &Daemon, pid: u32) -> Option<f64> {
    let output = daemon.cli(&["metrics", METRIC, "--pid", &pid.to_string(), "--json"]);
    let document: serde_json::Value = serde_json::from_str(&output.stdout).ok()?;
    document["readings"][0]["value"].as_f64()
}

fn since_boot() -> f64 {
    let now = clock_gettime(ClockId::Boottime);
    Duration::try_from(now).unwrap().as_secs_f64()
}

/// Waits until a service listens, and sees that the time until then is counted from its execution; whether it was told.
fn is_told(daemon: &Daemon, service: &Running) -> bool {
    let said = |what: &str| -> f64 {
        let line = service.line(WITHIN).expect(what);
        let time = line.strip_prefix(what).unwrap_or_else(|| panic!("{what}: {line}"));
        time.trim().parse().unwrap()
    };
    let (executes, begins, listens) = (said("executes"), said("begins"), said("listens"));
    let end = Instant::now() + LOOKED_AT_WITHIN;
    while Instant::now() < end {
        if let Some(told) = delay(daemon, service.pid()) {
            // It was looked at between when it listened and now.
            let seen = since_boot();
            println!("{told} s of {:.3} to {:.3}", listens - begins, seen - executes);
            assert!(told >= listens - begins - APART, "{told}: it did not listen earlier");
            assert!(told <= seen - executes + APART, "{told}: it was executed later");
            return true;
        }
        thread::sleep(Duration::from_millis(100));
    }
    false
}

#[test]
fn the_time_until_a_service_listens_is_that_of_its_program() {
    let Some(host) = host() else { return };
    let Some(interpreter) = of_version(MINOR) else { return };
    let program = fs::canonicalize(&interpreter.program).unwrap();
    let daemon = host.daemon(&only(FAST_HZ, &program.to_string_lossy()));
    let scripts = Scripts::of(&interpreter);
    let services = PREPARE.map(|seconds| scripts.start("listens.py", &[seconds, DELAY]).running);
    for service in &services {
        wait_until_watched(&daemon, service.pid());
    }
    assert!(
        services.iter().any(|service| is_told(&daemon, service)),
        "nothing was told of any"
    );
}
