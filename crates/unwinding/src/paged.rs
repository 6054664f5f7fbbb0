//! A stored table read page by page.
//!
//! In: a table, and later the bytes of single pages out of what [`RowTable::to_bytes`] made of it. Out: where the rows of a
//! page lie in those bytes, and the rows, if they are the ones that the table had. For tables of which a process uses a
//! small part: libraries of machine learning have thousands of pages, and a program runs through some hundred.

use std::ops::Range;

use profiler_common::row::{Page, Row};
use sha2::{Digest, Sha256};

use crate::{stored, table::RowTable};

const ROW_BYTES: u64 = size_of::<Row>() as u64;

/// Where the rows of each page of a stored table lie, and what tells them from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageDirectory {
    first_page: u64,
    pages: Vec<StoredPage>,
    rows: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StoredPage {
    rows: Page,
    /// A part of the digest of the rows. It is held against damage only: who may write the file may write any rows.
    check: u64,
}

impl PageDirectory {
    /// Of a table that is stored as [`RowTable::to_bytes`] makes it.
    pub fn of(table: &RowTable) -> Self {
        let pages = table.pages.iter().map(|page| {
            let first = page.first() as usize;
            let rows = table.rows.get(first..first + page.count() as usize);
            let bytes: Vec<u8> = rows
                .unwrap_or_default()
                .iter()
                .flat_map(|row| row.0.to_le_bytes())
                .collect();
            StoredPage {
                rows: *page,
                check: check(&bytes),
            }
        });
        Self {
            first_page: table.first_page,
            pages: pages.collect(),
            rows: table.rows.len() as u64,
        }
    }

    /// Number of the first page: its link address divided by 64 KiB.
    pub fn first_page(&self) -> u64 {
        self.first_page
    }

    /// Number of pages, those without code included.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether there is no page.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Rows of all pages together.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The pages for a walker that has none of the rows.
    pub fn not_loaded(&self) -> impl ExactSizeIterator<Item = Page> {
        self.pages.iter().map(|page| match page.rows {
            Page::EMPTY => Page::EMPTY,
            _ => Page::NOT_LOADED,
        })
    }

    /// Whether the page of this index has rows.
    pub fn has_rows(&self, index: u32) -> bool {
        self.page(index).is_some()
    }

    /// Where the rows of the page of this index lie in the bytes of the table; `None` if it has none.
    pub fn place(&self, index: u32) -> Option<Range<u64>> {
        let page = self.page(index)?.rows;
        let start = stored::rows_offset(self.pages.len() as u64) + u64::from(page.first()) * ROW_BYTES;
        Some(start..start + u64::from(page.count()) * ROW_BYTES)
    }

    /// The rows of the page of this index out of the bytes at its [`PageDirectory::place`]. `None` if they are not the rows
    /// that the table had.
    pub fn rows_of(&self, index: u32, bytes: &[u8]) -> Option<Vec<Row>> {
        let page = self.page(index)?;
        let is_whole = bytes.len() as u64 == u64::from(page.rows.count()) * ROW_BYTES && check(bytes) == page.check;
        let words = bytes.as_chunks().0.iter();
        is_whole.then(|| words.map(|word| Row(u64::from_le_bytes(*word))).collect())
    }

    fn page(&self, index: u32) -> Option<&StoredPage> {
        let page = self.pages.get(usize::try_from(index).ok()?)?;
        (page.rows != Page::EMPTY).then_some(page)
    }
}

fn check(bytes: &[u8]) -> u64 {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    digest.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

#[cfg(test)]
mod tests {
    use profiler_common::row::{CfaRule, RbpRule};

    use super::*;
    use crate::{ContentId, Limits};

    fn row(offset: u16) -> Row {
        Row::new(offset, CfaRule::Rsp, 8 + i64::from(offset % 64) * 8, RbpRule::Same, 0).unwrap()
    }

    /// Three pages, the middle one without code.
    fn table() -> RowTable {
        RowTable {
            first_page: 5,
            pages: vec![Page::new(0, 3), Page::EMPTY, Page::new(3, 2)],
            rows: vec![row(0), row(16), Row::marker(80, CfaRule::Root), row(0), row(9)],
            statistics: Default::default(),
        }
    }

    #[test]
    fn each_page_comes_back_by_itself() {
        let stored = table().to_bytes(&ContentId([7; 32]));
        let directory = PageDirectory::of(&table());
        let read = |index| {
            let place = directory.place(index)?;
            directory.rows_of(index, &stored[place.start as usize..place.end as usize])
        };
        assert_eq!(read(0), Some(table().rows[..3].to_vec()));
        assert_eq!(read(2), Some(table().rows[3..].to_vec()));
        assert_eq!((read(1), read(3), read(u32::MAX)), (None, None, None));
        assert!(directory.has_rows(2) && !directory.has_rows(1));
        let expected = [Page::NOT_LOADED, Page::EMPTY, Page::NOT_LOADED];
        assert_eq!(directory.not_loaded().collect::<Vec<_>>(), expected);
        assert_eq!((directory.first_page(), directory.len(), directory.rows()), (5, 3, 5));
    }

    #[test]
    fn what_was_damaged_meanwhile_is_not_taken() {
        let stored = table().to_bytes(&ContentId([7; 32]));
        let directory = PageDirectory::of(&table());
        let place = directory.place(0).unwrap();
        let bytes = &stored[place.start as usize..place.end as usize];
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(directory.rows_of(0, &damaged), None, "bit {bit}");
        }
        assert_eq!(directory.rows_of(0, &bytes[..bytes.len() - 8]), None);
        assert_eq!(directory.rows_of(2, bytes), None, "another page's");
    }

    #[test]
    fn a_compiled_table_has_a_page_for_every_address() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let limits = Limits::default();
        let frames = crate::CallFrames::read(&bytes[..], &limits).unwrap();
        let table = frames.compile(&limits).unwrap();
        let stored = table.to_bytes(&frames.content_id());
        let directory = PageDirectory::of(&table);
        let mut rows = Vec::new();
        for index in 0..directory.len() as u32 {
            if let Some(place) = directory.place(index) {
                let bytes = &stored[place.start as usize..place.end as usize];
                rows.extend(directory.rows_of(index, bytes).unwrap());
            }
        }
        assert_eq!(rows, table.rows);
    }
}
