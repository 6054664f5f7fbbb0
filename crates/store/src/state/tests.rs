mod renewal;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use profiler_alerts::{
    Alert, AlertId, AlertKind, Comparison, EndReason, Fingerprint, Held, Level, Limit, Matcher, Phase, Severity,
    Silence, SilenceId, Stored, Subjects,
};
use profiler_readings::{Metric, Subject};
use tempfile::TempDir;

use super::{
    AlertQuery, Bounds, Condition, Encoding, Evidence, KeptNotification, MAX_WAITING, Outbox, State, StateError,
    file::NAME,
};

const BOUNDS: Bounds = Bounds {
    history: Duration::from_secs(1000),
    max_history: 10,
    max_evidence_bytes: 1 << 20,
};

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn stored(number: u64, subject: Subject, phase: Phase) -> Stored {
    let limit = Limit {
        name: "a_limit".to_owned(),
        metric: Metric::ServiceMemory,
        subjects: Subjects::Named("web".to_owned()),
        comparison: Comparison::Below,
        level: Level::new(0.1 + 0.2).unwrap(),
        clear: Level::new(f64::MAX).unwrap(),
        hold_for: Duration::from_millis(1500),
        keep_firing_for: Duration::ZERO,
        no_data_after: Duration::from_secs(86_400),
        severity: Severity::Critical,
        labels: BTreeMap::from([("team".to_owned(), "\u{202e}'\"; DROP TABLE alert".to_owned())]),
        sinks: vec!["journal".to_owned(), "ops".to_owned()],
    };
    Stored {
        alert: Alert {
            id: AlertId(u64::MAX - number),
            fingerprint: Fingerprint(u64::MAX / 2 + number),
            kind: AlertKind::NoData,
            limit: Arc::new(limit),
            subject,
            began: at(number),
            phase,
            latest: Some(-0.25),
            worst: None,
            told: true,
        },
        held: Held {
            beyond: Duration::from_nanos(1_234_567_891),
            between: Duration::ZERO,
            cleared: Some(Duration::from_secs(3)),
        },
        saved: at(number + 1),
    }
}

fn firing(number: u64) -> Stored {
    stored(number, Subject::Host, Phase::Firing { since: at(number) })
}

fn resolved(number: u64, ended: u64) -> Stored {
    let phase = Phase::Resolved {
        since: at(number),
        at: at(ended),
        reason: EndReason::Gone,
    };
    stored(number, Subject::Host, phase)
}

fn open(directory: &TempDir) -> State {
    State::open(directory.path(), BOUNDS).unwrap()
}

#[test]
fn live_alerts_are_as_they_were() {
    let directory = tempfile::tempdir().unwrap();
    let subjects = [
        Subject::Host,
        Subject::Core(7),
        Subject::Disk("sda".into()),
        Subject::Network("eth0".into()),
        Subject::Filesystem("/srv\n'".into()),
        Subject::Service("web".into()),
        Subject::Process {
            pid: 4242,
            start_ticks: u64::MAX,
        },
        Subject::ControlGroup("/system.slice".into()),
        Subject::Gpu("GPU-1".into()),
    ];
    let live: Vec<Stored> = (0..)
        .zip(subjects)
        .map(|(number, subject)| {
            let phase = if number % 2 == 0 {
                Phase::Pending
            } else {
                Phase::Firing { since: at(500) }
            };
            stored(number, subject, phase)
        })
        .collect();
    let mut state = open(&directory);
    state.record(&live, at(0)).unwrap();
    assert_eq!(state.live().unwrap(), live);
    assert_eq!(state.condition(), Condition::Kept);
    drop(state);
    assert_eq!(open(&directory).live().unwrap(), live);
    let mode = fs::metadata(directory.path().join(NAME)).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&mode) & 0o777, 0o600);
}

/// A daemon that is killed closes nothing.
#[test]
fn what_was_recorded_outlives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = open(&directory);
    state.record(&[firing(1)], at(1)).unwrap();
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    assert_eq!(open(&copy).live().unwrap(), [firing(1)]);
    assert_eq!(open(&copy).condition(), Condition::Kept);
}

