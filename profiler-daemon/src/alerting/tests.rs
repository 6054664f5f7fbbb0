mod quiet;

use std::{
    path::Path,
    process::Child,
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::{Duration, Instant, SystemTime},
};

use profiler_alerts::{Change, EndReason, Limit, Matcher, Moment, Phase};
use profiler_config::Config;
use profiler_profile::ProcessLabel;
use profiler_readings::{Metric, Reading, Source, Subject};
use profiler_store::{
    Limits, SeriesLimits, Store,
    state::{AlertQuery, Outbox},
};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::{AlertingParts, Command, ShownAlert, ShownChange, Sources, keeper::Keeper};
use crate::{
    api::SharedStore,
    census::CensusHandle,
    command,
    health::{Health, Part, PartState},
    kernel::records::Pid,
    memory::{OomKilled, OomKills, SharedMemory},
    processes::scan::ProcFs,
    readings::Board,
    sinks::{self, Dispatcher},
};

/// A keeper in simulated time, with one limit: the host's CPU above 70 % for 30 s, until 63 %.
struct Desk {
    keeper: Keeper,
    board: Arc<Board>,
    oom_kills: Arc<OomKills>,
    health: Arc<Health>,
    changes: broadcast::Receiver<ShownChange>,
    second: u64,
    /// By how much the time of day was set back.
    set_back: Duration,
    store: SharedStore,
    commands: mpsc::Receiver<command::Command>,
}

fn moment(second: u64) -> Moment {
    Moment {
        time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + second),
        since_boot: Duration::from_secs(1000 + second),
    }
}

fn host_cpu() -> Arc<Limit> {
    let config = Config::default();
    let limit = config.limits_in_force().find(|limit| limit.name == "host_cpu");
    Arc::clone(limit.expect("a shipped limit"))
}

impl Desk {
    fn open(state_dir: &Path, limits: Vec<Arc<Limit>>, second: u64) -> Self {
        Self::with_census(state_dir, limits, second, None)
    }

    fn with_census(state_dir: &Path, limits: Vec<Arc<Limit>>, second: u64, census: Option<CensusHandle>) -> Self {
        let board = Arc::new(Board::new(SeriesLimits {
            retention: Duration::from_secs(3600),
            max_bytes: 1 << 20,
        }));
        let health = Arc::new(Health::new());
        let (sender, changes) = broadcast::channel(256);
        // Nobody answers: evidence never comes, and those who are to be told wait as long as they do.
        let (engine, commands) = command::channel();
        let outbox = Outbox::open(state_dir).unwrap();
        let settings = sinks::Settings::new("host".to_owned(), String::new());
        let dispatcher = Dispatcher::start(&[], outbox, settings).unwrap();
        let oom_kills = Arc::new(OomKills::default());
        let store = Arc::new(Mutex::new(Store::new(Limits {
            retention: Duration::from_secs(900),
            max_bytes: 1 << 20,
        })));
        let parts = AlertingParts {
            limits,
            state_dir: state_dir.to_owned(),
            sources: Sources {
                store: Arc::clone(&store),
                board: Arc::clone(&board),
                engine,
                memory: SharedMemory::default(),
                oom_kills: Arc::clone(&oom_kills),
                census,
            },
            dispatcher: Arc::new(dispatcher),
            host: "host".to_owned(),
            settings: Config::default().alerts,
            health: Arc::clone(&health),
            stop: Arc::new(AtomicBool::new(false)),
        };
        let keeper = Keeper::new(parts, sender, moment(second)).unwrap();
        Self {
            keeper,
            board,
            oom_kills,
            health,
            changes,
            second,
            set_back: Duration::ZERO,
            store,
            commands,
        }
    }

    /// Reads this value each second for so long, and evaluates.
    fn run(&mut self, value: Option<f64>, seconds: u64) -> Vec<Change> {
        let limit = host_cpu();
        for _ in 0..seconds {
            self.second += 1;
            let now = self.now();
            if let Some(value) = value {
                let reading = Reading {
                    metric: limit.metric,
                    subject: Subject::Host,
                    value,
                    time: now.time,
                };
                self.board.put(&[reading], now.since_boot);
            }
            self.keeper.evaluate(now);
        }
        std::iter::from_fn(|| self.changes.try_recv().ok())
            .map(|change| change.change)
            .collect()
    }

    fn now(&self) -> Moment {
        let now = moment(self.second);
        Moment {
            time: now.time - self.set_back,
            ..now
        }
    }

