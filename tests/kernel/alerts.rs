//! Alerts, from the reading of a service to the command that is told: whose limit it is, which function began to burn, and
//! that each alert begins once and ends once, whatever the load and the daemon do.

mod reloads;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

use profiler_tests::{
    daemon::{Daemon, DaemonOptions, Host},
    interpreters::Interpreter,
    programs::{send_signal, wait_for},
    python::{PythonProgram, Scripts},
};
use prost_types::Timestamp;
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    FAST_HZ, from_environment, host, only,
    python::{of_version, wait_until_active},
};

/// What is the same under every version of Python is tested under this one.
const MINOR: u32 = 11;
/// The service, by the name of its script.
const SERVICE: &str = "surge";
/// Its function that burns.
const BURN: &str = "burn";
const LIMIT: &str = "busy";
const EVALUATION: Duration = Duration::from_secs(1);
/// How long a change may take to be told, with evidence, on such a machine.
const TOLD_WITHIN: Duration = Duration::from_secs(60);
/// What else would be told comes in this time: two evaluations, which have a command started at once.
const SETTLED: Duration = Duration::from_secs(2);
/// How often a load swings there and back while its alert fires, unless `PROFILER_TEST_SWINGS` says otherwise; in ten minutes it
/// does 200 times.
const SWINGS: u32 = 3;
/// How long that takes once.
const SWING: Duration = Duration::from_secs(3);
/// Of so many swings one is seen at least in readings that are a second apart.
const SEEN_SWINGS: u32 = 8;
/// How often the service begins to burn, unless `PROFILER_TEST_ALERTS` says otherwise.
const ALERTS: u32 = 1;
/// Of this a breach is told apart.
const QUIET: Duration = Duration::from_secs(8);
const BURNING: Signal = Signal::USR1;
const SWINGING: Signal = Signal::USR2;
const RESTING: Signal = Signal::HUP;

/// A service, watched, and a command that keeps what it is told. It is root's own, and so are its folders; it appends.
struct Scene {
    host: Host,
    service: PythonProgram,
    config: String,
    told: PathBuf,
}

impl Scene {
    /// The service at rest, with a limit of half a CPU for so long, and an end when it was clear for so long.
    fn of(scripts: &Scripts<'_>, host: Host, hold_for: Duration, keep_firing_for: Duration) -> Self {
        let told = host.path("told.json");
        fs::write(&told, "").unwrap();
        // The daemon may run as a user of its own, and its command with it.
        fs::set_permissions(&told, fs::Permissions::from_mode(0o666)).unwrap();
        // Limits of the host may be crossed meanwhile; they are less severe.
        let config = format!(
            "{}[limits.{LIMIT}]\nreading = \"service_cpu_cores\"\nsubject = \"{SERVICE}\"\nabove = 0.5\nclear = 0.4\n\
             for = \"{}s\"\nkeep_firing_for = \"{}s\"\nseverity = \"critical\"\n\
             [sinks.file]\nkind = \"command\"\nmin_severity = \"critical\"\nargv = [\"/usr/bin/tee\", \"-a\", {told:?}]\n",
            only(FAST_HZ, SERVICE),
            hold_for.as_secs(),
            keep_firing_for.as_secs(),
        );
        let service = scripts.start("surge.py", &[]);
        Self {
            host,
            service,
            config,
            told,
        }
    }

    /// A daemon that knows the service and goes on where the one before it ended.
    fn daemon(&self) -> Daemon {
        let state = self.host.path("state");
        let options = DaemonOptions::new(&self.config).with_state_dir(&state);
        let daemon = self.host.spawn(options).ready();
        let pid = self.service.running.pid();
        wait_until_active(&daemon, pid);
        assert_eq!(daemon.process(pid)["service"], SERVICE);
        wait_for("reading of the service", TOLD_WITHIN, || {
            let reading = daemon.cli(&["metrics", "service_cpu_cores", "--subject", SERVICE]);
            (reading.code == Some(0)).then_some(())
        });
        daemon
    }

    fn tell(&self, mode: Signal) {
        send_signal(self.service.running.pid(), mode);
    }

    /// What the command was told so far.
    fn told(&self) -> Vec<Value> {
        documents(&self.told)
    }

