//! The steps of a run that has its turn.

use std::{sync::Arc, time::Duration};

use profiler_readings::Moment;

use super::{Answer, Current, Engine, Order, later, undoing::Owed};
use crate::{
    Candidate, Change, Chosen, Effect, Hook, Mode, Outcome, Place, Refusal, Run, Side, Snapshot, Stage, Target,
    TargetId, Undo, UndoReason,
    guard::{check_again, choose},
    run::bounded,
};

/// Settings that one run may change: a process has one of a kind for each thread.
const MAX_CHANGES: usize = 4096;
/// Longest value of a setting, in bytes.
const MAX_VALUE_BYTES: usize = 1024;

impl Engine {
    /// Gives a run its turn, or refuses it.
    pub(super) fn begin(&mut self, mut run: Run, now: Moment, orders: &mut Vec<Order>) {
        let ready = self.readiness(&run.hook, now);
        let hook = ready.and_then(|()| self.hooks.get(&run.hook).cloned().ok_or(Refusal::UnknownHook));
        let hook = match hook {
            Ok(hook) => hook,
            Err(refusal) => return self.end_waiting(run, Outcome::Refused(refusal), now, orders),
        };
        run.kind = hook.kind;
        run.mode = self.mode(&run, &hook);
        run.enter(Stage::Guard, String::new(), now);
        orders.push(Order::Keep(Box::new(run.clone())));
        orders.push(Order::Choose {
            run: run.id,
            hook: Arc::clone(&hook),
            about: run.cause.about().clone(),
            watched: run.cause.watched().cloned(),
        });
        let due = now.since_boot.saturating_add(self.settings.answer_within);
        self.current = Some(Current { run, hook, due });
    }

    /// How far a run of a hook goes.
    fn mode(&self, run: &Run, hook: &Hook) -> Mode {
        if run.cause.is_dry_run() {
            Mode::DryRun
        } else if !hook.kind.acts() || (hook.enforce && self.settings.enforce) {
            Mode::Enforce
        } else {
            Mode::Observe
        }
    }

    /// Takes an answer for the run that has its turn.
    pub(super) fn take_answer(&mut self, current: Current, answer: Answer, now: Moment, orders: &mut Vec<Order>) {
        let during = current.run.stage();
        match (during, answer) {
            (Stage::Guard, Answer::Candidates(candidates)) => self.choose_target(current, candidates, now, orders),
            (Stage::Before, Answer::Before(snapshot)) => {
                let mut current = current;
                current.run.before = Some(Side::of(&snapshot));
                self.prepare(current, now, orders);
            }
            (Stage::Prepare, Answer::Prepared { target, changes, would }) => {
                self.apply(current, &target, (changes, would), now, orders)
            }
            (Stage::Apply, Answer::Applied { said }) => self.settle(current, said, now, orders),
            (Stage::After, Answer::After(snapshot)) => self.judge(current, &snapshot, now, orders),
            (_, Answer::Gone) => self.finish(current, Outcome::Gone { during }, now, orders),
            (_, Answer::Failed { reason } | Answer::NotKept { reason }) => {
                let reason = bounded(reason);
                self.finish(current, Outcome::Failed { during, reason }, now, orders);
            }
            _ => {
                self.unexpected += 1;
                self.current = Some(current);
            }
        }
    }

    /// Goes on when a stage is over: what was done has had its effect, or an answer is late.
    pub(super) fn go_on(&mut self, mut current: Current, now: Moment, orders: &mut Vec<Order>) {
        let during = current.run.stage();
        if during != Stage::Settle {
            return self.finish(current, Outcome::TimedOut { during }, now, orders);
        }
        current.run.enter(Stage::After, String::new(), now);
        orders.push(Order::Keep(Box::new(current.run.clone())));
        orders.push(Order::LookAfter {
            run: current.run.id,
            target: current.target(),
            watched: current.run.cause.watched().cloned(),
            span: current.hook.measure,
        });
        current.due = now.since_boot.saturating_add(self.settings.answer_within);
        self.current = Some(current);
    }

