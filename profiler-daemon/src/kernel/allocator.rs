//! Hands out runs of consecutive indices of a fixed array.

use std::collections::BTreeMap;

/// A run of consecutive indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: u32,
    pub(super) count: u32,
}

impl Run {
    pub(super) const EMPTY: Self = Self { first: 0, count: 0 };
}

/// Free runs of an array, first fit: runs are few and long-lived, and low indices keep memory compact.
#[derive(Debug)]
pub(super) struct Allocator {
    /// First index → count; never adjacent, never empty.
    free: BTreeMap<u32, u32>,
    size: u32,
    /// Runs end at or before this.
    limit: u32,
    used: u32,
}

impl Allocator {
    pub(super) fn new(capacity: u32) -> Self {
        let free = if capacity == 0 {
            BTreeMap::new()
        } else {
            BTreeMap::from([(0, capacity)])
        };
        Self {
            free,
            size: capacity,
            limit: capacity,
            used: 0,
        }
    }

    pub(super) fn capacity(&self) -> u32 {
        self.limit
    }

    /// Lets new runs end at or before this index only. Those handed out stay.
    pub(super) fn set_limit(&mut self, limit: u32) {
        self.limit = limit.min(self.size);
    }

    /// The index after the last that is in use.
    pub(super) fn end(&self) -> u32 {
        match self.free.last_key_value() {
            Some((&first, &count)) if first + count == self.size => first,
            _ => self.size,
        }
    }

    pub(super) fn used(&self) -> u32 {
        self.used
    }

    /// A run of `count` indices, or `None` if no free run is that long.
    pub(super) fn allocate(&mut self, count: u32) -> Option<Run> {
        if count == 0 {
            return Some(Run::EMPTY);
        }
        let fits = |(first, length): &(&u32, &u32)| **length >= count && **first <= self.limit.saturating_sub(count);
        // A limit below the count itself leaves index 0.
        let (&first, &length) = self.free.iter().find(fits).filter(|_| count <= self.limit)?;
        self.free.remove(&first);
        if length > count {
            self.free.insert(first + count, length - count);
        }
        self.used += count;
        Some(Run { first, count })
    }

    /// Takes back a run that [`Allocator::allocate`] gave.
    pub(super) fn free(&mut self, run: Run) {
        if run.count == 0 {
            return;
        }
        self.used -= run.count;
        let Run { mut first, mut count } = run;
        if let Some((&before, &length)) = self.free.range(..first).next_back() {
            debug_assert!(before + length <= first, "a run was given back twice");
            if before + length == first {
                self.free.remove(&before);
                first = before;
                count += length;
            }
        }
        if let Some(length) = self.free.remove(&(run.first + run.count)) {
            count += length;
        }
        self.free.insert(first, count);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_never_overlap_and_all_come_back(requests in proptest::collection::vec((1u32..40, any::<prop::sample::Index>()), 0..200)) {
            let mut allocator = Allocator::new(256);
            let mut held: Vec<Run> = Vec::new();
            for (count, index) in requests {
                match allocator.allocate(count) {
                    Some(run) => {
                        prop_assert_eq!(run.count, count);
                        prop_assert!(run.first + run.count <= 256);
                        prop_assert!(held.iter().all(|other| run.first + run.count <= other.first || other.first + other.count <= run.first));
                        held.push(run);
                    }
                    None if held.is_empty() => prop_assert!(false, "an empty allocator refused {}", count),
                    None => allocator.free(held.swap_remove(index.index(held.len()))),
                }
                prop_assert_eq!(allocator.used(), held.iter().map(|run| run.count).sum::<u32>());
            }
            for run in held {
                allocator.free(run);
            }
            prop_assert_eq!(allocator.allocate(256), Some(Run { first: 0, count: 256 }));
        }
    }
}
