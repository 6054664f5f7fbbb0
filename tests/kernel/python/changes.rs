//! Python processes that change while they are sampled: they fork, become another program, make threads, switch stacks or
//! end; and an interpreter that nobody knows. No sample names what was not on its stack.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use profiler_tests::{
    daemon::{Daemon, DaemonOptions, LAST_10_MINUTES},
    interpreters::{self, Interpreter},
    programs::{Running, send_signal, wait_for},
    python::{PythonProgram, Scripts},
    truth::{PythonFrame, Truth, chains_of},
};
use rustix::process::Signal;
use serde_json::Value;

use super::{of_version, shown, views::WithLock, wait_until_active};
use crate::{
    FAST_HZ, SAMPLES_WITHIN, WINDOW, host, only,
    profile::{Profile, Stack},
    profile_of, profile_when, skip, wait_until_watched,
};

/// The version that every host of ours has.
const MINOR: u32 = 11;
/// Samples that a verdict rests on.
const SAMPLES: u64 = 500;
/// How long a program may take to do as it was asked, on a machine that is busy with others.
const ANSWER_WITHIN: Duration = SAMPLES_WITHIN;

/// A configuration that watches the interpreter's processes, whatever they execute later.
fn watching(interpreter: &Interpreter) -> String {
    only(FAST_HZ, &executable(interpreter).to_string_lossy())
}

/// As the kernel names it: the program may be a link.
fn executable(interpreter: &Interpreter) -> PathBuf {
    assert!(interpreter.root.is_none(), "{} is not of this host", interpreter.name);
    fs::canonicalize(&interpreter.program).unwrap()
}

/// A process's profile of the next samples.
pub(super) fn next_samples(daemon: &Daemon, pid: u32, samples: u64) -> Value {
    // A span takes in whole windows, and none of the first samples.
    thread::sleep(WINDOW + WINDOW / 4);
    let start = Instant::now();
    let before = daemon.process(pid)["samples"].as_u64().unwrap();
    daemon.wait_for_samples(pid, before + samples, SAMPLES_WITHIN);
    // What was not named yet, or could not be in time, is not among those.
    wait_for("enough named samples", SAMPLES_WITHIN, || {
        let profile = shown(daemon, pid, start, &[]);
        (profile["quality"]["samples"].as_u64()? >= samples).then_some(profile)
    })
}

/// Holds the next samples of a program against what it says of itself.
#[track_caller]
fn assert_true(daemon: &Daemon, program: &PythonProgram) {
    assert_true_of(daemon, program.running.pid(), &program.truth());
}

/// Holds the next samples of a process against the truth of it.
#[track_caller]
pub(super) fn assert_true_of(daemon: &Daemon, pid: u32, truth: &Truth) {
    wait_until_active(daemon, pid);
    let since = Instant::now() + WINDOW + WINDOW / 4;
    next_samples(daemon, pid, SAMPLES);
    let look = || Some(truth.judge(&chains_of(&shown(daemon, pid, since, &[]))));
    let verdict = profile_when(look, |verdict| {
        verdict.right >= SAMPLES / 2 && verdict.right_percent() >= Some(99.0)
    });
    println!("{verdict:?}");
    assert!(verdict.right >= SAMPLES / 2, "{verdict:?}");
    assert_eq!(verdict.strange, 0, "{verdict:?}");
    assert!(verdict.right_percent() >= Some(99.0), "{verdict:?}");
}

fn names(chain: &[PythonFrame]) -> Vec<&str> {
    chain.iter().map(|frame| frame.function.as_str()).collect()
}

#[test]
fn forks_have_names_from_their_first_samples() {
    let Some(host) = host() else { return };
    let Some(interpreter) = of_version(MINOR) else { return };
    let daemon = host.daemon(&watching(&interpreter));
    let scripts = Scripts::of(&interpreter);
    let server = scripts.start("prefork.py", &["when-asked"]);
    // Its workers begin as what it is.
    wait_until_active(&daemon, server.running.pid());
    send_signal(server.running.pid(), Signal::USR1);
    for work in ["work_in_first", "work_in_second"] {
        let said = server.running.line(ANSWER_WITHIN).unwrap();
        let child: u32 = said.strip_prefix("child ").unwrap().parse().unwrap();
        daemon.wait_for_samples(child, SAMPLES, SAMPLES_WITHIN);
        let counts = |chains: &Vec<(Vec<PythonFrame>, u64)>| {
            let named = chains.iter().filter(|(chain, _)| names(chain).contains(&work));
            let [named, all]: [u64; 2] = [
                named.map(|(_, samples)| samples).sum(),
                chains.iter().map(|(_, samples)| samples).sum(),
            ];
            (named, all)
        };
        // All that there is of it: a moment passes until it is known.
        let chains = profile_when(
            || Some(chains_of(&daemon.whole_profile(child))),
            |chains| {
                let (named, all) = counts(chains);
                all >= SAMPLES && named * 100 >= all * 99
            },
        );
        for (chain, samples) in &chains {
            let names = names(chain);
            let is_beginning = ["<module>", "main", "fork", work, "spend"].starts_with(&names);
            assert!(is_beginning, "{samples}x {names:?} in the worker of {work}");
        }
        let (named, all) = counts(&chains);
        println!("{work}: {named} of {all}");
        assert!(all >= SAMPLES, "{all} samples");
        assert!(named * 100 >= all * 99, "{chains:?}");
    }
}

