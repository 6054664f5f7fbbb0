//! The ring of windows and what drops out of it.
//!
//! Windows have times of day, which queries ask for and answers show, and an age, which decides when they go. The age is
//! told by a clock that nobody sets: a time of day that steps ahead must not take all history with it, nor one that is set
//! back keep it for longer.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use profiler_profile::Profile;

use crate::{
    dictionary::Dictionary,
    query::{Part, Selection, Span, Target},
    window::Window,
};

/// Windows that share a dictionary at most, idle ones not counted: a minute of windows of the usual length. A dictionary is
/// dropped with the last window that refers to it, so that names nobody uses any more go with them.
const WINDOWS_PER_EPOCH: usize = 12;
/// An epoch also ends when it takes this share of all memory.
const EPOCH_SHARE: usize = 8;
/// What a kept window costs besides itself: the counts of its `Arc`, and its place in the ring with room to grow.
const ENTRY_BYTES: usize = 2 * size_of::<usize>() + 2 * size_of::<Kept>();

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Windows that have been kept for longer are dropped.
    pub retention: Duration,
    /// Memory for all windows; the oldest are dropped first.
    pub max_bytes: usize,
}

/// Windows dropped since the start, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// They reached the age limit. That is no loss.
    pub by_age: u64,
    /// They made room for newer ones before their time.
    pub by_bytes: u64,
    /// They did not fit even alone, and were never kept.
    pub too_large: u64,
}

/// What the store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Windows kept.
    pub windows: usize,
    /// Memory that they take, estimated.
    pub bytes: usize,
    /// Memory that they may take.
    pub capacity_bytes: usize,
    /// Start of the oldest window.
    pub oldest: Option<SystemTime>,
    /// What was dropped.
    pub dropped: Dropped,
}

/// A window in the ring.
#[derive(Debug)]
struct Kept {
    window: Arc<Window>,
    /// Uptime of the host when it came.
    since: Duration,
    /// Uptime of the host when it ended.
    ended: Duration,
}

/// Windows in a row that share a dictionary.
#[derive(Debug, Default)]
struct Epoch {
    dictionary: Arc<Dictionary>,
    windows: VecDeque<Kept>,
    /// Windows taken in that refer to the dictionary, those dropped since included.
    taken: usize,
    /// Those of them that are kept.
    referring: usize,
    window_bytes: usize,
}

impl Epoch {
    fn bytes(&self) -> usize {
        self.dictionary.bytes() + self.window_bytes
    }
}

/// Whether nothing was sampled and nothing lost: the window refers to no dictionary.
fn is_idle(profile: &Profile) -> bool {
    profile.stacks.is_empty() && profile.processes.is_empty() && profile.quality.lost.is_empty()
}

fn cost(window: &Window) -> usize {
    window.bytes() + ENTRY_BYTES
}

/// Windows in the order of their arrival, which is that of their ages.
///
/// `uptime` is the time since the host was started, its suspensions included (`CLOCK_BOOTTIME`).
#[derive(Debug)]
pub struct Store {
    limits: Limits,
    /// Never with an epoch without windows.
    epochs: VecDeque<Epoch>,
    dropped: Dropped,
    /// When the last of the windows that were dropped ended.
    forgotten: Option<Duration>,
}

