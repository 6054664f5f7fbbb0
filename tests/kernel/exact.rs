//! Exact stacks of calls that ask the kernel for memory: of programs of which it is known what they ask for.

use std::{
    fs, io,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use profiler_tests::{
    daemon::{Daemon, DaemonOptions},
    interpreters,
    programs::{Running, send_signal, wait_for},
    python::Scripts,
};
use rustix::process::Signal;
use serde_json::Value;

use crate::{SAMPLES_WITHIN, host, only, skip, wait_until_watched};

const KIBI: u64 = 1 << 10;
const MEBI: u64 = 1 << 20;
/// How long a program may take to ask for what it asks for.
const ASKS_WITHIN: Duration = Duration::from_secs(60);
/// How long the daemon may take to let go of a process whose asker is gone.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// The command line while it records calls for memory.
struct Recording(Child);

impl Recording {
    /// Begins to record, and waits until the daemon takes the calls of the process.
    fn begin(daemon: &Daemon, pid: u32) -> Self {
        let pid_text = pid.to_string();
        let mut command = daemon.cli_command();
        command
            .args(["flamegraph", "--pid", &pid_text, "--kind", "memory", "--exact"])
            .args(["--duration", "5m", "--format", "json", "-o", "-"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut recording = Self(command.spawn().expect("the command line runs"));
        wait_for("calls to be taken", SAMPLES_WITHIN, || {
            if let Some(ended) = recording.0.try_wait().unwrap() {
                panic!("the command line ended with {ended}: {}", daemon.log());
            }
            (calls(daemon)["pid"] == pid).then_some(())
        });
        recording
    }

    /// Ends the recording, as Ctrl-C does; the profile, and the line below it.
    fn end(mut self) -> (Value, String) {
        send_signal(self.0.id(), Signal::INT);
        let written = io::read_to_string(self.0.stdout.take().unwrap()).unwrap();
        let said = io::read_to_string(self.0.stderr.take().unwrap()).unwrap();
        let status = self.0.wait().unwrap();
        assert!(status.success(), "{status}: {said}");
        (serde_json::from_str(&written).unwrap(), said)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.0.kill().ok();
        self.0.wait().expect("a child can be waited for");
    }
}

fn calls(daemon: &Daemon) -> Value {
    daemon.status()["mapped_calls"].clone()
}

/// Programs that the daemon has in the kernel, and their links.
fn programs(daemon: &Daemon) -> usize {
    let descriptors = daemon.descriptors();
    let kinds = descriptors.iter().map(|path| path.to_string_lossy());
    kinds
        .filter(|kind| {
            ["bpf-prog", "bpf_link", "bpf-link", "bpf-raw-tracepoint"]
                .iter()
                .any(|one| kind.contains(one))
        })
        .count()
}

/// Bytes of all stacks that have a function of this name.
fn below(profile: &Value, function: &str) -> u64 {
    let frames = profile["frames"].as_array().unwrap();
    let is_wanted = |node: &&Value| {
        let frame = &frames[node["frame"].as_u64().unwrap() as usize];
        frame["function"].as_str().unwrap().rsplit("::").next() == Some(function)
    };
    let nodes = profile["nodes"].as_array().unwrap().iter();
    nodes
        .filter(is_wanted)
        .map(|node| node["total"].as_u64().unwrap())
        .sum()
}

fn total(profile: &Value) -> u64 {
    let nodes = profile["nodes"].as_array().unwrap().iter();
    let roots = nodes.filter(|node| node["parent"].is_null());
    roots.map(|node| node["total"].as_u64().unwrap()).sum()
}

/// Starts a program, and waits until nothing but it will change which programs are in the kernel.
fn watched(daemon: &Daemon, command: &mut Command) -> Running {
    let running = Running::start(command);
    wait_until_watched(daemon, running.pid());
    wait_for("the programs for page faults to be attached", SAMPLES_WITHIN, || {
        (daemon.status()["memory_profile"]["attached"] == true).then_some(())
    });
    running
}

fn go(running: &Running, path: &Path, word: &str) {
    fs::write(path, "").unwrap();
    assert_eq!(running.line(ASKS_WITHIN).as_deref().map(str::trim), Some(word));
}

#[test]
fn each_call_is_counted_with_its_bytes_and_nothing_stays() {
    let Some(host) = host() else { return };
    let program = host.rust("asks");
    let daemon = host.spawn(DaemonOptions::new(&only(99, "asks*"))).ready();
    let path = host.path("go");
    let running = watched(&daemon, Command::new(&program).arg(&path));
    // It asks for the same at the same time, and nobody asks about it.
    let other = watched(&daemon, Command::new(&program).arg(&path));
    assert_eq!(calls(&daemon)["pid"], Value::Null);
    let before = programs(&daemon);

    let recording = Recording::begin(&daemon, running.pid());
    assert_eq!(programs(&daemon), before + 2, "a program and its link");
    let refused = daemon.flamegraph(other.pid(), &["--kind", "memory", "--exact"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("only of one process at a time"), "{refused:?}");
    go(&running, &path, "asked");
    assert_eq!(other.line(ASKS_WITHIN).as_deref().map(str::trim), Some("asked"));
    let (profile, said) = recording.end();
    println!("{said}");

    for (function, bytes) in [
        ("keep", 12 * MEBI),
        ("reserve", 10 * MEBI),
        ("open", 3 * 256 * KIBI),
        ("move_break", 7 * 256 * KIBI),
        ("stretch", 4 * 512 * KIBI),
        ("ask_for_little", 0),
        ("mmap anonymous", 12 * MEBI),
        ("mmap reserved", 10 * MEBI),
        ("mmap file", 3 * 256 * KIBI),
        ("brk", 7 * 256 * KIBI),
        ("mremap", 4 * 512 * KIBI),
    ] {
        // Between the two the C library has a function of that name as well.
        let times = if ["brk", "mremap"].contains(&function) { 2 } else { 1 };
        let found = below(&profile, function);
        assert!(
            found == bytes || found == times * bytes,
            "{function}: {found} of {bytes}, {said}"
        );
    }
    assert_eq!(total(&profile), 22 * MEBI + 10 * 256 * KIBI + 4 * 512 * KIBI, "{said}");
    let processes = profile["processes"].as_array().unwrap();
    assert_eq!((processes.len(), &processes[0]["pid"]), (1, &running.pid().into()));
    assert!(
        said.contains("31 calls, 31 seen = 31 delivered + 0 lost, 100 % with a proven root"),
        "{said}"
    );
    assert_eq!(profile["value"], "mapped");

    wait_for("nothing to be taken", ENDS_WITHIN, || {
        (calls(&daemon)["pid"].is_null() && programs(&daemon) == before).then_some(())
    });
    let after = calls(&daemon);
    assert_eq!(
        (&after["seen"], &after["delivered"]),
        (&31.into(), &31.into()),
        "{after}"
    );
    assert_eq!(after["lost"], serde_json::json!({}), "{after}");
}

#[test]
fn a_command_line_that_is_killed_leaves_nothing_behind() {
    let Some(host) = host() else { return };
    let program = host.rust("asks");
    let daemon = host.spawn(DaemonOptions::new(&only(99, "asks*"))).ready();
    let path = host.path("go");
    let running = watched(&daemon, Command::new(&program).arg(&path));
    let before = programs(&daemon);
    let recording = Recording::begin(&daemon, running.pid());
    send_signal(recording.0.id(), Signal::KILL);
    wait_for("nothing to be taken", ENDS_WITHIN, || {
        (calls(&daemon)["pid"].is_null() && programs(&daemon) == before).then_some(())
    });
    go(&running, &path, "asked");
    assert_eq!(calls(&daemon)["seen"], 0, "nobody asked any more");

    // The next one has it, and so it is when the process ends.
    let again = host.path("again");
    let running = watched(&daemon, Command::new(&program).arg(&again));
    let recording = Recording::begin(&daemon, running.pid());
    go(&running, &again, "asked");
    drop(running);
    wait_for("nothing to be taken", ENDS_WITHIN, || {
        (calls(&daemon)["pid"].is_null() && programs(&daemon) == before).then_some(())
    });
    assert_eq!(calls(&daemon)["seen"], 31);
    drop(recording);
}

#[test]
fn python_functions_that_ask_for_memory_are_named() {
    let Some(host) = host() else { return };
    let interpreters = interpreters::all();
    let Some(interpreter) = interpreters.one_of_each_version().into_iter().next_back() else {
        return skip("no interpreter of Python is here");
    };
    let daemon = host.spawn(DaemonOptions::new(&only(99, "*python*"))).ready();
    let scripts = Scripts::of(interpreter);
    let path = scripts.path("go");
    let inside = scripts.path_inside("go");
    let running = watched(&daemon, &mut scripts.command("grow.py", &[&inside.to_string_lossy()]));
    wait_for("the interpreter to be understood", SAMPLES_WITHIN, || {
        (daemon.process(running.pid())["interpreter"]["state"] == "active").then_some(())
    });
    let recording = Recording::begin(&daemon, running.pid());
    go(&running, &path, "grown");
    // Whoever asks first waits until the names of the interpreter are read, which takes long where there is little CPU.
    wait_for("names", SAMPLES_WITHIN, || {
        daemon.profile(running.pid(), &["--kind", "memory", "--last", "10m"])
    });
    let (profile, said) = recording.end();
    println!("{said}");
    assert_eq!(below(&profile, "keep_arrays"), 60 * 512 * KIBI, "{said}");
    assert!(said.contains("+ 0 lost"), "{said}");
}
