//! Targets that mean harm: what lies at the paths of their libraries, what their files claim, and how much they map. The daemon
//! answers within its memory, names nothing wrongly, and profiles the others as ever.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use profiler_tests::{
    daemon::{Daemon, DaemonOptions, Host},
    programs::{Running, wait_for},
};

use crate::{
    FAST_HZ, MEMORY_CAP_BYTES, SAMPLES_WITHIN, failed_parts, host, profile_of, profile_once, profile_once_known, start,
    wait_until_watched,
};

/// What opening files through their mappings needs, without which their paths must do.
const MAP_FILES: [&str; 2] = ["checkpoint_restore", "sys_admin"];
/// How large a file claims to be.
const SPARSE_BYTES: u64 = 4 << 30;
/// What each of its sections claims to have: a whole number of symbols.
const CLAIMED_BYTES: u64 = 3 << 30;
/// Mappings of code, just below the kernel's own limit.
const MAPPINGS: &str = "60000";

#[test]
fn what_lies_at_a_librarys_path_is_not_taken_for_it() {
    let Some(host) = host() else { return };
    let neighbour = start(&host.rust("deep"), &[]);
    let decoy = plugin(&host, "decoy.so", "hot_decoy", &[]);
    let names = ["fifo.so", "device.so", "link.so", "folder.so", "gone.so"];
    let paths = names.map(|name| plugin(&host, name, "hot_real", &[]));
    let loads = host.c("loads", "loads", &[]);
    let here = load(&loads, &paths);
    let jail = jail(&host, &loads, &["up.so", "absolute.so"]);
    let jailed = Running::start(
        Command::new("chroot")
            .arg(&jail)
            .args(["/loads", "call:/up.so", "call:/absolute.so"]),
    );
    for path in &paths {
        fs::remove_file(path).unwrap();
    }
    run(Command::new("mkfifo").arg(&paths[0]));
    run(Command::new("mknod").arg(&paths[1]).args(["c", "1", "5"]));
    symlink(&decoy, &paths[2]).unwrap();
    fs::create_dir(&paths[3]).unwrap();
    let outside = decoy.strip_prefix("/").unwrap();
    for (name, target) in [
        ("up.so", Path::new("../../../../../..").join(outside)),
        ("absolute.so", decoy.clone()),
    ] {
        fs::remove_file(jail.join(name)).unwrap();
        symlink(target, jail.join(name)).unwrap();
    }

    let config = config();
    for (denied, is_named) in [(&[][..], true), (&MAP_FILES[..], false)] {
        let daemon = host.spawn(DaemonOptions::new(&config).denied(denied)).ready();
        for target in [&here, &jailed] {
            wait_until_watched(&daemon, target.pid());
            daemon.wait_for_samples(target.pid(), 1_000, SAMPLES_WITHIN);
            let profile = profile_of(&daemon, target.pid());
            assert_eq!(profile.samples_of("hot_decoy"), 0, "{}", profile.summary);
            assert_eq!(profile.samples_of("hot_real") > 0, is_named, "{}", profile.summary);
        }
        let limited = [(&here, &names[..]), (&jailed, &["up.so", "absolute.so"])];
        for (target, names) in limited {
            let process = daemon.process(target.pid());
            let said: Vec<_> = process["limitations"].as_array().unwrap().iter().collect();
            for name in names {
                let about = said
                    .iter()
                    .filter(|said| said.as_str().unwrap().starts_with(name))
                    .count();
                assert_eq!(about, usize::from(!is_named), "one line about {name}: {said:?}");
            }
        }
        let opened = daemon.descriptors();
        assert!(
            !opened.contains(&decoy) && !opened.contains(&paths[0]) && !opened.contains(&paths[1]),
            "{opened:?}"
        );
        assert_unharmed(&daemon, &neighbour);
    }
}

