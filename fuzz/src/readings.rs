//! The text of the files that readings come from.
//!
//! A share is between zero and one, a file that is written by the book is understood whatever names stand in it, and no path
//! of a control group leads out of its hierarchy.

use std::path::Component;

use profiler_readings::fuzzing as parse;

/// Most interfaces that are looked at.
const MAX_INTERFACES: usize = 16 << 10;

/// Runs one input.
pub fn run(data: &[u8]) {
    let (before, after) = data.split_at(data.len() / 2);
    check_host(before, after);
    check_host(data, data);
    check_processes(data);
    check_groups(before, after);
    check_as_name(data);
}

fn is_share(value: f64) -> bool {
    (0.0..=1.0).contains(&value)
}

fn check_host(before: &[u8], after: &[u8]) {
    if let Some(shares) = parse::cpu_shares(before, after) {
        assert!(before != after, "no time passed");
        assert!(shares.into_iter().all(is_share), "{shares:?}");
    }
    if let Some((total, available)) = parse::memory(after) {
        assert!(available <= total && total > 0);
    }
    if let Some((share, seconds)) = parse::pressure(after) {
        assert!(is_share(share) && seconds >= 0.0 && seconds.is_finite());
    }
    if let Some(averages) = parse::load(after) {
        assert!(averages.iter().all(|average| *average >= 0.0 && average.is_finite()));
    }
    for share in parse::disks_busy(before, after).unwrap_or_default() {
        assert!(is_share(share), "{share}");
    }
    let interfaces = parse::interfaces(after).unwrap_or_default();
    assert!(interfaces.len() <= MAX_INTERFACES && interfaces.iter().all(|name| !name.is_empty()));
    if let Some([all, local]) = parse::mount_points(after) {
        assert!(all.iter().all(|point| point.starts_with(b"/")));
        assert!(local.iter().all(|point| all.contains(point)));
    }
}

fn check_processes(text: &[u8]) {
    parse::process_stat(text);
    parse::process_files(text);
    let inodes = parse::listening(text).len();
    assert!(inodes <= text.split(|byte| *byte == b'\n').count());
}

fn check_groups(mounts: &[u8], text: &[u8]) {
    let (limit, quota) = parse::limits(text);
    assert!(limit.flatten().is_none_or(|limit| limit < 1 << 62));
    assert!(quota.flatten().is_none_or(|cores| cores > 0.0 && cores.is_finite()));
    if let Some((periods, throttled)) = parse::throttling(text) {
        assert!(throttled <= periods);
    }
    let whole = b"1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    if let Some(folder) = parse::unified_group(whole, text) {
        assert!(folder.starts_with("/sys/fs/cgroup"), "{}", folder.display());
        assert!(
            folder.components().all(|part| part != Component::ParentDir),
            "{}",
            folder.display()
        );
    }
    // What is mounted where is the host's own, and may be anything.
    parse::unified_group(mounts, text);
}

/// Whatever a process or an interface calls itself, the numbers around it stay what they are.
fn check_as_name(name: &[u8]) {
    let stat = [
        b"7 (",
        name,
        b") S 1 7 7 0 -1 4194560 1 0 2 0 30 12 0 0 20 0 3 0 4242 0 0\n",
    ]
    .concat();
    assert_eq!(parse::process_stat(&stat), Some((42, 3, 4242)));
    let is_plain = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    if is_plain {
        let line = [b"head\nhead\n", name, b":1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"].concat();
        assert_eq!(parse::interfaces(&line), Some(vec![name]));
    }
}
