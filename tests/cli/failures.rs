//! Every way to fail: the exit code, and the one line that says why.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::Stdio,
    time::Duration,
};

use profiler_proto::v1::{GetConfigResponse, Profile};
use tonic::Status;

use crate::{
    fake_daemon::{FakeDaemon, Script, WatchStep, abandoned_socket},
    messages::{HOSTILE, discovered, empty_profile, not_watched, profile, report},
    program::{self, Outcome},
};

/// The user and group without rights.
const NOBODY: u32 = 65_534;

/// The exit code, nothing on stdout, and one line of the right words.
fn check(outcome: &Outcome, code: i32, words: &[&str]) {
    assert_eq!(outcome.code, Some(code), "{}", outcome.stderr);
    assert!(
        outcome.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&outcome.stdout)
    );
    let errors: Vec<&str> = outcome
        .stderr
        .lines()
        .filter(|line| line.starts_with("error:"))
        .collect();
    let [error] = errors[..] else {
        panic!("not one error: {}", outcome.stderr)
    };
    for word in words {
        assert!(error.contains(word), "{word:?} is missing: {}", outcome.stderr);
    }
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
}

#[test]
fn wrong_usage() {
    let daemon = FakeDaemon::start(Script::default());
    let long_socket = format!("/{}", "x".repeat(200));
    for (arguments, words) in [
        (
            &["flamegraph", "--pid", "0"][..],
            &["--pid", "PID 0 is the kernel's idle task"][..],
        ),
        (&["flamegraph", "--pid=-1"], &["from 1 to 2147483647"]),
        (&["flamegraph", "--pid", "abc"], &["a process id is a number"]),
        (&["status", "--ca-file", "/x"], &["--ca-file", "--address"]),
        (
            &["--certificate-file", "/x", "ps"],
            &["--certificate-file", "--address"],
        ),
        (&["flamegraph"], &["--pid <PID>|--service <NAME>"]),
        (
            &["flamegraph", "--pid", "1", "--service", "a"],
            &["cannot be used with"],
        ),
        (
            &["flamegraph", "--pid", "1", "--duration", "10x"],
            &["expected a span such as"],
        ),
        (
            &["flamegraph", "--pid", "1", "--duration", "0s"],
            &["more than nothing"],
        ),
        (
            &["flamegraph", "--pid", "1", "--duration", "1s", "--last", "1m"],
            &["cannot be used with"],
        ),
        (&["flamegraph", "--pid", "1", "--to", "1m"], &["--from"]),
        (
            &["flamegraph", "--pid", "1", "--from", "yesterday"],
            &["expected a time such as"],
        ),
        (
            &["flamegraph", "--pid", "1", "--from", "2999-01-01T00:00:00Z"],
            &["--from is not in the past"],
        ),
        (
            &["flamegraph", "--pid", "1", "--from", "1m", "--to", "2m"],
            &["--to is not after --from"],
        ),
        (
            &["flamegraph", "--pid", "1", "-o", "a.png"],
            &["tells no format", ".svg"],
        ),
        (&["flamegraph", "--pid", "1", "--format", "png"], &["png", "svg"]),
        (
            &["flamegraph", "--pid", "1", "--open", "-o", "-"],
            &["--open needs a file"],
        ),
        (&["--socket", &long_socket, "ps"], &["cannot be the path of a socket"]),
        (&["man", "nothing"], &["no command nothing"]),
        (&["nothing"], &["unrecognized subcommand"]),
    ] {
        let outcome = program::run(&daemon, arguments);
        // What can be used instead may follow on lines of its own.
        assert_eq!(outcome.code, Some(2), "{arguments:?}: {}", outcome.stderr);
        assert!(
            outcome.stdout.is_empty() && outcome.stderr.starts_with("error:"),
            "{}",
            outcome.stderr
        );
        for word in words {
            assert!(outcome.stderr.contains(word), "{word:?} is missing: {}", outcome.stderr);
        }
    }
    assert!(daemon.seen().queries.is_empty());
}

