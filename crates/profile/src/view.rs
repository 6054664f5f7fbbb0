//! What of a profile is shown.

use std::sync::Arc;

use crate::{Frame, FrameKind, Gil, Profile, Stack};

/// What of a profile is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Keep the native frames of interpreters. Otherwise they are left out of stacks that have Python functions.
    pub native_python: bool,
    /// Begin each stack with a frame for its thread.
    pub threads: bool,
    /// Only samples of threads that held their interpreter's lock.
    pub gil: bool,
}

impl Profile {
    /// The profile as a view shows it. Its quality stays that of all samples.
    ///
    /// A stack without any Python function keeps the interpreter's frames: they are all that is known of it.
    #[must_use]
    pub fn view(mut self, view: View) -> Self {
        let stacks = std::mem::take(&mut self.stacks);
        for (mut stack, count) in stacks {
            if view.gil && stack.gil != Gil::Held {
                continue;
            }
            if !view.native_python {
                self.fold_interpreter(&mut stack);
            }
            if view.threads {
                self.add_thread(&mut stack);
            }
            self.add_stack(stack, count);
        }
        self.without_unused_frames()
    }

    fn fold_interpreter(&self, stack: &mut Stack) {
        let kind = |frame: &u32| self.frames[*frame as usize].kind;
        let has = |wanted| stack.frames.iter().any(|frame| kind(frame) == wanted);
        if has(FrameKind::Interpreter) && has(FrameKind::Python) {
            let kept = stack
                .frames
                .iter()
                .copied()
                .filter(|frame| kind(frame) != FrameKind::Interpreter);
            stack.frames = kept.collect();
        }
    }

    fn add_thread(&mut self, stack: &mut Stack) {
        let empty: Arc<str> = Arc::default();
        let thread = Frame {
            kind: FrameKind::Thread,
            function: Arc::clone(&self.threads[stack.thread as usize]),
            module: Arc::clone(&empty),
            file: empty,
            line: 0,
        };
        let number = self.frames.insert_full(thread).0 as u32;
        stack.frames = std::iter::once(number).chain(stack.frames.iter().copied()).collect();
    }

    /// Frames that no stack has are not told to anyone: legends and tables would count them.
    fn without_unused_frames(mut self) -> Self {
        let all = std::mem::take(&mut self.frames);
        let mut numbers: Vec<Option<u32>> = vec![None; all.len()];
        let stacks = std::mem::take(&mut self.stacks);
        for (mut stack, count) in stacks {
            for frame in &mut stack.frames {
                let kept = &mut self.frames;
                let number = &mut numbers[*frame as usize];
                *frame = *number.get_or_insert_with(|| kept.insert_full(all[*frame as usize].clone()).0 as u32);
            }
            self.stacks.insert(stack, count);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ProfileBuilder, fixtures};

    fn add(builder: &mut ProfileBuilder, thread: &str, gil: Gil, frames: &[&str], count: u64) {
        let numbers = frames
            .iter()
            .map(|text| builder.number(fixtures::frame(text)))
            .collect();
        builder.add_numbered(&fixtures::process("app", 7), &Arc::from(thread), gil, numbers, count);
    }

    fn check(view: View, expected: &[(&str, u64)]) {
        let mut builder = fixtures::builder();
        let called = ["c:main", "c:eval", "p:run:3", "c:eval", "p:get:9", "c:call", "compress"];
        add(&mut builder, "app", Gil::Held, &called, 5);
        add(&mut builder, "app", Gil::Released, &called[..5], 3);
        add(&mut builder, "pool", Gil::Unknown, &["c:main", "c:start"], 2);
        let shown = builder.build().view(view);
        let names = |stack: &Stack| {
            let names = stack
                .frames
                .iter()
                .map(|frame| &*shown.frames[*frame as usize].function);
            names.collect::<Vec<_>>().join(" ")
        };
        let mut stacks: Vec<(String, u64)> = shown
            .stacks
            .iter()
            .map(|(stack, count)| (names(stack), *count))
            .collect();
        stacks.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let expected: Vec<_> = expected
            .iter()
            .map(|(names, count)| ((*names).to_owned(), *count))
            .collect();
        assert_eq!(stacks, expected, "{view:?}");
        let used: std::collections::HashSet<u32> = shown.stacks.keys().flat_map(|stack| stack.frames.clone()).collect();
        assert_eq!(used.len(), shown.frames.len(), "{view:?}");
    }

    #[test]
    fn the_interpreter_is_folded_into_its_functions() {
        let folded = [("run get compress", 5), ("run get", 3), ("main start", 2)];
        check(View::default(), &folded);
        let whole = [
            ("main eval run eval get call compress", 5),
            ("main eval run eval get", 3),
            ("main start", 2),
        ];
        let native_python = true;
        check(
            View {
                native_python,
                ..View::default()
            },
            &whole,
        );
    }

    #[test]
    fn threads_and_holders_of_the_lock() {
        let (threads, gil) = (true, true);
        check(
            View {
                threads,
                ..View::default()
            },
            &[("app run get compress", 5), ("app run get", 3), ("pool main start", 2)],
        );
        check(View { gil, ..View::default() }, &[("run get compress", 5)]);
    }

    #[test]
    fn frames_that_are_not_left_out_are_the_same_samples() {
        let before = fixtures::service();
        let after = before.clone().view(View::default());
        let written = |profile: &Profile| {
            let mut bytes = Vec::new();
            crate::render::json::write(profile, &mut bytes).unwrap();
            bytes
        };
        assert_eq!(written(&after), written(&before));
    }
}
