//! What of a sample's user stack is true: the walker may have known other mappings than the process had.
//!
//! In: samples, the mappings over time of the process that they are of, and which list of mappings each was walked with.
//! Out: how many of the frames were walked with the right rows. A list lags behind: a library that has taken the place of
//! another is walked with the other's rows until the daemon has heard of it. A list from a template is a guess.

use std::{collections::VecDeque, sync::Arc};

use profiler_common::{process::TEMPLATE_GENERATION, stop::StopReason};
use profiler_unwinding::ContentId;

use super::{
    mappings::Mapping,
    owner::Processes,
    process::{Image, ImageId},
    walker_tables::WalkerTables,
};
use crate::kernel::records::{MARKED_GENERATION, RawSample};

/// Lists remembered of a process: samples of earlier ones have left the rings long before.
const MAX_LISTS: usize = 16;

/// The lists of mappings that the walker was given for a process, the newest last.
#[derive(Clone, Debug, Default)]
pub(super) struct WrittenLists {
    /// Generation, and when the last change was that the list has.
    lists: VecDeque<(u32, u64)>,
}

impl WrittenLists {
    /// Notes a list that has all changes up to a time.
    pub(super) fn note(&mut self, generation: u32, changed_ns: u64) {
        if self.lists.len() >= MAX_LISTS {
            self.lists.pop_front();
        }
        self.lists.push_back((generation, changed_ns));
    }

    fn changed_ns(&self, generation: u32) -> Option<u64> {
        let mut newest_first = self.lists.iter().rev();
        newest_first.find(|list| list.0 == generation).map(|list| list.1)
    }
}

impl<T: WalkerTables> Processes<T> {
    /// How many frames of a sample's user stack are true, and why it ends there.
    pub fn verified(&mut self, sample: &RawSample<'_>) -> (usize, StopReason) {
        let frames = sample.user.len();
        // An entry that the kernel marked has no mappings: there is nothing but the innermost frame, nor of one that changed.
        let is_cut = sample.generation == MARKED_GENERATION || sample.stop == StopReason::TablesChanged;
        if frames == 0 || is_cut {
            return (frames, sample.stop);
        }
        let image = self.sampled_image(sample.pid, sample.time_ns).map(|image| image.id);
        if let (StopReason::PageNotLoaded, Some(id)) = (sample.stop, image) {
            self.note_missing_rows(id, sample);
        }
        let proven = match sample.generation & TEMPLATE_GENERATION {
            0 => image.map_or(frames, |id| self.proven_by_list(id, sample)),
            _ => self.proven_by_template(image, sample),
        };
        match proven == frames {
            true => (frames, sample.stop),
            // Where the first doubtful frame is was told by the frames before it; only what comes of it is not sure.
            false => (proven + 1, StopReason::Pending),
        }
    }

    /// For a stack that was walked with the process's own mappings as they were known then.
    fn proven_by_list(&self, id: ImageId, sample: &RawSample<'_>) -> usize {
        let frames = sample.user.len();
        let Some(image) = self.images.get(&id) else { return 0 };
        let Some(known_ns) = image.lists.changed_ns(sample.generation) else {
            // The list of the program before, or one of long ago.
            return 0;
        };
        if image.mappings().last_change(sample.time_ns) <= known_ns {
            return frames;
        }
        count_proven(sample, |address| {
            let now = image.mappings().lookup(address, sample.time_ns);
            let then = image.mappings().lookup(address, known_ns);
            let (Some(now), Some(then)) = (now, then) else {
                // The walker ends at what it does not know.
                return Some(false);
            };
            is_walked_alike(now, then, address).then(|| image.resolve(address, sample.time_ns).is_signal_frame)
        })
    }

    /// For a stack that was walked with the mappings of an earlier process.
    fn proven_by_template(&mut self, id: Option<ImageId>, sample: &RawSample<'_>) -> usize {
        let relocation = sample.relocation.unwrap_or_default();
        let proven = match (
            id.and_then(|id| self.images.get(&id)),
            self.templates.of_generation(sample.generation),
        ) {
            (Some(image), Some((_, template))) => count_proven(sample, |address| {
                template.verify(image, address, relocation.translate(address), sample.time_ns)
            }),
            _ => 0,
        };
        let image = id.and_then(|id| self.images.get(&id));
        let is_short = image.is_some_and(|image| is_mapped_at_end(image, sample));
        if let Some((_, template)) = self.templates.of_generation(sample.generation) {
            template.is_short |= is_short;
            template.failures = if proven > 0 { 0 } else { template.failures + 1 };
            template.used_ns = template.used_ns.max(sample.time_ns);
        }
        proven
    }
}

/// Whether a stack ends for want of a mapping where the process had one.
fn is_mapped_at_end(image: &Image, sample: &RawSample<'_>) -> bool {
    let Some(address) = sample.user.addresses().last() else {
        return false;
    };
    // A return address may lie behind the last instruction of its code.
    let mapping = image.mappings().lookup(address.wrapping_sub(1), sample.time_ns);
    sample.stop == StopReason::NoMapping && mapping.is_some()
}

/// How many frames from the innermost on are true. `verify` is given the address whose row was used, and says whether it was
/// the right one, and if so whether it lies in a signal trampoline.
fn count_proven(sample: &RawSample<'_>, verify: impl Fn(u64) -> Option<bool>) -> usize {
    let mut is_interrupted = true;
    for (index, address) in sample.user.addresses().enumerate() {
        let found = match is_interrupted {
            // The walker took the one or the other.
            true if sample.in_kernel => verify(address.wrapping_sub(1)).and(verify(address)),
            true => verify(address),
            false => verify(address.wrapping_sub(1)),
        };
        let Some(is_signal_frame) = found else { return index };
        is_interrupted = is_signal_frame;
    }
    sample.user.len()
}

/// Whether the walker goes on from an address in the same way with either mapping.
fn is_walked_alike(one: &Mapping, other: &Mapping, address: u64) -> bool {
    let place = |mapping: &Mapping| mapping.start.wrapping_sub(mapping.file_offset);
    if Arc::ptr_eq(&one.object, &other.object) && (one.object.built().is_none() || place(one) == place(other)) {
        return true;
    }
    let is_known = |mapping: &Mapping| !mapping.object.is_pending();
    is_known(one) && is_known(other) && rows_at(one, address) == rows_at(other, address)
}

/// Which rows an address is looked up in, and where; nothing where there are none.
fn rows_at(mapping: &Mapping, address: u64) -> Option<(ContentId, u64)> {
    let built = mapping.object.built()?;
    let summary = built.unwind.as_ref().ok()?;
    let bias = built.segments.bias(mapping.start, mapping.file_offset)?;
    Some((summary.content, address.wrapping_sub(bias)))
}

#[cfg(test)]
mod tests;