#[test]
fn no_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let run = |socket: &Path| -> Outcome {
        let arguments = ["flamegraph", "--pid", "1"];
        program::bare_command()
            .args(arguments)
            .arg("--socket")
            .arg(socket)
            .output()
            .unwrap()
            .into()
    };
    let missing = run(&directory.path().join("no.sock"));
    check(
        &missing,
        1,
        &["daemon is not running", "no.sock", "systemctl start profiler-daemon"],
    );
    let abandoned = run(&abandoned_socket(directory.path()).unwrap());
    check(
        &abandoned,
        1,
        &[
            "daemon is not running",
            "nobody listens",
            "systemctl start profiler-daemon",
        ],
    );
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    check(&run(&file), 1, &["nobody listens"]);
    check(&run(&file.join("below.sock")), 1, &["cannot connect"]);
}

#[test]
fn a_socket_that_others_may_use() {
    let daemon = FakeDaemon::start(Script::default());
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    open(daemon.directory(), 0o755);
    let is_root = rustix::process::geteuid().is_root();
    let mut command = if is_root {
        // Root may use any socket, and what is root's own may lie where others may not look.
        open(&daemon.socket(), 0o660);
        std::os::unix::fs::chown(daemon.socket(), None, Some(1)).unwrap();
        let copy = daemon.directory().join("profiler-cli");
        fs::copy(program::path(), &copy).unwrap();
        let mut command = std::process::Command::new(copy);
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
        command
    } else {
        open(&daemon.socket(), 0);
        program::bare_command()
    };
    let outcome: Outcome = command
        .arg("ps")
        .arg("--socket")
        .arg(daemon.socket())
        .output()
        .unwrap()
        .into();
    check(&outcome, 4, &["permission denied", "profiler.sock", "sudo"]);
    if is_root {
        check(&outcome, 4, &["the group `daemon`", "usermod -aG daemon"]);
        // A directory that cannot even be entered.
        open(daemon.directory(), 0o700);
        let copy = tempfile::tempdir().unwrap();
        open(copy.path(), 0o755);
        let program = copy.path().join("profiler-cli");
        fs::copy(program::path(), &program).unwrap();
        let mut command = std::process::Command::new(program);
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
        let outcome: Outcome = command
            .arg("ps")
            .arg("--socket")
            .arg(daemon.socket())
            .output()
            .unwrap()
            .into();
        check(&outcome, 4, &["permission denied", "only root"]);
    }
}

/// A daemon that knows the process, but does not watch it.
fn listed() -> Script {
    Script {
        processes: Ok(vec![not_watched()]),
        ..Script::default()
    }
}

fn check_flamegraph(script: Script, code: i32, words: &[&str]) {
    let daemon = FakeDaemon::start(script);
    check(&program::run(&daemon, ["flamegraph", "--pid", "4242"]), code, words);
}

#[test]
fn what_the_daemon_does_not_watch() {
    let kernel_thread = "process 4242 is a kernel thread: it has no user code to profile";
    let compat = "process 4242 is a 32-bit program; only 64-bit programs can be profiled";
    for (status, code, words) in [
        (
            Status::not_found("there is no process 4242"),
            1,
            &["there is no process 4242"][..],
        ),
        (Status::invalid_argument(kernel_thread), 1, &[kernel_thread]),
        (Status::invalid_argument(compat), 1, &[compat]),
        (
            Status::unavailable("sampling is not possible: no BTF"),
            1,
            &["cannot do this now", "no BTF"],
        ),
        (
            Status::permission_denied("the role `profile` is needed"),
            4,
            &["not allowed", "role `profile`"],
        ),
        (
            Status::unauthenticated("who are you?"),
            4,
            &["not allowed", "who are you?"],
        ),
        (Status::unimplemented(""), 1, &["of another version"]),
        (Status::internal(HOSTILE), 1, &["\\u{1b}[2Jevil\\u{202e}\\r\\n"]),
        (Status::internal(""), 1, &["the daemon refused"]),
    ] {
        check_flamegraph(
            Script {
                watch: Err(status),
                ..listed()
            },
            code,
            words,
        );
    }
}

#[test]
fn a_process_that_is_gone() {
    let gone = Status::not_found("there is no process 4242");
    check_flamegraph(
        Script {
            processes: Err(gone),
            ..Script::default()
        },
        1,
        &["there is no process 4242"],
    );
}

