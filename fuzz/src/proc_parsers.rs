//! Any bytes as the texts of `/proc/PID`, and as the names in them.

use profiler_common::limits::MAX_MAPPINGS_PER_PROCESS;
use profiler_daemon::{
    fuzzing::{parse_credentials, parse_maps, parse_stat, parse_user_id},
    processes::service,
};

/// Longest name of a service, with each byte that is not UTF-8 replaced by three.
const LONGEST_SERVICE: usize = 3 * 255;

/// Runs one input.
pub fn run(data: &[u8]) {
    parse_stat(data);
    check_status(data);
    check_maps(data);
    check_service(data);
    check_as_name(data);
}

/// The users are the first two words of a line, the process's own id the last of another. The kernel writes each line once.
fn check_status(text: &[u8]) {
    let lines = |name: &'static [u8]| {
        let rests = text
            .split(|byte| *byte == b'\n')
            .filter_map(move |line| line.strip_prefix(name));
        rests.map(|rest| Vec::from_iter(str::from_utf8(rest).unwrap_or_default().split_ascii_whitespace()))
    };
    let number = |word: Option<&&str>| word.and_then(|word| word.parse::<u32>().ok());
    let user = lines(b"Uid:").find_map(|words| number(words.first()));
    assert_eq!(parse_user_id(text), user);
    let users = lines(b"Uid:").next().unwrap_or_default();
    let ids = lines(b"NSpid:").next().unwrap_or_default();
    let expected = number(users.get(1)).zip(number(ids.last()));
    let found = parse_credentials(text).map(|found| (found.effective_user_id, found.own_pid));
    assert_eq!(found, expected);
}

fn check_maps(text: &[u8]) {
    let Ok(Some(scan)) = parse_maps(text) else { return };
    assert!(scan.executable.len() <= MAX_MAPPINGS_PER_PROCESS as usize);
    assert!(scan.left_out == 0 || scan.executable.len() == MAX_MAPPINGS_PER_PROCESS as usize);
    assert!(!scan.truncated || !text.ends_with(b"\n"));
    for record in &scan.executable {
        assert!(record.length > 0 && record.start.checked_add(record.length).is_some());
        assert!(record.path.len() <= text.len() && record.device_inode.is_none_or(|(_, inode)| inode != 0));
    }
}

fn check_service(text: &[u8]) {
    let (cgroup, executable) = text.split_at(text.len() / 2);
    let arguments = text.split(|byte| matches!(byte, 0 | b' '));
    let arguments: Vec<_> = arguments
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect();
    let application = service::python_application(&arguments);
    if let Some(name) = &application {
        assert!(arguments.iter().any(|argument| argument.contains(name)), "{name}");
    }
    let known = service::Known {
        cgroup,
        application,
        executable,
        arguments: &arguments,
    };
    let of_cgroup = service::Known {
        cgroup: text,
        executable: b"/usr/bin/prog",
        ..service::Known::default()
    };
    for name in [service::name(&[], of_cgroup), service::name(&[], known)] {
        assert!(name.len() <= LONGEST_SERVICE, "{} bytes", name.len());
    }
}

/// Whatever a process calls itself and its files, the fields around it stay what they are.
fn check_as_name(name: &[u8]) {
    let stat = [
        b"7 (",
        name,
        b") S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 3 0 4242 0 0\n",
    ]
    .concat();
    let Some(stat) = parse_stat(&stat) else {
        panic!("a name makes stat unreadable")
    };
    assert_eq!(
        (
            &*stat.name,
            stat.zombie,
            stat.kernel_thread,
            stat.threads,
            stat.start_ticks
        ),
        (name, false, false, 3, 4242)
    );
    // `/proc/PID/status` begins with the name, in which the kernel escapes line breaks.
    let escaped = name.escape_ascii().to_string();
    let status = format!("Name:\t{escaped}\nUid:\t1\t2\t3\t4\nNSpid:\t77\t5\n");
    let credentials = parse_credentials(status.as_bytes()).map(|found| (found.effective_user_id, found.own_pid));
    assert_eq!(credentials, Some((2, 5)));
    // It does so in paths, too, and they are shorter than what is read of a line.
    if name.contains(&b'\n') || name.len() > 4096 || name.windows(4).any(|part| part == b"\\012") {
        return;
    }
    let path = [b"/", name].concat();
    let maps = [b"7f00000000-7f00001000 r-xp 00002000 fd:01 77     ", &*path, b"\n"].concat();
    match parse_maps(&maps) {
        Ok(Some(scan)) if scan.executable.len() == 1 => {
            let record = &scan.executable[0];
            assert_eq!(
                (record.start, record.length, record.file_offset, &record.path),
                (0x7f_0000_0000, 0x1000, 0x2000, &path)
            );
        }
        other => panic!("{other:?}"),
    }
}
