//! What holds whatever happens, in whatever order.

use std::collections::BTreeSet;

use profiler_hooks::{Kind, PausedBy, Stage};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_oneof, proptest};

use crate::world::{LONG, World, firing, hook, request, seconds};

const HOOKS: [(&str, Kind); 4] = [
    ("nice", Kind::Nice),
    ("affinity", Kind::Affinity),
    ("collect", Kind::PythonCollect),
    ("capture", Kind::Capture),
];
const MAX_RUNS: usize = 3;
const PER: u64 = 200;

/// Something that happens.
#[derive(Clone, Debug)]
enum Event {
    Fires { hook: usize, alert: u64 },
    Asks { hook: usize, dry_run: bool },
    Ends { alert: u64 },
    Passes(u64),
    Reuses(u32),
    Dies(usize),
    Restarts,
    Reboots,
    Hangs(Option<Stage>),
    Fails(Option<Stage>),
    Loses(Option<Stage>),
    Pauses(bool),
    Enforces(bool),
    Sets,
    Worsens(bool),
}

fn any_stage() -> impl Strategy<Value = Option<Stage>> {
    prop_oneof![
        2 => Just(None),
        1 => prop::sample::select(Stage::ALL.to_vec()).prop_map(Some),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..HOOKS.len(), 0_u64..12).prop_map(|(hook, alert)| Event::Fires { hook, alert }),
        2 => (0..HOOKS.len(), any::<bool>()).prop_map(|(hook, dry_run)| Event::Asks { hook, dry_run }),
        1 => (0_u64..12).prop_map(|alert| Event::Ends { alert }),
        12 => (1_u64..100).prop_map(Event::Passes),
        1 => (100_u32..102).prop_map(Event::Reuses),
        2 => (0_usize..20).prop_map(Event::Dies),
        1 => Just(Event::Restarts),
        1 => Just(Event::Reboots),
        1 => any_stage().prop_map(Event::Hangs),
        1 => any_stage().prop_map(Event::Fails),
        1 => any_stage().prop_map(Event::Loses),
        1 => any::<bool>().prop_map(Event::Pauses),
        1 => any::<bool>().prop_map(Event::Enforces),
        1 => Just(Event::Sets),
        1 => any::<bool>().prop_map(Event::Worsens),
    ]
}

impl World {
    fn happen(&mut self, event: &Event) {
        if self.is_dead {
            self.restart();
        }
        match *event {
            Event::Fires { hook, alert } => drop(self.propose(HOOKS[hook].0, firing(alert))),
            Event::Asks { hook, dry_run } => drop(self.propose(HOOKS[hook].0, request(dry_run))),
            Event::Ends { alert } => self.alert_over(alert),
            Event::Passes(count) => self.pass(count),
            Event::Reuses(pid) => self.reuse(pid),
            Event::Dies(orders) => self.dies_after = Some(orders),
            Event::Restarts => self.restart(),
            Event::Reboots => {
                self.reboot();
                self.restart();
            }
            Event::Hangs(stage) => self.hangs_at = stage,
            Event::Fails(stage) => self.fails_at = stage,
            Event::Loses(stage) => self.not_kept_at = stage,
            Event::Pauses(is_paused) => self
                .engine
                .pause(PausedBy::Request, is_paused.then(|| "somebody".to_owned())),
            Event::Enforces(enforces) => {
                self.settings.enforce = enforces;
                self.configure();
            }
            Event::Sets => {
                for process in self.processes.values() {
                    self.niceness.insert(process.identity, "5".to_owned());
                }
            }
            Event::Worsens(worsens) => self.readings.1 = if worsens { 200.0 } else { 50.0 },
        }
    }

    /// All that was in the way is out of it, and everything comes to its end.
    fn come_to_an_end(&mut self) {
        (self.hangs_at, self.fails_at, self.not_kept_at) = (None, None, None);
        self.restart();
        self.pass(LONG);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn nothing_runs_twice_or_too_often_and_everything_is_put_back(
        events in prop::collection::vec(any_event(), 1..60),
    ) {
        let mut world = World::new(&HOOKS.map(|(name, kind)| hook(name, kind)));
        world.settings.max_runs = MAX_RUNS;
        world.settings.per = seconds(PER);
        world.configure();
        for event in &events {
            world.happen(event);
        }
        world.come_to_an_end();
        world.assert_settled();

        let mut turns = BTreeSet::new();
        let mut runs = BTreeSet::new();
        for deed in &world.deeds {
            assert!(runs.insert(deed.run), "a run did something twice");
            let run = world.run(deed.run);
            if let Some(alert) = run.cause.alert() {
                assert!(turns.insert((run.hook.clone(), alert)), "a hook ran twice for one alert");
            }
        }
        for first in &world.deeds {
            let within = world.deeds.iter().filter(|deed| (first.second..first.second + PER).contains(&deed.second));
            assert!(within.count() <= MAX_RUNS, "{:?}", world.deeds);
        }
    }
}
