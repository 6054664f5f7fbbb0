//! Private parsers for the fuzz target: each takes text of the kernel and gives what the samplers make of it.
//!
//! Only a build with the feature `fuzzing` has it.

use std::collections::BTreeSet;

use crate::{cgroup, host, process};

/// Busy, stolen and guest share of all CPUs between two texts of `/proc/stat`.
pub fn cpu_shares(before: &[u8], after: &[u8]) -> Option<[f64; 3]> {
    let (before, after) = (host::parse_cpu(before)?, host::parse_cpu(after)?);
    let shares = after.all.shares_since(&before.all)?;
    Some([shares.busy, shares.stolen, shares.guest])
}

/// How much memory there is and how much is available, from `/proc/meminfo`.
pub fn memory(text: &[u8]) -> Option<(u64, u64)> {
    host::parse_memory(text).map(|memory| (memory.total, memory.available))
}

/// Share and seconds of some task's waits, from a file of `/proc/pressure`.
pub fn pressure(text: &[u8]) -> Option<(f64, f64)> {
    host::parse_pressure(text).map(|(some, _)| (some.ratio, some.seconds))
}

/// The load averages of `/proc/loadavg`.
pub fn load(text: &[u8]) -> Option<[f64; 3]> {
    host::parse_load(text).map(|(averages, _)| averages)
}

/// How busy the devices of two texts of `/proc/diskstats` were over a second, where they stand in the same order.
pub fn disks_busy(before: &[u8], after: &[u8]) -> Option<Vec<f64>> {
    let (before, after) = (host::parse_disks(before)?, host::parse_disks(after)?);
    let pairs = before.iter().zip(&after);
    Some(
        pairs
            .filter_map(|((_, before), (_, after))| after.busy_since(before, 1.0))
            .collect(),
    )
}

/// The names in `/proc/net/dev`.
pub fn interfaces(text: &[u8]) -> Option<Vec<&[u8]>> {
    let interfaces = host::parse_network(text)?;
    Some(interfaces.into_iter().map(|(name, _)| name).collect())
}

/// The mount points of `/proc/self/mountinfo`, all of them and those of local file systems.
pub fn mount_points(text: &[u8]) -> Option<[Vec<Vec<u8>>; 2]> {
    let mounts = host::parse_mounts(text)?;
    let local = host::choose_filesystems(&mounts)
        .into_keys()
        .map(<[u8]>::to_vec)
        .collect();
    Some([mounts.into_iter().map(|mount| mount.point).collect(), local])
}

/// CPU ticks, threads and start of `/proc/PID/stat`.
pub fn process_stat(text: &[u8]) -> Option<(u64, u64, u64)> {
    process::parse_stat(text).map(|stat| (stat.cpu_ticks, stat.threads, stat.start_ticks))
}

/// Resident pages of `statm`, bytes read of `io`, voluntary switches and anonymous memory of `status`, and what
/// `smaps_rollup` shares out.
pub fn process_files(text: &[u8]) -> [Option<u64>; 5] {
    [
        process::parse_resident_pages(text).map(|(resident, _)| resident),
        process::parse_io(text).map(|(read, _)| read),
        process::parse_switches(text).map(|(voluntary, _)| voluntary),
        process::parse_memory_kinds(text).map(|kinds| kinds.anonymous),
        process::parse_proportional(text),
    ]
}

/// Inodes of the sockets that listen, from `/proc/PID/net/tcp`.
pub fn listening(text: &[u8]) -> BTreeSet<u64> {
    let mut inodes = BTreeSet::new();
    process::add_listening(text, &mut inodes);
    inodes
}

/// The limit of memory and the quota of CPUs in files of a control group.
pub fn limits(text: &[u8]) -> (Option<Option<u64>>, Option<Option<f64>>) {
    (cgroup::parse_limit(text), cgroup::parse_quota(text))
}

/// Periods and throttled periods of `cpu.stat`.
pub fn throttling(text: &[u8]) -> Option<(u64, u64)> {
    cgroup::parse_throttling(text).map(|counts| (counts.periods, counts.throttled))
}

/// The folder below the mount point of the unified hierarchy that `/proc/PID/cgroup` says a process is in.
pub fn unified_group(mounts: &[u8], text: &[u8]) -> Option<std::path::PathBuf> {
    cgroup::unified_folder(&host::parse_mounts(mounts)?, text)
}
