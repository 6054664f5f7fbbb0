//! Python stacks on the real kernel, under every version that is here: each sample's chain of functions and lines is held
//! against what the program itself says that it calls, and native frames stand where they were called.

mod changes;
mod elsewhere;
mod views;

use std::{
    thread,
    time::{Duration, Instant},
};

use profiler_tests::{
    daemon::Daemon,
    interpreters::{self, Interpreter},
    programs::wait_for,
    python::Scripts,
    truth::{PythonFrame, chains_of},
};
use serde_json::Value;

use crate::{
    FAST_HZ, SAMPLES_WITHIN, WINDOW, from_environment, host, only, profile_when, python_programs::SHAPES, skip,
};

/// How long an interpreter may take to be understood, on a machine that is busy with others.
const ACTIVE_WITHIN: Duration = Duration::from_secs(60);
/// Samples that a verdict rests on, unless `PROFILER_TEST_PYTHON_SAMPLES` says otherwise.
const SAMPLES: u32 = 600;
/// The rate for more of them.
const DENSE_HZ: u32 = 3989;
/// So many more take as long again, on a machine that is busy with others.
const SAMPLES_PER_PATIENCE: u32 = 50_000;
/// Lines of native code are not what this is about, and those of an interpreter that was built here take long to read.
const WITHOUT_LINES: &str = "[symbols]\nmax_debug_info_bytes = \"64KiB\"\n";
/// Python frames of a stack whose native frames may be more than are walked, where each has some of its own.
const DEEP: usize = 120;

/// The first interpreter of a minor version, or nothing after saying that there is none.
pub(crate) fn of_version(minor: u32) -> Option<Interpreter> {
    find(minor, false)
}

fn find(minor: u32, free_threaded: bool) -> Option<Interpreter> {
    let found = interpreters::of_minor(minor);
    let mut all = found.interpreters.into_iter();
    let chosen = all.find(|interpreter| interpreter.free_threaded == free_threaded);
    if chosen.is_none() {
        let letter = if free_threaded { "t" } else { "" };
        skip(&format!("there is no Python 3.{minor}{letter}"));
    }
    chosen
}

/// The profile of a process in the last moments, once the daemon has named it.
pub(crate) fn shown(daemon: &Daemon, pid: u32, since: Instant, options: &[&str]) -> Value {
    // Names of the first windows take long: all that a process has mapped is read for them.
    wait_for("a profile", SAMPLES_WITHIN, || {
        let last = format!("{}ms", since.elapsed().as_millis());
        daemon.profile(pid, &[&["--last", &last], options].concat())
    })
}

/// Waits until the Python stacks of a process are walked.
pub(crate) fn wait_until_active(daemon: &Daemon, pid: u32) {
    wait_for("an understood interpreter", ACTIVE_WITHIN, || {
        let process = daemon.process(pid);
        let state = &process["interpreter"]["state"];
        assert_ne!(state, "refused", "{process}");
        (state == "active" && process["watch_state"] == "watched").then_some(())
    });
}

/// Samples by how deep their stacks are.
#[derive(Debug)]
struct Depths {
    /// All but the deep ones.
    others: u64,
    /// Before 3.11 each call from Python to Python is on the native stack, too, and the deepest are deeper than is walked.
    deep: u64,
    too_deep: u64,
    /// Not rooted, for another reason than that.
    unrooted: u64,
}

impl Depths {
    fn of(quality: &Value, chains: &[(Vec<PythonFrame>, u64)], minor: u32) -> Self {
        let count = |name: &str| quality[name].as_u64().unwrap();
        let too_deep = quality["stopped"]["depth_limit"].as_u64().unwrap_or(0);
        let deep = chains.iter().filter(|(chain, _)| minor < 11 && chain.len() >= DEEP);
        let deep: u64 = deep.map(|(_, samples)| samples).sum();
        Self {
            others: count("samples") - deep,
            deep,
            too_deep,
            unrooted: count("samples") - count("rooted") - too_deep,
        }
    }

    /// Whether nearly all reached a root that could.
    fn are_rooted(&self) -> bool {
        self.unrooted * 1000 <= self.others * 5
    }
}

fn shapes_under(minor: u32) {
    let Some(interpreter) = of_version(minor) else {
        return;
    };
    shapes_of(&interpreter, &SHAPES);
}

