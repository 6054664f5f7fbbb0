//! Processes that may be over at once: what is read of them from `/proc` is put off.
//!
//! In: images whose watch begins. Out: when they started and what they are, asked for. In a storm most processes are over
//! before anything was sampled of them, and reading `/proc` for each would be most of what they cost. A few a second are looked
//! at as soon as they are watched, so that nothing waits on a quiet host; the others when the first sample of them arrives,
//! or when they have lived for a moment.

use std::collections::VecDeque;

use super::{
    clock::Now,
    owner::Processes,
    process::{Identification, Image, ImageId},
    walker_tables::WalkerTables,
};

/// Processes that are looked at in each second as soon as they are watched.
const MAX_LOOKS_AT_ONCE: u32 = 20;
const SECOND_NS: u64 = 1_000_000_000;
/// Age at which a process is looked at, sampled or not.
const GROWN_NS: u64 = 100_000_000;
/// Processes that wait for that.
const MAX_WAITING: usize = 8192;

/// Images that are to be looked at if they live for a moment.
#[derive(Debug, Default)]
pub(super) struct Young {
    /// When each is grown, in the order in which they came.
    waiting: VecDeque<(u64, ImageId)>,
    second_began_ns: u64,
    /// Looks in that second.
    looks: u32,
}

impl Young {
    /// Whether another may be looked at now; counts it.
    fn has_look_left(&mut self, now: Now) -> bool {
        if now.monotonic_ns.saturating_sub(self.second_began_ns) >= SECOND_NS {
            self.second_began_ns = now.monotonic_ns;
            self.looks = 0;
        }
        self.looks = self.looks.saturating_add(1);
        self.looks <= MAX_LOOKS_AT_ONCE
    }
}

impl<T: WalkerTables> Processes<T> {
    /// Finds out when the process of an image started and what it is, now or later.
    pub(super) fn look_soon(&mut self, id: ImageId, now: Now) {
        let Some(image) = self.images.get(&id) else { return };
        let grown_ns = image.from_ns.saturating_add(GROWN_NS);
        let is_put_off = may_wait(image)
            && grown_ns > now.monotonic_ns
            && self.young.waiting.len() < MAX_WAITING
            && !self.young.has_look_left(now);
        if is_put_off {
            self.young.waiting.push_back((grown_ns, id));
        } else {
            self.look(id);
        }
    }

    /// A sample of an image has come: does what was put off, if its process still runs.
    pub(super) fn look_at_sampled(&mut self, id: ImageId) {
        let is_due = |image: &Image| {
            let is_looked_at = image.start_ticks.is_some() && image.identification != Identification::NotAsked;
            image.is_running() && !is_looked_at
        };
        if self.images.get(&id).is_some_and(is_due) && self.watched.contains(&id) {
            self.look(id);
        }
    }

    /// Does what was put off for the images that have lived for a moment.
    pub(super) fn look_at_grown(&mut self, now: Now) {
        let is_grown = |(grown_ns, _): &mut (u64, ImageId)| *grown_ns <= now.monotonic_ns;
        while let Some((_, id)) = self.young.waiting.pop_front_if(is_grown) {
            if self.watched.contains(&id) {
                self.look(id);
            }
        }
    }

    fn look(&mut self, id: ImageId) {
        if self.note_start(id) {
            self.identify(id);
        }
    }
}

