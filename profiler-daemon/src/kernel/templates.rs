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
    tables::KernelTables,
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

/// What a process is to be entered with that executed a program after what we know of it: what the kernel entered then. If that
/// was made from a template that is none of the `live` ones any more, its mappings may be another's, and the process is pending.
fn entry_after(exec: &Exec, mut live: impl Iterator<Item = u32>) -> ProcessEntry {
    let generation = exec.entry.generation;
    if generation == MARKED_GENERATION || live.any(|live| live == generation) {
        return exec.entry;
    }
    ProcessEntry {
        generation: MARKED_GENERATION,
        state: state::PENDING,
        pace: program_pace(MARKED_GENERATION),
        ..ProcessEntry::default()
    }
}

impl KernelTables {
    /// What the kernel entered for the process at an exec after what we know of it.
    pub(super) fn entered_since(&self, pid: Pid) -> Option<ProcessEntry> {
        let exec = self.last_exec(pid).filter(|exec| exec.time_ns > self.known_until_ns)?;
        let live = self.templates.values().map(|(generation, _)| *generation);
        Some(entry_after(&exec, live))
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

#[cfg(test)]
mod tests {
    use profiler_common::process::Anchors;

    use super::*;

    /// The entry that is taken over from an exec, next to templates of these generations.
    fn entered(entry: ProcessEntry, live: &[u32]) -> ProcessEntry {
        let exec = Exec {
            time_ns: 7,
            entry,
            ..Exec::default()
        };
        entry_after(&exec, live.iter().copied())
    }

    #[test]
    fn mappings_of_a_template_that_is_gone_are_not_walked() {
        let (old, new) = (TEMPLATE_GENERATION | 3, TEMPLATE_GENERATION | 4);
        let template = Template {
            generation: old,
            first_mapping: 8,
            mapping_count: 2,
            ..Template::default()
        };
        let made = template.entry(&Anchors::default());
        assert_eq!((made.state, made.mapping_count), (state::READY, 2));
        assert_eq!(entered(made, &[new, old]), made);
        // Of the same program there may be another now; its mappings lie elsewhere.
        for live in [&[][..], &[new]] {
            let pending = entered(made, live);
            assert_eq!((pending.generation, pending.state), (MARKED_GENERATION, state::PENDING));
            assert_eq!((pending.mapping_count, pending.relocation.is_used), (0, 0));
            assert_eq!(pending.pace, program_pace(MARKED_GENERATION));
        }
    }

    #[test]
    fn what_the_kernel_marked_as_pending_stays_so() {
        let marked = ProcessEntry {
            generation: MARKED_GENERATION,
            state: state::PENDING,
            pace: 5,
            ..ProcessEntry::default()
        };
        assert_eq!(entered(marked, &[]), marked);
        assert_eq!(entered(marked, &[TEMPLATE_GENERATION | 3]), marked);
    }
}
