//! Where readings come from, how often each place is read, and how it is doing.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use crate::{Gap, Metric, Reading, Scope, Subject, file::ReadError};

/// How long a source that this host does not have is left alone.
pub(crate) const UNSUPPORTED_RETRY: Duration = Duration::from_secs(60);
/// Part of the interval by which a source may be read early, so that a clock that ticks unevenly leaves no turn out.
const EARLY_PART: u32 = 10;

/// A moment on the two clocks that samplers need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The time of day, which may be set: it is only written beside values.
    pub time: SystemTime,
    /// `CLOCK_BOOTTIME`: what intervals are measured by, and the clock of the start times in `/proc`.
    pub since_boot: Duration,
}

impl Moment {
    /// A value read at this moment.
    pub(crate) fn reading(self, metric: Metric, subject: Subject, value: f64) -> Reading {
        Reading {
            metric,
            subject,
            value,
            time: self.time,
        }
    }

    /// A value of the host as a whole.
    pub(crate) fn of_host(self, metric: Metric, value: f64) -> Reading {
        self.reading(metric, Subject::Host, value)
    }

    /// Seconds since an earlier moment; none if there are none.
    pub(crate) fn seconds_since(self, earlier: Duration) -> Option<f64> {
        let seconds = self.since_boot.checked_sub(earlier)?.as_secs_f64();
        (seconds > 0.0).then_some(seconds)
    }
}

/// What of this host samplers need to know to understand the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// Clock ticks a second in `/proc/PID/stat`.
    pub ticks_per_second: u64,
    /// Bytes of a page of memory.
    pub page_bytes: u64,
}

impl HostFacts {
    /// Those of the running host.
    pub fn read() -> Self {
        Self {
            ticks_per_second: rustix::param::clock_ticks_per_second().max(1),
            page_bytes: rustix::param::page_size() as u64,
        }
    }
}

/// One place that readings come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// `/proc/stat`.
    Cpu,
    /// `/proc/meminfo`.
    Memory,
    /// `/proc/vmstat`.
    MemoryEvents,
    /// `/proc/pressure`.
    Pressure,
    /// `/proc/loadavg` and `/proc/uptime`.
    Load,
    /// `/proc/diskstats`.
    Disks,
    /// `/proc/net/dev`.
    Network,
    /// `/proc/sys/fs/file-nr`.
    OpenFiles,
    /// The mount table and statvfs.
    Filesystems,
    /// `/proc/PID/stat` and `statm`.
    Processes,
    /// The other files of `/proc/PID`, which cost more.
    ProcessDetails,
    /// `/proc/PID/smaps_rollup`, which costs most of all.
    ProportionalMemory,
    /// What processes held, minute by minute.
    MemoryGrowth,
    /// Processes that the kernel kills because memory ran out, as it tells of them.
    OomKills,
    /// Sockets that processes listen on.
    Listeners,
    /// The files of control groups.
    ControlGroups,
    /// NVIDIA's management library.
    Gpu,
}

