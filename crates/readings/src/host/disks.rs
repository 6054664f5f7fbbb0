//! Block devices, from `/proc/diskstats` (the kernel's `Documentation/admin-guide/iostats.rst`).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::Part;
use crate::{
    Metric, Reading, Subject,
    file::{KernelFile, ReadError},
    source::Moment,
    text::{self, lines, next_number, words},
};

/// Most devices that are read.
const MAX_DISKS: usize = 256;
/// Most devices that are looked at, partitions and unused ones included.
const MAX_LINES: usize = 4096;
/// The kernel counts in these units whatever the sectors of a device are.
const SECTOR_BYTES: f64 = 512.0;
/// The kernel writes times in milliseconds as 32 bits.
const WRAP_MS: u64 = 1 << 32;

/// What is said of one device, since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DiskCounters {
    pub(crate) reads: u64,
    pub(crate) read_sectors: u64,
    pub(crate) read_ms: u64,
    pub(crate) writes: u64,
    pub(crate) written_sectors: u64,
    pub(crate) write_ms: u64,
    pub(crate) in_flight: u64,
    pub(crate) busy_ms: u64,
}

impl DiskCounters {
    fn is_used(&self) -> bool {
        self.reads > 0 || self.writes > 0
    }

    /// The share of an interval in which the device was busy; none if counting began again.
    pub(crate) fn busy_since(&self, before: &Self, seconds: f64) -> Option<f64> {
        let passed = if self.busy_ms >= before.busy_ms {
            self.busy_ms - before.busy_ms
        } else if before.busy_ms < WRAP_MS {
            self.busy_ms + (WRAP_MS - before.busy_ms)
        } else {
            return None;
        };
        let share = passed as f64 / 1000.0 / seconds;
        // Time is counted in ticks, and a bit of it belongs to the intervals beside. More is another device's.
        let slack = 1.0 + 0.1 / seconds + 0.1;
        (share <= slack).then(|| share.min(1.0))
    }
}

/// The text of `/proc/diskstats`: name and counters of each device. A line that is none spoils all: nothing says which
/// device it was.
pub(crate) fn parse_disks(text: &[u8]) -> Option<Vec<(&[u8], DiskCounters)>> {
    lines(text).take(MAX_LINES).map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<(&[u8], DiskCounters)> {
    let mut words = words(line);
    let (_major, _minor) = (next_number(&mut words)?, next_number(&mut words)?);
    let name = words.next()?;
    let mut next = || next_number(&mut words);
    let (reads, _merged, read_sectors, read_ms) = (next()?, next()?, next()?, next()?);
    let (writes, _merged, written_sectors, write_ms) = (next()?, next()?, next()?, next()?);
    let counters = DiskCounters {
        reads,
        read_sectors,
        read_ms,
        writes,
        written_sectors,
        write_ms,
        in_flight: next()?,
        busy_ms: next()?,
    };
    Some((name, counters))
}

/// One device.
#[derive(Debug)]
struct Disk {
    name: Arc<str>,
    /// A part of another device, whose counters hold its own.
    is_partition: bool,
    before: Option<(Duration, DiskCounters)>,
    seen: bool,
}

/// Reads `/proc/diskstats`.
#[derive(Debug)]
pub(super) struct Disks {
    file: KernelFile,
    devices: PathBuf,
    buffer: Vec<u8>,
    known: BTreeMap<Box<[u8]>, Disk>,
}

impl Disks {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            file: KernelFile::new(root.join("proc/diskstats")),
            devices: root.join("sys/class/block"),
            buffer: Vec::new(),
            known: BTreeMap::new(),
        }
    }
}

/// Whether a device is part of another. A name with a slash has an exclamation mark instead in sysfs.
fn is_partition(devices: &Path, name: &str) -> bool {
    devices.join(name.replace('/', "!")).join("partition").exists()
}

