//! How images end, and how long they are remembered: samples of them may still wait in the rings, and the windows that
//! hold them have to be named.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    clock::Now,
    owner::Processes,
    process::{Counts, ImageId, Watch},
    walker_tables::WalkerTables,
};

/// How long an ended image without samples is remembered.
const ENDED_LIFETIME_NS: u64 = 2_000_000_000;
/// How long one with samples is, and how long a mapping that was replaced, where nobody says how long windows become.
pub(super) const SAMPLED_LIFETIME_NS: u64 = 60_000_000_000;
/// How long they are beyond the longest window: samples of its last moment are still to be looked up.
const LOOKUP_NS: u64 = 10_000_000_000;
/// Ended images remembered, whether samples of them were seen or not.
const MAX_ENDED: usize = 8192;
/// Of those that ended before, the ones with samples.
const MAX_SAMPLED: usize = 8192;
/// Mappings remembered of all ended images together.
const MAX_ENDED_MAPPINGS: usize = 1 << 18;

/// What a process keeps when it executes another program.
#[derive(Debug)]
pub(super) struct Carried {
    pub(super) start: SystemTime,
    pub(super) start_ticks: Option<u64>,
    pub(super) counts: Arc<Counts>,
    pub(super) watch: Watch,
    pub(super) has_entry: bool,
}

impl<T: WalkerTables> Processes<T> {
    /// The process has ended, or another has its id.
    pub(super) fn end_image(&mut self, id: ImageId, time_ns: u64, now: Now) {
        // It may have been too short to be written.
        self.offer_template(id, now);
        let carried = self.replace_image(id, time_ns, now);
        let Some(image) = self.images.get_mut(&id) else { return };
        if carried.has_entry {
            self.walker.remove_process(image.pid);
        }
        for stream in carried.watch.streams {
            if let Some(stream) = self.streams.get_mut(&stream) {
                stream.exited = true;
            }
        }
        if !carried.has_entry && !image.may_be_sampled() {
            // Nothing in the kernel ever sampled it.
            self.ended.pop_back_if(|(_, ended)| *ended == id);
            self.forget(id);
        }
    }

    /// The image has ended, and the process goes on with what is returned.
    pub(super) fn replace_image(&mut self, id: ImageId, time_ns: u64, now: Now) -> Carried {
        self.watched.remove(&id);
        self.dirty.remove(&id);
        self.leaderless.remove(&id);
        let Some(image) = self.images.get_mut(&id) else {
            return Carried {
                start: SystemTime::UNIX_EPOCH,
                start_ticks: None,
                counts: Arc::default(),
                watch: Watch::default(),
                has_entry: false,
            };
        };
        image.to_ns = time_ns.max(image.from_ns);
        let walker = std::mem::take(&mut image.walker);
        self.tables.exchange(&walker.tables, &[], now.monotonic_ns);
        let watch = std::mem::take(&mut image.watch);
        let carried = Carried {
            start: image.start,
            start_ticks: image.start_ticks,
            counts: Arc::clone(&image.counts),
            watch: Watch {
                discovered: false,
                refused: None,
                ..watch
            },
            has_entry: walker.has_entry,
        };
        self.note_ended(id, now);
        carried
    }

    /// Remembers an ended image. If there are too many, the oldest without samples is forgotten: the others are in a
    /// window that has to be named.
    pub(super) fn note_ended(&mut self, id: ImageId, now: Now) {
        self.ended_mappings += self.images.get(&id).map_or(0, |image| image.mappings.live().len());
        self.ended.push_back((now.monotonic_ns, id));
        while self.ended.len() > MAX_ENDED || self.ended_mappings > MAX_ENDED_MAPPINGS {
            if !self.sort_out_oldest() {
                break;
            }
        }
        while self.ended_sampled.len() > MAX_SAMPLED || self.ended_mappings > MAX_ENDED_MAPPINGS {
            let Some((_, oldest)) = self.ended_sampled.pop_front() else {
                return;
            };
            self.forget(oldest);
        }
    }

    /// Forgets the image that ended first, or keeps it with those that have samples. False if there is none.
    fn sort_out_oldest(&mut self) -> bool {
        let Some((ended_ns, id)) = self.ended.pop_front() else {
            return false;
        };
        if self.images.get(&id).is_some_and(|image| image.was_sampled) {
            self.ended_sampled.push_back((ended_ns, id));
        } else {
            self.forget(id);
        }
        true
    }

    /// Remembers what has samples until the windows that hold them have been taken, which become at most so long.
    pub fn remember_for_windows_of(&mut self, longest: Duration) {
        let longest_ns = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        self.sampled_lifetime_ns = longest_ns.saturating_add(LOOKUP_NS);
    }

    /// Forgets images that ended long enough ago, and mappings that were replaced.
    pub(super) fn forget_old(&mut self, now: Now) {
        let now_ns = now.monotonic_ns;
        let is_due = |ended: Option<&(u64, ImageId)>, lifetime_ns| {
            ended.is_some_and(|(ended_ns, _)| now_ns.saturating_sub(*ended_ns) >= lifetime_ns)
        };
        while is_due(self.ended.front(), ENDED_LIFETIME_NS) {
            self.sort_out_oldest();
        }
        while is_due(self.ended_sampled.front(), self.sampled_lifetime_ns) {
            if let Some((_, id)) = self.ended_sampled.pop_front() {
                self.forget(id);
            }
        }
        let horizon = now_ns.saturating_sub(self.sampled_lifetime_ns);
        for image in self.images.values_mut() {
            if image.mappings.has_past_before(horizon) {
                Arc::make_mut(&mut image.mappings).forget_before(horizon);
            }
        }
    }

    fn forget(&mut self, id: ImageId) {
        let Some(image) = self.images.remove(&id) else { return };
        self.ended_mappings = self.ended_mappings.saturating_sub(image.mappings.live().len());
        if let Some(of_process) = self.by_pid.get_mut(&image.pid) {
            of_process.retain(|other| *other != id);
            if of_process.is_empty() {
                self.by_pid.remove(&image.pid);
            }
        }
    }
}
