//! What a profile costs to keep.

use std::{collections::HashSet, mem::size_of, sync::Arc};

use crate::{Frame, ProcessLabel, Profile, Stack};

/// What an allocator adds to each block and rounds it up by, on average.
const BLOCK_BYTES: usize = 16;
/// Strong and weak count of an `Arc`.
const ARC_BYTES: usize = 16;
/// Hash and slot that an index table keeps beside each entry.
const INDEX_BYTES: usize = 8 + 5;

impl Profile {
    /// An estimate of the memory that the profile occupies.
    ///
    /// A string counts once however often this profile refers to it, and in full even if other profiles share it: a
    /// store of many profiles that adds these up is on the safe side.
    pub fn memory_bytes(&self) -> usize {
        let mut strings = Strings::default();
        for frame in &self.frames {
            strings.add(&frame.function);
            strings.add(&frame.module);
            strings.add(&frame.file);
        }
        for process in &self.processes {
            strings.add(&process.name);
            strings.add(&process.service);
        }
        for thread in &self.threads {
            strings.add(thread);
        }
        let stack_frames: usize = self
            .stacks
            .keys()
            .map(|stack| stack.frames.len() * size_of::<u32>() + BLOCK_BYTES)
            .sum();
        let reasons: usize = std::iter::once(&self.quality)
            .chain(self.process_quality.values())
            .flat_map(|quality| {
                let reasons = quality.stopped.keys().chain(quality.lost.keys());
                reasons.chain(quality.python.stopped.keys())
            })
            .map(|reason| reason.capacity() + BLOCK_BYTES + size_of::<(String, u64)>())
            .sum();
        size_of::<Self>()
            + strings.bytes
            + self.frames.capacity() * (size_of::<Frame>() + INDEX_BYTES)
            + self.processes.capacity() * (size_of::<ProcessLabel>() + INDEX_BYTES)
            + self.threads.capacity() * (size_of::<Arc<str>>() + INDEX_BYTES)
            + table_bytes(self.stacks.capacity(), size_of::<(Stack, u64)>())
            + stack_frames
            + table_bytes(self.process_quality.capacity(), size_of::<(u32, crate::Quality)>())
            + reasons
    }
}

/// A hash table's slots: a power of two, of which one in eight stays free, with a byte of its own each.
fn table_bytes(capacity: usize, entry_bytes: usize) -> usize {
    capacity.div_ceil(7) * 8 * (entry_bytes + 1)
}

#[derive(Default)]
struct Strings {
    seen: HashSet<*const u8>,
    bytes: usize,
}

impl Strings {
    fn add(&mut self, string: &Arc<str>) {
        if self.seen.insert(string.as_ptr()) {
            self.bytes += string.len() + ARC_BYTES + BLOCK_BYTES;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Frame, fixtures};

    #[test]
    fn what_is_added_is_counted() {
        let empty = fixtures::builder().build().memory_bytes();
        let mut builder = fixtures::builder();
        let (process, thread) = (fixtures::process("web", 1), "web".into());
        let long = Frame {
            function: "x".repeat(10_000).into(),
            ..fixtures::frame("main")
        };
        for _ in 0..100 {
            builder.add(&process, &thread, std::iter::repeat_n(long.clone(), 1_000), 1);
        }
        let one = builder.build().memory_bytes();
        // The name once, the stack once.
        assert!((empty + 14_000..empty + 16_000).contains(&one), "{empty} {one}");

        let mut builder = fixtures::builder();
        for number in 0..1_000 {
            let frames = (0..50).map(|depth| fixtures::frame(&format!("function_{number}_{depth}")));
            builder.add(&process, &thread, frames, 1);
        }
        let many = builder.build().memory_bytes();
        // 50,000 frames of their own, each with three strings and a place in a stack.
        assert!((50_000 * 150..50_000 * 260).contains(&many), "{many}");
    }
}