#[test]
fn an_alert_goes_its_way() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = open(&directory);
    let pending = stored(1, Subject::Host, Phase::Pending);
    state.record(&[pending.clone(), firing(2)], at(1)).unwrap();
    state.record(&[resolved(2, 50)], at(50)).unwrap();
    assert_eq!(state.live().unwrap(), std::slice::from_ref(&pending));
    let query = AlertQuery {
        is_over: Some(true),
        ..AlertQuery::default()
    };
    assert_eq!(state.alerts(&query).unwrap(), [resolved(2, 50).alert]);
    assert_eq!(state.alerts(&AlertQuery::default()).unwrap().len(), 2);
    assert_eq!(state.alert(pending.alert.id).unwrap().unwrap().phase, Phase::Pending);
    // What never fired leaves nothing.
    let dropped = Phase::Dropped {
        at: at(60),
        reason: EndReason::Recovered,
    };
    state.record(&[stored(1, Subject::Host, dropped)], at(60)).unwrap();
    assert_eq!(state.alert(pending.alert.id).unwrap(), None);
    let other = AlertQuery {
        limit_name: Some("other".to_owned()),
        ..AlertQuery::default()
    };
    assert!(state.alerts(&other).unwrap().is_empty());
    let since = AlertQuery {
        since: Some(at(51)),
        ..AlertQuery::default()
    };
    assert!(state.alerts(&since).unwrap().is_empty());
}

#[test]
fn history_is_bounded_by_number_and_age() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = open(&directory);
    let mut all: Vec<Stored> = (0..30).map(|number| resolved(number, number + 1)).collect();
    all.push(firing(100));
    state.record(&all, at(200)).unwrap();
    let ids = |state: &State| -> Vec<u64> {
        let alerts = state.alerts(&AlertQuery::default()).unwrap();
        alerts.iter().map(|alert| u64::MAX - alert.id.0).collect()
    };
    let newest: Vec<u64> = [100].into_iter().chain((20..30).rev()).collect();
    assert_eq!(ids(&state), newest);
    // The last ended at 30: at 1026 only those that ended at 26 or later are left. What fires has no age.
    state.record(&[], at(1026)).unwrap();
    assert_eq!(ids(&state), [100, 29, 28, 27, 26, 25]);
    state.record(&[], at(10_000)).unwrap();
    assert_eq!(ids(&state), [100]);
}

fn evidence(kind: &str, body: Vec<u8>) -> Evidence {
    Evidence {
        kind: kind.to_owned(),
        encoding: Encoding::Zstd,
        made: at(5),
        body,
    }
}

#[test]
fn evidence_is_bounded_by_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = open(&directory);
    let alerts: Vec<Stored> = (0..4).map(firing).collect();
    state.record(&alerts, at(0)).unwrap();
    let of = |number: u64| AlertId(u64::MAX - number);
    for number in 0..4 {
        let body = vec![number as u8; 300 << 10];
        state.put_evidence(of(number), &evidence("breach", body)).unwrap();
    }
    let small = evidence("before", vec![9; 10]);
    state.put_evidence(of(3), &small).unwrap();
    assert_eq!(state.evidence(of(0), "breach").unwrap(), None, "the oldest made room");
    assert_eq!(
        state.evidence(of(1), "breach").unwrap().unwrap().body,
        vec![1; 300 << 10]
    );
    assert_eq!(state.evidence(of(3), "before").unwrap(), Some(small));
    let entries = state.evidence_of(of(3)).unwrap();
    let entries: Vec<(&str, u64)> = entries.iter().map(|entry| (entry.kind.as_str(), entry.bytes)).collect();
    assert_eq!(entries, [("breach", 300 << 10), ("before", 10)]);
    // In place of the one before.
    let changed = evidence("before", vec![8; 5]);
    state.put_evidence(of(3), &changed).unwrap();
    assert_eq!(state.evidence(of(3), "before").unwrap(), Some(changed));
    // It goes with its alert.
    state.record(&[resolved(3, 10)], at(20_000)).unwrap();
    assert!(state.evidence_of(of(3)).unwrap().is_empty());

    let large = evidence("breach", vec![0; (1 << 20) + 1]);
    assert!(matches!(
        state.put_evidence(of(1), &large),
        Err(StateError::TooLarge { .. })
    ));
    let unknown = state.put_evidence(of(77), &evidence("breach", vec![1]));
    assert!(matches!(unknown, Err(StateError::NoSuchAlert)));
    assert_eq!(state.condition(), Condition::Kept);
    state.set_bounds(Bounds {
        max_evidence_bytes: 0,
        ..BOUNDS
    });
    state.record(&[], at(20_000)).unwrap();
    assert!(state.evidence_of(of(1)).unwrap().is_empty());
}

