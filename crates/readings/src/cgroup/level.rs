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
    pub(super) high_events: Option<u64>,
    pub(super) max_events: Option<u64>,
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
        let inactive = parse_once(folder.join("memory.stat"), buffer, |text| {
            keyed(text, inactive.as_bytes())
        })?;
        let (high_events, max_events, oom_kills) = if is_unified {
            parse_once(folder.join("memory.events"), buffer, |text| {
                Some((keyed(text, b"high"), keyed(text, b"max"), keyed(text, b"oom_kill")))
            })?
        } else {
            let failures = parse_once(folder.join("memory.failcnt"), buffer, parse_value)?;
            // Counted since 4.13.
            let kills = parse_once(folder.join("memory.oom_control"), buffer, |text| {
                Some(keyed(text, b"oom_kill"))
            })?;
            (None, Some(failures), kills)
        };
        Ok(Self {
            usage,
            // The two are read one after the other.
            working_set: usage.saturating_sub(inactive),
            limit,
            high_events,
            max_events,
            oom_kills,
        })
    }

    /// The share of its own limit that is in use.
    pub(super) fn limit_used(&self) -> Option<f64> {
        let limit = self.limit.filter(|&limit| limit > 0)?;
        Some(self.working_set as f64 / limit as f64)
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