    /// Waits until the command was told so often, and gives the last.
    fn wait_until_told(&self, times: usize) -> Value {
        wait_for(&format!("notification {times}"), TOLD_WITHIN, || {
            self.told().get(times - 1).cloned()
        })
    }

    /// Sees that the command was told of these and of nothing else.
    #[track_caller]
    fn assert_told(&self, expected: &[(&str, &str)]) {
        thread::sleep(SETTLED);
        let told = self.told();
        let told: Vec<_> = told.iter().map(|one| (text(one, "id"), text(one, "status"))).collect();
        assert_eq!(told, expected);
    }
}

/// JSON, one document after the other; the last may be on its way.
fn documents(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let documents = serde_json::Deserializer::from_str(&text).into_iter();
    documents.map_while(Result::ok).collect()
}

fn text<'a>(document: &'a Value, key: &str) -> &'a str {
    document[key]
        .as_str()
        .unwrap_or_else(|| panic!("no {key} in {document}"))
}

fn time(document: &Value, key: &str) -> SystemTime {
    let time: Timestamp = text(document, key).parse().unwrap();
    time.try_into().unwrap()
}

/// The interpreter, and a folder for what is tested; nothing after saying what is missing.
fn found() -> Option<(Host, Interpreter)> {
    Some((host()?, of_version(MINOR)?))
}

/// All alerts of the limit, of any time.
fn alerts(daemon: &Daemon) -> Vec<Value> {
    let document = daemon.json(&["alerts", "--all", "--limit", LIMIT, "--json"]);
    document["alerts"].as_array().unwrap().clone()
}

/// Those of them that fire, or did.
fn fired(daemon: &Daemon) -> Vec<(String, String)> {
    let fired = alerts(daemon)
        .into_iter()
        .filter(|alert| !alert["firing_time"].is_null());
    let named = fired.map(|alert| (text(&alert, "id").to_owned(), text(&alert, "phase").to_owned()));
    named.collect()
}

fn named(id: &str, phase: &str) -> Vec<(String, String)> {
    vec![(id.to_owned(), phase.to_owned())]
}

/// The difference between breach and quiet: of all the CPU time that stacks of the service took in the breach, the share of
/// those that end in the function; next to none before.
fn assert_difference(daemon: &Daemon, id: &str) {
    let output = daemon.cli(&["flamegraph", "--alert", id, "--format", "folded", "-o", "-"]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let (mut all, mut burnt) = ((0, 0), (0, 0));
    for line in output.stdout.lines() {
        let mut words = line.rsplitn(3, ' ');
        let mut number = || words.next().unwrap().parse::<u64>().unwrap();
        let (after, before) = (number(), number());
        let stack = words.next().unwrap();
        if stack.split(';').next() != Some(SERVICE) {
            continue;
        }
        all = (all.0 + before, all.1 + after);
        if stack.rsplit(';').next().is_some_and(is_burn) {
            burnt = (burnt.0 + before, burnt.1 + after);
        }
    }
    println!("of {all:?} millionths of a CPU before and then, in {BURN}: {burnt:?}");
    // Only when it has burnt for a second or two, the reading is beyond the level.
    assert!(burnt.0 * 2 < burnt.1, "at rest it does not burn: {}", output.stdout);
    assert!(burnt.1 * 10 > all.1 * 9, "{}", output.stdout);
    assert!(burnt.1 > 500_000, "the limit was crossed by it: {}", output.stdout);
}

/// A Python function has its file behind it.
fn is_burn(frame: &str) -> bool {
    frame.split(' ').next() == Some(BURN)
}

/// What was found: what grew most is the function, and the heaviest stack ends in it.
fn assert_findings(findings: &Value) {
    let lines: Vec<_> = findings
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line.as_str().unwrap())
        .collect();
    println!("{lines:#?}");
    let of_service = |line: &str| {
        line.split_once(": ")
            .map(|(owner, what)| (owner.to_owned(), what.to_owned()))
    };
    let (owner, grew) = of_service(lines[0]).unwrap();
    assert_eq!(owner, SERVICE, "{lines:?}");
    assert!(is_burn(&grew) && grew.contains(") grew from "), "{lines:?}");
    let heaviest = lines.iter().find(|line| line.contains(" > ")).expect("a stack");
    let (owner, stack) = of_service(heaviest).unwrap();
    assert!(owner.ends_with(&format!(" % {SERVICE}")), "{heaviest}");
    assert!(stack.rsplit(" > ").next().is_some_and(is_burn), "{heaviest}");
}

