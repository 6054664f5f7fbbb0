//! What memory has grown by, and by which code: of programs of which both are known.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, SystemTime},
};

use profiler_tests::{
    daemon::{Daemon, DaemonOptions},
    interpreters,
    programs::{Running, wait_for},
    python::Scripts,
};
use serde_json::Value;

use crate::{SAMPLES_WITHIN, WINDOW, host, only, python::of_version, skip, wait_until_watched};

/// How long a program may take to grow.
const GROWS_WITHIN: Duration = Duration::from_secs(60);
const MEBI: u64 = 1 << 20;
/// Of what has been given back some may not have been looked at yet.
const LEAST_PART: u64 = MEBI;

/// How far the growth that is told may be from that of what is resident, in percent.
const AGREES_WITHIN: u64 = 15;
/// The service whose growth is compared, its workers, and how often each makes strings and drops them again between two things that
/// it keeps. All workers together have pages enough chosen for an error that is small against that.
const SERVICE: &str = "grows_here";
const WORKERS: usize = 8;
const CHURNS: &str = "1";
/// What is the same under every version of Python is tested under this one.
const MINOR: u32 = 11;
/// The first kernel that tells which pages are huge.
const TELLS_HUGE: (u32, u32) = (6, 7);

/// A profile of memory as the command line prints it.
struct Memory {
    profile: Value,
    summary: String,
}

impl Memory {
    fn of(daemon: &Daemon, pid: u32, options: &[&str]) -> Option<Self> {
        let pid = pid.to_string();
        Self::shown(
            daemon,
            &[&["--pid", pid.as_str(), "--last", "10m"][..], options].concat(),
        )
    }

    fn shown(daemon: &Daemon, options: &[&str]) -> Option<Self> {
        let what = ["flamegraph", "--kind", "memory", "--format", "json", "-o", "-"];
        let output = daemon.cli(&[&what[..], options].concat());
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

/// The number on the line that begins with this.
fn kibibytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Anonymous memory of a process that is resident.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    kibibytes(&status, "RssAnon:").expect("the kernel says how much memory is resident") << 10
}

/// Waits until page faults are sampled, and what was touched before is past.
fn wait_until_attached(daemon: &Daemon) {
    wait_for("the programs to be attached", SAMPLES_WITHIN, || {
        (memory_status(daemon)["attached"] == true).then_some(())
    });
    thread::sleep(WINDOW);
}

/// Starts a program, has it grow once it is watched, and returns it with the bytes that it has grown by.
fn grown(daemon: &Daemon, command: &mut Command, go: &Path) -> (Running, u64) {
    let running = Running::start(command);
    wait_until_watched(daemon, running.pid());
    wait_until_attached(daemon);
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

/// Leaks and churn: what is told to have grown is what is resident more than before, and the error that is told beside it is true.
#[test]
fn the_growth_of_a_service_agrees_with_what_is_resident() {
    let Some(host) = host() else { return };
    let Some(interpreter) = of_version(MINOR) else { return };
    let scripts = Scripts::of(&interpreter);
    let config = format!("{}{}", only(99, "*python*"), scripts.as_service(SERVICE));
    let daemon = host.daemon(&config);
    let inside = scripts.path_inside("go").to_string_lossy().into_owned();
    let start = |_| Running::start(&mut scripts.command("grow.py", &[inside.as_str(), CHURNS]));
    let workers: Vec<Running> = (0..WORKERS).map(start).collect();
    for worker in &workers {
        wait_until_watched(&daemon, worker.pid());
        assert_eq!(daemon.process(worker.pid())["service"], SERVICE);
    }
    wait_until_attached(&daemon);
    let all_resident = || workers.iter().map(|worker| resident(worker.pid())).sum::<u64>();
    let before = all_resident();
    let begun = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    fs::write(scripts.path("go"), "").unwrap();
    for worker in &workers {
        assert_eq!(worker.line(GROWS_WITHIN).as_deref().map(str::trim), Some("grown"));
    }
    let grown = all_resident() - before;
    let from = format!("@{begun}");
    let memory = Memory::shown(&daemon, &["--service", SERVICE, "--from", &from]).expect("a profile of memory");
    let (told, error) = (memory.quality("growth_bytes"), memory.quality("growth_error_bytes"));
    println!("{told} bytes of {grown}, standard error {error}: {}", memory.summary);
    assert!(memory.summary.contains("standard error"), "{}", memory.summary);
    assert_eq!(told, memory.total());
    let off = told.abs_diff(grown);
    assert!(off * 100 <= grown * AGREES_WITHIN, "off by {off}");
    assert!(off <= 4 * error, "off by {off}");
    // Or the graph would agree by chance.
    assert!(error * 3 * 100 <= grown * AGREES_WITHIN, "an error of {error}");
}

#[test]
fn a_fault_that_maps_a_huge_page_counts_for_all_of_it() {
    let Some(host) = host() else { return };
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.trim().parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < TELLS_HUGE {
        return skip("the kernel does not tell which pages are huge");
    }
    let program = host.rust("grows_huge");
    let daemon = host.daemon(&only(99, "grows_huge"));
    let go = host.path("go");
    let (running, grown) = grown(&daemon, Command::new(&program).arg(&go), &go);
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", running.pid())).unwrap();
    let huge = kibibytes(&rollup, "AnonHugePages:").expect("the kernel says how much of it is huge") << 10;
    println!("{huge} of {grown} bytes are huge pages");
    if huge < grown / 2 {
        return skip("the host has no huge pages to give");
    }
    let memory = Memory::of(&daemon, running.pid(), &[]).expect("a profile of memory");
    println!("{}", memory.summary);
    let touched = Memory::of(&daemon, running.pid(), &["--value", "first-touch"]).expect("what was touched");
    let slack = 4 * memory.quality("growth_error_bytes") + 2 * LEAST_PART;
    for (what, bytes) in [
        ("kept", memory.below("keep")),
        ("all", memory.total()),
        ("touched", touched.below("keep")),
    ] {
        println!("{what}: {bytes} bytes");
        assert!(bytes.abs_diff(grown) <= slack, "{what}: {bytes} of {grown} ± {slack}");
    }
}
