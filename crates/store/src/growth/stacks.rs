//! Stacks of touched pages: each kept once, as are their frames.

use std::{collections::HashSet, sync::Arc};

use profiler_profile::{Frame, FrameKind};

/// What a stack costs beside its frames.
const STACK_BYTES: usize = 96;
/// What a frame costs beside its texts, which are shared with others.
const FRAME_BYTES: usize = 160;

/// Room is looked for again after this share of the stacks in use found none: going over all of them for each would take
/// far longer than what is kept of it.
const LOOK_SHARE: usize = 8;

/// A stack with its names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TouchedStack {
    /// Name of the thread.
    pub thread: Arc<str>,
    /// Its frames, root first.
    pub frames: Box<[Arc<Frame>]>,
    /// Why it ends before a proven root; `None` if it does not.
    pub stop: Option<&'static str>,
}

impl TouchedStack {
    /// Whether it has the frame of a Python function.
    pub(super) fn has_python(&self) -> bool {
        self.frames.iter().any(|frame| frame.kind == FrameKind::Python)
    }
}

/// The stacks in use.
#[derive(Debug)]
pub(super) struct Stacks {
    stacks: HashSet<Arc<TouchedStack>>,
    frames: HashSet<Arc<Frame>>,
    bytes: usize,
    max_bytes: usize,
    /// How many more find no room before it is looked for.
    refused_unseen: usize,
    /// How often all were gone over.
    #[cfg(test)]
    pub(super) passes: usize,
    /// Stands for those that found no room.
    other: Arc<TouchedStack>,
}

impl Stacks {
    pub(super) fn new(max_bytes: usize) -> Self {
        let empty: Arc<str> = Arc::default();
        let frame = Frame {
            kind: FrameKind::Unnamed,
            function: "[other stacks]".into(),
            module: Arc::clone(&empty),
            file: Arc::clone(&empty),
            line: 0,
        };
        Self {
            stacks: HashSet::new(),
            frames: HashSet::new(),
            bytes: 0,
            max_bytes,
            refused_unseen: 0,
            #[cfg(test)]
            passes: 0,
            other: Arc::new(TouchedStack {
                thread: empty,
                frames: Box::new([Arc::new(frame)]),
                stop: Some("too_many_stacks"),
            }),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.stacks.len()
    }

    /// The one that equals it.
    pub(super) fn share(&mut self, mut stack: TouchedStack) -> Arc<TouchedStack> {
        if let Some(known) = self.stacks.get(&stack) {
            return Arc::clone(known);
        }
        let bytes = STACK_BYTES + stack.frames.len() * (size_of::<Arc<Frame>>() + FRAME_BYTES);
        // That all its frames are new is the worst that can be.
        if self.bytes + bytes > self.max_bytes {
            if let Some(rest) = self.refused_unseen.checked_sub(1) {
                self.refused_unseen = rest;
                return Arc::clone(&self.other);
            }
            self.drop_unused();
            self.refused_unseen = self.stacks.len() / LOOK_SHARE;
        }
        if self.bytes + bytes > self.max_bytes {
            return Arc::clone(&self.other);
        }
        for frame in &mut stack.frames {
            match self.frames.get(frame) {
                Some(known) => *frame = Arc::clone(known),
                None => {
                    self.frames.insert(Arc::clone(frame));
                    self.bytes += FRAME_BYTES;
                }
            }
        }
        self.bytes += STACK_BYTES + stack.frames.len() * size_of::<Arc<Frame>>();
        let stack = Arc::new(stack);
        self.stacks.insert(Arc::clone(&stack));
        stack
    }

    /// Drops those that nothing refers to.
    pub(super) fn drop_unused(&mut self) {
        #[cfg(test)]
        {
            self.passes += 1;
        }
        self.refused_unseen = 0;
        self.stacks.retain(|stack| Arc::strong_count(stack) > 1);
        self.frames.retain(|frame| Arc::strong_count(frame) > 1);
        let of_stacks = self
            .stacks
            .iter()
            .map(|stack| STACK_BYTES + stack.frames.len() * size_of::<Arc<Frame>>());
        self.bytes = of_stacks.sum::<usize>() + self.frames.len() * FRAME_BYTES;
    }
}
