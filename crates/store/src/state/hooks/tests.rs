mod restart;

use std::{sync::Arc, time::UNIX_EPOCH};

use profiler_alerts::{AlertId, Comparison};
use profiler_hooks::{
    Boot, Cause, Change, Chosen, Effect, Favor, Identity, Kind, Knob, Mode, Phase, Place, PutBack, Refusal, Side,
    Stage, Step, TargetId, Undo, UndoReason, Verdict, Watched,
};
use profiler_readings::{Metric, Moment, Subject};
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::state::file::NAME;

const BOUNDS: RunBounds = RunBounds {
    history: Duration::from_secs(1000),
    max_refused: 2,
    max_others: 3,
};

fn at(seconds: u64) -> Moment {
    Moment {
        time: UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds),
        since_boot: Duration::from_secs(seconds),
    }
}

fn watched(subject: Subject) -> Watched {
    Watched {
        metric: Metric::HostMemoryUsed,
        subject,
        wrong: Comparison::Below,
    }
}

fn step(stage: Stage, seconds: u64) -> Step {
    Step {
        at: at(seconds),
        stage,
        note: format!("{seconds} '\"; DROP TABLE hook_run"),
    }
}

/// A run that began and ended at these seconds.
fn run(number: u64, phase: Phase) -> Run {
    Run {
        id: RunId(number),
        hook: "hook".into(),
        kind: Kind::Request(Favor::FlushCaches),
        cause: Cause::Alert {
            alert: AlertId(u64::MAX - number),
            limit: "host_memory".to_owned(),
            watched: watched(Subject::Host),
        },
        boot: Boot(u128::MAX - 1),
        mode: Mode::Enforce,
        steps: match phase {
            Phase::At(stage) => vec![step(Stage::Proposed, number), step(stage, number)],
            Phase::Over(_) => vec![step(Stage::Proposed, number), step(Stage::Ended, number)],
        },
        phase,
        target: None,
        before: None,
        after: None,
        effect: None,
        changes: Vec::new(),
        undo: Undo::Nothing,
        said: String::new(),
    }
}

fn open(directory: &TempDir) -> HookRuns {
    HookRuns::open(directory.path(), BOUNDS).unwrap()
}

fn ids(runs: &[Run]) -> Vec<u64> {
    runs.iter().map(|run| run.id.0).collect()
}

fn newest(runs: &HookRuns) -> Vec<u64> {
    let query = RunQuery {
        include_refused: true,
        ..RunQuery::default()
    };
    ids(&runs.runs(&query).unwrap())
}

/// What is written is read as it was.
fn check(run: &Run) {
    let json = wire::write_run(run).unwrap();
    assert_eq!(&wire::read_run(run.id, &json).unwrap(), run, "{json}");
}

#[test]
fn every_end_is_read_as_it_was() {
    let wait = Duration::from_nanos(1_500_000_001);
    let mut refusals = Vec::from(Refusal::PLAIN);
    refusals.extend([
        Refusal::Paused { by: "é".to_owned() },
        Refusal::RateLimited { wait },
        Refusal::CoolingDown { wait },
        Refusal::BackedOff { failures: 3, wait },
        Refusal::UserNotAllowed { uid: u32::MAX },
    ]);
    for refusal in refusals {
        check(&run(1, Phase::Over(Outcome::Refused(refusal))));
    }
    for outcome in [Outcome::Observed, Outcome::DryRun, Outcome::Kept, Outcome::Undone] {
        check(&run(1, Phase::Over(outcome)));
    }
    for during in Stage::ALL {
        let reason = "why\n".to_owned();
        check(&run(1, Phase::At(during)));
        check(&run(1, Phase::Over(Outcome::Failed { during, reason })));
        check(&run(1, Phase::Over(Outcome::TimedOut { during })));
        check(&run(1, Phase::Over(Outcome::Gone { during })));
        check(&run(1, Phase::Over(Outcome::Interrupted { during })));
    }
}

