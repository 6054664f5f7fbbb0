//! Commands: what they get, what they do not get, and how they end.

use std::{
    collections::BTreeSet,
    fs,
    io::Read as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use profiler_config::SinkTarget;
use profiler_daemon::{
    children::{ChildError, End, Job, Outcome, Runner},
    sinks::{SinkState, Status},
};
use rustix::{
    io::{FdFlags, fcntl_setfd},
    process::geteuid,
    thread::{CapabilitySet, capabilities, configure_capability_in_ambient_set, set_capabilities},
};
use tempfile::tempdir;

use crate::{
    double::{DAEMON, names, notification, sink, start, status},
    receiver::wait_until,
};

fn job(argv: &[&str]) -> Job {
    Job {
        argv: names(argv).into(),
        input: Vec::new(),
        timeout: Duration::from_secs(20),
        max_output_bytes: 64 << 10,
    }
}

fn run(job: &Job) -> Outcome {
    Runner::new(DAEMON.into()).run(job).unwrap()
}

fn output(argv: &[&str]) -> String {
    let outcome = run(&job(argv));
    assert_eq!(outcome.end, End::Exited(0), "{outcome:?}");
    String::from_utf8(outcome.output).unwrap()
}

/// Whether a process has this argument.
fn runs(argument: &str) -> bool {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let mut lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.any(|line| line.split(|byte| *byte == 0).any(|word| word == argument.as_bytes()))
}

/// A time to sleep that no other process sleeps.
fn own_time(number: u32) -> String {
    format!("{}.{number}", 100_000 + std::process::id())
}

#[test]
fn a_command_has_nothing_of_the_daemon() {
    let environment = output(&["/usr/bin/env"]);
    assert_eq!(
        environment.lines().collect::<BTreeSet<_>>(),
        BTreeSet::from([
            "LANG=C.UTF-8",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        ])
    );
    assert_eq!(output(&["/bin/readlink", "/proc/self/cwd"]), "/\n");

    // A descriptor that would be inherited.
    let file = tempfile::tempfile().unwrap();
    fcntl_setfd(&file, FdFlags::empty()).unwrap();
    // The last is the list itself.
    assert_eq!(output(&["/bin/ls", "/proc/self/fd"]), "0\n1\n2\n3\n");

    let is_root = geteuid().is_root();
    if is_root {
        // What a service manager does that gives capabilities to a service.
        let ptrace = CapabilitySet::SYS_PTRACE;
        let mut sets = capabilities(None).unwrap();
        sets.inheritable |= ptrace;
        set_capabilities(None, sets).unwrap();
        configure_capability_in_ambient_set(ptrace, true).unwrap();
    }
    let text = output(&["/bin/cat", "/proc/self/status"]);
    let value = |field: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_start_matches(':').trim().to_owned()
    };
    for field in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(value(field), "0000000000000000", "{field}");
    }
    if is_root {
        assert_eq!(value("CapBnd"), "0000000000000000");
    }
    assert_eq!(value("NoNewPrivs"), "1");
    assert_eq!(value("NSpgid"), value("NSpid"), "a process group of its own");
    assert!(!output(&["/bin/cat", "/proc/self/oom_score_adj"]).starts_with('-'));
}

#[test]
fn a_command_reads_its_input_and_is_heard() {
    let mut cat = job(&["/bin/cat"]);
    cat.input = vec![b'x'; 1 << 20];
    let outcome = run(&cat);
    assert_eq!(outcome.end, End::Exited(0));
    assert_eq!((outcome.output.len(), outcome.was_cut), (cat.max_output_bytes, true));
    // One that does not read is no failure.
    cat.argv = names(&["/bin/sh", "-c", "echo out; echo err >&2; exit 3"]).into();
    let outcome = run(&cat);
    assert_eq!(
        (outcome.end, outcome.output.as_slice()),
        (End::Exited(3), &b"out\nerr\n"[..])
    );
    assert!(!outcome.was_cut);
    let outcome = run(&job(&["/bin/sh", "-c", "kill -TERM $$"]));
    assert_eq!(outcome.end, End::Signalled(15));
}

