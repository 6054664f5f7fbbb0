//! The shared object that the kernel maps into every process.

use super::scan::{ProcFs, ScanError};
use crate::kernel::records::Pid;

/// Largest vDSO.
const MAX_VDSO_BYTES: u64 = 1 << 20;

/// The kernel's shared object as the daemon itself has it mapped: it is the same in every 64-bit process.
pub(crate) fn own_vdso(proc: &ProcFs) -> Result<Vec<u8>, ScanError> {
    let own = Pid(std::process::id());
    let scan = proc.maps(own)?;
    let record = scan
        .executable
        .iter()
        .find(|record| record.path == b"[vdso]")
        .ok_or(ScanError::Gone)?;
    let path = proc.path(own, "mem");
    let read = || {
        let memory = std::fs::File::open(&path)?;
        let mut image = vec![0; usize::try_from(record.length.min(MAX_VDSO_BYTES)).unwrap_or_default()];
        std::os::unix::fs::FileExt::read_exact_at(&memory, &mut image, record.start)?;
        Ok(image)
    };
    read().map_err(|reason| ScanError::Failed {
        path: path.clone(),
        reason,
    })
}
