//! Profiles of the same thing joined, and one taken apart by process.

use std::{collections::HashMap, sync::Arc, time::Duration};

use indexmap::IndexSet;
use thiserror::Error;

use crate::{FrameKind, ProcessLabel, Profile, Quality, Stack};

/// Why samples without a record of their own are not counted as rooted.
const NOT_RECORDED: &str = "not_recorded";

/// Counts of two profiles cannot be added: their samples stand for different times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("samples of {ours:?} and of {theirs:?} cannot be added")]
pub struct PeriodMismatch {
    /// Time that a sample of the one profile stands for.
    pub ours: Duration,
    /// Time that a sample of the other stands for.
    pub theirs: Duration,
}

/// Indices of another profile's tables in ours, filled as they are met.
#[derive(Default)]
struct Translation {
    frames: Vec<Option<u32>>,
    processes: Vec<Option<u32>>,
    threads: Vec<Option<u32>>,
}

impl Translation {
    fn of(theirs: &Profile) -> Self {
        Self {
            frames: vec![None; theirs.frames.len()],
            processes: vec![None; theirs.processes.len()],
            threads: vec![None; theirs.threads.len()],
        }
    }

    fn process(&mut self, index: u32, theirs: &Profile, ours: &mut Profile) -> u32 {
        let label = &theirs.processes[index as usize];
        *self.processes[index as usize].get_or_insert_with(|| ours.intern_process(label))
    }

    fn stack(&mut self, stack: &Stack, theirs: &Profile, ours: &mut Profile) -> Stack {
        let process = self.process(stack.process, theirs, ours);
        let thread = *self.threads[stack.thread as usize].get_or_insert_with(|| {
            let name = &theirs.threads[stack.thread as usize];
            ours.threads.insert_full(Arc::clone(name)).0 as u32
        });
        let translate = |frame: &u32| {
            *self.frames[*frame as usize].get_or_insert_with(|| {
                let frame = &theirs.frames[*frame as usize];
                match ours.frames.get_index_of(frame) {
                    Some(index) => index as u32,
                    None => ours.frames.insert_full(frame.clone()).0 as u32,
                }
            })
        };
        let frames = stack.frames.iter().map(translate).collect();
        Stack {
            process,
            thread,
            gil: stack.gil,
            frames,
        }
    }
}

impl Profile {
    /// Adds the samples of another profile. The span covers both, quality adds up.
    ///
    /// A profile without samples takes the period of the other one.
    pub fn merge(&mut self, other: &Self) -> Result<(), PeriodMismatch> {
        if self.stacks.is_empty() {
            self.period = other.period;
        } else if !other.stacks.is_empty() && self.period != other.period {
            return Err(PeriodMismatch {
                ours: self.period,
                theirs: other.period,
            });
        }
        self.start = self.start.min(other.start);
        self.end = self.end.max(other.end);
        self.quality.merge(&other.quality);
        let mut translation = Translation::of(other);
        for (stack, count) in &other.stacks {
            let stack = translation.stack(stack, other, self);
            self.add_stack(stack, *count);
        }
        for (process, quality) in &other.process_quality {
            let process = translation.process(*process, other, self);
            self.process_quality.entry(process).or_default().merge(quality);
        }
        Ok(())
    }

    /// This profile with the tables of both, and with the stacks of the other one at no count of their own; beside it the
    /// other one's counts by the stacks of these tables.
    pub(crate) fn beside(&self, other: &Self) -> (Self, HashMap<Stack, u64>) {
        let mut both = self.clone();
        let mut translation = Translation::of(other);
        let mut counts: HashMap<Stack, u64> = HashMap::new();
        for (stack, count) in &other.stacks {
            let stack = translation.stack(stack, other, &mut both);
            both.add_stack(stack.clone(), 0);
            *counts.entry(stack).or_default() += count;
        }
        (both, counts)
    }

