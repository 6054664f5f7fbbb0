//! The processes whose pages are kept, with the sums over them: a busy host has thousands, each with a few faults in every
//! window, so that no window may go over all of them for each.

use std::{
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap},
    time::SystemTime,
};

use profiler_profile::ProcessLabel;

use super::{GrowthProcess, pages::ProcessPages};

/// This share of what may be kept is freed beyond what has to be, so that not every fault looks for the largest process.
const SPARE_SHARE: usize = 16;

/// A process among all that ever were: its id, and when it started.
type Key = (u32, SystemTime);

fn key(label: &ProcessLabel) -> Key {
    (label.pid, label.start)
}

/// The processes, by the number of the program that each runs.
#[derive(Debug, Default)]
pub(super) struct Processes {
    by_image: BTreeMap<u64, ProcessPages>,
    images: HashMap<Key, u64>,
    ended: BTreeSet<(SystemTime, u64)>,
    pages: usize,
    touches: usize,
}

impl Processes {
    pub(super) fn by_image(&self) -> &BTreeMap<u64, ProcessPages> {
        &self.by_image
    }

    /// Pages of all.
    pub(super) fn pages(&self) -> usize {
        self.pages
    }

    /// Sums of touched pages of all.
    #[cfg(test)]
    pub(super) fn touches(&self) -> usize {
        self.touches
    }

    /// Enters a process that may be known, without the pages of a program that it ran before. False if it runs a later one
    /// by now.
    pub(super) fn enter(&mut self, process: &GrowthProcess) -> bool {
        match self.images.get(&key(&process.label)).copied() {
            Some(later) if later > process.image => return false,
            Some(earlier) if earlier < process.image => {
                self.remove(earlier);
            }
            Some(_) | None => {}
        }
        self.by_image
            .entry(process.image)
            .or_insert_with(|| ProcessPages::new(process));
        self.images.insert(key(&process.label), process.image);
        self.change(process.image, |pages| pages.update(process));
        true
    }

    /// Changes what is kept of a process, if it is known.
    pub(super) fn change<T>(&mut self, image: u64, change: impl FnOnce(&mut ProcessPages) -> T) -> Option<T> {
        let process = self.by_image.get_mut(&image)?;
        let before = (key(&process.process.label), process.ended);
        self.pages -= process.len();
        self.touches -= process.touched.len();
        let changed = change(process);
        self.pages += process.len();
        self.touches += process.touched.len();
        let after = (key(&process.process.label), process.ended);
        if before != after {
            self.forget(image, before);
            self.images.insert(after.0, image);
            self.ended.extend(after.1.map(|ended| (ended, image)));
        }
        Some(changed)
    }

    fn forget(&mut self, image: u64, (key, ended): (Key, Option<SystemTime>)) {
        if self.images.get(&key) == Some(&image) {
            self.images.remove(&key);
        }
        if let Some(ended) = ended {
            self.ended.remove(&(ended, image));
        }
    }

    pub(super) fn remove(&mut self, image: u64) -> Option<ProcessPages> {
        let process = self.by_image.remove(&image)?;
        self.pages -= process.len();
        self.touches -= process.touched.len();
        self.forget(image, (key(&process.process.label), process.ended));
        Some(process)
    }

    /// Removes the one that can be spared first: that which ended first, else that whose program is the oldest.
    pub(super) fn remove_oldest(&mut self) -> Option<ProcessPages> {
        let ended = self.ended.first().map(|(_, image)| *image);
        let image = ended.or_else(|| self.by_image.first_key_value().map(|(image, _)| *image))?;
        self.remove(image)
    }

    /// Drops those that ended, and touches, up to a time.
    pub(super) fn expire(&mut self, horizon: SystemTime) {
        while let Some((_, image)) = self.ended.first().copied().filter(|(ended, _)| *ended <= horizon) {
            self.remove(image);
        }
        for process in self.by_image.values_mut() {
            self.touches -= process.touched.len();
            process.forget_touches_before(horizon);
            self.touches += process.touched.len();
        }
    }

    /// Drops pages of those that have most if there are more than so many. Returns how many.
    pub(super) fn thin_to(&mut self, most: usize) -> u64 {
        if self.pages <= most {
            return 0;
        }
        let before = self.pages;
        let enough = most - most / SPARE_SHARE;
        let mut largest: BinaryHeap<(usize, u64)> = self.sizes(ProcessPages::len);
        while self.pages > enough
            && let Some((pages, image)) = largest.pop()
        {
            // One that has no finer level left cannot give way.
            if self.change(image, |process| process.thin_to(pages.saturating_sub(1))) > Some(0) {
                largest.extend(self.by_image.get(&image).map(|process| (process.len(), image)));
            }
        }
        (before - self.pages) as u64
    }

    /// Drops touches of those that have most if there are more than so many. Returns how many.
    pub(super) fn drop_touches_to(&mut self, most: usize) -> u64 {
        if self.touches <= most {
            return 0;
        }
        let before = self.touches;
        let enough = most - most / SPARE_SHARE;
        let mut longest = self.sizes(|process| process.touched.len());
        while self.touches > enough
            && let Some((_, image)) = longest.pop()
        {
            self.change(image, ProcessPages::drop_oldest_touches);
            longest.extend(self.by_image.get(&image).map(|process| (process.touched.len(), image)));
        }
        (before - self.touches) as u64
    }

    fn sizes(&self, size: impl Fn(&ProcessPages) -> usize) -> BinaryHeap<(usize, u64)> {
        let sizes = self.by_image.iter().map(|(image, process)| (size(process), *image));
        sizes.collect::<Vec<_>>().into()
    }
}
