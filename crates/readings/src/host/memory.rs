//! Memory and swap, from `/proc/meminfo` and `/proc/vmstat`.

use std::path::Path;

use super::Part;
use crate::{
    Metric, Reading,
    file::{KernelFile, ReadError},
    source::Moment,
    text::{keyed, lines, next_number, words},
};

/// What `/proc/meminfo` says, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemoryCounters {
    pub(crate) total: u64,
    pub(crate) available: u64,
    pub(crate) anonymous: Option<u64>,
    pub(crate) dirty: Option<u64>,
    /// All and free.
    pub(crate) swap: Option<(u64, u64)>,
}

/// The text of `/proc/meminfo`. What is available may not exceed what there is.
pub(crate) fn parse_memory(text: &[u8]) -> Option<MemoryCounters> {
    let (mut total, mut available, mut anonymous, mut dirty) = (None, None, None, None);
    let (mut swap_total, mut swap_free) = (None, None);
    for line in lines(text) {
        let mut words = words(line);
        let value = match words.next().unwrap_or_default() {
            b"MemTotal:" => &mut total,
            b"MemAvailable:" => &mut available,
            b"AnonPages:" => &mut anonymous,
            b"Dirty:" => &mut dirty,
            b"SwapTotal:" => &mut swap_total,
            b"SwapFree:" => &mut swap_free,
            _ => continue,
        };
        let kibibytes = next_number(&mut words)?;
        (words.next() == Some(b"kB")).then_some(())?;
        *value = Some(kibibytes.checked_mul(1024)?);
    }
    let counters = MemoryCounters {
        total: total.filter(|&total| total > 0)?,
        available: available?,
        anonymous,
        dirty,
        swap: swap_total.zip(swap_free).filter(|(total, free)| free <= total),
    };
    (counters.available <= counters.total).then_some(counters)
}

/// Reads `/proc/meminfo`.
#[derive(Debug)]
pub(super) struct Memory {
    file: KernelFile,
    buffer: Vec<u8>,
}

impl Memory {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            file: KernelFile::new(root.join("proc/meminfo")),
            buffer: Vec::new(),
        }
    }
}

impl Part for Memory {
    fn read(&mut self, now: Moment, out: &mut Vec<Reading>) -> Result<u64, ReadError> {
        let memory = self.file.parse(&mut self.buffer, parse_memory)?;
        let used = 1.0 - memory.available as f64 / memory.total as f64;
        let swap_used = memory.swap.filter(|&(total, _)| total > 0);
        let swap_used = swap_used.map(|(total, free)| (total - free) as f64 / total as f64);
        let bytes = |value: u64| value as f64;
        let values = [
            (Metric::HostMemoryUsed, Some(used)),
            (Metric::HostMemoryTotal, Some(bytes(memory.total))),
            (Metric::HostMemoryAvailable, Some(bytes(memory.available))),
            (Metric::HostMemoryAnonymous, memory.anonymous.map(bytes)),
            (Metric::HostMemoryDirty, memory.dirty.map(bytes)),
            (Metric::HostSwapUsed, swap_used),
            (Metric::HostSwapTotal, memory.swap.map(|(total, _)| bytes(total))),
        ];
        let known = values.into_iter().filter_map(|(metric, value)| Some((metric, value?)));
        out.extend(known.map(|(metric, value)| now.of_host(metric, value)));
        Ok(0)
    }
}

/// Reads `/proc/vmstat`.
#[derive(Debug)]
pub(super) struct MemoryEvents {
    file: KernelFile,
    buffer: Vec<u8>,
}

impl MemoryEvents {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            file: KernelFile::new(root.join("proc/vmstat")),
            buffer: Vec::new(),
        }
    }
}

impl Part for MemoryEvents {
    fn read(&mut self, now: Moment, out: &mut Vec<Reading>) -> Result<u64, ReadError> {
        let major = |text: &[u8]| Some((keyed(text, b"pgmajfault")?, keyed(text, b"oom_kill")));
        let (faults, kills) = self.file.parse(&mut self.buffer, major)?;
        out.push(now.of_host(Metric::HostMajorFaults, faults as f64));
        // Counted since 4.13.
        out.extend(kills.map(|kills| now.of_host(Metric::HostOomKills, kills as f64)));
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop, proptest};

    use super::*;

    #[test]
    fn bytes_are_read_and_nonsense_is_refused() {
        let good = "MemTotal: 100 kB\nMemFree: 1 kB\nMemAvailable: 60 kB\nSwapTotal: 10 kB\nSwapFree: 4 kB\n";
        let memory = parse_memory(good.as_bytes()).unwrap();
        assert_eq!(
            (memory.total, memory.available, memory.swap),
            (102_400, 61_440, Some((10_240, 4096)))
        );
        for bad in [
            "MemTotal: 100 kB\n",
            "MemTotal: 0 kB\nMemAvailable: 0 kB\n",
            "MemTotal: 100 kB\nMemAvailable: 101 kB\n",
            "MemTotal: 100 MB\nMemAvailable: 60 kB\n",
            "MemTotal: 100 kB\nMemAvailable: 18446744073709551615 kB\n",
            "MemTotal: 100 kB\nMemAvailable: -1 kB\n",
        ] {
            assert_eq!(parse_memory(bad.as_bytes()), None, "{bad:?}");
        }
        let odd_swap = "MemTotal: 100 kB\nMemAvailable: 60 kB\nSwapTotal: 1 kB\nSwapFree: 4 kB\n";
        assert_eq!(parse_memory(odd_swap.as_bytes()).unwrap().swap, None);
    }

    proptest! {
        #[test]
        fn no_text_panics(lines in prop::collection::vec("(MemTotal|MemAvailable|SwapFree|SwapTotal|Dirty): +[0-9]{0,22} kB", 0..8)) {
            if let Some(memory) = parse_memory(lines.join("\n").as_bytes()) {
                assert!(memory.available <= memory.total && memory.total > 0);
            }
        }
    }
}
