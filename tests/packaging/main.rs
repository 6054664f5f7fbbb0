//! The files of the package: where they go, and as systemd reads them.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test program: the settings for tests do not reach its helpers"
)]

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use profiler_tests::not_run::skip;

const SERVICE: &str = include_str!("../../packaging/systemd/profiler-daemon.service");
const SOCKET: &str = include_str!("../../packaging/systemd/profiler-daemon.socket");
const DAEMON_MANIFEST: &str = include_str!("../../profiler-daemon/Cargo.toml");
/// Exposure in tenths, of a hundred, that the service may have.
const MOST_EXPOSURE: u32 = 35;
/// What sampling needs, and all that the service may have.
const CAPABILITIES: &str = "CAP_BPF CAP_PERFMON CAP_SYS_PTRACE CAP_SYSLOG CAP_DAC_READ_SEARCH CAP_CHECKPOINT_RESTORE";
/// What the package installs, and with which modes.
const INSTALLED: [(&str, &str); 14] = [
    ("usr/bin/profiler-daemon", "755"),
    ("usr/bin/profiler-cli", "755"),
    ("usr/lib/systemd/system/profiler-daemon.service", "644"),
    ("usr/lib/systemd/system/profiler-daemon.socket", "644"),
    ("usr/lib/sysusers.d/profiler.conf", "644"),
    ("usr/lib/sysctl.d/30-profiler.conf", "644"),
    ("etc/profiler/config.toml", "644"),
    ("usr/share/doc/profiler/examples/prometheus-rules.yml", "644"),
    ("usr/share/lintian/overrides/profiler", "644"),
    ("usr/share/man/man1/*.1", "644"),
    ("usr/share/man/man8/profiler-daemon.8", "644"),
    ("usr/share/bash-completion/completions/profiler-cli", "644"),
    ("usr/share/zsh/vendor-completions/_profiler-cli", "644"),
    ("usr/share/fish/vendor_completions.d/profiler-cli.fish", "644"),
];
/// Where sources lie that are built, and not committed.
const BUILT: [&str; 2] = ["target/release/", "../target/dist/files/"];

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

/// What goes where: source and mode by destination.
fn assets() -> BTreeMap<String, (String, String)> {
    let manifest: toml::Table = DAEMON_MANIFEST.parse().unwrap();
    let assets = manifest["package"]["metadata"]["deb"]["assets"].as_array().unwrap();
    let asset = |asset: &toml::Value| {
        let words = asset.as_array().unwrap().iter().map(|word| word.as_str().unwrap());
        let words: Vec<&str> = words.collect();
        let [source, destination, mode] = words[..] else {
            panic!("{words:?} is no source, destination and mode")
        };
        let name = match destination.ends_with('/') {
            true => source.rsplit('/').next().unwrap_or_default(),
            false => "",
        };
        (format!("{destination}{name}"), (source.to_owned(), mode.to_owned()))
    };
    assets.iter().map(asset).collect()
}

#[test]
fn the_package_has_all_that_it_needs_and_all_of_it_exists() {
    let assets = assets();
    for (destination, mode) in INSTALLED {
        let (_, given) = assets.get(destination).unwrap_or_else(|| panic!("no {destination}"));
        assert_eq!(given, mode, "{destination}");
    }
    assert_eq!(assets.len(), INSTALLED.len(), "{assets:?}");
    // Sources are named from the folder of the manifest.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("profiler-daemon");
    for (source, _) in assets.values() {
        let is_built = BUILT.iter().any(|place| source.starts_with(place));
        assert!(is_built || folder.join(source).is_file(), "there is no {source}");
    }
    let started = SERVICE.lines().find_map(|line| line.strip_prefix("ExecStart=/"));
    assert!(
        started.is_some_and(|program| assets.contains_key(program)),
        "{started:?}"
    );
}

#[test]
fn nothing_of_the_packaging_is_left_out_of_the_package() {
    let assets = assets();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("packaging");
    let mut folders = vec![folder.clone()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(&folder).unwrap().display().to_string();
            // The packer takes these by keys of their own.
            let is_control = name == "debian/copyright" || name.starts_with("debian/scripts/");
            let source = format!("../packaging/{name}");
            assert!(is_control || assets.values().any(|(of, _)| *of == source), "{name}");
        }
    }
    for key in ["\"../packaging/debian/copyright\"", "\"../packaging/debian/scripts\""] {
        assert!(DAEMON_MANIFEST.contains(key), "{key}");
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
