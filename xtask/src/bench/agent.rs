//! What the kernel says about the daemon: the agent's own report is not asked about its cost.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::param::clock_ticks_per_second;

const BPF_STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// `BPF_PROG_TYPE_PERF_EVENT` of include/uapi/linux/bpf.h: programs that a clock runs.
const PERF_EVENT: u64 = 7;

/// What tells maps of unwind rows from others: their shape (`ROWS_PER_SHARD` of crates/common).
const ROWS: [(&str, u64); 2] = [("value_size", 8), ("max_entries", 1 << 18)];

/// What the daemon and its programs have used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// CPU time of the daemon's threads.
    pub(super) daemon_cpu: Duration,
    /// Time in its BPF programs; zero unless the kernel keeps statistics.
    pub(super) kernel_cpu: Duration,
    /// The part of it that the sampling programs took, and how often they ran.
    pub(super) sampling: Duration,
    pub(super) sampling_runs: u64,
    /// Resident memory that is not a file's.
    pub(super) resident_bytes: u64,
    /// Memory of its BPF maps and programs.
    pub(super) kernel_bytes: u64,
    /// The part of it that unwind rows take.
    pub(super) row_bytes: u64,
}

impl Usage {
    /// Reads the usage of process `pid` under `proc`.
    pub(super) fn read(proc: &Path, pid: u32) -> Result<Self> {
        let folder = proc.join(pid.to_string());
        let mut usage = Self {
            daemon_cpu: cpu_time_of(proc, pid)?,
            ..Self::default()
        };
        let status = read(folder.join("status"))?;
        for name in ["RssAnon", "RssShmem"] {
            usage.resident_bytes += 1024 * field(&status, name).with_context(|| format!("no {name} for {pid}"))?;
        }
        usage.add_bpf(&folder.join("fdinfo"))?;
        Ok(usage)
    }

    /// Adds every map and program that the process holds, each once.
    fn add_bpf(&mut self, folder: &Path) -> Result<()> {
        let mut seen = BTreeSet::new();
        for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
            // A descriptor may be closed while we look.
            let Ok(text) = fs::read_to_string(entry.context("cannot list descriptors")?.path()) else {
                continue;
            };
            let map = field(&text, "map_id").map(|id| ("map", id));
            let Some(object) = map.or_else(|| field(&text, "prog_id").map(|id| ("program", id))) else {
                continue;
            };
            let Some(bytes) = field(&text, "memlock") else { continue };
            if seen.insert(object) {
                self.kernel_bytes += bytes;
                if ROWS.iter().all(|(name, value)| field(&text, name) == Some(*value)) {
                    self.row_bytes += bytes;
                }
                let time = Duration::from_nanos(field(&text, "run_time_ns").unwrap_or(0));
                self.kernel_cpu += time;
                if field(&text, "prog_type") == Some(PERF_EVENT) {
                    self.sampling += time;
                    self.sampling_runs += field(&text, "run_cnt").unwrap_or(0);
                }
            }
        }
        Ok(())
    }
}

/// The first number after `name:` at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// CPU time that process `pid` under `proc` has used so far.
pub(super) fn cpu_time_of(proc: &Path, pid: u32) -> Result<Duration> {
    cpu_time(&read(proc.join(pid.to_string()).join("stat"))?)
}

/// User and system time from `/proc/PID/stat`; the name in parentheses may hold anything.
fn cpu_time(stat: &str) -> Result<Duration> {
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Ok(Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64))
}

fn read(path: PathBuf) -> Result<String> {
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// The kernel's statistics about BPF programs, as long as this lives.
#[derive(Debug)]
pub(super) struct Statistics {
    before: String,
}

impl Statistics {
    /// Switches them on.
    pub(super) fn enable() -> Result<Self> {
        let before = read(PathBuf::from(BPF_STATISTICS))?;
        fs::write(BPF_STATISTICS, "1").with_context(|| format!("cannot write {BPF_STATISTICS}"))?;
        Ok(Self { before })
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        if let Err(error) = fs::write(BPF_STATISTICS, self.before.trim()) {
            eprintln!("warning: cannot restore {BPF_STATISTICS}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_and_each_object_counted_once() {
        let proc = tempfile::tempdir().unwrap();
        let folder = proc.path().join("7/fdinfo");
        fs::create_dir_all(&folder).unwrap();
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 9 9 20 0 1";
        fs::write(proc.path().join("7/stat"), stat).unwrap();
        fs::write(
            proc.path().join("7/status"),
            "RssAnon:\t 100 kB\nRssFile:\t 9 kB\nRssShmem:\t 2 kB\n",
        )
        .unwrap();
        fs::write(folder.join("3"), "pos:\t0\nmap_type:\t1\nmemlock:\t4096\nmap_id:\t5\n").unwrap();
        fs::write(folder.join("4"), "pos:\t0\nmap_type:\t1\nmemlock:\t4096\nmap_id:\t5\n").unwrap();
        fs::write(
            folder.join("5"),
            "prog_type:\t7\nprog_id:\t5\nmemlock:\t8192\nrun_time_ns:\t3000\nrun_cnt:\t2\n",
        )
        .unwrap();
        fs::write(
            folder.join("7"),
            "prog_type:\t26\nprog_id:\t6\nmemlock:\t4096\nrun_time_ns:\t500\nrun_cnt:\t9\n",
        )
        .unwrap();
        fs::write(folder.join("6"), "pos:\t0\n").unwrap();
        let rows = "map_type:\t2\nkey_size:\t4\nvalue_size:\t8\nmax_entries:\t262144\nmemlock:\t2101248\nmap_id:\t6\n";
        fs::write(folder.join("8"), rows).unwrap();
        let expect = Usage {
            daemon_cpu: Duration::from_secs_f64(200.0 / clock_ticks_per_second() as f64),
            kernel_cpu: Duration::from_nanos(3500),
            sampling: Duration::from_nanos(3000),
            sampling_runs: 2,
            resident_bytes: 102 * 1024,
            kernel_bytes: 4096 + 8192 + 4096 + 2_101_248,
            row_bytes: 2_101_248,
        };
        assert_eq!(Usage::read(proc.path(), 7).unwrap(), expect);
        assert!(Usage::read(proc.path(), 8).is_err());
    }
}
