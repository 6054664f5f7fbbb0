//! Writing the walker's entries: the list of mappings of each watched image, once for a batch of records, and only where it
//! has changed.

use profiler_unwinding::ContentId;

use super::{
    clock::Now,
    jobs::Job,
    mappings::Mapping,
    objects::ObjectKind,
    owner::Processes,
    process::ImageId,
    tables::TableState,
    walker_tables::{Backing, TableId, WalkerMapping, WalkerTables},
};

/// A list of mappings as the walker is to see them.
#[derive(Debug, Default)]
pub(super) struct List {
    pub(super) mappings: Vec<WalkerMapping>,
    /// Contents whose tables it uses.
    pub(super) tables: Vec<ContentId>,
    /// Objects whose rows have to be compiled again, those that were refused when their time has come.
    to_compile: Vec<(ContentId, Job)>,
    pub(super) is_waiting: bool,
}

impl<T: WalkerTables> Processes<T> {
    /// Writes all entries that may have changed.
    pub(super) fn write_dirty(&mut self, now: Now) {
        let mut dirty: Vec<ImageId> = self.dirty.drain().collect();
        dirty.sort_unstable();
        for id in dirty {
            self.write(id, now);
        }
    }

    /// Writes the entry of one image.
    pub(super) fn write(&mut self, id: ImageId, now: Now) {
        self.dirty.remove(&id);
        let Some(image) = self.images.get_mut(&id).filter(|image| image.is_running()) else {
            return;
        };
        let pid = image.pid;
        if image.awaits_list && self.watched.contains(&id) {
            // An entry without its mappings would only give wrong reasons.
            image.walker.is_waiting = true;
            return;
        }
        if !self.watched.contains(&id) {
            // While nobody knows what it is, an entry that the kernel marked as pending counts its samples.
            if image.walker.has_entry && !image.undecided {
                self.remove_entry(id, now);
            }
            return;
        }
        self.look_for_python(id);
        let list = self.compose(id);
        for (content, job) in list.to_compile {
            if self.tables.request(content, now.monotonic_ns) && !self.submit(job) {
                let reason = "too many files wait to be read".to_owned();
                self.tables.note_refused(content, reason, now.monotonic_ns);
            }
        }
        let Some(image) = self.images.get_mut(&id) else { return };
        image.walker.is_waiting = list.is_waiting;
        if list.mappings == image.walker.written
            && list.tables == image.walker.tables
            && image.walker.has_entry
            && !image.walker.must_write
        {
            return;
        }
        let generation = match self.walker.set_process(pid, &list.mappings, image.python.walk()) {
            Ok(generation) => generation,
            Err(full) => {
                self.remove_entry(id, now);
                self.refuse(id, full.to_string(), false, now);
                self.dirty.remove(&id);
                return;
            }
        };
        image.lists.note(generation, image.mappings.last_change(u64::MAX));
        self.tables
            .exchange(&image.walker.tables, &list.tables, now.monotonic_ns);
        image.walker.written = list.mappings;
        image.walker.tables = list.tables;
        image.walker.has_entry = true;
        image.walker.must_write = false;
        if !list.is_waiting {
            self.offer_template(id, now);
        }
    }

    fn remove_entry(&mut self, id: ImageId, now: Now) {
        let Some(image) = self.images.get_mut(&id) else { return };
        self.walker.remove_process(image.pid);
        image.was_in_walker = true;
        let walker = std::mem::take(&mut image.walker);
        self.tables.exchange(&walker.tables, &[], now.monotonic_ns);
    }

    /// The list of mappings of an image as it is now.
    pub(super) fn compose(&self, id: ImageId) -> List {
        let mut list = List::default();
        let Some(image) = self.images.get(&id) else { return list };
        list.mappings.reserve(image.mappings.live().len());
        for mapping in image.mappings.live() {
            self.add(&mut list, mapping);
        }
        list.tables.sort_unstable();
        list.tables.dedup();
        list
    }

    fn add(&self, list: &mut List, mapping: &Mapping) {
        let whole = |backing| WalkerMapping {
            start: mapping.start,
            end: mapping.end,
            bias: 0,
            backing,
        };
        let object = &mapping.object;
        if object.kind == ObjectKind::Uprobes {
            list.mappings.push(whole(Backing::Uprobes));
            return;
        }
        if object.is_pending() && object.delay().is_some() {
            list.mappings.push(whole(Backing::FramePointers));
            return;
        }
        if object.is_pending() {
            list.is_waiting = true;
            list.mappings.push(whole(Backing::Pending));
            return;
        }
        let rows = object.built().and_then(|built| {
            let summary = built.unwind.as_ref().ok()?;
            let bias = built.segments.bias(mapping.start, mapping.file_offset)?;
            let covered = summary.covered(mapping.start, mapping.end, bias)?;
            Some((summary.content, bias, covered))
        });
        let Some((content, bias, covered)) = rows else {
            list.mappings.push(whole(Backing::FramePointers));
            return;
        };
        match self.tables.state(&content) {
            Some(TableState::Installed(table)) => {
                list.tables.push(content);
                push_covered(&mut list.mappings, mapping, *table, bias, covered);
            }
            Some(TableState::Refused { .. }) => {
                // Counted as a user, so that its turn is not forgotten.
                list.tables.push(content);
                list.mappings.push(whole(Backing::FramePointers));
                list.to_compile.push((content, Job::Compile { object: object.clone() }));
            }
            Some(TableState::Requested) => {
                list.is_waiting = true;
                list.mappings.push(whole(Backing::Pending));
            }
            None => {
                list.is_waiting = true;
                list.mappings.push(whole(Backing::Pending));
                list.to_compile.push((content, Job::Compile { object: object.clone() }));
            }
        }
    }
}

/// Adds the part of a mapping that a table covers, and what lies before and after it as code without rows.
fn push_covered(
    mappings: &mut Vec<WalkerMapping>,
    mapping: &Mapping,
    table: TableId,
    bias: u64,
    covered: std::ops::Range<u64>,
) {
    let parts = [
        (mapping.start, covered.start, 0, Backing::FramePointers),
        (covered.start, covered.end, bias, Backing::Rows(table)),
        (covered.end, mapping.end, 0, Backing::FramePointers),
    ];
    for (start, end, bias, backing) in parts {
        if start < end {
            mappings.push(WalkerMapping {
                start,
                end,
                bias,
                backing,
            });
        }
    }
}
