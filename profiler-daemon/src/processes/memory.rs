//! Reading the memory of a process that is not trusted: bounded `pread`s of `/proc/PID/mem`. What is read may have changed
//! by the next read, and belongs to whatever program the process ran when the file was opened.

use std::{collections::HashSet, fs::File, io, ops::Range, os::unix::fs::FileExt};

use profiler_common::limits::PAGE_SHIFT;
use profiler_unwinding::python::ProcessMemory;

use super::scan::ProcFs;
use crate::kernel::records::Pid;

/// Most bytes of a stack that are looked at.
const MAX_STACK_BYTES: usize = 256 << 10;
/// Most addresses that are taken from it.
const MAX_STACK_ADDRESSES: usize = 1024;

/// The memory of a process.
#[derive(Debug)]
pub(crate) struct TargetMemory {
    file: File,
}

impl TargetMemory {
    /// Opens the memory of the program that the process runs now. After its end nothing can be read from it.
    pub(crate) fn open(proc: &ProcFs, pid: Pid) -> io::Result<Self> {
        let file = File::open(proc.path(pid, "mem"))?;
        Ok(Self { file })
    }
}

impl ProcessMemory for TargetMemory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        self.file.read_exact_at(buffer, address).is_ok()
    }
}

/// What of a thread's stack from an address outwards looks like addresses in some code: one for each page of code, in the
/// order in which they are met. None if the stack cannot be read.
pub(super) fn addresses_on_stack(proc: &ProcFs, pid: Pid, from: u64, code: &[Range<u64>]) -> Vec<u64> {
    let Ok(memory) = TargetMemory::open(proc, pid) else {
        return Vec::new();
    };
    let mut stack = vec![0; MAX_STACK_BYTES];
    // It ends where nothing is mapped behind it.
    let mut length = 0;
    while let Ok(read @ 1..) = memory
        .file
        .read_at(&mut stack[length..], from.saturating_add(length as u64))
    {
        length += read;
    }
    let words = stack[..length]
        .as_chunks()
        .0
        .iter()
        .map(|word| u64::from_le_bytes(*word));
    let mut pages = HashSet::new();
    let addresses =
        words.filter(|word| code.iter().any(|code| code.contains(word)) && pages.insert(word >> PAGE_SHIFT));
    addresses.take(MAX_STACK_ADDRESSES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_searched_for_code_and_nothing_else() {
        let proc = ProcFs::new("/proc");
        let own = Pid(std::process::id());
        let function = a_stack_is_searched_for_code_and_nothing_else as *const () as u64;
        let words = [
            7,
            function,
            function + 8,
            u64::MAX,
            function ^ 1 << 40,
            function + (1 << PAGE_SHIFT),
        ];
        let code = function..function + (2 << PAGE_SHIFT);
        let from = words.as_ptr() as u64;
        let found = addresses_on_stack(&proc, own, from, std::slice::from_ref(&code));
        assert_eq!(found.get(..2), Some(&[function, words[5]][..]), "{found:x?}");
        assert!(found.iter().all(|address| code.contains(address)));
        let none = |pid, from, code: &[Range<u64>]| assert!(addresses_on_stack(&proc, pid, from, code).is_empty());
        none(own, from, &[]);
        none(own, 8, std::slice::from_ref(&code));
        none(own, u64::MAX - 7, std::slice::from_ref(&code));
        none(Pid(u32::MAX), from, std::slice::from_ref(&code));
    }
}
