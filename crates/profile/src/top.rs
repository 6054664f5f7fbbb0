//! Functions by what they cost.

use std::sync::Arc;

use crate::{
    FrameKind, Profile,
    functions::{FunctionKey, Functions},
};

/// What one function costs, over all its callers, lines and processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionSamples {
    /// Which world it belongs to; [`FrameKind::Inlined`] only if it was inlined wherever it was sampled.
    pub kind: FrameKind,
    /// Its name.
    pub function: Arc<str>,
    /// The object it is in.
    pub module: Arc<str>,
    /// Source file of its line with the most samples; empty if unknown.
    pub file: Arc<str>,
    /// Its line with the most samples; 0 if unknown.
    pub line: u32,
    /// Samples in the function itself.
    pub self_samples: u64,
    /// Samples in the function or in what it called. Recursion counts once.
    pub total_samples: u64,
}

impl Profile {
    /// The `count` functions that cost most themselves; among equals, those that cost most with what they call.
    pub fn top(&self, count: usize) -> Vec<FunctionSamples> {
        let functions = Functions::group(self, FunctionKey::counted);
        let mut self_samples = vec![0_u64; self.frames.len()];
        let mut total_samples = vec![0_u64; self.frames.len()];
        // The last stack that each function was counted for.
        let mut counted_for = vec![usize::MAX; self.frames.len()];
        for (number, (stack, samples)) in self.stacks.iter().enumerate() {
            let function_of = |frame: &u32| functions.representative[*frame as usize] as usize;
            if let Some(leaf) = stack.frames.last() {
                let own = &mut self_samples[function_of(leaf)];
                *own = own.saturating_add(*samples);
            }
            for function in stack.frames.iter().map(function_of) {
                if counted_for[function] != number {
                    counted_for[function] = number;
                    total_samples[function] = total_samples[function].saturating_add(*samples);
                }
            }
        }
        let mut called = vec![false; self.frames.len()];
        for (frame, function) in self.frames.iter().zip(&functions.representative) {
            called[*function as usize] |= frame.kind != FrameKind::Inlined;
        }
        let mut order: Vec<usize> = (0..self.frames.len())
            .filter(|index| total_samples[*index] > 0)
            .collect();
        order.sort_by(|left, right| {
            let costs = |index: usize| (self_samples[index], total_samples[index]);
            costs(*right).cmp(&costs(*left)).then_with(|| {
                let name = |index: usize| (&self.frames[index].function, &self.frames[index]);
                name(*left).cmp(&name(*right))
            })
        });
        order.truncate(count);
        let row = |index: usize| {
            let frame = &self.frames[index];
            let kind = match frame.kind {
                FrameKind::Inlined if called[index] => FrameKind::Native,
                kind => kind,
            };
            FunctionSamples {
                kind,
                function: Arc::clone(&frame.function),
                module: Arc::clone(&frame.module),
                file: Arc::clone(&frame.file),
                line: frame.line,
                self_samples: self_samples[index],
                total_samples: total_samples[index],
            }
        };
        order.into_iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures;

    fn summary(profile: &Profile, count: usize) -> Vec<(String, u64, u64)> {
        let row = |row: FunctionSamples| (row.function.to_string(), row.self_samples, row.total_samples);
        profile.top(count).into_iter().map(row).collect()
    }

    #[test]
    fn recursion_counts_once() {
        let profile = fixtures::profile(&[
            ("web", 1, &["main", "walk:1", "walk:2", "walk:1", "read"], 3),
            ("web", 2, &["main", "walk:2"], 2),
            ("web", 2, &["main"], 1),
        ]);
        let expected = [("read", 3, 3), ("walk", 2, 5), ("main", 1, 6)];
        assert_eq!(
            summary(&profile, 10),
            expected.map(|(name, own, total)| (name.to_owned(), own, total))
        );
        assert_eq!(summary(&profile, 1).len(), 1);
        assert!(summary(&profile, 0).is_empty());
    }

    #[test]
    fn inlined_copies_belong_to_their_function() {
        let profile = fixtures::profile(&[
            ("web", 1, &["main", "push"], 1),
            ("web", 1, &["main", "i:push"], 5),
            ("web", 1, &["main", "i:grow"], 2),
            ("web", 1, &["main", "k:push"], 1),
        ]);
        let rows: Vec<_> = profile
            .top(10)
            .into_iter()
            .map(|row| (row.function.to_string(), row.kind, row.self_samples))
            .collect();
        let expected = [
            ("push", FrameKind::Native, 6),
            ("grow", FrameKind::Inlined, 2),
            ("push", FrameKind::Kernel, 1),
            ("main", FrameKind::Native, 0),
        ];
        assert_eq!(rows, expected.map(|(name, kind, own)| (name.to_owned(), kind, own)));
    }

    proptest! {
        #[test]
        fn own_samples_add_up_and_never_exceed_the_total(profile in fixtures::any_profile()) {
            let rows = profile.top(usize::MAX);
            prop_assert_eq!(rows.iter().map(|row| row.self_samples).sum::<u64>(), profile.samples());
            for row in &rows {
                prop_assert!(row.self_samples <= row.total_samples && row.total_samples <= profile.samples());
            }
            prop_assert!(rows.is_sorted_by_key(|row| std::cmp::Reverse((row.self_samples, row.total_samples))));
        }
    }
}
