//! What memory has grown by, and by which code: of programs of which both are known.

use std::{fs, path::Path, process::Command, thread, time::Duration};

use profiler_tests::{
    daemon::{Daemon, DaemonOptions},
    interpreters,
    programs::{Running, wait_for},
    python::Scripts,
};
use serde_json::Value;

use crate::{SAMPLES_WITHIN, WINDOW, host, only, skip, wait_until_watched};

/// How long a program may take to grow.
const GROWS_WITHIN: Duration = Duration::from_secs(60);
const MEBI: u64 = 1 << 20;
/// Of what has been given back some may not have been looked at yet.
const LEAST_PART: u64 = MEBI;

/// A profile of memory as the command line prints it.
struct Memory {
    profile: Value,
    summary: String,
}

impl Memory {
    fn of(daemon: &Daemon, pid: u32, options: &[&str]) -> Option<Self> {
        let options = [&["--kind", "memory", "--last", "10m", "--format", "json"], options].concat();
        let output = daemon.flamegraph(pid, &options);
        let profile = serde_json::from_str(&output.stdout).ok()?;
        Some(Self {
            profile,
            summary: output.stderr,
        })
    }

    /// Bytes of all stacks that have a function of this name.
    fn below(&self, function: &str) -> u64 {
        let frames = self.profile["frames"].as_array().unwrap();
        let is_wanted = |node: &Value| {
            let name = frames[node["frame"].as_u64().unwrap() as usize]["function"]
                .as_str()
                .unwrap();
            name.rsplit("::").next() == Some(function)
        };
        let nodes = self.profile["nodes"].as_array().unwrap();
        let wanted = nodes.iter().filter(|node| is_wanted(node));
        wanted.map(|node| node["total"].as_u64().unwrap()).sum()
    }

    fn total(&self) -> u64 {
        let nodes = self.profile["nodes"].as_array().unwrap();
        let roots = nodes.iter().filter(|node| node["parent"].is_null());
        roots.map(|node| node["total"].as_u64().unwrap()).sum()
    }

    fn quality(&self, field: &str) -> u64 {
        self.profile["quality"]["memory"][field].as_u64().unwrap()
    }

    /// Whether a number of bytes is that, but for chance: within four standard errors of a part of that size. Pages are chosen
    /// one by one, so that the error of a part goes with the root of its size.
    #[track_caller]
    fn assert_about(&self, what: &str, bytes: u64, expected: u64) {
        let part = expected.max(LEAST_PART) as f64 / self.total() as f64;
        let error = self.quality("growth_error_bytes") as f64 * part.sqrt();
        println!("{what}: {bytes} bytes of {expected}, standard error {error:.0}");
        let slack = (4.0 * error) as u64;
        assert!(
            bytes.abs_diff(expected) <= slack,
            "{what}: {} of {} MiB ± {}\n{}",
            bytes / MEBI,
            expected / MEBI,
            slack / MEBI,
            self.summary
        );
    }
}

fn memory_status(daemon: &Daemon) -> Value {
    daemon.status()["memory_profile"].clone()
}

/// Anonymous memory of a process that is resident.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    number.expect("the kernel says how much memory is resident") << 10
}

/// Starts a program, has it grow once it is watched, and returns it with the bytes that it has grown by.
fn grown(daemon: &Daemon, command: &mut Command, go: &Path) -> (Running, u64) {
    let running = Running::start(command);
    wait_until_watched(daemon, running.pid());
    wait_for("the programs to be attached", SAMPLES_WITHIN, || {
        (memory_status(daemon)["attached"] == true).then_some(())
    });
    thread::sleep(WINDOW);
    let before = resident(running.pid());
    fs::write(go, "").unwrap();
    assert_eq!(running.line(GROWS_WITHIN).as_deref().map(str::trim), Some("grown"));
    let grown = resident(running.pid()) - before;
    (running, grown)
}

#[test]
fn who_touches_memory_gets_its_bytes_and_what_is_given_back_drops_out() {
    let Some(host) = host() else { return };
    let program = host.rust("grows");
    let config = only(99, "grows*");
    let daemon = host.spawn(DaemonOptions::new(&config)).ready();
    wait_for("nothing to be attached", Duration::from_secs(10), || {
        (memory_status(&daemon)["attached"] == false).then_some(())
    });
    let go = host.path("go");
    let (running, resident) = grown(&daemon, Command::new(&program).arg(&go), &go);
    assert_eq!(memory_status(&daemon)["attached"], true);
    let memory = Memory::of(&daemon, running.pid(), &[]).expect("a profile of memory");
    assert!(memory.summary.contains("standard error"), "{}", memory.summary);
    assert_eq!(
        (&memory.profile["kind"], &memory.profile["unit"]),
        (&"memory".into(), &"bytes".into())
    );
    memory.assert_about("all", memory.total(), resident);
    memory.assert_about("keep", memory.below("keep"), 48 * MEBI);
    memory.assert_about("fill", memory.below("fill"), 16 * MEBI);
    memory.assert_about("churn", memory.below("churn"), 0);
    let touched = Memory::of(&daemon, running.pid(), &["--value", "first-touch"]).expect("what was touched");
    assert!(touched.below("churn") > 50 * MEBI, "{}", touched.summary);
    println!("{} MiB resident: {}", resident / MEBI, memory.summary);

    let pid = running.pid();
    drop(running);
    wait_for("the programs to be detached", Duration::from_secs(30), || {
        (memory_status(&daemon)["attached"] == false).then_some(())
    });
    // What it had at its end is kept for who asks why memory ran out.
    let after = Memory::of(&daemon, pid, &[]).expect("the last profile");
    memory.assert_about("keep, after its end", after.below("keep"), 48 * MEBI);
}

#[test]
fn python_functions_that_touch_memory_are_named() {
    let Some(host) = host() else { return };
    let interpreters = interpreters::all();
    let Some(interpreter) = interpreters.one_of_each_version().into_iter().next_back() else {
        return skip("no interpreter of Python is here");
    };
    let daemon = host.spawn(DaemonOptions::new(&only(99, "*python*"))).ready();
    let scripts = Scripts::of(interpreter);
    let go = scripts.path("go");
    let inside = scripts.path_inside("go");
    let mut command = scripts.command("grow.py", &[&inside.to_string_lossy()]);
    let (running, resident) = grown(&daemon, &mut command, &go);
    let memory = Memory::of(&daemon, running.pid(), &[]).expect("a profile of memory");
    println!("{} MiB resident: {}", resident / MEBI, memory.summary);
    memory.assert_about("all", memory.total(), resident);
    let by_function = memory.below("keep_arrays") + memory.below("leak_dicts") + memory.below("churn");
    memory.assert_about("the program's functions", by_function, memory.total());
    memory.assert_about("keep_arrays", memory.below("keep_arrays"), 30 * MEBI);
}
