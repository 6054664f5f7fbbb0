//! The chosen pages of one process.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::SystemTime,
};

use profiler_common::memory::{MAX_LEVEL, PAGE_BYTES, READ_LEVELS, fault, is_chosen, page_hash};
use profiler_profile::PageKind;

use super::{GrowthProcess, stacks::TouchedStack};

/// Pages of a huge page (2 MiB).
pub(super) const HUGE_PAGES: u64 = 512;

/// One chosen fault.
#[derive(Clone, Debug)]
pub struct PageTouch {
    /// Number of the page.
    pub page: u64,
    /// At which level it was chosen.
    pub level: u32,
    /// Bits of [`profiler_common::memory::fault`].
    pub code: u32,
    /// When.
    pub time: SystemTime,
    /// Which code touched it.
    pub stack: Arc<TouchedStack>,
}

/// A page to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageLook {
    /// Number of the first page.
    pub page: u64,
    /// How many pages from there: those of a huge page, or one.
    pub pages: u64,
}

/// What was found where a page was touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nobody could look: the process had ended.
    Unknown,
    /// Nothing is mapped there.
    Gone,
    /// It is there.
    There {
        /// It is a page of a file, or of memory that processes share.
        is_file: bool,
        /// It is in swap space.
        is_swapped: bool,
        /// It is mapped as one huge page.
        is_huge: bool,
        /// How many of the pages that were looked at are there.
        pages: u64,
    },
}

/// A page that is held to be there.
#[derive(Clone, Debug)]
pub(super) struct Page {
    pub(super) time: SystemTime,
    pub(super) stack: Arc<TouchedStack>,
    pub(super) level: u32,
    pub(super) kind: PageKind,
    /// It was found in swap space when it was last looked at.
    is_swapped: bool,
    /// It was mapped as part of a huge page, of which so many pages are there; 0 for a page alone.
    huge_pages: u64,
}

impl Page {
    /// Bytes of it that are there.
    pub(super) fn bytes(&self) -> u64 {
        PAGE_BYTES * self.huge_pages.max(1)
    }

    /// Bytes that it stands for.
    pub(super) fn weight(&self) -> u64 {
        self.bytes() << self.level
    }
}

/// Pages that were touched at about one time by one stack.
#[derive(Clone, Debug)]
pub(super) struct Touched {
    pub(super) time: SystemTime,
    pub(super) stack: Arc<TouchedStack>,
    pub(super) kind: PageKind,
    /// Bytes that they stand for.
    pub(super) bytes: u64,
    /// How many they are.
    pub(super) pages: u64,
    pub(super) levels: (u32, u32),
}

/// The pages of a process.
#[derive(Debug)]
pub(super) struct ProcessPages {
    pub(super) process: GrowthProcess,
    pub(super) pages: HashMap<u64, Page>,
    /// In the order of time.
    pub(super) touched: VecDeque<Touched>,
    /// Level below which no page is kept.
    floor: u32,
    pub(super) ended: Option<SystemTime>,
    /// Sums of touches that were dropped for want of room, and the time of the last of them.
    pub(super) dropped: Option<(u64, SystemTime)>,
}

impl ProcessPages {
    pub(super) fn new(process: &GrowthProcess) -> Self {
        Self {
            process: process.clone(),
            pages: HashMap::new(),
            touched: VecDeque::new(),
            floor: 0,
            ended: None,
            dropped: None,
        }
    }

    pub(super) fn update(&mut self, process: &GrowthProcess) {
        self.process.clone_from(process);
    }

    pub(super) fn len(&self) -> usize {
        self.pages.len()
    }

