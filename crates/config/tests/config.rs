//! What configurations mean, and what is said of wrong ones.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    time::Duration,
};

use profiler_config::{
    Config, LogFormat, LogLevel, NamedService, Pattern, ReadError, Setting, SourceFile, Sources, WalkerLoop,
    read_default_files, read_file,
};
use proptest::prelude::{ProptestConfig, any, prop, proptest};

const SHIPPED: &str = include_str!("../../../packaging/config.toml");

fn file(path: &str, text: &str) -> SourceFile {
    SourceFile {
        path: PathBuf::from(path),
        contents: text.as_bytes().to_vec(),
    }
}

fn files(files: &[(&str, &str)]) -> Sources {
    Sources {
        files: files.iter().map(|(path, text)| file(path, text)).collect(),
        ..Sources::default()
    }
}

fn environment(variables: &[(&str, &str)]) -> Sources {
    let mut sources = Sources::default();
    sources.add_environment(
        variables
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value))),
    );
    sources
}

/// Every mistake in one file, as it is shown.
fn mistakes(text: &str) -> String {
    files(&[("a.toml", text)]).resolve().expect_err("a mistake").to_string()
}

#[track_caller]
fn check_mistake(text: &str, place: &str, parts: &[&str]) {
    let shown = mistakes(text);
    assert!(shown.starts_with(&format!("{place}: ")), "{text:?} gave {shown}");
    for part in parts {
        assert!(shown.contains(part), "{text:?} gave {shown}, without {part}");
    }
    assert_eq!(shown.lines().count(), 1, "{shown}");
}

#[test]
fn nothing_written_is_the_defaults() {
    assert_eq!(Sources::default().resolve().unwrap(), Config::default());
}

#[test]
fn every_key_is_meant_as_written() {
    let text = r#"
        state_dir = "/srv/profiler"
        [sampling]
        hz = 997
        walker_loop = "for_each_map_elem"
        [targets]
        discover_rust = false
        max_processes = 7
        include = ["nginx*", "/srv/**"]
        exclude = ["bash"]
        watch_self = true
        [[targets.services]]
        name = "billing"
        command_lines = ["* -m billing.*"]
        [[targets.services]]
        name = "web"
        executables = ["/srv/web/**"]
        units = ["web-*.service"]
        [symbols]
        cache_bytes = "1MiB"
        max_debug_info_bytes = "64KiB"
        [store]
        retention = "1h"
        max_bytes = "2MiB"
        window = "1s"
        [walker]
        max_row_bytes = "2MiB"
        max_cached_row_bytes = "0B"
        [budget]
        max_cpu_percent = 7
        max_memory_bytes = "1GiB"
        max_kernel_bytes = "8MiB"
        averaged_over = "2s"
        recover_after = "5m"
        [gpu]
        enabled = false
        library = "/opt/nvidia/libnvidia-ml.so.1"
        [api]
        socket = "/tmp/x.sock"
        read_group = "staff"
        act_group = ""
        [log]
        format = "json"
        level = "debug"
    "#;
    let config = files(&[("a.toml", text)]).resolve().unwrap();
    assert_eq!(config.state_dir, Path::new("/srv/profiler"));
    assert_eq!(
        (config.sampling.hz.get(), config.sampling.walker_loop),
        (997, WalkerLoop::ForEachMapElem)
    );
    assert!(!config.targets.discover_rust && config.targets.watch_self);
    assert_eq!(config.targets.max_processes.get(), 7);
    assert_eq!(
        config.targets.include,
        [Pattern::new("nginx*").unwrap(), Pattern::new("/srv/**").unwrap()]
    );
    assert_eq!(config.targets.exclude, [Pattern::new("bash").unwrap()]);
    let names = config.targets.services.iter().map(NamedService::name);
    assert_eq!(names.collect::<Vec<_>>(), ["billing", "web"]);
    assert_eq!(
        (config.symbols.cache_bytes, config.symbols.max_debug_info_bytes),
        (1 << 20, 64 << 10)
    );
    assert_eq!(
        (config.store.retention, config.store.window),
        (Duration::from_secs(3600), Duration::from_secs(1))
    );
    assert_eq!(
        (config.store.max_bytes, config.walker.max_row_bytes),
        (2 << 20, 2 << 20)
    );
    assert_eq!(config.walker.max_cached_row_bytes, 0);
    assert_eq!(
        (
            config.budget.max_cpu_percent.get(),
            config.budget.max_memory_bytes,
            config.budget.max_kernel_bytes
        ),
        (7, 1 << 30, 8 << 20)
    );
    assert_eq!(
        (config.budget.averaged_over, config.budget.recover_after),
        (Duration::from_secs(2), Duration::from_secs(300))
    );
    assert!(!config.gpu.enabled);
    assert_eq!(
        config.gpu.library.as_deref(),
        Some(Path::new("/opt/nvidia/libnvidia-ml.so.1"))
    );
    assert_eq!(config.api.socket, Path::new("/tmp/x.sock"));
    assert_eq!(
        (config.api.read_group.as_str(), config.api.act_group.as_str()),
        ("staff", "")
    );
    assert_eq!(
        (config.log.format, config.log.level),
        (LogFormat::Json, LogLevel::Debug)
    );
    assert_eq!(
        files(&[("b.toml", &config.to_toml().unwrap())]).resolve().unwrap(),
        config
    );
}