    fn choose_target(
        &mut self,
        mut current: Current,
        candidates: Vec<Candidate>,
        now: Moment,
        orders: &mut Vec<Order>,
    ) {
        let (hook, run) = (&current.hook, &mut current.run);
        let about = run.cause.about();
        let chosen = choose(hook, about, candidates, &self.ourselves, self.settings.min_share).and_then(|target| {
            let id = target.id();
            self.pace.may_act(&hook.name, id, now.since_boot)?;
            if hook.kind.leaves_setting() {
                self.may_change(id)?;
            }
            Ok(Chosen {
                id,
                name: target.name().to_owned(),
            })
        });
        match chosen {
            Ok(chosen) => run.target = Some(chosen),
            Err(refusal) => return self.finish(current, Outcome::Refused(refusal), now, orders),
        }
        self.pace.count(Duration::ZERO, &self.settings, now.since_boot);
        let (mode, acts) = (run.mode, hook.kind.acts());
        match mode {
            Mode::Observe => self.finish(current, Outcome::Observed, now, orders),
            Mode::Enforce if acts => self.look_before(current, now, orders),
            Mode::Enforce | Mode::DryRun => self.prepare(current, now, orders),
        }
    }

    fn look_before(&mut self, mut current: Current, now: Moment, orders: &mut Vec<Order>) {
        current.run.enter(Stage::Before, String::new(), now);
        orders.push(Order::Keep(Box::new(current.run.clone())));
        orders.push(Order::LookBefore {
            run: current.run.id,
            target: current.target(),
            watched: current.run.cause.watched().cloned(),
            span: current.hook.measure,
        });
        current.due = now.since_boot.saturating_add(self.settings.answer_within);
        self.current = Some(current);
    }

    fn prepare(&mut self, mut current: Current, now: Moment, orders: &mut Vec<Order>) {
        current.run.enter(Stage::Prepare, String::new(), now);
        orders.push(Order::Keep(Box::new(current.run.clone())));
        orders.push(Order::Prepare {
            run: current.run.id,
            hook: Arc::clone(&current.hook),
            target: current.target(),
        });
        current.due = now.since_boot.saturating_add(self.settings.answer_within);
        self.current = Some(current);
    }

    /// Has it done, if it may still be, now that everything is known. What will be changed is written down first.
    fn apply(
        &mut self,
        mut current: Current,
        target: &Target,
        (changes, would): (Vec<Change>, String),
        now: Moment,
        orders: &mut Vec<Order>,
    ) {
        if let Err(refusal) = self.may_apply(&current, target) {
            return self.finish(current, Outcome::Refused(refusal), now, orders);
        }
        if current.hook.kind.leaves_setting() && changes.is_empty() {
            return self.finish(current, Outcome::Refused(Refusal::NothingToChange), now, orders);
        }
        if let Err(reason) = check_changes(&changes, target) {
            let (during, reason) = (Stage::Prepare, reason.to_owned());
            return self.finish(current, Outcome::Failed { during, reason }, now, orders);
        }
        let (run, hook) = (&mut current.run, &current.hook);
        run.changes = changes;
        if run.mode == Mode::DryRun {
            run.said = bounded(would);
            return self.finish(current, Outcome::DryRun, now, orders);
        }
        if !run.changes.is_empty() {
            let until = later(later(now, hook.timeout), hook.lasts);
            run.undo = Undo::Held { until };
        }
        run.enter(Stage::Apply, would, now);
        orders.push(Order::Keep(Box::new(run.clone())));
        orders.push(Order::Apply {
            run: run.id,
            timeout: hook.timeout,
        });
        let longest = hook.timeout.saturating_add(self.settings.answer_within);
        current.due = now.since_boot.saturating_add(longest);
        self.current = Some(current);
    }

    /// Whether what was prepared may be done: nothing has changed since it was proposed that speaks against it.
    fn may_apply(&self, current: &Current, target: &Target) -> Result<(), Refusal> {
        let (run, hook) = (&current.run, &current.hook);
        if let Some(by) = self.paused.values().next() {
            return Err(Refusal::Paused { by: by.clone() });
        }
        let is_in_force = self.hooks.get(&run.hook).is_some_and(|now| now == hook);
        if !is_in_force || self.mode(run, hook) != run.mode {
            return Err(Refusal::Changed);
        }
        check_again(hook, current.target(), target, &self.ourselves)
    }

    fn settle(&mut self, mut current: Current, said: String, now: Moment, orders: &mut Vec<Order>) {
        let (run, hook) = (&mut current.run, &current.hook);
        run.said = bounded(said);
        if let Undo::Held { until } = &mut run.undo {
            *until = later(now, hook.lasts);
        }
        if !hook.kind.acts() {
            return self.finish(current, Outcome::Kept, now, orders);
        }
        run.enter(Stage::Settle, String::new(), now);
        orders.push(Order::Keep(Box::new(run.clone())));
        let longest = hook.settle.saturating_add(hook.measure);
        current.due = now.since_boot.saturating_add(longest);
        self.current = Some(current);
    }

