//! Opening files that belong to a process which is not trusted, and reading them within bounds.
//!
//! In: a mapping's place and path. Out: a descriptor of the very file that is mapped, or a typed error. A target chooses its
//! paths, and what lies there may be a symbolic link out of its root, a FIFO, a device, or a file that changes while it
//! is read. Therefore a path is first opened without access (`O_PATH`, so that no device is woken and nothing waits),
//! within the target's own root; only a regular file that proves to be the one mapped is then opened for reading; and
//! it is read with `pread`, never mapped: a truncated mapping would end the daemon.

use std::{
    io::{self, Read, Seek, SeekFrom},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};

use super::scan::{ProcFs, without_deleted_mark};
use crate::{kernel::records::Pid, stacks::window::FileIdentity};

/// File systems whose `stat` reports another device than the list of mappings does, and at times another inode
/// (`BTRFS_SUPER_MAGIC`, `OVERLAYFS_SUPER_MAGIC` of the kernel's `include/uapi/linux/magic.h`).
const OWN_DEVICE_NUMBERS: [u64; 2] = [0x9123_683e, 0x794c_7630];

/// Which file is mapped where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedPlace {
    /// The process.
    pub pid: Pid,
    /// First runtime address of the mapping.
    pub start: u64,
    /// Runtime address after its last.
    pub end: u64,
    /// Device and inode as the kernel reported them with the mapping.
    pub device_inode: Option<(u64, u64)>,
    /// Path as the process sees it.
    pub path: Vec<u8>,
}

/// A regular file of a process, open for reading.
#[derive(Debug)]
pub struct TargetFile {
    /// The descriptor.
    pub descriptor: OwnedFd,
    /// What it was when it was opened.
    pub identity: FileIdentity,
}

impl TargetFile {
    /// Whether it lies on a file system that asks somebody else: FUSE, NFS, CIFS, SMB, 9P, Ceph (`…_SUPER_MAGIC`, from
    /// `include/uapi/linux/magic.h` and the file systems' own headers).
    pub fn is_remote(&self) -> bool {
        const REMOTE: [u64; 6] = [0x6573_5546, 0x6969, 0xff53_4d42, 0xfe53_4d42, 0x0102_1997, 0x00c3_6400];
        rustix::fs::fstatfs(&self.descriptor).is_ok_and(|system| REMOTE.contains(&(system.f_type as u64)))
    }
}

/// Why a file of a process was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It does not exist any more, neither for the process nor at its path.
    #[error("the file is gone")]
    Gone,
    /// The kernel refused.
    #[error("{what}: {reason}")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        reason: io::Error,
    },
    /// A FIFO, a device, a directory or a socket.
    #[error("not a regular file")]
    NotRegular,
    /// Another file than the one mapped lies there now.
    #[error("another file lies at its path now")]
    Replaced,
}

/// How an open file was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Through the mapping itself.
    Mapping,
    /// By the path in the process's root.
    Path,
}

/// Opens the file that is mapped at a place: through `/proc/PID/map_files`, which needs `CAP_CHECKPOINT_RESTORE`, names
/// deleted files as well and cannot be misled; where that fails, by its path in the process's root.
pub fn open_mapped(proc: &ProcFs, place: &MappedPlace) -> Result<TargetFile, OpenError> {
    let link = proc.path(place.pid, &format!("map_files/{:x}-{:x}", place.start, place.end));
    let through_mapping = rustix::fs::open(&link, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| refused("opening it through its mapping", error))
        .and_then(|handle| open_if_same(&handle, place.device_inode, Way::Mapping));
    match through_mapping {
        Ok(file) => Ok(file),
        Err(first) => match open_by_path(proc, place) {
            // Neither way works: the reason of the first is the rarer to be an accident of names.
            Err(OpenError::Gone | OpenError::Replaced) if !matches!(first, OpenError::Gone) => Err(first),
            other => other,
        },
    }
}

