//! Python stacks on the real kernel, under every version that is here: each sample's chain of functions and lines is held
//! against what the program itself says that it calls, and native frames stand where they were called.

use std::time::Duration;

use profiler_tests::{
    daemon::{Daemon, Host},
    interpreters::{self, Interpreter},
    programs::wait_for,
    python::{PythonProgram, Scripts},
    truth::{Verdict, chains_of},
};
use serde_json::Value;

use crate::{FAST_HZ, host, python_programs::SHAPES, skip};

/// How long an interpreter may take to be understood, on a machine that is busy with others.
const ACTIVE_WITHIN: Duration = Duration::from_secs(40);
/// Samples that a verdict rests on.
const SAMPLES: u64 = 600;
/// Recordings until there are as many.
const RECORDINGS: usize = 8;

/// The first interpreter of a minor version, or nothing after saying that there is none.
fn of_version(minor: u32, free_threaded: bool) -> Option<Interpreter> {
    let found = interpreters::all();
    let mut all = found.interpreters.into_iter();
    let chosen =
        all.find(|interpreter| interpreter.version.minor == minor && interpreter.free_threaded == free_threaded);
    if chosen.is_none() {
        let letter = if free_threaded { "t" } else { "" };
        skip(&format!("there is no Python 3.{minor}{letter}"));
    }
    chosen
}

/// A daemon that watches only what is asked for.
fn daemon(host: &Host) -> Daemon {
    host.daemon(&format!(
        "[sampling]\nhz = {FAST_HZ}\n[targets]\ndiscover_rust = false\ndiscover_python = false\n[store]\nwindow = \"1s\"\n\
         [budget]\nmax_cpu_percent = 100\n"
    ))
}

fn recorded(daemon: &Daemon, pid: u32, options: &[&str]) -> Value {
    let pid = pid.to_string();
    let mut arguments = vec![
        "flamegraph",
        "--pid",
        &pid,
        "--duration",
        "2s",
        "--format",
        "json",
        "-o",
        "-",
    ];
    arguments.extend(options);
    daemon.json(&arguments)
}

/// Waits until the Python stacks of a process are walked.
fn wait_until_active(daemon: &Daemon, pid: u32) {
    wait_for("an understood interpreter", ACTIVE_WITHIN, || {
        recorded(daemon, pid, &[]);
        let process = daemon.process(pid);
        let state = &process["interpreter"]["state"];
        assert_ne!(state, "refused", "{process}");
        (state == "active").then_some(())
    });
}

/// Judges recordings of a program until they have enough samples. Returns the last of them too.
fn judged(daemon: &Daemon, program: &PythonProgram) -> (Verdict, Value) {
    let truth = program.truth();
    let mut sum = Verdict::default();
    let mut last = Value::Null;
    for _ in 0..RECORDINGS {
        last = recorded(daemon, program.running.pid(), &[]);
        let verdict = truth.judge(&chains_of(&last));
        sum.right += verdict.right;
        sum.wrong += verdict.wrong;
        sum.strange += verdict.strange;
        sum.without += verdict.without;
        sum.examples.push_str(&verdict.examples);
        if sum.right + sum.wrong + sum.strange >= SAMPLES {
            break;
        }
    }
    (sum, last)
}

fn shapes_under(minor: u32, free_threaded: bool) {
    let Some(host) = host() else { return };
    let Some(interpreter) = of_version(minor, free_threaded) else {
        return;
    };
    println!("{} {}", interpreter.name, interpreter.version);
    let scripts = Scripts::of(&interpreter);
    let mut shapes = SHAPES.to_vec();
    match scripts.compile_native() {
        Ok(()) => shapes.push("extension"),
        Err(reason) => skip(&reason),
    }
    let program = scripts.start("shapes.py", &shapes);
    let pid = program.running.pid();
    let daemon = daemon(&host);
    wait_until_active(&daemon, pid);
    let (verdict, profile) = judged(&daemon, &program);
    println!("{verdict:?}");
    assert!(verdict.right + verdict.wrong >= SAMPLES, "{verdict:?}");
    assert_eq!(verdict.strange, 0, "{verdict:?}");
    assert!(verdict.right_percent() >= Some(99.0), "{verdict:?}");
    let quality = &profile["quality"];
    let count = |name: &str| quality[name].as_u64().unwrap();
    assert!(count("rooted") * 1000 >= count("samples") * 995, "{quality}");
    // The frames of the interpreter are folded away unless they are asked for.
    let kinds = |profile: &Value| {
        let frames = profile["frames"].as_array().unwrap().clone();
        frames
            .into_iter()
            .map(|frame| frame["kind"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let native = recorded(&daemon, pid, &["--native-python"]);
    assert!(kinds(&native).contains(&"interpreter".to_owned()));
    let process = daemon.process(pid);
    let of_python = process["python_samples"].as_u64().unwrap();
    assert!(of_python > SAMPLES, "{process}");
}

macro_rules! under {
    ($($test:ident: $minor:literal, $free_threaded:literal;)*) => {
        $(#[test]
        fn $test() {
            shapes_under($minor, $free_threaded);
        })*
    };
}

under! {
    shapes_under_3_8: 8, false;
    shapes_under_3_9: 9, false;
    shapes_under_3_10: 10, false;
    shapes_under_3_11: 11, false;
    shapes_under_3_12: 12, false;
    shapes_under_3_13: 13, false;
    shapes_under_3_14: 14, false;
    shapes_under_3_15: 15, false;
    shapes_under_3_13_without_a_lock: 13, true;
}
