use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use profiler_common::memory::{PAGE_BYTES, fault, is_chosen, page_hash};
use profiler_profile::{Frame, FrameKind, Measure, PageKind, ProcessLabel, Profile};

use super::*;
use crate::{Found, Span, Target};

const WRITE: u32 = fault::WRITE | fault::USER;
const WRITE_AGAIN: u32 = WRITE | fault::PRESENT;
const READ: u32 = fault::USER;
const SALT: u64 = 77;

const THERE: Look = Look::There {
    is_file: false,
    is_swapped: false,
    is_huge: false,
    pages: 1,
};
const FILE: Look = Look::There {
    is_file: true,
    is_swapped: false,
    is_huge: false,
    pages: 1,
};
const SWAPPED: Look = Look::There {
    is_file: false,
    is_swapped: true,
    is_huge: false,
    pages: 1,
};
const HUGE: Look = Look::There {
    is_file: false,
    is_swapped: false,
    is_huge: true,
    pages: 1,
};

fn at(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(second)
}

fn process(image: u64, pid: u32) -> GrowthProcess {
    GrowthProcess {
        image,
        label: ProcessLabel {
            pid,
            start: at(1),
            name: "web".into(),
            service: "shop".into(),
        },
        salt: SALT,
        shares_pages: false,
        runs_python: false,
    }
}

/// The first page from a number on that a level chooses.
fn page_of_level(from: u64, level: u32) -> u64 {
    let chosen = |page: &u64| is_chosen(page_hash(*page, SALT), level);
    (from..).find(chosen).unwrap()
}

struct Keeper(Growth);

impl Keeper {
    fn new(limits: GrowthLimits) -> Self {
        Self(Growth::new(limits))
    }

    fn stack(&mut self, functions: &[&str]) -> Arc<TouchedStack> {
        let frame = |function: &&str| {
            Arc::new(Frame {
                kind: FrameKind::Native,
                function: (*function).into(),
                module: "web".into(),
                file: Arc::default(),
                line: 0,
            })
        };
        self.0.stack(TouchedStack {
            thread: "web".into(),
            frames: functions.iter().map(frame).collect(),
            stop: None,
        })
    }

    fn touch(&mut self, process: &GrowthProcess, faults: &[(u64, u32, u32, Look)], second: u64, function: &str) {
        let stack = self.stack(&["main", function]);
        let touches: Vec<PageTouch> = faults
            .iter()
            .map(|(page, level, code, _)| PageTouch {
                page: *page,
                level: *level,
                code: *code,
                time: at(second),
                stack: Arc::clone(&stack),
            })
            .collect();
        let looks: Vec<Look> = faults.iter().map(|(.., look)| *look).collect();
        self.0.touch(process, &touches, &looks);
    }

    fn answer(&self, kind: PageKind, from: Option<u64>, to: u64) -> GrowthAnswer {
        let query = GrowthQuery {
            target: Target::Process(7),
            span: Span {
                start: from.map(at),
                end: at(to),
            },
            kind,
        };
        self.0.answer(&query, at(1000))
    }

    /// Growth and first touch of anonymous pages.
    fn bytes(&self) -> (u64, u64) {
        let answer = self.answer(PageKind::Anonymous, None, 1000);
        (answer.growth.samples(), answer.first_touch.samples())
    }
}

fn by_function(profile: &Profile) -> BTreeMap<String, u64> {
    let mut bytes = BTreeMap::new();
    for (stack, count) in &profile.stacks {
        let leaf = &profile.frames[*stack.frames.last().unwrap() as usize];
        *bytes.entry(leaf.function.to_string()).or_default() += count;
    }
    bytes
}

