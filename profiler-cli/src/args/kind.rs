//! What a flame graph is of.

use clap::{Args as ClapArgs, ValueEnum};

/// What a flame graph is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Time on a CPU
    Cpu,
    /// Memory: which code touched first what the process still has
    Memory,
}

/// Which memory is shown.
#[derive(Clone, Copy, Debug, ClapArgs)]
pub(crate) struct MemoryViewArgs {
    /// Of memory: what is still there of what was touched in the span, or all that was touched
    #[arg(long, value_enum, default_value_t = MemoryValue::Growth)]
    pub(crate) value: MemoryValue,
    /// Of memory: which pages
    #[arg(long, value_enum, default_value_t = Pages::Anonymous)]
    pub(crate) pages: Pages,
}

/// Which bytes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MemoryValue {
    /// What is still there
    Growth,
    /// All that was touched, there or not
    FirstTouch,
}

/// Which pages are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pages {
    /// Memory of the process's own
    Anonymous,
    /// Pages of files, and of memory that processes share
    File,
    /// Pages that were copied when they were written to, as after a fork
    Copied,
}