    /// Takes faults with what was found at their pages.
    pub(super) fn touch(&mut self, touches: &[PageTouch], looks: &[Look]) {
        let mut sums: HashMap<(*const TouchedStack, PageKind), Touched> = HashMap::new();
        let huge = self.huge_blocks(touches, looks);
        for (touch, look) in touches.iter().zip(looks) {
            let is_huge = huge.contains(&(touch.page / HUGE_PAGES));
            let Some(page) = self.new_page(touch, *look, is_huge) else {
                continue;
            };
            let sum = sums
                .entry((Arc::as_ptr(&page.stack), page.kind))
                .or_insert_with(|| Touched {
                    time: page.time,
                    stack: Arc::clone(&page.stack),
                    kind: page.kind,
                    bytes: 0,
                    pages: 0,
                    levels: (page.level, page.level),
                });
            sum.bytes = sum.bytes.saturating_add(page.weight());
            sum.pages += 1;
            sum.levels = (sum.levels.0.min(page.level), sum.levels.1.max(page.level));
            self.keep(touch.page, page, *look);
        }
        self.raise_to(touches);
        let mut sums: Vec<Touched> = sums.into_values().collect();
        sums.sort_by_key(|sum| sum.time);
        self.touched.extend(sums);
    }

    /// Blocks that became huge pages by one fault. The kernel makes huge pages also of pages that were touched one by one, each
    /// of which counts for itself. Pages that are kept of such a block make room: what they were part of was given back.
    fn huge_blocks(&mut self, touches: &[PageTouch], looks: &[Look]) -> HashSet<u64> {
        let is_huge = |look: &Look| matches!(look, Look::There { is_huge: true, .. });
        let of_huge = touches.iter().zip(looks).filter(|(_, look)| is_huge(look));
        let mut blocks: HashSet<u64> = of_huge.map(|(touch, _)| touch.page / HUGE_PAGES).collect();
        if blocks.is_empty() {
            return blocks;
        }
        let mut first_touched: HashMap<u64, u64> = HashMap::new();
        for touch in touches {
            let block = touch.page / HUGE_PAGES;
            if *first_touched.entry(block).or_insert(touch.page) != touch.page {
                blocks.remove(&block);
            }
        }
        for (number, page) in &self.pages {
            let block = number / HUGE_PAGES;
            if page.huge_pages == 0 && first_touched.get(&block).is_some_and(|touched| touched != number) {
                blocks.remove(&block);
            }
        }
        self.pages.retain(|number, page| {
            let block = number / HUGE_PAGES;
            page.huge_pages == 0 || !blocks.contains(&block) || first_touched.get(&block) == Some(number)
        });
        blocks
    }

    /// Raises what is kept to the level that these were chosen at: a later touch at that level of a page that it does not choose
    /// is never seen, and those that it chooses stand for it, too.
    fn raise_to(&mut self, touches: &[PageTouch]) {
        let base = |touch: &PageTouch| match touch.code & fault::WRITE {
            0 => touch.level.saturating_sub(READ_LEVELS),
            _ => touch.level,
        };
        let Some(level @ 1..) = touches.iter().map(base).max() else {
            return;
        };
        self.drop_below(level);
    }

    /// Drops the pages that a level would not have chosen; the others stand for them.
    fn drop_below(&mut self, level: u32) {
        let salt = self.process.salt;
        self.pages.retain(|number, page| {
            let floor = floor_of(level, page.kind);
            page.level = page.level.max(floor);
            is_chosen(page_hash(*number, salt), floor)
        });
    }

    /// What a fault has added, if anything.
    fn new_page(&mut self, touch: &PageTouch, look: Look, is_huge: bool) -> Option<Page> {
        let is_write = touch.code & fault::WRITE != 0;
        let was_there = touch.code & fault::PRESENT != 0;
        let is_file = match look {
            Look::There { is_file, .. } => is_file,
            // Memory of its own that is only read is the one page of zeros, which is nobody's.
            Look::Gone | Look::Unknown => !is_write,
        };
        let known = self.pages.get_mut(&touch.page);
        let kind = match (is_write, is_file) {
            (false, false) => return None,
            // It is written to again; the file's page was there.
            (true, true) if was_there => return None,
            (_, true) => PageKind::File,
            (true, false) if !was_there => PageKind::Anonymous,
            (true, false) => match &known {
                // Protected and released again, or shared at a fork: the page is that which was touched before.
                Some(known) if known.kind != PageKind::File => return None,
                // The page of a file, copied by the first write.
                Some(_) => PageKind::Anonymous,
                // Read before it was written to, or shared at a fork: only without forks it can be told.
                None if self.process.shares_pages => PageKind::Copied,
                None => PageKind::Anonymous,
            },
        };
        if let Some(known) = known
            && known.is_swapped
            && known.kind == kind
            && !was_there
        {
            // It came back out of swap space.
            known.is_swapped = false;
            return None;
        }
        Some(Page {
            time: touch.time,
            stack: Arc::clone(&touch.stack),
            level: touch.level,
            kind,
            is_swapped: false,
            huge_pages: if is_huge { HUGE_PAGES } else { 0 },
        })
    }