#[test]
fn a_command_that_hangs_ends_with_all_that_it_forked() {
    let (one, other, third) = (own_time(1), own_time(2), own_time(3));
    let script = format!("sleep {one} & setsid sleep {other} & (setsid sleep {third} &) ; echo started; wait");
    let mut hanging = job(&["/bin/sh", "-c", &script]);
    hanging.timeout = Duration::from_secs(2);
    let begin = Instant::now();
    let outcome = run(&hanging);
    assert_eq!(
        (outcome.end, outcome.output.as_slice()),
        (End::TimedOut, &b"started\n"[..])
    );
    assert!(begin.elapsed() < Duration::from_secs(12), "{:?}", begin.elapsed());
    assert!(outcome.left_behind >= 2, "{outcome:?}");
    for time in [one, other, third] {
        assert!(!runs(&time), "sleep {time} goes on");
    }
}

#[test]
fn what_a_command_leaves_behind_ends_with_it() {
    let time = own_time(4);
    let outcome = run(&job(&["/bin/sh", "-c", &format!("(setsid sleep {time} &); exit 0")]));
    assert_eq!((outcome.end, outcome.left_behind), (End::Exited(0), 1));
    assert!(!runs(&time));
}

#[test]
fn a_flood_is_cut() {
    let mut yes = job(&["/usr/bin/yes"]);
    yes.max_output_bytes = 1000;
    let outcome = run(&yes);
    // Nobody listens any more: it is told so, and ends.
    assert!(
        matches!(outcome.end, End::Exited(1) | End::Signalled(13)),
        "{outcome:?}"
    );
    assert_eq!((outcome.output.len(), outcome.was_cut), (1000, true));
}

#[test]
fn what_cannot_be_run_is_named() {
    let runner = Runner::new(DAEMON.into());
    let error = runner.run(&job(&["/no/such/program"])).unwrap_err();
    assert!(matches!(error, ChildError::Distrust(_)), "{error}");
    let folder = tempdir().unwrap();
    let script = folder.path().join("script");
    fs::write(&script, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let error = runner.run(&job(&[script.to_str().unwrap()])).unwrap_err();
    assert!(matches!(error, ChildError::Distrust(_)), "{error}");
    let error = Runner::new("/no/such/supervisor".into())
        .run(&job(&["/bin/true"]))
        .unwrap_err();
    assert!(matches!(error, ChildError::Supervisor { .. }), "{error}");
}

#[test]
fn a_command_ends_with_the_daemon() {
    let time = own_time(5);
    // A shell in the daemon's place.
    let script = format!("{DAEMON} --child $$ 60000 /bin/sleep {time} & wait");
    let mut shell = Command::new("/bin/sh")
        .args(["-c", &script])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("command", || runs_as_program(&time));
    shell.kill().unwrap();
    shell.wait().unwrap();
    wait_until("end of the command", || !runs(&time));
}

/// Whether a process sleeps for this time; its supervisor and the shell have the time among their arguments, too.
fn runs_as_program(time: &str) -> bool {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let mut lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.any(|line| line == format!("/bin/sleep\0{time}\0").as_bytes())
}

#[test]
fn who_is_not_a_child_of_the_daemon_runs_nothing() {
    // Process 1 is not the one that starts it.
    let mut child = Command::new(DAEMON)
        .args(["--child", "1", "1000", "/bin/echo", "ran"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut output, mut verdict) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut verdict).unwrap();
    assert!(!child.wait().unwrap().success());
    assert_eq!(output, "");
    assert!(verdict.starts_with("not run: "), "{verdict}");
}

#[test]
fn a_command_is_told_in_json() {
    let folder = tempdir().unwrap();
    let target = SinkTarget::Command {
        // It fails, so that what it reads is seen.
        argv: names(&["/bin/sh", "-c", "head -c 120; exit 9"]),
    };
    let dispatcher = start(folder.path(), &[sink("script", target)]);
    dispatcher.notify(&notification("host_cpu", Status::Firing), &names(&["script"]));
    wait_until("failure", || status(&dispatcher, "script").counts.retried > 0);
    let SinkState::Failed { reason, .. } = status(&dispatcher, "script").state else {
        panic!("it failed");
    };
    let expected = "exited with status 9: {\"version\":1,\"id\":\"host_cpu-1\",\"fingerprint\":\"host_cpu-f\",\
                    \"status\":\"firing\",\"severity\":\"info\",";
    assert!(reason.starts_with(expected), "{reason}");

    let target = SinkTarget::Command {
        argv: names(&["/bin/sh", "-c", "cat >/dev/null"]),
    };
    dispatcher.set_sinks(&[sink("script", target)]);
    wait_until("success", || status(&dispatcher, "script").counts.sent == 1);
}