#[test]
fn mistakes_are_named_with_their_line() {
    check_mistake("[sampling]\nhertz = 99\n", "a.toml:2", &["hertz", "hz", "walker_loop"]);
    check_mistake("\n\n[sampler]\nhz = 99\n", "a.toml:3", &["sampler", "sampling"]);
    check_mistake("hz = 99\n", "a.toml:1", &["hz", "state_dir"]);
    check_mistake(
        "[sampling]\n# why\nhz = \"fast\"\n",
        "a.toml:3",
        &["fast", "an integer from 1 to 10000"],
    );
    check_mistake(
        "[gpu]\nlibrary = \"nvml.so\"\n",
        "a.toml:2",
        &["nvml.so", "an absolute path"],
    );
    check_mistake("[sampling]\nhz = 0\n", "a.toml:2", &["0", "an integer from 1 to 10000"]);
    check_mistake("[sampling]\nhz = 10001\n", "a.toml:2", &["10001"]);
    check_mistake("[sampling]\nhz = -1\n", "a.toml:2", &["-1"]);
    check_mistake("[sampling]\nhz = 9.5\n", "a.toml:2", &["9.5"]);
    check_mistake(
        "[sampling]\nwalker_loop = \"for\"\n",
        "a.toml:2",
        &["auto", "bpf_loop", "for_each_map_elem"],
    );
    check_mistake(
        "[store]\nmax_bytes = \"32MB\"\n",
        "a.toml:2",
        &["32MB", "from \"1MiB\" to \"4GiB\"", "KiB"],
    );
    check_mistake("[store]\nmax_bytes = 32\n", "a.toml:2", &["a size"]);
    check_mistake(
        "[store]\nretention = \"2d\"\n",
        "a.toml:2",
        &["2d", "from \"1m\" to \"1d\""],
    );
    check_mistake(
        "[walker]\nmax_row_bytes = \"1MiB\"\n",
        "a.toml:2",
        &["from \"2MiB\" to \"128MiB\""],
    );
    check_mistake(
        "[budget]\nmax_memory_bytes = \"7MiB\"\n",
        "a.toml:2",
        &["from \"8MiB\" to \"64GiB\""],
    );
    check_mistake(
        "[api]\nsocket = \"run/x\"\n",
        "a.toml:2",
        &["run/x", "absolute path", "107"],
    );
    check_mistake("[api]\nread_group = \"a:b\"\n", "a.toml:2", &["a:b", "name of a group"]);
    check_mistake("[targets]\ninclude = [\"x\", \"\"]\n", "a.toml:2", &["empty pattern"]);
    check_mistake("[targets]\ninclude = \"x\"\n", "a.toml:2", &["sequence"]);
    check_mistake(
        "[[targets.services]]\nname = \"x\"\n",
        "a.toml:1",
        &["x", "executables", "command_lines"],
    );
    check_mistake(
        "[[targets.services]]\nname = \"x\"\nunits = [\"\"]\n",
        "a.toml:3",
        &["pattern"],
    );
    check_mistake("[log]\nlevel = \"loud\"\n", "a.toml:2", &["loud", "error", "trace"]);
    check_mistake("[sampling]\nhz = 1\nhz = 2\n", "a.toml:3", &["duplicate"]);
    check_mistake("[sampling\n", "a.toml:1", &[]);
    check_mistake("[log]\nlevel = \"a\\u001bb\"\n", "a.toml:2", &["\\u{1b}"]);
    check_mistake(
        "[api]\nread_group = \"x\"\nact_group = \"x\"\n",
        "configuration",
        &["both \"x\""],
    );
}