    fn ask<T>(&mut self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> T {
        let (reply, mut answer) = oneshot::channel();
        self.keeper.answer(command(reply), moment(self.second));
        answer.try_recv().expect("an answer at once")
    }

    fn alerts(&mut self) -> Vec<ShownAlert> {
        let query = AlertQuery::default();
        self.ask(|reply| Command::List { query, reply }).unwrap()
    }
}

/// A process that runs no Python, ended when it is dropped.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> (Self, Subject) {
        let child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let stat = ProcFs::new("/proc").stat(Pid(child.id())).unwrap();
        let subject = Subject::Process {
            pid: child.id(),
            start_ticks: stat.start_ticks,
        };
        (Self(child), subject)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// What is kept of censuses with an alert about the memory of a process.
fn census_lines(subject: &Subject) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (thread, census) =
        crate::census::start(ProcFs::new("/proc"), Arc::new(Health::new()), Arc::clone(&stop)).unwrap();
    let limit = Arc::new(Limit {
        name: "held".to_owned(),
        metric: Metric::ProcessMemoryAnonymous,
        hold_for: Duration::ZERO,
        ..(*host_cpu()).clone()
    });
    let mut desk = Desk::with_census(folder.path(), vec![limit], 0, Some(census));
    let reading = |metric| Reading {
        metric,
        subject: subject.clone(),
        value: 1e9,
        time: moment(1).time,
    };
    let readings = [Metric::ProcessMemory, Metric::ProcessMemoryAnonymous].map(reading);
    desk.board.put(&readings, moment(1).since_boot);
    let begun = Instant::now();
    let mut unanswered = Vec::new();
    let lines = loop {
        // Evidence never comes. That nobody knows what the process runs is an answer.
        while let Ok(asked) = desk.commands.try_recv() {
            if !matches!(asked, command::Command::ListProcesses { .. }) {
                unanswered.push(asked);
            }
        }
        // The readings do not grow old while it is waited for the census.
        desk.keeper.evaluate(moment(1));
        if let Some(alert) = desk.alerts().first() {
            let id = alert.alert.id;
            let found = desk.ask(|reply| Command::Get { id, reply }).unwrap().unwrap();
            if !found.lines.is_empty() {
                break found.lines;
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "no census, and no reason");
        std::thread::sleep(Duration::from_millis(20));
    };
    stop.store(true, std::sync::atomic::Ordering::Release);
    thread.join().unwrap();
    lines
}

#[test]
fn an_alert_about_memory_has_the_objects_counted_of_who_holds_most() {
    let (sleeper, subject) = Sleeper::start();
    let lines = census_lines(&subject);
    let why = "which objects of Python there are: process";
    assert!(
        lines[0].contains(why) && lines[0].contains("runs no Python"),
        "{lines:?}"
    );
    drop(sleeper);
    let lines = census_lines(&subject);
    assert!(lines[0].contains("there is no process"), "{lines:?}");
}

#[test]
fn a_limit_that_is_crossed_fires_in_time_and_resolves() {
    let folder = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(folder.path(), vec![host_cpu()], 0);
    assert_eq!(desk.run(Some(0.5), 10), []);
    assert_eq!(desk.run(Some(0.9), 29), [Change::Pending]);
    assert_eq!(desk.run(Some(0.9), 3), [Change::Firing]);
    let limits = desk.ask(|reply| Command::Limits { reply });
    assert_eq!((limits.len(), limits[0].pending, limits[0].firing), (1, 0, 1));
    assert_eq!(desk.run(Some(0.65), 60), [], "between the levels it fires on");
    assert_eq!(desk.run(Some(0.2), 120), [Change::Resolved]);
    let alerts = desk.alerts();
    assert_eq!(alerts.len(), 1);
    assert!(matches!(alerts[0].alert.phase, Phase::Resolved { .. }));
    assert_eq!(alerts[0].alert.worst, Some(0.9));
}

#[test]
fn an_alert_outlives_the_daemon_and_is_not_told_twice() {
    let folder = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(folder.path(), vec![host_cpu()], 0);
    assert_eq!(desk.run(Some(0.9), 45), [Change::Pending, Change::Firing]);
    let id = desk.alerts()[0].alert.id;
    // As by SIGKILL: nothing is done at the end.
    drop(desk);
    let mut desk = Desk::open(folder.path(), vec![host_cpu()], 50);
    assert_eq!(desk.run(Some(0.9), 60), []);
    let alerts = desk.alerts();
    assert_eq!((alerts.len(), alerts[0].alert.id), (1, id));
    assert!(alerts[0].alert.told);
    assert_eq!(desk.run(Some(0.1), 120), [Change::Resolved]);
    drop(desk);
    let mut desk = Desk::open(folder.path(), Vec::new(), 400);
    assert_eq!(desk.alerts()[0].alert.id, id, "it is in the history");
}

#[test]
fn an_alert_that_nobody_was_told_of_is_told_after_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(folder.path(), vec![host_cpu()], 0);
    // It fires after 31 s, and those who are to be told wait for the evidence.
    assert_eq!(desk.run(Some(0.9), 32), [Change::Pending, Change::Firing]);
    drop(desk);
    let mut desk = Desk::open(folder.path(), vec![host_cpu()], 40);
    assert!(!desk.alerts()[0].alert.told);
    assert_eq!(desk.run(Some(0.9), 2), [Change::Unsilenced]);
    assert!(desk.alerts()[0].alert.told);
}

