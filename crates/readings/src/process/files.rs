//! What the files of a process say.

use std::collections::BTreeSet;

use crate::text::{keyed, keyed_last, lines, next_number, number, words};

/// State of a socket that waits for connections, `TCP_LISTEN` of the kernel's `include/net/tcp_states.h`.
const LISTENING: &[u8] = b"0A";
/// Most sockets of a table that are looked at.
const MAX_SOCKETS: usize = 64 << 10;

/// What `/proc/PID/stat` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Its first thread has ended.
    pub(crate) is_zombie: bool,
    pub(crate) minor_faults: u64,
    pub(crate) major_faults: u64,
    /// Time in the program and for it in the kernel.
    pub(crate) cpu_ticks: u64,
    pub(crate) threads: u64,
    pub(crate) start_ticks: u64,
}

/// The text of `/proc/PID/stat`.
pub(crate) fn parse_stat(text: &[u8]) -> Option<Stat> {
    // The name may hold anything, parentheses too.
    let end = text.iter().rposition(|&byte| byte == b')')?;
    let mut words = words(&text[end + 1..]);
    let state = words.next()?;
    // Field 4 of proc(5) is next; minflt is 10, majflt 12, utime 14, stime 15, num_threads 20, starttime 22.
    let minor_faults = number(words.nth(10 - 4)?)?;
    let major_faults = number(words.nth(12 - 11)?)?;
    let user = number(words.nth(14 - 13)?)?;
    let system = next_number(&mut words)?;
    let threads = number(words.nth(20 - 16)?)?;
    let start_ticks = number(words.nth(22 - 21)?)?;
    Some(Stat {
        is_zombie: matches!(state, b"Z" | b"X"),
        minor_faults,
        major_faults,
        cpu_ticks: user.checked_add(system)?,
        threads,
        start_ticks,
    })
}

/// Resident pages, and those of them that files or shared memory back, from the text of `/proc/PID/statm`.
pub(crate) fn parse_resident_pages(text: &[u8]) -> Option<(u64, u64)> {
    let mut words = words(text);
    let (size, resident) = (next_number(&mut words)?, next_number(&mut words)?);
    let shared = next_number(&mut words)?;
    // The kernel reads its counters one after the other.
    (resident <= size).then_some((resident, shared.min(resident)))
}

/// Memory of a process by what backs it, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemoryKinds {
    pub(crate) anonymous: u64,
    pub(crate) file: u64,
    pub(crate) shared: u64,
    pub(crate) swap: u64,
}

/// Memory by kind from the text of `/proc/PID/status`; none of a process that has ended but was not waited for.
pub(crate) fn parse_memory_kinds(text: &[u8]) -> Option<MemoryKinds> {
    let bytes = |key: &[u8]| keyed(text, key)?.checked_mul(1024);
    Some(MemoryKinds {
        anonymous: bytes(b"RssAnon:")?,
        file: bytes(b"RssFile:")?,
        shared: bytes(b"RssShmem:")?,
        swap: bytes(b"VmSwap:")?,
    })
}

/// Bytes of resident memory shared out among those that map it, from the text of `/proc/PID/smaps_rollup`.
pub(crate) fn parse_proportional(text: &[u8]) -> Option<u64> {
    keyed(text, b"Pss:")?.checked_mul(1024)
}

/// Bytes read from and written to disks from the text of `/proc/PID/io`.
pub(crate) fn parse_io(text: &[u8]) -> Option<(u64, u64)> {
    Some((keyed(text, b"read_bytes:")?, keyed(text, b"write_bytes:")?))
}

/// How often a thread gave up its CPU and how often it was taken away, from the text of `/proc/PID/task/TID/status`.
pub(crate) fn parse_switches(text: &[u8]) -> Option<(u64, u64)> {
    // They are the last lines, or nearly.
    let voluntary = keyed_last(text, b"voluntary_ctxt_switches:")?;
    Some((voluntary, keyed_last(text, b"nonvoluntary_ctxt_switches:")?))
}