/// Opens the program of a process.
pub fn open_executable(proc: &ProcFs, pid: Pid) -> Result<TargetFile, OpenError> {
    let handle = rustix::fs::open(proc.path(pid, "exe"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| refused("opening the program", error))?;
    open_if_same(&handle, None, Way::Mapping)
}

/// Opens what lies at an absolute path in a root, if it is a regular file. No link leads out of the root.
pub fn open_in_root(root: &Path, path: &[u8]) -> Result<TargetFile, OpenError> {
    let Some(relative) = path.strip_prefix(b"/").filter(|relative| !relative.is_empty()) else {
        return Err(OpenError::Gone);
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty())
        .map_err(|error| refused("opening the root", error))?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let handle = rustix::fs::openat2(&root, relative, flags, Mode::empty(), resolve)
        .map_err(|error| refused("opening it by its path", error))?;
    open_if_same(&handle, None, Way::Path)
}

fn open_by_path(proc: &ProcFs, place: &MappedPlace) -> Result<TargetFile, OpenError> {
    let path = without_deleted_mark(&place.path);
    let Some(relative) = path.strip_prefix(b"/").filter(|relative| !relative.is_empty()) else {
        return Err(OpenError::Gone);
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let open_root = |path: std::path::PathBuf| rustix::fs::open(path, flags | OFlags::DIRECTORY, Mode::empty());
    let root = match open_root(proc.path(place.pid, "root")) {
        // Of a process that is over, only a file that is known by its device and inode can be found, by its path as the
        // daemon has it.
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::SRCH) if place.device_inode.is_some() => {
            open_root(std::path::PathBuf::from("/"))
        }
        other => other,
    };
    let root = root.map_err(|error| refused("opening the root of its process", error))?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let handle = rustix::fs::openat2(&root, relative, flags, Mode::empty(), resolve)
        .map_err(|error| refused("opening it by its path", error))?;
    open_if_same(&handle, place.device_inode, Way::Path)
}

/// Opens what `handle` refers to for reading, if it is a regular file and the one that is mapped.
fn open_if_same(handle: &OwnedFd, expected: Option<(u64, u64)>, way: Way) -> Result<TargetFile, OpenError> {
    let stat = rustix::fs::fstat(handle).map_err(|error| refused("reading its attributes", error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(OpenError::NotRegular);
    }
    if let Some(expected) = expected {
        let own_numbers =
            || rustix::fs::fstatfs(handle).is_ok_and(|system| OWN_DEVICE_NUMBERS.contains(&(system.f_type as u64)));
        if !is_same(expected, (stat.st_dev, stat.st_ino), way, own_numbers) {
            return Err(OpenError::Replaced);
        }
    }
    // A lease on the file would make an open without O_NONBLOCK wait.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let descriptor = rustix::fs::open(format!("/proc/self/fd/{}", handle.as_raw_fd()), flags, Mode::empty())
        .map_err(|error| refused("opening it for reading", error))?;
    let stat = rustix::fs::fstat(&descriptor).map_err(|error| refused("reading its attributes", error))?;
    Ok(TargetFile {
        descriptor,
        identity: identity(&stat),
    })
}

/// Whether what was opened is what was mapped, as device and inode tell.
///
/// btrfs and overlayfs number devices for `stat` in their own way, and overlayfs sometimes inodes, too. There the address
/// of the mapping speaks for a file reached through it, and the equal inode for one reached by its path. That such a file
/// fits is checked once more by its content: an object is used for a mapping only if it has code at the mapped offset.
fn is_same(expected: (u64, u64), found: (u64, u64), way: Way, own_numbers: impl Fn() -> bool) -> bool {
    expected == found || own_numbers() && (way == Way::Mapping || expected.1 == found.1)
}

fn refused(what: &'static str, error: rustix::io::Errno) -> OpenError {
    match error {
        rustix::io::Errno::NOENT | rustix::io::Errno::SRCH | rustix::io::Errno::NOTDIR => OpenError::Gone,
        other => OpenError::Refused {
            what,
            reason: other.into(),
        },
    }
}

/// The identity of an open file now.
pub fn identity_of(descriptor: impl AsFd) -> io::Result<FileIdentity> {
    Ok(identity(&rustix::fs::fstat(descriptor)?))
}

fn identity(stat: &Stat) -> FileIdentity {
    let nanoseconds = |seconds: i64, rest: u64| seconds.saturating_mul(1_000_000_000).saturating_add_unsigned(rest);
    FileIdentity {
        device: stat.st_dev,
        inode: stat.st_ino,
        length: u64::try_from(stat.st_size).unwrap_or(0),
        modified_ns: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
        changed_ns: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
    }
}

/// A file read by `pread` only, within bounds: no further than its length when it was opened, and no more bytes in all
/// than a budget. Where the file has become shorter, reading ends there.
#[derive(Debug)]
pub struct BoundedFile<F> {
    file: F,
    length: u64,
    position: u64,
    budget: u64,
}

impl<F: AsFd> BoundedFile<F> {
    /// Reads `file` of `length` bytes, at most `budget` bytes in all.
    pub fn new(file: F, length: u64, budget: u64) -> Self {
        Self {
            file,
            length,
            position: 0,
            budget,
        }
    }

    /// Length when it was opened.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Fills as much of `buffer` from `offset` as there is, and returns how much that was.
    pub fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = self.length.saturating_sub(offset);
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.budget = self.budget.checked_sub(wanted as u64).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::QuotaExceeded,
                "more of the file would have to be read than is allowed",
            )
        })?;
        let mut filled = 0;
        while filled < wanted {
            match rustix::io::pread(&self.file, &mut buffer[filled..wanted], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(filled)
    }
}

