//! Frames by function: which lines of one function belong together.

use std::{collections::HashMap, hash::Hash};

use indexmap::IndexMap;

use crate::{Frame, FrameKind, Profile};

/// What makes two frames the same function in a picture: the line does not count.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FunctionKey<'a> {
    kind: FrameKind,
    function: &'a str,
    module: &'a str,
    /// Python has many functions of one name; native code may have lines of other files (macros) in one function.
    file: &'a str,
}

impl<'a> FunctionKey<'a> {
    /// Frames of one function and of one way to get there: a call and its inlined copy are told apart.
    pub(crate) fn drawn(frame: &'a Frame) -> Self {
        let file = if frame.kind == FrameKind::Python {
            &*frame.file
        } else {
            ""
        };
        Self {
            kind: frame.kind,
            function: &frame.function,
            module: &frame.module,
            file,
        }
    }

    /// Frames of one function, inlined or not.
    pub(crate) fn counted(frame: &'a Frame) -> Self {
        let kind = if frame.kind == FrameKind::Inlined {
            FrameKind::Native
        } else {
            frame.kind
        };
        Self {
            kind,
            ..Self::drawn(frame)
        }
    }
}

/// Which frames of a profile are the same function.
pub(crate) struct Functions {
    /// For each frame, the one that stands for its function: that with the most samples.
    pub(crate) representative: Vec<u32>,
    /// For each representative, how many lines of its function are in the profile; 0 for the other frames.
    pub(crate) lines: Vec<u32>,
}

impl Functions {
    /// Each frame stands for itself.
    pub(crate) fn by_line(profile: &Profile) -> Self {
        let count = profile.frames.len();
        Self {
            representative: (0..count as u32).collect(),
            lines: vec![1; count],
        }
    }

    /// Frames with the same key belong together.
    pub(crate) fn group<'a, K: Eq + Hash>(profile: &'a Profile, key: impl Fn(&'a Frame) -> K) -> Self {
        let mut weight = vec![0_u64; profile.frames.len()];
        for (stack, count) in &profile.stacks {
            for frame in &stack.frames {
                weight[*frame as usize] = weight[*frame as usize].saturating_add(*count);
            }
        }
        let mut groups: IndexMap<K, Vec<u32>> = IndexMap::new();
        for (index, frame) in profile.frames.iter().enumerate() {
            groups.entry(key(frame)).or_default().push(index as u32);
        }
        let mut functions = Self {
            representative: vec![0; weight.len()],
            lines: vec![0; weight.len()],
        };
        for members in groups.values() {
            let frame = |index: u32| &profile.frames[index as usize];
            let hottest = members.iter().copied().max_by(|left, right| {
                let by_weight = weight[*left as usize].cmp(&weight[*right as usize]);
                by_weight.then_with(|| frame(*right).cmp(frame(*left)))
            });
            let Some(hottest) = hottest else { continue };
            for member in members {
                functions.representative[*member as usize] = hottest;
            }
            functions.lines[hottest as usize] = members.len() as u32;
        }
        functions
    }
}

/// Dense numbers for values in the order in which they are first met.
pub(crate) struct Numbering<T> {
    numbers: HashMap<T, u32>,
}

impl<T: Eq + Hash> Numbering<T> {
    pub(crate) fn new() -> Self {
        Self {
            numbers: HashMap::new(),
        }
    }

    /// The number of a value, and whether it is new.
    pub(crate) fn number(&mut self, value: T) -> (u32, bool) {
        let next = self.numbers.len() as u32;
        let number = *self.numbers.entry(value).or_insert(next);
        (number, number == next)
    }
}
