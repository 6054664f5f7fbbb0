//! The real daemon on the real kernel: stacks of programs that are hard to walk, what is counted, what is refused, and what
//! remains when the daemon is gone.
//!
//! `cargo xtask test --ring kernel` runs these, as root and one at a time: each loads the machine and starts a daemon of its
//! own. Without root or the binaries each says that it did not run, which passes outside CI only.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test program: the settings for tests do not reach its helpers"
)]

mod accounting;
mod alerts;
mod budget;
mod census;
mod churn;
mod discovery;
mod exact;
mod field;
mod full_disk;
mod generated_code;
mod gpus;
mod growth;
mod hard_times;
mod hostile;
mod hostile_requests;
mod hung_mount;
mod large_objects;
mod lifecycle;
mod listening;
mod managed;
mod mixed;
mod names;
mod old_kernel;
mod out_of_memory;
mod profile;
mod prometheus;
mod python;
mod python_programs;
mod python_services;
mod refusals;
mod refused_calls;
mod remote;
mod restarts;
mod unprivileged;
mod walks;
mod warm;

use std::{
    env,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use profiler_tests::{
    daemon::{Daemon, Host},
    not_run::skip,
    output::Output,
    programs::{Running, patience, wait_for},
};

use crate::profile::Profile;

/// Dense enough for thousands of samples in seconds, and no divisor of a timer.
const FAST_HZ: u32 = 997;
/// Length of a window, the least that there is.
const WINDOW: Duration = Duration::from_secs(1);
/// How long samples may take to come, on two CPUs that others use as well.
const SAMPLES_WITHIN: Duration = Duration::from_secs(200);
/// Anonymous and shared memory that a daemon may have resident whatever its targets and callers do.
const MEMORY_CAP_BYTES: u64 = 160 << 20;

/// What a test needs, or nothing after saying why it does not run.
#[track_caller]
fn host() -> Option<Host> {
    match Host::find() {
        Ok(host) => Some(host),
        Err(reason) => {
            skip(&reason);
            let in_ci = env::var("CI").is_ok_and(|value| !value.is_empty() && value != "false" && value != "0");
            assert!(!in_ci, "nothing may be left out here: {reason}");
            None
        }
    }
}

/// How often something is done, or for how long: more where somebody has the time for it.
fn from_environment(name: &str, default: u32) -> u32 {
    env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// A configuration that samples at `hz` whatever that costs, watches only programs named `include`, and cuts time finely.
fn only(hz: u32, include: &str) -> String {
    format!(
        "[budget]\nmax_cpu_percent = 100\n\
         [sampling]\nhz = {hz}\n[targets]\ndiscover_rust = false\ndiscover_python = false\ninclude = [\"{include}\"]\n\
         [store]\nwindow = \"{}s\"\n",
        WINDOW.as_secs()
    )
}

/// What is seen when it is so for the first time; if it never is, what was seen last, which says why. A machine that stands
/// still for a moment spoils a short profile, and is hardly seen in a longer one.
fn profile_when<T>(look: impl Fn() -> Option<T>, is_so: impl Fn(&T) -> bool) -> T {
    let limit = patience(SAMPLES_WITHIN);
    let end = Instant::now() + limit;
    let mut last = None;
    loop {
        last = look().or(last);
        let is_over = Instant::now() >= end;
        if let Some(seen) = last.take_if(|seen| is_over || is_so(seen)) {
            return seen;
        }
        assert!(!is_over, "no profile after {limit:?}");
        thread::sleep(WINDOW);
    }
}

/// So many samples of a process, once it is known: for some milliseconds after it started or executed its stacks are
/// pending, which would weigh more in a short profile than what it is about.
fn profile_once_known(daemon: &Daemon, pid: u32, samples: u64) -> Profile {
    profile_once(daemon, pid, samples, |_| true)
}

/// The same of a longer time, if need be until something is so.
#[track_caller]
fn profile_once(daemon: &Daemon, pid: u32, samples: u64, is_so: impl Fn(&Profile) -> bool) -> Profile {
    wait_until_watched(daemon, pid);
    // A span takes in whole windows.
    thread::sleep(WINDOW + WINDOW / 4);
    let start = Instant::now();
    let look = || {
        let last = format!("{}ms", start.elapsed().as_millis());
        let document = daemon.profile(pid, &["--last", &last])?;
        Some(Profile::from_json(&document))
    };
    let profile = profile_when(look, |profile| profile.samples >= samples && is_so(profile));
    assert!(profile.samples >= samples, "not {samples}: {}", profile.summary);
    profile
}

/// All samples that the daemon has of a process, once there are `samples`.
fn profile_after(daemon: &Daemon, pid: u32, samples: u64) -> Profile {
    daemon.wait_for_samples(pid, samples, SAMPLES_WITHIN);
    profile_of(daemon, pid)
}

/// All samples that the daemon has of a process.
fn profile_of(daemon: &Daemon, pid: u32) -> Profile {
    Profile::from_json(&daemon.whole_profile(pid))
}

/// The samples of a process in the next `duration`.
fn record(daemon: &Daemon, pid: u32, duration: &str) -> Profile {
    Profile::from_json(&daemon.profile(pid, &["--duration", duration]).expect("a profile"))
}

/// Starts a program that says `ready`.
fn start(program: &std::path::Path, arguments: &[&str]) -> Running {
    Running::start(Command::new(program).args(arguments))
}

/// Waits until the daemon says of a process that it is watched.
fn wait_until_watched(daemon: &Daemon, pid: u32) {
    wait_for("watch", SAMPLES_WITHIN, || {
        (daemon.process(pid)["watch_state"] == "watched").then_some(())
    });
}

/// The only line of messages, which a refusal is.
#[track_caller]
fn only_line(output: &Output) -> &str {
    let lines: Vec<_> = output.stderr.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines.len(), 1, "{output:?}");
    lines[0]
}

/// Names of the daemon's parts that failed.
fn failed_parts(daemon: &Daemon) -> Vec<String> {
    let status = daemon.status();
    let parts = status["parts"].as_array().unwrap();
    let failed = parts.iter().filter(|part| part["state"] == "failed");
    failed.map(|part| part.to_string()).collect()
}
