//! What differs between versions of the interpreter.

use profiler_unwinding::python::{InterpreterObject, Strings, Version};

/// The oldest and the newest minor version of Python 3 whose heap is known.
const OLDEST_MINOR: u8 = 9;
const NEWEST_MINOR: u8 = 15;
/// The first version with arenas of 1 MiB (`USE_LARGE_ARENAS`), and the size of a pool before it and from it on.
const FIRST_WITH_LARGE_POOLS: u8 = 10;
const SMALL_POOL_BYTES: u64 = 4 << 10;
const LARGE_POOL_BYTES: u64 = 16 << 10;

/// `Py_TPFLAGS_HAVE_GC`.
const HAS_GC_HEAD: u64 = 1 << 14;
/// `Py_TPFLAGS_MANAGED_DICT` (3.11) and `Py_TPFLAGS_MANAGED_WEAKREF` (3.12).
const MANAGED: u64 = 1 << 3 | 1 << 4;
/// Bytes of `PyGC_Head`, and of the two words before it.
const GC_HEAD_BYTES: u64 = 16;
const MANAGED_BYTES: u64 = 16;

/// Why the heap of an interpreter cannot be counted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It has no pools.
    #[error(
        "Python {version} is built without a global lock: its objects are in mimalloc's pages, which cannot be counted"
    )]
    FreeThreaded {
        /// The version.
        version: Version,
    },
    /// How its pools look is not known.
    #[error("the heap of Python {version} is not known: 3.{OLDEST_MINOR} to 3.{NEWEST_MINOR} can be counted")]
    Version {
        /// The version.
        version: Version,
    },
    /// Types cannot be told from other memory.
    #[error("the interpreter does not export PyType_Type")]
    NoTypeOfTypes,
}

/// An interpreter as a process runs it.
#[derive(Clone, Copy, Debug)]
pub struct Interpreter {
    /// 3.`minor`.
    pub(crate) minor: u8,
    /// Runtime address of `PyType_Type`.
    pub(crate) type_of_types: u64,
    /// How names are read.
    pub(crate) strings: Strings,
}

impl Interpreter {
    /// The interpreter of a process that has this object mapped `bias` (wrapping) above its link addresses.
    ///
    /// # Errors
    /// If its heap cannot be counted.
    pub fn of(object: &InterpreterObject, bias: u64) -> Result<Self, Refusal> {
        let version = object.version;
        if object.free_threaded {
            return Err(Refusal::FreeThreaded { version });
        }
        if !(OLDEST_MINOR..=NEWEST_MINOR).contains(&version.minor) {
            return Err(Refusal::Version { version });
        }
        let type_of_types = object.type_type.ok_or(Refusal::NoTypeOfTypes)?;
        Ok(Self {
            minor: version.minor,
            type_of_types: type_of_types.wrapping_add(bias),
            strings: object.strings(bias),
        })
    }

    /// Size of a pool, which is also its alignment.
    pub fn pool_bytes(&self) -> u64 {
        if self.minor < FIRST_WITH_LARGE_POOLS {
            SMALL_POOL_BYTES
        } else {
            LARGE_POOL_BYTES
        }
    }

    /// Runtime address of `PyType_Type`, which is mapped for as long as the program runs.
    pub fn type_of_types(&self) -> u64 {
        self.type_of_types
    }

    /// Bytes of a block before an object whose type has these flags (`_PyType_PreHeaderSize`).
    pub(crate) fn bytes_before(&self, flags: u64) -> u64 {
        let collected = if flags & HAS_GC_HEAD == 0 { 0 } else { GC_HEAD_BYTES };
        let managed = self.minor >= 11 && flags & MANAGED != 0;
        collected + if managed { MANAGED_BYTES } else { 0 }
    }

    /// Whether the first word of an object may be a count of its references. From 3.14 on the upper half has flags.
    pub(crate) fn is_reference_count(&self, word: u64) -> bool {
        let upper = word >> 32;
        let flags = if self.minor >= 14 { upper >> 16 } else { 0 };
        // `low` is the count; an upper half of zero is no pointer of a 64-bit process.
        word as u32 != 0 && upper & 0xffff == 0 && (self.minor >= 14 || upper == 0) && flags <= 0xff
    }

    /// Offset of `ht_cached_keys` in a type of the heap, by `offsetof` in the headers of each version.
    pub(crate) fn shared_keys(&self) -> u64 {
        match self.minor {
            ..=9 => 864,
            10 | 11 => 872,
            12..=14 => 880,
            _ => 888,
        }
    }

    /// Whether the header of a dict's keys has the form of 3.11.
    pub(crate) fn has_small_key_headers(&self) -> bool {
        self.minor >= 11
    }

    /// Bytes before the first of the values that a dict, or an instance, has apart from its keys (`PyDictValues`).
    pub(crate) fn values_head(&self) -> u64 {
        if self.minor >= 13 { 8 } else { 0 }
    }
}
