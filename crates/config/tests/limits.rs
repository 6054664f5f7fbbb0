//! Limits and sinks: what they mean, and what is said of wrong ones.

use std::{path::PathBuf, time::Duration};

use profiler_alerts::{Comparison, Level, Limit, Severity, Subjects};
use profiler_config::{Config, Sink, SinkTarget, SourceFile, Sources};
use profiler_readings::Metric;
use proptest::prelude::{ProptestConfig, prop, proptest};

const SHIPPED: &str = include_str!("../../../packaging/config.toml");

fn sources(files: &[&str]) -> Sources {
    let file = |(index, text): (usize, &&str)| SourceFile {
        path: PathBuf::from(format!("{}.toml", ["a", "b", "c"][index])),
        contents: text.as_bytes().to_vec(),
    };
    Sources {
        files: files.iter().enumerate().map(file).collect(),
        ..Sources::default()
    }
}

fn config(files: &[&str]) -> Config {
    sources(files).resolve().expect("right")
}

fn limit(config: &Config, name: &str) -> Limit {
    let rule = config
        .limits
        .iter()
        .find(|rule| rule.limit.name == name)
        .expect("a limit");
    (*rule.limit).clone()
}

fn sink(config: &Config, name: &str) -> Sink {
    config
        .sinks
        .iter()
        .find(|sink| sink.name == name)
        .expect("a sink")
        .clone()
}

#[track_caller]
fn check_mistake(text: &str, place: &str, parts: &[&str]) {
    let shown = sources(&[text]).resolve().expect_err("a mistake").to_string();
    assert!(shown.starts_with(&format!("{place}: ")), "{text:?} gave {shown}");
    for part in parts {
        assert!(shown.contains(part), "{text:?} gave {shown}, without {part}");
    }
    assert_eq!(shown.lines().count(), 1, "{shown}");
}

/// What is read back from what is shown.
#[track_caller]
fn check_shown(config: &Config) {
    let shown = config.to_toml().expect("TOML");
    let read = sources(&[&shown]).resolve().expect("what is shown is right");
    assert_eq!(read, *config, "{shown}");
}

#[test]
fn the_defaults() {
    let config = Config::default();
    let sentences: Vec<String> = config.limits_in_force().map(|limit| limit.explain()).collect();
    assert_eq!(
        sentences,
        [
            "disk_full: warns when filesystem_used_ratio of a file system is above 90 % for 5 min, until it is 88 % or \
             less for 1 min; told to: journal",
            "gpu_busy: notes when gpu_utilization_ratio of a GPU is above 90 % for 2 min, until it is 85 % or less for \
             1 min; told to: journal",
            "gpu_memory: notes when gpu_memory_used_ratio of a GPU is above 90 % for 30 s, until it is 85 % or less for \
             1 min; told to: journal",
            "host_cpu: warns when host_cpu_busy_ratio of the host is above 70 % for 30 s, until it is 63 % or less for \
             1 min; told to: journal",
            "host_memory: warns when host_memory_used_ratio of the host is above 80 % for 30 s, until it is 75 % or \
             less for 1 min; told to: journal",
            "host_swap: warns when host_swap_used_ratio of the host is above 80 % for 1 min, until it is 70 % or less \
             for 1 min; told to: journal",
            "memory_pressure: warns when host_memory_pressure_ratio of the host is above 20 % for 30 s, until it is \
             10 % or less for 1 min; told to: journal",
            "oom_kill: alarms when process_oom_killed of a process is above 0, until it is 0 or less for 1 min; told \
             to: journal",
            "service_memory: warns when service_memory_limit_ratio of a service is above 90 % for 30 s, until it is \
             85 % or less for 1 min; told to: journal",
        ]
    );
    check_shown(&config);
}

