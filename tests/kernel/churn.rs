//! Processes, programs, libraries and CPUs that come and go: what is seen of them has its right names, and no others.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use profiler_tests::{
    daemon::{Daemon, Host},
    programs::{Running, patience, send_signal, wait_for},
};
use rustix::process::Signal;

use crate::{
    FAST_HZ, Profile, SAMPLES_WITHIN, host, only,
    profile::{Frame, Stack, share},
    profile_of, profile_once, profile_once_known, profile_when, skip, start, wait_until_watched,
};

/// Samples that show how a storm is seen.
const ENOUGH_SAMPLES: u64 = 500;
/// What a storm leaves of whole stacks at least: on two loud CPUs some processes are over before they are known.
const ROOTED_PERCENT: f64 = 75.0;
/// Until this share is rooted, more samples are waited for: what is asked of each function's stacks is less.
const SETTLED_PERCENT: f64 = ROOTED_PERCENT + 5.0;
const LOST_PERCENT: f64 = 1.0;
/// How often a storm is watched and left out again.
const STORM_TURNS: usize = 8;

#[test]
fn a_storm_of_forks_is_named_by_what_each_child_does() {
    let Some(host) = host() else { return };
    let program = storm(&host, "forks", "hot_fork", &[]);
    let daemon = host.daemon(&only(FAST_HZ, "forks"));
    let parent = start(&program, &["forks"]);
    let profile = of_service(&daemon, parent.pid(), "work_in_child", ENOUGH_SAMPLES);
    assert_all_whole(&profile, "hot_fork", &["forks", "work_in_child", "work_for"]);
    profile.assert_rooted(ROOTED_PERCENT);
    profile.assert_lost_at_most(LOST_PERCENT);
}

#[test]
fn a_process_that_executes_on_and_on_has_the_names_of_each_program() {
    let Some(host) = host() else { return };
    let programs = [
        storm(&host, "execs_one", "hot_one", &[]),
        // Other code at the same places: rows of the one make nonsense of the other.
        storm(
            &host,
            "execs_two",
            "the_other_hot_function",
            &["-O0", "-fno-omit-frame-pointer"],
        ),
    ];
    let daemon = host.daemon(&only(FAST_HZ, "execs_one\", \"execs_two"));
    let process = start(&programs[0], &["execs", programs[1].to_str().unwrap()]);
    let profile = once_known(&daemon, process.pid());
    assert_execs(&profile);
    profile.assert_rooted(ROOTED_PERCENT);
}

/// Both programs were seen, and nothing of the one in the other.
#[track_caller]
fn assert_execs(profile: &Profile) {
    for (hot, module) in [("hot_one", "execs_one"), ("the_other_hot_function", "execs_two")] {
        assert_all_whole(profile, hot, &["execs", "work_before_exec", "work_for"]);
        let wrong = profile.count(|stack| {
            stack.has(hot)
                && stack
                    .frames
                    .iter()
                    .any(|frame| frame.module.starts_with("execs") && frame.module != module)
        });
        assert_eq!(wrong, 0, "samples of {hot} with frames of the other program");
    }
}

#[test]
fn a_library_in_the_place_of_another_makes_no_wrong_stack() {
    let Some(host) = host() else { return };
    let plugin = |name: &str, hot: &str, flags: &[&str]| {
        let hot = format!("-DHOT={hot}");
        host.c("plugin", name, &[&["-shared", "-fPIC", &hot], flags].concat())
    };
    let plugins = [
        plugin("one.so", "hot_one", &[]),
        plugin("two.so", "the_other_hot_function", &["-O0", "-fno-omit-frame-pointer"]),
    ];
    let daemon = host.daemon(&only(FAST_HZ, "dl"));
    let mut command = Command::new(host.rust("dl"));
    let dl = Running::start(command.args(&plugins).arg("60"));
    let mut said = Vec::new();
    let profile = wait_for("samples of both in several turns", SAMPLES_WITHIN, || {
        said.extend(std::iter::from_fn(|| dl.line(Duration::ZERO)));
        let known = daemon.process(dl.pid())["samples"].as_u64()?;
        let profile = (known >= ENOUGH_SAMPLES).then(|| profile_of(&daemon, dl.pid()))?;
        let few = ["hot_one", "the_other_hot_function"].map(|hot| profile.samples_of(hot) < ENOUGH_SAMPLES / 5);
        (!few.contains(&true) && said.len() > 10).then_some(profile)
    });
    println!("{} turns; {:?}", said.len(), profile.stopped);
    for (run, hot, module) in [
        ("run_alpha", "hot_one", "one.so"),
        ("run_beta", "the_other_hot_function", "two.so"),
    ] {
        assert_inner(&profile, hot, &[run, "plugin_work"]);
        let wrong = profile.count(|stack| {
            let mut frames = stack.frames.iter();
            stack.has(hot) && frames.any(|frame| frame.module.ends_with(".so") && frame.module != module)
        });
        assert_eq!(wrong, 0, "samples of {hot} with frames of the other library");
    }
}

