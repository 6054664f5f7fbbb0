//! Readings over time: for each metric of each subject its values of the last hour, in memory, bounded by bytes.
//!
//! In: one value at a time, with the steady time at which it was read. Out: the latest values, and values over a span in
//! steps, with rates of counters and percentiles, which are computed when asked for. A value that is missing stays missing.
//! Pure: time is an argument. Everything is kept by a clock that only goes forward, as a duration since some start; a
//! [`Moment`] tells the time of day of it, as the clock shows it now. A clock that is set changes what old readings
//! are dated, and never their order or distance.
//!
//! When the bytes are used up, subjects that are read no more go first, the longest silent before the others; then the
//! oldest values of all; and when nothing but the newest is left, new subjects are refused. All of it is counted.

mod line;
mod room;
mod span;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use profiler_readings::{Kind, Metric, Subject};

use self::line::{Line, Written};
pub use self::span::{Bucket, Range, Steps};

/// A value is the latest of its series for so many of its intervals, and at least for so long; afterwards there is none.
const CURRENT_INTERVALS: u32 = 3;
const CURRENT_AT_LEAST: Duration = Duration::from_secs(5);
/// How long no room is looked for again for new series.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// What a map adds to an entry, with what is free in its nodes.
const ENTRY_BYTES: usize = 48;

/// One moment on two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// On the one that readings are kept by.
    pub steady: Duration,
    /// The time of day.
    pub wall: SystemTime,
}

impl Moment {
    /// The time of day of another moment, as the clock shows it now.
    pub fn wall_of(&self, steady: Duration) -> SystemTime {
        let apart = self.steady.abs_diff(steady);
        let wall = if steady <= self.steady {
            self.wall.checked_sub(apart)
        } else {
            self.wall.checked_add(apart)
        };
        wall.unwrap_or(self.wall)
    }

    /// The steady time of a time of day, as the clock shows it now; the start for what was before it.
    pub fn steady_of(&self, wall: SystemTime) -> Duration {
        match wall.duration_since(self.wall) {
            Ok(later) => self.steady.saturating_add(later),
            Err(earlier) => self.steady.saturating_sub(earlier.duration()),
        }
    }
}

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesLimits {
    /// Values are dropped when they are this old.
    pub retention: Duration,
    /// Memory for all series.
    pub max_bytes: usize,
}

/// What could not be kept, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeriesDropped {
    /// Subjects that were read no more, dropped to make room before their time.
    pub subjects: u64,
    /// Runs of old values dropped to make room before their time.
    pub runs: u64,
    /// Values refused because there was no room for another series.
    pub refused: u64,
    /// Values that are no number, or older than the last of their series.
    pub invalid: u64,
}

/// What the store of series holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesStatus {
    /// Subjects with at least one series.
    pub subjects: usize,
    /// Series.
    pub series: usize,
    /// Memory that they take, estimated.
    pub bytes: usize,
    /// Memory that they may take.
    pub capacity_bytes: usize,
    /// What could not be kept.
    pub dropped: SeriesDropped,
}

/// What is known of a process besides its id. Both names come from the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its name.
    pub name: Arc<str>,
    /// The service that it belongs to; empty if none.
    pub service: Arc<str>,
}

/// The latest value of a series.
#[derive(Clone, Debug, PartialEq)]
pub struct Latest {
    /// What was measured.
    pub metric: Metric,
    /// Of whom.
    pub subject: Subject,
    /// What is known of the process.
    pub owner: Option<Owner>,
    /// The value as it was read.
    pub value: f64,
    /// Of a counter: its increase a second since the value before.
    pub rate: Option<f64>,
    /// When it was read.
    pub at: Duration,
}

/// A series and what is known of its subject.
#[derive(Clone, Copy, Debug)]
pub struct SeriesRef<'a> {
    /// What is measured.
    pub metric: Metric,
    /// Of whom.
    pub subject: &'a Subject,
    /// What is known of the process.
    pub owner: Option<&'a Owner>,
    line: &'a Line,
}

