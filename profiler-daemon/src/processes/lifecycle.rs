//! What lifecycle records do to images.
//!
//! In: records, mostly in the order of time. Out: images begun, ended and changed, and the set of those whose walker
//! entries may have to be written. Nothing is written and no file of a target is opened here.

use std::sync::Arc;

use super::{
    clock::Now,
    mappings::Mapping,
    objects::MappedObject,
    owner::Processes,
    process::{Identification, Image, ImageId, Program},
    scan::without_deleted_mark,
    walker_tables::WalkerTables,
};
use crate::kernel::records::{Lifecycle, LifecycleEvent, MapRecord, Pid};

/// Mappings followed of a process of which nobody knows yet whether it is to be watched.
const MAX_UNDECIDED_MAPPINGS: usize = 256;
/// Longest path of a mapping that is kept (`PATH_MAX`).
const MAX_PATH_BYTES: usize = 4096;
/// Looks at a process for the interpreters that it may have mapped; a name alone makes no interpreter.
const MAX_INTERPRETER_LOOKS: u8 = 4;
/// How long what a program is is taken to be true without looking again: nothing holds its inode.
const PROGRAM_LIFETIME_NS: u64 = 60_000_000_000;

impl<T: WalkerTables> Processes<T> {
    /// Takes a record. What follows for the walker is done by the next [`Self::poll`], once for all records of a batch.
    pub fn on_lifecycle(&mut self, record: &Lifecycle, now: Now) {
        self.tallies.records += 1;
        let time_ns = record.time_ns;
        match &record.event {
            LifecycleEvent::Fork { pid, parent } => self.on_fork(time_ns, *pid, *parent, now),
            LifecycleEvent::Thread { pid } => {
                if let Some(image) = self.image_at_mut(*pid, time_ns) {
                    image.is_alone = false;
                }
            }
            LifecycleEvent::Exec { pid, name } => self.on_exec(time_ns, *pid, name, now),
            LifecycleEvent::Rename { pid, tid, name } => {
                if *tid == pid.0
                    && let Some(image) = self.image_at_mut(*pid, time_ns)
                    && image.name.as_bytes() != name.as_slice()
                {
                    image.name = String::from_utf8_lossy(name).into();
                }
            }
            LifecycleEvent::Exit { pid } => self.on_exit(time_ns, *pid, now),
            LifecycleEvent::Map { pid, mapping } => self.on_map(time_ns, *pid, mapping, now),
            LifecycleEvent::Lost { count } => {
                self.tallies.lost_records += count;
                self.repair_due = true;
            }
        }
    }

    fn on_fork(&mut self, time_ns: u64, pid: Pid, parent: Pid, now: Now) {
        let mut until_ns = u64::MAX;
        if let Some(existing) = self.running(pid) {
            if existing.scanned_ns > time_ns {
                // It was found by a scan after this: what the record tells is known.
                return;
            }
            if existing.from_ns > time_ns {
                // Its exec was heard of first; this is what ran before it.
                until_ns = existing.from_ns;
            } else {
                // The id belongs to a new process: the exit of the old one was missed.
                let id = existing.id;
                self.end_image(id, time_ns, now);
            }
        }
        if let Some(parent) = self.image_at_mut(parent, time_ns) {
            parent.shares_pages = true;
        }
        let Some(parent) = self.image_at(parent, time_ns).filter(|parent| parent.tracked) else {
            return;
        };
        let start = self.clock.of_monotonic(time_ns);
        let mut child = Image::new(ImageId(0), pid, time_ns, start, b"");
        child.name = Arc::clone(&parent.name);
        child.to_ns = until_ns;
        child.program = parent.program.clone();
        child.marks = parent.marks;
        child.identification = match &parent.identification {
            Identification::Known(identity) => Identification::Known(Arc::clone(identity)),
            _ => Identification::NotAsked,
        };
        child.mappings = match parent.mappings.last_change(u64::MAX) <= time_ns {
            true => Arc::clone(&parent.mappings),
            false => Arc::new(parent.mappings.as_of(time_ns)),
        };
        child.tracked = true;
        child.is_alone = true;
        child.shares_pages = true;
        child.python = parent.python.of_fork();
        child.interpreter_looks = parent.interpreter_looks;
        child.maps_truncated = parent.maps_truncated;
        child.lists = parent.lists.clone();
        // A list that the parent still waits for is the child's to read for itself.
        child.tracked &= !parent.awaits_list;
        // A request is for the process that it names; what was discovered is true of its children as well.
        child.watch.discovered = parent.watch.discovered;
        child.walker.has_entry = parent.walker.has_entry;
        // The kernel copied the entry that it had at that time, which need not be the one written last.
        child.walker.must_write = true;
        let is_outdated = child
            .identity()
            .is_some_and(|identity| !identity.is_named_by(&self.targets.services));
        let Some(id) = self.insert(child) else { return };
        if until_ns == u64::MAX {
            self.dirty.insert(id);
            if is_outdated {
                self.identify_again(id, now);
            }
            self.decide(id, now);
        } else {
            self.note_ended(id, now);
        }
    }