#[test]
fn an_alert_without_data_fires_on_while_its_source_fails() {
    let folder = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(folder.path(), vec![host_cpu()], 0);
    desk.run(Some(0.9), 40);
    let source = Source::of(host_cpu().metric);
    let failed = PartState::Failed {
        reason: "/proc/stat: EIO".to_owned(),
        remedy: String::new(),
    };
    desk.health.report(Part::ReadingsOf(source), failed);
    let changes = desk.run(None, 1200);
    let alerts = desk.alerts();
    assert!(!changes.contains(&Change::Resolved), "{changes:?}");
    let kinds: Vec<_> = alerts
        .iter()
        .map(|shown| (shown.alert.kind.name(), shown.alert.phase.name()))
        .collect();
    assert!(kinds.contains(&("limit", "firing")), "{kinds:?}");
    assert!(
        kinds.contains(&("no_data", "firing")),
        "the loss has its own: {kinds:?}"
    );
}

#[test]
fn a_process_that_is_killed_for_want_of_memory_is_told_at_once_and_once() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::default();
    let limit = config.limits_in_force().find(|limit| limit.name == "oom_kill");
    let mut desk = Desk::open(folder.path(), vec![Arc::clone(limit.expect("a shipped limit"))], 0);
    // Another process had its id before it.
    for start_ticks in [100, 900] {
        let reading = Reading {
            metric: Metric::ProcessMemory,
            subject: Subject::Process { pid: 7, start_ticks },
            value: 5e8,
            time: moment(0).time,
        };
        desk.board.put(&[reading], moment(0).since_boot);
    }
    assert_eq!(desk.run(None, 5), []);
    desk.oom_kills.push(OomKilled {
        pid: Pid(7),
        start_ticks: Some(900),
        time: moment(5).time,
        process: Some(ProcessLabel {
            pid: 7,
            start: moment(0).time,
            name: "grow.py".into(),
            service: "shop".into(),
        }),
    });
    assert_eq!(desk.run(None, 1), [Change::Pending, Change::Firing]);
    let alerts = desk.alerts();
    assert_eq!(
        alerts[0].alert.subject,
        Subject::Process {
            pid: 7,
            start_ticks: 900
        }
    );
    let owners: Vec<Arc<str>> = {
        let series = desk.board.series();
        let of_it = series
            .series()
            .filter(|series| series.metric == Metric::ProcessOomKilled);
        of_it.filter_map(|series| Some(series.owner?.service.clone())).collect()
    };
    assert_eq!(owners, ["shop".into()]);
    let owner = alerts[0].owner.as_ref().expect("it was read");
    assert_eq!((&*owner.name, &*owner.service), ("grow.py", "shop"));
    assert_eq!(desk.run(None, 60), [Change::Resolved]);
    let reason = match desk.alerts()[0].alert.phase {
        Phase::Resolved { reason, .. } => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(reason, EndReason::Gone);
    // A process that nobody knows is one too.
    desk.oom_kills.push(OomKilled {
        pid: Pid(8),
        start_ticks: None,
        time: moment(70).time,
        process: None,
    });
    assert_eq!(desk.run(None, 1), [Change::Pending, Change::Firing]);
    // What is known of the first is known to the daemon after this one.
    drop(desk);
    let mut desk = Desk::open(folder.path(), Vec::new(), 80);
    let alerts = desk.alerts().into_iter();
    let names: Vec<Arc<str>> = alerts.filter_map(|shown| Some(shown.owner?.name)).collect();
    assert_eq!(names, ["grow.py".into()]);
}

