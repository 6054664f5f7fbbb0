//! Patterns with placeholders, held against names and paths.

use std::mem;

/// One step of a pattern.
#[derive(Clone, Copy)]
enum Step {
    Byte(u8),
    AnyByte,
    AnyInPart,
    Anything,
}

/// Whether the whole text fits the pattern, in which `*` stands for anything, slashes included.
pub fn glob_anywhere(pattern: &str, text: &[u8]) -> bool {
    glob(&pattern.replace('*', "**"), text)
}

/// Whether the whole text fits the pattern: `?` stands for one byte and `*` for any number, neither for a slash; `**` also
/// crosses slashes.
///
/// Time is at most the product of both lengths, whatever they hold: all places in the pattern that the text so far may have
/// reached are followed at once.
pub fn glob(pattern: &str, text: &[u8]) -> bool {
    let steps = steps(pattern.as_bytes());
    let mut reached = vec![false; steps.len() + 1];
    let mut next = reached.clone();
    reached[0] = true;
    skip_empty(&steps, &mut reached);
    for &byte in text {
        next.fill(false);
        for (place, step) in steps.iter().enumerate().filter(|(place, _)| reached[*place]) {
            match step {
                Step::Byte(expected) => next[place + 1] |= *expected == byte,
                Step::AnyByte => next[place + 1] |= byte != b'/',
                Step::AnyInPart => next[place] |= byte != b'/',
                Step::Anything => next[place] = true,
            }
        }
        skip_empty(&steps, &mut next);
        mem::swap(&mut reached, &mut next);
    }
    reached[steps.len()]
}

/// Placeholders of any length also stand for nothing.
fn skip_empty(steps: &[Step], reached: &mut [bool]) {
    for (place, step) in steps.iter().enumerate() {
        if reached[place] && matches!(step, Step::AnyInPart | Step::Anything) {
            reached[place + 1] = true;
        }
    }
}

fn steps(pattern: &[u8]) -> Vec<Step> {
    let mut steps = Vec::with_capacity(pattern.len());
    for &byte in pattern {
        match (byte, steps.last()) {
            (b'*', Some(Step::AnyInPart)) => {
                steps.pop();
                steps.push(Step::Anything);
            }
            (b'*', Some(Step::Anything)) => {}
            (b'*', _) => steps.push(Step::AnyInPart),
            (b'?', _) => steps.push(Step::AnyByte),
            (byte, _) => steps.push(Step::Byte(byte)),
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders() {
        for (pattern, text, part, anywhere) in [
            ("", "", true, true),
            ("*", "", true, true),
            ("web-?.service", "web-3.service", true, true),
            ("web-?.service", "web-.service", false, false),
            ("/usr/bin/*", "/usr/bin/python3", true, true),
            ("/usr/bin/*", "/usr/bin/deep/python3", false, true),
            ("/usr/**/python3", "/usr/local/bin/python3", true, true),
            ("/usr/bin/svc", "/mnt/usr/bin/svc", false, false),
        ] {
            assert_eq!(glob(pattern, text.as_bytes()), part, "{pattern} against {text}");
            assert_eq!(glob_anywhere(pattern, text.as_bytes()), anywhere, "{pattern} in {text}");
        }
    }
}