#[test]
fn equal_build_ids_are_not_equal_code() {
    let Some(host) = host() else { return };
    let neighbour = start(&host.rust("deep"), &[]);
    let daemon = host.daemon(&config());
    let forged = "-Wl,--build-id=0x0123456789abcdef0123456789abcdef01234567";
    let paths = [
        plugin(&host, "alpha.so", "hot_alpha", &[forged]),
        plugin(
            &host,
            "beta.so",
            "a_much_longer_name_for_hot_beta",
            &[forged, "-O0", "-fno-omit-frame-pointer"],
        ),
    ];
    let loads = load(&host.c("loads", "loads", &[]), &paths);
    let profile = profile_once_known(&daemon, loads.pid(), 2_000);
    profile.assert_rooted(99.0);
    for (hot, module) in [
        ("hot_alpha", "alpha.so"),
        ("a_much_longer_name_for_hot_beta", "beta.so"),
    ] {
        profile.assert_share(
            hot,
            100.0,
            |stack| stack.has(hot),
            |stack| {
                stack
                    .frames
                    .iter()
                    .all(|frame| !frame.is(hot) || frame.module == module)
                    && stack.has_in_order(&["main", "plugin_work", hot])
            },
        );
        assert!(profile.samples_of(hot) > 200, "{hot}: {}", profile.summary);
    }
    assert_unharmed(&daemon, &neighbour);
}

#[test]
fn names_of_functions_do_no_harm() {
    const PLACE: &str = "hot_name_to_be_replaced";
    const NAME: &[u8] = b"\x1b[31m<b>&\";\n\x1b]0;x\x07</t>";
    let Some(host) = host() else { return };
    let path = plugin(&host, "named.so", PLACE, &["-Wl,-Bsymbolic"]);
    let mut content = fs::read(&path).unwrap();
    let mut name = NAME.to_vec();
    name.resize(PLACE.len(), b'\r');
    let places: Vec<_> = (0..content.len())
        .filter(|&at| content[at..].starts_with(PLACE.as_bytes()))
        .collect();
    for at in places {
        content[at..at + PLACE.len()].copy_from_slice(&name);
    }
    fs::write(&path, content).unwrap();
    let daemon = host.daemon(&config());
    let loads = load(&host.c("loads", "loads", &[]), &[path]);
    wait_until_watched(&daemon, loads.pid());
    daemon.wait_for_samples(loads.pid(), 300, SAMPLES_WITHIN);
    for format in ["svg", "folded", "json", "speedscope"] {
        let output = daemon.flamegraph(loads.pid(), &["--last", "10m", "--format", format]);
        assert_eq!(output.code, Some(0), "{output:?}");
        let harmful = |text: &str| text.chars().any(|c| c.is_control() && c != '\n' && c != '\t');
        assert!(
            !harmful(&output.stdout) && !harmful(&output.stderr),
            "{format}: {output:?}"
        );
        assert!(
            output.stdout.contains("[31m"),
            "{format} has the name, escaped: {output:?}"
        );
        if format == "svg" {
            let document = roxmltree::Document::parse(&output.stdout).unwrap();
            assert!(document.descendants().all(|node| !node.has_tag_name("b")));
        }
    }
}

#[test]
fn files_that_are_huge_or_change_while_they_are_read() {
    let Some(host) = host() else { return };
    let neighbour = start(&host.rust("deep"), &[]);
    let daemon = host.daemon(&config());
    let sparse = plugin(&host, "sparse.so", "hot_sparse", &[]);
    claim(&sparse);
    let loads = host.c("loads", "loads", &[]);
    let huge = load(&loads, &[sparse]);
    wait_until_watched(&daemon, huge.pid());
    daemon.wait_for_samples(huge.pid(), 300, SAMPLES_WITHIN);
    let process = daemon.process(huge.pid());
    println!("{}", process["limitations"]);
    assert_unharmed(&daemon, &neighbour);

    let content = fs::read(neighbour_program(&neighbour)).unwrap();
    let changing = host.path("changing.so");
    fs::write(&changing, &content).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::options().write(true).open(&changing).unwrap();
            while !done.load(Ordering::Relaxed) {
                file.set_len(1_000).unwrap();
                file.write_all_at(&content, 0).unwrap();
            }
        });
        for _ in 0..5 {
            let mapped = Running::start(Command::new(&loads).arg(format!("map:{}", changing.display())));
            wait_until_watched(&daemon, mapped.pid());
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_unharmed(&daemon, &neighbour);
}

