//! A tree that looks like the root of a host, for tests.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::{Metric, Moment, Reading};

/// The tree.
#[derive(Debug)]
pub(crate) struct FakeTree {
    directory: tempfile::TempDir,
}

impl FakeTree {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// A host with two CPUs, a disk, and an interface.
    pub(crate) fn host() -> Self {
        let tree = Self::new();
        for (path, text) in [
            (
                "proc/stat",
                "cpu  100 0 10 90 0 0 0 0 0 0\ncpu0 50 0 0 50 0 0 0 0 0 0\ncpu1 50 0 10 40 0 0 0 0 0 0\nintr 1 2 3\nctxt 7\n\
                 btime 5\nprocesses 12\nprocs_running 3\nprocs_blocked 1\nsoftirq 1 2\n",
            ),
            (
                "proc/meminfo",
                "MemTotal: 1000 kB\nMemFree: 10 kB\nMemAvailable: 750 kB\nDirty: 3 kB\nAnonPages: 200 kB\nSwapTotal: 100 kB\n\
                 SwapFree: 50 kB\n",
            ),
            ("proc/vmstat", "nr_free_pages 1\npgmajfault 40\noom_kill 2\n"),
            (
                "proc/pressure/cpu",
                "some avg10=5.00 avg60=0.00 avg300=0.00 total=1000000\n",
            ),
            (
                "proc/pressure/memory",
                "some avg10=3.00 avg60=0.00 avg300=0.00 total=2000000\nfull avg10=1.00 avg60=0.00 avg300=0.00 total=5\n",
            ),
            (
                "proc/pressure/io",
                "some avg10=2.00 avg60=0.00 avg300=0.00 total=3000000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n",
            ),
            ("proc/loadavg", "0.50 1.25 2.00 3/217 4242\n"),
            ("proc/uptime", "100.25 50.00\n"),
            ("proc/diskstats", " 254 0 vda 10 0 100 5 1 0 8 2 0 6 8\n"),
            (
                "proc/net/dev",
                "Inter-|\n face |bytes\n    lo: 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n  eth0: 100 10 1 2 0 0 0 0 200 20 3 4 0 0 0 0\n",
            ),
            ("proc/sys/fs/file-nr", "779\t79\t1400\n"),
            ("proc/self/mountinfo", "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"),
        ] {
            tree.write(path, text);
        }
        tree
    }

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    /// Writes a file in place, so that who keeps it open sees the change, as in `/proc`.
    pub(crate) fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Removes a file, or a folder with all that it holds.
    pub(crate) fn remove(&self, path: &str) {
        let path = self.path(path);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }

    /// Makes a symbolic link that leads nowhere, as those of sockets do.
    pub(crate) fn link(&self, path: &str, target: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }
}

/// A moment so many seconds after the start of the host.
pub(crate) fn at(seconds: u64) -> Moment {
    Moment {
        time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000 + seconds),
        since_boot: Duration::from_secs(seconds),
    }
}

/// What a sampler tells at a moment: values that can be, each with that time.
#[track_caller]
pub(crate) fn sampled(seconds: u64, sample: impl FnOnce(Moment, &mut Vec<Reading>)) -> Vec<Reading> {
    let mut readings = Vec::new();
    sample(at(seconds), &mut readings);
    for reading in &readings {
        assert!(reading.value.is_finite() && reading.value >= 0.0, "{reading:?}");
        assert_eq!(reading.time, at(seconds).time, "{reading:?}");
    }
    readings
}

/// The value of the only reading of a metric.
#[track_caller]
pub(crate) fn value(readings: &[Reading], metric: Metric) -> Option<f64> {
    let mut found = readings.iter().filter(|reading| reading.metric == metric);
    let first = found.next();
    assert!(found.next().is_none(), "{metric} twice in {readings:?}");
    first.map(|reading| reading.value)
}
