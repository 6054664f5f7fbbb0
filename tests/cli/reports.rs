//! The reports: `ps`, `status`, `doctor` and `config`, for people and as JSON.

use std::fs;

use profiler_proto::v1::{
    GetConfigResponse, GetStatusResponse, Interpreter, InterpreterState, Part, PartState, Process, Runtime, WatchState,
};
use serde_json::Value;

use crate::{
    fake_daemon::{FakeDaemon, Script},
    fixture,
    messages::{HOSTILE, discovered, not_watched, status},
    program::{self, Outcome},
};

fn json(outcome: &Outcome) -> Value {
    serde_json::from_slice(&outcome.stdout).unwrap()
}

fn processes() -> FakeDaemon {
    let hostile = Process {
        pid: 7,
        name: HOSTILE.to_owned(),
        service: HOSTILE.repeat(1_000),
        runtime: Runtime::Python.into(),
        interpreter: Some(Interpreter {
            object: HOSTILE.to_owned(),
            version: HOSTILE.repeat(100),
            free_threaded: true,
            state: InterpreterState::Refused.into(),
            reason: HOSTILE.to_owned(),
        }),
        limitations: vec![HOSTILE.to_owned(); 10],
        ..not_watched()
    };
    let python = |pid, samples, python_samples, state: InterpreterState| Process {
        pid,
        name: "gunicorn".to_owned(),
        service: "gunicorn-shop-frontend.service".to_owned(),
        runtime: Runtime::Python.into(),
        samples,
        rooted_samples: samples,
        python_samples,
        interpreter: Some(Interpreter {
            object: "libpython3.13t.so.1.0".to_owned(),
            version: "3.13.5".to_owned(),
            free_threaded: true,
            state: state.into(),
            reason: String::new(),
        }),
        limitations: Vec::new(),
        ..discovered()
    };
    let walked = python(1_004_343, 1_234_567, 1_200_000, InterpreterState::Active);
    let looked_at = Process {
        watch_state: WatchState::Pending.into(),
        ..python(1_004_344, 10, 0, InterpreterState::Looking)
    };
    FakeDaemon::start(Script {
        processes: Ok(vec![walked, looked_at, discovered(), hostile]),
        ..Script::default()
    })
}

#[test]
fn ps_for_people() {
    let outcome = program::run(&processes(), ["ps"]).expect_success();
    fixture::compare("ps.txt", outcome.text());
    let widest = outcome.text().lines().map(|line| line.chars().count()).max();
    assert!(widest.is_some_and(|columns| columns <= 120), "{widest:?} columns");
}

#[test]
fn ps_as_json() {
    let document = json(&program::run(&processes(), ["ps", "--json"]).expect_success());
    let processes = document["processes"].as_array().unwrap();
    assert_eq!(processes.len(), 4);
    // Ordered by id; JSON carries names as they are, and escapes them itself.
    assert_eq!(
        (&processes[0]["pid"], &processes[0]["name"]),
        (&7.into(), &HOSTILE.into())
    );
    assert_eq!(processes[0]["limitations"].as_array().unwrap().len(), 10);
    let expected = serde_json::json!({
        "pid": 4242, "start_time": "2026-03-01T11:53:20Z", "name": "checkout", "executable": "/usr/bin/checkout",
        "command_line": ["checkout", "--port", "80"], "runtime": "rust", "service": "checkout.service",
        "watch_state": "watched", "watch_reason": "discovered", "user_id": 1000, "mappings": 12,
        "mappings_with_rows": 11, "samples": 12345, "rooted_samples": 12340,
            "python_samples": 0,
        "limitations": ["libodd.so: no .eh_frame, walked by frame pointers"],
    });
    assert_eq!(processes[1], expected);
}

#[test]
fn ps_of_one_and_of_none() {
    let daemon = processes();
    let document = json(&program::run(&daemon, ["ps", "--pid", "7", "--json"]).expect_success());
    assert_eq!(document["processes"].as_array().unwrap().len(), 1);
    let daemon = FakeDaemon::start(Script::default());
    let outcome = program::run(&daemon, ["ps"]).expect_success();
    assert!(
        outcome.text().starts_with("no process is watched"),
        "{}",
        outcome.text()
    );
    assert_eq!(
        json(&program::run(&daemon, ["ps", "--json"])),
        serde_json::json!({"processes": []})
    );
}

#[test]
fn status_for_people() {
    let daemon = FakeDaemon::start(Script {
        status: Ok(status()),
        ..Script::default()
    });
    let outcome = program::run(&daemon, ["status"]).expect_success();
    fixture::compare(
        "status.txt",
        &outcome.text().replace(env!("CARGO_PKG_VERSION"), "VERSION"),
    );
}

