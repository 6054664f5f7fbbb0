//! Network interfaces, from `/proc/net/dev`.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use super::Part;
use crate::{
    Metric, Reading, Subject,
    file::{KernelFile, ReadError},
    source::Moment,
    text::{self, lines, next_number, words},
};

/// Most interfaces that are read.
const MAX_INTERFACES: usize = 256;
/// Most interfaces that are looked at, unused ones included.
const MAX_LINES: usize = 16 << 10;
/// Lines above the first interface.
const HEAD_LINES: usize = 2;

/// What one interface received or sent, since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
    pub(crate) errors: u64,
    pub(crate) drops: u64,
}

impl Traffic {
    /// Eight numbers, of which the last four are of no interest.
    fn parse<'text>(words: &mut impl Iterator<Item = &'text [u8]>) -> Option<Self> {
        let mut next = || next_number(words);
        let traffic = Self {
            bytes: next()?,
            packets: next()?,
            errors: next()?,
            drops: next()?,
        };
        let _rest = (next()?, next()?, next()?, next()?);
        Some(traffic)
    }
}

/// The text of `/proc/net/dev`: of each interface its name, what it received, and what it sent.
pub(crate) fn parse_network(text: &[u8]) -> Option<Vec<(&[u8], [Traffic; 2])>> {
    let interfaces = lines(text).skip(HEAD_LINES).take(MAX_LINES).map(|line| {
        // An alias has a colon in its name; a number follows the last one.
        let colon = line.iter().rposition(|&byte| byte == b':')?;
        let name = line[..colon].trim_ascii();
        let mut words = words(&line[colon + 1..]);
        let traffic = [Traffic::parse(&mut words)?, Traffic::parse(&mut words)?];
        (!name.is_empty()).then_some((name, traffic))
    });
    interfaces.collect()
}

/// Reads `/proc/net/dev`.
#[derive(Debug)]
pub(super) struct Network {
    file: KernelFile,
    buffer: Vec<u8>,
    /// Names that were shown, so that they are not made anew each time, and whether they are still there.
    known: BTreeMap<Box<[u8]>, (Arc<str>, bool)>,
}

impl Network {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            file: KernelFile::new(root.join("proc/net/dev")),
            buffer: Vec::new(),
            known: BTreeMap::new(),
        }
    }
}

impl Part for Network {
    fn read(&mut self, now: Moment, out: &mut Vec<Reading>) -> Result<u64, ReadError> {
        let text = self.file.read(&mut self.buffer)?;
        let interfaces = parse_network(text).ok_or_else(|| ReadError::malformed(self.file.path()))?;
        let mut left_out = 0;
        let used = |traffic: &[Traffic; 2]| traffic.iter().any(|traffic| traffic.packets > 0 || traffic.drops > 0);
        for (name, [received, sent]) in interfaces.iter().filter(|(_, traffic)| used(traffic)) {
            if !self.known.contains_key(*name) {
                if self.known.len() == MAX_INTERFACES {
                    left_out += 1;
                    continue;
                }
                self.known.insert((*name).into(), (text::name(name), false));
            }
            let Some((shown, is_there)) = self.known.get_mut(*name) else {
                continue;
            };
            *is_there = true;
            let values = [
                (Metric::NetworkReceivedBytes, received.bytes),
                (Metric::NetworkSentBytes, sent.bytes),
                (Metric::NetworkReceivedPackets, received.packets),
                (Metric::NetworkSentPackets, sent.packets),
                (Metric::NetworkReceiveErrors, received.errors),
                (Metric::NetworkSendErrors, sent.errors),
                (Metric::NetworkReceiveDrops, received.drops),
                (Metric::NetworkSendDrops, sent.drops),
            ];
            let subject = Subject::Network(Arc::clone(shown));
            out.extend(values.map(|(metric, value)| now.reading(metric, subject.clone(), value as f64)));
        }
        self.known.retain(|_, (_, is_there)| std::mem::take(is_there));
        Ok(left_out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::*;

    const HEAD: &str = "Inter-|   Receive  |  Transmit\n face |bytes    packets |bytes\n";

    #[test]
    fn interfaces_are_read() {
        let text = format!(
            "{HEAD}  eth0:5789 142 1 2 0 0 0 0 6799 81 3 4 0 0 0 0\neth0:1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"
        );
        let interfaces = parse_network(text.as_bytes()).unwrap();
        let (name, [received, sent]) = interfaces[0];
        assert_eq!(name, b"eth0");
        assert_eq!(
            (received.bytes, received.packets, received.errors, received.drops),
            (5789, 142, 1, 2)
        );
        assert_eq!((sent.bytes, sent.packets, sent.errors, sent.drops), (6799, 81, 3, 4));
        assert_eq!(interfaces[1].0, b"eth0:1");
        assert_eq!(parse_network(HEAD.as_bytes()), Some(Vec::new()));
        for line in [
            "eth0 1 2 3",
            "eth0: 1 2 3 4 5 6 7 8 9 10 11",
            ": 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16",
            "eth0: -1",
        ] {
            assert_eq!(parse_network(format!("{HEAD}{line}\n").as_bytes()), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "([a-z0-9: ]{0,80}\n){0,6}") {
            let _ = parse_network(text.as_bytes());
        }
    }
}