/// Adds the inodes of the sockets that listen, from the text of `/proc/PID/net/tcp` or `tcp6`.
pub(crate) fn add_listening(text: &[u8], inodes: &mut BTreeSet<u64>) {
    // The first line is the head.
    for line in lines(text).skip(1).take(MAX_SOCKETS) {
        let mut words = words(line);
        // Number, local and remote address come before the state; queues, timer, retransmissions, user and timeout after.
        if words.nth(3) != Some(LISTENING) {
            continue;
        }
        if let Some(inode) = words.nth(9 - 4).and_then(number) {
            inodes.insert(inode);
        }
    }
}

/// The inode in the name that a socket's descriptor links to.
pub(crate) fn socket_inode(link: &[u8]) -> Option<u64> {
    number(link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    #[test]
    fn fields_of_stat_are_those_of_the_manual() {
        let text = b"7 (a) b (c)) S 1 7 7 0 -1 4194560 11 12 13 14 15 16 17 18 20 0 3 0 4242 5000 600 1 2\n";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.minor_faults, stat.major_faults), (11, 13));
        assert_eq!((stat.cpu_ticks, stat.threads, stat.start_ticks), (31, 3, 4242));
        assert!(!stat.is_zombie);
        for text in [
            "",
            "7 (a",
            "7 (a) S 1 7 7 0 -1 4194560 11 12 13 14 15 16 17 18 20 0 3 0\n",
            "7 (a) S x\n",
        ] {
            assert_eq!(parse_stat(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn small_files_are_read() {
        assert_eq!(parse_resident_pages(b"500 120 30 1 0 90 0\n"), Some((120, 30)));
        assert_eq!(parse_resident_pages(b"500 20 30 1 0 90 0\n"), Some((20, 20)));
        assert_eq!(parse_resident_pages(b"500 501 30 1 0 90 0\n"), None);
        assert_eq!(
            parse_io(b"rchar: 1\nwchar: 2\nread_bytes: 3\nwrite_bytes: 4\n"),
            Some((3, 4))
        );
        assert_eq!(parse_io(b"rchar: 1\nread_bytes: 3\n"), None);
        let status = b"Name:\tx\nvoluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t6\n";
        assert_eq!(parse_switches(status), Some((5, 6)));
        assert_eq!(parse_memory_kinds(status), None);
        let status = b"VmRSS:\t9 kB\nRssAnon:\t  1 kB\nRssFile:\t2 kB\nRssShmem:\t3 kB\nVmSwap:\t4 kB\n";
        let kinds = MemoryKinds {
            anonymous: 1024,
            file: 2048,
            shared: 3072,
            swap: 4096,
        };
        assert_eq!(parse_memory_kinds(status), Some(kinds));
        let rollup = b"55d0-7ffd ---p 0 00:00 0 [rollup]\nRss: 9 kB\nPss: 5 kB\nPss_Dirty: 4 kB\n";
        assert_eq!(parse_proportional(rollup), Some(5120));
        assert_eq!(socket_inode(b"socket:[77]"), Some(77));
        assert_eq!(socket_inode(b"/tmp/socket:[77]"), None);
    }

    #[test]
    fn listening_sockets_are_found() {
        let text = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n\
            1: 0100007F:1F90 0100007F:2222 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0\n\
            2: broken 0A\n";
        let mut inodes = BTreeSet::new();
        add_listening(text, &mut inodes);
        assert_eq!(inodes.into_iter().collect::<Vec<_>>(), [4711]);
    }

    proptest! {
        #[test]
        fn no_name_shifts_the_fields(name in "[ -~]{0,15}", minor in any::<u64>(), start in any::<u64>()) {
            let text = format!("7 ({name}) R 1 7 7 0 -1 4194560 {minor} 0 1 0 2 3 0 0 20 0 9 0 {start} 0\n");
            let stat = parse_stat(text.as_bytes()).unwrap();
            assert_eq!((stat.minor_faults, stat.major_faults, stat.cpu_ticks), (minor, 1, 5));
            assert_eq!((stat.threads, stat.start_ticks), (9, start));
        }

        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_stat(&bytes);
            let _ = parse_io(&bytes);
            let _ = parse_resident_pages(&bytes);
            let _ = parse_memory_kinds(&bytes);
            let _ = parse_proportional(&bytes);
            let _ = socket_inode(&bytes);
            add_listening(&bytes, &mut BTreeSet::new());
        }
    }
}