impl SeriesRef<'_> {
    /// Its values over a span. Those of a counter are rates.
    pub fn range(&self, steps: Steps, quantiles: &[f64]) -> Range {
        span::range(self.line, steps, quantiles)
    }

    /// When it was last read.
    pub fn latest_at(&self) -> Option<Duration> {
        self.line.latest().map(|(at, _)| at)
    }
}

/// All series of one subject.
#[derive(Debug, Default)]
struct Entry {
    owner: Option<Owner>,
    /// When one of them was written last.
    written: Duration,
    /// By metric.
    lines: Vec<(Metric, Line)>,
}

/// The series of all subjects.
#[derive(Debug)]
pub struct SeriesStore {
    limits: SeriesLimits,
    entries: BTreeMap<Subject, Entry>,
    bytes: usize,
    dropped: SeriesDropped,
    /// When room was last looked for for a new series.
    looked: Option<Duration>,
    /// Times that room was made by looking at everything.
    #[cfg(test)]
    passes: u64,
}

impl SeriesStore {
    /// An empty store.
    pub fn new(limits: SeriesLimits) -> Self {
        Self {
            limits,
            entries: BTreeMap::new(),
            bytes: 0,
            dropped: SeriesDropped::default(),
            looked: None,
            #[cfg(test)]
            passes: 0,
        }
    }

    /// Keeps so much from now on, and drops what is beyond it.
    pub fn set_limits(&mut self, limits: SeriesLimits, now: Duration) {
        self.limits = limits;
        self.expire(now);
        if self.bytes <= limits.max_bytes {
            return;
        }
        self.make_room(0, now);
        // Where the newest values alone are too many, some have to go.
        while self.bytes > self.room_for_new()
            && let Some((subject, entry)) = self.entries.pop_last()
        {
            self.forget(&subject, &entry);
        }
    }

    /// Keeps a value that was read at `at` by a source that is read every `interval`. What could not be kept is counted.
    pub fn record(&mut self, metric: Metric, subject: &Subject, value: f64, at: Duration, interval: Duration) {
        if !value.is_finite() {
            self.dropped.invalid += 1;
            return;
        }
        if self.line(subject, metric).is_none() && !self.begin(metric, subject, at, interval) {
            self.dropped.refused += 1;
            return;
        }
        let oldest = at.saturating_sub(self.limits.retention);
        let Some(entry) = self.entries.get_mut(subject) else {
            return;
        };
        let Some((_, line)) = entry.lines.iter_mut().find(|(other, _)| *other == metric) else {
            return;
        };
        let before = line.bytes();
        let written = line.write(at, value);
        line.expire(oldest);
        let after = line.bytes();
        self.bytes = self.bytes + after - before;
        match written {
            Written::Kept => entry.written = entry.written.max(at),
            Written::Late => self.dropped.invalid += 1,
        }
        if after > before && self.bytes > self.limits.max_bytes {
            self.make_room(0, at);
        }
    }

    /// Notes what is known of a process, if there are series of it.
    pub fn set_owner(&mut self, subject: &Subject, owner: &Owner) {
        let Some(entry) = self.entries.get_mut(subject) else {
            return;
        };
        if entry.owner.as_ref() == Some(owner) {
            return;
        }
        self.bytes = self.bytes - owner_bytes(entry.owner.as_ref()) + owner_bytes(Some(owner));
        entry.owner = Some(owner.clone());
    }

    /// What is known of a process, if there are series of it.
    pub fn owner(&self, subject: &Subject) -> Option<&Owner> {
        self.entries.get(subject)?.owner.as_ref()
    }

