//! What cannot be profiled, and who may not: one clear line, the exit code of the documentation, and a daemon that goes on.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
};

use profiler_tests::{daemon::Daemon, output::Output, programs::write_executable};

use crate::{FAST_HZ, failed_parts, host, only, only_line, profile_after, profile_once, skip, start};

/// Exit codes of the documentation.
const FAILED: Option<i32> = Some(1);
const USAGE: Option<i32> = Some(2);
const NO_PERMISSION: Option<i32> = Some(4);
/// `PF_KTHREAD` in the flags of `/proc/PID/stat`.
const KERNEL_THREAD: u64 = 0x0020_0000;

#[test]
fn what_is_no_process_with_code_of_its_own_is_refused() {
    let Some(host) = host() else { return };
    let daemon = host.daemon(&only(FAST_HZ, "nothing-of-this-name"));
    assert_refused(&daemon, "0", USAGE, "PID 0");
    let mut gone = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
    let pid = gone.id().to_string();
    gone.wait().unwrap();
    assert_refused(&daemon, &pid, FAILED, &format!("no process {pid}"));
    match kernel_thread() {
        Some(pid) => assert_refused(&daemon, &pid, FAILED, "kernel thread"),
        None => skip("no kernel thread is to be seen here"),
    }
    let own = daemon.pid().to_string();
    assert_refused(&daemon, &own, FAILED, "watch_self");
}

#[test]
fn a_32_bit_program_is_refused() {
    let Some(host) = host() else { return };
    let program = host.path("loop32");
    write_executable(&program, &elf_of_32_bits());
    let started = Command::new(&program)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    let Ok(mut started) = started else {
        return skip("this kernel runs no 32-bit programs");
    };
    let daemon = host.daemon(&only(FAST_HZ, "loop32"));
    let pid = started.id().to_string();
    let output = daemon.cli(&["flamegraph", "--pid", &pid, "--duration", "1s", "-o", "-"]);
    started.kill().unwrap();
    started.wait().unwrap();
    assert_eq!(output.code, FAILED, "{output:?}");
    assert!(only_line(&output).contains("32-bit"), "{output:?}");
    assert_unharmed(&daemon);
}

#[test]
fn damaged_programs_are_profiled_as_far_as_they_go() {
    let Some(host) = host() else { return };
    let program = host.rust("mixed");
    let content = fs::read(&program).unwrap();
    let daemon = host.daemon(&only(FAST_HZ, "damaged-*"));
    for (name, damage) in DAMAGES {
        let mut content = content.clone();
        damage(&mut content);
        let path = host.path(&format!("damaged-{name}"));
        write_executable(&path, &content);
        let running = start(&path, &[]);
        let profile = profile_after(&daemon, running.pid(), 300);
        println!("{name}: {}", profile.summary);
        assert!(profile.rooted <= profile.samples);
        assert_unharmed(&daemon);
    }
    // A program that is whole is walked as ever.
    let whole = host.path("damaged-not");
    write_executable(&whole, &content);
    let running = start(&whole, &[]);
    profile_once(&daemon, running.pid(), 1_000, |profile| profile.rooted_share() >= 99.0).assert_rooted(99.0);
}

#[test]
fn a_caller_outside_the_groups_is_refused() {
    let Some(host) = host() else { return };
    let program = host.rust("mixed");
    let mixed = start(&program, &[]);
    let daemon = host.daemon(&only(FAST_HZ, "mixed"));
    let pid = mixed.pid().to_string();
    let verbs = [
        &["status"][..],
        &["ps"],
        &["flamegraph", "--pid", &pid, "--duration", "1s", "-o", "-"],
    ];
    let socket = daemon.socket();
    fs::set_permissions(socket.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    for arguments in verbs {
        let output = host.cli_without_rights(socket, arguments);
        assert_eq!((output.code, output.stdout.as_str()), (NO_PERMISSION, ""), "{output:?}");
        assert!(only_line(&output).contains("permission denied"), "{output:?}");
    }
    // Also where the socket's mode would let anybody in: the daemon asks the kernel who it is.
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666)).unwrap();
    for arguments in verbs {
        let output = host.cli_without_rights(socket, arguments);
        assert_eq!((output.code, output.stdout.as_str()), (NO_PERMISSION, ""), "{output:?}");
        only_line(&output);
    }
    assert_unharmed(&daemon);
}