/// A service was at work, and nothing of it grew.
fn assert_no_accusation(findings: &Value, service: &str) {
    let lines = || findings.as_array().unwrap().iter().map(|line| line.as_str().unwrap());
    let accusation = lines().find(|line| line.starts_with(&format!("{service}:")));
    assert_eq!(accusation, None);
    assert!(
        lines().any(|line| line.contains(&format!(" % {service}: "))),
        "{findings:#}"
    );
}

/// A service beside it that does what it did before has nothing to do with it, whatever share of the CPU it has.
#[test]
fn a_service_that_begins_to_burn_is_named_with_its_function() {
    const HOLD_FOR: Duration = Duration::from_secs(8);
    const STEADY: &str = "steady";
    let Some((host, interpreter)) = found() else { return };
    let scripts = Scripts::of(&interpreter);
    let mut scene = Scene::of(&scripts, host, HOLD_FOR, Duration::from_secs(2));
    let alone = format!("include = [\"{SERVICE}\"]");
    assert!(scene.config.contains(&alone));
    let both = format!("include = [\"{SERVICE}\", \"{STEADY}\"]");
    scene.config = scene.config.replace(&alone, &both);
    let steady = scripts.start("steady.py", &[]);
    let daemon = scene.daemon();
    wait_until_active(&daemon, steady.running.pid());
    assert_eq!(daemon.process(steady.running.pid())["service"], STEADY);
    thread::sleep(QUIET);
    assert_eq!(alerts(&daemon), Vec::<Value>::new());
    scene.tell(BURNING);
    let firing = scene.wait_until_told(1);
    println!("{firing:#}");
    let id = text(&firing, "id");
    assert_eq!((text(&firing, "status"), text(&firing, "limit")), ("firing", LIMIT));
    assert_eq!((text(&firing, "scope"), text(&firing, "subject")), ("service", SERVICE));
    assert!(firing["value"].as_f64().unwrap() > 0.5, "{firing}");
    assert_findings(&firing["stacks"]);
    assert_no_accusation(&firing["stacks"], STEADY);

    let shown = daemon.json(&["alerts", "show", id, "--json"]);
    assert_eq!((text(&shown, "id"), text(&shown, "phase")), (id, "firing"));
    assert_eq!(text(&shown, "subject"), format!("service {SERVICE}"));
    assert_eq!(shown["findings"], firing["stacks"]);
    let waited = time(&shown, "firing_time")
        .duration_since(time(&shown, "begin_time"))
        .unwrap();
    println!("it fired after {waited:?}");
    assert!(waited + EVALUATION / 10 >= HOLD_FOR, "{shown:#}");
    // A machine that stood still for a while made readings come late, which they count.
    let status = daemon.status();
    let missed = u32::try_from(status["readings"]["missed_rounds"].as_u64().unwrap()).unwrap();
    assert!(
        waited <= HOLD_FOR + 2 * EVALUATION + missed * EVALUATION,
        "{missed} missed: {shown:#}"
    );
    assert_difference(&daemon, id);

    scene.tell(RESTING);
    let resolved = scene.wait_until_told(2);
    assert_eq!(text(&resolved["annotations"], "end"), "recovered");
    scene.assert_told(&[(id, "firing"), (id, "resolved")]);
    assert_eq!(fired(&daemon), named(id, "resolved"));

    // Again and again: what burnt before may be in the quiet time, and who did not is none the worse for it.
    for again in 1..from_environment("PROFILER_TEST_ALERTS", ALERTS) as usize {
        thread::sleep(QUIET);
        scene.tell(BURNING);
        let firing = scene.wait_until_told(2 * again + 1);
        assert_eq!((text(&firing, "status"), text(&firing, "subject")), ("firing", SERVICE));
        assert_no_accusation(&firing["stacks"], STEADY);
        scene.tell(RESTING);
        let resolved = scene.wait_until_told(2 * again + 2);
        assert_eq!(text(&resolved, "status"), "resolved");
        println!("{again}: {}", firing["stacks"][0]);
    }
}

