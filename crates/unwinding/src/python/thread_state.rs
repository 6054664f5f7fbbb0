//! The way from a thread to its `PyThreadState`.
//!
//! Up to 3.14 each thread keeps it under a key of the C library (`pthread_getspecific`), for its whole life; 3.15 keeps it in
//! a variable of the thread. Either is some reads that start at the thread pointer. (The variable of 3.12 and newer that
//! holds the current thread state is empty whenever the thread has released the GIL, and is of no use.)
//!
//! Where the C libraries keep the value of a key, of AArch64 too, which nothing here reads yet:
//!
//! | library | where |
//! |---|---|
//! | glibc x86-64 | thread pointer + 0x310 + key · 16 + 8 |
//! | glibc AArch64 | thread pointer − K + key · 16 + 8, where K depends on the release: 1520 to 2.31, 1664 to 2.34, 1712 in 2.35, 1584 from 2.36, 1552 in 2.41 |
//! | musl x86-64 | \*(thread pointer + 0x80) + key · 8 |
//! | musl AArch64 | \*(thread pointer − 88) + key · 8 |

use super::error::PythonError;
use super::memory::{ProcessMemory, Reads, half_at};
use super::object::Libc;
use super::thread_local::ThreadLocal;

/// Most keys of a process: `PTHREAD_KEYS_MAX` of glibc, `PTHREAD_KEYS_MAX` of musl is 128.
const MAX_KEYS: u32 = 1024;
/// Keys whose values glibc keeps in the thread's own structure (`PTHREAD_KEY_2NDLEVEL_SIZE`).
const GLIBC_DIRECT_KEYS: u32 = 32;
/// Where glibc keeps them (`specific_1stblock` of `struct pthread`), 16 bytes each: a sequence number, the value.
const GLIBC_DIRECT: u32 = 0x310;
/// Where it keeps the pointers to the blocks of the others (`specific`).
const GLIBC_BLOCKS: u32 = GLIBC_DIRECT + GLIBC_DIRECT_KEYS * 16;
/// Where musl keeps the pointer to the values (`tsd` of `struct pthread`).
const MUSL_VALUES: i64 = 0x80;
/// Where a thread keeps the pointer to the table of its modules' blocks (`dtv`), in both.
const BLOCK_TABLE: i64 = 8;
/// Most modules with variables of the thread.
const MAX_MODULES: u64 = 1 << 16;
/// Largest offset of a variable in its module's block, and from the thread pointer.
const MAX_VARIABLE_OFFSET: i64 = 1 << 30;

/// Up to three reads that lead from the thread pointer to the thread state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// What is added before each read.
    pub(super) steps: [i64; 3],
    pub(super) reads: u32,
}

impl Way {
    fn new<const N: usize>(steps: [i64; N]) -> Self {
        let mut padded = [0; 3];
        for (place, step) in padded.iter_mut().zip(steps) {
            *place = step;
        }
        Self {
            steps: padded,
            reads: N as u32,
        }
    }

    /// The thread state of the thread with this thread pointer; null if it has none.
    pub(super) fn follow(&self, memory: &(impl ProcessMemory + ?Sized), thread_pointer: u64) -> Option<u64> {
        let mut value = thread_pointer;
        for step in &self.steps[..self.reads as usize] {
            value = memory.word(value.wrapping_add_signed(*step))?;
        }
        Some(value)
    }
}

/// By a key: `Py_tss_t` at this runtime address has whether it is in use, and the key.
pub(super) fn by_key(memory: &(impl ProcessMemory + ?Sized), key_address: u64, libc: Libc) -> Result<Way, PythonError> {
    let bytes: [u8; 8] = memory.array(key_address).ok_or(PythonError::Unreadable {
        what: "the key of the thread state",
    })?;
    let (Some(used), Some(key)) = (half_at(&bytes, 0), half_at(&bytes, 4)) else {
        return Err(PythonError::NotRunning);
    };
    match used {
        0 => Err(PythonError::NotRunning),
        1 if key < MAX_KEYS => Ok(of_key(key, libc)),
        _ => Err(PythonError::NoThreadState {
            reason: "the key of the thread state is none",
        }),
    }
}

fn of_key(key: u32, libc: Libc) -> Way {
    let [key_wide, direct, blocks] = [key, GLIBC_DIRECT, GLIBC_BLOCKS].map(i64::from);
    let in_block = i64::from(key % GLIBC_DIRECT_KEYS) * 16 + 8;
    match libc {
        Libc::Glibc if key < GLIBC_DIRECT_KEYS => Way::new([direct + in_block]),
        Libc::Glibc => Way::new([blocks + i64::from(key / GLIBC_DIRECT_KEYS) * 8, in_block]),
        Libc::Musl => Way::new([MUSL_VALUES, key_wide * 8]),
    }
}

/// By a variable of the thread, in an object that lies `bias` from its link addresses.
pub(super) fn by_variable(
    memory: &(impl ProcessMemory + ?Sized),
    variable: ThreadLocal,
    bias: u64,
    libc: Libc,
) -> Result<Way, PythonError> {
    let unreadable = PythonError::Unreadable {
        what: "the global offset table",
    };
    let word = |link_address: u64| memory.word(link_address.wrapping_add(bias));
    let far = PythonError::NoThreadState {
        reason: "the thread state is said to lie out of all bounds",
    };
    let sum = |offset: u64, displacement: i64| {
        offset
            .cast_signed()
            .checked_add(displacement)
            .filter(|sum| sum.abs() < MAX_VARIABLE_OFFSET)
    };
    match variable {
        ThreadLocal::Constant(distance) => Ok(Way::new([distance])),
        ThreadLocal::InitialExec { word: at, displacement } => {
            let distance = word(at).ok_or(unreadable)?;
            sum(distance, displacement)
                .map(|distance| Way::new([distance]))
                .ok_or(far)
        }
        ThreadLocal::Descriptor { words, displacement } => {
            let distance = word(words.wrapping_add(8)).ok_or(unreadable)?;
            sum(distance, displacement)
                .map(|distance| Way::new([distance]))
                .ok_or(far)
        }
        ThreadLocal::Dynamic { words, displacement } => {
            let (Some(module), Some(offset)) = (word(words), word(words.wrapping_add(8))) else {
                return Err(unreadable);
            };
            // The table's entries: the block's address, and in glibc what is to be freed of it.
            let entry_bytes = match libc {
                Libc::Glibc => 16,
                Libc::Musl => 8,
            };
            if module == 0 {
                return Err(PythonError::NotRunning);
            }
            let in_block = sum(offset, displacement).filter(|_| module <= MAX_MODULES).ok_or(far)?;
            Ok(Way::new([BLOCK_TABLE, module.cast_signed() * entry_bytes, in_block]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        assert_eq!(of_key(0, Libc::Glibc), Way::new([0x318]));
        assert_eq!(of_key(31, Libc::Glibc), Way::new([0x508]));
        assert_eq!(of_key(32, Libc::Glibc), Way::new([0x518, 8]));
        assert_eq!(of_key(70, Libc::Glibc), Way::new([0x520, 6 * 16 + 8]));
        assert_eq!(of_key(3, Libc::Musl), Way::new([0x80, 24]));
    }
}