impl Part for Disks {
    fn read(&mut self, now: Moment, out: &mut Vec<Reading>) -> Result<u64, ReadError> {
        let text = self.file.read(&mut self.buffer)?;
        let Some(disks) = parse_disks(text) else {
            self.known.clear();
            return Err(ReadError::malformed(self.file.path()));
        };
        let mut left_out = 0;
        for (name, counters) in disks.iter().filter(|(_, counters)| counters.is_used()) {
            if !self.known.contains_key(*name) {
                if self.known.len() == MAX_DISKS {
                    left_out += 1;
                    continue;
                }
                let shown = text::name(name);
                let disk = Disk {
                    is_partition: is_partition(&self.devices, &shown),
                    name: shown,
                    before: None,
                    seen: false,
                };
                self.known.insert((*name).into(), disk);
            }
            if let Some(disk) = self.known.get_mut(*name) {
                disk.push(counters, now, out);
            }
        }
        self.known.retain(|_, disk| std::mem::take(&mut disk.seen));
        Ok(left_out)
    }
}

impl Disk {
    fn push(&mut self, counters: &DiskCounters, now: Moment, out: &mut Vec<Reading>) {
        self.seen = true;
        if self.is_partition {
            return;
        }
        let before = self.before.replace((now.since_boot, *counters));
        let busy = before.and_then(|(earlier, before)| counters.busy_since(&before, now.seconds_since(earlier)?));
        let values = [
            (Metric::DiskReadBytes, counters.read_sectors as f64 * SECTOR_BYTES),
            (Metric::DiskWrittenBytes, counters.written_sectors as f64 * SECTOR_BYTES),
            (Metric::DiskReads, counters.reads as f64),
            (Metric::DiskWrites, counters.writes as f64),
            (Metric::DiskReadTime, counters.read_ms as f64 / 1000.0),
            (Metric::DiskWriteTime, counters.write_ms as f64 / 1000.0),
            (Metric::DiskQueue, counters.in_flight as f64),
        ];
        let values = values.into_iter().chain(busy.map(|busy| (Metric::DiskBusy, busy)));
        out.extend(values.map(|(metric, value)| now.reading(metric, Subject::Disk(Arc::clone(&self.name)), value)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    fn busy(busy_ms: u64) -> DiskCounters {
        DiskCounters {
            reads: 1,
            read_sectors: 0,
            read_ms: 0,
            writes: 0,
            written_sectors: 0,
            write_ms: 0,
            in_flight: 0,
            busy_ms,
        }
    }

    #[test]
    fn a_line_is_read() {
        let line =
            b" 254 0 vda 6076455 234336 271077834 12453810 779397 994376 328231320 2154947 3 618968 14774392 874399\n";
        let disks = parse_disks(line).unwrap();
        let (name, disk) = &disks[0];
        assert_eq!(*name, b"vda");
        assert_eq!(
            (disk.reads, disk.read_sectors, disk.read_ms),
            (6_076_455, 271_077_834, 12_453_810)
        );
        assert_eq!(
            (disk.writes, disk.written_sectors, disk.write_ms),
            (779_397, 328_231_320, 2_154_947)
        );
        assert_eq!((disk.in_flight, disk.busy_ms), (3, 618_968));
        for text in ["254 0 vda 1 2 3\n", "254 0 vda 1 2 3 4 5 6 7 8 9 x 1\n", "vda\n"] {
            assert_eq!(parse_disks(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn busy_time_wraps_and_begins_again() {
        assert_eq!(busy(1500).busy_since(&busy(1000), 1.0), Some(0.5));
        assert_eq!(busy(250).busy_since(&busy(WRAP_MS - 250), 1.0), Some(0.5));
        assert_eq!(busy(2050).busy_since(&busy(1000), 1.0), Some(1.0), "rounded ticks");
        assert_eq!(busy(9000).busy_since(&busy(1000), 1.0), None, "more than passed");
        assert_eq!(busy(10).busy_since(&busy(1000), 1.0), None, "counting began again");
        assert_eq!(busy(10).busy_since(&busy(WRAP_MS * 2), 1.0), None);
    }

    proptest! {
        #[test]
        fn shares_are_shares(before in any::<u64>(), after in 0..u64::MAX / 2, seconds in 0.001..100.0_f64) {
            if let Some(share) = busy(after).busy_since(&busy(before), seconds) {
                assert!((0.0..=1.0).contains(&share));
            }
        }

        #[test]
        fn no_text_panics(text in "( 8 0 sda [0-9 ]{0,60}\n|[a-z0-9 ]{0,40}\n){0,6}") {
            let _ = parse_disks(text.as_bytes());
        }
    }
}