/// What a service has of a card is read with the card. A service comes and goes, but not because the card does.
#[test]
fn a_service_on_a_card_that_hangs_or_is_lost_fires_on() {
    let limit = Arc::new(Limit {
        metric: Metric::ServiceGpuMemory,
        ..(*host_cpu()).clone()
    });
    let (reason, remedy) = ("GPU-1 does not answer".to_owned(), String::new());
    let lost = PartState::Failed {
        reason: reason.clone(),
        remedy: remedy.clone(),
    };
    for state in [PartState::Late { reason, remedy }, lost] {
        let folder = tempfile::tempdir().unwrap();
        let mut desk = Desk::open(folder.path(), vec![Arc::clone(&limit)], 0);
        for _ in 0..40 {
            let now = moment(desk.second + 1);
            let reading = Reading {
                metric: limit.metric,
                subject: Subject::Service("train".into()),
                value: 0.9,
                time: now.time,
            };
            desk.board.put(&[reading], now.since_boot);
            desk.run(None, 1);
        }
        desk.health.report(Part::ReadingsOf(Source::Gpu), state.clone());
        let changes = desk.run(None, 300);
        assert!(!changes.contains(&Change::Resolved), "{state:?}: {changes:?}");
        let firing = |desk: &mut Desk| -> Vec<&str> {
            let alerts = desk.alerts().into_iter().map(|shown| shown.alert);
            let firing = alerts.filter(|alert| matches!(alert.phase, Phase::Firing { .. }));
            firing.map(|alert| alert.kind.name()).collect()
        };
        assert_eq!(firing(&mut desk), ["no_data", "limit"], "{state:?}");
        // The daemon after it never had a reading of it.
        drop(desk);
        let mut desk = Desk::open(folder.path(), vec![Arc::clone(&limit)], 350);
        desk.health.report(Part::ReadingsOf(Source::Gpu), state.clone());
        desk.run(None, 120);
        assert_eq!(firing(&mut desk), ["no_data", "limit"], "{state:?}");
        // Once the card can be read again, and the service does not use it, it is over.
        desk.health.report(Part::ReadingsOf(Source::Gpu), PartState::Active);
        desk.run(None, 60);
        assert!(firing(&mut desk).is_empty(), "{state:?}");
    }
}

#[test]
fn a_silence_keeps_an_alert_from_being_told_and_outlives_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(folder.path(), vec![host_cpu()], 0);
    let matcher = Matcher {
        label: "alertname".to_owned(),
        value: "host_cpu".to_owned(),
        negated: false,
    };
    let made = desk.ask(|reply| Command::Silence {
        matchers: vec![matcher.clone()],
        duration: Duration::from_secs(3600),
        who: "uid 0".to_owned(),
        comment: "load test".to_owned(),
        reply,
    });
    let id = made.unwrap().id;
    desk.run(Some(0.9), 40);
    let alerts = desk.alerts();
    assert!(alerts[0].silenced && !alerts[0].alert.told);
    drop(desk);
    let mut desk = Desk::open(folder.path(), vec![host_cpu()], 50);
    assert_eq!(desk.ask(|reply| Command::Silences { reply }).len(), 1);
    assert!(desk.ask(|reply| Command::Unsilence { id, reply }).unwrap());
    assert!(!desk.ask(|reply| Command::Unsilence { id, reply }).unwrap());
    assert_eq!(desk.run(Some(0.9), 2), [Change::Unsilenced]);
    let refused = desk.ask(|reply| Command::Silence {
        matchers: Vec::new(),
        duration: Duration::from_secs(60),
        who: String::new(),
        comment: String::new(),
        reply,
    });
    assert!(refused.is_err(), "a silence of everything");
}

#[test]
fn a_state_directory_that_cannot_be_written_is_said_and_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    // Nobody can make a file below a file, root neither.
    let mut desk = Desk::open(&file, vec![host_cpu()], 0);
    assert!(matches!(
        desk.health.state(Part::Alerts),
        Some(PartState::Failed { .. })
    ));
    assert_eq!(desk.run(Some(0.9), 40), [Change::Pending, Change::Firing]);
    assert_eq!(desk.alerts().len(), 1);
}

#[test]
fn limits_that_are_taken_out_of_force_end_their_alerts() {
    let folder = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(folder.path(), vec![host_cpu()], 0);
    desk.run(Some(0.9), 40);
    let none = Command::Configure {
        limits: Vec::new(),
        settings: Config::default().alerts,
    };
    desk.keeper.answer(none, moment(desk.second));
    assert_eq!(desk.run(Some(0.9), 5), [Change::Resolved]);
    assert!(desk.ask(|reply| Command::Limits { reply }).is_empty());
}

#[test]
fn an_alert_that_ends_before_its_evidence_is_there_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(folder.path(), vec![host_cpu()], 0);
    while desk.run(Some(0.9), 1) != [Change::Firing] {
        assert!(desk.second < 60);
    }
    // No evidence is taken between its beginning and this.
    let none = Command::Configure {
        limits: Vec::new(),
        settings: Config::default().alerts,
    };
    desk.keeper.answer(none, moment(desk.second));
    let is_over = |desk: &mut Desk| {
        let alerts = desk.alerts();
        assert_eq!(alerts.len(), 1);
        matches!(alerts[0].alert.phase, Phase::Resolved { .. }) && alerts[0].alert.told
    };
    assert!(is_over(&mut desk));
    desk.run(Some(0.9), 20);
    assert!(is_over(&mut desk));
    drop(desk);
    let mut desk = Desk::open(folder.path(), vec![host_cpu()], 90);
    assert!(
        is_over(&mut desk),
        "the daemon after it does not take it for one that fires"
    );
}