#[test]
fn a_default_is_changed_by_its_name() {
    let changed = config(&[
        "[limits.host_cpu]\nabove = \"80%\"\nfor = \"1m\"\n[limits.gpu_busy]\nenabled = false\n",
        "[limits.host_cpu]\nseverity = \"critical\"\n",
    ]);
    let host_cpu = limit(&changed, "host_cpu");
    assert_eq!(host_cpu.level.get(), 0.8);
    // The shipped clear level belonged to the shipped level.
    assert_eq!(host_cpu.clear.get(), 0.72);
    assert_eq!(
        (host_cpu.hold_for, host_cpu.severity, host_cpu.metric),
        (Duration::from_secs(60), Severity::Critical, Metric::HostCpuBusy)
    );
    assert!(changed.limits_in_force().all(|limit| limit.name != "gpu_busy"));
    assert_eq!(changed.limits.len(), Config::default().limits.len());
    check_shown(&changed);
    // Where there is no room for a tenth, half of what is left must do.
    let high = config(&["[limits.x]\nreading = \"host_cpu_busy_ratio\"\nbelow = \"96%\"\n"]);
    assert_eq!(limit(&high, "x").clear.get(), 0.98);
    let zero = config(&["[limits.x]\nreading = \"service_cpu_cores\"\nabove = 0\n"]);
    assert_eq!(limit(&zero, "x").clear.get(), 0.0);
    // A clear level that was written stays.
    let written = config(&[
        "[limits.host_cpu]\nclear = \"50%\"\n",
        "[limits.host_cpu]\nabove = \"60%\"\n",
    ]);
    assert_eq!(limit(&written, "host_cpu").clear.get(), 0.5);
}

#[test]
fn a_limit_of_ones_own() {
    let text = r#"
        [limits.web_memory]
        reading = "service_memory_bytes"
        subject = "web"
        above = "2GiB"
        for = "10s"
        keep_firing_for = "0s"
        no_data_after = "5m"
        severity = "critical"
        sinks = ["ops"]
        labels = { team = "web", page = "https://wiki/web" }
        [limits.idle]
        reading = "service_cpu_cores"
        below = 0.5
        [sinks.ops]
        kind = "webhook"
        url = "https://ops.example:8443/hook?x=1"
        proxy = "http://proxy:3128"
        proxy_auth_file = "/etc/profiler/proxy-user"
        token_file = "/etc/profiler/token"
        headers_file = "/etc/profiler/headers"
        ca_file = "/etc/profiler/ca.pem"
        timeout = "3s"
        min_severity = "critical"
        [sinks.script]
        kind = "command"
        argv = ["/usr/local/bin/tell", "--json"]
        [sinks.am]
        kind = "alertmanager"
        url = "http://127.0.0.1:9093"
        [sinks.journal]
        enabled = false
        [alerts]
        external_url = "https://profiler.example/host1"
        history = "7d"
        max_history = 5
        max_evidence_bytes = "1MiB"
        census_apart = "5m"
    "#;
    let config = config(&[text]);
    let web = limit(&config, "web_memory");
    assert_eq!(web.subjects, Subjects::Named("web".to_owned()));
    assert_eq!((web.level.get(), web.comparison), (2_147_483_648.0, Comparison::Above));
    assert_eq!(web.clear, Level::new(2_147_483_648.0 * 0.9).unwrap());
    assert_eq!(web.sinks, ["ops"]);
    assert_eq!(web.labels["team"], "web");
    assert!(web.keep_firing_for.is_zero());
    // Who is not named hears of it by severity; a sink that is switched off does not.
    let idle = limit(&config, "idle");
    assert_eq!((idle.level.get(), idle.clear.get()), (0.5, 0.55));
    assert_eq!(idle.sinks, ["am", "script"]);
    let SinkTarget::Webhook(ops) = sink(&config, "ops").target else {
        panic!("a webhook");
    };
    assert_eq!(ops.url, "https://ops.example:8443/hook?x=1");
    assert_eq!(ops.proxy.as_deref(), Some("http://proxy:3128"));
    assert_eq!(ops.proxy_auth_file, Some(PathBuf::from("/etc/profiler/proxy-user")));
    assert_eq!(ops.token_file, Some(PathBuf::from("/etc/profiler/token")));
    assert_eq!(sink(&config, "ops").timeout, Duration::from_secs(3));
    let SinkTarget::Command { argv } = sink(&config, "script").target else {
        panic!("a command");
    };
    assert_eq!(argv, ["/usr/local/bin/tell", "--json"]);
    assert_eq!(config.alerts.external_url, "https://profiler.example/host1");
    assert_eq!(config.alerts.max_history.get(), 5);
    assert_eq!(config.alerts.census_apart, Duration::from_secs(300));
    check_shown(&config);
}