#[test]
fn status_as_json() {
    let daemon = FakeDaemon::start(Script {
        status: Ok(status()),
        ..Script::default()
    });
    let document = json(&program::run(&daemon, ["status", "--json"]).expect_success());
    let text = serde_json::to_string_pretty(&document).unwrap() + "\n";
    fixture::compare("status.json", &text.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
}

#[test]
fn an_empty_status_is_no_error() {
    let daemon = FakeDaemon::start(Script {
        status: Ok(GetStatusResponse::default()),
        ..Script::default()
    });
    program::run(&daemon, ["status"]).expect_success();
    let document = json(&program::run(&daemon, ["status", "--json"]).expect_success());
    assert_eq!(document["sampling"]["runs"], 0);
}

/// The checks of `doctor` by name. What is found on the host itself depends on the host.
fn findings(daemon: &FakeDaemon) -> (Option<i32>, Value) {
    let outcome = program::run(daemon, ["doctor", "--json"]);
    (outcome.code, json(&outcome))
}

fn verdict<'a>(document: &'a Value, name: &str) -> Option<(&'a str, &'a Value)> {
    let checks = document["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == name)?;
    Some((check["verdict"].as_str().unwrap(), check))
}

#[test]
fn doctor_finds_parts_that_do_not_work() {
    let daemon = FakeDaemon::start(Script {
        status: Ok(status()),
        ..Script::default()
    });
    let (code, document) = findings(&daemon);
    assert_eq!((code, &document["well"]), (Some(1), &false.into()), "{document}");
    assert_eq!(verdict(&document, "daemon").unwrap().0, "well");
    assert_eq!(verdict(&document, "part sampling").unwrap().0, "well");
    assert_eq!(verdict(&document, "part discovery").unwrap().0, "note");
    let (word, symbols) = verdict(&document, "part kernel symbols").unwrap();
    assert_eq!(word, "problem");
    assert_eq!(symbols["found"], "unsupported: kptr_restrict hides addresses");
    assert_eq!(symbols["remedy"], "give the daemon CAP_SYSLOG");
    assert!(
        verdict(&document, "loss").is_none() && verdict(&document, "targets").is_none(),
        "{document}"
    );
    for name in ["kernel", "kernel types", "perf events", "socket directory"] {
        assert!(verdict(&document, name).is_some(), "{name} is missing: {document}");
    }
    let shown = program::run(&daemon, ["doctor"]);
    assert_eq!(shown.code, Some(1));
    assert!(
        shown.text().contains("problem  part kernel symbols: unsupported"),
        "{}",
        shown.text()
    );
    assert!(
        shown.text().contains("\n         give the daemon CAP_SYSLOG\n"),
        "{}",
        shown.text()
    );
}

#[test]
fn doctor_is_content_with_a_daemon_that_works() {
    let mut good = status();
    good.parts.retain(|part| part.state() == PartState::Active);
    let daemon = FakeDaemon::start(Script {
        status: Ok(good.clone()),
        ..Script::default()
    });
    let (code, document) = findings(&daemon);
    let checks = document["checks"].as_array().unwrap();
    let problems: Vec<&Value> = checks.iter().filter(|check| check["verdict"] == "problem").collect();
    // A host that cannot run the programs is the only thing left to find fault with.
    assert!(
        problems
            .iter()
            .all(|check| check["name"].as_str().unwrap().contains("kernel")),
        "{document}"
    );
    assert_eq!(code, Some(i32::from(!problems.is_empty())));
    assert_eq!(document["well"], problems.is_empty());

    good.version = "0.0.1".to_owned();
    good.watched_processes = 0;
    good.sampling
        .as_mut()
        .unwrap()
        .lost
        .insert("ring_full".to_owned(), 10_000);
    let daemon = FakeDaemon::start(Script {
        status: Ok(good),
        ..Script::default()
    });
    let (_, document) = findings(&daemon);
    for name in ["version", "loss", "targets"] {
        assert_eq!(
            verdict(&document, name).map(|(word, _)| word),
            Some("note"),
            "{name}: {document}"
        );
    }
}

#[test]
fn doctor_takes_what_a_host_does_not_measure_for_no_problem() {
    let mut without_pressure = status();
    without_pressure.parts.retain(|part| part.state() == PartState::Active);
    without_pressure.parts.push(Part {
        name: "readings_pressure".to_owned(),
        state: PartState::Unsupported.into(),
        reason: "cannot read /proc/pressure/cpu: No such file or directory (os error 2)".to_owned(),
        remedy: "boot with psi=1".to_owned(),
    });
    let daemon = FakeDaemon::start(Script {
        status: Ok(without_pressure),
        ..Script::default()
    });
    let (_, document) = findings(&daemon);
    let (word, check) = verdict(&document, "part readings_pressure").unwrap();
    assert_eq!((word, &check["remedy"]), ("note", &"boot with psi=1".into()));
    let shown = program::run(&daemon, ["doctor"]);
    let lines = shown.text().matches("pressure").count();
    assert_eq!(lines, 2, "the part and the file, in one line: {}", shown.text());
}

#[test]
fn doctor_says_how_to_reach_the_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("no.sock");
    let outcome: Outcome = program::bare_command()
        .args(["doctor", "--socket"])
        .arg(&socket)
        .output()
        .unwrap()
        .into();
    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome
            .text()
            .contains("problem  daemon: the profiler daemon is not running"),
        "{}",
        outcome.text()
    );
    assert!(
        outcome.text().contains("systemctl start profiler-daemon"),
        "{}",
        outcome.text()
    );
}