    /// Drops what is too old. Series that are written drop their own; this is for the others.
    pub fn expire(&mut self, now: Duration) {
        let oldest = now.saturating_sub(self.limits.retention);
        let mut freed = 0;
        self.entries.retain(|subject, entry| {
            entry.lines.retain_mut(|(_, line)| {
                let before = line.bytes();
                line.expire(oldest);
                let is_kept = !line.is_empty();
                freed += if is_kept { before - line.bytes() } else { before };
                is_kept
            });
            let is_kept = !entry.lines.is_empty();
            if !is_kept {
                freed += entry_bytes(subject, entry);
            }
            is_kept
        });
        self.bytes -= freed;
    }

    /// The latest value of each series that is wanted and still read.
    pub fn latest(&self, now: Duration, wanted: impl Fn(&SeriesRef<'_>) -> bool) -> Vec<Latest> {
        let series = self.series().filter(|series| wanted(series));
        let latest = series.filter_map(|series| {
            let (at, value) = series.line.latest()?;
            let current = (series.line.interval() * CURRENT_INTERVALS).max(CURRENT_AT_LEAST);
            (now.saturating_sub(at) <= current).then(|| Latest {
                metric: series.metric,
                subject: series.subject.clone(),
                owner: series.owner.cloned(),
                value,
                rate: series.line.latest_rate(),
                at,
            })
        });
        latest.collect()
    }

    /// All series, by subject and metric.
    pub fn series(&self) -> impl Iterator<Item = SeriesRef<'_>> {
        self.entries.iter().flat_map(|(subject, entry)| {
            entry.lines.iter().map(move |(metric, line)| SeriesRef {
                metric: *metric,
                subject,
                owner: entry.owner.as_ref(),
                line,
            })
        })
    }

    /// What is held.
    pub fn status(&self) -> SeriesStatus {
        SeriesStatus {
            subjects: self.entries.len(),
            series: self.entries.values().map(|entry| entry.lines.len()).sum(),
            bytes: self.bytes,
            capacity_bytes: self.limits.max_bytes,
            dropped: self.dropped,
        }
    }

    fn line(&self, subject: &Subject, metric: Metric) -> Option<&Line> {
        let lines = &self.entries.get(subject)?.lines;
        lines.iter().find(|(other, _)| *other == metric).map(|(_, line)| line)
    }

    /// Begins a series, if there is room for it.
    fn begin(&mut self, metric: Metric, subject: &Subject, at: Duration, interval: Duration) -> bool {
        let line = Line::new(metric.kind() == Kind::Counter, interval, at);
        let is_new = !self.entries.contains_key(subject);
        let entry_cost = if is_new {
            entry_bytes(subject, &Entry::default())
        } else {
            0
        };
        let needed = entry_cost + line.bytes_with_one_value();
        if self.bytes + needed > self.room_for_new() {
            if self.looked.is_some_and(|looked| at.saturating_sub(looked) < LOOK_AGAIN) {
                return false;
            }
            self.looked = Some(at);
            self.make_room(needed, at);
            if self.bytes + needed > self.room_for_new() {
                return false;
            }
        }
        self.bytes += entry_cost + line.bytes();
        let entry = self.entries.entry(subject.clone()).or_default();
        entry.written = entry.written.max(at);
        let place = entry.lines.partition_point(|(other, _)| *other < metric);
        entry.lines.insert(place, (metric, line));
        true
    }
}

/// What a subject costs besides its series.
fn entry_bytes(subject: &Subject, entry: &Entry) -> usize {
    let name = match subject {
        Subject::Host | Subject::Core(_) | Subject::Process { .. } => 0,
        Subject::Disk(name)
        | Subject::Network(name)
        | Subject::Filesystem(name)
        | Subject::Service(name)
        | Subject::ControlGroup(name)
        | Subject::Gpu(name) => name.len(),
    };
    size_of::<Subject>() + size_of::<Entry>() + name + ENTRY_BYTES + owner_bytes(entry.owner.as_ref())
}

/// The names are shared with whoever knows the process, so they count little.
fn owner_bytes(owner: Option<&Owner>) -> usize {
    owner.map_or(0, |owner| owner.name.len() + owner.service.len())
}

#[cfg(test)]
mod tests;
