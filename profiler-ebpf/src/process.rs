//! Keeps the set of watched processes true between an event and the daemon's knowledge of it.
//!
//! A fork copies the parent's entry, so that the child is sampled from its first instruction. An exec makes an entry from the
//! program's template if the daemon has left one, and otherwise marks the entry pending, because its mappings are gone.
//! The daemon replaces all of them when it has read its own records.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_kernel, generated::bpf_get_current_task},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use aya_log_ebpf::warn;
use profiler_common::{
    counters::Counter,
    memory::program_pace,
    process::{Exec, state},
};

use crate::{
    cpu::count,
    kernel_target::read_field,
    maps::{
        EXECS, FILE_INODE, INODE_NUMBER, INODE_SUPER_BLOCK, MM_EXE_FILE, MM_SAVED_AUXV, MM_START_CODE, PROCESSES,
        SUPER_BLOCK_DEVICE, TASK_MM, TASK_TGID, TEMPLATES, UNKNOWN_OFFSET,
    },
};

/// Pairs of the auxiliary vector that are looked at; what is sought comes among the first.
const MAX_AUXILIARY_PAIRS: u64 = 24;
/// Kinds of such pairs (include/uapi/linux/auxvec.h, arch/x86/include/uapi/asm/auxvec.h).
const AT_NULL: u64 = 0;
const AT_BASE: u64 = 7;
const AT_SYSINFO_EHDR: u64 = 33;

/// `sched_process_fork(struct task_struct *parent, struct task_struct *child)`.
#[btf_tracepoint(function = "sched_process_fork")]
pub(crate) fn process_fork(context: BtfTracePointContext) -> i32 {
    let parent = current_tgid();
    // SAFETY: the tracepoint's second argument is the child, as BTF says.
    let child_task: *const u8 = unsafe { *context.as_ptr().cast::<*const u8>().add(1) };
    let offset = TASK_TGID.load();
    if offset == UNKNOWN_OFFSET {
        return 0;
    }
    // SAFETY: the helper checks the address.
    let Ok(child) = (unsafe { bpf_probe_read_kernel(child_task.wrapping_add(offset as usize).cast::<u32>()) }) else {
        return 0;
    };
    if child == parent {
        return 0;
    }
    // SAFETY: the entry is copied at once; a torn copy is replaced by the daemon.
    match unsafe { PROCESSES.get(&parent) } {
        Some(entry) => {
            let entry = *entry;
            if PROCESSES.insert(&child, &entry, 0).is_err() {
                count(Counter::EntryRefused);
            }
        }
        None => {
            // An entry of a process that had this id before.
            let _absent = PROCESSES.remove(&child);
        }
    }
    0
}

/// `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`.
#[btf_tracepoint(function = "sched_process_exec")]
pub(crate) fn process_exec(context: BtfTracePointContext) -> i32 {
    let pid = current_tgid();
    let mut exec = Exec {
        // SAFETY: the helper has no preconditions.
        time_ns: unsafe { bpf_ktime_get_ns() },
        ..Exec::default()
    };
    let is_known = look_at_program(&mut exec);
    let template = if is_known {
        // SAFETY: copied at once; the daemon keeps what it refers to until no entry does.
        unsafe { TEMPLATES.get(&exec.program) }
    } else {
        None
    };
    // SAFETY: only tested for presence.
    let is_watched = unsafe { PROCESSES.get(&pid) }.is_some();
    match template {
        Some(template) => exec.entry = template.entry(&exec.anchors),
        None => {
            exec.entry.state = state::PENDING;
            exec.entry.pace = program_pace(exec.entry.generation);
        }
    }
    if EXECS.insert(&pid, &exec, 0).is_err() {
        warn!(&context, "no room to note the exec of process {}", pid);
    }
    if (is_watched || template.is_some()) && PROCESSES.insert(&pid, &exec.entry, 0).is_err() {
        count(Counter::EntryRefused);
    }
    0
}

/// Fills in what the current process has begun to run, and where its parts lie. Returns whether that could be told.
#[inline(always)]
fn look_at_program(exec: &mut Exec) -> bool {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let Some(memory) = read_field(task, TASK_MM.load()) else {
        return false;
    };
    let inode = read_field(memory, MM_EXE_FILE.load()).and_then(|file| read_field(file, FILE_INODE.load()));
    let Some(inode) = inode else { return false };
    let super_block = read_field(inode, INODE_SUPER_BLOCK.load());
    let Some(device) = super_block.and_then(|super_block| read_field(super_block, SUPER_BLOCK_DEVICE.load())) else {
        return false;
    };
    let (Some(number), Some(code_start)) = (
        read_field(inode, INODE_NUMBER.load()),
        read_field(memory, MM_START_CODE.load()),
    ) else {
        return false;
    };
    // `dev_t` has 32 bits.
    exec.program.device = device & 0xffff_ffff;
    exec.program.inode = number;
    exec.anchors.code_start = code_start;
    let auxiliary = MM_SAVED_AUXV.load();
    if auxiliary == UNKNOWN_OFFSET {
        return false;
    }
    let (mut pair, mut missing) = (0, 2);
    while pair < MAX_AUXILIARY_PAIRS && missing > 0 {
        let at = memory.wrapping_add(auxiliary + 16 * pair);
        pair += 1;
        // SAFETY: the helper checks the address.
        let Ok([kind, value]) = (unsafe { bpf_probe_read_kernel(at as *const [u64; 2]) }) else {
            return false;
        };
        if kind == AT_BASE {
            exec.anchors.loader_start = value;
            missing -= 1;
        } else if kind == AT_SYSINFO_EHDR {
            exec.anchors.vdso_start = value;
            missing -= 1;
        } else if kind == AT_NULL {
            break;
        }
    }
    true
}

#[inline(always)]
fn current_tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}
