//! A daemon that may do nothing stays up and says so.

use profiler_tests::daemon::DaemonOptions;
use serde_json::Value;

use crate::{FAST_HZ, host, only, only_line, start};

/// What is said of a part of the daemon.
fn part<'a>(status: &'a Value, name: &str) -> &'a Value {
    let parts = status["parts"].as_array().unwrap();
    parts.iter().find(|part| part["name"] == name).unwrap()
}

#[test]
fn a_daemon_without_rights_says_what_it_lacks() {
    let Some(host) = host() else { return };
    let program = host.c("plain", "plain", &[]);
    let plain = start(&program, &["busy"]);
    let config = only(FAST_HZ, "plain");
    let daemon = host.spawn(DaemonOptions::new(&config).without_rights()).ready();
    let status = daemon.status();
    let sampling = part(&status, "sampling");
    assert!(
        sampling["state"] == "unsupported" || sampling["state"] == "failed",
        "{sampling}"
    );
    for field in ["reason", "remedy"] {
        assert!(
            sampling[field].as_str().is_some_and(|words| words.len() > 10),
            "{field}: {sampling}"
        );
    }
    assert!(sampling.to_string().contains("CAP_"), "which capability: {sampling}");
    assert_eq!(part(&status, "api")["state"], "active", "{status}");

    let pid = plain.pid().to_string();
    let output = daemon.cli(&["flamegraph", "--pid", &pid, "--duration", "1s", "-o", "-"]);
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{output:?}");
    only_line(&output);
    // A person who looks for the reason finds it.
    let output = daemon.cli(&["doctor"]);
    assert!(
        output.code != Some(0) && output.stdout.contains("sampling"),
        "{output:?}"
    );
    let log = daemon.log();
    assert!(log.contains("sampling"), "{log}");
    let later = daemon.status();
    for name in ["sampling", "api"] {
        assert_eq!(part(&later, name), part(&status, name), "nothing has changed");
    }
}
