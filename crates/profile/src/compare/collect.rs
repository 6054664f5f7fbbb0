//! Windows of both sides taken into one tree of stacks.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use indexmap::IndexSet;

use super::{Comparison, Party, Scope, Settings, Side, evaluate};
use crate::{Frame, FrameKind, ProcessLabel, Profile, Quality, Stack};

/// Places in the tree; beyond them stacks are cut. A host's day has fewer.
const MAX_NODES: usize = 250_000;
/// Parties; samples of more are left out, but for their part of the whole.
const MAX_PARTIES: usize = 10_000;
/// Above all outermost frames.
pub(super) const ABOVE_ROOTS: u32 = u32::MAX;

/// A place in the tree. Callers come before what they call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) caller: u32,
    pub(super) frame: u32,
    /// Index of the party; 0 if all samples are one target's.
    pub(super) owner: u32,
    /// Index of the function.
    pub(super) function: u32,
    /// Whether the function is among its own callers here.
    pub(super) repeats: bool,
}

/// A function of an owner. Frames that were inlined count as the function itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Function {
    pub(super) owner: u32,
    pub(super) frame: Frame,
}

/// Samples of one place in one window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) window: u32,
    pub(super) place: u32,
    pub(super) cpu_ns: u64,
}

/// A window without its samples.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) length: Duration,
    pub(super) samples: u64,
    pub(super) cpu_ns: u64,
    /// CPU time by party.
    pub(super) parties: HashMap<u32, u64>,
}

/// One side as it was taken in.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    pub(super) start: SystemTime,
    pub(super) end: SystemTime,
    pub(super) windows: Vec<Window>,
    pub(super) entries: Vec<Entry>,
    pub(super) quality: Quality,
}

impl Default for Observed {
    fn default() -> Self {
        Self {
            start: SystemTime::UNIX_EPOCH,
            end: SystemTime::UNIX_EPOCH,
            windows: Vec::new(),
            entries: Vec::new(),
            quality: Quality::default(),
        }
    }
}

/// Takes in the windows of both sides, then compares them.
#[derive(Debug)]
pub struct Comparer {
    pub(super) settings: Settings,
    pub(super) parties: IndexSet<Party>,
    pub(super) frames: IndexSet<Frame>,
    pub(super) functions: IndexSet<Function>,
    pub(super) places: Vec<Place>,
    index: HashMap<(u32, u32, u32), u32>,
    pub(super) before: Observed,
    pub(super) after: Observed,
    pub(super) cut_samples: u64,
}