    /// All profiles in one; none of none.
    pub fn merge_all<'a>(profiles: impl IntoIterator<Item = &'a Self>) -> Result<Option<Self>, PeriodMismatch> {
        let mut profiles = profiles.into_iter();
        let Some(first) = profiles.next() else { return Ok(None) };
        let mut merged = first.clone();
        for profile in profiles {
            merged.merge(profile)?;
        }
        merged.shrink_to_fit();
        Ok(Some(merged))
    }

    /// The samples of some processes only, with tables of what they use.
    ///
    /// Losses stay those of the whole host. Samples of a process whose quality was not recorded apart count as stopped
    /// for the reason `not_recorded`, unless all samples are kept.
    pub fn filter(&self, mut keep: impl FnMut(&ProcessLabel) -> bool) -> Self {
        let kept: Vec<bool> = self.processes.iter().map(&mut keep).collect();
        let mut filtered = Self {
            period: self.period,
            start: self.start,
            end: self.end,
            frames: IndexSet::new(),
            processes: IndexSet::new(),
            threads: IndexSet::new(),
            stacks: HashMap::new(),
            quality: Quality::default(),
            process_quality: HashMap::new(),
        };
        let mut translation = Translation::of(self);
        let mut unrecorded = Quality::default();
        for (stack, count) in self.stacks.iter().filter(|(stack, _)| kept[stack.process as usize]) {
            let translated = translation.stack(stack, self, &mut filtered);
            filtered.add_stack(translated, *count);
            if !self.process_quality.contains_key(&stack.process) {
                unrecorded.merge(&self.unrecorded_quality(stack, *count));
            }
        }
        for (process, quality) in self
            .process_quality
            .iter()
            .filter(|(process, _)| kept[**process as usize])
        {
            let process = translation.process(*process, self, &mut filtered);
            filtered.quality.merge(quality);
            filtered.process_quality.insert(process, quality.clone());
        }
        filtered.quality.merge(&unrecorded);
        filtered.quality.lost.clone_from(&self.quality.lost);
        filtered.quality.pages = self.quality.pages;
        if self.stacks.keys().all(|stack| kept[stack.process as usize]) {
            filtered.quality.clone_from(&self.quality);
        }
        filtered.shrink_to_fit();
        filtered
    }

    /// What can be told of samples from their frames alone.
    fn unrecorded_quality(&self, stack: &Stack, count: u64) -> Quality {
        let kinds = || stack.frames.iter().map(|frame| self.frames[*frame as usize].kind);
        let times = |frames: usize| (frames as u64).saturating_mul(count);
        let user_frames = kinds().filter(|kind| *kind != FrameKind::Kernel).count();
        let unnamed = kinds().filter(|kind| *kind == FrameKind::Unnamed).count();
        Quality {
            samples: count,
            stopped: [(NOT_RECORDED.to_owned(), count)].into(),
            user_frames: times(user_frames),
            named_user_frames: times(user_frames - unnamed),
            ..Quality::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{Frame, fixtures};

    type Counts = BTreeMap<(u32, String, Vec<Frame>), u64>;

    /// Samples by what their indices stand for.
    fn counts(profile: &Profile) -> Counts {
        let mut counts = Counts::new();
        for (stack, count) in &profile.stacks {
            let pid = profile.processes[stack.process as usize].pid;
            let thread = profile.threads[stack.thread as usize].to_string();
            let frames = stack
                .frames
                .iter()
                .map(|frame| profile.frames[*frame as usize].clone())
                .collect();
            *counts.entry((pid, thread, frames)).or_default() += count;
        }
        counts
    }

    fn added(mut left: Counts, right: &Counts) -> Counts {
        for (stack, count) in right {
            *left.entry(stack.clone()).or_default() += count;
        }
        left
    }

    #[test]
    fn spans_unite_and_quality_adds() {
        let mut left = fixtures::service();
        let mut right = fixtures::profile(&[("db", 9, &["main"], 5)]);
        right.start -= Duration::from_secs(10);
        right.end += Duration::from_secs(10);
        right.quality.lost.insert("ring_full".to_owned(), 3);
        let (start, end) = (right.start, right.end);
        left.merge(&right).unwrap();
        assert_eq!((left.start, left.end), (start, end));
        assert_eq!(
            (left.samples(), left.quality.samples, left.quality.rooted),
            (105, 105, 105)
        );
        assert_eq!(left.quality.lost, [("ring_full".to_owned(), 3)].into());
    }

    #[test]
    fn different_periods_cannot_be_added() {
        let mut left = fixtures::service();
        let mut right = fixtures::service();
        right.period *= 2;
        let error = PeriodMismatch {
            ours: left.period,
            theirs: right.period,
        };
        assert_eq!(left.merge(&right), Err(error));
        assert_eq!(counts(&left), counts(&fixtures::service()));

        let mut empty = fixtures::builder().build();
        empty.merge(&right).unwrap();
        assert_eq!(empty.period, right.period);
        right.merge(&fixtures::builder().build()).unwrap();
        assert_eq!(right.period, error.theirs);
        assert!(Profile::merge_all([]).unwrap().is_none());
    }

    #[test]
    fn a_filtered_profile_tells_its_own_quality() {
        let mut profile = fixtures::profile(&[("web", 1, &["main", "u:a+0x1"], 3), ("db", 2, &["main", "k:read"], 4)]);
        profile.quality.lost.insert("ring_full".to_owned(), 7);
        let web = profile.filter(|process| process.pid == 1);
        assert_eq!(
            (web.samples(), web.frames.len(), web.processes.len(), web.threads.len()),
            (3, 2, 1, 1)
        );
        assert_eq!((web.quality.samples, web.quality.rooted), (3, 3));
        assert_eq!(web.quality.lost, profile.quality.lost);

        profile.process_quality.clear();
        let web = profile.filter(|process| process.pid == 1).quality;
        assert_eq!(
            (web.samples, web.rooted, web.user_frames, web.named_user_frames),
            (3, 0, 6, 3)
        );
        assert_eq!(web.stopped, [(NOT_RECORDED.to_owned(), 3)].into());
        assert_eq!(profile.filter(|_| true).quality, profile.quality);
        assert_eq!(profile.filter(|_| false).samples(), 0);
    }

    proptest! {
        #[test]
        fn merging_adds_counts_in_any_order(left in fixtures::any_profile(), right in fixtures::any_profile()) {
            let expected = added(counts(&left), &counts(&right));
            let mut one = left.clone();
            one.merge(&right).unwrap();
            let mut other = right.clone();
            other.merge(&left).unwrap();
            prop_assert_eq!(counts(&one), expected.clone());
            prop_assert_eq!(counts(&other), expected);
            prop_assert_eq!(&one.quality, &other.quality);
            prop_assert_eq!(one.samples(), left.samples() + right.samples());
            let all = Profile::merge_all([&left, &right, &left]).unwrap().unwrap();
            prop_assert_eq!(all.samples(), 2 * left.samples() + right.samples());
        }

        #[test]
        fn filtering_takes_apart_what_merging_joins(profile in fixtures::any_profile()) {
            let parts: Vec<Profile> = (1..4).map(|pid| profile.filter(|process| process.pid == pid)).collect();
            for (part, pid) in parts.iter().zip(1..) {
                prop_assert!(part.processes.iter().all(|process| process.pid == pid));
                prop_assert_eq!(part.quality.samples, part.samples());
            }
            let joined = Profile::merge_all(&parts).unwrap().unwrap();
            prop_assert_eq!(counts(&joined), counts(&profile));
            prop_assert_eq!(joined.quality, profile.quality);
        }
    }
}
