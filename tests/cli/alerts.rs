//! `alerts`: what is beyond its limit, what was found, who is told, and who is not to be; for people and as JSON.

use profiler_proto::v1::{
    Alert, AlertPhase, GetAlertResponse, Limit, ListAlertsResponse, Matcher, Scope, Silence, Sink, Subject, Unit,
    WatchAlertsResponse,
};
use prost_types::{Duration, Timestamp};
use serde_json::{Value, json};
use tonic::Status;

use crate::{
    fake_daemon::{AlertScript, AskedOfAlerts, FakeDaemon, Script},
    fixture,
    messages::HOSTILE,
    program::{self, Outcome},
};

const ID: &str = "3f2a9c0b7d5e8146";
const FINDING: &str = "checkout: price_basket (shop/prices.py) grew from 0.0 to 97.1 % of a CPU (+91.0 to +99.0)";

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp {
        seconds: 1_772_366_400 + seconds,
        nanos: 0,
    })
}

/// A service that is busy, and fires; its name would clear the screen.
fn firing() -> Alert {
    Alert {
        id: ID.to_owned(),
        fingerprint: "00000000000000aa".to_owned(),
        kind: "limit".to_owned(),
        limit: "busy".to_owned(),
        metric: "service_cpu_cores".to_owned(),
        severity: "warning".to_owned(),
        subject: Some(Subject {
            scope: Scope::Service.into(),
            name: HOSTILE.to_owned(),
            ..Subject::default()
        }),
        phase: AlertPhase::Firing.into(),
        meaning: "warns when service_cpu_cores of a service is above 0.5 CPUs for 30 s".to_owned(),
        begin_time: at(0),
        firing_time: at(30),
        end_time: None,
        end_reason: String::new(),
        latest: Some(0.9625),
        worst: Some(1.0),
        silenced: true,
        labels: [
            ("team".to_owned(), HOSTILE.to_owned()),
            ("alertname".to_owned(), "busy".to_owned()),
        ]
        .into(),
        unit: Unit::Cores.into(),
    }
}

/// The host, which was busy and is not any more.
fn resolved() -> Alert {
    Alert {
        id: "0af6d02bced84005".to_owned(),
        limit: "host_cpu".to_owned(),
        metric: "host_cpu_busy_ratio".to_owned(),
        subject: Some(Subject {
            scope: Scope::Host.into(),
            ..Subject::default()
        }),
        phase: AlertPhase::Resolved.into(),
        end_time: at(95),
        end_reason: "recovered".to_owned(),
        latest: Some(0.31),
        worst: Some(0.998),
        silenced: false,
        labels: [].into(),
        unit: Unit::Ratio.into(),
        ..firing()
    }
}

fn script() -> AlertScript {
    let limit = |name: &str, firing| Limit {
        name: name.to_owned(),
        metric: "service_cpu_cores".to_owned(),
        meaning: format!("{name}: warns when service_cpu_cores of service {HOSTILE} is above 0.5 CPUs"),
        severity: "warning".to_owned(),
        sinks: vec!["journal".to_owned()],
        pending: 2,
        firing,
    };
    let well = Sink {
        name: "journal".to_owned(),
        kind: "journal".to_owned(),
        sent: 1234,
        ..Sink::default()
    };
    AlertScript {
        limits: vec![limit("busy", 1), limit("idle", 0)],
        list: Ok(ListAlertsResponse {
            alerts: vec![firing(), resolved()],
            truncated: true,
        }),
        alert: Ok(GetAlertResponse {
            alert: Some(firing()),
            findings: vec![FINDING.to_owned(), format!("97.0 % {HOSTILE}: serve > price_basket")],
            evidence: None,
        }),
        changes: Ok(vec![
            WatchAlertsResponse {
                alert: Some(firing()),
                change: "now".to_owned(),
                missed: 0,
            },
            WatchAlertsResponse {
                alert: Some(resolved()),
                change: "resolved".to_owned(),
                missed: 3,
            },
        ]),
        silences: vec![silence()],
        created: Ok(silence()),
        sinks: vec![
            well,
            Sink {
                name: "pager".to_owned(),
                kind: "webhook".to_owned(),
                failure: format!("HTTP 503: {HOSTILE}"),
                failing_since: at(60),
                queued: 2,
                sent: 5,
                retried: 17,
                dropped: 1,
                refused: 3,
                unsaved: 4,
            },
        ],
        ..AlertScript::default()
    }
}

