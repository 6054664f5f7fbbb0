//! How full the local file systems are.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{StatVfs, statvfs},
    io::Errno,
};

use super::{Mount, Part, parse_mounts};
use crate::{
    Metric, Reading, Subject,
    file::{KernelFile, ReadError},
    source::Moment,
    text,
};

/// Most file systems that are read.
const MAX_FILESYSTEMS: usize = 256;
/// Kinds that are on a disk of this host, or in its memory, and that can fill up. Others answer from afar (NFS, FUSE) or are
/// always full (squashfs).
const LOCAL_KINDS: [&[u8]; 14] = [
    b"bcachefs",
    b"btrfs",
    b"exfat",
    b"ext2",
    b"ext3",
    b"ext4",
    b"f2fs",
    b"jfs",
    b"ntfs3",
    b"tmpfs",
    b"ubifs",
    b"vfat",
    b"xfs",
    b"zfs",
];
/// Where small file systems in memory come and go with units and pods, and only their owner fills them.
const SKIPPED: [&[u8]; 2] = [b"/run/credentials", b"/var/lib/kubelet/pods"];
/// Kinds that only this kernel answers for, so that a path through them is not waited for.
const KERNEL_KINDS: [&[u8]; 18] = [
    b"bpf",
    b"cgroup",
    b"cgroup2",
    b"configfs",
    b"debugfs",
    b"devpts",
    b"devtmpfs",
    b"efivarfs",
    b"erofs",
    b"hugetlbfs",
    b"mqueue",
    b"overlay",
    b"proc",
    b"pstore",
    b"ramfs",
    b"securityfs",
    b"squashfs",
    b"sysfs",
];

/// The mounts to read, by mount point: one of each local file system, the shortest that is reached through nothing but
/// local ones.
pub(crate) fn choose(mounts: &[Mount]) -> BTreeMap<&[u8], &Mount> {
    let is_known = |mount: &Mount| LOCAL_KINDS.contains(&&*mount.kind) || KERNEL_KINDS.contains(&&*mount.kind);
    let remote: Vec<&Mount> = mounts.iter().filter(|mount| !is_known(mount)).collect();
    let mut last_at: BTreeMap<&[u8], &Mount> = BTreeMap::new();
    for mount in mounts {
        // What is mounted later on the same point hides what was there.
        last_at.insert(&mount.point, mount);
    }
    let mut local: Vec<&Mount> = last_at
        .into_values()
        .filter(|mount| LOCAL_KINDS.contains(&&*mount.kind) || is_root_of_container(mount))
        .filter(|mount| *mount.kind != *b"tmpfs" || !SKIPPED.iter().any(|above| lies_below(&mount.point, above)))
        .filter(|mount| !remote.iter().any(|remote| lies_below(&mount.point, &remote.point)))
        .collect();
    local.sort_by_key(|mount| (mount.point.len(), &mount.point));
    let mut devices = BTreeSet::new();
    let first = local.into_iter().filter(|mount| devices.insert(mount.device));
    first.map(|mount| (&*mount.point, mount)).collect()
}

/// In a container the root is an overlay, which answers for the disk below it.
fn is_root_of_container(mount: &Mount) -> bool {
    *mount.kind == *b"overlay" && *mount.point == *b"/"
}

fn lies_below(path: &[u8], above: &[u8]) -> bool {
    let rest = path.strip_prefix(above);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/") || above == b"/")
}

/// Blocks of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) block_bytes: u64,
    pub(crate) blocks: u64,
    pub(crate) free: u64,
    /// Free for ordinary users: less by what is kept for root.
    pub(crate) available: u64,
    pub(crate) inodes: u64,
    pub(crate) free_inodes: u64,
}

impl Space {
    fn of(answer: &StatVfs) -> Self {
        Self {
            block_bytes: answer.f_frsize,
            blocks: answer.f_blocks,
            free: answer.f_bfree,
            available: answer.f_bavail,
            inodes: answer.f_files,
            free_inodes: answer.f_ffree,
        }
    }

    /// As df reckons it: what is used against that and what ordinary users still get. None of a file system without a
    /// size, or that claims more free than it has.
    pub(crate) fn used(&self) -> Option<f64> {
        let used = self.blocks.checked_sub(self.free)?;
        let all = used.checked_add(self.available)?;
        (self.available <= self.free && all > 0).then(|| used as f64 / all as f64)
    }

    /// None of a file system that makes inodes as it needs them.
    pub(crate) fn inodes_used(&self) -> Option<f64> {
        let used = self.inodes.checked_sub(self.free_inodes)?;
        (self.inodes > 0).then(|| used as f64 / self.inodes as f64)
    }
}

