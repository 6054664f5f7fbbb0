//! Daemons that die, and daemons beside each other.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use profiler_tests::{daemon::DaemonOptions, programs::wait_for};

use crate::{FAST_HZ, SAMPLES_WITHIN, host, only, profile_once, profile_once_known, start};

#[test]
fn a_killed_daemon_leaves_nothing_and_the_next_works_at_once() {
    let Some(host) = host() else { return };
    let program = host.rust("deep");
    let list = host.rust("bpf_programs");
    let deep = start(&program, &[]);
    let config = only(FAST_HZ, "deep");
    let mut daemon = host.daemon(&config);
    daemon.wait_for_samples(deep.pid(), 200, crate::SAMPLES_WITHIN);
    let held = programs_held_by(daemon.pid());
    let before = loaded_programs(&list);
    println!("{held:?} of {before:?}");
    assert!(held.len() >= 3, "{held:?}");
    for id in &held {
        assert!(
            before.iter().any(|(loaded, name)| loaded == id && !name.is_empty()),
            "{id}: {before:?}"
        );
    }
    daemon.kill();
    let socket = daemon.socket().to_path_buf();
    assert!(socket.exists(), "a killed daemon cannot remove its socket");

    let next = host.spawn(DaemonOptions::new(&config).on_socket(&socket)).ready();
    profile_once(&next, deep.pid(), 500, |profile| profile.rooted_share() >= 99.0).assert_rooted(99.0);
    // The kernel frees what nobody holds when its readers are through.
    wait_for("end of the programs", SAMPLES_WITHIN, || {
        let loaded = loaded_programs(&list);
        (!loaded.iter().any(|(id, _)| held.contains(id))).then_some(())
    });
}

#[test]
fn daemons_on_their_own_sockets_work_side_by_side() {
    let Some(host) = host() else { return };
    let program = host.rust("deep");
    let deep = start(&program, &[]);
    let first = host.daemon(&only(FAST_HZ, "deep"));
    let second = host.daemon(&only(499, "deep"));
    let (one, two) = (
        profile_once_known(&first, deep.pid(), 1_000),
        profile_once_known(&second, deep.pid(), 500),
    );
    one.assert_rooted(99.0);
    two.assert_rooted(99.0);
    for profile in [one, two] {
        profile.assert_share(
            "work",
            99.0,
            |_| true,
            |stack| stack.has_in_order(&["_start", "deep::main", "stay_busy"]),
        );
    }
    // The end of one is nothing to the other.
    drop(first);
    profile_once(&second, deep.pid(), 500, |profile| profile.rooted_share() >= 99.0).assert_rooted(99.0);
}

#[test]
fn a_second_daemon_on_a_live_socket_gives_up() {
    let Some(host) = host() else { return };
    let first = host.daemon(&only(99, "nothing-of-this-name"));
    let config = only(99, "nothing-of-this-name");
    let mut second = host.spawn(DaemonOptions::new(&config).on_socket(first.socket()));
    let status = second.ended();
    assert_eq!(status.code(), Some(1), "{status:?}");
    let log = second.log();
    let about = log
        .lines()
        .filter(|line| line.contains(&*first.socket().to_string_lossy()))
        .count();
    assert_eq!(about, 1, "one line about the socket: {log}");
    assert_eq!(first.cli(&["status"]).code, Some(0), "the first goes on");
    // And the next that comes when it has gone does not find the socket taken.
    let socket = first.socket().to_path_buf();
    drop(first);
    host.spawn(DaemonOptions::new(&config).on_socket(&temporary_parent(&socket)))
        .ready();
}

/// The socket again; its folder went with its daemon.
fn temporary_parent(socket: &Path) -> std::path::PathBuf {
    fs::create_dir_all(socket.parent().unwrap()).unwrap();
    socket.to_path_buf()
}

/// Ids of the BPF programs that a process has descriptors of.
fn programs_held_by(pid: u32) -> BTreeSet<u32> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
    let texts = descriptors.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    texts
        .filter_map(|text| {
            text.lines()
                .find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok())
        })
        .collect()
}

/// Ids and names of all BPF programs in the kernel.
fn loaded_programs(list: &Path) -> Vec<(u32, String)> {
    let output = Command::new(list).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| {
            let (id, name) = line.split_once(' ').unwrap();
            (id.parse().unwrap(), name.to_owned())
        })
        .collect()
}