fn shapes_of(interpreter: &Interpreter, shapes: &[&'static str]) {
    let Some(host) = host() else { return };
    println!("{} {}", interpreter.name, interpreter.version);
    let minor = interpreter.version.minor;
    // The library that starts threads there has no unwind tables: native stacks end in it.
    let has_roots = !interpreter.name.ends_with(interpreters::ON_MUSL);
    let scripts = Scripts::of(interpreter);
    let mut shapes = shapes.to_vec();
    match scripts.compile_native() {
        Ok(()) => shapes.push("extension"),
        Err(reason) => skip(&reason),
    }
    let program = scripts.start("shapes.py", &shapes);
    let pid = program.running.pid();
    // As the kernel names it: the program may be a link.
    let executable = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    let samples = from_environment("PROFILER_TEST_PYTHON_SAMPLES", SAMPLES);
    let hz = if samples > SAMPLES { DENSE_HZ } else { FAST_HZ };
    let within = SAMPLES_WITHIN * (1 + samples / SAMPLES_PER_PATIENCE);
    let samples = u64::from(samples);
    let config = only(hz, &executable.to_string_lossy());
    let daemon = host.daemon(&format!("{config}{WITHOUT_LINES}"));
    wait_until_active(&daemon, pid);
    // A span takes in whole windows, and none of the first samples.
    thread::sleep(WINDOW + WINDOW / 4);
    let start = Instant::now();
    let before = daemon.process(pid)["samples"].as_u64().unwrap();
    daemon.wait_for_samples(pid, before + samples, within);
    let truth = program.truth();
    let (profile, verdict, depths) = profile_when(
        || {
            let profile = shown(&daemon, pid, start, &[]);
            let chains = chains_of(&profile);
            let (verdict, depths) = (truth.judge(&chains), Depths::of(&profile["quality"], &chains, minor));
            Some((profile, verdict, depths))
        },
        |(_, verdict, depths)| {
            verdict.with_frames() >= samples
                && verdict.right_percent() >= Some(99.0)
                && (depths.are_rooted() || !has_roots)
        },
    );
    println!("{} samples at {hz} Hz: {verdict:?}", verdict.with_frames());
    assert!(
        verdict.with_frames() >= samples && verdict.right >= samples / 2,
        "{verdict:?}"
    );
    assert_eq!(verdict.strange, 0, "{verdict:?}");
    assert!(verdict.right_percent() >= Some(99.0), "{verdict:?}");
    assert!(depths.too_deep <= depths.deep, "{depths:?}: {}", profile["quality"]);
    assert!(depths.are_rooted() || !has_roots, "{depths:?}: {}", profile["quality"]);
    // The frames of the interpreter are folded away unless they are asked for.
    let kinds = |profile: &Value| {
        let frames = profile["frames"].as_array().unwrap().clone();
        frames
            .into_iter()
            .map(|frame| frame["kind"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let native = shown(&daemon, pid, start, &["--native-python"]);
    assert!(kinds(&native).contains(&"interpreter".to_owned()));
    let process = daemon.process(pid);
    let of_python = process["python_samples"].as_u64().unwrap();
    assert!(of_python >= verdict.right, "{process}");
    views::assert_lock_is_seen(&daemon, pid, start, interpreter);
    views::assert_threads_are_named(&daemon, pid, start, &shapes);
}

macro_rules! under {
    ($($test:ident: $minor:literal;)*) => {
        $(#[test]
        fn $test() {
            shapes_under($minor);
        })*
    };
}

under! {
    shapes_under_3_8: 8;
    shapes_under_3_9: 9;
    shapes_under_3_10: 10;
    shapes_under_3_11: 11;
    shapes_under_3_12: 12;
    shapes_under_3_13: 13;
    shapes_under_3_14: 14;
    shapes_under_3_15: 15;
}

/// Without a lock, threads that record what they call hinder each other more the more there are: these are enough to have each
/// shape.
const SHAPES_WITHOUT_LOCK: [&str; 5] = ["sleeping", "unlocked", "awaits", "foreign", "mixed"];

#[test]
fn shapes_without_a_lock() {
    let Some(interpreter) = find(13, true) else { return };
    shapes_of(&interpreter, &SHAPES_WITHOUT_LOCK);
}

/// Modules that need libraries, which musl has none of here, are not there.
const SHAPES_ON_MUSL: [&str; 8] = [
    "busy",
    "sleeping",
    "generators",
    "awaits",
    "recursion",
    "callbacks",
    "nested",
    "mixed",
];

#[test]
fn shapes_on_musl() {
    match interpreters::on_musl() {
        Ok(interpreter) => shapes_of(&interpreter, &SHAPES_ON_MUSL),
        Err(reason) => skip(&reason),
    }
}
