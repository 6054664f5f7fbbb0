//! Rows that are loaded by the page, when a walk has missed them.
//!
//! In: samples whose stack ended in code whose rows are not loaded, and what lies on those stacks further out. Out: pages of
//! rows in the walker's tables. A process uses a small part of a large library, so that its table is not worth its room. A
//! walk ends at the first page that it misses, and the pages behind it would be missed one sample after the other;
//! where the sample says how far its stack was walked, the rest of the stack is therefore read once for what look like
//! return addresses. A word that is none costs a page and never makes a wrong stack. A page stays until its table goes: what
//! a walk may be reading is never taken away.

use std::{collections::HashSet, ops::Range, sync::Arc, time::Duration};

use profiler_common::{limits::PAGE_SHIFT, row::Row};
use profiler_unwinding::ContentId;

use super::{
    clock::Now,
    jobs::Job,
    kept_pages::KeptPages,
    owner::Processes,
    process::ImageId,
    tables::{RowTables, TableState},
    walker_tables::{TableId, WalkerTables},
};
use crate::{
    kernel::records::{Pid, RawSample},
    processes::walker_tables::TableError,
};

/// Neighbouring pages that are loaded together: 256 KiB of code, some 40 KiB of rows.
const PAGES_TOGETHER: u32 = 4;
/// Pages read by one job. What further ones are wanted meanwhile is read by the next.
const MAX_PAGES_OF_JOB: usize = 64;
/// When pages are wanted again that could not be loaded; twice as long after each further time.
const RETRY: Duration = Duration::from_secs(30);
/// How often that time is doubled at most.
const MAX_DOUBLINGS: u32 = 5;
/// Stacks that may be read at one time.
const MAX_OPEN_LOOKS: usize = 8;
/// Mappings whose code is looked for on a stack.
const MAX_LOOKED_FOR: usize = 64;

/// A table whose rows are loaded by the page.
#[derive(Debug)]
pub(super) struct PagedTable {
    kept: Arc<KeptPages>,
    /// Pages that are wanted, being read, or loaded.
    known: HashSet<u32>,
    wanted: Vec<u32>,
    is_being_read: bool,
    loaded: u32,
    /// Why pages could not be loaded, and until when none is wanted.
    refused: Option<(String, u64)>,
    refusals: u32,
}

/// Pages to be read.
#[derive(Debug)]
pub(super) struct PageRead {
    pub(super) content: ContentId,
    pub(super) table: TableId,
    pub(super) kept: Arc<KeptPages>,
    pub(super) pages: Vec<u32>,
}

/// Pages that were read, or why one was not.
#[derive(Debug)]
pub(super) struct PagesOutcome {
    content: ContentId,
    table: TableId,
    pages: Vec<(u32, Result<Vec<Row>, String>)>,
}

impl PageRead {
    /// Reads the pages.
    pub(super) fn run(self) -> PagesOutcome {
        let pages = self.pages.iter().map(|&page| (page, self.kept.read(page)));
        PagesOutcome {
            content: self.content,
            table: self.table,
            pages: pages.collect(),
        }
    }
}

impl PagesOutcome {
    /// Bytes of rows in it.
    pub(super) fn row_bytes(&self) -> u64 {
        let rows = self.pages.iter().filter_map(|(_, rows)| rows.as_ref().ok());
        rows.map(|rows| size_of_val(rows.as_slice()) as u64).sum()
    }
}

impl PagedTable {
    /// None of its pages is loaded.
    pub(super) fn new(kept: Arc<KeptPages>) -> Self {
        Self {
            kept,
            known: HashSet::new(),
            wanted: Vec::new(),
            is_being_read: false,
            loaded: 0,
            refused: None,
            refusals: 0,
        }
    }

    /// What of it could not be loaded, and why.
    pub(super) fn limitation(&self) -> Option<String> {
        let (reason, _) = self.refused.as_ref()?;
        let pages = self.kept.directory().len();
        Some(format!(
            "{} of {pages} pages of its unwind rows are loaded, and no further ones: {reason}",
            self.loaded
        ))
    }

