//! Why a walk of a user stack ended.

/// Why a walk of a user stack ended. Every stack has exactly one; only [`StopReason::Root`] is a whole stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum StopReason {
    /// The walk has not ended. Never leaves the kernel.
    Running = 0,
    /// The outermost frame was reached: its return address is marked undefined, or it lies where the stack begins.
    Root = 1,
    /// The address lies in no executable mapping that the daemon knows of.
    NoMapping = 2,
    /// The address lies in a mapping with rows, but no function is described there.
    NoRow = 3,
    /// The stack could not be read (paged out, unmapped, or not a stack).
    ReadFailed = 4,
    /// The function's frame is described by a rule that rows cannot hold.
    UnsupportedRule = 5,
    /// The rule needs a register that is known in the innermost frame only.
    RegisterUnknown = 6,
    /// As many frames as fit were recorded and the stack goes on.
    DepthLimit = 7,
    /// The return address is zero.
    ZeroReturnAddress = 8,
    /// The caller's frame would lie below the callee's.
    NotAdvancing = 9,
    /// The process was started or executed too recently: its rows are not loaded yet.
    Pending = 10,
    /// The rows of this page of code are not loaded.
    PageNotLoaded = 11,
    /// The process's tables changed while its stack was walked.
    TablesChanged = 12,
    /// A 32-bit process.
    Compat32 = 13,
    /// The thread has no user part: it is exiting and its memory is gone, or it never was in user mode.
    NoUserRegisters = 14,
    /// Walked by frame pointers (code without rows) until the chain ended with a zero.
    FramePointerEnd = 15,
    /// Walked by frame pointers until one pointed to no plausible frame.
    FramePointerImplausible = 16,
    /// A return address was replaced by a uretprobe and the original could not be found.
    Uprobe = 17,
}

impl StopReason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 18] = [
        Self::Running,
        Self::Root,
        Self::NoMapping,
        Self::NoRow,
        Self::ReadFailed,
        Self::UnsupportedRule,
        Self::RegisterUnknown,
        Self::DepthLimit,
        Self::ZeroReturnAddress,
        Self::NotAdvancing,
        Self::Pending,
        Self::PageNotLoaded,
        Self::TablesChanged,
        Self::Compat32,
        Self::NoUserRegisters,
        Self::FramePointerEnd,
        Self::FramePointerImplausible,
        Self::Uprobe,
    ];

    /// The reason with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The reason in words of the command line and of metrics: lower case with underscores.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Root => "root",
            Self::NoMapping => "no_mapping",
            Self::NoRow => "no_row",
            Self::ReadFailed => "read_failed",
            Self::UnsupportedRule => "unsupported_rule",
            Self::RegisterUnknown => "register_unknown",
            Self::DepthLimit => "depth_limit",
            Self::ZeroReturnAddress => "zero_return_address",
            Self::NotAdvancing => "not_advancing",
            Self::Pending => "pending",
            Self::PageNotLoaded => "page_not_loaded",
            Self::TablesChanged => "tables_changed",
            Self::Compat32 => "compat_32bit",
            Self::NoUserRegisters => "no_user_registers",
            Self::FramePointerEnd => "frame_pointer_end",
            Self::FramePointerImplausible => "frame_pointer_implausible",
            Self::Uprobe => "uprobe",
        }
    }
}
