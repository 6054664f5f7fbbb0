//! Mappings of processes on their way into the kernel's array of them.

use profiler_common::process::{Mapping, kind};
use zerocopy::IntoBytes as _;

use super::{KernelTables, NO_LAYOUT, Run};
use crate::processes::walker_tables::{Backing, TableError, TableId, WalkerMapping};

/// The run of mappings of a process and the tables that they refer to.
#[derive(Debug)]
pub(in crate::kernel) struct ProcessMappings {
    pub(super) run: Run,
    pub(super) tables: Vec<TableId>,
    /// Index of the layout that the process was entered with.
    pub(super) python: u32,
}

impl KernelTables {
    /// The mapping as the walker sees it. A table that is not installed makes it pending.
    fn encode(&self, mapping: &WalkerMapping) -> Mapping {
        let (kind, page_base) = match mapping.backing {
            Backing::Rows(table) => match self.installed.get(&table) {
                Some(installed) => (kind::ROWS, installed.page_base),
                None => (kind::PENDING, 0),
            },
            Backing::FramePointers => (kind::FRAME_POINTERS, 0),
            Backing::Pending => (kind::PENDING, 0),
            Backing::Uprobes => (kind::UPROBES, 0),
        };
        Mapping {
            start: mapping.start,
            end: mapping.end,
            bias: mapping.bias,
            page_base,
            kind,
        }
    }

    /// Takes a run for mappings and writes them there.
    pub(in crate::kernel) fn write_mappings(&mut self, mappings: &[WalkerMapping]) -> Result<Run, TableError> {
        let run = self.allocate("mappings", |tables| &mut tables.mappings, mappings.len())?;
        let encoded: Vec<Mapping> = mappings.iter().map(|mapping| self.encode(mapping)).collect();
        self.mapping_memory
            .write(run.first as usize * size_of::<Mapping>(), encoded.as_bytes());
        Ok(run)
    }

    /// Notes that a run's mappings use their tables.
    pub(in crate::kernel) fn take_tables(&mut self, run: Run, mappings: &[WalkerMapping]) -> ProcessMappings {
        let mut tables = Vec::new();
        for mapping in mappings {
            if let Backing::Rows(table) = mapping.backing
                && !tables.contains(&table)
                && let Some(installed) = self.installed.get_mut(&table)
            {
                installed.users += 1;
                tables.push(table);
            }
        }
        ProcessMappings {
            run,
            tables,
            python: NO_LAYOUT,
        }
    }
}
