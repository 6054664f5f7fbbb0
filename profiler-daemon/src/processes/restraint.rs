//! What the owner does without while the daemon costs more than it may: discovered processes beyond a number, and unwind
//! rows that nobody uses. Processes that were asked for are never touched.

use std::sync::Arc;

use super::{
    clock::Now,
    owner::Processes,
    process::{Image, ImageId},
    walker_tables::WalkerTables,
};

/// How many discovered processes may be watched.
#[derive(Debug, Default)]
pub(super) struct DiscoveredLimit {
    /// Any number if `None`.
    most: Option<u32>,
    /// What `ps` says of those left out.
    reason: Arc<str>,
    /// Those watched: at least as many as there are, until the next count.
    watched: u32,
}

impl<T: WalkerTables> Processes<T> {
    /// Watches at most so many processes that nobody asked for, for this reason.
    pub fn limit_discovered(&mut self, most: Option<u32>, reason: &str, now: Now) {
        if most == self.discovered_limit.most {
            return;
        }
        self.discovered_limit.most = most;
        self.discovered_limit.reason = reason.into();
        self.keep_limit(now);
    }

    /// Keeps no unwind rows for later while this is set.
    pub fn drop_idle_rows(&mut self, drops: bool) {
        self.tables.keep_idle(!drops);
        if drops {
            self.objects.drop_idle();
        }
    }

    /// Counts the discovered processes that are watched, and leaves out the least sampled of too many, or takes the most
    /// sampled back.
    pub(super) fn keep_limit(&mut self, now: Now) {
        let watched = self.watched.iter().filter_map(|id| self.images.get(id));
        let mut inside: Vec<_> = watched.filter(|image| is_at_will(image)).map(by_samples).collect();
        if let Some(most) = self.discovered_limit.most {
            inside.sort_unstable();
            let surplus = inside.len().saturating_sub(most as usize);
            for (_, id) in inside.drain(..surplus) {
                self.leave_out(id);
                self.refresh_watch(id, now);
            }
        }
        let room = match self.discovered_limit.most {
            Some(most) => (most as usize).saturating_sub(inside.len()),
            None => usize::MAX,
        };
        self.discovered_limit.watched = u32::try_from(inside.len()).unwrap_or(u32::MAX);
        if room > 0 {
            let left_out = self.images.values().filter(|image| image.watch.left_out.is_some());
            let mut outside: Vec<_> = left_out.map(by_samples).collect();
            outside.sort_unstable();
            for (_, id) in outside.into_iter().rev().take(room) {
                if let Some(image) = self.images.get_mut(&id) {
                    image.watch.left_out = None;
                }
                self.refresh_watch(id, now);
            }
        }
        self.health.budget.set_discovered(self.discovered_limit.watched);
    }

    /// Whether there is no room for an image that is to be watched now. If so, it is left out.
    pub(super) fn is_left_out(&mut self, id: ImageId) -> bool {
        if !self.images.get(&id).is_some_and(is_at_will) {
            return false;
        }
        let limit = &mut self.discovered_limit;
        if limit.most.is_some_and(|most| limit.watched >= most) {
            self.leave_out(id);
            return true;
        }
        limit.watched = limit.watched.saturating_add(1);
        false
    }

    fn leave_out(&mut self, id: ImageId) {
        let reason = Arc::clone(&self.discovered_limit.reason);
        if let Some(image) = self.images.get_mut(&id) {
            image.watch.left_out = Some(reason);
        }
    }
}

/// Whether an image is watched, or to be watched, without being asked for.
fn is_at_will(image: &Image) -> bool {
    image.watch.discovered && !image.watch.is_requested()
}

