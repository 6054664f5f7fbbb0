use std::{
    cell::{Cell, RefCell},
    sync::{Arc, atomic::AtomicBool},
};

use profiler_census::{Census, TypeCount};
use profiler_readings::{Metric, Reading};
use profiler_store::{Owner, SeriesLimits};

use super::*;
use crate::{
    census::{self, Cost},
    command,
    health::Health,
    processes::scan::ProcFs,
};

/// Time between two censuses that are compared.
const APART: Duration = Duration::from_secs(60);

fn taken(difference: Option<(Difference, SystemTime)>) -> Taken {
    Taken {
        pid: Pid(7),
        start_ticks: 1,
        program: 1,
        time: SystemTime::UNIX_EPOCH + APART,
        python: "3.11.2".to_owned(),
        census: Arc::new(Census {
            types: vec![TypeCount::new("dict", 5, 2048), TypeCount::new("a\x1bb", 1, 64)],
            ..Census::default()
        }),
        difference,
        holders: Vec::new(),
        partial: Vec::new(),
        cost: Cost::default(),
    }
}

#[test]
fn what_there_is_more_of_is_told() {
    assert_eq!(
        lines(&taken(None)),
        ["Python objects of process 7: 5 dict (2 KiB), 1 a\\u{1b}b (64 bytes)"]
    );
    let change = |name: &str, objects, bytes| Change {
        name: name.into(),
        objects,
        bytes,
    };
    let with = |changes| {
        let difference = Difference {
            changes,
            ..Difference::default()
        };
        lines(&taken(Some((difference, SystemTime::UNIX_EPOCH))))
    };
    assert_eq!(
        with(vec![
            change("dict", [10, 60], [0, 4096]),
            change("list", [9, 3], [99, 9])
        ]),
        ["Python objects of process 7: 50 dict more in 60 s (4 KiB)"]
    );
    assert_eq!(
        with(Vec::new()),
        ["Python objects of process 7: no more of any type in 60 s"]
    );
    let partial = Taken {
        partial: vec!["the census before did not show all".to_owned()],
        ..taken(Some((Difference::default(), SystemTime::UNIX_EPOCH)))
    };
    assert_eq!(
        lines(&partial)[1..],
        ["Python objects of process 7: not all is known: the census before did not show all"]
    );
}

#[test]
fn the_largest_process_goes_first() {
    let board = Board::new(SeriesLimits {
        retention: Duration::from_secs(60),
        max_bytes: 1 << 20,
    });
    let now = Board::now();
    for (pid, service, bytes) in [(7, "web", 100.0), (8, "web", 300.0), (9, "batch", 500.0)] {
        let subject = Subject::Process { pid, start_ticks: 1 };
        let reading = Reading {
            metric: Metric::ProcessMemory,
            subject: subject.clone(),
            value: bytes,
            time: now.wall,
        };
        board.put(&[reading], now.steady);
        let owner = Owner {
            name: "python3".into(),
            service: service.into(),
        };
        board.series().set_owner(&subject, &owner);
    }
    let largest = |subject: &Subject| -> Vec<u32> {
        let candidates = board.largest_processes(subject, now.steady).into_iter();
        candidates.map(|candidate| candidate.pid.0).collect()
    };
    assert_eq!(largest(&Subject::Service("web".into())), [8, 7]);
    assert_eq!(largest(&Subject::Host), [9, 8, 7]);
    assert_eq!(largest(&Subject::Process { pid: 7, start_ticks: 1 }), [7]);
    assert!(largest(&Subject::Process { pid: 7, start_ticks: 2 }).is_empty());
    let mut none = Censuses::start(None, command::channel().0, APART).unwrap();
    let refused = none.begin(AlertId(1), &Subject::Host, &board, now.steady).unwrap_err();
    assert_eq!(refused, "none is taken on this host");
}

#[test]
fn what_could_not_be_counted_keeps_no_other_alert_from_a_census() {
    let (done, counted) = sync_channel(1);
    let mut censuses = Censuses {
        jobs: None,
        counted,
        engine: command::channel().0,
        last: Some(Duration::ZERO),
        apart: APART,
    };
    for (is_taken, last) in [(true, Some(Duration::ZERO)), (false, None)] {
        let kept = missing("process 7 runs no Python");
        let id = AlertId(1);
        done.send(Counted { id, is_taken, kept }).unwrap();
        assert_eq!(censuses.counted().len(), 1);
        assert_eq!(censuses.last, last);
    }
}

/// What is kept when censuses have these answers, one after the other, and what was waited in all.
fn counted(answers: Vec<Result<Taken, CensusError>>, candidates: &[u32]) -> (Vec<String>, Duration) {
    let answers = RefCell::new(answers.into_iter());
    let waited = Cell::new(Duration::ZERO);
    let counting = Counting {
        take: &|_pid| answers.borrow_mut().next().unwrap_or(Err(CensusError::Busy)),
        wait: &|time| waited.set(waited.get() + time),
        apart: APART,
    };
    let candidates: Vec<Candidate> = candidates
        .iter()
        .map(|pid| Candidate {
            pid: Pid(*pid),
            start_ticks: 1,
        })
        .collect();
    let kept = counting.count(&candidates).unwrap_or_else(|why| missing(&why));
    assert_eq!(answers.into_inner().count(), 0, "it is asked for no more");
    let text = String::from_utf8(kept.body).unwrap();
    (text.lines().map(str::to_owned).collect(), waited.get())
}