#[test]
fn what_was_python_before_an_exec_is_not_after_it() {
    let Some(host) = host() else { return };
    let Some(interpreter) = of_version(MINOR) else { return };
    let program = host.rust("deep");
    let python = executable(&interpreter);
    let daemon = host.daemon(&only(
        FAST_HZ,
        &format!("{}\", \"{}", python.display(), program.display()),
    ));
    let scripts = Scripts::of(&interpreter);
    let becomes = scripts.start("becomes.py", &[&program.to_string_lossy()]);
    let pid = becomes.running.pid();
    wait_until_active(&daemon, pid);
    let before = chains_of(&next_samples(&daemon, pid, 100));
    assert!(
        before
            .iter()
            .any(|(chain, _)| names(chain).contains(&"work_before_exec")),
        "{before:?}"
    );
    send_signal(pid, Signal::USR1);
    assert_eq!(becomes.running.line(ANSWER_WITHIN).as_deref(), Some("ready"));
    wait_for("another program", ANSWER_WITHIN, || {
        daemon.process(pid)["interpreter"].is_null().then_some(())
    });
    wait_until_watched(&daemon, pid);
    let after = next_samples(&daemon, pid, SAMPLES);
    for (chain, samples) in chains_of(&after) {
        assert!(chain.is_empty(), "{samples}x {:?}", names(&chain));
    }
    let after = Profile::from_json(&after);
    let busy = after.samples_of("stay_busy");
    assert!(busy * 100 >= after.samples * 99, "{}", after.summary);
}

#[test]
fn threads_that_come_and_go() {
    let Some(host) = host() else { return };
    let Some(interpreter) = of_version(MINOR) else { return };
    let daemon = host.daemon(&watching(&interpreter));
    let scripts = Scripts::of(&interpreter);
    assert_true(&daemon, &scripts.start("churn.py", &[]));
}

#[test]
fn greenlets_switch_in_the_middle_of_their_calls() {
    let Some(host) = host() else { return };
    let interpreter = match interpreters::with_packages() {
        Ok(interpreter) => interpreter,
        Err(reason) => return skip(&reason),
    };
    let daemon = host.daemon(&watching(&interpreter));
    let scripts = Scripts::of(&interpreter);
    assert_true(&daemon, &scripts.start("greenlets.py", &[]));
}

#[test]
fn what_has_ended_keeps_its_names() {
    let Some(host) = host() else { return };
    let Some(interpreter) = of_version(MINOR) else { return };
    let daemon = host.daemon(&watching(&interpreter));
    let scripts = Scripts::of(&interpreter);
    let mut brief = Running::start(&mut scripts.command("brief.py", &[]));
    let pid = brief.pid();
    // It ends by itself, in the middle of a window, before anything of it was asked for.
    assert_eq!(brief.line(ANSWER_WITHIN).as_deref(), Some("done"));
    brief.stop();
    let profile = wait_for("a profile", SAMPLES_WITHIN, || daemon.profile(pid, &LAST_10_MINUTES));
    let (mut working, mut all) = (0, 0);
    for (chain, samples) in chains_of(&profile) {
        let names = names(&chain);
        assert!(
            names.iter().all(|name| !name.starts_with("[python code")),
            "{samples}x {names:?}"
        );
        all += samples;
        working += if names.contains(&"work_briefly") { samples } else { 0 };
    }
    println!("{working} of {all}");
    // It starts, which takes as long as it takes, and then works for some seconds of a CPU.
    assert!(working >= SAMPLES, "{working} of {all}");
}

