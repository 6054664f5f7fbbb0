//! Names where they are hard to come by: debug information in files of its own, code that a process generated and named,
//! programs that are deleted, replaced, over, or in a root of their own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use profiler_tests::{
    daemon::{Daemon, Host, LAST_10_MINUTES},
    programs::{Running, wait_for},
};

use crate::{
    FAST_HZ, SAMPLES_WITHIN, host, only,
    profile::{Profile, Stack},
    profile_once_known, skip, start, wait_until_watched,
};

/// What every thread of `named` does all the time.
const WORK: &str = "work_under_a_name";
const ENOUGH_SAMPLES: u64 = 300;
/// A user who is not the one of the tests: `nobody`.
const NOBODY: u32 = 65534;

/// A daemon that watches all programs of this test.
fn daemon(host: &Host) -> Daemon {
    host.daemon(&only(FAST_HZ, &host.path("**").display().to_string()))
}

/// Runs a tool, which must succeed.
fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {messages}");
}

/// Nearly all of it is in the work, from its root on.
fn assert_names(profile: &Profile) {
    profile.assert_share("work", 95.0, Stack::is_of_first_thread, |stack| {
        stack.has_in_order(&["_start", "main", WORK])
    });
}

/// Moves the symbols and lines of a program to `debug_file`, and links it to that by name and checksum.
fn strip_to(program: &Path, debug_file: &Path) {
    let objcopy = || Command::new("objcopy");
    run(objcopy().arg("--only-keep-debug").args([program, debug_file]));
    let link = format!("--add-gnu-debuglink={}", debug_file.display());
    run(objcopy().args(["--strip-all", &link]).arg(program));
}

/// A stripped program in a folder, and the debug file beside it in `.debug`.
fn stripped(host: &Host, folder: &str, flags: &[&str]) -> (PathBuf, PathBuf) {
    let compiled = host.rust_with("named", flags);
    let (folder, program) = (host.path(folder), host.path(folder).join("named"));
    fs::create_dir_all(folder.join(".debug")).unwrap();
    fs::rename(compiled, &program).unwrap();
    let debug_file = folder.join(".debug/named.debug");
    strip_to(&program, &debug_file);
    (program, debug_file)
}

#[test]
fn debug_files_name_what_was_stripped() {
    let Some(host) = host() else { return };
    if Command::new("objcopy").arg("--version").output().is_err() {
        return skip("there is no objcopy");
    }
    let without_id = ["-g", "-Clink-arg=-Wl,--build-id=none"];
    let with_id = ["-g", "-Clink-arg=-Wl,--build-id=0x0123456789abcdef"];
    let (linked, _) = stripped(&host, "linked", &without_id);
    let (forged, forgery) = stripped(&host, "forged", &without_id);
    fs::write(&forgery, [fs::read(&forgery).unwrap(), vec![0]].concat()).unwrap();
    let (foreign, of_another) = stripped(&host, "foreign", &without_id);
    std::os::unix::fs::chown(&of_another, Some(NOBODY), None).unwrap();
    let (built, by_id) = stripped(&host, "built", &with_id);
    let daemon = daemon(&host);
    let [linked, forged, foreign] = [linked, forged, foreign].map(|program| start(&program, &[]));
    // Only in its own root is there a file with its build id.
    let script = "mount -t tmpfs none /usr/lib/debug && mkdir -p /usr/lib/debug/.build-id/01 && \
                  mv \"$2\" /usr/lib/debug/.build-id/01/23456789abcdef.debug && exec \"$1\"";
    let built = in_mount_namespace(script, &[&built, &by_id]);

    assert_names(&profile_once_known(&daemon, linked.pid(), ENOUGH_SAMPLES));
    assert_names(&profile_once_known(&daemon, built.pid(), ENOUGH_SAMPLES));
    for (refused, reason) in [(&forged, "checksum"), (&foreign, "another user")] {
        let profile = profile_once_known(&daemon, refused.pid(), ENOUGH_SAMPLES);
        assert_eq!(profile.samples_of(WORK), 0, "{reason}");
        assert!(daemon.log().contains(reason), "{}", daemon.log());
    }
}

/// A shell script in a mount namespace of its own, which says `ready` once it has executed a program that does.
fn in_mount_namespace(script: &str, arguments: &[&Path]) -> Running {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).args(arguments);
    Running::start(&mut command)
}

#[test]
fn generated_code_has_the_names_of_its_perf_map() {
    let Some(host) = host() else { return };
    let program = host.rust("jit");
    let daemon = daemon(&host);
    let jit = start(&program, &["map"]);
    let profile = profile_once_known(&daemon, jit.pid(), 2 * ENOUGH_SAMPLES);
    fs::remove_file(format!("/tmp/perf-{}.map", jit.pid())).unwrap();
    assert_generated(&profile);
    let shown = daemon.flamegraph(jit.pid(), &LAST_10_MINUTES);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(!shown.stdout.contains('\u{1b}') && !shown.stdout.contains("<b>"));
}

fn assert_generated(profile: &Profile) {
    profile.assert_share(
        "callback",
        95.0,
        |stack| stack.has("work_in_callback"),
        |stack| {
            let caller = stack
                .position("work_in_callback")
                .and_then(|callback| callback.checked_sub(1));
            let caller = caller.map(|caller| &stack.frames[caller]);
            caller.is_some_and(|frame| frame.function.starts_with("calls back") && frame.module == "[jit]")
        },
    );
    profile.assert_share(
        "busy in generated code",
        95.0,
        |stack| stack.user_leaf().is_some_and(|frame| frame.module == "[jit]"),
        |stack| stack.has_in_order(&["_start", "jit::main", "count_in_generated", "counts_down"]),
    );
}

