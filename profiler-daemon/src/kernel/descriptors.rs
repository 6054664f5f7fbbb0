//! Descriptors that no program after this one shall have.

use std::io;

/// The first descriptor behind standard input, output and error.
const FIRST_OWN: libc::c_uint = 3;

/// Marks all descriptors but the standard ones to be closed at the next `execve` (close_range(2), Linux 5.11).
///
/// # Errors
/// The kernel cannot do it.
pub fn close_descriptors_at_exec() -> io::Result<()> {
    // SAFETY: no descriptor is closed or changes hands now, so that all owners keep theirs; no memory is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST_OWN,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
