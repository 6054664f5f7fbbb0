//! The rows of one object, laid out as the walker searches them.

use std::ops::Range;

use profiler_common::limits::PAGE_SHIFT;
use profiler_common::row::{CfaRule, Page, Row, page_of};

use crate::compile::{CompileError, Limits};
use crate::rule::UnsupportedRule;

const PAGE_BYTES: u64 = 1 << PAGE_SHIFT;

/// The rows of an object in pages of 64 KiB of link addresses.
///
/// The rows of each page begin at offset 0, ascend strictly, and no two neighbours have the same rule. The first page and
/// the last hold code; pages between them that hold none are [`Page::EMPTY`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowTable {
    /// Number of the page that `pages` begins with: its link address divided by 64 KiB.
    pub first_page: u64,
    /// Where the rows of each page lie in `rows`.
    pub pages: Vec<Page>,
    /// All rows, page by page.
    pub rows: Vec<Row>,
    /// What was compiled and what could not be.
    pub statistics: Statistics,
}

/// What went into a [`RowTable`] and what could not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Functions whose rows are in the table.
    pub functions: u64,
    /// Functions left out because no code is loaded where they claim to be, or because others cover them.
    pub functions_without_code: u64,
    /// Functions left out because their description is damaged or of an unknown form; their code has no rows.
    pub functions_malformed: u64,
    /// Functions that nothing describes and whose rows were deduced from their instructions.
    pub functions_deduced: u64,
    /// Rules met in the functions, before equal neighbours were merged.
    pub rules: u64,
    /// Rules among them whose `rbp` is lost.
    pub rules_without_rbp: u64,
    /// Bytes of code in the functions.
    pub code_bytes: u64,
    /// Bytes of code among them with an unsupported rule.
    pub unsupported_bytes: u64,
    pub(crate) unsupported_rules: [u64; UnsupportedRule::ALL.len()],
}

impl Statistics {
    /// How many rules were unsupported for this reason.
    pub fn unsupported_rules(&self, reason: UnsupportedRule) -> u64 {
        self.unsupported_rules[reason as usize]
    }

    pub(crate) fn count_rule(&mut self, range: &Range<u64>, rule: Result<Row, UnsupportedRule>) {
        let bytes = range.end - range.start;
        self.rules += 1;
        self.code_bytes += bytes;
        match rule {
            Ok(row) => self.rules_without_rbp += u64::from(row.rbp_rule() == profiler_common::row::RbpRule::Lost as u8),
            Err(reason) => {
                self.unsupported_rules[reason as usize] += 1;
                self.unsupported_bytes += bytes;
            }
        }
    }
}

impl RowTable {
    /// The row for the code at a link address, [`CfaRule::Gap`] where no function is described. `None` outside the
    /// pages of the table.
    pub fn find(&self, link_address: u64) -> Option<Row> {
        let index = page_of(link_address).checked_sub(self.first_page)?;
        let page = *self.pages.get(usize::try_from(index).ok()?)?;
        if page == Page::EMPTY {
            return Some(Row::marker(0, CfaRule::Gap));
        }
        let first = page.first() as usize;
        let rows = self.rows.get(first..first + page.count() as usize)?;
        let offset = (link_address & (PAGE_BYTES - 1)) as u16;
        let after = rows.partition_point(|row| row.page_offset() <= offset);
        rows.get(after.checked_sub(1)?).copied()
    }

    /// Link addresses that the pages cover.
    pub fn link_range(&self) -> Range<u64> {
        let start = self.first_page << PAGE_SHIFT;
        start..start.saturating_add((self.pages.len() as u64) << PAGE_SHIFT)
    }

    /// The part of a mapping (`runtime` addresses at `bias`) that the pages cover. The walker indexes the pages without
    /// a check of its own, so only this part may be given to it.
    pub fn covered(&self, runtime: Range<u64>, bias: u64) -> Option<Range<u64>> {
        let link = self.link_range();
        let link_start = runtime.start.wrapping_sub(bias);
        let link_end = link_start.checked_add(runtime.end.checked_sub(runtime.start)?)?;
        let start = link_start.max(link.start);
        let end = link_end.min(link.end);
        (start < end).then(|| start.wrapping_add(bias)..end.wrapping_add(bias))
    }
}

/// Takes the rules of ranges of code in ascending order and lays them out in pages.
#[derive(Debug)]
pub(crate) struct TableBuilder {
    limits: Limits,
    first_page: Option<u64>,
    pages: Vec<Page>,
    rows: Vec<Row>,
    /// Index in `rows` where the page in progress begins.
    page_start: usize,
    /// Link address up to which rules have been taken.
    end: u64,
}

impl TableBuilder {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            first_page: None,
            pages: Vec::new(),
            rows: Vec::new(),
            page_start: 0,
            end: 0,
        }
    }

    /// Link address up to which rules have been taken.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Adds a rule for a range that is not empty and begins at or after the end of the one before.
    pub(crate) fn cover(&mut self, range: Range<u64>, rule: Row) -> Result<(), CompileError> {
        if range.start > self.end {
            self.close_with_gap()?;
        }
        let mut start = range.start;
        while start < range.end {
            self.open_page(page_of(start))?;
            let offset = (start & (PAGE_BYTES - 1)) as u16;
            if self.rows.len() == self.page_start && offset > 0 {
                self.push(Row::marker(0, CfaRule::Gap))?;
            }
            self.push(rule.at(offset))?;
            start = (start | (PAGE_BYTES - 1)).saturating_add(1);
        }
        self.end = range.end;
        Ok(())
    }

    pub(crate) fn finish(mut self, statistics: Statistics) -> Result<RowTable, CompileError> {
        self.close_with_gap()?;
        self.close_page();
        let first_page = self.first_page.ok_or(CompileError::NoUnwindTable)?;
        self.pages.shrink_to_fit();
        self.rows.shrink_to_fit();
        Ok(RowTable {
            first_page,
            pages: self.pages,
            rows: self.rows,
            statistics,
        })
    }

    /// Number of the page in progress.
    fn page(&self) -> Option<u64> {
        Some(self.first_page? + self.pages.len() as u64)
    }

    /// Ends what was covered so far, where the rest of its page is still open.
    fn close_with_gap(&mut self) -> Result<(), CompileError> {
        if self.page() == Some(page_of(self.end)) {
            self.push(Row::marker((self.end & (PAGE_BYTES - 1)) as u16, CfaRule::Gap))?;
        }
        Ok(())
    }

    fn open_page(&mut self, page: u64) -> Result<(), CompileError> {
        let first_page = *self.first_page.get_or_insert(page);
        let needed = page - first_page + 1;
        if needed > u64::from(self.limits.max_pages) {
            return Err(CompileError::TooManyPages {
                limit: self.limits.max_pages,
            });
        }
        while self.page() < Some(page) {
            self.close_page();
        }
        Ok(())
    }

    fn close_page(&mut self) {
        let count = self.rows.len() - self.page_start;
        self.pages.push(match count {
            0 => Page::EMPTY,
            // Both fit: `push` keeps all indexes below a 32-bit limit.
            _ => Page::new(self.page_start as u32, count as u32),
        });
        self.page_start = self.rows.len();
    }

    fn push(&mut self, row: Row) -> Result<(), CompileError> {
        if self.rows[self.page_start..]
            .last()
            .is_some_and(|last| last.rule() == row.rule())
        {
            return Ok(());
        }
        if self.rows.len() >= self.limits.max_rows as usize {
            return Err(CompileError::TooManyRows {
                limit: self.limits.max_rows,
            });
        }
        self.rows.push(row);
        Ok(())
    }
}
