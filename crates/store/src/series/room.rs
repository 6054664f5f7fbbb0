//! How room is made when the bytes are used up.

use std::time::Duration;

use profiler_readings::Subject;

use super::{Entry, SeriesStore, entry_bytes};

/// A subject that was not read for so long is read no more.
const SILENT_AFTER: Duration = Duration::from_secs(60);
/// This share of all memory is left for the next values of the series that there are: new ones are refused before it is used.
/// As much again is freed whenever room is made, so that not every value has to look for some.
const ROOM_SHARE: usize = 16;
/// Runs that end within so much of the oldest go with it, so that not every value has to look for one.
const SHORTENED_AT_ONCE: Duration = Duration::from_secs(60);

impl SeriesStore {
    /// What may be taken before new series are refused.
    pub(super) fn room_for_new(&self) -> usize {
        self.limits.max_bytes - self.limits.max_bytes / ROOM_SHARE
    }

    /// Drops what may go until so many bytes more fit, and some beyond.
    pub(super) fn make_room(&mut self, needed: usize, now: Duration) {
        #[cfg(test)]
        {
            self.passes += 1;
        }
        let target = self.limits.max_bytes - 2 * (self.limits.max_bytes / ROOM_SHARE);
        self.drop_silent(needed, target, now);
        while self.bytes + needed > target && self.shorten() {}
    }

    /// Drops subjects that are read no more, the longest silent first.
    fn drop_silent(&mut self, needed: usize, target: usize, now: Duration) {
        let silent_since = now.saturating_sub(SILENT_AFTER);
        let silent = self.entries.iter().filter(|(_, entry)| entry.written < silent_since);
        let mut silent: Vec<(Duration, Subject)> = silent
            .map(|(subject, entry)| (entry.written, subject.clone()))
            .collect();
        silent.sort();
        for (_, subject) in silent {
            if self.bytes + needed <= target {
                return;
            }
            if let Some(entry) = self.entries.remove(&subject) {
                self.forget(&subject, &entry);
            }
        }
    }

    /// Counts a subject that was dropped.
    pub(super) fn forget(&mut self, subject: &Subject, entry: &Entry) {
        let lines: usize = entry.lines.iter().map(|(_, line)| line.bytes()).sum();
        self.bytes -= entry_bytes(subject, entry) + lines;
        self.dropped.subjects += 1;
    }

    /// Drops the oldest run of values of every series that has one about as old as the oldest of all, but never the newest
    /// run of a series. Whether there was one.
    fn shorten(&mut self) -> bool {
        let lines = || self.entries.values().flat_map(|entry| &entry.lines);
        let Some(oldest) = lines().filter_map(|(_, line)| line.oldest_spare_end()).min() else {
            return false;
        };
        let until = oldest + SHORTENED_AT_ONCE;
        let lines = self.entries.values_mut().flat_map(|entry| &mut entry.lines);
        for (_, line) in lines.filter(|(_, line)| line.oldest_spare_end().is_some_and(|end| end <= until)) {
            let before = line.bytes();
            line.drop_oldest();
            self.bytes -= before - line.bytes();
            self.dropped.runs += 1;
        }
        true
    }
}
