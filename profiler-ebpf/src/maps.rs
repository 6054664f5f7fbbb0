//! The maps, all of fixed size. The daemon fills tables through shared memory and changes entries by system calls.

use aya_ebpf::{
    Global, btf_maps,
    macros::{btf_map, map},
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use profiler_common::{
    counters::Counter,
    cpu::CpuSampleHeader,
    limits::{
        FRAME_SLOTS, MAX_MAPPINGS, MAX_PAGES, MAX_PROCESSES, MAX_RINGS, MAX_SHARDS, MAX_TEMPLATES, ROWS_PER_SHARD,
    },
    mapped::{Asked, MAPPED_RING_BYTES, MappedCounter, MappedPace},
    memory::{EVENT_RING_BYTES, FAULT_RING_BYTES, FaultCounter, FaultHeader, PROCESS_PACES, PROGRAM_PACES, Pace},
    process::{Exec, FileKey, Mapping, ProcessEntry, Template},
    python::{MAX_PYTHON_LAYOUTS, PythonLayout},
    python_walk::PythonWalk,
    walk::{MAX_STEPS, Walk},
};

/// `BPF_F_MMAPABLE` (include/uapi/linux/bpf.h).
const MMAPABLE: u32 = 1 << 10;
/// Template size of a ring; the rings themselves are made by the daemon.
const RING_TEMPLATE_BYTES: usize = 1 << 18;

/// Words of the buffer for what is read of a frame or a code object: a power of two, so that an index can be masked.
pub(crate) const PYTHON_BUFFER_WORDS: usize = 32;
/// Code objects that are remembered as seen lately, a power of two.
pub(crate) const CODE_SLOTS: usize = 1024;

/// The state of one walk, one per CPU and kind of program, because one kind may interrupt the other. `header` and `frames` are
/// contiguous: together they are the record of a CPU sample, and with `fault` before them that of a page fault, or with a header of
/// the same size in its place that of a call that asks for memory.
#[repr(C)]
pub(crate) struct Scratch {
    /// Not 0 while the program runs on this CPU.
    pub(crate) busy: u64,
    /// Address of the next `struct return_instance` to look at, or 0.
    pub(crate) return_instance: u64,
    /// What the walker knew of the process when the walk began.
    pub(crate) entry: ProcessEntry,
    pub(crate) walk: Walk,
    /// log2 of the words that a frame of the user's stack takes.
    pub(crate) frame_shift: u64,
    pub(crate) python: PythonWalk,
    /// What was read last of a frame or a code object.
    pub(crate) python_buffer: [u64; PYTHON_BUFFER_WORDS],
    /// Keys of code objects seen lately, each in the slot that it tells.
    pub(crate) seen_code: [u64; CODE_SLOTS],
    /// Not 0 if code was seen for the first time that the daemon was not told of.
    pub(crate) saw_new_code: u64,
    /// When the daemon was last told.
    pub(crate) told_ns: u64,
    pub(crate) fault: FaultHeader,
    pub(crate) header: CpuSampleHeader,
    pub(crate) frames: [u64; FRAME_SLOTS],
}

/// Watched processes by thread group id.
#[map]
pub(crate) static PROCESSES: HashMap<u32, ProcessEntry> = HashMap::with_max_entries(MAX_PROCESSES, 0);

/// The last exec of each process, so that the daemon can tell that it is late, and where the parts of the program lie.
#[map]
pub(crate) static EXECS: LruHashMap<u32, Exec> = LruHashMap::with_max_entries(MAX_PROCESSES, 0);

/// Programs to be watched from their exec on, with what is known of them from an earlier process.
#[map]
pub(crate) static TEMPLATES: HashMap<FileKey, Template> = HashMap::with_max_entries(MAX_TEMPLATES, 0);

/// Mappings of all processes; each process has a run of them, sorted by address.
#[map]
pub(crate) static MAPPINGS: Array<Mapping> = Array::with_max_entries(MAX_MAPPINGS, MMAPABLE);

/// Layouts of interpreters, by [`ProcessEntry::python`].
#[map]
pub(crate) static PYTHON_LAYOUTS: Array<PythonLayout> = Array::with_max_entries(MAX_PYTHON_LAYOUTS, MMAPABLE);

/// Pages of rows of all objects ([`profiler_common::row::Page`]).
#[map]
pub(crate) static PAGES: Array<u64> = Array::with_max_entries(MAX_PAGES, MMAPABLE);

/// Rows of all pages ([`profiler_common::row::Row`]) in shards that the daemon adds as it needs them.
#[btf_map]
pub(crate) static SHARDS: btf_maps::ArrayOfMaps<
    btf_maps::Array<u64, { ROWS_PER_SHARD as usize }, { MMAPABLE as usize }>,
    { MAX_SHARDS as usize },
> = btf_maps::ArrayOfMaps::new();

/// One ring of samples for up to [`profiler_common::limits::CPUS_PER_RING`] CPUs.
#[btf_map]
pub(crate) static RINGS: btf_maps::ArrayOfMaps<btf_maps::RingBuf<u8, RING_TEMPLATE_BYTES>, { MAX_RINGS as usize }> =
    btf_maps::ArrayOfMaps::new();

/// What became of the runs, per CPU ([`Counter`]).
#[map]
pub(crate) static COUNTERS: PerCpuArray<[u64; Counter::ALL.len()]> = PerCpuArray::with_max_entries(1, 0);

/// State of the walk.
#[map]
pub(crate) static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// The same for page faults, and for calls that ask for memory.
#[map]
pub(crate) static FAULT_SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// How densely faults of a process are chosen, by [`ProcessEntry::pace`].
#[map]
pub(crate) static PACES: Array<Pace> = Array::with_max_entries(PROCESS_PACES + PROGRAM_PACES, 0);

/// The same of all processes of a CPU.
#[map]
pub(crate) static CPU_PACE: PerCpuArray<Pace> = PerCpuArray::with_max_entries(1, 0);

/// What became of page faults, per CPU ([`FaultCounter`]).
#[map]
pub(crate) static FAULT_COUNTERS: PerCpuArray<[u64; FaultCounter::ALL.len()]> = PerCpuArray::with_max_entries(1, 0);

/// Chosen page faults of all CPUs: few, however many there are.
#[map]
pub(crate) static FAULT_RING: RingBuf = RingBuf::with_byte_size(FAULT_RING_BYTES, 0);

/// What is rare ([`profiler_common::memory::OomVictim`]).
#[map]
pub(crate) static EVENT_RING: RingBuf = RingBuf::with_byte_size(EVENT_RING_BYTES, 0);

/// Whose calls that ask for memory are taken.
#[map]
pub(crate) static ASKED: Array<Asked> = Array::with_max_entries(1, 0);

/// How many of them were taken lately, per CPU.
#[map]
pub(crate) static MAPPED_PACE: PerCpuArray<MappedPace> = PerCpuArray::with_max_entries(1, 0);

/// What became of them, per CPU ([`MappedCounter`]).
#[map]
pub(crate) static MAPPED_COUNTERS: PerCpuArray<[u64; MappedCounter::ALL.len()]> = PerCpuArray::with_max_entries(1, 0);

/// Those calls, of all CPUs.
#[map]
pub(crate) static MAPPED_RING: RingBuf = RingBuf::with_byte_size(MAPPED_RING_BYTES, 0);

/// Salt of the hash of pages.
#[unsafe(no_mangle)]
pub(crate) static FAULT_SALT: Global<u64> = Global::new(0);

/// Elements to iterate over where the kernel has no `bpf_loop`.
#[map]
pub(crate) static STEPS: Array<u32> = Array::with_max_entries(MAX_STEPS, 0);

// Offsets in kernel structures, found in the running kernel's BTF by the daemon. A value of `UNKNOWN_OFFSET` switches off what needs it.

/// Stands for an offset that the kernel's BTF does not have.
pub(crate) const UNKNOWN_OFFSET: u64 = u64::MAX;

/// `task_struct.tgid`.
#[unsafe(no_mangle)]
pub(crate) static TASK_TGID: Global<u64> = Global::new(UNKNOWN_OFFSET);
/// `task_struct.flags`.
#[unsafe(no_mangle)]
pub(crate) static TASK_FLAGS: Global<u64> = Global::new(UNKNOWN_OFFSET);
/// `task_struct.utask`.
#[unsafe(no_mangle)]
pub(crate) static TASK_UTASK: Global<u64> = Global::new(UNKNOWN_OFFSET);
/// `uprobe_task.vaddr`.
#[unsafe(no_mangle)]
pub(crate) static UTASK_VADDR: Global<u64> = Global::new(UNKNOWN_OFFSET);
/// `uprobe_task.xol_vaddr`.
#[unsafe(no_mangle)]
pub(crate) static UTASK_XOL_VADDR: Global<u64> = Global::new(UNKNOWN_OFFSET);
/// `uprobe_task.return_instances`.
#[unsafe(no_mangle)]
pub(crate) static UTASK_RETURN_INSTANCES: Global<u64> = Global::new(UNKNOWN_OFFSET);
/// `return_instance.orig_ret_vaddr`.
#[unsafe(no_mangle)]
pub(crate) static RETURN_ORIGINAL: Global<u64> = Global::new(UNKNOWN_OFFSET);
/// `return_instance.chained`.
#[unsafe(no_mangle)]
pub(crate) static RETURN_CHAINED: Global<u64> = Global::new(UNKNOWN_OFFSET);
/// `return_instance.next`.
#[unsafe(no_mangle)]
pub(crate) static RETURN_NEXT: Global<u64> = Global::new(UNKNOWN_OFFSET);
/// `task_struct.thread.fsbase`.
#[unsafe(no_mangle)]
pub(crate) static TASK_THREAD_POINTER: Global<u64> = Global::new(UNKNOWN_OFFSET);
/// `task_struct.pagefault_disabled`.
#[unsafe(no_mangle)]
pub(crate) static TASK_PAGEFAULT_DISABLED: Global<u64> = Global::new(UNKNOWN_OFFSET);
/// `task_struct.mm`.
#[unsafe(no_mangle)]
pub(crate) static TASK_MM: Global<u64> = Global::new(UNKNOWN_OFFSET);
/// `task_struct.in_execve`, in bits.
#[unsafe(no_mangle)]
pub(crate) static TASK_IN_EXECVE: Global<u64> = Global::new(UNKNOWN_OFFSET);
/// `mm_struct.exe_file`.
#[unsafe(no_mangle)]
pub(crate) static MM_EXE_FILE: Global<u64> = Global::new(UNKNOWN_OFFSET);
/// `mm_struct.start_code`.
#[unsafe(no_mangle)]
pub(crate) static MM_START_CODE: Global<u64> = Global::new(UNKNOWN_OFFSET);
/// `mm_struct.start_stack`.
#[unsafe(no_mangle)]
pub(crate) static MM_START_STACK: Global<u64> = Global::new(UNKNOWN_OFFSET);
/// `mm_struct.saved_auxv`.
#[unsafe(no_mangle)]
pub(crate) static MM_SAVED_AUXV: Global<u64> = Global::new(UNKNOWN_OFFSET);
/// `file.f_inode`.
#[unsafe(no_mangle)]
pub(crate) static FILE_INODE: Global<u64> = Global::new(UNKNOWN_OFFSET);
/// `inode.i_ino`.
#[unsafe(no_mangle)]
pub(crate) static INODE_NUMBER: Global<u64> = Global::new(UNKNOWN_OFFSET);
/// `inode.i_sb`.
#[unsafe(no_mangle)]
pub(crate) static INODE_SUPER_BLOCK: Global<u64> = Global::new(UNKNOWN_OFFSET);
/// `super_block.s_dev`.
#[unsafe(no_mangle)]
pub(crate) static SUPER_BLOCK_DEVICE: Global<u64> = Global::new(UNKNOWN_OFFSET);
