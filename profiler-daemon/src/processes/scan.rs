//! Reading `/proc` under a root path.
//!
//! In: a process id. Out: what the kernel says about it, parsed and bounded. Everything read here is text of the kernel's
//! own, but names and paths in it are the target's, and so is how much there is of it.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use profiler_common::limits::MAX_MAPPINGS_PER_PROCESS;
use rustix::{fs::makedev, io::Errno};

use crate::kernel::records::{MapRecord, Pid};

/// Most bytes of `/proc/PID/maps` that are read. The default limit of mappings (65,530) with long paths fits.
const MAX_MAPS_BYTES: u64 = 16 << 20;
/// Most bytes of it that count as a short list: some six hundred mappings, which are read in less than a millisecond.
const MAX_SHORT_MAPS_BYTES: u64 = 64 << 10;
/// Longest line of `/proc/PID/maps`: a path of 4,096 bytes, each of them escaped as four.
const MAX_LINE_BYTES: u64 = 17 << 10;
/// Most bytes of the small files `stat`, `status` and `cgroup`.
const MAX_SMALL_FILE_BYTES: u64 = 64 << 10;
/// Most threads of a process that are looked at.
const MAX_THREADS: usize = 4096;
/// Most bytes of a command line that are shown.
const MAX_COMMAND_LINE_BYTES: u64 = 16 << 10;
/// `PF_KTHREAD` of the kernel's `include/linux/sched.h`.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// The `/proc` of a host, or a tree that looks like it.
#[derive(Clone, Debug)]
pub struct ProcFs {
    root: PathBuf,
}

/// Why something of `/proc` could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The process does not exist.
    #[error("there is no such process")]
    Gone,
    /// The daemon may not read it.
    #[error("may not read {}: {reason}", path.display())]
    Denied {
        /// What was to be read.
        path: PathBuf,
        /// What the kernel said.
        reason: io::Error,
    },
    /// Reading failed otherwise.
    #[error("cannot read {}: {reason}", path.display())]
    Failed {
        /// What was to be read.
        path: PathBuf,
        /// What the kernel said.
        reason: io::Error,
    },
    /// The content is not what the kernel writes.
    #[error("{} is not of the kernel's format", path.display())]
    Malformed {
        /// What was read.
        path: PathBuf,
    },
}

/// What `/proc/PID/stat` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcStat {
    /// Name of the first thread.
    pub name: Vec<u8>,
    /// The first thread has ended and waits to be reaped.
    pub zombie: bool,
    /// It runs in the kernel only.
    pub kernel_thread: bool,
    /// Threads that have not ended; a zombie counts itself.
    pub threads: u32,
    /// When it started, in ticks since boot: tells processes with the same id apart.
    pub start_ticks: u64,
}

/// Who a process is to its own kind and to file systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Its id in its own PID namespace.
    pub own_pid: u32,
    /// The effective user id, which owns the files that it makes.
    pub effective_user_id: u32,
}

/// The executable mappings of a process at one moment, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapsScan {
    /// The mappings with the lowest addresses, at most [`MAX_MAPPINGS_PER_PROCESS`].
    pub executable: Vec<MapRecord>,
    /// Executable mappings beyond that number.
    pub left_out: u64,
    /// The list was longer than is read.
    pub truncated: bool,
    /// Some mapping lies beyond 4 GiB, as in every 64-bit process (its stack does): the kernel gives a 32-bit program
    /// none there.
    pub has_64_bit_addresses: bool,
}

impl ProcFs {
    /// The tree under `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file of a process.
    pub fn path(&self, pid: Pid, name: &str) -> PathBuf {
        self.root.join(pid.to_string()).join(name)
    }

