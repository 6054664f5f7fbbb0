//! Calls by which a process asks the kernel for memory: which of them count, the record of one, and what is counted.
//!
//! They are taken of one process, and only while somebody asks for it ([`Asked`]): the tracepoint at the end of system calls
//! costs each call of each process on the host. What counts is `mmap`, `mremap` that makes a mapping larger, and `brk` that moves
//! up, from [`LEAST_BYTES`] on. What is given back is not set against it: the bytes are gross.
//!
//! A record is a [`MappedHeader`] followed by a CPU sample's record ([`crate::cpu`]) without kernel frames.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::memory::{FaultHeader, PAGE_BYTES};

/// Bytes from which on a call counts: the least that allocators do not hand out from what they have already.
pub const LEAST_BYTES: u64 = 128 << 10;
/// Bytes of the ring of records.
pub const MAPPED_RING_BYTES: u32 = 1 << 19;
/// log2 of the nanoseconds over which records are counted: a little more than a second.
pub const QUOTA_SHIFT: u32 = 30;
/// Records on a CPU in that time; what is beyond is lost, and counted.
pub const QUOTA: u64 = 1000;

/// Numbers of the system calls that are looked at (arch/x86/entry/syscalls/syscall_64.tbl).
pub mod call {
    /// `mmap(address, length, protection, flags, …)`.
    pub const MMAP: u64 = 9;
    /// `brk(end)`: returns the end of the heap, moved or not.
    pub const BRK: u64 = 12;
    /// `mremap(address, old_length, new_length, …)`.
    pub const MREMAP: u64 = 25;
    /// `execve`: the heap of before is gone.
    pub const EXECVE: u64 = 59;
    /// `execveat`, as well.
    pub const EXECVEAT: u64 = 322;
}

/// `MAP_SHARED` and `MAP_SHARED_VALIDATE` have this bit; `MAP_PRIVATE` has not (include/uapi/linux/mman.h).
const SHARED: u64 = 1;
/// `MAP_ANONYMOUS`.
const ANONYMOUS: u64 = 0x20;
/// `PROT_READ | PROT_WRITE | PROT_EXEC`.
const ACCESS: u64 = 7;
/// System calls return the negative of an error's number, which is at most this (`MAX_ERRNO`, include/linux/err.h).
const MAX_ERROR: u64 = 4095;

/// How memory was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum MappedKind {
    /// `mmap` of memory of the process's own.
    Anonymous = 0,
    /// `mmap` of addresses that nothing may be read from or written to yet: of room, not of memory.
    Reserved = 1,
    /// `mmap` of a file.
    File = 2,
    /// `mmap` of memory to be shared, without a file.
    Shared = 3,
    /// `brk`.
    Brk = 4,
    /// `mremap`.
    Mremap = 5,
}

impl MappedKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Anonymous,
        Self::Reserved,
        Self::File,
        Self::Shared,
        Self::Brk,
        Self::Mremap,
    ];

    /// The kind with a number; `None` if there is none.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }

    /// What it is called in a flame graph.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Anonymous => "mmap anonymous",
            Self::Reserved => "mmap reserved",
            Self::File => "mmap file",
            Self::Shared => "mmap shared",
            Self::Brk => "brk",
            Self::Mremap => "mremap",
        }
    }

    /// The kind of an `mmap`.
    #[inline(always)]
    pub const fn of_mmap(protection: u64, flags: u64) -> Self {
        if flags & ANONYMOUS == 0 {
            Self::File
        } else if protection & ACCESS == 0 {
            Self::Reserved
        } else if flags & SHARED != 0 {
            Self::Shared
        } else {
            Self::Anonymous
        }
    }
}

/// What is known of a call beside its stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MappedHeader {
    /// Bytes asked for, in whole pages.
    pub bytes: u64,
    /// Number of a [`MappedKind`].
    pub kind: u32,
    /// Always zero.
    pub reserved: u32,
}

// The record is put together where that of a page fault is.
const _: () = assert!(size_of::<MappedHeader>() == size_of::<FaultHeader>());
const _: () = assert!(align_of::<MappedHeader>() == align_of::<FaultHeader>());

/// Whose calls are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Asked {
    /// The process; 0 for none.
    pub pid: u32,
    /// Always zero.
    pub reserved: u32,
    /// The end of its heap after the last `brk`; 0 if that is not known.
    pub last_break: u64,
}

/// Records of a CPU within the current time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MappedPace {
    /// Number of that time since the host was started.
    pub time: u64,
    /// Records in it.
    pub taken: u64,
}

impl MappedPace {
    /// Whether there may be one more record now, which is counted then.
    #[inline(always)]
    pub fn admits(&mut self, now_ns: u64) -> bool {
        let time = now_ns >> QUOTA_SHIFT;
        if self.time != time {
            self.time = time;
            self.taken = 0;
        }
        if self.taken >= QUOTA {
            return false;
        }
        self.taken += 1;
        true
    }
}