#[test]
fn what_is_freed_drops_out_and_stays_in_what_was_touched() {
    let mut keeper = Keeper::new(GrowthLimits::default());
    let web = process(1, 7);
    let four = page_of_level(10, 2);
    keeper.touch(&web, &[(four, 2, WRITE, THERE)], 99, "leak");
    keeper.touch(&web, &[(four + 1, 0, WRITE, THERE)], 100, "leak");
    let churned = four + 10;
    let faults = [(churned, 0, WRITE, THERE), (churned + 1, 0, WRITE, Look::Gone)];
    keeper.touch(&web, &faults, 101, "churn");
    let answer = keeper.answer(PageKind::Anonymous, None, 1000);
    let expected = [("churn", PAGE_BYTES), ("leak", 5 * PAGE_BYTES)].map(|(name, bytes)| (name.to_owned(), bytes));
    assert_eq!(by_function(&answer.growth), expected.into());
    assert_eq!(by_function(&answer.first_touch)["churn"], 2 * PAGE_BYTES);
    let pages = keeper.0.pages_of(1);
    assert_eq!(
        pages.iter().map(|look| look.page).collect::<Vec<_>>(),
        [four, four + 1, churned]
    );
    keeper.0.found(1, &pages, &[THERE, THERE, Look::Gone]);
    assert_eq!(keeper.bytes(), (5 * PAGE_BYTES, 7 * PAGE_BYTES));

    let quality = keeper.answer(PageKind::Anonymous, None, 1000).growth.quality;
    let pages = quality.pages.unwrap();
    assert_eq!((pages.measure, pages.pages, pages.levels), (Measure::Growth, 2, (0, 2)));
    // One page of certainty, and one of four: 3/4 of the square of 4 pages.
    assert_eq!(pages.growth_error, ((0.75_f64).sqrt() * 4.0 * 4096.0) as u64);
    assert_eq!((quality.samples, quality.rooted), (2, 2));
}

#[test]
fn the_span_is_of_the_time_of_touch() {
    let mut keeper = Keeper::new(GrowthLimits::default());
    for (page, second) in [(10, 100), (11, 200), (12, 300)] {
        keeper.touch(&process(1, 7), &[(page, 0, WRITE, THERE)], second, "leak");
    }
    let growth = |from, to| keeper.answer(PageKind::Anonymous, from, to).growth.samples() / PAGE_BYTES;
    assert_eq!(
        (growth(None, 1000), growth(Some(150), 1000), growth(Some(200), 300)),
        (3, 2, 1)
    );
    let empty = keeper.answer(PageKind::Anonymous, Some(400), 500);
    assert_eq!((empty.found, empty.growth.samples()), (Found::Empty, 0));
    let query = GrowthQuery {
        target: Target::Process(8),
        span: Span {
            start: None,
            end: at(1000),
        },
        kind: PageKind::Anonymous,
    };
    assert_eq!(keeper.0.answer(&query, at(1000)).found, Found::NotFound);
    assert_eq!(keeper.0.images_of(&Target::Service("shop".into())), [1]);
}

#[test]
fn kinds_of_pages_are_kept_apart() {
    let mut keeper = Keeper::new(GrowthLimits::default());
    let web = process(1, 7);
    keeper.touch(
        &web,
        &[(10, 0, WRITE, THERE), (11, 3, READ, FILE), (12, 3, READ, THERE)],
        100,
        "work",
    );
    let growth = |keeper: &Keeper, kind| keeper.answer(kind, None, 1000).growth.samples() / PAGE_BYTES;
    assert_eq!(
        (growth(&keeper, PageKind::Anonymous), growth(&keeper, PageKind::File)),
        (1, 8)
    );
    let answer = keeper.answer(PageKind::Anonymous, None, 1000);
    assert_eq!(answer.growth.quality.pages.unwrap().other_growth, 8 * PAGE_BYTES);
    // Only read before, and the file's page copied by the first write: memory of its own from now on.
    keeper.touch(
        &web,
        &[(12, 0, WRITE_AGAIN, THERE), (11, 0, WRITE_AGAIN, THERE)],
        101,
        "work",
    );
    assert_eq!(
        (growth(&keeper, PageKind::Anonymous), growth(&keeper, PageKind::File)),
        (3, 0)
    );
    // After a fork nobody can tell such a write from the copy of a page that was there.
    let forked = GrowthProcess {
        shares_pages: true,
        ..web
    };
    keeper.touch(
        &forked,
        &[(40, 0, WRITE_AGAIN, THERE), (10, 0, WRITE_AGAIN, THERE)],
        102,
        "work",
    );
    assert_eq!(
        (growth(&keeper, PageKind::Copied), growth(&keeper, PageKind::Anonymous)),
        (1, 3)
    );
}

