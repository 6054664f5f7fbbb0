//! The executable mappings of one program over time.
//!
//! In: mappings with the time from which they hold, not always in order. Out: the mapping that held an address at a time,
//! and the mappings that hold now. A mapping replaces what it overlaps from its time on, as `mmap` does; the kernel does
//! not report what is unmapped and not replaced, so that stays. Bounded in number and in age.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use profiler_common::limits::MAX_MAPPINGS_PER_PROCESS;

use super::objects::MappedObject;

/// Mappings that no longer hold and are still remembered.
const MAX_PAST: usize = 1024;
/// Times of changes that are told apart.
const MAX_CHANGES: usize = 4096;

/// An executable mapping.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// First runtime address.
    pub start: u64,
    /// Runtime address after the last.
    pub end: u64,
    /// Offset in the file of the byte at `start`.
    pub file_offset: u64,
    /// What is mapped.
    pub object: Arc<MappedObject>,
    /// When it came to be: `CLOCK_MONOTONIC` in nanoseconds, 0 if before the daemon looked.
    pub from_ns: u64,
    /// When it was last told to hold.
    affirmed_ns: u64,
}

impl Mapping {
    /// A mapping that came to be at a time.
    pub fn new(start: u64, end: u64, file_offset: u64, object: Arc<MappedObject>, from_ns: u64) -> Self {
        Self {
            start,
            end,
            file_offset,
            object,
            from_ns,
            affirmed_ns: from_ns,
        }
    }