impl Comparer {
    /// Nothing taken in yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            parties: IndexSet::new(),
            frames: IndexSet::new(),
            functions: IndexSet::new(),
            places: Vec::new(),
            index: HashMap::new(),
            before: Observed::default(),
            after: Observed::default(),
            cut_samples: 0,
        }
    }

    /// Takes in a window. Windows of a side come in the order of time; one without samples counts as idle time, one without
    /// length not at all.
    pub fn add(&mut self, side: Side, window: &Profile) {
        let length = window.end.duration_since(window.start).unwrap_or_default();
        if length.is_zero() {
            return;
        }
        let samples = window.samples();
        let period_ns = u64::try_from(window.period.as_nanos()).unwrap_or(u64::MAX);
        let mut facts = Window {
            length,
            samples,
            cpu_ns: samples.saturating_mul(period_ns),
            parties: HashMap::new(),
        };
        let number = match side {
            Side::Before => self.before.windows.len(),
            Side::After => self.after.windows.len(),
        } as u32;
        let frames: Vec<u32> = window.frames.iter().map(|frame| self.frame(frame)).collect();
        let parties: Vec<Option<u32>> = window.processes.iter().map(|process| self.party(process)).collect();
        let mut entries = Vec::with_capacity(window.stacks.len());
        for (stack, count) in window.stacks.iter().filter(|(_, count)| **count > 0) {
            let cpu_ns = count.saturating_mul(period_ns);
            let Some(party) = parties[stack.process as usize] else {
                self.cut_samples = self.cut_samples.saturating_add(*count);
                continue;
            };
            let used = facts.parties.entry(party).or_default();
            *used = used.saturating_add(cpu_ns);
            let owner = match self.settings.scope {
                Scope::Target => 0,
                Scope::Host => party,
            };
            let (place, is_whole) = self.place(owner, stack, &frames);
            if !is_whole {
                self.cut_samples = self.cut_samples.saturating_add(*count);
            }
            if place != ABOVE_ROOTS {
                entries.push(Entry {
                    window: number,
                    place,
                    cpu_ns,
                });
            }
        }
        let observed = match side {
            Side::Before => &mut self.before,
            Side::After => &mut self.after,
        };
        if observed.windows.is_empty() {
            (observed.start, observed.end) = (window.start, window.end);
        }
        observed.start = observed.start.min(window.start);
        observed.end = observed.end.max(window.end);
        observed.quality.merge(&window.quality);
        observed.windows.push(facts);
        observed.entries.extend(entries);
    }

    /// Compares what was taken in.
    pub fn finish(mut self) -> Comparison {
        // Only growing needs it, and the evaluation needs room of its own.
        self.index = HashMap::new();
        evaluate::compare(self)
    }

    fn frame(&mut self, frame: &Frame) -> u32 {
        let whole_function = function_of(frame, frame.kind);
        self.frames.insert_full(whole_function).0 as u32
    }

    fn party(&mut self, process: &ProcessLabel) -> Option<u32> {
        let party = match self.settings.scope {
            Scope::Target => Party::Process(process.clone()),
            Scope::Host if process.service.is_empty() => Party::Program(Arc::clone(&process.name)),
            Scope::Host => Party::Service(Arc::clone(&process.service)),
        };
        let known = self.parties.get_index_of(&party);
        let index = match known {
            None if self.parties.len() >= MAX_PARTIES => return None,
            None => self.parties.insert_full(party).0,
            Some(index) => index,
        };
        Some(index as u32)
    }

    /// Where a stack ends in the tree, and whether all of it fits in.
    fn place(&mut self, owner: u32, stack: &Stack, frames: &[u32]) -> (u32, bool) {
        let mut caller = ABOVE_ROOTS;
        for frame in &stack.frames {
            let frame = frames[*frame as usize];
            let key = (owner, caller, frame);
            caller = match self.index.get(&key) {
                Some(place) => *place,
                None if self.places.len() >= MAX_NODES => return (caller, false),
                None => {
                    let place = self.new_place(owner, caller, frame);
                    self.index.insert(key, place);
                    place
                }
            };
        }
        (caller, true)
    }

    fn new_place(&mut self, owner: u32, caller: u32, frame: u32) -> u32 {
        let of_function = &self.frames[frame as usize];
        let kind = match of_function.kind {
            FrameKind::Inlined => FrameKind::Native,
            kind => kind,
        };
        let frame_of_function = function_of(of_function, kind);
        let function = self.functions.insert_full(Function {
            owner,
            frame: frame_of_function,
        });
        let function = function.0 as u32;
        let callers = std::iter::successors(self.places.get(caller as usize), |place| {
            self.places.get(place.caller as usize)
        });
        let repeats = callers.into_iter().any(|place| place.function == function);
        self.places.push(Place {
            caller,
            frame,
            owner,
            function,
            repeats,
        });
        (self.places.len() - 1) as u32
    }
}

/// What stands for all lines of a function. Native code may have lines of other files in one function; Python has many
/// functions of one name.
fn function_of(frame: &Frame, kind: FrameKind) -> Frame {
    let file = if frame.kind == FrameKind::Python {
        Arc::clone(&frame.file)
    } else {
        Arc::default()
    };
    Frame {
        kind,
        function: Arc::clone(&frame.function),
        module: Arc::clone(&frame.module),
        file,
        line: 0,
    }
}
