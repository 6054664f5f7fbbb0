//! Load, uptime and open files: `/proc/loadavg`, `/proc/uptime` and `/proc/sys/fs/file-nr`.

use std::path::Path;

use super::Part;
use crate::{
    Metric, Reading,
    file::{KernelFile, ReadError},
    source::Moment,
    text::{decimal, next_number, number, words},
};

/// What `/proc/loadavg` says: averages over 1, 5 and 15 minutes, and how many tasks there are.
pub(crate) fn parse_load(text: &[u8]) -> Option<([f64; 3], u64)> {
    let mut words = words(text);
    let mut next = || decimal(words.next()?);
    let averages = [next()?, next()?, next()?];
    let tasks = words.next()?;
    let slash = tasks.iter().position(|&byte| byte == b'/')?;
    number(&tasks[..slash])?;
    Some((averages, number(&tasks[slash + 1..])?))
}

/// Reads `/proc/loadavg` and `/proc/uptime`.
#[derive(Debug)]
pub(super) struct Load {
    load: KernelFile,
    uptime: KernelFile,
    buffer: Vec<u8>,
}

impl Load {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            load: KernelFile::new(root.join("proc/loadavg")),
            uptime: KernelFile::new(root.join("proc/uptime")),
            buffer: Vec::new(),
        }
    }
}

impl Part for Load {
    fn read(&mut self, now: Moment, out: &mut Vec<Reading>) -> Result<u64, ReadError> {
        let uptime = self
            .uptime
            .parse(&mut self.buffer, |text| decimal(words(text).next()?))
            .map(|seconds| out.push(now.of_host(Metric::HostUptime, seconds)));
        let ([one, five, fifteen], tasks) = self.load.parse(&mut self.buffer, parse_load)?;
        out.push(now.of_host(Metric::HostLoad1, one));
        out.push(now.of_host(Metric::HostLoad5, five));
        out.push(now.of_host(Metric::HostLoad15, fifteen));
        out.push(now.of_host(Metric::HostTasks, tasks as f64));
        uptime.map(|()| 0)
    }
}

/// Reads `/proc/sys/fs/file-nr`.
#[derive(Debug)]
pub(super) struct OpenFiles {
    file: KernelFile,
    buffer: Vec<u8>,
}

impl OpenFiles {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            file: KernelFile::new(root.join("proc/sys/fs/file-nr")),
            buffer: Vec::new(),
        }
    }
}

impl Part for OpenFiles {
    fn read(&mut self, now: Moment, out: &mut Vec<Reading>) -> Result<u64, ReadError> {
        let (open, most) = self.file.parse(&mut self.buffer, |text| {
            let mut words = words(text);
            let (allocated, free) = (next_number(&mut words)?, next_number(&mut words)?);
            let most = next_number(&mut words).filter(|&most| most > 0)?;
            Some((allocated.checked_sub(free)?, most))
        })?;
        out.push(now.of_host(Metric::HostOpenFiles, open as f64));
        out.push(now.of_host(Metric::HostOpenFilesUsed, (open as f64 / most as f64).min(1.0)));
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::*;

    #[test]
    fn loads_and_tasks_are_read() {
        assert_eq!(
            parse_load(b"0.50 1.25 2.00 3/217 4242\n"),
            Some(([0.5, 1.25, 2.0], 217))
        );
        for text in [
            "",
            "0.5 1.2\n",
            "0.50 1.25 2.00 217 1\n",
            "x 1 2 3/4 5\n",
            "1 2 3 /4 5\n",
        ] {
            assert_eq!(parse_load(text.as_bytes()), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[0-9./ ]{0,60}") {
            if let Some((averages, _)) = parse_load(text.as_bytes()) {
                assert!(averages.iter().all(|average| *average >= 0.0));
            }
        }
    }
}