    fn contains(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// The part of it from `start` to `end`, which lie within.
    fn part(&self, start: u64, end: u64) -> Self {
        Self {
            start,
            end,
            file_offset: self.file_offset.wrapping_add(start - self.start),
            object: Arc::clone(&self.object),
            from_ns: self.from_ns,
            affirmed_ns: self.affirmed_ns,
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        (self.start, self.end, self.file_offset) == (other.start, other.end, other.file_offset)
            && Arc::ptr_eq(&self.object, &other.object)
    }
}

/// A mapping with the time at which it was replaced; [`u64::MAX`] if it holds.
#[derive(Clone, Debug)]
struct Span {
    mapping: Mapping,
    to_ns: u64,
}

/// The executable mappings of one program over time.
#[derive(Clone, Debug, Default)]
pub struct MappingHistory {
    /// Those that hold now, by their start; disjoint.
    live: BTreeMap<u64, Mapping>,
    /// Those that were replaced, in the order in which that was learnt.
    past: VecDeque<Span>,
    /// When anything changed, ascending.
    changes: Vec<u64>,
    left_out: u64,
}

impl MappingHistory {
    /// Adds a mapping that holds from its `from_ns` on, until one that is known to be newer. Returns whether anything
    /// changed.
    pub fn insert(&mut self, mapping: Mapping) -> bool {
        if mapping.start >= mapping.end {
            return false;
        }
        let known = self.live.get_mut(&mapping.start);
        if let Some(known) = known.filter(|known| known.is_same(&mapping) && known.from_ns <= mapping.from_ns) {
            known.affirmed_ns = known.affirmed_ns.max(mapping.affirmed_ns);
            return false;
        }
        let time_ns = mapping.from_ns;
        let overlapped = self.take_overlapping(mapping.start, mapping.end, time_ns);
        let mut borders: Vec<u64> = vec![mapping.start, mapping.end];
        for span in &overlapped {
            borders.extend([span.mapping.start, span.mapping.end]);
        }
        borders.sort_unstable();
        borders.dedup();
        for piece in borders.windows(2) {
            let (start, end) = (piece[0], piece[1]);
            let mut holds_until = u64::MAX;
            let is_covered = mapping.contains(start);
            for span in overlapped.iter().filter(|span| span.mapping.contains(start)) {
                let part = span.mapping.part(start, end);
                if !is_covered {
                    self.put_back(part, span.to_ns);
                } else if part.from_ns > time_ns {
                    holds_until = holds_until.min(part.from_ns);
                    self.put_back(part, span.to_ns);
                } else {
                    // What was told to hold once more came back after what is new here.
                    if part.affirmed_ns > time_ns && part.affirmed_ns < span.to_ns {
                        holds_until = holds_until.min(part.affirmed_ns);
                        let back = Mapping {
                            from_ns: part.affirmed_ns,
                            ..part.clone()
                        };
                        self.note_change(part.affirmed_ns);
                        self.put_back(back, span.to_ns);
                    }
                    self.put_back(part, time_ns);
                }
            }
            if is_covered {
                self.put_back(mapping.part(start, end), holds_until);
            }
        }
        self.note_change(time_ns);
        self.enforce_bounds(time_ns);
        true
    }

    /// Makes `mappings` the ones that hold, as a scan found them that was complete at `complete_ns`. What is not among them
    /// and is no newer held until `now_ns`; what is new holds from its own `from_ns`, or from when what was there before
    /// ended.
    pub fn replace(&mut self, mappings: Vec<Mapping>, complete_ns: u64, now_ns: u64) -> bool {
        let found: BTreeMap<u64, &Mapping> = mappings.iter().map(|mapping| (mapping.start, mapping)).collect();
        let missing: Vec<u64> = self
            .live
            .values()
            .filter(|live| live.from_ns <= complete_ns)
            .filter(|live| !found.get(&live.start).is_some_and(|found| found.is_same(live)))
            .map(|live| live.start)
            .collect();
        let mut changed = !missing.is_empty();
        for start in missing {
            if let Some(mapping) = self.live.remove(&start) {
                self.retire(mapping, now_ns);
            }
        }
        if changed {
            self.note_change(now_ns);
        }
        for mut mapping in mappings {
            // What was there before held until the scan at least.
            let before = self
                .past
                .iter()
                .filter(|span| span.mapping.overlaps(&mapping))
                .map(|span| span.to_ns);
            mapping.from_ns = before.fold(mapping.from_ns, u64::max);
            mapping.affirmed_ns = mapping.from_ns;
            changed |= self.insert(mapping);
        }
        changed
    }

    /// The mapping that held an address at a time.
    pub fn lookup(&self, address: u64, time_ns: u64) -> Option<&Mapping> {
        let live = self.live.range(..=address).next_back().map(|(_, mapping)| mapping);
        if let Some(mapping) = live.filter(|mapping| mapping.contains(address) && mapping.from_ns <= time_ns) {
            return Some(mapping);
        }
        let held =
            |span: &&Span| span.mapping.contains(address) && (span.mapping.from_ns..span.to_ns).contains(&time_ns);
        self.past.iter().rev().find(held).map(|span| &span.mapping)
    }

    /// The mappings that hold now, ascending.
    pub fn live(&self) -> impl ExactSizeIterator<Item = &Mapping> {
        self.live.values()
    }

    /// The time of the last change up to a time: the same addresses mean the same between two changes.
    pub fn last_change(&self, time_ns: u64) -> u64 {
        let after = self.changes.partition_point(|&change| change <= time_ns);
        after.checked_sub(1).map_or(0, |index| self.changes[index])
    }

    /// Mappings left out because there were too many.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Sets how many mappings a scan left out.
    pub fn set_left_out(&mut self, left_out: u64) {
        self.left_out = left_out;
    }

    /// The mappings that held at a time, as a history that begins with them.
    pub fn as_of(&self, time_ns: u64) -> Self {
        let live = self.live.values().filter(|mapping| mapping.from_ns <= time_ns);
        let held = |span: &&Span| (span.mapping.from_ns..span.to_ns).contains(&time_ns);
        let past = self.past.iter().filter(held).map(|span| &span.mapping);
        let live = live
            .chain(past)
            .map(|mapping| (mapping.start, mapping.clone()))
            .collect();
        Self {
            live,
            left_out: self.left_out,
            ..Self::default()
        }
    }

    /// Whether there is anything from before a time to forget.
    pub fn has_past_before(&self, time_ns: u64) -> bool {
        self.past.iter().any(|span| span.to_ns < time_ns) || self.changes.get(1).is_some_and(|&change| change < time_ns)
    }

    /// Forgets what was replaced before a time.
    pub fn forget_before(&mut self, time_ns: u64) {
        self.past.retain(|span| span.to_ns >= time_ns);
        // The last change before that time still tells what came after it from what came before.
        let kept_from = self
            .changes
            .partition_point(|&change| change < time_ns)
            .saturating_sub(1);
        self.changes.drain(..kept_from);
    }

    /// Removes all spans that overlap a range and still held at a time or came after it.
    fn take_overlapping(&mut self, start: u64, end: u64, time_ns: u64) -> Vec<Span> {
        let live: Vec<u64> = self
            .live
            .range(..end)
            .rev()
            .take_while(|(_, mapping)| mapping.end > start)
            .map(|(&start, _)| start)
            .collect();
        let mut overlapped: Vec<Span> = live
            .into_iter()
            .filter_map(|start| self.live.remove(&start))
            .map(|mapping| Span {
                mapping,
                to_ns: u64::MAX,
            })
            .collect();
        let overlaps = |span: &Span| span.mapping.start < end && span.mapping.end > start && span.to_ns > time_ns;
        if self.past.iter().any(overlaps) {
            let (inside, outside) = self.past.drain(..).partition::<Vec<_>, _>(overlaps);
            self.past.extend(outside);
            overlapped.extend(inside);
        }
        overlapped
    }

    fn put_back(&mut self, mapping: Mapping, to_ns: u64) {
        if to_ns == u64::MAX {
            self.live.insert(mapping.start, mapping);
        } else {
            self.retire(mapping, to_ns);
        }
    }

    fn retire(&mut self, mapping: Mapping, to_ns: u64) {
        if mapping.from_ns < to_ns {
            self.past.push_back(Span { mapping, to_ns });
        }
    }

    fn note_change(&mut self, time_ns: u64) {
        if let Err(place) = self.changes.binary_search(&time_ns) {
            self.changes.insert(place, time_ns);
        }
        if self.changes.len() > MAX_CHANGES {
            self.changes.drain(..MAX_CHANGES / 2);
        }
    }

    fn enforce_bounds(&mut self, time_ns: u64) {
        while self.live.len() > MAX_MAPPINGS_PER_PROCESS as usize {
            if let Some((_, mapping)) = self.live.pop_last() {
                self.retire(mapping, time_ns);
                self.left_out += 1;
            }
        }
        let surplus = self.past.len().saturating_sub(MAX_PAST);
        self.past.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn object(name: &str) -> Arc<MappedObject> {
        Arc::new(MappedObject::anonymous(name))
    }

    fn mapping(object: &Arc<MappedObject>, start: u64, end: u64, from_ns: u64) -> Mapping {
        Mapping::new(start, end, start, Arc::clone(object), from_ns)
    }

    fn name_at(history: &MappingHistory, address: u64, time_ns: u64) -> Option<&str> {
        history.lookup(address, time_ns).map(|mapping| &*mapping.object.name)
    }

    #[test]
    fn a_mapping_replaces_what_it_overlaps() {
        let mut history = MappingHistory::default();
        let (a, b) = (object("a"), object("b"));
        assert!(history.insert(mapping(&a, 10, 40, 100)));
        assert!(history.insert(mapping(&b, 20, 30, 200)));
        assert!(!history.insert(mapping(&b, 20, 30, 300)), "the same again is no change");
        for (address, time, expected) in [
            (15, 99, None),
            (15, 100, Some("a")),
            (25, 199, Some("a")),
            (25, 200, Some("b")),
            (35, 999, Some("a")),
            (9, 999, None),
            (40, 999, None),
        ] {
            assert_eq!(name_at(&history, address, time), expected, "{address} at {time}");
        }
        let offsets: Vec<_> = history
            .live()
            .map(|part| (part.start, part.end, part.file_offset))
            .collect();
        assert_eq!(offsets, [(10, 20, 10), (20, 30, 20), (30, 40, 30)]);
    }

    #[test]
    fn a_late_mapping_holds_until_the_newer_one() {
        let mut history = MappingHistory::default();
        let (a, b, c) = (object("a"), object("b"), object("c"));
        history.insert(mapping(&a, 10, 30, 100));
        history.insert(mapping(&c, 20, 30, 300));
        history.insert(mapping(&b, 10, 30, 200));
        for (address, time, expected) in [
            (25, 150, "a"),
            (25, 250, "b"),
            (25, 300, "c"),
            (15, 150, "a"),
            (15, 250, "b"),
            (15, 400, "b"),
        ] {
            assert_eq!(name_at(&history, address, time), Some(expected), "{address} at {time}");
        }
    }

    #[test]
    fn a_scan_replaces_all() {
        let mut history = MappingHistory::default();
        let (a, b, c) = (object("a"), object("b"), object("c"));
        history.insert(mapping(&a, 10, 20, 100));
        history.insert(mapping(&b, 30, 40, 100));
        assert!(!history.replace(vec![mapping(&a, 10, 20, 200), mapping(&b, 30, 40, 200)], 300, 300));
        assert!(history.replace(vec![mapping(&a, 10, 20, 200), mapping(&c, 30, 45, 200)], 300, 300));
        assert_eq!(name_at(&history, 35, 150), Some("b"));
        assert_eq!(name_at(&history, 35, 350), Some("c"));
        assert_eq!(name_at(&history, 15, 100), Some("a"), "what stayed keeps its time");
        assert!(history.replace(Vec::new(), 400, 400));
        assert_eq!(history.live().len(), 0);
        assert_eq!(name_at(&history, 35, 350), Some("c"));
    }

    #[test]
    fn bounded_in_number_and_age() {
        let mut history = MappingHistory::default();
        let a = object("a");
        let max = u64::from(MAX_MAPPINGS_PER_PROCESS);
        for number in (0..60_000).rev() {
            history.insert(mapping(&a, number * 10, number * 10 + 5, 60_000 - number));
        }
        assert_eq!(history.live().len() as u64, max);
        assert!(history.live().all(|kept| kept.start < max * 10), "the lowest are kept");
        assert_eq!(history.left_out(), 60_000 - max);
        assert!(history.past.len() <= MAX_PAST && history.changes.len() <= MAX_CHANGES);
        let b = object("b");
        for time in 100_000..110_000 {
            history.insert(mapping(if time % 2 == 0 { &a } else { &b }, 0, 5, time));
        }
        assert!(history.past.len() <= MAX_PAST && history.changes.len() <= MAX_CHANGES);
        assert_eq!(name_at(&history, 1, 109_998), Some("a"));
        history.forget_before(109_999);
        assert_eq!(history.past.len(), 1);
        assert_eq!(name_at(&history, 1, 109_998), Some("a"));
        assert_eq!(name_at(&history, 1, 109_997), None);
        assert_eq!(history.last_change(109_998), 109_998);
    }

    /// Of all mappings over an address up to a time, the latest holds; among equals the last to be told.
    fn model(events: &[(u64, u64, u64, usize)], address: u64, time: u64) -> Option<usize> {
        let over = |&&(start, length, from, _): &&(u64, u64, u64, usize)| {
            (start..start + length).contains(&address) && from <= time
        };
        events
            .iter()
            .filter(over)
            .max_by_key(|event| event.2)
            .map(|event| event.3)
    }

    fn events() -> impl Strategy<Value = Vec<(u64, u64, u64, usize)>> {
        prop::collection::vec((0_u64..12, 1_u64..6, 0_u64..10, 0_usize..3), 0..24)
    }

    fn history_of(events: &[(u64, u64, u64, usize)], objects: &[Arc<MappedObject>]) -> MappingHistory {
        let mut history = MappingHistory::default();
        for &(start, length, time, which) in events {
            history.insert(mapping(&objects[which], start, start + length, time));
        }
        history
    }

    proptest! {
        #[test]
        fn lookup_equals_a_simple_model(mut events in events()) {
            for (number, event) in events.iter_mut().enumerate() {
                event.3 = number;
            }
            let objects: Vec<_> = (0..events.len()).map(|number| object(&number.to_string())).collect();
            let history = history_of(&events, &objects);
            for time in 0..12 {
                let then = history.as_of(time);
                for address in 0..20 {
                    prop_assert_eq!(name_at(&then, address, time), name_at(&history, address, time));
                    let expected = model(&events, address, time).map(|number| &*objects[number].name);
                    prop_assert_eq!(name_at(&history, address, time), expected, "{} at {}", address, time);
                }
            }
        }

        /// However often a mapping comes back and in whatever order that is told, what holds in the end is right.
        #[test]
        fn what_holds_in_the_end_equals_the_model(events in events()) {
            let objects = [object("a"), object("b"), object("c")];
            let history = history_of(&events, &objects);
            let mut end = 0;
            for live in history.live() {
                prop_assert!(live.start >= end && live.end > live.start, "sorted and disjoint");
                end = live.end;
            }
            for address in 0..20 {
                let expected = model(&events, address, 99).map(|which| &*objects[which].name);
                prop_assert_eq!(name_at(&history, address, 99), expected, "{}", address);
            }
        }

        #[test]
        fn equal_last_changes_mean_equal_mappings(events in events()) {
            let objects = [object("a"), object("b"), object("c")];
            let history = history_of(&events, &objects);
            for time in 0..11 {
                if history.last_change(time) == history.last_change(time + 1) {
                    for address in 0..20 {
                        prop_assert_eq!(name_at(&history, address, time), name_at(&history, address, time + 1));
                    }
                }
            }
        }
    }
}