#[test]
fn an_alert_fires_on_when_the_daemon_is_killed() {
    let Some((host, interpreter)) = found() else { return };
    let scripts = Scripts::of(&interpreter);
    let scene = Scene::of(&scripts, host, Duration::from_secs(2), Duration::from_secs(2));
    let mut daemon = scene.daemon();
    scene.tell(BURNING);
    let firing = scene.wait_until_told(1);
    let id = text(&firing, "id");
    assert_eq!(text(&firing, "status"), "firing");
    let findings = daemon.json(&["alerts", "show", id, "--json"])["findings"].clone();
    daemon.kill();

    let next = scene.daemon();
    assert_eq!(fired(&next), named(id, "firing"));
    // It sees the reading beyond the limit itself, and tells nobody of what they know.
    scene.assert_told(&[(id, "firing")]);
    let shown = next.json(&["alerts", "show", id, "--json"]);
    assert_eq!(text(&shown, "phase"), "firing");
    assert!(shown["latest"].as_f64().unwrap() > 0.5, "{shown:#}");
    assert_eq!(shown["findings"], findings, "what was found is kept");
    let output = next.cli(&["flamegraph", "--alert", id, "--format", "folded", "-o", "-"]);
    assert!(output.stdout.contains(&format!(";{BURN} ")), "{output:?}");

    scene.tell(RESTING);
    let resolved = scene.wait_until_told(2);
    assert_eq!(text(&resolved["annotations"], "end"), "recovered");
    scene.assert_told(&[(id, "firing"), (id, "resolved")]);
    assert_eq!(fired(&next), named(id, "resolved"));
}

/// How often the reading went from beyond the level to the clear level in the time until now.
fn crossings(daemon: &Daemon, time: Duration) -> usize {
    let last = format!("{}s", time.as_secs());
    let document = daemon.json(&[
        "metrics",
        "service_cpu_cores",
        "--subject",
        SERVICE,
        "--last",
        &last,
        "--json",
    ]);
    let steps = document["series"][0]["steps"].as_array().unwrap();
    let values = steps.iter().map(|step| step["mean"].as_f64().unwrap());
    let sides: Vec<bool> = values
        .filter(|value| !(0.4..=0.5).contains(value))
        .map(|value| value > 0.5)
        .collect();
    sides.windows(2).filter(|pair| pair[0] && !pair[1]).count()
}

/// Waits while the load swings so often, and sees that it does.
#[track_caller]
fn wait_for_swings(daemon: &Daemon, swings: u32) {
    let (mut left, mut seen) = (SWING * swings, 0);
    while !left.is_zero() {
        let time = left.min(TOLD_WITHIN);
        thread::sleep(time);
        seen += crossings(daemon, time);
        left -= time;
    }
    println!("{seen} of {swings} swings are seen");
    assert!(seen >= (swings / SEEN_SWINGS) as usize, "{seen} of {swings} swings");
}

#[test]
fn a_load_that_swings_around_a_limit_is_one_alert() {
    const HOLD_FOR: Duration = Duration::from_secs(8);
    let Some((host, interpreter)) = found() else { return };
    let scripts = Scripts::of(&interpreter);
    let scene = Scene::of(&scripts, host, HOLD_FOR, HOLD_FOR);
    let daemon = scene.daemon();
    scene.tell(SWINGING);
    wait_for("a reading that is beyond and clear by turns", TOLD_WITHIN, || {
        (crossings(&daemon, TOLD_WITHIN) >= 2).then_some(())
    });
    let swings = from_environment("PROFILER_TEST_SWINGS", SWINGS);
    wait_for_swings(&daemon, swings / 2);
    assert_eq!(fired(&daemon), []);

    scene.tell(BURNING);
    let firing = scene.wait_until_told(1);
    let id = text(&firing, "id");
    scene.tell(SWINGING);
    wait_for_swings(&daemon, swings);
    scene.assert_told(&[(id, "firing")]);
    assert_eq!(fired(&daemon), named(id, "firing"));

    scene.tell(RESTING);
    scene.wait_until_told(2);
    scene.assert_told(&[(id, "firing"), (id, "resolved")]);
    assert_eq!(fired(&daemon), named(id, "resolved"));
}
