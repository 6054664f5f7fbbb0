//! What was lost in windows since the start: of samples, of page faults, or of calls for memory.

use std::collections::BTreeMap;

use profiler_common::{mapped::MappedCounter, memory::FaultCounter};

/// Sums what is lost in windows, each loss once.
#[derive(Debug, Default)]
pub(super) struct Losses {
    totals: BTreeMap<String, u64>,
    /// Reasons of the kernel, whose counts are told beside.
    of_kernel: Vec<&'static str>,
    /// What the next window says was lost in it, and was counted with one that was dropped.
    carried: BTreeMap<String, u64>,
}

impl Losses {
    /// Of page faults.
    pub(super) fn of_faults() -> Self {
        Self {
            of_kernel: FaultCounter::ALL.map(FaultCounter::name).to_vec(),
            ..Self::default()
        }
    }

    /// Of calls for memory.
    pub(super) fn of_calls() -> Self {
        Self {
            of_kernel: MappedCounter::ALL.map(MappedCounter::name).to_vec(),
            ..Self::default()
        }
    }

    /// A window has ended in which so much was lost.
    pub(super) fn count(&mut self, lost: &BTreeMap<String, u64>) {
        let carried = std::mem::take(&mut self.carried);
        let in_daemon = |reason: &str| !self.of_kernel.contains(&reason);
        for (reason, count) in lost.iter().filter(|(reason, _)| in_daemon(reason)) {
            let new = count.saturating_sub(carried.get(reason).copied().unwrap_or_default());
            if new > 0 {
                *self.totals.entry(reason.clone()).or_default() += new;
            }
        }
    }

    /// The window that was counted last is dropped: what was lost in it is to be told in the next, or nobody who asks for its
    /// time hears of it.
    pub(super) fn carry(&mut self, lost: BTreeMap<String, u64>) -> &BTreeMap<String, u64> {
        self.carried = lost;
        &self.carried
    }

    /// By reason.
    pub(super) fn totals(&self) -> &BTreeMap<String, u64> {
        &self.totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(reasons: &[(&str, u64)]) -> BTreeMap<String, u64> {
        let owned = reasons.iter().map(|(reason, count)| ((*reason).to_owned(), *count));
        owned.collect()
    }

    #[test]
    fn what_a_dropped_window_lost_is_told_again_and_counted_once() {
        let mut losses = Losses::default();
        losses.count(&lost(&[("window_full", 3)]));
        assert_eq!(*losses.totals(), lost(&[("window_full", 3)]));
        let dropped = lost(&[("window_full", 4), ("unknown_process", 1)]);
        losses.count(&dropped);
        assert_eq!(*losses.carry(dropped.clone()), dropped);
        // The next has what was carried, what the dropped one held, and its own. It is dropped as well.
        let next = lost(&[("window_full", 5), ("unknown_process", 1), ("naming_backlog", 7)]);
        losses.count(&next);
        let sum = lost(&[("window_full", 8), ("unknown_process", 1), ("naming_backlog", 7)]);
        assert_eq!(*losses.totals(), sum);
        assert_eq!(*losses.carry(next.clone()), next);
        losses.count(&next);
        assert_eq!(*losses.totals(), sum, "nothing new was lost");
        losses.count(&lost(&[("window_full", 1)]));
        assert_eq!(losses.totals()["window_full"], 9);
    }

    #[test]
    fn what_the_kernel_lost_is_not_told_twice() {
        let faults = FaultCounter::ALL.map(FaultCounter::name);
        let calls = MappedCounter::ALL.map(MappedCounter::name);
        for (mut losses, of_kernel) in [(Losses::of_faults(), &faults[..]), (Losses::of_calls(), &calls)] {
            let reasons: Vec<_> = of_kernel.iter().map(|name| (*name, 2)).collect();
            let all = lost(&[&reasons[..], &[("window_full", 3)]].concat());
            losses.count(&all);
            assert_eq!(*losses.totals(), lost(&[("window_full", 3)]));
            assert_eq!(*losses.carry(all.clone()), all, "profiles tell all of it");
        }
    }
}
