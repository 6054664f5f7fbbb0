//! The clock event that ticks on each CPU and runs the CPU program.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use super::sys::{self, PerfEventAttr, attr};

/// The clock event of one CPU. Closing it, by drop or by the end of the daemon, detaches the program.
#[derive(Debug)]
pub(super) struct CpuClock {
    pub(super) cpu: u32,
    event: OwnedFd,
}

impl CpuClock {
    /// Ticks once each `period_ns` of the CPU's time, idle or not, and runs the program on each tick.
    pub(super) fn start(cpu: u32, period_ns: u64, program: BorrowedFd<'_>) -> io::Result<Self> {
        let attributes = PerfEventAttr {
            kind: attr::TYPE_SOFTWARE,
            config: attr::CPU_CLOCK,
            sample_period_or_frequency: period_ns,
            flags: attr::FLAG_DISABLED,
            ..PerfEventAttr::default()
        };
        let event = sys::perf_event_open(&attributes, cpu)?;
        sys::set_program(event.as_fd(), program)?;
        sys::enable(event.as_fd())?;
        Ok(Self { cpu, event })
    }

    /// Time that the event has counted: the clock of a CPU counts nanoseconds.
    pub(super) fn counted(&self) -> io::Result<Duration> {
        let mut count = [0; 8];
        let read = rustix::io::read(&self.event, &mut count)?;
        if read != count.len() {
            return Err(io::Error::other("short read of a perf event"));
        }
        Ok(Duration::from_nanos(u64::from_ne_bytes(count)))
    }
}
