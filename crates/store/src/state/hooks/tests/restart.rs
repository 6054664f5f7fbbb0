//! An engine whose runs are kept in the file and nowhere else.

use std::{collections::VecDeque, ops::Range, sync::Arc, time::Duration};

use profiler_hooks::{
    AllowList, Answer, Boot, Candidate, Change, Engine, Hook, Identity, Kind, Knob, Order, Phase, Place, Process,
    PutBack, Settings, Snapshot, Stage, Target,
};
use profiler_readings::Moment;
use tempfile::TempDir;

use super::{super::HookRuns, at, open, run};

const WEB: Identity = Identity {
    pid: 100,
    start_ticks: 5,
};

fn process() -> Target {
    Target::Process(Process {
        identity: WEB,
        uids: [1000; 4],
        executable: b"/srv/web".to_vec(),
        name: "web".into(),
        unit: Some("web.service".into()),
        is_kernel_thread: false,
        caught_signals: 0,
    })
}

fn hook() -> Arc<Hook> {
    Arc::new(Hook {
        name: "nice".into(),
        kind: Kind::Nice,
        enforce: true,
        allow: AllowList {
            units: vec!["web*".to_owned()],
            ..AllowList::default()
        },
        allow_disruptive: false,
        timeout: Duration::from_secs(5),
        settle: Duration::ZERO,
        measure: Duration::ZERO,
        cooldown: Duration::from_secs(60),
        lasts: Duration::from_secs(60),
    })
}

/// What comes of an order on a host where all goes well.
fn answer_to(order: &Order) -> Option<Answer> {
    Some(match order {
        Order::Choose { .. } => Answer::Candidates(vec![Candidate {
            target: process(),
            share: 1.0,
        }]),
        Order::LookBefore { .. } => Answer::Before(Snapshot::default()),
        Order::Prepare { .. } => Answer::Prepared {
            target: process(),
            changes: vec![Change {
                place: Place::Thread {
                    process: WEB,
                    thread: WEB,
                },
                knob: Knob::Nice,
                before: "0".to_owned(),
                ours: "5".to_owned(),
            }],
            would: "be nicer".to_owned(),
        },
        Order::Apply { .. } => Answer::Applied {
            said: "done".to_owned(),
        },
        Order::LookAfter { .. } => Answer::After(Snapshot::default()),
        Order::PutBack { .. } => Answer::PutBack(PutBack {
            restored: 1,
            ..PutBack::default()
        }),
        Order::Keep(_) | Order::Withdraw { .. } => return None,
    })
}

/// A daemon that dies after so many orders.
struct Daemon {
    engine: Engine,
    runs: HookRuns,
    left: usize,
}

impl Daemon {
    fn new(directory: &TempDir, left: usize) -> Self {
        let settings = Settings {
            enforce: true,
            ..Settings::default()
        };
        let mut engine = Engine::new(settings, Boot(1));
        engine.configure(settings, [hook()]);
        Self {
            engine,
            runs: open(directory),
            left,
        }
    }

    fn carry_out(&mut self, orders: Vec<Order>, now: Moment) {
        let mut queue = VecDeque::from(orders);
        while let Some(order) = queue.pop_front() {
            if self.left == 0 {
                return;
            }
            self.left -= 1;
            if let Order::Keep(run) = &order {
                self.runs.keep(run, now.time).expect("it can be written");
            }
            if let Some(answer) = answer_to(&order) {
                let mut more = Vec::new();
                self.engine.answer(order.run(), answer, now, &mut more);
                queue.extend(more);
            }
        }
    }

    fn pass(&mut self, seconds: Range<u64>) {
        for second in seconds {
            let mut orders = Vec::new();
            self.engine.advance(at(second), &mut orders);
            self.carry_out(orders, at(second));
        }
    }
}

#[test]
fn the_next_engine_goes_on_from_what_is_kept() {
    for dies_after in 0.. {
        let directory = TempDir::new().unwrap();
        let mut first = Daemon::new(&directory, dies_after);
        let mut orders = Vec::new();
        let cause = run(1, Phase::At(Stage::Proposed)).cause;
        first.engine.propose("nice", cause, at(1), &mut orders).unwrap();
        first.carry_out(orders, at(1));
        first.pass(2..100);
        if first.left > 0 {
            assert!(dies_after > 12, "{dies_after} orders are no whole run");
            return;
        }
        drop(first);

        let mut next = Daemon::new(&directory, usize::MAX);
        let mut orders = Vec::new();
        let kept = next.runs.to_restore(at(0).time).unwrap();
        next.engine.restore(kept, at(100), &mut orders);
        next.carry_out(orders, at(100));
        next.pass(101..300);
        for kept in next.runs.to_restore(at(0).time).unwrap() {
            assert!(kept.outcome().is_some() && !kept.undo.is_owed(), "{kept:?}");
        }
    }
}
