//! Interpreters that are not simply programs of this host: in namespaces and a root of their own, as in a container, or
//! embedded in a program that calls them now and then.

use std::{fs, path::Path, process::Command, time::Duration};

use profiler_tests::{
    interpreters::{self, Interpreter},
    programs::{Running, send_signal, wait_for},
    python::{PythonProgram, Scripts},
};
use rustix::process::Signal;
use serde_json::Value;

use super::{
    changes::{assert_true_of, next_samples},
    wait_until_active,
};
use crate::{FAST_HZ, SAMPLES_WITHIN, host, only, profile_when, skip};

/// What the program does: where it does it is what this is about, and each thread takes its time until it is ready.
const SHAPES: [&str; 3] = ["sleeping", "unlocked", "busy"];
/// Makes a root of its own the root of everything, in new namespaces: what the old one has is out of sight before the program
/// begins. The root has no `umount`, but Python.
const ENTER: &str = "mount --bind \"$1\" \"$1\" && cd \"$1\" && pivot_root . \"./$2\" && exec \"$3\" -c \"$4\" \"$@\"";
/// In there: leaves the old root, and becomes the program.
const BECOME: &str = "import ctypes, os, sys
if ctypes.CDLL(None).umount2(sys.argv[2].encode(), 2) != 0:
    sys.exit('the old root cannot be left')
os.execv(sys.argv[3], [sys.argv[3]] + sys.argv[5:])";

/// An interpreter of a minor version in a root of its own, or nothing after saying that there is none.
fn in_own_root(minor: u32) -> Option<Interpreter> {
    let mut all = interpreters::of_minor(minor).interpreters.into_iter();
    let chosen = all.find(|interpreter| interpreter.root.is_some());
    if chosen.is_none() {
        skip(&format!("there is no Python 3.{minor} in a root of its own"));
    }
    chosen
}

/// Samples of an interpreter that calls whose Python frames are known.
const WITH_FRAMES_PERCENT: u64 = 95;

/// The first child of a process.
fn child_of(pid: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let first = children.split_whitespace().next();
    first.unwrap_or_else(|| panic!("{pid} has no child")).parse().unwrap()
}

/// A process's ids from the outermost namespace to its own.
fn ids_of(pid: u32) -> Vec<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
    line.split_whitespace().map(|id| id.parse().unwrap()).collect()
}

fn in_a_container(minor: u32) {
    let Some(host) = host() else { return };
    let Some(interpreter) = in_own_root(minor) else { return };
    let root = interpreter.root.as_deref().unwrap();
    println!("{} {}", interpreter.name, interpreter.version);
    let scripts = Scripts::of(&interpreter);
    fs::create_dir(scripts.path("old")).unwrap();
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "sh"])
        .arg(root)
        .arg(scripts.path_inside("old"))
        .arg(&interpreter.program)
        .arg(BECOME)
        .arg(scripts.path_inside("shapes.py"))
        .args(SHAPES)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let (running, said) = Running::start_and_listen(&mut command);
    let program = PythonProgram { running, said };
    let pid = child_of(program.running.pid());
    assert_eq!(ids_of(pid).last(), Some(&1), "it has a namespace of its own");
    assert_ne!(
        fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap(),
        fs::read_link("/proc/self/ns/mnt").unwrap()
    );
    let daemon = host.daemon(&only(FAST_HZ, &interpreter.program.to_string_lossy()));
    assert_true_of(&daemon, pid, &program.truth());
}

#[test]
fn a_container_with_3_11() {
    in_a_container(11);
}

#[test]
fn a_container_with_3_13() {
    in_a_container(13);
}

#[test]
fn a_container_with_3_15() {
    in_a_container(15);
}

/// The library of an interpreter of this host, if it is in one.
fn library_of(interpreter: &Interpreter) -> Option<std::path::PathBuf> {
    let folder = interpreter.program.parent()?.parent()?.join("lib");
    let name = format!("libpython3.{}.so.1.0", interpreter.version.minor);
    let path = folder.join(name);
    path.is_file().then_some(path)
}

#[test]
fn an_embedded_interpreter_that_does_nothing_at_first() {
    let Some(host) = host() else { return };
    let found = interpreters::all().interpreters;
    let mut of_host = found.iter().filter(|interpreter| interpreter.root.is_none());
    let Some((interpreter, library)) = of_host.find_map(|found| Some((found, library_of(found)?))) else {
        return skip("there is no interpreter in a library");
    };
    println!("{} {}", interpreter.name, interpreter.version);
    let program = host.c("embeds", "embeds", &["-ldl"]);
    let daemon = host.daemon(&only(FAST_HZ, &program.to_string_lossy()));
    let prefix = interpreter.program.parent().and_then(Path::parent).unwrap();
    let mut command = Command::new(&program);
    let embeds = Running::start(command.arg(&library).env("PYTHONHOME", prefix));
    let pid = embeds.pid();
    let reason = wait_for("a look at the idle interpreter", SAMPLES_WITHIN, || {
        let process = daemon.process(pid);
        assert_ne!(process["interpreter"]["state"], "refused", "{process}");
        let reason = process["interpreter"]["reason"].as_str()?;
        reason.contains("runs Python code now").then(|| reason.to_owned())
    });
    println!("{reason}");
    let counted = &daemon.status()["sampling"]["python_processes"]["being looked at"];
    assert_eq!(counted, 1, "{}", daemon.status());
    send_signal(pid, Signal::USR1);
    assert_eq!(embeds.line(Duration::from_secs(30)).as_deref(), Some("calling"));
    wait_until_active(&daemon, pid);
    let share = |profile: &Value| {
        let count = |name: &str| profile["quality"]["python"][name].as_u64().unwrap();
        (count("samples") > 0).then(|| count("with_frames") * 100 / count("samples"))
    };
    let profile = profile_when(
        || Some(next_samples(&daemon, pid, 300)),
        |profile| share(profile) >= Some(WITH_FRAMES_PERCENT),
    );
    let functions: Vec<&str> = profile["frames"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|frame| frame["kind"] == "python")
        .map(|frame| frame["function"].as_str().unwrap())
        .collect();
    assert!(functions.contains(&"work_when_called"), "{functions:?}");
    let known = ["<module>", "work_when_called"];
    assert!(functions.iter().all(|name| known.contains(name)), "{functions:?}");
    assert!(share(&profile) >= Some(WITH_FRAMES_PERCENT), "{}", profile["quality"]);
}
