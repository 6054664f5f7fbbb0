//! One function at one line of a stack.

use std::sync::Arc;

/// Which world a frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrameKind {
    /// Kernel code.
    Kernel,
    /// A function of a native object.
    Native,
    /// A function that the compiler inlined into its caller, the next frame towards the root.
    Inlined,
    /// A Python function.
    Python,
    /// An address that no symbol covers; the function is `module+0xoffset`.
    Unnamed,
    /// A native function of the interpreter that runs the Python functions around it.
    Interpreter,
    /// No code: the thread that a stack belongs to, at its root.
    Thread,
}

/// One function at one line of a stack.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frame {
    /// Which world it belongs to.
    pub kind: FrameKind,
    /// Demangled name, or `module+0xoffset`. As found in the target: escape it for every output.
    pub function: Arc<str>,
    /// Base name of the mapped object; `[kernel]`, `[vdso]`.
    pub module: Arc<str>,
    /// Source file; empty if unknown.
    pub file: Arc<str>,
    /// Source line; 0 if unknown.
    pub line: u32,
}

impl Frame {
    /// Stands for the frames of a sample that has none, so that no stack is empty.
    pub(crate) fn no_stack() -> Self {
        let empty: Arc<str> = Arc::from("");
        Self {
            kind: FrameKind::Unnamed,
            function: Arc::from("[no stack]"),
            module: Arc::clone(&empty),
            file: empty,
            line: 0,
        }
    }
}