#[test]
fn mistakes_in_limits_are_named_with_their_line() {
    let own = "[limits.x]\nreading = \"host_cpu_busy_ratio\"\n";
    check_mistake(
        "[limits.x]\n\nreading = \"cpu_busy\"\nabove = 0.5\n",
        "a.toml:3",
        &["no reading \"cpu_busy\"", "did you mean \"host_cpu_busy_ratio\""],
    );
    check_mistake("[limits.x]\nreading = \"?\"\nabove = 1\n", "a.toml:2", &["no reading"]);
    check_mistake("\n[limits.x]\nabove = 1\n", "a.toml:2", &["needs a `reading`"]);
    check_mistake(own, "a.toml:1", &["needs a level"]);
    check_mistake(
        &format!("{own}above = \"70%\"\nclear = \"75%\"\n"),
        "a.toml:4",
        &["wrong side", "above 70%", "75%"],
    );
    check_mistake(
        &format!("{own}below = \"70%\"\nclear = \"60%\"\n"),
        "a.toml:4",
        &["wrong side", "below 70%"],
    );
    check_mistake(
        "[limits.host_cpu]\nclear = \"80%\"\n",
        "a.toml:2",
        &["wrong side", "above 70%"],
    );
    check_mistake(
        &format!("{own}above = \"101%\"\n"),
        "a.toml:3",
        &["from \"0%\" to \"100%\"", "not 101%"],
    );
    check_mistake(
        &format!("{own}above = 70\n"),
        "a.toml:3",
        &["from \"0%\" to \"100%\"", "not 70"],
    );
    check_mistake(
        &format!("{own}above = \"100%\"\n"),
        "a.toml:3",
        &["no value", "above 100%"],
    );
    check_mistake(&format!("{own}below = 0\n"), "a.toml:3", &["no value", "below 0"]);
    check_mistake(
        &format!("{own}above = \"2GiB\"\n"),
        "a.toml:3",
        &["a share", "not 2GiB"],
    );
    check_mistake(&format!("{own}above = \"much\"\n"), "a.toml:3", &["much", "a level"]);
    check_mistake(&format!("{own}above = inf\n"), "a.toml:3", &["a level"]);
    check_mistake(&format!("{own}above = true\n"), "a.toml:3", &["a level"]);
    check_mistake(
        "[limits.x]\nreading = \"service_memory_bytes\"\nabove = \"90%\"\n",
        "a.toml:3",
        &["a size", "not 90%"],
    );
    check_mistake(
        "[limits.x]\nreading = \"service_cpu_cores\"\nabove = -1\n",
        "a.toml:3",
        &["a number from 0 on"],
    );
}

#[test]
fn mistakes_in_what_else_a_limit_says() {
    check_mistake("[limits.host_cpu]\nbelow = \"10%\"\n", "a.toml:2", &["one level"]);
    check_mistake("[limits.host_cpu]\nfor = \"2d\"\n", "a.toml:2", &["2d", "to \"1d\""]);
    check_mistake(
        "[limits.host_cpu]\nno_data_after = \"1s\"\n",
        "a.toml:2",
        &["from \"5s\""],
    );
    check_mistake(
        "[limits.host_cpu]\nfro = \"2m\"\n",
        "a.toml:2",
        &["fro", "keep_firing_for"],
    );
    check_mistake(
        "[limits.host_cpu]\nseverity = \"bad\"\n",
        "a.toml:2",
        &["bad", "critical"],
    );
    check_mistake("[limits.host_cpu]\nsubject = \"x\"\n", "a.toml:2", &["about the host"]);
    check_mistake(
        "[limits.x]\nreading = \"process_cpu_cores\"\nsubject = \"12\"\nabove = 1\n",
        "a.toml:3",
        &["name a service"],
    );
    check_mistake(
        "[limits.host_cpu]\nsinks = [\n  \"journal\",\n  \"pager\",\n]\n",
        "a.toml:4",
        &["no sink \"pager\"", "there are: journal"],
    );
    check_mistake(
        "[limits.host_cpu]\nlabels = { severity = \"x\" }\n",
        "a.toml:2",
        &["set by the limit"],
    );
    check_mistake(
        "[limits.host_cpu]\nlabels = { \"a-b\" = \"x\" }\n",
        "a.toml:2",
        &["a-b"],
    );
    check_mistake(
        "[limits.host_cpu]\nlabels = { a = \"\" }\n",
        "a.toml:2",
        &["needs a value"],
    );
    check_mistake("[limits.\"a b\"]\n", "a.toml:1", &["no name of a limit"]);
    check_mistake("[limits.host_cpu.above]\n", "a.toml:1", &[]);
    check_mistake("[[limits.host_cpu]]\n", "a.toml:1", &[]);
}

