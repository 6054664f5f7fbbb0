//! The walker's tables, written into the kernel's maps.
//!
//! Rows, pages and mappings are written through shared memory; a process's entry, which is what makes a walker look at
//! them, is then replaced by a system call. What a walker may still be reading is given back only after a grace
//! period, when no entry in the kernel refers to it any more: a fork copies entries without our knowledge.

use std::{
    collections::{HashMap, HashSet},
    os::fd::AsFd,
};

use aya::{
    Ebpf,
    maps::{HashMap as BpfHashMap, Map, MapData},
};
use profiler_common::{
    limits::{MAX_MAPPINGS, MAX_PAGES, MAX_PROCESSES, MAX_SHARDS, SHARD_SHIFT},
    memory::process_pace,
    process::{Exec, FileKey, Mapping, ProcessEntry, Relocation, TEMPLATE_GENERATION, state},
    python::PythonLayout,
    row::{Page, Row},
};
use profiler_unwinding::{PageDirectory, RowTable};

use super::{
    allocator::{Allocator, Run},
    load::{LoadError, take_map},
    python_layouts::{NO_LAYOUT, PythonLayouts},
    records::{MARKED_GENERATION, Pid},
    refusal::table_error,
    shards::Shards,
    sys::SharedMemory,
    templates::{EntryValue, ExecValue, TemplateKey, TemplateValue},
};
use crate::processes::walker_tables::{Layout, TableError, TableId, WalkerMapping, WalkerTables};

mod mappings;
mod pages;
mod reclaim;

pub(super) use mappings::ProcessMappings;

const ROW_BYTES: usize = size_of::<Row>();

/// The tables and what is known of their use.
#[derive(Debug)]
pub struct KernelTables {
    processes: BpfHashMap<MapData, u32, EntryValue>,
    pub(super) execs: BpfHashMap<MapData, u32, ExecValue>,
    pub(super) template_map: BpfHashMap<MapData, TemplateKey, TemplateValue>,
    shards: Shards,
    mapping_memory: SharedMemory,
    page_memory: SharedMemory,
    python: PythonLayouts,
    /// Kept open, so that their memory is seen among what the daemon holds.
    _shared: [MapData; 2],
    rows: Allocator,
    pages: Allocator,
    pub(super) mappings: Allocator,
    installed: HashMap<TableId, Installed>,
    next_table: u32,
    current: HashMap<Pid, ProcessMappings>,
    pub(super) templates: HashMap<FileKey, (u32, ProcessMappings)>,
    pub(super) retired: Vec<ProcessMappings>,
    generation: u32,
    pub(super) known_until_ns: u64,
    pub(super) failed_updates: u64,
}

/// A table of rows in the kernel.
#[derive(Debug)]
struct Installed {
    /// One run if it was loaded in bulk, else one for each page that is loaded.
    rows: Vec<Run>,
    pages: Run,
    /// Index that link page 0 would have in the array of pages, wrapping.
    page_base: u32,
    /// Runs of mappings that refer to it.
    users: u32,
    removed: bool,
}

impl KernelTables {
    /// Takes the maps out of a loaded object. Rows may take up to `max_row_bytes`.
    pub(super) fn new(object: &mut Ebpf, max_row_bytes: u64) -> Result<Self, LoadError> {
        let mapping_bytes = MAX_MAPPINGS as usize * size_of::<Mapping>();
        let page_bytes = MAX_PAGES as usize * size_of::<u64>();
        let mut rows = Allocator::new(MAX_SHARDS << SHARD_SHIFT);
        rows.set_limit(rows_in(max_row_bytes));
        let (mapping_memory, mapping_map) = share(object, "MAPPINGS", mapping_bytes)?;
        let (page_memory, page_map) = share(object, "PAGES", page_bytes)?;
        Ok(Self {
            processes: map_of(object, "PROCESSES")?,
            execs: map_of(object, "EXECS")?,
            template_map: map_of(object, "TEMPLATES")?,
            shards: Shards::new(map_of(object, "SHARDS")?),
            mapping_memory,
            page_memory,
            python: PythonLayouts::new(object)?,
            _shared: [mapping_map, page_map],
            rows,
            pages: Allocator::new(MAX_PAGES),
            mappings: Allocator::new(MAX_MAPPINGS),
            installed: HashMap::new(),
            next_table: 0,
            current: HashMap::new(),
            templates: HashMap::new(),
            retired: Vec::new(),
            generation: 0,
            known_until_ns: 0,
            failed_updates: 0,
        })
    }