#[test]
fn a_page_belongs_to_who_touched_it_last_unless_it_was_there() {
    let mut keeper = Keeper::new(GrowthLimits::default());
    let web = process(1, 7);
    keeper.touch(&web, &[(10, 0, WRITE, THERE), (11, 0, WRITE, THERE)], 100, "first");
    keeper.0.found(1, &keeper.0.pages_of(1), &[THERE, SWAPPED]);
    // The one was given back and touched anew, the other came back out of swap space.
    keeper.touch(&web, &[(10, 0, WRITE, THERE), (11, 0, WRITE, THERE)], 101, "second");
    let growth = by_function(&keeper.answer(PageKind::Anonymous, None, 1000).growth);
    assert_eq!((growth["first"], growth["second"]), (PAGE_BYTES, PAGE_BYTES));
    keeper.touch(&web, &[(11, 0, WRITE, THERE)], 102, "second");
    assert_eq!(keeper.bytes(), (2 * PAGE_BYTES, 4 * PAGE_BYTES));
}

#[test]
fn one_fault_of_a_huge_page_is_two_mebibytes() {
    let mut keeper = Keeper::new(GrowthLimits::default());
    let web = process(1, 7);
    keeper.touch(&web, &[(page_of_level(1024 + 5, 3), 3, WRITE, HUGE)], 100, "work");
    assert_eq!(keeper.bytes(), (8 * (2 << 20), 8 * (2 << 20)));
    let pages = keeper.0.pages_of(1);
    assert_eq!(pages, [PageLook { page: 1024, pages: 512 }]);
    // Half of it was given back.
    let half = Look::There {
        is_file: false,
        is_swapped: false,
        is_huge: false,
        pages: 256,
    };
    keeper.0.found(1, &pages, &[half]);
    assert_eq!(keeper.bytes().0, 8 << 20);
    keeper.0.found(1, &pages, &[Look::Gone]);
    assert_eq!(keeper.bytes().0, 0);
}

#[test]
fn a_block_is_one_huge_page_at_most() {
    let touched = |batches: &[&[(u64, u32, u32, Look)]]| {
        let mut keeper = Keeper::new(GrowthLimits::default());
        for batch in batches {
            keeper.touch(&process(1, 7), batch, 100, "work");
        }
        keeper.bytes().0
    };
    let [first, second] = [1030, 1031].map(|page| (page, 0, WRITE, HUGE));
    // Touched one by one, and made one huge page later.
    assert_eq!(touched(&[&[first, second]]), 2 * PAGE_BYTES);
    assert_eq!(touched(&[&[(1029, 0, WRITE, THERE)], &[second]]), 2 * PAGE_BYTES);
    // Given back, and touched anew elsewhere.
    assert_eq!(touched(&[&[first], &[second]]), 2 << 20);
    let next = (1536, 0, WRITE, HUGE);
    assert_eq!(touched(&[&[first, next]]), 4 << 20);
}

#[test]
fn a_buffer_that_is_refilled_does_not_grow() {
    let mut keeper = Keeper::new(GrowthLimits::default());
    let pages = 2048;
    for (turn, level) in [0, 1, 2, 3, 4, 5, 6, 7, 8, 5, 2, 0, 4, 1, 3].into_iter().enumerate() {
        keeper.touch(
            &process(1, 7),
            &chosen(1 << 20, pages, level),
            100 + turn as u64,
            "refill",
        );
        let answer = keeper.answer(PageKind::Anonymous, None, 1000).growth;
        let error = answer.quality.pages.unwrap().growth_error as f64;
        let off = (answer.samples() as f64 - (pages * PAGE_BYTES) as f64).abs();
        assert!(off <= 4.0 * error, "{off} after level {level}, {error} expected");
    }
}