#[test]
fn mistakes_in_sinks_are_named_with_their_line() {
    check_mistake("[sinks.x]\n", "a.toml:1", &["needs a `kind`"]);
    check_mistake("[sinks.x]\nkind = \"mail\"\n", "a.toml:2", &["mail", "alertmanager"]);
    check_mistake("[sinks.x]\nkind = \"webhook\"\n", "a.toml:1", &["needs a `url`"]);
    check_mistake(
        "[sinks.x]\nkind = \"webhook\"\nurl = \"ftp://x\"\n",
        "a.toml:3",
        &["no address"],
    );
    check_mistake(
        "[sinks.x]\nkind = \"webhook\"\nurl = \"http:///x\"\n",
        "a.toml:3",
        &["no address"],
    );
    check_mistake(
        "[sinks.x]\nkind = \"webhook\"\nurl = \"https://me:secret@x/\"\n",
        "a.toml:3",
        &["no user or password"],
    );
    check_mistake(
        "[sinks.x]\nkind = \"webhook\"\nurl = \"https://x/\"\nproxy_auth_file = \"/p\"\n",
        "a.toml:4",
        &["`proxy_auth_file` is for a `proxy`"],
    );
    check_mistake(
        "[sinks.x]\nkind = \"webhook\"\nurl = \"https://x/\"\ntoken_file = \"token\"\n",
        "a.toml:4",
        &["absolute path"],
    );
    check_mistake(
        "[sinks.x]\nkind = \"command\"\nargv = [\"tell\"]\n",
        "a.toml:3",
        &["absolute path", "no shell"],
    );
    check_mistake("[sinks.x]\nkind = \"command\"\n", "a.toml:1", &["needs an `argv`"]);
    check_mistake(
        "[sinks.journal]\nurl = \"https://x/\"\n",
        "a.toml:2",
        &["`url` is for webhooks"],
    );
    check_mistake(
        "[sinks.x]\nkind = \"journal\"\nargv = [\"/x\"]\n",
        "a.toml:3",
        &["`argv` is for a command"],
    );
    check_mistake("[sinks.journal]\ntimeout = \"1h\"\n", "a.toml:2", &["to \"1m\""]);
    check_mistake("[sinks.journal]\ntoken = \"x\"\n", "a.toml:2", &["token"]);
    check_mistake(
        "[limits.host_cpu]\nsinks = [\"journal\"]\n[sinks.journal]\nmin_severity = \"critical\"\n",
        "a.toml:2",
        &["nothing below critical", "the limit is warning"],
    );
    check_mistake("[alerts]\nexternal_url = \"x\"\n", "a.toml:2", &["no address"]);
    check_mistake("[alerts]\nhistory = \"1h\"\n", "a.toml:2", &["from \"1d\""]);
}

/// A mistake is told once, in the file that made it.
#[test]
fn mistakes_of_several_files() {
    let shown = sources(&[
        "[sinks.ops]\nkind = \"webhook\"\nurl = \"https://x\"\n[limits.a]\nreading = \"x\"\n",
        "[limits.host_cpu]\nsinks = [\"opss\"]\n",
    ])
    .resolve()
    .unwrap_err()
    .to_string();
    let places: Vec<&str> = shown.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(places, ["a.toml:5", "b.toml:2"], "{shown}");
    let many: String = (0..101)
        .map(|number| format!("[limits.x{number}]\nreading = \"x\"\n"))
        .collect();
    let shown = sources(&[&many]).resolve().unwrap_err().to_string();
    assert!(shown.contains("more than 100 limits"), "{shown}");
}

