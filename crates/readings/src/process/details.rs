//! What of a process is dearer to read: descriptors, I/O, and what its threads' switches add up to.

use std::{collections::BTreeMap, ffi::OsStr, fs, os::unix::ffi::OsStrExt as _, path::Path};

use rustix::{
    fs::{Dir, Mode, OFlags, PROC_SUPER_MAGIC, open, statfs},
    io::{Errno, retry_on_intr},
};

use super::files::{MemoryKinds, parse_io, parse_memory_kinds, parse_switches};
use crate::{
    file::{ReadError, parse_in, parse_once},
    text,
};

/// Most threads of a process whose switches are added up.
const MAX_THREADS: u64 = 512;
/// Most entries of the folder of its threads that are looked at: one more, with the folder itself and the one above.
const MAX_LISTED: usize = MAX_THREADS as usize + 3;
/// Most descriptors that are counted one by one.
const MAX_COUNTED_DESCRIPTORS: usize = 64 << 10;

/// The dearer values of a process; each is missing if it could not be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Details {
    pub(crate) descriptors: Option<u64>,
    /// Bytes read from and written to disks.
    pub(crate) io: Option<(u64, u64)>,
    /// Switches that its threads wanted, and that they did not want.
    pub(crate) switches: Option<(u64, u64)>,
    pub(crate) memory: Option<MemoryKinds>,
}

/// Reads details of processes.
#[derive(Debug)]
pub(super) struct DetailReader {
    /// A real `/proc`, whose folders of descriptors may tell their number as their size.
    is_procfs: bool,
    buffer: Vec<u8>,
}

impl DetailReader {
    pub(super) fn new(proc_root: &Path) -> Self {
        Self {
            is_procfs: statfs(proc_root).is_ok_and(|answer| answer.f_type == PROC_SUPER_MAGIC),
            buffer: Vec::new(),
        }
    }

    /// Reads what can be read below the folder of a process with so many threads. The second is the first error, if not all
    /// could be.
    pub(super) fn read(
        &mut self,
        pid: u32,
        folder: &Path,
        threads: u64,
        switches: &mut Switches,
    ) -> (Details, Option<ReadError>) {
        let mut error = None;
        let mut note = |failed: ReadError| {
            error.get_or_insert(failed);
        };
        let io = parse_once(folder.join("io"), &mut self.buffer, parse_io);
        let io = io.map_err(&mut note).ok();
        let descriptors = self.descriptors(&folder.join("fd")).map_err(&mut note).ok().flatten();
        // A process whose first thread has ended has a status without memory: that is no failure.
        let status = parse_once(folder.join("status"), &mut self.buffer, |text| {
            Some((parse_memory_kinds(text), parse_switches(text)))
        });
        let (memory, of_first) = status.map_err(&mut note).unwrap_or_default();
        let counted = if threads > MAX_THREADS {
            switches.forget();
            None
        } else {
            let counted = switches.add((pid, of_first), folder, threads, &mut self.buffer);
            counted.map_err(note).ok()
        };
        let details = Details {
            descriptors,
            io,
            switches: counted,
            memory,
        };
        (details, error)
    }

    fn descriptors(&self, folder: &Path) -> Result<Option<u64>, ReadError> {
        let failed = |reason| ReadError::Failed {
            path: folder.to_owned(),
            reason,
        };
        // Since 6.2 the size of the folder is their number; before it is zero.
        if self.is_procfs {
            let size = fs::metadata(folder).map_err(failed)?.len();
            if size > 0 {
                return Ok(Some(size));
            }
        }
        let count = fs::read_dir(folder)
            .map_err(failed)?
            .take(MAX_COUNTED_DESCRIPTORS + 1)
            .count();
        Ok((count <= MAX_COUNTED_DESCRIPTORS).then_some(count as u64))
    }
}

/// What the switches of a process's threads add up to. Threads that ended stay counted from the moment on that they were
/// first seen.
#[derive(Debug, Default)]
pub(super) struct Switches {
    threads: BTreeMap<u64, (u64, u64)>,
    total: (u64, u64),
    /// They were not followed for a while: what they counted meanwhile is not known, and is no burst.
    resumes: bool,
}

impl Switches {
    /// What is not followed for a while would be taken for new.
    fn forget(&mut self) {
        self.threads.clear();
        self.resumes = true;
    }

