//! A double of the walker's tables that checks what it is given.

use std::collections::{BTreeMap, BTreeSet};

use profiler_common::{
    limits::PAGE_SHIFT,
    process::{Exec, FileKey, TEMPLATE_GENERATION},
    python::PythonLayout,
    row::Row,
};
use profiler_unwinding::{PageDirectory, RowTable};

use super::walker_tables::{Backing, Layout, TableError, TableId, WalkerMapping, WalkerTables};
use crate::kernel::records::Pid;

/// Keeps what the walker would have, and panics when its contract is broken.
#[derive(Debug)]
pub(crate) struct WalkerDouble {
    pub(crate) max_rows: u64,
    pub(crate) max_mappings: u64,
    /// Whether the kernel refuses every change of its maps.
    pub(crate) is_refused: bool,
    /// Link range and number of rows by table.
    pub(crate) tables: BTreeMap<TableId, (std::ops::Range<u64>, u64)>,
    /// Loaded pages of tables that are loaded by the page.
    pub(crate) pages: BTreeMap<TableId, BTreeMap<u32, Vec<Row>>>,
    pub(crate) processes: BTreeMap<Pid, Vec<WalkerMapping>>,
    /// Layouts of those that have one.
    pub(crate) python: BTreeMap<Pid, PythonLayout>,
    /// What the kernel itself added.
    pub(crate) forked: BTreeSet<Pid>,
    pub(crate) writes: u64,
    pub(crate) next: u32,
    /// What the kernel saw executed.
    pub(crate) execs: BTreeMap<Pid, Exec>,
    /// Templates by device and inode, with their generation.
    pub(crate) templates: BTreeMap<(u64, u64), (u32, Layout, Vec<WalkerMapping>)>,
}

impl Default for WalkerDouble {
    fn default() -> Self {
        Self {
            max_rows: u64::MAX,
            max_mappings: u64::MAX,
            is_refused: false,
            tables: BTreeMap::new(),
            pages: BTreeMap::new(),
            processes: BTreeMap::new(),
            python: BTreeMap::new(),
            forked: BTreeSet::new(),
            writes: 0,
            next: 0,
            execs: BTreeMap::new(),
            templates: BTreeMap::new(),
        }
    }
}

impl WalkerDouble {
    /// Asks the kernel for a change.
    fn ask(&self, table: &'static str) -> Result<(), TableError> {
        let reason = "Operation not permitted".to_owned();
        match self.is_refused {
            true => Err(TableError::Refused { table, reason }),
            false => Ok(()),
        }
    }

    fn check_room(&self, wanted: u64) -> Result<(), TableError> {
        let used: u64 = self.tables.values().map(|(_, rows)| rows).sum();
        if used.saturating_add(wanted) > self.max_rows {
            return Err(TableError::Full {
                table: "rows",
                wanted,
                capacity: self.max_rows,
            });
        }
        Ok(())
    }
}

impl WalkerTables for WalkerDouble {
    fn max_rows(&self) -> u64 {
        self.max_rows
    }

    fn install(&mut self, table: &RowTable) -> Result<TableId, TableError> {
        let wanted = table.rows.len() as u64;
        self.check_room(wanted)?;
        self.next += 1;
        self.tables.insert(TableId(self.next), (table.link_range(), wanted));
        Ok(TableId(self.next))
    }

    fn install_pages(&mut self, directory: &PageDirectory) -> Result<TableId, TableError> {
        self.next += 1;
        let start = directory.first_page() << PAGE_SHIFT;
        let range = start..start + ((directory.len() as u64) << PAGE_SHIFT);
        self.tables.insert(TableId(self.next), (range, 0));
        self.pages.insert(TableId(self.next), BTreeMap::new());
        Ok(TableId(self.next))
    }

    fn load_page(&mut self, table: TableId, page: u32, rows: &[Row]) -> Result<(), TableError> {
        let wanted = rows.len() as u64;
        self.check_room(wanted)?;
        let Some(pages) = self.pages.get_mut(&table) else {
            return Ok(());
        };
        assert!(
            pages.insert(page, rows.to_vec()).is_none(),
            "page {page} was loaded before"
        );
        if let Some((_, used)) = self.tables.get_mut(&table) {
            *used += wanted;
        }
        Ok(())
    }

    fn remove(&mut self, table: TableId) {
        assert!(self.tables.remove(&table).is_some(), "{table:?} was not installed");
        self.pages.remove(&table);
        let uses = |mapping: &WalkerMapping| mapping.backing == Backing::Rows(table);
        let of_templates = self.templates.values().flat_map(|(_, _, mappings)| mappings);
        let mut all = self.processes.values().flatten().chain(of_templates);
        assert!(!all.any(uses), "{table:?} is in use");
    }

    fn set_process(
        &mut self,
        pid: Pid,
        mappings: &[WalkerMapping],
        python: Option<&PythonLayout>,
    ) -> Result<u32, TableError> {
        let mut end = 0;
        for mapping in mappings {
            assert!(
                mapping.start >= end && mapping.end > mapping.start,
                "sorted and disjoint: {mappings:x?}"
            );
            end = mapping.end;
            if let Backing::Rows(table) = mapping.backing {
                let (covered, _) = self.tables.get(&table).expect("only installed tables are used");
                let link = mapping.start.wrapping_sub(mapping.bias)..mapping.end.wrapping_sub(mapping.bias);
                assert!(link.start < link.end && covered.start <= link.start && link.end <= covered.end);
            }
        }
        let wanted = mappings.len() as u64;
        if wanted > self.max_mappings {
            return Err(TableError::Full {
                table: "mappings",
                wanted,
                capacity: self.max_mappings,
            });
        }
        self.ask("processes")?;
        self.writes += 1;
        self.processes.insert(pid, mappings.to_vec());
        match python {
            Some(layout) => self.python.insert(pid, *layout),
            None => self.python.remove(&pid),
        };
        Ok(self.writes as u32)
    }

    fn remove_process(&mut self, pid: Pid) {
        self.processes.remove(&pid);
        self.python.remove(&pid);
        self.forked.remove(&pid);
    }

    fn watched(&self) -> Vec<Pid> {
        self.processes.keys().chain(&self.forked).copied().collect()
    }

    fn last_exec(&self, pid: Pid) -> Option<Exec> {
        self.execs.get(&pid).copied()
    }

    fn set_template(
        &mut self,
        program: FileKey,
        layout: &Layout,
        mappings: &[WalkerMapping],
    ) -> Result<u32, TableError> {
        self.next += 1;
        let generation = TEMPLATE_GENERATION | self.next;
        let template = (generation, *layout, mappings.to_vec());
        self.templates.insert((program.device, program.inode), template);
        Ok(generation)
    }

    fn remove_template(&mut self, program: FileKey) {
        self.templates.remove(&(program.device, program.inode));
    }
}
