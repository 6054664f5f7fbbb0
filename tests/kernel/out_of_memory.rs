//! A daemon that the kernel kills for the memory of its own control group: nothing of it stays, a service beside it does not
//! notice, and the next daemon is warm. A service that it kills is an alert, with what it did.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use profiler_tests::{
    daemon::{Daemon, DaemonOptions},
    programs::{Running, wait_for},
};
use serde_json::Value;

use crate::{FAST_HZ, SAMPLES_WITHIN, failed_parts, host, only, profile_once, skip, start};

/// No limit is lower.
const TIGHT_BYTES: u64 = 4 << 20;
/// Copies of a program that are more than any daemon takes in within its limit.
const MAX_COPIES: usize = 60;
/// What a program may hoard, some seconds' worth; and how long it and the alert about it may take.
const HOARD_BYTES: u64 = 64 << 20;
const KILLED_WITHIN: Duration = Duration::from_secs(60);
/// Samples of it before.
const SOME_SAMPLES: u64 = 100;
/// How long a group may take to be empty.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

#[test]
fn killed_for_its_memory_it_leaves_nothing_and_the_next_is_warm() {
    let Some(host) = host() else { return };
    let group = match Group::new() {
        Ok(group) => group,
        Err(reason) => return skip(&reason),
    };
    let (program, list) = (host.rust("deep"), host.rust("bpf_programs"));
    let deep = start(&program, &[]);
    let config = only(FAST_HZ, "deep*");
    let (socket, state) = (host.path("tight.sock"), host.path("state"));
    fs::create_dir(&state).unwrap();
    let script = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.path.display());
    let prefix = ["sh", "-c", &script, "sh"];
    let options = DaemonOptions::new(&config).on_socket(&socket).with_state_dir(&state);
    let mut daemon = host.spawn(options.through(&prefix)).ready();
    daemon.wait_for_samples(deep.pid(), 200, SAMPLES_WITHIN);

    let held = held_by(daemon.pid());
    assert!(held.is_subset(&loaded(&list)) && held.len() > 10, "{held:?}");
    // Each copy of the program is another file to be read.
    let mut others = Vec::new();
    let end = Instant::now() + SAMPLES_WITHIN;
    while !daemon.has_ended() {
        assert!(Instant::now() < end, "the daemon lives on without more memory");
        if others.len() < MAX_COPIES {
            let copy = host.path(&format!("deep{}", others.len()));
            fs::copy(&program, &copy).unwrap();
            others.push(start(&copy, &[]));
        }
        group.tighten();
        thread::sleep(Duration::from_millis(200));
    }
    let status = daemon.ended();
    println!("{status} at {} copies", others.len());
    drop(others);
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9),
        "{status}"
    );
    wait_for("end of what it had loaded", ENDS_WITHIN, || {
        loaded(&list).is_disjoint(&held).then_some(())
    });

    let next = host.spawn(options).ready();
    profile_once(&next, deep.pid(), 500, |profile| profile.rooted_share() >= 99.0).assert_rooted(99.0);
    assert_eq!(failed_parts(&next), [""; 0]);
}

#[test]
fn a_service_that_is_killed_for_its_memory_is_an_alert_with_what_it_did() {
    let Some(host) = host() else { return };
    let group = match Group::new() {
        Ok(group) => group,
        Err(reason) => return skip(&reason),
    };
    group.limit_to(HOARD_BYTES);
    let program = host.rust("hoards");
    let daemon = host.daemon(&only(FAST_HZ, "hoards*"));
    if let Some(reason) = unsupported(&daemon, "oom_kills") {
        return skip(&reason);
    }
    let script = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.path.display());
    let mut command = Command::new("sh");
    let go = host.path("go");
    let hoards = Running::start(command.args(["-c", &script, "sh"]).arg(&program).arg(&go));
    let pid = hoards.pid();
    // Once it has hoarded for some seconds it is gone: all that is to be seen of it has to be looked at by then.
    daemon.wait_for_samples(pid, SOME_SAMPLES, SAMPLES_WITHIN);
    daemon.whole_profile(pid);
    if unsupported(&daemon, "memory_profile").is_none() {
        wait_for("the page fault programs", SAMPLES_WITHIN, || {
            (daemon.status()["memory_profile"]["attached"] == true).then_some(())
        });
    }
    fs::write(&go, "").unwrap();

    let id = wait_for("alert of the kill", KILLED_WITHIN, || {
        let alerts = daemon.json(&["alerts", "--all", "--limit", "oom_kill", "--json"]);
        let of_it = |alert: &&Value| alert["subject"] == format!("process {pid} hoards");
        let alert = alerts["alerts"].as_array()?.iter().find(of_it)?;
        assert_eq!(alert["severity"], "critical", "{alert}");
        Some(alert["id"].as_str()?.to_owned())
    });
    let findings: Vec<String> = wait_for("what was found", KILLED_WITHIN, || {
        let shown = daemon.json(&["alerts", "show", &id, "--json"]);
        let findings = shown["findings"].as_array()?.iter();
        let findings: Vec<String> = findings.filter_map(|line| Some(line.as_str()?.to_owned())).collect();
        (!findings.is_empty()).then_some(findings)
    });
    let first = format!("process {pid} (hoards");
    assert!(findings[0].starts_with(&first), "{findings:?}");
    assert!(
        findings[0].contains("was killed because memory ran out; "),
        "{findings:?}"
    );
    assert!(
        findings[0].ends_with("MiB were resident when it was last read"),
        "{findings:?}"
    );

    let ran = daemon.cli(&["flamegraph", "--alert", &id, "--breach", "--format", "folded"]);
    let of_others = ran.stdout.lines().filter(|line| !line.starts_with("hoards")).count();
    assert!(ran.stdout.contains("hoards::burn") && of_others == 0, "{ran:?}");
    let what = findings.join("\n");
    if unsupported(&daemon, "memory_profile").is_none() {
        assert!(what.contains("hoards::hoard"), "{what}");
        let grown = daemon.cli(&["flamegraph", "--alert", &id, "--format", "folded"]);
        assert!(grown.stdout.contains("hoards::hoard"), "{grown:?}");
    }
    assert_eq!(failed_parts(&daemon), [""; 0]);
}