#[test]
fn code_that_is_moved_has_its_own_name_or_none() {
    let Some(host) = host() else { return };
    let program = host.c("remaps", "remaps", &[]);
    let daemon = host.daemon(&only(FAST_HZ, "remaps"));
    let remaps = start(&program, &["move"]);
    let before = profile_once(&daemon, remaps.pid(), ENOUGH_SAMPLES, is_settled);
    assert_all_whole(&before, "hot_moved", &["work_before_move"]);
    send_signal(remaps.pid(), Signal::USR1);
    assert_eq!(remaps.line(Duration::from_secs(30)).as_deref(), Some("moved"));
    let after = profile_once_known(&daemon, remaps.pid(), ENOUGH_SAMPLES);
    println!("{}: {:?}", after.summary, after.stopped);
    let is_nameless = |frame: &Frame| frame.kind == "unnamed";
    let is_right = |frame: &Frame| ["hot_moved", "work_after_move"].iter().any(|name| frame.is(name));
    let wrong = |stack: &&Stack| {
        stack
            .user_leaf()
            .is_some_and(|leaf| !is_nameless(leaf) && !is_right(leaf))
    };
    assert_eq!(after.stacks.iter().find(wrong).map(|stack| format!("{stack:?}")), None);
    assert_eq!(after.samples_of("work_before_move"), 0, "{:?}", after.stacks);
    // What could not be named is no whole stack either, and says why.
    let nameless = after.count(|stack| stack.user_leaf().is_none_or(is_nameless));
    let stopped: u64 = after.stopped.values().sum();
    assert_eq!(after.rooted + stopped, after.samples);
    assert!(
        nameless <= stopped,
        "{nameless} of {}: {:?}",
        after.samples,
        after.stopped
    );
}

#[test]
fn an_id_that_is_used_again_is_another_process() {
    let Some(host) = host() else { return };
    let program = storm(&host, "reuse", "hot_again", &[]);
    let daemon = host.daemon(&only(FAST_HZ, "reuse"));
    // One that nobody has, and behind those that are given out next.
    let mut earlier = (1..std::process::id()).rev();
    let id = earlier.find(|id| !Path::new(&format!("/proc/{id}")).exists());
    let id = id.expect("an id that nobody has");
    let parent = start(&program, &["reuse", &id.to_string()]);
    wait_until_watched(&daemon, parent.pid());
    send_signal(parent.pid(), Signal::USR1);
    let last = profile_when(
        || Some(profile_of(&daemon, id)),
        |profile| profile.samples_of("work_of_even") >= ENOUGH_SAMPLES && is_settled(profile),
    );
    assert_all_whole(&last, "hot_again", &["reuse", "work_of_even", "work_for"]);
    assert_eq!(last.samples_of("work_of_odd"), 0, "{}", last.summary);
    let all = of_service(&daemon, parent.pid(), "work_of_odd", ENOUGH_SAMPLES / 10);
    for work in ["work_of_odd", "work_of_even"] {
        all.assert_share(
            work,
            100.0,
            |stack| stack.has(work),
            |stack| stack.has_in_order(&["reuse", work, "work_for"]),
        );
    }
    all.assert_lost_at_most(LOST_PERCENT);
}

#[test]
fn a_recording_goes_on_when_a_thread_executes_another_program() {
    let Some(host) = host() else { return };
    let program = storm(&host, "thread", "hot_in_thread", &["-pthread"]);
    // It is of no kind that is discovered.
    let daemon = host.daemon(&format!("[sampling]\nhz = {FAST_HZ}\n"));
    let process = start(&program, &["thread"]);
    let mut recording = daemon.cli_command();
    recording.args(["flamegraph", "--duration", "300s", "--pid", &process.pid().to_string()]);
    let mut recording = Running::start_silent(recording.args(["--format", "json", "-o", "-"]));
    let samples_of = |function: &str| {
        wait_for(function, SAMPLES_WITHIN, || {
            let known = daemon.process(process.pid())["samples"].as_u64()?;
            let profile = (known > 0).then(|| profile_of(&daemon, process.pid()))?;
            (profile.samples_of(function) >= ENOUGH_SAMPLES / 10).then_some(profile)
        })
    };
    samples_of("work_in_second");
    send_signal(process.pid(), Signal::USR1);
    let profile = samples_of("work_after_exec");
    profile.assert_share(
        "after the exec",
        100.0,
        |stack| stack.has("work_after_exec"),
        |stack| ends_in(stack, &["work_after_exec", "work_for", "hot_in_thread"]) || !stack.has("hot_in_thread"),
    );
    assert_eq!(daemon.process(process.pid())["watch_reason"], "requested");
    recording.stop();
    wait_for("end of the watch", Duration::from_secs(10), || {
        (daemon.process(process.pid())["watch_state"] == "not_watched").then_some(())
    });
}