#[test]
fn of_a_service_only_those_that_run_hold_anything() {
    let mut keeper = Keeper::new(GrowthLimits::default());
    keeper.touch(&process(1, 7), &[(10, 0, WRITE, THERE)], 100, "over");
    keeper.touch(&process(2, 8), &[(10, 0, WRITE, THERE)], 100, "runs");
    keeper.0.ended(1, at(150));
    let answer = |target| {
        let span = Span {
            start: None,
            end: at(1000),
        };
        let kind = PageKind::Anonymous;
        keeper.0.answer(&GrowthQuery { target, span, kind }, at(1000))
    };
    for target in [Target::Service("shop".into()), Target::Everything] {
        let of_all = answer(target);
        assert_eq!(by_function(&of_all.growth), [("runs".to_owned(), PAGE_BYTES)].into());
        assert_eq!(of_all.first_touch.samples(), 2 * PAGE_BYTES);
    }
    assert_eq!(
        answer(Target::Process(7)).growth.samples(),
        PAGE_BYTES,
        "as it was at its end"
    );
}

#[test]
fn what_was_thinned_once_is_not_for_ever() {
    let mut keeper = Keeper::new(GrowthLimits {
        process_pages: 100,
        ..GrowthLimits::default()
    });
    keeper.touch(&process(1, 7), &chosen(1 << 20, 400, 0), 100, "burst");
    for _ in 0..MAX_FALL {
        let pages = keeper.0.pages_of(1);
        keeper.0.found(1, &pages, &vec![Look::Gone; pages.len()]);
    }
    keeper.touch(&process(1, 7), &chosen(1 << 21, 50, 0), 200, "later");
    let quality = keeper
        .answer(PageKind::Anonymous, None, 1000)
        .growth
        .quality
        .pages
        .unwrap();
    assert_eq!((quality.pages, quality.levels), (50, (0, 0)));
}

#[test]
fn an_exec_drops_the_pages_and_an_end_keeps_them_for_a_while() {
    let mut keeper = Keeper::new(GrowthLimits::default());
    keeper.touch(&process(1, 7), &[(10, 0, WRITE, THERE)], 100, "before");
    keeper.0.replaced(1);
    assert_eq!(keeper.bytes(), (0, 0));
    // Nobody looked between the exec and the next fault; and a fault of before may be told after it.
    keeper.touch(&process(1, 7), &[(10, 0, WRITE, THERE)], 100, "before");
    keeper.touch(&process(2, 7), &[(20, 0, WRITE, THERE)], 150, "after");
    keeper.touch(&process(1, 7), &[(11, 0, WRITE, THERE)], 100, "before");
    assert_eq!(
        (keeper.bytes(), keeper.0.running()),
        ((PAGE_BYTES, PAGE_BYTES), vec![2])
    );
    keeper.0.replaced(2);
    keeper.touch(&process(2, 7), &[(10, 0, WRITE, Look::Unknown)], 200, "after");
    keeper.0.ended(2, at(250));
    assert!(keeper.0.running().is_empty());
    keeper.0.expire(at(600));
    assert_eq!(keeper.bytes(), (PAGE_BYTES, PAGE_BYTES));
    keeper.0.expire(at(250 + 15 * 60));
    assert_eq!((keeper.bytes(), keeper.0.status().processes), ((0, 0), 0));
    assert_eq!(keeper.0.status().stacks, 0);
}

#[test]
fn an_id_that_was_reused_is_the_last_process_with_it() {
    let mut keeper = Keeper::new(GrowthLimits::default());
    keeper.touch(&process(1, 7), &[(10, 0, WRITE, THERE)], 100, "old");
    let mut new = process(2, 7);
    new.label.start = at(150);
    keeper.touch(&new, &[(10, 0, WRITE, THERE), (11, 0, WRITE, THERE)], 200, "new");
    let growth = by_function(&keeper.answer(PageKind::Anonymous, None, 1000).growth);
    assert_eq!(growth, [("new".to_owned(), 2 * PAGE_BYTES)].into());
}

/// Looks after which the level is down again.
const MAX_FALL: u32 = 8;

/// Touches of all pages of a run that a level chooses.
fn chosen(first: u64, pages: u64, level: u32) -> Vec<(u64, u32, u32, Look)> {
    let pages = first..first + pages;
    let chosen = pages.filter(|page| is_chosen(page_hash(*page, SALT), level));
    chosen.map(|page| (page, level, WRITE, THERE)).collect()
}

