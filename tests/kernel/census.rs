//! Censuses of real Python processes: what piles up is counted and whoever holds it is named, under every version that is here; what
//! cannot be counted is refused in one line; and whatever a process has in its memory, an answer comes.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use profiler_tests::{
    daemon::{Daemon, Host},
    interpreters::{self, Interpreter},
    programs::{Running, send_signal, wait_for},
    python::{PythonProgram, Scripts},
};
use rustix::process::Signal;
use serde_json::Value;

use crate::{FAST_HZ, MEMORY_CAP_BYTES, host, only, only_line, python::of_version, skip};

/// Objects that are piled up.
const PILED_UP: u64 = 60_000;
/// How far a count may be from that, in percent.
const TOLERANCE: u64 = 2;
/// How long an order may take, and an answer.
const ORDER_WITHIN: Duration = Duration::from_secs(60);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Mappings of a process that has many; vm.max_map_count allows a few more by default.
const MAPPINGS: usize = 60_000;
/// The longest that a count lasts where there is no end of memory, with the time to start the command line.
const COUNT_WITHIN: Duration = Duration::from_secs(25);

/// A program that piles up on order.
struct Hoard(Running);

impl Hoard {
    fn start(scripts: &Scripts<'_>, way: &str) -> Self {
        Self(scripts.start("hoard.py", &[way, &PILED_UP.to_string()]).running)
    }

    fn pile_up(&self) {
        send_signal(self.0.pid(), Signal::USR1);
        assert_eq!(self.0.line(ORDER_WITHIN).as_deref(), Some("done"));
    }
}

/// A daemon that watches nothing: censuses need no watch.
fn daemon(host: &Host) -> Daemon {
    host.daemon(&only(FAST_HZ, "nothing-of-this-name"))
}

fn census(daemon: &Daemon, pid: u32, options: &[&str]) -> Value {
    let pid = pid.to_string();
    daemon.json(&[&["memory", "census", "--json", "--pid", &pid], options].concat())
}

/// Waits until the daemon reads the memory of a process, or does so no more.
fn wait_until_counted(daemon: &Daemon, pid: u32, is_counted: bool) {
    let memory = PathBuf::from(format!("/proc/{pid}/mem"));
    let what = if is_counted { "begin" } else { "end" };
    wait_for(&format!("{what} of the census"), ORDER_WITHIN, || {
        (daemon.descriptors().contains(&memory) == is_counted).then_some(())
    });
}

fn change(difference: &Value, name: &str) -> i64 {
    let changes = difference["changes"].as_array().unwrap();
    let change = changes.iter().find(|change| change["name"] == name);
    change.map_or(0, |change| {
        change["objects_after"].as_i64().unwrap() - change["objects_before"].as_i64().unwrap()
    })
}

#[track_caller]
fn assert_near(found: i64, expected: u64, what: &str) {
    let off = found.abs_diff(expected as i64);
    assert!(
        off * 100 <= expected * TOLERANCE,
        "{found} {what} instead of {expected}"
    );
}

/// The chains by which new objects of a type are held, in words, with how many of them hang on each.
fn holders(difference: &Value, name: &str) -> Vec<(String, u64)> {
    let holders = difference["holders"].as_array().unwrap();
    let of_type = holders.iter().find(|holders| holders["name"] == name);
    let chains = of_type.and_then(|holders| holders["chains"].as_array());
    let text = |chain: &Value| {
        let steps = chain["steps"].as_array().unwrap();
        let steps: Vec<_> = steps.iter().map(|step| step.as_str().unwrap()).collect();
        (steps.join(" > "), chain["objects"].as_u64().unwrap())
    };
    chains.into_iter().flatten().map(text).collect()
}

/// Has objects piled up in one way between two censuses, and gives what differs.
fn piled_up(daemon: &Daemon, interpreter: &Interpreter, way: &str) -> Value {
    let scripts = Scripts::of(interpreter);
    let hoard = Hoard::start(&scripts, way);
    let pid = hoard.0.pid();
    let before = census(daemon, pid, &[]);
    assert!(before["difference"].is_null());
    hoard.pile_up();
    let after = census(daemon, pid, &["--diff"]);
    println!("{} {way}: {}", interpreter.name, after["cost"]);
    assert_eq!(after["partial"].as_array().unwrap().len(), 0, "{}", after["partial"]);
    after["difference"].clone()
}

fn counted_under(minor: u32) {
    let Some(host) = host() else { return };
    let Some(interpreter) = of_version(minor) else { return };
    let difference = piled_up(&daemon(&host), &interpreter, "list");
    assert_near(change(&difference, "dict"), PILED_UP, "dicts");
    assert_near(change(&difference, "str"), PILED_UP, "strs");
    let chains = holders(&difference, "dict");
    let (chain, objects) = chains.first().expect("a holder");
    assert!(
        chain.starts_with("module __main__, global HOARD > list of 60000 items"),
        "{chains:?}"
    );
    assert!(*objects >= 50, "{chains:?}");
}