#[test]
fn a_watch_that_fails() {
    let failing = vec![
        WatchStep::Report(report(1, false)),
        WatchStep::Fail(Status::unavailable("stopping")),
    ];
    check_flamegraph(
        Script {
            watch: Ok(failing),
            ..listed()
        },
        1,
        &["stopping"],
    );
}

#[test]
fn a_profile_that_cannot_be() {
    let script = Script {
        processes: Ok(vec![discovered()]),
        profile: Ok(Profile {
            frames: Vec::new(),
            ..profile()
        }),
        ..Script::default()
    };
    check_flamegraph(script, 1, &["not valid", "refers to frame"]);
}

#[test]
fn every_verb_fails_alike() {
    let refused = || Status::permission_denied("the role `read` is needed");
    let daemon = FakeDaemon::start(Script {
        processes: Err(refused()),
        status: Err(refused()),
        config: Err(refused()),
        ..Script::default()
    });
    for arguments in [
        &["ps"][..],
        &["ps", "--json"],
        &["status"],
        &["config", "show"],
        &["flamegraph", "--pid", "1"],
        &["flamegraph", "--service", "a"],
    ] {
        check(&program::run(&daemon, arguments), 4, &["not allowed", "role `read`"]);
    }
}

#[test]
fn a_service_that_is_not_there() {
    let daemon = FakeDaemon::start(Script {
        processes: Ok(vec![discovered()]),
        ..Script::default()
    });
    let outcome = program::run(&daemon, ["flamegraph", "--service", "chekout"]);
    check(&outcome, 1, &["\"chekout\"", "there are checkout.service"]);
    let daemon = FakeDaemon::start(Script::default());
    check(
        &program::run(&daemon, ["flamegraph", "--service", "a"]),
        1,
        &["no service is watched"],
    );
}

#[test]
fn no_samples() {
    let empty = || Script {
        profile: Ok(empty_profile()),
        ..Script::default()
    };
    let run = |script: Script, arguments: &[&str]| {
        let daemon = FakeDaemon::start(script);
        program::run(&daemon, ["flamegraph", "--pid", "4242"].iter().chain(arguments))
    };
    let kept = run(
        Script {
            processes: Ok(vec![discovered()]),
            ..empty()
        },
        &[],
    );
    check(
        &kept,
        3,
        &[
            "no samples of process 4242 (checkout)",
            "nothing is kept of the 1 min 0 s",
            "--duration",
        ],
    );
    let pprof = run(
        Script {
            processes: Ok(vec![discovered()]),
            ..empty()
        },
        &["--format", "pprof"],
    );
    check(&pprof, 3, &["no samples of process 4242 (checkout)"]);
    let idle = Script {
        processes: Ok(vec![not_watched()]),
        ..empty()
    };
    let recorded = run(idle.clone(), &["--duration", "100ms"]);
    check(&recorded, 3, &["it used no CPU for the 1", "of the recording"]);
    let exited = run(
        Script {
            watch: Ok(vec![WatchStep::Report(report(0, true))]),
            ..idle
        },
        &[],
    );
    check(&exited, 3, &["it exited after", "before it was seen on a CPU"]);
    let mut lossy = empty_profile();
    lossy
        .quality
        .as_mut()
        .unwrap()
        .lost_samples
        .insert("ring_full".to_owned(), 7);
    let lost = run(
        Script {
            processes: Ok(vec![discovered()]),
            profile: Ok(lossy),
            ..Script::default()
        },
        &[],
    );
    check(&lost, 3, &["7 lost on the host (7 ring_full)"]);
    let past = run(
        empty(),
        &["--from", "2026-03-01T12:00:00Z", "--to", "2026-03-01T12:01:00Z"],
    );
    check(&past, 3, &["no samples of process 4242:", "1 min 0 s"]);
}

