//! Why Python stacks of a process cannot be had.

use thiserror::Error;

use super::version::Version;
use crate::elf::ElfError;

/// Why an object or a process is left to its native stacks. Names what was found.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PythonError {
    /// The file is no object that can be read.
    #[error(transparent)]
    Object(#[from] ElfError),
    /// An interpreter of which nothing says which version it is.
    #[error("an interpreter of unknown version: older than 3.8, or its version cannot be read")]
    VersionUnknown,
    /// A version whose structures are not known.
    #[error("Python {version} is not known (3.8 to 3.15 are)")]
    VersionUnsupported {
        /// What the object states.
        version: Version,
    },
    /// An alpha or beta version.
    #[error("Python {version} is a pre-release, whose structures may be any")]
    PreRelease {
        /// What the object states.
        version: Version,
    },
    /// Two places of the object state different versions.
    #[error("the object states two versions: {exported} in Py_Version, {header} in its debug offsets")]
    VersionsDiffer {
        /// `Py_Version`.
        exported: Version,
        /// `_Py_DebugOffsets`.
        header: Version,
    },
    /// What every interpreter defines is missing.
    #[error("the interpreter does not define {name}")]
    SymbolMissing {
        /// The symbol.
        name: &'static str,
    },
    /// A part of the object or of the process could not be read.
    #[error("{what} cannot be read")]
    Unreadable {
        /// Which part.
        what: &'static str,
    },
    /// What the process has in memory is not what its file has.
    #[error("the debug offsets in memory are not those of the file")]
    HeaderDiffers,
    /// An offset that the interpreter states is out of all bounds.
    #[error("the interpreter states {value} as offset of {field}, beyond {limit}")]
    OffsetTooLarge {
        /// Of what.
        field: &'static str,
        /// What was stated.
        value: u64,
        /// Most that is taken.
        limit: u64,
    },
    /// The interpreter's own description of code objects is another.
    #[error("{field} of code objects is expected at {expected}; the interpreter has it at {found}")]
    OffsetDiffers {
        /// The attribute.
        field: &'static str,
        /// Offset in the table or in the debug offsets.
        expected: u32,
        /// Offset in the type's own list of members.
        found: u64,
    },
    /// No way to the thread state was found.
    #[error("no way to the thread state: {reason}")]
    NoThreadState {
        /// What was looked for.
        reason: &'static str,
    },
    /// The interpreter has not begun to run, or has ended.
    #[error("the interpreter is not running (yet)")]
    NotRunning,
    /// The interpreter runs, and none of its threads calls a Python function at the moment.
    #[error("none of {threads} threads of the interpreter runs Python code now")]
    Idle {
        /// Threads in the interpreter's lists.
        threads: u32,
    },
    /// The way to the thread state leads elsewhere.
    #[error(
        "of {threads} threads of the interpreter, {found} were found by their own thread state and {other} had another"
    )]
    ThreadsDiffer {
        /// Threads in the interpreter's lists.
        threads: u32,
        /// Threads whose own state was found.
        found: u32,
        /// Threads that led to something else.
        other: u32,
    },
    /// Lists of interpreters or threads that do not end.
    #[error("the list of {what} does not end within {limit}")]
    ListTooLong {
        /// Of what.
        what: &'static str,
        /// Most that are looked at.
        limit: u32,
    },
    /// No thread's stack reads as one.
    #[error("no stack of {threads} threads can be read: {what}")]
    StacksDiffer {
        /// Threads that were tried.
        threads: u32,
        /// What was wrong with the last of them.
        what: &'static str,
    },
}

impl PythonError {
    /// Whether the same process may be fit a moment later: it was starting, or threads came and went meanwhile. Until the
    /// dynamic linker has put its addresses in place, what they lead to cannot be read.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unreadable { .. } | Self::ThreadsDiffer { .. } | Self::StacksDiffer { .. }
        ) || self.is_idle()
    }

    /// Whether nothing was found wrong, and nothing right: no Python code runs, as in a program that embeds an interpreter
    /// and calls it now and then. The process may be fit at any later time.
    pub fn is_idle(&self) -> bool {
        matches!(self, Self::NotRunning | Self::Idle { .. })
    }
}