fn silence() -> Silence {
    Silence {
        id: 7,
        matchers: vec![
            Matcher {
                label: "alertname".to_owned(),
                value: "busy".to_owned(),
                negated: false,
            },
            Matcher {
                label: "subject".to_owned(),
                value: HOSTILE.to_owned(),
                negated: true,
            },
        ],
        start_time: at(0),
        end_time: at(7200),
        created_by: format!("uid 0 {HOSTILE}"),
        comment: format!("load test {HOSTILE}"),
    }
}

fn daemon() -> FakeDaemon {
    with(script())
}

fn with(alerts: AlertScript) -> FakeDaemon {
    FakeDaemon::start(Script {
        alerts,
        ..Script::default()
    })
}

/// What a run prints that must go well. Whatever the names are, nothing in it moves the cursor; for people, nothing turns the
/// text around.
fn printed(daemon: &FakeDaemon, arguments: &[&str]) -> String {
    let outcome = program::run(daemon, [&["alerts"], arguments].concat()).expect_success();
    let text = outcome.text();
    let for_people = !arguments.contains(&"--json");
    let is_plain = |letter: char| letter == '\n' || !(letter.is_control() || for_people && letter == '\u{202e}');
    assert!(text.chars().all(is_plain), "{text:?}");
    text.to_owned()
}

fn document(daemon: &FakeDaemon, arguments: &[&str]) -> Value {
    serde_json::from_str(&printed(daemon, arguments)).unwrap()
}

/// What the daemon was asked for by these arguments.
fn asked(arguments: &[&str]) -> AskedOfAlerts {
    let daemon = daemon();
    printed(&daemon, arguments);
    daemon.seen().alerts
}

