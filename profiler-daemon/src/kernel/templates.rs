//! Templates in the kernel's maps: what an exec of a known program is entered with before the daemon has heard of it.

use aya::Pod;
use profiler_common::{
    limits::MAX_TEMPLATES,
    memory::program_pace,
    process::{Exec, FileKey, ProcessEntry, TEMPLATE_GENERATION, Template, state},
};

use super::{
    records::{MARKED_GENERATION, Pid},
    refusal::table_error,
    tables::{KernelTables, ProcessMappings},
};
use crate::processes::walker_tables::{Layout, TableError, WalkerMapping, WalkerTables};

#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct EntryValue(pub(super) ProcessEntry);

// SAFETY: plain words without padding, as its zerocopy derives prove.
unsafe impl Pod for EntryValue {}

#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct ExecValue(pub(super) Exec);

// SAFETY: as above.
unsafe impl Pod for ExecValue {}

#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct TemplateValue(Template);

// SAFETY: as above.
unsafe impl Pod for TemplateValue {}

#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct TemplateKey(FileKey);

// SAFETY: as above.
unsafe impl Pod for TemplateKey {}

impl KernelTables {
    /// What the kernel entered for the process at an exec after what we know of it.
    pub(super) fn entered_since(&self, pid: Pid) -> Option<ProcessEntry> {
        let exec = self.last_exec(pid).filter(|exec| exec.time_ns > self.known_until_ns)?;
        let is_live = |(generation, _): &(u32, ProcessMappings)| *generation == exec.entry.generation;
        match exec.entry.generation == MARKED_GENERATION || self.templates.values().any(is_live) {
            true => Some(exec.entry),
            false => Some(ProcessEntry {
                generation: MARKED_GENERATION,
                state: state::PENDING,
                pace: program_pace(MARKED_GENERATION),
                ..ProcessEntry::default()
            }),
        }
    }

    /// Gives the kernel a template, in the place of an earlier one of the same program.
    pub(super) fn put_template(
        &mut self,
        program: FileKey,
        layout: &Layout,
        mappings: &[WalkerMapping],
    ) -> Result<u32, TableError> {
        self.drop_template(program);
        let run = self.write_mappings(mappings)?;
        let generation = self.next_generation() | TEMPLATE_GENERATION;
        let template = Template {
            anchors: layout.anchors,
            code_end: layout.code_end,
            vdso_end: layout.vdso_end,
            generation,
            first_mapping: run.first,
            mapping_count: run.count,
            reserved: 0,
        };
        if let Err(error) = self
            .template_map
            .insert(TemplateKey(program), TemplateValue(template), 0)
        {
            self.failed_updates += 1;
            tracing::debug!(%error, "the kernel refused a template");
            self.mappings.free(run);
            return Err(table_error("templates", u64::from(MAX_TEMPLATES), &error));
        }
        let mappings = self.take_tables(run, mappings);
        self.templates.insert(program, (generation, mappings));
        Ok(generation)
    }

    /// Takes a template back. Its mappings stay as long as an entry refers to them.
    pub(super) fn drop_template(&mut self, program: FileKey) {
        let Some((_, mappings)) = self.templates.remove(&program) else {
            return;
        };
        if let Err(error) = self.template_map.remove(&TemplateKey(program)) {
            tracing::debug!(%error, "no template to remove");
        }
        self.retired.push(mappings);
    }
}
