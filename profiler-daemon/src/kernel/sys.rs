//! System calls that no library here offers: `perf_event_open`, its ioctls and shared memory.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr::NonNull,
};

use zerocopy::{Immutable, IntoBytes};

/// `struct perf_event_attr` up to `PERF_ATTR_SIZE_VER5` (include/uapi/linux/perf_event.h).
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct PerfEventAttr {
    pub(super) kind: u32,
    pub(super) size: u32,
    pub(super) config: u64,
    pub(super) sample_period_or_frequency: u64,
    pub(super) sample_type: u64,
    pub(super) read_format: u64,
    pub(super) flags: u64,
    pub(super) wakeup: u32,
    pub(super) breakpoint_type: u32,
    pub(super) config1: u64,
    pub(super) config2: u64,
    pub(super) branch_sample_type: u64,
    pub(super) sample_regs_user: u64,
    pub(super) sample_stack_user: u32,
    pub(super) clock_id: i32,
    pub(super) sample_regs_intr: u64,
    pub(super) aux_watermark: u32,
    pub(super) sample_max_stack: u16,
    pub(super) reserved: u16,
}

/// Numbers and bits of `perf_event_attr` that are used here.
pub(super) mod attr {
    pub(in crate::kernel) const TYPE_SOFTWARE: u32 = 1;
    pub(in crate::kernel) const CPU_CLOCK: u64 = 0;
    pub(in crate::kernel) const DUMMY: u64 = 9;
    pub(in crate::kernel) const SAMPLE_TID: u64 = 1 << 1;
    pub(in crate::kernel) const SAMPLE_TIME: u64 = 1 << 2;
    pub(in crate::kernel) const FLAG_DISABLED: u64 = 1;
    pub(in crate::kernel) const FLAG_MMAP: u64 = 1 << 8;
    pub(in crate::kernel) const FLAG_COMM: u64 = 1 << 9;
    pub(in crate::kernel) const FLAG_TASK: u64 = 1 << 13;
    pub(in crate::kernel) const FLAG_WATERMARK: u64 = 1 << 14;
    pub(in crate::kernel) const FLAG_SAMPLE_ID_ALL: u64 = 1 << 18;
    pub(in crate::kernel) const FLAG_MMAP2: u64 = 1 << 23;
    pub(in crate::kernel) const FLAG_COMM_EXEC: u64 = 1 << 24;
    pub(in crate::kernel) const FLAG_USE_CLOCKID: u64 = 1 << 25;
}

/// Opens a perf event that counts all processes on one CPU.
pub(super) fn perf_event_open(attr: &PerfEventAttr, cpu: u32) -> io::Result<OwnedFd> {
    const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
    let attr = PerfEventAttr {
        size: size_of::<PerfEventAttr>() as u32,
        ..*attr
    };
    // SAFETY: the attributes are valid for reads of their stated size; all processes (-1), one CPU, no group.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attr.as_bytes().as_ptr(),
            -1 as libc::pid_t,
            cpu as libc::c_int,
            -1 as libc::c_int,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// `PERF_EVENT_IOC_SET_BPF`: runs the program on each overflow of the event. Ends when the event is closed.
pub(super) fn set_program(event: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    const SET_BPF: libc::c_ulong = 0x4004_2408;
    // SAFETY: both descriptors are open; the argument is passed by value.
    check(unsafe { libc::ioctl(event.as_raw_fd(), SET_BPF, program.as_raw_fd()) })
}

/// `PERF_EVENT_IOC_ENABLE`.
pub(super) fn enable(event: BorrowedFd<'_>) -> io::Result<()> {
    const ENABLE: libc::c_ulong = 0x2400;
    // SAFETY: the descriptor is open; the argument is not used.
    check(unsafe { libc::ioctl(event.as_raw_fd(), ENABLE, 0) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Memory shared with the kernel through a descriptor, unmapped on drop.
#[derive(Debug)]
pub(super) struct SharedMemory {
    pointer: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory belongs to the value; access goes through methods that take it by reference.
unsafe impl Send for SharedMemory {}

impl SharedMemory {
    /// Maps `length` bytes of the descriptor for reading and writing.
    pub(super) fn map(fd: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let pointer = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if pointer == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let pointer = NonNull::new(pointer.cast()).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        Ok(Self { pointer, length })
    }

    /// Copies bytes in. Panics if they do not fit: offsets are the caller's own arithmetic.
    pub(super) fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(
            offset.checked_add(bytes.len()).is_some_and(|end| end <= self.length),
            "write beyond the mapping"
        );
        // SAFETY: in bounds as asserted. The kernel may read at the same time; it copes with any value.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.pointer.as_ptr().add(offset), bytes.len());
        }
    }

    /// Copies bytes out. Panics if they do not lie in the mapping.
    pub(super) fn read(&self, offset: usize, into: &mut [u8]) {
        assert!(
            offset.checked_add(into.len()).is_some_and(|end| end <= self.length),
            "read beyond the mapping"
        );
        // SAFETY: in bounds as asserted.
        unsafe {
            std::ptr::copy_nonoverlapping(self.pointer.as_ptr().add(offset), into.as_mut_ptr(), into.len());
        }
    }

    /// A word that the kernel and we both change.
    pub(super) fn atomic(&self, offset: usize) -> &std::sync::atomic::AtomicU64 {
        assert!(
            offset.is_multiple_of(8) && offset + 8 <= self.length,
            "no word at this offset of the mapping"
        );
        // SAFETY: in bounds and aligned as asserted; mappings are page-aligned and live as long as self.
        unsafe { std::sync::atomic::AtomicU64::from_ptr(self.pointer.as_ptr().add(offset).cast()) }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: mapped by us with this length and not referred to any more.
        let result = unsafe { libc::munmap(self.pointer.as_ptr().cast(), self.length) };
        debug_assert_eq!(result, 0, "unmapping what was mapped cannot fail");
    }
}
