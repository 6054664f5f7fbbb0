//! How an engine's orders are carried out on the simulated host.

use std::time::Duration;

use profiler_hooks::{
    Answer, Candidate, Change, Hook, Identity, Knob, Order, Place, Process, PutBack, Reversal, RunId, Snapshot, Stage,
    Target, TargetId,
};
use profiler_readings::Subject;

use crate::world::{Deed, OURS, PLAIN, World, seconds};

impl World {
    pub(crate) fn carry_out(&mut self, order: Order) -> Option<Answer> {
        let run = order.run();
        let stage = match &order {
            Order::Keep(kept) => {
                if self.not_kept_at == Some(kept.stage()) {
                    self.not_kept.insert(run);
                } else {
                    self.not_kept.remove(&run);
                    self.kept.insert(run, (**kept).clone());
                }
                return None;
            }
            Order::Withdraw { .. } => {
                self.withdrawn.insert(run);
                self.held.remove(&run);
                return None;
            }
            Order::Choose { .. } => Stage::Guard,
            Order::LookBefore { .. } => Stage::Before,
            Order::Prepare { .. } => Stage::Prepare,
            Order::Apply { .. } => Stage::Apply,
            Order::LookAfter { .. } => Stage::After,
            Order::PutBack { .. } => Stage::Undo,
        };
        if self.not_kept.contains(&run) && stage != Stage::Undo {
            let reason = "the disk is full".to_owned();
            return Some(Answer::NotKept { reason });
        }
        if let Some((_, pid)) = self.reused_at.take_if(|(at, _)| *at == stage) {
            self.reuse(pid);
        }
        if self.hangs_at == Some(stage) {
            // What hangs may have been done all the same.
            let _done = self.answer(order);
            return None;
        }
        if self.fails_at == Some(stage) {
            let reason = "it does not want to".to_owned();
            return Some(Answer::Failed { reason });
        }
        Some(self.answer(order))
    }

    /// Another process gets the id of one that ends.
    pub(crate) fn reuse(&mut self, pid: u32) {
        if let Some(process) = self.processes.get_mut(&pid) {
            self.niceness.remove(&process.identity);
            process.identity.start_ticks += 1;
        }
    }

    pub(crate) fn end(&mut self, pid: u32) {
        if let Some(process) = self.processes.remove(&pid) {
            self.niceness.remove(&process.identity);
        }
    }

    fn is_there(&self, identity: Identity) -> bool {
        let process = self.processes.get(&identity.pid);
        process.is_some_and(|process| process.identity == identity)
    }

    fn read_niceness(&self, identity: Identity) -> Option<&str> {
        let set = self.niceness.get(&identity).map_or(PLAIN, String::as_str);
        self.is_there(identity).then_some(set)
    }

    fn answer(&mut self, order: Order) -> Answer {
        match order {
            Order::Choose { about, .. } => Answer::Candidates(self.candidates(&about)),
            Order::LookBefore { target, span, .. } => match self.look(target, span) {
                Some(snapshot) => Answer::Before(snapshot),
                None => Answer::Gone,
            },
            Order::LookAfter { target, span, .. } => match self.look(target, span) {
                Some(snapshot) => Answer::After(snapshot),
                None => Answer::Gone,
            },
            Order::Prepare { run, hook, target } => self.prepare(run, &hook, target),
            Order::Apply { run, .. } => self.apply(run),
            Order::PutBack { changes, .. } => Answer::PutBack(self.put_back(&changes)),
            Order::Keep(_) | Order::Withdraw { .. } => unreachable!("neither is answered"),
        }
    }

    fn candidates(&self, about: &Subject) -> Vec<Candidate> {
        let is_meant = |process: &&Process| match about {
            Subject::Process { pid, .. } => process.identity.pid == *pid,
            _ => true,
        };
        let processes = self.processes.values().filter(is_meant);
        processes
            .map(|process| Candidate {
                target: Target::Process(process.clone()),
                share: 0.5,
            })
            .collect()
    }

    fn look(&self, target: TargetId, span: Duration) -> Option<Snapshot> {
        if let TargetId::Process(identity) = target
            && !self.is_there(identity)
        {
            return None;
        }
        let value = if self.deeds.is_empty() {
            self.readings.0
        } else {
            self.readings.1
        };
        let newest = self.seconds;
        let oldest = newest.saturating_sub(span.as_secs());
        Some(Snapshot {
            readings: (oldest..=newest).map(|second| (seconds(second), value)).collect(),
            resident_bytes: Some(1 << 20),
        })
    }

    fn prepare(&mut self, run: RunId, hook: &Hook, target: TargetId) -> Answer {
        let target = match target {
            TargetId::Process(identity) => match self.processes.get(&identity.pid) {
                Some(process) => Target::Process(process.clone()),
                None => return Answer::Gone,
            },
            TargetId::Host => Target::Host,
            TargetId::Group(_) => unreachable!("there are none"),
        };
        let mut changes = Vec::new();
        if let (Target::Process(process), true) = (&target, hook.kind.leaves_setting()) {
            let identity = process.identity;
            let before = self.read_niceness(identity).expect("it is there").to_owned();
            if before != OURS {
                changes.push(Change {
                    place: Place::Thread {
                        process: identity,
                        thread: identity,
                    },
                    knob: Knob::Nice,
                    before,
                    ours: OURS.to_owned(),
                });
            }
        }
        self.held.insert(run, (target.clone(), changes.clone()));
        Answer::Prepared {
            target,
            changes,
            would: "be done".to_owned(),
        }
    }

    /// Does it, and holds the engine to what it promised.
    fn apply(&mut self, run: RunId) -> Answer {
        let (target, changes) = self.held.remove(&run).expect("it was prepared");
        assert!(!self.withdrawn.contains(&run), "it was withdrawn");
        let kept = self.kept.get(&run).expect("it is kept");
        assert_eq!(kept.stage(), Stage::Apply, "what is about to be done is kept first");
        assert_eq!(kept.changes, changes, "what will be changed is kept first");
        assert_eq!(kept.undo.is_owed(), !changes.is_empty());
        assert_eq!(kept.target.as_ref().map(|chosen| chosen.id), Some(target.id()));
        assert!(self.deeds.iter().all(|deed| deed.run != run), "a run does one thing");
        if let Target::Process(process) = &target
            && !self.is_there(process.identity)
        {
            return Answer::Gone;
        }
        self.deeds.push(Deed {
            run,
            target: target.id(),
            second: self.seconds,
        });
        for change in &changes {
            if let Place::Thread { thread, .. } = change.place {
                self.niceness.insert(thread, change.ours.clone());
            }
        }
        Answer::Applied {
            said: "done".to_owned(),
        }
    }

    fn put_back(&mut self, changes: &[Change]) -> PutBack {
        let mut put_back = PutBack::default();
        for change in changes {
            let Place::Thread { thread, .. } = change.place else {
                unreachable!("there are no groups")
            };
            match change.reversal(self.read_niceness(thread)) {
                Reversal::Restore => {
                    self.niceness.insert(thread, change.before.clone());
                    put_back.restored += 1;
                }
                Reversal::IsBefore => put_back.restored += 1,
                Reversal::IsOthers => put_back.others += 1,
                Reversal::IsGone => put_back.gone += 1,
            }
        }
        put_back
    }
}