    /// Says up to which time lifecycle records have been taken into account. An exec later than this makes a process
    /// pending even if its entry is replaced meanwhile.
    pub fn set_known_until(&mut self, time_ns: u64) {
        self.known_until_ns = time_ns;
    }

    /// Updates of maps that the kernel refused.
    pub fn failed_updates(&self) -> u64 {
        self.failed_updates
    }

    /// Bytes of rows in use.
    pub fn row_bytes(&self) -> u64 {
        u64::from(self.rows.used()) * ROW_BYTES as u64
    }

    /// Bytes of the kernel's memory that rows take, in use or not.
    pub fn shard_bytes(&self) -> u64 {
        self.shards.bytes()
    }

    /// Lets rows take up to so many bytes from now on. What is loaded stays.
    pub fn set_max_row_bytes(&mut self, max_row_bytes: u64) {
        self.rows.set_limit(rows_in(max_row_bytes));
    }

    /// Gives memory behind the last rows in use back to the kernel.
    pub fn give_back_shards(&mut self) {
        self.shards.shrink_to(self.rows.end());
    }

    /// Gives back what no entry refers to any more. Waits for two grace periods: some 40 ms.
    pub fn reclaim(&mut self) {
        let mut walks = InKernel {
            processes: &self.processes,
            shards: &mut self.shards,
        };
        let unread = reclaim::take_unread(&mut self.retired, &mut walks);
        for ProcessMappings { run, tables, python } in unread {
            self.mappings.free(run);
            self.python.give_back(python);
            for table in tables {
                if let Some(installed) = self.installed.get_mut(&table) {
                    installed.users -= 1;
                }
                self.free_if_unused(table);
            }
        }
    }

    fn free_if_unused(&mut self, table: TableId) {
        let is_over = |installed: &Installed| installed.removed && installed.users == 0;
        if !self.installed.get(&table).is_some_and(is_over) {
            return;
        }
        if let Some(Installed { rows, pages, .. }) = self.installed.remove(&table) {
            for run in rows {
                self.rows.free(run);
            }
            self.pages.free(pages);
        }
    }

    /// Takes a run, reclaiming first if there is no room.
    fn allocate(
        &mut self,
        table: &'static str,
        allocator: fn(&mut Self) -> &mut Allocator,
        wanted: usize,
    ) -> Result<Run, TableError> {
        let capacity = allocator(self).capacity();
        let full = TableError::Full {
            table,
            wanted: wanted as u64,
            capacity: u64::from(capacity),
        };
        let Ok(count) = u32::try_from(wanted) else {
            return Err(full);
        };
        if let Some(run) = allocator(self).allocate(count) {
            return Ok(run);
        }
        self.reclaim();
        allocator(self).allocate(count).ok_or(full)
    }

    fn set_entry(&mut self, pid: Pid, entry: ProcessEntry) -> Result<(), TableError> {
        self.processes.insert(pid.0, EntryValue(entry), 0).map_err(|error| {
            self.failed_updates += 1;
            tracing::debug!(%pid, %error, "the kernel refused a process's entry");
            table_error("processes", u64::from(MAX_PROCESSES), &error)
        })
    }

    /// The next of the daemon's own generations.
    pub(super) fn next_generation(&mut self) -> u32 {
        self.generation = generation_after(self.generation);
        self.generation
    }
}

impl WalkerTables for KernelTables {
    fn max_rows(&self) -> u64 {
        u64::from(self.rows.capacity())
    }

    fn install(&mut self, table: &RowTable) -> Result<TableId, TableError> {
        let rows = self.put_rows(&table.rows)?;
        let page_words: Vec<u64> = table
            .pages
            .iter()
            .map(|page| match *page {
                Page::EMPTY | Page::NOT_LOADED => page.0,
                page => Page::new(rows.first + page.first(), page.count()).0,
            })
            .collect();
        self.put_table(rows, table.first_page, &page_words)
            .inspect_err(|_| self.rows.free(rows))
    }

    fn install_pages(&mut self, directory: &PageDirectory) -> Result<TableId, TableError> {
        self.put_pages(directory)
    }

    fn load_page(&mut self, table: TableId, page: u32, rows: &[Row]) -> Result<(), TableError> {
        self.put_page(table, page, rows)
    }

    fn remove(&mut self, table: TableId) {
        if let Some(installed) = self.installed.get_mut(&table) {
            installed.removed = true;
        }
        self.free_if_unused(table);
    }