    /// All processes, ascending.
    pub fn processes(&self) -> Result<Vec<Pid>, ScanError> {
        let fail = |reason| ScanError::Failed {
            path: self.root.clone(),
            reason,
        };
        let mut pids = Vec::new();
        for entry in std::fs::read_dir(&self.root).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            if let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) {
                pids.push(Pid(pid));
            }
        }
        pids.sort_unstable();
        Ok(pids)
    }

    /// Reads `/proc/PID/stat`.
    pub fn stat(&self, pid: Pid) -> Result<ProcStat, ScanError> {
        let path = self.path(pid, "stat");
        let text = read_bounded(&path, MAX_SMALL_FILE_BYTES)?;
        parse_stat(&text).ok_or(ScanError::Malformed { path })
    }

    /// The real user id.
    pub fn user_id(&self, pid: Pid) -> Result<u32, ScanError> {
        let path = self.path(pid, "status");
        let text = read_bounded(&path, MAX_SMALL_FILE_BYTES)?;
        parse_user_id(&text).ok_or(ScanError::Malformed { path })
    }

    /// Reads who a process is to others from `/proc/PID/status`.
    pub fn credentials(&self, pid: Pid) -> Result<Credentials, ScanError> {
        let path = self.path(pid, "status");
        let text = read_bounded(&path, MAX_SMALL_FILE_BYTES)?;
        parse_credentials(&text).ok_or(ScanError::Malformed { path })
    }

    /// The threads of a process, by the ids that they have in its own PID namespace. Those that cannot be read are left out.
    pub fn own_thread_ids(&self, pid: Pid) -> Result<Vec<u32>, ScanError> {
        let directory = self.path(pid, "task");
        let entries = std::fs::read_dir(&directory).map_err(|reason| classify(directory.clone(), reason))?;
        let threads = entries.take(MAX_THREADS).filter_map(|entry| {
            let text = read_bounded(&entry.ok()?.path().join("status"), MAX_SMALL_FILE_BYTES).ok()?;
            parse_credentials(&text).map(|credentials| credentials.own_pid)
        });
        Ok(threads.collect())
    }

    /// Path of the program as the process sees it, without the mark of deleted files.
    pub fn executable(&self, pid: Pid) -> Result<Vec<u8>, ScanError> {
        let path = self.path(pid, "exe");
        let target = std::fs::read_link(&path).map_err(|reason| classify(path, reason))?;
        let mut bytes = target.into_os_string().into_vec();
        bytes.truncate(without_deleted_mark(&bytes).len());
        Ok(bytes)
    }

    /// The arguments, those that fit.
    pub fn command_line(&self, pid: Pid) -> Result<Vec<String>, ScanError> {
        let bytes = read_bounded(&self.path(pid, "cmdline"), MAX_COMMAND_LINE_BYTES)?;
        let bytes = bytes.strip_suffix(&[0]).unwrap_or(&bytes);
        if bytes.is_empty() {
            return Ok(Vec::new());
        }
        let arguments = bytes.split(|&byte| byte == 0);
        Ok(arguments
            .map(|argument| String::from_utf8_lossy(argument).into_owned())
            .collect())
    }

    /// The content of `/proc/PID/cgroup`.
    pub fn cgroup(&self, pid: Pid) -> Result<Vec<u8>, ScanError> {
        read_bounded(&self.path(pid, "cgroup"), MAX_SMALL_FILE_BYTES)
    }

    /// Reads the executable mappings from `/proc/PID/maps`. A list of the largest size takes tens of milliseconds.
    pub fn maps(&self, pid: Pid) -> Result<MapsScan, ScanError> {
        let path = self.path(pid, "maps");
        let file = File::open(&path).map_err(|reason| classify(path.clone(), reason))?;
        let reader = BufReader::with_capacity(32 << 10, file.take(MAX_MAPS_BYTES));
        match parse_maps(reader) {
            Ok(scan) => scan.ok_or(ScanError::Malformed { path }),
            // The process ended while its list was read.
            Err(reason) => Err(classify(path, reason)),
        }
    }

    /// The same if the list is short, as nearly all are.
    pub fn maps_start(&self, pid: Pid) -> Result<MapsStart, ScanError> {
        let path = self.path(pid, "maps");
        let text = read_bounded(&path, MAX_SHORT_MAPS_BYTES + 1)?;
        if text.len() as u64 > MAX_SHORT_MAPS_BYTES {
            return Ok(MapsStart::Longer);
        }
        match parse_maps(&text[..]) {
            Ok(Some(scan)) => Ok(MapsStart::Whole(scan)),
            Ok(None) => Err(ScanError::Malformed { path }),
            Err(reason) => Err(classify(path, reason)),
        }
    }
}

/// A list of mappings, or as much as is known of it after a short look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapsStart {
    /// All of it.
    Whole(MapsScan),
    /// It takes longer than a short look.
    Longer,
}

impl MapsScan {
    fn add(&mut self, line: MapsLine) {
        self.has_64_bit_addresses |= line.record.start > u64::from(u32::MAX);
        if !line.executable {
            return;
        }
        if self.executable.len() < MAX_MAPPINGS_PER_PROCESS as usize {
            self.executable.push(line.record);
        } else {
            self.left_out += 1;
        }
    }
}