/// Reads the mount table, and of each local file system how full it is.
#[derive(Debug)]
pub(crate) struct Filesystems {
    root: PathBuf,
    mounts: KernelFile,
    buffer: Vec<u8>,
}

impl Filesystems {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            mounts: KernelFile::new(root.join("proc/self/mountinfo")),
            buffer: Vec::new(),
        }
    }
}

impl Part for Filesystems {
    fn read(&mut self, now: Moment, out: &mut Vec<Reading>) -> Result<u64, ReadError> {
        let mounts = self.mounts.parse(&mut self.buffer, parse_mounts)?;
        let chosen = choose(&mounts);
        let mut result = Ok(chosen.len().saturating_sub(MAX_FILESYSTEMS) as u64);
        for point in chosen.keys().take(MAX_FILESYSTEMS) {
            let path = text::below(&self.root, point);
            let space = match statvfs(&path) {
                Ok(answer) => Space::of(&answer),
                // Unmounted since the table was read, or not there in this namespace.
                Err(Errno::NOENT) => continue,
                Err(reason) => {
                    result = Err(ReadError::failed(&path, reason));
                    continue;
                }
            };
            let Some(used) = space.used() else { continue };
            let bytes = |blocks: u64| blocks as f64 * space.block_bytes as f64;
            let values = [
                (Metric::FilesystemUsed, Some(used)),
                (Metric::FilesystemSize, Some(bytes(space.blocks))),
                (Metric::FilesystemAvailable, Some(bytes(space.available))),
                (Metric::FilesystemInodesUsed, space.inodes_used()),
            ];
            let subject = Subject::Filesystem(text::path_name(point));
            let known = values.into_iter().filter_map(|(metric, value)| Some((metric, value?)));
            out.extend(known.map(|(metric, value)| now.reading(metric, subject.clone(), value)));
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    fn points(mounts: &str) -> Vec<String> {
        let mounts = parse_mounts(mounts.as_bytes()).unwrap();
        let chosen = choose(&mounts);
        chosen
            .keys()
            .map(|point| String::from_utf8_lossy(point).into_owned())
            .collect()
    }

    #[test]
    fn each_local_file_system_is_read_once() {
        let mounts = "\
1 0 8:1 / / rw - ext4 /dev/sda1 rw
2 1 0:5 / /proc rw - proc proc rw
3 1 8:2 / /srv/data rw - xfs /dev/sda2 rw
4 1 8:2 /part /srv rw - xfs /dev/sda2 rw
5 1 0:9 / /run rw - tmpfs tmpfs rw
6 1 0:8 / /net rw - nfs4 server:/ rw
7 6 8:3 / /net/disk rw - ext4 /dev/sda3 rw
8 1 0:7 / /home rw - fuse.sshfs host: rw
9 1 7:0 / /snap ro - squashfs /dev/loop0 ro
10 1 0:12 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw
11 1 8:4 / /nets rw - ext4 /dev/sda4 rw
12 1 0:13 / /run/credentials/a.service ro - tmpfs tmpfs rw
";
        assert_eq!(points(mounts), ["/", "/nets", "/run", "/srv"]);
    }

    #[test]
    fn what_is_mounted_over_counts() {
        let hidden = "1 0 8:1 / / rw - ext4 a rw\n2 1 8:2 / /mnt rw - ext4 b rw\n3 2 0:8 / /mnt rw - nfs c rw\n";
        assert_eq!(points(hidden), ["/"]);
        assert_eq!(points("1 0 0:50 / / rw - overlay overlay rw\n"), ["/"]);
    }

    #[test]
    fn shares_are_as_df_reckons_them() {
        let space = Space {
            block_bytes: 4096,
            blocks: 100,
            free: 25,
            available: 20,
            inodes: 10,
            free_inodes: 9,
        };
        assert!((space.used().unwrap() - 75.0 / 95.0).abs() < 1e-12);
        assert!((space.inodes_used().unwrap() - 0.1).abs() < 1e-12);
        assert_eq!(Space { free: 101, ..space }.used(), None);
        assert_eq!(Space { available: 26, ..space }.used(), None);
        let empty = Space {
            blocks: 0,
            free: 0,
            available: 0,
            inodes: 0,
            free_inodes: 0,
            ..space
        };
        assert_eq!((empty.used(), empty.inodes_used()), (None, None));
    }

    proptest! {
        #[test]
        fn shares_are_shares(blocks in any::<u64>(), free in any::<u64>(), available in any::<u64>()) {
            let space = Space { block_bytes: 1, blocks, free, available, inodes: blocks, free_inodes: free };
            for share in [space.used(), space.inodes_used()].into_iter().flatten() {
                assert!((0.0..=1.0).contains(&share));
            }
        }
    }
}