/// The file does not grow with what was in it.
#[test]
fn room_is_used_again_and_given_back() {
    let directory = tempfile::tempdir().unwrap();
    let bounds = Bounds {
        max_evidence_bytes: 24 << 20,
        ..BOUNDS
    };
    let mut state = State::open(directory.path(), bounds).unwrap();
    state.record(&[firing(1)], at(0)).unwrap();
    let alert = firing(1).alert.id;
    for number in 0..60 {
        let body = vec![number; 1 << 20];
        state
            .put_evidence(alert, &evidence(&format!("part{number}"), body))
            .unwrap();
    }
    drop(state);
    let size = || fs::metadata(directory.path().join(NAME)).unwrap().len();
    assert!(size() < 30 << 20, "{}", size());
    let mut state = open(&directory);
    state.record(&[], at(0)).unwrap();
    drop((state, open(&directory)));
    assert!(size() < 4 << 20, "{}", size());
}

fn silence(until: u64) -> Silence {
    Silence {
        id: SilenceId(0),
        matchers: vec![
            Matcher {
                label: "alertname".to_owned(),
                value: "a_limit".to_owned(),
                negated: false,
            },
            Matcher {
                label: "subject".to_owned(),
                value: "\"web\"".to_owned(),
                negated: true,
            },
        ],
        made: at(0),
        until: at(until),
        who: "uid 0".to_owned(),
        comment: "kernel update".to_owned(),
    }
}

#[test]
fn silences_end_and_are_ended() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = open(&directory);
    let first = state.add_silence(silence(100)).unwrap();
    let second = state.add_silence(silence(200)).unwrap();
    assert_ne!(first.id, second.id);
    drop(state);
    let mut state = open(&directory);
    assert_eq!(state.silences(at(50)).unwrap(), [first.clone(), second.clone()]);
    assert_eq!(state.silences(at(100)).unwrap(), std::slice::from_ref(&second));
    assert!(state.remove_silence(second.id).unwrap());
    assert!(!state.remove_silence(second.id).unwrap());
    state.record(&[], at(150)).unwrap();
    assert!(state.silences(at(50)).unwrap().is_empty());
    let third = state.add_silence(silence(300)).unwrap();
    assert!(third.id > second.id, "numbers are not used again");
}

/// Has the file grow to so many pages at most: as on a disk that is full, or no longer is.
fn allow(state: &State, pages: i64) {
    let pragma = format!("PRAGMA max_page_count = {pages}");
    let connection = state.database.connection();
    connection.query_row(&pragma, [], |row| row.get::<_, i64>(0)).unwrap();
}

/// One that is refused is an error, and holds neither now nor after a restart.
#[test]
fn a_silence_on_a_full_disk_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = open(&directory);
    let kept = state.add_silence(silence(100)).unwrap();
    allow(&state, 1);
    // It takes more than the room that is left.
    let mut long = silence(100);
    long.comment = "x".repeat(1 << 16);
    let error = state.add_silence(long.clone()).unwrap_err().to_string();
    assert!(error.contains("full"), "{error}");
    assert!(matches!(state.condition(), Condition::Waiting { waiting: 0, .. }));
    assert_eq!(state.silences(at(0)).unwrap(), std::slice::from_ref(&kept));
    drop(state);
    let mut state = open(&directory);
    assert_eq!(state.silences(at(0)).unwrap(), std::slice::from_ref(&kept));
    allow(&state, 1 << 20);
    let second = state.add_silence(long).unwrap();
    assert_eq!(state.condition(), Condition::Kept);
    assert_eq!(state.silences(at(0)).unwrap(), [kept, second]);
}

