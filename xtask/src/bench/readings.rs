//! Readings next to those of procps and sysstat over the same minute, and what the samplers cost with 200 processes, and with
//! thousands.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::report;
use crate::children::{Interrupt, Running};
use crate::{command, metadata, workspace};

const SECONDS: u32 = 60;
/// Processes that only wake up now and then, and threads of each: a host of services.
const IDLE: usize = 197;
const IDLE_THREADS: &str = "8";
/// Processes that keep a part of a CPU busy, in percent.
const BURNERS: [&str; 3] = ["10", "25", "50"];
/// Processes of a host that has far too many, as files only, and rounds over them.
const MANY: &str = "5000";
const ROUNDS: &str = "40";
/// Until all have started.
const SETTLE: Duration = Duration::from_secs(2);
/// How long after the minute the tools may take to end.
const AFTER: Duration = Duration::from_secs(30);

/// Shares of the host's CPU time, and the columns of vmstat that are the same.
const HOST_CPU: [(&str, &[&str], &[&str]); 3] = [
    ("CPU of the host", &["host_cpu_busy_ratio"], &["us", "sy", "st"]),
    (
        "CPU in programs",
        &["host_cpu_user_ratio", "host_cpu_nice_ratio"],
        &["us"],
    ),
    (
        "CPU in the kernel",
        &["host_cpu_system_ratio", "host_cpu_interrupts_ratio"],
        &["sy"],
    ),
];

const POINTS: f64 = 1.0;
const CPU_PERCENT_OF_CORE: f64 = 1.0;
const MEMORY_MB: f64 = 1.0;
/// Of a round over so many: for each process what it may take of a host with 200, where all of them take a hundredth of a core.
const MANY_ROUND_MS: f64 = 250.0;
/// Rounds are a second apart, and none is to be missed.
const MANY_LONGEST_MS: f64 = 1000.0;
const MANY_MB: f64 = 20.0;

/// Builds the samplers' example and runs the comparison. It needs no root: what it reads of processes is its own.
pub(super) fn run(interrupt: &Interrupt) -> Result<()> {
    let program = build()?;
    let start = |arguments: &[&str]| Running::start(Command::new(&program).args(arguments));
    let idle = (0..IDLE).map(|_| start(&["idle", IDLE_THREADS]));
    let idle: Vec<Running> = idle.collect::<Result<_>>()?;
    let burners: Vec<Running> = BURNERS
        .iter()
        .map(|percent| start(&["burn", percent]))
        .collect::<Result<_>>()?;
    interrupt.sleep(SETTLE)?;
    let pids = |processes: &[Running]| Vec::from_iter(processes.iter().map(|process| process.pid().to_string()));
    let (busy, seconds) = (pids(&burners), SECONDS.to_string());

    let mut sampler = Command::new(&program);
    sampler.args(["sample", &seconds]).args(&busy).args(pids(&idle));
    let mut tools = [
        Tool::start(&mut sampler)?,
        Tool::start(Command::new("vmstat").args(["-n", &seconds, "2"]))?,
        Tool::start(Command::new("free").args(["-b", "-s", "1", "-c", &seconds]))?,
        Tool::start(Command::new("pidstat").args(["-u", "-r", "-p", &busy.join(","), "1", &seconds]))?,
    ];
    interrupt.sleep(Duration::from_secs(u64::from(SECONDS)))?;
    let mut outputs = Vec::new();
    for tool in &mut tools {
        outputs.push(tool.finish(interrupt)?);
    }
    let [ours, vmstat, free, pidstat] = &outputs[..] else {
        bail!("{} outputs of four programs", outputs.len());
    };
    print(&Means(ours), vmstat, free, pidstat, &busy)?;
    let mut many = Tool::start(Command::new(&program).args(["many", MANY, ROUNDS]))?;
    print_many(&Means(&many.finish(interrupt)?))
}

