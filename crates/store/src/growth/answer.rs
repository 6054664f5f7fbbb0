//! What is known of the growth of a process, a service or the host.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use profiler_profile::{
    FrameKind, Measure, PageKind, PageQuality, ProcessLabel, Profile, ProfileBuilder, PythonQuality, Quality,
};

use super::{
    Growth, lost_within,
    pages::{Page, ProcessPages},
    stacks::TouchedStack,
};
use crate::{Found, Span, Target};

/// Why a stack of a process that runs Python has no Python frame.
const NO_PYTHON_FRAME: &str = "no_python_frame";
/// Reason of loss: touches of the time asked for were dropped for want of room.
const LOST_OLD_TOUCHES: &str = "old_touches_dropped";
/// Reason of loss: whole processes were dropped because there were too many. Of which ones is not known any more, so they
/// count for all.
const LOST_OLD_PROCESSES: &str = "old_processes_dropped";

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrowthQuery {
    /// Whose pages.
    pub target: Target,
    /// When they were touched.
    pub span: Span,
    /// Which pages.
    pub kind: PageKind,
}

/// The answer to a query.
#[derive(Clone, Debug)]
pub struct GrowthAnswer {
    /// Bytes that are still there.
    pub growth: Profile,
    /// Bytes that were touched.
    pub first_touch: Profile,
    /// Whether there is anything.
    pub found: Found,
}

/// The processes that are meant: of those with the id asked for, the one that started last.
pub(super) fn meant<'a>(
    processes: &'a BTreeMap<u64, ProcessPages>,
    target: &Target,
) -> impl Iterator<Item = (u64, &'a ProcessPages)> {
    let matches = |label: &ProcessLabel| target.matches(label);
    let of_target = processes.iter().filter(|(_, pages)| matches(&pages.process.label));
    let of_target: Vec<_> = of_target.map(|(image, pages)| (*image, pages)).collect();
    let newest = match target {
        Target::Process(_) => of_target.iter().map(|(_, pages)| pages.process.label.start).max(),
        Target::Service(_) | Target::Everything => None,
    };
    of_target
        .into_iter()
        .filter(move |(_, pages)| newest.is_none_or(|newest| pages.process.label.start == newest))
}

/// Bytes of one stack, and the pages that they were made of.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    bytes: u64,
    pages: u64,
}

type Sums<'a> = HashMap<*const TouchedStack, (&'a Arc<TouchedStack>, Sum)>;

/// What adds up over the processes of an answer.
#[derive(Debug, Default)]
struct Totals {
    growth: u64,
    variance: f64,
    first_touch: u64,
    other_growth: u64,
    pages: u64,
    levels: Option<(u32, u32)>,
}

