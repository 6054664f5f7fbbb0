//! Readings of the host, of the watched processes, and of the services that these belong to: a thread that has them read,
//! each source in its own interval, and puts them where they can be asked for.
//!
//! In: the files below a root path, and from the sampling loop which processes are watched. Out: series on the [`Board`],
//! and the state of each source that is not well. It never waits for the sampling loop: a loop that is late makes readings
//! of new processes late, and no others. File systems have a thread of their own, because a disk that does not answer makes
//! its reader wait, and so has memory as it is shared out, because a process that is stuck does; GPUs have threads of their own as well, which the sampler starts and never waits for.

mod board;
mod gpus;
mod growth;
mod members;
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

use profiler_readings::{
    ControlGroupSampler, FilesystemSampler, GpuSampler, HostFacts, HostSampler, Moment, ProcessSampler,
    ProportionalSampler, Source,
};
use profiler_store::SeriesLimits;
use rustix::time::{ClockId, clock_gettime};

pub use self::board::{Board, Tally};
pub use self::growth::{GrowthReport, Room, RoomLimit};
use self::{members::Members, pace::Pace, reports::Reports};
use crate::{
    command::EngineHandle,
    health::{Health, Part, PartState, Sentinel},
};

/// Readings are kept for so long.
const RETENTION: Duration = Duration::from_secs(3600);
/// Time between two rounds of host and processes: that of the sources that are read most often.
const ROUND: Duration = Duration::from_secs(1);
/// Descriptors of files of processes that stay open, so that reading them costs less: those of 512 processes.
const MAX_KEPT_FILES: usize = 1024;
/// Time between two looks for what processes share out.
const SHARING_ROUND: Duration = Duration::from_secs(2);
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
    /// Whom to ask which processes are watched.
    pub engine: EngineHandle,
    /// Where the states of the sources are reported.
    pub health: Arc<Health>,
    /// Set to end it.
    pub stop: Arc<AtomicBool>,
    /// Whether and how GPUs are read.
    pub gpu: profiler_config::Gpu,
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
            spawn("proportional", Self::read_proportional)?,
        ])
    }

    /// Reads host and processes until it is told to stop.
    fn read_host(&self, root: &Path) {
        let mut host = HostSampler::new(root);
        let mut processes = ProcessSampler::new(root, HostFacts::read(), MAX_KEPT_FILES);
        let mut groups = ControlGroupSampler::new(root);
        let mut gpus = gpus::sampler(&self.gpu, root, &self.health);
        let mut members = Members::new(self.engine.patient());
        let mut reports = Reports::new(Arc::clone(&self.health), Arc::clone(&self.board));
        let mut readings = Vec::new();
        let mut expiry_due = Duration::ZERO;
        self.health.report(Part::Readings, PartState::Active);
        self.every_round(ROUND, |now| {
            if members.follow(now.since_boot) {
                processes.watch(members.to_read());
                groups.watch(members.to_read());
                if let Some(gpus) = &mut gpus {
                    gpus.watch(members.to_read());
                }
            }
            host.sample(now, &mut readings);
            processes.sample(now, &mut readings);
            if let Some(growth) = processes.new_growth() {
                self.board.put_growth(growth);
            }
            groups.sample(now, &mut readings);
            if let Some(gpus) = &mut gpus {
                gpus.sample(now, &mut readings);
            }
            self.board.put(&readings, now.since_boot);
            self.board.name(members.known());
            readings.clear();
            let of_gpus = gpus.as_ref().and_then(GpuSampler::report);
            reports.tell(
                host.reports()
                    .chain(processes.reports())
                    .chain(groups.report())
                    .chain(of_gpus),
            );
            if now.since_boot >= expiry_due {
                expiry_due = now.since_boot + EXPIRY;
                self.board.series().expire(now.since_boot);
            }
        });
    }

    /// Reads file systems until it is told to stop.
    fn read_filesystems(&self, root: &Path) {
        let mut filesystems = FilesystemSampler::new(root);
        let mut reports = Reports::new(Arc::clone(&self.health), Arc::clone(&self.board));
        let mut readings = Vec::new();
        self.every_round(Source::Filesystems.interval(), |now| {
            filesystems.sample(now, &mut readings);
            self.board.put(&readings, now.since_boot);
            readings.clear();
            reports.tell(filesystems.report().into_iter());
        });
    }

    /// Reads what processes share out until it is told to stop.
    fn read_proportional(&self, root: &Path) {
        let mut sampler = ProportionalSampler::new(root, HostFacts::read());
        let mut members = Members::new(self.engine.patient());
        let mut reports = Reports::new(Arc::clone(&self.health), Arc::clone(&self.board));
        let mut readings = Vec::new();
        self.every_round(SHARING_ROUND, |now| {
            if members.follow(now.since_boot) {
                sampler.watch(members.to_read());
            }
            sampler.sample(now, &mut readings);
            self.board.put(&readings, now.since_boot);
            readings.clear();
            reports.tell(sampler.report().into_iter());
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use profiler_readings::{Metric, Subject};

    use super::*;
    use crate::{
        command::{self, Command, Member},
        kernel::records::Pid,
    };

    /// Field 22 of the stat file of this process.
    fn own_start() -> u64 {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        fields.split_whitespace().nth(19).unwrap().parse().unwrap()
    }

    #[test]
    fn host_processes_and_services_are_read_until_it_is_told_to_stop() {
        let (engine, mut commands) = command::channel();
        let limits = SeriesLimits {
            retention: RETENTION,
            max_bytes: 1 << 20,
        };
        let board = Arc::new(Board::new(limits));
        let stop = Arc::new(AtomicBool::new(false));
        let health = Arc::new(Health::new());
        let reader = Reader {
            board: Arc::clone(&board),
            engine,
            health: Arc::clone(&health),
            stop: Arc::clone(&stop),
            gpu: profiler_config::Gpu::default(),
        };
        let threads = reader.start(Path::new("/")).unwrap();
        let member = Member {
            pid: Pid(std::process::id()),
            start_ticks: own_start(),
            executed: None,
            name: "test".into(),
            service: "shop".into(),
        };
        let own = Subject::Process {
            pid: member.pid.0,
            start_ticks: member.start_ticks,
        };
        let wanted = [
            (Metric::HostCpuBusy, Subject::Host),
            (Metric::HostMemoryUsed, Subject::Host),
            (Metric::ProcessCpu, own.clone()),
            (Metric::ProcessMemory, own),
            (Metric::ServiceCpu, Subject::Service("shop".into())),
        ];
        let start = Instant::now();
        loop {
            if let Ok(Command::ListMembers { reply }) = commands.try_recv() {
                drop(reply.send(vec![member.clone()]));
            }
            let latest = board.series().latest(Board::now().steady, |_| true);
            let has = |(metric, subject): &(Metric, Subject)| {
                latest
                    .iter()
                    .any(|latest| latest.metric == *metric && latest.subject == *subject)
            };
            if wanted.iter().all(has) {
                let owners = latest.iter().filter_map(|latest| latest.owner.as_ref());
                assert!(owners.clone().count() > 0 && owners.clone().all(|owner| &*owner.service == "shop"));
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{latest:?}");
            thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Release);
        for thread in threads {
            thread.thread().unpark();
            thread.join().unwrap();
        }
        assert_eq!(health.state(Part::Readings), Some(PartState::Active));
        let tally = board.tally();
        assert!(tally.rounds >= 3 && tally.cpu > Duration::ZERO, "{tally:?}");
        // Nobody can ask the loop any more, apart from what was asked by then: it may end.
        while commands.try_recv().is_ok() {}
        assert!(matches!(
            commands.try_recv(),
            Err(tokio::sync::mpsc::error::TryRecvError::Disconnected)
        ));
    }
}