#[test]
fn config_check_points_at_mistakes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    let check = |text: &str, arguments: &[&str]| -> Outcome {
        fs::write(&path, text).unwrap();
        program::bare_command()
            .args(["config", "check"])
            .arg(&path)
            .args(arguments)
            .output()
            .unwrap()
            .into()
    };
    let good = check("[sampling]\nhz = 997\n", &[]).expect_success();
    let valid = format!("{}: valid\n\nlimits:\n", path.display());
    assert!(good.text().starts_with(&valid), "{}", good.text());

    let bad = "[sampling]\nhz = 997\nfrequency = 5\n";
    let outcome = check(bad, &[]);
    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome.stderr.starts_with(&format!("error: {}:3: ", path.display())),
        "{}",
        outcome.stderr
    );
    assert!(
        outcome.stderr.contains("frequency") && outcome.stdout.is_empty(),
        "{}",
        outcome.stderr
    );
    let outcome = check(bad, &["--json"]);
    let document = json(&outcome);
    assert_eq!(
        (outcome.code, &document["errors"][0]["line"]),
        (Some(1), &3.into()),
        "{document}"
    );
    assert_eq!(document["errors"][0]["file"], path.to_str().unwrap());

    let missing: Outcome = program::bare_command()
        .args(["config", "check", "/nonexistent.toml"])
        .output()
        .unwrap()
        .into();
    assert_eq!(missing.code, Some(1));
    assert!(
        missing.stderr.contains("cannot read /nonexistent.toml"),
        "{}",
        missing.stderr
    );
}

#[test]
fn config_check_explains_limits() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    let text = "[limits.host_swap]\nenabled = false\n[limits.web]\nreading = \"service_memory_bytes\"\n\
                subject = \"we\u{202e}b\"\nabove = \"2GiB\"\nsinks = []\n";
    fs::write(&path, text).unwrap();
    let check = |arguments: &[&str]| -> Outcome {
        let mut command = program::bare_command();
        command.args(["config", "check"]).arg(&path).args(arguments);
        command.output().unwrap().into()
    };
    let shown = check(&[]).expect_success();
    for line in [
        "  host_cpu: warns when host_cpu_busy_ratio of the host is above 70 % for 30 s, until it is 63 % or less for 1 min; \
         told to: journal\n",
        "  web: warns when service_memory_bytes of service we\\u{202e}b is above 2 GiB for 30 s, until it is 1.8 GiB or less \
         for 1 min; nobody is told\n",
        "  host_swap: switched off\n",
    ] {
        assert!(shown.text().contains(line), "{}", shown.text());
    }
    let document = json(&check(&["--json"]).expect_success());
    let limits = document["limits"].as_array().unwrap();
    let swap = limits.iter().find(|limit| limit["name"] == "host_swap").unwrap();
    assert_eq!(swap["enabled"], false);

    fs::write(&path, "[limits.host_cpu]\n\nclear = \"90%\"\n[limits.x]\nabove = 1\n").unwrap();
    let wrong = check(&[]);
    assert_eq!(wrong.code, Some(1));
    let errors: Vec<&str> = wrong.stderr.lines().collect();
    assert!(
        errors[0].starts_with(&format!("error: {}:3: `clear` is on the wrong side", path.display())),
        "{errors:?}"
    );
    assert!(
        errors[1].starts_with(&format!("error: {}:4: a limit needs a `reading`", path.display())),
        "{errors:?}"
    );
    assert!(wrong.stdout.is_empty());
}

#[test]
fn config_show_tells_what_differs() {
    let config = |toml: &str| {
        let files = vec!["/etc/profiler/config.toml".to_owned(), format!("/etc/{HOSTILE}.toml")];
        FakeDaemon::start(Script {
            config: Ok(GetConfigResponse {
                toml: toml.to_owned(),
                files,
            }),
            ..Script::default()
        })
    };
    let daemon = config("[sampling]\nhz = 997\nwalker_loop = \"auto\"\n");
    let shown = program::run(&daemon, ["config", "show"]).expect_success();
    let files = "# read: /etc/profiler/config.toml\n# read: /etc/\\u{1b}[2Jevil\\u{202e}\\r\\n.toml\n";
    assert_eq!(shown.text(), format!("{files}[sampling]\nhz = 997\n"));
    let all = program::run(&daemon, ["config", "show", "--effective"]).expect_success();
    assert_eq!(
        all.text(),
        format!("{files}[sampling]\nhz = 997\nwalker_loop = \"auto\"\n")
    );
    let document = json(&program::run(&daemon, ["config", "show", "--json"]).expect_success());
    assert_eq!(document["settings"], serde_json::json!({"sampling": {"hz": 997}}));
    assert_eq!(document["files"][0], "/etc/profiler/config.toml");

    let daemon = config("[sampling]\nhz = 99\n");
    let shown = program::run(&daemon, ["config", "show"]).expect_success();
    assert!(
        shown.text().contains("every setting has its default"),
        "{}",
        shown.text()
    );
}
