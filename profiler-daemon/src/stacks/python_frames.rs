//! Python frames in the keys of stacks.
//!
//! Each code object of a window gets a number, so that a frame is one word: equal stacks of all threads and forks have equal
//! keys, wherever their stacks lie.

use std::{collections::HashMap, sync::Arc};

use profiler_common::python::PythonEntry;
use profiler_profile::Gil;

use super::{
    codes::{CodeGap, CodeKey, PythonCode, PythonCodes},
    merge::{self, Group},
    window::Location,
};
use crate::{
    kernel::records::{Pid, UserFrames},
    processes::interpreter::Interpreter,
};

/// Code objects of a window; others share one without a name.
const MAX_WINDOW_CODES: usize = 1 << 16;
/// Number of the one that stands for those.
const OVERFLOW: u32 = 0;

/// How the words of a key are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// At most 127.
    pub(super) kernel_frames: usize,
    /// At most as many as there are entries in a record.
    pub(super) groups: usize,
    pub(super) gil: Gil,
}

const KERNEL_BITS: u32 = 14;
const GROUP_BITS: u32 = 16;

impl Shape {
    pub(super) fn to_bits(self) -> u32 {
        let gil = match self.gil {
            Gil::Unknown => 0,
            Gil::Held => 1,
            Gil::Released => 2,
        };
        self.kernel_frames as u32 | (self.groups as u32) << KERNEL_BITS | gil << (KERNEL_BITS + GROUP_BITS)
    }

    pub(super) fn from_bits(bits: u32) -> Self {
        Self {
            kernel_frames: (bits & ((1 << KERNEL_BITS) - 1)) as usize,
            groups: (bits >> KERNEL_BITS & ((1 << GROUP_BITS) - 1)) as usize,
            gil: match bits >> (KERNEL_BITS + GROUP_BITS) {
                1 => Gil::Held,
                2 => Gil::Released,
                _ => Gil::Unknown,
            },
        }
    }
}

/// The code objects of a window.
#[derive(Debug)]
pub(super) struct PythonFrames {
    source: PythonCodes,
    numbers: HashMap<CodeKey, u32>,
    codes: Vec<Arc<PythonCode>>,
    groups: Vec<Group>,
}

impl PythonFrames {
    pub(super) fn new(source: PythonCodes) -> Self {
        Self {
            numbers: HashMap::new(),
            codes: vec![source.without_name(CodeGap::Backlog)],
            groups: Vec::new(),
            source,
        }
    }

    /// The code objects of the window that ends, by number. Another begins.
    pub(super) fn take(&mut self) -> Vec<Arc<PythonCode>> {
        self.numbers.clear();
        let overflow = self.source.without_name(CodeGap::Backlog);
        std::mem::replace(&mut self.codes, vec![overflow])
    }

    /// Appends the Python frames of a stack to a key, each group as where it belongs and how many follow. Returns how many
    /// groups there are.
    pub(super) fn write(
        &mut self,
        pid: Pid,
        interpreter: &Arc<Interpreter>,
        user: UserFrames<'_>,
        python: &[PythonEntry],
        key: &mut Vec<u64>,
    ) -> usize {
        let mut groups = std::mem::take(&mut self.groups);
        merge::place(user, python, interpreter.placement(), &mut groups);
        for group in &groups {
            key.push((group.before as u64) << 32 | group.entries.len() as u64);
            for entry in &python[group.entries.clone()] {
                let number = self.number(pid, interpreter, entry);
                key.push(u64::from(number) << 32 | u64::from(entry.instruction as u32));
            }
        }
        let count = groups.len();
        self.groups = groups;
        count
    }

    fn number(&mut self, pid: Pid, interpreter: &Arc<Interpreter>, entry: &PythonEntry) -> u32 {
        let key = PythonCodes::key(interpreter, entry);
        if let Some(number) = self.numbers.get(&key) {
            return *number;
        }
        if self.codes.len() >= MAX_WINDOW_CODES {
            return OVERFLOW;
        }
        let number = self.codes.len() as u32;
        self.codes.push(self.source.find(pid, interpreter, entry));
        self.numbers.insert(key, number);
        number
    }
}

/// Python frames, and the index of the native frame that they stand before.
pub(super) type PlacedFrames = (usize, Vec<Location>);

/// Reads groups back, and what follows them.
pub(super) fn read(groups: usize, words: &[u64]) -> (Vec<PlacedFrames>, &[u64]) {
    let mut rest = words;
    let mut found = Vec::with_capacity(groups);
    for _ in 0..groups {
        let Some((head, after)) = rest.split_first() else { break };
        let (frames, after) = after.split_at((*head as u32 as usize).min(after.len()));
        rest = after;
        let frames = frames.iter().map(|word| Location::Python {
            code: (word >> 32) as u32,
            instruction: *word as u32 as i32,
        });
        found.push(((head >> 32) as usize, frames.collect()));
    }
    (found, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read_as_they_were_written() {
        for gil in [Gil::Unknown, Gil::Held, Gil::Released] {
            for (kernel_frames, groups) in [
                (0, 0),
                (127, 440),
                (5, 1),
                ((1 << KERNEL_BITS) - 1, (1 << GROUP_BITS) - 1),
            ] {
                let shape = Shape {
                    kernel_frames,
                    groups,
                    gil,
                };
                assert_eq!(Shape::from_bits(shape.to_bits()), shape);
            }
        }
    }

    #[test]
    fn groups_are_read_within_what_there_is() {
        let frame = |code, instruction| Location::Python { code, instruction };
        let words = [
            2 << 32 | 2,
            7 << 32 | 20,
            8 << 32 | 0xffff_fffe,
            3 << 32 | 1,
            9 << 32,
            0x1000,
            0x2000,
        ];
        let expected = vec![(2, vec![frame(7, 20), frame(8, -2)]), (3, vec![frame(9, 0)])];
        assert_eq!(read(2, &words), (expected, &words[5..]));
        assert_eq!(read(0, &words), (Vec::new(), &words[..]));
        // Words of a damaged key.
        let (groups, rest) = read(9, &[1 << 32 | 5, 7 << 32]);
        assert!(groups.len() == 1 && rest.is_empty());
    }
}