/// What a host with far too many processes costs.
fn print_many(ours: &Means<'_>) -> Result<()> {
    report::head(&format!("readings: {MANY} processes of a made-up /proc"));
    // Of the rounds, which are a second apart, every tenth also reads what is dearer.
    for (what, name, most) in [
        ("CPU of a round", "round_seconds", MANY_ROUND_MS),
        ("of the longest, with details", "longest_round_seconds", MANY_LONGEST_MS),
    ] {
        report::at_most(what, "ms", 1000.0 * ours.mean(name, "")?, most);
    }
    report::fact("readings of that", "count", ours.mean("readings", "")?);
    report::at_most("memory of the sampler", "MB", ours.mean("bytes", "")? / 1e6, MANY_MB);
    report::at_most("left out", "processes", ours.mean("left_out", "")?, 0.0);
    Ok(())
}

fn build() -> Result<PathBuf> {
    let arguments = [
        "--release",
        "--locked",
        "--package=profiler-readings",
        "--example=readings",
    ];
    command::run(workspace::cargo().arg("build").args(arguments))?;
    let folder = metadata::target_directory(&metadata::of_workspace()?)?;
    Ok(folder.join("release/examples/readings"))
}

/// A program whose output is read when it has ended.
#[derive(Debug)]
struct Tool {
    name: String,
    output: File,
    running: Running,
}

impl Tool {
    fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let output = tempfile::tempfile().context("cannot make a temporary file")?;
        let copy = output.try_clone().context("cannot duplicate a descriptor")?;
        command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(copy);
        let running = Running::start(command)
            .with_context(|| format!("{name} is part of the comparison: apt-get install procps sysstat"))?;
        Ok(Self { name, output, running })
    }

    fn finish(&mut self, interrupt: &Interrupt) -> Result<String> {
        let deadline = std::time::Instant::now() + AFTER;
        let status = interrupt.wait_for(|| {
            if std::time::Instant::now() > deadline {
                bail!("{} does not end", self.name);
            }
            self.running.ended()
        })?;
        if !status.success() {
            bail!("{} ended with {status}", self.name);
        }
        let mut text = String::new();
        self.output.rewind().context("cannot read what a program wrote")?;
        self.output
            .read_to_string(&mut text)
            .with_context(|| format!("cannot read what {} wrote", self.name))?;
        Ok(text)
    }
}

fn print(ours: &Means<'_>, vmstat: &str, free: &str, pidstat: &str, busy: &[String]) -> Result<()> {
    report::head(&format!(
        "readings: {} processes for {SECONDS} s, next to vmstat, free and pidstat",
        IDLE + BURNERS.len()
    ));
    for (what, metrics, columns) in HOST_CPU {
        let shares = metrics.iter().map(|metric| ours.mean(metric, ""));
        let share = 100.0 * shares.sum::<Result<f64>>()?;
        let theirs = vmstat_sum(vmstat, columns)?;
        report::fact(what, "% of host", share);
        report::at_most("its difference to vmstat", "points", (share - theirs).abs(), POINTS);
    }
    let (memory, theirs) = (100.0 * ours.mean("host_memory_used_ratio", "")?, free_used(free)?);
    report::fact("memory of the host", "%", memory);
    report::at_most("its difference to free", "points", (memory - theirs).abs(), POINTS);
    for pid in busy {
        let cpu = 100.0 * ours.mean("process_cpu_cores", pid)?;
        let theirs = pidstat_mean(pidstat, pid, "%CPU")?;
        report::fact("CPU of a process", "%", cpu);
        report::at_most("its difference to pidstat", "points", (cpu - theirs).abs(), POINTS);
        let resident = ours.mean("process_memory_bytes", pid)?;
        let theirs = 1024.0 * pidstat_mean(pidstat, pid, "RSS")?;
        // sysstat takes the figure that the kernel keeps approximately, each CPU for itself.
        let difference = (resident - theirs).abs() / 1e6;
        report::at_most("difference of its memory to pidstat", "MB", difference, MEMORY_MB);
    }
    let idle = ours
        .0
        .lines()
        .filter(|line| line.starts_with("process_cpu_cores\t"))
        .count();
    report::at_least("processes read", "count", idle as f64, (IDLE + BURNERS.len()) as f64);
    let spent = 100.0 * ours.mean("cpu_seconds", "")? / f64::from(SECONDS);
    report::at_most("CPU of all samplers", "% of a core", spent, CPU_PERCENT_OF_CORE);
    for state in ours.0.lines().filter(|line| line.starts_with("source ")) {
        println!("{}", state.replace('\t', " "));
    }
    Ok(())
}

