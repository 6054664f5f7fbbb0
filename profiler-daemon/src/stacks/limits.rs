//! How large a window may become.

/// How large a window may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowLimits {
    /// Most distinct stacks.
    pub max_stacks: usize,
    /// Most bytes of them.
    pub max_bytes: usize,
    /// Most distinct names of threads; others share one.
    pub max_thread_names: usize,
}

impl WindowLimits {
    /// For page faults, of which there are far fewer.
    pub fn of_faults() -> Self {
        Self {
            max_stacks: 20_000,
            max_bytes: 8 << 20,
            max_thread_names: 1024,
        }
    }
}

impl Default for WindowLimits {
    fn default() -> Self {
        Self {
            max_stacks: 100_000,
            max_bytes: 32 << 20,
            max_thread_names: 4096,
        }
    }
}
