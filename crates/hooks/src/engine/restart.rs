//! Runs taken up where the daemon before left them.

use std::{sync::Arc, time::Duration};

use profiler_alerts::AlertId;
use profiler_readings::Moment;

use super::{Current, Engine, Order, undoing::gone};
use crate::{Outcome, Phase, Refusal, Run, Stage, Undo, UndoReason};

/// What is said of a run that goes on.
const TAKEN_UP: &str = "the daemon was started again";

impl Engine {
    /// Takes up runs as they were last kept: all that are not over, all whose settings are not put back, all of alerts that
    /// are live, and as many others as cooldowns and failures look back on. To be called first, after
    /// [`Engine::configure`]; then [`Engine::only_alerts`].
    ///
    /// Settings that were changed are put back, at once. What was done and leaves none is measured to its end. What waited
    /// for its turn waits on. Anything else ends as interrupted.
    pub fn restore(&mut self, mut runs: Vec<Run>, now: Moment, orders: &mut Vec<Order>) {
        runs.sort_by_key(|run| run.id);
        for run in runs {
            self.last = self.last.max(run.id);
            if let Some(alert) = run.cause.alert() {
                self.firings.restore(&run.hook, alert);
            }
            if let Some(counted) = run.counted() {
                let ago = self.ago(&run, counted, now);
                self.pace.count(ago, &self.settings, now.since_boot);
            }
            match &run.phase {
                Phase::Over(_) => self.recall(run, now, orders),
                &Phase::At(stage) => self.take_up(run, stage, now, orders),
            }
        }
    }

    /// Only these alerts are live: all others are over.
    pub fn only_alerts(&mut self, is_live: impl Fn(AlertId) -> bool, now: Moment, orders: &mut Vec<Order>) {
        let over: Vec<AlertId> = self.firings.live().filter(|alert| !is_live(*alert)).collect();
        for alert in over {
            self.alert_over(alert, now, orders);
        }
    }

    /// How long ago a moment of a run was.
    fn ago(&self, run: &Run, then: Moment, now: Moment) -> Duration {
        if run.boot == self.boot {
            now.since_boot.saturating_sub(then.since_boot)
        } else {
            now.time.duration_since(then.time).unwrap_or_default()
        }
    }

    /// Takes note of a run that was over.
    fn recall(&mut self, run: Run, now: Moment, orders: &mut Vec<Order>) {
        let cooldown = self.hooks.get(&run.hook).map_or(Duration::ZERO, |hook| hook.cooldown);
        let ago = run.ended().map_or(Duration::ZERO, |ended| self.ago(&run, ended, now));
        self.charge(&run, (cooldown, ago), now);
        if run.undo.is_owed() {
            self.put_back_restored(run, now, orders);
        }
    }

    fn take_up(&mut self, mut run: Run, stage: Stage, now: Moment, orders: &mut Vec<Order>) {
        let is_same_boot = run.boot == self.boot;
        if is_same_boot && stage <= Stage::Guard && run.cause.alert().is_some() {
            if self.waiting.len() >= self.settings.max_waiting {
                return self.end_waiting(run, Outcome::Refused(Refusal::TooManyWait), now, orders);
            }
            run.enter(Stage::Proposed, TAKEN_UP.to_owned(), now);
            orders.push(Order::Keep(Box::new(run.clone())));
            self.waiting.push_back(run);
            return;
        }
        let is_done = stage > Stage::Apply && !run.undo.is_owed();
        if let Some(hook) = self.hooks.get(&run.hook).filter(|_| is_same_boot && is_done)
            && self.current.is_none()
        {
            // Readings of before are not there any more: it is measured from now on.
            let due = now.since_boot.saturating_add(hook.measure);
            let hook = Arc::clone(hook);
            run.enter(Stage::Settle, TAKEN_UP.to_owned(), now);
            orders.push(Order::Keep(Box::new(run.clone())));
            self.current = Some(Current { run, hook, due });
            return;
        }
        run.end(Outcome::Interrupted { during: stage }, now);
        let cooldown = self.hooks.get(&run.hook).map_or(Duration::ZERO, |hook| hook.cooldown);
        self.charge(&run, (cooldown, Duration::ZERO), now);
        if run.undo.is_owed() {
            self.put_back_restored(run, now, orders);
        } else {
            orders.push(Order::Keep(Box::new(run)));
        }
    }

    /// Has the settings of a run of the daemon before put back. Of another start of the host there are none.
    fn put_back_restored(&mut self, mut run: Run, now: Moment, orders: &mut Vec<Order>) {
        if run.boot == self.boot {
            let reason = match run.undo {
                Undo::Underway { reason, .. } => reason,
                _ => UndoReason::Stopped,
            };
            return self.put_back(run, reason, now, orders);
        }
        run.undo = Undo::Done {
            reason: UndoReason::Rebooted,
            put_back: gone(u32::try_from(run.changes.len()).unwrap_or(u32::MAX)),
        };
        run.note(Stage::Undo, UndoReason::Rebooted.name().to_owned(), now);
        orders.push(Order::Keep(Box::new(run)));
    }
}
