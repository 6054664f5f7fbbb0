//! What the owner of processes asks of the walker's tables in the kernel.

use profiler_common::{
    process::{Anchors, Exec, FileKey},
    python::PythonLayout,
    row::Row,
};
use profiler_unwinding::{PageDirectory, RowTable};

use crate::kernel::records::Pid;

/// Names an installed [`RowTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub u32);

/// One executable mapping as the walker is to see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkerMapping {
    /// First runtime address.
    pub start: u64,
    /// Runtime address after the last.
    pub end: u64,
    /// Runtime address minus link address, wrapping. Only for [`Backing::Rows`].
    pub bias: u64,
    /// How frames in it are walked.
    pub backing: Backing,
}

/// How frames in a mapping are walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// By an installed table of rows. Its directory must cover the whole mapping.
    Rows(TableId),
    /// By frame pointers: generated code, or an object without unwind tables.
    FramePointers,
    /// Not yet: its rows are being built.
    Pending,
    /// The page where uprobes single-step.
    Uprobes,
}

/// How the process that a template's mappings are taken from was laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Where its parts lay.
    pub anchors: Anchors,
    /// Runtime address after the last of its program's code.
    pub code_end: u64,
    /// Runtime address after the last of its vDSO.
    pub vdso_end: u64,
}

/// Why the tables do not take something. It was not done, and nothing else changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// There is no room.
    #[error("the walker's table of {table} is full: {wanted} more of at most {capacity}")]
    Full {
        /// Which table.
        table: &'static str,
        /// Entries asked for.
        wanted: u64,
        /// Entries that fit in all.
        capacity: u64,
    },
    /// There is room, and the kernel does not let us have it.
    #[error("the kernel refused a change of the walker's table of {table}: {reason}")]
    Refused {
        /// Which table.
        table: &'static str,
        /// What the kernel said.
        reason: String,
    },
    /// Nothing is walked here.
    #[error("there is no walker")]
    NoWalker,
}

/// The walker's tables, implemented over the kernel's maps and by a double in tests.
pub trait WalkerTables {
    /// Rows that fit in all.
    fn max_rows(&self) -> u64 {
        0
    }
    /// Loads rows in bulk.
    fn install(&mut self, table: &RowTable) -> Result<TableId, TableError>;
    /// Makes room for a table of which no row is loaded: a walk that comes to its code ends there and says so.
    fn install_pages(&mut self, _directory: &PageDirectory) -> Result<TableId, TableError> {
        Err(TableError::NoWalker)
    }
    /// Loads the rows of one page of such a table. Nothing is done for a table that is not installed any more, or for a page
    /// that is loaded already.
    fn load_page(&mut self, _table: TableId, _page: u32, _rows: &[Row]) -> Result<(), TableError> {
        Err(TableError::NoWalker)
    }
    /// Gives the rows back once no running walk can use them. No process may refer to them any more.
    fn remove(&mut self, table: TableId);
    /// Makes the process watched, or replaces what the walker knows of it. `mappings` are sorted and disjoint. With `python` its
    /// Python stacks are walked, too; if there is no room for another layout they are not. Returns the generation of what it
    /// knows from now on.
    fn set_process(
        &mut self,
        pid: Pid,
        mappings: &[WalkerMapping],
        python: Option<&PythonLayout>,
    ) -> Result<u32, TableError>;
    /// Ends the watch.
    fn remove_process(&mut self, pid: Pid);
    /// Processes that the walker watches now, those included that the kernel added at a fork.
    fn watched(&self) -> Vec<Pid>;
    /// The last exec of a process, as the kernel saw it. `None` without a kernel that follows them.
    fn last_exec(&self, _pid: Pid) -> Option<Exec> {
        None
    }
    /// Makes every process that executes the program watched from then on, with these mappings until it has its own. Returns
    /// the generation of the entries that come of it.
    fn set_template(
        &mut self,
        _program: FileKey,
        _layout: &Layout,
        _mappings: &[WalkerMapping],
    ) -> Result<u32, TableError> {
        Err(TableError::NoWalker)
    }
    /// Ends that. Processes that were entered so are not changed.
    fn remove_template(&mut self, _program: FileKey) {}
}
