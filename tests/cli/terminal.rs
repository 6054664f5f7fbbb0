//! Runs of the program on a terminal: colours, progress, and files instead of a screen full of SVG.

use std::{
    fs::{self, File, OpenOptions},
    io::Read as _,
    os::fd::OwnedFd,
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::{
    fake_daemon::{FakeDaemon, Script, WatchStep},
    messages::{HOSTILE, PID, discovered, not_watched, profile, report},
    program,
};

/// Runs the program with stdout and stderr on one terminal; gives its exit code and all that appeared there.
fn run_on_terminal(command: &mut Command) -> (Option<i32>, String) {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let name = ptsname(&controller, Vec::new()).unwrap();
    let terminal = OpenOptions::new()
        .read(true)
        .write(true)
        .open(Path::new(name.to_str().unwrap()))
        .unwrap();
    command.stdout(terminal.try_clone().unwrap()).stderr(terminal);
    let mut child = command.spawn().unwrap();
    // Only when nobody has the terminal open does reading end.
    command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let reader = thread::spawn(move || read_all(controller));
    let code = child.wait().unwrap().code();
    (code, reader.join().unwrap())
}

/// Reads until the last user of the terminal is gone, which is an error of reading.
fn read_all(controller: OwnedFd) -> String {
    let mut controller = File::from(controller);
    let mut all = Vec::new();
    let mut chunk = [0; 4_096];
    while let Ok(length) = controller.read(&mut chunk) {
        if length == 0 {
            break;
        }
        all.extend_from_slice(&chunk[..length]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

fn files_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("flamegraph"))
        .collect();
    names.sort();
    names
}

#[test]
fn a_profile_goes_to_a_new_file() {
    let script = Script {
        processes: Ok(vec![discovered()]),
        profile: Ok(profile()),
        ..Script::default()
    };
    let daemon = FakeDaemon::start(script);
    let arguments = ["flamegraph", "--pid", "4242"];
    let (code, shown) = run_on_terminal(program::command(&daemon).args(arguments));
    assert_eq!(code, Some(0), "{shown}");
    assert!(
        shown.contains("wrote flamegraph-checkout-4242.svg") && !shown.contains("<svg"),
        "{shown}"
    );
    assert!(shown.trim_end().ends_with("100 % of user frames named"), "{shown}");

    let (_, shown) = run_on_terminal(program::command(&daemon).args(arguments));
    assert!(shown.contains("wrote flamegraph-checkout-4242-1.svg"), "{shown}");
    let (_, shown) = run_on_terminal(program::command(&daemon).args(arguments).args(["--format", "folded"]));
    assert!(shown.contains("wrote flamegraph-checkout-4242.folded"), "{shown}");
    let expected = [
        "flamegraph-checkout-4242-1.svg",
        "flamegraph-checkout-4242.folded",
        "flamegraph-checkout-4242.svg",
    ];
    assert_eq!(files_in(daemon.directory()), expected);

    let (_, shown) = run_on_terminal(program::command(&daemon).args(arguments).args(["-o", "-"]));
    assert!(shown.contains("<svg"), "{shown}");
}

#[test]
fn progress_is_shown_and_wiped_away() {
    let script = Script {
        processes: Ok(vec![not_watched()]),
        watch: Ok(vec![WatchStep::Report(report(17, false))]),
        profile: Ok(profile()),
        ..Script::default()
    };
    let daemon = FakeDaemon::start(script);
    let (code, shown) =
        run_on_terminal(program::command(&daemon).args(["flamegraph", "--pid", "4242", "--duration", "600ms"]));
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("recording process 4242 (checkout)"), "{shown}");
    assert!(shown.contains("17 samples, 100 % with a proven root"), "{shown}");
    let wiped = shown.rfind("\x1b[2K").unwrap();
    assert!(
        wiped < shown.find("recorded process 4242 (checkout) for").unwrap(),
        "{shown}"
    );
}

#[test]
fn an_answer_that_takes_long_is_shown_to_be_waited_for() {
    let script = Script {
        processes: Ok(vec![discovered()]),
        profile: Ok(profile()),
        delay: Duration::from_millis(1_500),
        ..Script::default()
    };
    let daemon = FakeDaemon::start(script);
    let arguments = ["flamegraph", "--pid", "4242", "-o", "flamegraph.svg"];
    let (code, shown) = run_on_terminal(program::command(&daemon).args(arguments));
    assert_eq!(code, Some(0), "{shown}");
    let waits = shown.find("waiting until the daemon has named the samples");
    let wiped = shown.rfind("\x1b[2K");
    assert!(
        waits.is_some() && waits < wiped && wiped < shown.find("65 samples"),
        "{shown:?}"
    );
    // A log is spared it.
    let logged = program::run(&daemon, arguments).expect_success();
    assert!(!logged.stderr.contains("waiting"), "{}", logged.stderr);
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let daemon = FakeDaemon::start(Script {
        processes: Ok(vec![discovered()]),
        ..Script::default()
    });
    let (_, coloured) = run_on_terminal(program::command(&daemon).arg("ps"));
    assert!(coloured.contains("\x1b["), "{coloured:?}");
    let (_, plain) = run_on_terminal(program::command(&daemon).arg("ps").env("NO_COLOR", "1"));
    assert!(!plain.contains('\x1b'), "{plain:?}");
    let piped = program::run(&daemon, ["ps"]).expect_success();
    assert_eq!(plain.replace("\r\n", "\n"), piped.text());
}

#[test]
fn hostile_names_do_not_reach_the_terminal() {
    let mut process = not_watched();
    process.name = HOSTILE.to_owned();
    process.service = HOSTILE.to_owned();
    process.limitations = vec![HOSTILE.to_owned()];
    let mut hostile = profile();
    hostile.processes[0].name = HOSTILE.to_owned();
    let script = Script {
        processes: Ok(vec![process]),
        watch: Ok(vec![WatchStep::Report(report(1, true))]),
        profile: Ok(hostile),
        ..Script::default()
    };
    let daemon = FakeDaemon::start(script);
    let pid = PID.to_string();
    for arguments in [
        &["ps"][..],
        &["flamegraph", "--pid", &pid],
        &["flamegraph", "--service", HOSTILE, "--last", "1m"],
    ] {
        let (code, shown) = run_on_terminal(program::command(&daemon).args(arguments).env("NO_COLOR", "1"));
        assert_eq!(code, Some(0), "{shown:?}");
        assert!(!shown.contains("\x1b[2J") && !shown.contains('\u{202e}'), "{shown:?}");
    }
    for name in files_in(daemon.directory()) {
        assert!(name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?}");
    }
}