    /// `first` is the process and what its status counts, which is its first thread's, whose id is the process's.
    fn add(
        &mut self,
        first: (u32, Option<(u64, u64)>),
        folder: &Path,
        threads: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<(u64, u64), ReadError> {
        let now = if threads <= 1 {
            let of_first = match first.1 {
                Some(counts) => counts,
                None => parse_once(folder.join("status"), buffer, parse_switches)?,
            };
            BTreeMap::from([(u64::from(first.0), of_first)])
        } else {
            read_threads(first, &folder.join("task"), buffer)?
        };
        if now.len() as u64 > MAX_THREADS {
            // There are more of them since they were counted, and which are missing now would seem new at the next look.
            self.forget();
            return Err(ReadError::Absent {
                what: "a process has more threads than are followed",
            });
        }
        self.follow(now);
        Ok(self.total)
    }

    fn follow(&mut self, now: BTreeMap<u64, (u64, u64)>) {
        if std::mem::take(&mut self.resumes) {
            self.threads = now;
            return;
        }
        for (thread, counts) in &now {
            let before = self.threads.get(thread).copied().unwrap_or_default();
            // A thread that switched less often than before is another with the same id.
            let is_same = before.0 <= counts.0 && before.1 <= counts.1;
            let before = if is_same { before } else { (0, 0) };
            self.total.0 = self.total.0.saturating_add(counts.0 - before.0);
            self.total.1 = self.total.1.saturating_add(counts.1 - before.1);
        }
        self.threads = now;
    }
}

fn read_threads(
    first: (u32, Option<(u64, u64)>),
    folder: &Path,
    buffer: &mut Vec<u8>,
) -> Result<BTreeMap<u64, (u64, u64)>, ReadError> {
    let failed = |reason| ReadError::failed(folder, reason);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let listed = retry_on_intr(|| open(folder, flags, Mode::empty())).map_err(failed)?;
    let mut listed = Dir::new(listed).map_err(failed)?;
    let (mut threads, mut name) = (BTreeMap::new(), Vec::new());
    for _ in 0..MAX_LISTED {
        let Some(entry) = listed.next() else { break };
        let entry = entry.map_err(failed)?;
        let Some(thread) = text::number(entry.file_name().to_bytes()) else {
            continue;
        };
        if let (pid, Some(counts)) = first
            && u64::from(pid) == thread
        {
            threads.insert(thread, counts);
            continue;
        }
        name.clear();
        name.extend_from_slice(entry.file_name().to_bytes());
        name.extend_from_slice(b"/status");
        let path = || folder.join(OsStr::from_bytes(&name));
        match parse_in(listed.fd().map_err(failed)?, &name, path, buffer, parse_switches) {
            Ok(counts) => drop(threads.insert(thread, counts)),
            // It ended while the list was read.
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error),
        }
    }
    if threads.is_empty() {
        return Err(failed(Errno::NOENT));
    }
    Ok(threads)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_tree::FakeTree;

    fn status(voluntary: u64, involuntary: u64) -> String {
        format!("Name:\tx\nvoluntary_ctxt_switches:\t{voluntary}\nnonvoluntary_ctxt_switches:\t{involuntary}\n")
    }

    #[test]
    fn threads_that_ended_stay_counted() {
        let tree = FakeTree::new();
        let mut switches = Switches::default();
        let folder = tree.path("7");
        let mut add = |threads| switches.add((7, None), &folder, threads, &mut Vec::new()).unwrap();
        tree.write("7/status", status(5, 1));
        assert_eq!(add(1), (5, 1));
        tree.write("7/task/7/status", status(6, 1));
        tree.write("7/task/8/status", status(10, 10));
        assert_eq!(add(2), (16, 11), "the first thread is not counted twice");
        tree.remove("7/task/8");
        assert_eq!(add(2), (16, 11));
        tree.write("7/task/8/status", status(3, 3));
        assert_eq!(add(2), (19, 14), "another thread with the same id");
        tree.write("7/status", status(8, 2));
        assert_eq!(add(1), (21, 15));
    }

    #[test]
    fn what_was_not_followed_is_no_burst() {
        let tree = FakeTree::new();
        tree.write("7/fd/0", "");
        tree.write("7/io", "read_bytes: 1\nwrite_bytes: 1\n");
        tree.write("7/status", status(1_000, 100));
        let mut reader = DetailReader::new(tree.root());
        let mut switches = Switches::default();
        let mut read = |threads| reader.read(7, &tree.path("7"), threads, &mut switches).0.switches;
        assert_eq!(read(1), Some((1_000, 100)));
        assert_eq!(read(MAX_THREADS + 1), None);
        // What it counts stays, or it would seem to have switched a million times since the last look.
        tree.write("7/status", status(1_000_000, 200));
        assert_eq!(read(1), Some((1_000, 100)));
        tree.write("7/status", status(1_000_007, 201));
        assert_eq!(read(1), Some((1_007, 101)));
        // More threads came since they were counted.
        for thread in 0..=MAX_THREADS {
            tree.write(&format!("7/task/{}/status", 1_000 + thread), status(5, 5));
        }
        assert_eq!(read(MAX_THREADS), None);
        tree.remove("7/task/1000");
        assert_eq!(read(MAX_THREADS), Some((1_007, 101)));
    }

    #[test]
    fn what_cannot_be_read_is_missing_alone() {
        let tree = FakeTree::new();
        tree.write("7/status", status(5, 1));
        tree.write("7/fd/0", "");
        tree.write("7/fd/1", "");
        let mut reader = DetailReader::new(tree.root());
        let (details, error) = reader.read(7, &tree.path("7"), 1, &mut Switches::default());
        assert_eq!(
            (details.descriptors, details.io, details.switches),
            (Some(2), None, Some((5, 1)))
        );
        assert!(error.unwrap().to_string().contains("io"));
        let (details, _) = reader.read(7, &tree.path("7"), MAX_THREADS + 1, &mut Switches::default());
        assert_eq!(details.switches, None);
    }
}
