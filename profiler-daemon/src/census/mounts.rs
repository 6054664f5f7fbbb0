//! On which kind of file system a mapped file lies, told without asking that file system: one that hangs would hold whoever
//! asks it for good, be it only for what it is.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
};

use rustix::fs::makedev;

use crate::{kernel::records::Pid, processes::scan::ProcFs};

/// Most bytes of a list of mounts that are read, and the longest line of it that is understood.
const MAX_MOUNTS_BYTES: u64 = 4 << 20;
const MAX_LINE_BYTES: u64 = 16 << 10;
/// Most file systems that are told apart.
const MAX_FILE_SYSTEMS: usize = 1 << 14;
/// The host's own first process: what an overlay hides lies on what is mounted there.
const FIRST_PROCESS: Pid = Pid(1);
/// Kinds that ask somebody else; besides all of FUSE.
const REMOTE: [&str; 7] = ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "virtiofs"];

/// The kinds of the file systems that a process can see, and the host.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    kinds: BTreeMap<u64, String>,
}

impl Mounts {
    /// Reads the mounts that a process has, and those of the host.
    pub(super) fn read(proc: &ProcFs, pid: Pid) -> Self {
        let mut mounts = Self::default();
        for pid in [pid, FIRST_PROCESS] {
            if let Ok(file) = File::open(proc.path(pid, "mountinfo")) {
                mounts.add(BufReader::new(file.take(MAX_MOUNTS_BYTES)));
            }
        }
        mounts
    }

    /// Adds what `/proc/PID/mountinfo` lists (Documentation/filesystems/proc.rst, 3.5).
    fn add(&mut self, mut text: impl std::io::BufRead) {
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut text).take(MAX_LINE_BYTES).read_until(b'\n', &mut line);
            if !read.is_ok_and(|bytes| bytes > 0) || self.kinds.len() >= MAX_FILE_SYSTEMS {
                return;
            }
            if let Some((device, kind)) = parse(&line) {
                self.kinds.entry(device).or_insert(kind);
            }
        }
    }

    /// Whether a device is known to hold files whose pages may never come.
    pub(super) fn may_hang(&self, device: u64) -> bool {
        self.kinds.get(&device).is_some_and(|kind| asks_others(kind))
    }

    /// Why a file on a device is not to be opened, if so.
    pub(super) fn refusal(&self, device: u64) -> Option<String> {
        match self.kinds.get(&device) {
            None => Some("lies on a file system of which it is not known whether it answers".to_owned()),
            Some(kind) if asks_others(kind) => Some(format!("lies on a file system that may never answer ({kind})")),
            Some(_) => None,
        }
    }
}

fn asks_others(kind: &str) -> bool {
    REMOTE.contains(&kind) || kind.starts_with("fuse")
}

/// Device and kind of a mount.
fn parse(line: &[u8]) -> Option<(u64, String)> {
    let line = std::str::from_utf8(line).ok()?;
    let (major, minor) = line.split(' ').nth(2)?.split_once(':')?;
    let device = makedev(major.parse().ok()?, minor.parse().ok()?);
    let (_, of_file_system) = line.split_once(" - ")?;
    Some((device, of_file_system.split(' ').next()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_never_answer_is_told_from_what_does() {
        let mut mounts = Mounts::default();
        let text = "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
                    27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw\n\
                    28 1 0:50 / /mnt/a\\040b rw - fuse.sshfs host:/a rw\n\
                    malformed\n\
                    29 1 0:51 / /home rw - nfs4 host:/home rw";
        mounts.add(text.as_bytes());
        let refusal = |major, minor| mounts.refusal(makedev(major, minor));
        assert_eq!(refusal(254, 0), None);
        let told = |kind: &str| Some(format!("lies on a file system that may never answer ({kind})"));
        assert_eq!((refusal(0, 50), refusal(0, 51)), (told("fuse.sshfs"), told("nfs4")));
        assert!(refusal(8, 1).is_some(), "it may be anything");
        let long = format!(
            "{text}{}\n30 1 8:1 / /srv rw - xfs /dev/sda1 rw\n",
            "x".repeat(MAX_LINE_BYTES as usize)
        );
        mounts.add(long.as_bytes());
        assert_eq!(
            mounts.refusal(makedev(8, 1)),
            None,
            "a line that is too long hides no other"
        );
    }
}