impl<F: AsFd> Read for BoundedFile<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl<F> Seek for BoundedFile<F> {
    fn seek(&mut self, target: SeekFrom) -> io::Result<u64> {
        let position = match target {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(distance) => self.length.checked_add_signed(distance),
            SeekFrom::Current(distance) => self.position.checked_add_signed(distance),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        os::unix::{ffi::OsStrExt, fs::symlink},
        path::{Path, PathBuf},
    };

    use super::*;

    /// A `/proc` with one process, 7, whose root is a directory beside it.
    struct Tree {
        directory: tempfile::TempDir,
    }

    impl Tree {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let tree = Self { directory };
            fs::create_dir_all(tree.at("proc/7/map_files")).unwrap();
            fs::create_dir_all(tree.at("root/lib")).unwrap();
            symlink(tree.at("root"), tree.at("proc/7/root")).unwrap();
            fs::write(tree.at("outside"), "outside").unwrap();
            fs::write(tree.at("root/lib/a.so"), "inside").unwrap();
            tree
        }

        fn at(&self, path: &str) -> PathBuf {
            self.directory.path().join(path)
        }

        fn open(&self, path: &str, like: Option<&Path>) -> Result<TargetFile, OpenError> {
            let place = MappedPlace {
                pid: Pid(7),
                start: 0x1000,
                end: 0x2000,
                device_inode: like.map(|like| {
                    let stat = rustix::fs::stat(like).unwrap();
                    (stat.st_dev, stat.st_ino)
                }),
                path: path.into(),
            };
            open_mapped(&ProcFs::new(self.at("proc")), &place)
        }
    }

    fn content(file: &TargetFile) -> Vec<u8> {
        let mut bytes = Vec::new();
        BoundedFile::new(&file.descriptor, file.identity.length, 1 << 20)
            .read_to_end(&mut bytes)
            .unwrap();
        bytes
    }

    #[test]
    fn by_path_in_the_root() {
        let tree = Tree::new();
        let file = tree.open("/lib/a.so", Some(&tree.at("root/lib/a.so"))).unwrap();
        assert_eq!(content(&file), b"inside");
        let deleted = tree
            .open("/lib/a.so (deleted)", Some(&tree.at("root/lib/a.so")))
            .unwrap();
        assert_eq!(deleted.identity, file.identity);
    }

    #[test]
    fn through_the_mapping_first() {
        let tree = Tree::new();
        symlink(tree.at("outside"), tree.at("proc/7/map_files/1000-2000")).unwrap();
        let file = tree.open("/lib/a.so", Some(&tree.at("outside"))).unwrap();
        assert_eq!(content(&file), b"outside");
        // The mapping is another's now: the path still leads to the right file.
        let file = tree.open("/lib/a.so", Some(&tree.at("root/lib/a.so"))).unwrap();
        assert_eq!(content(&file), b"inside");
    }

    #[test]
    fn no_link_leads_out_of_the_root() {
        let tree = Tree::new();
        for (name, target) in [
            ("absolute", tree.at("outside")),
            ("relative", PathBuf::from("../../outside")),
            ("many", PathBuf::from("../../../../../../../../etc/passwd")),
            ("magic", PathBuf::from("/proc/self/exe")),
            ("own", PathBuf::from(format!("/proc/{}/fd/0", std::process::id()))),
        ] {
            symlink(target, tree.at("root/lib").join(name)).unwrap();
            let opened = tree.open(&format!("/lib/{name}"), None);
            assert!(matches!(opened, Err(OpenError::Gone)), "{name}: {opened:?}");
        }
        assert!(matches!(tree.open("/lib/../../../outside", None), Err(OpenError::Gone)));
        symlink("loop", tree.at("root/lib/loop")).unwrap();
        assert!(matches!(tree.open("/lib/loop", None), Err(OpenError::Refused { .. })));
        // Links within the root work, absolute ones included.
        symlink("/lib/a.so", tree.at("root/lib/inner")).unwrap();
        assert_eq!(content(&tree.open("/lib/inner", None).unwrap()), b"inside");
    }

