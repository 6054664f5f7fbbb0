//! Reads this host for a while and prints the mean of every reading, or gives it something to read.
//!
//! `sample SECONDS PID...` reads once a second and prints metric, subject, number and mean of the values, separated by
//! tabs, and at the end the CPU time that reading took. `idle THREADS` has threads that wake up now and then, and
//! `burn PERCENT` keeps that much of a CPU busy; both until they are stopped. `many PROCESSES ROUNDS` reads so many processes of a
//! made-up `/proc` and prints what a round takes. `cargo xtask bench readings` runs all four.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "what it prints is what it is for")]

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    fs,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use profiler_readings::{
    ControlGroupSampler, FilesystemSampler, HostFacts, HostSampler, Metric, Moment, ProcessId, ProcessSampler,
    ProportionalSampler, Reading, SourceReport, WatchedProcess,
};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Descriptors that may stay open: two of each process that the benchmark has.
const KEPT_FILES: usize = 1000;
/// Processes of one service.
const SERVICE_PROCESSES: usize = 10;
/// Pause of a thread that has nothing to do.
const PAUSE: Duration = Duration::from_millis(200);
/// When processes that do not exist have started, in clock ticks since boot.
const START_TICKS: u64 = 1000;
/// Time in which a burner works for its share.
const CYCLE: Duration = Duration::from_millis(50);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["sample", seconds, pids @ ..] => sample(seconds.parse()?, pids),
        ["idle", threads] => idle(threads.parse()?),
        ["burn", percent] => burn(percent.parse()?),
        ["many", processes, rounds] => many(processes.parse()?, rounds.parse()?),
        _ => Err("sample SECONDS PID..., idle THREADS, burn PERCENT, or many PROCESSES ROUNDS".into()),
    }
}

fn sample(seconds: u64, pids: &[&str]) -> Result<(), Box<dyn Error>> {
    let root = Path::new("/");
    let watched = watched(pids)?;
    let mut host = HostSampler::new(root);
    let mut filesystems = FilesystemSampler::new(root);
    let mut processes = ProcessSampler::new(root, HostFacts::read(), KEPT_FILES);
    let mut groups = ControlGroupSampler::new(root);
    let mut shares = ProportionalSampler::new(root, HostFacts::read());
    processes.watch(watched.iter().cloned());
    shares.watch(watched.iter().cloned());
    groups.watch(watched);
    let (mut means, mut spent) = (BTreeMap::new(), Duration::ZERO);
    let start = Instant::now();
    // The first reading is what the first rates begin at.
    for second in 0..=seconds {
        let due = start + Duration::from_secs(second);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let (before, mut out) = (clock(ClockId::ThreadCPUTime), Vec::new());
        let now = Moment {
            time: SystemTime::now(),
            since_boot: clock(ClockId::Boottime),
        };
        host.sample(now, &mut out);
        filesystems.sample(now, &mut out);
        processes.sample(now, &mut out);
        groups.sample(now, &mut out);
        shares.sample(now, &mut out);
        spent += clock(ClockId::ThreadCPUTime).saturating_sub(before);
        add(&mut means, out);
    }
    for ((metric, subject), (count, sum)) in means {
        println!("{metric}\t{subject}\t{count}\t{}", sum / count as f64);
    }
    let reports = host.reports().chain(filesystems.report()).chain(processes.reports());
    for SourceReport {
        source,
        state,
        left_out,
        ..
    } in reports.chain(groups.report()).chain(shares.report())
    {
        println!("source {source}\t{state:?}\t{left_out}\t0");
    }
    println!("cpu_seconds\t\t{}\t{}", seconds + 1, spent.as_secs_f64());
    Ok(())
}

fn add(means: &mut BTreeMap<(Metric, String), (u64, f64)>, readings: Vec<Reading>) {
    for reading in readings {
        let (count, sum) = means.entry((reading.metric, reading.subject.to_string())).or_default();
        *count += 1;
        *sum += reading.value;
    }
}