/// A census so many seconds after the first, in which there were so many dicts, against one of this many seconds.
fn of_dicts(dicts: u64, seconds: u64, earlier: Option<(u64, u64)>) -> Taken {
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(1_000 + seconds);
    let census = |dicts| Census {
        types: vec![TypeCount::new("dict", dicts, dicts * 1024)],
        ..Census::default()
    };
    let difference = earlier.map(|(dicts_before, seconds_before)| {
        let difference = Difference::between(&census(dicts_before), &census(dicts));
        (difference, at(seconds_before))
    });
    Taken {
        time: at(seconds),
        census: Arc::new(census(dicts)),
        ..taken(difference)
    }
}

const TOTALS: &str = "Python objects of process 7: 10 dict (10 KiB)";
const MORE: &str = "Python objects of process 7: 90 dict more in 60 s (90 KiB)";

#[test]
fn who_is_busy_is_asked_again_and_no_other_process_is_taken_for_it() {
    let busy = || Err(CensusError::Busy);
    let (first, second) = (of_dicts(10, 0, None), of_dicts(100, 60, Some((10, 0))));
    let answers = vec![busy(), busy(), Ok(first), busy(), Ok(second)];
    let (lines, waited) = counted(answers, &[7, 8]);
    assert_eq!(lines, [MORE]);
    assert_eq!(waited, APART + 3 * ASK_AGAIN);
    // Not for ever.
    let (lines, waited) = counted(Vec::new(), &[7, 8]);
    assert!(lines[0].contains("in progress"), "{lines:?}");
    assert_eq!(waited, (MAX_ASKED - 1) * ASK_AGAIN);
    // What is about the process has the next tried.
    let refused = Err(CensusError::NotPython { pid: Pid(6) });
    let old = of_dicts(100, 60, Some((10, 0)));
    assert_eq!(
        counted(vec![refused.clone(), Ok(old)], &[6, 7]),
        (vec![MORE.to_owned()], Duration::ZERO)
    );
    let (lines, _) = counted(vec![refused], &[6]);
    assert!(lines[0].contains("runs no Python"), "{lines:?}");
}

#[test]
fn what_is_compared_with_is_old_enough() {
    // Somebody has just taken one: what there is more of since says nothing.
    let first = of_dicts(10, 0, None);
    let young = Taken {
        difference: of_dicts(10, 2, Some((10, 0))).difference,
        time: first.time,
        ..of_dicts(10, 0, None)
    };
    let second = of_dicts(100, 60, Some((10, 0)));
    assert_eq!(
        counted(vec![Ok(young), Ok(second)], &[7]),
        (vec![MORE.to_owned()], APART)
    );
    // Nor when somebody takes one in between the two.
    let second = of_dicts(100, 60, Some((99, 58)));
    assert_eq!(counted(vec![Ok(first.clone()), Ok(second)], &[7]).0, [MORE]);
    let torn = Taken {
        partial: vec!["1 pools changed whenever they were read".to_owned()],
        ..first
    };
    let second = of_dicts(100, 60, Some((99, 58)));
    let (lines, _) = counted(vec![Ok(torn), Ok(second)], &[7]);
    assert!(lines[1].ends_with("the census before did not show all: 1 pools changed whenever they were read"));
}

#[test]
fn another_process_or_program_is_not_told_of() {
    let first = || Ok(of_dicts(10, 0, None));
    let stranger = Taken {
        start_ticks: 2,
        ..of_dicts(100, 60, None)
    };
    let (lines, _) = counted(vec![first(), Ok(stranger.clone())], &[7]);
    assert_eq!(lines[0], TOTALS);
    assert!(
        lines[1].starts_with("not known: which objects there are more of: process 7 ended"),
        "{lines:?}"
    );
    let replaced = Taken {
        program: 2,
        ..of_dicts(100, 60, None)
    };
    let (lines, _) = counted(vec![first(), Ok(replaced)], &[7]);
    assert_eq!(lines[0], TOTALS);
    assert!(lines[1].ends_with("executed another program meanwhile"), "{lines:?}");
    // It is no longer who was read.
    let (lines, waited) = counted(vec![Ok(stranger)], &[7]);
    assert!(lines.len() == 1 && lines[0].contains("process 7 ended"), "{lines:?}");
    assert_eq!(waited, Duration::ZERO);
}

#[test]
fn of_a_control_group_it_is_not_known_who_is_in_it() {
    let (proc, health) = (ProcFs::new("/proc"), Arc::new(Health::new()));
    let stop = Arc::new(AtomicBool::new(true));
    let (thread, handle) = census::start(proc, health, stop).unwrap();
    let mut censuses = Censuses::start(Some(handle), command::channel().0, APART).unwrap();
    let board = Board::new(SeriesLimits {
        retention: Duration::from_secs(60),
        max_bytes: 1 << 20,
    });
    let mut why = |subject| {
        censuses
            .begin(AlertId(1), &subject, &board, Duration::ZERO)
            .unwrap_err()
    };
    assert!(why(Subject::ControlGroup("/a".into())).contains("is not known"));
    assert!(why(Subject::Service("web".into())).contains("is watched"));
    thread.join().unwrap();
}