#[test]
fn the_past_of_what_was_not_watched() {
    let refusal =
        || Status::failed_precondition("process 4242 is not watched (no mark of rustc): ask for a watch first");
    for format in ["svg", "pprof"] {
        let daemon = FakeDaemon::start(Script {
            profile: Err(refusal()),
            pprof: Err(refusal()),
            ..listed()
        });
        let outcome = program::run(
            &daemon,
            ["flamegraph", "--pid", "4242", "--last", "1m", "--format", format],
        );
        let words = [
            "nothing is kept of process 4242 (checkout)",
            "(no mark of rustc)",
            "--duration 10s records it",
        ];
        check(&outcome, 1, &words);
    }
    let spans = Status::failed_precondition("the time spans two sampling rates");
    let script = Script {
        processes: Ok(vec![discovered()]),
        profile: Err(spans),
        ..Script::default()
    };
    check_flamegraph(script, 1, &["two sampling rates"]);
    let daemon = FakeDaemon::start(Script {
        profile: Err(Status::not_found("there is no process 4242")),
        ..Script::default()
    });
    let gone = program::run(&daemon, ["flamegraph", "--pid", "4242", "--last", "1m"]);
    check(&gone, 1, &["there is no process 4242"]);
}

#[test]
fn a_daemon_that_does_not_answer() {
    let daemon = FakeDaemon::start(Script {
        delay: Duration::from_secs(60),
        ..Script::default()
    });
    for arguments in [
        &["ps"][..],
        &["status"],
        &["config", "show"],
        &["flamegraph", "--pid", "1"],
    ] {
        let outcome = program::run(&daemon, arguments.iter().chain(&["--timeout", "200ms"]));
        check(&outcome, 1, &["did not answer within 0.2 s", "--timeout"]);
    }
    // Somebody else listens there, and says nothing.
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("mute.sock");
    let _mute = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mut command = program::bare_command();
    let outcome = command
        .args(["status", "--timeout", "200ms", "--socket"])
        .arg(&socket)
        .output()
        .unwrap()
        .into();
    check(&outcome, 1, &["did not answer"]);
}

#[test]
fn a_daemon_that_dies_while_recording() {
    let mut daemon = FakeDaemon::start(Script {
        processes: Ok(vec![not_watched()]),
        watch: Ok(vec![WatchStep::Report(report(3, false))]),
        ..Script::default()
    });
    let mut command = program::command(&daemon);
    command
        .args(["flamegraph", "--pid", "4242", "--duration", "60s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    while daemon.seen().open_watches == 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    daemon.kill();
    check(
        &child.wait_with_output().unwrap().into(),
        1,
        &["connection to the daemon was lost"],
    );
}

#[test]
fn what_cannot_be_written() {
    let daemon = FakeDaemon::start(Script {
        processes: Ok(vec![discovered()]),
        profile: Ok(profile()),
        ..Script::default()
    });
    let outcome = program::run(&daemon, ["flamegraph", "--pid", "4242", "-o", "/nonexistent/a.svg"]);
    check(&outcome, 1, &["cannot write /nonexistent/a.svg"]);
    let mut command = program::command(&daemon);
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let outcome: Outcome = command
        .args(["flamegraph", "--pid", "4242"])
        .stdout(full)
        .output()
        .unwrap()
        .into();
    check(&outcome, 1, &["cannot write to standard output"]);
}

#[test]
fn readers_may_leave_early() {
    let daemon = FakeDaemon::start(Script {
        processes: Ok(vec![discovered(); 20_000]),
        profile: Ok(profile()),
        config: Ok(GetConfigResponse {
            toml: String::new(),
            files: Vec::new(),
        }),
        ..Script::default()
    });
    for arguments in [
        &["ps"][..],
        &["ps", "--json"],
        &["status"],
        &["--help"],
        &["completions", "bash"],
        &["man"],
        &["flamegraph", "--pid", "4242", "--last", "1m"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = program::command(&daemon);
        let output = command
            .args(arguments)
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
        assert!(
            !stderr.contains("error") && !stderr.contains("panicked"),
            "{arguments:?}: {stderr}"
        );
    }
}

#[test]
fn a_configuration_that_is_no_toml() {
    let daemon = FakeDaemon::start(Script {
        config: Ok(GetConfigResponse {
            toml: "= =".to_owned(),
            files: Vec::new(),
        }),
        ..Script::default()
    });
    check(
        &program::run(&daemon, ["config", "show"]),
        1,
        &["configuration that is not valid"],
    );
}
