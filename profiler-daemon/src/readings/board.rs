//! Where readings are put, and where those who ask find them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use profiler_readings::{Metric, Reading, Source, Subject, SubjectGrowth};
use profiler_store::{Moment, Owner, SeriesLimits, SeriesStore};
use rustix::time::{ClockId, clock_gettime};

use super::growth::{self, GrowthReport};
use crate::{command::Member, memory::OomKilled};

/// Intervals of reading processes within which one was read that is killed.
const KILLED_WITHIN: u32 = 2;

/// What reading has done and cost since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Rounds made.
    pub rounds: u64,
    /// Rounds left out, because the one before took too long or the host had no CPU for us.
    pub missed: u64,
    /// CPU time of the threads that read.
    pub cpu: Duration,
}

/// The series, as the thread that reads and those who ask share them. Held only while values are put in or taken out.
#[derive(Debug)]
pub struct Board {
    series: Mutex<SeriesStore>,
    growth: Mutex<Vec<SubjectGrowth>>,
    tally: Mutex<Tally>,
    left_out: Mutex<BTreeMap<Source, u64>>,
}

impl Board {
    /// A board without readings.
    pub fn new(limits: SeriesLimits) -> Self {
        Self {
            series: Mutex::new(SeriesStore::new(limits)),
            growth: Mutex::default(),
            tally: Mutex::default(),
            left_out: Mutex::default(),
        }
    }

    /// Now, on the clock of the series and as the time of day.
    pub fn now() -> Moment {
        Moment {
            steady: Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default(),
            wall: SystemTime::now(),
        }
    }

    /// The series. A thread that panicked while it held the lock left whole values behind.
    pub fn series(&self) -> MutexGuard<'_, SeriesStore> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What reading has done.
    pub fn tally(&self) -> Tally {
        *self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sources that leave something out because there is too much of it, and how many processes, disks or whatever it is.
    pub fn left_out(&self) -> Vec<(Source, u64)> {
        let left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        left_out.iter().map(|(source, count)| (*source, *count)).collect()
    }

    /// Notes how much of a source is left out. How much was before.
    pub(super) fn note_left_out(&self, source: Source, count: u64) -> u64 {
        let mut left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match count {
            0 => left_out.remove(&source),
            count => left_out.insert(source, count),
        };
        before.unwrap_or_default()
    }

    /// Keeps what was read at a moment.
    pub fn put(&self, readings: &[Reading], at: Duration) {
        let mut series = self.series();
        for reading in readings {
            let interval = Source::of(reading.metric).interval();
            series.record(reading.metric, &reading.subject, reading.value, at, interval);
        }
    }

    /// Puts verdicts on memory in place of those before.
    pub fn put_growth(&self, growth: Vec<SubjectGrowth>) {
        *self.growth.lock().unwrap_or_else(PoisonError::into_inner) = growth;
    }

    /// The newest verdict on the memory of each process and service, by subject, with what is left for it now.
    pub fn growth(&self) -> Vec<GrowthReport> {
        let growth = self.growth.lock().unwrap_or_else(PoisonError::into_inner).clone();
        growth::reports(&growth, &self.series(), Self::now().steady)
    }

    /// Notes processes that were killed because memory ran out: each is a reading of the process, and of no other with its id.
    pub fn put_killed(&self, kills: &[OomKilled], now: profiler_readings::Moment) {
        for kill in kills {
            let ago = now.time.duration_since(kill.time).unwrap_or_default();
            let killed_at = now.since_boot.saturating_sub(ago);
            let read = || self.process_read_around(kill.pid.0, killed_at);
            let subject = Subject::Process {
                pid: kill.pid.0,
                start_ticks: kill.start_ticks.or_else(read).unwrap_or(0),
            };
            let reading = Reading {
                metric: Metric::ProcessOomKilled,
                subject: subject.clone(),
                value: 1.0,
                time: kill.time,
            };
            self.put(&[reading], now.since_boot);
            if let Some(process) = &kill.process {
                let owner = Owner {
                    name: Arc::clone(&process.name),
                    service: Arc::clone(&process.service),
                };
                self.series().set_owner(&subject, &owner);
            }
        }
    }

    /// The start of the process with this id that was last read around a moment. Any other had the id before, or has it since.
    fn process_read_around(&self, pid: u32, moment: Duration) -> Option<u64> {
        let around = KILLED_WITHIN * Source::Processes.interval();
        let series = self.series();
        let starts = series.series().filter_map(|series| match series.subject {
            Subject::Process {
                pid: other,
                start_ticks,
            } if *other == pid => {
                // Other sources tell of a process for longer than it is there.
                let is_read = Source::of(series.metric) == Source::Processes;
                let at = series.latest_at().filter(|_| is_read)?;
                (at.abs_diff(moment) <= around).then_some(*start_ticks)
            }
            _ => None,
        });
        starts.max()
    }

    /// Notes what is known of processes that are read.
    pub(super) fn name(&self, members: &[Member]) {
        let mut series = self.series();
        for member in members {
            let subject = Subject::Process {
                pid: member.pid.0,
                start_ticks: member.start_ticks,
            };
            let owner = Owner {
                name: Arc::clone(&member.name),
                service: Arc::clone(&member.service),
            };
            series.set_owner(&subject, &owner);
        }
    }

    pub(super) fn note_round(&self, missed: u64, cpu: Duration) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.rounds += 1;
        tally.missed += missed;
        tally.cpu += cpu;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::records::Pid;

    fn moment(second: u64) -> profiler_readings::Moment {
        profiler_readings::Moment {
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + second),
            since_boot: Duration::from_secs(second),
        }
    }

    #[test]
    fn who_had_the_id_before_was_not_killed() {
        let board = Board::new(SeriesLimits {
            retention: Duration::from_secs(3600),
            max_bytes: 1 << 20,
        });
        let put = |metric, start_ticks, second| {
            let reading = Reading {
                metric,
                subject: Subject::Process { pid: 7, start_ticks },
                value: 1.0,
                time: moment(second).time,
            };
            board.put(&[reading], moment(second).since_boot);
        };
        let killed = |start_ticks, second| {
            let kill = OomKilled {
                pid: Pid(7),
                start_ticks,
                time: moment(second).time,
                process: None,
            };
            board.put_killed(&[kill], moment(second + 1));
            let series = board.series();
            let of_kills = series
                .series()
                .filter(|series| series.metric == Metric::ProcessOomKilled);
            let told = of_kills.filter(|series| series.latest_at() == Some(moment(second + 1).since_boot));
            told.map(|series| series.subject.clone()).collect::<Vec<_>>()
        };
        let of = |start_ticks| [Subject::Process { pid: 7, start_ticks }];
        put(Metric::ProcessMemory, 100, 500);
        put(Metric::ProcessMemory, 900, 600);
        // Of a process that is gone its growth is told for a while.
        put(Metric::ProcessMemoryGrowth, 900, 660);
        assert_eq!(killed(None, 602), of(900), "it was read a moment before");
        assert_eq!(killed(None, 660), of(0), "nobody knows which one");
        assert_eq!(
            killed(Some(6600), 670),
            of(6600),
            "it is known, though it was never read"
        );
    }
}