/// Whether nothing is lost if an image is looked at later: its program is known, and nobody asked for it.
fn may_wait(image: &Image) -> bool {
    image.known_marks().is_some() && !image.watch.is_requested() && !image.was_sampled
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::{
        command::{Lease, WatchId},
        kernel::records::{LifecycleEvent, Pid},
        processes::{
            double::WalkerDouble,
            fake_proc::{
                FakeProc, FakeProcess, START_NS, at, code_bytes, event, exec, exit, fork, map, rust_program, settle,
                targets,
            },
        },
    };

    const CODE: u64 = 0x5000_0000_0000;
    const STORM: u32 = 30;

    /// An owner that knows a program: one that runs, and one that it has seen executed.
    fn scanned(proc: &FakeProc) -> (Processes<WalkerDouble>, Instant) {
        let base = Instant::now();
        let mut owner = proc.owner(targets());
        for pid in [7, 8] {
            proc.set(pid, &FakeProcess::new(&rust_program()));
        }
        owner.scan(at(base, 0)).unwrap();
        execute(&mut owner, base, 1, 8);
        settle(&mut owner, at(base, 2));
        (owner, base)
    }

    fn execute(owner: &mut Processes<WalkerDouble>, base: Instant, time: u64, pid: u32) {
        let rust = rust_program();
        owner.on_lifecycle(&exec(time, pid, "brief"), at(base, time));
        let program = map(time + 1, pid, CODE, CODE + code_bytes(&rust), &rust);
        owner.on_lifecycle(&program, at(base, time + 1));
    }

    fn is_looked_at(owner: &Processes<WalkerDouble>, pid: u32) -> bool {
        let image = owner.running(Pid(pid)).unwrap();
        let is_asked = image.identification != Identification::NotAsked;
        assert_eq!(is_asked, image.start_ticks.is_some(), "both or neither");
        is_asked
    }

    #[test]
    fn in_a_storm_only_what_is_sampled_or_lives_on_is_looked_at() {
        let proc = FakeProc::new();
        let (mut owner, base) = scanned(&proc);
        for pid in 100..100 + STORM {
            proc.set(pid, &FakeProcess::new(&rust_program()));
            execute(&mut owner, base, 10, pid);
        }
        owner.poll(at(base, 12));
        assert_eq!(owner.watched.len() as u32, STORM + 2, "all are watched");
        let looked_at = |owner: &Processes<WalkerDouble>| -> Vec<bool> {
            (100..100 + STORM).map(|pid| is_looked_at(owner, pid)).collect()
        };
        let before = looked_at(&owner);
        let (at_once, put_off) = before.split_at(MAX_LOOKS_AT_ONCE as usize - 1);
        // One look was at the process that made the program known.
        assert!(at_once.iter().all(|looked| *looked), "{before:?}");
        assert!(put_off.iter().all(|looked| !looked), "{before:?}");

        assert!(owner.count_sample(Pid(125), START_NS + 20, true).is_some());
        assert!(is_looked_at(&owner, 125) && !is_looked_at(&owner, 126));
        owner.on_lifecycle(&exit(30, 126), at(base, 30));
        owner.poll(at(base, GROWN_NS + 9));
        assert!(!is_looked_at(&owner, 127));
        settle(&mut owner, at(base, GROWN_NS + 10));
        assert!(
            (100..100 + STORM)
                .filter(|pid| *pid != 126)
                .all(|pid| is_looked_at(&owner, pid))
        );
        assert!(owner.young.waiting.is_empty());
        let over = owner.image_at(Pid(126), START_NS + 20).unwrap();
        assert!(over.start_ticks.is_none() && over.identification == Identification::NotAsked);
        assert!(!owner.running(Pid(127)).unwrap().label().service.is_empty());
    }

    #[test]
    fn what_is_asked_for_and_what_nobody_knows_is_looked_at_in_a_storm_too() {
        let proc = FakeProc::new();
        let (mut owner, base) = scanned(&proc);
        for pid in 100..100 + STORM {
            proc.set(pid, &FakeProcess::new(&rust_program()));
            execute(&mut owner, base, 10, pid);
        }
        assert!(!is_looked_at(&owner, 128));
        owner.watch(Pid(128), Lease::Stream(WatchId(1)), at(base, 12)).unwrap();
        assert!(is_looked_at(&owner, 128));
        // A program that was never seen cannot be judged otherwise.
        let proc = FakeProc::new();
        let mut owner = proc.owner(targets());
        for pid in 100..100 + STORM {
            proc.set(pid, &FakeProcess::new(&rust_program()));
            execute(&mut owner, base, 10, pid);
        }
        settle(&mut owner, at(base, 12));
        assert_eq!(owner.watched.len() as u32, STORM);
    }

    #[test]
    fn who_has_the_id_of_a_process_that_ended_is_not_taken_for_it() {
        let proc = FakeProc::new();
        let (mut owner, base) = scanned(&proc);
        // Nobody has heard yet that the first one ended. Ticks are hundredths of a second.
        let later = FakeProcess {
            start_ticks: START_NS / 10_000_000 + 5,
            ..FakeProcess::new(&rust_program())
        };
        proc.set(100, &later);
        execute(&mut owner, base, 10, 100);
        owner.poll(at(base, 12));
        assert!(owner.count_sample(Pid(100), START_NS + 20, true).is_some());
        assert!(!is_looked_at(&owner, 100), "what is there now started later");
        let first = owner.image_at(Pid(100), START_NS + 20).unwrap();
        assert_eq!(first.start_ticks(), None);
        // Of the second one all of it is right.
        owner.on_lifecycle(&exit(30, 100), at(base, 30));
        let forked = 50_000_000;
        owner.on_lifecycle(&fork(forked, 100, 7), at(base, forked));
        execute(&mut owner, base, forked + 1, 100);
        owner.poll(at(base, forked + 3));
        assert!(owner.count_sample(Pid(100), START_NS + forked + 20, true).is_some());
        assert!(is_looked_at(&owner, 100));
    }

    #[test]
    fn the_end_of_a_process_that_never_had_another_thread_needs_no_look() {
        let check = |threads: bool, lost: bool, runs_on: bool| {
            let proc = FakeProc::new();
            let (mut owner, base) = scanned(&proc);
            // The tree still shows it, so that a look would find that it runs.
            proc.set(100, &FakeProcess::new(&rust_program()));
            owner.on_lifecycle(&fork(10, 100, 7), at(base, 10));
            if threads {
                let thread = event(11, LifecycleEvent::Thread { pid: Pid(100) });
                owner.on_lifecycle(&thread, at(base, 11));
            }
            if lost {
                owner.on_lifecycle(&event(12, LifecycleEvent::Lost { count: 1 }), at(base, 12));
            }
            owner.on_lifecycle(&exit(13, 100), at(base, 13));
            assert_eq!(owner.running(Pid(100)).is_some(), runs_on, "{threads} {lost}");
        };
        check(false, false, false);
        check(true, false, true);
        check(false, true, true);
    }

    #[test]
    fn threads_of_the_program_before_say_nothing_of_the_next() {
        let proc = FakeProc::new();
        let (mut owner, base) = scanned(&proc);
        proc.set(100, &FakeProcess::new(&rust_program()));
        owner.on_lifecycle(&fork(10, 100, 7), at(base, 10));
        owner.on_lifecycle(&event(11, LifecycleEvent::Thread { pid: Pid(100) }), at(base, 11));
        execute(&mut owner, base, 20, 100);
        owner.on_lifecycle(&exit(30, 100), at(base, 30));
        assert!(owner.running(Pid(100)).is_none());
    }
}