#[test]
fn a_file_that_is_no_text() {
    let mut sources = files(&[("a.toml", "")]);
    sources.files[0].contents = b"[log]\nlevel = \"\xff\"\n".to_vec();
    assert_eq!(sources.resolve().unwrap_err().to_string(), "a.toml:2: not UTF-8");
}

#[test]
fn every_wrong_source_is_told() {
    let mut sources = files(&[
        ("a.toml", "x = 1"),
        ("b.toml", "[log]\nlevel = \"info\""),
        ("c.toml", "\ny = 1"),
    ]);
    sources.flags.push(Setting::from_flag("--hz", "sampling.hz", "many"));
    let shown = sources.resolve().unwrap_err().to_string();
    let places: Vec<&str> = shown.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(places, ["a.toml:1", "c.toml:2", "flag --hz"]);
}

#[test]
fn later_sources_win_key_by_key() {
    let mut sources = files(&[
        (
            "config.toml",
            "[sampling]\nhz = 10\nwalker_loop = \"bpf_loop\"\n[targets]\ninclude = [\"a\", \"b\"]",
        ),
        ("config.d/1.toml", "[sampling]\nhz = 20\n[targets]\ninclude = [\"c\"]"),
    ]);
    let config = sources.resolve().unwrap();
    assert_eq!(
        (config.sampling.hz.get(), config.sampling.walker_loop),
        (20, WalkerLoop::BpfLoop)
    );
    assert_eq!(config.targets.include, [Pattern::new("c").unwrap()]);
    sources.add_environment([("PROFILER_SAMPLING_HZ".into(), "30".into())]);
    assert_eq!(sources.resolve().unwrap().sampling.hz.get(), 30);
    sources.flags.push(Setting::from_flag("--hz", "sampling.hz", "40"));
    assert_eq!(sources.resolve().unwrap().sampling.hz.get(), 40);
}

#[test]
fn environment_needs_no_quotes() {
    let config = environment(&[
        ("PROFILER_STATE_DIR", "/tmp/state"),
        ("PROFILER_STORE_RETENTION", "2m"),
        ("PROFILER_STORE_MAX_BYTES", "\"3MiB\""),
        ("PROFILER_TARGETS_DISCOVER_RUST", "false"),
        ("PROFILER_TARGETS_EXCLUDE", "[\"a\", \"b*\"]"),
        // A name of digits stays a name.
        ("PROFILER_API_READ_GROUP", "1000"),
        ("PROFILER_LOG", "debug"),
        ("PROFILER_SOCKET", "/other/use"),
        ("PROFILER_CLI_BIN", "/other/use"),
        ("HOME", "/root"),
    ])
    .resolve()
    .unwrap();
    assert_eq!(config.state_dir, Path::new("/tmp/state"));
    assert_eq!(
        (config.store.retention, config.store.max_bytes),
        (Duration::from_secs(120), 3 << 20)
    );
    assert!(!config.targets.discover_rust);
    assert_eq!(config.targets.exclude.len(), 2);
    assert_eq!(config.api.read_group, "1000");
    assert_eq!(
        (config.log.level, config.api.socket),
        (LogLevel::Info, Config::default().api.socket)
    );
}

#[test]
fn mistakes_in_the_environment_name_the_variable() {
    for (variable, value, part) in [
        ("PROFILER_SAMPLING_HZ", "0", "an integer from 1 to 10000"),
        ("PROFILER_SAMPLING_HZ", "abc", "abc"),
        ("PROFILER_SAMPLING_HZ", "1\n[log]", "an integer from 1 to 10000"),
        ("PROFILER_SAMPLING_HERTZ", "1", "hertz"),
        ("PROFILER_STORE_WINDOW", "1y", "from \"1s\" to \"1m\""),
        ("PROFILER_SAMPLING_HZ.X", "1", ""),
        ("PROFILER_SAMPLING_A B", "1", ""),
    ] {
        let shown = environment(&[(variable, value)]).resolve().unwrap_err().to_string();
        assert!(
            shown.starts_with(&format!("environment variable {variable}: ")),
            "{shown}"
        );
        assert!(shown.contains(part), "{shown}");
        assert_eq!(shown.lines().count(), 1, "{shown}");
    }
}

