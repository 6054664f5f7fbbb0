//! Words and numbers in what the kernel writes.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Longest name of a subject that is kept: the longest name of a file, and more than one of a device or an interface.
const MAX_NAME_BYTES: usize = 255;
/// Longest path that is kept: the longest that the kernel tells (`PATH_MAX`).
const MAX_PATH_BYTES: usize = 4096;

/// The lines that are not empty.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty())
}

/// What stands between blanks.
pub(crate) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// A number without a sign.
pub(crate) fn number(word: &[u8]) -> Option<u64> {
    // The standard parser also takes a plus sign, which the kernel does not write.
    let digits = word.iter().all(u8::is_ascii_digit).then_some(word)?;
    str::from_utf8(digits).ok()?.parse().ok()
}

/// A number of at least zero with a fraction.
pub(crate) fn decimal(word: &[u8]) -> Option<f64> {
    let plain = word.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    let value: f64 = str::from_utf8(plain.then_some(word)?).ok()?.parse().ok()?;
    value.is_finite().then_some(value)
}

/// The next word as a number.
pub(crate) fn next_number<'text>(words: &mut impl Iterator<Item = &'text [u8]>) -> Option<u64> {
    number(words.next()?)
}

/// The number on the line that begins with the word `key`.
pub(crate) fn keyed(text: &[u8], key: &[u8]) -> Option<u64> {
    lines(text).find_map(|line| number_after(line, key))
}

/// The same, of the last such line: sooner found where it is one of the last.
pub(crate) fn keyed_last(text: &[u8], key: &[u8]) -> Option<u64> {
    text.rsplit(|&byte| byte == b'\n')
        .find_map(|line| number_after(line, key))
}

fn number_after(line: &[u8], key: &[u8]) -> Option<u64> {
    let rest = line.trim_ascii_start().strip_prefix(key)?;
    rest.first().filter(|byte| byte.is_ascii_whitespace())?;
    next_number(&mut words(rest))
}

/// A name to show and to tell subjects apart by.
pub(crate) fn name(bytes: &[u8]) -> Arc<str> {
    cut(bytes, MAX_NAME_BYTES)
}

/// A path to show and to tell subjects apart by: groups of nested containers differ in its end alone.
pub(crate) fn path_name(bytes: &[u8]) -> Arc<str> {
    cut(bytes, MAX_PATH_BYTES)
}

fn cut(bytes: &[u8], most: usize) -> Arc<str> {
    String::from_utf8_lossy(&bytes[..bytes.len().min(most)]).into()
}

/// A path of the host below a root. However many slashes it begins with, it does not replace the root.
pub(crate) fn below(root: &Path, path: &[u8]) -> PathBuf {
    let slashes = path.iter().take_while(|&&byte| byte == b'/').count();
    root.join(OsStr::from_bytes(&path[slashes..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    #[test]
    fn numbers_are_digits_that_fit() {
        assert_eq!(number(b"0"), Some(0));
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        for word in ["", "18446744073709551616", "-1", "+1", "1 ", "0x1", "1e3", "1.0"] {
            assert_eq!(number(word.as_bytes()), None, "{word:?}");
        }
        assert_eq!(decimal(b"12.50"), Some(12.5));
        for word in ["", ".", "1.2.3", "inf", "nan", "-1.0", "1e3"] {
            assert_eq!(decimal(word.as_bytes()), None, "{word:?}");
        }
    }

    #[test]
    fn no_path_replaces_the_root() {
        for path in ["/a", "a", "//a", "///a"] {
            assert_eq!(below(Path::new("/r"), path.as_bytes()), Path::new("/r/a"), "{path}");
        }
    }

    #[test]
    fn long_paths_are_told_apart() {
        let container = |end: &str| "/nested".repeat(60) + end;
        let (one, other) = (container("/a"), container("/b"));
        assert_eq!(&*path_name(one.as_bytes()), one);
        assert_ne!(path_name(one.as_bytes()), path_name(other.as_bytes()));
        assert_eq!(path_name(&[b'x'; 5_000]).len(), MAX_PATH_BYTES);
    }

    #[test]
    fn keys_are_whole_words() {
        let text = b"oom 1\noom_kill 7\nbroken\nhigh x\n";
        assert_eq!(keyed(text, b"oom"), Some(1));
        assert_eq!(keyed(text, b"oom_kill"), Some(7));
        assert_eq!(keyed(text, b"broken"), None);
        assert_eq!(keyed(text, b"high"), None);
        assert_eq!(keyed(b" \tkey\t5 6\n", b"key"), Some(5));
        assert_eq!(keyed(b"key: 5\n", b"key"), None);
        assert_eq!(keyed(b"key 1\nkey 2\n", b"key"), Some(1));
        assert_eq!(keyed_last(b"key 1\nkey 2\n", b"key"), Some(2));
        assert_eq!(keyed_last(text, b"oom"), Some(1));
        assert_eq!(keyed_last(text, b"high"), None);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(value in any::<u64>(), before in "[a-z ]{0,20}") {
            let text = format!("{before}\nkey {value}\n");
            assert_eq!(keyed(text.as_bytes(), b"key"), Some(value));
        }

        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let found = decimal(&bytes);
            assert!(found.is_none_or(|value| value >= 0.0 && value.is_finite()));
            assert!(name(&bytes).len() <= 3 * MAX_NAME_BYTES);
            for line in lines(&bytes) {
                assert!(words(line).all(|word| !word.is_empty()));
            }
        }
    }
}
