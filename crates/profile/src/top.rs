//! Functions, lines and services by what they cost.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

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

/// What one service costs, or a program that belongs to none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartySamples {
    /// Name of the service, or of the program.
    pub name: Arc<str>,
    /// Whether it is a service.
    pub is_service: bool,
    /// Its processes.
    pub processes: u64,
    /// Samples of them.
    pub samples: u64,
}

impl Profile {
    /// The `count` functions that cost most themselves; among equals, those that cost most with what they call.
    pub fn top(&self, count: usize) -> Vec<FunctionSamples> {
        self.top_of(&Functions::group(self, FunctionKey::counted), count)
    }

    /// The same for single lines of functions. A line counts once in a stack, too.
    pub fn top_lines(&self, count: usize) -> Vec<FunctionSamples> {
        let key = |frame| (FunctionKey::counted(frame), &*frame.file, frame.line);
        self.top_of(&Functions::group(self, key), count)
    }

    /// The `count` services that cost most, and programs without one.
    pub fn top_services(&self, count: usize) -> Vec<PartySamples> {
        let mut parties = HashMap::<_, (HashSet<u32>, u64)>::new();
        for (stack, samples) in &self.stacks {
            let Some(process) = self.processes.get_index(stack.process as usize) else {
                continue;
            };
            let is_service = !process.service.is_empty();
            let name = if is_service { &process.service } else { &process.name };
            let (processes, sum) = parties.entry((name, is_service)).or_default();
            processes.insert(stack.process);
            *sum = sum.saturating_add(*samples);
        }
        let mut rows: Vec<_> = parties
            .into_iter()
            .map(|((name, is_service), (processes, samples))| PartySamples {
                name: Arc::clone(name),
                is_service,
                processes: processes.len() as u64,
                samples,
            })
            .collect();
        rows.sort_by(|left, right| {
            let by_samples = right.samples.cmp(&left.samples);
            by_samples.then_with(|| (&left.name, left.is_service).cmp(&(&right.name, right.is_service)))
        });
        rows.truncate(count);
        rows
    }

    fn top_of(&self, functions: &Functions, count: usize) -> Vec<FunctionSamples> {
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

    #[test]
    fn lines_of_a_function_are_told_apart() {
        let profile = fixtures::profile(&[
            ("web", 1, &["main:1", "walk:1", "walk:2", "i:walk:1"], 3),
            ("web", 1, &["main:4", "walk:2"], 5),
        ]);
        let rows: Vec<_> = profile
            .top_lines(10)
            .into_iter()
            .map(|row| (row.function.to_string(), row.line, row.self_samples, row.total_samples))
            .collect();
        let expected = [
            ("walk", 2, 5, 8),
            ("walk", 1, 3, 3),
            ("main", 4, 0, 5),
            ("main", 1, 0, 3),
        ];
        assert_eq!(
            rows,
            expected.map(|(name, line, own, total)| (name.to_owned(), line, own, total))
        );
    }

    #[test]
    fn services_and_programs_without_one() {
        let mut builder = fixtures::builder();
        for (name, service, pid, count) in [
            ("web", "shop", 1, 3),
            ("web", "shop", 2, 4),
            ("shop", "", 3, 7),
            ("cron", "", 4, 1),
        ] {
            let process = crate::ProcessLabel {
                service: service.into(),
                ..fixtures::process(name, pid)
            };
            let frames = [fixtures::frame("main"), fixtures::frame("work")];
            builder.add(&process, &Arc::from(""), frames.into_iter(), count);
            builder.add(&process, &Arc::from("other"), [fixtures::frame("main")].into_iter(), 1);
        }
        let profile = builder.build();
        let rows: Vec<_> = profile
            .top_services(3)
            .into_iter()
            .map(|row| (row.name.to_string(), row.is_service, row.processes, row.samples))
            .collect();
        let expected = [("shop", true, 2, 9), ("shop", false, 1, 8), ("cron", false, 1, 2)];
        assert_eq!(
            rows,
            expected.map(|(name, is_service, processes, samples)| (name.to_owned(), is_service, processes, samples))
        );
    }

    proptest! {
        #[test]
        fn services_have_all_samples(profile in fixtures::any_profile()) {
            let rows = profile.top_services(usize::MAX);
            prop_assert_eq!(rows.iter().map(|row| row.samples).sum::<u64>(), profile.samples());
            let lines = profile.top_lines(usize::MAX);
            prop_assert_eq!(lines.iter().map(|row| row.self_samples).sum::<u64>(), profile.samples());
        }

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