#[test]
fn programs_on_overlays_have_their_own_names() {
    let Some(host) = host() else { return };
    let folder = |name: &str| {
        let path = host.path(name);
        fs::create_dir(&path).unwrap();
        path
    };
    let (lower, upper, work, merged) = (folder("lower"), folder("upper"), folder("work"), folder("merged"));
    let place = |name: &str, hot: &str, layer: &Path, flags: &[&str]| {
        fs::rename(storm(&host, name, hot, flags), layer.join(name)).unwrap();
        merged.join(name)
    };
    let one = place("execs_one", "hot_one", &lower, &[]);
    let two = place(
        "execs_two",
        "the_other_hot_function",
        &upper,
        &["-O0", "-fno-omit-frame-pointer"],
    );
    let mount = format!(
        "mount -t overlay overlay -o lowerdir={},upperdir={},workdir={} {} && exec \"$@\"",
        lower.display(),
        upper.display(),
        work.display(),
        merged.display()
    );
    let daemon = host.daemon(&only(FAST_HZ, "execs_one\", \"execs_two"));
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &mount, "sh"]);
    let (process, said) = Running::try_start(command.args([&one, Path::new("execs"), &two]));
    if said.is_none() {
        return skip("no overlay can be mounted here");
    }
    let profile = once_known(&daemon, process.pid());
    assert_execs(&profile);
}

#[test]
fn a_cpu_that_goes_and_comes_back_is_sampled_again() {
    let Some(host) = host() else { return };
    let Some(cpu) = OfflineCpu::second() else {
        return skip("no CPU can be taken off-line here");
    };
    let daemon = host.daemon(&only(FAST_HZ, "forks"));
    let program = storm(&host, "forks", "hot_fork", &[]);
    let on_cpu = || start(Path::new("taskset"), &["-c", "1", program.to_str().unwrap(), "forks"]);
    for away in [Duration::from_millis(200), Duration::from_millis(2_500)] {
        cpu.take(away);
        // Both the clock and the ring of records are looked at once a second.
        thread::sleep(Duration::from_millis(2_200));
        let parent = on_cpu();
        let profile = of_service(&daemon, parent.pid(), "work_in_child", ENOUGH_SAMPLES / 5);
        println!("{away:?} away: {}", profile.summary);
        assert_all_whole(&profile, "hot_fork", &["forks", "work_in_child", "work_for"]);
    }
    // Nor does a daemon that starts meanwhile fail.
    cpu.set(false);
    let other = host.daemon(&only(FAST_HZ, "forks"));
    let parts = other.status()["parts"].to_string();
    cpu.set(true);
    assert!(!parts.contains("\"failed\""), "{parts}");
    let parent = on_cpu();
    of_service(&other, parent.pid(), "work_in_child", ENOUGH_SAMPLES / 5);
}

#[test]
fn a_storm_that_is_over_leaves_no_entries() {
    let Some(host) = host() else { return };
    let list = host.rust("bpf_programs");
    let (calm, stormy) = (host.rust("deep"), storm(&host, "forks", "hot_fork", &[]));
    let (calm_path, stormy_path) = (calm.display().to_string(), stormy.display().to_string());
    let both = only(FAST_HZ, &format!("{calm_path}\", \"{stormy_path}"));
    let daemon = host.daemon(&both);
    let calm = start(&calm, &[]);
    let mut parent = start(&stormy, &["forks"]);
    let wait_until_left_out = || {
        wait_for("end of the watch", Duration::from_secs(20), || {
            (daemon.process(parent.pid())["watch_state"] == "not_watched").then_some(())
        });
    };
    // Where the kernel copies an entry at a fork of which the daemon has not heard when it removes the parent's, nobody
    // asked for the child's.
    for _ in 0..STORM_TURNS {
        wait_until_watched(&daemon, parent.pid());
        daemon.reload(&only(FAST_HZ, &calm_path));
        wait_until_left_out();
        daemon.reload(&both);
    }
    wait_until_watched(&daemon, parent.pid());
    let entries = |map: &str| {
        let output = Command::new(&list)
            .args(["entries", &daemon.pid().to_string()])
            .output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let count = text
            .lines()
            .find_map(|line| line.strip_prefix(map)?.trim().parse::<u64>().ok());
        count.unwrap_or_else(|| panic!("no {map} in {text:?}"))
    };
    println!("in the storm {} processes have entries", entries("PROCESSES"));
    assert!(entries("PROCESSES") >= 2);
    parent.stop();
    let mut left = 0;
    let end = Instant::now() + patience(Duration::from_secs(20));
    while Instant::now() < end && left != 1 {
        thread::sleep(Duration::from_millis(50));
        left = entries("PROCESSES");
    }
    assert_eq!(left, 1, "only {} runs", calm.pid());
    assert!(entries("TEMPLATES") <= 2, "of two programs");
}

