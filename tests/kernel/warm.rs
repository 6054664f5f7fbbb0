//! A daemon that was there before: rows of known binaries come from its state directory, and from there only as they were
//! written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use profiler_tests::daemon::{Daemon, DaemonOptions, Host};

use crate::{FAST_HZ, host, only, profile_once, start};

#[test]
fn a_restarted_daemon_compiles_nothing_anew_and_refuses_damaged_rows() {
    let Some(host) = host() else { return };
    let program = host.rust("deep");
    let deep = start(&program, &[]);
    let state = host.path("state");
    let (cold, compiled) = whole_profile(&host, &state, deep.pid());
    assert!(cold.served.is_empty() && !compiled.is_empty(), "{cold:?}");
    let kept = rows(&state);
    assert_eq!(
        BTreeSet::from_iter(kept.keys().cloned()),
        compiled,
        "what was compiled is kept"
    );

    let (warm, compiled) = whole_profile(&host, &state, deep.pid());
    assert_eq!(
        (warm.served, compiled),
        (BTreeSet::from_iter(kept.keys().cloned()), BTreeSet::new())
    );
    assert_eq!(rows(&state), kept);

    // One byte in the middle of the largest table, which is the C library's or the program's.
    let (name, content) = kept.iter().max_by_key(|(_, content)| content.len()).unwrap();
    let mut damaged = content.clone();
    damaged[content.len() / 2] ^= 1;
    fs::write(state.join("rows").join(name), &damaged).unwrap();
    let (mended, compiled) = whole_profile(&host, &state, deep.pid());
    assert_eq!(compiled, BTreeSet::from([name.clone()]), "{mended:?}");
    assert!(!mended.served.contains(name));
    assert!(mended.refused.contains(name), "{mended:?}");
    assert_eq!(rows(&state), kept, "the damaged table is as it was");
}

/// What the log of a daemon tells of the tables that it keeps.
#[derive(Debug)]
struct Told {
    served: BTreeSet<String>,
    refused: String,
}

/// Starts a daemon, takes whole stacks of a process, and ends it. Also the tables that were compiled and are worth keeping.
fn whole_profile(host: &Host, state: &Path, pid: u32) -> (Told, BTreeSet<String>) {
    let config = only(FAST_HZ, "deep") + "[log]\nlevel = \"debug\"\nformat = \"human\"\n";
    let daemon: Daemon = host.spawn(DaemonOptions::new(&config).with_state_dir(state)).ready();
    profile_once(&daemon, pid, 200, |profile| profile.rooted_share() >= 99.0).assert_rooted(99.0);
    let log = daemon.log();
    let names = |about: &str| {
        let lines = log.lines().filter(|line| line.contains(about));
        let words = lines.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '.'));
        BTreeSet::from_iter(words.filter(|word| word.ends_with(".rows")).map(str::to_owned))
    };
    let refused = log.lines().filter(|line| line.contains("kept rows are compiled again"));
    let told = Told {
        served: names("kept rows are used"),
        refused: refused.collect(),
    };
    (told, names("compiled rows are kept"))
}

/// The files of tables.
fn rows(state: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(state.join("rows")).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect()
}