/// Why a part of the daemon cannot work on this host, if it cannot.
fn unsupported(daemon: &Daemon, part: &str) -> Option<String> {
    let status = daemon.status();
    let parts = status["parts"].as_array()?;
    let part = parts.iter().find(|other| other["name"] == part)?;
    (part["state"] == "unsupported").then(|| part["reason"].to_string())
}

/// A control group of its own, with a limit on memory; it goes with this.
struct Group {
    path: PathBuf,
    limit: &'static str,
}

impl Group {
    fn new() -> Result<Self, String> {
        let groups = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let of_memory = groups.lines().find_map(|line| line.split_once(":memory:"));
        let (parent, limit) = match of_memory {
            Some((_, path)) => (
                Path::new("/sys/fs/cgroup/memory").join(path.trim_start_matches('/')),
                "memory.limit_in_bytes",
            ),
            None => (PathBuf::from("/sys/fs/cgroup"), "memory.max"),
        };
        // Tests of one process may run beside each other.
        static GROUPS: AtomicU32 = AtomicU32::new(0);
        let number = GROUPS.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("profiler-test-{}-{number}", std::process::id()));
        fs::create_dir(&path)
            .map_err(|error| format!("no control group can be made in {}: {error}", parent.display()))?;
        let group = Self { path, limit };
        if !group.path.join(limit).exists() {
            return Err(format!("there is no memory controller in {}", parent.display()));
        }
        Ok(group)
    }

    /// Sets its limit.
    fn limit_to(&self, bytes: u64) {
        fs::write(self.path.join(self.limit), bytes.to_string()).unwrap();
    }

    /// Leaves no room for more than what is in use and cannot be taken back.
    fn tighten(&self) {
        let usage = ["memory.usage_in_bytes", "memory.current"];
        let usage = usage
            .iter()
            .find_map(|name| fs::read_to_string(self.path.join(name)).ok());
        let mut limit: u64 = usage.unwrap().trim().parse().unwrap();
        // Refused where so much is in use.
        while limit > TIGHT_BYTES && fs::write(self.path.join(self.limit), limit.to_string()).is_ok() {
            limit = limit / 32 * 31;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let end = Instant::now() + ENDS_WITHIN;
        while fs::remove_dir(&self.path).is_err() && Instant::now() < end {
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Everything of BPF that a process has descriptors of, as [`loaded`] has it.
fn held_by(pid: u32) -> BTreeSet<String> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
    // One may be closed while we look.
    let texts = descriptors.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    let mut held = BTreeSet::new();
    for text in texts {
        for (field, kind) in [("map_id:", "map"), ("link_id:", "link")] {
            let id = text.lines().find_map(|line| line.strip_prefix(field));
            held.extend(id.map(|id| format!("{kind} {}", id.trim())));
        }
        // A link names its program too.
        if text.contains("prog_type:")
            && let Some(id) = text.lines().find_map(|line| line.strip_prefix("prog_id:"))
        {
            held.insert(format!("program {}", id.trim()));
        }
    }
    held
}

/// Everything of BPF in the kernel: kinds and ids.
fn loaded(list: &Path) -> BTreeSet<String> {
    let output = Command::new(list).arg("all").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}
