//! What a process or a service did in a span of time.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use profiler_profile::{Gil, PeriodMismatch, ProcessLabel, Profile, ProfileBuilder, Stack};

use crate::{dictionary::Dictionary, window::Window};

/// Which processes a query is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The process with this id; if the id was reused, the one that started last.
    Process(u32),
    /// All processes of a service.
    Service(Arc<str>),
    /// Whatever was sampled on the host.
    Everything,
}

impl Target {
    pub(crate) fn matches(&self, process: &ProcessLabel) -> bool {
        match self {
            Self::Process(pid) => process.pid == *pid,
            Self::Service(service) => process.service == *service,
            Self::Everything => true,
        }
    }

    /// Whether a window has a process that is meant.
    pub(crate) fn is_in(&self, window: &Window, dictionary: &Dictionary) -> bool {
        labels(window, dictionary).any(|process| self.matches(process))
    }
}

/// The processes in a window.
fn labels<'a>(window: &'a Window, dictionary: &'a Dictionary) -> impl Iterator<Item = &'a ProcessLabel> {
    let processes = window.processes.iter();
    processes.filter_map(|quality| dictionary.processes.get_index(quality.process as usize))
}

/// A span of time, from its start to just before its end.
///
/// A window belongs to the span if they overlap, be it by a moment: windows are not cut, so a profile may begin up to
/// one window before the span and end up to one window after it, and says so by its own start and end. To a span whose
/// end is not after its start no window belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First moment; from the oldest on if there is none.
    pub start: Option<SystemTime>,
    /// The moment after the last.
    pub end: SystemTime,
}

impl Span {
    /// Whether a window from `window_start` to `window_end` belongs to the span.
    pub(crate) fn overlaps(&self, window_start: SystemTime, window_end: SystemTime) -> bool {
        let is_empty = self.start.is_some_and(|start| start >= self.end);
        let begins_before_end = window_start < self.end;
        let ends_after_start = self
            .start
            .is_none_or(|start| window_end > start || window_start == start);
        !is_empty && begins_before_end && ends_after_start
    }

    /// Whether the middle of a window lies in the span.
    fn holds_middle(&self, window: &Window) -> bool {
        let length = window.end.duration_since(window.start).unwrap_or_default();
        let middle = window.start + length / 2;
        middle < self.end && self.start.is_none_or(|start| middle >= start)
    }
}

/// Whether a query found anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// There are samples.
    Samples,
    /// The target has samples in the store, but none in the span.
    Empty,
    /// No window in the store knows the target.
    NotFound,
}

/// The answer to a query.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The samples. Without any it still holds the span and what was lost on the host in it.
    pub profile: Profile,
    /// Whether there are samples.
    pub found: Found,
}

/// Windows that share a dictionary. Never none.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) dictionary: Arc<Dictionary>,
    pub(crate) windows: Vec<Arc<Window>>,
}

/// Windows picked for a query.
#[derive(Clone, Debug)]
pub struct Selection {
    target: Target,
    span: Span,
    parts: Vec<Part>,
    known_elsewhere: bool,
}

impl Selection {
    pub(crate) fn new(target: Target, span: Span, parts: Vec<Part>, known_elsewhere: bool) -> Self {
        Self {
            target,
            span,
            parts,
            known_elsewhere,
        }
    }

    /// All of these windows, which were picked by another clock than that of the span.
    pub(crate) fn of_windows(target: Target, shown: Span, parts: Vec<Part>, known_elsewhere: bool) -> Self {
        let mut selection = Self::new(target, shown, parts, known_elsewhere);
        selection.span_windows();
        selection
    }

