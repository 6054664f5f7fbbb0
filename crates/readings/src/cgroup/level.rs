//! What one folder of a hierarchy says.

use std::path::Path;

use super::files::{Throttling, parse_limit, parse_quota, parse_quota_v1, parse_throttling, parse_value};
use crate::{
    file::{ReadError, parse_once},
    text::keyed,
};

/// Memory of one group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Memory {
    pub(super) usage: u64,
    /// Without the page cache that has not been used lately, which is dropped before anything else is done.
    pub(super) working_set: u64,
    pub(super) limit: Option<u64>,
    pub(super) swap: Swap,
    pub(super) events: MemoryEvents,
}

/// What of it was swapped out, where the kernel accounts for that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Swap {
    pub(super) usage: Option<u64>,
    /// Version 1 limits only memory and swap space together.
    pub(super) limit: Option<u64>,
}

/// How often memory was short, by what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MemoryEvents {
    pub(super) low: Option<u64>,
    pub(super) high: Option<u64>,
    pub(super) max: Option<u64>,
    pub(super) oom: Option<u64>,
    pub(super) oom_kills: Option<u64>,
}

impl Memory {
    /// Reads it from a folder of either version.
    pub(super) fn read(folder: &Path, is_unified: bool, buffer: &mut Vec<u8>) -> Result<Self, ReadError> {
        let names = if is_unified {
            ["memory.current", "memory.max", "inactive_file"]
        } else {
            ["memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file"]
        };
        let [usage, limit, inactive] = names;
        let usage = parse_once(folder.join(usage), buffer, parse_value)?;
        let limit = parse_once(folder.join(limit), buffer, parse_limit)?;
        let (inactive, swap_v1) = parse_once(folder.join("memory.stat"), buffer, |text| {
            Some((keyed(text, inactive.as_bytes())?, keyed(text, b"total_swap")))
        })?;
        let (swap, events) = if is_unified {
            (Swap::read(folder, buffer)?, MemoryEvents::read(folder, buffer)?)
        } else {
            let swap = Swap {
                usage: swap_v1,
                limit: None,
            };
            (swap, MemoryEvents::read_v1(folder, buffer)?)
        };
        Ok(Self {
            usage,
            // The two are read one after the other.
            working_set: usage.saturating_sub(inactive),
            limit,
            swap,
            events,
        })
    }

    /// The share of its own limit that is in use.
    pub(super) fn limit_used(&self) -> Option<f64> {
        let limit = self.limit.filter(|&limit| limit > 0)?;
        Some(self.working_set as f64 / limit as f64)
    }
}

impl Swap {
    fn read(folder: &Path, buffer: &mut Vec<u8>) -> Result<Self, ReadError> {
        let usage = if_there(parse_once(folder.join("memory.swap.current"), buffer, parse_value))?;
        let limit = if_there(parse_once(folder.join("memory.swap.max"), buffer, parse_limit))?;
        Ok(Self {
            usage,
            limit: limit.flatten(),
        })
    }
}

impl MemoryEvents {
    fn read(folder: &Path, buffer: &mut Vec<u8>) -> Result<Self, ReadError> {
        parse_once(folder.join("memory.events"), buffer, |text| {
            Some(Self {
                low: keyed(text, b"low"),
                high: keyed(text, b"high"),
                max: keyed(text, b"max"),
                oom: keyed(text, b"oom"),
                oom_kills: keyed(text, b"oom_kill"),
            })
        })
    }

    fn read_v1(folder: &Path, buffer: &mut Vec<u8>) -> Result<Self, ReadError> {
        let failures = parse_once(folder.join("memory.failcnt"), buffer, parse_value)?;
        // Counted since 4.13.
        let oom_kills = parse_once(folder.join("memory.oom_control"), buffer, |text| {
            Some(keyed(text, b"oom_kill"))
        })?;
        Ok(Self {
            max: Some(failures),
            oom_kills,
            ..Self::default()
        })
    }
}

/// What a file says that not every kernel has: without accounting for swap space there is none.
fn if_there<T>(read: Result<T, ReadError>) -> Result<Option<T>, ReadError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The quota of CPUs of one group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Quota {
    pub(super) cores: Option<f64>,
    pub(super) throttling: Option<Throttling>,
}

impl Quota {
    /// Reads it from a folder of either version.
    pub(super) fn read(folder: &Path, is_unified: bool, buffer: &mut Vec<u8>) -> Result<Self, ReadError> {
        let cores = if is_unified {
            parse_once(folder.join("cpu.max"), buffer, parse_quota)?
        } else {
            let period = parse_once(folder.join("cpu.cfs_period_us"), buffer, parse_value)?;
            parse_once(folder.join("cpu.cfs_quota_us"), buffer, |text| {
                parse_quota_v1(text, period)
            })?
        };
        let throttling = parse_once(folder.join("cpu.stat"), buffer, |text| Some(parse_throttling(text)))?;
        Ok(Self { cores, throttling })
    }
}

/// Seconds of CPU that a group used.
pub(super) fn read_cpu_seconds(folder: &Path, is_unified: bool, buffer: &mut Vec<u8>) -> Result<f64, ReadError> {
    if is_unified {
        let usage = |text: &[u8]| keyed(text, b"usage_usec");
        Ok(parse_once(folder.join("cpu.stat"), buffer, usage)? as f64 / 1e6)
    } else {
        Ok(parse_once(folder.join("cpuacct.usage"), buffer, parse_value)? as f64 / 1e9)
    }
}
