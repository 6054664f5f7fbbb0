//! Answers that come late, tell of something else than was asked for, or come to a host that has changed.

use std::sync::Arc;

use profiler_hooks::{
    Answer, Change, Identity, Kind, Knob, Order, Outcome, PausedBy, Place, Refusal, Run, RunId, Snapshot, Stage, Target,
};

use crate::{
    nice, refused,
    world::{OURS, PLAIN, World, firing, hook, process},
};

/// A run that waits for what was before.
fn under_way(kind: Kind) -> (World, RunId) {
    let mut world = World::new(&[hook("hook", kind)]);
    world.hangs_at = Some(Stage::Before);
    let run = world.propose("hook", firing(1)).expect("there is such a hook");
    world.pass(1);
    (world, run)
}

/// Something that happens to a world.
type Happening = fn(&mut World);

/// What is to be changed of a process.
fn change(process: Identity) -> Change {
    Change {
        place: Place::Thread {
            process,
            thread: process,
        },
        knob: Knob::Nice,
        before: PLAIN.to_owned(),
        ours: OURS.to_owned(),
    }
}

/// Has the run prepared, and returns it as it is kept then, and whether it is done.
fn prepare(world: &mut World, run: RunId, target: Target, changes: Vec<Change>) -> (Run, bool) {
    let orders = world.answer_with(run, Answer::Before(Snapshot::default()));
    assert!(matches!(orders.as_slice(), [Order::Keep(_), Order::Prepare { .. }]));
    let prepared = Answer::Prepared {
        target,
        changes,
        would: String::new(),
    };
    let orders = world.answer_with(run, prepared);
    match orders.as_slice() {
        [Order::Withdraw { .. }, Order::Keep(kept)] => ((**kept).clone(), false),
        [Order::Keep(kept), Order::Apply { .. }] => ((**kept).clone(), true),
        _ => panic!("{orders:?}"),
    }
}

#[test]
fn a_process_that_becomes_somebody_elses_is_refused() {
    for becomes_roots in [false, true] {
        let (mut world, run) = under_way(Kind::PythonCollect);
        let mut now = process(100);
        now.uids[1] = if becomes_roots { 0 } else { 1001 };
        let (kept, is_done) = prepare(&mut world, run, Target::Process(now), Vec::new());
        assert_eq!(is_done, !becomes_roots);
        if becomes_roots {
            assert_eq!(kept.outcome(), Some(&refused(Refusal::UserNotAllowed { uid: 0 })));
        }
    }
}

#[test]
fn what_changed_in_the_meantime_counts() {
    let others = |name: &str| {
        let mut changed = hook("hook", Kind::Nice);
        changed.allow.units = vec![name.to_owned()];
        Arc::new(changed)
    };
    let changed = refused(Refusal::Changed);
    let paused = refused(Refusal::Paused {
        by: "somebody".to_owned(),
    });
    let changes: [(Happening, &Outcome); 3] = [
        (|world| world.settings.enforce = false, &changed),
        (|world| world.hooks.clear(), &changed),
        (
            |world| world.engine.pause(PausedBy::Request, Some("somebody".to_owned())),
            &paused,
        ),
    ];
    let prepared = |world: &mut World, run| {
        world.configure();
        let target = process(100);
        let changes = vec![change(target.identity)];
        prepare(world, run, Target::Process(target), changes)
    };
    for (change, expected) in changes {
        let (mut world, run) = under_way(Kind::Nice);
        change(&mut world);
        let (kept, is_done) = prepared(&mut world, run);
        assert_eq!((kept.outcome(), is_done), (Some(expected), false));
    }
    for (units, is_done) in [("web2*", false), ("web*", true)] {
        let (mut world, run) = under_way(Kind::Nice);
        world.hooks = vec![others(units)];
        assert_eq!(prepared(&mut world, run).1, is_done, "{units}");
    }
}

#[test]
fn only_settings_of_the_target_are_changed_and_no_more_than_can_be_kept() {
    let own = process(100).identity;
    let mut long = change(own);
    long.ours = "1".repeat(2000);
    let group = Change {
        place: Place::Group {
            id: 1,
            path: "/web.service".into(),
        },
        ..change(own)
    };
    for (changes, is_done) in [
        (vec![change(own)], true),
        (vec![change(own); 4096], true),
        (vec![change(own); 4097], false),
        (vec![change(own), change(process(101).identity)], false),
        (vec![group], false),
        (vec![long], false),
    ] {
        let (mut world, run) = under_way(Kind::Nice);
        let count = changes.len();
        let (kept, done) = prepare(&mut world, run, Target::Process(process(100)), changes);
        assert_eq!(done, is_done, "{count} changes");
        if is_done {
            assert!(kept.undo.is_owed() && kept.changes.len() == count);
        } else {
            let during = Stage::Prepare;
            assert!(matches!(kept.outcome(), Some(Outcome::Failed { during: at, .. }) if *at == during));
            assert!(!kept.undo.is_owed());
        }
    }
}

#[test]
fn an_answer_to_another_question_is_left() {
    let (mut world, run) = under_way(Kind::PythonCollect);
    let orders = world.answer_with(run, Answer::After(Snapshot::default()));
    assert!(orders.is_empty());
    let orders = world.answer_with(run, Answer::Applied { said: String::new() });
    assert!(orders.is_empty());
    let orders = world.answer_with(RunId(run.0 + 1), Answer::Gone);
    assert!(orders.is_empty());
    assert_eq!(world.engine.unexpected(), 3);
    let (_, is_done) = prepare(&mut world, run, Target::Process(process(100)), Vec::new());
    assert!(is_done);
}

#[test]
fn every_late_answer_ends_the_run_and_is_not_believed_later() {
    for stage in [Stage::Guard, Stage::Before, Stage::Prepare, Stage::Apply, Stage::After] {
        let mut world = nice();
        world.hangs_at = Some(stage);
        let run = world.propose("nice", firing(1)).unwrap();
        world.pass(200);
        assert_eq!(world.outcome(run), &Outcome::TimedOut { during: stage });
        // What was done unseen is put back too.
        world.assert_settled();
        let said = "late".to_owned();
        let orders = world.answer_with(run, Answer::Applied { said });
        assert!(orders.is_empty());
        assert_eq!(world.engine.unexpected(), 1);
    }
}

#[test]
fn every_failure_ends_the_run() {
    for stage in [Stage::Guard, Stage::Before, Stage::Prepare, Stage::Apply, Stage::After] {
        let mut world = nice();
        world.fails_at = Some(stage);
        let run = world.propose("nice", firing(1)).unwrap();
        world.pass(45);
        assert!(
            matches!(world.outcome(run), Outcome::Failed { during, .. } if *during == stage),
            "{stage:?}"
        );
        world.assert_settled();
        let backs_off = matches!(
            world.engine.readiness("nice", world.now()),
            Err(Refusal::BackedOff { .. })
        );
        assert_eq!(backs_off, stage >= Stage::Prepare, "{stage:?}");
    }
}