/// The mappings of a whole list; `None` if a line is not of the kernel's format.
pub(crate) fn parse_maps(mut text: impl BufRead) -> io::Result<Option<MapsScan>> {
    let mut scan = MapsScan::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut text).take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
            return Ok(Some(scan));
        }
        let Some(content) = line.strip_suffix(b"\n") else {
            scan.truncated = true;
            return Ok(Some(scan));
        };
        match parse_maps_line(content) {
            Some(parsed) => scan.add(parsed),
            None => return Ok(None),
        }
    }
}

struct MapsLine {
    record: MapRecord,
    executable: bool,
}

/// `start-end perms offset major:minor inode   path`, numbers in hexadecimal but for the inode
/// (`show_map_vma` in the kernel's `fs/proc/task_mmu.c`).
fn parse_maps_line(line: &[u8]) -> Option<MapsLine> {
    let mut rest = line;
    let mut field = || {
        let end = rest.iter().position(|&byte| byte == b' ').unwrap_or(rest.len());
        let (field, after) = rest.split_at(end);
        rest = after.strip_prefix(b" ").unwrap_or(after);
        str::from_utf8(field).ok()
    };
    let (start, end) = field()?.split_once('-')?;
    let rights = field()?;
    let file_offset = hexadecimal(field()?)?;
    let (major, minor) = field()?.split_once(':')?;
    let inode: u64 = field()?.parse().ok()?;
    let device = makedev(
        u32::from_str_radix(major, 16).ok()?,
        u32::from_str_radix(minor, 16).ok()?,
    );
    let start = hexadecimal(start)?;
    let length = hexadecimal(end)?.checked_sub(start).filter(|length| *length > 0)?;
    let path = rest.trim_ascii_start();
    Some(MapsLine {
        record: MapRecord {
            start,
            length,
            file_offset,
            device_inode: (inode != 0).then_some((device, inode)),
            path: unescape_newlines(path),
        },
        executable: rights.as_bytes().get(2) == Some(&b'x'),
    })
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// The kernel writes a line break in a path as `\012`, and nothing else differently.
fn unescape_newlines(path: &[u8]) -> Vec<u8> {
    const ESCAPE: &[u8] = b"\\012";
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, after)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(ESCAPE) {
            plain.push(b'\n');
            rest = after;
        } else {
            plain.push(first);
            rest = after;
        }
    }
    plain
}

/// The path of a file without what the kernel appends when it has been deleted.
pub(super) fn without_deleted_mark(path: &[u8]) -> &[u8] {
    path.strip_suffix(b" (deleted)").unwrap_or(path)
}

/// The real user id from the text of `/proc/PID/status`.
pub(crate) fn parse_user_id(text: &[u8]) -> Option<u32> {
    text.split(|&byte| byte == b'\n').find_map(|line| {
        let ids = line.strip_prefix(b"Uid:")?;
        str::from_utf8(ids).ok()?.split_ascii_whitespace().next()?.parse().ok()
    })
}

/// From the text of `/proc/PID/status`: `Uid:` has the real id first, then the effective one; `NSpid:` the ids in all
/// namespaces, the process's own last.
pub(crate) fn parse_credentials(text: &[u8]) -> Option<Credentials> {
    let field = |name: &[u8]| {
        let line = text
            .split(|&byte| byte == b'\n')
            .find_map(|line| line.strip_prefix(name))?;
        str::from_utf8(line).ok().map(str::split_ascii_whitespace)
    };
    Some(Credentials {
        own_pid: field(b"NSpid:")?.next_back()?.parse().ok()?,
        effective_user_id: field(b"Uid:")?.nth(1)?.parse().ok()?,
    })
}

pub(crate) fn parse_stat(text: &[u8]) -> Option<ProcStat> {
    // The name stands in parentheses and may hold any of them itself.
    let open = text.iter().position(|&byte| byte == b'(')?;
    let close = text.iter().rposition(|&byte| byte == b')')?;
    let name = text.get(open + 1..close)?.to_vec();
    let rest = str::from_utf8(text.get(close + 1..)?).ok()?;
    // proc_pid_stat(5): the state is field 3.
    let fields: Vec<&str> = rest.split_ascii_whitespace().take(20).collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(ProcStat {
        name,
        zombie: matches!(*fields.first()?, "Z" | "X" | "x"),
        kernel_thread: number(9)? & KERNEL_THREAD != 0,
        threads: u32::try_from(number(20)?).ok()?,
        start_ticks: number(22)?,
    })
}

fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, ScanError> {
    let fail = |reason| classify(path.to_owned(), reason);
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(fail)?
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    Ok(bytes)
}