fn by_samples(image: &Image) -> (u64, ImageId) {
    (image.counts.get().0, image.id)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::{
        command::{Lease, WatchState},
        kernel::records::Pid,
        processes::{
            double::WalkerDouble,
            fake_proc::{FakeProc, FakeProcess, at, fork, rust_program, settle, targets},
        },
    };

    const SECOND_NS: u64 = 1_000_000_000;

    fn watched(owner: &Processes<WalkerDouble>) -> Vec<u32> {
        owner.walker().processes.keys().map(|pid| pid.0).collect()
    }

    #[test]
    fn the_least_sampled_are_left_out_and_come_back_in_reverse() {
        let proc = FakeProc::new();
        for pid in 11..15 {
            proc.set(pid, &FakeProcess::new(&rust_program()));
        }
        let base = Instant::now();
        let mut owner = proc.owner(targets());
        owner.scan(at(base, 0)).unwrap();
        settle(&mut owner, at(base, 0));
        proc.set(15, &FakeProcess::new(&rust_program()));
        assert_eq!(watched(&owner), [11, 12, 13, 14]);
        for (pid, samples) in [(11, 3), (12, 1), (13, 2)] {
            for _ in 0..samples {
                owner.count_sample(Pid(pid), u64::MAX - 1, true);
            }
        }
        let lease = Lease::Until(base + Duration::from_secs(60));
        owner.watch(Pid(14), lease, at(base, 1)).unwrap();
        owner.limit_discovered(Some(1), "too dear", at(base, 2));
        settle(&mut owner, at(base, 2));
        assert_eq!(watched(&owner), [11, 14], "one, and what was asked for");
        let listed = owner.list(None).unwrap();
        let told: Vec<_> = listed
            .iter()
            .map(|process| (process.pid.0, process.watch_state, process.watch_reason.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                (11, WatchState::Watched, "discovered"),
                (12, WatchState::NotWatched, "too dear"),
                (13, WatchState::NotWatched, "too dear"),
                (14, WatchState::Watched, "discovered"),
            ]
        );
        // A newcomer finds no room, and what is asked for does.
        owner.on_lifecycle(&fork(3, 15, 11), at(base, 3));
        settle(&mut owner, at(base, 3));
        assert_eq!(watched(&owner), [11, 14]);
        owner.watch(Pid(12), lease, at(base, 4)).unwrap();
        assert_eq!(watched(&owner), [11, 12, 14]);
        // When the requests are over they are discovered processes like the others.
        settle(&mut owner, at(base, 61 * SECOND_NS));
        assert_eq!(watched(&owner), [11]);
        owner.limit_discovered(Some(2), "too dear", at(base, 62 * SECOND_NS));
        settle(&mut owner, at(base, 62 * SECOND_NS));
        assert_eq!(watched(&owner), [11, 13]);
        owner.limit_discovered(None, "", at(base, 63 * SECOND_NS));
        settle(&mut owner, at(base, 63 * SECOND_NS));
        assert_eq!(watched(&owner), [11, 12, 13, 14, 15]);
        assert_eq!(owner.list(None).unwrap()[1].watch_reason, "discovered");
    }

    #[test]
    fn the_place_of_one_that_ends_is_taken() {
        let proc = FakeProc::new();
        for pid in [21, 22] {
            proc.set(pid, &FakeProcess::new(&rust_program()));
        }
        let base = Instant::now();
        let mut owner = proc.owner(targets());
        owner.scan(at(base, 0)).unwrap();
        settle(&mut owner, at(base, 0));
        owner.count_sample(Pid(21), u64::MAX - 1, true);
        owner.limit_discovered(Some(1), "too dear", at(base, 1));
        settle(&mut owner, at(base, 1));
        assert_eq!(watched(&owner), [21]);
        proc.remove(21);
        owner.on_lifecycle(&crate::processes::fake_proc::exit(2, 21), at(base, 2));
        settle(&mut owner, at(base, SECOND_NS));
        assert_eq!(watched(&owner), [22]);
    }

    #[test]
    fn idle_rows_go_at_once() {
        let proc = FakeProc::new();
        proc.set(31, &FakeProcess::new(&rust_program()));
        let base = Instant::now();
        let mut owner = proc.owner(targets());
        owner.scan(at(base, 0)).unwrap();
        settle(&mut owner, at(base, 0));
        proc.remove(31);
        owner.on_lifecycle(&crate::processes::fake_proc::exit(1, 31), at(base, 1));
        settle(&mut owner, at(base, 60 * SECOND_NS));
        assert!(!owner.walker().tables.is_empty(), "kept for a restart");
        owner.drop_idle_rows(true);
        settle(&mut owner, at(base, 62 * SECOND_NS));
        assert!(owner.walker().tables.is_empty());
    }
}
