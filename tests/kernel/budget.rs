//! The caps on the daemon's own cost, reached for real: what it gives up, that it says so, that profiles stay true, and that
//! all of it comes back.

use std::{
    fs,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use profiler_tests::{
    daemon::{Daemon, Host, LAST_10_MINUTES},
    programs::{Running, wait_for},
};
use serde_json::Value;

use crate::{
    SAMPLES_WITHIN, failed_parts, host,
    profile::Profile,
    prometheus::{free_port, scrape, served_at},
    start, wait_until_watched,
};

/// A multiple of half of it, so that one answer can span both.
const HZ: u32 = 1_000;
/// How many times apart what a process used and what its samples stand for may be.
const MOST_APART: u32 = 3;
/// How long the daemon may take to give something up or to take it back, on a machine that others use as well.
const SHEDS_WITHIN: Duration = Duration::from_secs(60);

/// Caps that nothing reaches.
const ROOMY: &str = "max_cpu_percent = 100\nmax_memory_bytes = \"4GiB\"";

/// A configuration that watches `deep` and looks at its cost each moment.
fn config(hz: u32, caps: &str) -> String {
    format!(
        "[sampling]\nhz = {hz}\n[targets]\ndiscover_rust = false\ndiscover_python = false\ninclude = [\"deep\"]\n[store]\nwindow = \"1s\"\n\
         [budget]\naveraged_over = \"1s\"\nrecover_after = \"1s\"\n{caps}\n"
    )
}

#[test]
fn over_its_cpu_cap_it_samples_less_and_weighs_what_it_samples() {
    let Some(host) = host() else { return };
    let program = host.rust("deep");
    let listen = free_port();
    let served = served_at(&host, listen);
    let config = |hz: u32, caps: &str| format!("{}{served}", config(hz, caps));
    let daemon = host.daemon(&config(HZ, "max_cpu_percent = 1"));
    // Deep stacks on each CPU: far more than the cap at this rate.
    let busy: Vec<Running> = (0..thread::available_parallelism().unwrap().get())
        .map(|_| start(&program, &[]))
        .collect();
    let pid = busy[0].pid();
    // Asked for, it is not left out even where the least rate is too dear.
    let _asker = ask_for(&host, &daemon, pid);
    daemon.wait_for_samples(pid, 100, SAMPLES_WITHIN);

    let first = look(&daemon, pid);
    let status = wait_for_budget(&daemon, "shedding", |status| effective_hz(status) < f64::from(HZ));
    println!("{}\n{}", status["budget"], effective_hz(&status));
    let said = status["budget"].to_string();
    assert!(
        said.contains("CPU at") && said.contains("sampling rate divided by 2"),
        "{said}"
    );
    assert_eq!(status["sampling"]["sample_hz"], HZ, "what is configured stays");
    let shown = daemon.cli(&["status"]).stdout;
    assert!(shown.contains(&format!("of {HZ} configured samples/s")), "{shown}");
    let metrics = Metrics::read(listen);
    assert_eq!(metrics.of("profiler_budget_state{state=\"within\"}"), 0.0);
    assert!(metrics.of("profiler_budget_sheddings_total") > 0.0);
    assert_eq!(metrics.of("profiler_budget_cpu_cap_ratio"), 0.01);
    assert_eq!(metrics.of("profiler_sampling_configured_hertz"), f64::from(HZ));
    assert!(metrics.of("profiler_sampling_effective_hertz") <= f64::from(HZ / 2) + 1.0);
    wait_until_used(pid, Duration::from_secs(2));
    assert_weighted(&first, &look(&daemon, pid));

    daemon.reload(&config(HZ, "max_cpu_percent = 100"));
    let status = wait_for_budget(&daemon, "within", |status| {
        // The sampling loop is told a moment later.
        status["budget"]["shed"] == Value::Array(Vec::new()) && (effective_hz(status) - f64::from(HZ)).abs() < 1.0
    });
    assert!(status["budget"]["recoveries"].as_u64() > Some(0), "{status}");
    let metrics = Metrics::read(listen);
    assert_eq!(metrics.of("profiler_budget_state{state=\"within\"}"), 1.0);
    assert!(metrics.of("profiler_budget_recoveries_total") > 0.0);
    assert!((metrics.of("profiler_sampling_effective_hertz") - f64::from(HZ)).abs() < 1.0);
    daemon.reload(&config(HZ / 2, "max_cpu_percent = 100"));
    wait_for("another rate", SHEDS_WITHIN, || {
        let status = daemon.status();
        let is_other = status["sampling"]["sample_hz"] == HZ / 2 && (effective_hz(&status) - 500.0).abs() < 1.0;
        is_other.then_some(())
    });
    wait_until_used(pid, Duration::from_secs(1));
    assert_weighted(&first, &look(&daemon, pid));
    assert!(!daemon.log().contains("need a restart"), "{}", daemon.log());
    assert_eq!(failed_parts(&daemon), [""; 0]);
}

#[test]
fn over_its_cap_in_the_kernel_it_leaves_discovered_processes_out() {
    let Some(host) = host() else { return };
    let program = host.rust("deep");
    let (first, second) = (start(&program, &[]), start(&program, &[]));
    let daemon = host.daemon(&config(HZ, ROOMY));
    for process in [&first, &second] {
        wait_until_watched(&daemon, process.pid());
    }
    let before = daemon.status();
    daemon.reload(&config(HZ, "max_cpu_percent = 100\nmax_kernel_bytes = \"8MiB\""));
    // The maps alone take more than that, so that in the end nothing is left to give up.
    let status = wait_for_budget(&daemon, "exhausted", |status| status["watched_processes"] == 0);
    println!("{} before, {}", before["budget"]["kernel_bytes"], status["budget"]);
    assert!(
        status["budget"]["reason"]
            .as_str()
            .unwrap()
            .contains("memory in the kernel"),
        "{status}"
    );
    let listed = daemon.json(&["ps", "--json"]);
    for ours in [&first, &second] {
        let mut listed = listed["processes"].as_array().unwrap().iter();
        let process = listed.find(|process| process["pid"] == ours.pid()).unwrap();
        assert_eq!(process["watch_state"], "not_watched", "{process}");
        let reason = process["watch_reason"].as_str().unwrap();
        assert!(reason.starts_with("left out to keep within the budget"), "{reason}");
    }
    daemon.reload(&config(HZ, ROOMY));
    wait_for_budget(&daemon, "within", |_| true);
    for process in [&first, &second] {
        wait_until_watched(&daemon, process.pid());
    }
}

#[test]
fn over_its_memory_cap_it_drops_what_it_can_do_without_and_takes_it_back() {
    let Some(host) = host() else { return };
    let program = host.rust("deep");
    let deep = start(&program, &[]);
    let daemon = host.daemon(&config(HZ, ROOMY));
    let _asker = ask_for(&host, &daemon, deep.pid());
    daemon.wait_for_samples(deep.pid(), 500, SAMPLES_WITHIN);
    // The least that there is; no daemon takes so little.
    daemon.reload(&config(HZ, "max_cpu_percent = 100\nmax_memory_bytes = \"8MiB\""));
    let status = wait_for("shedding", SHEDS_WITHIN, || {
        let status = daemon.status();
        (status["budget"]["sheddings"].as_u64()? > 0).then_some(status)
    });
    println!("{}", status["budget"]);
    let said = status["budget"].to_string();
    assert!(
        said.contains("memory at") && said.contains("cached symbols dropped"),
        "{said}"
    );
    let samples = daemon.process(deep.pid())["samples"].as_u64().unwrap();
    daemon.wait_for_samples(deep.pid(), samples + 50, SAMPLES_WITHIN);

    daemon.reload(&config(HZ, ROOMY));
    let status = wait_for_budget(&daemon, "within", |status| {
        status["budget"]["shed"] == Value::Array(Vec::new()) && (effective_hz(status) - f64::from(HZ)).abs() < 1.0
    });
    let count = |key: &str| status["budget"][key].as_u64().unwrap();
    assert!(count("sheddings") > 0, "{status}");
    assert_eq!(count("sheddings"), count("recoveries"), "{status}");
    let samples = daemon.process(deep.pid())["samples"].as_u64().unwrap();
    daemon.wait_for_samples(deep.pid(), samples + 200, SAMPLES_WITHIN);
    assert_eq!(failed_parts(&daemon), [""; 0]);
}

/// Somebody asks for a process, which so is not left out, until this goes away.
fn ask_for(host: &Host, daemon: &Daemon, pid: u32) -> Running {
    let mut stream = daemon.cli_command();
    let (pid, svg) = (pid.to_string(), host.path("stream.svg"));
    stream
        .args(["flamegraph", "--pid", &pid, "--duration", "10m", "-o"])
        .arg(svg);
    Running::start_silent(&mut stream)
}

/// What a scrape says.
struct Metrics(String);

impl Metrics {
    /// Whatever is told of the sampling loop is left out where that does not answer in time.
    fn read(address: SocketAddr) -> Self {
        let text = wait_for("a scrape with the sampling loop", SHEDS_WITHIN, || {
            scrape(address).filter(|text| text.contains("profiler_sampling_effective_hertz "))
        });
        Self(text)
    }

    /// The value of a series.
    #[track_caller]
    fn of(&self, series: &str) -> f64 {
        let value = self
            .0
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        let value = value.unwrap_or_else(|| panic!("no {series} in {}", self.0));
        value.parse().unwrap()
    }
}

fn effective_hz(status: &Value) -> f64 {
    status["sampling"]["effective_hz"].as_f64().unwrap()
}

/// The status once the budget is in this state and something else is true of it.
fn wait_for_budget(daemon: &Daemon, state: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + SHEDS_WITHIN;
    loop {
        let status = daemon.status();
        if status["budget"]["state"] == state && is_so(&status) {
            return status;
        }
        assert!(Instant::now() < end, "not {state}: {status}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// What a process used of the CPUs, and what its samples stand for.
struct Look {
    used: Duration,
    sampled: Duration,
    /// What the samples lost on the host since its start stand for.
    lost: Duration,
}

fn look(daemon: &Daemon, pid: u32) -> Look {
    // Windows end early where the rate changes, and wait for their names one after the other.
    let (used, document) = wait_for("profile", SAMPLES_WITHIN, || {
        let before = on_cpu(pid);
        let document = daemon.profile(pid, &LAST_10_MINUTES)?;
        Some(((before + on_cpu(pid)) / 2, document))
    });
    let profile = Profile::from_json(&document);
    let time = |samples: u64| profile.period * u32::try_from(samples).unwrap();
    Look {
        used,
        sampled: time(profile.samples),
        lost: time(profile.lost.values().sum()),
    }
}

/// The samples between two looks stand for about the time that the process used: not for the fraction of it that they would
/// be without the weights of the rates. No closer than that: the time that the scheduler counts leaves out interrupts and what
/// the host of a virtual machine takes away, and on a busy machine a look takes as long as what it looks at.
#[track_caller]
fn assert_weighted(first: &Look, second: &Look) {
    let (used, sampled) = (second.used - first.used, second.sampled - first.sampled);
    let lost = second.lost - first.lost;
    println!("{sampled:?} sampled of {used:?} used, {lost:?} lost on the host");
    assert!(sampled <= used * MOST_APART, "{sampled:?} sampled of {used:?}");
    assert!(
        (sampled + lost) * MOST_APART >= used,
        "{sampled:?} sampled, {lost:?} lost of {used:?}"
    );
}

/// Waits until a process has been on a CPU for so much longer.
fn wait_until_used(pid: u32, longer: Duration) {
    let end = on_cpu(pid) + longer;
    wait_for("CPU time of the program", SAMPLES_WITHIN, || {
        (on_cpu(pid) >= end).then_some(())
    });
}

/// Time that the only thread of a process has been on a CPU, as the scheduler has it.
fn on_cpu(pid: u32) -> Duration {
    let schedstat = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    Duration::from_nanos(schedstat.split(' ').next().unwrap().parse().unwrap())
}