#[test]
fn who_and_whom_is_read_as_it_was() {
    let identity = Identity {
        pid: u32::MAX,
        start_ticks: u64::MAX,
    };
    let process = Subject::Process {
        pid: 7,
        start_ticks: u64::MAX,
    };
    let mut whole = run(1, Phase::At(Stage::After));
    whole.id = RunId(u64::MAX / 2);
    for kind in Kind::PLAIN
        .into_iter()
        .chain(Favor::ALL.map(Kind::Request))
        .chain([Kind::Signal(12)])
    {
        whole.kind = kind;
        check(&whole);
    }
    for (dry_run, watched) in [(true, None), (false, Some(watched(Subject::Service("web".into()))))] {
        whole.cause = Cause::Request {
            uid: 1000,
            dry_run,
            about: process.clone(),
            watched,
        };
        check(&whole);
    }
    for id in [TargetId::Host, TargetId::Process(identity), TargetId::Group(u64::MAX)] {
        let name = "a\u{202e}b".to_owned();
        whole.target = Some(Chosen { id, name });
        check(&whole);
    }
}

#[test]
fn what_was_measured_and_changed_is_read_as_it_was() {
    let identity = Identity {
        pid: u32::MAX,
        start_ticks: u64::MAX,
    };
    let mut whole = run(1, Phase::At(Stage::After));
    whole.before = Some(Side {
        mean: Some(0.5),
        blocks: vec![0.25, 0.75],
        resident_bytes: Some(u64::MAX),
    });
    whole.after = Some(Side {
        mean: None,
        blocks: Vec::new(),
        resident_bytes: None,
    });
    for verdict in Verdict::ALL {
        whole.effect = Some(Effect {
            before: Some(0.5),
            after: None,
            interval: Some((-0.5, 0.125)),
            verdict,
        });
        check(&whole);
    }
    for knob in Knob::ALL {
        let path: Arc<str> = "/web.service".into();
        for place in [
            Place::Thread {
                process: identity,
                thread: Identity { pid: 1, start_ticks: 2 },
            },
            Place::Group { id: u64::MAX, path },
        ] {
            let (before, ours) = ("max 100000".to_owned(), String::new());
            whole.changes.push(Change {
                place,
                knob,
                before,
                ours,
            });
        }
    }
    let put_back = PutBack {
        restored: 1,
        others: 2,
        gone: u32::MAX,
    };
    let mut undos = vec![Undo::Nothing, Undo::Held { until: at(77) }];
    for reason in UndoReason::ALL {
        undos.push(Undo::Underway { reason, attempts: 9 });
        undos.push(Undo::Done { reason, put_back });
    }
    for undo in undos {
        whole.undo = undo;
        check(&whole);
    }
}

#[test]
fn what_no_version_writes_is_left_out() {
    let directory = TempDir::new().unwrap();
    let mut runs = open(&directory);
    for number in 1..4 {
        runs.keep(&run(number, Phase::At(Stage::Apply)), at(10).time).unwrap();
    }
    let file = Connection::open(directory.path().join(NAME)).unwrap();
    for (id, json) in [(1, "{"), (2, "{\"kind\": \"nonsense\"}")] {
        let changed = file
            .execute("UPDATE hook_run SET run = ?1 WHERE id = ?2", params![json, id])
            .unwrap();
        assert_eq!(changed, 1);
    }
    assert_eq!(newest(&runs), [3]);
    assert_eq!(runs.run(RunId(1)).unwrap(), None);
    assert_eq!(ids(&runs.to_restore(at(0).time).unwrap()), [3]);
    for name in ["kind", "mode", "boot"] {
        let json = wire::write_run(&run(1, Phase::At(Stage::Apply))).unwrap();
        let mut value: serde_json::Value = serde_json::from_str(&json).unwrap();
        value[name] = "nonsense".into();
        let read = wire::read_run(RunId(1), &value.to_string());
        assert!(matches!(read, Err(StateError::BadRow { .. })), "{name}");
    }
}