    /// These windows, then those of another selection that are not among them.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        let known: HashSet<*const Window> = self.picked().map(Arc::as_ptr).collect();
        for mut part in other.parts {
            part.windows.retain(|window| !known.contains(&Arc::as_ptr(window)));
            if !part.windows.is_empty() {
                self.parts.push(part);
            }
        }
        self.known_elsewhere |= other.known_elsewhere;
        self.span_windows();
        self
    }

    /// An estimate of the memory that the windows take, with the names that they refer to.
    pub fn memory_bytes(&self) -> usize {
        let of_part = |part: &Part| {
            let windows = part.windows.iter().map(|window| window.bytes()).sum::<usize>();
            part.dictionary.bytes() + windows
        };
        self.parts.iter().map(of_part).sum()
    }

    /// Whether there are no windows.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    fn picked(&self) -> impl Iterator<Item = &Arc<Window>> {
        self.parts.iter().flat_map(|part| &part.windows)
    }

    /// Makes the span one that every window belongs to, if there are any.
    fn span_windows(&mut self) {
        let end = self.picked().map(|window| window.end).max();
        if let Some(end) = end {
            self.span = Span { start: None, end };
        }
    }

    /// Without the windows that go on after the span: what comes after it is in none of those that are left.
    #[must_use]
    pub fn ended(mut self) -> Self {
        let end = self.span.end;
        for part in &mut self.parts {
            part.windows.retain(|window| window.end <= end);
        }
        self.parts.retain(|part| !part.windows.is_empty());
        self
    }

    /// Merges the target's samples of all windows. Where the rate changed in between, samples of the lower rate count for as
    /// many of the higher one as they stand for.
    pub fn merge(&self) -> Result<Answer, PeriodMismatch> {
        let mut profile = self.empty();
        let period = self.finest_period();
        let mut has_samples = false;
        let started = self.newest_start();
        for part in &self.parts {
            let is_meant = |process: &ProcessLabel| self.is_meant(process, started);
            has_samples |= part.merge_into(&mut profile, period, is_meant)?;
        }
        profile.period = if has_samples { period } else { Duration::ZERO };
        let found = if !profile.stacks.is_empty() {
            Found::Samples
        } else if self.known_elsewhere || !profile.processes.is_empty() {
            Found::Empty
        } else {
            Found::NotFound
        };
        Ok(Answer { profile, found })
    }

    /// The target's samples of each window whose middle lies in the span, so that no window belongs to two spans that touch.
    ///
    /// In the order of arrival, each as a profile of its own; empty if the target was not seen on a CPU in it.
    pub fn windows(&self) -> impl Iterator<Item = Profile> {
        let started = self.newest_start();
        let inside = self.parts.iter().flat_map(|part| {
            let windows = part.windows.iter().filter(|window| self.span.holds_middle(window));
            windows.map(move |window| (&part.dictionary, window))
        });
        inside.filter_map(move |(dictionary, window)| {
            let alone = Part {
                dictionary: Arc::clone(dictionary),
                windows: vec![Arc::clone(window)],
            };
            let mut profile = ProfileBuilder::new(window.period, window.start, window.end).build();
            let is_meant = |process: &ProcessLabel| self.is_meant(process, started);
            // A window has one period, its own.
            let merged = alone.merge_into(&mut profile, window.period, is_meant);
            merged.is_ok().then_some(profile)
        })
    }

    /// Whether any window that is kept knows the target, in the span or not.
    pub fn is_known(&self) -> bool {
        let knows = |part: &Part| {
            part.windows
                .iter()
                .any(|window| self.target.is_in(window, &part.dictionary))
        };
        self.known_elsewhere || self.parts.iter().any(knows)
    }

    fn is_meant(&self, process: &ProcessLabel, started: Option<SystemTime>) -> bool {
        self.target.matches(process) && started.is_none_or(|started| process.start == started)
    }

    /// The period of the window that was sampled most densely.
    fn finest_period(&self) -> Duration {
        let windows = self.parts.iter().flat_map(|part| &part.windows);
        let sampled = windows.filter(|window| !window.entries.is_empty());
        sampled.map(|window| window.period).min().unwrap_or_default()
    }

    /// A profile without samples of the windows' time, or of the span if there are none.
    fn empty(&self) -> Profile {
        let windows = || self.parts.iter().flat_map(|part| &part.windows);
        let start = windows().map(|window| window.start).min();
        let end = windows().map(|window| window.end).max();
        let earliest = self.span.start.map_or(self.span.end, |start| start.min(self.span.end));
        ProfileBuilder::new(Duration::ZERO, start.unwrap_or(earliest), end.unwrap_or(self.span.end)).build()
    }

    /// When the last process with the id asked for started.
    fn newest_start(&self) -> Option<SystemTime> {
        match self.target {
            Target::Process(_) => {
                let windows = |part: &'_ Part| {
                    let of_window = |window: &Arc<Window>| {
                        let meant = labels(window, &part.dictionary).filter(|process| self.target.matches(process));
                        meant.map(|process| process.start).max()
                    };
                    part.windows.iter().filter_map(of_window).max()
                };
                self.parts.iter().filter_map(windows).max()
            }
            Target::Service(_) | Target::Everything => None,
        }
    }
}