    /// Wants the page of a link address and its neighbours. Returns whether that page was not known.
    fn want(&mut self, link_address: u64, now_ns: u64) -> bool {
        if self.refused.as_ref().is_some_and(|(_, retry_ns)| now_ns < *retry_ns) {
            return false;
        }
        let directory = self.kept.directory();
        let page = (link_address >> PAGE_SHIFT).checked_sub(directory.first_page());
        let Some(page) = page.and_then(|page| u32::try_from(page).ok()) else {
            return false;
        };
        if !directory.has_rows(page) || !self.known.insert(page) {
            return false;
        }
        self.wanted.push(page);
        let first = page / PAGES_TOGETHER * PAGES_TOGETHER;
        for neighbour in first..first.saturating_add(PAGES_TOGETHER) {
            if directory.has_rows(neighbour) && self.known.insert(neighbour) {
                self.wanted.push(neighbour);
            }
        }
        true
    }

    /// The pages that are to be read now.
    fn take_wanted(&mut self) -> Option<Vec<u32>> {
        if self.is_being_read || self.wanted.is_empty() {
            return None;
        }
        self.is_being_read = true;
        let count = self.wanted.len().min(MAX_PAGES_OF_JOB);
        Some(self.wanted.drain(..count).collect())
    }

    fn note_loaded(&mut self) {
        self.loaded += 1;
        (self.refused, self.refusals) = (None, 0);
    }

    /// Forgets pages that could not be loaded, and those that wait, so that they are missed again after a while.
    fn refuse(&mut self, reason: String, pages: impl Iterator<Item = u32>, now_ns: u64) {
        for page in pages.chain(std::mem::take(&mut self.wanted)) {
            self.known.remove(&page);
        }
        let wait = RETRY * (1 << self.refusals.min(MAX_DOUBLINGS));
        self.refusals = self.refusals.saturating_add(1);
        self.refused = Some((reason, now_ns.saturating_add(wait.as_nanos() as u64)));
    }
}

impl RowTables {
    /// Wants the page of a link address, if it is of a table that is loaded by the page.
    fn want_page(&mut self, content: &ContentId, link_address: u64, now_ns: u64) -> bool {
        let paged = self.paged_mut(content);
        paged.is_some_and(|(_, paged)| paged.want(link_address, now_ns))
    }

    fn next_read(&mut self, content: ContentId) -> Option<PageRead> {
        let (table, paged) = self.paged_mut(&content)?;
        Some(PageRead {
            content,
            table,
            pages: paged.take_wanted()?,
            kept: Arc::clone(&paged.kept),
        })
    }

    /// Loads pages that were read. Rows that nobody uses make room for them.
    fn load_pages<T: WalkerTables>(&mut self, walker: &mut T, outcome: PagesOutcome, now_ns: u64) {
        let PagesOutcome { content, table, pages } = outcome;
        let mut pages = pages.into_iter();
        while let Some((page, rows)) = pages.next() {
            let loaded = match rows {
                Ok(rows) => self
                    .load_page(walker, table, page, &rows, now_ns)
                    .map_err(|error| error.to_string()),
                Err(reason) => Err(reason),
            };
            // The table may have been the one that nobody used.
            let Some((_, paged)) = self.paged_mut(&content).filter(|(current, _)| *current == table) else {
                return;
            };
            match loaded {
                Ok(()) => paged.note_loaded(),
                Err(reason) => {
                    let rest = pages.map(|(page, _)| page);
                    paged.refuse(reason, std::iter::once(page).chain(rest), now_ns);
                    break;
                }
            }
        }
        if let Some((current, paged)) = self.paged_mut(&content)
            && current == table
        {
            paged.is_being_read = false;
        }
    }

    fn load_page<T: WalkerTables>(
        &mut self,
        walker: &mut T,
        table: TableId,
        page: u32,
        rows: &[Row],
        now_ns: u64,
    ) -> Result<(), TableError> {
        loop {
            match walker.load_page(table, page, rows) {
                Err(_) if self.evict_one(walker, now_ns) => {}
                result => return result,
            }
        }
    }
}

