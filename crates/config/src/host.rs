//! What a host must offer, whatever is configured: the daemon refuses by it, and the command line tells it beforehand.

/// The oldest Linux that the programs can be loaded on: the first with `bpf_task_pt_regs`.
pub const OLDEST_KERNEL: (u8, u8) = (5, 15);
/// The highest `kernel.perf_event_paranoid` at which `CAP_PERFMON` is enough. Higher levels mean nothing to Linux as it
/// is released; the kernels of Debian and Ubuntu, whose default they are, refuse perf events there to whoever lacks
/// `CAP_SYS_ADMIN`.
pub const MAX_PERF_EVENT_PARANOID: i32 = 2;
