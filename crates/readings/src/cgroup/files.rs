//! What the files of a control group say (the kernel's `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/`).

use crate::text::{keyed, lines, number};

/// Version 1 writes the largest number of whole pages where there is no limit.
const NO_LIMIT: u64 = 1 << 62;

/// A file with one number.
pub(crate) fn parse_value(text: &[u8]) -> Option<u64> {
    number(text.trim_ascii_end())
}

/// A limit in bytes; none is set where it says `max`, or more than any memory holds.
pub(crate) fn parse_limit(text: &[u8]) -> Option<Option<u64>> {
    let text = text.trim_ascii_end();
    if text == b"max" {
        return Some(None);
    }
    number(text).map(|limit| Some(limit).filter(|&limit| limit < NO_LIMIT))
}

/// `cpu.max`: the quota in CPUs, if one is set.
pub(crate) fn parse_quota(text: &[u8]) -> Option<Option<f64>> {
    let text = text.trim_ascii_end();
    let blank = text.iter().position(|&byte| byte == b' ')?;
    let (quota, period) = (&text[..blank], number(&text[blank + 1..])?);
    if quota == b"max" {
        return Some(None);
    }
    cores(number(quota)?, period).map(Some)
}

/// `cpu.cfs_quota_us` of version 1 with a period: the quota in CPUs, if one is set.
pub(crate) fn parse_quota_v1(text: &[u8], period: u64) -> Option<Option<f64>> {
    let text = text.trim_ascii_end();
    if text == b"-1" {
        return Some(None);
    }
    cores(number(text)?, period).map(Some)
}

fn cores(quota: u64, period: u64) -> Option<f64> {
    (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
}

/// Periods of the quota, those that were throttled, and for how many seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Throttling {
    pub(crate) periods: u64,
    pub(crate) throttled: u64,
    pub(crate) seconds: f64,
}

/// The throttling in `cpu.stat` of either version; none where the group has no quota of its own.
pub(crate) fn parse_throttling(text: &[u8]) -> Option<Throttling> {
    let seconds = match keyed(text, b"throttled_usec") {
        Some(microseconds) => microseconds as f64 / 1e6,
        None => keyed(text, b"throttled_time")? as f64 / 1e9,
    };
    let (periods, throttled) = (keyed(text, b"nr_periods")?, keyed(text, b"nr_throttled")?);
    (throttled <= periods).then_some(Throttling {
        periods,
        throttled,
        seconds,
    })
}

/// The path of a group in the hierarchy of a controller, from the text of `/proc/PID/cgroup`; in the unified hierarchy
/// without a controller.
pub(crate) fn parse_membership<'text>(text: &'text [u8], controller: Option<&str>) -> Option<&'text [u8]> {
    lines(text).find_map(|line| {
        let mut fields = line.splitn(3, |&byte| byte == b':');
        let (_number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_wanted = match controller {
            Some(controller) => controllers
                .split(|&byte| byte == b',')
                .any(|name| name == controller.as_bytes()),
            None => controllers.is_empty(),
        };
        is_wanted.then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    #[test]
    fn limits_are_set_or_not() {
        assert_eq!(parse_limit(b"max\n"), Some(None));
        assert_eq!(parse_limit(b"9223372036854771712\n"), Some(None));
        assert_eq!(parse_limit(b"1048576\n"), Some(Some(1 << 20)));
        assert_eq!(parse_limit(b"-1\n"), None);
        assert_eq!(parse_quota(b"max 100000\n"), Some(None));
        assert_eq!(parse_quota(b"150000 100000\n"), Some(Some(1.5)));
        assert_eq!(parse_quota(b"150000\n"), None);
        assert_eq!(parse_quota(b"150000 0\n"), None);
        assert_eq!(parse_quota_v1(b"-1\n", 100_000), Some(None));
        assert_eq!(parse_quota_v1(b"50000\n", 100_000), Some(Some(0.5)));
    }

    #[test]
    fn throttling_is_of_either_version() {
        let v2 = b"usage_usec 5\nnr_periods 10\nnr_throttled 4\nthrottled_usec 2500000\n";
        let v1 = b"nr_periods 10\nnr_throttled 4\nthrottled_time 2500000000\n";
        let expected = Throttling {
            periods: 10,
            throttled: 4,
            seconds: 2.5,
        };
        assert_eq!(parse_throttling(v2), Some(expected));
        assert_eq!(parse_throttling(v1), Some(expected));
        assert_eq!(parse_throttling(b"usage_usec 5\n"), None);
        assert_eq!(
            parse_throttling(b"nr_periods 1\nnr_throttled 4\nthrottled_time 2\n"),
            None
        );
    }

    #[test]
    fn memberships_are_by_controller() {
        let text = b"9:name=systemd:/a\n4:memory:/b:c\n2:cpu,cpuacct:/d\n0::/e\nbroken\n";
        assert_eq!(parse_membership(text, Some("memory")), Some(&b"/b:c"[..]));
        assert_eq!(parse_membership(text, Some("cpuacct")), Some(&b"/d"[..]));
        assert_eq!(parse_membership(text, None), Some(&b"/e"[..]));
        assert_eq!(parse_membership(text, Some("pids")), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_limit(&bytes);
            let _ = parse_throttling(&bytes);
            let _ = parse_membership(&bytes, None);
            if let Some(Some(cores)) = parse_quota(&bytes) {
                assert!(cores.is_finite() && cores > 0.0);
            }
        }
    }
}
