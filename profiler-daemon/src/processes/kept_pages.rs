//! Rows of a table on disk, read page by page.
//!
//! In: a file of [`super::row_cache`] that was found whole, or was just written, and stays open: that it is removed to make
//! room for others changes nothing here. Out: rows of single pages, if they still are what they were then. For the builder's
//! threads.

use std::{fs::File, os::unix::fs::FileExt, sync::Arc};

use profiler_common::row::Row;
use profiler_unwinding::{PageDirectory, RowTable};

/// Tables with fewer rows are loaded whole or not at all.
const MIN_ROWS: usize = 1 << 16;

/// A table, and where its pages can be read again.
#[derive(Debug)]
pub(super) struct CompiledRows {
    pub(super) table: RowTable,
    /// `None` for small tables, and where they cannot be kept on disk.
    pub(super) kept: Option<Arc<KeptPages>>,
}

/// A table on disk.
#[derive(Debug)]
pub(super) struct KeptPages {
    file: File,
    directory: PageDirectory,
}

impl KeptPages {
    /// Of a table that lies whole in a file; `None` if it is too small to be read in parts.
    pub(super) fn new(file: File, table: &RowTable) -> Option<Arc<Self>> {
        let directory = (table.rows.len() >= MIN_ROWS).then(|| PageDirectory::of(table))?;
        Some(Arc::new(Self { file, directory }))
    }

    /// Which pages there are.
    pub(super) fn directory(&self) -> &PageDirectory {
        &self.directory
    }

    /// The rows of the page of this index.
    pub(super) fn read(&self, index: u32) -> Result<Vec<Row>, String> {
        let place = self.directory.place(index).ok_or("it has no rows")?;
        // A page has at most a row for each of its addresses: half a mebibyte.
        let mut bytes = vec![0; (place.end - place.start) as usize];
        self.file
            .read_exact_at(&mut bytes, place.start)
            .map_err(|error| format!("reading kept rows failed: {error}"))?;
        let rows = self.directory.rows_of(index, &bytes);
        rows.ok_or_else(|| "kept rows were damaged after they were read".to_owned())
    }
}

#[cfg(test)]
impl KeptPages {
    /// Of any table, however small.
    pub(super) fn of_table(table: &RowTable) -> Arc<Self> {
        use std::io::Write as _;
        let mut file = tempfile::tempfile().unwrap();
        let bytes = table.to_bytes(&profiler_unwinding::ContentId([0; 32]));
        file.write_all(&bytes).unwrap();
        let directory = PageDirectory::of(table);
        Arc::new(Self { file, directory })
    }
}

#[cfg(test)]
mod tests {
    use profiler_common::row::{CfaRule, Page};

    use super::*;

    #[test]
    fn pages_are_read_until_they_are_damaged() {
        let rows: Vec<Row> = (0..100).map(|offset| Row::marker(offset, CfaRule::Root)).collect();
        let table = RowTable {
            first_page: 3,
            pages: vec![Page::new(0, 60), Page::EMPTY, Page::new(60, 40)],
            rows,
            statistics: Default::default(),
        };
        let kept = KeptPages::of_table(&table);
        assert_eq!(kept.read(0), Ok(table.rows[..60].to_vec()));
        assert_eq!(kept.read(2), Ok(table.rows[60..].to_vec()));
        assert!(kept.read(1).is_err() && kept.read(3).is_err());
        let length = kept.file.metadata().unwrap().len();
        kept.file.write_all_at(&[0xff], length - 1).unwrap();
        assert!(kept.read(0).is_ok() && kept.read(2).is_err());
        kept.file.set_len(length - 1).unwrap();
        assert!(kept.read(2).is_err());
    }
}