impl Part {
    /// Adds the samples of some processes to a profile of that period; whether there are any.
    fn merge_into(
        &self,
        profile: &mut Profile,
        period: Duration,
        is_meant: impl Fn(&ProcessLabel) -> bool,
    ) -> Result<bool, PeriodMismatch> {
        let dictionary = &*self.dictionary;
        let meant: Vec<bool> = dictionary.processes.iter().map(is_meant).collect();
        let is_meant = |process: u32| meant.get(process as usize).copied().unwrap_or_default();
        // Equal stacks of several windows are added before their frames are looked up.
        let mut counts: HashMap<(u32, u32, Gil, u32), u64> = HashMap::new();
        let mut has_samples = false;
        let mut tables = Tables::new(dictionary);
        for window in &self.windows {
            // A window without samples may be of any period.
            let weight = window.weight(period).unwrap_or(1);
            profile.quality.merge(&window.lost(dictionary).scaled(weight));
            for quality in window.processes.iter().filter(|quality| is_meant(quality.process)) {
                let process = tables.process(quality.process, profile);
                let quality = quality.to_quality(dictionary).scaled(weight);
                profile.quality.merge(&quality);
                profile.process_quality.entry(process).or_default().merge(&quality);
            }
            let mut entries = window.entries.iter().filter(|entry| is_meant(entry.process)).peekable();
            if entries.peek().is_some() {
                has_samples = true;
                window.weight(period)?;
            }
            for entry in entries {
                let count = counts
                    .entry((entry.process, entry.thread, entry.gil, entry.stack))
                    .or_default();
                *count = count.saturating_add(entry.count.saturating_mul(weight));
            }
        }
        for ((process, thread, gil, place), count) in counts {
            let stack = Stack {
                process: tables.process(process, profile),
                thread: tables.thread(thread, profile),
                gil,
                frames: tables.frames(place, profile),
            };
            let samples = profile.stacks.entry(stack).or_default();
            *samples = samples.saturating_add(count);
        }
        Ok(has_samples)
    }
}

/// Indices of a dictionary's entries in a profile, filled as they are met.
struct Tables<'a> {
    dictionary: &'a Dictionary,
    frames: Vec<Option<u32>>,
    processes: Vec<Option<u32>>,
    threads: Vec<Option<u32>>,
}

impl<'a> Tables<'a> {
    fn new(dictionary: &'a Dictionary) -> Self {
        Self {
            dictionary,
            frames: vec![None; dictionary.frames.len()],
            processes: vec![None; dictionary.processes.len()],
            threads: vec![None; dictionary.threads.len()],
        }
    }

    fn process(&mut self, index: u32, profile: &mut Profile) -> u32 {
        let label = &self.dictionary.processes[index as usize];
        *self.processes[index as usize].get_or_insert_with(|| profile.processes.insert_full(label.clone()).0 as u32)
    }

    fn thread(&mut self, index: u32, profile: &mut Profile) -> u32 {
        let name = &self.dictionary.threads[index as usize];
        *self.threads[index as usize].get_or_insert_with(|| profile.threads.insert_full(Arc::clone(name)).0 as u32)
    }

    /// The frames of a stack, root first.
    fn frames(&mut self, place: u32, profile: &mut Profile) -> Box<[u32]> {
        let translate = |frame: u32| {
            let known = &mut self.frames[frame as usize];
            let frame = &self.dictionary.frames[frame as usize];
            *known.get_or_insert_with(|| profile.frames.insert_full(frame.clone()).0 as u32)
        };
        let mut frames: Box<[u32]> = self.dictionary.frames_of(place).map(translate).collect();
        frames.reverse();
        frames
    }
}
