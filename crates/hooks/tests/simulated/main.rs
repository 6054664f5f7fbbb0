//! Runs of hooks on a simulated host, step by step and over restarts.

mod answers;
mod host;
mod properties;
mod restarts;
mod turns;
mod world;

use profiler_hooks::{
    Hook, Kind, Mode, Outcome, PausedBy, Refusal, Settings, Stage, TargetId, Undo, UndoReason, Verdict,
};

use crate::world::{LONG, OURS, World, firing, hook, process, request, seconds};

fn refused(refusal: Refusal) -> Outcome {
    Outcome::Refused(refusal)
}

fn nice() -> World {
    World::new(&[hook("nice", Kind::Nice)])
}

fn collect() -> World {
    World::new(&[hook("collect", Kind::PythonCollect)])
}

#[test]
fn a_run_goes_through_all_of_its_steps() {
    let mut world = nice();
    let run = world.propose("nice", firing(1)).unwrap();
    world.pass(1);
    assert_eq!(world.run(run).stage(), Stage::Settle);
    assert_eq!(world.niceness[&process(100).identity], OURS);
    world.pass(40);
    assert_eq!(
        world.stages(run),
        [
            Stage::Proposed,
            Stage::Guard,
            Stage::Before,
            Stage::Prepare,
            Stage::Apply,
            Stage::Settle,
            Stage::After,
            Stage::Ended
        ]
    );
    let kept = world.run(run);
    assert_eq!((kept.outcome(), kept.mode), (Some(&Outcome::Kept), Mode::Enforce));
    let effect = kept.effect.expect("it was measured");
    assert_eq!(
        (effect.verdict, effect.before, effect.after),
        (Verdict::Better, Some(100.0), Some(50.0))
    );
    assert_eq!(kept.after.as_ref().and_then(|side| side.resident_bytes), Some(1 << 20));
    assert!(matches!(kept.undo, Undo::Held { .. }));
    world.pass(300);
    assert!(matches!(
        world.run(run).undo,
        Undo::Done {
            reason: UndoReason::Expired,
            put_back
        } if put_back.restored == 1
    ));
    assert_eq!(world.stages(run)[8..], [Stage::Undo, Stage::Undo]);
    world.assert_settled();
    assert_eq!(world.engine.unexpected(), 0);
}

#[test]
fn without_both_switches_it_is_only_noted() {
    for (globally, itself) in [(false, false), (true, false), (false, true)] {
        let mut observing = hook("nice", Kind::Nice);
        observing.enforce = itself;
        let mut world = World::new(&[observing]);
        world.settings.enforce = globally;
        world.configure();
        let run = world.propose("nice", firing(1)).unwrap();
        world.pass(2);
        assert_eq!(world.outcome(run), &Outcome::Observed);
        assert_eq!(world.stages(run), [Stage::Proposed, Stage::Guard, Stage::Ended]);
        let chosen = world.run(run).target.as_ref().expect("it is told whom");
        assert_eq!(chosen.id, TargetId::Process(process(100).identity));
        // Observing keeps to the same pace as acting would.
        let next = world.propose("nice", firing(2)).unwrap();
        world.pass(1);
        assert!(matches!(
            world.outcome(next),
            Outcome::Refused(Refusal::CoolingDown { .. })
        ));
        assert!(world.deeds.is_empty() && world.niceness.is_empty());
    }
}

#[test]
fn a_capture_needs_no_switch() {
    let mut world = World::new(&[Hook {
        enforce: false,
        ..hook("capture", Kind::Capture)
    }]);
    world.settings.enforce = false;
    world.configure();
    let run = world.propose("capture", firing(1)).unwrap();
    world.pass(2);
    assert_eq!((world.outcome(run), world.deeds.len()), (&Outcome::Kept, 1));
    assert_eq!(world.run(run).effect, None, "what does nothing has no effect");
}

#[test]
fn a_dry_run_tells_what_would_be_done() {
    let mut world = nice();
    let run = world.propose("nice", request(true)).unwrap();
    world.pass(2);
    let kept = world.run(run);
    assert_eq!(
        (kept.outcome(), kept.said.as_str()),
        (Some(&Outcome::DryRun), "be done")
    );
    assert_eq!((kept.changes.len(), kept.undo), (1, Undo::Nothing));
    assert!(world.deeds.is_empty());
    // It keeps nobody from doing it then.
    let done = world.propose("nice", request(false)).unwrap();
    world.pass(60);
    assert_eq!(world.outcome(done), &Outcome::Kept);
    assert_eq!(world.run(done).effect, None, "there is no reading to judge it by");
}

