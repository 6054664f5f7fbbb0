//! Frames of addresses that were named before.
//!
//! Two generations: what is used moves to the younger one, and when that has half of the room, the older one is dropped and
//! the younger grows old. So what was not used for a while goes, at no cost per use.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::Arc,
};

use profiler_symbolizer::Frame;

use crate::stacks::window::FileIdentity;

/// What tells objects apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ObjectKey {
    File(FileIdentity),
    Vdso,
}

/// The frames at an address, innermost first; empty if nothing names it.
pub(super) type Frames = Arc<[Frame]>;

/// What an entry of a hash table costs, beside key and value, in its own control bytes and in room to grow.
const TABLE_OVERHEAD: usize = 24;
/// Reference counts of an `Arc`.
const ARC_OVERHEAD: usize = 16;

/// Frames by object and link address, bounded in bytes.
#[derive(Debug)]
pub(super) struct FrameCache {
    young: Generation,
    old: Generation,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Generation {
    frames: HashMap<(ObjectKey, u64), Frames>,
    strings: HashSet<Arc<str>>,
    bytes: usize,
}

impl FrameCache {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            young: Generation::default(),
            old: Generation::default(),
            max_bytes,
        }
    }

    pub(super) fn get(&mut self, object: ObjectKey, link_address: u64) -> Option<Frames> {
        let key = (object, link_address);
        if let Some(frames) = self.young.frames.get(&key) {
            return Some(Arc::clone(frames));
        }
        let frames = self.old.frames.remove(&key)?;
        Some(self.insert(object, link_address, frames))
    }

    /// Keeps the frames of an address, and returns them with strings that are shared with others.
    pub(super) fn insert(&mut self, object: ObjectKey, link_address: u64, frames: Frames) -> Frames {
        if self.young.bytes > self.max_bytes / 2 {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert((object, link_address), frames)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.young.bytes + self.old.bytes
    }
}

impl Generation {
    fn insert(&mut self, key: (ObjectKey, u64), frames: Frames) -> Frames {
        let shared: Frames = frames.iter().map(|frame| self.share(frame)).collect();
        self.bytes += size_of_val(&key) + size_of::<Frames>() + TABLE_OVERHEAD + ARC_OVERHEAD + size_of_val(&*shared);
        self.frames.insert(key, Arc::clone(&shared));
        shared
    }

    fn share(&mut self, frame: &Frame) -> Frame {
        Frame {
            function: self.string(&frame.function),
            file: self.string(&frame.file),
            ..frame.clone()
        }
    }

    fn string(&mut self, text: &Arc<str>) -> Arc<str> {
        if let Some(known) = self.strings.get(text) {
            return Arc::clone(known);
        }
        self.bytes += text.len() + ARC_OVERHEAD + size_of::<Arc<str>>() + TABLE_OVERHEAD;
        self.strings.insert(Arc::clone(text));
        Arc::clone(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(name: &str) -> Frames {
        [Frame {
            function: name.into(),
            unnamed: false,
            file: "file.rs".into(),
            line: 1,
            inlined: false,
        }]
        .into()
    }

    #[test]
    fn strings_are_shared() {
        let mut cache = FrameCache::new(1 << 20);
        let first = cache.insert(ObjectKey::Vdso, 1, frames("f"));
        let second = cache.insert(ObjectKey::Vdso, 2, frames("f"));
        assert!(Arc::ptr_eq(&first[0].function, &second[0].function));
        assert!(Arc::ptr_eq(&first[0].file, &second[0].file));
    }

    #[test]
    fn what_is_used_stays_and_what_is_not_goes() {
        let mut cache = FrameCache::new(100_000);
        for address in 0..10_000 {
            cache.insert(ObjectKey::Vdso, address, frames(&format!("function {address}")));
            assert_eq!(&*cache.get(ObjectKey::Vdso, 0).unwrap()[0].function, "function 0");
            assert!(cache.memory_bytes() < 101_000, "{}", cache.memory_bytes());
        }
        assert!(cache.get(ObjectKey::Vdso, 1).is_none());
        assert_eq!(
            &*cache.get(ObjectKey::Vdso, 9_999).unwrap()[0].function,
            "function 9999"
        );
    }
}
