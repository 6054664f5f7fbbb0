//! When a profile is shown at once and when it is recorded, what span is asked for, and how a recording ends.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Stdio},
    time::{Duration, Instant, SystemTime},
};

use profiler_proto::v1::{ProfileSelector, SampleKind, WatchState, profile_selector::Target};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    fake_daemon::{FakeDaemon, Script, WatchStep},
    messages::{PID, discovered, not_watched, pprof, profile, quality, report},
    program::{self, Outcome},
};

fn script(process: profiler_proto::v1::Process) -> Script {
    Script {
        processes: Ok(vec![process]),
        profile: Ok(profile()),
        ..Script::default()
    }
}

/// Start and end of the only query.
fn span(daemon: &FakeDaemon) -> (SystemTime, Option<SystemTime>) {
    let seen = daemon.seen();
    let [query] = &seen.queries[..] else {
        panic!("not one query: {seen:?}")
    };
    let ProfileSelector {
        start_time,
        end_time,
        kind,
        ..
    } = query.selector.clone();
    assert_eq!(kind, i32::from(SampleKind::Cpu));
    let time = |time: prost_types::Timestamp| SystemTime::try_from(time).unwrap();
    (time(start_time.unwrap()), end_time.map(time))
}

fn is_near(time: SystemTime, expected: SystemTime) -> bool {
    let distance = time
        .duration_since(expected)
        .unwrap_or_else(|earlier| earlier.duration());
    distance < Duration::from_secs(5)
}

#[test]
fn what_is_watched_is_shown_at_once() {
    let daemon = FakeDaemon::start(script(discovered()));
    let begin = Instant::now();
    let outcome = program::run(&daemon, ["flamegraph", "--pid", "4242"]).expect_success();
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert!(outcome.text().contains("<svg"));
    assert!(
        outcome.stderr.starts_with("65 samples, 0 lost") && outcome.stderr.lines().count() == 1,
        "{}",
        outcome.stderr
    );
    let seen = daemon.seen();
    assert!(
        seen.watched.is_empty() && seen.queries[0].selector.target == Some(Target::Pid(PID)),
        "{seen:?}"
    );
    let (start, end) = span(&daemon);
    assert!(is_near(start, SystemTime::now() - Duration::from_secs(60)) && end.is_none());
}

#[test]
fn a_service_is_shown_at_once() {
    let daemon = FakeDaemon::start(script(discovered()));
    program::run(&daemon, ["flamegraph", "--service", "checkout.service"]).expect_success();
    let seen = daemon.seen();
    assert_eq!(
        seen.queries[0].selector.target,
        Some(Target::Service("checkout.service".to_owned()))
    );
    assert!(seen.watched.is_empty());
}

#[test]
fn the_past_is_shown_of_what_has_gone() {
    let daemon = FakeDaemon::start(Script {
        processes: Ok(Vec::new()),
        ..script(discovered())
    });
    let arguments = [
        "flamegraph",
        "--pid",
        "4242",
        "--from",
        "2026-03-01T12:00:00Z",
        "--to",
        "@1772366460",
    ];
    program::run(&daemon, arguments).expect_success();
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    assert_eq!(span(&daemon), (at(1_772_366_400), Some(at(1_772_366_460))));
    assert!(daemon.seen().watched.is_empty());

    let daemon = FakeDaemon::start(script(discovered()));
    program::run(&daemon, ["flamegraph", "--pid", "4242", "--last", "5m"]).expect_success();
    let (start, end) = span(&daemon);
    assert!(is_near(start, SystemTime::now() - Duration::from_secs(300)) && end.is_none());
}

#[test]
fn anything_else_is_recorded() {
    let requested = profiler_proto::v1::Process {
        watch_reason: "requested".to_owned(),
        ..discovered()
    };
    let pending = profiler_proto::v1::Process {
        watch_state: WatchState::Pending.into(),
        ..discovered()
    };
    for process in [not_watched(), requested, pending] {
        let name = format!("{:?} {}", process.watch_state(), process.watch_reason);
        // It exits soon: without --duration a recording takes ten seconds.
        let watch = vec![
            WatchStep::Wait(Duration::from_millis(200)),
            WatchStep::Report(report(9, true)),
            WatchStep::End,
        ];
        let daemon = FakeDaemon::start(Script {
            watch: Ok(watch),
            ..script(process)
        });
        let outcome = program::run(&daemon, ["flamegraph", "--pid", "4242"]).expect_success();
        let lines: Vec<&str> = outcome.stderr.lines().collect();
        assert_eq!(lines.len(), 3, "{name}: {}", outcome.stderr);
        assert_eq!(lines[0], "recording process 4242 (checkout) for 10 s", "{name}");
        // Less than it waited, if it was late to begin.
        assert!(
            lines[1].starts_with("process 4242 (checkout) exited after ") && lines[1].contains(" ms;"),
            "{name}: {}",
            lines[1]
        );
        assert!(lines[2].starts_with("65 samples"), "{name}: {}", lines[2]);
        assert_eq!(daemon.seen().watched, [PID], "{name}");
        let (start, end) = span(&daemon);
        let length = end.unwrap().duration_since(start).unwrap();
        assert!(
            length > Duration::from_millis(150) && length < Duration::from_secs(5),
            "{name}: {length:?}"
        );
    }
}