    /// Holds what is against what was.
    fn judge(&mut self, mut current: Current, snapshot: &Snapshot, now: Moment, orders: &mut Vec<Order>) {
        let run = &mut current.run;
        let after = Side::of(snapshot);
        if let (Some(before), Some(watched)) = (&run.before, run.cause.watched()) {
            run.effect = Some(Effect::between(before, &after, watched.wrong));
        }
        run.after = Some(after);
        let outcome = if run.is_worse() && run.undo.is_owed() {
            Outcome::Undone
        } else {
            Outcome::Kept
        };
        self.finish(current, outcome, now, orders);
    }

    /// Ends a run that has had its turn. Settings stay until their time is over if all went well; otherwise they are put
    /// back.
    pub(super) fn finish(&mut self, current: Current, outcome: Outcome, now: Moment, orders: &mut Vec<Order>) {
        let Current { mut run, hook, .. } = current;
        if matches!(run.stage(), Stage::Prepare | Stage::Apply) && outcome != Outcome::Kept {
            orders.push(Order::Withdraw { run: run.id });
        }
        *self.outcomes.entry(outcome.name()).or_default() += 1;
        let reason = match &outcome {
            Outcome::Kept => None,
            Outcome::Undone => Some(UndoReason::Worse),
            Outcome::Interrupted { .. } => Some(UndoReason::Stopped),
            _ => Some(UndoReason::Failed),
        };
        run.end(outcome, now);
        self.charge(&run, (hook.cooldown, Duration::ZERO), now);
        match (run.undo, reason) {
            (Undo::Held { until }, None) => {
                orders.push(Order::Keep(Box::new(run.clone())));
                let due = until.since_boot;
                self.owed.insert(run.id, Owed { run, due });
            }
            (Undo::Held { .. }, Some(reason)) => self.put_back(run, reason, now, orders),
            _ => orders.push(Order::Keep(Box::new(run))),
        }
    }

    /// Has what a run that is over came to bear on those that follow: it ended so long ago, and its hook has this cooldown.
    pub(super) fn charge(&mut self, run: &Run, since: (Duration, Duration), now: Moment) {
        let rests = !matches!(run.outcome(), None | Some(Outcome::Refused(_) | Outcome::DryRun));
        if let Some(chosen) = run.target.as_ref().filter(|_| rests) {
            self.pace.cool(&run.hook, chosen.id, since, now.since_boot);
        }
        if run.has_failed() || run.outcome() == Some(&Outcome::Kept) {
            self.pace.settle(&run.hook, run.has_failed(), since, now.since_boot);
        }
    }

    /// Whether settings of a target may be changed, as far as they are not changed already.
    fn may_change(&self, target: TargetId) -> Result<(), Refusal> {
        let is_same = |owed: &Owed| owed.run.target.as_ref().is_some_and(|chosen| chosen.id == target);
        if self.owed.values().any(is_same) {
            return Err(Refusal::StillChanged);
        }
        if self.owed.len() >= self.settings.max_owed {
            return Err(Refusal::TooManyChanges);
        }
        Ok(())
    }
}

impl Current {
    /// Whether what it set has lasted as long as it may, though its effect is not known yet.
    pub(super) fn has_lasted(&self, now: Moment) -> bool {
        let is_over = matches!(self.run.undo, Undo::Held { until } if until.since_boot <= now.since_boot);
        is_over && self.run.stage() > Stage::Apply
    }

    /// Whom it acts on; the host before anybody was chosen.
    fn target(&self) -> TargetId {
        self.run.target.as_ref().map_or(TargetId::Host, |chosen| chosen.id)
    }
}

/// Whether changes are the target's own, and so few and short that they can be kept.
fn check_changes(changes: &[Change], target: &Target) -> Result<(), &'static str> {
    let is_own = |change: &Change| match (&change.place, target) {
        (Place::Thread { process, .. }, Target::Process(own)) => *process == own.identity,
        (Place::Group { id, .. }, Target::Group(own)) => *id == own.id,
        _ => false,
    };
    let is_short = |change: &Change| change.before.len().max(change.ours.len()) <= MAX_VALUE_BYTES;
    if changes.len() > MAX_CHANGES {
        Err("more settings would be changed than can be kept")
    } else if !changes.iter().all(is_own) {
        Err("settings of others than the target would be changed")
    } else if !changes.iter().all(is_short) {
        Err("a setting is longer than can be kept")
    } else {
        Ok(())
    }
}