    fn set_process(
        &mut self,
        pid: Pid,
        mappings: &[WalkerMapping],
        python: Option<&PythonLayout>,
    ) -> Result<u32, TableError> {
        let run = self.write_mappings(mappings)?;
        // What is given back is told by the mappings that entries refer to: without any it could not be told.
        let python = python
            .filter(|_| run.count != 0)
            .map_or(NO_LAYOUT, |layout| self.python.take(layout));
        let entry = ProcessEntry {
            generation: self.next_generation(),
            state: state::READY,
            first_mapping: run.first,
            mapping_count: run.count,
            python,
            pace: process_pace(pid.0),
            relocation: Relocation::NONE,
        };
        if let Err(full) = self.set_entry(pid, entry) {
            self.mappings.free(run);
            self.python.give_back(python);
            return Err(full);
        }
        let mappings = ProcessMappings {
            python,
            ..self.take_tables(run, mappings)
        };
        if let Some(old) = self.current.insert(pid, mappings) {
            self.retired.push(old);
        }
        if let Some(newer) = self.entered_since(pid) {
            self.set_entry(pid, newer)?;
        }
        Ok(entry.generation)
    }

    fn last_exec(&self, pid: Pid) -> Option<Exec> {
        self.execs.get(&pid.0, 0).ok().map(|ExecValue(exec)| exec)
    }

    fn set_template(
        &mut self,
        program: FileKey,
        layout: &Layout,
        mappings: &[WalkerMapping],
    ) -> Result<u32, TableError> {
        self.put_template(program, layout, mappings)
    }

    fn remove_template(&mut self, program: FileKey) {
        self.drop_template(program);
    }

    fn remove_process(&mut self, pid: Pid) {
        // Absent if the kernel removed it already.
        if let Err(error) = self.processes.remove(&pid.0) {
            tracing::trace!(%pid, %error, "no entry to remove");
        }
        if let Some(old) = self.current.remove(&pid) {
            self.retired.push(old);
        }
    }

    fn watched(&self) -> Vec<Pid> {
        self.processes.keys().filter_map(Result::ok).map(Pid).collect()
    }
}

/// The entries in the kernel.
struct InKernel<'a> {
    processes: &'a BpfHashMap<MapData, u32, EntryValue>,
    shards: &'a mut Shards,
}

impl reclaim::Walks for InKernel<'_> {
    fn wait_for_grace_period(&mut self) -> bool {
        self.shards.wait_for_grace_period()
    }

    fn entered(&mut self) -> Option<HashSet<u32>> {
        let mut entered = HashSet::new();
        for entry in self.processes.iter() {
            // Where iteration and change met there is an error.
            let (_, EntryValue(entry)) = entry.ok()?;
            if entry.mapping_count != 0 {
                entered.insert(entry.first_mapping);
            }
        }
        Some(entered)
    }
}

/// The generation after one: neither one that the kernel gives nor that of a template.
fn generation_after(generation: u32) -> u32 {
    let next = generation.wrapping_add(1) & !TEMPLATE_GENERATION;
    next.max(MARKED_GENERATION + 1)
}

/// Rows that fit into so many bytes.
fn rows_in(bytes: u64) -> u32 {
    (bytes / ROW_BYTES as u64).min(u64::from(MAX_SHARDS) << SHARD_SHIFT) as u32
}

fn map_of<M: TryFrom<Map, Error = aya::maps::MapError>>(object: &mut Ebpf, name: &'static str) -> Result<M, LoadError> {
    Ok(M::try_from(take_map(object, name)?)?)
}

fn share(object: &mut Ebpf, name: &'static str, length: usize) -> Result<(SharedMemory, MapData), LoadError> {
    let Map::Array(map) = take_map(object, name)? else {
        return Err(LoadError::MissingMap { map: name });
    };
    let memory =
        SharedMemory::map(map.fd().as_fd(), length).map_err(|source| LoadError::ShareMap { map: name, source })?;
    Ok((memory, map))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_never_one_that_the_kernel_gives() {
        for (before, after) in [
            (0, 1),
            (1, 2),
            (TEMPLATE_GENERATION - 2, TEMPLATE_GENERATION - 1),
            (TEMPLATE_GENERATION - 1, 1),
            (u32::MAX, 1),
        ] {
            assert_eq!(generation_after(before), after, "{before}");
        }
    }
}
