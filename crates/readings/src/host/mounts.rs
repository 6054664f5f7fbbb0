//! What is mounted where, from `/proc/self/mountinfo` (the kernel's `Documentation/filesystems/proc.rst`, section 3.5).

use crate::text::{lines, number, words};

/// Most mounts that are looked at.
const MAX_MOUNTS: usize = 16 << 10;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Major and minor number of the file system, the same for all mounts of it.
    pub(crate) device: (u64, u64),
    /// The directory of the file system that is mounted.
    pub(crate) directory: Vec<u8>,
    /// Where.
    pub(crate) point: Vec<u8>,
    /// Kind of file system.
    pub(crate) kind: Vec<u8>,
    /// Options of the file system, separated by commas.
    pub(crate) options: Vec<u8>,
}

/// The text of `/proc/self/mountinfo`, in the order of mounting.
pub(crate) fn parse_mounts(text: &[u8]) -> Option<Vec<Mount>> {
    lines(text).take(MAX_MOUNTS).map(parse_line).collect()
}

/// Id, id of the parent, major:minor, directory, mount point, options, any number of tags, a dash, kind, what is mounted,
/// options of the file system.
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut words = words(line);
    let device = words.nth(2)?;
    let colon = device.iter().position(|&byte| byte == b':')?;
    let device = (number(&device[..colon])?, number(&device[colon + 1..])?);
    let (directory, point) = (unescape(words.next()?), unescape(words.next()?));
    words.find(|word| *word == b"-")?;
    let kind = words.next()?.to_vec();
    // What is mounted may be empty, and is then nothing between two blanks.
    let options = words.last().unwrap_or_default().to_vec();
    point.starts_with(b"/").then_some(Mount {
        device,
        directory,
        point,
        kind,
        options,
    })
}

/// The kernel writes blanks, line breaks and backslashes in paths as three octal digits.
fn unescape(path: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, after)) = rest.split_first() {
        let code = after.first_chunk().filter(|_| first == b'\\').and_then(octal);
        match code {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(first);
                rest = after;
            }
        }
    }
    plain
}

fn octal(digits: &[u8; 3]) -> Option<u8> {
    digits.iter().try_fold(0_u8, |value, digit| {
        let digit = matches!(digit, b'0'..=b'7').then(|| digit - b'0')?;
        value.checked_mul(8)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::*;

    #[test]
    fn mounts_are_read() {
        let text =
            b"36 35 98:0 /mnt1 /mnt/two\\040words rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n\
            37 35 0:33 / /sys/fs/cgroup/cpu rw - cgroup  rw,cpu,cpuacct\n";
        let mounts = parse_mounts(text).unwrap();
        assert_eq!(mounts[0].device, (98, 0));
        assert_eq!(
            (&*mounts[0].directory, &*mounts[0].point),
            (&b"/mnt1"[..], &b"/mnt/two words"[..])
        );
        assert_eq!(
            (&*mounts[0].kind, &*mounts[0].options),
            (&b"ext3"[..], &b"rw,errors=continue"[..])
        );
        assert_eq!(
            (&*mounts[1].kind, &*mounts[1].options),
            (&b"cgroup"[..], &b"rw,cpu,cpuacct"[..])
        );
        for text in [
            "36 35 98 / / rw - ext3 a b\n",
            "36 35 98:0 / / rw ext3 a b\n",
            "36 35 98:0 / mnt rw - ext3 a b\n",
        ] {
            assert_eq!(parse_mounts(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn escapes_are_undone_and_others_left() {
        assert_eq!(unescape(br"\134\011a\9\400\04"), b"\\\ta\\9\\400\\04");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(1 1 0:1 [/\\\\0-9a ]{0,20} - [a-z ,]{0,20}\n|[ -~]{0,60}\n){0,5}") {
            let _ = parse_mounts(text.as_bytes());
        }
    }
}