    #[test]
    fn only_regular_files() {
        let tree = Tree::new();
        rustix::fs::mknodat(rustix::fs::CWD, tree.at("root/lib/fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(tree.at("root/lib/socket")).unwrap();
        for name in ["fifo", "socket", ""] {
            let opened = tree.open(&format!("/lib/{name}"), None);
            assert!(matches!(opened, Err(OpenError::NotRegular)), "{name}: {opened:?}");
        }
        drop(socket);
        // A device, reached as a mapping of one would be.
        symlink("/dev/zero", tree.at("proc/7/map_files/1000-2000")).unwrap();
        assert!(matches!(tree.open("/gone", None), Err(OpenError::NotRegular)));
    }

    #[test]
    fn not_another_file() {
        let tree = Tree::new();
        fs::write(tree.at("root/lib/b.so"), "other").unwrap();
        let opened = tree.open("/lib/b.so", Some(&tree.at("root/lib/a.so")));
        assert!(matches!(opened, Err(OpenError::Replaced)), "{opened:?}");
        assert!(matches!(tree.open("/lib/none.so", None), Err(OpenError::Gone)));
        assert!(matches!(
            tree.open("//anon", None),
            Err(OpenError::Gone | OpenError::Refused { .. })
        ));
        assert!(matches!(tree.open("", None), Err(OpenError::Gone)));
    }

    #[test]
    fn devices_may_differ_where_the_file_system_numbers_them_itself() {
        let check = |found, way, own, expected| assert_eq!(is_same((1, 2), found, way, || own), expected);
        check((1, 2), Way::Path, false, true);
        check((9, 2), Way::Path, false, false);
        check((9, 2), Way::Path, true, true);
        check((9, 9), Way::Path, true, false);
        check((9, 9), Way::Mapping, true, true);
        check((9, 9), Way::Mapping, false, false);
    }

    #[test]
    fn names_of_any_bytes() {
        let tree = Tree::new();
        let name = std::ffi::OsStr::from_bytes(b"\x1b[31m\xff\n<script>");
        fs::write(tree.at("root/lib").join(name), "odd").unwrap();
        let place = MappedPlace {
            pid: Pid(7),
            start: 1,
            end: 2,
            device_inode: None,
            path: [b"/lib/", name.as_bytes()].concat(),
        };
        assert_eq!(
            content(&open_mapped(&ProcFs::new(tree.at("proc")), &place).unwrap()),
            b"odd"
        );
    }

    #[test]
    fn truncated_while_read() {
        let tree = Tree::new();
        let path = tree.at("root/lib/big");
        fs::write(&path, vec![7; 100_000]).unwrap();
        let file = tree.open("/lib/big", None).unwrap();
        let mut reader = BoundedFile::new(&file.descriptor, file.identity.length, u64::MAX);
        let mut buffer = vec![0; 60_000];
        assert_eq!(reader.read(&mut buffer).unwrap(), 60_000);
        File::options().write(true).open(&path).unwrap().set_len(10).unwrap();
        assert_eq!(reader.read(&mut buffer).unwrap(), 0);
        assert!(reader.read_exact(&mut buffer).is_err());
        assert_ne!(identity_of(&file.descriptor).unwrap(), file.identity);
    }

    #[test]
    fn a_sparse_file_costs_no_memory_and_no_more_than_the_budget() {
        let tree = Tree::new();
        File::create(tree.at("root/lib/sparse"))
            .unwrap()
            .set_len(4 << 30)
            .unwrap();
        let file = tree.open("/lib/sparse", None).unwrap();
        let mut reader = BoundedFile::new(&file.descriptor, file.identity.length, 1 << 20);
        assert_eq!(reader.length(), 4 << 30);
        let mut bytes = Vec::new();
        let error = reader.by_ref().take(1 << 30).read_to_end(&mut bytes).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
        assert!(bytes.len() <= 1 << 20);
        assert_eq!(reader.seek(SeekFrom::End(-1)).unwrap(), (4 << 30) - 1);
        assert!(reader.seek(SeekFrom::Current(i64::MIN)).is_err());
    }
}
