//! The help of every verb as it is shown, and what packages make of it.

use crate::{
    fixture,
    program::{self, Outcome},
};

fn run(arguments: &[&str]) -> Outcome {
    Outcome::from(program::bare_command().args(arguments).output().unwrap())
}

#[test]
fn help_is_as_recorded() {
    for (name, arguments) in [
        ("help.txt", &["--help"][..]),
        ("help-flamegraph.txt", &["flamegraph", "--help"]),
        ("help-diff.txt", &["diff", "--help"]),
        ("help-top.txt", &["top", "--help"]),
        ("help-ps.txt", &["ps", "--help"]),
        ("help-metrics.txt", &["metrics", "--help"]),
        ("help-memory.txt", &["memory", "--help"]),
        ("help-memory-census.txt", &["memory", "census", "--help"]),
        ("help-memory-growth.txt", &["memory", "growth", "--help"]),
        ("help-alerts.txt", &["alerts", "--help"]),
        ("help-alerts-silence.txt", &["alerts", "silence", "--help"]),
        ("help-status.txt", &["status", "--help"]),
        ("help-doctor.txt", &["doctor", "--help"]),
        ("help-config.txt", &["config", "--help"]),
        ("help-config-check.txt", &["config", "check", "--help"]),
        ("help-config-show.txt", &["config", "show", "--help"]),
        ("help-completions.txt", &["completions", "--help"]),
    ] {
        let outcome = run(arguments).expect_success();
        assert!(outcome.stderr.is_empty());
        fixture::compare(name, outcome.text());
    }
}

#[test]
fn every_verb_is_recorded() {
    let help = run(&["--help"]).expect_success();
    let verbs = help
        .text()
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty());
    let names: Vec<&str> = verbs.filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(
        names,
        [
            "flamegraph",
            "diff",
            "top",
            "ps",
            "metrics",
            "memory",
            "alerts",
            "status",
            "doctor",
            "config",
            "completions",
            "help"
        ]
    );
}

#[test]
fn the_version_is_the_package_s() {
    let outcome = run(&["--version"]).expect_success();
    assert_eq!(outcome.text(), format!("profiler-cli {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_and_manual_pages_are_made() {
    for (shell, sign) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef profiler-cli"),
        ("fish", "complete -c profiler-cli"),
    ] {
        let script = run(&["completions", shell]).expect_success();
        assert!(
            script.text().contains(sign) && script.text().contains("flamegraph"),
            "{shell}"
        );
    }
    let page = run(&["man"]).expect_success();
    assert!(page.text().contains(".TH profiler-cli 1"), "{}", page.text());
    let page = run(&["man", "flamegraph"]).expect_success();
    assert!(
        page.text().contains("profiler\\-cli\\-flamegraph") && page.text().contains("duration"),
        "{}",
        page.text()
    );
    let folder = tempfile::tempdir().unwrap();
    run(&["man", "--directory", folder.path().to_str().unwrap()]).expect_success();
    let mut names: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "profiler-cli-alerts-limits.1",
            "profiler-cli-alerts-list.1",
            "profiler-cli-alerts-show.1",
            "profiler-cli-alerts-silence.1",
            "profiler-cli-alerts-silences.1",
            "profiler-cli-alerts-sinks.1",
            "profiler-cli-alerts-test-sink.1",
            "profiler-cli-alerts-unsilence.1",
            "profiler-cli-alerts-watch.1",
            "profiler-cli-alerts.1",
            "profiler-cli-completions.1",
            "profiler-cli-config-check.1",
            "profiler-cli-config-show.1",
            "profiler-cli-config.1",
            "profiler-cli-diff.1",
            "profiler-cli-doctor.1",
            "profiler-cli-flamegraph.1",
            "profiler-cli-memory-census.1",
            "profiler-cli-memory-growth.1",
            "profiler-cli-memory.1",
            "profiler-cli-metrics.1",
            "profiler-cli-ps.1",
            "profiler-cli-status.1",
            "profiler-cli-top.1",
            "profiler-cli.1",
        ]
    );
}