impl Store {
    /// An empty store.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            epochs: VecDeque::new(),
            dropped: Dropped::default(),
            forgotten: None,
        }
    }

    /// Keeps so much from now on, and drops what is beyond it.
    pub fn set_limits(&mut self, limits: Limits, uptime: Duration) {
        self.limits = limits;
        self.expire(uptime);
        self.make_room();
    }

    /// Keeps a window that ended just now, and drops what it displaces. What was dropped is counted in [`Status::dropped`].
    pub fn insert(&mut self, profile: Profile, uptime: Duration) {
        self.insert_late(profile, uptime, Duration::ZERO);
    }

    /// The same of a window that ended so long ago.
    pub fn insert_late(&mut self, profile: Profile, uptime: Duration, late: Duration) {
        self.expire(uptime);
        if self.never_fits(&profile) {
            self.dropped.too_large += 1;
            return;
        }
        let epoch = self.open_epoch();
        let window = if is_idle(&profile) {
            Window::new(&profile, &mut Dictionary::default())
        } else {
            epoch.taken += 1;
            epoch.referring += 1;
            // A query that goes on has the dictionary too; it keeps the old one.
            Window::new(&profile, Arc::make_mut(&mut epoch.dictionary))
        };
        epoch.window_bytes += cost(&window);
        epoch.windows.push_back(Kept {
            window: Arc::new(window),
            since: uptime,
            ended: uptime.saturating_sub(late),
        });
        self.make_room();
    }

    /// Drops what is too old.
    pub fn expire(&mut self, uptime: Duration) {
        let is_too_old = |kept: &&Kept| uptime.saturating_sub(kept.since) > self.limits.retention;
        let expired = self.kept().take_while(is_too_old).count();
        for _ in 0..expired {
            self.drop_oldest();
        }
        self.dropped.by_age += expired as u64;
    }

    /// The windows that overlap the span, for a query about the target.
    pub fn select(&self, target: Target, span: Span) -> Selection {
        let mut parts = Vec::new();
        let mut known_elsewhere = false;
        for epoch in &self.epochs {
            let (inside, outside): (Vec<_>, Vec<_>) = epoch
                .windows
                .iter()
                .map(|kept| &kept.window)
                .partition(|window| span.overlaps(window.start, window.end));
            known_elsewhere |= outside.iter().any(|window| target.is_in(window, &epoch.dictionary));
            if !inside.is_empty() {
                let windows = inside.into_iter().map(Arc::clone).collect();
                parts.push(Part {
                    dictionary: Arc::clone(&epoch.dictionary),
                    windows,
                });
            }
        }
        Selection::new(target, span, parts, known_elsewhere)
    }

    /// The windows of which it is so that they began and ended at these uptimes of the host, whatever the time of day was then.
    /// `shown` is their span in times of day, for an answer without windows.
    pub fn select_by_uptime(
        &self,
        target: Target,
        shown: Span,
        belongs: impl Fn(Duration, Duration) -> bool,
    ) -> Selection {
        let belongs = |kept: &&Kept| {
            let length = kept.window.end.duration_since(kept.window.start).unwrap_or_default();
            belongs(kept.ended.saturating_sub(length), kept.ended)
        };
        let mut parts = Vec::new();
        let mut known_elsewhere = false;
        for epoch in &self.epochs {
            let (inside, outside): (Vec<&Kept>, Vec<&Kept>) = epoch.windows.iter().partition(&belongs);
            known_elsewhere |= outside.iter().any(|kept| target.is_in(&kept.window, &epoch.dictionary));
            if !inside.is_empty() {
                parts.push(Part {
                    dictionary: Arc::clone(&epoch.dictionary),
                    windows: inside.into_iter().map(|kept| Arc::clone(&kept.window)).collect(),
                });
            }
        }
        Selection::of_windows(target, shown, parts, known_elsewhere)
    }

    /// Uptime of the host when the last of the windows ended that were dropped since the start.
    pub fn forgotten_until(&self) -> Option<Duration> {
        self.forgotten
    }

    /// What is kept.
    pub fn status(&self) -> Status {
        Status {
            windows: self.kept().count(),
            bytes: self.bytes(),
            capacity_bytes: self.limits.max_bytes,
            oldest: self.kept().map(|kept| kept.window.start).min(),
            dropped: self.dropped,
        }
    }

    fn kept(&self) -> impl Iterator<Item = &Kept> {
        self.epochs.iter().flat_map(|epoch| &epoch.windows)
    }

    fn bytes(&self) -> usize {
        self.epochs.iter().map(Epoch::bytes).sum()
    }

    /// The epoch that takes the next window.
    fn open_epoch(&mut self) -> &mut Epoch {
        let most = self.limits.max_bytes / EPOCH_SHARE;
        match self.epochs.back_mut() {
            Some(last) if last.taken < WINDOWS_PER_EPOCH && last.bytes() <= most => {}
            last => {
                if let Some(last) = last {
                    Arc::make_mut(&mut last.dictionary).seal();
                }
                self.epochs.push_back(Epoch::default());
            }
        }
        let last = self.epochs.len() - 1;
        &mut self.epochs[last]
    }

    /// Whether a window would not fit even alone. It must not drive out the others first.
    fn never_fits(&self, profile: &Profile) -> bool {
        // As it is kept it is smaller; the exact answer costs more.
        if profile.memory_bytes() <= self.limits.max_bytes / 2 {
            return false;
        }
        let mut dictionary = Dictionary::default();
        let window = Window::new(profile, &mut dictionary);
        cost(&window) + dictionary.bytes() > self.limits.max_bytes
    }

    /// Drops the oldest windows until the rest fits.
    fn make_room(&mut self) {
        while self.bytes() > self.limits.max_bytes && self.drop_oldest() {
            self.dropped.by_bytes += 1;
        }
    }

    /// Drops a window, and its dictionary if it was the last to use it. Whether there was one.
    fn drop_oldest(&mut self) -> bool {
        let Some(epoch) = self.epochs.front_mut() else {
            return false;
        };
        if let Some(Kept { window, ended, .. }) = epoch.windows.pop_front() {
            self.forgotten = self.forgotten.max(Some(ended));
            epoch.window_bytes -= cost(&window);
            if !window.is_idle() {
                epoch.referring -= 1;
                if epoch.referring == 0 {
                    // Idle windows may stay for long.
                    (epoch.dictionary, epoch.taken) = (Arc::default(), 0);
                }
            }
        }
        if epoch.windows.is_empty() {
            self.epochs.pop_front();
        }
        true
    }
}