#[test]
fn what_is_thinned_out_counts_for_more() {
    let limits = GrowthLimits {
        process_pages: 600,
        pages: 900,
        ..GrowthLimits::default()
    };
    let mut keeper = Keeper::new(limits);
    let pages = 40_000;
    for (index, level) in [0, 3, 1].into_iter().enumerate() {
        let faults = chosen(1 << 20 | (index as u64) << 16, pages, level);
        keeper.touch(&process(1, 7), &faults, 100, ["a", "b", "c"][index]);
    }
    let status = keeper.0.status();
    assert!(status.pages <= 600 && status.thinned > 0, "{status:?}");
    let answer = keeper.answer(PageKind::Anonymous, None, 1000);
    let expected = 3.0 * pages as f64 * PAGE_BYTES as f64;
    let quality = answer.growth.quality.pages.unwrap();
    let deviation = (answer.growth.samples() as f64 - expected).abs() / quality.growth_error as f64;
    assert!(deviation < 4.0, "{deviation} standard errors off");
    assert!(quality.growth_error as f64 / expected < 0.08);
    for (function, bytes) in by_function(&answer.growth) {
        let share = bytes as f64 / (expected / 3.0);
        assert!((0.6..1.4).contains(&share), "{function} {share}");
    }
    // Another process makes both give way.
    keeper.touch(&process(2, 8), &chosen(1 << 30, 5_000, 2), 100, "other");
    assert!(keeper.0.status().pages <= 900);
}

#[test]
fn touches_and_stacks_are_bounded() {
    let limits = GrowthLimits {
        touches: 50,
        stack_bytes: 20_000,
        ..GrowthLimits::default()
    };
    let mut keeper = Keeper::new(limits);
    for number in 0..500 {
        keeper.touch(
            &process(1, 7),
            &[(number, 0, WRITE, THERE)],
            100 + number,
            &format!("f{number}"),
        );
    }
    let status = keeper.0.status();
    assert!(status.dropped_touches > 400, "{status:?}");
    let (growth, first_touch) = keeper.bytes();
    assert_eq!(growth, 500 * PAGE_BYTES);
    assert!(first_touch <= 50 * PAGE_BYTES, "{first_touch}");
    let lost = |from| {
        let answer = keeper.answer(PageKind::Anonymous, from, 1000);
        assert!(answer.growth.quality.lost.is_empty());
        answer.first_touch.quality.lost.get("old_touches_dropped").copied()
    };
    assert_eq!((lost(None), lost(Some(599))), (Some(status.dropped_touches), None));
    let growth = by_function(&keeper.answer(PageKind::Anonymous, None, 1000).growth);
    assert!(
        growth["[other stacks]"] > 100 * PAGE_BYTES && growth.len() < 200,
        "{}",
        growth.len()
    );
}

#[test]
fn room_for_stacks_is_not_looked_for_each_time() {
    let limits = GrowthLimits {
        stack_bytes: 200_000,
        ..GrowthLimits::default()
    };
    let mut keeper = Keeper::new(limits);
    let mut held = Vec::new();
    for number in 0..10_000 {
        held.push(keeper.stack(&[&format!("f{number}")]));
    }
    let (kept, passes) = (keeper.0.status().stacks as usize, keeper.0.stacks.passes);
    assert!(kept > 400 && passes * kept < 10 * 10_000, "{kept} {passes}");
    // As soon as some are not used any more, there is room before long.
    held.clear();
    let is_kept = |keeper: &mut Keeper, number| {
        let stack = keeper.stack(&[&format!("g{number}")]);
        stack.stop.is_none()
    };
    assert!((0..kept).any(|number| is_kept(&mut keeper, number)));
    keeper.0.expire(at(10_000));
    assert_eq!(keeper.0.status().stacks, 0);
}