fn classify(path: PathBuf, reason: io::Error) -> ScanError {
    match Errno::from_io_error(&reason) {
        Some(Errno::NOENT | Errno::SRCH) => ScanError::Gone,
        Some(Errno::ACCESS | Errno::PERM) => ScanError::Denied { path, reason },
        _ => ScanError::Failed { path, reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat_line(name: &str) -> String {
        format!("7 ({name}) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 3 0 4242 0 0")
    }

    #[test]
    fn names_do_not_confuse_stat() {
        for name in ["plain", "a) R 9 (b", "", ")", "\u{1b}[31m", "two words"] {
            let stat = parse_stat(stat_line(name).as_bytes()).unwrap();
            assert_eq!(stat.name, name.as_bytes());
            assert_eq!(
                (stat.zombie, stat.kernel_thread, stat.threads, stat.start_ticks),
                (false, false, 3, 4242)
            );
        }
    }

    #[test]
    fn credentials_are_those_of_the_innermost_namespace() {
        let text = b"Name:\tx\nUid:\t1000\t0\t0\t0\nNSpid:\t4242\t17\t1\n";
        let expected = Credentials {
            own_pid: 1,
            effective_user_id: 0,
        };
        assert_eq!(parse_credentials(text), Some(expected));
        assert_eq!(parse_credentials(b"Uid:\t1000\nNSpid:\t1\n"), None);
        let own = ProcFs::new("/proc").credentials(Pid(std::process::id())).unwrap();
        assert_eq!(own.effective_user_id, rustix::process::geteuid().as_raw());
    }

    #[test]
    fn damaged_stat_is_refused() {
        let line = stat_line("x");
        for length in 0..line.rfind(" 4242").unwrap() {
            assert_eq!(parse_stat(&line.as_bytes()[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn lines_of_maps() {
        let line = br"7f00-8000 r-xp 00001000 fd:01 1234                       /opt/a\012b c (deleted)";
        let parsed = parse_maps_line(line).unwrap();
        assert!(parsed.executable);
        assert_eq!(
            parsed.record,
            MapRecord {
                start: 0x7f00,
                length: 0x100,
                file_offset: 0x1000,
                device_inode: Some((makedev(0xfd, 1), 1234)),
                path: b"/opt/a\nb c (deleted)".to_vec(),
            }
        );
        let anonymous = parse_maps_line(b"7f00-8000 rwxp 00000000 00:00 0 ").unwrap();
        assert_eq!(
            (anonymous.record.device_inode, anonymous.record.path),
            (None, Vec::new())
        );
        for bad in [
            &b""[..],
            b"x",
            b"8000-7f00 r-xp 0 0:0 0",
            b"1-2 r-xp 0 00 0",
            b"1-2 r-xp 0 0:0 x",
            b"1-1 r-xp 0 0:0 0",
        ] {
            assert!(parse_maps_line(bad).is_none(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn the_running_process_can_be_read() {
        let proc = ProcFs::new("/proc");
        let own = Pid(std::process::id());
        assert!(proc.processes().unwrap().contains(&own));
        let stat = proc.stat(own).unwrap();
        assert!(!stat.zombie && !stat.kernel_thread && stat.threads > 0 && stat.start_ticks > 0);
        let maps = proc.maps(own).unwrap();
        assert!(maps.has_64_bit_addresses && !maps.truncated && maps.left_out == 0);
        assert!(maps.executable.iter().any(|record| record.path == b"[vdso]"));
        assert_eq!(proc.user_id(own).unwrap(), rustix::process::getuid().as_raw());
        assert_eq!(
            proc.executable(own).unwrap(),
            std::env::current_exe().unwrap().into_os_string().into_vec()
        );
        assert!(!proc.command_line(own).unwrap().is_empty());
    }

    #[test]
    fn what_is_not_there_is_gone() {
        let tree = tempfile::tempdir().unwrap();
        let proc = ProcFs::new(tree.path());
        assert!(matches!(proc.stat(Pid(1)), Err(ScanError::Gone)));
        assert!(matches!(proc.maps(Pid(1)), Err(ScanError::Gone)));
        std::fs::create_dir(tree.path().join("1")).unwrap();
        std::fs::write(tree.path().join("1/stat"), "nonsense").unwrap();
        assert!(matches!(proc.stat(Pid(1)), Err(ScanError::Malformed { .. })));
    }

    proptest::proptest! {
        #[test]
        fn parsers_never_panic(text in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            parse_stat(&text);
            parse_maps_line(&text);
            unescape_newlines(&text);
        }
    }
}
