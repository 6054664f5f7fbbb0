//! Folded stacks: `process;frame;frame count`, one stack a line, root first.
//!
//! Python functions have the end of their file's path, as `get (http/client.py)`. Kernel frames end in `_[k]`, inlined ones in `_[i]`, as tools of this format expect. A semicolon, which separates
//! frames, becomes a colon in names. Frames of one function at different lines are one.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use super::{MAX_REPEATED_NAME_BYTES, RenderError, buffered, function_name, path_to};
use crate::{Frame, FrameKind, Profile, visible};

/// Writes the profile as folded stacks.
pub fn write(profile: &Profile, out: impl Write) -> Result<(), RenderError> {
    buffered(profile, out, |out| write_lines(profile, out))
}

fn write_lines(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    let tree = profile.function_tree();
    let names: Vec<String> = profile.frames.iter().map(frame_name).collect();
    for (index, node) in tree.nodes.iter().enumerate().filter(|(_, node)| node.self_samples > 0) {
        let process = &profile.processes[node.process as usize];
        write!(out, "{}", name(&process.name))?;
        for frame in path_to(&tree, index) {
            write!(out, ";{}", names[frame as usize])?;
        }
        writeln!(out, " {}", node.self_samples)?;
    }
    Ok(())
}

fn frame_name(frame: &Frame) -> String {
    let suffix = match frame.kind {
        FrameKind::Kernel => "_[k]",
        FrameKind::Inlined => "_[i]",
        FrameKind::Native | FrameKind::Python | FrameKind::Unnamed | FrameKind::Interpreter | FrameKind::Thread => "",
    };
    format!("{}{suffix}", name(&function_name(frame)))
}

fn name(name: &str) -> Cow<'_, str> {
    let shown = visible(name, MAX_REPEATED_NAME_BYTES);
    if shown.contains(';') {
        Cow::Owned(shown.replace(';', ":"))
    } else {
        shown
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::fixtures;

    fn render(profile: &Profile) -> String {
        let mut out = Vec::new();
        write(profile, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// What a reader of the format makes of it.
    fn parse(text: &str) -> HashMap<Vec<&str>, u64> {
        let mut counts = HashMap::new();
        for line in text.lines() {
            let (stack, count) = line.rsplit_once(' ').unwrap();
            *counts.entry(stack.split(';').collect()).or_default() += count.parse::<u64>().unwrap();
        }
        counts
    }

    #[test]
    fn kinds_processes_and_lines() {
        let profile = fixtures::profile(&[
            ("web", 1, &["main", "i:push", "k:read"], 3),
            ("web", 2, &["main"], 2),
            ("db", 3, &["main:7", "[u8; 4]::fmt"], 1),
            ("db", 3, &["main:9", "[u8; 4]::fmt"], 1),
        ]);
        assert_eq!(
            render(&profile),
            "web;main;push_[i];read_[k] 3\nweb;main 2\ndb;main;[u8: 4]::fmt 2\n"
        );
    }

    #[test]
    fn hostile_names_stay_on_their_line_and_short() {
        let profile = fixtures::hostile();
        let text = render(&profile);
        assert_eq!(parse(&text).values().sum::<u64>(), profile.samples());
        for line in text.lines() {
            let frames: Vec<&str> = line.rsplit_once(' ').unwrap().0.split(';').collect();
            assert!(
                frames.iter().all(|frame| !frame.is_empty() && frame.len() < 1_100),
                "{line}"
            );
        }
    }

    proptest! {
        #[test]
        fn parsed_back_it_holds_the_same_counts(profile in fixtures::any_profile()) {
            prop_assume!(profile.samples() > 0);
            let text = render(&profile);
            let mut expected: HashMap<Vec<String>, u64> = HashMap::new();
            for (stack, count) in profile.stacks.iter().filter(|(_, count)| **count > 0) {
                let process = name(&profile.processes[stack.process as usize].name).into_owned();
                let frames = stack.frames.iter().map(|frame| frame_name(&profile.frames[*frame as usize]));
                *expected.entry(std::iter::once(process).chain(frames).collect()).or_default() += count;
            }
            let parsed = parse(&text);
            let parsed = parsed.into_iter().map(|(stack, count)| {
                (stack.into_iter().map(str::to_owned).collect(), count)
            }).collect::<HashMap<Vec<String>, u64>>();
            prop_assert_eq!(parsed, expected);
        }
    }
}