/// Whether a system call that may fail has failed.
#[inline(always)]
pub const fn is_error(result: u64) -> bool {
    result > u64::MAX - MAX_ERROR
}

/// Bytes in whole pages. What is too long for that is no length that the kernel has granted.
#[inline(always)]
pub const fn in_pages(bytes: u64) -> u64 {
    bytes.wrapping_add(PAGE_BYTES - 1) & !(PAGE_BYTES - 1)
}

/// By how much something has grown, in whole pages; 0 if it has not.
#[inline(always)]
pub const fn growth(before: u64, after: u64) -> u64 {
    in_pages(after).saturating_sub(in_pages(before))
}

/// What the program counts, per CPU. Each call of the process that counts is [`MappedCounter::Seen`] and one of the outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum MappedCounter {
    /// A call of [`LEAST_BYTES`] or more.
    Seen = 0,
    /// Written to the ring.
    Delivered = 1,
    /// Lost: there were [`QUOTA`] already.
    OverQuota = 2,
    /// Lost: the ring was full.
    RingFull = 3,
    /// Lost: the program's state was in use on this CPU.
    Busy = 4,
    /// Lost: the process was not watched at that moment.
    NotWatched = 5,
    /// Lost: a map that must exist did not.
    Internal = 6,
}

impl MappedCounter {
    /// Every counter, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Seen,
        Self::Delivered,
        Self::OverQuota,
        Self::RingFull,
        Self::Busy,
        Self::NotWatched,
        Self::Internal,
    ];

    /// The counter in words of the command line and of metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Delivered => "delivered",
            Self::OverQuota => "over_quota",
            Self::RingFull => "ring_full",
            Self::Busy => "busy",
            Self::NotWatched => "not_watched",
            Self::Internal => "internal",
        }
    }

    /// Whether the count is of calls that were lost.
    pub const fn is_loss(self) -> bool {
        !matches!(self, Self::Seen | Self::Delivered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIVATE: u64 = 2;
    const READ_WRITE: u64 = 3;

    #[test]
    fn kinds_of_mappings_are_told_apart() {
        for (protection, flags, kind) in [
            (READ_WRITE, PRIVATE | ANONYMOUS, MappedKind::Anonymous),
            // A stack of a thread, before its guard is set apart.
            (0, PRIVATE | ANONYMOUS | 0x2_0000, MappedKind::Reserved),
            (READ_WRITE, SHARED | ANONYMOUS, MappedKind::Shared),
            (1, PRIVATE, MappedKind::File),
            (0, SHARED, MappedKind::File),
            // With MAP_SHARED_VALIDATE.
            (READ_WRITE, 3 | ANONYMOUS, MappedKind::Shared),
        ] {
            assert_eq!(MappedKind::of_mmap(protection, flags), kind, "{protection} {flags:#x}");
        }
        for (number, kind) in MappedKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
            assert_eq!(MappedKind::from_number(number as u32), Some(kind));
        }
        assert_eq!(MappedKind::from_number(6), None);
        assert_eq!(MappedKind::from_number(u32::MAX), None);
    }

    #[test]
    fn growth_is_in_whole_pages() {
        assert_eq!(growth(0x1000, 0x1000 + LEAST_BYTES), LEAST_BYTES);
        assert_eq!(growth(0x1001, 0x2001), 0x1000);
        assert_eq!(growth(0x1001, 0x2000), 0);
        assert_eq!(growth(0x9000, 0x1000), 0);
        assert_eq!(growth(0, 1), PAGE_BYTES);
        assert_eq!(growth(0, u64::MAX), 0, "no length that can be");
        assert_eq!((in_pages(0), in_pages(4096), in_pages(4097)), (0, 4096, 8192));
    }

    #[test]
    fn errors_are_told_from_addresses() {
        for errno in [1, 12, 4095] {
            assert!(is_error(0_u64.wrapping_sub(errno)), "{errno}");
        }
        for address in [0, 0x7fff_ffff_f000, u64::MAX - 4095] {
            assert!(!is_error(address), "{address:#x}");
        }
    }

    #[test]
    fn records_are_bounded_over_time() {
        let mut pace = MappedPace::default();
        let admitted = |pace: &mut MappedPace, now_ns| (0..3 * QUOTA).filter(|_| pace.admits(now_ns)).count() as u64;
        assert_eq!(admitted(&mut pace, 5), QUOTA);
        assert_eq!(admitted(&mut pace, (1 << QUOTA_SHIFT) - 1), 0);
        assert_eq!(admitted(&mut pace, 1 << QUOTA_SHIFT), QUOTA);
        assert_eq!(admitted(&mut pace, 9 << QUOTA_SHIFT), QUOTA);
    }

    #[test]
    fn counters_have_names_and_numbers() {
        for (index, counter) in MappedCounter::ALL.into_iter().enumerate() {
            assert_eq!(counter as usize, index);
            assert!(!counter.name().is_empty());
        }
        let losses = MappedCounter::ALL.into_iter().filter(|counter| counter.is_loss());
        assert_eq!(losses.count(), 5);
    }
}