macro_rules! under {
    ($($test:ident: $minor:literal;)*) => {
        $(#[test]
        fn $test() {
            counted_under($minor);
        })*
    };
}

under! {
    counted_under_3_9: 9;
    counted_under_3_10: 10;
    counted_under_3_11: 11;
    counted_under_3_12: 12;
    counted_under_3_13: 13;
    counted_under_3_14: 14;
    counted_under_3_15: 15;
}

/// Each way to hold things, and what is said of it.
const WAYS: [(&str, &str, &str); 6] = [
    ("nested", "dict", "module __main__, global HOARD > list of "),
    ("dict", "dict", "module __main__, global TABLE > dict of 60000 items"),
    ("set", "tuple", "module __main__, global KNOWN > set of 60000 items"),
    (
        "deque",
        "dict",
        "module __main__, global QUEUE > collections.deque of 60000 items",
    ),
    (
        "attribute",
        "dict",
        "module __main__, global CACHE > instance of __main__.Cache, attribute items > list of 60000 items",
    ),
    ("class", "dict", "attribute entries > list of 60000 items"),
];

fn holders_under(minor: u32, ways: &[(&str, &str, &str)]) {
    let Some(host) = host() else { return };
    let Some(interpreter) = of_version(minor) else { return };
    let daemon = daemon(&host);
    for (way, name, expected) in ways {
        let chains = holders(&piled_up(&daemon, &interpreter, way), name);
        let of_expected = chains.iter().filter(|(chain, _)| chain.contains(expected));
        let objects: u64 = of_expected.map(|(_, objects)| objects).sum();
        assert!(objects >= 50, "{way}: {chains:?}");
    }
}

/// The ways that a test tries, so that none takes long.
const FIRST_WAYS: usize = 3;

macro_rules! holders_are_named_under {
    ($($first:ident, $rest:ident: $minor:literal;)*) => {
        $(#[test]
        fn $first() {
            holders_under($minor, &WAYS[..FIRST_WAYS]);
        }

        #[test]
        fn $rest() {
            holders_under($minor, &WAYS[FIRST_WAYS..]);
        })*
    };
}

holders_are_named_under! {
    lists_dicts_and_sets_are_named_under_3_9, queues_and_attributes_are_named_under_3_9: 9;
    lists_dicts_and_sets_are_named_under_3_11, queues_and_attributes_are_named_under_3_11: 11;
    lists_dicts_and_sets_are_named_under_3_14, queues_and_attributes_are_named_under_3_14: 14;
}

#[test]
fn a_holder_that_is_a_local_variable_is_not_found_and_said_so() {
    let Some(host) = host() else { return };
    let Some(interpreter) = of_version(11) else { return };
    let difference = piled_up(&daemon(&host), &interpreter, "local");
    let chains = holders(&difference, "dict");
    assert_eq!(
        chains.first().map(|(chain, _)| &**chain),
        Some("list of 60000 items"),
        "{chains:?}"
    );
    let holders = difference["holders"].as_array().unwrap();
    assert!(
        holders.iter().all(|holders| holders["chains"][0]["rooted"] != true),
        "{holders:?}"
    );
}

#[track_caller]
fn assert_refused(daemon: &Daemon, pid: u32, code: i32, expected: &str) {
    let output = daemon.cli(&["memory", "census", "--pid", &pid.to_string()]);
    assert_eq!(output.code, Some(code), "{output:?}");
    assert!(only_line(&output).contains(expected), "{expected}: {output:?}");
}

#[test]
fn what_cannot_be_counted_is_refused_with_the_reason() {
    let Some(host) = host() else { return };
    let daemon = daemon(&host);
    let mut sleeper = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
    assert_refused(&daemon, sleeper.id(), 1, "runs no Python");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    assert_refused(&daemon, sleeper.id(), 1, "there is no process");
    let found = interpreters::all();
    match found.interpreters.iter().find(|interpreter| interpreter.free_threaded) {
        None => skip("there is no free-threaded Python"),
        Some(interpreter) => {
            let scripts = Scripts::of(interpreter);
            let hoard = Hoard::start(&scripts, "list");
            assert_refused(&daemon, hoard.0.pid(), 1, "without a global lock");
        }
    }
    for interpreter in found.one_of_each_version() {
        if interpreter.free_threaded || interpreter.version.minor < 9 {
            continue;
        }
        for (allocator, expected) in [("malloc", "PYTHONMALLOC=malloc"), ("debug", "debug allocator")] {
            let scripts = Scripts::of(interpreter);
            let mut command = scripts.command("hoard.py", &["list", "1"]);
            let running = Running::start(command.env("PYTHONMALLOC", allocator));
            println!("{} {allocator}", interpreter.name);
            assert_refused(&daemon, running.pid(), 1, expected);
        }
    }
    let Some(interpreter) = of_version(11) else { return };
    let scripts = Scripts::of(&interpreter);
    let hoard = Hoard::start(&scripts, "list");
    let pid = hoard.0.pid().to_string();
    // Nothing to compare with, and then there is.
    let output = daemon.cli(&["memory", "census", "--pid", &pid, "--diff"]);
    assert_eq!(output.code, Some(3), "{output:?}");
    let output = daemon.cli(&["memory", "census", "--pid", &pid, "--diff"]);
    assert_eq!(output.code, Some(0), "{output:?}");
    // Only who may profile.
    let output = host.cli_without_rights(daemon.socket(), &["memory", "census", "--pid", &pid]);
    assert_eq!(output.code, Some(4), "{output:?}");
}

