//! Readings of the host, of the watched processes, and of the services that these belong to: a thread that has them read,
//! each source in its own interval, and puts them where they can be asked for.
//!
//! In: the files below a root path, and from the sampling loop which processes are watched. Out: series on the [`Board`],
//! and the state of each source that is not well. It never waits for the sampling loop: a loop that is late makes readings
//! of new processes late, and no others. File systems have a thread of their own, because a disk that does not answer makes
//! its reader wait.

mod board;
mod pace;
mod reports;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use profiler_readings::{FilesystemSampler, HostSampler, Moment, Source};
use profiler_store::SeriesLimits;
use rustix::time::{ClockId, clock_gettime};

pub use self::board::{Board, Tally};
use self::{pace::Pace, reports::Reports};
use crate::health::{Health, Part, PartState, Sentinel};

/// Readings are kept for so long.
const RETENTION: Duration = Duration::from_secs(3600);
/// Time between two rounds of host and processes: that of the sources that are read most often.
const ROUND: Duration = Duration::from_secs(1);
/// Time between two looks for series that are too old.
const EXPIRY: Duration = Duration::from_secs(60);

/// How much is kept of readings.
pub fn series_limits(config: &profiler_config::Store) -> SeriesLimits {
    SeriesLimits {
        retention: RETENTION,
        max_bytes: usize::try_from(config.max_series_bytes).unwrap_or(usize::MAX),
    }
}

/// Has host and processes read.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Where readings go.
    pub board: Arc<Board>,
    /// Where the states of the sources are reported.
    pub health: Arc<Health>,
    /// Set to end it.
    pub stop: Arc<AtomicBool>,
}

impl Reader {
    /// Starts the threads, which read below `root`: `/` but in tests.
    pub fn start(self, root: &Path) -> io::Result<Vec<JoinHandle<()>>> {
        let spawn = |name: &str, run: fn(&Self, &Path)| {
            let (reader, root) = (self.clone(), PathBuf::from(root));
            thread::Builder::new().name(name.to_owned()).spawn(move || {
                let _sentinel = Sentinel::new(Part::Readings, Arc::clone(&reader.health));
                run(&reader, &root);
            })
        };
        Ok(vec![
            spawn("readings", Self::read_host)?,
            spawn("filesystems", Self::read_filesystems)?,
        ])
    }

    /// Reads host and processes until it is told to stop.
    fn read_host(&self, root: &Path) {
        let mut host = HostSampler::new(root);
        let mut reports = Reports::new(Arc::clone(&self.health));
        let mut readings = Vec::new();
        let mut expiry_due = Duration::ZERO;
        self.health.report(Part::Readings, PartState::Active);
        self.every_round(ROUND, |now| {
            host.sample(now, &mut readings);
            self.board.put(&readings, now.since_boot);
            readings.clear();
            reports.tell(host.reports());
            if now.since_boot >= expiry_due {
                expiry_due = now.since_boot + EXPIRY;
                self.board.series().expire(now.since_boot);
            }
        });
    }

    /// Reads file systems until it is told to stop.
    fn read_filesystems(&self, root: &Path) {
        let mut filesystems = FilesystemSampler::new(root);
        let mut reports = Reports::new(Arc::clone(&self.health));
        let mut readings = Vec::new();
        self.every_round(Source::Filesystems.interval(), |now| {
            filesystems.sample(now, &mut readings);
            self.board.put(&readings, now.since_boot);
            readings.clear();
            reports.tell(filesystems.report().into_iter());
        });
    }

    /// Makes rounds until it is told to stop, and accounts for them.
    fn every_round(&self, every: Duration, mut round: impl FnMut(Moment)) {
        let mut pace = Pace::new(every, Board::now().steady);
        let mut cpu = thread_cpu_time();
        while !self.stop.load(Ordering::Acquire) {
            let now = Board::now();
            let Some(missed) = pace.take(now.steady) else {
                thread::park_timeout(pace.rest(now.steady));
                continue;
            };
            round(Moment {
                time: now.wall,
                since_boot: now.steady,
            });
            let before = std::mem::replace(&mut cpu, thread_cpu_time());
            self.board.note_round(missed, cpu.saturating_sub(before));
        }
    }
}

/// CPU time of the calling thread.
fn thread_cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}
