//! A tree that looks like `/proc`, and an owner of processes over it, for tests.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use profiler_config::{Pattern, Targets};
use profiler_unwinding::Segments;

use super::{Clock, Now, Options, Processes, double::WalkerDouble};
use crate::kernel::records::{Lifecycle, LifecycleEvent, MapRecord, Pid};

pub(crate) const SECOND_NS: u64 = 1_000_000_000;
/// Time of the first scan.
pub(crate) const START_NS: u64 = 100 * SECOND_NS;

/// What a process is made to look like.
#[derive(Clone, Debug)]
pub(crate) struct FakeProcess {
    pub(crate) name: String,
    pub(crate) state: char,
    pub(crate) flags: u64,
    pub(crate) threads: u32,
    pub(crate) start_ticks: u64,
    pub(crate) executable: PathBuf,
    pub(crate) cgroup: String,
    /// Start, end and file of executable mappings; an empty path is memory without a file.
    pub(crate) mappings: Vec<(u64, u64, PathBuf)>,
    pub(crate) has_stack: bool,
}

impl FakeProcess {
    /// A program that maps its own code.
    pub(crate) fn new(executable: &Path) -> Self {
        let (_, length) = code(executable);
        Self {
            name: executable.file_name().unwrap().to_string_lossy().into_owned(),
            state: 'S',
            flags: 0,
            threads: 1,
            start_ticks: 100,
            executable: executable.to_owned(),
            cgroup: "0::/\n".to_owned(),
            mappings: vec![(0x5000_0000_0000, 0x5000_0000_0000 + length, executable.to_owned())],
            has_stack: true,
        }
    }
}

/// The tree.
#[derive(Debug)]
pub(crate) struct FakeProc {
    directory: tempfile::TempDir,
}

impl FakeProc {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    /// Adds a process, or replaces what is said about it.
    pub(crate) fn set(&self, pid: u32, process: &FakeProcess) {
        let at = self.root().join(pid.to_string());
        if at.exists() {
            self.remove(pid);
        }
        fs::create_dir(&at).unwrap();
        let FakeProcess {
            name,
            state,
            flags,
            threads,
            start_ticks,
            ..
        } = process;
        let stat =
            format!("{pid} ({name}) {state} 1 1 1 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 {threads} 0 {start_ticks} 0");
        fs::write(at.join("stat"), stat).unwrap();
        fs::write(
            at.join("status"),
            format!("Name:\t{name}\nUid:\t{0}\t{0}\t{0}\t{0}\n", 1000 + pid),
        )
        .unwrap();
        fs::write(at.join("cmdline"), format!("{name}\0--flag\0")).unwrap();
        fs::write(at.join("cgroup"), &process.cgroup).unwrap();
        let mut maps = String::new();
        for (start, end, path) in &process.mappings {
            let (device, inode) = device_inode(path).unwrap_or_default();
            let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
            let (offset, _) = code(path);
            writeln!(
                maps,
                "{start:x}-{end:x} r-xp {offset:08x} {major:02x}:{minor:02x} {inode} {}",
                path.display()
            )
            .unwrap();
        }
        if process.has_stack {
            maps.push_str("7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0 [stack]\n");
        }
        fs::write(at.join("maps"), maps).unwrap();
        symlink(&process.executable, at.join("exe")).unwrap();
        symlink("/", at.join("root")).unwrap();
    }

    pub(crate) fn remove(&self, pid: u32) {
        fs::remove_dir_all(self.root().join(pid.to_string())).unwrap();
    }

    pub(crate) fn owner(&self, targets: Targets) -> Processes<WalkerDouble> {
        self.owner_keeping_rows(targets, 0)
    }

