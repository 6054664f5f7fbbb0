//! Which pages a process has: its `/proc/PID/pagemap`, read in bounded pieces.
//!
//! The file belongs to the memory that the process had when it was opened: after an exec or the process's end nothing can be
//! read from it, whoever has the id by then.

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd as _, unix::fs::FileExt as _},
    path::Path,
};

use profiler_common::memory::PAGE_SHIFT;

/// Bits of an entry (Documentation/admin-guide/mm/pagemap.rst).
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FILE_OR_SHARED: u64 = 1 << 61;

const ENTRY_BYTES: u64 = 8;
/// Pages that are asked for at a time.
const MAX_PAGES: u64 = 4096;

/// `PAGEMAP_SCAN` of Linux 6.7 and newer (include/uapi/linux/fs.h): `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
/// `PAGE_IS_HUGE`.
const PAGE_IS_HUGE: u64 = 1 << 6;

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// What the map says of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageState {
    /// It is in memory.
    pub is_present: bool,
    /// It is in swap space.
    pub is_swapped: bool,
    /// It is a page of a file, or of memory that processes share.
    pub is_file: bool,
}

impl PageState {
    fn of(entry: u64) -> Self {
        Self {
            is_present: entry & PRESENT != 0,
            is_swapped: entry & SWAPPED != 0,
            is_file: entry & FILE_OR_SHARED != 0,
        }
    }

    /// Whether the process has it, in memory or in swap space.
    pub fn is_there(self) -> bool {
        self.is_present || self.is_swapped
    }
}

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub enum PagemapError {
    /// The process has ended or runs another program.
    #[error("the memory is gone")]
    Gone,
    /// The kernel refused.
    #[error(transparent)]
    Read(#[from] io::Error),
}

/// The map of the pages of one process.
#[derive(Debug)]
pub struct Pagemap {
    file: File,
    buffer: Vec<u8>,
    /// The kernel tells of huge pages; `None` if that is not known yet.
    tells_huge: Option<bool>,
}

impl Pagemap {
    /// Opens the map at this path.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: File::open(path)?,
            buffer: Vec::new(),
            tells_huge: None,
        })
    }

    /// The states of pages from a number on; fewer than asked for at the end of the address space.
    pub fn read(&mut self, first: u64, pages: u64) -> Result<Vec<PageState>, PagemapError> {
        let pages = pages.min(MAX_PAGES);
        self.buffer.resize((pages * ENTRY_BYTES) as usize, 0);
        let mut filled = 0;
        while filled < self.buffer.len() {
            let at = first.saturating_mul(ENTRY_BYTES).saturating_add(filled as u64);
            match self.file.read_at(&mut self.buffer[filled..], at) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        if filled < ENTRY_BYTES as usize {
            return Err(PagemapError::Gone);
        }
        let entries = self.buffer[..filled].as_chunks().0.iter();
        Ok(entries.map(|entry| PageState::of(u64::from_ne_bytes(*entry))).collect())
    }

    /// Whether the memory that the map is of is gone. Nothing is walked, and nothing waited for.
    pub fn is_gone(&self) -> bool {
        // The kernel refuses to read less than an entry only after it has found the memory; without it there is no more to read.
        matches!(self.file.read_at(&mut [0; 1], 0), Ok(0))
    }

    /// Whether a page is mapped as part of a huge page; `None` if the kernel does not tell (before Linux 6.7).
    pub fn is_huge(&mut self, page: u64) -> Option<bool> {
        if self.tells_huge == Some(false) {
            return None;
        }
        let mut region = Region::default();
        let mut argument = ScanArgument {
            size: size_of::<ScanArgument>() as u64,
            start: page << PAGE_SHIFT,
            end: (page + 1) << PAGE_SHIFT,
            vec: (&raw mut region).addr() as u64,
            vec_len: 1,
            max_pages: 1,
            category_mask: PAGE_IS_HUGE,
            return_mask: PAGE_IS_HUGE,
            ..ScanArgument::default()
        };
        // SAFETY: the argument has the layout that its size tells, and the region that it points to outlives the call.
        let found = unsafe { libc::ioctl(self.file.as_raw_fd(), PAGEMAP_SCAN, &raw mut argument) };
        if found >= 0 {
            self.tells_huge = Some(true);
            return Some(found > 0);
        }
        let error = io::Error::last_os_error().raw_os_error();
        if matches!(error, Some(libc::ENOTTY | libc::EINVAL)) && self.tells_huge.is_none() {
            self.tells_huge = Some(false);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_and_go() {
        let mut map = Pagemap::open(Path::new("/proc/self/pagemap")).unwrap();
        const PAGES: usize = 64;
        let length = PAGES << PAGE_SHIFT;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(memory, libc::MAP_FAILED);
        let first = memory.addr() as u64 >> PAGE_SHIFT;
        let there = |map: &mut Pagemap| {
            let states = map.read(first, PAGES as u64).unwrap();
            states.iter().filter(|state| state.is_there() && !state.is_file).count()
        };
        assert_eq!(there(&mut map), 0);
        for page in 0..PAGES {
            // SAFETY: within the mapping.
            unsafe { memory.cast::<u8>().add(page << PAGE_SHIFT).write_volatile(1) };
        }
        assert_eq!(there(&mut map), PAGES);
        assert_ne!(map.is_huge(first), Some(true), "64 pages are no huge page");
        // SAFETY: the mapping is ours; nothing refers to it.
        let result = unsafe { libc::munmap(memory, length) };
        assert_eq!((result, there(&mut map)), (0, 0));
    }

    #[test]
    fn code_is_of_a_file_and_nothing_lies_beyond() {
        let mut map = Pagemap::open(Path::new("/proc/self/pagemap")).unwrap();
        let code = code_is_of_a_file_and_nothing_lies_beyond as *const () as u64 >> PAGE_SHIFT;
        let state = map.read(code, 1).unwrap()[0];
        assert!(state.is_present && state.is_file, "{state:?}");
        assert!(map.read(u64::MAX >> 3, 1).is_err());
    }

    #[test]
    fn the_memory_of_a_process_that_ended_is_gone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut map = Pagemap::open(Path::new(&format!("/proc/{}/pagemap", child.id()))).unwrap();
        assert!(map.read(1, 1).is_ok() && !map.is_gone());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(map.is_gone());
        assert!(matches!(map.read(1, 1), Err(PagemapError::Gone)));
    }
}