/// The switch of the second CPU, which is on-line again when this goes away.
struct OfflineCpu(PathBuf);

impl OfflineCpu {
    fn second() -> Option<Self> {
        let cpu = Self(PathBuf::from("/sys/devices/system/cpu/cpu1/online"));
        let is_switchable = fs::read_to_string(&cpu.0).is_ok_and(|state| state.trim() == "1") && cpu.switch(false);
        (cpu.switch(true) && is_switchable).then_some(cpu)
    }

    fn switch(&self, is_online: bool) -> bool {
        fs::write(&self.0, if is_online { "1" } else { "0" }).is_ok()
    }

    fn set(&self, is_online: bool) {
        assert!(self.switch(is_online), "{} could be written before", self.0.display());
    }

    fn take(&self, duration: Duration) {
        self.set(false);
        thread::sleep(duration);
        self.set(true);
    }
}

impl Drop for OfflineCpu {
    fn drop(&mut self) {
        self.switch(true);
    }
}

/// Whether a profile is long enough for what a loud machine did to it to be a small part.
fn is_settled(profile: &Profile) -> bool {
    profile.rooted_share() >= SETTLED_PERCENT && profile.lost_share() <= LOST_PERCENT
}

fn once_known(daemon: &Daemon, pid: u32) -> Profile {
    profile_once(daemon, pid, ENOUGH_SAMPLES, is_settled)
}

pub(crate) fn storm(host: &Host, name: &str, hot: &str, flags: &[&str]) -> PathBuf {
    let hot = format!("-DHOT={hot}");
    host.c("storm", name, &[&[hot.as_str()], flags].concat())
}

/// All samples of the service that a process is of, once there are some of a function.
#[track_caller]
pub(crate) fn of_service(daemon: &Daemon, pid: u32, function: &str, samples: u64) -> Profile {
    let look = || {
        let process = daemon.process(pid);
        let service = process["service"].as_str().filter(|name| !name.is_empty())?;
        let arguments = ["--service", service, "--last", "10m", "--format", "json", "-o", "-"];
        let output = daemon.cli(&[&["flamegraph"], &arguments[..]].concat());
        let document = (output.code == Some(0)).then(|| serde_json::from_str(&output.stdout).unwrap())?;
        Some(Profile::from_json(&document))
    };
    let has_enough = |profile: &Profile| profile.samples_of(function) >= samples;
    let profile = profile_when(look, |profile| has_enough(profile) && is_settled(profile));
    assert!(has_enough(&profile), "few samples of {function}: {}", profile.summary);
    profile
}

/// Whether the stack ends in these functions, outermost first, as far as it is known: the outer ones may be missing, and nothing
/// stands between them.
fn ends_in(stack: &Stack, functions: &[&str]) -> bool {
    let Some(last) = functions.last() else { return true };
    let Some(position) = stack.frames.iter().rposition(|frame| frame.is(last)) else {
        return false;
    };
    let callers = stack.frames[..position].iter().rev();
    callers
        .zip(functions.iter().rev().skip(1))
        .all(|(frame, function)| frame.is(function))
}

/// Every stack with the hot function has these callers and no others, as far as it is known.
#[track_caller]
fn assert_inner(profile: &Profile, hot: &str, callers: &[&str]) {
    let chain = [callers, &[hot]].concat();
    profile.assert_share(hot, 100.0, |stack| stack.has(hot), |stack| ends_in(stack, &chain));
}

/// The same, and nearly all of them are known up to the first.
#[track_caller]
fn assert_all_whole(profile: &Profile, hot: &str, callers: &[&str]) {
    assert_inner(profile, hot, callers);
    let whole = profile.count(|stack| stack.has(hot) && stack.has_in_order(callers));
    let part = share(whole, profile.samples_of(hot));
    println!("{hot}: {part:.2} % whole; {}", profile.summary);
    assert!(
        part >= ROOTED_PERCENT,
        "{part:.2} % of {hot} whole: {:?}",
        profile.stopped
    );
}
