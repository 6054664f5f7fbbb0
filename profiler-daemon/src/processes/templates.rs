//! Templates: what is known of a program before it is executed, for processes that are over before their mappings are read.
//!
//! In: images of watched programs that are known whole. Out: their mappings, given to the kernel under the program, so that
//! an exec of it is sampled with them at once, moved to where the new process has its parts. That a library lies as far
//! from the dynamic loader as it did before is a guess. Every frame of a stack walked so is therefore verified against
//! the process's own mappings before the stack is counted: a wrong guess costs frames, and never makes a wrong stack. One
//! that was made before the loader had mapped every library is found out by such stacks, and gives way to one that has more.

use std::{collections::HashMap, time::Duration};

use profiler_common::{limits::MAX_TEMPLATES, process::FileKey};
use profiler_unwinding::ContentId;

use super::{
    clock::Now,
    mappings::Mapping,
    objects::ObjectKind,
    owner::Processes,
    process::{Image, ImageId},
    tables::TableState,
    walker_tables::{Backing, Layout, WalkerMapping, WalkerTables},
};

/// Mappings of a program that is worth a template.
const MAX_TEMPLATE_MAPPINGS: usize = 256;
/// How long a template that no sample used is kept.
const LIFETIME: Duration = Duration::from_secs(300);
/// Samples in a row that could not be verified at all before a template is made anew.
const MAX_FAILURES: u32 = 32;

/// The templates that the kernel has.
#[derive(Debug, Default)]
pub(super) struct Templates {
    by_program: HashMap<FileKey, Known>,
}

#[derive(Debug)]
pub(super) struct Known {
    /// Device and inode of the program as mapping records have them.
    device_inode: (u64, u64),
    generation: u32,
    /// Code that rows describe, by its start.
    code: Vec<TemplateCode>,
    /// Contents whose tables the walker uses for it.
    tables: Vec<ContentId>,
    /// Parts of the list that the walker has.
    parts: usize,
    pub(super) used_ns: u64,
    pub(super) failures: u32,
    /// A stack ended where the process had mapped something and the template has nothing.
    pub(super) is_short: bool,
}

/// Code in the process that a template was taken from.
#[derive(Clone, Copy, Debug)]
struct TemplateCode {
    start: u64,
    end: u64,
    bias: u64,
    content: ContentId,
}

impl Templates {
    /// Whether processes that run the program are entered by the kernel itself.
    pub(super) fn has_program(&self, device_inode: (u64, u64)) -> bool {
        self.of_program(device_inode).is_some()
    }

    fn of_program(&self, device_inode: (u64, u64)) -> Option<&Known> {
        self.by_program
            .values()
            .find(|known| known.device_inode == device_inode)
    }

    pub(super) fn of_generation(&mut self, generation: u32) -> Option<(FileKey, &mut Known)> {
        let found = self
            .by_program
            .iter_mut()
            .find(|(_, known)| known.generation == generation)?;
        Some((*found.0, found.1))
    }

    fn longest_unused(&self) -> Option<(u64, FileKey)> {
        let used = self.by_program.iter().map(|(program, known)| (known.used_ns, *program));
        used.min_by_key(|(used_ns, _)| *used_ns)
    }
}

impl Known {
    /// Whether the walker used the same rows at the same place for an address as the process's own mappings call for. If
    /// so, whether it lies in a signal trampoline.
    pub(super) fn verify(&self, image: &Image, address: u64, translated: u64, time_ns: u64) -> Option<bool> {
        let after = self.code.partition_point(|code| code.start <= translated);
        let code = self.code.get(after.checked_sub(1)?)?;
        if translated >= code.end {
            return None;
        }
        let mapping = image.mappings().lookup(address, time_ns)?;
        let built = mapping.object.built()?;
        let summary = built.unwind.as_ref().ok()?;
        let bias = built.segments.bias(mapping.start, mapping.file_offset)?;
        let link_address = address.wrapping_sub(bias);
        let is_same = summary.content == code.content && link_address == translated.wrapping_sub(code.bias);
        is_same.then(|| summary.is_signal_frame(link_address))
    }
}

