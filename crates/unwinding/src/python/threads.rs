//! The interpreter's own lists: its interpreters, and the thread states of each.

use super::error::PythonError;
use super::memory::{ProcessMemory, Reads};
use super::offsets::{Interpreter, Thread};

/// Most interpreters of a process that are looked at.
const MAX_INTERPRETERS: u32 = 256;
/// Most threads of a process that are looked at.
const MAX_THREADS: u32 = 1 << 14;

/// Where the lists begin and how they go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ThreadLists {
    /// Runtime address of the pointer to the first interpreter.
    pub(super) head: u64,
    pub(super) interpreter: Interpreter,
    pub(super) thread: Thread,
}

/// What the interpreter says of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// Runtime address of its thread state.
    pub(super) state: u64,
    /// What `pthread_self` gave it; 0 if it has not begun.
    pub(super) thread_id: u64,
    /// What `gettid` gave it, where that is kept.
    pub(super) native_thread_id: Option<u64>,
}

impl ThreadLists {
    /// Addresses of the interpreters.
    pub(super) fn interpreters(&self, memory: &(impl ProcessMemory + ?Sized)) -> Result<Vec<u64>, PythonError> {
        let mut found = Vec::new();
        let unreadable = PythonError::Unreadable {
            what: "the list of interpreters",
        };
        let mut next = memory.word(self.head).ok_or(unreadable.clone())?;
        while next != 0 {
            if found.len() == MAX_INTERPRETERS as usize {
                return Err(PythonError::ListTooLong {
                    what: "interpreters",
                    limit: MAX_INTERPRETERS,
                });
            }
            found.push(next);
            next = memory
                .word(next.wrapping_add(u64::from(self.interpreter.next)))
                .ok_or(unreadable.clone())?;
        }
        match found.is_empty() {
            true => Err(PythonError::NotRunning),
            false => Ok(found),
        }
    }

    /// The threads of all interpreters.
    pub(super) fn threads(&self, memory: &(impl ProcessMemory + ?Sized)) -> Result<Vec<Listed>, PythonError> {
        let mut found = Vec::new();
        for interpreter in self.interpreters(memory)? {
            let mut next = memory
                .word(interpreter.wrapping_add(u64::from(self.interpreter.threads_head)))
                .ok_or(PythonError::Unreadable {
                    what: "the list of threads",
                })?;
            while next != 0 {
                if found.len() == MAX_THREADS as usize {
                    return Err(PythonError::ListTooLong {
                        what: "threads",
                        limit: MAX_THREADS,
                    });
                }
                // The list may be changing: what was read of it so far is true still.
                let Some(listed) = self.listed(memory, next) else {
                    break;
                };
                found.push(listed);
                let Some(following) = memory.word(next.wrapping_add(u64::from(self.thread.next))) else {
                    break;
                };
                next = following;
            }
        }
        match found.is_empty() {
            true => Err(PythonError::NotRunning),
            false => Ok(found),
        }
    }

    fn listed(&self, memory: &(impl ProcessMemory + ?Sized), state: u64) -> Option<Listed> {
        let at = |offset: u32| memory.word(state.wrapping_add(u64::from(offset)));
        let native_thread_id = match self.thread.native_thread_id {
            Some(offset) => Some(at(offset)?),
            None => None,
        };
        Some(Listed {
            state,
            thread_id: at(self.thread.thread_id)?,
            native_thread_id,
        })
    }
}
