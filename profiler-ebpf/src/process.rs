//! Keeps the set of watched processes true between an event and the daemon's knowledge of it.
//!
//! A fork copies the parent's entry, so that the child is sampled from its first instruction; an exec marks the entry
//! pending, because its mappings are gone. The daemon replaces both entries when it has read its own records.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_kernel},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use aya_log_ebpf::warn;
use profiler_common::process::{ProcessEntry, state};

use crate::maps::{EXECS, PROCESSES, TASK_TGID, UNKNOWN_OFFSET};

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
                warn!(
                    &context,
                    "no room to watch process {} from its fork on; the daemon has to catch up", child
                );
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
    // SAFETY: only tested for presence.
    if unsafe { PROCESSES.get(&pid) }.is_none() {
        return 0;
    }
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    if EXECS.insert(&pid, &now, 0).is_err() {
        warn!(&context, "no room to note the exec of process {}", pid);
    }
    let pending = ProcessEntry {
        generation: 0,
        state: state::PENDING,
        first_mapping: 0,
        mapping_count: 0,
    };
    if PROCESSES.insert(&pid, &pending, 0).is_err() {
        warn!(&context, "the entry of process {} could not be marked pending", pid);
    }
    0
}

#[inline(always)]
fn current_tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}