#[test]
fn a_stream_that_ends_is_an_exit() {
    let daemon = FakeDaemon::start(Script {
        watch: Ok(vec![WatchStep::End]),
        ..script(not_watched())
    });
    let outcome = program::run(&daemon, ["flamegraph", "--pid", "4242"]).expect_success();
    assert!(outcome.stderr.contains("exited after"), "{}", outcome.stderr);
}

#[test]
fn a_duration_records_what_is_watched_already() {
    let daemon = FakeDaemon::start(script(discovered()));
    let begin = Instant::now();
    let outcome = program::run(&daemon, ["flamegraph", "--pid", "4242", "--duration", "400ms"]).expect_success();
    assert!(begin.elapsed() >= Duration::from_millis(400));
    assert!(
        outcome.stderr.contains("recorded process 4242 (checkout) for 4"),
        "{}",
        outcome.stderr
    );
    let seen = daemon.seen();
    assert_eq!(seen.watched, [PID]);
    // The watch outlives the recording until the profile is there, and no longer.
    assert_eq!(seen.queries[0].open_watches, 1);
    let (start, end) = span(&daemon);
    let length = end.unwrap().duration_since(start).unwrap();
    assert!(
        length >= Duration::from_millis(400) && length < Duration::from_secs(5),
        "{length:?}"
    );
    let deadline = Instant::now() + Duration::from_secs(10);
    while daemon.seen().open_watches > 0 {
        assert!(Instant::now() < deadline, "the watch is still open");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn pprof_is_recorded_too() {
    let answer = profiler_proto::v1::QueryPprofResponse {
        pprof: pprof(),
        quality: Some(quality()),
        samples: 65,
    };
    let daemon = FakeDaemon::start(Script {
        pprof: Ok(answer),
        ..script(not_watched())
    });
    let arguments = [
        "flamegraph",
        "--pid",
        "4242",
        "--duration",
        "100ms",
        "--format",
        "pprof",
    ];
    let outcome = program::run(&daemon, arguments).expect_success();
    assert_eq!(outcome.stdout, pprof());
    let seen = daemon.seen();
    assert!(seen.queries[0].pprof && seen.queries[0].open_watches == 1, "{seen:?}");
}

#[test]
fn a_service_is_recorded_without_a_watch() {
    let daemon = FakeDaemon::start(script(discovered()));
    let arguments = ["flamegraph", "--service", "checkout.service", "--duration", "300ms"];
    let outcome = program::run(&daemon, arguments).expect_success();
    assert!(
        outcome.stderr.contains("recorded service checkout.service for"),
        "{}",
        outcome.stderr
    );
    let (start, end) = span(&daemon);
    assert!(end.unwrap().duration_since(start).unwrap() >= Duration::from_millis(300));
    assert!(daemon.seen().watched.is_empty());
}

/// Starts a long recording and waits until it has begun.
fn begin_recording(daemon: &FakeDaemon) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut command = program::command(daemon);
    command
        .args(["flamegraph", "--pid", "4242", "--duration", "60s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert_eq!(line, "recording process 4242 (checkout) for 60 s\n");
    (child, stderr)
}

fn interrupt(child: &Child) {
    kill_process(Pid::from_child(child), Signal::INT).unwrap();
}

#[test]
fn ctrl_c_ends_the_recording_and_shows_it() {
    let daemon = FakeDaemon::start(script(not_watched()));
    let (child, mut stderr) = begin_recording(&daemon);
    interrupt(&child);
    let mut outcome = Outcome::from(child.wait_with_output().unwrap());
    stderr.read_to_string(&mut outcome.stderr).unwrap();
    let outcome = outcome.expect_success();
    assert!(outcome.text().contains("<svg"));
    assert!(
        outcome.stderr.starts_with("interrupted after") && outcome.stderr.contains("65 samples"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_second_ctrl_c_ends_the_program() {
    let daemon = FakeDaemon::start(Script {
        // Long enough to be interrupted in.
        delay: Duration::from_secs(2),
        ..script(not_watched())
    });
    let (child, mut stderr) = begin_recording(&daemon);
    interrupt(&child);
    let deadline = Instant::now() + Duration::from_secs(10);
    while daemon.seen().queries.is_empty() {
        assert!(Instant::now() < deadline, "no query after the first Ctrl-C");
        std::thread::sleep(Duration::from_millis(10));
    }
    interrupt(&child);
    let mut outcome = Outcome::from(child.wait_with_output().unwrap());
    stderr.read_to_string(&mut outcome.stderr).unwrap();
    assert_eq!(outcome.code, Some(130), "{}", outcome.stderr);
    assert!(
        outcome.stdout.is_empty() && !outcome.stderr.contains("error"),
        "{}",
        outcome.stderr
    );
}