impl<T: WalkerTables> Processes<T> {
    /// Makes a template of the program that an image runs, if it is watched for what it is and known whole, and the program
    /// has none, or one that proved short and has fewer parts.
    pub(super) fn offer_template(&mut self, id: ImageId, now: Now) {
        let Some(image) = self.images.get(&id) else { return };
        let Some(program) = &image.program else { return };
        let device_inode = program.device_inode;
        let known = self.templates.of_program(device_inode);
        if !image.watch.discovered
            || image.mappings.live().len() > MAX_TEMPLATE_MAPPINGS
            || known.is_some_and(|known| !known.is_short)
        {
            return;
        }
        let known_parts = known.map_or(0, |known| known.parts);
        let list = self.compose(id);
        let is_plain = |mapping: &WalkerMapping| matches!(mapping.backing, Backing::Rows(_) | Backing::FramePointers);
        if list.is_waiting || list.mappings.len() <= known_parts || !list.mappings.iter().all(is_plain) {
            return;
        }
        let Some(image) = self.images.get(&id) else { return };
        let Some(exec) = self
            .walker
            .last_exec(image.pid)
            .filter(|exec| image.ran_at(exec.time_ns))
        else {
            return;
        };
        if exec.program == FileKey::default() {
            return;
        }
        let end_of = |is_it: &dyn Fn(&Mapping) -> bool| {
            let ends = image
                .mappings
                .live()
                .filter(|mapping| is_it(mapping))
                .map(|mapping| mapping.end);
            ends.max().unwrap_or(0)
        };
        let layout = Layout {
            anchors: exec.anchors,
            code_end: end_of(&|mapping| mapping.object.device_inode == Some(device_inode)),
            vdso_end: end_of(&|mapping| mapping.object.kind == ObjectKind::Vdso),
        };
        if layout.code_end <= layout.anchors.code_start {
            return;
        }
        let code = self.code_of(image);
        if !self.templates.by_program.contains_key(&exec.program)
            && self.templates.by_program.len() >= MAX_TEMPLATES as usize
            && let Some((_, oldest)) = self.templates.longest_unused()
        {
            self.remove_template(oldest, now);
        }
        match self.walker.set_template(exec.program, &layout, &list.mappings) {
            Ok(generation) => {
                self.tables.exchange(&[], &list.tables, now.monotonic_ns);
                let known = Known {
                    device_inode,
                    generation,
                    code,
                    tables: list.tables,
                    parts: list.mappings.len(),
                    used_ns: now.monotonic_ns,
                    failures: 0,
                    is_short: false,
                };
                if let Some(old) = self.templates.by_program.insert(exec.program, known) {
                    self.tables.exchange(&old.tables, &[], now.monotonic_ns);
                }
            }
            Err(full) => {
                tracing::debug!(%full, "no template");
                // Nor has the kernel the one before any more.
                self.remove_template(exec.program, now);
            }
        }
    }

    /// What rows describe of an image's code, by its start.
    fn code_of(&self, image: &Image) -> Vec<TemplateCode> {
        let code = image.mappings.live().filter_map(|mapping| {
            let built = mapping.object.built()?;
            let summary = built.unwind.as_ref().ok()?;
            let bias = built.segments.bias(mapping.start, mapping.file_offset)?;
            let covered = summary.covered(mapping.start, mapping.end, bias)?;
            let is_installed = matches!(self.tables.state(&summary.content), Some(TableState::Installed(_)));
            is_installed.then_some(TemplateCode {
                start: covered.start,
                end: covered.end,
                bias,
                content: summary.content,
            })
        });
        code.collect()
    }

    fn remove_template(&mut self, program: FileKey, now: Now) {
        self.walker.remove_template(program);
        if let Some(known) = self.templates.by_program.remove(&program) {
            self.tables.exchange(&known.tables, &[], now.monotonic_ns);
        }
    }

    /// Ends templates that nothing used for long, and those that do not fit any more: a library was replaced, or the
    /// program's inode is another file's.
    pub(super) fn prune_templates(&mut self, now: Now) {
        let is_over = |known: &Known| {
            known.failures >= MAX_FAILURES
                || now.monotonic_ns.saturating_sub(known.used_ns) >= LIFETIME.as_nanos() as u64
        };
        let over = self.templates.by_program.iter().filter(|(_, known)| is_over(known));
        for program in over.map(|(program, _)| *program).collect::<Vec<_>>() {
            self.remove_template(program, now);
        }
    }
}
