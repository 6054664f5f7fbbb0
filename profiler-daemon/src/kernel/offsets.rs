//! What the programs are told of the running kernel's structures.

use super::btf::Structures;

/// Globals of the programs and the members whose offsets they hold.
const OFFSETS: [(&str, &str, &str); 19] = [
    ("TASK_TGID", "task_struct", "tgid"),
    ("TASK_FLAGS", "task_struct", "flags"),
    ("TASK_UTASK", "task_struct", "utask"),
    ("UTASK_VADDR", "uprobe_task", "vaddr"),
    ("UTASK_XOL_VADDR", "uprobe_task", "xol_vaddr"),
    ("UTASK_RETURN_INSTANCES", "uprobe_task", "return_instances"),
    ("RETURN_ORIGINAL", "return_instance", "orig_ret_vaddr"),
    ("RETURN_CHAINED", "return_instance", "chained"),
    ("RETURN_NEXT", "return_instance", "next"),
    ("TASK_PAGEFAULT_DISABLED", "task_struct", "pagefault_disabled"),
    ("TASK_MM", "task_struct", "mm"),
    ("MM_EXE_FILE", "mm_struct", "exe_file"),
    ("MM_START_CODE", "mm_struct", "start_code"),
    ("MM_START_STACK", "mm_struct", "start_stack"),
    ("MM_SAVED_AUXV", "mm_struct", "saved_auxv"),
    ("FILE_INODE", "file", "f_inode"),
    ("INODE_NUMBER", "inode", "i_ino"),
    ("INODE_SUPER_BLOCK", "inode", "i_sb"),
    ("SUPER_BLOCK_DEVICE", "super_block", "s_dev"),
];
/// The same of a member of one bit, in bits.
const IN_EXECVE: (&str, &str, &str) = ("TASK_IN_EXECVE", "task_struct", "in_execve");
/// The same of a member of a member that is a structure itself: the thread pointer of x86-64.
const THREAD_POINTER: (&str, [(&str, &str); 2]) = (
    "TASK_THREAD_POINTER",
    [("task_struct", "thread"), ("thread_struct", "fsbase")],
);

/// A global with what it is to hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Offset {
    pub(super) global: &'static str,
    /// `None` if this kernel has no such member.
    pub(super) value: Option<u64>,
    /// The member, as `structure.member`.
    pub(super) member: String,
}

/// All of them.
pub(super) fn find(structures: &Structures<'_>) -> Vec<Offset> {
    let bytes = OFFSETS.iter().map(|(global, structure, member)| Offset {
        global,
        value: structures.offset(structure, member),
        member: format!("{structure}.{member}"),
    });
    let (global, structure, member) = IN_EXECVE;
    let bit = Offset {
        global,
        value: structures.bit_offset(structure, member),
        member: format!("{structure}.{member}"),
    };
    let (global, [outer, inner]) = THREAD_POINTER;
    let thread_pointer = Offset {
        global,
        value: structures
            .offset(outer.0, outer.1)
            .zip(structures.offset(inner.0, inner.1))
            .map(|(outer, inner)| outer + inner),
        member: format!("{}.{}.{}", outer.0, outer.1, inner.1),
    };
    bytes.chain([bit, thread_pointer]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_has_the_thread_pointer() {
        let Ok(data) = std::fs::read("/sys/kernel/btf/vmlinux") else {
            eprintln!("skipped: this kernel has no BTF");
            return;
        };
        let structures = Structures::parse(&data).unwrap();
        let found = find(&structures);
        let of = |global| found.iter().find(|offset| offset.global == global).unwrap();
        let thread_pointer = of("TASK_THREAD_POINTER");
        assert_eq!(thread_pointer.member, "task_struct.thread.fsbase");
        assert!(thread_pointer.value > structures.offset("task_struct", "thread"));
    }
}