/// What the shipped file states of limits and sinks is what they are.
#[test]
fn the_shipped_file_states_the_limits() {
    let is_key = |line: &&str| line.starts_with('#') && !line.starts_with("# ") && line.len() > 1;
    let stated: String = SHIPPED
        .lines()
        .map(|line| format!("{}\n", if is_key(&line) { &line[1..] } else { line }))
        .collect();
    let stated: toml::Table = stated.parse().unwrap();
    let defaults: toml::Table = Config::default().to_toml().unwrap().parse().unwrap();
    for section in ["limits", "sinks"] {
        let (stated, defaults) = (
            stated[section].as_table().unwrap(),
            defaults[section].as_table().unwrap(),
        );
        for (name, limit) in defaults {
            let stated = stated[name].as_table().unwrap();
            assert!(!stated.is_empty(), "{section}.{name}");
            for (key, value) in stated {
                assert_eq!(Some(value), limit.get(key), "{section}.{name}.{key}");
            }
        }
    }
    let first = stated["limits"]["host_cpu"].as_table().unwrap();
    let keys: Vec<&String> = first.keys().collect();
    let all: Vec<&String> = defaults["limits"]["host_cpu"].as_table().unwrap().keys().collect();
    assert_eq!(keys, all, "one limit states every key");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is right is shown so that it reads the same.
    #[test]
    fn any_level_is_shown_as_it_is(above in 0.000_001..0.999_f64, share in 0.0..1.0_f64, metric in 0..Metric::ALL.len()) {
        let reading = Metric::ALL[metric];
        let text = format!(
            "[limits.x]\nreading = \"{reading}\"\nabove = {above:?}\nclear = {:?}\n[limits.y]\nreading = \"{reading}\"\nbelow = {above:?}\n",
            above * share
        );
        check_shown(&config(&[&text]));
    }

    #[test]
    fn any_limit_is_read_or_refused_on_one_line(
        key in "reading|subject|above|below|clear|for|severity|sinks|labels|kind|url|argv",
        value in "\\PC{0,30}|\"[0-9.]{1,9}(%|s|GiB)\"|[0-9.e-]{1,9}|\\[\"[a-z]{0,5}\"\\]|\\{[a-z]{0,3}=\"x\"\\}",
        section in "limits|sinks",
        name in prop::sample::select(vec!["host_cpu", "journal", "x", "\"\\n\""]),
    ) {
        if let Err(errors) = sources(&[&format!("[{section}.{name}]\n{key} = {value}\n")]).resolve() {
            for line in errors.to_string().lines() {
                assert!(line.starts_with("a.toml:"), "{line}");
            }
        }
    }
}

/// The examples of the documentation mean something, each by itself.
#[test]
fn examples_are_right() {
    let text = include_str!("../../../docs/alerts.md");
    let mut examples: Vec<String> = Vec::new();
    let mut is_inside = false;
    for line in text.lines() {
        match line.strip_prefix("    ") {
            // Commands and units of systemd are no configuration.
            Some(code)
                if is_inside || code.starts_with("[limits.") || code.starts_with("[sinks.") || code == "[alerts]" =>
            {
                if !is_inside {
                    examples.push(String::new());
                }
                is_inside = true;
                let example = examples.last_mut().unwrap();
                example.push_str(code);
                example.push('\n');
            }
            // Two tables of one example have an empty line between them.
            _ => is_inside = is_inside && line.is_empty(),
        }
    }
    assert!(examples.len() >= 7, "{examples:#?}");
    for example in &examples {
        sources(&[example.as_str()])
            .resolve()
            .unwrap_or_else(|error| panic!("{error}:\n{example}"));
    }
    let all = examples.concat();
    for kind in ["journal", "webhook", "alertmanager", "command"] {
        assert!(
            all.contains(&format!("kind = \"{kind}\"")),
            "no example of the kind {kind}"
        );
    }
}