#[test]
fn what_makes_it_worse_is_put_back_at_once_and_backs_off() {
    let mut world = nice();
    world.readings = (100.0, 120.0);
    let run = world.propose("nice", firing(1)).unwrap();
    world.pass(40);
    assert_eq!(world.outcome(run), &Outcome::Undone);
    assert!(matches!(
        world.run(run).undo,
        Undo::Done {
            reason: UndoReason::Worse,
            ..
        }
    ));
    world.assert_settled();
    let next = world.propose("nice", firing(2)).unwrap();
    world.pass(1);
    assert!(matches!(
        world.outcome(next),
        Outcome::Refused(Refusal::BackedOff { failures: 1, .. })
    ));
}

#[test]
fn what_cannot_be_put_back_backs_off_all_the_same() {
    let mut world = collect();
    world.readings = (100.0, 120.0);
    let run = world.propose("collect", firing(1)).unwrap();
    world.pass(40);
    assert_eq!(world.outcome(run), &Outcome::Kept);
    assert!(world.run(run).is_worse());
    assert!(matches!(
        world.engine.readiness("collect", world.now()),
        Err(Refusal::BackedOff { .. })
    ));
}

#[test]
fn a_setting_never_lasts_longer_than_it_may() {
    let mut brief = hook("nice", Kind::Nice);
    brief.lasts = seconds(10);
    let mut world = World::new(&[brief]);
    let run = world.propose("nice", firing(1)).unwrap();
    world.pass(10);
    assert_eq!(world.niceness[&process(100).identity], OURS);
    world.pass(1);
    world.assert_settled();
    let kept = world.run(run);
    assert_eq!((kept.outcome(), kept.effect), (Some(&Outcome::Kept), None));
    assert!(matches!(
        kept.undo,
        Undo::Done {
            reason: UndoReason::Expired,
            ..
        }
    ));
}

#[test]
fn a_setting_that_others_changed_is_left_to_them() {
    let mut world = nice();
    let run = world.propose("nice", firing(1)).unwrap();
    world.pass(50);
    world.niceness.insert(process(100).identity, "5".to_owned());
    world.pass(400);
    assert!(matches!(world.run(run).undo, Undo::Done { put_back, .. } if put_back.others == 1));
    assert_eq!(world.niceness[&process(100).identity], "5");
}

#[test]
fn a_process_that_ends_takes_its_setting_with_it() {
    let mut world = nice();
    let run = world.propose("nice", firing(1)).unwrap();
    world.pass(50);
    world.end(100);
    world.pass(400);
    assert!(matches!(world.run(run).undo, Undo::Done { put_back, .. } if put_back.gone == 1));
    world.assert_settled();
}

#[test]
fn an_id_that_is_used_again_is_never_acted_on() {
    for kind in [Kind::Nice, Kind::PythonCollect, Kind::PythonScript] {
        for stage in [Stage::Before, Stage::Prepare, Stage::Apply] {
            let mut world = World::new(&[hook("hook", kind)]);
            world.reused_at = Some((stage, 100));
            let run = world.propose("hook", firing(1)).unwrap();
            world.pass(30);
            assert!(world.deeds.is_empty(), "{kind} at {stage:?}");
            match (stage, world.outcome(run)) {
                (Stage::Before, Outcome::Gone { during: Stage::Before })
                | (Stage::Prepare, Outcome::Refused(Refusal::Reused))
                | (Stage::Apply, Outcome::Gone { during: Stage::Apply }) => {}
                (_, outcome) => panic!("{kind} at {stage:?}: {outcome:?}"),
            }
            // Whoever ends while something is done to them may well have ended by it.
            let backs_off = matches!(
                world.engine.readiness("hook", world.now()),
                Err(Refusal::BackedOff { .. })
            );
            assert_eq!(backs_off, stage == Stage::Apply, "{kind} at {stage:?}");
            world.pass(LONG);
            world.assert_settled();
        }
    }
}