#[test]
fn sixty_thousand_mappings_are_bounded() {
    let Some(host) = host() else { return };
    let neighbour = start(&host.rust("deep"), &[]);
    let daemon = host.daemon(&config());
    let file = plugin(&host, "mapped.so", "hot_mapped", &[]);
    let remaps = host.c("remaps", "remaps", &[]);
    let file = file.to_str().unwrap();
    let many = start(&remaps, &[file, MAPPINGS, "still"]);
    wait_for("limitation", Duration::from_secs(60), || {
        let process = daemon.process(many.pid());
        let said = process["limitations"].as_array()?;
        said.iter()
            .any(|said| said.as_str().is_some_and(|said| said.contains("left out")))
            .then_some(())
    });
    assert_unharmed(&daemon, &neighbour);
    drop(many);
    let quick = start(&remaps, &[file, "2000", "churn"]);
    thread::sleep(Duration::from_secs(2));
    assert_unharmed(&daemon, &neighbour);
    drop(quick);
    assert_unharmed(&daemon, &neighbour);
}

/// Watches the programs of these tests.
fn config() -> String {
    format!(
        "[sampling]\nhz = {FAST_HZ}\n[targets]\ndiscover_rust = false\ndiscover_python = false\ninclude = [\"deep\", \"loads\", \"remaps\"]\n\
         [store]\nwindow = \"1s\"\n"
    )
}

fn plugin(host: &Host, name: &str, hot: &str, flags: &[&str]) -> PathBuf {
    let hot = format!("-DHOT={hot}");
    host.c("plugin", name, &[&["-shared", "-fPIC", &hot], flags].concat())
}

/// Starts a program that works in these plugins.
fn load(loads: &Path, plugins: &[PathBuf]) -> Running {
    let calls = plugins.iter().map(|path| format!("call:{}", path.display()));
    Running::start(Command::new(loads).args(calls))
}

/// A root of its own with a program, the libraries that it needs, and plugins.
fn jail(host: &Host, program: &Path, plugins: &[&str]) -> PathBuf {
    let jail = host.path("jail");
    fs::create_dir(&jail).unwrap();
    fs::copy(program, jail.join("loads")).unwrap();
    let needed = Command::new("ldd").arg(program).output().unwrap();
    let needed = String::from_utf8(needed.stdout).unwrap();
    for library in needed.split_ascii_whitespace().filter(|word| word.starts_with('/')) {
        let copy = jail.join(library.trim_start_matches('/'));
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(library, copy).unwrap();
    }
    for name in plugins {
        fs::copy(plugin(host, name, "hot_real", &[]), jail.join(name)).unwrap();
    }
    jail
}

/// Makes a file claim that it is of 4 GiB, and most of its sections that they are nearly as large.
fn claim(path: &Path) {
    let content = fs::read(path).unwrap();
    let word = |at: usize| usize::try_from(u64::from_le_bytes(content[at..at + 8].try_into().unwrap())).unwrap();
    let sections = usize::from(u16::from_le_bytes([content[0x3c], content[0x3d]]));
    let mut table = content[word(0x28)..][..sections * 64].to_vec();
    for section in table.chunks_exact_mut(64) {
        // Code and data, symbols, and names.
        if (1..=3).contains(&section[4]) {
            section[0x20..0x28].copy_from_slice(&CLAIMED_BYTES.to_le_bytes());
        }
    }
    let at = SPARSE_BYTES - table.len() as u64;
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&table, at).unwrap();
    file.write_all_at(&at.to_le_bytes(), 0x28).unwrap();
    assert_eq!(file.metadata().unwrap().len(), SPARSE_BYTES);
}

fn neighbour_program(neighbour: &Running) -> PathBuf {
    fs::read_link(format!("/proc/{}/exe", neighbour.pid())).unwrap()
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

/// The daemon is within its memory, no part has failed, and another process is profiled as ever.
#[track_caller]
fn assert_unharmed(daemon: &Daemon, neighbour: &Running) {
    let resident = daemon.resident_bytes();
    println!("{} KiB resident", resident >> 10);
    assert!(resident < MEMORY_CAP_BYTES, "{resident} bytes resident");
    profile_once(daemon, neighbour.pid(), 500, |profile| profile.rooted_share() >= 99.0).assert_rooted(99.0);
    assert_eq!(failed_parts(daemon), [""; 0]);
}
