//! The files of the package as systemd reads them.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test program: the settings for tests do not reach its helpers"
)]

use std::{fs, path::Path, process::Command};

use profiler_tests::not_run::skip;

const SERVICE: &str = include_str!("../../packaging/systemd/profiler-daemon.service");
const SOCKET: &str = include_str!("../../packaging/systemd/profiler-daemon.socket");
/// Exposure in tenths, of a hundred, that the service may have.
const MOST_EXPOSURE: u32 = 35;
/// What sampling needs, and all that the service may have.
const CAPABILITIES: &str = "CAP_BPF CAP_PERFMON CAP_SYS_PTRACE CAP_SYSLOG CAP_DAC_READ_SEARCH CAP_CHECKPOINT_RESTORE";

/// The units in a folder of their own, with a program that exists on every host.
fn units() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let service = SERVICE.replace("/usr/bin/profiler-daemon", "/bin/true");
    fs::write(folder.path().join("profiler-daemon.service"), service).unwrap();
    fs::write(folder.path().join("profiler-daemon.socket"), SOCKET).unwrap();
    folder
}

/// Runs systemd-analyze, where there is one.
fn analyze(arguments: &[&str], folder: &Path, units: &[&str]) -> Option<(bool, String)> {
    let mut command = Command::new("systemd-analyze");
    command.args(arguments).args(units.iter().map(|unit| folder.join(unit)));
    match command.output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
        }
        Err(error) => {
            skip(&format!("systemd-analyze: {error}"));
            None
        }
    }
}

#[test]
fn systemd_understands_every_line() {
    let folder = units();
    let names = ["profiler-daemon.service", "profiler-daemon.socket"];
    let Some((success, text)) = analyze(&["verify", "--man=no"], folder.path(), &names) else {
        return;
    };
    let own: Vec<_> = text.lines().filter(|line| line.contains("profiler-daemon")).collect();
    assert!(success && own.is_empty(), "{text}");
}

#[test]
fn the_service_is_exposed_no_more_than_it_must_be() {
    let folder = units();
    let arguments = ["security", "--offline=true", "--no-pager"];
    let Some((_, text)) = analyze(&arguments, folder.path(), &["profiler-daemon.service"]) else {
        return;
    };
    let exposure = text
        .lines()
        .find_map(|line| line.split_once("Overall exposure level for profiler-daemon.service: "))
        .and_then(|(_, rest)| rest.split_whitespace().next());
    let tenths: Option<u32> = exposure.and_then(|level| level.replace('.', "").parse().ok());
    println!("exposure {exposure:?}");
    assert!(tenths.is_some_and(|tenths| tenths <= MOST_EXPOSURE), "{text}");
}

#[test]
fn the_service_has_six_capabilities_and_no_other() {
    for key in ["AmbientCapabilities=", "CapabilityBoundingSet="] {
        let set: Vec<_> = SERVICE.lines().filter_map(|line| line.strip_prefix(key)).collect();
        assert_eq!(set, [CAPABILITIES], "{key}");
    }
}

#[test]
fn the_units_and_the_default_configuration_name_the_same_places() {
    let config = include_str!("../../packaging/config.toml");
    let socket = SOCKET.lines().find_map(|line| line.strip_prefix("ListenStream="));
    assert!(socket.is_some_and(|socket| config.contains(&format!("#socket = \"{socket}\""))));
    let group = SOCKET.lines().find_map(|line| line.strip_prefix("SocketGroup="));
    assert!(group.is_some_and(|group| config.contains(&format!("#read_group = \"{group}\""))));
    let state = SERVICE.lines().find_map(|line| line.strip_prefix("StateDirectory="));
    assert!(state.is_some_and(|state| config.contains(&format!("#state_dir = \"/var/lib/{state}\""))));
}

#[test]
fn the_rules_for_prometheus_are_rules() {
    let promtool = match profiler_tests::prometheus::find("promtool") {
        Ok(promtool) => promtool,
        Err(reason) => {
            skip(&reason);
            return;
        }
    };
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("packaging/prometheus-rules.yml");
    let mut check = Command::new(promtool);
    let output = check.args(["check", "rules"]).arg(rules).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}
