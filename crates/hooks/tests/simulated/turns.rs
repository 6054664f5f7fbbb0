//! Whose turn it is, and how often.

use profiler_hooks::{Kind, Outcome, Refusal, Stage};
use profiler_readings::Subject;

use crate::{
    collect, nice, refused,
    world::{LONG, World, firing, firing_about, hook, process, seconds},
};

#[test]
fn a_target_that_is_still_changed_is_not_changed_again() {
    let mut world = World::new(&[hook("one", Kind::Nice), hook("other", Kind::Nice)]);
    world.propose("one", firing(1)).unwrap();
    let other = world.propose("other", firing(1)).unwrap();
    world.pass(60);
    assert_eq!(world.outcome(other), &refused(Refusal::StillChanged));
    world.pass(400);
    let again = world.propose("other", firing(2)).unwrap();
    world.pass(60);
    assert_eq!(world.outcome(again), &Outcome::Kept);
}

#[test]
fn an_alert_that_ends_first_needs_nothing() {
    let mut world = nice();
    let running = world.propose("nice", firing(1)).unwrap();
    world.pass(1);
    let waiting = world.propose("nice", firing(2)).unwrap();
    world.pass(1);
    world.alert_over(2);
    assert_eq!(world.outcome(waiting), &refused(Refusal::AlertOver));
    // What was done is measured to its end.
    world.alert_over(1);
    world.pass(60);
    assert_eq!(world.outcome(running), &Outcome::Kept);

    let mut early = collect();
    early.hangs_at = Some(Stage::Before);
    let run = early.propose("collect", firing(1)).unwrap();
    early.pass(1);
    early.alert_over(1);
    assert_eq!(early.outcome(run), &refused(Refusal::AlertOver));
}

#[test]
fn a_turn_that_comes_too_late_is_refused() {
    let mut world = World::new(&[hook("one", Kind::PythonCollect), hook("other", Kind::PythonCollect)]);
    world.settings.wait_at_most = seconds(20);
    world.configure();
    world.propose("one", firing(1)).unwrap();
    world.pass(1);
    let late = world.propose("other", firing(1)).unwrap();
    world.pass(30);
    assert_eq!(world.outcome(late), &refused(Refusal::WaitedTooLong));
}

#[test]
fn no_firing_runs_twice() {
    let mut world = collect();
    world.propose("collect", firing(1)).unwrap();
    for _ in 0..100 {
        assert_eq!(world.propose("collect", firing(1)), Err(Refusal::AlreadyProposed));
        world.pass(10);
    }
    world.alert_over(1);
    assert_eq!(world.propose("collect", firing(1)), Err(Refusal::AlreadyProposed));
    world.restart();
    assert_eq!(world.propose("collect", firing(1)), Err(Refusal::AlreadyProposed));
    world.pass(LONG);
    assert_eq!(world.deeds.len(), 1);
    assert_eq!(world.propose("nothing", firing(3)), Err(Refusal::UnknownHook));
}

/// A thousand alerts in a minute, each about a process of its own, so that no cooldown stands in the way.
#[test]
fn a_thousand_firings_in_a_minute_run_as_often_as_the_limit_says() {
    for kind in [Kind::PythonCollect, Kind::Nice, Kind::Capture] {
        let mut quick = hook("quick", kind);
        (quick.settle, quick.measure) = (seconds(0), seconds(0));
        let mut world = World::new(&[quick]);
        world.settings.max_runs = 7;
        world.configure();
        world.processes = (1000..2000).map(|pid| (pid, process(pid))).collect();
        let mut ids = Vec::new();
        for number in 0..1000_u32 {
            let pid = 1000 + number;
            let start_ticks = process(pid).identity.start_ticks;
            let about = Subject::Process { pid, start_ticks };
            ids.push(world.propose("quick", firing_about(u64::from(number), about)).unwrap());
            if number % 16 == 15 {
                world.pass(1);
            }
        }
        world.pass(1);
        assert_eq!(world.deeds.len(), 7, "{kind}");
        let counted = ids.iter().filter(|id| world.run(**id).target.is_some()).count();
        assert_eq!(counted, 7, "{kind}");
        assert!(
            ids.iter()
                .all(|id| world.run(*id).outcome().is_some() || world.run(*id).target.is_some())
        );
        // The limit holds over any span, and over a restart.
        world.restart();
        let next = world.propose("quick", firing(5000)).unwrap();
        world.pass(5);
        assert!(
            matches!(world.outcome(next), Outcome::Refused(Refusal::RateLimited { .. })),
            "{:?}",
            world.outcome(next)
        );
        world.pass(3600);
        let later = world.propose("quick", firing(5001)).unwrap();
        world.pass(5);
        assert!(world.run(later).target.is_some(), "{kind}");
    }
}

#[test]
fn one_runs_at_a_time_in_the_order_of_proposals() {
    let mut world = World::new(&[
        hook("a", Kind::Capture),
        hook("b", Kind::PythonCollect),
        hook("c", Kind::PythonScript),
    ]);
    let ids = ["c", "a", "b"].map(|name| world.propose(name, firing(1)).unwrap());
    for _ in 0..200 {
        world.pass(1);
        let under_way = ids.iter().filter(|id| {
            let stage = world.run(**id).stage();
            stage != Stage::Proposed && stage != Stage::Ended
        });
        assert!(under_way.count() <= 1);
    }
    let order: Vec<_> = world.deeds.iter().map(|deed| deed.run).collect();
    assert_eq!(order, ids);
    assert!(world.deeds.is_sorted_by_key(|deed| deed.second));
}

#[test]
fn no_more_settings_are_changed_than_can_be_put_back() {
    let mut world = World::new(&[hook("nice", Kind::Nice)]);
    world.settings.max_owed = 1;
    world.configure();
    let about = |pid: u32| Subject::Process {
        pid,
        start_ticks: process(pid).identity.start_ticks,
    };
    world.propose("nice", firing_about(1, about(100))).unwrap();
    world.pass(50);
    let early = world.propose("nice", firing_about(2, about(101))).unwrap();
    world.pass(1);
    assert_eq!(world.outcome(early), &refused(Refusal::TooManyChanges));
    world.pass(300);
    let run = world.propose("nice", firing_about(3, about(101))).unwrap();
    world.pass(50);
    assert_eq!(world.outcome(run), &Outcome::Kept);
}
