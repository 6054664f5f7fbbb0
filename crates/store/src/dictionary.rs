//! What the windows of some minutes have in common: names, processes and the tree of their stacks.
//!
//! Most stacks of a window were in the one before, and most of the others share their beginnings. Kept as places in one
//! tree, a stack costs a window one number.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use indexmap::IndexSet;
use profiler_profile::{Frame, ProcessLabel};

/// The place of a stack without frames, above all roots.
pub(crate) const ABOVE_ROOTS: u32 = u32::MAX;

/// What an allocator adds to a block, and the counts of an `Arc`.
const SHARED_STRING_BYTES: usize = 32;
/// Hash and slot of an entry in an index table.
const INDEX_BYTES: usize = 16;
/// Slot of an entry in a hash table, for what is free in it too.
const SLOT_BYTES: usize = 16;

/// A place in the tree of stacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Node {
    /// The caller's place, which comes earlier in the table; [`ABOVE_ROOTS`] if there is none.
    caller: u32,
    frame: u32,
}

/// Tables that windows refer to by index. Entries are only added.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dictionary {
    pub(crate) frames: IndexSet<Frame>,
    pub(crate) processes: IndexSet<ProcessLabel>,
    pub(crate) threads: IndexSet<Arc<str>>,
    pub(crate) reasons: IndexSet<Box<str>>,
    nodes: Vec<Node>,
    /// Where to find a node. Empty once the dictionary is sealed.
    node_index: HashMap<Node, u32>,
    /// Addresses of strings that are counted already. Empty once the dictionary is sealed.
    counted: HashSet<usize>,
    string_bytes: usize,
}

impl Dictionary {
    /// The index of a frame, which is added if it is new.
    pub(crate) fn frame(&mut self, frame: &Frame) -> u32 {
        if let Some(index) = self.frames.get_index_of(frame) {
            return index as u32;
        }
        for text in [&frame.function, &frame.module, &frame.file] {
            self.count_string(text);
        }
        self.frames.insert_full(frame.clone()).0 as u32
    }

    /// The index of a process, which is added if it is new.
    pub(crate) fn process(&mut self, process: &ProcessLabel) -> u32 {
        if let Some(index) = self.processes.get_index_of(process) {
            return index as u32;
        }
        for text in [&process.name, &process.service] {
            self.count_string(text);
        }
        self.processes.insert_full(process.clone()).0 as u32
    }

    /// The index of a thread's name, which is added if it is new.
    pub(crate) fn thread(&mut self, thread: &Arc<str>) -> u32 {
        if let Some(index) = self.threads.get_index_of(thread) {
            return index as u32;
        }
        self.count_string(thread);
        self.threads.insert_full(Arc::clone(thread)).0 as u32
    }

    /// The index of a reason, which is added if it is new.
    pub(crate) fn reason(&mut self, reason: &str) -> u32 {
        if let Some(index) = self.reasons.get_index_of(reason) {
            return index as u32;
        }
        self.string_bytes += reason.len() + SHARED_STRING_BYTES;
        self.reasons.insert_full(reason.into()).0 as u32
    }

    /// The place of a stack, whose frames are given root first.
    pub(crate) fn stack(&mut self, frames: impl Iterator<Item = u32>) -> u32 {
        let mut place = ABOVE_ROOTS;
        for frame in frames {
            let node = Node { caller: place, frame };
            place = *self.node_index.entry(node).or_insert_with(|| {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            });
        }
        place
    }

    /// The frames of a stack, innermost first.
    pub(crate) fn frames_of(&self, place: u32) -> impl Iterator<Item = u32> {
        let node = |place: u32| self.nodes.get(place as usize).copied();
        std::iter::successors(node(place), move |inner| node(inner.caller)).map(|node| node.frame)
    }

    /// Gives back what only adding needs.
    pub(crate) fn seal(&mut self) {
        self.node_index = HashMap::new();
        self.counted = HashSet::new();
        self.frames.shrink_to_fit();
        self.processes.shrink_to_fit();
        self.threads.shrink_to_fit();
        self.reasons.shrink_to_fit();
        self.nodes.shrink_to_fit();
    }

    /// An estimate of the memory that all this takes.
    pub(crate) fn bytes(&self) -> usize {
        self.string_bytes
            + self.frames.len() * (size_of::<Frame>() + INDEX_BYTES)
            + self.processes.len() * (size_of::<ProcessLabel>() + INDEX_BYTES)
            + (self.threads.len() + self.reasons.len()) * (size_of::<Arc<str>>() + INDEX_BYTES)
            + self.nodes.len() * size_of::<Node>()
            + self.node_index.len() * (size_of::<(Node, u32)>() + SLOT_BYTES)
            + self.counted.len() * (size_of::<usize>() + SLOT_BYTES)
    }

    /// A string counts once, however many entries share it.
    fn count_string(&mut self, text: &Arc<str>) {
        if self.counted.insert(text.as_ptr() as usize) {
            self.string_bytes += text.len() + SHARED_STRING_BYTES;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_share_their_beginnings() {
        let mut dictionary = Dictionary::default();
        let long = dictionary.stack([1, 2, 3].into_iter());
        let short = dictionary.stack([1, 2].into_iter());
        let other = dictionary.stack([2, 3].into_iter());
        assert_eq!(dictionary.nodes.len(), 5);
        assert_eq!(dictionary.stack([1, 2, 3].into_iter()), long);
        for sealed in [false, true] {
            if sealed {
                dictionary.seal();
            }
            let frames = |place| dictionary.frames_of(place).collect::<Vec<_>>();
            assert_eq!(
                (frames(long), frames(short), frames(other)),
                (vec![3, 2, 1], vec![2, 1], vec![3, 2])
            );
            assert!(frames(ABOVE_ROOTS).is_empty());
        }
    }

    #[test]
    fn a_shared_string_counts_once() {
        let mut dictionary = Dictionary::default();
        let name: Arc<str> = "x".repeat(1000).into();
        dictionary.thread(&name);
        let one = dictionary.bytes();
        dictionary.process(&ProcessLabel {
            pid: 1,
            start: std::time::SystemTime::UNIX_EPOCH,
            name: Arc::clone(&name),
            service: Arc::clone(&name),
        });
        assert!(one > 1000 && dictionary.bytes() < one + 500);
    }
}