impl Source {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Cpu,
        Self::Memory,
        Self::MemoryEvents,
        Self::Pressure,
        Self::Load,
        Self::Disks,
        Self::Network,
        Self::OpenFiles,
        Self::Filesystems,
        Self::Processes,
        Self::ProcessDetails,
        Self::ProportionalMemory,
        Self::MemoryGrowth,
        Self::OomKills,
        Self::Listeners,
        Self::ControlGroups,
        Self::Gpu,
    ];

    /// Its name in status, log and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::MemoryEvents => "memory_events",
            Self::Pressure => "pressure",
            Self::Load => "load",
            Self::Disks => "disks",
            Self::Network => "network",
            Self::OpenFiles => "open_files",
            Self::Filesystems => "filesystems",
            Self::Processes => "processes",
            Self::ProcessDetails => "process_details",
            Self::ProportionalMemory => "proportional_memory",
            Self::MemoryGrowth => "memory_growth",
            Self::OomKills => "oom_kills",
            Self::Listeners => "listeners",
            Self::ControlGroups => "cgroups",
            Self::Gpu => "gpu",
        }
    }

    /// What an operator can do about a state of it; empty if nothing is known.
    fn remedy(self, state: &SourceState) -> &'static str {
        match (self, state) {
            (Self::Pressure, SourceState::Unsupported { .. }) => {
                "boot with psi=1, with a kernel built with CONFIG_PSI=y; without it limits on pressure never fire"
            }
            _ => "",
        }
    }

    /// Time from one reading to the next.
    pub fn interval(self) -> Duration {
        Duration::from_secs(match self {
            Self::Cpu
            | Self::Memory
            | Self::Pressure
            | Self::Load
            | Self::Processes
            | Self::OomKills
            | Self::Listeners => 1,
            // A round of questions costs the driver far more than a file costs the kernel.
            Self::Gpu => 2,
            Self::Disks | Self::Network | Self::OpenFiles | Self::MemoryEvents | Self::ControlGroups => 5,
            Self::Filesystems | Self::ProcessDetails => 10,
            Self::MemoryGrowth => 60,
            Self::ProportionalMemory => 300,
        })
    }

    /// The source of a metric.
    pub fn of(metric: Metric) -> Self {
        use Metric as M;
        match metric {
            M::HostMemoryUsed
            | M::HostMemoryTotal
            | M::HostMemoryAvailable
            | M::HostMemoryAnonymous
            | M::HostMemoryDirty
            | M::HostSwapUsed
            | M::HostSwapTotal => Self::Memory,
            M::HostOomKills | M::HostMajorFaults => Self::MemoryEvents,
            M::HostCpuPressure
            | M::HostMemoryPressure
            | M::HostIoPressure
            | M::HostMemoryStalled
            | M::HostIoStalled
            | M::HostCpuPressureTime
            | M::HostMemoryPressureTime
            | M::HostIoPressureTime
            | M::HostMemoryStalledTime
            | M::HostIoStalledTime => Self::Pressure,
            M::HostLoad1 | M::HostLoad5 | M::HostLoad15 | M::HostTasks | M::HostUptime => Self::Load,
            M::HostOpenFiles | M::HostOpenFilesUsed => Self::OpenFiles,
            M::ServiceMemoryLimitUsed | M::ServiceMemoryRoom | M::ServiceCpuThrottled | M::ServiceOomKills => {
                Self::ControlGroups
            }
            M::ServiceMemoryProportional | M::ProcessMemoryProportional => Self::ProportionalMemory,
            M::ServiceMemoryGrowth | M::ProcessMemoryGrowth => Self::MemoryGrowth,
            M::ProcessOomKilled => Self::OomKills,
            M::ServiceThreads
            | M::ServiceMemoryAnonymous
            | M::ServiceMemoryFile
            | M::ServiceMemoryShared
            | M::ServiceSwap
            | M::ServiceDescriptors
            | M::ServiceMinorFaults
            | M::ServiceMajorFaults
            | M::ServiceReadBytes
            | M::ServiceWrittenBytes
            | M::ServiceVoluntarySwitches
            | M::ServiceInvoluntarySwitches
            | M::ProcessThreads
            | M::ProcessMemoryAnonymous
            | M::ProcessMemoryFile
            | M::ProcessMemoryShared
            | M::ProcessSwap
            | M::ProcessDescriptors
            | M::ProcessMinorFaults
            | M::ProcessMajorFaults
            | M::ProcessReadBytes
            | M::ProcessWrittenBytes
            | M::ProcessVoluntarySwitches
            | M::ProcessInvoluntarySwitches => Self::ProcessDetails,
            M::ProcessListenDelay => Self::Listeners,
            M::ProcessGpuMemory | M::ProcessGpuUtilization | M::ServiceGpuMemory | M::ServiceGpuUtilization => {
                Self::Gpu
            }
            other => match other.scope() {
                Scope::Host | Scope::Core => Self::Cpu,
                Scope::Disk => Self::Disks,
                Scope::Network => Self::Network,
                Scope::Filesystem => Self::Filesystems,
                Scope::Service | Scope::Process => Self::Processes,
                Scope::ControlGroup => Self::ControlGroups,
                Scope::Gpu => Self::Gpu,
            },
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a source is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceState {
    /// It was read. Single values may be missing.
    Active,
    /// This host has nothing that it could tell of, and nothing is wrong with that.
    Absent {
        /// What was looked for, in one line.
        reason: String,
    },
    /// It was asked and has not answered yet.
    Late {
        /// What does not answer, in one line.
        reason: String,
    },
    /// This host does not have it.
    Unsupported {
        /// Why, in one line.
        reason: String,
    },
    /// It could not be read, or not all of it.
    Failed {
        /// Why, in one line.
        reason: String,
    },
}

impl SourceState {
    /// What a value that is missing is, while its source is in this state.
    pub fn gap(&self) -> Gap {
        match self {
            Self::Absent { .. } | Self::Unsupported { .. } => Gap::Unsupported,
            Self::Active | Self::Late { .. } | Self::Failed { .. } => Gap::NoData,
        }
    }
}

/// A source and how it is doing.
#[derive(Clone, Copy, Debug)]
pub struct SourceReport<'a> {
    /// The source.
    pub source: Source,
    /// How the last reading went.
    pub state: &'a SourceState,
    /// What an operator can do about it; empty if nothing is known.
    pub remedy: &'static str,
    /// Subjects beyond the bound that the last reading left out.
    pub left_out: u64,
}

/// When a source is read, and how it went.
#[derive(Debug)]
pub(crate) struct Schedule {
    source: Source,
    due: Option<Duration>,
    was_active: bool,
    state: Option<SourceState>,
    left_out: u64,
}

impl Schedule {
    pub(crate) fn new(source: Source) -> Self {
        Self {
            source,
            due: None,
            was_active: false,
            state: None,
            left_out: 0,
        }
    }

    /// Whether it is to be read now. The next turn is an interval after the one that was due, however late this one is,
    /// unless turns were missed.
    pub(crate) fn take_turn(&mut self, now: Moment) -> bool {
        let interval = self.source.interval();
        let (now, early) = (now.since_boot, interval / EARLY_PART);
        let due = self.due.unwrap_or(now);
        // A clock that went back would otherwise keep the source from being read for as long.
        if now + early < due && due - now <= UNSUPPORTED_RETRY {
            return false;
        }
        let next = due + interval;
        self.due = Some(if next <= now + early || due > now + interval {
            now + interval
        } else {
            next
        });
        true
    }

    /// Notes how a reading went: how many subjects were left out, or why not everything could be read.
    pub(crate) fn settle(&mut self, now: Moment, result: Result<u64, ReadError>) {
        let state = match result {
            Ok(left_out) => {
                self.left_out = left_out;
                self.was_active = true;
                SourceState::Active
            }
            // What was there before is lost, not unknown to this host.
            Err(error) if error.is_unsupported() && !self.was_active => {
                self.due = Some(now.since_boot + UNSUPPORTED_RETRY);
                SourceState::Unsupported {
                    reason: error.to_string(),
                }
            }
            Err(error) => SourceState::Failed {
                reason: error.to_string(),
            },
        };
        self.state = Some(state);
    }

    /// How it went; none before the first turn.
    pub(crate) fn report(&self) -> Option<SourceReport<'_>> {
        self.state.as_ref().map(|state| SourceReport {
            source: self.source,
            state,
            remedy: self.source.remedy(state),
            left_out: self.left_out,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment {
            time: SystemTime::UNIX_EPOCH,
            since_boot: Duration::from_millis(millis),
        }
    }

    fn turns(source: Source, moments: &[u64]) -> Vec<u64> {
        let mut schedule = Schedule::new(source);
        let taken = moments.iter().filter(|&&moment| schedule.take_turn(at(moment)));
        taken.copied().collect()
    }

    #[test]
    fn a_clock_that_ticks_unevenly_leaves_no_turn_out() {
        let ticks = [1_003, 2_001, 3_000, 4_080, 4_999];
        assert_eq!(turns(Source::Cpu, &ticks), ticks);
    }

    #[test]
    fn slow_sources_wait_and_missed_turns_are_not_made_up_for() {
        assert_eq!(
            turns(
                Source::Disks,
                &[1_000, 2_000, 5_400, 6_000, 11_000, 30_000, 31_000, 35_000]
            ),
            [1_000, 6_000, 11_000, 30_000, 35_000]
        );
    }

    #[test]
    fn a_clock_that_goes_back_stops_nothing() {
        assert_eq!(
            turns(Source::Cpu, &[900_000, 1_000, 1_500, 2_000]),
            [900_000, 1_000, 2_000]
        );
    }

    #[test]
    fn every_source_gives_metrics() {
        for source in Source::ALL {
            assert!(
                Metric::ALL.iter().any(|&metric| Source::of(metric) == source),
                "{source} gives nothing"
            );
        }
        assert_eq!(Source::of(Metric::ServiceCpu), Source::Processes);
        assert_eq!(Source::of(Metric::ProcessThreads), Source::ProcessDetails);
        assert_eq!(Source::of(Metric::ServiceGpuMemory), Source::Gpu);
    }

    #[test]
    fn what_was_there_is_lost_and_what_never_was_is_unsupported() {
        let missing = || ReadError::Failed {
            path: "/gone".into(),
            reason: rustix::io::Errno::NOENT.into(),
        };
        let mut schedule = Schedule::new(Source::Pressure);
        assert!(schedule.report().is_none());
        assert!(schedule.take_turn(at(1_000)));
        schedule.settle(at(1_000), Err(missing()));
        assert_eq!(schedule.report().unwrap().state.gap(), Gap::Unsupported);
        assert!(schedule.report().unwrap().remedy.contains("psi=1"));
        assert!(!schedule.take_turn(at(2_000)), "it is left alone");
        assert!(schedule.take_turn(at(61_000)));
        schedule.settle(at(61_000), Ok(3));
        assert_eq!(schedule.report().unwrap().remedy, "");
        assert_eq!(
            (schedule.report().unwrap().state, schedule.left_out),
            (&SourceState::Active, 3)
        );
        schedule.settle(at(62_000), Err(missing()));
        assert_eq!(schedule.report().unwrap().state.gap(), Gap::NoData);
    }
}