#[test]
fn an_unknown_version_has_native_stacks_and_a_reason() {
    let Some(host) = host() else { return };
    let Some(mut interpreter) = of_version(MINOR) else {
        return;
    };
    // As `Py_Version` has 3.11, and a version that is still to come.
    let (known, unknown) = ([11, 3], [99, 3]);
    let release = u8::try_from(interpreter.version.patch).unwrap();
    let mut object = fs::read(executable(&interpreter)).unwrap();
    let mut places = Vec::new();
    for start in 0..object.len() - 4 {
        // A final release: 0xf0, its number, minor and major version.
        if object[start..start + 4] == [0xf0, release, known[0], known[1]] {
            places.push(start);
        }
    }
    if places.is_empty() {
        return skip("the host's interpreter is in a library");
    }
    for start in places {
        object[start + 2..start + 4].copy_from_slice(&unknown);
    }
    let program = host.path("python3.99");
    profiler_tests::programs::write_executable(&program, &object);
    interpreter.program = program;
    let daemon = host.daemon(&watching(&interpreter));
    let scripts = Scripts::of(&interpreter);
    let mut command = scripts.command("prefork.py", &[]);
    // It does not lie where it would find its library.
    command.env("PYTHONHOME", "/usr");
    let (server, said) = Running::start_and_listen(&mut command);
    let child: u32 = said[0].strip_prefix("child ").unwrap().parse().unwrap();
    daemon.wait_for_samples(child, SAMPLES, SAMPLES_WITHIN);
    let profile = profile_of(&daemon, child);
    assert!(
        profile.samples_of("_PyEval_EvalFrameDefault") > 0,
        "{}",
        profile.summary
    );
    let is_python = |stack: &Stack| stack.frames.iter().any(|frame| frame.kind == "python");
    assert_eq!(profile.count(is_python), 0, "{}", profile.summary);
    let process = daemon.process(child);
    let interpreter = &process["interpreter"];
    assert_eq!(interpreter["state"], "refused", "{process}");
    let reason = interpreter["reason"].as_str().unwrap();
    assert!(reason.contains("3.99"), "{process}");
    assert_eq!(process["python_samples"].as_u64().unwrap_or(0), 0, "{process}");
    drop(server);
}

#[test]
fn python_and_native_time_are_told_apart() {
    /// One standard deviation of a share is half a percent at most.
    const SAMPLES: u64 = 10_000;
    let Some(host) = host() else { return };
    let Some(interpreter) = of_version(MINOR) else { return };
    let scripts = Scripts::of(&interpreter);
    if let Err(reason) = scripts.compile_native() {
        return skip(&reason);
    }
    // Ten seconds of a CPU would take minutes on a machine that is busy with others.
    let first = ["nice", "-n", "-15"];
    let config = only(999, &executable(&interpreter).to_string_lossy());
    let daemon = host.spawn(DaemonOptions::new(&config).through(&first)).ready();
    let script = scripts.command("shares.py", &[]);
    let mut command = Command::new(first[0]);
    command
        .args(&first[1..])
        .arg(script.get_program())
        .args(script.get_args());
    let (running, said) = Running::start_and_listen(&mut command);
    let program = PythonProgram { running, said };
    let pid = program.running.pid();
    wait_until_active(&daemon, pid);
    let start = Instant::now();
    let document = next_samples(&daemon, pid, SAMPLES);
    let verdict = program.truth().judge(&chains_of(&document));
    println!("{verdict:?}");
    assert_eq!(verdict.strange, 0, "{verdict:?}");
    assert!(verdict.right_percent() >= Some(99.0), "{verdict:?}");
    let profile = Profile::from_json(&document);
    let in_native = |stack: &Stack| stack.has("native_spin");
    let in_library = |stack: &Stack| stack.frames.iter().any(|frame| frame.module.starts_with("libz."));
    let python = profile.count(|stack| stack.has("price_basket") && !in_native(stack) && !in_library(stack));
    let native = profile.count(|stack| stack.has_in_order(&["render_page", "native_spin"]));
    let library = profile.count(|stack| stack.has("compress_reply") && !in_native(stack));
    println!("{python} + {native} + {library} of {}", profile.samples);
    // Its results are made and given away outside of the library.
    let within = profile.count(|stack| stack.has("compress_reply") && in_library(stack));
    assert!(
        within * 100 >= library * 90,
        "{within} of {library}: {}",
        profile.summary
    );
    for (samples, share) in [(python, 50.0), (native, 30.0), (library, 20.0)] {
        let measured = samples as f64 * 100.0 / profile.samples as f64;
        assert!(
            (measured - share).abs() <= 2.0,
            "{measured:.1} of {share}: {}",
            profile.summary
        );
    }
    // One thread alone has the lock all the time, but while the library compresses.
    let with_lock = WithLock::since(&daemon, pid, start);
    assert!(with_lock.percent("Python", |stack| stack.has("price_basket")) >= Some(95.0));
    assert!(with_lock.percent("the module in C", in_native) >= Some(95.0));
    // What this needs it makes ready with the lock, by other functions of the library.
    let compressing = with_lock.percent("the library", |stack| stack.has("deflate") && in_library(stack));
    assert!(compressing.is_some_and(|share| share <= 5.0), "{compressing:?}");
}