#[track_caller]
fn assert_refused(daemon: &Daemon, pid: &str, code: Option<i32>, words: &str) {
    for arguments in [
        &["flamegraph", "--pid", pid, "-o", "-"][..],
        &["flamegraph", "--pid", pid, "--duration", "1s", "-o", "-"],
    ] {
        let output = daemon.cli(arguments);
        assert_eq!(
            (output.code, output.stdout.as_str()),
            (code, ""),
            "{arguments:?}: {output:?}"
        );
        assert!(
            line_of_refusal(&output, code).contains(words),
            "{arguments:?}: {output:?}"
        );
    }
    assert_unharmed(daemon);
}

/// Wrong usage also says how it is used.
#[track_caller]
fn line_of_refusal(output: &Output, code: Option<i32>) -> &str {
    if code == USAGE {
        output.stderr.lines().next().unwrap_or_default()
    } else {
        only_line(output)
    }
}

#[track_caller]
fn assert_unharmed(daemon: &Daemon) {
    assert_eq!(failed_parts(daemon), [""; 0]);
}

/// `kthreadd`, or another one where PIDs are those of a container.
fn kernel_thread() -> Option<String> {
    let pids = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut pids = pids.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    pids.find(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the name in parentheses: state, ppid, pgrp, session, tty, tpgid, flags.
        let flags = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(6)?.parse::<u64>().ok());
        flags.is_some_and(|flags| flags & KERNEL_THREAD != 0)
    })
}

/// The smallest 32-bit program that runs for ever: a header, one segment, and a jump to itself.
fn elf_of_32_bits() -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    const HEADERS: u32 = 52 + 32;
    let mut elf = b"\x7fELF\x01\x01\x01".to_vec();
    elf.resize(16, 0);
    // An executable for the i386, version 1.
    elf.extend([2_u8, 0, 3, 0, 1, 0, 0, 0]);
    // Entry, program headers, no section headers, no flags.
    for word in [BASE + HEADERS, 52, 0, 0] {
        elf.extend(word.to_le_bytes());
    }
    // Size of this header; size and number of program headers; the same of section headers; their names.
    for half in [52_u16, 32, 1, 40, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    // Load all of the file, readable and executable.
    let size = HEADERS + 2;
    for word in [1, 0, BASE, BASE, size, size, 5, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend([0xeb, 0xfe]);
    elf
}

type Damage = fn(&mut Vec<u8>);

/// Damage that a running program does not notice.
const DAMAGES: [(&str, Damage); 7] = [
    ("frames", |elf| scramble(elf, ".eh_frame")),
    ("frame-index", |elf| scramble(elf, ".eh_frame_hdr")),
    ("symbols", |elf| scramble(elf, ".symtab")),
    ("names", |elf| scramble(elf, ".strtab")),
    ("sections", |elf| {
        let table = sections(elf).0;
        noise(&mut elf[table..]);
    }),
    ("header", |elf| {
        // Offset of the section headers, and from their size on their number and the index of their names.
        elf[0x28..0x30].fill(0xff);
        elf[0x3a..0x40].fill(0xff);
    }),
    ("cut", |elf| {
        let table = sections(elf).0;
        elf.truncate(table + 100);
    }),
];

/// Overwrites a section.
fn scramble(elf: &mut [u8], name: &str) {
    let (_, sections) = sections(elf);
    let (_, start, length) = sections.into_iter().find(|section| section.0 == name).unwrap();
    noise(&mut elf[start..start + length]);
}

/// Where the table of sections is; their names, offsets and sizes.
fn sections(elf: &[u8]) -> (usize, Vec<(String, usize, usize)>) {
    let word = |at: usize| usize::try_from(u64::from_le_bytes(elf[at..at + 8].try_into().unwrap())).unwrap();
    let half = |at: usize| usize::from(u16::from_le_bytes(elf[at..at + 2].try_into().unwrap()));
    let table = word(0x28);
    let header = |index: usize| table + index * 64;
    let names = word(header(half(0x3e)) + 0x18);
    let name = |at: usize| {
        let start = names + u32::from_le_bytes(elf[at..at + 4].try_into().unwrap()) as usize;
        let end = start + elf[start..].iter().position(|byte| *byte == 0).unwrap();
        String::from_utf8(elf[start..end].to_vec()).unwrap()
    };
    let section = |index| {
        (
            name(header(index)),
            word(header(index) + 0x18),
            word(header(index) + 0x20),
        )
    };
    (table, (0..half(0x3c)).map(section).collect())
}

/// The same noise each time.
fn noise(bytes: &mut [u8]) {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for byte in bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state.to_le_bytes()[3];
    }
}