    fn keep(&mut self, number: u64, mut page: Page, look: Look) {
        let floor = self.floor_of(page.kind);
        if matches!(look, Look::Gone) || !self.is_above(number, floor) {
            self.pages.remove(&number);
            return;
        }
        page.level = page.level.max(floor);
        self.pages.insert(number, page);
    }

    /// Drops pages until there are no more than so many, by raising the level. Returns how many.
    pub(super) fn thin_to(&mut self, most: usize) -> u64 {
        let before = self.pages.len();
        while self.pages.len() > most && self.floor < MAX_LEVEL {
            self.floor += 1;
            self.drop_below(self.floor);
        }
        (before - self.pages.len()) as u64
    }

    fn floor_of(&self, kind: PageKind) -> u32 {
        floor_of(self.floor, kind)
    }

    fn is_above(&self, number: u64, floor: u32) -> bool {
        is_chosen(page_hash(number, self.process.salt), floor)
    }

    pub(super) fn to_look_at(&self) -> Vec<PageLook> {
        let mut looks: Vec<PageLook> = self
            .pages
            .iter()
            .map(|(number, page)| match page.huge_pages {
                0 => PageLook {
                    page: *number,
                    pages: 1,
                },
                _ => PageLook {
                    page: number / HUGE_PAGES * HUGE_PAGES,
                    pages: HUGE_PAGES,
                },
            })
            .collect();
        looks.sort_unstable();
        looks.dedup();
        looks
    }

    /// Takes what was found. With fewer than `low` pages there is room for more again.
    pub(super) fn found(&mut self, pages: &[PageLook], looks: &[Look], low: usize) {
        let found: HashMap<u64, Look> = pages.iter().map(|look| look.page).zip(looks.iter().copied()).collect();
        self.pages.retain(|number, page| {
            let first = match page.huge_pages {
                0 => *number,
                _ => number / HUGE_PAGES * HUGE_PAGES,
            };
            match found.get(&first) {
                None | Some(Look::Unknown) => true,
                Some(Look::Gone) => false,
                Some(Look::There { is_swapped, pages, .. }) => {
                    page.is_swapped = *is_swapped;
                    if page.huge_pages > 0 {
                        page.huge_pages = (*pages).clamp(1, HUGE_PAGES);
                    }
                    true
                }
            }
        });
        // What made it too many is gone, and the next may be kept more finely.
        if self.pages.len() < low {
            self.floor = self.floor.saturating_sub(1);
        }
    }

    pub(super) fn forget_touches_before(&mut self, horizon: SystemTime) {
        while self.touched.front().is_some_and(|touched| touched.time <= horizon) {
            self.touched.pop_front();
        }
        self.dropped = self.dropped.filter(|(_, last)| *last > horizon);
    }

    /// Drops half of the touches, the oldest; returns how many.
    pub(super) fn drop_oldest_touches(&mut self) -> usize {
        let count = self.touched.len().div_ceil(2);
        if let Some(last) = self.touched.drain(..count).next_back() {
            let before = self.dropped.map_or(0, |(before, _)| before);
            self.dropped = Some((before + count as u64, last.time));
        }
        count
    }
}

/// Reads are chosen at a higher level from the beginning.
fn floor_of(floor: u32, kind: PageKind) -> u32 {
    match kind {
        PageKind::Anonymous | PageKind::Copied => floor,
        PageKind::File if floor == 0 => 0,
        PageKind::File => floor + READ_LEVELS,
    }
}
