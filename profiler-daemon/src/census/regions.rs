//! Where a process may have pools: its private anonymous memory, as far as it is there.

use std::{
    io::{self, BufRead, Read},
    ops::Range,
};

use rustix::fs::makedev;

/// Most bytes of the list of mappings that are read; 65,530 mappings with long paths fit.
const MAX_MAPS_BYTES: u64 = 16 << 20;
/// Longest line of it that means anything here.
const MAX_LINE_BYTES: u64 = 17 << 10;
/// Most mappings that are kept.
const MAX_REGIONS: usize = 1 << 17;
/// Bytes of a page, and of what `/proc/PID/pagemap` says of one.
pub(super) const PAGE_BYTES: u64 = 4096;
pub(super) const ENTRY_BYTES: u64 = 8;

/// Mappings that may hold pools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Regions {
    /// The smallest first: if time runs out, it does so in the largest, which are the likeliest to be something else.
    pub(crate) ranges: Vec<Range<u64>>,
    /// What is mapped of files whose pages may never come, in the order of addresses.
    pub(crate) avoided: Vec<Range<u64>>,
    /// The list was longer than is read.
    pub(crate) is_cut: bool,
}

impl Regions {
    /// Reads `/proc/PID/maps`. Mappings without room for an aligned pool are left out. `may_hang` tells the devices whose pages may
    /// never come.
    pub(crate) fn read(maps: impl Read, pool_bytes: u64, may_hang: impl Fn(u64) -> bool) -> io::Result<Self> {
        let mut text = io::BufReader::with_capacity(32 << 10, maps.take(MAX_MAPS_BYTES));
        let mut regions = Self::default();
        let mut line = Vec::new();
        loop {
            line.clear();
            if (&mut text).take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let Some(content) = line.strip_suffix(b"\n") else {
                regions.is_cut = true;
                break;
            };
            let Some(Mapping {
                range,
                device,
                may_have_pools,
            }) = Mapping::parse(content)
            else {
                continue;
            };
            if device.is_some_and(&may_hang) {
                if regions.avoided.len() >= MAX_REGIONS {
                    regions.is_cut = true;
                    break;
                }
                regions.avoided.push(range);
                continue;
            }
            if !may_have_pools {
                continue;
            }
            let first = range.start.next_multiple_of(pool_bytes);
            if first.checked_add(pool_bytes).is_none_or(|end| end > range.end) {
                continue;
            }
            if regions.ranges.len() >= MAX_REGIONS {
                regions.is_cut = true;
                break;
            }
            regions.ranges.push(range);
        }
        regions
            .ranges
            .sort_by_key(|range| (range.end - range.start, range.start));
        Ok(regions)
    }
}

/// A line `start-end perms offset major:minor inode   path`.
struct Mapping {
    range: Range<u64>,
    /// Of what it is a file of.
    device: Option<u64>,
    /// It is memory as the allocator maps it: readable, writable, private, of no file. From 3.15 on it has a name of its own; huge
    /// pages look like a deleted file.
    may_have_pools: bool,
}

impl Mapping {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.splitn(6, |byte| *byte == b' ');
        let mut field = || fields.next();
        let range = str::from_utf8(field()?).ok()?;
        let rights = field()?;
        let (_offset, device, inode) = (field()?, field()?, field()?);
        let path = field().unwrap_or_default().trim_ascii();
        let is_anonymous = inode == b"0" && (path.is_empty() || path.starts_with(b"[anon:"));
        let is_private = rights.starts_with(b"rw") && rights.ends_with(b"p");
        let (start, end) = range.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        let range = number(start)?..number(end)?;
        (range.start < range.end).then_some(Self {
            range,
            device: device_of(device).filter(|_| inode != b"0"),
            may_have_pools: is_private && (is_anonymous || path.starts_with(b"/anon_hugepage")),
        })
    }
}

fn device_of(text: &[u8]) -> Option<u64> {
    let (major, minor) = str::from_utf8(text).ok()?.split_once(':')?;
    let number = |text| u32::from_str_radix(text, 16).ok();
    Some(makedev(number(major)?, number(minor)?))
}

