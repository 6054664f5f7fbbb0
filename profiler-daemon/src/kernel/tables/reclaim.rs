//! When mappings that were taken out of force can be given to others: once nothing in the kernel refers to them and no walk reads
//! them. Pure: what happens in the kernel is asked through [`Walks`].

use std::collections::HashSet;

use super::ProcessMappings;

/// What the kernel does with entries of processes.
pub(super) trait Walks {
    /// Waits until all programs that run now have ended. False if it could not wait.
    fn wait_for_grace_period(&mut self) -> bool;
    /// Index of the first mapping of every entry that has any; none if entries changed while they were listed.
    fn entered(&mut self) -> Option<HashSet<u32>>;
}

/// Takes out of `retired` what can be given to others. Nothing if that cannot be told: it can wait.
pub(super) fn take_unread(retired: &mut Vec<ProcessMappings>, walks: &mut impl Walks) -> Vec<ProcessMappings> {
    // A fork that was copying an entry when it was replaced has written its copy after the first grace period, so that
    // it is seen below. Walks that began with an entry that is not seen have ended after the second.
    if retired.is_empty() || !walks.wait_for_grace_period() {
        return Vec::new();
    }
    let Some(entered) = walks.entered() else {
        return Vec::new();
    };
    if !walks.wait_for_grace_period() {
        return Vec::new();
    }
    let is_entered = |mappings: &ProcessMappings| mappings.run.count != 0 && entered.contains(&mappings.run.first);
    let (kept, unread) = std::mem::take(retired).into_iter().partition(is_entered);
    *retired = kept;
    unread
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{allocator::Run, python_layouts::NO_LAYOUT};

    /// A kernel in which forks and walks are under way. Runs are named by the index of their first mapping.
    #[derive(Clone, Default)]
    struct Kernel {
        /// Runs that entries refer to.
        entries: Vec<u32>,
        /// Runs in copies of entries that forks have made and not entered yet.
        copies: Vec<u32>,
        /// Runs that walks read.
        walked: Vec<u32>,
        /// Whoever is entered is walked, and ends before entries are listed.
        is_brief: bool,
        /// Entries change while they are listed.
        is_restless: bool,
        /// This wait, counted from 1, cannot be had.
        refuses: usize,
        waits: usize,
    }

    impl Walks for Kernel {
        fn wait_for_grace_period(&mut self) -> bool {
            self.waits += 1;
            if self.waits == self.refuses {
                return false;
            }
            self.walked.clear();
            self.entries.append(&mut self.copies);
            true
        }

        fn entered(&mut self) -> Option<HashSet<u32>> {
            if self.is_brief {
                self.walked.append(&mut self.entries);
            }
            (!self.is_restless).then(|| self.entries.iter().copied().collect())
        }
    }

    fn mappings(first: u32, count: u32) -> ProcessMappings {
        ProcessMappings {
            run: Run { first, count },
            tables: Vec::new(),
            python: NO_LAYOUT,
        }
    }

    /// Of runs at 0, 8 and 20, these are given to others, which nobody has any more then; the others stay.
    #[track_caller]
    fn check(mut kernel: Kernel, expected: &[u32]) -> Kernel {
        let all = [0, 8, 20];
        let mut retired: Vec<_> = all.iter().map(|first| mappings(*first, 4)).collect();
        let firsts = |mappings: &[ProcessMappings]| mappings.iter().map(|one| one.run.first).collect::<Vec<_>>();
        let unread = firsts(&take_unread(&mut retired, &mut kernel));
        assert_eq!(unread, expected);
        let mut both = [unread.clone(), firsts(&retired)].concat();
        both.sort_unstable();
        assert_eq!(both, all, "each is one or the other");
        let in_use = [&kernel.entries[..], &kernel.copies, &kernel.walked].concat();
        assert!(!in_use.iter().any(|run| unread.contains(run)), "{in_use:?}");
        kernel
    }

    #[test]
    fn what_an_entry_refers_to_stays() {
        check(Kernel::default(), &[0, 8, 20]);
        let entries = vec![0, 20, 90];
        let kernel = Kernel {
            entries,
            ..Kernel::default()
        };
        check(kernel, &[8]);
    }

    #[test]
    fn what_a_fork_was_copying_is_seen() {
        let kernel = Kernel {
            copies: vec![8],
            ..Kernel::default()
        };
        check(kernel, &[0, 20]);
    }

    #[test]
    fn what_is_being_walked_is_waited_for() {
        let walked = Kernel {
            walked: vec![8],
            ..Kernel::default()
        };
        check(walked, &[0, 8, 20]);
        // No entry refers to it when entries are listed, and yet it is read.
        let brief = Kernel {
            copies: vec![8],
            is_brief: true,
            ..Kernel::default()
        };
        check(brief, &[0, 8, 20]);
    }

    #[test]
    fn nothing_is_given_away_that_nobody_can_tell_of() {
        for refuses in [1, 2] {
            let kernel = Kernel {
                refuses,
                ..Kernel::default()
            };
            check(kernel, &[]);
        }
        let kernel = Kernel {
            is_restless: true,
            ..Kernel::default()
        };
        check(kernel, &[]);
    }

    #[test]
    fn nobody_waits_for_nothing() {
        let mut kernel = Kernel::default();
        assert!(take_unread(&mut Vec::new(), &mut kernel).is_empty());
        assert_eq!(kernel.waits, 0);
        assert_eq!(check(kernel, &[0, 8, 20]).waits, 2);
    }

    /// An empty run has an index, which may be another's.
    #[test]
    fn without_mappings_there_is_nothing_to_refer_to() {
        let mut kernel = Kernel {
            entries: vec![0],
            ..Kernel::default()
        };
        let mut retired = vec![mappings(0, 0), mappings(0, 1)];
        let unread = take_unread(&mut retired, &mut kernel);
        assert_eq!((unread.len(), unread[0].run.count), (1, 0));
        assert_eq!((retired.len(), retired[0].run.count), (1, 1));
    }
}