    fn on_exec(&mut self, time_ns: u64, pid: Pid, name: &[u8], now: Now) {
        let mut image = Image::new(ImageId(0), pid, time_ns, self.clock.of_monotonic(time_ns), name);
        image.tracked = true;
        image.executed = Some(self.clock.since_boot(time_ns));
        // Of the threads before, only the one that executes is left.
        image.is_alone = true;
        if let Some(old) = self.running(pid) {
            let id = old.id;
            if old.scanned_ns > time_ns || old.from_ns > time_ns {
                // It was found after this, with the program that it executed here.
                let found = self.images.get_mut(&id).filter(|found| found.from_ns <= time_ns);
                if let Some(found) = found {
                    found.executed = found.executed.max(image.executed);
                }
                return;
            }
            let entry = self.replace_image(id, time_ns, now);
            image.start = entry.start;
            image.start_ticks = entry.start_ticks;
            image.counts = entry.counts;
            image.watch = entry.watch;
            image.walker.has_entry = entry.has_entry;
            image.walker.must_write = true;
        }
        let Some(id) = self.insert(image) else { return };
        self.refresh_watch(id, now);
        // What else it is to be is seen when its program is mapped, which comes next.
        self.dirty.insert(id);
    }

    fn on_exit(&mut self, time_ns: u64, pid: Pid, now: Now) {
        let Some(image) = self.running(pid) else { return };
        if image.scanned_ns > time_ns || image.from_ns > time_ns {
            return;
        }
        let id = image.id;
        let concerns_us = image.walker.has_entry || image.watch.is_wanted();
        let may_run_on = !image.is_alone || self.repair_due;
        if concerns_us && may_run_on && self.runs_on(id, time_ns) {
            if let Some(image) = self.images.get_mut(&id) {
                image.leader_ended = true;
            }
            self.leaderless.insert(id);
        } else {
            self.end_image(id, time_ns, now);
        }
    }

    /// Whether a process whose first thread ended at a time runs on: in its other threads, or with another program that one
    /// of them has executed. That thread takes the first one's place, and the exec is told of next.
    pub(super) fn runs_on(&self, id: ImageId, ended_ns: u64) -> bool {
        let Some(image) = self.images.get(&id) else {
            return false;
        };
        let Ok(stat) = self.proc.stat(image.pid) else {
            return false;
        };
        if stat.zombie {
            // The ended thread counts itself until it is reaped.
            return stat.threads > 1;
        }
        // Else the id is another process's by now.
        match image.start_ticks {
            Some(ticks) => stat.start_ticks == ticks,
            None => self.clock.of_ticks(stat.start_ticks.saturating_add(1)) <= self.clock.of_monotonic(ended_ns),
        }
    }

