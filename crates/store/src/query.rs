//! What a process or a service did in a span of time.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use profiler_profile::{PeriodMismatch, ProcessLabel, Profile, ProfileBuilder};

/// Which processes a query is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The process with this id; if the id was reused, the one that started last.
    Process(u32),
    /// All processes of a service.
    Service(Arc<str>),
}

impl Target {
    fn matches(&self, process: &ProcessLabel) -> bool {
        match self {
            Self::Process(pid) => process.pid == *pid,
            Self::Service(service) => process.service == *service,
        }
    }

    pub(crate) fn is_in(&self, profile: &Profile) -> bool {
        profile.processes.iter().any(|process| self.matches(process))
    }
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
    pub(crate) fn overlaps(&self, profile: &Profile) -> bool {
        let is_empty = self.start.is_some_and(|start| start >= self.end);
        let begins_before_end = profile.start < self.end;
        let ends_after_start = self
            .start
            .is_none_or(|start| profile.end > start || profile.start == start);
        !is_empty && begins_before_end && ends_after_start
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

/// Windows picked for a query.
#[derive(Clone, Debug)]
pub struct Selection {
    target: Target,
    span: Span,
    windows: Vec<Arc<Profile>>,
    known_elsewhere: bool,
}

impl Selection {
    pub(crate) fn new(target: Target, span: Span, windows: Vec<Arc<Profile>>, known_elsewhere: bool) -> Self {
        Self {
            target,
            span,
            windows,
            known_elsewhere,
        }
    }

    /// Merges the target's samples of all windows.
    pub fn merge(&self) -> Result<Answer, PeriodMismatch> {
        let started = self.newest_start();
        let keep = |process: &ProcessLabel| {
            self.target.matches(process) && started.is_none_or(|started| process.start == started)
        };
        let mut merged: Option<Profile> = None;
        let mut found = if self.known_elsewhere {
            Found::Empty
        } else {
            Found::NotFound
        };
        for window in &self.windows {
            let part = window.filter(keep);
            if !part.stacks.is_empty() {
                found = Found::Samples;
            } else if found == Found::NotFound && self.target.is_in(window) {
                found = Found::Empty;
            }
            match &mut merged {
                None => merged = Some(part),
                Some(merged) => merged.merge(&part)?,
            }
        }
        let profile = merged.unwrap_or_else(|| {
            let start = self.span.start.map_or(self.span.end, |start| start.min(self.span.end));
            ProfileBuilder::new(Duration::ZERO, start, self.span.end).build()
        });
        Ok(Answer { profile, found })
    }

    /// When the last process with the id asked for started.
    fn newest_start(&self) -> Option<SystemTime> {
        match self.target {
            Target::Process(_) => {
                let processes = self.windows.iter().flat_map(|window| &window.processes);
                processes
                    .filter(|process| self.target.matches(process))
                    .map(|process| process.start)
                    .max()
            }
            Target::Service(_) => None,
        }
    }
}
