//! The C library's allocator, told to give back what is freed.
//!
//! What one large object takes to be read, compiled or named is many times what is kept of it, and comes on several threads.
//! By itself the GNU allocator learns from the first large block that is freed to take later ones out of an arena, up to
//! 32 MiB each, and leaves up to twice that at the end of each arena. The daemon would then stay at its peak, once
//! for each thread (mallopt(3), `M_MMAP_THRESHOLD`).

#[cfg(target_env = "gnu")]
use libc::c_int;

/// From this size on a block is a mapping of its own, which goes back to the kernel when it is freed. Smaller ones are
/// frequent enough that mapping them would cost more than it saves.
#[cfg(target_env = "gnu")]
const OWN_MAPPING_BYTES: c_int = 256 << 10;
/// Free memory at the end of an arena beyond which it is given back.
#[cfg(target_env = "gnu")]
const KEPT_BYTES: c_int = 512 << 10;
/// Arenas that threads share: each keeps what is free between its blocks for itself. Three threads allocate much, and seldom
/// at one time.
#[cfg(target_env = "gnu")]
const ARENAS: c_int = 4;

/// Bounds what is kept of freed memory from now on. Called before there are threads.
pub fn bound_heap() {
    #[cfg(target_env = "gnu")]
    for (option, value) in [
        (libc::M_MMAP_THRESHOLD, OWN_MAPPING_BYTES),
        (libc::M_TRIM_THRESHOLD, KEPT_BYTES),
        (libc::M_ARENA_MAX, ARENAS),
    ] {
        // SAFETY: it takes two numbers and sets variables of the allocator, under its lock.
        let is_taken = unsafe { libc::mallopt(option, value) } == 1;
        debug_assert!(is_taken, "values within the allocator's bounds are taken");
    }
}

/// Gives freed memory back to the kernel, which the allocator otherwise keeps for later.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number and touches nothing but the allocator's own free memory, under its locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
