//! Settings that are not put back yet, of runs that are over.

use std::time::Duration;

use profiler_readings::Moment;

use super::{Answer, Engine, Order};
use crate::{PutBack, Run, RunId, Stage, Undo, UndoReason};

/// Doublings of the time between two attempts.
const MAX_DOUBLINGS: u32 = 5;

/// A run that is over, whose settings are not put back yet.
#[derive(Debug)]
pub(super) struct Owed {
    pub(super) run: Run,
    /// When they are to be put back, or put back again.
    pub(super) due: Duration,
}

impl Engine {
    /// Has the settings of a run that is over put back. It is tried until it is answered, however often that takes.
    pub(super) fn put_back(&mut self, mut run: Run, reason: UndoReason, now: Moment, orders: &mut Vec<Order>) {
        run.undo = Undo::Underway { reason, attempts: 0 };
        run.note(Stage::Undo, reason.name().to_owned(), now);
        orders.push(Order::Keep(Box::new(run.clone())));
        self.attempt(run, now, orders);
    }

    /// Has settings put back whose time is over, and those that could not be.
    pub(super) fn put_back_due(&mut self, now: Moment, orders: &mut Vec<Order>) {
        let due = self.owed.iter().filter(|(_, owed)| owed.due <= now.since_boot);
        let due: Vec<RunId> = due.map(|(id, _)| *id).collect();
        for id in due {
            self.put_back_owed(id, UndoReason::Expired, now, orders);
        }
    }

    /// Has all settings put back.
    pub(super) fn put_back_all(&mut self, now: Moment, orders: &mut Vec<Order>) {
        let all: Vec<RunId> = self.owed.keys().copied().collect();
        for id in all {
            self.put_back_owed(id, UndoReason::Stopped, now, orders);
        }
    }

    fn put_back_owed(&mut self, id: RunId, reason: UndoReason, now: Moment, orders: &mut Vec<Order>) {
        let Some(Owed { run, .. }) = self.owed.remove(&id) else {
            return;
        };
        match run.undo {
            Undo::Held { .. } => self.put_back(run, reason, now, orders),
            _ => self.attempt(run, now, orders),
        }
    }

    fn attempt(&mut self, mut run: Run, now: Moment, orders: &mut Vec<Order>) {
        if let Undo::Underway { attempts, .. } = &mut run.undo {
            *attempts = attempts.saturating_add(1);
        }
        orders.push(Order::PutBack {
            run: run.id,
            changes: run.changes.clone(),
        });
        let due = now.since_boot.saturating_add(self.patience(&run));
        self.owed.insert(run.id, Owed { run, due });
    }

    /// Time from one attempt to the next.
    fn patience(&self, run: &Run) -> Duration {
        let doublings = match run.undo {
            Undo::Underway { attempts, .. } => attempts.saturating_sub(1).min(MAX_DOUBLINGS),
            _ => 0,
        };
        self.settings.answer_within.saturating_mul(1 << doublings)
    }

    /// Takes an answer for a run that is over.
    pub(super) fn settle_owed(&mut self, id: RunId, answer: &Answer, now: Moment, orders: &mut Vec<Order>) {
        let Some(Owed { mut run, due }) = self.owed.remove(&id) else {
            return;
        };
        let all = u32::try_from(run.changes.len()).unwrap_or(u32::MAX);
        let put_back = match (run.undo, answer) {
            (Undo::Underway { reason, .. }, Answer::PutBack(put_back)) => Some((reason, *put_back)),
            (Undo::Underway { reason, .. }, Answer::Gone) => Some((reason, gone(all))),
            // It is tried again in time.
            (Undo::Underway { .. }, Answer::Failed { .. } | Answer::NotKept { .. }) => None,
            _ => {
                self.unexpected += 1;
                None
            }
        };
        let Some((reason, put_back)) = put_back else {
            self.owed.insert(id, Owed { run, due });
            return;
        };
        run.undo = Undo::Done { reason, put_back };
        run.note(Stage::Undo, in_words(put_back), now);
        orders.push(Order::Keep(Box::new(run)));
    }
}

/// Of settings that went with whom they belonged to.
pub(super) fn gone(count: u32) -> PutBack {
    PutBack {
        gone: count,
        ..PutBack::default()
    }
}

fn in_words(put_back: PutBack) -> String {
    let PutBack { restored, others, gone } = put_back;
    format!("{restored} put back, {others} set by others since, {gone} gone")
}
