//! Sizes of the shared maps and records.

/// Most frames of a user stack.
pub const MAX_USER_FRAMES: usize = 512;
/// Most frames of a kernel stack; the kernel's own default limit is `kernel.perf_event_max_stack` = 127.
pub const MAX_KERNEL_FRAMES: usize = 127;
/// Words behind the header of a record: the next power of two above all stacks, so that an index can be masked.
pub const FRAME_SLOTS: usize = 2048;
/// Length of a thread's name with its terminating zero (`TASK_COMM_LEN` of the kernel).
pub const THREAD_NAME_BYTES: usize = 16;

/// Processes that can be watched at one time.
pub const MAX_PROCESSES: u32 = 4096;
/// Programs whose mappings are known before they are executed.
pub const MAX_TEMPLATES: u32 = 256;
/// Executable mappings of all watched processes together.
pub const MAX_MAPPINGS: u32 = 1 << 16;
/// Executable mappings of one process: what the walker's binary search can reach is a power of two.
pub const MAX_MAPPINGS_PER_PROCESS: u32 = 8192;

/// log2 of the bytes of code that one page of rows covers.
pub const PAGE_SHIFT: u32 = 16;
/// Pages of rows of all objects together (8 GiB of code).
pub const MAX_PAGES: u32 = 1 << 17;
/// log2 of the rows in a shard, the unit in which memory for rows is taken from the kernel.
pub const SHARD_SHIFT: u32 = 18;
/// Rows in a shard: 2 MiB.
pub const ROWS_PER_SHARD: u32 = 1 << SHARD_SHIFT;
/// Shards at most.
pub const MAX_SHARDS: u32 = 64;

/// CPUs that share one ring buffer of samples.
pub const CPUS_PER_RING: u32 = 16;
/// Ring buffers of samples at most.
pub const MAX_RINGS: u32 = 64;
