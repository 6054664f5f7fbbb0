//! A daemon that dies at any moment, and the one after it.

use profiler_hooks::{Kind, Outcome, Refusal, Run, Stage, Undo, UndoReason};

use crate::world::{LONG, OURS, World, firing, hook, process, seconds};

/// Runs a hook from an alert to the end of its setting with a daemon that dies after 0, 1, 2 ... orders.
fn die_everywhere(kind: Kind, then: impl Fn(&mut World)) {
    for orders in 0.. {
        let mut world = World::new(&[hook("hook", kind)]);
        world.dies_after = Some(orders);
        world.propose("hook", firing(1)).expect("there is such a hook");
        for _ in 0..400 {
            if !world.is_dead {
                world.pass(1);
            }
        }
        if !world.is_dead {
            assert!(orders >= 8, "{orders} orders are no whole run");
            return;
        }
        then(&mut world);
    }
}

#[test]
fn whenever_it_dies_the_next_one_brings_all_to_an_end() {
    for kind in [Kind::Nice, Kind::PythonCollect, Kind::Capture] {
        die_everywhere(kind, |world| {
            let was_kept = !world.kept.is_empty();
            world.restart();
            let again = world.propose("hook", firing(1));
            assert_eq!(again == Err(Refusal::AlreadyProposed), was_kept);
            world.pass(LONG);
            world.assert_settled();
            assert!(world.deeds.len() <= 1, "it runs once at most");
            assert_eq!(world.engine.unexpected(), 0);
        });
    }
}

#[test]
fn settings_are_put_back_at_the_next_start() {
    die_everywhere(Kind::Nice, |world| {
        let was_set = world
            .niceness
            .get(&process(100).identity)
            .is_some_and(|value| value == OURS);
        let was_owed = world.kept.values().any(|run| run.undo.is_owed());
        assert!(!was_set || was_owed, "it is written down before it is set");
        world.restart();
        world.assert_undone();
    });
}

#[test]
fn it_may_die_again_while_it_takes_up() {
    for orders in 0..10 {
        die_everywhere(Kind::Nice, |world| {
            world.restart_and_die(orders);
            world.restart();
            world.pass(LONG);
            world.assert_settled();
            assert!(world.deeds.len() <= 1);
        });
    }
}

#[test]
fn after_a_reboot_there_is_nothing_to_put_back() {
    die_everywhere(Kind::Nice, |world| {
        let owed: Vec<Run> = world.kept.values().filter(|run| run.undo.is_owed()).cloned().collect();
        world.seconds += 60;
        world.reboot();
        // A process of the same id and start time has the same value by chance.
        world.niceness.insert(process(100).identity, OURS.to_owned());
        world.restart();
        world.pass(LONG);
        for run in owed {
            assert!(
                matches!(
                    world.run(run.id).undo,
                    Undo::Done {
                        reason: UndoReason::Rebooted,
                        ..
                    }
                ),
                "{:?}",
                world.run(run.id)
            );
        }
        assert_eq!(world.niceness[&process(100).identity], OURS);
        assert!(world.kept.values().all(|run| run.outcome().is_some()));
    });
}

#[test]
fn what_was_done_is_measured_to_its_end() {
    let mut world = World::new(&[hook("collect", Kind::PythonCollect)]);
    let run = world.propose("collect", firing(1)).unwrap();
    world.pass(10);
    world.restart();
    world.pass(60);
    assert_eq!(world.outcome(run), &Outcome::Kept);
    assert!(world.run(run).effect.is_some());
    // Without its hook nobody knows how.
    let mut world = World::new(&[hook("collect", Kind::PythonCollect)]);
    let run = world.propose("collect", firing(1)).unwrap();
    world.pass(10);
    world.hooks.clear();
    world.restart();
    assert_eq!(world.outcome(run), &Outcome::Interrupted { during: Stage::Settle });
}

#[test]
fn what_waited_waits_on_unless_its_alert_ended() {
    let mut world = World::new(&[hook("a", Kind::PythonCollect), hook("b", Kind::PythonCollect)]);
    world.propose("a", firing(1)).unwrap();
    world.pass(1);
    let stays = world.propose("b", firing(1)).unwrap();
    let goes = world.propose("b", firing(2)).unwrap();
    world.restart();
    let (now, mut orders) = (world.now(), Vec::new());
    world.engine.only_alerts(|alert| alert.0 == 1, now, &mut orders);
    assert_eq!(orders.len(), 1);
    assert_eq!(orders[0].run(), goes);
    world.pass(200);
    assert_eq!(world.outcome(stays), &Outcome::Kept);
}

#[test]
fn what_waited_waits_on_only_where_there_is_room() {
    let mut world = World::new(&[hook("hook", Kind::PythonCollect)]);
    let runs = [1, 2, 3].map(|alert| world.propose("hook", firing(alert)).unwrap());
    world.settings.max_waiting = 1;
    world.restart();
    assert_eq!(world.run(runs[0]).stage(), Stage::Proposed);
    for run in &runs[1..] {
        assert_eq!(world.outcome(*run), &Outcome::Refused(Refusal::TooManyWait));
    }
}

/// What the daemon died of may have been what it did.
#[test]
fn a_hook_that_was_interrupted_at_what_it_did_backs_off() {
    for stage in [Stage::Prepare, Stage::Apply] {
        let mut world = World::new(&[hook("hook", Kind::PythonCollect)]);
        world.hangs_at = Some(stage);
        let run = world.propose("hook", firing(1)).unwrap();
        world.pass(1);
        world.restart();
        assert_eq!(world.outcome(run), &Outcome::Interrupted { during: stage });
        let backs_off = matches!(
            world.engine.readiness("hook", world.now()),
            Err(Refusal::BackedOff { failures: 1, .. })
        );
        assert_eq!(backs_off, stage == Stage::Apply);
    }
}

#[test]
fn cooldowns_failures_and_the_rate_go_on() {
    for reboots in [false, true] {
        let again = |world: &mut World| {
            if reboots {
                world.reboot();
            }
            world.restart();
        };
        let mut world = World::new(&[hook("collect", Kind::PythonCollect)]);
        world.propose("collect", firing(1)).unwrap();
        world.pass(40);
        again(&mut world);
        let early = world.propose("collect", firing(2)).unwrap();
        world.pass(1);
        assert!(matches!(
            world.outcome(early),
            Outcome::Refused(Refusal::CoolingDown { .. })
        ));
        world.fails_at = Some(Stage::Apply);
        for alert in 3..5 {
            world.pass(200);
            world.propose("collect", firing(alert)).unwrap();
            world.pass(1);
        }
        again(&mut world);
        assert!(matches!(
            world.engine.readiness("collect", world.now()),
            Err(Refusal::BackedOff { failures: 2, .. })
        ));
        world.settings.max_runs = 3;
        world.settings.per = seconds(1000);
        world.pass(200);
        again(&mut world);
        assert!(matches!(
            world.engine.readiness("collect", world.now()),
            Err(Refusal::RateLimited { .. })
        ));
        world.pass(1000);
        assert_eq!(world.engine.readiness("collect", world.now()), Ok(()));
    }
}

impl World {
    /// The next daemon starts, and dies after so many orders.
    fn restart_and_die(&mut self, orders: usize) {
        self.dies_at_start = Some(orders);
        self.restart();
    }

    /// What was set is as it was before.
    fn assert_undone(&self) {
        assert!(self.niceness.values().all(|value| value != OURS));
        assert!(self.kept.values().all(|run| !run.undo.is_owed()));
    }
}