/// What the example printed: metric, subject, number and mean.
#[derive(Debug)]
struct Means<'a>(&'a str);

impl Means<'_> {
    fn mean(&self, metric: &str, subject: &str) -> Result<f64> {
        let start = format!("{metric}\t{subject}\t");
        let line = self.0.lines().find_map(|line| line.strip_prefix(&start));
        let value = line.and_then(|line| line.rsplit('\t').next()?.parse().ok());
        value.with_context(|| format!("the samplers gave no {metric} of {subject:?}"))
    }
}

/// The sum of columns in the last interval, in percent.
fn vmstat_sum(text: &str, columns: &[&str]) -> Result<f64> {
    let mut lines = text.lines().skip_while(|line| !line.contains(" id "));
    let head = lines.next().context("vmstat has no head")?;
    let values = lines.last().context("vmstat has no values")?;
    columns.iter().map(|name| column(head, values, name)).sum()
}

/// Percent of the memory that is not available, the mean over all blocks.
fn free_used(text: &str) -> Result<f64> {
    let head = text
        .lines()
        .find(|line| line.contains("available"))
        .context("free has no head")?;
    let mut used = Vec::new();
    for values in text.lines().filter_map(|line| line.strip_prefix("Mem:")) {
        used.push(100.0 * (1.0 - column(head, values, "available")? / column(head, values, "total")?));
    }
    if used.is_empty() {
        bail!("free has no values");
    }
    Ok(used.iter().sum::<f64>() / used.len() as f64)
}

/// A mean of one process. Each table of means has its own head.
fn pidstat_mean(text: &str, pid: &str, name: &str) -> Result<f64> {
    let mut head = "";
    for line in text.lines().filter_map(|line| line.strip_prefix("Average:")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.contains(&"PID") {
            head = line;
        } else if words.get(1) == Some(&pid) && head.split_whitespace().any(|word| word == name) {
            return column(head, line, name);
        }
    }
    bail!("pidstat has no mean {name} of {pid}")
}

fn column(head: &str, values: &str, name: &str) -> Result<f64> {
    let at = head.split_whitespace().position(|word| word == name);
    let value = at.and_then(|at| values.split_whitespace().nth(at)?.parse().ok());
    value.with_context(|| format!("no column {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_found_by_metric_and_subject() {
        let means = Means("process_cpu_cores\t7\t60\t0.25\nprocess_cpu_cores\t77\t60\t0.5\ncpu_seconds\t\t61\t0.1\n");
        assert_eq!(means.mean("process_cpu_cores", "77").unwrap(), 0.5);
        assert_eq!(means.mean("cpu_seconds", "").unwrap(), 0.1);
        assert!(means.mean("process_cpu_cores", "8").is_err());
    }

    #[test]
    fn tools_are_understood_by_their_heads() {
        let vmstat = "procs -----------memory----------\n r  b   swpd us sy id wa st\n 1  0   0  9  9 80  2  0\n 1  0   0  20  5 70  5  0\n";
        assert_eq!(vmstat_sum(vmstat, &["us", "sy"]).unwrap(), 25.0);
        assert!(vmstat_sum(vmstat, &["xx"]).is_err());
        let free = "       total used free available\nMem:   200 1 1 150\nSwap: 0 0 0\n\n       total used free available\nMem:   200 1 1 50\nSwap: 0 0 0\n";
        assert_eq!(free_used(free).unwrap(), 50.0);
        let pidstat = "\
10:00:01 UID PID %usr %CPU CPU Command
10:00:02 0 7 1.00 99.00 0 x

Average: UID PID %usr %CPU CPU Command
Average: 0 7 1.00 25.50 - x

Average: UID PID minflt/s RSS %MEM Command
Average: 0 7 0.00 2048 0.01 x
";
        assert_eq!(pidstat_mean(pidstat, "7", "%CPU").unwrap(), 25.5);
        assert_eq!(pidstat_mean(pidstat, "7", "RSS").unwrap(), 2048.0);
        assert!(pidstat_mean(pidstat, "8", "RSS").is_err());
        assert!(vmstat_sum("", &["us"]).is_err() && free_used("").is_err());
    }
}
