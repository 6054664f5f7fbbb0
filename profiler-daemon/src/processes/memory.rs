//! Reading the memory of a process that is not trusted: bounded `pread`s of `/proc/PID/mem`. What is read may have changed
//! by the next read, and belongs to whatever program the process ran when the file was opened.

use std::{fs::File, io, os::unix::fs::FileExt};

use profiler_unwinding::python::ProcessMemory;

use super::scan::ProcFs;
use crate::kernel::records::Pid;

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