/// The id in the name of the file is that of the process in its own namespace, and the file lies in its own root.
#[test]
fn the_perf_map_is_that_of_the_namespaces_of_its_process() {
    let Some(host) = host() else { return };
    let program = host.rust("jit");
    let daemon = daemon(&host);
    let script = "exec 3<\"$1\"; mount -t tmpfs none /tmp && exec /proc/self/fd/3 map";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh"]);
    let unshare = Running::start(command.arg(&program));
    let children = format!("/proc/{0}/task/{0}/children", unshare.pid());
    let jit: u32 = fs::read_to_string(children).unwrap().trim().parse().unwrap();
    assert_generated(&profile_once_known(&daemon, jit, 2 * ENOUGH_SAMPLES));
}

#[test]
fn a_perf_map_of_another_user_is_refused() {
    let Some(host) = host() else { return };
    let program = host.rust("jit");
    let jit = start(&program, &["map"]);
    let map = format!("/tmp/perf-{}.map", jit.pid());
    std::os::unix::fs::chown(&map, Some(NOBODY), None).unwrap();
    let daemon = daemon(&host);
    let profile = profile_once_known(&daemon, jit.pid(), ENOUGH_SAMPLES);
    fs::remove_file(map).unwrap();
    let named = profile.count(|stack| stack.frames.iter().any(|frame| frame.module == "[jit]"));
    assert_eq!(named, 0, "{:#?}", profile.stacks);
    assert!(profile.count(|stack| stack.frames.iter().any(|frame| frame.module == "[anon]")) > 0);
    assert!(daemon.log().contains("another user"), "{}", daemon.log());
}

#[test]
fn programs_in_roots_of_their_own_are_named() {
    let Some(host) = host() else { return };
    // Four copies to be named at a time: without lines that takes no time.
    let program = host.rust_with("named", &["-Cstrip=debuginfo"]);
    let root = host.path("root");
    fill_root(&program, &root);
    fs::create_dir(host.path("hidden")).unwrap();
    // One of each kind runs before the daemon, one after it.
    let script = "mount -t tmpfs none \"$2\" && cp \"$1\" \"$2/named\" && exec \"$2/named\"";
    let hidden = || in_mount_namespace(script, &[&program, &host.path("hidden")]);
    let confined = || Running::start(Command::new("chroot").arg(&root).arg("/named"));
    let before = [hidden(), confined()];
    let daemon = daemon(&host);
    let after = [hidden(), confined()];
    for process in before.iter().chain(&after) {
        let profile = profile_once_known(&daemon, process.pid(), ENOUGH_SAMPLES);
        profile.assert_rooted(95.0);
        assert_names(&profile);
    }
}

/// Copies a program into a root with the libraries that it needs.
fn fill_root(program: &Path, root: &Path) {
    fs::create_dir(root).unwrap();
    fs::copy(program, root.join("named")).unwrap();
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
        let copy = root.join(&library[1..]);
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(library, copy).unwrap();
    }
}

#[test]
fn deleted_and_replaced_programs_keep_their_own_names() {
    let Some(host) = host() else { return };
    let place = host.path("service");
    fs::rename(host.rust("named"), &place).unwrap();
    let first = start(&place, &[]);
    let daemon = daemon(&host);
    // Deleted before anybody looked, and another program lies at its path.
    fs::rename(host.c("plain", "plain", &[]), host.path("next")).unwrap();
    fs::rename(host.path("next"), &place).unwrap();
    let second = start(&place, &["busy"]);
    wait_until_watched(&daemon, second.pid());
    fs::remove_file(&place).unwrap();
    let profile = profile_once_known(&daemon, first.pid(), ENOUGH_SAMPLES);
    assert_names(&profile);
    assert_eq!(profile.samples_of("work_in_c"), 0);
    let profile = profile_once_known(&daemon, second.pid(), ENOUGH_SAMPLES);
    assert_eq!(profile.samples_of(WORK), 0);
    profile.assert_share("work in C", 95.0, Stack::is_of_first_thread, |stack| {
        stack.has_in_order(&["_start", "main", "work_in_c"])
    });
}

#[test]
fn processes_that_are_over_are_named() {
    let Some(host) = host() else { return };
    let place = host.path("short");
    // When the window ends and is named, neither the process nor its program exists any more.
    let config = only(FAST_HZ, &host.path("**").display().to_string()).replace("window = \"1s\"", "window = \"5s\"");
    let daemon = host.daemon(&config);
    fs::rename(host.rust("named"), &place).unwrap();
    let mut short = start(&place, &[]);
    wait_until_watched(&daemon, short.pid());
    wait_for("samples", SAMPLES_WITHIN, || {
        (daemon.process(short.pid())["samples"].as_u64()? >= ENOUGH_SAMPLES).then_some(())
    });
    short.stop();
    fs::remove_file(&place).unwrap();
    let profile = wait_for("window", SAMPLES_WITHIN, || {
        let document = daemon.profile(short.pid(), &LAST_10_MINUTES)?;
        Some(Profile::from_json(&document))
    });
    assert_names(&profile);
}