/// Has the objects counted of a process that misleads, and looks at it then.
fn hostile(what: &str, look: impl FnOnce(&PythonProgram)) {
    let Some(host) = host() else { return };
    let Some(interpreter) = of_version(11) else { return };
    let daemon = daemon(&host);
    let scripts = Scripts::of(&interpreter);
    let program = scripts.start("hostile_heap.py", &[what]);
    println!("{:?}", program.said);
    let begin = Instant::now();
    let census = census(&daemon, program.running.pid(), &[]);
    let took = begin.elapsed();
    println!("{what}: {took:?} {} {}", census["cost"], census["partial"]);
    assert!(took < COUNT_WITHIN, "{took:?}");
    let types = census["types"].as_array().unwrap();
    let dicts = types.iter().find(|count| count["name"] == "dict");
    let dicts = dicts.and_then(|count| count["objects"].as_u64()).unwrap_or(0);
    // Its own objects are found among all that.
    assert!(dicts >= 5000, "{dicts}");
    assert!(types.len() <= 8192, "{}", types.len());
    let resident = daemon.resident_bytes();
    assert!(resident < MEMORY_CAP_BYTES, "{resident} bytes");
    look(&program);
}

#[test]
fn a_sparse_address_space_costs_little() {
    hostile("sparse", |_| ());
}

#[test]
fn tens_of_thousands_of_mappings_are_looked_through() {
    hostile("maps", |program| {
        let maps = fs::read_to_string(format!("/proc/{}/maps", program.running.pid())).unwrap();
        let mappings = maps.lines().count();
        let most = fs::read_to_string("/proc/sys/vm/max_map_count").unwrap();
        println!("{mappings} mappings of at most {most}");
        assert!(mappings >= MAPPINGS, "it has {mappings} mappings only");
    });
}

#[test]
fn forged_pools_are_bounded() {
    hostile("forged", |_| ());
}

#[test]
fn pools_that_are_gone_before_they_are_read_stop_nothing() {
    hostile("fleeting", |_| ());
}

#[test]
fn pages_that_nobody_provides_are_not_waited_for() {
    hostile("hung", |program| {
        if let Some(reason) = program.said.first() {
            skip(reason);
        }
    });
}

#[test]
fn a_process_that_ends_meanwhile_and_a_client_that_leaves() {
    let Some(host) = host() else { return };
    let Some(interpreter) = of_version(11) else { return };
    let daemon = daemon(&host);
    let scripts = Scripts::of(&interpreter);
    let mut large = scripts.start("hostile_heap.py", &["large"]).running;
    let ask = |pid: u32| {
        let mut command = daemon.cli_command();
        command.args(["memory", "census", "--pid", &pid.to_string()]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    // The client leaves: what was begun for it comes to no end that is kept, and another is answered.
    let mut leaves = ask(large.pid());
    wait_until_counted(&daemon, large.pid(), true);
    leaves.kill().unwrap();
    leaves.wait().unwrap();
    wait_until_counted(&daemon, large.pid(), false);
    let next = daemon.cli(&["memory", "census", "--diff", "--pid", &large.pid().to_string()]);
    assert_eq!(next.code, Some(3), "{next:?}");
    assert!(only_line(&next).contains("kept no census of process"), "{next:?}");
    let hoard = Hoard::start(&scripts, "list");
    let begin = Instant::now();
    census(&daemon, hoard.0.pid(), &[]);
    assert!(begin.elapsed() < ANSWER_WITHIN);
    hoard.pile_up();
    // The process ends.
    let ended = ask(large.pid());
    wait_until_counted(&daemon, large.pid(), true);
    large.stop();
    let output = ended.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("ended, or executed another program"), "{said}");
    // And the daemon goes on.
    let difference = census(&daemon, hoard.0.pid(), &["--diff"]);
    assert!(difference["difference"].is_object());
}