    /// An owner that keeps rows on disk, in at most so many bytes.
    pub(crate) fn owner_keeping_rows(&self, targets: Targets, max_cached_row_bytes: u64) -> Processes<WalkerDouble> {
        let options = Options {
            proc_root: self.root().to_owned(),
            targets,
            own_pid: Pid(999),
            clock: Clock {
                boot: SystemTime::UNIX_EPOCH,
                monotonic_zero: SystemTime::UNIX_EPOCH,
                ticks_per_second: 100,
            },
            state_dir: self.directory.path().to_owned(),
            max_cached_row_bytes,
            health: Arc::default(),
            wake: None,
        };
        Processes::new(WalkerDouble::default(), options).unwrap()
    }
}

/// Offset of the page that an object's code begins in, and the bytes of the mapping that holds it.
fn code(path: &Path) -> (u64, u64) {
    static KNOWN: Mutex<BTreeMap<PathBuf, (u64, u64)>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap();
    *known.entry(path.to_owned()).or_insert_with(|| {
        let bytes = fs::read(path).unwrap_or_default();
        let segments = Segments::parse(&bytes[..]).unwrap_or_default();
        let Some(segment) = segments.executable().first() else {
            return (0, 4096);
        };
        let offset = segment.file_offset / 4096 * 4096;
        (
            offset,
            (segment.file_offset + segment.size - offset).next_multiple_of(4096),
        )
    })
}

/// Bytes of the mapping that holds an object's code.
pub(crate) fn code_bytes(path: &Path) -> u64 {
    code(path).1
}

/// Device and inode of a file.
pub(crate) fn device_inode(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// What discovery does by default.
pub(crate) fn targets() -> Targets {
    Targets {
        discover_rust: true,
        discover_python: false,
        max_processes: 100.try_into().unwrap(),
        include: Vec::new(),
        exclude: Vec::new(),
        watch_self: false,
        services: std::sync::Arc::default(),
    }
}

/// Everything is watched as soon as its program is known.
pub(crate) fn watch_all() -> Targets {
    Targets {
        include: vec![Pattern::new("**").unwrap(), Pattern::new("*").unwrap()],
        ..targets()
    }
}

/// A program that rustc compiled: this test.
pub(crate) fn rust_program() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// A program that it did not.
pub(crate) fn native_program() -> PathBuf {
    fs::canonicalize("/bin/sh").unwrap()
}

/// A moment `ns` after [`START_NS`].
pub(crate) fn at(base: Instant, ns: u64) -> Now {
    Now {
        instant: base + Duration::from_nanos(ns),
        monotonic_ns: START_NS + ns,
    }
}

pub(crate) fn event(time_ns: u64, event: LifecycleEvent) -> Lifecycle {
    Lifecycle {
        time_ns: START_NS + time_ns,
        event,
    }
}

pub(crate) fn fork(time_ns: u64, pid: u32, parent: u32) -> Lifecycle {
    let (pid, parent) = (Pid(pid), Pid(parent));
    event(time_ns, LifecycleEvent::Fork { pid, parent })
}

pub(crate) fn exec(time_ns: u64, pid: u32, name: &str) -> Lifecycle {
    let name = name.as_bytes().to_vec();
    event(time_ns, LifecycleEvent::Exec { pid: Pid(pid), name })
}

pub(crate) fn exit(time_ns: u64, pid: u32) -> Lifecycle {
    event(time_ns, LifecycleEvent::Exit { pid: Pid(pid) })
}

/// A mapping of a real file from the page on that its code begins in, or of memory where the path is no file's.
pub(crate) fn map(time_ns: u64, pid: u32, start: u64, end: u64, path: &Path) -> Lifecycle {
    let mapping = MapRecord {
        start,
        length: end - start,
        file_offset: code(path).0,
        device_inode: device_inode(path),
        path: path.as_os_str().as_encoded_bytes().to_vec(),
    };
    event(time_ns, LifecycleEvent::Map { pid: Pid(pid), mapping })
}

/// Polls until the builder has nothing left to do.
pub(crate) fn settle(owner: &mut Processes<WalkerDouble>, now: Now) {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        owner.poll(now);
        if owner.is_settled() {
            return;
        }
        assert!(Instant::now() < deadline, "the builder is silent");
        std::thread::sleep(Duration::from_millis(1));
    }
}
