//! The clock event that ticks on each CPU and runs the CPU program.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use super::{
    cpus::PerCpu,
    sys::{self, PerfEventAttr, attr},
};

/// The clock event of one CPU. Closing it, by drop or by the end of the daemon, detaches the program.
#[derive(Debug)]
pub(super) struct CpuClock {
    cpu: u32,
    event: OwnedFd,
    /// What it had counted when it was last looked at.
    seen: Duration,
}

impl PerCpu for CpuClock {
    fn cpu(&self) -> u32 {
        self.cpu
    }
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
        Ok(Self {
            cpu,
            event,
            seen: Duration::ZERO,
        })
    }

    /// Whether it has counted since it was last asked this. The clock of a CPU that was away for a while stands still for ever.
    pub(super) fn has_advanced(&mut self) -> bool {
        let before = self.seen;
        self.seen = self.counted().unwrap_or(before);
        self.seen > before
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
