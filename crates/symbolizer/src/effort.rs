//! A bound on the work that one object can cause.

use std::cell::Cell;

/// The work that may still be done. Small steps cost a few units each: a field read, an entry visited; a page loaded
/// costs [`Effort::PAGE`]. What a file claims about itself can then cost no more than this, whichever structure it
/// abuses.
#[derive(Debug)]
pub(crate) struct Effort {
    left: Cell<u64>,
}

impl Effort {
    /// Cost of reading one page from the source, in units of a small step.
    pub(crate) const PAGE: u64 = 256;

    pub(crate) fn new(units: u64) -> Self {
        Self { left: Cell::new(units) }
    }

    /// Takes `units`; returns whether there were as many left.
    #[inline]
    pub(crate) fn spend(&self, units: u64) -> bool {
        match self.left.get().checked_sub(units) {
            Some(left) => {
                self.left.set(left);
                true
            }
            None => {
                self.left.set(0);
                false
            }
        }
    }

    /// Whether nothing is left.
    pub(crate) fn is_spent(&self) -> bool {
        self.left.get() == 0
    }
}