    fn on_map(&mut self, time_ns: u64, pid: Pid, record: &MapRecord, now: Now) {
        let Some(image) = self.image_at(pid, time_ns) else {
            self.tallies.records_of_unknown += 1;
            return;
        };
        let (id, scanned_ns, is_tracked) = (image.id, image.scanned_ns, image.tracked);
        // A look at the process, also one under way, may have come before its interpreter. What was seen of other
        // processes of its program does not tell its service.
        let is_python = image.identity().is_some_and(|identity| identity.marks.python);
        let has_looks = image.interpreter_looks < MAX_INTERPRETER_LOOKS;
        if !is_python && has_looks && image.is_running() && is_interpreter_library(&record.path) {
            if let Some(image) = self.images.get_mut(&id) {
                image.interpreter_looks += 1;
            }
            self.identify_again(id, now);
        }
        let Some(image) = self.images.get(&id).filter(|_| is_tracked) else {
            return;
        };
        if time_ns < scanned_ns || record.path.len() > MAX_PATH_BYTES {
            return;
        }
        let is_first = image.mappings.live().len() == 0 && !image.awaits_list;
        let is_program = image.program.is_none() && image.from_ns > 0 && is_first;
        let Some(object) = self.objects.find(record, now.monotonic_ns) else {
            return;
        };
        let changed = self
            .images
            .get_mut(&id)
            .is_some_and(|image| Arc::make_mut(&mut image.mappings).insert(mapping(record, object, time_ns)));
        self.bound_undecided(id);
        if changed {
            self.dirty.insert(id);
        }
        if is_program {
            self.note_program(id, record, now);
        } else if changed && self.watched.contains(&id) {
            self.request_builds(id);
        }
    }

    /// Stops following the mappings of an image that may never be watched when there are many. They are read from `/proc`
    /// if it is.
    fn bound_undecided(&mut self, id: ImageId) {
        let Some(image) = self
            .images
            .get_mut(&id)
            .filter(|image| image.undecided && !image.watch.is_wanted())
        else {
            return;
        };
        if image.mappings.live().len() > MAX_UNDECIDED_MAPPINGS && !image.may_be_sampled() {
            image.tracked = false;
            image.mappings = Arc::default();
        }
    }

    /// Notes which program an image runs, and decides at once if the program is known.
    fn note_program(&mut self, id: ImageId, record: &MapRecord, now: Now) {
        if let Some(key) = record.device_inode {
            let path = without_deleted_mark(&record.path);
            let remembered = self.programs.get(&key).filter(|known| {
                *known.path == *path && now.monotonic_ns.saturating_sub(known.seen_ns) < PROGRAM_LIFETIME_NS
            });
            let is_entered = self.templates.has_program(key);
            // Only of a program whose path `/proc` tells as the record does: that of one in a chroot differs, and it is the
            // one in `/proc` that patterns of targets name.
            let marks = remembered.map(|known| known.marks);
            if let Some(image) = self.images.get_mut(&id) {
                image.program = Some(Program {
                    device_inode: key,
                    path: path.into(),
                });
                image.marks = marks;
                image.walker.has_entry |= is_entered;
            }
        }
        self.decide(id, now);
    }
}

pub(super) fn mapping(record: &MapRecord, object: Arc<MappedObject>, from_ns: u64) -> Mapping {
    // The kernel gives special mappings offsets that mean nothing.
    let file_offset = if record.path.starts_with(b"[") {
        0
    } else {
        record.file_offset
    };
    let end = record.start.saturating_add(record.length);
    Mapping::new(record.start, end, file_offset, object, from_ns)
}

/// Whether a library may hold a Python interpreter, by its name: worth a look, which decides.
fn is_interpreter_library(path: &[u8]) -> bool {
    path.rsplit(|&byte| byte == b'/')
        .next()
        .is_some_and(|base| base.starts_with(b"libpython"))
}