fn watched(pids: &[&str]) -> Result<Vec<WatchedProcess>, Box<dyn Error>> {
    let mut watched = Vec::new();
    for (at, pid) in pids.iter().enumerate() {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, fields) = stat.rsplit_once(')').ok_or("not of the kernel's format")?;
        let start_ticks = fields.split_whitespace().nth(19).ok_or("no start")?.parse()?;
        watched.push(WatchedProcess {
            id: ProcessId {
                pid: pid.parse()?,
                start_ticks,
            },
            service: Some(Arc::from(format!("service{}", at / SERVICE_PROCESSES))),
            executed: None,
        });
    }
    Ok(watched)
}

/// Rounds over processes that only exist as files. Every tenth also reads details.
fn many(count: u32, rounds: u32) -> Result<(), Box<dyn Error>> {
    let tree = tempfile::tempdir()?;
    for pid in 1..=count {
        put(&tree.path().join(format!("proc/{pid}")), pid, 0)?;
    }
    let before = resident_bytes()?;
    let mut sampler = ProcessSampler::new(tree.path(), HostFacts::read(), KEPT_FILES);
    sampler.watch((1..=count).map(|pid| WatchedProcess {
        id: ProcessId {
            pid,
            start_ticks: START_TICKS,
        },
        service: Some(Arc::from(format!("service{}", pid / SERVICE_PROCESSES as u32))),
        executed: None,
    }));
    let (mut times, mut readings) = (Vec::new(), 0);
    for round in 1..=rounds {
        let (begun, mut out) = (clock(ClockId::ThreadCPUTime), Vec::new());
        let now = Moment {
            time: SystemTime::now(),
            since_boot: Duration::from_secs(START_TICKS + u64::from(round)),
        };
        sampler.sample(now, &mut out);
        times.push(clock(ClockId::ThreadCPUTime).saturating_sub(begun));
        readings = readings.max(out.len());
    }
    times.sort_unstable();
    let (usual, longest) = (times[times.len() / 2], times[times.len() - 1]);
    println!("round_seconds\t\t{rounds}\t{}", usual.as_secs_f64());
    println!("longest_round_seconds\t\t{rounds}\t{}", longest.as_secs_f64());
    println!("readings\t\t{rounds}\t{readings}");
    println!("bytes\t\t1\t{}", resident_bytes()?.saturating_sub(before));
    let left_out: u64 = sampler.reports().map(|report| report.left_out).sum();
    println!("left_out\t\t1\t{left_out}");
    Ok(())
}

/// The files of a process that are read.
fn put(folder: &Path, pid: u32, cpu_ticks: u64) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(folder.join("fd"))?;
    for (name, text) in [
        (
            "stat",
            format!("{pid} (p) S 1 1 1 0 -1 0 7 0 3 0 {cpu_ticks} 0 0 0 20 0 1 0 {START_TICKS} 0 0\n"),
        ),
        ("statm", "11 10 0 0 0 0 0\n".to_owned()),
        ("io", "rchar: 1\nread_bytes: 2\nwrite_bytes: 3\n".to_owned()),
        (
            "status",
            "Name:\tp\nvoluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t1\n".to_owned(),
        ),
        ("fd/0", String::new()),
    ] {
        fs::write(folder.join(name), text)?;
    }
    Ok(())
}

/// Anonymous memory of this program.
fn resident_bytes() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kibibytes: u64 = line
        .and_then(|line| line.split_whitespace().next())
        .ok_or("no RssAnon")?
        .parse()?;
    Ok(kibibytes << 10)
}

fn idle(threads: usize) -> Result<(), Box<dyn Error>> {
    let wake = || -> () {
        loop {
            thread::sleep(PAUSE);
        }
    };
    for _ in 1..threads {
        thread::spawn(wake);
    }
    wake();
    Ok(())
}

fn burn(percent: u32) -> Result<(), Box<dyn Error>> {
    let work = CYCLE * percent.min(100) / 100;
    loop {
        let before = clock(ClockId::ThreadCPUTime);
        let start = Instant::now();
        while clock(ClockId::ThreadCPUTime).saturating_sub(before) < work {
            std::hint::spin_loop();
        }
        thread::sleep(CYCLE.saturating_sub(start.elapsed()));
    }
}

fn clock(id: ClockId) -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(id);
    Duration::new(tv_sec.unsigned_abs(), tv_nsec.unsigned_abs() as u32)
}
