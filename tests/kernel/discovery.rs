//! Services that nobody named: they are found by what they are, also those that start when the daemon has looked around.

use profiler_tests::{daemon::Daemon, interpreters, programs::wait_for, python::Scripts};

use crate::{FAST_HZ, SAMPLES_WITHIN, host, python_programs::SHAPES, skip, start};

/// Whatever else runs on this host is found as well: it may cost what it costs.
const EVERYTHING: &str = "[budget]\nmax_cpu_percent = 100\n[targets]\ndiscover_rust = true\ndiscover_python = true\n";
/// Samples that show that a process is not only listed.
const SAMPLES: u64 = 50;

#[test]
fn programs_that_start_later_are_watched_for_what_they_are() {
    let Some(host) = host() else { return };
    let program = host.rust("deep");
    let other = host.c("storm", "native", &["-pthread"]);
    let daemon = host.daemon(&format!("[sampling]\nhz = {FAST_HZ}\n{EVERYTHING}"));
    let deep = start(&program, &[]);
    assert_discovered(&daemon, deep.pid(), "rust");
    let native = start(&other, &["thread"]);
    let process = wait_for("a look at it", SAMPLES_WITHIN, || {
        let process = daemon.process(native.pid());
        let reason = process["watch_reason"].as_str()?;
        (reason != "not looked at yet").then_some(process)
    });
    assert_eq!(process["watch_state"], "not_watched", "{process}");
    let found = interpreters::all();
    let Some(interpreter) = found.interpreters.iter().find(|interpreter| interpreter.root.is_none()) else {
        return skip("there is no Python");
    };
    let scripts = Scripts::of(interpreter);
    let shapes = scripts.start("shapes.py", &SHAPES);
    assert_discovered(&daemon, shapes.running.pid(), "python");
}

#[track_caller]
fn assert_discovered(daemon: &Daemon, pid: u32, runtime: &str) {
    let process = wait_for("a watch", SAMPLES_WITHIN, || {
        let process = daemon.process(pid);
        (process["watch_state"] == "watched").then_some(process)
    });
    assert_eq!(process["watch_reason"], "discovered", "{process}");
    assert_eq!(process["runtime"], runtime, "{process}");
    daemon.wait_for_samples(pid, SAMPLES, SAMPLES_WITHIN);
}