#[test]
fn a_hook_has_one_run_for_an_alert() {
    let directory = TempDir::new().unwrap();
    let mut runs = open(&directory);
    let first = run(1, Phase::At(Stage::Guard));
    runs.keep(&first, at(1).time).unwrap();
    let mut second = run(2, Phase::At(Stage::Guard));
    second.cause = first.cause.clone();
    assert!(runs.keep(&second, at(2).time).is_err());
    second.hook = "other".into();
    runs.keep(&second, at(2).time).unwrap();
    assert_eq!((newest(&runs), runs.condition()), (vec![2, 1], Condition::Kept));
}

#[test]
fn what_is_over_is_dropped_and_what_is_owed_never() {
    let directory = TempDir::new().unwrap();
    let mut runs = open(&directory);
    let mut owed = run(1, Phase::Over(Outcome::Kept));
    owed.undo = Undo::Held { until: at(5) };
    runs.keep(&owed, at(1).time).unwrap();
    runs.keep(&run(2, Phase::At(Stage::Settle)), at(2).time).unwrap();
    for number in 3..7 {
        runs.keep(&run(number, Phase::Over(Outcome::Kept)), at(number).time)
            .unwrap();
    }
    for number in 7..11 {
        let refused = Outcome::Refused(Refusal::Nobody);
        runs.keep(&run(number, Phase::Over(refused)), at(number).time).unwrap();
    }
    assert_eq!(newest(&runs), [10, 9, 6, 5, 4, 2, 1]);
    let query = RunQuery {
        hook: Some("hook".to_owned()),
        include_refused: false,
        most: 3,
    };
    assert_eq!(ids(&runs.runs(&query).unwrap()), [6, 5, 4]);
    let others = RunQuery {
        hook: Some("other".to_owned()),
        ..RunQuery::default()
    };
    assert!(runs.runs(&others).unwrap().is_empty());
    assert_eq!(ids(&runs.to_restore(at(6).time).unwrap()), [1, 2, 6, 9, 10]);
    owed.undo = Undo::Nothing;
    runs.keep(&owed, at(2000).time).unwrap();
    assert_eq!(newest(&runs), [2]);
}

#[test]
fn a_run_of_an_alert_that_has_not_ended_stays() {
    let directory = TempDir::new().unwrap();
    let mut runs = open(&directory);
    let live = run(1, Phase::Over(Outcome::Kept));
    let alert = live.cause.alert().unwrap();
    runs.keep(&live, at(1).time).unwrap();
    let file = Connection::open(directory.path().join(NAME)).unwrap();
    file.execute(
        "INSERT INTO alert (id, fingerprint, kind, limit_name, limit_json, scope, subject, start_ticks, phase, began_ns,
             told, beyond_ns, between_ns, saved_ns)
         VALUES (?1, 1, 'limit', 'x', '{}', 'host', '', 0, 'firing', 1, 1, 0, 0, 1)",
        [alert.0.cast_signed()],
    )
    .unwrap();
    runs.keep(&run(2, Phase::Over(Outcome::Kept)), at(5000).time).unwrap();
    assert_eq!(newest(&runs), [1], "the other is too old");
    assert_eq!(ids(&runs.to_restore(at(5000).time).unwrap()), [1]);
    file.execute("UPDATE alert SET ended_ns = 1", []).unwrap();
    runs.keep(&run(3, Phase::At(Stage::Proposed)), at(5000).time).unwrap();
    assert_eq!(newest(&runs), [3]);
}

#[test]
fn a_file_of_the_layout_before_gets_the_table() {
    let directory = TempDir::new().unwrap();
    drop(open(&directory));
    let path = directory.path().join(NAME);
    let file = Connection::open(&path).unwrap();
    file.execute_batch("DROP TABLE hook_run; PRAGMA user_version = 1")
        .unwrap();
    drop(file);
    let mut runs = open(&directory);
    assert_eq!(runs.condition(), Condition::Kept);
    runs.keep(&run(1, Phase::At(Stage::Proposed)), at(1).time).unwrap();
    assert_eq!(newest(&runs), [1]);
}