#[test]
fn alerts_for_people() {
    // What fires lasts until now; what is over does not.
    let text = printed(&daemon(), &["--all"]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    for word in [
        ID,
        "firing (silenced)",
        "warning",
        "busy",
        "service ",
        "evil",
        "0.96",
        "1.00 cores",
    ] {
        assert!(lines[1].contains(word), "{word}: {text}");
    }
    for word in ["resolved", "host_cpu", "31.0 %", "99.8 %", "1 min 5 s"] {
        assert!(lines[2].contains(word), "{word}: {text}");
    }
    assert_eq!(lines[3], "the newest 2; `--most` shows more");
    fixture::compare("alerts-show.txt", &printed(&daemon(), &["show", ID]));
    fixture::compare("alerts-watch.txt", &printed(&daemon(), &["watch"]));
    fixture::compare("alerts-limits.txt", &printed(&daemon(), &["limits"]));
    fixture::compare("alerts-sinks.txt", &printed(&daemon(), &["sinks"]));
    fixture::compare("alerts-silences.txt", &printed(&daemon(), &["silences"]));
}

#[test]
fn nothing_to_show_is_said() {
    let daemon = with(AlertScript::default());
    for (arguments, words) in [
        (&[][..], "no limit is crossed; `--all` shows what was\n"),
        (&["list", "--all"], "no alerts are kept\n"),
        (&["silences"], "nothing is silenced\n"),
        (&["sinks"], "nobody is told of alerts: no sink is switched on\n"),
        (&["watch"], ""),
    ] {
        assert_eq!(printed(&daemon, arguments), words);
    }
    assert_eq!(
        document(&daemon, &["--json"]),
        json!({"alerts": [], "truncated": false})
    );
}

#[test]
fn alerts_as_json() {
    let list = document(&daemon(), &["--json"]);
    assert_eq!(list["truncated"], true);
    let alert = json!({
        "id": ID, "fingerprint": "00000000000000aa", "kind": "limit", "limit": "busy", "metric": "service_cpu_cores",
        "severity": "warning", "subject": format!("service {HOSTILE}"), "phase": "firing",
        "meaning": "warns when service_cpu_cores of a service is above 0.5 CPUs for 30 s",
        "begin_time": "2026-03-01T12:00:00Z", "firing_time": "2026-03-01T12:00:30Z", "end_time": null,
        "latest": 0.9625, "worst": 1.0, "silenced": true, "labels": {"alertname": "busy", "team": HOSTILE},
    });
    assert_eq!(list["alerts"][0], alert);
    assert_eq!(list["alerts"][1]["subject"], "host");
    assert_eq!(list["alerts"][1]["end_reason"], "recovered");
    let shown = document(&daemon(), &["show", ID, "--json"]);
    assert_eq!((&shown["id"], &shown["findings"][0]), (&json!(ID), &json!(FINDING)));
    let changes: Vec<Value> = printed(&daemon(), &["watch", "--json"])
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told: Vec<_> = changes
        .iter()
        .map(|change| (&change["change"], &change["id"], &change["missed"]))
        .collect();
    assert_eq!(
        told,
        [
            (&json!("now"), &json!(ID), &Value::Null),
            (&json!("resolved"), &json!("0af6d02bced84005"), &json!(3)),
        ]
    );
    let limits = document(&daemon(), &["limits", "--json"]);
    assert_eq!(limits["limits"][0]["firing"], 1);
    assert_eq!(limits["limits"][1]["sinks"], json!(["journal"]));
    let sinks = document(&daemon(), &["sinks", "--json"]);
    assert_eq!(sinks["sinks"][0]["failure"], Value::Null);
    let pager = json!({
        "name": "pager", "kind": "webhook", "failure": format!("HTTP 503: {HOSTILE}"),
        "failing_since": "2026-03-01T12:01:00Z", "queued": 2, "sent": 5, "retried": 17, "dropped": 1, "refused": 3,
        "unsaved": 4,
    });
    assert_eq!(sinks["sinks"][1], pager);
    let silences = document(&daemon(), &["silences", "--json"]);
    let negated = json!({"label": "subject", "value": HOSTILE, "negated": true});
    assert_eq!(silences["silences"][0]["matchers"][1], negated);
    assert_eq!(silences["silences"][0]["end_time"], "2026-03-01T14:00:00Z");
}

#[test]
fn what_is_asked_for() {
    let list = asked(&[]).lists.remove(0);
    assert_eq!(
        (list.include_ended, list.limit.as_str(), list.page_size),
        (false, "", 100)
    );
    let list = asked(&["list", "--all", "--limit", "busy", "--most", "7"])
        .lists
        .remove(0);
    assert_eq!(
        (list.include_ended, list.limit.as_str(), list.page_size),
        (true, "busy", 7)
    );
    let get = asked(&["show", ID]).alerts.remove(0);
    assert_eq!((get.id.as_str(), get.with_evidence), (ID, false));
    assert_eq!(asked(&["unsilence", "7"]).expired, [7]);
    assert_eq!(asked(&["test-sink", "pager"]).tested, ["pager"]);
    let arguments = [
        "silence",
        "alertname=busy",
        "team!=a=b",
        "--for",
        "2h",
        "--comment",
        "load test",
    ];
    let created = asked(&arguments).created.remove(0);
    let matchers: Vec<_> = created
        .matchers
        .iter()
        .map(|matcher| (matcher.label.as_str(), matcher.value.as_str(), matcher.negated))
        .collect();
    assert_eq!(matchers, [("alertname", "busy", false), ("team", "a=b", true)]);
    assert_eq!(
        created.duration,
        Some(Duration {
            seconds: 7200,
            nanos: 0
        })
    );
    assert_eq!(created.comment, "load test");
}

#[test]
fn what_was_done_is_said() {
    let daemon = daemon();
    let silence = printed(&daemon, &["silence", "alertname=busy", "--for", "2h"]);
    for words in [
        "silence 7 holds until 2026-03-01T14:00:00Z",
        "alertname=\"busy\"",
        "`profiler-cli alerts unsilence 7`",
    ] {
        assert!(silence.contains(words), "{words}: {silence}");
    }
    let silence = document(&daemon, &["silence", "alertname=busy", "--for", "2h", "--json"]);
    assert_eq!(silence["id"], 7);
    assert_eq!(printed(&daemon, &["unsilence", "7"]), "silence 7 has ended\n");
    assert_eq!(
        printed(&daemon, &["test-sink", "pager"]),
        "the sink pager took the test alert\n"
    );
}

fn refused(outcome: &Outcome, code: i32, words: &str) {
    assert_eq!(outcome.code, Some(code), "{}", outcome.stderr);
    assert!(outcome.stdout.is_empty(), "{outcome:?}");
    assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
    assert!(
        !outcome.stderr.contains(['\x1b', '\u{202e}', '\r']),
        "{:?}",
        outcome.stderr
    );
}

#[test]
fn what_is_refused_has_its_exit_code() {
    let hostile = |what: &str| format!("{what} {HOSTILE}");
    let daemon = with(AlertScript {
        list: Err(Status::permission_denied("user 7 may not read from the profiler")),
        alert: Err(Status::not_found(hostile("no such alert"))),
        changes: Err(Status::resource_exhausted("16 streams of alerts are in progress")),
        created: Err(Status::permission_denied("user 7 may not act")),
        expired: Err(Status::not_found("no silence 9")),
        tested: Err(Status::unavailable(hostile("HTTP 503"))),
        ..AlertScript::default()
    });
    for (arguments, code, words) in [
        (&["alerts"][..], 4, "user 7 may not read"),
        (&["alerts", "show", ID], 1, "no such alert"),
        (&["flamegraph", "--alert", ID, "-o", "-"], 1, "no such alert"),
        (&["alerts", "watch"], 1, "16 streams"),
        (
            &["alerts", "silence", "alertname=busy", "--for", "1h"],
            4,
            "may not act",
        ),
        (&["alerts", "unsilence", "9"], 1, "no silence 9"),
        (&["alerts", "test-sink", "pager"], 1, "HTTP 503"),
    ] {
        refused(&program::run(&daemon, arguments), code, words);
    }
}

#[test]
fn what_makes_no_sense_is_not_asked_for() {
    let daemon = daemon();
    for (arguments, words) in [
        (&["silence", "busy", "--for", "1h"][..], "\"busy\" is no LABEL=VALUE"),
        (&["silence", "=busy", "--for", "1h"], "names no label"),
        (&["silence", "alertname=busy"], "--for"),
        (&["silence", "--for", "1h"], "required"),
        (&["unsilence", "first"], "invalid value"),
        (&["show"], "required"),
        (&["--most", "0"], "--most"),
        (&["dream"], "unrecognized"),
    ] {
        refused(&program::run(&daemon, [&["alerts"], arguments].concat()), 2, words);
    }
    let asked = daemon.seen().alerts;
    assert!(asked.created.is_empty() && asked.expired.is_empty() && asked.lists.is_empty());
}

#[test]
fn an_alert_without_evidence_has_no_flame_graph() {
    let outcome = program::run(&daemon(), ["flamegraph", "--alert", ID, "-o", "-"]);
    refused(&outcome, 3, "no evidence is kept of it");
}

/// A process that nobody knows any more has its id at least.
#[test]
fn an_alert_about_a_process_says_which() {
    let about = |name: &str, service: &str| Alert {
        subject: Some(Subject {
            scope: Scope::Process.into(),
            name: name.to_owned(),
            pid: 4242,
            start_ticks: 7,
            service: service.to_owned(),
        }),
        ..firing()
    };
    let daemon = with(AlertScript {
        list: Ok(ListAlertsResponse {
            alerts: vec![about("uvicorn", "web"), about("", "")],
            truncated: false,
        }),
        ..script()
    });
    let text = printed(&daemon, &[]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[1].contains("process 4242 uvicorn "), "{text}");
    assert!(lines[2].contains("process 4242 "), "{text}");
    let list = document(&daemon, &["--json"]);
    let named = ["subject", "pid", "service"].map(|key| &list["alerts"][0][key]);
    assert_eq!(named, [&json!("process 4242 uvicorn"), &json!(4242), &json!("web")]);
    let unknown = ["subject", "pid", "service"].map(|key| &list["alerts"][1][key]);
    assert_eq!(unknown, [&json!("process 4242"), &json!(4242), &Value::Null]);
}