impl<T: WalkerTables> Processes<T> {
    /// Has the rows loaded that a walk missed, and those that it would have missed next.
    pub(super) fn note_missing_rows(&mut self, id: ImageId, sample: &RawSample<'_>) {
        let Some(last) = sample.user.len().checked_sub(1) else {
            return;
        };
        let Some(address) = sample.user.address(last) else {
            return;
        };
        // It is that of an instruction or a return address, which lies behind one.
        let mut is_new = false;
        for address in [address, address.wrapping_sub(1)] {
            is_new |= self.want_rows(id, address, sample.time_ns);
        }
        if let Some(stack_pointer) = sample.user.stack_pointer(last).filter(|_| is_new) {
            self.look_at_stack(id, sample.pid, stack_pointer);
        }
    }

    /// Wants the rows for an address. Returns whether they were not known to be.
    fn want_rows(&mut self, id: ImageId, address: u64, time_ns: u64) -> bool {
        let place = self.images.get(&id).and_then(|image| {
            let mapping = image.mappings().lookup(address, time_ns)?;
            let built = mapping.object.built()?;
            let content = built.unwind.as_ref().ok()?.content;
            let bias = built.segments.bias(mapping.start, mapping.file_offset)?;
            Some((content, address.wrapping_sub(bias)))
        });
        let Some((content, link_address)) = place else {
            return false;
        };
        let is_new = self.tables.want_page(&content, link_address, time_ns);
        if is_new {
            self.read_pages(content, time_ns);
        }
        is_new
    }

    fn read_pages(&mut self, content: ContentId, now_ns: u64) {
        let Some(read) = self.tables.next_read(content) else {
            return;
        };
        if let Err(Job::ReadPages(read)) = self.builder.submit(Job::ReadPages(read)) {
            self.tallies.refused_jobs += 1;
            if let Some((_, paged)) = self.tables.paged_mut(&content) {
                let reason = "too many files wait to be read".to_owned();
                paged.refuse(reason, read.pages.into_iter(), now_ns);
                paged.is_being_read = false;
            }
        }
    }

    pub(super) fn apply_pages(&mut self, outcome: PagesOutcome, now: Now) {
        let content = outcome.content;
        self.tables.load_pages(&mut self.walker, outcome, now.monotonic_ns);
        self.read_pages(content, now.monotonic_ns);
    }

    /// Has the stack of a thread read from a stack pointer outwards.
    fn look_at_stack(&mut self, image: ImageId, pid: Pid, from: u64) {
        let code = self.paged_code(image);
        if self.open_looks >= MAX_OPEN_LOOKS || code.is_empty() {
            return;
        }
        if self.submit(Job::ReadStack { image, pid, from, code }) {
            self.open_looks += 1;
        }
    }

    /// Where code lies whose rows are loaded by the page.
    fn paged_code(&self, id: ImageId) -> Vec<Range<u64>> {
        let live = self
            .images
            .get(&id)
            .into_iter()
            .flat_map(|image| image.mappings().live());
        let code = live.filter(|mapping| {
            let content = mapping
                .object
                .built()
                .and_then(|built| Some(built.unwind.as_ref().ok()?.content));
            content.is_some_and(|content| self.tables.paged(&content).is_some())
        });
        code.map(|mapping| mapping.start..mapping.end)
            .take(MAX_LOOKED_FOR)
            .collect()
    }

    /// Has the rows loaded for what was found on a stack.
    pub(super) fn apply_stack(&mut self, id: ImageId, addresses: &[u64], now: Now) {
        self.open_looks = self.open_looks.saturating_sub(1);
        for &address in addresses {
            self.want_rows(id, address, now.monotonic_ns);
        }
    }

    /// What of the rows of some content could not be loaded, and why.
    pub(super) fn limitation_of_rows(&self, content: &ContentId) -> Option<String> {
        match self.tables.state(content)? {
            TableState::Refused { reason, .. } => Some(reason.clone()),
            TableState::Installed(_) => self.tables.paged(content)?.limitation(),
            TableState::Requested => None,
        }
    }
}

#[cfg(test)]
mod tests;
