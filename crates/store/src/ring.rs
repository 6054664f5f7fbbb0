//! The ring of windows and what drops out of it.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use profiler_profile::Profile;

use crate::query::{Selection, Span, Target};

/// What a kept window costs beside its profile.
const ENTRY_BYTES: usize = size_of::<Window>() + 4 * size_of::<usize>();

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Windows that ended longer ago are dropped.
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
    /// They would not have fitted alone, and were never kept.
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

#[derive(Debug)]
struct Window {
    profile: Arc<Profile>,
    bytes: usize,
}

/// Windows in the order of their arrival.
///
/// The order of arrival, not of times, decides what is oldest: when the clock is set back, new windows must not be taken
/// for old ones.
#[derive(Debug)]
pub struct Store {
    limits: Limits,
    windows: VecDeque<Window>,
    bytes: usize,
    dropped: Dropped,
}

impl Store {
    /// An empty store.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            windows: VecDeque::new(),
            bytes: 0,
            dropped: Dropped::default(),
        }
    }

    /// Keeps a window, and drops what it displaces. What was dropped is counted in [`Status::dropped`].
    pub fn insert(&mut self, profile: Profile, now: SystemTime) {
        self.expire(now);
        let bytes = profile.memory_bytes().saturating_add(ENTRY_BYTES);
        if bytes > self.limits.max_bytes {
            self.dropped.too_large += 1;
            return;
        }
        while self.bytes > self.limits.max_bytes - bytes {
            if self.drop_oldest().is_none() {
                break;
            }
            self.dropped.by_bytes += 1;
        }
        self.bytes += bytes;
        self.windows.push_back(Window {
            profile: Arc::new(profile),
            bytes,
        });
    }

    /// Drops what is too old.
    pub fn expire(&mut self, now: SystemTime) {
        let too_old = |window: &Window| {
            now.duration_since(window.profile.end)
                .is_ok_and(|age| age > self.limits.retention)
        };
        let expired = self.windows.iter().take_while(|window| too_old(window)).count();
        for _ in 0..expired {
            self.drop_oldest();
        }
        self.dropped.by_age += expired as u64;
    }

    /// The windows that overlap the span, for a query about the target.
    pub fn select(&self, target: Target, span: Span) -> Selection {
        let (inside, outside): (Vec<_>, Vec<_>) = self
            .windows
            .iter()
            .map(|window| &window.profile)
            .partition(|profile| span.overlaps(profile));
        let known_elsewhere = outside.iter().any(|profile| target.is_in(profile));
        Selection::new(
            target,
            span,
            inside.into_iter().map(Arc::clone).collect(),
            known_elsewhere,
        )
    }

    /// What is kept.
    pub fn status(&self) -> Status {
        Status {
            windows: self.windows.len(),
            bytes: self.bytes,
            capacity_bytes: self.limits.max_bytes,
            oldest: self.windows.iter().map(|window| window.profile.start).min(),
            dropped: self.dropped,
        }
    }

    fn drop_oldest(&mut self) -> Option<()> {
        let window = self.windows.pop_front()?;
        self.bytes -= window.bytes;
        Some(())
    }
}