#[test]
fn a_setting_cannot_smuggle_in_another_key() {
    let config = environment(&[("PROFILER_API_READ_GROUP", "x\"\nact_group = \"y")]).resolve();
    assert!(config.is_err());
    let mut sources = Sources::default();
    sources.add_environment([("PROFILER_API_ACT_GROUP".into(), OsString::from_vec(b"x\xff\"".to_vec()))]);
    // A replacement character is no name that anyone has.
    assert_ne!(sources.resolve().unwrap().api.act_group, "x");
}

#[test]
fn the_shipped_file_states_the_defaults() {
    assert_eq!(files(&[("config.toml", SHIPPED)]).resolve().unwrap(), Config::default());
    // Prose has a space after its `#`, keys do not.
    let is_key = |line: &&str| line.starts_with('#') && !line.starts_with("# ") && line.len() > 1;
    let stated: String = SHIPPED
        .lines()
        .map(|line| format!("{}\n", if is_key(&line) { &line[1..] } else { line }))
        .collect();
    assert_eq!(files(&[("config.toml", &stated)]).resolve().unwrap(), Config::default());
    let keys = |text: &str| {
        let table: toml::Table = text.parse().unwrap();
        let section = |(name, value): (&String, &toml::Value)| match value {
            toml::Value::Table(keys) => keys.keys().map(|key| format!("{name}.{key}")).collect(),
            _ => vec![name.clone()],
        };
        table.iter().flat_map(section).collect::<Vec<String>>()
    };
    assert_eq!(keys(&stated), keys(&Config::default().to_toml().unwrap()));
    // Each value is that of the defaults, not only read as such because nothing was said.
    let changed = stated.replace("hz = 99", "hz = 98");
    assert_ne!(
        files(&[("config.toml", &changed)]).resolve().unwrap(),
        Config::default()
    );
}

#[test]
fn reads_the_main_file_and_drop_ins_in_order() {
    let directory = tempfile::tempdir().unwrap();
    assert!(read_default_files(directory.path()).unwrap().is_empty());
    fs::write(directory.path().join("config.toml"), "main").unwrap();
    fs::create_dir(directory.path().join("config.d")).unwrap();
    for name in [
        "20-b.toml",
        "10-a.toml",
        "9.toml",
        "note.txt",
        ".hidden.toml",
        "x.toml~",
    ] {
        fs::write(directory.path().join("config.d").join(name), name).unwrap();
    }
    let read = read_default_files(directory.path()).unwrap();
    let names: Vec<_> = read
        .iter()
        .map(|file| file.path.file_name().unwrap().to_str().unwrap())
        .collect();
    assert_eq!(names, ["config.toml", "10-a.toml", "20-b.toml", "9.toml"]);
    assert_eq!(read[0].contents, b"main");
}

#[test]
fn reads_only_small_regular_files() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(matches!(read_file(&fifo), Err(ReadError::NotAFile { .. })));
    assert!(matches!(read_file(directory.path()), Err(ReadError::NotAFile { .. })));
    assert!(matches!(
        read_file(&directory.path().join("gone")),
        Err(ReadError::Io { .. })
    ));
    let large = directory.path().join("large");
    fs::File::create(&large).unwrap().set_len(1 << 40).unwrap();
    assert!(matches!(read_file(&large), Err(ReadError::TooLarge { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_or_refused(contents in prop::collection::vec(any::<u8>(), 0..512)) {
        let path = PathBuf::from("a.toml");
        let _outcome = Sources { files: vec![SourceFile { path, contents }], ..Sources::default() }.resolve();
    }

    #[test]
    fn any_text_near_the_truth_is_read_or_refused_on_one_line(
        section in "[a-z_]{1,9}|sampling|targets|store|api|log",
        key in "[a-z_]{1,9}|hz|include|window|socket|level",
        value in "\\PC{0,40}|[0-9]{1,20}|\"[0-9]{1,20}[a-zA-Z]{0,3}\"|[\\[\\]{}\"',=.\n-]{0,20}",
    ) {
        if let Err(errors) = files(&[("a.toml", &format!("[{section}]\n{key} = {value}\n"))]).resolve() {
            assert_eq!(errors.to_string().lines().count(), 1);
        }
        let variable = format!("PROFILER_{}_{}", section.to_uppercase(), key.to_uppercase());
        if let Err(errors) = environment(&[(&variable, &value)]).resolve() {
            assert_eq!(errors.to_string().lines().count(), 1);
        }
    }
}