/// While the disk is full, changes wait; afterwards they are written.
#[test]
fn a_full_disk_keeps_changes_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = open(&directory);
    state.record(&[firing(0)], at(0)).unwrap();
    allow(&state, 1);
    let many: Vec<Stored> = (1..=50).map(firing).collect();
    let error = state.record(&many, at(1)).unwrap_err().to_string();
    assert!(error.contains("full"), "{error}");
    assert!(matches!(state.condition(), Condition::Waiting { waiting: 50, .. }));
    // What is kept can still be read, and each alert waits once.
    assert_eq!(state.live().unwrap(), [firing(0)]);
    state.record(&[resolved(50, 60)], at(60)).unwrap_err();
    assert!(matches!(state.condition(), Condition::Waiting { waiting: 50, .. }));
    allow(&state, 1 << 20);
    state.record(&[], at(61)).unwrap();
    assert_eq!(state.condition(), Condition::Kept);
    assert_eq!(state.live().unwrap().len(), 50);
    assert_eq!(state.given_up(), 0);
    // A disk that stays full takes no more memory for ever.
    allow(&state, 1);
    let number = u64::try_from(MAX_WAITING).unwrap() + 30;
    let too_many: Vec<Stored> = (1000..1000 + number).map(firing).collect();
    state.record(&too_many, at(70)).unwrap_err();
    assert_eq!(state.given_up(), 30);
    assert!(matches!(
        state.condition(),
        Condition::Waiting {
            waiting: MAX_WAITING,
            ..
        }
    ));
}

/// The daemon starts by reading these: neither a row of old nor a disk that cannot be written may keep it from that.
#[test]
fn rows_that_mean_nothing_and_cannot_be_dropped_are_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = open(&directory);
    state.record(&[firing(0), firing(1)], at(0)).unwrap();
    state.add_silence(silence(100)).unwrap();
    let second = state.add_silence(silence(100)).unwrap();
    let change = "UPDATE alert SET limit_json = '{' WHERE number = 1; UPDATE silence SET matchers = '{' WHERE id = 1;";
    let connection = state.database.connection();
    connection.execute_batch(change).unwrap();
    connection.pragma_update(None, "query_only", true).unwrap();
    assert_eq!(state.live().unwrap(), [firing(1)]);
    assert_eq!(state.silences(at(0)).unwrap(), [second]);
    assert!(matches!(state.condition(), Condition::Waiting { .. }));
}

#[test]
fn rows_that_mean_nothing_are_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = open(&directory);
    let all: Vec<Stored> = (0..6).map(firing).collect();
    state.record(&all, at(0)).unwrap();
    let id = |number: u64| (u64::MAX - number).cast_signed();
    for (number, change) in [
        (
            0,
            "limit_json = replace(limit_json, 'service_memory_bytes', 'a_reading_of_old')",
        ),
        (1, "limit_json = '{'"),
        (2, "kind = 'x'"),
        (3, "scope = 'process', subject = 'x'"),
        (4, "limit_json = replace(limit_json, 'critical', 'x')"),
    ] {
        let sql = format!("UPDATE alert SET {change} WHERE id = ?1");
        assert_eq!(state.database.connection().execute(&sql, [id(number)]).unwrap(), 1);
    }
    assert_eq!(state.alerts(&AlertQuery::default()).unwrap().len(), 1);
    assert!(matches!(state.alert(AlertId(u64::MAX)), Err(StateError::BadRow { .. })));
    assert_eq!(state.live().unwrap(), [firing(5)]);
    let rows: i64 = state
        .database
        .connection()
        .query_row("SELECT count(*) FROM alert", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 1);
}

#[test]
fn notifications_outlive_the_daemon() {
    let directory = tempfile::tempdir().unwrap();
    // Beside the alerts, which are written at the same time.
    let mut state = open(&directory);
    let mut outbox = Outbox::open(directory.path()).unwrap();
    let notification = |id: u64| KeptNotification {
        id,
        sink: "ops".to_owned(),
        payload: vec![0, 255, 1],
    };
    for id in [3, 1, 2] {
        outbox.put(&notification(id)).unwrap();
        state.record(&[firing(id)], at(id)).unwrap();
    }
    outbox.remove(&[2, 77]).unwrap();
    outbox.put(&notification(3)).unwrap();
    std::mem::forget(outbox);
    let mut outbox = Outbox::open(directory.path()).unwrap();
    assert_eq!(outbox.all().unwrap(), [notification(1), notification(3)]);
    assert_eq!(outbox.condition(), Condition::Kept);
    let large = KeptNotification {
        payload: vec![0; (1 << 20) + 1],
        ..notification(4)
    };
    assert!(matches!(outbox.put(&large), Err(StateError::TooLarge { .. })));
    assert_eq!(state.live().unwrap().len(), 3);
}