#[test]
fn processes_dropped_for_want_of_room_are_told() {
    let limits = GrowthLimits {
        pages: 32,
        ..GrowthLimits::default()
    };
    let mut keeper = Keeper::new(limits);
    let lost = |keeper: &Keeper, from: u64, pid| {
        let query = GrowthQuery {
            target: Target::Process(pid),
            span: Span {
                start: Some(at(from)),
                end: at(1000),
            },
            kind: PageKind::Anonymous,
        };
        let answer = keeper.0.answer(&query, at(1000));
        let lost = |profile: &Profile| profile.quality.lost.get("old_processes_dropped").copied();
        (lost(&answer.growth), lost(&answer.first_touch))
    };
    let touched = |keeper: &mut Keeper, number: u64| {
        let faults = [(10, 0, WRITE, THERE), (11, 0, WRITE, THERE)];
        keeper.touch(&process(number, number as u32), &faults, 100 + number, "work");
    };
    for number in 1..=4 {
        touched(&mut keeper, number);
    }
    assert_eq!(lost(&keeper, 0, 4), (None, None));
    // First those that have ended, of which nothing but what they touched was left; then those that run.
    keeper.0.ended(2, at(110));
    touched(&mut keeper, 5);
    assert!(keeper.0.pages_of(2).is_empty() && keeper.0.is_running(1));
    assert_eq!(lost(&keeper, 0, 4), (None, Some(2)));
    assert_eq!(lost(&keeper, 103, 4), (None, None), "after all that was dropped");
    touched(&mut keeper, 6);
    assert!(!keeper.0.is_running(1));
    assert_eq!(lost(&keeper, 0, 4), (Some(2), Some(4)));
    assert_eq!(keeper.0.status().dropped_with_processes, 4);
    assert_eq!((keeper.0.status().processes, keeper.0.status().pages), (4, 8));
    // What it lost is not told longer than it would have been kept.
    keeper.0.expire(at(103) + GrowthLimits::default().retention);
    assert_eq!(lost(&keeper, 0, 4), (None, None));
    assert_eq!(keeper.0.status().dropped_with_processes, 4);
}

#[test]
fn the_sums_are_those_of_the_processes() {
    let limits = GrowthLimits {
        process_pages: 20,
        pages: 80,
        touches: 30,
        ..GrowthLimits::default()
    };
    let mut keeper = Keeper::new(limits);
    let mut random = 7_u64;
    for step in 0..3000 {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let image = random >> 60;
        match random >> 32 & 15 {
            0 => keeper.0.ended(image, at(100 + step)),
            1 => keeper.0.replaced(image),
            2 => keeper.0.expire(at(100 + step) + limits.retention / 2),
            3 => {
                let pages = keeper.0.pages_of(image);
                let looks: Vec<Look> = pages
                    .iter()
                    .map(|look| if look.page % 3 == 0 { Look::Gone } else { THERE })
                    .collect();
                keeper.0.found(image, &pages, &looks);
            }
            _ => {
                let faults: Vec<_> = (0..random >> 40 & 7)
                    .map(|page| (step + page, 0, WRITE, THERE))
                    .collect();
                // Some run one program after another.
                let function = format!("f{}", step % 5);
                keeper.touch(&process(image, (image / 2) as u32), &faults, 100 + step, &function);
            }
        }
        let processes = || keeper.0.processes.by_image().values();
        assert_eq!(
            keeper.0.processes.pages(),
            processes().map(|process| process.len()).sum::<usize>()
        );
        assert_eq!(
            keeper.0.processes.touches(),
            processes().map(|process| process.touched.len()).sum::<usize>()
        );
        assert!(keeper.0.processes.pages() <= limits.pages && keeper.0.processes.touches() <= limits.touches);
        assert!(processes().count() <= 8, "one program of each process");
    }
    let status = keeper.0.status();
    assert!(status.thinned > 0 && status.dropped_touches > 0, "{status:?}");
}

#[test]
fn losses_are_of_the_span() {
    let mut keeper = Keeper::new(GrowthLimits::default());
    keeper.touch(&process(1, 7), &[(10, 0, WRITE, THERE)], 100, "work");
    for second in 0..2000 {
        keeper.0.note_lost(at(second), &[("ring_full".to_owned(), 1)].into());
    }
    let lost = |from: Option<u64>, to| keeper.answer(PageKind::Anonymous, from, to).growth.quality.lost;
    assert_eq!(lost(None, 3000)["ring_full"], 2000, "older ones are added up");
    assert_eq!(lost(Some(1990), 1995)["ring_full"], 5);
    assert!(lost(Some(2000), 3000).is_empty());
}