/// What `/proc/PID/pagemap` says of a page (`Documentation/admin-guide/mm/pagemap.rst`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// It can be read without bringing it in.
    Present,
    /// Reading would bring it in.
    Swapped,
    /// Nothing was ever put there.
    Absent,
}

impl Page {
    pub(super) fn of(entry: u64) -> Self {
        if entry >> 63 & 1 == 1 {
            Self::Present
        } else if entry >> 62 & 1 == 1 {
            Self::Swapped
        } else {
            Self::Absent
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regions(text: &str, pool: u64) -> Vec<Range<u64>> {
        Regions::read(text.as_bytes(), pool, |_| false).unwrap().ranges
    }

    #[test]
    fn only_memory_as_the_allocator_maps_it_is_looked_at() {
        let text = "\
00400000-00b00000 rw-p 00000000 fe:00 77                         /usr/bin/python3.11
01000000-02000000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000400000 rw-p 00000000 00:00 0
7f0000400000-7f0000500000 rw-p 00000000 00:00 0                  [anon:cpython:pymalloc]
7f0000500000-7f0000600000 r--p 00000000 00:00 0
7f0000600000-7f0000700000 rw-s 00000000 00:01 9                  /dev/zero (deleted)
7f0000700000-7f0000704000 rw-p 00000000 00:00 0
7f0000704800-7f0000709000 rw-p 00000000 00:00 0
7f0000800000-7f0000a00000 rw-p 00000000 00:0f 5                  /anon_hugepage (deleted)
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                  [stack]
";
        let expected = [
            0x7f00_0070_0000..0x7f00_0070_4000,
            0x7f00_0040_0000..0x7f00_0050_0000,
            0x7f00_0080_0000..0x7f00_00a0_0000,
            0x7f00_0000_0000..0x7f00_0040_0000,
        ];
        assert_eq!(regions(text, 16 << 10), expected);
        assert_eq!(regions(text, 4 << 10).len(), 5);
    }

    #[test]
    fn what_is_no_list_of_mappings_is_left_out() {
        for text in ["\n", "x\n", "1-2\n", "2000-1000 rw-p 0 0:0 0\n", "zz-yy rw-p 0 0:0 0\n"] {
            assert_eq!(regions(text, 4096), [] as [Range<u64>; 0], "{text:?}");
        }
        let last = "fffffffffffff000-ffffffffffffffff rw-p 0 0:0 0\n";
        assert_eq!(regions(last, 4096), [] as [Range<u64>; 0]);
        let cut = Regions::read(&b"1000-9000 rw-p 0 0:0 0"[..], 4096, |_| false).unwrap();
        assert!(cut.is_cut);
        let many: String = (1..70_000_u64)
            .map(|index| format!("{:x}-{:x} rw-p 00000000 00:00 0\n", index << 16, (index << 16) + 0x8000))
            .collect();
        assert_eq!(regions(&many, 16 << 10).len(), 69_999);
    }

    #[test]
    fn what_may_never_come_is_told() {
        let text = "\
10000000-10004000 r--p 00000000 fe:00 77                         /usr/bin/python3.11
20000000-20004000 r--p 00000000 00:2f 5                          /mnt/remote/data
30000000-30008000 rw-p 00000000 00:2f 5                          /mnt/remote/data
40000000-40008000 rw-p 00000000 00:00 0
";
        let remote = makedev(0, 0x2f);
        let regions = Regions::read(text.as_bytes(), 4096, |device| device == remote).unwrap();
        assert_eq!(regions.avoided, [0x2000_0000..0x2000_4000, 0x3000_0000..0x3000_8000]);
        assert_eq!(
            regions.ranges,
            [Range {
                start: 0x4000_0000,
                end: 0x4000_8000
            }]
        );
    }

    #[test]
    fn pages_are_told_apart() {
        for (entry, page) in [
            (0, Page::Absent),
            (1 << 63 | 77, Page::Present),
            (1 << 62, Page::Swapped),
            (1 << 61 | 1 << 55, Page::Absent),
        ] {
            assert_eq!(Page::of(entry), page);
        }
    }
}