impl Growth {
    /// Answers a query at a time.
    pub fn answer(&self, query: &GrowthQuery, now: SystemTime) -> GrowthAnswer {
        let Span { start, end } = query.span;
        let is_within = |time: SystemTime| time < end && start.is_none_or(|start| time >= start);
        let processes: Vec<&ProcessPages> = meant(self.processes.by_image(), &query.target)
            .map(|(_, pages)| pages)
            .collect();
        let end = end.min(now);
        let oldest = processes.iter().flat_map(|process| {
            let pages = process.pages.values().map(|page| page.time);
            pages.chain(process.touched.iter().map(|touched| touched.time))
        });
        let begun = start.or_else(|| oldest.min()).unwrap_or(end).min(end);
        let mut growth = ProfileBuilder::new(Duration::ZERO, begun, end);
        let mut first_touch = ProfileBuilder::new(Duration::ZERO, begun, end);
        let mut totals = Totals::default();
        let mut quality = Quality::default();
        for process in &processes {
            // Of a process that ended nothing is left; but who asks for it asks what it had at its end.
            let is_held = process.ended.is_none() || matches!(query.target, Target::Process(_));
            let there = process.pages.values();
            let there = there.filter(|page| is_held && is_within(page.time));
            let (kept, others): (Vec<&Page>, Vec<&Page>) = there.partition(|page| page.kind == query.kind);
            totals.other_growth += others.iter().map(|page| page.weight()).sum::<u64>();
            let mut sums = Sums::new();
            for page in kept {
                totals.add(page);
                add(&mut sums, &page.stack, page.weight(), 1);
            }
            for (stack, sum) in sums.values() {
                put(&mut growth, &process.process.label, stack, sum.bytes);
                count(&mut quality, stack, sum.pages, process.process.runs_python);
            }
            let mut sums = Sums::new();
            let touched = process.touched.iter().filter(|touched| is_within(touched.time));
            for touched in touched.filter(|touched| touched.kind == query.kind) {
                totals.first_touch = totals.first_touch.saturating_add(touched.bytes);
                add(&mut sums, &touched.stack, touched.bytes, touched.pages);
            }
            for (stack, sum) in sums.values() {
                put(&mut first_touch, &process.process.label, stack, sum.bytes);
            }
        }
        quality.lost = lost_within(self.lost.iter(), is_within);
        let growth_error = totals.variance.sqrt() as u64;
        let pages = PageQuality {
            measure: Measure::Growth,
            kind: query.kind,
            growth: totals.growth,
            growth_error,
            first_touch: totals.first_touch,
            other_growth: totals.other_growth,
            pages: totals.pages,
            levels: totals.levels.unwrap_or_default(),
        };
        quality.pages = Some(pages);
        let of_span = |dropped: Option<(u64, SystemTime)>| {
            let of_span = dropped.filter(|(_, last)| start.is_none_or(|start| start <= *last));
            of_span.map_or(0, |(count, _)| count)
        };
        *growth.quality_mut() = quality.clone();
        let dropped = &self.dropped_processes;
        note_lost(growth.quality_mut(), LOST_OLD_PROCESSES, of_span(dropped.pages));
        note_lost(&mut quality, LOST_OLD_PROCESSES, of_span(dropped.touched));
        let dropped = processes.iter().map(|process| of_span(process.dropped));
        note_lost(&mut quality, LOST_OLD_TOUCHES, dropped.sum());
        quality.pages = Some(PageQuality {
            measure: Measure::FirstTouch,
            ..pages
        });
        *first_touch.quality_mut() = quality;
        let found = if totals.growth > 0 || totals.first_touch > 0 {
            Found::Samples
        } else if processes.is_empty() {
            Found::NotFound
        } else {
            Found::Empty
        };
        GrowthAnswer {
            growth: growth.build(),
            first_touch: first_touch.build(),
            found,
        }
    }
}

impl Totals {
    fn add(&mut self, page: &Page) {
        let weight = page.weight();
        self.growth = self.growth.saturating_add(weight);
        // Of a page that is chosen with the probability p, the variance of what it stands for is (1 - p) of its square.
        let probability = 0.5_f64.powi(page.level as i32);
        self.variance += (weight as f64) * (weight as f64) * (1.0 - probability);
        self.pages += 1;
        let (low, high) = self.levels.unwrap_or((page.level, page.level));
        self.levels = Some((low.min(page.level), high.max(page.level)));
    }
}

fn add<'a>(sums: &mut Sums<'a>, stack: &'a Arc<TouchedStack>, bytes: u64, pages: u64) {
    let (_, sum) = sums.entry(Arc::as_ptr(stack)).or_insert((stack, Sum::default()));
    sum.bytes = sum.bytes.saturating_add(bytes);
    sum.pages += pages;
}

fn put(builder: &mut ProfileBuilder, label: &ProcessLabel, stack: &TouchedStack, bytes: u64) {
    let frames = stack.frames.iter().map(|frame| frame.as_ref().clone());
    builder.add(label, &stack.thread, frames, bytes);
}

fn note_lost(quality: &mut Quality, reason: &str, count: u64) {
    if count > 0 {
        quality.lost.insert(reason.to_owned(), count);
    }
}

/// Adds the pages of one stack to the quality.
fn count(quality: &mut Quality, stack: &TouchedStack, pages: u64, runs_python: bool) {
    let kinds = || stack.frames.iter().map(|frame| frame.kind);
    let user = kinds().filter(|kind| *kind != FrameKind::Kernel).count() as u64;
    let unnamed = kinds().filter(|kind| *kind == FrameKind::Unnamed).count() as u64;
    let has_python = stack.has_python();
    let mut own = Quality {
        samples: pages,
        user_frames: user * pages,
        named_user_frames: (user - unnamed) * pages,
        ..Quality::default()
    };
    match stack.stop {
        None => own.rooted = pages,
        Some(reason) => {
            own.stopped.insert(reason.to_owned(), pages);
        }
    }
    if runs_python || has_python {
        own.python = PythonQuality {
            samples: pages,
            with_frames: if has_python { pages } else { 0 },
            stopped: match has_python {
                true => BTreeMap::new(),
                false => [(NO_PYTHON_FRAME.to_owned(), pages)].into(),
            },
        };
    }
    quality.merge(&own);
}
