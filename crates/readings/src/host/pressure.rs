//! What tasks wait for, from `/proc/pressure` (the kernel's `Documentation/accounting/psi.rst`).

use std::path::Path;

use super::Part;
use crate::{
    Metric, Reading,
    file::{KernelFile, ReadError},
    source::Moment,
    text::{decimal, lines, number, words},
};

/// One line of a file of pressure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Waits {
    /// Share of the last 10 s, 0 to 1.
    pub(crate) ratio: f64,
    /// Since boot.
    pub(crate) seconds: f64,
}

impl Waits {
    fn parse<'text>(words: impl Iterator<Item = &'text [u8]>) -> Option<Self> {
        let (mut percent, mut microseconds) = (None, None);
        for word in words {
            if let Some(value) = word.strip_prefix(b"avg10=") {
                percent = Some(decimal(value)?);
            } else if let Some(value) = word.strip_prefix(b"total=") {
                microseconds = Some(number(value)?);
            }
        }
        let percent = percent.filter(|percent| *percent <= 100.0)?;
        Some(Self {
            ratio: percent / 100.0,
            seconds: microseconds? as f64 / 1e6,
        })
    }
}

/// A file of pressure: waits of some task, and of all busy tasks at once where the kernel counts them.
pub(crate) fn parse_pressure(text: &[u8]) -> Option<(Waits, Option<Waits>)> {
    let (mut some, mut full) = (None, None);
    for line in lines(text) {
        let mut words = words(line);
        match words.next()? {
            b"some" => some = Some(Waits::parse(words)?),
            b"full" => full = Some(Waits::parse(words)?),
            _ => {}
        }
    }
    Some((some?, full))
}

/// Of one resource: its file, what some task's waits are, and all tasks'.
type Resource = (KernelFile, [Metric; 2], Option<[Metric; 2]>);

/// Reads `/proc/pressure`.
#[derive(Debug)]
pub(super) struct Pressure {
    resources: [Resource; 3],
    buffer: Vec<u8>,
}

impl Pressure {
    pub(super) fn new(root: &Path) -> Self {
        let file = |name| KernelFile::new(root.join("proc/pressure").join(name));
        Self {
            resources: [
                // That all tasks wait for a CPU at once says nothing of a whole host.
                (
                    file("cpu"),
                    [Metric::HostCpuPressure, Metric::HostCpuPressureTime],
                    None,
                ),
                (
                    file("memory"),
                    [Metric::HostMemoryPressure, Metric::HostMemoryPressureTime],
                    Some([Metric::HostMemoryStalled, Metric::HostMemoryStalledTime]),
                ),
                (
                    file("io"),
                    [Metric::HostIoPressure, Metric::HostIoPressureTime],
                    Some([Metric::HostIoStalled, Metric::HostIoStalledTime]),
                ),
            ],
            buffer: Vec::new(),
        }
    }
}

impl Part for Pressure {
    fn read(&mut self, now: Moment, out: &mut Vec<Reading>) -> Result<u64, ReadError> {
        let mut result = Ok(0);
        for (file, some, full) in &mut self.resources {
            let (some_waits, full_waits) = match file.parse(&mut self.buffer, parse_pressure) {
                Ok(waits) => waits,
                Err(error) => {
                    result = Err(error);
                    continue;
                }
            };
            let mut push = |[ratio, time]: [Metric; 2], waits: Waits| {
                out.push(now.of_host(ratio, waits.ratio));
                out.push(now.of_host(time, waits.seconds));
            };
            push(*some, some_waits);
            if let Some((metrics, waits)) = full.zip(full_waits) {
                push(metrics, waits);
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::*;

    #[test]
    fn both_lines_are_read() {
        let text =
            b"some avg10=18.16 avg60=11.04 avg300=7.40 total=2500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        let (some, full) = parse_pressure(text).unwrap();
        assert!((some.ratio - 0.1816).abs() < 1e-12);
        assert_eq!((some.seconds, full.unwrap().seconds), (2.5, 0.0));
        let old = b"some avg10=1.00 avg60=0.00 avg300=0.00 total=1\n";
        assert_eq!(parse_pressure(old).unwrap().1, None);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "full avg10=0.00 total=0\n",
            "some avg10=100.01 total=1\n",
            "some avg10=nan total=1\n",
            "some avg10=1.00\n",
            "some total=1\n",
            "some avg10=1.00 total=1\nfull avg10=x total=1\n",
        ] {
            assert_eq!(parse_pressure(text.as_bytes()), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn ratios_are_shares(text in "(some|full) avg10=[0-9.]{0,8} avg60=0.00 total=[0-9]{0,22}\n") {
            if let Some((some, _)) = parse_pressure(text.as_bytes()) {
                assert!((0.0..=1.0).contains(&some.ratio) && some.seconds >= 0.0);
            }
        }
    }
}