#[test]
fn ourselves_and_our_ancestors_are_refused() {
    for pid in [20, 21] {
        let mut world = collect();
        world.processes = [(pid, process(pid))].into();
        let run = world.propose("collect", firing(1)).unwrap();
        world.pass(1);
        assert_eq!(world.outcome(run), &refused(Refusal::Ourselves));
    }
}

#[test]
fn what_cannot_be_written_down_is_not_done() {
    for stage in [Stage::Guard, Stage::Before, Stage::Prepare, Stage::Apply] {
        let mut world = nice();
        world.not_kept_at = Some(stage);
        let run = world.propose("nice", firing(1)).unwrap();
        world.pass(60);
        assert!(world.deeds.is_empty(), "{stage:?}");
        assert!(
            matches!(world.outcome(run), Outcome::Failed { during, .. } if *during == stage),
            "{stage:?}"
        );
        world.assert_settled();
    }
}

#[test]
fn settings_that_cannot_be_put_back_are_tried_until_they_can() {
    for hangs in [false, true] {
        let mut world = nice();
        let run = world.propose("nice", firing(1)).unwrap();
        world.pass(50);
        if hangs {
            world.hangs_at = Some(Stage::Undo);
        } else {
            world.fails_at = Some(Stage::Undo);
        }
        world.pass(LONG);
        assert!(matches!(world.run(run).undo, Undo::Underway { .. }));
        assert!(world.engine.owed().next().is_some_and(|run| match run.undo {
            Undo::Underway { attempts, .. } => (5..20).contains(&attempts),
            _ => false,
        }));
        (world.hangs_at, world.fails_at) = (None, None);
        world.pass(LONG);
        world.assert_settled();
        assert!(world.run(run).steps.len() <= 32);
    }
}

#[test]
fn what_is_set_already_is_not_set() {
    let mut world = nice();
    world.niceness.insert(process(100).identity, OURS.to_owned());
    let run = world.propose("nice", firing(1)).unwrap();
    world.pass(2);
    assert_eq!(world.outcome(run), &refused(Refusal::NothingToChange));
}

#[test]
fn a_pause_stops_what_has_not_been_done() {
    let mut world = nice();
    world
        .engine
        .pause(PausedBy::File, Some("/run/profiler/pause".to_owned()));
    world.engine.pause(PausedBy::Request, Some("uid 0".to_owned()));
    let run = world.propose("nice", firing(1)).unwrap();
    world.pass(1);
    assert!(matches!(world.outcome(run), Outcome::Refused(Refusal::Paused { by }) if by == "/run/profiler/pause"));
    world.engine.pause(PausedBy::File, None);
    let run = world.propose("nice", firing(2)).unwrap();
    world.pass(1);
    assert!(matches!(world.outcome(run), Outcome::Refused(Refusal::Paused { by }) if by == "uid 0"));
    world.engine.pause(PausedBy::Request, None);
    let run = world.propose("nice", firing(3)).unwrap();
    world.pass(1);
    // What was done is measured and put back all the same.
    world.engine.pause(PausedBy::File, Some("file".to_owned()));
    world.pass(LONG);
    assert_eq!(world.outcome(run), &Outcome::Kept);
    world.assert_settled();
}

#[test]
fn stopping_puts_everything_back() {
    for seconds_before in [0, 1, 20, 60] {
        let mut world = nice();
        let running = world.propose("nice", firing(1)).unwrap();
        world.pass(seconds_before);
        let waiting = world.propose("nice", firing(2)).unwrap();
        world.stop();
        world.assert_settled();
        assert_eq!(
            world.outcome(waiting),
            &Outcome::Interrupted {
                during: Stage::Proposed
            }
        );
        assert!(world.run(running).outcome().is_some());
        let late = world.propose("nice", firing(3)).unwrap();
        assert!(matches!(world.outcome(late), Outcome::Interrupted { .. }));
    }
}

#[test]
fn hooks_observe_unless_told_otherwise() {
    let shipped = Settings::default();
    assert!(!shipped.enforce, "observing is the default");
    assert!(shipped.max_runs > 0 && shipped.max_waiting > 0 && shipped.max_owed > 0);
}
