//! Tables whose rows are loaded page by page.

use std::sync::atomic::Ordering;

use profiler_common::row::{Page, Row};
use profiler_unwinding::PageDirectory;
use zerocopy::IntoBytes as _;

use super::{Installed, KernelTables, Run};
use crate::processes::walker_tables::{TableError, TableId};

impl KernelTables {
    /// Installs the pages of a table without its rows.
    pub(super) fn put_pages(&mut self, directory: &PageDirectory) -> Result<TableId, TableError> {
        let words: Vec<u64> = directory.not_loaded().map(|page| page.0).collect();
        self.put_table(Run::EMPTY, directory.first_page(), &words)
    }

    /// Names a table whose rows are written, and writes its pages.
    pub(super) fn put_table(&mut self, rows: Run, first_page: u64, words: &[u64]) -> Result<TableId, TableError> {
        let pages = self.allocate("pages", |tables| &mut tables.pages, words.len())?;
        self.page_memory
            .write(pages.first as usize * size_of::<u64>(), words.as_bytes());
        let id = TableId(self.next_table);
        self.next_table = self.next_table.wrapping_add(1);
        self.installed.insert(
            id,
            Installed {
                rows: vec![rows],
                pages,
                page_base: pages.first.wrapping_sub(first_page as u32),
                users: 0,
                removed: false,
            },
        );
        Ok(id)
    }

    /// Loads the rows of a page. Walks go on while that is done: until the one word of the page is replaced they end there.
    pub(super) fn put_page(&mut self, table: TableId, page: u32, rows: &[Row]) -> Result<(), TableError> {
        let pages = self.installed.get(&table).map(|installed| installed.pages);
        let Some(pages) = pages.filter(|pages| page < pages.count) else {
            return Ok(());
        };
        let offset = (pages.first + page) as usize * size_of::<u64>();
        if self.page_memory.atomic(offset).load(Ordering::Relaxed) != Page::NOT_LOADED.0 {
            return Ok(());
        }
        let run = self.put_rows(rows)?;
        let word = Page::new(run.first, run.count).0;
        self.page_memory.atomic(offset).store(word, Ordering::Release);
        if let Some(installed) = self.installed.get_mut(&table) {
            installed.rows.push(run);
        }
        Ok(())
    }

    /// Takes a run for rows and writes them there.
    pub(super) fn put_rows(&mut self, rows: &[Row]) -> Result<Run, TableError> {
        let run = self.allocate("rows", |tables| &mut tables.rows, rows.len())?;
        if let Err(full) = self.shards.grow_to(run) {
            self.rows.free(run);
            return Err(full);
        }
        self.shards.write(run.first, rows);
        Ok(run)
    }
}
