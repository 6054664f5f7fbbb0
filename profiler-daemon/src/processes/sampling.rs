//! What samples ask of the owner: which image they belong to, and what an address in it is.

use profiler_profile::ProcessLabel;

use super::{
    owner::Processes,
    process::{Image, ImageId},
    walker_tables::WalkerTables,
};
use crate::{kernel::records::Pid, stacks::window::Location};

/// Processes noted between two polls because they were sampled and should not be.
const MAX_STRAYS: usize = 1024;

/// How long a process can still be sampled after it told of its end.
const ENDING_NS: u64 = 1_000_000_000;

/// Which program a sample belongs to, and since when its mappings are as they were at the sample's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The image.
    pub image: ImageId,
    /// Time of the last change of its mappings up to the sample's.
    pub changed_ns: u64,
}

/// A place in code, and whether the frame above it was interrupted there rather than called from there.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The place.
    pub location: Location,
    /// It is a signal trampoline: the next frame is the one that the signal struck.
    pub is_signal_frame: bool,
}

impl<T: WalkerTables> Processes<T> {
    /// Counts a sample for the process that had this id at its time; `None` if no such process is known.
    pub fn count_sample(&mut self, pid: Pid, time_ns: u64, rooted: bool) -> Option<Stamp> {
        let stamp = self.stamp(pid, time_ns)?;
        if let Some(image) = self.image(stamp.image) {
            image.counts.add(rooted);
        }
        Some(stamp)
    }

    /// Which program a stack belongs to that was taken in a process at a time; `None` if no such process is known.
    pub fn stamp(&mut self, pid: Pid, time_ns: u64) -> Option<Stamp> {
        if !self.is_expected(pid) && self.strays.len() < MAX_STRAYS {
            self.strays.insert(pid);
        }
        let image = self.sampled_image(pid, time_ns)?;
        let (id, is_first) = (image.id, !image.was_sampled);
        if is_first {
            self.look_at_sampled(id);
        }
        let image = self.images.get_mut(&id)?;
        image.was_sampled = true;
        Some(Stamp {
            image: image.id,
            changed_ns: image.mappings.last_change(time_ns),
        })
    }

    /// Notes a sample taken while the kernel held the process's entry to be outdated. The kernel marks an entry at the end
    /// of an exec, when the records of the program and its mappings may already be taken and written: no further record
    /// need follow that would have the entry written again.
    pub fn note_outdated(&mut self, pid: Pid, time_ns: u64) {
        let Some(id) = self.running(pid).map(|image| image.id) else {
            return;
        };
        let image = self.images.get_mut(&id);
        if let Some(image) = image.filter(|image| image.walker.has_entry && image.from_ns <= time_ns) {
            image.walker.must_write = true;
            self.dirty.insert(id);
        }
    }

    /// The image that a process ran at a time, or, if that is over, the one that it ran last: a process that has told of its
    /// end still uses the CPU to give back its memory.
    pub(super) fn sampled_image(&mut self, pid: Pid, time_ns: u64) -> Option<&mut Image> {
        let of_process = self.by_pid.get(&pid)?.iter().rev();
        let last = of_process
            .filter_map(|id| self.images.get(id))
            .find(|image| image.from_ns <= time_ns)?;
        let id = last.id;
        let is_over = time_ns.saturating_sub(last.to_ns) > ENDING_NS;
        self.images.get_mut(&id).filter(|_| !is_over)
    }

    /// Whether the walker is to sample a process now.
    pub(super) fn is_expected(&self, pid: Pid) -> bool {
        self.running(pid).is_some_and(|image| image.walker.has_entry)
    }

    /// What profiles show of the process that had this id at a time, if it is known, and its start in ticks since boot, if that is.
    pub fn label_at(&self, pid: Pid, time_ns: u64) -> Option<(ProcessLabel, Option<u64>)> {
        self.image_at(pid, time_ns)
            .map(|image| (image.label(), image.start_ticks()))
    }

    /// An image that is known still.
    pub fn image(&self, id: ImageId) -> Option<&Image> {
        self.images.get(&id)
    }
}

impl Image {
    /// What lies at an address of the instruction itself (for a return address, the byte before) at a time.
    pub fn resolve(&self, runtime_address: u64, time_ns: u64) -> Resolved {
        let Some(mapping) = self.mappings.lookup(runtime_address, time_ns) else {
            return Resolved {
                location: Location::Unmapped { runtime_address },
                is_signal_frame: false,
            };
        };
        let (code, link_address) = mapping
            .object
            .place(mapping.start, mapping.file_offset, runtime_address);
        let is_signal_frame = mapping.object.built().is_some_and(|built| {
            built
                .unwind
                .as_ref()
                .is_ok_and(|summary| summary.is_signal_frame(link_address))
        });
        Resolved {
            location: Location::Object {
                object: code.clone(),
                link_address,
            },
            is_signal_frame,
        }
    }
}
